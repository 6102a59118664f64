/*
 * What `causvid bench` holds its figures against: how fast this machine
 * multiplies and copies, and how much work a clip is.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * Both go through the backend's operations, a linear and a copy: on a GPU the
 * linear is cuBLASLt's, so the ceiling is that of the library that the
 * networks use. What other libraries reach there, and what a product of fp8
 * does, is measured by tests/bench/peer.py.
 */
#include <string.h>
#include <time.h>

#include "bench.h"

/* A ceiling is the best of so many batches. */
#define BATCHES 4
/* Rows of text that cross attention sees. */
#define TEXT_ROWS 512

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* Tensors of one shape: random numbers, which a GPU multiplies no faster than
 * those of a network, or zeros. ENOMEM when there is no memory for them. */
static int make(CvBackend *b, CvTensor *t, int n, CvTensor shape, int random)
{
    int err = 0;

    for (int i = 0; i < n; i++)
        t[i] = shape;
    for (int i = 0; i < n && !err; i++) {
        err = b->ops->alloc(b, (size_t)cv_tensor_bytes(&t[i]), &t[i].data);
        if (!err)
            err = random ? cv_random(b, &t[i], (uint64_t)i + 1, 1)
                         : cv_zero(b, &t[i]);
    }
    return err;
}

static void discard(CvBackend *b, CvTensor *t, int n)
{
    for (int i = 0; i < n; i++) {
        if (t[i].data)
            b->ops->release(b, t[i].data);
        t[i].data = NULL;
    }
}

/* Seconds of a product or a copy, the best of some batches of `count`. */
static int measure(CvBackend *b, const CvTensor *t, int product, int count,
                   double *best)
{
    CvLinear a = { .out = &t[0], .x = &t[1], .weight = &t[2] };
    int err = 0;

    *best = 0;
    for (int batch = 0; batch <= BATCHES && !err; batch++) {
        double began = now(), took;

        for (int i = 0; i < count && !err; i++)
            err = product ? cv_linear(b, &a) : cv_copy(b, &t[0], &t[1]);
        if (err || (err = cv_finish(b)) < 0)
            break;
        took = (now() - began) / count;
        if (batch && (!*best || took < *best)) /* the first warms up */
            *best = took;
    }
    return err;
}

static int measure_product(CvBackend *b, int64_t n, double *seconds)
{
    CvTensor t[3];
    int err = make(b, t, 3, CV_TENSOR(NULL, b->activation, n, n), 1);

    if (!err)
        err = measure(b, t, 1, *seconds < 0.002 ? 20 : 1, seconds);
    discard(b, t, 3);
    return err;
}

static int measure_copy(CvBackend *b, int64_t bytes, double *seconds)
{
    CvTensor t[2];
    int err = make(b, t, 2, CV_TENSOR(NULL, CV_F32, bytes / 4), 0);

    if (!err)
        err = measure(b, t, 0, *seconds < 0.002 ? 10 : 2, seconds);
    discard(b, t, 2);
    return err;
}

/* The sizes grow to those of a large GPU as long as the next one would take
 * no more than a few hundredths of a second. */
int cv_bench_ceilings(CvBackend *b, CvCeilings *c)
{
    double seconds = 1;
    int err = 0;

    memset(c, 0, sizeof(*c));
    for (int64_t n = 256; n <= 8192 && !err; n *= 2) {
        if (n > 256 && 8 * seconds > 0.03)
            break;
        if (!(err = measure_product(b, n, &seconds))) {
            c->product = 2.0 * (double)(n * n * n) / seconds;
            c->product_size = n;
        }
    }
    seconds = 1;
    for (int64_t bytes = 1 << 26; bytes <= 1 << 30 && !err; bytes *= 4) {
        if (bytes > 1 << 26 && 4 * seconds > 0.01)
            break;
        if (!(err = measure_copy(b, bytes, &seconds)))
            c->copy = 2.0 * (double)bytes / seconds;
    }
    /* what there is no memory for is left out */
    return err == CAUSVID_ERR(ENOMEM) ? 0 : err;
}

double cv_bench_work(const CvBench *b)
{
    const CvDitSize *s = cv_dit_size(b->model.dit);
    const CvClip *c = &b->clip;
    const double scale = 2.0 * cv_vae_scale(b->model.vae); /* patches: 2x2 */
    const double d = (double)s->dim, ffn = (double)s->ffn_dim;
    const double n = (double)c->block_latents * (c->width / scale) *
                     (c->height / scale);
    const double linears = n * (6 * d * d + 2 * d * ffn);
    const double ends = n * 4 * (double)(s->in_channels + s->out_channels) * d;
    double sum = 0;

    for (int64_t block = 0; block < c->blocks; block++) {
        double seen = (double)(block < c->slots ? block + 1 : c->slots);
        double attention = 2 * n * (n * seen + TEXT_ROWS) * d;

        sum += (double)s->layers * (linears + attention) + ends;
    }
    return 2 * sum * c->schedule.steps * (c->guidance != 1 ? 2 : 1);
}
