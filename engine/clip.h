/*
 * What a clip is to be: the caller's wishes, the recipe's defaults, checked.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#ifndef CV_CLIP_H
#define CV_CLIP_H

#include "model.h"

/* A clip with every default filled in and checked. */
typedef struct CvClip {
    int width, height;
    int64_t frames;        /* -1: endless */
    int64_t latents;       /* latent frames that hold them; -1: endless */
    int64_t blocks;        /* -1: endless */
    int rate_num, rate_den;
    int64_t seed;
    int causal;
    int block_latents;     /* latent frames a block: all of them when the
                              model is bidirectional */
    int slots;             /* blocks in the KV cache ring */
    double guidance;
    const char *negative_prompt; /* the caller's or the recipe's */
    CvSchedule schedule;
} CvClip;

/* EINVAL names the option, its value and the nearest legal one. */
int cv_clip_init(CvClip *clip, const CvModel *model, const CausvidClip *args);

/* Latents whose frames wait for a reader while the next ones are made. */
int cv_clip_slots(const CvClip *clip);

/* Latent that holds a frame, and the frame's place among the latent's. */
int64_t cv_latent_of_frame(int64_t frame, int time_scale, int *place);

#endif /* CV_CLIP_H */
