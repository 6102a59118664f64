/*
 * Tests of attention in 8 bits: to a tolerance of its own, on numbers that are
 * hard for it.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "ops_test.h"

/* Relative L2 errors. Weights and values of 4 bits alone make 0.037 to 0.045, by
 * where in a binary order they lie; and little where a mean that was taken off
 * is most of the result, or sums of tensor cores are all that is wrong. */
#define TOLERANCE 5e-2
#define TOLERANCE_OF_MEANS 1.5e-2

enum { D = 128 };

/* What the numbers are like. */
typedef enum Kind {
    UNIFORM,   /* -1..1 */
    NORMAL,
    SHARP,     /* scores of a standard deviation of 4 */
    CHANNELS,  /* some of K times 20, of V times 30 */
    OTHERS,    /* some of Q times 20, others of K */
    SAME,      /* the same of Q and K times 10, of V times 30 */
    ROWS,      /* some tokens of K times 8, of V times 1000 */
    OFFSETS,   /* some of Q, K and V have a mean of 10 to 30 */
    REGIONS,   /* only every other token is seen, whose values have a mean */
    EQUAL,     /* all keys, all values */
    N_KINDS,
} Kind;

static const char *const names[] = {
    [UNIFORM] = "uniform", [NORMAL] = "normal", [SHARP] = "sharp",
    [CHANNELS] = "outlier channels of K and V",
    [OTHERS] = "outlier channels of Q, others of K",
    [SAME] = "the same outlier channels of Q and K",
    [OFFSETS] = "channels with offsets", [ROWS] = "outlier tokens",
    [REGIONS] = "regions with a mean", [EQUAL] = "equal keys",
};

static double normal(Env *e)
{
    double u = fabs(random_real(e)), v = random_real(e);

    return sqrt(-2 * log(u > 1e-9 ? u : 1e-9)) * cos(3.14159265358979 * v);
}

/* A number of q (0), k (1) or v (2). */
static double number(Env *e, Kind kind, int which, int64_t token, int64_t d)
{
    double x = kind == UNIFORM ? random_real(e) : normal(e);
    int first = d % 50 == 3, other = d % 50 == 5;

    switch (kind) {
    case SHARP:
        return which == 0 ? 4 * x : x;
    case CHANNELS:
        return first && which ? (which == 1 ? 20 : 30) * x : x;
    case OTHERS:
        return (which == 0 && first) || (which == 1 && other) ? 20 * x : x;
    case SAME:
        return first ? (which == 2 ? 30 : 10) * x : x;
    case OFFSETS:
        return first ? x + 30 - 20 * (which == 0) : other ? x - 30 : x;
    case ROWS:
        return token % 97 == 5 && which ? (which == 1 ? 8 : 1000) * x : x;
    case REGIONS:
        return which == 0 ? x + 0.5
                          : x + (which + 1) * (token % 2 ? 0.5 : -0.5);
    case EQUAL:
        return which ? cos((double)d) : x;
    default:
        return x;
    }
}

static Buffer *numbers(Env *e, Kind kind, int which, int64_t n, int64_t heads)
{
    Buffer *buf = INPUT(e, CV_BF16, 1, n, heads, D);
    float *values = malloc((size_t)buf->n * sizeof(*values));

    if (!values) {
        fputs("Bail out! out of memory\n", stdout);
        exit(255);
    }
    for (int64_t i = 0; i < buf->n; i++)
        values[i] = (float)number(e, kind, which, i / (heads * D), i % D);
    set_contents(e, buf, values);
    free(values);
    return buf;
}

/* expected[h, i] of one query. score: m. */
static void attend(const CvAttention *a, const Buffer *q, const Buffer *k,
                   const Buffer *v, int64_t i, int64_t h, double *score,
                   double *out)
{
    int64_t m = a->k->dim[0], heads = a->q->dim[1];
    const float *x = q->host + (i * heads + h) * D;
    double top = -INFINITY, sum = 0;

    for (int64_t j = 0; j < m; j++) {
        const float *y = k->host + (j * heads + h) * D;

        score[j] = a->scale * dot(x, y, D);
        top = fmax(top, score[j]);
    }
    for (int64_t j = 0; j < m; j++) {
        const float *y = v->host + (j * heads + h) * D;
        double weight = exp(score[j] - top);

        sum += weight;
        for (int64_t c = 0; c < D; c++)
            out[c] += weight * y[c];
    }
    for (int64_t c = 0; c < D; c++)
        out[c] /= sum;
}

static void attention8_case(Env *e, Kind kind, int64_t n, int64_t m,
                            int64_t heads)
{
    Buffer *q = numbers(e, kind, 0, n, heads);
    Buffer *k = numbers(e, kind, 1, m, heads);
    Buffer *v = numbers(e, kind, 2, m, heads);
    Buffer *out = OUTPUT(e, CV_BF16, n, heads, D);
    double *expected = make_doubles(e, n * heads * D);
    double *score = make_doubles(e, m), worst = e->worst;
    double tolerance = e->tolerance;
    CvAttention a = { .out = &out->t, .q = &q->t, .k = &k->t, .v = &v->t,
                      .scale = 1 / sqrtf((float)D), .last_repeats = 1 };

    for (int64_t h = 0; h < heads && !e->again; h++)
        for (int64_t i = 0; i < n; i++)
            attend(&a, q, k, v, i, h, score, expected + (i * heads + h) * D);
    e->tolerance = kind >= OFFSETS ? TOLERANCE_OF_MEANS : TOLERANCE;
    e->worst = 0;
    called(e, cv_attention(e->b, &a), "attention");
    compare(e, out, expected, "attention %lld x %lld, %lld heads, %s",
            (long long)n, (long long)m, (long long)heads, names[kind]);
    if (!e->again)
        printf("# %4lld x %5lld, %lld heads: %.4f  %s\n", (long long)n,
               (long long)m, (long long)heads, e->worst, names[kind]);
    e->worst = fmax(e->worst, worst);
    e->tolerance = tolerance;
    end_case(e);
}

/* For a backend whose attention of 128 channels is always in 8 bits. */
void test_attention8(Env *e)
{
    e->aligned = 1;
    /* One token, and around the sizes of tiles. */
    attention8_case(e, NORMAL, 1, 1, 1);
    attention8_case(e, NORMAL, 1, 192, 2);
    attention8_case(e, NORMAL, 63, 193, 1);
    attention8_case(e, NORMAL, 64, 191, 3);
    attention8_case(e, NORMAL, 128, 64, 1);
    attention8_case(e, NORMAL, 129, 65, 2);
    for (int kind = 0; kind < N_KINDS; kind++)
        attention8_case(e, (Kind)kind, random_int(e, 40, 140),
                        random_int(e, 400, 700), 1);
    /* Few queries and many keys, which blocks share among them. */
    attention8_case(e, SAME, 70, 1500, 2);
    attention8_case(e, NORMAL, 3, 2000, 7);
    /* So many that the sums of tensor cores would not do. (The emulated GPU has
     * four multiprocessors and does not share these out.) */
    attention8_case(e, REGIONS, 100, 5000, 4);
    attention8_case(e, NORMAL, 4, 9000, 4);
    e->aligned = 0;
}
