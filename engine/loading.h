/*
 * Filling a model's weights, within what memory there is.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#ifndef CV_LOADING_H
#define CV_LOADING_H

#include "device.h"
#include "model.h"

/* Decide what is streamed, before anything is loaded. first: the clip that comes
 * first, NULL: the recipe's. ENOMEM: the reason is in `why`, not logged. Or what
 * cv_clip_init() says of it. */
int cv_model_fit(CvModel *model, const CausvidClip *first,
                 char why[CV_WHY_SIZE]);

/* Load the weights, unless they and the clip that comes first (NULL: the
 * recipe's) are too much for the memory: ENOMEM, and when `settings` leave the
 * device to us and limit no memory, the model is opened and loaded on the CPU
 * instead, which one INFO line tells. settings: those of cv_model_open(), or
 * NULL for this device only. */
int cv_model_load(CvModel *model, const CausvidSettings *settings,
                  const CausvidClip *first);

#endif /* CV_LOADING_H */
