/*
 * The first clip's prompt, encoded while the other networks are loaded.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "first_text.h"

/* One pass: run once while the arena plans and once for real. */
static int encode(CvFirstText *first, CvBackend *backend, CvUmt5 *umt5,
                  CvLog *log)
{
    CvRun run = { .backend = backend, .arena = &first->arena, .log = log };
    int err;

    first->there = CV_TENSOR(NULL, CV_F32, first->n, first->dim);
    err = cv_arena_tensor(&first->arena, &first->there);
    return err ? err : cv_umt5_forward(umt5, &run, &first->there, first->ids);
}

int cv_first_text_begin(CvFirstText *first, CvBackend *backend, CvUmt5 *umt5,
                        const int32_t *ids, int64_t n, CvLog *log)
{
    int err;

    if (!backend->ops->ahead || !cv_umt5_bytes(umt5))
        return 0;
    first->n   = n;
    first->dim = cv_umt5_dim(umt5);
    memcpy(first->ids, ids, (size_t)n * sizeof(*ids));
    cv_arena_plan(&first->arena, backend);
    err = encode(first, backend, umt5, log);
    backend->planning = 0;
    if (err < 0 || (err = cv_arena_take(&first->arena, log, "a text")) < 0 ||
        (err = cv_mark(backend)) < 0 ||
        (err = encode(first, backend, umt5, log)) < 0)
        return err;
    cv_log(log, CAUSVID_LOG_VERBOSE, "the first prompt is encoded while the "
           "other networks are loaded");
    return cv_ahead(backend, 1);
}

static int are_finite(const float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        if (!isfinite(x[i]))
            return 0;
    return 1;
}

int cv_first_text_end(CvFirstText *first, CvBackend *backend, int err)
{
    const size_t count = (size_t)first->n * (size_t)first->dim;
    int late;

    if (!first->arena.base)
        return err;
    late = cv_ahead(backend, 0);
    err  = err < 0 ? err : late;
    /* Without room for it the prompt is encoded again. */
    if (err >= 0 && (first->embeds = malloc(count * sizeof(float)))) {
        err = cv_download(backend, first->embeds, &first->there);
        if (err < 0 || !are_finite(first->embeds, (int64_t)count))
            cv_first_text_free(first);
    }
    cv_arena_free(&first->arena);
    return err;
}

int cv_first_text_take(CvFirstText *first, CvBackend *backend,
                       const CvTensor *embeds, const int32_t *ids)
{
    int err;

    if (backend->planning || !first->embeds || first->n != embeds->dim[0] ||
        first->dim != embeds->dim[1] ||
        memcmp(first->ids, ids, (size_t)first->n * sizeof(*ids)))
        return 0;
    err = cv_upload(backend, embeds, first->embeds, CV_F32);
    cv_first_text_free(first);
    return err < 0 ? err : 1;
}

void cv_first_text_free(CvFirstText *first)
{
    free(first->embeds);
    first->embeds = NULL;
}
