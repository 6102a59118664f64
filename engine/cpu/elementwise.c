/*
 * Operations that treat each element alike.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#include <math.h>
#include <stdatomic.h>
#include <string.h>

#include "cpu/cpu.h"

enum { GRAIN = 16384 };

typedef struct Silu {
    const CvKernels *kernels;
    const float *x;
    float *out;
} Silu;

static void silu_job(void *arg, int64_t first, int64_t last, int worker)
{
    const Silu *a = arg;

    (void)worker;
    a->kernels->silu(a->out + first, a->x + first, last - first);
}

int cv_cpu_silu(CvBackend *b, const CvTensor *out, const CvTensor *x)
{
    Silu a = { cv_cpu(b)->kernels, x->data, out->data };

    cv_cpu_run(cv_cpu(b), cv_elements(x), GRAIN, silu_job, &a);
    return 0;
}

typedef struct SoftClamp {
    const float *x;
    float *out, limit;
} SoftClamp;

static void soft_clamp_job(void *arg, int64_t first, int64_t last, int worker)
{
    const SoftClamp *a = arg;

    (void)worker;
    for (int64_t i = first; i < last; i++)
        a->out[i] = a->limit * tanhf(a->x[i] / a->limit);
}

int cv_cpu_soft_clamp(CvBackend *b, const CvTensor *out, const CvTensor *x,
                      float limit)
{
    SoftClamp a = { x->data, out->data, limit };

    cv_cpu_run(cv_cpu(b), cv_elements(x), GRAIN, soft_clamp_job, &a);
    return 0;
}

typedef struct Combine {
    float *out;
    int n_terms;
    const float *term[CV_MAX_TERMS];
    double factor[CV_MAX_TERMS];
} Combine;

static void combine_job(void *arg, int64_t first, int64_t last, int worker)
{
    const Combine *a = arg;

    (void)worker;
    for (int64_t i = first; i < last; i++) {
        double sum = 0;

        for (int t = 0; t < a->n_terms; t++)
            sum += a->factor[t] * a->term[t][i];
        a->out[i] = (float)sum;
    }
}

int cv_cpu_combine(CvBackend *b, const CvTensor *out, const CvTerm *terms,
                   int n_terms)
{
    Combine a = { .out = out->data, .n_terms = n_terms };

    for (int t = 0; t < n_terms; t++) {
        a.term[t] = terms[t].tensor->data;
        a.factor[t] = terms[t].factor;
    }
    cv_cpu_run(cv_cpu(b), cv_elements(out), GRAIN, combine_job, &a);
    return 0;
}

/* Both types are float32 here. */
int cv_cpu_convert(CvBackend *b, const CvTensor *out, const CvTensor *x)
{
    (void)b;
    memmove(out->data, x->data, (size_t)cv_tensor_bytes(x));
    return 0;
}

typedef struct Check {
    const float *x;
    atomic_uint largest; /* bits of a number */
} Check;

/* Without their sign, bits of numbers are ordered as the numbers are, and
 * those of NaN above all others. */
static void check_job(void *arg, int64_t first, int64_t last, int worker)
{
    Check *a = arg;
    uint32_t largest = 0, seen = atomic_load(&a->largest);

    (void)worker;
    for (int64_t i = first; i < last; i++) {
        uint32_t bits;

        memcpy(&bits, &a->x[i], sizeof(bits));
        bits &= 0x7fffffffu;
        largest = bits > largest ? bits : largest;
    }
    while (largest > seen &&
           !atomic_compare_exchange_weak(&a->largest, &seen, largest))
        ;
}

int cv_cpu_largest(CvBackend *b, const CvTensor *largest, const CvTensor *x)
{
    Check a = { .x = x->data };
    uint32_t bits;

    memcpy(&bits, largest->data, sizeof(bits));
    atomic_init(&a.largest, bits);
    cv_cpu_run(cv_cpu(b), cv_elements(x), GRAIN, check_job, &a);
    bits = atomic_load(&a.largest);
    memcpy(largest->data, &bits, sizeof(bits));
    return 0;
}

int cv_cpu_check(CvBackend *b, const CvTensor *t, float *largest)
{
    const CvTensor to = CV_TENSOR(largest, CV_F32, 1);

    *largest = 0;
    return cv_cpu_largest(b, &to, t);
}
