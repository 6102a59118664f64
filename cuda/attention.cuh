/*
 * What the attention kernels share: their argument and the lanes' places.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#ifndef CV_CUDA_ATTENTION_CUH
#define CV_CUDA_ATTENTION_CUH

#include <math.h>
#include <string.h>

#include "launch.cuh"
#include "ptx.cuh"

/* CvAttention (ops.h) as kernels take it. */
typedef struct CvAttend {
    const void *q;     /* [n, heads, d] */
    const void *k, *v; /* [m, heads, d] */
    void *out;         /* [n, heads, d]; with out_scale in e4m3 */
    const float *bias; /* [heads, n, m] or NULL */
    int n, m;
    int heads, d;
    float scale;
    float last;        /* ln(last_repeats) */
    float *out_scale;  /* [n] or NULL */
    const float *largest; /* then: what no |v| is above */
} CvAttend;

/* Any d, any alignment, float32 or bf16 as the backend computes; sums in
 * float32 without tensor cores. attention_float.cu */
int cv_cuda_attention_float(CvCuda *cuda, const CvAttend *a);

/* bf16, d = 384, no bias, scale > 0, 16-byte aligned. attention_wide.cu */
int cv_cuda_attention_wide(CvCuda *cuda, const CvAttend *a);
size_t cv_cuda_attention_wide_bytes(void); /* shared memory that it needs */

/* bf16, d = 128, no bias, scale > 0, 16-byte aligned, cuda->hopper.
 * attention_hopper.cu */
int cv_cuda_attention_hopper(CvCuda *cuda, const CvAttend *a);

/* In 8 bits: besides that, last = 0. ring: all heads' keys and values in 8 bits,
 * or NULL: as `a` says. attention8_plan.cu */
int cv_cuda_attention8(CvCuda *cuda, const CvAttend *a,
                       const struct Cv8 *ring);

/* The same over a ring. attention8_ring.cu */
int cv_cuda_attention_ring(CvCuda *cuda, const CvAttention *a);

/* Tiles lie in shared memory as rows of `kDim` bf16, whose 16-byte chunks are
 * permuted within each group of 8 by the row, so that the 8 rows of a matrix
 * that ldmatrix reads lie in 8 different groups of banks. */
template <int kDim>
static __device__ __forceinline__ int cv_tile_at(int row, int chunk)
{
    static_assert(kDim % 64 == 0, "whole groups of chunks");
    return row * kDim + ((chunk ^ (row & 7)) << 3);
}

/* The place 2 k chunks on from `at`, a place of chunk 0 or 1 of a row. */
static __device__ __forceinline__ int cv_tile_step(int at, int k)
{
    return (at ^ (k & 3) * 16) + (k >> 2) * 64;
}

/* Start copying a tile of kRows rows, `step` elements apart, from `src` on; the
 * rows from `rows` on are set to 0. */
template <int kDim, int kRows, int kThreads>
static __device__ __forceinline__ void cv_tile_load(cv_bf16 *tile,
                                                    const cv_bf16 *src,
                                                    int step, int rows)
{
    /* A thread copies one column of chunks, from rows of one place in the
     * permutation: so it counts on with one address each. Tiles whose rows are
     * not a power of two go by groups of 8 chunks. */
    constexpr int kGroup = kThreads % (kDim / 8) ? 8 : kDim / 8;
    constexpr int kStride = kThreads / kGroup;
    const int row = (int)(threadIdx.x / kGroup);
    const int chunk = (int)(threadIdx.x % kGroup);

    static_assert(kStride % 8 == 0 && kRows % kStride == 0, "no tail");
    rows -= row;
    /* The compiler must not know that these are the same for every tile: it
     * would keep all rows' addresses in registers that there are not. */
    asm volatile("" : "+r"(step), "+r"(rows));
    tile += cv_tile_at<kDim>(row, chunk);
    src += (int64_t)row * step + chunk * 8;
#pragma unroll
    for (int i = 0; i < kRows / kStride; i++) {
#pragma unroll
        for (int j = 0; j < kDim / 8; j += kGroup)
            cv_cp_async16(tile + i * kStride * kDim + j * 8, src + j * 8,
                          i * kStride < rows);
        src += (int64_t)kStride * step;
    }
}

static __device__ __forceinline__ uint32_t cv_pack_bf16(float x, float y)
{
    __nv_bfloat162 pair = __floats2bfloat162_rn(x, y);
    uint32_t bits;

    memcpy(&bits, &pair, sizeof(bits));
    return bits;
}

/* The largest of the four lanes that share a row of an mma's result. */
static __device__ __forceinline__ float cv_row_max(float x)
{
    x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
    return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}

static __device__ __forceinline__ float cv_row_sum(float x)
{
    x += __shfl_xor_sync(0xffffffffu, x, 1);
    return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

#endif /* CV_CUDA_ATTENTION_CUH */
