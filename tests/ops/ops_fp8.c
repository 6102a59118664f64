/*
 * Tests of what takes or makes weights in fp8: upload, linear, embed, random,
 * quantise, scale_rows.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * A backend that does not take them has to say so.
 */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ops_test.h"

/* By the definition of the formats; NaN and infinities are not asked for. */
static double value_of(CvType type, uint8_t byte)
{
    int mantissa = type == CV_F8_E4M3 ? 3 : 2;
    int bias = type == CV_F8_E4M3 ? 7 : 15;
    int exponent = (byte & 0x7f) >> mantissa;
    int fraction = byte & ((1 << mantissa) - 1);
    double value = ldexp(exponent ? fraction + (1 << mantissa) : fraction,
                         (exponent ? exponent : 1) - bias - mantissa);

    return byte & 0x80 ? -value : value;
}

static int is_number(CvType type, uint8_t byte)
{
    return type == CV_F8_E4M3 ? (byte & 0x7f) != 0x7f : (byte & 0x7c) != 0x7c;
}

/* A matrix [rows, columns] of any numbers, times factors which bring them to
 * about `size`. */
typedef struct Matrix {
    CvTensor t;
    Buffer *scale;
    void *memory;
    uint8_t *bytes;  /* [rows * columns] */
} Matrix;

static void *need(void *p)
{
    if (!p) {
        fputs("Bail out! out of memory\n", stdout);
        exit(255);
    }
    return p;
}

/* one: the same factor for all rows. */
static Matrix make_matrix(Env *e, CvType type, int64_t rows, int64_t columns,
                          double size, int one)
{
    const int64_t n = rows * columns;
    const double largest = type == CV_F8_E4M3 ? 448 : 57344;
    /* first, so that it decides about addresses */
    Matrix m = { .scale = INPUT(e, CV_F32, 1, rows) };
    int64_t offset = e->any_address ? random_int(e, 0, 20) : 0;
    float *factors = need(malloc((size_t)rows * sizeof(*factors)));

    for (int64_t i = 0; i < rows; i++)
        factors[i] = (float)((one ? 0.7 : m.scale->host[i]) * size / largest);
    set_contents(e, m.scale, factors);
    free(factors);
    m.bytes = need(malloc((size_t)n + 1));
    for (int64_t i = 0; i < n; i++)
        do
            m.bytes[i] = (uint8_t)random_bits(e);
        while (!is_number(type, m.bytes[i]));
    if (e->b->ops->alloc(e->b, (size_t)(n + offset), &m.memory))
        need(NULL);
    m.t = CV_TENSOR((uint8_t *)m.memory + offset, type, rows, columns);
    called(e, cv_upload(e->b, &m.t, m.bytes, type), "upload");
    return m;
}

static void free_matrix(Env *e, Matrix *m)
{
    called(e, cv_finish(e->b), "finish");
    e->b->ops->release(e->b, m->memory);
    free(m->bytes);
}

/* Element i as it is multiplied: in float32. */
static float element(const Matrix *m, int64_t i)
{
    volatile float product = m->scale->host[i / m->t.dim[1]];

    product *= (float)value_of(m->t.type, m->bytes[i]);
    return product;
}

/* Rounded to bf16, the type W of backends that take fp8. */
static double to_bf16(float x)
{
    uint32_t bits;

    memcpy(&bits, &x, sizeof(bits));
    bits = (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000u;
    memcpy(&x, &bits, sizeof(x));
    return (double)x;
}

/* 1 where there is nothing to test, after having looked that it is refused. */
static int is_refused(Env *e)
{
    CvLog *log = e->b->log;
    Buffer *x, *w, *scale, *y;
    CvTensor fake;
    CvLinear a;

    if (e->b->fp8)
        return 0;
    x = INPUT(e, e->b->activation, 1, 3, 4);
    w = INPUT(e, e->b->weight, 1, 5, 4);
    scale = INPUT(e, CV_F32, 1, 5);
    y = OUTPUT(e, CV_F32, 3, 5);
    fake = CV_TENSOR(w->t.data, CV_F8_E4M3, 5, 4);
    a = (CvLinear){ .out = &y->t, .x = &x->t, .weight = &fake,
                    .scale = &scale->t };
    e->cases++;
    e->b->log = NULL; /* what is wanted is no news */
    if (cv_linear(e->b, &a) != CAUSVID_ERR(EINVAL) ||
        cv_upload(e->b, &fake, w->host, CV_F8_E4M3) != CAUSVID_ERR(EINVAL))
        fail(e, "fp8 is taken, which the backend does not say");
    e->b->log = log;
    end_case(e);
    return 1;
}

static void linear_case(Env *e, CvType type, CvEpilogue kind, int64_t n,
                        int64_t in, int64_t out, int one, CvType result)
{
    Matrix m = make_matrix(e, type, out, in, 3 / sqrt((double)in), one);
    Buffer *x = INPUT(e, e->b->activation, 1, n, in);
    Buffer *bias = INPUT(e, result, 1, out);
    Buffer *other = writable(INPUT(e, result, 1, n, out));
    Buffer *mod = INPUT(e, CV_F32, 1, 1, 2, out);
    Buffer *y = kind >= CV_EPI_MUL ? other : OUTPUT(e, result, n, out);
    double *expected = make_doubles(e, n * out);
    double tolerance = e->tolerance, terms = 0, norm = 0;
    CvLinear a = { .out = &y->t, .x = &x->t, .weight = &m.t,
                   .scale = &m.scale->t, .bias = &bias->t,
                   .other = kind >= CV_EPI_MUL ? &other->t : NULL,
                   .mod = kind == CV_EPI_GATE_ADD ? &mod->t : NULL,
                   .epilogue = kind, .gate_row = 1 };

    for (int64_t o = 0; o < out && !e->again; o++) {
        for (int64_t t = 0; t < n; t++)
            expected[t * out + o] = bias->host[o];
        for (int64_t i = 0; i < in; i++) {
            double w = to_bf16(element(&m, o * in + i));

            for (int64_t t = 0; t < n; t++) {
                double term = w * x->host[t * in + i];

                terms += term * term;
                expected[t * out + o] += term;
            }
        }
    }
    for (int64_t i = 0; i < n * out; i++) {
        double *v = &expected[i], add = other->host[i];

        if (kind == CV_EPI_SILU)
            *v /= 1 + exp(-*v);
        else if (kind == CV_EPI_MUL)
            *v *= add;
        else if (kind == CV_EPI_ADD)
            *v += add;
        else if (kind == CV_EPI_GATE_ADD)
            *v = add + mod->host[out + i % out] * *v;
        norm += *v * *v;
    }
    e->tolerance *= fmax(1, sqrt(terms / (norm + 1e-30)));
    if (result == CV_BF16) /* as in ops_linear.c, of a GPU's library */
        e->tolerance += 1.0 / 512;
    called(e, cv_linear(e->b, &a), "linear");
    compare(e, y, expected, "linear, %s, epilogue %d, %lld x %lld -> %lld, "
            "%s", cv_type_name(type), kind, (long long)n, (long long)in,
            (long long)out, one ? "one factor" : "a factor a row");
    e->tolerance = tolerance;
    free_matrix(e, &m);
    end_case(e);
}

void test_linear_fp8(Env *e)
{
    static const CvEpilogue kinds[] = { CV_EPI_NONE, CV_EPI_SILU, CV_EPI_MUL,
                                        CV_EPI_ADD, CV_EPI_GATE_ADD };

    if (is_refused(e))
        return;
    for (int i = 0; i < 40; i++)
        linear_case(e, i % 2 ? CV_F8_E5M2 : CV_F8_E4M3, kinds[i % 5],
                    PICK(e, 1, 2, 13, 60), PICK(e, 1, 3, 16, 33, 64, 272),
                    PICK(e, 1, 3, 15, 16, 17, 64, 129), i % 4 > 1,
                    random_int(e, 0, 1) ? CV_F32 : e->b->activation);
    /* Weights that go through scratch in pieces: a part of the columns at a
     * time, in the library and in the epilogues after it. */
    linear_case(e, CV_F8_E4M3, CV_EPI_NONE, 2, 70000, 300, 0, CV_F32);
    linear_case(e, CV_F8_E5M2, CV_EPI_GATE_ADD, 2, 70000, 300, 0, CV_F32);
}

/* Shows each number of a table as it is: what upload stored, too. */
void test_embed_fp8(Env *e)
{
    if (is_refused(e))
        return;
    for (int i = 0; i < 16; i++) {
        int64_t rows = PICK(e, 1, 5, 300), d = PICK(e, 1, 7, 64, 100, 300);
        int64_t n = PICK(e, 1, 3, 77);
        Matrix m = make_matrix(e, i % 2 ? CV_F8_E5M2 : CV_F8_E4M3, rows, d, 1,
                               i % 4 > 1);
        Buffer *ids = make_ids(e, n, rows);
        Buffer *out = OUTPUT(e, CV_F32, n, d);
        double *expected = make_doubles(e, n * d);
        const int32_t *id = (const int32_t *)(void *)ids->host;

        for (int64_t t = 0; t < n * d; t++)
            expected[t] = element(&m, id[t / d] * d + t % d);
        called(e, cv_embed(e->b, &out->t, &m.t, &m.scale->t, &ids->t),
               "embed");
        compare(e, out, expected, "embed, %s, %lld of %lld x %lld",
                cv_type_name(m.t.type), (long long)n, (long long)rows,
                (long long)d);
        free_matrix(e, &m);
        end_case(e);
    }
}

/* What is no number is seen, wherever it stands. */
void test_upload_fp8(Env *e)
{
    static const uint8_t bad[2][5] = { { 0x7f, 0xff, 0x7f, 0xff, 0x7f },
                                       { 0x7c, 0xfc, 0x7d, 0xfe, 0x7f } };

    if (is_refused(e))
        return;
    for (int i = 0; i < 20; i++) {
        int64_t n = PICK(e, 1, 15, 16, 17, 5000), at = random_int(e, 0, n - 1);
        CvType type = i % 2 ? CV_F8_E5M2 : CV_F8_E4M3;
        Matrix m = make_matrix(e, type, 1, n, 1, 0);

        m.bytes[at] = bad[i % 2][i % 5];
        e->cases++;
        if (cv_upload(e->b, &m.t, m.bytes, type) != CAUSVID_ERR(EILSEQ))
            fail(e, "upload: 0x%02x of %s at %lld of %lld is let through",
                 m.bytes[at], cv_type_name(type), (long long)at,
                 (long long)n);
        free_matrix(e, &m);
        end_case(e);
    }
}

/* The nearest number, the even one of two. */
static double to_fp8(CvType type, double x)
{
    double best = 0;
    uint8_t best_byte = 0;

    for (int i = 0; is_number(type, (uint8_t)i); i++) {
        double v = value_of(type, (uint8_t)i);
        double d = fabs(v - fabs(x)), b = fabs(best - fabs(x));

        if (d < b || (d == b && best_byte & 1)) {
            best = v;
            best_byte = (uint8_t)i;
        }
    }
    return x < 0 ? -best : best;
}

/* The numbers of bf16, rounded once more. */
void test_random_fp8(Env *e)
{
    if (is_refused(e))
        return;
    for (int i = 0; i < 8; i++) {
        int64_t n = PICK(e, 1, 7, 8, 9, 2047, 2049), wrong = 0;
        Matrix m = make_matrix(e, CV_F8_E4M3, 1, n, 448, 0);
        Buffer *y = OUTPUT(e, CV_F32, 1, n), *wide = OUTPUT(e, CV_F32, 1, n);
        Buffer *ids = make_ids(e, 1, 1);
        /* from subnormal numbers to what fp8 has not */
        float scale = i % 4 < 3 ? 448 : 0.01f, one = 1;
        uint64_t seed = random_bits(e);

        set_contents(e, m.scale, &one);
        if (i == 5)
            scale = 600;
        called(e, cv_random(e->b, &m.t, seed, scale), "random");
        called(e, cv_random(e->b, &wide->t, seed, scale), "random");
        called(e, cv_embed(e->b, &y->t, &m.t, &m.scale->t, &ids->t), "embed");
        called(e, cv_download(e->b, y->host, &y->t), "download");
        called(e, cv_download(e->b, wide->host, &wide->t), "download");
        e->cases++;
        for (int64_t j = 0; j < n; j++)
            wrong += (double)y->host[j] !=
                     to_fp8(CV_F8_E4M3, (double)wide->host[j]);
        if (wrong)
            fail(e, "random: %lld of %lld elements are wrong",
                 (long long)wrong, (long long)n);
        add_to_hash(e, y->host, (size_t)n * sizeof(float));
        free_matrix(e, &m);
        end_case(e);
    }
}

/* Each row uses all of its type's numbers. */
void test_quantise(Env *e)
{
    if (is_refused(e))
        return;
    for (int i = 0; i < 20; i++) {
        CvType type = i % 2 ? CV_F8_E5M2 : CV_F8_E4M3;
        float largest = type == CV_F8_E4M3 ? 448 : 57344;
        int64_t rows = PICK(e, 1, 3, 40), d = PICK(e, 1, 31, 256, 300);
        Matrix m = make_matrix(e, type, rows, d, 1, 0);
        Buffer *x = INPUT(e, CV_F32, ldexp(1, (int)random_int(e, -20, 10)),
                          rows, d);
        Buffer *ids = make_ids(e, rows, 1);
        Buffer *y = OUTPUT(e, CV_F32, rows, d);
        double *expected = make_doubles(e, rows * d);
        int32_t *id = (int32_t *)(void *)ids->host;

        for (int64_t r = 0; r < rows; r++)
            id[r] = (int32_t)r;
        called(e, cv_upload(e->b, &ids->t, id, CV_I32), "upload");
        if (i % 5 == 4) {
            memset(x->host, 0, (size_t)d * sizeof(float)); /* a row of zeros */
            set_contents(e, x, x->host);
        }
        writable(m.scale);
        called(e, cv_quantise(e->b, &m.t, &m.scale->t, &x->t), "quantise");
        called(e, cv_embed(e->b, &y->t, &m.t, &m.scale->t, &ids->t), "embed");
        for (int64_t r = 0; r < rows; r++) {
            const float *row = x->host + r * d;
            volatile float factor = 0, quotient;

            for (int64_t k = 0; k < d; k++)
                factor = fmaxf(factor, fabsf(row[k]));
            factor = factor > 0 ? factor / largest : 1;
            for (int64_t k = 0; k < d; k++) {
                volatile float product = factor;

                quotient = row[k] / factor;
                product *= (float)to_fp8(type, (double)quotient);
                expected[r * d + k] = (double)product;
            }
        }
        compare(e, y, expected, "quantise, %s, %lld x %lld",
                cv_type_name(type), (long long)rows, (long long)d);
        free_matrix(e, &m);
        end_case(e);
    }
}

void test_scale_rows(Env *e)
{
    if (is_refused(e))
        return;
    for (int i = 0; i < 16; i++) {
        int64_t n = PICK(e, 1, 3, 40), d = PICK(e, 1, 7, 64, 1030, 3000);
        Buffer *x = writable(INPUT(e, CV_F32, 1, n, d));
        Buffer *scale = INPUT(e, CV_F32, 0.01, n);
        double *expected = make_doubles(e, n * d);

        for (int64_t k = 0; k < n * d; k++) {
            volatile float product = scale->host[k / d];

            product *= x->host[k];
            expected[k] = (double)product;
        }
        called(e, cv_scale_rows(e->b, &x->t, &scale->t), "scale_rows");
        compare(e, x, expected, "scale_rows, %lld x %lld", (long long)n,
                (long long)d);
        end_case(e);
    }
}
