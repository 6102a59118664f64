/*
 * Stored tensors as sources of uploads (CvSource of ops.h).
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#ifndef CV_WEIGHTS_SOURCE_H
#define CV_WEIGHTS_SOURCE_H

#include <stdatomic.h>

#include "weights/reader.h"

typedef struct CvStored {
    const CvEntry *entry;
    const CvFile *file;  /* to be read, or NULL: it is in memory */
    CvView view;         /* another order than the file's; no dims: that one */
    int64_t first;       /* element of the tensor, where the source begins */
    int64_t part, step;  /* of each `step` elements only so many */
    CvLog *log;
    atomic_int told;
} CvStored;

/* e of w, whose shape was looked at, in an order of its elements. */
void cv_stored_init(CvStored *s, const CvWeights *w, const CvEntry *e,
                    CvLoadLayout layout, int64_t first, CvLog *log);

/* From now on only the first `part` of each `step` elements. */
void cv_stored_parts(CvStored *s, int64_t part, int64_t step);

/* CvSource.read of a CvStored. EIO. */
int cv_stored_read(void *stored, void *to, int64_t first, int64_t n);

#endif /* CV_WEIGHTS_SOURCE_H */
