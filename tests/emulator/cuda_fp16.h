/*
 * float16 as CUDA's header of this name has it, as far as it is used.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#ifndef CV_EMULATED_FP16_H
#define CV_EMULATED_FP16_H

#include "emulator.h"

struct __half {
    unsigned short bits;
};

struct alignas(4) __half2 {
    __half x, y;
};

static inline __half __ushort_as_half(unsigned short x)
{
    return __half{ x };
}
static inline unsigned short __half_as_ushort(__half x)
{
    return x.bits;
}

static inline float __half2float(__half x)
{
    int exponent = x.bits >> 10 & 31, mantissa = x.bits & 1023;
    float value = exponent == 31 ? (mantissa ? NAN : INFINITY) :
                  exponent ? ldexpf((float)(mantissa | 1024), exponent - 25)
                           : ldexpf((float)mantissa, -24);

    return x.bits >> 15 ? -value : value;
}

static inline __half __float2half_rn(float x)
{
    unsigned sign = __float_as_uint(x) >> 31 << 15, bits;
    int exponent;

    x = fabsf(x);
    if (x != x)
        return __half{ 0x7fff };
    if (x >= 65520)
        return __half{ (unsigned short)(sign | 0x7c00) };
    frexpf(x, &exponent);
    if (x < 0x1p-14f) /* subnormal: units of 2^-24 */
        bits = (unsigned)nearbyintf(ldexpf(x, 24));
    else /* carries of rounding reach the exponent by themselves */
        bits = (unsigned)nearbyintf(ldexpf(x, 11 - exponent)) - 1024 +
               ((unsigned)(exponent + 14) << 10);
    return __half{ (unsigned short)(sign | bits) };
}
static inline __half __float2half(float x)
{
    return __float2half_rn(x);
}
static inline float2 __half22float2(__half2 v)
{
    return make_float2(__half2float(v.x), __half2float(v.y));
}
static inline __half2 __floats2half2_rn(float x, float y)
{
    return { __float2half_rn(x), __float2half_rn(y) };
}

#endif /* CV_EMULATED_FP16_H */
