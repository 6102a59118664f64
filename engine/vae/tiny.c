/*
 * The tiny decoder: TAEHV's taew2_1, for previews.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * A chain of 3x3 convolutions with ReLU. Time enters in two ways: memory blocks
 * see the frame before theirs, so their first convolution has a kernel of two
 * frames and keeps one as history; and two of the three growth steps make two
 * frames of one. Each latent gives four frames; those before the first pixel
 * frame of the stream, three, are dropped.
 *
 * Growth doubles the pixels, then mixes channels, then convolves. A mix of
 * channels does not see which pixels are equal, so it runs before the doubling,
 * over a quarter of them, and the convolution doubles as it reads.
 * Names, shapes and arithmetic: checkpoints.md 2.7, 6.6.
 *
 * A latent of 832x480 takes 0.53 TFLOP (the full VAE: 13.7), two thirds of it in
 * memory blocks; 3.5 ms on an H200 (predicted; the full VAE: 28).
 */
#include "vae/net.h"

#include <stdio.h>
#include <stdlib.h>

#define CLAMP 3 /* latents are bent to -3..3 */
#define PATH_SIZE 64

/* The steps: where they are in the list "decoder", and into how many frames
 * growth makes one. */
static const struct {
    int index, frames;
} chain[] = {
    { 3, 0 },  { 4, 0 },  { 5, 0 },  { 7, 1 },
    { 9, 0 },  { 10, 0 }, { 11, 0 }, { 13, 2 },
    { 15, 0 }, { 16, 0 }, { 17, 0 }, { 19, 2 },
};
#define N_STEPS ((int)(sizeof(chain) / sizeof(*chain)))
#define FIRST "decoder.1"
#define LAST "decoder.22"

int cv_tiny_open(CvVaeNet *net, CvLoader *loader)
{
    *net = (CvVaeNet){ .name = "decoder", .up = 1, .tiny = 1,
                       .n_steps = N_STEPS };
    net->steps = calloc((size_t)N_STEPS, sizeof(*net->steps));
    if (!net->steps)
        return cv_fail_memory(loader->log,
                              (uint64_t)N_STEPS * sizeof(*net->steps),
                              "the VAE's graph");
    return 0;
}

/* ---- loading ---- */

/* A convolution of kt frames, 1 or 2, and 3x3 pixels. */
static int load_conv(CvLoader *loader, CvVaeNet *net, CvVaeConv *conv,
                     int64_t o, int kt, int64_t c, int bias, const char *path)
{
    int err;

    conv->slot = kt > 1 ? net->n_slots++ : -1;
    conv->weight = CV_TENSOR(NULL, loader->backend->weight, o, kt, 3, 3, c);
    err = cv_load(loader, &conv->weight,
                  kt > 1 ? CV_LOAD_CONV_PAIR : CV_LOAD_CONV, "%s.weight",
                  path);
    if (err < 0 || !bias)
        return err;
    conv->bias = CV_TENSOR(NULL, CV_F32, o);
    return cv_load(loader, &conv->bias, CV_LOAD_AS_IS, "%s.bias", path);
}

static int load_memory(CvLoader *loader, CvVaeNet *net, CvVaeStep *step,
                       int index)
{
    char path[PATH_SIZE];

    step->kind = CV_VAE_MEMORY;
    step->out = step->in;
    for (int i = 0; i < 3; i++) {
        int err;

        snprintf(path, sizeof(path), "decoder.%d.conv.%d", index, 2 * i);
        err = load_conv(loader, net, &step->conv[i], step->in, i ? 1 : 2,
                        step->in, 1, path);
        if (err < 0)
            return err;
        step->conv[i].relu = 1;
    }
    return 0;
}

static int load_grow(CvLoader *loader, CvVaeNet *net, CvVaeStep *step,
                     int index, int frames)
{
    int64_t needed = step->in * frames, rows;
    CvVaeConv *mix = &step->conv[1];
    char path[PATH_SIZE];
    int err;

    step->kind = CV_VAE_GROW;
    step->has_time = frames > 1;
    /* A decoder that was trained to give more frames has more rows; the last
     * ones are what gives the last frames. */
    snprintf(path, sizeof(path), "decoder.%d.conv", index);
    rows = cv_vae_outputs(loader, path, needed);
    if (rows < needed || rows % step->in)
        rows = needed;
    mix->slot = -1;
    mix->weight = CV_TENSOR(NULL, loader->backend->weight, rows, step->in);
    err = cv_load(loader, &mix->weight, CV_LOAD_AS_IS, "%s.weight", path);
    if (err < 0)
        return err;
    mix->weight = cv_rows(&mix->weight, rows - needed, needed);

    snprintf(path, sizeof(path), "decoder.%d", index + 1);
    step->out = cv_vae_outputs(loader, path, step->in);
    return load_conv(loader, net, &step->conv[0], step->out, 1, step->in, 0,
                     path);
}

/* Its relatives for other models have 12 and 48 (pictures in patches). */
static int check_outputs(CvLoader *loader)
{
    int64_t outputs = cv_vae_outputs(loader, LAST, 3);

    if (outputs == 3)
        return 0;
    return cv_fail(loader->log, ENOSYS,
                   "%s: a tiny decoder of %lld channels is that of another "
                   "family; the one for Wan 2.1 is taew2_1",
                   cv_weights_path(loader->weights), (long long)outputs);
}

int cv_tiny_load(CvVaeNet *net, CvLoader *loader, int64_t channels)
{
    int64_t width = cv_vae_outputs(loader, FIRST, channels);
    int err = check_outputs(loader);

    if (err < 0)
        return err;
    net->n_slots = 0;
    net->scale = net->time_scale = 1;
    net->split = N_STEPS - 1;
    err = load_conv(loader, net, &net->first, width, 1, channels, 1, FIRST);
    if (err < 0)
        return err;
    net->first.relu = 1;
    for (int i = 0; i < N_STEPS; i++) {
        CvVaeStep *step = &net->steps[i];

        step->in = width;
        if (!chain[i].frames) {
            err = load_memory(loader, net, step, chain[i].index);
        } else {
            err = load_grow(loader, net, step, chain[i].index,
                            chain[i].frames);
            net->scale *= 2;
            net->time_scale *= chain[i].frames;
        }
        if (err < 0)
            return err;
        width = step->out;
    }
    net->steps[N_STEPS - 1].conv[0].relu = 1;
    return load_conv(loader, net, &net->last, 3, 1, width, 1, LAST);
}

/* ---- steps ---- */

/* Nothing is lent to this decoder: x stays what and where it is. */
static int convolve(CvRun *run, CvVaeState *state, const CvVaeConv *conv,
                    const CvTensor *out, const CvTensor *x,
                    const CvTensor *add)
{
    CvTensor input = *x;

    return cv_vae_conv(run, state, conv, out, &input, add, NULL, NULL);
}

/* relu(conv(relu(conv(relu(conv(past, x))))) + x) */
static int remember(CvRun *run, CvVaeState *state, const CvVaeStep *step,
                    const CvTensor *x)
{
    size_t mark = cv_arena_mark(run->arena);
    CvTensor a, b;
    int err;

    if ((err = cv_vae_take(run, &a, x->dim[0], x->dim[1], x->dim[2],
                           step->in)) < 0 ||
        (err = cv_vae_take(run, &b, x->dim[0], x->dim[1], x->dim[2],
                           step->in)) < 0 ||
        (err = convolve(run, state, &step->conv[0], &a, x, NULL)) < 0 ||
        (err = convolve(run, state, &step->conv[1], &b, &a, NULL)) < 0 ||
        (err = convolve(run, state, &step->conv[2], x, &b, x)) < 0)
        return err;
    cv_arena_release(run->arena, mark);
    return 0;
}

/* The first half of growth: frames = x, mixed, and split where the step does
 * that. */
static int grow_time(CvRun *run, const CvVaeStep *step, CvTensor *frames,
                     const CvTensor *x)
{
    int64_t t = x->dim[0], h = x->dim[1], w = x->dim[2], c = step->in;
    size_t mark;
    CvTensor mixed;
    int err;

    err = cv_vae_take(run, frames, step->has_time ? 2 * t : t, h, w, c);
    if (err < 0)
        return err;
    if (!step->has_time)
        return cv_vae_mix(run, &step->conv[1], frames, x, NULL);
    mark = cv_arena_mark(run->arena);
    if ((err = cv_vae_take(run, &mixed, t, h, w, 2 * c)) < 0 ||
        (err = cv_vae_mix(run, &step->conv[1], &mixed, x, NULL)) < 0 ||
        (err = cv_split_frames(run->backend, frames, &mixed)) < 0)
        return err;
    cv_arena_release(run->arena, mark);
    return 0;
}

/* The second half: twice the pixels across and down. */
static int grow_space(CvRun *run, const CvVaeStep *step, const CvTensor *out,
                      const CvTensor *frames)
{
    CvConv3d a = { .out = out, .x = frames, .weight = &step->conv[0].weight,
                   .relu = step->conv[0].relu,
                   .stride_t = 1, .stride_s = 1, .up = 2,
                   .pad_top = 1, .pad_left = 1, .pad_bottom = 1,
                   .pad_right = 1 };

    return cv_conv3d(run->backend, &a);
}

int cv_tiny_step(CvRun *run, CvVaeState *state, const CvVaeStep *step,
                 CvTensor *x)
{
    int64_t t = step->has_time ? 2 * x->dim[0] : x->dim[0];
    CvTensor out, frames;
    size_t mark;
    int err;

    if (step->kind == CV_VAE_MEMORY)
        return remember(run, state, step, x);
    err = cv_vae_take(run, &out, t, 2 * x->dim[1], 2 * x->dim[2], step->out);
    if (err < 0)
        return err;
    mark = cv_arena_mark(run->arena);
    if ((err = grow_time(run, step, &frames, x)) < 0 ||
        (err = grow_space(run, step, &out, &frames)) < 0)
        return err;
    cv_arena_release(run->arena, mark);
    *x = out;
    return 0;
}

/* ---- decoding ---- */

/* x = the latent, bent, behind the first convolution and all steps but the
 * last. */
static int begin(const CvVae *vae, CvRun *run, CvVaeState *state, CvTensor *x,
                 const CvTensor *latent)
{
    const CvVaeNet *net = state->net;
    CvTensor bent = *latent, z;
    int err;

    bent.data = NULL;
    if ((err = cv_arena_tensor(run->arena, &bent)) < 0 ||
        (err = cv_soft_clamp(run->backend, &bent, latent, CLAMP)) < 0 ||
        (err = cv_vae_take(run, &z, 1, state->h, state->w,
                           vae->channels)) < 0 ||
        (err = cv_to_channels_last(run->backend, &z, &bent, vae->decode_mul,
                                   vae->decode_add)) < 0 ||
        (err = cv_vae_take(run, x, 1, state->h, state->w,
                           net->steps[0].in)) < 0 ||
        (err = convolve(run, state, &net->first, x, &z, NULL)) < 0)
        return err;
    return cv_vae_steps(run, state, x, 0, net->split, NULL);
}

/* Frames from the last step's first half into `to`, -1..1: its second half and
 * the last convolution. */
static int finish_piece(CvRun *run, CvVaeState *state, const CvTensor *to,
                        const CvTensor *frames)
{
    /* what the network gives is 0..1 */
    static const float mul[3] = { 2, 2, 2 }, add[3] = { -1, -1, -1 };
    const CvVaeNet *net = state->net;
    const CvVaeStep *step = &net->steps[net->split];
    int64_t p = to->dim[0], h = to->dim[1], w = to->dim[2], n = p * h * w;
    size_t mark = cv_arena_mark(run->arena);
    CvTensor x, rgb, pixels, rows;
    int err;

    if ((err = cv_vae_take(run, &x, p, h, w, step->out)) < 0 ||
        (err = grow_space(run, step, &x, frames)) < 0 ||
        (err = cv_vae_take(run, &rgb, p, h, w, 3)) < 0 ||
        (err = convolve(run, state, &net->last, &rgb, &x, NULL)) < 0)
        return err;
    /* Each pixel as a picture of its own: the order stays. */
    pixels = CV_RESHAPE(*to, n, 3, 1, 1);
    rows = CV_RESHAPE(rgb, n, 1, 1, 3);
    err = cv_to_channels_first(run->backend, &pixels, &rows, mul, add);
    cv_arena_release(run->arena, mark);
    return err;
}

int cv_tiny_decode(const CvVae *vae, CvRun *run, CvVaeState *state,
                   const CvTensor *frames, int64_t *row,
                   const CvTensor *latent)
{
    const CvVaeNet *net = state->net;
    int64_t f = state->done > 0 ? 0 : net->time_scale - 1;
    CvTensor x, last;
    int err;

    if ((err = begin(vae, run, state, &x, latent)) < 0 ||
        (err = grow_time(run, &net->steps[net->split], &last, &x)) < 0)
        return err;
    while (f < last.dim[0]) {
        int64_t p = last.dim[0] - f;
        CvTensor from, to;

        if (p > state->piece)
            p = state->piece;
        if ((err = cv_aborted(run->log)) < 0)
            return err;
        from = cv_rows(&last, f, p);
        to = cv_rows(frames, *row, p);
        if ((err = finish_piece(run, state, &to, &from)) < 0)
            return err;
        f += p;
        *row += p;
    }
    state->done++;
    return 0;
}
