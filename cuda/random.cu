/*
 * Random numbers for weights, the same on every backend.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * A thread makes eight elements and writes them at once where the address
 * allows. Each takes three products of 64 bits, some 25 instructions of 32.
 * Of the 20.1e9 elements of a 14B model with its text encoder that is 5e11
 * instructions, at 2.5e13 a second 20 ms on an H200, more than the 40 GB that
 * are written take (10 ms): bound by instructions (predicted).
 */
#include "fp8.cuh"
#include "vector.cuh"

enum { kThreads = 256, kEach = 8 };

/* SplitMix64's output function. */
static __device__ __forceinline__ uint64_t mix(uint64_t z)
{
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

/* Rounded to bf16 whatever the output's type is. */
static __device__ __forceinline__ float element(uint64_t seed, int64_t i,
                                                float step)
{
    uint64_t z = mix(seed + ((uint64_t)i + 1) * 0x9e3779b97f4a7c15u);
    float x = (float)((int)(z >> 40) - (1 << 23)) * step;

    return __bfloat162float(__float2bfloat16_rn(x));
}

/* Of fp8: a byte is E4M3. */
static __device__ __forceinline__ void store_each(uint8_t *p, const float *v)
{
    uint32_t words[kEach / 4] = { 0 };

#pragma unroll
    for (int i = 0; i < kEach; i++)
        words[i / 4] |= cv_to_fp8<CV_F8_E4M3>(v[i]) << i % 4 * 8;
    *(uint2 *)p = make_uint2(words[0], words[1]);
}

template <typename Y>
static __device__ __forceinline__ void store_each(Y *p, const float *v)
{
    cv_store_n<kEach>(p, v);
}

static __device__ __forceinline__ void store(uint8_t *p, float x)
{
    *p = (uint8_t)cv_to_fp8<CV_F8_E4M3>(x);
}

template <typename Y>
static __device__ __forceinline__ void store(Y *p, float x)
{
    cv_store(p, x);
}

template <typename Y>
__global__ void __launch_bounds__(kThreads)
random_kernel(Y *__restrict__ out, int64_t count, int vectors, uint64_t seed,
              float step)
{
    cv_begin();
    int64_t first = ((int64_t)blockIdx.x * kThreads + threadIdx.x) * kEach;
    int64_t last = first + kEach < count ? first + kEach : count;

    if (vectors && first + kEach <= count) {
        float v[kEach];

#pragma unroll
        for (int i = 0; i < kEach; i++)
            v[i] = element(seed, first + i, step);
        store_each(out + first, v);
    } else {
        for (int64_t i = first; i < last; i++)
            store(out + i, element(seed, i, step));
    }
}

template <typename Y>
static int fill(CvCuda *cuda, const CvTensor *dst, uint64_t seed, float scale)
{
    const int64_t n = cv_elements(dst);
    auto kernel = random_kernel<Y>;

    return CV_LAUNCH(cuda, cuda->stream, kernel,
                     cv_blocks(n, kThreads * kEach), kThreads, 0,
                     (Y *)dst->data, n, cv_aligned16(dst->data), seed,
                     scale * 0x1p-23f);
}

int cv_cuda_random(CvBackend *b, const CvTensor *dst, uint64_t seed,
                   float scale)
{
    CvCuda *cuda = cv_cuda(b);

    if (!cv_elements(dst))
        return 0;
    if (dst->type == CV_F8_E4M3)
        return fill<uint8_t>(cuda, dst, seed, scale);
    return dst->type == CV_F32 ? fill<float>(cuda, dst, seed, scale)
                               : fill<cv_bf16>(cuda, dst, seed, scale);
}
