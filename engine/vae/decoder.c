/*
 * Latents to pictures.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * Latents are decoded one by one, as in the reference (checkpoints.md 6.3);
 * the last steps, at the size of the pictures, run over state->piece frames at
 * a time.
 */
#include "vae/net.h"

/* Frames [f, f + p) of x through the steps from net->split on, into rows
 * [row, row + p) of `frames`. */
static int finish_piece(CvRun *run, CvVaeState *state, const CvTensor *frames,
                        int64_t row, const CvTensor *x, int64_t f, int64_t p)
{
    const CvVaeNet *net = state->net;
    CvTensor piece = cv_rows(x, f, p), to = cv_rows(frames, row, p), rgb;
    size_t mark = cv_arena_mark(run->arena);
    int err;

    err = cv_vae_steps(run, state, &piece, net->split, net->n_steps,
                       &net->gamma);
    if (err < 0)
        return err;
    if (piece.data == state->lent[0].data)
        cv_arena_release(run->arena, mark); /* all scratch is read */
    err = cv_vae_take(run, &rgb, p, piece.dim[1], piece.dim[2], 3);
    if (err < 0)
        return err;
    err = cv_vae_conv(run, state, &net->last, &rgb, &piece, NULL, NULL,
                      NULL);
    if (err < 0)
        return err;
    err = cv_convert(run->backend, &to, &rgb);
    cv_arena_release(run->arena, mark);
    return err;
}

/* All frames of x, likewise, in pieces, into those from *row on, and *row moved
 * behind them. */
static int finish(CvRun *run, CvVaeState *state, const CvTensor *frames,
                  int64_t *row, const CvTensor *x)
{
    int64_t n = x->dim[0], most = n < state->piece ? n : state->piece;
    int err = cv_vae_lend(run, state, most), settled;

    for (int64_t f = 0, p; f < n && err >= 0; f += p, *row += p) {
        p = n - f < most ? n - f : most;
        err = finish_piece(run, state, frames, *row, x, f, p);
    }
    settled = cv_vae_settle(run, state);
    return err < 0 ? err : settled;
}

/* One latent [1, channels, h, w] into the frames from *row on. */
static int decode_latent(const CvVae *vae, CvRun *run, CvVaeState *state,
                         const CvTensor *frames, int64_t *row,
                         const CvTensor *latent)
{
    const CvVaeNet *net = state->net;
    CvTensor z, mixed, x;
    int err;

    err = cv_vae_take(run, &z, 1, state->h, state->w, vae->channels);
    if (err < 0)
        return err;
    err = cv_to_channels_last(run->backend, &z, latent, vae->decode_mul,
                              vae->decode_add);
    if (err < 0)
        return err;
    err = cv_vae_take(run, &mixed, 1, state->h, state->w, vae->channels);
    if (err < 0)
        return err;
    err = cv_vae_mix(run, &net->mix, &mixed, &z, NULL);
    if (err < 0)
        return err;
    err = cv_vae_take(run, &x, 1, state->h, state->w, net->steps[0].in);
    if (err < 0)
        return err;
    err = cv_vae_conv(run, state, &net->first, &x, &mixed, NULL, NULL,
                      NULL);
    if (err < 0)
        return err;
    err = cv_vae_steps(run, state, &x, 0, net->split, NULL);
    if (err < 0 || (err = finish(run, state, frames, row, &x)) < 0)
        return err;
    state->done++;
    return 0;
}

int cv_vae_decode(CvVae *vae, CvRun *run, CvVaeState *state,
                  const CvTensor *frames, const CvTensor *latents)
{
    size_t mark = cv_arena_mark(run->arena);
    int scale = vae->decoder.scale;
    int64_t row = 0, n = latents->n_dims == 4 ? latents->dim[0] : 0;
    char got[2][CV_SHAPE_TEXT];
    CvTensor want_frames, want_latents;
    int err = 0;

    want_latents = CV_TENSOR(NULL, CV_F32, n, vae->channels, state->h,
                             state->w);
    want_frames = CV_TENSOR(NULL, CV_F32, n < 1 || n > INT32_MAX ? 0 :
                            cv_vae_frames(state, (int)n),
                            (int64_t)state->h * scale,
                            (int64_t)state->w * scale, 3);
    if (state->net != &vae->decoder || want_frames.dim[0] < 1 ||
        !cv_same_shape(latents, &want_latents) ||
        !cv_same_shape(frames, &want_frames))
        return cv_fail(run->log, EINVAL,
                       "vae: cannot decode %s to %s with a state for %dx%d",
                       cv_shape_text(got[0], latents),
                       cv_shape_text(got[1], frames), state->w, state->h);

    for (int64_t i = 0; i < n && err >= 0; i++) {
        CvTensor latent = cv_rows(latents, i, 1);

        err = state->net->tiny
            ? cv_tiny_decode(vae, run, state, frames, &row, &latent)
            : decode_latent(vae, run, state, frames, &row, &latent);
        cv_arena_release(run->arena, mark);
    }
    return err;
}
