/*
 * A clip in the making: prompt -> latents, block after block -> frames.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * Nothing here knows of threads or of who takes the frames: pipeline.c runs it
 * ahead of a reader, cli/trace.c runs it with given tensors.
 */
#ifndef CV_GENERATOR_H
#define CV_GENERATOR_H

#include "clip.h"

/* Where tensors come from and who looks at them, for tests and traces. */
typedef struct CvTap {
    void *cookie;
    /* Fill `out` with the noise of latent frames first .. first + frames - 1
     * of block `block`: step 0 is the initial noise, step i what is added
     * before step i. NULL: seeded noise (cv_noise). */
    int (*noise)(void *cookie, float *out, int64_t first, int frames,
                 int64_t frame_elements, int64_t block, int step);
    /* Sees "flow", "x0" after each step, "latents" after each block. */
    int (*tensor)(void *cookie, CvBackend *backend, const char *name,
                  int64_t block, int step, const CvTensor *t);
} CvTap;

typedef struct CvGenerator {
    const CvModel *model;
    CvLog *log;
    CvClip clip;
    CvTap tap;
    CvRun run;
    CvDitState text, negative; /* negative: only with guidance */
    CvSampler sampler;
    CvTensor flow_negative;
    CvVaeState *vae;           /* of a bidirectional clip: NULL until the
                                  first latent is decoded */
    size_t decoder_mark;       /* of the arena: where it begins then */
    /* Decoded frames: float32 [slots of time_scale frames, h, w, 3]; latent l
     * of the clip goes to slot l % picture_slots. */
    CvTensor pictures;
    int picture_slots;
    float *host;               /* one block of latents */
    int64_t drawn;             /* block whose first noise is in host; or -1 */
} CvGenerator;

/* Bytes that a clip takes of an arena. */
int cv_generator_plan(int64_t *bytes, const CvModel *model, const CvClip *clip,
                      int picture_slots);

/* Plan, take the memory from `arena` (kept by the caller from clip to clip),
 * and prepare for block 0. picture_slots: latents whose frames can wait. */
int cv_generator_open(CvGenerator *g, const CvModel *model, const CvClip *clip,
                      const CvTap *tap, CvArena *arena, int picture_slots);
void cv_generator_close(CvGenerator *g);

/* The prompt from the next block on; ids as cv_model_tokens() gave them. */
int cv_generator_prompt(CvGenerator *g, const int32_t *ids, int64_t n);
int cv_generator_negative_prompt(CvGenerator *g, const int32_t *ids,
                                 int64_t n);
/* Text embeddings [n, text_dim] from the host in place of a prompt. */
int cv_generator_text(CvGenerator *g, const float *embeds, int64_t n);

/* Denoise block `block`: blocks come in order. The latents are then in
 * g->sampler.x0. */
int cv_generator_block(CvGenerator *g, int64_t block);

/* Decode latent `i` of the newest block (in order) into its slot. *frames:
 * the part of g->pictures that was written, [n, h, w, 3]. */
int cv_generator_decode(CvGenerator *g, int64_t block, int i,
                        CvTensor *frames);

/* Let later blocks attend to the newest one; nothing to do after a clip's last.
 * After its latents were decoded, so that no frame waits for this, and before
 * the prompt changes. */
int cv_generator_remember(CvGenerator *g, int64_t block);

/* Where the frames of latent `latent` of the clip are: [time_scale, h, w, 3],
 * for the first latent only one frame counts. */
CvTensor cv_generator_slot(const CvGenerator *g, int64_t latent);

#endif /* CV_GENERATOR_H */
