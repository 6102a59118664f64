/*
 * The body of kernels_*.c: included once for each instruction set.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#include <math.h>

#include "cpu/kernels.h"
#include "cpu/simd.h"

#ifdef __clang__
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif
#define INLINE static inline __attribute__((always_inline))

/* ---- matrix product ---- */

/* Write n numbers, or add them to what is there. */
INLINE void write_row(float *dst, const float *src, int64_t n, int add)
{
    int64_t i = 0;

    if (!add) {
        memcpy(dst, src, (size_t)n * sizeof(*dst));
        return;
    }
    for (; i + VW <= n; i += VW)
        store(dst + i, load(dst + i) + load(src + i));
    if (i < n)
        store_n(dst + i, load_n(dst + i, n - i) + load_n(src + i, n - i),
                n - i);
}

/* Rows row .. row + m - 1 of c, with v vectors in a row. m and v are constants
 * where this is called, so that the sums are registers. What is added to is
 * added last: many short sums are more exact than a long one. */
INLINE void gemm_rows(const CvGemm *g, int64_t row, const int m, const int v)
{
    float *c = g->c + row * g->c_row;
    const float *b = g->b;
    int64_t s = g->a_row;
    float rest[MR][2 * VW];
    vf sum[MR][2];

    UNROLL
    for (int i = 0; i < m; i++)
        sum[i][0] = sum[i][1] = splat(0);
    for (int part = 0; part < g->n_parts; part++) {
        const float *a[(MR + 2) / 3]; /* every third row: few registers */

        UNROLL
        for (int i = 0; i < m; i += 3)
            a[i / 3] = g->a[part] + (row + i) * s;
        for (int64_t k = 0; k < g->k; k++, b += g->b_row) {
            vf b0 = load(b), b1 = v > 1 ? load(b + VW) : b0;

            UNROLL
            for (int i = 0; i < m; i++) {
                vf x = splat(a[i / 3][i % 3 * s]);

                sum[i][0] = fma_(x, b0, sum[i][0]);
                if (v > 1)
                    sum[i][1] = fma_(x, b1, sum[i][1]);
                if (i % 3 == 2 || i == m - 1)
                    a[i / 3] += g->a_k;
            }
        }
    }
    if (!g->add && g->n == v * VW) {
        UNROLL
        for (int i = 0; i < m; i++) {
            store(c + i * g->c_row, sum[i][0]);
            if (v > 1)
                store(c + i * g->c_row + VW, sum[i][1]);
        }
        return;
    }
    UNROLL
    for (int i = 0; i < m; i++) {
        store(rest[i], sum[i][0]);
        if (v > 1)
            store(rest[i] + VW, sum[i][1]);
    }
    for (int i = 0; i < m; i++)
        write_row(c + i * g->c_row, rest[i], g->n, g->add);
}

#define ROWS(m_) case m_: gemm_rows(g, row, m_, v); break

INLINE void gemm_panel(const CvGemm *g, const int v)
{
    /* As even as can be: 15 rows are 8 and 7, not 14 and 1. */
    int64_t tiles = (g->m + MR - 1) / MR;

    for (int64_t tile = 0; tile < tiles; tile++) {
        int64_t row = g->m * tile / tiles;

        switch (g->m * (tile + 1) / tiles - row) {
        ROWS(1);
        ROWS(2);
        ROWS(3);
        ROWS(4);
        ROWS(5);
        ROWS(6);
#if CV_SIMD == 512
        ROWS(7);
        ROWS(8);
        ROWS(9);
        ROWS(10);
        ROWS(11);
        ROWS(12);
        ROWS(13);
        ROWS(14);
#endif
        }
    }
}

static void gemm(const CvGemm *g)
{
    if (g->n > VW)
        gemm_panel(g, 2);
    else
        gemm_panel(g, 1);
}

#if CV_SIMD

/* dst[8, w] = src[8, 8]^T, the first 8 columns */
static void transpose_8x8(float *dst, int64_t w, const float *src, int64_t row)
{
    __m256 r[8], t[8];

    UNROLL
    for (int i = 0; i < 8; i++)
        r[i] = _mm256_loadu_ps(src + i * row);
    UNROLL
    for (int i = 0; i < 8; i += 2) {
        t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
        t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
    }
    UNROLL
    for (int i = 0; i < 8; i += 4) {
        r[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
        r[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xee);
        r[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
        r[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xee);
    }
    UNROLL
    for (int i = 0; i < 4; i++) {
        _mm256_storeu_ps(dst + i * w,
                         _mm256_permute2f128_ps(r[i], r[i + 4], 0x20));
        _mm256_storeu_ps(dst + (i + 4) * w,
                         _mm256_permute2f128_ps(r[i], r[i + 4], 0x31));
    }
}

#endif

static void pack(float *dst, int64_t w, const float *src, int64_t src_row,
                 int64_t n, int64_t k)
{
    int64_t col = 0;

#if CV_SIMD
    for (; col + 8 <= n; col += 8) {
        const float *from = src + col * src_row;
        int64_t l = 0;

        for (; l + 8 <= k; l += 8)
            transpose_8x8(dst + l * w + col, w, from + l, src_row);
        for (; l < k; l++)
            for (int i = 0; i < 8; i++)
                dst[l * w + col + i] = from[i * src_row + l];
    }
#endif
    for (; col < n; col++)
        for (int64_t l = 0; l < k; l++)
            dst[l * w + col] = src[col * src_row + l];
    for (; col < w; col++)
        for (int64_t l = 0; l < k; l++)
            dst[l * w + col] = 0;
}

/* ---- element by element ---- */

INLINE vf silu_of(vf x)
{
    return x / (splat(1) + exp_(-x));
}

/* 0.5 (1 + tanh(u)) = 1 / (1 + exp(-2u)) */
INLINE vf gelu_of(vf x)
{
    vf u = x * fma_(x * x, splat(0.0713548163f), splat(1.59576912f));

    return x / (splat(1) + exp_(-u));
}

INLINE vf epilogue_of(const CvEpilogue kind, vf x, vf other, vf gate)
{
    switch (kind) {
    case CV_EPI_GELU:
        return gelu_of(x);
    case CV_EPI_SILU:
        return silu_of(x);
    case CV_EPI_MUL:
        return x * other;
    case CV_EPI_ADD:
        return other + x;
    case CV_EPI_GATE_ADD:
        return fma_(gate, x, other);
    default:
        return x;
    }
}

INLINE void epilogue_row(const CvEpilogue kind, float *y, const float *x,
                         const float *bias, const float *other,
                         const float *gate, int64_t n)
{
    int64_t i = 0;
    vf zero = { 0 };

    for (; i + VW <= n; i += VW)
        store(y + i, epilogue_of(kind, bias ? load(x + i) + load(bias + i)
                                            : load(x + i),
                                 other ? load(other + i) : zero,
                                 gate ? load(gate + i) : zero));
    n -= i;
    if (n)
        store_n(y + i, epilogue_of(kind, bias ? load_n(x + i, n) +
                                                load_n(bias + i, n)
                                              : load_n(x + i, n),
                                   other ? load_n(other + i, n) : zero,
                                   gate ? load_n(gate + i, n) : zero), n);
}

INLINE void epilogue_rows(const CvEpilogue kind, const CvFinish *f,
                          const float *other, const float *gate)
{
    for (int64_t i = 0; i < f->rows; i++)
        epilogue_row(kind, f->y + i * f->y_row, f->x + i * f->x_row, f->bias,
                     other ? other + i * f->y_row : NULL, gate, f->n);
}

static void epilogue(const CvFinish *f)
{
    switch (f->kind) {
    case CV_EPI_NONE:
        epilogue_rows(CV_EPI_NONE, f, NULL, NULL);
        break;
    case CV_EPI_GELU:
        epilogue_rows(CV_EPI_GELU, f, NULL, NULL);
        break;
    case CV_EPI_SILU:
        epilogue_rows(CV_EPI_SILU, f, NULL, NULL);
        break;
    case CV_EPI_MUL:
        epilogue_rows(CV_EPI_MUL, f, f->other, NULL);
        break;
    case CV_EPI_ADD:
        epilogue_rows(CV_EPI_ADD, f, f->other, NULL);
        break;
    case CV_EPI_GATE_ADD:
        epilogue_rows(CV_EPI_GATE_ADD, f, f->other, f->gate);
        break;
    }
}

static void silu(float *y, const float *x, int64_t n)
{
    epilogue_row(CV_EPI_SILU, y, x, NULL, NULL, NULL, n);
}

/* ---- norms ---- */

INLINE float sum_of_squares(const float *x, int64_t n)
{
    vf sum[2] = { { 0 }, { 0 } };
    int64_t i = 0;

    for (; i + 2 * VW <= n; i += 2 * VW) {
        vf a = load(x + i), b = load(x + i + VW);

        sum[0] = fma_(a, a, sum[0]);
        sum[1] = fma_(b, b, sum[1]);
    }
    for (; i + VW <= n; i += VW) {
        vf a = load(x + i);

        sum[0] = fma_(a, a, sum[0]);
    }
    if (i < n) {
        vf a = load_n(x + i, n - i);

        sum[1] = fma_(a, a, sum[1]);
    }
    return total(sum[0] + sum[1]);
}

/* y = act(x * r * weight) */
INLINE void scale_row(float *y, const float *x, const float *weight, float r,
                      int64_t d, const int act)
{
    int64_t i = 0;

    for (; i + VW <= d; i += VW) {
        vf v = load(x + i) * splat(r) * load(weight + i);

        store(y + i, act ? silu_of(v) : v);
    }
    if (i < d) {
        vf v = load_n(x + i, d - i) * splat(r) * load_n(weight + i, d - i);

        store_n(y + i, act ? silu_of(v) : v, d - i);
    }
}

static void rms_norm(float *y, const float *x, const float *weight,
                     int64_t rows, int64_t d, float eps)
{
    for (; rows > 0; rows--, x += d, y += d) {
        float r = 1 / sqrtf(sum_of_squares(x, d) / (float)d + eps);

        scale_row(y, x, weight, r, d, 0);
    }
}

static void norm_silu(float *y, const float *x, const float *gamma,
                      int64_t rows, int64_t d, int act)
{
    float root = sqrtf((float)d);

    for (; rows > 0; rows--, x += d, y += d) {
        float length = sqrtf(sum_of_squares(x, d));
        float r = root / (length > 1e-12f ? length : 1e-12f);

        if (act)
            scale_row(y, x, gamma, r, d, 1);
        else
            scale_row(y, x, gamma, r, d, 0);
    }
}

INLINE float sum_of(const float *x, int64_t n)
{
    vf sum = { 0 };
    int64_t i = 0;

    for (; i + VW <= n; i += VW)
        sum += load(x + i);
    if (i < n)
        sum += load_n(x + i, n - i);
    return total(sum);
}

static void layer_norm(float *y, const float *x, const float *scale, float one,
                       const float *shift, int64_t d, float eps)
{
    float about = sum_of(x, d) / (float)d, rest, r;
    vf sum = { 0 }, squares = { 0 };
    int64_t i = 0;

    /* The mean's rounding error would show where rows lie far from zero: the
     * differences from it have a mean of their own, which is taken off. */
    for (; i + VW <= d; i += VW) {
        vf v = load(x + i) - splat(about);

        sum += v;
        squares = fma_(v, v, squares);
    }
    for (; i < d; i++) {
        vf v = { x[i] - about };

        sum += v;
        squares = fma_(v, v, squares);
    }
    rest = total(sum) / (float)d;
    r = 1 / sqrtf(total(squares) / (float)d + eps);
    for (i = 0; i + VW <= d; i += VW) {
        vf v = (load(x + i) - splat(about) - splat(rest)) * splat(r);

        store(y + i, fma_(v, load(scale + i) + splat(one), load(shift + i)));
    }
    for (; i < d; i++)
        y[i] = (x[i] - about - rest) * r * (scale[i] + one) + shift[i];
}

static void norm_rope(float *y, const float *x, const float *weight,
                      const float *rope, int64_t heads, int64_t d, float eps)
{
    float r = 1 / sqrtf(sum_of_squares(x, heads * d) / (float)(heads * d) +
                        eps);

    for (int64_t h = 0; h < heads; h++, x += d, y += d, weight += d) {
        for (int64_t i = 0; i < d; i += 2) {
            float x0 = x[i] * r * weight[i];
            float x1 = x[i + 1] * r * weight[i + 1];

            y[i] = x0 * rope[i] - x1 * rope[i + 1];
            y[i + 1] = x0 * rope[i + 1] + x1 * rope[i];
        }
    }
}

/* ---- softmax ---- */

static void softmax(float *scores, int64_t keys, int64_t w, float *top,
                    float *sum, float *shrink)
{
    for (int64_t i = 0; i < w; i += VW) {
        vf was = load(top + i), now = was, gathered = { 0 };

        for (int64_t k = 0; k < keys; k++)
            now = max_(now, load(scores + k * w + i));
        for (int64_t k = 0; k < keys; k++) {
            vf e = exp_(load(scores + k * w + i) - now);

            store(scores + k * w + i, e);
            gathered += e;
        }
        was = exp_(was - now);
        store(shrink + i, was);
        store(sum + i, fma_(load(sum + i), was, gathered));
        store(top + i, now);
    }
}

#define TABLE(name_)                                                       \
    const CvKernels cv_kernels_##name_ = {                                 \
        .name = #name_, .lanes = VW, .panel = 2 * VW, .gemm = gemm,        \
        .pack = pack, .epilogue = epilogue, .silu = silu,                  \
        .rms_norm = rms_norm, .layer_norm = layer_norm,                    \
        .norm_silu = norm_silu, .norm_rope = norm_rope,                    \
        .softmax = softmax,                                                \
    }
