/*
 * Vectors of floats for one instruction set, chosen by CV_SIMD.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * A file that defines CV_SIMD (0: any machine, 2: AVX2 with FMA, 512: AVX-512)
 * and includes this header has its functions compiled for that instruction
 * set, whatever the compiler's flags; kernels.h decides at run time which file
 * is used. The types are GCC's vector types, so + - * / work on them.
 */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if CV_SIMD
#include <immintrin.h>
#endif

/* GCC wants the list as one literal. */
#if CV_SIMD == 512
#ifdef __clang__
#pragma clang attribute push(__attribute__((target( \
    "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")
#endif
#elif CV_SIMD == 2
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2,fma"))), \
                             apply_to = function)
#else
#pragma GCC target("avx2,fma")
#endif
#endif

/* The matrix kernel keeps MR x (2 * VW) sums in registers. */
#if CV_SIMD == 512
enum { VW = 16, MR = 14 };
#elif CV_SIMD == 2
enum { VW = 8, MR = 6 };
#else
enum { VW = 4, MR = 6 };
#endif

typedef float vf __attribute__((vector_size(VW * 4)));
typedef uint32_t vu __attribute__((vector_size(VW * 4)));

static inline vf load(const float *p)
{
    vf v;

    memcpy(&v, p, sizeof(v));
    return v;
}

static inline void store(float *p, vf v)
{
    memcpy(p, &v, sizeof(v));
}

static inline vf splat(float x)
{
    return x - (vf){ 0 };
}

#if CV_SIMD == 512

static inline __mmask16 first_lanes(int64_t n)
{
    return (__mmask16)((1u << n) - 1);
}

static inline vf load_n(const float *p, int64_t n)
{
    return _mm512_maskz_loadu_ps(first_lanes(n), p);
}

static inline void store_n(float *p, vf v, int64_t n)
{
    _mm512_mask_storeu_ps(p, first_lanes(n), v);
}

/* a * b + c */
static inline vf fma_(vf a, vf b, vf c)
{
    return _mm512_fmadd_ps(a, b, c);
}

static inline vf max_(vf a, vf b)
{
    return _mm512_max_ps(a, b);
}

static inline vf min_(vf a, vf b)
{
    return _mm512_min_ps(a, b);
}

static inline float total(vf v)
{
    return _mm512_reduce_add_ps(v);
}

#else /* not AVX-512 */

/* The first n lanes (n < VW), zeros in the others. */
static inline vf load_n(const float *p, int64_t n)
{
    vf v = { 0 };

    memcpy(&v, p, (size_t)n * sizeof(*p));
    return v;
}

static inline void store_n(float *p, vf v, int64_t n)
{
    memcpy(p, &v, (size_t)n * sizeof(*p));
}

static inline float total(vf v)
{
    float sum = 0;

    for (int i = 0; i < VW; i++)
        sum += v[i];
    return sum;
}

#if CV_SIMD == 2

static inline vf fma_(vf a, vf b, vf c)
{
    return _mm256_fmadd_ps(a, b, c);
}

static inline vf max_(vf a, vf b)
{
    return _mm256_max_ps(a, b);
}

static inline vf min_(vf a, vf b)
{
    return _mm256_min_ps(a, b);
}

#else

static inline vf fma_(vf a, vf b, vf c)
{
    return a * b + c;
}

/* Comparing vectors gives lanes of all ones and all zeros. */
static inline vf max_(vf a, vf b)
{
    vu take = (vu)(a > b);

    return (vf)(((vu)a & take) | ((vu)b & ~take));
}

static inline vf min_(vf a, vf b)
{
    vu take = (vu)(a < b);

    return (vf)(((vu)a & take) | ((vu)b & ~take));
}

#endif
#endif

/*
 * e^x within 1.1e-7 of the result for x in -87..88; what lies outside is
 * clamped to that range. x = n ln 2 + r with |r| <= ln 2 / 2, e^r by its
 * Taylor series up to r^7, 2^n by adding n to the exponent's bits.
 */
static inline vf exp_(vf x)
{
    const vf magic = splat(0x1.8p23f); /* adding it rounds to an integer */
    vf n, r, y;
    vu bits;

    x = max_(min_(x, splat(88.0f)), splat(-87.0f));
    n = fma_(x, splat(1.44269504f), magic);
    bits = (vu)n;
    n -= magic;
    r = fma_(n, splat(-0.693145752f), x);
    r = fma_(n, splat(-1.42860682e-6f), r);
    y = splat(1 / 5040.0f);
    y = fma_(y, r, splat(1 / 720.0f));
    y = fma_(y, r, splat(1 / 120.0f));
    y = fma_(y, r, splat(1 / 24.0f));
    y = fma_(y, r, splat(1 / 6.0f));
    y = fma_(y, r, splat(0.5f));
    y = fma_(y, r, splat(1));
    y = fma_(y, r, splat(1));
    return (vf)((vu)y + (bits << 23));
}
