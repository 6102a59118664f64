/*
 * Inside of the VAE: the graph of one direction, its weights and its caches.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * Decoder and encoder are the same kind of chain: a convolution, steps
 * (residual blocks, one attention block, resamplers), a norm and a
 * convolution. The decoder's resamplers double time and space, the encoder's
 * halve them. Each direction also has a 1x1x1 convolution on the latent's
 * side of the chain ("conv2" before the decoder, "conv1" after the encoder).
 *
 * The tiny decoder (tiny.c) is such a chain as well, of memory blocks and
 * growth, without norms, attention and mixing.
 *
 * Every convolution over time keeps the last frames of its input in a slot of
 * the state, so a chain may be run over any number of frames at a time. Both
 * directions use that to run their steps at the largest frames, which need the
 * most memory, over few frames at a time ("pieces").
 */
#ifndef CV_VAE_NET_H
#define CV_VAE_NET_H

#include "vae/vae.h"
#include "weights/files.h"

#define CV_VAE_MAX_CHANNELS 256  /* of a latent */
#define CV_VAE_MAX_WIDTH 16384   /* channels inside */
#define CV_VAE_MAX_STEPS 256
#define CV_VAE_MAX_RESAMPLERS 6

typedef struct CvVaeConv {
    CvTensor weight; /* W [o, kt, kh, kw, c], or [o, c] where it is a linear */
    CvTensor bias;   /* float32 [o], or empty */
    int slot;        /* of its history in a state; -1: keeps none */
    int relu;        /* what it gives is clamped at 0 */
} CvVaeConv;

typedef enum CvVaeKind {
    CV_VAE_RESIDUAL,
    CV_VAE_ATTENTION,
    CV_VAE_RESAMPLE,
    CV_VAE_MEMORY, /* of the tiny decoder, as is: */
    CV_VAE_GROW,
} CvVaeKind;

typedef struct CvVaeStep {
    CvVaeKind kind;
    int64_t in, out;    /* channels */
    CvTensor gamma[2];  /* residual: of both norms; attention: of its norm */
    CvVaeConv conv[3];  /* residual: two; attention: to_qkv, proj;
                           resample: in space, in time (where has_time);
                           memory: three; grow: in space, in time (1x1) */
    CvVaeConv shortcut; /* residual block whose width changes */
    int has_time;       /* resample, grow: time too */
} CvVaeStep;

typedef struct CvVaeNet {
    const char *name;   /* "decoder", "encoder": root of its tensors */
    int up;             /* decoder */
    int tiny;           /* the tiny decoder */
    CvVaeConv mix;      /* conv2 or conv1 */
    CvVaeConv first, last;
    CvTensor gamma;     /* of the norm before `last` */
    CvVaeStep *steps;
    int n_steps;
    int n_slots;
    int scale, time_scale;
    int split; /* decoder: steps from here on run in pieces; encoder: steps
                  before this one do */
} CvVaeNet;

struct CvVae {
    CvBackend *backend;
    CvLoader loader;   /* until the weights are loaded */
    CvArena weights;
    CvVaeNet decoder, encoder;
    int has_encoder;
    int channels;
    /* Factor and offset of each channel on the way into the decoder and out of
     * the encoder: checkpoints.md 6.1. */
    float decode_mul[CV_VAE_MAX_CHANNELS], decode_add[CV_VAE_MAX_CHANNELS];
    float encode_mul[CV_VAE_MAX_CHANNELS], encode_add[CV_VAE_MAX_CHANNELS];
    char text[256];
};

struct CvVaeState {
    const CvVaeNet *net;
    int h, w;          /* of a frame that enters the chain */
    int channels;      /* of a latent */
    int piece;         /* frames at a time where the frames are largest */
    int64_t done;      /* latents decoded or encoded since the reset */
    CvTensor *history; /* A [frames, h, w, c], n_slots of them */
    CvTensor lent[2];  /* see cv_vae_lend(); empty outside of pieces */
    void *scratch[2];  /* where these two were at first */
};

/* ---- net.c ---- */

/* Output channels of a convolution, as its tensor says. Where it says nothing
 * sensible: `expected`, and loading it will say what is wrong. */
int64_t cv_vae_outputs(CvLoader *loader, const char *path, int64_t expected);

/* Count the steps by the names that are there and take memory for them. */
int cv_vae_net_open(CvVaeNet *net, CvLoader *loader, const char *name);
void cv_vae_net_free(CvVaeNet *net);

/* Load all tensors of a net (twice, as CvLoader wants it) and derive what
 * follows from them. `channels` of a latent. */
int cv_vae_net_load(CvVaeNet *net, CvLoader *loader, int64_t channels);

/* ---- state.c ---- */

/*
 * Where as many frames come at a time as a convolution looks back, its input
 * need not be copied into its history: it changes places with it. For that,
 * scratch is lent to a state while it runs the pieces of a latent, two tensors
 * for what their convolutions over time read, of the shape of the last one's
 * history. One that was read is that history now, and the memory of the old one
 * is lent in its place. Nothing else is scratch where a history lies: what is
 * lent was taken before all that a piece takes, and is settled after it.
 *
 * cv_vae_lend: take them where pieces are of `frames` frames, the last
 * convolution's history as well; else nothing is lent.
 * cv_vae_settle: histories that lie in scratch are copied to what is lent in
 * their place, also after an error. To be called after each cv_vae_lend().
 */
int cv_vae_lend(CvRun *run, CvVaeState *state, int64_t frames);
int cv_vae_settle(CvRun *run, CvVaeState *state);

/* Take x, of the type and dimensions that are set, for the input of a
 * convolution over time: the lent tensor of that index where it has this shape,
 * else scratch. */
int cv_vae_take_input(CvRun *run, CvVaeState *state, CvTensor *x, int index);

/* The last frames of a history and of x behind it become the history. What x
 * held is lost where it is a lent tensor, and it is elsewhere then. */
int cv_vae_keep(CvRun *run, CvVaeState *state, int slot, CvTensor *x);

/* ---- config.c ---- */

/* What a diffusers config.json says. Zero or -1: it does not say. */
typedef struct CvVaeConfig {
    char path[CV_PATH_SIZE]; /* "": there is no config */
    int64_t z_dim, base_dim, decoder_base_dim, num_res_blocks;
    int64_t scale, time_scale;
    int n_mult, n_temporal, n_mean, n_std;
    double dim_mult[CV_VAE_MAX_RESAMPLERS + 1];
    int temporal[CV_VAE_MAX_RESAMPLERS];
    double mean[CV_VAE_MAX_CHANNELS], std[CV_VAE_MAX_CHANNELS];
} CvVaeConfig;

/* Read it; ENOSYS names what this version does not run. path may be "". */
int cv_vae_config_read(CvVaeConfig *config, const char *path, CvLog *log);

/* EILSEQ where the config and the weights disagree. */
int cv_vae_config_check(const CvVaeConfig *config, const CvVae *vae,
                        CvLog *log);

/* Set the factors and offsets of `vae` from the config or from 6.1. path: of
 * the weights, for messages. */
int cv_vae_statistics(CvVae *vae, const CvVaeConfig *config, const char *path,
                      CvLog *log);

/* ---- blocks.c ---- */

/* Take scratch A [t, h, w, c]. */
int cv_vae_take(CvRun *run, CvTensor *x, int64_t t, int64_t h, int64_t w,
                int64_t c);

/* A convolution of x, with history in time where it keeps some, and x kept for
 * it: see cv_vae_keep(). a: all but x, history, weight, bias and relu. */
int cv_vae_convolve(CvRun *run, CvVaeState *state, const CvVaeConv *conv,
                    CvTensor *x, CvConv3d *a);

/* The same with a kernel of 3x3, padded in space: out = .. (+ add). norm, gamma:
 * as in CvConv3d, or NULL. */
int cv_vae_conv(CvRun *run, CvVaeState *state, const CvVaeConv *conv,
                const CvTensor *out, CvTensor *x, const CvTensor *add,
                const CvTensor *norm, const CvTensor *gamma);

/* out[.., o] = a 1x1x1 convolution of x[.., c] (+ add). */
int cv_vae_mix(CvRun *run, const CvVaeConv *conv, const CvTensor *out,
               const CvTensor *x, const CvTensor *add);

/* Run steps [begin, end) on *x, which becomes their output: in place, at the top
 * of the arena, or in lent memory. What *x held is lost. gamma: of a norm with
 * SiLU that follows them, or NULL. */
int cv_vae_steps(CvRun *run, CvVaeState *state, CvTensor *x, int begin,
                 int end, const CvTensor *gamma);

/* ---- tiny.c ---- */

/* As cv_vae_net_open() and cv_vae_net_load() of a decoder. */
int cv_tiny_open(CvVaeNet *net, CvLoader *loader);
int cv_tiny_load(CvVaeNet *net, CvLoader *loader, int64_t channels);

/* Run one of its steps, as cv_vae_steps() does. */
int cv_tiny_step(CvRun *run, CvVaeState *state, const CvVaeStep *step,
                 CvTensor *x);

/* Decode one latent [1, channels, h, w] into the frames from *row on, and move
 * *row behind them. */
int cv_tiny_decode(const CvVae *vae, CvRun *run, CvVaeState *state,
                   const CvTensor *frames, int64_t *row,
                   const CvTensor *latent);

#endif /* CV_VAE_NET_H */
