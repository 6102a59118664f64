/*
 * What the transformer's files share: its weights.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#ifndef CV_DIT_INTERNAL_H
#define CV_DIT_INTERNAL_H

#include "dit.h"

/* Rows that cross attention sees, whatever the prompt (checkpoints.md 4.4). */
#define CV_DIT_TEXT_ROWS 512

/* Largest size that is believed, so that products of sizes fit. */
#define CV_DIT_MAX_SIZE (1 << 24)

/* Tokens for which a layer's widest tensors are held at a time: q, k and v
 * together, and the FFN's hidden rows. A block of a causal model is one part.
 * Those of a whole clip of 14B would take 1 GB each, and products of so many
 * rows are as fast. */
#define CV_DIT_PART_TOKENS 8192

typedef struct CvDitLinear {
    CvMatrix matrix; /* [out, in] */
    CvTensor bias;   /* [out] */
} CvDitLinear;

typedef struct CvDitLayer {
    CvTensor modulation;             /* float32 [6, dim] */
    CvDitLinear qkv, self_o;         /* qkv: q, k, v one below the other */
    CvTensor self_norm_q, self_norm_k;
    CvTensor norm3, norm3_bias;      /* only with dit->cross_norm */
    CvDitLinear cross_q, cross_o;
    CvTensor cross_norm_q;
    CvDitLinear ffn_up, ffn_down;
    size_t before;                   /* bytes of the arena in front of it */
} CvDitLayer;

/* What only a new prompt needs: in each layer the keys and values of cross
 * attention, a seventh of all weights, and in front of them an MLP. */
typedef struct CvDitTextLayer {
    CvDitLinear k, v;
    CvTensor norm_k;
} CvDitTextLayer;

typedef struct CvDitText {
    CvDitLinear mlp_0, mlp_2;
} CvDitText;

struct CvDit {
    CvDitSize size;
    int64_t head_dim;
    float eps;
    int cross_norm;                  /* norm3 before cross attention */
    int64_t part_tokens;             /* CV_DIT_PART_TOKENS; less in tests */
    CvDitLinear patch;               /* [dim, channels * 4] */
    CvDitLinear time_0, time_2, time_projection;
    CvTensor head_modulation;        /* float32 [2, dim] */
    CvDitLinear head;                /* [4 * channels, dim] */
    CvDitLayer *layers;
    CvDitText text;
    CvDitTextLayer *text_layers;
    size_t layer_bytes;              /* room for a streamed layer */
    int64_t resident;                /* layers; the others and the texts, if */
    int text_streamed;               /* streamed, have types but no data */
    CvLoader loader;                 /* its files are open until they are
                                        loaded, or as long as memory has a
                                        limit */
    CvArena arena, text_arena;       /* of the weights */
    char description[256];
};

/* Set dit->size but its heads, and cross_norm. EILSEQ; ENOSYS names kinds that
 * are not run. */
int cv_dit_read_sizes(CvDit *dit, CvWeights *weights, CvLog *log);

/* Check the config against dit->size, which has the weights' sizes, and set
 * heads, head_dim and eps. path may be ""; weights: their file, for a line. */
int cv_dit_read_config(CvDit *dit, const char *path, const char *weights,
                       CvLog *log);

/* Load into the loader's arena: what only a prompt needs, of all and of layer
 * `number`; what a pass needs of that. */
int cv_dit_load_text(const CvDit *dit, CvLoader *loader, CvDitText *text);
int cv_dit_load_text_layer(const CvDit *dit, CvLoader *loader,
                           CvDitTextLayer *layer, int64_t number);
int cv_dit_load_layer(const CvDit *dit, CvLoader *loader, CvDitLayer *layer,
                      int64_t number);

/* stream.c: the same from where it is kept: what is resident, or loaded into the
 * run's arena. Before their files are closed, cv_load_end() has to follow. */
int cv_dit_get_text(const CvDit *dit, CvRun *run, CvDitText *text);
int cv_dit_get_text_layer(const CvDit *dit, CvRun *run, int64_t number,
                          CvDitTextLayer *layer);
/* Layers have room of their own, two by turns: what is loaded while the layer
 * before runs must not be in use since cv_dit_mark() in front of that. */
int cv_dit_take_slots(const CvDit *dit, CvRun *run, CvArena slots[2]);
int cv_dit_mark(const CvDit *dit, int64_t number);
int cv_dit_get_layer(const CvDit *dit, CvArena *slot, int64_t number,
                     CvDitLayer *layer);
/* Look what LoRA files change of what is streamed, so that it counts. */
int cv_dit_plan_streamed(const CvDit *dit);

/* Layer `layer` of a tensor [layers, ...], without the first dimension, cut to
 * its first `rows` rows: [rows, ...]. */
static inline CvTensor cv_dit_layer_rows(const CvTensor *t, int64_t layer,
                                         int64_t rows)
{
    CvTensor view = cv_rows(t, layer, 1);

    view.n_dims--;
    for (int i = 0; i < view.n_dims; i++)
        view.dim[i] = t->dim[i + 1];
    return cv_rows(&view, 0, rows);
}

/* One of state->largest, in `one`; NULL where there are none. */
static inline const CvTensor *cv_dit_largest(const CvDitState *state,
                                             int64_t i, CvTensor *one)
{
    if (!state->largest.data)
        return NULL;
    *one = cv_rows(&state->largest, i, 1);
    return one;
}

/* out = epilogue-less x * weight^T + bias. */
static inline int cv_dit_linear(CvBackend *b, const CvTensor *out,
                                const CvTensor *x, const CvDitLinear *linear,
                                CvEpilogue epilogue)
{
    return cv_linear(b, &(CvLinear){
        .out = out, .x = x, .weight = &linear->matrix.weight,
        .scale = &linear->matrix.scale, .bias = &linear->bias,
        .epilogue = epilogue });
}

#endif /* CV_DIT_INTERNAL_H */
