/*
 * Attention in tiles of queries and keys, with a running softmax.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * Scores of a tile of queries are made for one tile of keys at a time. Each
 * query keeps the largest score so far and the sum of exp(score - largest);
 * when a tile brings a larger one, what was gathered is scaled down. So
 * scratch does not grow with the number of keys (Milakov and Gimelshein,
 * "Online normalizer calculation for softmax").
 */
#include <math.h>
#include <string.h>

#include "cpu/cpu.h"

enum { QUERIES = 64, KEYS = 256 };

typedef struct Attention {
    CvCpu *cpu;
    int64_t n, m, heads, d;
    int64_t tiles; /* of queries */
    const float *q, *k, *v, *bias;
    float *out;
    float scale, last_bias;
} Attention;

/* One row of scores becomes weights, relative to the largest score so far. */
static void softmax_row(const Attention *a, float *s, int64_t keys,
                        const float *bias, float *largest, float *sum,
                        float *out)
{
    float top = *largest, total = 0, shrink;

    for (int64_t j = 0; j < keys; j++) {
        s[j] = s[j] * a->scale + (bias ? bias[j] : 0);
        top = fmaxf(top, s[j]);
    }
    shrink = expf(*largest - top);
    for (int64_t j = 0; j < keys; j++) {
        s[j] = expf(s[j] - top);
        total += s[j];
    }
    *sum = *sum * shrink + total;
    *largest = top;
    for (int64_t j = 0; j < a->d; j++)
        out[j] *= shrink;
}

static void attend(const Attention *a, int64_t head, int64_t query,
                   float *scores)
{
    int64_t n = cv_min(QUERIES, a->n - query), row = a->heads * a->d;
    const float *q = a->q + query * row + head * a->d;
    float *out = a->out + query * row + head * a->d;
    float largest[QUERIES], sum[QUERIES];

    for (int64_t i = 0; i < n; i++) {
        largest[i] = -INFINITY;
        sum[i] = 0;
        memset(out + i * row, 0, (size_t)a->d * sizeof(*out));
    }
    for (int64_t key = 0; key < a->m; key += KEYS) {
        int64_t keys = cv_min(KEYS, a->m - key);
        const float *k = a->k + key * row + head * a->d;
        const float *v = a->v + key * row + head * a->d;

        cv_cpu_gemm_nt(n, keys, a->d, q, row, k, row, scores, KEYS, 0);
        for (int64_t i = 0; i < n; i++) {
            const float *bias = a->bias ? a->bias +
                (head * a->n + query + i) * a->m + key : NULL;

            if (key + keys == a->m)
                scores[i * KEYS + keys - 1] += a->last_bias / a->scale;
            softmax_row(a, scores + i * KEYS, keys, bias, &largest[i],
                        &sum[i], out + i * row);
        }
        cv_cpu_gemm_nn(n, a->d, keys, scores, KEYS, v, row, out, row, 1);
    }
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < a->d; j++)
            out[i * row + j] /= sum[i];
}

static void attention_job(void *arg, int64_t first, int64_t last, int worker)
{
    const Attention *a = arg;

    for (int64_t i = first; i < last; i++)
        attend(a, i / a->tiles, i % a->tiles * QUERIES,
               cv_cpu_scratch(a->cpu, worker));
}

int cv_cpu_attention(CvBackend *b, const CvAttention *a)
{
    Attention at = {
        .cpu = cv_cpu(b), .n = a->q->dim[0], .m = a->k->dim[0],
        .heads = a->q->dim[1], .d = a->q->dim[2],
        .tiles = (a->q->dim[0] + QUERIES - 1) / QUERIES,
        .q = a->q->data, .k = a->k->data, .v = a->v->data,
        .bias = a->bias ? a->bias->data : NULL, .out = a->out->data,
        .scale = a->scale, .last_bias = logf((float)a->last_repeats),
    };

    cv_cpu_run(at.cpu, at.heads * at.tiles, 1, attention_job, &at);
    return 0;
}
