/*
 * Pictures to latents.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * The first picture of a stream makes a latent on its own, then each
 * time_scale of them do (checkpoints.md 6.3). The first steps, at the size of
 * the pictures, run over state->piece frames at a time.
 */
#include "vae/net.h"

/* Frames [f, f + p) of `frames` through the steps before net->split, into
 * rows [row, row + p) of x. */
static int begin_piece(CvRun *run, CvVaeState *state, const CvTensor *x,
                       int64_t row, const CvTensor *frames, int64_t f,
                       int64_t p)
{
    const CvVaeNet *net = state->net;
    CvTensor from = cv_rows(frames, f, p), to = cv_rows(x, row, p);
    CvTensor rgb, piece;
    size_t mark = cv_arena_mark(run->arena);
    int err;

    err = cv_vae_take(run, &rgb, p, state->h, state->w, 3);
    if (err < 0)
        return err;
    err = cv_convert(run->backend, &rgb, &from);
    if (err < 0)
        return err;
    err = cv_vae_take(run, &piece, p, state->h, state->w, net->steps[0].in);
    if (err < 0)
        return err;
    err = cv_vae_conv(run, state, &net->first, &piece, &rgb, NULL, NULL,
                      NULL);
    if (err < 0)
        return err;
    err = cv_vae_steps(run, state, &piece, 0, net->split, NULL);
    if (err < 0)
        return err;
    err = cv_copy(run->backend, &to, &piece);
    cv_arena_release(run->arena, mark);
    return err;
}

/* `t` frames from frame f on into one latent [1, channels, h, w]. */
static int encode_latent(const CvVae *vae, CvRun *run, CvVaeState *state,
                         const CvTensor *latent, const CvTensor *frames,
                         int64_t f, int64_t t)
{
    const CvVaeNet *net = state->net;
    int scale = 1; /* between the frames and step net->split */
    CvTensor x, z, mean;
    CvVaeConv means = net->mix;
    int err;

    for (int i = 0; i < net->split; i++)
        if (net->steps[i].kind == CV_VAE_RESAMPLE)
            scale *= 2;
    err = cv_vae_take(run, &x, t, state->h / scale, state->w / scale,
                      net->steps[net->split].in);
    if (err < 0)
        return err;
    for (int64_t row = 0; row < t;) {
        int64_t p = t - row;

        if (p > state->piece)
            p = state->piece;
        err = begin_piece(run, state, &x, row, frames, f + row, p);
        if (err < 0)
            return err;
        row += p;
    }
    err = cv_vae_steps(run, state, &x, net->split, net->n_steps, &net->gamma);
    if (err < 0)
        return err;
    err = cv_vae_take(run, &z, 1, x.dim[1], x.dim[2], 2 * vae->channels);
    if (err < 0)
        return err;
    err = cv_vae_conv(run, state, &net->last, &z, &x, NULL, NULL, NULL);
    if (err < 0)
        return err;

    /* The first half of conv1's rows gives the mean. */
    means.weight = cv_rows(&net->mix.weight, 0, vae->channels);
    means.bias = cv_rows(&net->mix.bias, 0, vae->channels);
    err = cv_vae_take(run, &mean, 1, x.dim[1], x.dim[2], vae->channels);
    if (err < 0)
        return err;
    err = cv_vae_mix(run, &means, &mean, &z, NULL);
    if (err < 0)
        return err;
    err = cv_to_channels_first(run->backend, latent, &mean, vae->encode_mul,
                               vae->encode_add);
    if (err < 0)
        return err;
    state->done++;
    return 0;
}

int cv_vae_encode(CvVae *vae, CvRun *run, CvVaeState *state,
                  const CvTensor *latents, const CvTensor *frames)
{
    size_t mark = cv_arena_mark(run->arena);
    int scale = vae->decoder.scale, group = vae->decoder.time_scale;
    int64_t n = frames->n_dims == 4 ? frames->dim[0] : 0;
    int64_t t = state->done > 0 ? group : 1; /* frames of the next latent */
    char got[2][CV_SHAPE_TEXT];
    CvTensor want_frames, want_latents;
    int err = 0;

    want_frames = CV_TENSOR(NULL, CV_F32, n, state->h, state->w, 3);
    want_latents = CV_TENSOR(NULL, CV_F32, n / t, vae->channels,
                             state->h / scale, state->w / scale);
    if (state->net != &vae->encoder || n < 1 || n % t ||
        (state->done == 0 && n != 1) ||
        !cv_same_shape(frames, &want_frames) ||
        !cv_same_shape(latents, &want_latents))
        return cv_fail(run->log, EINVAL,
                       "vae: cannot encode %s to %s with a state for %dx%d "
                       "(the first call takes 1 frame, others multiples of "
                       "%d)", cv_shape_text(got[0], frames),
                       cv_shape_text(got[1], latents), state->w, state->h,
                       group);

    for (int64_t i = 0; i < n / t && err >= 0; i++) {
        CvTensor latent = cv_rows(latents, i, 1);

        err = encode_latent(vae, run, state, &latent, frames, i * t, t);
        cv_arena_release(run->arena, mark);
    }
    return err;
}
