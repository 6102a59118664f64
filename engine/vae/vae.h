/*
 * The Wan 2.1 VAE: streaming causal decoder and encoder; or, in its place, the
 * tiny decoder taew2_1 (TAEHV), which is much faster and less exact. Only
 * cv_vae_describe() tells which one it is.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * The graph (number of residual blocks, widths, which stages resample time) is
 * read from the tensor names and shapes; checkpoints.md 2.3, 2.7, 6.
 */
#ifndef CV_VAE_H
#define CV_VAE_H

#include "weights/weights.h"

typedef struct CvVae CvVae;

/* Look at the decoder's weights, and the encoder's where `encoder` is set and
 * the file has one: everything but their values is checked, and what runs on
 * them can be planned. config_path may be "" (then the latent statistics of 6.1
 * hold), and is not looked at for the tiny decoder, whose encoder is not used
 * either. */
int cv_vae_open(CvVae **vae, CvBackend *backend, const char *path,
                const char *config_path, int encoder, CvLog *log);
/* Take their memory and load them. */
int cv_vae_load(CvVae *vae);
void cv_vae_close(CvVae **vae);
int cv_vae_channels(const CvVae *vae);   /* of a latent: 16 */
int cv_vae_scale(const CvVae *vae);      /* pixels a latent pixel: 8 */
int cv_vae_time_scale(const CvVae *vae); /* frames a latent but the first: 4 */
int cv_vae_has_encoder(const CvVae *vae);
size_t cv_vae_bytes(const CvVae *vae);
const char *cv_vae_describe(const CvVae *vae);

/* Temporal caches of one stream, taken from an arena. */
typedef struct CvVaeState CvVaeState;

/* State for decoding latents of h x w. Freed with cv_vae_state_free() (the
 * tensors belong to the arena). The caches are cleared by
 * cv_vae_state_reset(), which must be called before the first latent. */
int cv_vae_decoder_state(CvVaeState **state, CvVae *vae, CvRun *run, int h,
                         int w);
int cv_vae_encoder_state(CvVaeState **state, CvVae *vae, CvRun *run,
                         int height, int width); /* of the pictures */
int cv_vae_state_reset(CvVaeState *state, CvRun *run);
void cv_vae_state_free(CvVaeState **state);

/* Frames that decoding the next `latents` latents gives. */
int64_t cv_vae_frames(const CvVaeState *state, int latents);

/*
 * Decode: latents float32 [t, channels, h, w] (as the transformer makes them:
 * normalised), t >= 1; frames: float32 [n, 8h, 8w, 3], RGB in -1..1, not yet
 * clamped (to_picture does that, and who writes them otherwise must),
 * n = cv_vae_frames(): 1 for the first latent of a stream, 4 for each other.
 * Any grouping of latents into calls gives the same frames.
 */
int cv_vae_decode(CvVae *vae, CvRun *run, CvVaeState *state,
                  const CvTensor *frames, const CvTensor *latents);

/*
 * Encode: frames float32 [n, height, width, 3] in -1..1; n = 1 for the first
 * call of a stream, a multiple of 4 for every other; latents: float32
 * [1 or n / 4, channels, height / 8, width / 8], normalised means.
 */
int cv_vae_encode(CvVae *vae, CvRun *run, CvVaeState *state,
                  const CvTensor *latents, const CvTensor *frames);

#endif /* CV_VAE_H */
