/*
 * Tests of what is multiplied in fp8: activations with a scale for each row,
 * and the operations that make them and take them (P in ops.h).
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * A backend that does not multiply so has to refuse them.
 */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "ops_test.h"

#define MARGIN 40
#define COLUMNS 256 /* as which all of it is read */
#define CANARY 0x35

static void *need(void *p)
{
    if (!p) {
        fputs("Bail out! out of memory\n", stdout);
        exit(255);
    }
    return p;
}

static double value_of(uint8_t byte)
{
    int exponent = byte >> 3 & 15, fraction = byte & 7;
    double x = exponent ? ldexp(8 + fraction, exponent - 10)
                        : ldexp(fraction, -9);

    return byte & 0x80 ? -x : x;
}

Narrow make_narrow(Env *e, int64_t rows, int64_t columns, int input,
                   double size)
{
    /* first, so that it decides about addresses */
    Narrow m = { .scale = input ? INPUT(e, CV_F32, 1, rows)
                                : OUTPUT(e, CV_F32, rows) };
    const int64_t n = rows * columns;
    const int64_t before = MARGIN + 8 + (e->any_address
                                             ? random_int(e, 0, 15) : 0);
    const int64_t all = (before + n + MARGIN + COLUMNS - 1) / COLUMNS *
                        COLUMNS;
    float *factors = need(malloc((size_t)rows * sizeof(*factors)));

    m.bytes = need(malloc((size_t)all));
    m.values = need(malloc((size_t)n * sizeof(*m.values) + 1));
    for (int64_t i = 0; i < all; i++)
        m.bytes[i] = CANARY;
    for (int64_t i = 0; i < n && input; i++) {
        uint8_t *byte = &m.bytes[before + i];

        do
            *byte = (uint8_t)random_bits(e);
        while ((*byte & 0x7f) == 0x7f);
        m.values[i] = value_of(*byte);
    }
    if (e->b->ops->alloc(e->b, (size_t)all, &m.memory))
        need(NULL);
    m.whole = CV_TENSOR(m.memory, CV_F8_E4M3, all / COLUMNS, COLUMNS);
    m.t = CV_TENSOR((uint8_t *)m.memory + before, CV_F8_E4M3, rows, columns);
    called(e, cv_upload(e->b, &m.whole, m.bytes, CV_F8_E4M3), "upload");
    for (int64_t i = 0; i < rows && input; i++)
        factors[i] = (float)((0.2 + fabs((double)m.scale->host[i])) * size /
                             448);
    if (input)
        set_contents(e, m.scale, factors);
    free(factors);
    return m;
}

/* All numbers, margins included, as the backend has them now. */
static float *read_all(Env *e, const Narrow *m)
{
    const int64_t rows = m->whole.dim[0], all = rows * COLUMNS;
    CvTensor ids = CV_TENSOR(NULL, CV_I32, rows);
    CvTensor ones = CV_TENSOR(NULL, CV_F32, rows);
    CvTensor out = CV_TENSOR(NULL, CV_F32, rows, COLUMNS);
    float *values = need(malloc((size_t)all * sizeof(*values)));
    int32_t *numbers = need(malloc((size_t)rows * sizeof(*numbers)));
    CvTensor *const list[] = { &ids, &ones, &out };

    for (int i = 0; i < 3; i++)
        if (e->b->ops->alloc(e->b, (size_t)all * 4, &list[i]->data))
            need(NULL);
    for (int64_t i = 0; i < rows; i++) {
        numbers[i] = (int32_t)i;
        values[i] = 1;
    }
    called(e, cv_upload(e->b, &ids, numbers, CV_I32), "upload");
    called(e, cv_upload(e->b, &ones, values, CV_F32), "upload");
    called(e, cv_embed(e->b, &out, &m->whole, &ones, &ids), "embed");
    called(e, cv_download(e->b, values, &out), "download");
    for (int i = 0; i < 3; i++)
        e->b->ops->release(e->b, list[i]->data);
    free(numbers);
    return values;
}

void free_narrow(Env *e, Narrow *m)
{
    called(e, cv_finish(e->b), "finish");
    e->b->ops->release(e->b, m->memory);
    free(m->values);
    free(m->bytes);
}

/* Does a number stand for y, which is known but for `slack` of its size and
 * `around` in all? */
static int is_near(double number, double y, double slack, double around)
{
    double size = fmax(fabs(y) * (1 + slack) + around, ldexp(1, -6));
    double unit = ldexp(1, (int)floor(log2(size)) - 3);

    return fabs(number) <= 448 &&
           fabs(number - y) <= unit / 2 * (1 + 1e-6) + fabs(y) * slack +
                               around;
}

void compare_narrow(Env *e, const Narrow *m, const double *expected,
                    const double *bounds, double slack, double sums,
                    const char *what)
{
    const int64_t rows = m->t.dim[0], columns = m->t.dim[1];
    const int64_t before = (uint8_t *)m->t.data - (uint8_t *)m->memory;
    float *got = read_all(e, m);
    const float *scale;

    e->cases++;
    called(e, cv_finish(e->b), "finish");
    called(e, cv_download(e->b, m->scale->host, &m->scale->t), "download");
    scale = m->scale->host;
    add_to_hash(e, got + before, (size_t)(rows * columns) * sizeof(float));
    add_to_hash(e, scale, (size_t)rows * sizeof(float));
    for (int64_t i = 0; i < m->whole.dim[0] * COLUMNS; i++)
        if ((i < before || i >= before + rows * columns) &&
            (double)got[i] != value_of(CANARY)) {
            fail(e, "%s: written outside: %lld", what, (long long)(i - before));
            break;
        }
    for (int64_t r = 0; r < rows && !e->again; r++) {
        const double *y = expected + r * columns;
        double largest = 0, want, most, off = slack + sums + 1e-6;

        for (int64_t k = 0; k < columns; k++)
            largest = fmax(largest, fabs(y[k]));
        want = largest > 0 ? largest / 448 : 1;
        most = bounds ? fmax(want, bounds[r] / 448) : want;
        if (!(scale[r] >= want * (1 - off) && scale[r] <= most * (1 + off))) {
            fail(e, "%s, %lld x %lld: the scale of row %lld is %.9g, expected "
                 "%.9g to %.9g", what, (long long)rows, (long long)columns,
                 (long long)r, (double)scale[r], want, most);
            break;
        }
        for (int64_t k = 0; k < columns; k++) {
            double number = got[before + r * columns + k];

            if (is_near(number, y[k] / scale[r], slack,
                        largest / scale[r] * sums))
                continue;
            fail(e, "%s, %lld x %lld: number %lld of row %lld is %g, expected "
                 "%g", what, (long long)rows, (long long)columns,
                 (long long)k, (long long)r, number, y[k] / scale[r]);
            r = rows;
            break;
        }
    }
    free(got);
}

/* 1 where there is nothing to test, after having looked that it is refused. */
static int is_refused(Env *e)
{
    CvLog *log = e->b->log;
    CvTensor fake, scale;
    Buffer *x;

    if (e->b->product != e->b->activation)
        return 0;
    x = INPUT(e, e->b->activation, 1, 16, 16);
    fake = CV_TENSOR(x->t.data, CV_F8_E4M3, 4, 4);
    scale = CV_TENSOR(x->t.data, CV_F32, 4);
    e->cases++;
    e->b->log = NULL; /* what is wanted is no news */
    x->t = CV_RESHAPE(x->t, 4, 4);
    if (cv_linear(e->b, &(CvLinear){ .out = &x->t, .x = &fake,
                                     .x_scale = &scale, .weight = &fake,
                                     .scale = &scale }) !=
            CAUSVID_ERR(EINVAL) ||
        (e->b->activation != CV_F32 &&
         cv_quantise(e->b, &fake, &scale, &x->t) != CAUSVID_ERR(EINVAL)))
        fail(e, "fp8 is multiplied, which the backend does not say");
    x->t = CV_RESHAPE(x->t, 16, 16);
    e->b->log = log;
    end_case(e);
    return 1;
}

/* ---- what makes them ---- */

static int64_t width(Env *e)
{
    return PICK(e, 1, 2, 3, 7, 16, 17, 40, 96, 384, 1000, 1536, 3000);
}

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

/* modulated: by one of several groups; else with weight and bias. Row 0 becomes
 * zeros when `zeros` is set. */
static void norm_case(Env *e, int modulated, int zeros)
{
    const float eps = 1e-6f;
    int64_t groups = modulated ? PICK(e, 1, 2, 3) : 1, d = width(e);
    int64_t n = groups * PICK(e, 1, 2, 7, 30), rows = PICK(e, 2, 6);
    int shift = (int)random_int(e, 0, rows - 1);
    int scale = (int)random_int(e, 0, rows - 1);
    Narrow out = make_narrow(e, n, d, 0, 0);
    Buffer *x = INPUT(e, CV_F32, 3, n, d);
    Buffer *mod = INPUT(e, CV_F32, 1, groups, rows, d);
    CvTensor weight = CV_TENSOR((float *)mod->t.data + scale * d, CV_F32, d);
    CvTensor bias = CV_TENSOR((float *)mod->t.data + shift * d, CV_F32, d);
    double *expected = make_doubles(e, n * d);

    if (zeros) {
        for (int64_t i = 0; i < rows * d; i++)
            mod->host[i] = modulated && i / d == scale && scale != shift ? -1
                                                                         : 0;
        if (scale == shift && modulated) /* -1 would be no zero */
            for (int64_t i = 0; i < d; i++)
                x->host[i] = 0;
        set_contents(e, mod, mod->host);
        set_contents(e, x, x->host);
    }
    for (int64_t r = 0; r < n; r++) {
        const float *m = mod->host + r / (n / groups) * rows * d;
        double mean, variance;

        mean_variance(x->host + r * d, d, &mean, &variance);
        for (int64_t c = 0; c < d; c++)
            expected[r * d + c] = (x->host[r * d + c] - mean) /
                sqrt(variance + eps) * (modulated + (double)m[scale * d + c]) +
                m[shift * d + c];
    }
    called(e, modulated ? cv_norm_modulate(e->b, &out.t, &out.scale->t, &x->t,
                                           &mod->t, shift, scale, eps)
                        : cv_layer_norm(e->b, &out.t, &out.scale->t, &x->t,
                                        &weight, &bias, eps), "norm to fp8");
    /* a row of one column has itself as its mean */
    compare_narrow(e, &out, expected, NULL, 1e-5, 1e-5,
                   modulated ? "norm_modulate to fp8" : "layer_norm to fp8");
    free_narrow(e, &out);
    end_case(e);
}

void test_norm_modulate_narrow(Env *e)
{
    if (is_refused(e))
        return;
    for (int i = 0; i < 24; i++)
        norm_case(e, 1, i == 5);
}

void test_layer_norm_narrow(Env *e)
{
    if (is_refused(e))
        return;
    for (int i = 0; i < 24; i++)
        norm_case(e, 0, i == 5);
}

/* Of A; rows of all sizes, of zeros, and with what is no number. */
void test_quantise_narrow(Env *e)
{
    if (is_refused(e))
        return;
    for (int i = 0; i < 24; i++) {
        int64_t n = PICK(e, 1, 3, 40), d = i % 8 == 7 ? 21000 : width(e);
        Narrow out = make_narrow(e, n, d, 0, 0);
        Buffer *x = INPUT(e, e->b->activation,
                          ldexp(1, (int)random_int(e, -60, 60)), n, d);
        double *expected = make_doubles(e, n * d);

        if (i % 5 == 4) {
            for (int64_t k = 0; k < d; k++)
                x->host[k] = 0;
            set_contents(e, x, x->host);
        }
        for (int64_t k = 0; k < n * d; k++)
            expected[k] = x->host[k];
        called(e, cv_quantise(e->b, &out.t, &out.scale->t, &x->t), "quantise");
        compare_narrow(e, &out, expected, NULL, 1e-6, 0, "quantise A");
        free_narrow(e, &out);
        end_case(e);
    }
    for (int i = 0; i < 4; i++) {
        int64_t d = PICK(e, 16, 17, 1536);
        Narrow out = make_narrow(e, 2, d, 0, 0);
        Buffer *x = INPUT(e, CV_F32, 1, 2, d), *mod = INPUT(e, CV_F32, 1, d);

        /* upload takes nothing infinite: the sum of two large ones becomes so */
        mod->host[random_int(e, 0, d - 1)] = 3e38f;
        set_contents(e, mod, mod->host);
        called(e, cv_layer_norm(e->b, &out.t, &out.scale->t, &x->t, &mod->t,
                                &mod->t, 1e-6f), "layer_norm");
        called(e, cv_finish(e->b), "finish");
        called(e, cv_download(e->b, out.scale->host, &out.scale->t),
               "download");
        e->cases++;
        for (int64_t r = 0; r < 2; r++) {
            int overflow = 0;
            double mean, variance;

            mean_variance(x->host + r * d, d, &mean, &variance);
            for (int64_t k = 0; k < d; k++)
                overflow |= fabs((x->host[r * d + k] - mean) /
                                 sqrt(variance + 1e-6) * mod->host[k] +
                                 mod->host[k]) > 3.5e38;
            if (overflow && isfinite(out.scale->host[r]))
                fail(e, "a row with an infinite number has the scale %g",
                     (double)out.scale->host[r]);
        }
        free_narrow(e, &out);
        end_case(e);
    }
}

/* ---- products ---- */

static double gelu(double x)
{
    return 0.5 * x * (1 + tanh(0.79788456080286536 *
                               (x + 0.044715 * x * x * x)));
}

/* What no number of a row of outputs can be above: by Cauchy and Schwarz. */
static void find_bounds(double *bounds, const Narrow *x, const Narrow *w,
                        const float *bias)
{
    const int64_t n = x->t.dim[0], o = w->t.dim[0], depth = x->t.dim[1];
    double largest = 0, most = 0;

    for (int64_t r = 0; r < o + n; r++) {
        const Narrow *m = r < o ? w : x;
        const int64_t row = r < o ? r : r - o;
        double norm = 0;

        for (int64_t i = 0; i < depth; i++)
            norm += pow(m->values[row * depth + i], 2);
        norm = sqrt(norm) * m->scale->host[row];
        if (r >= o)
            bounds[row] = norm * largest + most;
        else
            largest = fmax(largest, norm);
        if (r < o && bias)
            most = fmax(most, fabs((double)bias[r]));
    }
}

/* bias: 0 none, 1 of A, 2 of float32. result: of A, float32 or fp8. */
static void linear_case(Env *e, CvEpilogue kind, int64_t n, int64_t in,
                        int64_t out, int64_t groups, int biased, CvType result)
{
    const int narrow = result == CV_F8_E4M3;
    const CvType wide = narrow ? e->b->activation : result;
    Narrow x = make_narrow(e, n, in, 1, 1);
    Narrow w = make_narrow(e, out, in, 1, 3 / sqrt((double)in));
    Narrow to = make_narrow(e, narrow ? n : 1, narrow ? out : 1, 0, 0);
    Buffer *bias = INPUT(e, biased == 2 ? CV_F32 : e->b->activation, 1, out);
    Buffer *other = INPUT(e, wide, 1, n, out);
    Buffer *mod = INPUT(e, CV_F32, 1, groups, 2, out);
    const int in_place = kind >= CV_EPI_MUL && random_int(e, 0, 1);
    Buffer *y = in_place ? writable(other) : OUTPUT(e, wide, n, out);
    double *expected = make_doubles(e, n * out), *bounds = make_doubles(e, n);
    double tolerance = e->tolerance, terms = 0, norm = 0, worst;
    CvLinear a = { .out = narrow ? &to.t : &y->t,
                   .out_scale = narrow ? &to.scale->t : NULL, .x = &x.t,
                   .x_scale = &x.scale->t, .weight = &w.t,
                   .scale = &w.scale->t, .bias = biased ? &bias->t : NULL,
                   .other = kind >= CV_EPI_MUL ? &other->t : NULL,
                   .mod = kind == CV_EPI_GATE_ADD ? &mod->t : NULL,
                   .epilogue = kind, .gate_row = 1 };
    char what[160];

    for (int64_t t = 0; t < n && !e->again; t++) {
        for (int64_t o = 0; o < out; o++) {
            double factor = (double)x.scale->host[t] * w.scale->host[o];
            const float *gate = mod->host + (t / (n / groups) * 2 + 1) * out;
            double *v = &expected[t * out + o], add = other->host[t * out + o];

            *v = 0;
            for (int64_t i = 0; i < in; i++) {
                double term = x.values[t * in + i] * w.values[o * in + i];

                terms += factor * term * factor * term;
                *v += term;
            }
            *v = *v * factor + (biased ? bias->host[o] : 0);
            if (kind == CV_EPI_GELU)
                *v = gelu(*v);
            else if (kind == CV_EPI_SILU)
                *v /= 1 + exp(-*v);
            else if (kind == CV_EPI_MUL)
                *v *= add;
            else if (kind == CV_EPI_ADD)
                *v += add;
            else if (kind == CV_EPI_GATE_ADD)
                *v = add + gate[o] * *v;
            norm += *v * *v;
        }
    }
    /* Sums of Hopper's tensor cores have fewer bits than float32, a bias is
     * bf16, with its gate, and so is a y before its GELU. */
    worst = sqrt(terms / (norm + 1e-30));
    e->tolerance = 4e-3 * fmax(1, worst);
    snprintf(what, sizeof(what), "linear in fp8, epilogue %d, %lld x %lld -> "
             "%lld, %lld groups, bias %d, to %s", kind, (long long)n,
             (long long)in, (long long)out, (long long)groups, biased,
             cv_type_name(result));
    called(e, cv_linear(e->b, &a), "linear");
    find_bounds(bounds, &x, &w, biased ? bias->host : NULL);
    if (narrow)
        compare_narrow(e, &to, expected, bounds, 1.0 / 64,
                       2e-3 * fmax(1, worst), what);
    else
        compare(e, y, expected, "%s", what);
    e->tolerance = tolerance;
    free_narrow(e, &to);
    free_narrow(e, &w);
    free_narrow(e, &x);
    end_case(e);
}

void test_linear_narrow(Env *e)
{
    static const CvEpilogue kinds[] = { CV_EPI_NONE, CV_EPI_GELU, CV_EPI_SILU,
                                        CV_EPI_MUL, CV_EPI_ADD,
                                        CV_EPI_GATE_ADD };
    const CvType a = e->b->activation;

    if (is_refused(e))
        return;
    for (int i = 0; i < 60; i++) {
        int64_t groups = i % 12 == 11 ? 3 : 1;
        /* half of them such that the library takes them */
        int64_t in = i % 4 < 2 ? PICK(e, 16, 48, 272) : PICK(e, 1, 3, 17, 72);
        int64_t out = i % 4 < 2 ? PICK(e, 16, 48, 128) : PICK(e, 1, 15, 20);

        linear_case(e, kinds[i % 6], groups * PICK(e, 1, 2, 13, 40), in, out,
                    groups, (int)random_int(e, 0, 2),
                    random_int(e, 0, 1) ? CV_F32 : a);
    }
    for (int i = 0; i < 16; i++)
        linear_case(e, i % 2 ? CV_EPI_GELU : CV_EPI_NONE, PICK(e, 1, 13, 40),
                    i % 4 < 2 ? PICK(e, 16, 64) : PICK(e, 7, 33),
                    i % 4 < 2 ? PICK(e, 16, 128, 320) : PICK(e, 1, 9, 33), 1,
                    (int)random_int(e, 0, 1), CV_F8_E4M3);
    /* several tiles in each direction, the last ones in part */
    e->aligned = 1;
    linear_case(e, CV_EPI_GELU, 300, PICK(e, 272, 336, 640), 400, 1, 1,
                CV_F8_E4M3);
    linear_case(e, CV_EPI_NONE, 513, 16, 1360, 1, 0, CV_F8_E4M3);
    linear_case(e, CV_EPI_GELU, 3400, 48, 200, 1, 1, CV_F8_E4M3);
    e->aligned = 0;
    /* in pieces of rows, which the scratch asks for */
    e->aligned = 1;
    linear_case(e, CV_EPI_NONE, 178, 16, 200000, 1, 1, CV_F8_E4M3);
    linear_case(e, CV_EPI_SILU, 260, 16, 40000, 1, 2, CV_F32);
    e->aligned = 0;
}
