/*
 * Tests of operations that put elements in another order.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#include "ops_test.h"

void test_patchify(Env *e)
{
    for (int i = 0; i < 8; i++) {
        int64_t t = PICK(e, 1, 3), c = PICK(e, 1, 3, 16);
        int64_t h = 2 * PICK(e, 1, 3, 6), w = 2 * PICK(e, 1, 5, 10);
        Buffer *x = INPUT(e, CV_F32, 1, t, c, h, w);
        Buffer *out = OUTPUT(e, e->b->activation, t * h / 2 * w / 2, 4 * c);
        double *expected = make_doubles(e, t * c * h * w);

        /* Where each element of the input goes. */
        for (int64_t f = 0; f < t; f++)
            for (int64_t k = 0; k < c; k++)
                for (int64_t y = 0; y < h; y++)
                    for (int64_t z = 0; z < w; z++) {
                        int64_t token = (f * (h / 2) + y / 2) * (w / 2) + z / 2;

                        expected[token * 4 * c + k * 4 + y % 2 * 2 + z % 2] =
                            x->host[((f * c + k) * h + y) * w + z];
                    }
        called(e, cv_patchify(e->b, &out->t, &x->t), "patchify");
        compare(e, out, expected, "patchify [%lld, %lld, %lld, %lld]",
                (long long)t, (long long)c, (long long)h, (long long)w);
        end_case(e);
    }
}

void test_unpatchify(Env *e)
{
    for (int i = 0; i < 8; i++) {
        int64_t t = PICK(e, 1, 3), c = PICK(e, 1, 3, 16);
        int64_t h = 2 * PICK(e, 1, 3, 6), w = 2 * PICK(e, 1, 5, 10);
        Buffer *x = INPUT(e, CV_F32, 1, t * h / 2 * w / 2, 4 * c);
        Buffer *out = OUTPUT(e, CV_F32, t, c, h, w);
        double *expected = make_doubles(e, t * c * h * w);

        for (int64_t f = 0; f < t; f++)
            for (int64_t k = 0; k < c; k++)
                for (int64_t y = 0; y < h; y++)
                    for (int64_t z = 0; z < w; z++) {
                        int64_t token = (f * (h / 2) + y / 2) * (w / 2) + z / 2;

                        expected[((f * c + k) * h + y) * w + z] =
                            x->host[token * 4 * c + (y % 2 * 2 + z % 2) * c +
                                    k];
                    }
        called(e, cv_unpatchify(e->b, &out->t, &x->t), "unpatchify");
        compare(e, out, expected, "unpatchify [%lld, %lld, %lld, %lld]",
                (long long)t, (long long)c, (long long)h, (long long)w);
        end_case(e);
    }
}

void test_split_frames(Env *e)
{
    for (int i = 0; i < 6; i++) {
        int64_t t = PICK(e, 1, 2, 3), h = PICK(e, 1, 4), w = PICK(e, 1, 7);
        int64_t c = PICK(e, 1, 8, 17, 64);
        Buffer *x = INPUT(e, e->b->activation, 1, t, h, w, 2 * c);
        Buffer *out = OUTPUT(e, e->b->activation, 2 * t, h, w, c);
        double *expected = make_doubles(e, 2 * t * h * w * c);

        for (int64_t f = 0; f < 2 * t; f++)
            for (int64_t p = 0; p < h * w; p++)
                for (int64_t k = 0; k < c; k++)
                    expected[(f * h * w + p) * c + k] =
                        x->host[(f / 2 * h * w + p) * 2 * c + f % 2 * c + k];
        called(e, cv_split_frames(e->b, &out->t, &x->t), "split_frames");
        compare(e, out, expected, "split_frames [%lld, %lld, %lld, %lld]",
                (long long)t, (long long)h, (long long)w, (long long)(2 * c));
        end_case(e);
    }
}

static void scales(Env *e, float mul[64], float add[64])
{
    for (int i = 0; i < 64; i++) {
        mul[i] = (float)(1 + 0.5 * random_real(e));
        add[i] = (float)random_real(e);
    }
}

void test_to_channels_last(Env *e)
{
    for (int i = 0; i < 6; i++) {
        int64_t t = PICK(e, 1, 3), c = PICK(e, 1, 3, 16, 33);
        int64_t h = PICK(e, 1, 5, 12), w = PICK(e, 1, 7, 20);
        float mul[64], add[64];
        Buffer *x = INPUT(e, CV_F32, 1, t, c, h, w);
        Buffer *out = OUTPUT(e, e->b->activation, t, h, w, c);
        double *expected = make_doubles(e, t * c * h * w);

        scales(e, mul, add);
        for (int64_t f = 0; f < t; f++)
            for (int64_t k = 0; k < c; k++)
                for (int64_t p = 0; p < h * w; p++)
                    expected[(f * h * w + p) * c + k] =
                        (double)x->host[(f * c + k) * h * w + p] * mul[k] +
                        add[k];
        called(e, cv_to_channels_last(e->b, &out->t, &x->t, mul, add),
               "to_channels_last");
        compare(e, out, expected, "to_channels_last [%lld, %lld, %lld, %lld]",
                (long long)t, (long long)c, (long long)h, (long long)w);
        end_case(e);
    }
}

void test_to_channels_first(Env *e)
{
    for (int i = 0; i < 8; i++) {
        int64_t t = PICK(e, 1, 3), c = PICK(e, 1, 3, 16, 33);
        int64_t k_all = c + (i % 2 ? random_int(e, 1, 20) : 0);
        int64_t h = PICK(e, 1, 5, 12), w = PICK(e, 1, 7, 20);
        float mul[64], add[64];
        Buffer *x = INPUT(e, e->b->activation, 1, t, h, w, k_all);
        Buffer *out = OUTPUT(e, CV_F32, t, c, h, w);
        double *expected = make_doubles(e, t * c * h * w);

        scales(e, mul, add);
        for (int64_t f = 0; f < t; f++)
            for (int64_t k = 0; k < c; k++)
                for (int64_t p = 0; p < h * w; p++)
                    expected[(f * c + k) * h * w + p] =
                        (double)x->host[(f * h * w + p) * k_all + k] *
                        mul[k] + add[k];
        called(e, cv_to_channels_first(e->b, &out->t, &x->t, mul, add),
               "to_channels_first");
        compare(e, out, expected, "to_channels_first [%lld, %lld of %lld, "
                "%lld, %lld]", (long long)t, (long long)c, (long long)k_all,
                (long long)h, (long long)w);
        end_case(e);
    }
}
