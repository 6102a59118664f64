/*
 * The inner loops, compiled for several instruction sets.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * All are functions of one thread on rows of float32 that may begin anywhere.
 * `rows` rows of `d` elements follow each other; y may be x.
 */
#ifndef CV_CPU_KERNELS_H
#define CV_CPU_KERNELS_H

#include "ops.h"

/*
 * c[m, n] = sum over parts p of a_p[m, k] * b_p[k, n], added to c when `add`.
 * Element (i, l) of a_p is a[p][i * a_row + l * a_k]; rows may overlap.
 * b: the parts' k rows one after the other, b_row floats apart; columns from n
 * to the next multiple of `lanes` are read too.
 * n is at most `panel`.
 */
typedef struct CvGemm {
    int64_t m, n, k;
    int n_parts;
    const float *const *a;
    int64_t a_row, a_k;
    const float *b;
    int64_t b_row;
    float *c;
    int64_t c_row;
    int add;
} CvGemm;

/* y = epilogue(x + bias) of `rows` rows of n, as in CvLinear; `other` and y
 * have their rows y_row apart, those of x are x_row apart. bias, other and
 * gate may be NULL where they are not needed. */
typedef struct CvFinish {
    CvEpilogue kind;
    int64_t rows, n;
    float *y;
    const float *other;
    int64_t y_row;
    const float *x;
    int64_t x_row;
    const float *bias, *gate; /* one row, the same for all */
} CvFinish;

#define CV_MAX_PANEL 32

typedef struct CvKernels {
    const char *name;
    int lanes; /* floats of a vector */
    int panel; /* columns that gemm makes at once: 2 * lanes */

    void (*gemm)(const CvGemm *g);

    /* dst[k, w] = src[n, k]^T with columns from n on zero;
     * n <= w, w is lanes or panel. */
    void (*pack)(float *dst, int64_t w, const float *src, int64_t src_row,
                 int64_t n, int64_t k);

    void (*epilogue)(const CvFinish *f);

    /* y = x / (1 + exp(-x)) */
    void (*silu)(float *y, const float *x, int64_t n);

    /* y = x / sqrt(mean(x^2) + eps) * weight */
    void (*rms_norm)(float *y, const float *x, const float *weight,
                     int64_t rows, int64_t d, float eps);

    /* y = ln(x) * (scale + one) + shift, one row */
    void (*layer_norm)(float *y, const float *x, const float *scale, float one,
                       const float *shift, int64_t d, float eps);

    /* y = act(x / max(|x|, 1e-12) * sqrt(d) * gamma) */
    void (*norm_silu)(float *y, const float *x, const float *gamma,
                      int64_t rows, int64_t d, int silu);

    /* One row of heads * d: y = rope(x / sqrt(mean(x^2) + eps) * weight) */
    void (*norm_rope)(float *y, const float *x, const float *weight,
                      const float *rope, int64_t heads, int64_t d, float eps);

    /*
     * Scores [keys, w] of w queries (a multiple of lanes) become weights
     * exp(score - top): top[w] grows to the largest score so far, sum[w]
     * gathers the weights, both scaled by the shrink[w] that is returned.
     */
    void (*softmax)(float *scores, int64_t keys, int64_t w, float *top,
                    float *sum, float *shrink);
} CvKernels;

extern const CvKernels cv_kernels_generic;
extern const CvKernels cv_kernels_avx2;
extern const CvKernels cv_kernels_avx512;

/* The kernels of that name if this machine runs them ("generic", "avx2",
 * "avx512"), the best for NULL; NULL when there are none. */
const CvKernels *cv_kernels_find(const char *name);

#endif /* CV_CPU_KERNELS_H */
