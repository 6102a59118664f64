/*
 * What a file is, by its names, and the official names for it.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * The pairs of names in data/weights come from the converters of diffusers,
 * from the modules of diffusers and transformers, and from the tables of gguf.
 */
#include "../tap.h"
#include "weights/reader.h"
#include "weights_util.h"

#define FAILED(e) CAUSVID_ERR(e)
#define MAX_NAMES 1024

static Lines lines;

static StTensor tensor(const char *name)
{
    return (StTensor){ .name = name, .type = CV_BF16, .n_dims = 1,
                       .dim = { 1 } };
}

/* ---- pairs of names ---- */

typedef struct Pairs {
    char *text;
    const char *official[MAX_NAMES], *other[MAX_NAMES];
    int n;
} Pairs;

static void read_pairs(Pairs *p, const char *name)
{
    FILE *file = fopen(data_path(name), "rb");
    size_t room = 1 << 20, n;

    memset(p, 0, sizeof(*p));
    p->text = malloc(room);
    if (!file || !p->text)
        tap_bail("%s cannot be read", data_path(name));
    n = fread(p->text, 1, room - 1, file);
    fclose(file);
    p->text[n] = 0;
    for (char *line = p->text; *line && p->n < MAX_NAMES; p->n++) {
        char *tab = strchr(line, '\t'), *end = strchr(line, '\n');

        if (!tab || !end)
            tap_bail("%s: a broken line", name);
        *tab = *end = 0;
        p->official[p->n] = line;
        p->other[p->n]    = tab + 1;
        line = end + 1;
    }
}

/* Open a file of these names, all below `prefix`, as `kind`. */
static CvWeights *open_names(const char *const *names, int n,
                             const char *prefix, CvKind kind, Blob *blob)
{
    StTensor *t = calloc((size_t)n, sizeof(*t));
    char (*full)[256] = calloc((size_t)n, sizeof(*full));
    CvWeights *w;

    if (!t || !full)
        tap_bail("malloc");
    for (int i = 0; i < n; i++) {
        snprintf(full[i], sizeof(full[i]), "%s%s", prefix, names[i]);
        t[i] = tensor(full[i]);
    }
    *blob = st_write(t, n, 0);
    free(t);
    free(full);
    if (cv_weights_open_memory(&w, blob->data, blob->size, "m.safetensors",
                               &lines.log) < 0)
        tap_bail("%s", lines.error);
    if (cv_weights_canonical(w, kind, &lines.log) < 0)
        cv_weights_close(&w);
    return w;
}

/* Each name becomes its official one, whatever stands in front of all. */
static void test_pairs(const char *file, CvKind kind, const char *layout)
{
    static const char *const prefixes[] = {
        "", "model.", "module.", "generator.model.", "model.diffusion_model.",
        "diffusion_model.", "net.", "transformer.",
        "net.model.module.", "model._fsdp_wrapped_module.", "_orig_mod.module.",
        "model._checkpoint_wrapped_module._orig_mod.",
    };
    Pairs p;

    read_pairs(&p, file);
    for (int official = 0; official < 2; official++) {
        const char *const *names = official ? p.official : p.other;

        for (size_t k = 0; k < sizeof(prefixes) / sizeof(*prefixes); k++) {
            int good = 0;
            CvWeights *w;
            Blob blob;

            w = open_names(names, p.n, prefixes[k], kind, &blob);
            for (int i = 0; w && i < p.n; i++) {
                char stored[256];
                CvEntry *e = cv_weights_find(w, "%s", p.official[i]);

                snprintf(stored, sizeof(stored), "%s%s", prefixes[k],
                         names[i]);
                good += e && !strcmp(e->stored, stored) && !e->used;
                if (!e)
                    tap_diag("%s is not %s", stored, p.official[i]);
            }
            ok(w && good == p.n && cv_weights_count(w) == p.n &&
               cv_weights_kind(w) == kind &&
               !strcmp(cv_weights_layout(w),
                       official ? "official" : layout) &&
               lines_none(&lines), "%s, %s names below '%s': %d of %d", file,
               official ? "official" : layout, prefixes[k], good, p.n);
            cv_weights_close(&w);
            blob_free(&blob);
        }
    }
    free(p.text);
}

/* ---- single cases ---- */

/* A list of names separated by blanks, as `kind`; the error, or 0 and the
 * names that it gave, sorted, in *result. */
static int canonical(const char *names, CvKind kind, char *result, size_t size)
{
    static char text[4096];
    StTensor t[64];
    int n = 0, err;
    CvWeights *w;
    Blob blob;

    snprintf(text, sizeof(text), "%s", names);
    for (char *p = strtok(text, " "); p && n < 64; p = strtok(NULL, " "))
        t[n++] = tensor(p);
    blob = st_write(t, n, 0);
    if (cv_weights_open_memory(&w, blob.data, blob.size, "m.safetensors",
                               &lines.log) < 0)
        tap_bail("%s", lines.error);
    err = cv_weights_canonical(w, kind, &lines.log);
    result[0] = 0;
    for (int64_t i = 0; !err && i < cv_weights_count(w); i++)
        snprintf(result + strlen(result), size - strlen(result), "%s%s",
                 i ? " " : "", cv_weights_at(w, i)->name);
    cv_weights_close(&w);
    blob_free(&blob);
    return err;
}

#define DIT "patch_embedding.weight blocks.0.self_attn.q.weight "
#define DIT_DIFFUSERS \
    "condition_embedder.time_proj.weight blocks.0.attn1.to_q.weight "
#define T5 "token_embedding.weight blocks.0.attn.q.weight "
#define T5_HF "encoder.final_layer_norm.weight " \
    "encoder.block.0.layer.0.SelfAttention.q.weight "
#define VAE "decoder.upsamples.0.residual.0.gamma decoder.head.0.gamma "

static void test_kinds(void)
{
    static const struct {
        const char *names;
        CvKind expected;
        int error;
        const char *result; /* the names, or parts of the line */
    } cases[] = {
        { DIT, CV_KIND_TRANSFORMER, 0,
          "blocks.0.self_attn.q.weight patch_embedding.weight" },
        { T5, CV_KIND_TRANSFORMER, EILSEQ,
          "holds a UMT5 text encoder; expected a Wan transformer|option "
          "text_encoder instead of model" },
        { T5_HF, CV_KIND_VAE, EILSEQ, "UMT5 text encoder; expected a Wan VAE|"
          "option text_encoder instead of vae" },
        { DIT_DIFFUSERS, CV_KIND_TEXT_ENCODER, EILSEQ,
          "Wan transformer; expected a UMT5|option model" },
        { VAE, CV_KIND_TRANSFORMER, EILSEQ, "Wan VAE; expected a Wan trans" },
        { "decoder.1.weight decoder.3.conv.0.weight", CV_KIND_VAE, 0,
          "decoder.1.weight decoder.3.conv.0.weight" },
        { "decoder.1.weight decoder.3.conv.0.weight", CV_KIND_TRANSFORMER,
          EILSEQ, "tiny VAE (TAEHV); expected a Wan trans|option vae" },
        { "diffusion_model.blocks.0.ffn.0.lora_down.weight "
          "diffusion_model.blocks.0.ffn.0.lora_up.weight",
          CV_KIND_TRANSFORMER, EILSEQ, "LoRA; expected a Wan|option lora" },
        { "diffusion_model.blocks.0.norm3.diff", CV_KIND_TRANSFORMER, EILSEQ,
          "LoRA" },
        { "transformer.blocks.0.attn1.to_q.lora_A.weight "
          "transformer.blocks.0.attn1.to_q.lora_B.weight",
          CV_KIND_TRANSFORMER, EILSEQ, "LoRA" },
        { "x.weight y.weight", CV_KIND_VAE, EILSEQ,
          "no network that is known (2 tensors, the first is 'x.weight')" },
        { "", CV_KIND_VAE, EILSEQ, "holds no tensors; expected a Wan VAE" },
        /* with a tensor of the signature missing it is still told */
        { "patch_embedding.weight", CV_KIND_TRANSFORMER, 0,
          "patch_embedding.weight" },
        { "blocks.0.attn1.to_q.weight", CV_KIND_TRANSFORMER, 0,
          "blocks.0.self_attn.q.weight" },
        { "encoder.final_layer_norm.weight", CV_KIND_TEXT_ENCODER, 0,
          "norm.weight" },
        /* what does not matter is dropped */
        { DIT "scaled_fp8 spiece_model blocks.0.ffn.0.scale_input "
          "x.input_scale net.accum_iteration",
          CV_KIND_TRANSFORMER, 0,
          "blocks.0.self_attn.q.weight patch_embedding.weight" },
        { DIT_DIFFUSERS "blocks.0.attn2.norm_added_q.weight",
          CV_KIND_TRANSFORMER, 0,
          "blocks.0.self_attn.q.weight time_projection.1.weight" },
        { T5_HF "shared.weight encoder.embed_tokens.weight",
          CV_KIND_TEXT_ENCODER, 0,
          "blocks.0.attn.q.weight norm.weight token_embedding.weight" },
        { T5_HF "encoder.embed_tokens.weight", CV_KIND_TEXT_ENCODER, 0,
          "blocks.0.attn.q.weight norm.weight token_embedding.weight" },
        /* what is not known stays, so that cv_load_finish() names it */
        { DIT_DIFFUSERS "blocks.0.attn1.to_qkv.weight decoder.block.0.weight",
          CV_KIND_TRANSFORMER, 0,
          "blocks.0.attn1.to_qkv.weight blocks.0.self_attn.q.weight "
          "decoder.block.0.weight time_projection.1.weight" },
        { DIT_DIFFUSERS "blocks.1234567.attn1.to_k.weight "
          "blocks.123456.attn1.to_k.weight", CV_KIND_TRANSFORMER, 0,
          "blocks.0.self_attn.q.weight blocks.123456.self_attn.k.weight "
          "blocks.1234567.attn1.to_k.weight time_projection.1.weight" },
        { T5 "logit_scale text_encoders.spiece_model", CV_KIND_TEXT_ENCODER, 0,
          "blocks.0.attn.q.weight token_embedding.weight" },
        { "token_embd.weight enc.output_norm.weight enc.blk.0.attn_q.weight "
          "enc.blk.0.ffn_up.bias", CV_KIND_TEXT_ENCODER, 0,
          "blocks.0.attn.q.weight enc.blk.0.ffn_up.bias norm.weight "
          "token_embedding.weight" },
        /* neighbours of what is wanted */
        { T5_HF "encoder.block.2.layer.0.SelfAttention.q.weight "
          "encoder.block.0.layer.0.SelfAttention.relative_attention_bias."
          "weight", CV_KIND_TEXT_ENCODER, ENOSYS,
          "a T5 text encoder of another family|umt5-xxl" },
        { "net." DIT "net.blocks.0.self_attn.attn_op.local_attn.proj_l.weight",
          CV_KIND_TRANSFORMER, ENOSYS, "sparse linear attention" },
        { "vace_patch_embedding.weight vace_blocks.0.before_proj.weight",
          CV_KIND_TRANSFORMER, EILSEQ, "additions of a VACE model; expected" },
        { "visual.patch_embedding.weight textual.x", CV_KIND_TRANSFORMER,
          EILSEQ, "a CLIP image encoder|image to video" },
        { "vision_model.embeddings.patch_embedding.weight", CV_KIND_VAE,
          EILSEQ, "a CLIP image encoder|image to video" },
        { "text_model.embeddings.token_embedding.weight", CV_KIND_TEXT_ENCODER,
          EILSEQ, "a CLIP text encoder; expected a UMT5" },
        { "decoder.mid.block_1.conv1.weight", CV_KIND_VAE, EILSEQ,
          "a VAE for images; expected a Wan VAE" },
        { "model.diffusion_model.double_blocks.0.img_attn.qkv.weight",
          CV_KIND_TRANSFORMER, EILSEQ, "a transformer of another family" },
        /* quantised files */
        { DIT "blocks.0.ffn.0.scale_weight", CV_KIND_TRANSFORMER, EILSEQ,
          "the scale 'blocks.0.ffn.0.scale_weight', but not the tensor "
          "'blocks.0.ffn.0.weight'" },
        { DIT "blocks.0.ffn.0.weight_scale_2", CV_KIND_TRANSFORMER, ENOSYS,
          "quantised in a way that is not supported "
          "('blocks.0.ffn.0.weight_scale_2')|bf16" },
        { DIT "blocks.0.ffn.0.qweight", CV_KIND_TRANSFORMER, ENOSYS,
          "quantised in a way that is not supported" },
        /* one tensor twice under two names */
        { DIT "model.patch_embedding.weight", CV_KIND_TRANSFORMER, EILSEQ,
          "'model.patch_embedding.weight' and 'patch_embedding.weight' are "
          "both 'patch_embedding.weight'" },
        { DIT_DIFFUSERS "blocks.0.self_attn.q.weight", CV_KIND_TRANSFORMER,
          EILSEQ, "'blocks.0.attn1.to_q.weight' and 'blocks.0.self_attn.q."
          "weight' are both 'blocks.0.self_attn.q.weight'" },
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        char result[2048];
        int err = canonical(cases[i].names, cases[i].expected, result,
                            sizeof(result));

        if (cases[i].error) {
            ok(err == FAILED(cases[i].error) &&
               lines_error(&lines, cases[i].result), "case %zu: %s", i,
               cases[i].result);
        } else {
            ok(!err && !strcmp(result, cases[i].result) && lines_none(&lines),
               "case %zu: %s", i, cases[i].result);
            if (strcmp(result, cases[i].result))
                tap_diag("got %s", result);
        }
    }
}

/* One file with all the networks, as some programs distribute it. */
static void test_combined(void)
{
    static const struct {
        const char *transformer, *text_encoder, *vae;
    } programs[] = {
        { "model.diffusion_model.", "text_encoders.umt5xxl.transformer.",
          "vae." },
        { "model.diffusion_model.", "text_encoders.t5xxl.transformer.",
          "first_stage_model." },
        { "", "text_encoders.umt5xxl.transformer.", "vae." },
        { "model.", "text_encoders.t5xxl.", "vae." },
    };
    char names[2048], result[1024];

    for (size_t i = 0; i < sizeof(programs) / sizeof(*programs); i++) {
        const char *a = programs[i].transformer, *t = programs[i].text_encoder;
        const char *v = programs[i].vae;

        snprintf(names, sizeof(names), "%spatch_embedding.weight "
                 "%sblocks.0.self_attn.q.weight %sshared.weight %sencoder."
                 "block.0.layer.0.SelfAttention.q.weight text_encoders.umt5xxl"
                 ".spiece_model text_encoders.umt5xxl.logit_scale %sdecoder."
                 "upsamples.0.residual.0.gamma %sdecoder.conv1.weight "
                 "%sconv2.weight unheard.of", a, a, t, t, v, v, v);
        is_int(canonical(names, CV_KIND_TRANSFORMER, result, sizeof(result)),
               0);
        is_str(result, "blocks.0.self_attn.q.weight patch_embedding.weight "
               "unheard.of");
        is_int(canonical(names, CV_KIND_TEXT_ENCODER, result, sizeof(result)),
               0);
        is_str(result, "blocks.0.attn.q.weight token_embedding.weight");
        is_int(canonical(names, CV_KIND_VAE, result, sizeof(result)), 0);
        is_str(result, "conv2.weight decoder.conv1.weight "
               "decoder.upsamples.0.residual.0.gamma");
        ok(lines_none(&lines), "without a line");
    }
    /* a file of one network below the same prefixes keeps what is unknown */
    is_int(canonical("vae.decoder.upsamples.0.residual.0.gamma unheard.of",
                     CV_KIND_VAE, result, sizeof(result)), 0);
    is_str(result, "decoder.upsamples.0.residual.0.gamma unheard.of");
    ok(canonical("model.diffusion_model.patch_embedding.weight "
                 "vae.decoder.upsamples.0.residual.0.gamma",
                 CV_KIND_TEXT_ENCODER, result, sizeof(result)) ==
       FAILED(EILSEQ) && lines_error(&lines, "expected a UMT5 text encoder"),
       "a file without a text encoder");
}

/* Which networks a file holds, before it is decided which one is wanted. */
static void test_holds(void)
{
    StTensor t[] = {
        tensor("model.diffusion_model.patch_embedding.weight"),
        tensor("vae.conv2.weight"), tensor("text_encoders.spiece_model"),
    };
    const CvEntry *e;
    CvWeights *w;
    Blob blob;

    for (int n = 1; n <= 3; n++) {
        blob = st_write(t, n, 0);
        if (cv_weights_open_memory(&w, blob.data, blob.size, "m.safetensors",
                                   &lines.log) < 0)
            tap_bail("%s", lines.error);
        e = cv_weights_tokenizer(w);
        ok(cv_weights_holds(w, CV_KIND_TRANSFORMER) &&
           cv_weights_holds(w, CV_KIND_VAE) == (n > 1) &&
           cv_weights_holds(w, CV_KIND_TEXT_ENCODER) == (n > 2) &&
           !e == (n < 3), "a file of %d networks", n);
        cv_weights_close(&w);
        blob_free(&blob);
    }
}

/* The patch embedding as a linear, and with four dimensions. */
static void test_patches(void)
{
    static const struct {
        int n_dims;
        int64_t dim[5];
        int viewed; /* as [6, 3, 1, 2, 2] */
    } cases[] = {
        { 5, { 6, 3, 1, 2, 2 }, 1 }, { 2, { 6, 12 }, 1 },
        { 4, { 18, 1, 2, 2 }, 1 }, { 2, { 12, 6 }, 0 }, { 2, { 6, 6 }, 0 },
        { 4, { 6, 3, 2, 2 }, 0 }, { 4, { 18, 1, 4, 1 }, 0 },
        { 3, { 6, 3, 4 }, 0 }, { 1, { 72 }, 0 }, { 2, { 0, 12 }, 0 },
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        StTensor t[] = {
            { .name = "net.patch_embedding.weight", .type = CV_F32,
              .n_dims = cases[i].n_dims },
            { .name = "net.patch_embedding.bias", .type = CV_F32,
              .n_dims = 1, .dim = { 6 } },
            { .name = "net.accum_video_sample_counter", .type = CV_I64,
              .n_dims = 0 },
        };
        const CvTensor *p;
        CvWeights *w;
        Blob blob;

        memcpy(t[0].dim, cases[i].dim, sizeof(t[0].dim));
        blob = st_write(t, 3, 0);
        if (cv_weights_open_memory(&w, blob.data, blob.size, "m.safetensors",
                                   &lines.log) < 0 ||
            cv_weights_canonical(w, CV_KIND_TRANSFORMER, &lines.log) < 0)
            tap_bail("%s", lines.error);
        p = &cv_weights_find(w, "patch_embedding.weight")->tensor;
        ok(cv_weights_count(w) == 2 && (cases[i].viewed ?
           p->n_dims == 5 && p->dim[0] == 6 && p->dim[1] == 3 &&
           p->dim[2] == 1 && p->dim[3] == 2 && p->dim[4] == 2 :
           p->n_dims == cases[i].n_dims && p->dim[0] == cases[i].dim[0]),
           "patches, case %zu", i);
        cv_weights_close(&w);
        blob_free(&blob);
    }
}

/* The flat numbers of the VAE with other numbers of residual blocks. */
static void test_flat(void)
{
    char result[2048];

    is_int(canonical("decoder.up_blocks.0.resnets.0.norm1.gamma "
                     "decoder.up_blocks.0.resnets.0.conv1.weight "
                     "decoder.up_blocks.0.resnets.1.conv1.weight "
                     "decoder.up_blocks.0.upsamplers.0.time_conv.bias "
                     "decoder.up_blocks.1.resnets.1.conv_shortcut.weight "
                     "decoder.up_blocks.1.upsamplers.0.resample.1.weight "
                     "decoder.up_blocks.2.resnets.0.norm2.gamma "
                     "encoder.down_blocks.10.conv2.bias "
                     "encoder.down_blocks.2.resample.1.bias "
                     "quant_conv.weight post_quant_conv.weight",
                     CV_KIND_VAE, result, sizeof(result)), 0);
    is_str(result, "conv1.weight conv2.weight "
           "decoder.upsamples.0.residual.0.gamma "
           "decoder.upsamples.0.residual.2.weight "
           "decoder.upsamples.1.residual.2.weight "
           "decoder.upsamples.2.time_conv.bias "
           "decoder.upsamples.4.shortcut.weight "
           "decoder.upsamples.5.resample.1.weight "
           "decoder.upsamples.6.residual.3.gamma "
           "encoder.downsamples.10.residual.6.bias "
           "encoder.downsamples.2.resample.1.bias");
}

int main(void)
{
    lines_init(&lines);
    test_pairs("weights/transformer.tsv", CV_KIND_TRANSFORMER, "diffusers");
    test_pairs("weights/image.tsv", CV_KIND_TRANSFORMER, "diffusers");
    test_pairs("weights/vae.tsv", CV_KIND_VAE, "diffusers");
    test_pairs("weights/text_encoder.tsv", CV_KIND_TEXT_ENCODER, "diffusers");
    test_pairs("weights/text_encoder_llama.tsv", CV_KIND_TEXT_ENCODER,
               "llama.cpp");
    test_kinds();
    test_combined();
    test_holds();
    test_patches();
    test_flat();
    return tap_done();
}
