/*
 * Random tensors between canaries, and comparison with references.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ops_test.h"

enum { MARGIN = 128 };

/* Both are exact in every float type. */
static const float canary = -12288, poison = 57344;

/* ---- random numbers: splitmix64 ---- */

uint64_t random_bits(Env *e)
{
    uint64_t z = e->random += 0x9e3779b97f4a7c15u;

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

int64_t random_int(Env *e, int64_t low, int64_t high)
{
    return low + (int64_t)(random_bits(e) % (uint64_t)(high - low + 1));
}

double random_real(Env *e)
{
    return (double)(random_bits(e) >> 11) * 0x1p-52 - 1;
}

int64_t pick(Env *e, int n, const int64_t *choices)
{
    return choices[random_int(e, 0, n - 1)];
}

/* ---- results ---- */

void fail(Env *e, const char *format, ...)
{
    va_list args;

    e->failures++;
    fputs("# ", stderr);
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
}

void called(Env *e, int err, const char *op)
{
    if (err)
        fail(e, "%s returned %d", op, err);
}

void add_to_hash(Env *e, const void *data, size_t bytes)
{
    const uint8_t *p = data;

    for (size_t i = 0; i < bytes; i++)
        e->hash = (e->hash ^ p[i]) * 0x100000001b3u;
}

/* ---- tensors ---- */

static void *need(void *memory)
{
    if (!memory) {
        fputs("Bail out! out of memory\n", stdout);
        exit(255);
    }
    return memory;
}

static void upload(Env *e, const CvTensor *t, const void *src, CvType type)
{
    called(e, cv_upload(e->b, t, src, type), "upload");
}

static void download(Env *e, const Buffer *buf, float *dst,
                     const CvTensor *t)
{
    if (buf->t.type != CV_I32) /* those stay as they were uploaded */
        called(e, cv_download(e->b, dst, t), "download");
}

static Buffer *make(Env *e, CvTensor shape)
{
    Buffer *buf;
    void *data = NULL;
    int64_t all;

    if (e->n_buffers == MAX_BUFFERS) {
        fputs("Bail out! too many buffers in a case\n", stdout);
        exit(255);
    }
    /* Tensors that are rows of others begin anywhere. Half of the cases have
     * aligned ones, for the paths that need all of them so. */
    if (!e->n_buffers)
        e->any_address = random_int(e, 0, 1) && !e->aligned;
    buf = &e->buffers[e->n_buffers++];
    memset(buf, 0, sizeof(*buf));
    buf->n = cv_elements(&shape);
    buf->margin = MARGIN + (e->any_address ? random_int(e, 0, 3) : 0);
    all = buf->margin + buf->n + MARGIN;
    if (e->b->ops->alloc(e->b, (size_t)all * cv_type_bytes(shape.type), &data))
        need(NULL);
    buf->whole = CV_TENSOR(data, shape.type, all);
    buf->t = shape;
    buf->t.data = (uint8_t *)data +
                  (size_t)buf->margin * cv_type_bytes(shape.type);
    buf->host = need(malloc((size_t)all * sizeof(float)));
    return buf;
}

static void fill(Env *e, Buffer *buf, double scale, int random)
{
    for (int64_t i = 0; i < buf->margin + buf->n + MARGIN; i++) {
        int inside = i >= buf->margin && i < buf->margin + buf->n;

        buf->host[i] = !inside ? canary : !random ? poison :
                       (float)(scale * random_real(e));
    }
    upload(e, &buf->whole, buf->host, CV_F32);
    download(e, buf, buf->host, &buf->t);
}

Buffer *make_input(Env *e, CvTensor shape, double scale)
{
    Buffer *buf = make(e, shape);

    fill(e, buf, scale, 1);
    buf->constant = 1;
    return buf;
}

Buffer *make_output(Env *e, CvTensor shape)
{
    Buffer *buf = make(e, shape);

    fill(e, buf, 0, 0);
    return buf;
}

Buffer *make_ids(Env *e, int64_t n, int64_t below)
{
    Buffer *buf = make(e, CV_TENSOR(NULL, CV_I32, n));
    int32_t *ids = (int32_t *)(void *)buf->host;

    for (int64_t i = 0; i < n; i++)
        ids[i] = (int32_t)random_int(e, 0, below - 1);
    upload(e, &buf->t, ids, CV_I32);
    buf->constant = 1;
    return buf;
}

void set_contents(Env *e, Buffer *buf, const float *values)
{
    upload(e, &buf->t, values, CV_F32);
    download(e, buf, buf->host, &buf->t);
}

Buffer *writable(Buffer *buf)
{
    buf->constant = 0;
    return buf;
}

double *make_doubles(Env *e, int64_t n)
{
    Buffer *buf;

    if (e->n_buffers == MAX_BUFFERS) {
        fputs("Bail out! too many buffers in a case\n", stdout);
        exit(255);
    }
    buf = &e->buffers[e->n_buffers++];
    memset(buf, 0, sizeof(*buf));
    buf->host = need(calloc((size_t)n + 1, sizeof(double)));
    return (double *)(void *)buf->host;
}

double dot(const float *a, const float *b, int64_t n)
{
    double sum[4] = { 0 };
    int64_t i = 0;

    for (; i + 4 <= n; i += 4)
        for (int k = 0; k < 4; k++)
            sum[k] += (double)a[i + k] * b[i + k];
    for (; i < n; i++)
        sum[0] += (double)a[i] * b[i];
    return sum[0] + sum[1] + sum[2] + sum[3];
}

/* Half of the distance between the numbers of a type next to x: what rounding
 * a result once may change it by. Float32 is compared by the whole error. */
static double half_unit(CvType type, double x)
{
    int exponent;

    if (type != CV_BF16)
        return 0;
    frexp(x, &exponent);
    return ldexp(1, (exponent < -125 ? -125 : exponent) - 9);
}

void compare(Env *e, Buffer *buf, const double *expected, const char *format,
             ...)
{
    char text[256];
    double wrong = 0, norm = 0, error, worst = 0;
    int64_t at = 0;
    va_list args;

    e->cases++;
    called(e, cv_finish(e->b), "finish");
    download(e, buf, buf->host, &buf->t);
    add_to_hash(e, buf->host, (size_t)buf->n * sizeof(float));
    if (e->again)
        return;
    for (int64_t i = 0; i < buf->n; i++) {
        double d = fabs(buf->host[i] - expected[i]);

        d -= fmin(d, half_unit(buf->t.type, expected[i]));
        if (!(d <= worst)) {
            worst = d;
            at = i;
        }
        wrong += d * d;
        norm += expected[i] * expected[i];
    }
    /* A result of zeros has to be exact, but for what no float32 sum sees. */
    error = sqrt(wrong) / (sqrt(norm) + 1e-30);
    if (!(error <= e->worst))
        e->worst = error;
    if (error <= e->tolerance)
        return;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    fail(e, "%s: relative error %.2g; worst at %lld: got %.9g, expected %.9g",
         text, error, (long long)at, buf->host[at], expected[at]);
}

static void check_margins(Env *e, Buffer *buf)
{
    int64_t all = buf->margin + buf->n + MARGIN;
    float *now = need(malloc((size_t)all * sizeof(float)));

    if (buf->t.type == CV_I32) {
        free(now);
        return;
    }
    download(e, buf, now, &buf->whole);
    for (int64_t i = 0; i < all; i++) {
        int inside = i >= buf->margin && i < buf->margin + buf->n;

        if (inside && buf->constant && now[i] != buf->host[i - buf->margin]) {
            fail(e, "an input was changed: element %lld of %lld",
                 (long long)(i - buf->margin), (long long)buf->n);
            break;
        }
        if (!inside && now[i] != canary) {
            fail(e, "written outside: element %lld of %lld",
                 (long long)(i - buf->margin), (long long)buf->n);
            break;
        }
    }
    free(now);
}

void end_case(Env *e)
{
    called(e, cv_finish(e->b), "finish");
    for (int i = 0; i < e->n_buffers; i++) {
        Buffer *buf = &e->buffers[i];

        if (buf->whole.data) {
            check_margins(e, buf);
            e->b->ops->release(e->b, buf->whole.data);
        }
        free(buf->host);
    }
    e->n_buffers = 0;
}
