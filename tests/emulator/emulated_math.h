/*
 * Functions of CUDA C++ that plain C++ has not, one line each.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * The approximate ones (__expf and so on) are exact here.
 */
#ifndef CV_EMULATED_MATH_H
#define CV_EMULATED_MATH_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include <type_traits>

/* The larger and the smaller of two numbers, of the type that both convert
 * to, as CUDA's overloads do. */
template <typename T, typename U>
static inline typename std::common_type<T, U>::type max(T a, U b)
{
    typedef typename std::common_type<T, U>::type C;
    return (C)a > (C)b ? (C)a : (C)b;
}

template <typename T, typename U>
static inline typename std::common_type<T, U>::type min(T a, U b)
{
    typedef typename std::common_type<T, U>::type C;
    return (C)b < (C)a ? (C)b : (C)a;
}

static inline float rsqrtf(float x) { return 1 / sqrtf(x); }
static inline double rsqrt(double x) { return 1 / sqrt(x); }
static inline float rcbrtf(float x) { return 1 / cbrtf(x); }
/* Macros, because the C library declares functions of these names. */
#define __expf(x) expf(x)
#define __exp10f(x) powf(10, x)
#define __logf(x) logf(x)
#define __log2f(x) log2f(x)
#define __powf(x, y) powf(x, y)
#define __sinf(x) sinf(x)
#define __cosf(x) cosf(x)
#define __sincosf(x, s, c) sincosf(x, s, c)
#define __tanhf(x) tanhf(x)

static inline float __fdividef(float x, float y) { return x / y; }
static inline float __frcp_rn(float x) { return 1 / x; }
static inline float __frsqrt_rn(float x) { return 1 / sqrtf(x); }
static inline float __fsqrt_rn(float x) { return sqrtf(x); }
static inline float __fadd_rn(float x, float y) { return x + y; }
static inline float __fsub_rn(float x, float y) { return x - y; }
static inline float __fmul_rn(float x, float y) { return x * y; }
static inline float __fdiv_rn(float x, float y) { return x / y; }
static inline float __fmaf_rn(float x, float y, float z)
{
    return fmaf(x, y, z);
}
static inline double __dadd_rn(double x, double y) { return x + y; }
static inline double __dsub_rn(double x, double y) { return x - y; }
static inline double __dmul_rn(double x, double y) { return x * y; }
static inline double __ddiv_rn(double x, double y) { return x / y; }
static inline double __fma_rn(double x, double y, double z)
{
    return fma(x, y, z);
}
static inline float __saturatef(float x)
{
    return x > 0 ? (x < 1 ? x : 1) : 0; /* NaN: 0 */
}

static inline float __double2float_rn(double x) { return (float)x; }
static inline float __int2float_rn(int x) { return (float)x; }
static inline float __uint2float_rn(unsigned x) { return (float)x; }
static inline float __ll2float_rn(long long x) { return (float)x; }
static inline double __int2double_rn(int x) { return x; }

/* Out of range: the nearest integer; NaN: 0. */
static inline int emulator_to_int(double x)
{
    return x != x ? 0 : x >= 2147483647.0 ? 2147483647 :
           x <= -2147483648.0 ? -2147483647 - 1 : (int)x;
}
static inline int __float2int_rn(float x)
{
    return emulator_to_int(nearbyintf(x));
}
static inline int __float2int_rz(float x) { return emulator_to_int(x); }
static inline int __float2int_rd(float x)
{
    return emulator_to_int(floorf(x));
}
static inline int __float2int_ru(float x)
{
    return emulator_to_int(ceilf(x));
}
static inline int __double2int_rn(double x)
{
    return emulator_to_int(nearbyint(x));
}
static inline int __double2int_rz(double x) { return emulator_to_int(x); }
static inline unsigned __float2uint_rn(float x)
{
    x = nearbyintf(x);
    return !(x > 0) ? 0 : x >= 4294967296.f ? 0xffffffffu : (unsigned)x;
}

template <typename To, typename From>
static inline To emulator_bits(From from)
{
    static_assert(sizeof(To) == sizeof(From), "sizes differ");
    To to;

    memcpy(&to, &from, sizeof(to));
    return to;
}
static inline uint32_t __float_as_uint(float x)
{
    return emulator_bits<uint32_t>(x);
}
static inline int __float_as_int(float x) { return emulator_bits<int>(x); }
static inline float __uint_as_float(uint32_t x)
{
    return emulator_bits<float>(x);
}
static inline float __int_as_float(int x) { return emulator_bits<float>(x); }
static inline long long __double_as_longlong(double x)
{
    return emulator_bits<long long>(x);
}
static inline double __longlong_as_double(long long x)
{
    return emulator_bits<double>(x);
}

static inline int __popc(uint32_t x) { return __builtin_popcount(x); }
static inline int __clz(int x)
{
    return x ? __builtin_clz((unsigned)x) : 32;
}
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline uint32_t __umulhi(uint32_t x, uint32_t y)
{
    return (uint32_t)((uint64_t)x * y >> 32);
}

/* Bytes of (y, x), x low, chosen by the four low half bytes of s. */
static inline uint32_t __byte_perm(uint32_t x, uint32_t y, uint32_t s)
{
    uint64_t both = (uint64_t)y << 32 | x;
    uint32_t out = 0;

    for (int i = 0; i < 4; i++)
        out |= (uint32_t)(both >> (s >> 4 * i & 7) * 8 & 255) << 8 * i;
    return out;
}

template <typename T>
static inline T __ldg(const T *p)
{
    return *p;
}
template <typename T>
static inline T __ldcs(const T *p)
{
    return *p;
}
template <typename T>
static inline T __ldcg(const T *p)
{
    return *p;
}
template <typename T>
static inline void __stcs(T *p, T x)
{
    *p = x;
}
template <typename T>
static inline void __stcg(T *p, T x)
{
    *p = x;
}

#endif /* CV_EMULATED_MATH_H */
