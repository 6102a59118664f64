/*
 * Weights in fp8: into device memory, and from there to bf16.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * A thread has 16 elements where rows and addresses allow: one load, and two
 * stores of bf16. Bound by bytes: a piece of 14B's weights, 3072 x 5120, reads
 * 16 MB and writes 31 MB, which stay in L2 for the product that follows;
 * predicted 10 us on an H200, of which there are some 22 a layer (linear.c).
 * Copying is hidden behind PCIe. To fp8 go weights that a LoRA changed, 5 bytes
 * each while they are loaded: 14B in 17 ms (predicted); to multiply them by
 * their factors before, 8 bytes each, 27 ms (predicted).
 */
#include "fp8.cuh"
#include "vector.cuh"

enum { kThreads = 256, kEach = 16 };

/* ---- to bf16 ---- */

/* A row is whole runs of n elements. */
template <CvType type, int n>
__global__ void __launch_bounds__(kThreads)
from_fp8_kernel(cv_bf16 *__restrict__ out, const uint8_t *__restrict__ src,
                const float *__restrict__ scale, uint32_t columns,
                uint32_t count)
{
    cv_begin();
    uint32_t first = (blockIdx.x * kThreads + threadIdx.x) * n;
    float factor;

    if (first >= count)
        return;
    factor = scale[first / columns];
    if constexpr (n == kEach) {
        const uint4 raw = *(const uint4 *)(src + first);
        const uint32_t words[4] = { raw.x, raw.y, raw.z, raw.w };
        float v[kEach];

#pragma unroll
        for (int i = 0; i < kEach; i++)
            v[i] = factor * cv_from_fp8<type>(words[i / 4] >> i % 4 * 8 &
                                              0xff);
        cv_store_n<kEach>(out + first, v);
    } else {
        cv_store(out + first, factor * cv_from_fp8<type>(src[first]));
    }
}

template <CvType type>
static int from_fp8(CvCuda *cuda, void *out, const void *src,
                    const float *scale, int64_t rows, int64_t columns)
{
    const int n = columns % kEach == 0 && cv_aligned16(out) &&
                  cv_aligned16(src) ? kEach : 1;
    auto kernel = n == kEach ? from_fp8_kernel<type, kEach>
                             : from_fp8_kernel<type, 1>;

    return CV_LAUNCH(cuda, cuda->stream, kernel,
                     cv_blocks(rows * columns, n * kThreads), kThreads, 0,
                     (cv_bf16 *)out, (const uint8_t *)src, scale,
                     (uint32_t)columns, (uint32_t)(rows * columns));
}

int cv_cuda_from_fp8(CvCuda *cuda, void *out, const void *src, CvType type,
                     const float *scale, int64_t rows, int64_t columns)
{
    if (!rows || !columns)
        return 0;
    return type == CV_F8_E4M3
               ? from_fp8<CV_F8_E4M3>(cuda, out, src, scale, rows, columns)
               : from_fp8<CV_F8_E5M2>(cuda, out, src, scale, rows, columns);
}

/* ---- as it is ---- */

/* bad: all bits of the mask set in a byte. */
template <int n>
__global__ void __launch_bounds__(kThreads)
copy_fp8_kernel(uint8_t *__restrict__ dst, const uint8_t *__restrict__ src,
                int64_t count, uint32_t mask, int *bad)
{
    cv_begin();
    int64_t first = ((int64_t)blockIdx.x * kThreads + threadIdx.x) * n;
    int64_t last = first + n < count ? first + n : count;
    bool found = false;

    if (n == kEach && first + n <= count) {
        const uint4 raw = *(const uint4 *)(src + first);
        const uint32_t words[4] = { raw.x, raw.y, raw.z, raw.w };

#pragma unroll
        for (int i = 0; i < kEach; i++)
            found |= (words[i / 4] >> i % 4 * 8 & mask) == mask;
        *(uint4 *)(dst + first) = raw;
    } else {
        for (int64_t i = first; i < last; i++) {
            found |= (src[i] & mask) == mask;
            dst[i] = src[i];
        }
    }
    if (found)
        atomicExch(bad, 1);
}

int cv_cuda_copy_fp8(CvCuda *cuda, void *dst, const void *src, CvType type,
                     int64_t n, int *bad)
{
    const uint32_t mask = type == CV_F8_E4M3 ? 0x7f : 0x7c;
    const int each = cv_aligned16(dst) && cv_aligned16(src) ? kEach : 1;
    auto kernel = each == kEach ? copy_fp8_kernel<kEach> : copy_fp8_kernel<1>;

    if (n <= 0)
        return 0;
    return CV_LAUNCH(cuda, cuda->stream, kernel, cv_blocks(n, each * kThreads),
                     kThreads, 0, (uint8_t *)dst, (const uint8_t *)src, n,
                     mask, bad);
}

/* ---- float32 ---- */

/* n elements of a row for a thread. */
template <int n>
__global__ void __launch_bounds__(kThreads)
scale_rows_kernel(float *__restrict__ x, const float *__restrict__ scale,
                  int64_t columns, int64_t count)
{
    cv_begin();
    int64_t first = ((int64_t)blockIdx.x * kThreads + threadIdx.x) * n;
    float factor;

    if (first >= count)
        return;
    factor = scale[first / columns];
    if constexpr (n == 4) {
        float4 v = *(const float4 *)(x + first);

        v.x *= factor;
        v.y *= factor;
        v.z *= factor;
        v.w *= factor;
        *(float4 *)(x + first) = v;
    } else {
        x[first] *= factor;
    }
}

int cv_cuda_scale_rows(CvBackend *b, const CvTensor *x, const CvTensor *scale)
{
    const int64_t columns = x->dim[1], count = cv_elements(x);
    const int n = columns % 4 == 0 && cv_aligned16(x->data) ? 4 : 1;
    auto kernel = n == 4 ? scale_rows_kernel<4> : scale_rows_kernel<1>;

    if (!count)
        return 0;
    return CV_LAUNCH(cv_cuda(b), cv_cuda(b)->stream, kernel,
                     cv_blocks(count, n * kThreads), kThreads, 0,
                     (float *)x->data, (const float *)scale->data, columns,
                     count);
}

/* ---- from float32 ---- */

static __device__ __forceinline__ float warp_max(float x)
{
    for (int i = CV_WARP / 2; i > 0; i /= 2)
        x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, i));
    return x;
}

/* A block has a row, which it reads a second time from L2. */
template <CvType type>
__global__ void __launch_bounds__(kThreads)
quantise_kernel(uint8_t *__restrict__ out, float *__restrict__ scale,
                const float *__restrict__ x, int64_t columns)
{
    cv_begin();
    __shared__ float parts[kThreads / CV_WARP];
    int lane = (int)threadIdx.x % CV_WARP;
    float largest = 0, factor;

    out += blockIdx.x * columns;
    x += blockIdx.x * columns;
    for (int64_t i = threadIdx.x; i < columns; i += kThreads)
        largest = fmaxf(largest, fabsf(x[i]));
    largest = warp_max(largest);
    if (lane == 0)
        parts[threadIdx.x / CV_WARP] = largest;
    __syncthreads();
    largest = warp_max(lane < kThreads / CV_WARP ? parts[lane] : 0.0f);
    factor = largest / cv_largest_fp8<type>();
    if (!(factor > 0.0f))
        factor = 1.0f;
    for (int64_t i = threadIdx.x; i < columns; i += kThreads)
        out[i] = (uint8_t)cv_to_fp8<type>(x[i] / factor);
    if (threadIdx.x == 0)
        scale[blockIdx.x] = factor;
}

template <CvType type>
static int quantise(CvCuda *cuda, const CvTensor *out, const CvTensor *scale,
                    const CvTensor *x)
{
    auto kernel = quantise_kernel<type>;

    return CV_LAUNCH(cuda, cuda->stream, kernel, (unsigned)x->dim[0], kThreads,
                     0, (uint8_t *)out->data, (float *)scale->data,
                     (const float *)x->data, x->dim[1]);
}

int cv_cuda_quantise(CvBackend *b, const CvTensor *out, const CvTensor *scale,
                     const CvTensor *x)
{
    if (!x->dim[0])
        return 0;
    if (x->type == CV_BF16)
        return cv_cuda_narrow(cv_cuda(b), out->data, scale->data, x->data,
                              x->dim[0], x->dim[1]);
    return out->type == CV_F8_E4M3
               ? quantise<CV_F8_E4M3>(cv_cuda(b), out, scale, x)
               : quantise<CV_F8_E5M2>(cv_cuda(b), out, scale, x);
}
