/*
 * Tests of to_picture: every format, both ranges, odd sizes, any stride.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * The reference converts with a matrix per pixel, then filters and quantises,
 * in double. The code must be equal unless the exact value lies within
 * `tie` of the border between two codes.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "ops_test.h"

enum { GUARD = 0x5a };

typedef struct Layout {
    enum CausvidFormat format;
    int planes, bits, half, shift;
    int step[3];  /* samples from one to the next in a row of each plane */
    int plane[3], offset[3]; /* of components Y, Cb, Cr or R, G, B */
    int rgb;
} Layout;

static const Layout layouts[] = {
    { CAUSVID_FORMAT_YUV420P, 3, 8, 1, 0, { 1, 1, 1 }, { 0, 1, 2 },
      { 0, 0, 0 }, 0 },
    { CAUSVID_FORMAT_NV12, 2, 8, 1, 0, { 1, 2, 0 }, { 0, 1, 1 },
      { 0, 0, 1 }, 0 },
    { CAUSVID_FORMAT_YUV444P, 3, 8, 0, 0, { 1, 1, 1 }, { 0, 1, 2 },
      { 0, 0, 0 }, 0 },
    { CAUSVID_FORMAT_YUV420P10, 3, 10, 1, 0, { 1, 1, 1 }, { 0, 1, 2 },
      { 0, 0, 0 }, 0 },
    { CAUSVID_FORMAT_P010, 2, 10, 1, 6, { 1, 2, 0 }, { 0, 1, 1 },
      { 0, 0, 1 }, 0 },
    { CAUSVID_FORMAT_GBRP, 3, 8, 0, 0, { 1, 1, 1 }, { 2, 0, 1 },
      { 0, 0, 0 }, 1 },
    { CAUSVID_FORMAT_RGB24, 1, 8, 0, 0, { 3, 0, 0 }, { 0, 0, 0 },
      { 0, 1, 2 }, 1 },
    { CAUSVID_FORMAT_RGB0, 1, 8, 0, 0, { 4, 0, 0 }, { 0, 0, 0 },
      { 0, 1, 2 }, 1 },
    { CAUSVID_FORMAT_BGR0, 1, 8, 0, 0, { 4, 0, 0 }, { 0, 0, 0 },
      { 2, 1, 0 }, 1 },
};
enum { N_LAYOUTS = sizeof(layouts) / sizeof(layouts[0]) };

/* R'G'B' in 0..1 -> Y', Cb, Cr with the matrix of BT.709. */
static void to_yuv(const double *rgb, double *yuv)
{
    double kr = 0.2126, kb = 0.0722, kg = 1 - kr - kb;

    yuv[0] = kr * rgb[0] + kg * rgb[1] + kb * rgb[2];
    yuv[1] = (rgb[2] - yuv[0]) / (2 * (1 - kb));
    yuv[2] = (rgb[0] - yuv[0]) / (2 * (1 - kr));
}

typedef struct Job {
    const Layout *layout;
    int64_t w, h;
    int full;
    double *parts[3];   /* components of each pixel, unquantised */
    uint8_t *memory[3]; /* planes with guards */
    size_t bytes[3];
    CausvidPicture pic;
} Job;

static int64_t side(const Job *j, int64_t n, int plane)
{
    return plane && j->layout->half ? (n + 1) / 2 : n;
}

static double part(const Job *j, int i, int64_t y, int64_t x)
{
    x = x < 0 ? 0 : x >= j->w ? j->w - 1 : x;
    y = y >= j->h ? j->h - 1 : y;
    return j->parts[i][y * j->w + x];
}

/* The value of component i at a sample of its plane, before quantisation. */
static double sample(const Job *j, int i, int64_t y, int64_t x)
{
    if (!i || !j->layout->half)
        return part(j, i, y, x);
    return ((part(j, i, 2 * y, 2 * x - 1) + part(j, i, 2 * y + 1, 2 * x - 1)) +
            2 * (part(j, i, 2 * y, 2 * x) + part(j, i, 2 * y + 1, 2 * x)) +
            (part(j, i, 2 * y, 2 * x + 1) + part(j, i, 2 * y + 1, 2 * x + 1)))
           / 8;
}

static double quantise(const Job *j, int i, double v)
{
    double unit = 1 << (j->layout->bits - 8);
    double top = (1 << j->layout->bits) - 1;

    if (j->layout->rgb)
        v = 255 * v;
    else if (j->full)
        v = i ? 128 * unit + top * v : top * v;
    else
        v = i ? (128 + 224 * v) * unit : (16 + 219 * v) * unit;
    return v < 0 ? 0 : v > top ? top : v;
}

static void check_plane(Env *e, const Job *j, int i)
{
    const Layout *l = j->layout;
    int plane = l->rgb ? (l->planes > 1 ? 1 : 0) : i;
    double tie = e->b->activation == CV_F32 && l->bits == 8 ? 1e-3 : 1e-2;
    int where = l->plane[i], bytes = l->bits > 8 ? 2 : 1;

    for (int64_t y = 0; y < side(j, j->h, plane); y++) {
        for (int64_t x = 0; x < side(j, j->w, plane); x++) {
            const uint8_t *at = (const uint8_t *)j->pic.data[where] +
                y * j->pic.stride[where] +
                (x * l->step[where] + l->offset[i]) * bytes;
            int code = bytes == 1 ? at[0] : at[0] | at[1] << 8;
            double v = quantise(j, i, sample(j, i, y, x));
            double distance = fabs(v - (code >> l->shift)) - 0.5;

            if (distance > tie || (code >> l->shift) << l->shift != code) {
                fail(e, "to_picture format %d, %lldx%lld, full %d: component "
                     "%d at (%lld, %lld) is %d, expected %.4f", l->format,
                     (long long)j->w, (long long)j->h, j->full, i,
                     (long long)x, (long long)y, code >> l->shift, v);
                return;
            }
        }
    }
}

/* The fourth byte of a packed pixel is 255. */
static void check_opaque(Env *e, const Job *j)
{
    if (j->layout->step[0] != 4)
        return;
    for (int64_t y = 0; y < j->h; y++) {
        const uint8_t *row = (const uint8_t *)j->pic.data[0] +
                             y * j->pic.stride[0];

        for (int64_t x = 0; x < j->w; x++) {
            if (row[4 * x + 3] != 255) {
                fail(e, "to_picture format %d: byte 3 of the pixel at (%lld, "
                     "%lld) is %d", j->layout->format, (long long)x,
                     (long long)y, row[4 * x + 3]);
                return;
            }
        }
    }
}

/* Bytes outside of the rows must be as they were; rows are cleared first. */
static void check_guards(Env *e, Job *j)
{
    const Layout *l = j->layout;
    int bytes = l->bits > 8 ? 2 : 1;

    for (int p = 0; p < l->planes; p++) {
        int64_t row = side(j, j->w, l->rgb ? 0 : p) * l->step[p] * bytes;

        for (int64_t y = 0; y < side(j, j->h, l->rgb ? 0 : p); y++)
            memset((uint8_t *)j->pic.data[p] + y * j->pic.stride[p], GUARD,
                   (size_t)row);
        for (size_t i = 0; i < j->bytes[p]; i++) {
            if (j->memory[p][i] != GUARD) {
                fail(e, "to_picture format %d wrote outside plane %d",
                     l->format, p);
                break;
            }
        }
    }
}

static int take_planes(Env *e, Job *j)
{
    const Layout *l = j->layout;
    int bytes = l->bits > 8 ? 2 : 1;

    for (int p = 0; p < l->planes; p++) {
        int64_t rows = side(j, j->h, l->rgb ? 0 : p);
        int64_t row = side(j, j->w, l->rgb ? 0 : p) * l->step[p] * bytes;
        int64_t stride = row + random_int(e, 0, 7) * bytes;
        int flip = (int)random_int(e, 0, 1);

        j->bytes[p] = (size_t)(stride * (rows + 2));
        j->memory[p] = malloc(j->bytes[p]);
        if (!j->memory[p])
            return -1;
        memset(j->memory[p], GUARD, j->bytes[p]);
        j->pic.data[p] = j->memory[p] + stride * (flip ? rows : 1);
        j->pic.stride[p] = flip ? -stride : stride;
    }
    return 0;
}

static void picture_case(Env *e, const Layout *l, int64_t w, int64_t h,
                         int full, double size)
{
    Buffer *frame = INPUT(e, CV_F32, size, h, w, 3);
    Job j = { .layout = l, .w = w, .h = h, .full = full,
              .pic = { .width = (int)w, .height = (int)h,
                       .format = l->format, .full_range = full } };
    CvPictureArgs args = { &frame->t, &j.pic };

    for (int i = 0; i < 3; i++)
        j.parts[i] = make_doubles(e, w * h);
    for (int64_t p = 0; p < w * h; p++) {
        double rgb[3], yuv[3];

        for (int i = 0; i < 3; i++)
            rgb[i] = fmin(fmax(frame->host[3 * p + i], -1), 1) / 2 + 0.5;
        to_yuv(rgb, yuv);
        for (int i = 0; i < 3; i++)
            j.parts[i][p] = l->rgb ? rgb[i] : yuv[i];
    }
    e->cases++;
    if (take_planes(e, &j)) {
        fail(e, "out of memory");
    } else {
        called(e, cv_to_picture(e->b, &args), "to_picture");
        for (int i = 0; i < 3; i++)
            check_plane(e, &j, i);
        check_opaque(e, &j);
        for (int p = 0; p < l->planes; p++)
            add_to_hash(e, j.memory[p], j.bytes[p]);
        check_guards(e, &j);
    }
    for (int p = 0; p < 3; p++)
        free(j.memory[p]);
    end_case(e);
}

void test_to_picture(Env *e)
{
    for (int i = 0; i < 8 * N_LAYOUTS; i++)
        picture_case(e, &layouts[i % N_LAYOUTS],
                     PICK(e, 1, 2, 3, 16, 17, 33, 64, 160),
                     PICK(e, 1, 2, 5, 8, 19), i / N_LAYOUTS % 2,
                     i % 3 ? 1 : 2.5);
}
