/*
 * The steps of the VAE: residual blocks, attention, resamplers.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * Each step takes its output first and its scratch after it, so that releasing
 * the scratch leaves the output at the top of the arena.
 * Source: checkpoints.md 6.2, 6.3; Wan2.1 wan/modules/vae.py.
 */
#include "vae/net.h"

#include <math.h>

int cv_vae_take(CvRun *run, CvTensor *x, int64_t t, int64_t h, int64_t w,
                int64_t c)
{
    *x = CV_TENSOR(NULL, run->backend->activation, t, h, w, c);
    return cv_arena_tensor(run->arena, x);
}

int cv_vae_convolve(CvRun *run, CvVaeState *state, const CvVaeConv *conv,
                    CvTensor *x, CvConv3d *a)
{
    int err;

    a->x = x;
    a->history = conv->slot < 0 ? NULL : &state->history[conv->slot];
    a->weight = &conv->weight;
    a->bias = conv->bias.data ? &conv->bias : NULL;
    a->relu = conv->relu;
    err = cv_conv3d(run->backend, a);
    return err < 0 || !a->history ? err
                                  : cv_vae_keep(run, state, conv->slot, x);
}

int cv_vae_conv(CvRun *run, CvVaeState *state, const CvVaeConv *conv,
                const CvTensor *out, CvTensor *x, const CvTensor *add,
                const CvTensor *norm, const CvTensor *gamma)
{
    CvConv3d a = { .out = out, .add = add, .norm = norm, .gamma = gamma,
                   .stride_t = 1, .stride_s = 1, .up = 1, .pad_top = 1,
                   .pad_left = 1, .pad_bottom = 1, .pad_right = 1 };

    return cv_vae_convolve(run, state, conv, x, &a);
}

int cv_vae_mix(CvRun *run, const CvVaeConv *conv, const CvTensor *out,
               const CvTensor *x, const CvTensor *add)
{
    int64_t n = x->dim[0] * x->dim[1] * x->dim[2];
    CvTensor flat_out = CV_RESHAPE(*out, n, out->dim[3]);
    CvTensor flat_x = CV_RESHAPE(*x, n, x->dim[3]);
    CvTensor flat_add;
    CvLinear a = { .out = &flat_out, .x = &flat_x, .weight = &conv->weight,
                   .bias = conv->bias.data ? &conv->bias : NULL };

    if (add) {
        flat_add = CV_RESHAPE(*add, n, out->dim[3]);
        a.other = &flat_add;
        a.epilogue = CV_EPI_ADD;
    }
    return cv_linear(run->backend, &a);
}

/* What a step gives, normed for what it goes to: the convolution that makes the
 * one makes the other with it. */
typedef struct Normed {
    const CvTensor *gamma; /* of that norm, or NULL: none is wanted */
    int only;              /* nothing else is wanted */
    CvTensor x;            /* no data: not made */
    size_t mark;           /* of the arena before x was taken */
} Normed;

static int take_normed(CvRun *run, CvVaeState *state, Normed *n,
                       const CvTensor *x)
{
    n->mark = cv_arena_mark(run->arena);
    n->x = *x;
    return cv_vae_take_input(run, state, &n->x, 0);
}

/* The first half of a residual block: what its second convolution is added to
 * in *out, and the normed input of the first in *a. */
static int begin_residual(CvRun *run, CvVaeState *state, const CvVaeStep *step,
                          const CvTensor *x, CvTensor *out, Normed *a)
{
    int err;

    *out = *x;
    if (step->in == step->out) {
        if (a->x.data)
            return 0;
        err = take_normed(run, state, a, x);
        return err < 0 ? err : cv_norm_silu(run->backend, &a->x, x,
                                            &step->gamma[0], 1);
    }
    err = cv_vae_take(run, out, x->dim[0], x->dim[1], x->dim[2], step->out);
    if (err < 0)
        return err;
    err = cv_vae_mix(run, &step->shortcut, out, x, NULL);
    if (err < 0 || a->x.data)
        return err;
    /* The shortcut was the last to need x as it is. */
    a->x = *x;
    return cv_norm_silu(run->backend, &a->x, x, &step->gamma[0], 1);
}

/*
 * norm, SiLU, conv, norm, SiLU, conv, + (shortcut or x). Each norm is made by
 * the convolution before it: the first one's by the step before, which may have
 * left it in *a, and the next step's by this one.
 */
static int residual(CvRun *run, CvVaeState *state, const CvVaeStep *step,
                    CvTensor *x, Normed *a)
{
    const CvTensor *gamma = a->gamma;
    CvTensor out, c;
    Normed next = *a;
    size_t mark;
    int err;

    err = begin_residual(run, state, step, x, &out, a);
    if (err < 0 || (step->in != step->out && gamma &&
                    (err = take_normed(run, state, &next, &out)) < 0))
        return err;
    mark = cv_arena_mark(run->arena);
    c = out;
    err = cv_vae_take_input(run, state, &c, 1);
    if (err < 0)
        return err;
    err = cv_vae_conv(run, state, &step->conv[0], NULL, &a->x, NULL, &c,
                      &step->gamma[1]);
    if (err < 0)
        return err;
    if (step->in == step->out)
        next = *a; /* which the first convolution was the last to read */
    err = cv_vae_conv(run, state, &step->conv[1], a->only ? NULL : &out, &c,
                      &out, gamma ? &next.x : NULL, gamma);
    if (err < 0)
        return err;
    cv_arena_release(run->arena, mark);
    if (!gamma && step->in == step->out)
        cv_arena_release(run->arena, next.mark);
    *a = next;
    if (!gamma)
        a->x.data = NULL;
    *x = out;
    return 0;
}

/* x + proj(attention(norm(x))), each frame on its own, one head. */
static int attend(CvRun *run, const CvVaeStep *step, const CvTensor *x)
{
    CvBackend *b = run->backend;
    int64_t c = step->in, n = x->dim[1] * x->dim[2];
    size_t mark = cv_arena_mark(run->arena);
    CvTensor norm, part[3]; /* part: q, k, v */
    int err;

    err = cv_vae_take(run, &norm, 1, x->dim[1], x->dim[2], c);
    if (err < 0)
        return err;
    for (int i = 0; i < 3; i++) {
        err = cv_vae_take(run, &part[i], 1, x->dim[1], x->dim[2], c);
        if (err < 0)
            return err;
    }
    for (int64_t f = 0; f < x->dim[0]; f++) {
        CvTensor frame = cv_rows(x, f, 1);
        CvTensor q = CV_RESHAPE(part[0], n, 1, c);
        CvTensor k = CV_RESHAPE(part[1], n, 1, c);
        CvTensor v = CV_RESHAPE(part[2], n, 1, c);
        CvTensor mixed = CV_RESHAPE(norm, n, 1, c);
        CvAttention a = { .out = &mixed, .q = &q, .k = &k, .v = &v,
                          .scale = 1.0f / sqrtf((float)c),
                          .last_repeats = 1 };

        err = cv_norm_silu(b, &norm, &frame, &step->gamma[0], 0);
        if (err < 0)
            return err;
        for (int i = 0; i < 3; i++) {
            CvVaeConv third = {
                .weight = cv_rows(&step->conv[0].weight, i * c, c),
                .bias = cv_rows(&step->conv[0].bias, i * c, c),
            };

            err = cv_vae_mix(run, &third, &part[i], &norm, NULL);
            if (err < 0)
                return err;
        }
        err = cv_attention(b, &a);
        if (err < 0)
            return err;
        err = cv_vae_mix(run, &step->conv[1], &frame, &norm, &frame);
        if (err < 0)
            return err;
    }
    cv_arena_release(run->arena, mark);
    return 0;
}

/*
 * Twice the pixels across and down, and twice the frames where has_time,
 * except in the first latent of a stream. That one does not enter time_conv's
 * history either: what the second latent finds there are zeros (6.3). What it
 * gives may go to a residual block.
 */
static int upsample(CvRun *run, CvVaeState *state, const CvVaeStep *step,
                    CvTensor *x, Normed *a)
{
    int64_t t = x->dim[0], h = x->dim[1], w = x->dim[2], c = x->dim[3];
    int twice = step->has_time && state->done > 0;
    CvTensor out, time, frames = *x;
    size_t mark;
    int err;

    err = cv_vae_take(run, &out, twice ? 2 * t : t, 2 * h, 2 * w, step->out);
    if (err < 0 || (a->gamma && (err = take_normed(run, state, a, &out)) < 0))
        return err;
    mark = cv_arena_mark(run->arena);
    if (twice) {
        CvConv3d later = { .out = &time, .stride_t = 1, .stride_s = 1,
                           .up = 1 };

        err = cv_vae_take(run, &time, t, h, w, 2 * c);
        if (err < 0)
            return err;
        err = cv_vae_convolve(run, state, &step->conv[1], x, &later);
        if (err < 0)
            return err;
        err = cv_vae_take(run, &frames, 2 * t, h, w, c);
        if (err < 0)
            return err;
        err = cv_split_frames(run->backend, &frames, &time);
        if (err < 0)
            return err;
    }
    CvConv3d space = { .out = &out, .norm = a->gamma ? &a->x : NULL,
                       .gamma = a->gamma, .stride_t = 1, .stride_s = 1,
                       .up = 2, .pad_top = 1, .pad_left = 1, .pad_bottom = 1,
                       .pad_right = 1 };
    err = cv_vae_convolve(run, state, &step->conv[0], &frames, &space);
    if (err < 0)
        return err;
    cv_arena_release(run->arena, mark);
    *x = out;
    return 0;
}

/*
 * Half the pixels across and down, and half the frames where has_time, except
 * in the first frame of a stream, which only fills time_conv's history (6.3).
 */
static int downsample(CvRun *run, CvVaeState *state, const CvVaeStep *step,
                      CvTensor *x)
{
    int64_t t = x->dim[0], h = x->dim[1] / 2, w = x->dim[2] / 2;
    int half = step->has_time && state->done > 0;
    CvTensor out, space;
    size_t mark;
    int err;

    err = cv_vae_take(run, &out, half ? t / 2 : t, h, w, step->out);
    if (err < 0)
        return err;
    mark = cv_arena_mark(run->arena);
    space = out;
    if (half) {
        err = cv_vae_take(run, &space, t, h, w, step->out);
        if (err < 0)
            return err;
    }
    CvConv3d a = { .out = &space, .stride_t = 1, .stride_s = 2, .up = 1,
                   .pad_bottom = 1, .pad_right = 1 };
    err = cv_vae_convolve(run, state, &step->conv[0], x, &a);
    if (err < 0)
        return err;
    if (half) {
        CvConv3d time = { .out = &out, .stride_t = 2, .stride_s = 1,
                          .up = 1 };

        err = cv_vae_convolve(run, state, &step->conv[1], &space, &time);
    } else if (step->has_time) {
        err = cv_vae_keep(run, state, step->conv[1].slot, &space);
    }
    if (err < 0)
        return err;
    cv_arena_release(run->arena, mark);
    *x = out;
    return 0;
}

/* Say what step i shall norm: what goes to a residual block, or for the caller
 * what the last step gives. */
static void ask_normed(Normed *a, const CvVaeNet *net, int i, int end,
                       const CvTensor *last)
{
    a->only = i + 1 == end && last;
    a->gamma = i + 1 == end ? last : NULL;
    if (i + 1 < end && net->steps[i + 1].kind == CV_VAE_RESIDUAL)
        a->gamma = &net->steps[i + 1].gamma[0];
}

static int run_step(CvRun *run, CvVaeState *state, int i, CvTensor *x,
                    Normed *a)
{
    const CvVaeNet *net = state->net;
    const CvVaeStep *step = &net->steps[i];

    if (step->kind == CV_VAE_RESIDUAL)
        return residual(run, state, step, x, a);
    if (step->kind == CV_VAE_RESAMPLE && net->up)
        return upsample(run, state, step, x, a);
    if (step->kind == CV_VAE_ATTENTION)
        return attend(run, step, x);
    return net->tiny ? cv_tiny_step(run, state, step, x)
                     : downsample(run, state, step, x);
}

int cv_vae_steps(CvRun *run, CvVaeState *state, CvTensor *x, int begin,
                 int end, const CvTensor *gamma)
{
    Normed a = { .x.data = NULL };

    for (int i = begin; i < end; i++) {
        int err = cv_aborted(run->log);

        if (err < 0)
            return err;
        ask_normed(&a, state->net, i, end, gamma);
        err = run_step(run, state, i, x, &a);
        if (err < 0)
            return err;
    }
    if (gamma && !a.x.data)
        return cv_norm_silu(run->backend, x, x, gamma, 1);
    if (gamma)
        *x = a.x;
    return 0;
}
