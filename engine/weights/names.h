/*
 * What cv_weights_canonical() is made of: wrappers, kinds, names.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#ifndef CV_NAMES_H
#define CV_NAMES_H

#include "weights/reader.h"

int cv_ends_with(const char *string, const char *end);

/* names.c: remove what programs put in front of names and into them
 * (checkpoints.md 1.9 step 3). Returns the network that the prefix tells, or
 * unknown. */
CvKind cv_names_unwrap(char to[CV_NAME_SIZE], const char *name);

/* kinds.c: set kind and layout by the unwrapped names (1.9 step 4). */
void cv_kind_detect(CvWeights *weights);
/* EILSEQ when they are not the expected kind, ENOSYS when they are a relative
 * of it that is not run. */
int cv_kind_check(CvWeights *weights, CvKind expected, CvLog *log);

/* rules.c: from the layout's names to the official ones. */
int cv_names_translate(CvWeights *weights, CvLog *log);
/* One name of a transformer, from diffusers' or to it; 0 where there is none.
 */
int cv_names_from_diffusers(char to[CV_NAME_SIZE], const char *name);
int cv_names_to_diffusers(char to[CV_NAME_SIZE], const char *name);

/* fp8.c: find the scales of weights and take them out of the directory, and
 * refuse what is quantised in another way. Names are unwrapped, but not yet
 * translated; sorted. */
int cv_scales_attach(CvWeights *weights, CvLog *log);

/* names.c: replace the name of an entry; mark one, and remove all that are
 * marked. */
int cv_entry_rename(CvEntry *entry, const char *name, CvLog *log);
void cv_entry_drop(CvEntry *entry);
void cv_entries_sweep(CvWeights *weights);

#endif /* CV_NAMES_H */
