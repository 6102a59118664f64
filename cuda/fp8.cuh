/*
 * Numbers of 8 bits.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * Bits are shifted into the place of float32's fields; a product with a power
 * of two makes up for the difference of the biases, exactly, subnormal numbers
 * included. The hardware has conversions of its own from sm_89 on, which would
 * hide nothing here: all that uses these is bound by bytes.
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

#endif /* CV_CUDA_FP8_CUH */
