/*
 * Normalisations, and what is fused with them.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#include <math.h>

#include "cpu/cpu.h"

typedef struct Norm {
    int64_t d;               /* length of a row */
    const float *x;
    float *out;
    const float *weight, *bias; /* NULL where there is none */
    const float *scale, *shift; /* rows of the first group */
    int64_t group_rows;      /* rows of a group */
    int64_t group_step;      /* floats from one group's rows to the next's */
    float eps;
    int silu;
} Norm;

static void run(CvBackend *b, const CvTensor *x, CvJob job, Norm *n)
{
    int64_t rows = cv_elements(x) / cv_max(n->d, 1);

    cv_cpu_run(cv_cpu(b), rows, cv_cpu_grain(n->d), job, n);
}

static double sum_of_squares(const float *x, int64_t n)
{
    double sum = 0;

    for (int64_t i = 0; i < n; i++)
        sum += (double)x[i] * x[i];
    return sum;
}

static void rms_job(void *arg, int64_t first, int64_t last, int worker)
{
    const Norm *n = arg;

    (void)worker;
    for (int64_t row = first; row < last; row++) {
        const float *x = n->x + row * n->d;
        float *out = n->out + row * n->d;
        float r = (float)(1 / sqrt(sum_of_squares(x, n->d) / (double)n->d +
                                   n->eps));

        for (int64_t i = 0; i < n->d; i++)
            out[i] = x[i] * r * n->weight[i];
    }
}

int cv_cpu_rms_norm(CvBackend *b, const CvTensor *out, const CvTensor *x,
                    const CvTensor *weight, float eps)
{
    Norm n = { .d = weight->dim[0], .x = x->data, .out = out->data,
               .weight = weight->data, .eps = eps };

    run(b, x, rms_job, &n);
    return 0;
}

static void layer_norm_job(void *arg, int64_t first, int64_t last, int worker)
{
    const Norm *n = arg;

    (void)worker;
    for (int64_t row = first; row < last; row++) {
        const float *x = n->x + row * n->d;
        float *out = n->out + row * n->d;
        double mean = 0, var = 0;
        float m, r;

        for (int64_t i = 0; i < n->d; i++)
            mean += x[i];
        mean /= (double)n->d;
        for (int64_t i = 0; i < n->d; i++)
            var += (x[i] - mean) * (x[i] - mean);
        m = (float)mean;
        r = (float)(1 / sqrt(var / (double)n->d + n->eps));
        if (n->weight) {
            for (int64_t i = 0; i < n->d; i++)
                out[i] = (x[i] - m) * r * n->weight[i] + n->bias[i];
        } else {
            int64_t g = row / n->group_rows * n->group_step;

            for (int64_t i = 0; i < n->d; i++)
                out[i] = (x[i] - m) * r * (1 + n->scale[g + i]) +
                         n->shift[g + i];
        }
    }
}

int cv_cpu_norm_modulate(CvBackend *b, const CvTensor *out, const CvTensor *x,
                         const CvTensor *mod, int shift_row, int scale_row,
                         float eps)
{
    int64_t d = mod->dim[2], rows = cv_elements(x) / cv_max(d, 1);
    const float *m = mod->data;
    Norm n = { .d = d, .x = x->data, .out = out->data,
               .scale = m + scale_row * d, .shift = m + shift_row * d,
               .group_rows = rows / mod->dim[0],
               .group_step = mod->dim[1] * d, .eps = eps };

    run(b, x, layer_norm_job, &n);
    return 0;
}

int cv_cpu_layer_norm(CvBackend *b, const CvTensor *out, const CvTensor *x,
                      const CvTensor *weight, const CvTensor *bias, float eps)
{
    Norm n = { .d = weight->dim[0], .x = x->data, .out = out->data,
               .weight = weight->data, .bias = bias->data, .eps = eps };

    run(b, x, layer_norm_job, &n);
    return 0;
}

static void norm_silu_job(void *arg, int64_t first, int64_t last, int worker)
{
    const Norm *n = arg;

    (void)worker;
    for (int64_t row = first; row < last; row++) {
        const float *x = n->x + row * n->d;
        float *out = n->out + row * n->d;
        double length = sqrt(sum_of_squares(x, n->d));
        float r = (float)(sqrt((double)n->d) / fmax(length, 1e-12));

        for (int64_t i = 0; i < n->d; i++) {
            float y = x[i] * r * n->weight[i];

            out[i] = n->silu ? y / (1 + expf(-y)) : y;
        }
    }
}

int cv_cpu_norm_silu(CvBackend *b, const CvTensor *out, const CvTensor *x,
                     const CvTensor *gamma, int silu)
{
    Norm n = { .d = gamma->dim[0], .x = x->data, .out = out->data,
               .weight = gamma->data, .silu = silu };

    run(b, x, norm_silu_job, &n);
    return 0;
}

typedef struct QkNormRope {
    int64_t heads, d;
    const float *qkv, *norm_q, *norm_k, *rope;
    float *q, *k, *v;
    float eps;
} QkNormRope;

static void norm_rope_row(const QkNormRope *a, float *out, const float *x,
                          const float *weight, const float *rope)
{
    int64_t width = a->heads * a->d;
    float r = (float)(1 / sqrt(sum_of_squares(x, width) / (double)width +
                               a->eps));

    for (int64_t i = 0; i < width; i += 2) {
        const float *turn = rope + i % a->d;
        float x0 = x[i] * r * weight[i], x1 = x[i + 1] * r * weight[i + 1];

        out[i] = x0 * turn[0] - x1 * turn[1];
        out[i + 1] = x0 * turn[1] + x1 * turn[0];
    }
}

static void qk_norm_rope_job(void *arg, int64_t first, int64_t last,
                             int worker)
{
    const QkNormRope *a = arg;
    int64_t width = a->heads * a->d;

    (void)worker;
    for (int64_t t = first; t < last; t++) {
        const float *row = a->qkv + t * 3 * width;
        const float *rope = a->rope + t * a->d;

        norm_rope_row(a, a->q + t * width, row, a->norm_q, rope);
        norm_rope_row(a, a->k + t * width, row + width, a->norm_k, rope);
        for (int64_t i = 0; i < width; i++)
            a->v[t * width + i] = row[2 * width + i];
    }
}

int cv_cpu_qk_norm_rope(CvBackend *b, const CvQkNormRope *a)
{
    int64_t n = a->out_q->dim[0], heads = a->out_q->dim[1];
    int64_t d = a->out_q->dim[2], start = a->row * heads * d;
    QkNormRope args = {
        .heads = heads, .d = d, .qkv = a->qkv->data,
        .norm_q = a->norm_q->data, .norm_k = a->norm_k->data,
        .rope = a->rope->data, .q = a->out_q->data,
        .k = (float *)a->cache_k->data + start,
        .v = (float *)a->cache_v->data + start, .eps = a->eps,
    };

    cv_cpu_run(cv_cpu(b), n, cv_cpu_grain(3 * heads * d), qk_norm_rope_job,
               &args);
    return 0;
}
