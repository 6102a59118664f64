/*
 * The temporal caches of one stream through the VAE.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * A convolution's cache, its history, is its last kt - stride_t input frames:
 * two, or one for the encoder's time_conv and the tiny decoder. checkpoints.md
 * 6.2, 6.3, 6.6.
 */
#include "vae/net.h"

#include <stdlib.h>

/* Largest number of pixels across or down: keeps every size far below 2^63. */
#define MAX_SIDE 65536

/* A tensor at the largest frames is kept below this where more than one frame
 * would exceed it. Frames that run together share the reading of weights and
 * of each other as history, but three such tensors are scratch. */
#define PIECE_BYTES ((int64_t)256 << 20)

/* 0: histories are copied everywhere, to measure the difference. */
#ifndef CV_VAE_EXCHANGE
#define CV_VAE_EXCHANGE 1
#endif

/* Caches of a stream of frames of h x w; shapes follow the chain. */
static int take_history(CvVaeState *state, CvRun *run)
{
    const CvVaeNet *net = state->net;
    int64_t h = state->h, w = state->w;
    int err;

#define TAKE(conv, frames)                                                   \
    do {                                                                     \
        err = cv_vae_take(run, &state->history[(conv).slot], (frames), h, w, \
                          (conv).weight.dim[4]);                             \
        if (err < 0)                                                         \
            return err;                                                      \
    } while (0)

    if (!net->tiny)
        TAKE(net->first, 2);
    for (int i = 0; i < net->n_steps; i++) {
        const CvVaeStep *step = &net->steps[i];

        if (step->kind == CV_VAE_RESIDUAL) {
            TAKE(step->conv[0], 2);
            TAKE(step->conv[1], 2);
        } else if (step->kind == CV_VAE_MEMORY) {
            TAKE(step->conv[0], 1);
        } else if (step->kind == CV_VAE_GROW) {
            h *= 2;
            w *= 2;
        } else if (step->kind == CV_VAE_RESAMPLE && net->up) {
            if (step->has_time)
                TAKE(step->conv[1], 2);
            h *= 2;
            w *= 2;
        } else if (step->kind == CV_VAE_RESAMPLE) {
            h /= 2;
            w /= 2;
            if (step->has_time)
                TAKE(step->conv[1], 1);
        }
    }
    if (!net->tiny)
        TAKE(net->last, 2);
#undef TAKE
    return 0;
}

/* Frames at a time at the largest frames: all frames of a latent, or fewer
 * for the sake of memory. */
static int piece_frames(const CvVaeNet *net, CvRun *run, int64_t pixels)
{
    int64_t width = net->up ? net->last.weight.dim[4]
                            : net->first.weight.dim[0];
    int64_t bytes;
    int piece = net->time_scale;

    bytes = pixels * width * (int64_t)cv_type_bytes(run->backend->activation);
    while (piece > 1 && piece * bytes > PIECE_BYTES)
        piece /= 2;
    return piece;
}

static int open_state(CvVaeState **state, const CvVae *vae,
                      const CvVaeNet *net, CvRun *run, int h, int w)
{
    CvVaeState *s;
    int64_t pixels = (int64_t)h * w;
    int err;

    *state = NULL;
    s = calloc(1, sizeof(*s));
    if (!s)
        return cv_fail_memory(run->log, sizeof(*s), "the VAE's state");
    s->net = net;
    s->h = h;
    s->w = w;
    s->channels = vae->channels;
    if (net->up)
        pixels *= (int64_t)net->scale * net->scale;
    s->piece = piece_frames(net, run, pixels);
    s->history = calloc((size_t)net->n_slots, sizeof(*s->history));
    if (!s->history) {
        err = cv_fail_memory(run->log,
                             (uint64_t)net->n_slots * sizeof(*s->history),
                             "the VAE's state");
        goto fail;
    }
    err = take_history(s, run);
    if (err < 0)
        goto fail;
    *state = s;
    return 0;

fail:
    cv_vae_state_free(&s);
    return err;
}

int cv_vae_decoder_state(CvVaeState **state, CvVae *vae, CvRun *run, int h,
                         int w)
{
    int limit = MAX_SIDE / vae->decoder.scale;

    *state = NULL;
    if (h < 1 || w < 1 || h > limit || w > limit)
        return cv_fail(run->log, EINVAL,
                       "vae: latents of %dx%d cannot be decoded: each side "
                       "must be 1 to %d", w, h, limit);
    return open_state(state, vae, &vae->decoder, run, h, w);
}

int cv_vae_encoder_state(CvVaeState **state, CvVae *vae, CvRun *run,
                         int height, int width)
{
    int scale = vae->decoder.scale;

    *state = NULL;
    if (!vae->has_encoder)
        return cv_fail(run->log, ENOSYS, "vae: no encoder is loaded");
    if (height < scale || width < scale || height > MAX_SIDE ||
        width > MAX_SIDE || height % scale || width % scale)
        return cv_fail(run->log, EINVAL,
                       "vae: pictures of %dx%d cannot be encoded: each side "
                       "must be a multiple of %d, at most %d",
                       width, height, scale, MAX_SIDE);
    return open_state(state, vae, &vae->encoder, run, height, width);
}

int cv_vae_state_reset(CvVaeState *state, CvRun *run)
{
    for (int i = 0; i < state->net->n_slots; i++) {
        int err = cv_zero(run->backend, &state->history[i]);

        if (err < 0)
            return err;
    }
    state->done = 0;
    return 0;
}

int cv_vae_lend(CvRun *run, CvVaeState *state, int64_t frames)
{
    const CvTensor *like = &state->history[state->net->last.slot];

    for (int i = 0; i < 2 && frames == like->dim[0] && CV_VAE_EXCHANGE; i++) {
        CvTensor x = *like;
        int err = cv_arena_tensor(run->arena, &x);

        if (err < 0)
            return err;
        state->lent[i] = x;
        state->scratch[i] = x.data;
    }
    return 0;
}

static int is_scratch(const CvVaeState *state, const CvTensor *x)
{
    return x->data == state->scratch[0] || x->data == state->scratch[1];
}

int cv_vae_settle(CvRun *run, CvVaeState *state)
{
    int err = 0;

    for (int i = 0; i < state->net->n_slots; i++) {
        CvTensor *history = &state->history[i];
        CvTensor *to = &state->lent[is_scratch(state, &state->lent[0])];
        CvTensor from = *history;

        if (!is_scratch(state, history))
            continue;
        history->data = to->data;
        to->data = from.data;
        if (!err)
            err = cv_copy(run->backend, history, &from);
    }
    for (int i = 0; i < 2; i++) {
        state->lent[i] = (CvTensor){ 0 };
        state->scratch[i] = NULL;
    }
    return err;
}

int cv_vae_take_input(CvRun *run, CvVaeState *state, CvTensor *x, int index)
{
    if (!cv_same_shape(x, &state->lent[index]))
        return cv_arena_tensor(run->arena, x);
    x->data = state->lent[index].data;
    return 0;
}

int cv_vae_keep(CvRun *run, CvVaeState *state, int slot, CvTensor *x)
{
    CvTensor *history = &state->history[slot], to, from;
    int64_t p = history->dim[0], t = x->dim[0], n = t < p ? t : p;
    int err = 0;

    for (int i = 0; i < 2 && cv_same_shape(x, history); i++)
        if (state->lent[i].data == x->data) {
            state->lent[i].data = history->data;
            history->data = x->data;
            x->data = state->lent[i].data;
            return 0;
        }
    /* Frame by frame: none is overwritten before it was copied. */
    for (int64_t f = 0; f + t < p && !err; f++) {
        to = cv_rows(history, f, 1);
        from = cv_rows(history, f + t, 1);
        err = cv_copy(run->backend, &to, &from);
    }
    to = cv_rows(history, p - n, n);
    from = cv_rows(x, t - n, n);
    return err ? err : cv_copy(run->backend, &to, &from);
}

void cv_vae_state_free(CvVaeState **state)
{
    if (!*state)
        return;
    free((*state)->history);
    free(*state);
    *state = NULL;
}

int64_t cv_vae_frames(const CvVaeState *state, int latents)
{
    int64_t frames = (int64_t)latents * state->net->time_scale;

    if (latents < 1)
        return 0;
    return state->done > 0 ? frames : frames - state->net->time_scale + 1;
}
