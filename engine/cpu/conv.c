/*
 * Causal convolution: patches of the input, gathered in tiles, times weights.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#include <string.h>

#include "cpu/cpu.h"

typedef struct Conv {
    CvCpu *cpu;
    int64_t p, t, h, w, c;     /* input */
    int64_t kt, kh, kw, o;
    int64_t ho, wo;            /* output frames */
    int64_t stride_t, stride_s, up, pad_top, pad_left;
    const float *x, *history, *weight, *bias, *add;
    float *out;
} Conv;

static const float *frame(const Conv *a, int64_t f)
{
    int64_t size = a->h * a->w * a->c;

    return f < a->p ? a->history + f * size : a->x + (f - a->p) * size;
}

/* The input under tap (j, l) for output pixels first.. of row y, n of them. */
static void gather(const Conv *a, float *dst, const float *src, int64_t y,
                   int64_t j, int64_t l, int64_t first, int64_t n,
                   int64_t step)
{
    int64_t row = y * a->stride_s + j - a->pad_top;
    size_t bytes = (size_t)a->c * sizeof(*dst);

    for (int64_t x = first; x < first + n; x++, dst += step) {
        int64_t col = x * a->stride_s + l - a->pad_left;

        if (row < 0 || row >= a->h * a->up || col < 0 || col >= a->w * a->up)
            memset(dst, 0, bytes);
        else
            memcpy(dst, src + ((row / a->up) * a->w + col / a->up) * a->c,
                   bytes);
    }
}

/* Items are rows of all output frames. */
static void conv_job(void *arg, int64_t first, int64_t last, int worker)
{
    const Conv *a = arg;
    float *patch = cv_cpu_scratch(a->cpu, worker);
    int64_t taps = a->kt * a->kh * a->kw, k = taps * a->c;
    int64_t fit = cv_max(1, CV_CPU_SCRATCH / a->c); /* columns of c floats */
    int64_t step = cv_min(taps, fit);               /* taps at once */
    int64_t tile = cv_min(a->wo, fit / step);       /* pixels at once */

    for (int64_t item = first; item < last; item++) {
        int64_t f = item / a->ho, y = item % a->ho;

        for (int64_t x = 0; x < a->wo; x += tile) {
            int64_t n = cv_min(tile, a->wo - x);
            int64_t at = ((f * a->ho + y) * a->wo + x) * a->o;
            float *out = a->out + at;

            for (int64_t i = 0; i < n; i++)
                for (int64_t o = 0; o < a->o; o++)
                    out[i * a->o + o] = (a->bias ? a->bias[o] : 0) +
                        (a->add ? a->add[at + i * a->o + o] : 0);
            for (int64_t tap = 0; tap < taps; tap += step) {
                int64_t end = cv_min(tap + step, taps);

                for (int64_t q = tap; q < end; q++)
                    gather(a, patch + (q - tap) * a->c,
                           frame(a, f * a->stride_t + q / (a->kh * a->kw)), y,
                           q / a->kw % a->kh, q % a->kw, x, n, step * a->c);
                cv_cpu_gemm_nt(n, a->o, (end - tap) * a->c, patch,
                               step * a->c, a->weight + tap * a->c, k, out,
                               a->o, 1);
            }
        }
    }
}

/* The last p frames of history and x become the history. */
static void keep_history(const Conv *a, float *history)
{
    int64_t size = a->h * a->w * a->c, kept = cv_max(0, a->p - a->t);
    size_t bytes = (size_t)size * sizeof(*history);

    memmove(history, history + (a->p - kept) * size, (size_t)kept * bytes);
    memcpy(history + kept * size, a->x + (a->t - (a->p - kept)) * size,
           (size_t)(a->p - kept) * bytes);
}

int cv_cpu_conv3d(CvBackend *b, const CvConv3d *a)
{
    Conv c = {
        .cpu = cv_cpu(b), .p = a->history ? a->history->dim[0] : 0,
        .t = a->x->dim[0], .h = a->x->dim[1], .w = a->x->dim[2],
        .c = a->x->dim[3], .o = a->weight->dim[0], .kt = a->weight->dim[1],
        .kh = a->weight->dim[2], .kw = a->weight->dim[3],
        .ho = a->out->dim[1], .wo = a->out->dim[2],
        .stride_t = a->stride_t, .stride_s = a->stride_s, .up = a->up,
        .pad_top = a->pad_top, .pad_left = a->pad_left, .x = a->x->data,
        .history = a->history ? a->history->data : NULL,
        .weight = a->weight->data, .bias = a->bias ? a->bias->data : NULL,
        .add = a->add ? a->add->data : NULL, .out = a->out->data,
    };

    if (c.c > CV_CPU_SCRATCH)
        return cv_fail(b->log, ENOSYS, "conv3d: %lld channels; the CPU "
                       "backend takes at most %lld", (long long)c.c,
                       (long long)CV_CPU_SCRATCH);
    cv_cpu_run(c.cpu, a->out->dim[0] * c.ho, 1, conv_job, &c);
    if (c.p)
        keep_history(&c, a->history->data);
    return 0;
}
