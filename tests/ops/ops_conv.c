/*
 * Tests of conv3d: random shapes, and those of the VAE.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "ops_test.h"

typedef struct Shape {
    int64_t t, p, h, w, c, o, kt, kh, kw;
    int stride_t, stride_s, up;
    int top, left, bottom, right;
    int bias, add, in_place, relu;
    int norm; /* 1: normed as well, 2: and nothing else */
} Shape;

/* The c numbers of a pixel, NULL for one of the padding. */
static const float *pixel(const Shape *s, const float *x, const float *history,
                          int64_t f, int64_t y, int64_t z)
{
    if (y < 0 || z < 0 || y >= s->up * s->h || z >= s->up * s->w)
        return NULL;
    if (f >= s->p) {
        x += (f - s->p) * s->h * s->w * s->c;
    } else {
        x = history + f * s->h * s->w * s->c;
    }
    return x + ((y / s->up) * s->w + z / s->up) * s->c;
}

static double output_at(const Shape *s, const float *x, const float *history,
                        const float *weight, int64_t f, int64_t y, int64_t z,
                        int64_t o)
{
    double sum = 0;

    weight += o * s->kt * s->kh * s->kw * s->c;
    for (int64_t i = 0; i < s->kt; i++)
        for (int64_t j = 0; j < s->kh; j++)
            for (int64_t l = 0; l < s->kw; l++, weight += s->c) {
                const float *in = pixel(s, x, history, f * s->stride_t + i,
                                        y * s->stride_s + j - s->top,
                                        z * s->stride_s + l - s->left);

                if (in)
                    sum += dot(weight, in, s->c);
            }
    return sum;
}

/* norm_silu of rows of n. */
static void norm_rows(double *out, const double *x, int64_t rows, int64_t n,
                      const float *gamma)
{
    for (int64_t r = 0; r < rows; r++, x += n, out += n) {
        double sum = 0;

        for (int64_t i = 0; i < n; i++)
            sum += x[i] * x[i];
        for (int64_t i = 0; i < n; i++) {
            double y = x[i] / fmax(sqrt(sum), 1e-12) * sqrt((double)n) *
                       gamma[i];

            out[i] = y / (1 + exp(-y));
        }
    }
}

static void conv_case(Env *e, const Shape *s)
{
    int64_t to = (s->p + s->t - s->kt) / s->stride_t + 1;
    int64_t ho = (s->up * s->h + s->top + s->bottom - s->kh) / s->stride_s + 1;
    int64_t wo = (s->up * s->w + s->left + s->right - s->kw) / s->stride_s + 1;
    int64_t taps = s->kt * s->kh * s->kw;
    CvType type = e->b->activation;
    Buffer *x = INPUT(e, type, 1, s->t, s->h, s->w, s->c);
    Buffer *history = INPUT(e, type, 1, s->p ? s->p : 1, s->h, s->w, s->c);
    Buffer *weight = INPUT(e, e->b->weight,
                           sqrt(9.0 / (double)(taps * s->c)), s->o, s->kt,
                           s->kh, s->kw, s->c);
    Buffer *bias = INPUT(e, CV_F32, 1, s->o);
    Buffer *add = INPUT(e, type, 1, to, ho, wo, s->o);
    Buffer *gamma = s->norm ? INPUT(e, CV_F32, 2, s->o) : NULL;
    Buffer *place = s->add && s->in_place ? writable(add)
                                          : OUTPUT(e, type, to, ho, wo, s->o);
    Buffer *out = s->norm == 2 ? NULL : place;
    Buffer *norm = s->norm < 2 ? NULL : place;
    double *expected = make_doubles(e, to * ho * wo * s->o), *y = expected;
    double *normed = make_doubles(e, to * ho * wo * s->o);
    const float *a = add->host;
    char shape[256];
    CvConv3d args = {
        .out = out ? &out->t : NULL, .gamma = gamma ? &gamma->t : NULL,
        .x = &x->t, .history = s->p ? &history->t : NULL,
        .weight = &weight->t, .bias = s->bias ? &bias->t : NULL,
        .add = s->add ? &add->t : NULL, .stride_t = s->stride_t,
        .stride_s = s->stride_s, .up = s->up, .pad_top = s->top,
        .pad_left = s->left, .pad_bottom = s->bottom, .pad_right = s->right,
        .relu = s->relu,
    };

    if (s->norm == 1)
        norm = OUTPUT(e, type, to, ho, wo, s->o);
    args.norm = norm ? &norm->t : NULL;
    for (int64_t f = 0; f < to && !e->again; f++)
        for (int64_t i = 0; i < ho; i++)
            for (int64_t j = 0; j < wo; j++)
                for (int64_t o = 0; o < s->o; o++) {
                    *y = output_at(s, x->host, history->host, weight->host, f,
                                   i, j, o) +
                         (s->bias ? bias->host[o] : 0) + (s->add ? *a++ : 0);
                    if (s->relu && *y < 0)
                        *y = 0;
                    y++;
                }
    called(e, cv_conv3d(e->b, &args), "conv3d");
    snprintf(shape, sizeof(shape), "conv3d %lld+%lldx%lldx%lldx%lld -> %lld, "
             "kernel %lldx%lldx%lld, stride %d %d, up %d, pads %d %d %d %d, "
             "bias %d, add %d, relu %d, norm %d", (long long)s->p,
             (long long)s->t, (long long)s->h, (long long)s->w,
             (long long)s->c, (long long)s->o, (long long)s->kt,
             (long long)s->kh, (long long)s->kw, s->stride_t, s->stride_s,
             s->up, s->top, s->left, s->bottom, s->right, s->bias, s->add,
             s->relu, s->norm);
    if (out)
        compare(e, out, expected, "%s", shape);
    if (norm) {
        double tolerance = e->tolerance;

        /* What is normed may have been rounded before, by half a unit. */
        norm_rows(normed, expected, to * ho * wo, s->o, gamma->host);
        if (type == CV_BF16)
            e->tolerance = 4e-3;
        compare(e, norm, normed, "the norm of %s", shape);
        e->tolerance = tolerance;
    }
    end_case(e);
}

void test_conv3d(Env *e)
{
    for (int i = 0; i < 150; i++) {
        Shape s = {
            .t = PICK(e, 1, 1, 2, 3, 4), .p = PICK(e, 0, 1, 2, 2, 3),
            .h = random_int(e, 1, 9), .w = PICK(e, 1, 2, 3, 8, 14, 15, 16, 17,
                                                31, 40),
            .c = PICK(e, 1, 3, 4, 8, 12, 16, 17, 40),
            .o = PICK(e, 1, 2, 3, 7, 12, 16, 17, 24, 33, 64),
            .kt = PICK(e, 1, 1, 2, 3, 3), .kh = PICK(e, 1, 2, 3, 3),
            .kw = PICK(e, 1, 2, 3, 3, 5),
            .stride_t = (int)PICK(e, 1, 1, 2),
            .stride_s = (int)PICK(e, 1, 1, 2, 3),
            .up = (int)PICK(e, 1, 1, 2), .top = (int)random_int(e, 0, 2),
            .left = (int)random_int(e, 0, 2),
            .bottom = (int)random_int(e, 0, 2),
            .right = (int)random_int(e, 0, 2),
            .bias = (int)random_int(e, 0, 1), .add = (int)random_int(e, 0, 1),
            .in_place = (int)random_int(e, 0, 1),
            .relu = (int)random_int(e, 0, 1),
            .norm = (int)PICK(e, 0, 0, 1, 2),
        };

        if (s.p + s.t < s.kt || s.up * s.h + s.top + s.bottom < s.kh ||
            s.up * s.w + s.left + s.right < s.kw)
            continue;
        conv_case(e, &s);
    }
}

/* Convolutions as the VAE has them; sizes are small, channels are not. */
void test_conv3d_vae(Env *e)
{
    static const Shape shapes[] = {
        /* causal 3x3x3, also with one channel in and with the head's 3 out */
        { 2, 2, 6, 33, 16, 16, 3, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0 },
        { 1, 2, 5, 20, 96, 96, 3, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0 },
        { 4, 2, 5, 37, 96, 3, 3, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0 },
        { 1, 2, 7, 19, 3, 96, 3, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0 },
        { 1, 2, 4, 6, 384, 384, 3, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0 },
        /* doubled, then 3x3 */
        { 2, 0, 6, 21, 32, 16, 1, 3, 3, 1, 1, 2, 1, 1, 1, 1, 1, 0, 0, 0, 0 },
        { 1, 0, 5, 9, 192, 96, 1, 3, 3, 1, 1, 2, 1, 1, 1, 1, 1, 0, 0, 0, 0 },
        /* time only, and halved in time and in space */
        { 3, 2, 4, 13, 48, 96, 3, 1, 1, 1, 1, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0 },
        { 4, 1, 4, 13, 48, 48, 3, 1, 1, 2, 1, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0 },
        { 2, 0, 12, 34, 24, 24, 1, 3, 3, 1, 2, 1, 0, 0, 1, 1, 1, 0, 0, 0, 0 },
        /* pointwise, with a residual; one of the latent */
        { 3, 0, 5, 17, 32, 64, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 0, 0, 0 },
        { 1, 0, 4, 9, 16, 16, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0 },
        /* history longer than what comes */
        { 1, 3, 3, 5, 8, 8, 4, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0 },
        /* more than fits a tile of patches */
        { 1, 2, 2, 40, 1100, 5, 3, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0 },
        /* channels that are no multiple of 64, more squares than a tile has;
         * time only */
        { 2, 1, 11, 21, 104, 100, 2, 3, 2, 1, 1, 1, 0, 1, 2, 1, 1, 1, 1, 0, 0 },
        { 2, 2, 9, 17, 64, 128, 3, 1, 1, 1, 1, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0 },
        { 3, 1, 5, 9, 72, 12, 2, 2, 3, 2, 1, 1, 2, 0, 0, 2, 0, 0, 0, 0, 0 },
        /* the tiny decoder's: two frames, and with the block's input added */
        { 2, 1, 5, 21, 64, 64, 2, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 1, 0 },
        { 2, 0, 5, 21, 64, 64, 1, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0 },
        { 1, 0, 9, 17, 64, 64, 1, 3, 3, 1, 1, 2, 1, 1, 1, 1, 0, 0, 0, 1, 0 },
        { 1, 0, 4, 9, 16, 256, 1, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 1, 0 },
        { 2, 0, 9, 17, 64, 3, 1, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 1, 0 },
        /* enough pixels for a GPU's largest tiles */
        { 2, 0, 31, 35, 16, 96, 1, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0 },
        { 2, 0, 31, 35, 16, 128, 1, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0 },
        /* few channels out: more pixels than a tile, other histories */
        { 2, 2, 18, 67, 96, 3, 3, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0 },
        { 1, 3, 9, 33, 96, 2, 3, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0 },
        { 4, 0, 8, 32, 96, 1, 3, 3, 3, 1, 1, 1, 1, 1, 1, 1, 0, 1, 0, 0, 0 },
        { 2, 1, 17, 65, 64, 3, 1, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0 },
        /* normed for what follows: as well, alone, doubled */
        { 2, 2, 9, 21, 96, 96, 3, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 1 },
        { 1, 2, 9, 21, 96, 96, 3, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 2 },
        { 1, 0, 9, 19, 72, 88, 1, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 1, 1 },
        { 1, 0, 9, 21, 96, 96, 1, 3, 3, 1, 1, 1, 1, 1, 1, 1, 0, 1, 1, 0, 2 },
        { 2, 0, 5, 9, 192, 96, 1, 3, 3, 1, 1, 2, 1, 1, 1, 1, 1, 0, 0, 0, 1 },
        { 1, 0, 9, 19, 64, 120, 1, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 2 },
        { 1, 2, 5, 9, 192, 192, 3, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 1 },
        { 2, 0, 9, 21, 64, 184, 1, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 1, 2 },
        { 1, 0, 9, 11, 72, 88, 1, 3, 3, 1, 1, 2, 1, 1, 1, 1, 1, 0, 0, 0, 1 },
        /* edges of squares in tiles of each width, also with what is added */
        { 1, 1, 11, 13, 64, 16, 2, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0 },
        { 2, 0, 9, 12, 64, 8, 1, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 1 },
        { 2, 0, 7, 19, 64, 96, 1, 3, 3, 1, 1, 2, 1, 1, 1, 1, 1, 1, 1, 0, 1 },
        { 2, 0, 11, 13, 64, 192, 1, 3, 3, 1, 1, 2, 1, 1, 1, 1, 1, 1, 0, 0, 1 },
        { 3, 0, 13, 30, 64, 128, 1, 1, 3, 1, 1, 1, 0, 1, 0, 1, 1, 1, 0, 0, 0 },
        { 1, 0, 10, 9, 64, 264, 1, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0 },
    };

    e->aligned = 1;
    for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++) {
        double tolerance = e->tolerance;

        /* The taps of the doubled picture that read one pixel may be summed
         * first, and those sums rounded to bf16. */
        if (shapes[i].up == 2 && e->b->weight == CV_BF16)
            e->tolerance = 2e-3;
        conv_case(e, &shapes[i]);
        e->tolerance = tolerance;
    }
    e->aligned = 0;
}
