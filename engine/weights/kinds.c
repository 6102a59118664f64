/*
 * What network a set of tensors is, by its names.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * Source: checkpoints.md 1.9 step 4.
 */
#include <string.h>

#include "weights/names.h"

static const struct {
    const char *name[2];
    CvKind kind;
    const char *layout;
} signatures[] = {
    { { "patch_embedding.weight", "blocks.0.self_attn.q.weight" },
      CV_KIND_TRANSFORMER, "official" },
    { { "condition_embedder.time_proj.weight", "blocks.0.attn1.to_q.weight" },
      CV_KIND_TRANSFORMER, "diffusers" },
    { { "condition_embedder.time_proj.weight",
        "blocks.0.attn1.to_qkv.weight" }, CV_KIND_TRANSFORMER, "diffusers" },
    { { "decoder.upsamples.0.residual.0.gamma", "decoder.head.0.gamma" },
      CV_KIND_VAE, "official" },
    { { "decoder.up_blocks.0.resnets.0.norm1.gamma",
        "decoder.norm_out.gamma" }, CV_KIND_VAE, "diffusers" },
    { { "token_embedding.weight", "blocks.0.attn.q.weight" },
      CV_KIND_TEXT_ENCODER, "official" },
    { { "encoder.block.0.layer.0.SelfAttention.q.weight",
        "encoder.final_layer_norm.weight" },
      CV_KIND_TEXT_ENCODER, "diffusers" },
    { { "enc.blk.0.attn_q.weight", "enc.output_norm.weight" },
      CV_KIND_TEXT_ENCODER, "llama.cpp" },
    { { "decoder.1.weight", "decoder.3.conv.0.weight" },
      CV_KIND_TINY_VAE, "official" },
};

/* Files that lie beside those that are wanted, and are taken for them. */
static const struct {
    const char *name, *what;
} others[] = {
    { "vace_patch_embedding.weight", "the additions of a VACE model" },
    { "vace_blocks.0.before_proj.weight", "the additions of a VACE model" },
    { "visual.patch_embedding.weight",
      "a CLIP image encoder, which only image to video models use" },
    { "vision_model.embeddings.patch_embedding.weight",
      "a CLIP image encoder, which only image to video models use" },
    { "text_model.embeddings.token_embedding.weight", "a CLIP text encoder" },
    { "decoder.mid.block_1.conv1.weight", "a VAE for images" },
    { "double_blocks.0.img_attn.qkv.weight",
      "a transformer of another family" },
};

static int is_lora_name(const char *name)
{
    static const char *const ends[] = { /* checkpoints.md 3.2 */
        ".lora_down.weight", ".lora_A.weight", ".lora_A.default.weight",
        ".lora_A", "_lora.down.weight", ".lora.down.weight",
        ".lora_linear_layer.down.weight", ".diff", ".diff_b",
    };

    for (size_t i = 0; i < sizeof(ends) / sizeof(*ends); i++)
        if (cv_ends_with(name, ends[i]))
            return 1;
    return 0;
}

/* Both names of a signature decide; in files with tensors missing, one does,
 * so that the line can name what is missing. */
void cv_kind_detect(CvWeights *w)
{
    size_t n = sizeof(signatures) / sizeof(*signatures);

    for (int wanted = 2; wanted >= 1; wanted--) {
        for (size_t i = 0; i < n; i++) {
            int found = !!cv_weights_find(w, "%s", signatures[i].name[0]) +
                        !!cv_weights_find(w, "%s", signatures[i].name[1]);

            if (found < wanted)
                continue;
            w->kind   = signatures[i].kind;
            w->layout = signatures[i].layout;
            return;
        }
        for (int64_t i = 0; i < w->n_entries; i++) {
            if (is_lora_name(w->entries[i].name)) {
                w->kind = CV_KIND_LORA;
                return;
            }
        }
    }
    w->kind = CV_KIND_UNKNOWN;
}

static const struct {
    const char *name, *option;
} kinds[] = {
    [CV_KIND_UNKNOWN]      = { "unknown network", NULL },
    [CV_KIND_TRANSFORMER]  = { "Wan transformer", "model" },
    [CV_KIND_TEXT_ENCODER] = { "UMT5 text encoder", "text_encoder" },
    [CV_KIND_VAE]          = { "Wan VAE", "vae" },
    [CV_KIND_TINY_VAE]     = { "tiny VAE (TAEHV)", "vae" },
    [CV_KIND_LORA]         = { "LoRA", "lora" },
};

static int unknown_kind(CvWeights *w, CvKind expected, CvLog *log)
{
    size_t n = sizeof(others) / sizeof(*others);

    for (size_t i = 0; i < n; i++)
        if (cv_weights_find(w, "%s", others[i].name))
            return cv_fail(log, EILSEQ, "'%s' holds %s; expected a %s",
                           w->path, others[i].what, kinds[expected].name);
    return cv_fail(log, EILSEQ, "'%s' holds no network that is known (%lld "
                   "tensors, the first is '%s'); expected a %s", w->path,
                   (long long)w->n_entries, w->entries[0].stored,
                   kinds[expected].name);
}

#define T5_TABLE \
    "encoder.block.%d.layer.0.SelfAttention.relative_attention_bias.weight"

/* T5 and its descendants but UMT5 have a table of positions in the first
 * layer only; files of such encoders lie in the same folders. One table that
 * lacks is not enough to say so. */
static int is_plain_t5(CvWeights *w)
{
    static const char *const query[] = {
        "blocks.2.attn.q.weight",
        "encoder.block.2.layer.0.SelfAttention.q.weight",
        "enc.blk.2.attn_q.weight",
    };
    static const char *const table[] = {
        "blocks.%d.pos_embedding.embedding.weight",
        T5_TABLE,
        "enc.blk.%d.attn_rel_b.weight",
    };

    for (int i = 0; i < 3; i++)
        if (cv_weights_find(w, "%s", query[i]))
            return cv_weights_find(w, table[i], 0) &&
                   !cv_weights_find(w, table[i], 1) &&
                   !cv_weights_find(w, table[i], 2);
    return 0;
}

int cv_kind_check(CvWeights *w, CvKind expected, CvLog *log)
{
    if (expected == CV_KIND_VAE && w->kind == CV_KIND_TINY_VAE)
        return 0;
    if (w->kind == expected) {
        if (cv_weights_find(w, "blocks.0.self_attn.attn_op.local_attn.proj_l"
                               ".weight"))
            return cv_fail(log, ENOSYS, "'%s' holds a Wan transformer with "
                           "sparse linear attention (TurboDiffusion), which "
                           "is not supported; use one with full attention",
                           w->path);
        if (w->kind == CV_KIND_TEXT_ENCODER && is_plain_t5(w))
            return cv_fail(log, ENOSYS, "'%s' holds a T5 text encoder of "
                           "another family (only its first layer has a table "
                           "of positions); expected Wan's, umt5-xxl", w->path);
        return 0;
    }
    if (!w->n_entries)
        return cv_fail(log, EILSEQ, "'%s' holds no tensors; expected a %s",
                       w->path, kinds[expected].name);
    if (w->kind == CV_KIND_UNKNOWN)
        return unknown_kind(w, expected, log);
    return cv_fail(log, EILSEQ, "'%s' holds a %s; expected a %s: name it with "
                   "the option %s instead of %s", w->path, kinds[w->kind].name,
                   kinds[expected].name, kinds[w->kind].option,
                   kinds[expected].option);
}
