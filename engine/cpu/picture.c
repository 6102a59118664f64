/*
 * From a frame of the decoder to the picture formats of causvid.h.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * Runs on the calling thread alone and touches nothing of the backend: the
 * thread that reads frames converts them while another generates.
 */
#include <math.h>
#include <string.h>

#include "cpu/cpu.h"

typedef struct Picture {
    const float *rgb;
    int64_t w, h;
    CausvidPicture *pic;
    int bits, shift;           /* of a sample; shift: P010's low zeros */
    int top;                   /* largest code */
    double y_base, y_scale, c_base, c_scale;
} Picture;

static double level(float v)
{
    double x = v;

    return (x < -1 ? -1 : x > 1 ? 1 : x) / 2 + 0.5;
}

static void store(const Picture *p, int plane, int64_t y, int64_t x, double v)
{
    uint8_t *row = (uint8_t *)p->pic->data[plane] +
                   (ptrdiff_t)y * p->pic->stride[plane];
    int code = (int)fmin(fmax(floor(v + 0.5), 0), p->top);

    if (p->bits == 8) {
        row[x] = (uint8_t)code;
    } else {
        code <<= p->shift;
        row[2 * x] = (uint8_t)code;
        row[2 * x + 1] = (uint8_t)(code >> 8);
    }
}

static double luma(const float *px)
{
    return 0.2126 * level(px[0]) + 0.7152 * level(px[1]) +
           0.0722 * level(px[2]);
}

/* Cb and Cr of pixel (x, y), added to sum with a weight. */
static void add_chroma(const Picture *p, int64_t y, int64_t x, double weight,
                       double sum[2])
{
    const float *px;

    x = cv_min(cv_max(x, 0), p->w - 1);
    y = cv_min(y, p->h - 1);
    px = p->rgb + (y * p->w + x) * 3;
    sum[0] += weight * (level(px[2]) - luma(px)) / 1.8556;
    sum[1] += weight * (level(px[0]) - luma(px)) / 1.5748;
}

static void write_yuv(const Picture *p, int half, int interleaved)
{
    int64_t cw = half ? (p->w + 1) / 2 : p->w;
    int64_t ch = half ? (p->h + 1) / 2 : p->h;

    for (int64_t y = 0; y < p->h; y++)
        for (int64_t x = 0; x < p->w; x++)
            store(p, 0, y, x, p->y_base + p->y_scale *
                  luma(p->rgb + (y * p->w + x) * 3));
    for (int64_t y = 0; y < ch; y++) {
        for (int64_t x = 0; x < cw; x++) {
            double c[2] = { 0, 0 };

            if (half) {
                for (int i = 0; i < 2; i++) {
                    add_chroma(p, 2 * y + i, 2 * x - 1, 0.125, c);
                    add_chroma(p, 2 * y + i, 2 * x, 0.25, c);
                    add_chroma(p, 2 * y + i, 2 * x + 1, 0.125, c);
                }
            } else {
                add_chroma(p, y, x, 1, c);
            }
            for (int i = 0; i < 2; i++)
                store(p, interleaved ? 1 : 1 + i, y,
                      interleaved ? 2 * x + i : x,
                      p->c_base + p->c_scale * c[i]);
        }
    }
}

static void write_gbrp(const Picture *p)
{
    static const int plane[3] = { 2, 0, 1 }; /* of R, G, B */

    for (int64_t y = 0; y < p->h; y++)
        for (int64_t x = 0; x < p->w; x++)
            for (int i = 0; i < 3; i++)
                store(p, plane[i], y, x,
                      255 * level(p->rgb[(y * p->w + x) * 3 + i]));
}

/* Pixels of `bytes`, 3 or 4; a fourth one is 255, which as alpha is opaque. */
static void write_packed(const Picture *p, int bytes, int bgr)
{
    for (int64_t y = 0; y < p->h; y++) {
        for (int64_t x = 0; x < p->w; x++) {
            for (int i = 0; i < 3; i++)
                store(p, 0, y, bytes * x + (bgr ? 2 - i : i),
                      255 * level(p->rgb[(y * p->w + x) * 3 + i]));
            if (bytes == 4)
                store(p, 0, y, 4 * x + 3, 255);
        }
    }
}

int cv_cpu_to_picture(CvBackend *b, const CvPictureArgs *a)
{
    Picture p = { .rgb = a->frame->data, .h = a->frame->dim[0],
                  .w = a->frame->dim[1], .pic = a->pic, .bits = 8 };
    double unit;

    if (a->pic->format == CAUSVID_FORMAT_YUV420P10 ||
        a->pic->format == CAUSVID_FORMAT_P010)
        p.bits = 10;
    if (a->pic->format == CAUSVID_FORMAT_P010)
        p.shift = 6;
    unit = 1 << (p.bits - 8);
    p.top = (1 << p.bits) - 1;
    p.c_base = 128 * unit;
    if (a->pic->full_range) {
        p.y_scale = p.c_scale = p.top;
    } else {
        p.y_base = 16 * unit;
        p.y_scale = 219 * unit;
        p.c_scale = 224 * unit;
    }
    switch (a->pic->format) {
    case CAUSVID_FORMAT_YUV420P:
    case CAUSVID_FORMAT_YUV420P10:
        write_yuv(&p, 1, 0);
        break;
    case CAUSVID_FORMAT_NV12:
    case CAUSVID_FORMAT_P010:
        write_yuv(&p, 1, 1);
        break;
    case CAUSVID_FORMAT_YUV444P:
        write_yuv(&p, 0, 0);
        break;
    case CAUSVID_FORMAT_GBRP:
        write_gbrp(&p);
        break;
    case CAUSVID_FORMAT_RGB24:
        write_packed(&p, 3, 0);
        break;
    case CAUSVID_FORMAT_RGB0:
    case CAUSVID_FORMAT_BGR0:
        write_packed(&p, 4, a->pic->format == CAUSVID_FORMAT_BGR0);
        break;
    default:
        return cv_fail(b->log, EINVAL, "to_picture: unknown format %d",
                       (int)a->pic->format);
    }
    return 0;
}
