/*
 * Tests of the normalisations and of what is fused with them.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#include <math.h>

#include "ops_test.h"

static const float eps = 1e-6f;

static void mean_variance(const float *x, int64_t d, double *mean,
                          double *variance)
{
    *mean = *variance = 0;
    for (int64_t i = 0; i < d; i++)
        *mean += x[i];
    *mean /= (double)d;
    for (int64_t i = 0; i < d; i++)
        *variance += (x[i] - *mean) * (x[i] - *mean);
    *variance /= (double)d;
}

static double mean_square(const float *x, int64_t d)
{
    double sum = 0;

    for (int64_t i = 0; i < d; i++)
        sum += (double)x[i] * x[i];
    return sum / (double)d;
}

static int64_t width(Env *e)
{
    return PICK(e, 1, 2, 3, 7, 16, 17, 40, 96, 256, 384, 1000, 1536);
}

void test_rms_norm(Env *e)
{
    for (int i = 0; i < 24; i++) {
        int64_t n = PICK(e, 1, 2, 19, 50), d = width(e);
        int same = i % 2;
        Buffer *x = INPUT(e, same || i % 4 ? e->b->activation : CV_F32,
                          PICK(e, 1, 1, 20), n, d);
        Buffer *w = INPUT(e, CV_F32, 1, d);
        Buffer *out = same ? writable(x) : OUTPUT(e, e->b->activation, n, d);
        double *expected = make_doubles(e, n * d);

        for (int64_t r = 0; r < n; r++) {
            double rms = sqrt(mean_square(x->host + r * d, d) + eps);

            for (int64_t c = 0; c < d; c++)
                expected[r * d + c] = x->host[r * d + c] / rms * w->host[c];
        }
        called(e, cv_rms_norm(e->b, &out->t, &x->t, &w->t, eps), "rms_norm");
        compare(e, out, expected, "rms_norm %lld x %lld, in place %d",
                (long long)n, (long long)d, same);
        end_case(e);
    }
}

/* Rows with a mean far from 0, as the residual stream has them. */
static Buffer *residual(Env *e, int64_t n, int64_t d)
{
    Buffer *x = INPUT(e, CV_F32, 2, n, d);

    if (random_int(e, 0, 1)) {
        for (int64_t i = 0; i < n * d; i++)
            x->host[i] += 30;
        set_contents(e, x, x->host);
    }
    return x;
}

void test_norm_modulate(Env *e)
{
    for (int i = 0; i < 24; i++) {
        int64_t groups = PICK(e, 1, 2, 3), d = width(e);
        int64_t n = groups * PICK(e, 1, 2, 7, 30), rows = PICK(e, 2, 6);
        int shift = (int)random_int(e, 0, rows - 1);
        int scale = (int)random_int(e, 0, rows - 1);
        Buffer *x = residual(e, n, d);
        Buffer *mod = INPUT(e, CV_F32, 1, groups, rows, d);
        Buffer *out = OUTPUT(e, e->b->activation, n, d);
        double *expected = make_doubles(e, n * d);

        for (int64_t r = 0; r < n; r++) {
            const float *m = mod->host + r / (n / groups) * rows * d;
            double mean, variance;

            mean_variance(x->host + r * d, d, &mean, &variance);
            for (int64_t c = 0; c < d; c++)
                expected[r * d + c] = (x->host[r * d + c] - mean) /
                    sqrt(variance + eps) * (1 + (double)m[scale * d + c]) +
                    m[shift * d + c];
        }
        called(e, cv_norm_modulate(e->b, &out->t, NULL, &x->t, &mod->t,
                                   shift, scale, eps), "norm_modulate");
        compare(e, out, expected, "norm_modulate %lld x %lld, %lld groups",
                (long long)n, (long long)d, (long long)groups);
        end_case(e);
    }
}

void test_layer_norm(Env *e)
{
    for (int i = 0; i < 24; i++) {
        int64_t n = PICK(e, 1, 2, 19, 50), d = width(e);
        Buffer *x = residual(e, n, d);
        Buffer *w = INPUT(e, CV_F32, 1, d), *b = INPUT(e, CV_F32, 1, d);
        Buffer *out = OUTPUT(e, e->b->activation, n, d);
        double *expected = make_doubles(e, n * d);

        for (int64_t r = 0; r < n; r++) {
            double mean, variance;

            mean_variance(x->host + r * d, d, &mean, &variance);
            for (int64_t c = 0; c < d; c++)
                expected[r * d + c] = (x->host[r * d + c] - mean) /
                    sqrt(variance + eps) * w->host[c] + b->host[c];
        }
        called(e, cv_layer_norm(e->b, &out->t, NULL, &x->t, &w->t, &b->t,
                                eps), "layer_norm");
        compare(e, out, expected, "layer_norm %lld x %lld", (long long)n,
                (long long)d);
        end_case(e);
    }
}

void test_norm_silu(Env *e)
{
    for (int i = 0; i < 32; i++) {
        int64_t t = PICK(e, 1, 2, 3), h = PICK(e, 1, 5), w = PICK(e, 1, 3, 17);
        int64_t c = PICK(e, 1, 3, 8, 12, 16, 17, 24, 32, 48, 64, 96, 384);
        int same = i % 2, silu = i / 2 % 2;
        Buffer *x = INPUT(e, e->b->activation, PICK(e, 1, 1, 10), t, h, w, c);
        Buffer *gamma = INPUT(e, CV_F32, 2, c);
        Buffer *out = same ? writable(x)
                           : OUTPUT(e, e->b->activation, t, h, w, c);
        double *expected = make_doubles(e, t * h * w * c);

        if (i % 8 == 0) { /* a pixel of zeros has no direction */
            for (int64_t k = 0; k < c; k++)
                x->host[k] = 0;
            set_contents(e, x, x->host);
        }
        for (int64_t p = 0; p < t * h * w; p++) {
            double length = sqrt(mean_square(x->host + p * c, c) * (double)c);

            for (int64_t k = 0; k < c; k++) {
                double y = x->host[p * c + k] / fmax(length, 1e-12) *
                           sqrt((double)c) * gamma->host[k];

                expected[p * c + k] = silu ? y / (1 + exp(-y)) : y;
            }
        }
        called(e, cv_norm_silu(e->b, &out->t, &x->t, &gamma->t, silu),
               "norm_silu");
        compare(e, out, expected, "norm_silu %lld pixels of %lld, in place %d,"
                " silu %d", (long long)(t * h * w), (long long)c, same, silu);
        end_case(e);
    }
}

void test_qk_norm_rope(Env *e)
{
    for (int i = 0; i < 24; i++) {
        int64_t n = PICK(e, 1, 2, 9, 40), heads = PICK(e, 1, 2, 3, 5);
        int64_t d = PICK(e, 2, 6, 16, 34, 64, 128), width_qk = heads * d;
        int64_t rows = n + random_int(e, 0, 9);
        int64_t row = random_int(e, 0, rows - n);
        Buffer *qkv = INPUT(e, e->b->activation, 2, n, 3 * width_qk);
        Buffer *norm[2] = { INPUT(e, CV_F32, 1, width_qk),
                            INPUT(e, CV_F32, 1, width_qk) };
        Buffer *rope = INPUT(e, CV_F32, 1, n, d / 2, 2);
        Buffer *q = OUTPUT(e, e->b->activation, n, heads, d);
        Buffer *k = writable(INPUT(e, e->b->activation, 1, rows, heads, d));
        Buffer *v = writable(INPUT(e, e->b->activation, 1, rows, heads, d));
        double *eq = make_doubles(e, n * width_qk);
        double *ek = make_doubles(e, rows * width_qk);
        double *ev = make_doubles(e, rows * width_qk);
        Buffer *largest = writable(INPUT(e, CV_F32, i % 4 ? 1 : 9, 1));
        double *el = make_doubles(e, 1);
        CvQkNormRope a = { .out_q = &q->t, .cache_k = &k->t,
                           .cache_v = &v->t, .row = row, .qkv = &qkv->t,
                           .norm_q = &norm[0]->t, .norm_k = &norm[1]->t,
                           .rope = &rope->t, .eps = eps };
        float first = fabsf(largest->host[0]);

        set_contents(e, largest, &first);
        *el = largest->host[0];
        if (i % 3)
            a.largest = &largest->t;
        for (int64_t j = 0; j < rows * width_qk; j++) {
            ek[j] = k->host[j];
            ev[j] = v->host[j];
        }
        for (int64_t t = 0; t < n; t++) {
            for (int part = 0; part < 2; part++) {
                const float *x = qkv->host + (t * 3 + part) * width_qk;
                double rms = sqrt(mean_square(x, width_qk) + eps);
                double *y = part ? ek + (row + t) * width_qk
                                 : eq + t * width_qk;

                for (int64_t j = 0; j < width_qk; j += 2) {
                    const float *cs = rope->host + t * d + j % d;
                    double x0 = x[j] / rms * norm[part]->host[j];
                    double x1 = x[j + 1] / rms * norm[part]->host[j + 1];

                    y[j] = x0 * cs[0] - x1 * cs[1];
                    y[j + 1] = x0 * cs[1] + x1 * cs[0];
                }
            }
            for (int64_t j = 0; j < width_qk; j++) {
                double x = qkv->host[(t * 3 + 2) * width_qk + j];

                ev[(row + t) * width_qk + j] = x;
                *el = a.largest ? fmax(*el, fabs(x)) : *el;
            }
        }
        called(e, cv_qk_norm_rope(e->b, &a), "qk_norm_rope");
        compare(e, q, eq, "q of %lld tokens, %lld heads of %lld", (long long)n,
                (long long)heads, (long long)d);
        compare(e, k, ek, "k at row %lld of %lld", (long long)row,
                (long long)rows);
        compare(e, v, ev, "v at row %lld of %lld", (long long)row,
                (long long)rows);
        compare(e, largest, el, "the largest of v");
        if (!e->again && (double)largest->host[0] != *el)
            fail(e, "the largest of v is not exact");
        end_case(e);
    }
}
