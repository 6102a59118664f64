/*
 * Embeddings of tokens, timesteps and positions, and the modulation rows.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#include <math.h>
#include <string.h>

#include "cpu/cpu.h"

int cv_cpu_embed(CvBackend *b, const CvTensor *out, const CvTensor *table,
                 const CvTensor *scale, const CvTensor *ids)
{
    int64_t d = table->dim[1], n = cv_elements(ids);
    const int32_t *id = ids->data;
    const float *rows = table->data;
    float *dst = out->data;

    (void)b, (void)scale; /* no fp8 here */
    for (int64_t i = 0; i < n; i++)
        memcpy(dst + i * d, rows + id[i] * d, (size_t)d * sizeof(*dst));
    return 0;
}

/* Bucket of a key `distance` positions after its query. */
static int64_t bucket(int64_t distance, int64_t buckets)
{
    int64_t half = buckets / 2, exact = half / 2;
    int64_t base = distance > 0 ? half : 0;
    int64_t a = distance < 0 ? -distance : distance;
    double steps;

    if (a < exact)
        return base + a;
    /* Distances that are a bucket's lower bound give an integer; the addend
     * keeps rounding from putting them below it. */
    steps = log((double)a / (double)exact) / log(128.0 / (double)exact) *
            (double)(half - exact) + 1e-9;
    return base + cv_min(exact + (int64_t)steps, half - 1);
}

int cv_cpu_t5_bias(CvBackend *b, const CvTensor *out, const CvTensor *table)
{
    int64_t heads = out->dim[0], n = out->dim[1], buckets = table->dim[0];
    const float *rows = table->data;
    float *dst = out->data;

    (void)b;
    for (int64_t distance = 1 - n; distance < n; distance++) {
        const float *bias = rows + bucket(distance, buckets) * heads;
        int64_t first = cv_max(0, -distance), last = cv_min(n, n - distance);

        for (int64_t h = 0; h < heads; h++)
            for (int64_t i = first; i < last; i++)
                dst[(h * n + i) * n + i + distance] = bias[h];
    }
    return 0;
}

int cv_cpu_timestep_embedding(CvBackend *b, const CvTensor *out,
                              const CvTensor *t)
{
    int64_t groups = out->dim[0], d = out->dim[1], half = d / 2;
    const float *steps = t->data;
    float *dst = out->data;

    (void)b;
    for (int64_t g = 0; g < groups; g++) {
        for (int64_t i = 0; i < half; i++) {
            double angle = steps[g] * pow(10000, -(double)i / (double)half);

            dst[g * d + i] = (float)cos(angle);
            dst[g * d + half + i] = (float)sin(angle);
        }
    }
    return 0;
}

int cv_cpu_modulation(CvBackend *b, const CvTensor *out, const CvTensor *table,
                      const CvTensor *x)
{
    int64_t groups = out->dim[0], rows = out->dim[1], d = out->dim[2];
    int shared = x->n_dims == 2; /* one row of x serves all rows */
    const float *base = table->data, *add = x->data;
    float *dst = out->data;

    (void)b;
    for (int64_t g = 0; g < groups; g++) {
        for (int64_t r = 0; r < rows; r++) {
            const float *src = add + (shared ? g : g * rows + r) * d;

            for (int64_t i = 0; i < d; i++)
                *dst++ = base[r * d + i] + src[i];
        }
    }
    return 0;
}

typedef struct RopeTable {
    float *out;
    int64_t first_frame, h, w, pairs, side; /* side: pairs of row and column */
} RopeTable;

static float *turn(float *out, int64_t position, int64_t pairs)
{
    for (int64_t j = 0; j < pairs; j++) {
        double angle = (double)position *
                       pow(10000, -(double)j / (double)pairs);

        *out++ = (float)cos(angle);
        *out++ = (float)sin(angle);
    }
    return out;
}

/* Items are rows of all frames. */
static void rope_table_job(void *arg, int64_t first, int64_t last, int worker)
{
    const RopeTable *a = arg;

    (void)worker;
    for (int64_t row = first; row < last; row++) {
        float *out = a->out + row * a->w * a->pairs * 2;

        for (int64_t col = 0; col < a->w; col++) {
            out = turn(out, a->first_frame + row / a->h,
                       a->pairs - 2 * a->side);
            out = turn(out, row % a->h, a->side);
            out = turn(out, col, a->side);
        }
    }
}

int cv_cpu_rope_table(CvBackend *b, const CvTensor *out, int64_t first_frame,
                      int frames, int h, int w)
{
    int64_t pairs = out->dim[1];
    RopeTable a = { out->data, first_frame, h, w, pairs, pairs * 2 / 6 };

    cv_cpu_run(cv_cpu(b), (int64_t)frames * h, 1, rope_table_job, &a);
    return 0;
}
