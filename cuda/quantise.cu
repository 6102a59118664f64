/*
 * Activations to fp8, a row at a time.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * Where the kernel that makes a row has all of it, it leaves in fp8 (norm.cu),
 * or where its scale is known before (product8.cu; attention_plan.cuh as a
 * trial). Else attention's rows, which are made by heads, come here, as do those
 * of products that product8.cu does not take: a block has a row, in registers
 * between its largest number and its output.
 *
 * All is bound by bytes. Predicted for an H200:
 *   attention's output  32760 x 5120    0.50 GB                 0.13 ms
 *   GELU of products    32760 x 13824   0.91 GB from L2 (linear.c reads pieces
 *                                       of 32 MB), 0.45 GB to memory  0.20 ms
 *   of causal 1.3B, 4680 tokens: 1536, 22 MB, and 8960, 126 MB: 6 and 25 us
 */
#include "fp8.cuh"
#include "rows.cuh"

template <int parts>
__global__ void __launch_bounds__(kCvMaxThreads, 2)
narrow_kernel(uint8_t *__restrict__ out, float *__restrict__ scale,
              const cv_bf16 *__restrict__ x, int vectors)
{
    cv_begin();
    const int n = CvVector<cv_bf16>::kElements;
    int64_t start = (int64_t)blockIdx.x * vectors * n;
    __shared__ uint32_t maxima[CV_WARP];
    uint32_t largest = 0;
    uint4 raw[parts];
    float v[parts][n], factor, inverse;

    cv_load_row<parts>(raw, x + start, vectors); /* zeros behind its end */
#pragma unroll
    for (int p = 0; p < parts; p++) {
        cv_unpack<cv_bf16>(v[p], raw[p]);
#pragma unroll
        for (int i = 0; i < n; i++) {
            largest = max(largest, cv_size_bits(v[p][i]));
        }
    }
    factor = cv_row_scale(cv_block_largest(largest, maxima), &inverse);
    if (threadIdx.x == 0)
        scale[blockIdx.x] = factor;
#pragma unroll
    for (int p = 0; p < parts; p++) {
        int i = p * (int)blockDim.x + (int)threadIdx.x;

#pragma unroll
        for (int j = 0; j < n; j++)
            v[p][j] *= inverse;
        if (i < vectors)
            *(uint2 *)(out + start + i * n) =
                make_uint2(cv_pack_fp8(v[p]), cv_pack_fp8(v[p] + 4));
    }
}

/* Reads the row a second time. */
__global__ void __launch_bounds__(kCvAnyThreads)
narrow_any_kernel(uint8_t *__restrict__ out, float *__restrict__ scale,
                  const cv_bf16 *__restrict__ x, int64_t d)
{
    cv_begin();
    __shared__ uint32_t maxima[CV_WARP];
    float factor, inverse;
    uint32_t largest = 0;

    out += blockIdx.x * d;
    x += blockIdx.x * d;
    for (int64_t i = threadIdx.x; i < d; i += blockDim.x)
        largest = max(largest, cv_size_bits(cv_load(x + i)));
    factor = cv_row_scale(cv_block_largest(largest, maxima), &inverse);
    for (int64_t i = threadIdx.x; i < d; i += blockDim.x)
        out[i] = (uint8_t)cv_to_fp8<CV_F8_E4M3>(cv_load(x + i) * inverse);
    if (threadIdx.x == 0)
        scale[blockIdx.x] = factor;
}

int cv_cuda_narrow(CvCuda *cuda, void *out, void *scale, const void *x,
                   int64_t rows, int64_t columns)
{
    CvRowShape s = cv_row_shape(columns, CvVector<cv_bf16>::kElements);
    const cv_bf16 *src = (const cv_bf16 *)x;
    uint8_t *dst = (uint8_t *)out;
    float *to = (float *)scale;

    if (!rows || !columns)
        return 0;
    if (!s.parts || !cv_aligned16(src) || (uintptr_t)dst % 8)
        return CV_LAUNCH(cuda, cuda->stream, narrow_any_kernel, (unsigned)rows,
                         cv_any_threads(columns), 0, dst, to, src, columns);
    auto kernel = s.parts == 5 ? narrow_kernel<5> : narrow_kernel<3>;
    return CV_LAUNCH(cuda, cuda->stream, kernel, (unsigned)rows, s.threads, 0,
                     dst, to, src, s.vectors);
}

/* ---- a gate in the scales of weights ---- */

enum { kThreads = 256 };

template <typename B>
__global__ void __launch_bounds__(kThreads)
gate_scales_kernel(float *__restrict__ out_scale,
                   cv_bf16 *__restrict__ out_bias,
                   const float *__restrict__ scale,
                   const B *__restrict__ bias, const float *__restrict__ gate,
                   int64_t n)
{
    cv_begin();
    int64_t i = (int64_t)blockIdx.x * kThreads + threadIdx.x;
    float g;

    if (i >= n)
        return;
    g = gate ? gate[i] : 1.0f;
    out_scale[i] = scale[i] * g;
    if (bias)
        cv_store(out_bias + i, cv_load(bias + i) * g);
}

template <typename B>
static int gate_scales(CvCuda *cuda, float *out_scale, void *out_bias,
                       const void *scale, const CvTensor *bias,
                       const float *gate, int64_t n)
{
    auto kernel = gate_scales_kernel<B>;

    return CV_LAUNCH(cuda, cuda->stream, kernel, cv_blocks(n, kThreads),
                     kThreads, 0, out_scale, (cv_bf16 *)out_bias,
                     (const float *)scale,
                     bias ? (const B *)bias->data : (const B *)NULL, gate, n);
}

int cv_cuda_gate_scales(CvCuda *cuda, float *out_scale, void *out_bias,
                        const void *scale, const CvTensor *bias,
                        const float *gate, int64_t n)
{
    return bias && bias->type == CV_BF16
               ? gate_scales<cv_bf16>(cuda, out_scale, out_bias, scale, bias,
                                      gate, n)
               : gate_scales<float>(cuda, out_scale, out_bias, scale, bias,
                                    gate, n);
}

/* ---- products of sizes that the library does not take ---- */

enum { kTile = 16, kDepth = 64 };

/* A block has a tile of y, a thread one number of it. */
__global__ void __launch_bounds__(kTile * kTile)
plain_product_kernel(float *__restrict__ y, const uint8_t *__restrict__ x,
                     const float *__restrict__ x_scale,
                     const uint8_t *__restrict__ w,
                     const float *__restrict__ w_scale, int64_t n, int64_t o,
                     int64_t depth)
{
    cv_begin();
    __shared__ float left[kTile][kDepth + 1], right[kTile][kDepth + 1];
    int row = (int)threadIdx.x / kTile, column = (int)threadIdx.x % kTile;
    uint32_t across = (uint32_t)((o + kTile - 1) / kTile);
    int64_t first_row = (int64_t)(blockIdx.x / across) * kTile;
    int64_t first_column = (int64_t)(blockIdx.x % across) * kTile;
    float sum = 0;

    for (int64_t k = 0; k < depth; k += kDepth) {
        for (int i = (int)threadIdx.x; i < kTile * kDepth; i += kTile * kTile) {
            int64_t a = first_row + i / kDepth, b = first_column + i / kDepth;
            int64_t at = k + i % kDepth;

            left[i / kDepth][i % kDepth] = a < n && at < depth
                ? cv_from_fp8<CV_F8_E4M3>(x[a * depth + at]) : 0.0f;
            right[i / kDepth][i % kDepth] = b < o && at < depth
                ? cv_from_fp8<CV_F8_E4M3>(w[b * depth + at]) : 0.0f;
        }
        __syncthreads();
        for (int i = 0; i < kDepth; i++)
            sum += left[row][i] * right[column][i];
        __syncthreads();
    }
    first_row += row;
    first_column += column;
    if (first_row < n && first_column < o)
        y[first_row * o + first_column] = sum * x_scale[first_row] *
                                          w_scale[first_column];
}

int cv_cuda_plain_product(CvCuda *cuda, void *y, const void *x,
                          const void *x_scale, const void *w,
                          const void *w_scale, int64_t n, int64_t o, int64_t i)
{
    if (!n || !o)
        return 0;
    return CV_LAUNCH(cuda, cuda->stream, plain_product_kernel,
                     cv_blocks(n, kTile) * cv_blocks(o, kTile),
                     kTile * kTile, 0, (float *)y, (const uint8_t *)x,
                     (const float *)x_scale, (const uint8_t *)w,
                     (const float *)w_scale, n, o, i);
}
