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
 * not fit even so is refused with the figures. Where the cache has what the first clip needs of the text
 * encoder, that is streamed in any case, and so not loaded.
 */
#ifndef CV_BUDGET_H
#define CV_BUDGET_H

#include "device.h"
#include "generator.h"

/* For whoever else uses the GPU: NVENC, scale_cuda, a desktop. */
#define CV_BUDGET_SPARE ((int64_t)512 << 20)

/* Decide for a model whose weights are not loaded yet. first: the clip to plan
 * for, NULL: the recipe's. ENOMEM: the reason is in `why`, not logged. Or what
 * cv_clip_init() says of it. */
int cv_budget_open(CvModel *model, const CausvidClip *first,
                   char why[CV_WHY_SIZE]);

/* Decide for a clip whose plan is in the arena: 0 when it can be taken, 1 when
 * one more part was made to be streamed and the plan must be made again, or
 * ENOMEM. */
int cv_budget_clip(const CvModel *model, const CvClip *clip,
                   const CvArena *arena);

/* The most that is taken while a clip of this arena runs: weights, clip, and on
 * a GPU the backend's own. What `vram` bounds. */
int64_t cv_budget_peak(const CvModel *model, const CvArena *arena);

#endif /* CV_BUDGET_H */
