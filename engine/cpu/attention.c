/*
 * Attention in tiles of queries and keys, with a running softmax.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * Scores are made transposed, [keys, queries], from a tile of queries that is
 * packed once: then neither keys nor values need packing, and the softmax runs
 * along vectors of queries. Each query keeps its largest score so far and the
 * sum of exp(score - largest); what was gathered is scaled down when a tile of
 * keys brings a larger one, so scratch does not grow with the number of keys
 * (Milakov and Gimelshein, "Online normalizer calculation for softmax").
 * 225 GFLOP/s on one Zen 5 core for 180 queries, 720 keys, 2 heads of 128.
 */
#include <math.h>

#include "cpu/cpu.h"

enum {
    QUERIES = 96, KEYS = 256, /* of a tile, at most */
    TILE = 96 * 1024,         /* floats of a tile of queries or of keys */
};

_Static_assert(2 * TILE + QUERIES * KEYS <= CV_CPU_SCRATCH, "scratch");
_Static_assert(QUERIES % CV_MAX_PANEL == 0, "whole panels of queries");

typedef struct Attention {
    const CvCpu *cpu;
    int64_t n, m, heads, d;
    int64_t queries, keys; /* of a tile */
    int64_t tiles;         /* of queries */
    int64_t padded;        /* d up to whole vectors, or more */
    int copy;              /* keys and values are copied to scratch */
    const float *q, *k, *v, *bias;
    float *out;
    float scale, last_bias;
} Attention;

/* A thread's scratch. */
typedef struct Tile {
    float *q;      /* [panels, d, panel] */
    float *scores; /* [keys, queries] */
    float *copy;   /* [keys, padded] */
    float top[QUERIES], sum[QUERIES], shrink[QUERIES];
    int64_t n, w;  /* queries, and these up to whole vectors */
} Tile;

static int64_t round_up(int64_t n, int64_t unit)
{
    return (n + unit - 1) / unit * unit;
}

static void pack_queries(const Attention *a, Tile *t, const float *q)
{
    const CvKernels *kernels = a->cpu->kernels;

    for (int64_t i = 0; i < t->n; i += kernels->panel) {
        int64_t n = cv_min(kernels->panel, t->n - i);
        float *panel = t->q + i * a->d;
        int64_t w = n > kernels->lanes ? kernels->panel : kernels->lanes;

        kernels->pack(panel, w, q + i * a->heads * a->d, a->heads * a->d, n,
                      a->d);
        for (int64_t j = 0; j < w * a->d; j++)
            panel[j] *= a->scale;
    }
    for (int64_t i = 0; i < t->w; i++) {
        t->top[i] = -INFINITY;
        t->sum[i] = 0;
    }
}

/* Rows of keys or values where the kernels can read them well. */
static const float *rows_of(const Attention *a, Tile *t, const float *src,
                            int64_t keys, int64_t *step)
{
    int64_t row = a->heads * a->d;

    *step = row;
    if (!a->copy)
        return src;
    *step = a->padded;
    cv_cpu_copy_rows(t->copy, *step, src, row, keys, a->d);
    return t->copy;
}

static void score(const Attention *a, Tile *t, int64_t head, int64_t query,
                  int64_t key, int64_t keys)
{
    const CvKernels *kernels = a->cpu->kernels;
    int64_t step;
    const float *k = rows_of(a, t, a->k + (key * a->heads + head) * a->d, keys,
                             &step);

    for (int64_t i = 0; i < t->n; i += kernels->panel) {
        int64_t n = cv_min(kernels->panel, t->w - i);
        CvGemm g = { .m = keys, .n = n, .k = a->d, .n_parts = 1, .a = &k,
                     .a_row = step, .a_k = 1, .b = t->q + i * a->d,
                     .b_row = n, .c = t->scores + i, .c_row = t->w };

        kernels->gemm(&g);
    }
    if (a->bias) {
        for (int64_t i = 0; i < t->n; i++) {
            const float *bias = a->bias +
                (head * a->n + query + i) * a->m + key;

            for (int64_t j = 0; j < keys; j++)
                t->scores[j * t->w + i] += bias[j];
        }
    }
    if (key + keys == a->m)
        for (int64_t i = 0; i < t->w; i++)
            t->scores[(keys - 1) * t->w + i] += a->last_bias;
}

/* out = out * shrink + weights * values */
static void gather(const Attention *a, Tile *t, int64_t head, float *out,
                   int64_t key, int64_t keys)
{
    const CvKernels *kernels = a->cpu->kernels;
    const float *weights = t->scores, *v;
    int64_t row = a->heads * a->d, step;

    for (int64_t i = 0; key && i < t->n; i++)
        if (t->shrink[i] != 1)
            for (int64_t j = 0; j < a->d; j++)
                out[i * row + j] *= t->shrink[i];
    v = rows_of(a, t, a->v + (key * a->heads + head) * a->d, keys, &step);
    for (int64_t j = 0; j < a->d; j += kernels->panel) {
        CvGemm g = { .m = t->n, .n = cv_min(kernels->panel, a->d - j),
                     .k = keys, .n_parts = 1, .a = &weights, .a_row = 1,
                     .a_k = t->w, .b = v + j, .b_row = step, .c = out + j,
                     .c_row = row, .add = key > 0 };

        kernels->gemm(&g);
    }
}

static void attend(const Attention *a, Tile *t, int64_t head, int64_t query)
{
    int64_t row = a->heads * a->d;
    float *out = a->out + query * row + head * a->d;

    t->n = cv_min(a->queries, a->n - query);
    t->w = round_up(t->n, a->cpu->kernels->lanes);
    pack_queries(a, t, a->q + query * row + head * a->d);
    for (int64_t key = 0; key < a->m; key += a->keys) {
        int64_t keys = cv_min(a->keys, a->m - key);

        score(a, t, head, query, key, keys);
        a->cpu->kernels->softmax(t->scores, keys, t->w, t->top, t->sum,
                                 t->shrink);
        gather(a, t, head, out, key, keys);
    }
    for (int64_t i = 0; i < t->n; i++)
        for (int64_t j = 0; j < a->d; j++)
            out[i * row + j] /= t->sum[i];
}

static void attention_job(void *arg, int64_t first, int64_t last, int worker)
{
    const Attention *a = arg;
    Tile t = { .q = cv_cpu_scratch(a->cpu, worker) };

    t.scores = t.q + TILE;
    t.copy = t.scores + QUERIES * KEYS;
    for (int64_t i = first; i < last; i++)
        attend(a, &t, i / a->tiles, i % a->tiles * a->queries);
}

int cv_cpu_attention(CvBackend *b, const CvAttention *a)
{
    int64_t lanes = cv_cpu(b)->kernels->lanes;
    int64_t panel = cv_cpu(b)->kernels->panel;
    Attention at = {
        .cpu = cv_cpu(b), .n = a->q->dim[0], .m = a->k->dim[0],
        .heads = a->q->dim[1], .d = a->q->dim[2], .q = a->q->data,
        .k = a->k->data, .v = a->v->data,
        .bias = a->bias ? a->bias->data : NULL, .out = a->out->data,
        .scale = a->scale, .last_bias = logf((float)a->last_repeats),
    };

    /* Not a multiple of 512, for the reason given at cv_cpu_bad_step(). */
    at.padded = round_up(at.d, lanes) + lanes;
    if (at.padded > TILE / panel)
        return cv_fail(b->log, ENOSYS, "attention: heads of %lld; the CPU "
                       "backend takes at most %lld", (long long)at.d,
                       (long long)(TILE / panel - lanes));
    at.copy = at.d % lanes || cv_cpu_bad_step(at.heads * at.d);
    at.queries = cv_min(QUERIES, TILE / at.padded / panel * panel);
    at.keys = cv_min(KEYS, TILE / at.padded);
    at.tiles = (at.n + at.queries - 1) / at.queries;
    cv_cpu_run(cv_cpu(b), at.heads * at.tiles, 1, attention_job, &at);
    return 0;
}
