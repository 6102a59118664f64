/*
 * Tests of attention in 8 bits: to a tolerance of its own, on numbers that are
 * hard for it, with keys and values as they are or kept in 8 bits.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#include <errno.h>
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

/* One query of a head, of whose keys and values k and v have `step` numbers
 * each. score: m. */
static void attend(const float *x, const float *k, const float *v, int64_t m,
                   int64_t step, double *score, double *out)
{
    double top = -INFINITY, sum = 0;

    for (int64_t j = 0; j < m; j++) {
        const float *y = k + j * step;

        score[j] = dot(x, y, D) / sqrt((double)D);
        top = fmax(top, score[j]);
    }
    for (int64_t c = 0; c < D; c++)
        out[c] = 0;
    for (int64_t j = 0; j < m; j++) {
        const float *y = v + j * step;
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
            attend(q->host + (i * heads + h) * D, k->host + h * D,
                   v->host + h * D, m, heads * D, score,
                   expected + (i * heads + h) * D);
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

/* ---- to fp8 ---- */

/* The same as bf16, made fp8 by a scale that max |v| gives: `largest` has it,
 * `most` is it. The results of `out` are given. */
static void compare_outputs(Env *e, CvAttention a, const Buffer *out,
                            Narrow *to, const Buffer *largest, double most,
                            const char *name)
{
    const int64_t n = to->t.dim[0], all = n * to->t.dim[1];
    double *values = malloc((size_t)(all + n) * sizeof(*values));
    double *bounds = values + all;
    char what[128];

    if (!values) {
        fputs("Bail out! out of memory\n", stdout);
        exit(255);
    }
    for (int64_t i = 0; i < all; i++)
        values[i] = out->host[i];
    for (int64_t i = 0; i < n; i++)
        bounds[i] = most * 448 / 416;
    a.out       = &to->t;
    a.out_scale = &to->scale->t;
    a.largest   = &largest->t;
    called(e, cv_attention(e->b, &a), "attention");
    snprintf(what, sizeof(what), "attention to fp8, %lld rows, %s",
             (long long)n, name);
    /* What it is compared with has been rounded to bf16. */
    compare_narrow(e, to, values, bounds, 1.0 / 256, 1e-6, what);
    free(values);
}

/* With repeats of the last key it is computed in bf16. */
static void outputs_case(Env *e, Kind kind, int64_t n, int64_t m,
                         int64_t heads, int64_t repeats)
{
    Narrow to = make_narrow(e, n, heads * D, 0, 0);
    Buffer *q = numbers(e, kind, 0, n, heads);
    Buffer *k = numbers(e, kind, 1, m, heads);
    Buffer *v = numbers(e, kind, 2, m, heads);
    Buffer *out = OUTPUT(e, CV_BF16, n, heads, D);
    Buffer *largest = writable(INPUT(e, CV_F32, 1, 1));
    CvAttention a = { .out = &out->t, .q = &q->t, .k = &k->t, .v = &v->t,
                      .scale = 1 / sqrtf((float)D), .last_repeats = repeats };
    float most = 0;

    if (kind == EQUAL && n == 1) { /* and 0 */
        float *zeros = calloc((size_t)v->n, sizeof(*zeros));

        set_contents(e, v, zeros);
        free(zeros);
    }
    set_contents(e, largest, &most);
    for (int64_t i = 0; i < v->n; i++)
        most = fmaxf(most, fabsf(v->host[i]));
    called(e, cv_largest(e->b, &largest->t, &v->t), "largest");
    called(e, cv_attention(e->b, &a), "attention");
    called(e, cv_finish(e->b), "finish");
    called(e, cv_download(e->b, out->host, &out->t), "download");
    compare_outputs(e, a, out, &to, largest, (double)most, names[kind]);
    free_narrow(e, &to);
    end_case(e);
}

void test_outputs8(Env *e)
{
    e->aligned = 1;
    for (int kind = 0; kind < N_KINDS; kind++) {
        int64_t n = random_int(e, 1, 140), m = random_int(e, 1, 400);

        outputs_case(e, (Kind)kind, n, m, random_int(e, 1, 3),
                     kind % 2 ? 1 : 5);
    }
    outputs_case(e, EQUAL, 1, 20, 2, 1);
    outputs_case(e, EQUAL, 1, 20, 2, 3);
    /* The last wave is shared out: both kernels. */
    outputs_case(e, NORMAL, 70, 1500, 2, 1);
    outputs_case(e, NORMAL, 70, 1500, 2, 7);
    outputs_case(e, NORMAL, 150, 900, 3, 1);
    e->aligned = 0;
}

/* ---- a ring ---- */

/* What a block's numbers are like, in all and in every 50th channel. */
typedef struct Look {
    double k_size, v_size;         /* of all channels */
    double k_channel, v_channel;   /* of these, times that */
    double k_offset, v_offset;     /* and their mean */
    double k_turned;               /* mean of some channels that rope turns
                                    * with the frame */
} Look;

/* The first pass of the first block, its second one, later blocks. */
typedef struct Drift {
    const char *name;
    Look noise, first, later;
    double tolerance;
} Drift;

#define PLAIN { 1, 1, 1, 1, 0, 0, 0 }
static const Drift drifts[] = {
    { "the same", PLAIN, PLAIN, PLAIN, TOLERANCE },
    { "outlier channels all along", PLAIN, { 1, 1, 20, 30, 0, 0, 0 },
      { 1, 1, 20, 30, 0, 0, 0 }, TOLERANCE },
    { "outlier channels that come", PLAIN, PLAIN, { 1, 1, 20, 30, 0, 0, 0 },
      TOLERANCE },
    { "outlier channels that go", PLAIN, { 1, 1, 20, 30, 0, 0, 0 }, PLAIN,
      TOLERANCE },
    { "larger", PLAIN, PLAIN, { 3, 100, 1, 1, 0, 0, 0 }, TOLERANCE },
    /* (As large keys as small ones: weights of the first block's would be below
     * e4m3's.) */
    { "much larger", PLAIN, PLAIN, { 4, 1e4, 1, 1, 0, 0, 0 }, TOLERANCE },
    { "smaller", PLAIN, PLAIN, { 0.3, 0.001, 1, 1, 0, 0, 0 }, TOLERANCE },
    { "offsets all along", PLAIN, { 1, 1, 1, 1, 30, 30, 0 },
      { 1, 1, 1, 1, 30, 30, 0 }, TOLERANCE_OF_MEANS },
    { "offsets that turn round", PLAIN, { 1, 1, 1, 1, 10, 10, 0 },
      { 1, 1, 1, 1, -10, -10, 0 }, TOLERANCE },
    { "offsets of keys that turn", PLAIN, { 1, 1, 1, 1, 30, 0, 30 },
      { 1, 1, 1, 1, 30, 0, -30 }, TOLERANCE },
};

enum { SEEN = 64 }; /* queries of a block that are looked at */

typedef struct Ring {
    CvRing ring;
    Buffer *q, *k, *v;   /* what should be in it, and today's form of it */
    Buffer *qkv, *norm[2], *rope, *out, *largest;
    Narrow narrow;       /* out in fp8 */
    double most;         /* of values that were written */
    float *numbers;      /* for qkv */
    double *expected, *score;
} Ring;

static void open_ring(Env *e, Ring *r, int64_t slots, int64_t tokens,
                      int64_t heads)
{
    const int64_t rows = slots * tokens, width = heads * D;
    CvTensor *data = &r->ring.data;

    r->ring = (CvRing){ .slots = slots, .tokens = tokens, .heads = heads,
                        .d = D };
    *data = CV_TENSOR(NULL, CV_U8, cv_ring_bytes(e->b, &r->ring));
    if (e->b->ops->alloc(e->b, (size_t)data->dim[0], &data->data) ||
        !(r->numbers = malloc((size_t)(tokens * 3 * width) *
                              sizeof(*r->numbers)))) {
        fputs("Bail out! out of memory\n", stdout);
        exit(255);
    }
    called(e, cv_zero(e->b, data), "zero");
    r->q = OUTPUT(e, CV_BF16, tokens, heads, D);
    r->k = INPUT(e, CV_BF16, 1, rows, heads, D);
    r->v = INPUT(e, CV_BF16, 1, rows, heads, D);
    r->qkv = INPUT(e, CV_BF16, 1, tokens, 3 * width);
    for (int i = 0; i < 2; i++)
        r->norm[i] = INPUT(e, CV_F32, 1, width);
    r->rope = INPUT(e, CV_F32, 1, tokens, D / 2, 2);
    r->out = OUTPUT(e, CV_BF16, SEEN < tokens ? SEEN : tokens, heads, D);
    r->narrow = make_narrow(e, r->out->t.dim[0], heads * D, 0, 0);
    r->largest = writable(INPUT(e, CV_F32, 1, 1));
    r->expected = make_doubles(e, r->out->n);
    r->score = make_doubles(e, rows);
    for (int64_t i = 0; i < r->rope->n; i++)
        r->rope->host[i] = i % 2 == 0;
    set_contents(e, r->rope, r->rope->host);
}

/* Write n rows of a block from row `at` of its slot on, and note them. */
static void write_ring(Env *e, Ring *r, const Look *look, int64_t slot,
                       int64_t at, int64_t n, int alone)
{
    const int64_t width = r->ring.heads * D, row = slot * r->ring.tokens + at;
    double size = 0, rms;
    CvTensor qkv = cv_rows(&r->qkv->t, 0, n), q = cv_rows(&r->q->t, 0, n);
    CvTensor rope = cv_rows(&r->rope->t, 0, n);
    CvQkNormRope a = { .out_q = &q, .row = row, .qkv = &qkv,
                       .norm_q = &r->norm[0]->t, .norm_k = &r->norm[1]->t,
                       .rope = &rope, .largest = &r->largest->t,
                       .eps = 1e-6f, .ring = &r->ring, .alone = alone };
    const float zero = 0;

    if (alone)
        set_contents(e, r->largest, &zero);
    r->most = alone ? 0 : r->most;

    for (int64_t i = 0; i < n * 3 * width; i++) {
        int part = (int)(i / width % 3), some = i % D % 50 == 3;
        double x = normal(e);

        if (part == 1)
            x = look->k_size * (some ? x * look->k_channel + look->k_offset
                                     : x + (i % D < 44 && i % 16 == 6
                                                ? look->k_turned : 0));
        else if (part == 2)
            x = look->v_size * (some ? x * look->v_channel + look->v_offset : x);
        r->numbers[i] = (float)x;
    }
    set_contents(e, r->qkv, r->numbers);
    /* Weights that bring keys back to where they were. */
    for (int64_t i = 0; i < width; i++)
        size += pow(r->qkv->host[width + i], 2) / (double)width;
    for (int64_t i = 0; i < width; i++) {
        r->norm[0]->host[i] = 1;
        r->norm[1]->host[i] = (float)sqrt(size);
    }
    for (int i = 0; i < 2; i++)
        set_contents(e, r->norm[i], r->norm[i]->host);
    called(e, cv_qk_norm_rope(e->b, &a), "qk_norm_rope");
    for (int64_t t = 0; t < n; t++)
        for (int part = 0; part < 3; part++) {
            const float *x = r->qkv->host + (t * 3 + part) * width;
            float *y = part == 0 ? r->q->host + t * width :
                       (part == 1 ? r->k : r->v)->host + (row + t) * width;

            rms = 0;
            for (int64_t i = 0; i < width; i++)
                rms += (double)x[i] * x[i] / (double)width;
            for (int64_t i = 0; i < width; i++) {
                y[i] = part == 2 ? x[i]
                                 : (float)(x[i] / sqrt(rms + 1e-6) *
                                           r->norm[part]->host[i]);
                if (part == 2)
                    r->most = fmax(r->most, fabs((double)y[i]));
            }
        }
}

/* Attention of the last block that was written over `keys` rows; beside: and
 * with all of them made 8 bits now. */
static void see_ring(Env *e, Ring *r, int64_t n, int64_t keys,
                     const char *name, int64_t block, int beside)
{
    const int64_t heads = r->ring.heads, seen = n < SEEN ? n : SEEN;
    const int64_t all = r->out->t.dim[0];
    double worst = e->worst, error;
    CvTensor q = cv_rows(&r->q->t, 0, seen), k, v;
    CvAttention a = { .out = &r->out->t, .q = &q, .ring = &r->ring,
                      .keys = keys, .scale = 1 / sqrtf((float)D),
                      .last_repeats = 1 };

    for (int64_t h = 0; h < heads; h++)
        for (int64_t i = 0; i < seen; i++)
            attend(r->q->host + (i * heads + h) * D, r->k->host + h * D,
                   r->v->host + h * D, keys, heads * D, r->score,
                   r->expected + (i * heads + h) * D);
    r->out->t.dim[0] = seen;
    r->out->n = seen * heads * D;
    called(e, cv_attention(e->b, &a), "attention");
    e->worst = 0;
    compare(e, r->out, r->expected, "ring of %lld, block %lld, %s",
            (long long)r->ring.tokens, (long long)block, name);
    error = e->worst;
    if (seen == all)
        compare_outputs(e, a, r->out, &r->narrow, r->largest, r->most, name);
    printf("# ring of %lld x %lld, block %lld, %4lld keys: %.4f",
           (long long)r->ring.slots, (long long)r->ring.tokens,
           (long long)block, (long long)keys, error);
    if (beside) {
        set_contents(e, r->k, r->k->host);
        set_contents(e, r->v, r->v->host);
        k = cv_rows(&r->k->t, 0, keys);
        v = cv_rows(&r->v->t, 0, keys);
        a = (CvAttention){ .out = &r->out->t, .q = &q, .k = &k, .v = &v,
                           .scale = a.scale, .last_repeats = 1 };
        called(e, cv_attention(e->b, &a), "attention");
        e->worst = 0;
        compare(e, r->out, r->expected, "without a ring");
        printf(", without a ring %.4f", e->worst);
    }
    printf("  %s\n", name);
    e->worst = fmax(worst, error);
    r->out->t.dim[0] = all;
    r->out->n = all * heads * D;
}

/* Blocks until the ring has gone round; of the last one of a ring that is not
 * full, `last` tokens. A block comes in two parts where it can. */
static void ring_case(Env *e, const Drift *drift, int64_t slots,
                      int64_t tokens, int64_t heads, int64_t blocks,
                      int64_t last)
{
    const int64_t cut = tokens > CV_RING_STEP ? CV_RING_STEP : 0;
    const double tolerance = e->tolerance;
    Ring r;

    open_ring(e, &r, slots, tokens, heads);
    e->tolerance = drift->tolerance;
    for (int64_t b = 0; b < blocks; b++) {
        const Look *look = b ? &drift->later : &drift->first;
        int64_t slot = b % slots, filled = b < slots ? b + 1 : slots;
        int64_t n = b + 1 < blocks ? tokens : last;

        if (b == 0) /* as a block that is denoised, and then clean */
            write_ring(e, &r, &drift->noise, 0, 0, n, 1);
        if (b == 1 && cut && cut < n)
            write_ring(e, &r, look, slot, cut, n - cut, 0);
        write_ring(e, &r, look, slot, 0,
                   b == 1 && cut && cut < n ? cut : n, b == 0);
        see_ring(e, &r, b == 1 && cut && cut < n ? cut : n,
                 slot + 1 == filled ? slot * tokens + n : filled * tokens,
                 drift->name, b, b > 0 && b + 2 >= blocks);
    }
    e->tolerance = tolerance;
    called(e, cv_finish(e->b), "finish");
    e->b->ops->release(e->b, r.ring.data.data);
    free_narrow(e, &r.narrow);
    free(r.numbers);
    end_case(e);
}

void test_ring8(Env *e)
{
    e->aligned = 1;
    for (size_t i = 0; i < sizeof(drifts) / sizeof(*drifts); i++)
        {
        int64_t tokens = random_int(e, 120, 230);

        ring_case(e, &drifts[i], 2, tokens, 2, 3, tokens);
    }
    ring_case(e, &drifts[0], 4, 64, 2, 3, 1);
    ring_case(e, &drifts[0], 2, 1, 9, 3, 1);
    ring_case(e, &drifts[0], 3, 63, 1, 3, 5);
    ring_case(e, &drifts[4], 2, 1000, 2, 3, 1000);
    e->aligned = 0;
}

/* Of a backend that has no form of its own, and attends to A alone. */
void test_no_ring(Env *e)
{
    CvLog *log = e->b->log;
    CvType type = e->b->activation;
    Buffer *q = INPUT(e, type, 1, 4, 2, 8), *out = OUTPUT(e, type, 4, 2, 8);
    CvRing ring = { .data = q->t, .slots = 4, .tokens = 4680, .heads = 12,
                    .d = D };

    e->cases++;
    if (cv_ring_bytes(e->b, &ring))
        fail(e, "there is a ring");
    ring = (CvRing){ .data = CV_TENSOR(q->t.data, CV_U8, 64), .slots = 2,
                     .tokens = 1, .heads = 2, .d = 8 };
    e->b->log = NULL; /* what is wanted is no news */
    if (cv_attention(e->b, &(CvAttention){
            .out = &out->t, .q = &q->t, .ring = &ring, .keys = 1, .scale = 1,
            .last_repeats = 1 }) != CAUSVID_ERR(EINVAL))
        fail(e, "a ring is read that the backend does not have");
    if (cv_attention(e->b, &(CvAttention){
            .out = &CV_TENSOR(out->t.data, CV_F8_E4M3, 4, 16),
            .out_scale = &CV_TENSOR(out->t.data, CV_F32, 4),
            .largest = &CV_TENSOR(out->t.data, CV_F32, 1),
            .q = &q->t, .k = &q->t, .v = &q->t, .scale = 1,
            .last_repeats = 1 }) != CAUSVID_ERR(EINVAL))
        fail(e, "attention writes fp8, which the backend does not say");
    e->b->log = log;
    end_case(e);
}
