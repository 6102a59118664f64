/*
 * Numbers of 8 bits.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * Bits are shifted into the place of float32's fields; a product with a power
 * of two makes up for the difference of the biases, exactly, subnormal numbers
 * included. The hardware has conversions of its own from sm_89 on: kernels that
 * are bound by bytes need none; cv_pack_fp8(), for activations, uses them.
 */
#ifndef CV_CUDA_FP8_CUH
#define CV_CUDA_FP8_CUH

#include "launch.cuh"

static __device__ __forceinline__ float cv_from_half(uint32_t v)
{
    float f = __uint_as_float((v & 0x7fff) << 13) * 0x1p112f;

    return v & 0x8000 ? -f : f;
}

/* Infinities and NaNs of half, whose exponent would be one of float32's
 * finite numbers, become NaN. */
static __device__ __forceinline__ float cv_checked_half(uint32_t v)
{
    return (v & 0x7c00) == 0x7c00 ? __uint_as_float(0x7fc00000u)
                                  : cv_from_half(v);
}

/* What is no number becomes NaN. v: one byte. */
template <CvType type>
static __device__ __forceinline__ float cv_from_fp8(uint32_t v)
{
    float f;

    static_assert(type == CV_F8_E4M3 || type == CV_F8_E5M2, "fp8");
    if constexpr (type == CV_F8_E5M2) /* the upper byte of a half */
        return cv_checked_half(v << 8);
    f = __uint_as_float((v & 0x7f) << 20) * 0x1p120f;
    if ((v & 0x7f) == 0x7f)
        f = __uint_as_float(0x7fc00000u);
    return v & 0x80 ? -f : f;
}

/* The largest number. */
template <CvType type>
static __device__ __forceinline__ float cv_largest_fp8()
{
    return type == CV_F8_E4M3 ? 448.0f : 57344.0f;
}

/* The nearest, of two equally near the even one; at most the largest. x:
 * finite. */
template <CvType type>
static __device__ __forceinline__ uint32_t cv_to_fp8(float x)
{
    constexpr int shift = type == CV_F8_E4M3 ? 20 : 21;
    constexpr uint32_t largest = type == CV_F8_E4M3 ? 0x7e : 0x7b;
    uint32_t bits = __float_as_uint(fabsf(x) * (type == CV_F8_E4M3
                                                    ? 0x1p-120f : 0x1p-112f));

    bits = (bits + (1u << (shift - 1)) - 1 + (bits >> shift & 1)) >> shift;
    return (bits < largest ? bits : largest) | __float_as_uint(x) >> 31 << 7;
}

/* ---- rows of activations ---- */

/* Four numbers of E4M3, the first in the lowest byte; as cv_to_fp8(). */
static __device__ __forceinline__ uint32_t cv_pack_fp8(const float *v)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
    uint16_t low, high;

    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;"
        : "=h"(low) : "f"(v[1]), "f"(v[0]));
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;"
        : "=h"(high) : "f"(v[3]), "f"(v[2]));
    return (uint32_t)low | (uint32_t)high << 16;
#else
    return cv_to_fp8<CV_F8_E4M3>(v[0]) | cv_to_fp8<CV_F8_E4M3>(v[1]) << 8 |
           cv_to_fp8<CV_F8_E4M3>(v[2]) << 16 |
           cv_to_fp8<CV_F8_E4M3>(v[3]) << 24;
#endif
}

/* |x| as bits, which as integers are in its order: above those of infinity is
 * what is no number, so that the largest of a row shows it. */
static __device__ __forceinline__ uint32_t cv_size_bits(float x)
{
    return __float_as_uint(x) & 0x7fffffffu;
}

/* The largest of a block of whole warps, in every thread. parts: CV_WARP words
 * of shared memory, used by this alone. */
static __device__ __forceinline__ uint32_t cv_block_largest(uint32_t x,
                                                            uint32_t *parts)
{
    int warps = (int)blockDim.x / CV_WARP, lane = (int)threadIdx.x % CV_WARP;

    for (int i = CV_WARP / 2; i > 0; i /= 2)
        x = max(x, __shfl_xor_sync(0xffffffffu, x, i));
    if (warps == 1)
        return x;
    if (lane == 0)
        parts[threadIdx.x / CV_WARP] = x;
    __syncthreads();
    x = lane < warps ? parts[lane] : 0;
    for (int i = CV_WARP / 2; i > 0; i /= 2)
        x = max(x, __shfl_xor_sync(0xffffffffu, x, i));
    return x;
}

/* A row's scale, of the bits of its largest number, and what it is multiplied
 * with. Rows below 2^-100, whose inverse has no number, count as zeros. */
static __device__ __forceinline__ float cv_row_scale(uint32_t bits,
                                                     float *inverse)
{
    float largest = __uint_as_float(bits);

    if (largest < 0x1p-100f) {
        *inverse = 0.0f;
        return 1.0f;
    }
    *inverse = 448.0f / largest;
    return largest / 448.0f;
}

#endif /* CV_CUDA_FP8_CUH */
