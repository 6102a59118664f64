/*
 * Normalisations, and what is fused with them.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#include <string.h>

#include "cpu/cpu.h"

typedef struct Norm {
    const CvKernels *kernels;
    int64_t d;               /* length of a row */
    const float *x;
    float *out;
    const float *weight, *bias; /* one row; bias NULL where there is none */
    const float *scale, *shift; /* rows of the first group */
    int64_t group_rows;      /* rows of a group */
    int64_t group_step;      /* floats from one group's rows to the next's */
    float eps;
    int silu;
} Norm;

static void run(CvBackend *b, const CvTensor *x, CvJob job, Norm *n)
{
    int64_t rows = n->d ? cv_elements(x) / n->d : 0;

    n->kernels = cv_cpu(b)->kernels;
    cv_cpu_run(cv_cpu(b), rows, cv_cpu_grain(n->d), job, n);
}

static void rms_job(void *arg, int64_t first, int64_t last, int worker)
{
    const Norm *n = arg;

    (void)worker;
    n->kernels->rms_norm(n->out + first * n->d, n->x + first * n->d,
                         n->weight, last - first, n->d, n->eps);
}

int cv_cpu_rms_norm(CvBackend *b, const CvTensor *out, const CvTensor *x,
                    const CvTensor *weight, float eps)
{
    Norm n = { .d = weight->dim[0], .x = x->data, .out = out->data,
               .weight = weight->data, .eps = eps };

    run(b, x, rms_job, &n);
    return 0;
}

static void modulate_job(void *arg, int64_t first, int64_t last, int worker)
{
    const Norm *n = arg;

    (void)worker;
    for (int64_t row = first; row < last; row++) {
        int64_t group = row / n->group_rows * n->group_step;

        n->kernels->layer_norm(n->out + row * n->d, n->x + row * n->d,
                               n->scale + group, 1, n->shift + group, n->d,
                               n->eps);
    }
}

int cv_cpu_norm_modulate(CvBackend *b, const CvTensor *out,
                         const CvTensor *out_scale, const CvTensor *x,
                         const CvTensor *mod, int shift_row, int scale_row,
                         float eps)
{
    int64_t d = mod->dim[2];
    const float *m = mod->data;
    Norm n = { .d = d, .x = x->data, .out = out->data,
               .scale = m + scale_row * d, .shift = m + shift_row * d,
               .group_rows = x->dim[0] / mod->dim[0],
               .group_step = mod->dim[1] * d, .eps = eps };

    (void)out_scale; /* no fp8 here */
    run(b, x, modulate_job, &n);
    return 0;
}

static void layer_norm_job(void *arg, int64_t first, int64_t last, int worker)
{
    const Norm *n = arg;

    (void)worker;
    for (int64_t row = first; row < last; row++)
        n->kernels->layer_norm(n->out + row * n->d, n->x + row * n->d,
                               n->weight, 0, n->bias, n->d, n->eps);
}

int cv_cpu_layer_norm(CvBackend *b, const CvTensor *out,
                      const CvTensor *out_scale, const CvTensor *x,
                      const CvTensor *weight, const CvTensor *bias, float eps)
{
    Norm n = { .d = weight->dim[0], .x = x->data, .out = out->data,
               .weight = weight->data, .bias = bias->data, .eps = eps };

    (void)out_scale;
    run(b, x, layer_norm_job, &n);
    return 0;
}

static void norm_silu_job(void *arg, int64_t first, int64_t last, int worker)
{
    const Norm *n = arg;

    (void)worker;
    n->kernels->norm_silu(n->out + first * n->d, n->x + first * n->d,
                          n->weight, last - first, n->d, n->silu);
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
    const CvKernels *kernels;
    int64_t heads, d;
    const float *qkv, *norm_q, *norm_k, *rope;
    float *q, *k, *v;
    float eps;
} QkNormRope;

static void qk_norm_rope_job(void *arg, int64_t first, int64_t last,
                             int worker)
{
    const QkNormRope *a = arg;
    int64_t width = a->heads * a->d;

    (void)worker;
    for (int64_t t = first; t < last; t++) {
        const float *row = a->qkv + t * 3 * width;
        const float *rope = a->rope + t * a->d;

        a->kernels->norm_rope(a->q + t * width, row, a->norm_q, rope,
                              a->heads, a->d, a->eps);
        a->kernels->norm_rope(a->k + t * width, row + width, a->norm_k, rope,
                              a->heads, a->d, a->eps);
        memcpy(a->v + t * width, row + 2 * width,
               (size_t)width * sizeof(*row));
    }
}

int cv_cpu_qk_norm_rope(CvBackend *b, const CvQkNormRope *a)
{
    int64_t n = a->out_q->dim[0], heads = a->out_q->dim[1];
    int64_t d = a->out_q->dim[2], start = a->row * heads * d;
    QkNormRope args = {
        .kernels = cv_cpu(b)->kernels,
        .heads = heads, .d = d, .qkv = a->qkv->data,
        .norm_q = a->norm_q->data, .norm_k = a->norm_k->data,
        .rope = a->rope->data, .q = a->out_q->data,
        .k = (float *)a->cache_k->data + start,
        .v = (float *)a->cache_v->data + start, .eps = a->eps,
    };
    const CvTensor v = cv_rows(a->cache_v, a->row, n);

    cv_cpu_run(cv_cpu(b), n, cv_cpu_grain(3 * heads * d), qk_norm_rope_job,
               &args);
    return a->largest ? cv_cpu_largest(b, a->largest, &v) : 0;
}
