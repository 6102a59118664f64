/*
 * What a model and its clips take of a GPU's memory, and whether it fits.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * Where memory is limited (by the caller, or by what is free) what only a prompt
 * needs is resident if there is room for it, and streamed otherwise: first the
 * text encoder, then the transformer's weights for text; when the model is
 * opened, before anything is loaded, and again when a clip needs more. Where even
 * that is not enough for the first clip, so are as many layers of the transformer
 * as it takes, which each pass then reads. When a model is opened without a
 * budget, that keeps CV_BUDGET_SPARE of what is free, as far as it can. What does
 * not fit even so is refused with the figures.
 */
#ifndef CV_BUDGET_H
#define CV_BUDGET_H

#include "clip.h"
#include "device.h"

/* For whoever else uses the GPU: NVENC, scale_cuda, a desktop. */
#define CV_BUDGET_SPARE ((int64_t)512 << 20)

/* While it is decided what is streamed. Zeros but for what is said here. */
typedef struct CvBudget {
    int64_t spare;      /* of what is free, to be left to others */
    int64_t given_back; /* of what is taken now, before the rest is taken */
    CvMemory memory;
    int64_t first, least, now; /* all that is taken then: as it was, at best, as
                                  it is */
} CvBudget;

/* 1 where memory is limited; 0, or an error. */
int cv_budget_limits(CvBackend *backend);

/* Decide about a plan, of weights and clip or of a clip alone, by what it takes
 * beside what is taken: 0 when that is possible, 1 when one more part is
 * streamed now and the plan must be made again, or ENOMEM, the reason in `why`,
 * not logged. */
int cv_budget_fit(CvBudget *budget, const CvModel *model, const CvClip *clip,
                  int64_t bytes, char why[CV_WHY_SIZE]);
/* A line on what is streamed, if that changed. when: behind its subject. */
void cv_budget_tell(const CvBudget *budget, const CvModel *model,
                    const char *when);

/* The most that is taken while a clip of this arena runs: weights, clip, and on
 * a GPU the backend's own. What `vram` bounds. */
int64_t cv_budget_peak(const CvModel *model, const CvArena *arena);

#endif /* CV_BUDGET_H */
