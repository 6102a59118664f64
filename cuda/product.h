/*
 * Matrix products of cuBLASLt, and the scratch around them.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#ifndef CV_CUDA_PRODUCT_H
#define CV_CUDA_PRODUCT_H

#include <cublasLt.h>

#include "cuda.h"

/* Bytes of sums between a product and what finishes it, the first half of the
 * scratch: they stay in the L2 cache. The other half is for weights made from
 * fp8, or for a second step. */
#define CV_CUDA_SUMS (CV_CUDA_SCRATCH / 2)

/* d[n, o] = epilogue(factor * x[n, i] weight[o, i]^T + c + bias); plain: the
 * weight is [i, o], and not transposed. In fp8 (E4M3), the product is also
 * scaled by x_scale[n] and weight_scale[o], float32, and the bias is bf16. */
typedef struct CvProduct {
    int64_t n, o, i;
    int64_t step;        /* elements from row to row of c and d */
    int plain;
    float factor;
    CvType in, out;
    cublasLtEpilogue_t epilogue;
    const void *x, *weight, *c, *bias; /* c, bias: or NULL */
    const void *x_scale, *weight_scale;
    void *d;
} CvProduct;

/* linear.c. ENOSYS, not logged: the library has no kernel for it. */
int cv_cuda_multiply(CvCuda *cuda, const CvProduct *p);

/* linear.c. Rows of pieces of one size, in whole tiles, so that two plans serve
 * them all and the last one is not much smaller. At most `most` of n. */
int64_t cv_cuda_piece_rows(int64_t n, int64_t most);

/* linear.c. Has it one? */
int cv_cuda_can_multiply(CvCuda *cuda, const CvProduct *p);

/* linear_fp8.c. Linear with x in fp8. */
int cv_cuda_linear_fp8(CvCuda *cuda, const CvLinear *a);

#endif /* CV_CUDA_PRODUCT_H */
