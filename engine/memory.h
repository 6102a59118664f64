/*
 * Arenas: all memory of a backend is taken at once and handed out in order.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * How much is needed is found by a plan: the same network code runs with
 * backend->planning set and an arena that only counts. Operations then check
 * their arguments and do nothing, so the plan cannot disagree with the run.
 *
 *     cv_arena_plan(&arena, backend);   // counts
 *     network(...);
 *     cv_arena_take(&arena, log, "..."); // allocates the peak, starts over
 *     network(...);
 *
 * Scratch is given back in reverse order: mark, use, release.
 */
#ifndef CV_MEMORY_H
#define CV_MEMORY_H

#include "ops.h"

typedef struct CvArena {
    CvBackend *backend;
    uint8_t *base;  /* NULL before cv_arena_take() */
    size_t size;    /* bytes behind base */
    size_t used, peak;
} CvArena;

/* Everything a network needs to run. */
typedef struct CvRun {
    CvBackend *backend;
    CvArena *arena; /* scratch and state */
    CvLog *log;
} CvRun;

/* Start counting. Sets backend->planning. */
void cv_arena_plan(CvArena *arena, CvBackend *backend);

/* End the plan (clears backend->planning), allocate what it counted, or reuse
 * what an earlier plan took when that is enough, and empty the arena.
 * ENOMEM: logged with the size and `what`. */
int cv_arena_take(CvArena *arena, CvLog *log, const char *what);

/* Give the memory back. Allowed on a zeroed arena. */
void cv_arena_free(CvArena *arena);

/* Describe the next bytes of the arena as *t, whose type and dims are set:
 *     CvTensor x = CV_TENSOR(NULL, CV_F32, rows, cols);
 *     err = cv_arena_tensor(arena, &x);
 * Aligned to 256 bytes. The contents are undefined. ENOMEM when the run asks
 * for more than the plan did (logged as the internal error that it is). */
int cv_arena_tensor(CvArena *arena, CvTensor *t);

static inline size_t cv_arena_mark(const CvArena *arena)
{
    return arena->used;
}

static inline void cv_arena_release(CvArena *arena, size_t mark)
{
    arena->used = mark;
}

#endif /* CV_MEMORY_H */
