/*
 * 16-byte accesses to A and float32, sums over blocks, activations.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#ifndef CV_CUDA_VECTOR_CUH
#define CV_CUDA_VECTOR_CUH

#include <string.h>

#include "launch.cuh"
#include "ptx.cuh"

/* Elements of T in 16 bytes. */
template <typename T> struct CvVector {
    enum { kElements = 16 / sizeof(T) };
};

/* Whether 16-byte accesses may begin at p. */
static inline int cv_aligned16(const void *p)
{
    return (uintptr_t)p % 16 == 0;
}

/* ---- registers ---- */

template <typename T>
static __device__ __forceinline__ void cv_unpack(float *v, uint4 raw);

template <>
__device__ __forceinline__ void cv_unpack<float>(float *v, uint4 raw)
{
    v[0] = __uint_as_float(raw.x);
    v[1] = __uint_as_float(raw.y);
    v[2] = __uint_as_float(raw.z);
    v[3] = __uint_as_float(raw.w);
}

/* bf16 is the upper half of float32. */
static __device__ __forceinline__ void cv_unpack_pair(float *v, uint32_t raw)
{
    v[0] = __uint_as_float(raw << 16);
    v[1] = __uint_as_float(raw & 0xffff0000u);
}

template <>
__device__ __forceinline__ void cv_unpack<cv_bf16>(float *v, uint4 raw)
{
    cv_unpack_pair(v, raw.x);
    cv_unpack_pair(v + 2, raw.y);
    cv_unpack_pair(v + 4, raw.z);
    cv_unpack_pair(v + 6, raw.w);
}

static __device__ __forceinline__ uint32_t cv_pack_pair(float a, float b)
{
    __nv_bfloat162 pair = __floats2bfloat162_rn(a, b);
    uint32_t raw;

    memcpy(&raw, &pair, sizeof(raw));
    return raw;
}

/* ---- n elements at p, 4 or a multiple of 8; p aligned to 16 bytes, or to
 * their size where that is less ---- */

template <int n>
static __device__ __forceinline__ void cv_load_n(float *v, const float *p)
{
#pragma unroll
    for (int i = 0; i < n; i += 4) {
        float4 f = *(const float4 *)(p + i);

        v[i] = f.x;
        v[i + 1] = f.y;
        v[i + 2] = f.z;
        v[i + 3] = f.w;
    }
}

template <int n>
static __device__ __forceinline__ void cv_load_n(float *v, const cv_bf16 *p)
{
    if constexpr (n == 4) {
        uint2 raw = *(const uint2 *)p;

        cv_unpack_pair(v, raw.x);
        cv_unpack_pair(v + 2, raw.y);
    } else {
#pragma unroll
        for (int i = 0; i < n; i += 8)
            cv_unpack<cv_bf16>(v + i, *(const uint4 *)(p + i));
    }
}

template <int n>
static __device__ __forceinline__ void cv_store_n(float *p, const float *v)
{
#pragma unroll
    for (int i = 0; i < n; i += 4)
        *(float4 *)(p + i) = make_float4(v[i], v[i + 1], v[i + 2], v[i + 3]);
}

template <int n>
static __device__ __forceinline__ void cv_store_n(cv_bf16 *p, const float *v)
{
    if constexpr (n == 4) {
        *(uint2 *)p = make_uint2(cv_pack_pair(v[0], v[1]),
                                 cv_pack_pair(v[2], v[3]));
    } else {
#pragma unroll
        for (int i = 0; i < n; i += 8)
            *(uint4 *)(p + i) = make_uint4(
                cv_pack_pair(v[i], v[i + 1]),
                cv_pack_pair(v[i + 2], v[i + 3]),
                cv_pack_pair(v[i + 4], v[i + 5]),
                cv_pack_pair(v[i + 6], v[i + 7]));
    }
}

/* ---- blocks ---- */

/* The sum over a block of whole warps, in every thread; always added in the
 * same order. parts: CV_WARP floats of shared memory, used by one sum only, so
 * that one barrier is enough. */
static __device__ __forceinline__ float cv_block_sum(float x, float *parts)
{
    int warps = (int)blockDim.x / CV_WARP, lane = (int)threadIdx.x % CV_WARP;

    x = cv_warp_sum(x);
    if (warps == 1)
        return x;
    if (lane == 0)
        parts[threadIdx.x / CV_WARP] = x;
    __syncthreads();
    return cv_warp_sum(lane < warps ? parts[lane] : 0.0f);
}

/* ---- activations ---- */

/* x / (1 + exp(-u)); `fast`, within what bf16 shows: two approximations of
 * the special function unit instead of some thirty instructions. */
template <bool fast>
static __device__ __forceinline__ float cv_gated(float x, float u)
{
    return fast ? __fdividef(x, 1.0f + __expf(-u)) : x / (1.0f + expf(-u));
}

template <bool fast> static __device__ __forceinline__ float cv_silu_of(float x)
{
    return cv_gated<fast>(x, x);
}

/* SiLU of two numbers by two exponentials and one reciprocal, of the product of
 * both denominators. Below -40 it is 0 in any case. */
static __device__ __forceinline__ void cv_silu_pair(float *x, float *y)
{
    float u = 1.0f + __expf(fminf(-*x, 40.0f));
    float v = 1.0f + __expf(fminf(-*y, 40.0f));
    float r = __fdividef(1.0f, u * v);

    *x *= v * r;
    *y *= u * r;
}

/* The tanh form: 0.5 (1 + tanh(u / 2)) = 1 / (1 + exp(-u)). */
template <bool fast> static __device__ __forceinline__ float cv_gelu_of(float x)
{
    return cv_gated<fast>(x, x * (1.59576912f + 0.0713548163f * x * x));
}

#endif /* CV_CUDA_VECTOR_CUH */
