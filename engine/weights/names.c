/*
 * What a set of tensors is, and its official Wan names.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * Names are translated by tables of patterns: '#' stands for a number, '*' at
 * the end for the rest. In the new name they stand for what they matched, in
 * order; '@' is the flat number of an up block's member and '~' the rest with
 * the names of a residual block translated. Sources: checkpoints.md 1.9, 2.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "weights/json.h"
#include "weights/reader.h"

typedef struct Rule {
    const char *from, *to;
} Rule;

#define RULES_END { NULL, NULL }

/* checkpoints.md 2.2 */
static const Rule dit_rules[] = {
    { "condition_embedder.time_embedder.linear_1.*", "time_embedding.0.*" },
    { "condition_embedder.time_embedder.linear_2.*", "time_embedding.2.*" },
    { "condition_embedder.text_embedder.linear_1.*", "text_embedding.0.*" },
    { "condition_embedder.text_embedder.linear_2.*", "text_embedding.2.*" },
    { "condition_embedder.time_proj.*", "time_projection.1.*" },
    { "condition_embedder.image_embedder.norm1.*", "img_emb.proj.0.*" },
    { "condition_embedder.image_embedder.ff.net.0.proj.*",
      "img_emb.proj.1.*" },
    { "condition_embedder.image_embedder.ff.net.2.*", "img_emb.proj.3.*" },
    { "condition_embedder.image_embedder.norm2.*", "img_emb.proj.4.*" },
    { "condition_embedder.image_embedder.pos_embed", "img_emb.emb_pos" },
    { "scale_shift_table", "head.modulation" },
    { "proj_out.*", "head.head.*" },
    { "blocks.#.scale_shift_table", "blocks.#.modulation" },
    { "blocks.#.attn1.to_q.*", "blocks.#.self_attn.q.*" },
    { "blocks.#.attn1.to_k.*", "blocks.#.self_attn.k.*" },
    { "blocks.#.attn1.to_v.*", "blocks.#.self_attn.v.*" },
    { "blocks.#.attn1.to_out.0.*", "blocks.#.self_attn.o.*" },
    { "blocks.#.attn1.norm_q.*", "blocks.#.self_attn.norm_q.*" },
    { "blocks.#.attn1.norm_k.*", "blocks.#.self_attn.norm_k.*" },
    { "blocks.#.attn2.to_q.*", "blocks.#.cross_attn.q.*" },
    { "blocks.#.attn2.to_k.*", "blocks.#.cross_attn.k.*" },
    { "blocks.#.attn2.to_v.*", "blocks.#.cross_attn.v.*" },
    { "blocks.#.attn2.to_out.0.*", "blocks.#.cross_attn.o.*" },
    { "blocks.#.attn2.norm_q.*", "blocks.#.cross_attn.norm_q.*" },
    { "blocks.#.attn2.norm_k.*", "blocks.#.cross_attn.norm_k.*" },
    { "blocks.#.attn2.add_k_proj.*", "blocks.#.cross_attn.k_img.*" },
    { "blocks.#.attn2.add_v_proj.*", "blocks.#.cross_attn.v_img.*" },
    { "blocks.#.attn2.norm_added_k.*", "blocks.#.cross_attn.norm_k_img.*" },
    { "blocks.#.ffn.net.0.proj.*", "blocks.#.ffn.0.*" },
    { "blocks.#.ffn.net.2.*", "blocks.#.ffn.2.*" },
    { "blocks.#.norm2.*", "blocks.#.norm3.*" },
    RULES_END
};

/* checkpoints.md 2.4, the top level */
static const Rule vae_rules[] = {
    { "quant_conv.*", "conv1.*" },
    { "post_quant_conv.*", "conv2.*" },
    RULES_END
};

/* behind "encoder." or "decoder." */
static const Rule coder_rules[] = {
    { "conv_in.*", "conv1.*" },
    { "norm_out.*", "head.0.*" },
    { "conv_out.*", "head.2.*" },
    { "mid_block.resnets.0.*", "middle.0.~" },
    { "mid_block.attentions.0.*", "middle.1.*" },
    { "mid_block.resnets.1.*", "middle.2.~" },
    { "down_blocks.#.*", "downsamples.#.~" },
    { "up_blocks.#.resnets.#.*", "upsamples.@.~" },
    { "up_blocks.#.upsamplers.0.*", "upsamples.@.*" },
    RULES_END
};

static const Rule residual_rules[] = {
    { "norm1.*", "residual.0.*" },
    { "conv1.*", "residual.2.*" },
    { "norm2.*", "residual.3.*" },
    { "conv2.*", "residual.6.*" },
    { "conv_shortcut.*", "shortcut.*" },
    RULES_END
};

/* checkpoints.md 2.5 */
#define T5_LAYER "encoder.block.#.layer."
static const Rule t5_rules[] = {
    { "shared.weight", "token_embedding.weight" },
    { "encoder.embed_tokens.weight", "token_embedding.weight" },
    { "encoder.final_layer_norm.weight", "norm.weight" },
    { T5_LAYER "0.layer_norm.weight", "blocks.#.norm1.weight" },
    { T5_LAYER "0.SelfAttention.q.weight", "blocks.#.attn.q.weight" },
    { T5_LAYER "0.SelfAttention.k.weight", "blocks.#.attn.k.weight" },
    { T5_LAYER "0.SelfAttention.v.weight", "blocks.#.attn.v.weight" },
    { T5_LAYER "0.SelfAttention.o.weight", "blocks.#.attn.o.weight" },
    { T5_LAYER "0.SelfAttention.relative_attention_bias.weight",
      "blocks.#.pos_embedding.embedding.weight" },
    { T5_LAYER "1.layer_norm.weight", "blocks.#.norm2.weight" },
    { T5_LAYER "1.DenseReluDense.wi_0.weight", "blocks.#.ffn.gate.0.weight" },
    { T5_LAYER "1.DenseReluDense.wi_1.weight", "blocks.#.ffn.fc1.weight" },
    { T5_LAYER "1.DenseReluDense.wo.weight", "blocks.#.ffn.fc2.weight" },
    RULES_END
};

#define MAX_NUMBERS 4

typedef struct Match {
    const char *number[MAX_NUMBERS]; /* where it begins */
    int digits[MAX_NUMBERS];
    int n_numbers;
    const char *rest;
} Match;

static int match(Match *m, const char *pattern, const char *name)
{
    memset(m, 0, sizeof(*m));
    for (; *pattern; pattern++) {
        if (*pattern == '*') {
            m->rest = name;
            return 1;
        }
        if (*pattern == '#') {
            int n = (int)strspn(name, "0123456789");

            if (!n || n > 6)
                return 0;
            m->number[m->n_numbers]   = name;
            m->digits[m->n_numbers++] = n;
            name += n;
        } else if (*pattern != *name++) {
            return 0;
        }
    }
    return !*name;
}

/* Translate by the first rule that matches. `stage` is the number of members
 * of an up block. Returns 0 when none matches or when the new name is too
 * long (as a name that nobody asks for, it is then refused). */
static int translate(char to[CV_NAME_SIZE], const Rule *rules,
                     const char *name, int stage)
{
    char residual[CV_NAME_SIZE];
    size_t used = 0;
    int number = 0;
    Match m;

    while (rules->from && !match(&m, rules->from, name))
        rules++;
    if (!rules->from)
        return 0;
    for (const char *p = rules->to; *p && used < CV_NAME_SIZE; p++) {
        size_t room = CV_NAME_SIZE - used;

        if (*p == '#') {
            used += (size_t)snprintf(to + used, room, "%.*s",
                                     m.digits[number], m.number[number]);
            number++;
        } else if (*p == '@') {
            /* the upsampler comes after the residual blocks */
            int member = m.n_numbers > 1 ? atoi(m.number[1]) : stage - 1;

            used += (size_t)snprintf(to + used, room, "%d",
                                     atoi(m.number[0]) * stage + member);
        } else if (*p == '*') {
            used += (size_t)snprintf(to + used, room, "%s", m.rest);
        } else if (*p == '~') {
            used += (size_t)snprintf(to + used, room, "%s",
                                     translate(residual, residual_rules,
                                               m.rest, 0) ?
                                     residual : m.rest);
        } else {
            to[used++] = *p;
        }
    }
    if (used >= CV_NAME_SIZE)
        return 0;
    to[used] = 0;
    return 1;
}

/* ---- wrappers ---- */

/* Parts of one file that holds several networks. */
static const struct {
    const char *prefix;
    CvKind kind;
} prefixes[] = {
    { "text_encoders.umt5xxl.transformer.", CV_KIND_TEXT_ENCODER },
    { "text_encoders.t5xxl.transformer.", CV_KIND_TEXT_ENCODER },
    { "first_stage_model.", CV_KIND_VAE },
    { "vae.", CV_KIND_VAE },
    { "model.diffusion_model.", CV_KIND_TRANSFORMER },
    { "diffusion_model.", CV_KIND_UNKNOWN },
    { "module.", CV_KIND_UNKNOWN },
    { "generator.", CV_KIND_UNKNOWN },
    { "model.", CV_KIND_UNKNOWN },
    { "net.", CV_KIND_UNKNOWN },
    { "transformer.", CV_KIND_UNKNOWN },
};

/* Remove what training code wraps around names (checkpoints.md 1.9 step 3).
 * *kind: the network that the prefix tells, or unknown. */
static void unwrap(char to[CV_NAME_SIZE], const char *name, CvKind *kind)
{
    static const char *const segments[] = {
        "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "_orig_mod.",
    };
    size_t used = 0, n_prefixes = sizeof(prefixes) / sizeof(*prefixes);
    size_t begin = 0;

    *kind = CV_KIND_UNKNOWN;
    while (*name) {
        size_t skip = 0;

        for (int i = 0; i < 3 && !skip; i++)
            if (!strncmp(name, segments[i], strlen(segments[i])))
                skip = strlen(segments[i]);
        if (!skip)
            to[used++] = *name;
        name += skip ? skip : 1;
    }
    to[used] = 0;
    /* no name of a network begins with one of the prefixes */
    for (size_t i = 0; i < n_prefixes; i++) {
        size_t n = strlen(prefixes[i].prefix);

        if (strncmp(to + begin, prefixes[i].prefix, n))
            continue;
        if (*kind == CV_KIND_UNKNOWN)
            *kind = prefixes[i].kind;
        begin += n;
        i = (size_t)-1; /* again from the first */
    }
    memmove(to, to + begin, used - begin + 1);
}

/* ---- kinds ---- */

static const struct {
    const char *name[2]; /* the second may be NULL */
    CvKind kind;
    const char *layout;
} signatures[] = {
    { { "patch_embedding.weight", "blocks.0.self_attn.q.weight" },
      CV_KIND_TRANSFORMER, "official" },
    { { "condition_embedder.time_proj.weight", "blocks.0.attn1.to_q.weight" },
      CV_KIND_TRANSFORMER, "diffusers" },
    { { "decoder.upsamples.0.residual.0.gamma", "decoder.head.0.gamma" },
      CV_KIND_VAE, "official" },
    { { "decoder.up_blocks.0.resnets.0.norm1.gamma",
        "decoder.norm_out.gamma" }, CV_KIND_VAE, "diffusers" },
    { { "token_embedding.weight", "blocks.0.attn.q.weight" },
      CV_KIND_TEXT_ENCODER, "official" },
    { { "encoder.block.0.layer.0.SelfAttention.q.weight",
        "encoder.final_layer_norm.weight" },
      CV_KIND_TEXT_ENCODER, "diffusers" },
    { { "decoder.1.weight", "decoder.3.conv.0.weight" },
      CV_KIND_TINY_VAE, "official" },
};

static int ends_with(const char *string, const char *end)
{
    size_t n = strlen(string), e = strlen(end);

    return n >= e && !strcmp(string + n - e, end);
}

static int is_lora_name(const char *name)
{
    static const char *const ends[] = { /* checkpoints.md 3.2 */
        ".lora_down.weight", ".lora_A.weight", ".lora_A.default.weight",
        ".lora_A", "_lora.down.weight", ".lora.down.weight",
        ".lora_linear_layer.down.weight", ".diff", ".diff_b",
    };

    for (size_t i = 0; i < sizeof(ends) / sizeof(*ends); i++)
        if (ends_with(name, ends[i]))
            return 1;
    return 0;
}

/* Both names of a signature decide; in files with tensors missing, one does,
 * so that the line can name what is missing. */
static void detect(CvWeights *w)
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
    [CV_KIND_TINY_VAE]     = { "tiny VAE (TAEHV)", NULL },
    [CV_KIND_LORA]         = { "LoRA", "lora" },
};

static int wrong_kind(const CvWeights *w, CvKind expected, CvLog *log)
{
    if (!w->n_entries)
        return cv_fail(log, EILSEQ, "'%s' holds no tensors; expected a %s",
                       w->path, kinds[expected].name);
    if (w->kind == CV_KIND_UNKNOWN)
        return cv_fail(log, EILSEQ, "'%s' holds no network that is known (%lld "
                       "tensors, the first is '%s'); expected a %s", w->path,
                       (long long)w->n_entries, w->entries[0].stored,
                       kinds[expected].name);
    if (w->kind == CV_KIND_TINY_VAE)
        return cv_fail(log, EILSEQ, "'%s' holds a %s, which this version does "
                       "not run; expected a %s", w->path, kinds[w->kind].name,
                       kinds[expected].name);
    return cv_fail(log, EILSEQ, "'%s' holds a %s; expected a %s: name it with "
                   "the option %s instead of %s", w->path, kinds[w->kind].name,
                   kinds[expected].name, kinds[w->kind].option,
                   kinds[expected].option);
}

/* ---- the directory ---- */

/* Replace the name of an entry. */
static int rename_entry(CvEntry *e, const char *name, CvLog *log)
{
    char *copy;

    if (!strcmp(e->name, name))
        return 0;
    copy = strdup(name);
    if (!copy)
        return cv_fail_memory(log, strlen(name) + 1, "a tensor's name");
    if (e->name != e->stored)
        free((void *)e->name);
    e->name = copy;
    return 0;
}

/* Mark an entry for sweep(). */
static void drop(CvEntry *e)
{
    e->used = -1;
}

static void sweep(CvWeights *w)
{
    int64_t kept = 0;

    for (int64_t i = 0; i < w->n_entries; i++) {
        CvEntry *e = &w->entries[i];

        if (e->used >= 0) {
            w->entries[kept++] = *e;
            continue;
        }
        if (e->name != e->stored)
            free((void *)e->name);
        free((void *)e->stored);
    }
    w->n_entries = kept;
}

/* checkpoints.md 2.8: what does not change the network's arithmetic here */
static int is_ignorable(const char *name)
{
    return ends_with(name, "scaled_fp8") || !strcmp(name, "spiece_model") ||
           ends_with(name, ".scale_input") || ends_with(name, ".input_scale") ||
           ends_with(name, ".comfy_quant") || !strncmp(name, "accum_", 6) ||
           ends_with(name, "norm_added_q.weight");
}

/* Unwrap all names. Of a file with several networks, keep the expected one. */
static int unwrap_all(CvWeights *w, CvKind expected, CvLog *log)
{
    int64_t count[CV_KIND_LORA + 1] = { 0 };
    char name[CV_NAME_SIZE];
    CvKind kind;
    int err;

    for (int64_t i = 0; i < w->n_entries; i++) {
        unwrap(name, w->entries[i].stored, &kind);
        count[kind]++;
        if ((err = rename_entry(&w->entries[i], name, log)) < 0)
            return err;
    }
    if (count[CV_KIND_TEXT_ENCODER] == w->n_entries ||
        count[CV_KIND_VAE] == w->n_entries ||
        count[CV_KIND_TEXT_ENCODER] + count[CV_KIND_VAE] == 0 ||
        !count[expected])
        return 0; /* one network, or not the expected one: the rest tells */
    for (int64_t i = 0; i < w->n_entries; i++) {
        unwrap(name, w->entries[i].stored, &kind);
        if (kind != expected)
            drop(&w->entries[i]);
    }
    sweep(w);
    return 0;
}

/* Members of an up block of a diffusers VAE: residual blocks and upsampler. */
static int stage_members(CvWeights *w)
{
    int n = 0;

    while (n < 64 && cv_weights_find(w, "decoder.up_blocks.0.resnets.%d.conv1"
                                     ".weight", n))
        n++;
    return n + 1;
}

static int translate_all(CvWeights *w, CvLog *log)
{
    int stage = w->kind == CV_KIND_VAE ? stage_members(w) : 0, err;
    int shared = !!cv_weights_find(w, "shared.weight");

    for (int64_t i = 0; i < w->n_entries; i++) {
        CvEntry *e = &w->entries[i];
        char name[CV_NAME_SIZE], coder[CV_NAME_SIZE];
        int found = 0;

        if (w->kind == CV_KIND_TRANSFORMER) {
            found = translate(name, dit_rules, e->name, 0);
        } else if (w->kind == CV_KIND_TEXT_ENCODER) {
            if (shared && !strcmp(e->name, "encoder.embed_tokens.weight"))
                drop(e); /* the same tensor a second time */
            else
                found = translate(name, t5_rules, e->name, 0);
        } else if (!strncmp(e->name, "encoder.", 8) ||
                   !strncmp(e->name, "decoder.", 8)) {
            if (translate(coder, coder_rules, e->name + 8, stage))
                found = snprintf(name, sizeof(name), "%.8s%s", e->name,
                                 coder) < (int)sizeof(name);
        } else {
            found = translate(name, vae_rules, e->name, 0);
        }
        if (found && (err = rename_entry(e, name, log)) < 0)
            return err;
    }
    sweep(w);
    return 0;
}

int cv_weights_canonical(CvWeights *w, CvKind expected, CvLog *log)
{
    int err = unwrap_all(w, expected, log);

    if (!err)
        err = cv_weights_sort(w, log);
    if (err < 0)
        return err;
    detect(w);
    if (w->kind != expected)
        return wrong_kind(w, expected, log);
    for (int64_t i = 0; i < w->n_entries; i++) {
        const CvEntry *e = &w->entries[i];

        if (ends_with(e->name, ".scale_weight") ||
            ends_with(e->name, ".weight_scale"))
            return cv_fail(log, ENOSYS, "'%s' holds weights with scales "
                           "('%s'), which this version does not read; use the "
                           "bf16, fp16 or fp32 file of the model", e->file,
                           e->stored);
        if (is_ignorable(e->name))
            drop(&w->entries[i]);
    }
    sweep(w);
    if (!strcmp(w->layout, "diffusers"))
        err = translate_all(w, log);
    return err < 0 ? err : cv_weights_sort(w, log);
}
