/*
 * From the names of diffusers, Hugging Face and llama.cpp to the official ones.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * Names are translated by tables of patterns: '#' stands for a number, '*' at
 * the end for the rest. In the new name they stand for what they matched, in
 * order; '@' is the flat number of an up block's member and '~' the rest with
 * the names of a residual block translated. Sources: checkpoints.md 2.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "weights/names.h"

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

/* checkpoints.md 2.5, GGUF files of encoders */
static const Rule llama_rules[] = {
    { "token_embd.weight", "token_embedding.weight" },
    { "enc.output_norm.weight", "norm.weight" },
    { "enc.blk.#.attn_norm.weight", "blocks.#.norm1.weight" },
    { "enc.blk.#.attn_q.weight", "blocks.#.attn.q.weight" },
    { "enc.blk.#.attn_k.weight", "blocks.#.attn.k.weight" },
    { "enc.blk.#.attn_v.weight", "blocks.#.attn.v.weight" },
    { "enc.blk.#.attn_o.weight", "blocks.#.attn.o.weight" },
    { "enc.blk.#.attn_rel_b.weight",
      "blocks.#.pos_embedding.embedding.weight" },
    { "enc.blk.#.ffn_norm.weight", "blocks.#.norm2.weight" },
    { "enc.blk.#.ffn_gate.weight", "blocks.#.ffn.gate.0.weight" },
    { "enc.blk.#.ffn_up.weight", "blocks.#.ffn.fc1.weight" },
    { "enc.blk.#.ffn_down.weight", "blocks.#.ffn.fc2.weight" },
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

int cv_names_from_diffusers(char to[CV_NAME_SIZE], const char *name)
{
    return translate(to, dit_rules, name, 0);
}

int cv_names_to_diffusers(char to[CV_NAME_SIZE], const char *name)
{
    for (const Rule *rule = dit_rules; rule->from; rule++) {
        const Rule back[] = { { rule->to, rule->from }, RULES_END };

        if (translate(to, back, name, 0))
            return 1;
    }
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

/* Projections that diffusers' fuse_qkv_projections() has put together, one
 * below the other (checkpoints.md 2.2), and the parts' names in order. */
static const struct {
    const char *from, *module, *parts;
} fused[] = {
    { "blocks.#.attn1.to_qkv.*", "attn1", "qkv" },
    { "blocks.#.attn2.to_kv.*", "attn2", "kv" },
};

/* Replace an entry by entries of its rows, a share for each part. */
static int split(CvWeights *w, int64_t index, int which, CvLog *log)
{
    const CvEntry e = w->entries[index];
    const CvFile file = { .path = (char *)(uintptr_t)e.file };
    int64_t n = (int64_t)strlen(fused[which].parts);
    CvTensor share = e.tensor;
    int err = 0;

    /* whatever cannot be split stays, as a name that nobody asks for */
    if (share.n_dims < 1 || share.dim[0] < n || share.dim[0] % n ||
        (!e.tensor.data && !w->random) ||
        (e.scale && cv_elements(&e.scale->tensor) != 1))
        return 0;
    share.dim[0] /= n;
    if (cv_tensor_bytes(&share) < 0) /* half blocks */
        return 0;
    for (int64_t i = 0; i < n && !err; i++) {
        char to[64], name[CV_NAME_SIZE];
        const Rule rule[] = { { fused[which].from, to }, RULES_END };

        snprintf(to, sizeof(to), "blocks.#.%s.to_%c.*", fused[which].module,
                 fused[which].parts[i]);
        if (!translate(name, rule, e.name, 0))
            return 0;
        if (e.tensor.data)
            share.data = (uint8_t *)e.tensor.data +
                         i * cv_tensor_bytes(&share);
        err = cv_weights_add(w, &file, name, &share, log);
        if (!err)
            w->entries[w->n_entries - 1].scale = e.scale;
    }
    cv_entry_drop(&w->entries[index]);
    return err;
}

static int split_all(CvWeights *w, CvLog *log)
{
    int64_t n = w->n_entries;
    int err = 0;
    Match m;

    for (int64_t i = 0; i < n && !err; i++)
        for (int k = 0; k < 2 && !err; k++)
            if (match(&m, fused[k].from, w->entries[i].name))
                err = split(w, i, k, log);
    return err;
}

int cv_names_translate(CvWeights *w, CvLog *log)
{
    const Rule *text = strcmp(w->layout, "llama.cpp") ? t5_rules : llama_rules;
    int stage = w->kind == CV_KIND_VAE ? stage_members(w) : 0, err;
    int shared = !!cv_weights_find(w, "shared.weight");

    if (w->kind == CV_KIND_TRANSFORMER && (err = split_all(w, log)) < 0)
        return err;
    for (int64_t i = 0; i < w->n_entries; i++) {
        CvEntry *e = &w->entries[i];
        char name[CV_NAME_SIZE], coder[CV_NAME_SIZE];
        int found = 0;

        if (w->kind == CV_KIND_TRANSFORMER) {
            found = translate(name, dit_rules, e->name, 0);
        } else if (w->kind == CV_KIND_TEXT_ENCODER) {
            if (shared && !strcmp(e->name, "encoder.embed_tokens.weight"))
                cv_entry_drop(e); /* the same tensor a second time */
            else
                found = translate(name, text, e->name, 0);
        } else if (!strncmp(e->name, "encoder.", 8) ||
                   !strncmp(e->name, "decoder.", 8)) {
            if (translate(coder, coder_rules, e->name + 8, stage))
                found = snprintf(name, sizeof(name), "%.8s%s", e->name,
                                 coder) < (int)sizeof(name);
        } else {
            found = translate(name, vae_rules, e->name, 0);
        }
        if (found && (err = cv_entry_rename(e, name, log)) < 0)
            return err;
    }
    cv_entries_sweep(w);
    return 0;
}
