/*
 * Arenas.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#include "memory.h"

#define ALIGNMENT 256

/* Addresses handed out while planning: never read, but not NULL, so that
 * "data is set" means the same in the plan and in the run. */
#define PLAN_BASE ((uint8_t *)(uintptr_t)ALIGNMENT)

void cv_arena_plan(CvArena *arena, CvBackend *backend)
{
    arena->backend    = backend;
    arena->used       = 0;
    arena->peak       = 0;
    backend->planning = 1;
}

int cv_arena_take(CvArena *arena, CvLog *log, const char *what)
{
    CvBackend *b = arena->backend;
    void *data;
    int err;

    b->planning = 0;
    arena->used = 0;
    if (arena->base && arena->size >= arena->peak)
        return 0;
    cv_arena_free(arena);
    err = b->ops->alloc(b, arena->peak ? arena->peak : 1, &data);
    if (err == CAUSVID_ERR(ENOMEM))
        return cv_fail_memory(log, arena->peak, what);
    if (err < 0)
        return err;
    arena->base = data;
    arena->size = arena->peak;
    return 0;
}

void cv_arena_free(CvArena *arena)
{
    if (arena->base)
        arena->backend->ops->release(arena->backend, arena->base);
    arena->base = NULL;
    arena->size = 0;
}

int cv_arena_tensor(CvArena *arena, CvTensor *t)
{
    CvLog *log = arena->backend->log;
    int64_t bytes = cv_tensor_bytes(t);
    size_t rounded;

    if (bytes < 0 || (uint64_t)bytes > SIZE_MAX / 4) {
        char text[CV_SHAPE_TEXT];

        return cv_fail(log, ENOMEM, "a tensor of %s is larger than this "
                       "machine can address; choose a smaller size",
                       cv_shape_text(text, t));
    }
    rounded = ((size_t)bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    if (arena->used > SIZE_MAX / 4)
        return cv_fail(log, ENOMEM, "the memory plan is larger than this "
                       "machine can address; choose a smaller size");
    if (arena->backend->planning) {
        t->data = PLAN_BASE + arena->used;
    } else {
        if (rounded > arena->size - arena->used)
            return cv_fail(log, ENOMEM, "internal error: a run needs more "
                           "memory than its plan (%zu of %zu bytes in use, "
                           "%zu more wanted)", arena->used, arena->size,
                           rounded);
        t->data = arena->base + arena->used;
    }
    arena->used += rounded;
    if (arena->used > arena->peak)
        arena->peak = arena->used;
    return 0;
}
