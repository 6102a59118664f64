/*
 * A convolution as the kernels of conv.cu, conv_few.cu, conv_float.cu and
 * conv_hopper.cu see it: a product out[m, o] = in[m, k] * weight[o, k]^T whose
 * rows are the output's pixels and whose columns are (i, j, l, c), gathered from
 * the input without ever being written down.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#ifndef CV_CUDA_CONV_CUH
#define CV_CUDA_CONV_CUH

#include "launch.cuh"

/* 1: the short ways into and out of a tile; 0: the first versions, to measure
 * both (docs/kernels.md). */
#ifndef CV_CONV_BRIEF
#define CV_CONV_BRIEF 1
#endif
enum { kBrief = CV_CONV_BRIEF };

typedef struct CvConvJob {
    int p, t, h, w, c;     /* input */
    int kt, kh, kw, o;
    int to, ho, wo;        /* output */
    int stride_t, stride_s, pad_top, pad_left;
    int doubled;           /* 1: up is 2 */
    int m, k;              /* to * ho * wo; kt * kh * kw * c */
    int pairs;             /* out and add may be accessed two at a time */
    int relu;
    const void *x, *history, *weight, *add;
    const float *bias, *gamma;
    void *out, *norm;      /* norm: conv_hopper.cu alone makes it; else NULL.
                              out: NULL where only norm is wanted */
} CvConvJob;

/* The position in a row of the weight, where it is in the kernel. */
typedef struct CvConvTap {
    int i, j, l, c;
} CvConvTap;

static __device__ __forceinline__ void cv_conv_advance(const CvConvJob *a,
                                                       CvConvTap *at, int n)
{
    at->c += n;
    while (at->c >= a->c) {
        at->c -= a->c;
        if (++at->l == a->kw) {
            at->l = 0;
            if (++at->j == a->kh) {
                at->j = 0;
                at->i++;
            }
        }
    }
}

/* The first input frame, row and column under an output pixel. Rows past the
 * last pixel are as far outside as padding is. */
typedef struct CvConvPixel {
    int f, y, x;
} CvConvPixel;

static __device__ __forceinline__ CvConvPixel cv_conv_pixel(const CvConvJob *a,
                                                            int m)
{
    CvConvPixel pixel = { 0, INT32_MIN / 2, 0 };

    if (m < a->m) {
        int x = m % a->wo, y = m / a->wo % a->ho, f = m / a->wo / a->ho;

        pixel.f = f * a->stride_t;
        pixel.y = y * a->stride_s - a->pad_top;
        pixel.x = x * a->stride_s - a->pad_left;
    }
    return pixel;
}

/* The channels of the input that a tap reads for a pixel; NULL: zeros. */
template <typename T>
static __device__ __forceinline__ const T *cv_conv_input(const CvConvJob *a,
                                                         CvConvPixel pixel,
                                                         int i, int j, int l)
{
    int f = pixel.f + i, y = pixel.y + j, x = pixel.x + l;
    const T *from = (const T *)a->x;

    if ((unsigned)y >= (unsigned)(a->h << a->doubled) ||
        (unsigned)x >= (unsigned)(a->w << a->doubled))
        return NULL;
    if (f < a->p)
        from = (const T *)a->history;
    else
        f -= a->p;
    y >>= a->doubled;
    x >>= a->doubled;
    return from + (((int64_t)f * a->h + y) * a->w + x) * a->c;
}

/* Not fmaxf, which takes 0 for what is no number. */
static __device__ __forceinline__ float cv_conv_relu(float y)
{
    return y < 0 ? 0 : y;
}

/* Round and write columns n and n + 1 of row m of the bf16 output, where they
 * exist. kRelu: a->relu, which callers ask for once. */
template <bool kRelu>
static __device__ __forceinline__ void cv_conv_finish(const CvConvJob *a,
                                                      int m, int n, float u,
                                                      float v)
{
    int64_t at = (int64_t)m * a->o + n;
    const cv_bf16 *add = (const cv_bf16 *)a->add;
    cv_bf16 *out = (cv_bf16 *)a->out;

    if (m >= a->m || n >= a->o)
        return;
    if (a->bias)
        u += a->bias[n];
    if (a->bias && n + 1 < a->o)
        v += a->bias[n + 1];
    if (a->pairs) { /* o is even: the other one is there too */
        if (add) {
            __nv_bfloat162 b = *(const __nv_bfloat162 *)(add + at);

            u += __bfloat162float(b.x);
            v += __bfloat162float(b.y);
        }
        if constexpr (kRelu)
            *(__nv_bfloat162 *)(out + at) =
                __floats2bfloat162_rn(cv_conv_relu(u), cv_conv_relu(v));
        else
            *(__nv_bfloat162 *)(out + at) = __floats2bfloat162_rn(u, v);
        return;
    }
    if constexpr (kRelu) {
        cv_store(out + at, cv_conv_relu(add ? u + cv_load(add + at) : u));
        if (n + 1 < a->o)
            cv_store(out + at + 1,
                     cv_conv_relu(add ? v + cv_load(add + at + 1) : v));
    } else {
        cv_store(out + at, add ? u + cv_load(add + at) : u);
        if (n + 1 < a->o)
            cv_store(out + at + 1, add ? v + cv_load(add + at + 1) : v);
    }
}

/* conv_float.cu */
int cv_cuda_conv_float(CvCuda *cuda, const CvConvJob *a);

/* conv_few.cu: whether its kernel takes this shape, and the launch. */
int cv_cuda_conv_few_takes(const CvCuda *cuda, const CvConvJob *a);
int cv_cuda_conv_few(CvCuda *cuda, const CvConvJob *a);

/* conv_hopper.cu: whether its kernels take this shape, and make its norm as
 * well, and the launch. */
int cv_cuda_conv_hopper_takes(const CvCuda *cuda, const CvConvJob *a);
int cv_cuda_conv_hopper_norms(const CvCuda *cuda, const CvConvJob *a);
int cv_cuda_conv_hopper(CvCuda *cuda, const CvConvJob *a);

#endif /* CV_CUDA_CONV_CUH */
