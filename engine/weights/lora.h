/*
 * LoRA files: changes that are added to a transformer's weights.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * cv_loras_open() finds, for each entry of the files, the tensor that it
 * changes, and checks both shapes: whatever is wrong with a LoRA is said before
 * weights are loaded. While they are (load.c), cv_loras_merge() takes the
 * place of the plain upload for tensors that are changed. Names and arithmetic:
 * checkpoints.md 3.
 */
#ifndef CV_LORA_H
#define CV_LORA_H

#include "weights/files.h"
#include "weights/reader.h"

/* target += scale * up down, or target += scale * up where down is NULL. */
typedef struct CvDelta {
    const CvEntry *target;
    const CvEntry *up, *down; /* [out, rank], [rank, in]; or as the target */
    int64_t rank;
    float scale;
    int file;
    int applied;
} CvDelta;

typedef struct CvLoraFile {
    CvWeights *weights;
    double strength;
    int64_t entries, applied; /* pairs, or whole differences */
} CvLoraFile;

typedef struct CvLoras {
    CvLoraFile *files;
    int n_files;
    CvDelta *deltas;   /* sorted by target; those of one in the files' order */
    int64_t n_deltas, room;
} CvLoras;

/* Take the next of "path=strength|path|..." off the list; the strength is 1
 * where nothing behind the last '=' is a number. 1, or 0 at the end; EINVAL. */
int cv_lora_next(const char **list, char path[CV_PATH_SIZE], double *strength,
                 CvLog *log);

/* Open the files of a list for the transformer whose directory is `model`,
 * which must outlive them. EINVAL, ENOENT, ENOMEM, EILSEQ (of another model, or
 * damaged), ENOSYS (a kind of entry that is not supported): the line names file
 * and entry, and both shapes where they differ. */
int cv_loras_open(CvLoras **loras, const char *list, CvWeights *model,
                  CvLog *log);
void cv_loras_close(CvLoras **loras);

/* The changes of a tensor, *n of them. loras may be NULL. */
CvDelta *cv_loras_find(const CvLoras *loras, const CvEntry *target,
                       int64_t *n);

/* merge.c: m = the stored tensor e, which the loader found, with its changes, of
 * which there may be none; in float32, rounded once to m's type. In fp8, its
 * rows get new factors. In a plan, only what a streamed loader needs for it is
 * taken. */
int cv_loras_merge(CvLoader *loader, const CvMatrix *m, const CvEntry *e,
                   CvDelta *deltas, int64_t n);

/* When all is loaded: say what was applied. */
void cv_loras_finish(const CvLoader *loader);

#endif /* CV_LORA_H */
