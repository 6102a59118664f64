/*
 * Tests of embeddings, tables and element by element operations.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#include <math.h>

#include "ops_test.h"

void test_silu(Env *e)
{
    for (int i = 0; i < 12; i++) {
        int64_t n = PICK(e, 1, 7, 16, 1000, 33000);
        double size = i % 3 == 0 ? 100 : i % 3 == 1 ? 1 : 12;
        Buffer *x = INPUT(e, CV_F32, size, n);
        Buffer *out = i % 2 ? writable(x) : OUTPUT(e, CV_F32, n);
        double *expected = make_doubles(e, n);

        for (int64_t j = 0; j < n; j++)
            expected[j] = x->host[j] / (1 + exp(-(double)x->host[j]));
        called(e, cv_silu(e->b, &out->t, &x->t), "silu");
        compare(e, out, expected, "silu of %lld, size %g", (long long)n, size);
        end_case(e);
    }
}

void test_soft_clamp(Env *e)
{
    for (int i = 0; i < 8; i++) {
        int64_t n = PICK(e, 1, 7, 256, 1000, 33000);
        float limit = i % 2 ? 3 : 0.7f;
        Buffer *x = INPUT(e, CV_F32, i % 3 ? 6 : 100, n);
        Buffer *out = i % 4 < 2 ? writable(x) : OUTPUT(e, CV_F32, n);
        double *expected = make_doubles(e, n);

        for (int64_t j = 0; j < n; j++)
            expected[j] = limit * tanh((double)x->host[j] / limit);
        called(e, cv_soft_clamp(e->b, &out->t, &x->t, limit), "soft_clamp");
        compare(e, out, expected, "soft_clamp of %lld to %g", (long long)n,
                limit);
        end_case(e);
    }
}

void test_embed(Env *e)
{
    for (int i = 0; i < 8; i++) {
        int64_t rows = PICK(e, 1, 5, 300), d = PICK(e, 1, 7, 64, 100);
        int64_t n = PICK(e, 1, 3, 77);
        Buffer *table = INPUT(e, e->b->weight, 1, rows, d);
        Buffer *ids = make_ids(e, n, rows);
        Buffer *out = OUTPUT(e, CV_F32, n, d);
        double *expected = make_doubles(e, n * d);
        const int32_t *id = (const int32_t *)(void *)ids->host;

        for (int64_t t = 0; t < n; t++)
            for (int64_t j = 0; j < d; j++)
                expected[t * d + j] = table->host[id[t] * d + j];
        called(e, cv_embed(e->b, &out->t, &table->t, NULL, &ids->t), "embed");
        compare(e, out, expected, "embed %lld of %lld x %lld", (long long)n,
                (long long)rows, (long long)d);
        end_case(e);
    }
}

/* By the published lower bounds of the 32 buckets, not by their formula. */
static int64_t bucket_of_32(int64_t distance)
{
    static const int64_t lower[] = { 8, 12, 16, 23, 32, 46, 64, 91 };
    int64_t a = distance < 0 ? -distance : distance, bucket = a;

    for (int i = 0; i < 8; i++)
        if (a >= lower[i])
            bucket = 8 + i;
    return (distance > 0 ? 16 : 0) + bucket;
}

void test_t5_bias(Env *e)
{
    for (int i = 0; i < 6; i++) {
        int64_t n = PICK(e, 1, 2, 20, 130, 200), heads = PICK(e, 1, 4, 7);
        Buffer *table = INPUT(e, CV_F32, 1, 32, heads);
        Buffer *out = OUTPUT(e, CV_F32, heads, n, n);
        double *expected = make_doubles(e, heads * n * n);

        for (int64_t h = 0; h < heads; h++)
            for (int64_t q = 0; q < n; q++)
                for (int64_t k = 0; k < n; k++)
                    expected[(h * n + q) * n + k] =
                        table->host[bucket_of_32(k - q) * heads + h];
        called(e, cv_t5_bias(e->b, &out->t, &table->t), "t5_bias");
        compare(e, out, expected, "t5_bias of %lld tokens", (long long)n);
        end_case(e);
    }
}

void test_timestep_embedding(Env *e)
{
    for (int i = 0; i < 6; i++) {
        int64_t g = PICK(e, 1, 3), d = PICK(e, 2, 6, 64, 256);
        Buffer *t = INPUT(e, CV_F32, 1000, g);
        Buffer *out = OUTPUT(e, CV_F32, g, d);
        double *expected = make_doubles(e, g * d);

        for (int64_t r = 0; r < g; r++) {
            for (int64_t j = 0; j < d / 2; j++) {
                double f = exp(-log(10000.0) * (double)j / ((double)d / 2));

                expected[r * d + j] = cos(t->host[r] * f);
                expected[r * d + d / 2 + j] = sin(t->host[r] * f);
            }
        }
        called(e, cv_timestep_embedding(e->b, &out->t, &t->t),
               "timestep_embedding");
        compare(e, out, expected, "timestep_embedding [%lld, %lld]",
                (long long)g, (long long)d);
        end_case(e);
    }
}

void test_modulation(Env *e)
{
    for (int i = 0; i < 8; i++) {
        int64_t g = PICK(e, 1, 3), r = PICK(e, 2, 6), d = PICK(e, 1, 33, 256);
        int shared = i % 2;
        Buffer *table = INPUT(e, CV_F32, 1, r, d);
        Buffer *x = shared ? INPUT(e, CV_F32, 1, g, d)
                           : INPUT(e, CV_F32, 1, g, r, d);
        Buffer *out = OUTPUT(e, CV_F32, g, r, d);
        double *expected = make_doubles(e, g * r * d);

        for (int64_t a = 0; a < g; a++)
            for (int64_t b = 0; b < r; b++)
                for (int64_t c = 0; c < d; c++)
                    expected[(a * r + b) * d + c] =
                        (double)table->host[b * d + c] +
                        x->host[shared ? a * d + c : (a * r + b) * d + c];
        called(e, cv_modulation(e->b, &out->t, &table->t, &x->t),
               "modulation");
        compare(e, out, expected, "modulation [%lld, %lld, %lld], shared %d",
                (long long)g, (long long)r, (long long)d, shared);
        end_case(e);
    }
}

void test_rope_table(Env *e)
{
    for (int i = 0; i < 10; i++) {
        int64_t d = PICK(e, 12, 24, 64, 96, 128, 128);
        int frames = (int)PICK(e, 1, 2, 3), h = (int)PICK(e, 1, 2, 7);
        int w = (int)PICK(e, 1, 3, 10);
        int64_t first = PICK(e, 0, 1, 18, 5000), n = (int64_t)frames * h * w;
        /* Pairs of frame, row and column. */
        int64_t pairs[3] = { d / 2 - 2 * (d / 6), d / 6, d / 6 };
        Buffer *out = OUTPUT(e, CV_F32, n, d / 2, 2);
        double *expected = make_doubles(e, n * d), *y = expected;

        for (int64_t t = 0; t < n; t++) {
            int64_t at[3] = { first + t / (h * w), t / w % h, t % w };

            for (int axis = 0; axis < 3; axis++) {
                for (int64_t j = 0; j < pairs[axis]; j++) {
                    double angle = (double)at[axis] / pow(10000,
                        2 * (double)j / (2 * (double)pairs[axis]));

                    *y++ = cos(angle);
                    *y++ = sin(angle);
                }
            }
        }
        called(e, cv_rope_table(e->b, &out->t, first, frames, h, w),
               "rope_table");
        compare(e, out, expected, "rope_table %dx%dx%d from %lld, d %lld",
                frames, h, w, (long long)first, (long long)d);
        end_case(e);
    }
}

void test_combine(Env *e)
{
    for (int i = 0; i < 14; i++) {
        int64_t n = PICK(e, 1, 17, 1000, 40000);
        int terms = i % CV_MAX_TERMS + 1, in_place = i % 2;
        Buffer *buf[CV_MAX_TERMS], *out;
        double *expected = make_doubles(e, n);
        CvTerm term[CV_MAX_TERMS];

        for (int t = 0; t < terms; t++) {
            buf[t] = INPUT(e, CV_F32, 1, n);
            term[t].factor = 3 * random_real(e);
            term[t].tensor = &buf[t]->t;
            for (int64_t j = 0; j < n; j++)
                expected[j] += term[t].factor * buf[t]->host[j];
        }
        out = in_place ? writable(buf[random_int(e, 0, terms - 1)])
                       : OUTPUT(e, CV_F32, n);
        called(e, cv_combine(e->b, &out->t, term, terms), "combine");
        compare(e, out, expected, "combine %d terms of %lld, in place %d",
                terms, (long long)n, in_place);
        /* Rounded once: the result is the nearest float32. */
        for (int64_t j = 0; j < n; j++) {
            if (out->host[j] != (float)expected[j]) {
                fail(e, "combine: element %lld is %.9g, expected %.9g",
                     (long long)j, out->host[j], (float)expected[j]);
                break;
            }
        }
        end_case(e);
    }
}

void test_convert(Env *e)
{
    for (int i = 0; i < 4; i++) {
        int64_t n = PICK(e, 1, 33, 20000);
        Buffer *x = INPUT(e, i % 2 ? CV_F32 : e->b->activation, 5, n);
        Buffer *out = OUTPUT(e, i % 2 ? e->b->activation : CV_F32, n);
        double *expected = make_doubles(e, n);

        for (int64_t j = 0; j < n; j++)
            expected[j] = x->host[j];
        called(e, cv_convert(e->b, &out->t, &x->t), "convert");
        compare(e, out, expected, "convert %lld", (long long)n);
        end_case(e);
    }
}
