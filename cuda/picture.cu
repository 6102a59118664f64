/*
 * From a frame of the decoder to the picture formats of causvid.h.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * The arithmetic is the CPU's (engine/cpu/picture.c) in the same float64
 * operations in the same order, none of them contracted, so both give the
 * same codes: mid-grey lies exactly between two of them, where any other
 * rounding would show. A thread writes one sample of each component, or, where
 * chroma is halved, 2x2 luma samples and their pair of chroma samples, for
 * which it looks at the pixels left of it again.
 *
 * Bound by its launch. Predicted for a frame of 832x480 on an H200: 4.8 MB
 * read and 0.6 MB written, 1.3 us; about 30 million float64 operations in
 * 4:2:0, 2 us (some 50 us on GPUs with 1/64 of the rate).
 */
#include <string.h>

#include "launch.cuh"

enum { kThreads = 256 };

typedef struct Picture {
    const float *rgb; /* [h, w, 3] */
    int64_t w, h;
    uint8_t *plane[3];
    int64_t stride[3];
    int bits, shift;  /* of a sample; shift: P010's low zeros */
    int half;         /* 4:2:0 */
    int interleaved;  /* Cb and Cr share plane 1 */
    int packed;       /* bytes of a pixel where R, G, B share plane 0 */
    int swapped;      /* B, G, R there; a fourth byte is 255 */
    double top;       /* largest code */
    double y_base, y_scale, c_base, c_scale;
} Picture;

static __device__ __forceinline__ double level(float v)
{
    double x = v;

    return (x < -1 ? -1 : x > 1 ? 1 : x) / 2 + 0.5; /* exact, but the sum */
}

/* base + scale * v as a code; plane rows may have any alignment. */
static __device__ __forceinline__ void store(const Picture &p, int plane,
                                             int64_t y, int64_t x, double base,
                                             double scale, double v)
{
    uint8_t *row = p.plane[plane] + y * p.stride[plane];
    int code;

    v = __dadd_rn(base, __dmul_rn(scale, v));
    code = (int)fmin(fmax(floor(__dadd_rn(v, 0.5)), 0.0), p.top);
    if (p.bits == 8) {
        row[x] = (uint8_t)code;
    } else {
        code <<= p.shift;
        row[2 * x] = (uint8_t)code;
        row[2 * x + 1] = (uint8_t)(code >> 8);
    }
}

/* A pixel: its luma, Cb and Cr. */
typedef struct Yuv {
    double y, cb, cr;
} Yuv;

static __device__ __forceinline__ Yuv yuv_at(const Picture &p, int64_t y,
                                             int64_t x)
{
    const float *px = p.rgb + (y * p.w + x) * 3;
    double r = level(px[0]), g = level(px[1]), b = level(px[2]);
    Yuv c;

    c.y = __dadd_rn(__dadd_rn(__dmul_rn(0.2126, r), __dmul_rn(0.7152, g)),
                    __dmul_rn(0.0722, b));
    c.cb = __ddiv_rn(__dsub_rn(b, c.y), 1.8556);
    c.cr = __ddiv_rn(__dsub_rn(r, c.y), 1.5748);
    return c;
}

static __device__ __forceinline__ void store_chroma(const Picture &p,
                                                    int64_t y, int64_t x,
                                                    double cb, double cr)
{
    int i = p.interleaved;

    store(p, 1, y, i ? 2 * x : x, p.c_base, p.c_scale, cb);
    store(p, i ? 1 : 2, y, i ? 2 * x + 1 : x, p.c_base, p.c_scale, cr);
}

/* The weights are powers of two: where they are multiplied does not matter to
 * rounding. */
static __device__ __forceinline__ void add_chroma(Yuv *sum, const Yuv &c,
                                                  double weight)
{
    sum->cb = __dadd_rn(sum->cb, weight * c.cb);
    sum->cr = __dadd_rn(sum->cr, weight * c.cr);
}

/* One thread: the chroma sample (x, y) and the pixels that it covers. */
static __device__ __forceinline__ void draw_yuv420(const Picture &p,
                                                   int64_t y, int64_t x)
{
    Yuv sum = { 0, 0, 0 };

#pragma unroll
    for (int i = 0; i < 2; i++) {
        int64_t line = 2 * y + i < p.h ? 2 * y + i : p.h - 1;
        int64_t right = 2 * x + 1 < p.w ? 2 * x + 1 : p.w - 1;
        Yuv c = yuv_at(p, line, 2 * x);

        add_chroma(&sum, x ? yuv_at(p, line, 2 * x - 1) : c, 0.125);
        add_chroma(&sum, c, 0.25);
        if (2 * y + i < p.h)
            store(p, 0, line, 2 * x, p.y_base, p.y_scale, c.y);
        c = yuv_at(p, line, right);
        add_chroma(&sum, c, 0.125);
        if (2 * y + i < p.h && 2 * x + 1 < p.w)
            store(p, 0, line, right, p.y_base, p.y_scale, c.y);
    }
    store_chroma(p, y, x, sum.cb, sum.cr);
}

__global__ void __launch_bounds__(kThreads)
yuv_picture_kernel(const __grid_constant__ Picture p)
{
    cv_begin();
    int64_t x = (int64_t)blockIdx.x * kThreads + threadIdx.x, y = blockIdx.y;

    if (p.half) {
        if (x < (p.w + 1) / 2)
            draw_yuv420(p, y, x);
    } else if (x < p.w) {
        Yuv c = yuv_at(p, y, x);

        store(p, 0, y, x, p.y_base, p.y_scale, c.y);
        store_chroma(p, y, x, c.cb, c.cr);
    }
}

__global__ void __launch_bounds__(kThreads)
rgb_picture_kernel(const __grid_constant__ Picture p)
{
    cv_begin();
    int64_t x = (int64_t)blockIdx.x * kThreads + threadIdx.x, y = blockIdx.y;

    if (x >= p.w)
        return;
#pragma unroll
    for (int i = 0; i < 3; i++) {
        int plane = p.packed ? 0 : i == 0 ? 2 : i - 1; /* GBR */
        int place = p.swapped ? 2 - i : i;

        store(p, plane, y, p.packed ? p.packed * x + place : x, 0, 255,
              level(p.rgb[(y * p.w + x) * 3 + i]));
    }
    if (p.packed == 4)
        store(p, 0, y, 4 * x + 3, 255, 0, 0);
}

int cv_cuda_draw_picture(CvCuda *cuda, const CvTensor *frame,
                         const CausvidPicture *planes, cudaStream_t stream)
{
    Picture p;
    double unit;
    int rgb = 0;
    dim3 grid;

    memset(&p, 0, sizeof(p));
    p.rgb = (const float *)frame->data;
    p.h = frame->dim[0];
    p.w = frame->dim[1];
    p.bits = 8;
    switch (planes->format) {
    case CAUSVID_FORMAT_P010:
        p.shift = 6;
        p.interleaved = 1;
        p.bits = 10;
        p.half = 1;
        break;
    case CAUSVID_FORMAT_YUV420P10:
        p.bits = 10;
        p.half = 1;
        break;
    case CAUSVID_FORMAT_NV12:
        p.interleaved = 1;
        p.half = 1;
        break;
    case CAUSVID_FORMAT_YUV420P:
        p.half = 1;
        break;
    case CAUSVID_FORMAT_YUV444P:
        break;
    case CAUSVID_FORMAT_RGB24:
        p.packed = 3;
        rgb = 1;
        break;
    case CAUSVID_FORMAT_RGB0:
    case CAUSVID_FORMAT_BGR0:
        p.packed = 4;
        p.swapped = planes->format == CAUSVID_FORMAT_BGR0;
        rgb = 1;
        break;
    case CAUSVID_FORMAT_GBRP:
        rgb = 1;
        break;
    default:
        return cv_fail(cuda->base.log, EINVAL, "to_picture: unknown format %d",
                       (int)planes->format);
    }
    if (p.h <= 0 || p.w <= 0)
        return 0;
    for (int i = 0; i < 3; i++) {
        p.plane[i] = (uint8_t *)planes->data[i];
        p.stride[i] = planes->stride[i];
    }
    unit = 1 << (p.bits - 8);
    p.top = (1 << p.bits) - 1;
    p.c_base = 128 * unit;
    if (planes->full_range) {
        p.y_scale = p.c_scale = p.top;
    } else {
        p.y_base = 16 * unit;
        p.y_scale = 219 * unit;
        p.c_scale = 224 * unit;
    }
    grid = dim3(cv_blocks(p.half ? (p.w + 1) / 2 : p.w, kThreads),
                (unsigned)(p.half ? (p.h + 1) / 2 : p.h));
    if (rgb)
        return CV_LAUNCH(cuda, stream, rgb_picture_kernel, grid, kThreads, 0,
                         p);
    return CV_LAUNCH(cuda, stream, yuv_picture_kernel, grid, kThreads, 0, p);
}
