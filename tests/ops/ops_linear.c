/*
 * Tests of linear, attention and add_product.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#include <math.h>

#include "ops_test.h"

/* Some kernels of cuBLASLt round a product to bf16 before they add its bias or
 * take its GELU, as PyTorch's separate steps do: half a unit in the last place,
 * 2^-9, of each value. Measured on an H200: 7.9e-4, and only where GELU or rows
 * of an odd length are asked for. */
#define ROUNDED_BEFORE (1.0 / 512)

static double epilogue(CvEpilogue kind, double y, double other, double gate)
{
    switch (kind) {
    case CV_EPI_GELU:
        return 0.5 * y * (1 + tanh(sqrt(2 / 3.14159265358979323846) *
                                   (y + 0.044715 * y * y * y)));
    case CV_EPI_SILU:
        return y / (1 + exp(-y));
    case CV_EPI_MUL:
        return y * other;
    case CV_EPI_ADD:
        return other + y;
    case CV_EPI_GATE_ADD:
        return other + gate * y;
    default:
        return y;
    }
}

static void linear_case(Env *e, CvEpilogue kind, int64_t groups, int64_t n,
                        int64_t in, int64_t out, int bias, int in_place,
                        CvType type)
{
    /* bias: 0: none, 1: float32, 2: in the type of the output, 3: in A */
    int64_t rows = random_int(e, 1, 6);
    Buffer *x = INPUT(e, e->b->activation, 1, n, in);
    Buffer *w = INPUT(e, e->b->weight, sqrt(3.0 / (double)in) * 2, out, in);
    Buffer *b = INPUT(e, bias == 2 ? type : bias == 3 ? e->b->activation
                                                    : CV_F32, 1, out);
    Buffer *other = INPUT(e, type, 1, n, out);
    Buffer *mod = INPUT(e, CV_F32, 1, groups, rows, out);
    Buffer *y = in_place ? writable(other) : OUTPUT(e, type, n, out);
    double *expected = make_doubles(e, n * out);
    double tolerance = e->tolerance, terms = 0, norm = 0;
    CvLinear a = {
        .out = &y->t, .x = &x->t, .weight = &w->t, .bias = bias ? &b->t : NULL,
        .other = kind >= CV_EPI_MUL ? &other->t : NULL,
        .mod = kind == CV_EPI_GATE_ADD ? &mod->t : NULL, .epilogue = kind,
        .gate_row = (int)random_int(e, 0, rows - 1),
    };

    for (int64_t t = 0; t < n && !e->again; t++) {
        const float *gate = mod->host +
            (t / (n / groups) * rows + a.gate_row) * out;

        for (int64_t o = 0; o < out; o++) {
            double sum = bias ? b->host[o] : 0, squares = sum * sum;
            double add = other->host[t * out + o], value;

            for (int64_t i = 0; i < in; i++) {
                double term = (double)x->host[t * in + i] *
                              w->host[o * in + i];

                sum += term;
                squares += term * term;
            }
            value = epilogue(kind, sum, add, gate[o]);
            if (kind == CV_EPI_MUL)
                squares *= add * add;
            else if (kind == CV_EPI_GATE_ADD)
                squares = squares * gate[o] * gate[o] + add * add;
            else if (kind == CV_EPI_ADD)
                squares += add * add;
            terms += squares;
            norm += value * value;
            expected[t * out + o] = value;
        }
    }
    /* Terms may cancel, above all in a single output: rounding follows their
     * size, not that of their sum. */
    e->tolerance *= fmax(1, sqrt(terms / (norm + 1e-30)));
    if (type == CV_BF16 && (kind == CV_EPI_GELU || bias >= 2))
        e->tolerance += ROUNDED_BEFORE;
    called(e, cv_linear(e->b, &a), "linear");
    compare(e, y, expected, "linear epilogue %d, %lld x %lld -> %lld, bias %d,"
            " in place %d", kind, (long long)n, (long long)in, (long long)out,
            bias, in_place);
    e->tolerance = tolerance;
    end_case(e);
}

void test_linear(Env *e)
{
    for (int i = 0; i < 60; i++) {
        CvEpilogue kind = (CvEpilogue)(i % 6);
        int64_t groups = PICK(e, 1, 1, 2, 3);
        int64_t n = groups * PICK(e, 1, 2, 5, 13, 16, 31, 60, 90);

        linear_case(e, kind, groups, n, PICK(e, 1, 3, 16, 33, 64, 96, 257),
                    PICK(e, 1, 3, 15, 16, 17, 33, 64, 70, 129, 260),
                    (int)random_int(e, 0, 3),
                    kind >= CV_EPI_MUL && random_int(e, 0, 1),
                    random_int(e, 0, 1) ? CV_F32 : e->b->activation);
    }
    /* More rows than a tile has, a long sum, and the output of one token. */
    linear_case(e, CV_EPI_GELU, 1, 700, 40, 70, 1, 0, e->b->activation);
    linear_case(e, CV_EPI_GELU, 1, 700, 40, 72, 2, 0, e->b->activation);
    linear_case(e, CV_EPI_NONE, 1, 700, 64, 72, 2, 0, e->b->activation);
    linear_case(e, CV_EPI_NONE, 1, 3, 8960, 65, 1, 0, CV_F32);
    linear_case(e, CV_EPI_SILU, 1, 1, 256, 1536, 1, 0, e->b->activation);
}

static void attention_case(Env *e, int64_t n, int64_t m, int64_t heads,
                           int64_t d, int bias, int64_t repeats, double size)
{
    Buffer *q = INPUT(e, e->b->activation, size, n, heads, d);
    Buffer *k = INPUT(e, e->b->activation, 1, m, heads, d);
    Buffer *v = INPUT(e, e->b->activation, 1, m, heads, d);
    Buffer *table = INPUT(e, CV_F32, 3, heads, n, m);
    Buffer *out = OUTPUT(e, e->b->activation, n, heads, d);
    double *expected = make_doubles(e, n * heads * d);
    double *score = make_doubles(e, m);
    double tolerance = e->tolerance, largest = 0;
    CvAttention a = { .out = &out->t, .q = &q->t, .k = &k->t, .v = &v->t,
                      .bias = bias ? &table->t : NULL,
                      .scale = bias ? 1 : 1 / sqrtf((float)d),
                      .last_repeats = repeats };

    for (int64_t h = 0; h < heads && !e->again; h++) {
        for (int64_t i = 0; i < n; i++) {
            double *y = expected + (i * heads + h) * d;
            double top = -INFINITY, sum = 0;

            for (int64_t j = 0; j < m; j++) {
                score[j] = a.scale * dot(q->host + (i * heads + h) * d,
                                         k->host + (j * heads + h) * d, d);
                if (bias)
                    score[j] += table->host[(h * n + i) * m + j];
                top = fmax(top, score[j]);
                largest = fmax(largest, fabs(score[j]));
            }
            for (int64_t j = 0; j < m; j++) {
                int64_t times = j == m - 1 ? repeats : 1;

                /* Literally as many equal keys. */
                score[j] = exp(score[j] - top) * (double)times;
                sum += score[j];
            }
            for (int64_t j = 0; j < m; j++)
                for (int64_t c = 0; c < d; c++)
                    y[c] += score[j] / sum * v->host[(j * heads + h) * d + c];
        }
    }
    /* An error of a score is a relative error of a weight; tensor cores take
     * the weights as bf16. */
    e->tolerance *= 1 + largest / 4;
    if (e->b->activation == CV_BF16)
        e->tolerance += 0x1p-9;
    called(e, cv_attention(e->b, &a), "attention");
    compare(e, out, expected, "attention %lld x %lld, %lld heads of %lld, "
            "bias %d, repeats %lld, size %g", (long long)n, (long long)m,
            (long long)heads, (long long)d, bias, (long long)repeats, size);
    e->tolerance = tolerance;
    end_case(e);
}

void test_attention(Env *e)
{
    for (int i = 0; i < 40; i++)
        attention_case(e, PICK(e, 1, 2, 7, 16, 33, 64, 65, 130),
                       PICK(e, 1, 2, 15, 16, 17, 64, 100, 257, 515),
                       PICK(e, 1, 2, 3, 4),
                       PICK(e, 2, 8, 12, 40, 64, 96, 128), i % 2,
                       PICK(e, 1, 1, 2, 500), i % 3 ? 1 : 8);
    /* Scores that differ by more than float32's exponents reach. */
    attention_case(e, 20, 300, 2, 128, 0, 1, 300);
    /* Head sizes of the VAE. */
    attention_case(e, 33, 60, 1, 384, 0, 1, 1);
    attention_case(e, 5, 70, 1, 50, 0, 1, 1);
    /* Those that tensor cores do, around the sizes of their tiles. */
    e->aligned = 1;
    for (int i = 0; i < 12; i++)
        attention_case(e, PICK(e, 1, 63, 64, 65, 128, 130),
                       PICK(e, 1, 7, 63, 64, 65, 128, 200, 515),
                       PICK(e, 1, 2, 3), i % 3 ? 128 : 64, i % 6 == 3,
                       PICK(e, 1, 1, 500), i % 4 ? 1 : 8);
    /* Few queries and many keys, which blocks share among them. */
    attention_case(e, 130, 1500, 3, 128, 0, 500, 1);
    attention_case(e, 60, 2900, 1, 128, 0, 1, 8);
    attention_case(e, 70, 140, 1, 384, 0, 1, 1);
    attention_case(e, 64, 64, 2, 384, 0, 3, 8);
    e->aligned = 0;
}

static void add_product_case(Env *e, int64_t n, int64_t k, int64_t d,
                             double scale)
{
    Buffer *left = INPUT(e, CV_F32, 1, n, k);
    Buffer *right = INPUT(e, CV_F32, 1, k, d);
    Buffer *out = writable(INPUT(e, CV_F32, 1, n, d));
    double *expected = make_doubles(e, n * d);
    double tolerance = e->tolerance, terms = 0, norm = 0;

    for (int64_t i = 0; i < n; i++) {
        for (int64_t j = 0; j < d; j++) {
            double old = out->host[i * d + j], sum = 0;

            terms += old * old;
            for (int64_t l = 0; l < k; l++) {
                double term = (double)left->host[i * k + l] *
                              right->host[l * d + j];

                sum += term;
                terms += scale * term * scale * term;
            }
            expected[i * d + j] = old + (float)scale * sum;
            norm += expected[i * d + j] * expected[i * d + j];
        }
    }
    e->tolerance *= fmax(1, sqrt(terms / (norm + 1e-30)));
    called(e, cv_add_product(e->b, &out->t, &left->t, &right->t,
                             (float)scale), "add_product");
    compare(e, out, expected, "add_product %lld x %lld x %lld times %g",
            (long long)n, (long long)k, (long long)d, scale);
    e->tolerance = tolerance;
    end_case(e);
}

void test_add_product(Env *e)
{
    for (int i = 0; i < 40; i++)
        add_product_case(e, PICK(e, 1, 2, 7, 33, 63, 64, 65, 130),
                         PICK(e, 1, 2, 3, 4, 16, 31, 64),
                         PICK(e, 1, 3, 8, 15, 16, 17, 32, 33, 96, 129),
                         i % 3 ? random_real(e) : 1);
    add_product_case(e, 70, 300, 40, -0.7); /* a rank of several tiles */
    add_product_case(e, 9, 5, 20, 0);
}
