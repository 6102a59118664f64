/*
 * The worker: generates ahead of the reader.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * One thread runs the generator and decodes latents into the generator's
 * picture slots; the reader converts frames out of them. Block b is begun when
 * a frame of block b - 1 has been asked for, so at most one block is ready or
 * in the making beyond the one that is read, and a prompt given while block r
 * is read can be promised to act from block r + 2 on, whatever the timing.
 */
#ifndef CV_PIPELINE_H
#define CV_PIPELINE_H

#include "generator.h"

typedef struct CvPipeline CvPipeline;

/* Begin a clip; `args` was not checked yet. progress and cookie as in
 * CausvidSettings. */
int cv_pipeline_start(CvPipeline **pipeline, const CvModel *model,
                      CvArena *arena, const CausvidClip *args,
                      void (*progress)(void *, const CausvidProgress *),
                      void *cookie);

/* Stop the worker, wait for it, free everything. */
void cv_pipeline_stop(CvPipeline **pipeline);

int cv_pipeline_read(CvPipeline *pipeline, CausvidPicture *pic);
int cv_pipeline_set_prompt(CvPipeline *pipeline, const char *prompt);

#endif /* CV_PIPELINE_H */
