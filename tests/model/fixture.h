/*
 * What tests of networks share: a CPU backend, fixtures' tensors, errors.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * Include after tap.h; a step that cannot fail in a healthy tree bails out.
 */
#ifndef CV_TESTS_FIXTURE_H
#define CV_TESTS_FIXTURE_H

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "weights/weights.h"

#define FIXTURE_PATH 1024
#define FIXTURE_TOLERANCE 1e-4 /* relative L2 error */

typedef struct Bench {
    CvLog log;
    CvBackend *backend;
    CvArena arena;
    CvRun run;
    char error[1024]; /* the last error line */
    int stop_in;      /* the n-th poll from now on asks to stop; 0: none does */
} Bench;

static inline void bench_log(void *cookie, enum CausvidLogLevel level,
                             const char *format, va_list args)
{
    Bench *bench = cookie;

    if (level == CAUSVID_LOG_ERROR)
        vsnprintf(bench->error, sizeof(bench->error), format, args);
}

static inline int bench_abort(void *cookie)
{
    Bench *bench = cookie;

    return bench->stop_in > 0 && --bench->stop_in == 0;
}

static inline void bench_open(Bench *bench, int threads)
{
    CausvidSettings settings = { .log = bench_log, .abort = bench_abort,
                                 .cookie = bench };

    memset(bench, 0, sizeof(*bench));
    cv_log_init(&bench->log, &settings);
    if (cv_cpu_open(&bench->backend, threads, &bench->log) < 0)
        tap_bail("no backend: %s", bench->error);
    bench->run = (CvRun){ .backend = bench->backend, .arena = &bench->arena,
                          .log = &bench->log };
}

static inline void bench_close(Bench *bench)
{
    cv_arena_free(&bench->arena);
    bench->backend->close(&bench->backend);
    cv_log_free(&bench->log);
}

static inline const char *fixture_path(char path[FIXTURE_PATH],
                                       const char *name)
{
    const char *src = getenv("CAUSVID_SRC");

    snprintf(path, FIXTURE_PATH, "%s/tests/model/fixtures/%s", src ? src : ".",
             name);
    return path;
}

static inline CvWeights *open_tensors(Bench *bench, const char *name)
{
    CvWeights *weights = NULL;
    char path[FIXTURE_PATH];

    if (cv_weights_open(&weights, fixture_path(path, name), &bench->log) < 0)
        tap_bail("%s: %s", path, bench->error);
    return weights;
}

static inline void *need(void *memory)
{
    if (!memory)
        tap_bail("out of memory");
    return memory;
}

/* A copy of a float32 tensor on the host (free its data), or one with data
 * NULL where there is none of that name. */
static inline CvTensor find_tensor(CvWeights *weights, const char *name)
{
    const CvEntry *entry = cv_weights_find(weights, "%s", name);
    CvTensor t = { 0 };

    if (!entry)
        return t;
    if (entry->tensor.type != CV_F32)
        tap_bail("%s: '%s' is not float32", cv_weights_path(weights), name);
    t = entry->tensor;
    t.data = need(malloc((size_t)cv_tensor_bytes(&t) + 1));
    memcpy(t.data, entry->tensor.data, (size_t)cv_tensor_bytes(&t));
    return t;
}

static inline CvTensor read_tensor(CvWeights *weights, const char *name)
{
    CvTensor t = find_tensor(weights, name);

    if (!t.data)
        tap_bail("%s has no '%s'", cv_weights_path(weights), name);
    return t;
}

static inline double read_number(CvWeights *weights, const char *name)
{
    CvTensor t = read_tensor(weights, name);
    double value = *(float *)t.data;

    free(t.data);
    return value;
}

/* |a - b| / |b|; NaN when a holds one. */
static inline double relative_error(const float *a, const float *b, int64_t n)
{
    double error = 0, norm = 0;

    for (int64_t i = 0; i < n; i++) {
        error += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
        norm += (double)b[i] * b[i];
    }
    return sqrt(error / norm);
}

/* The same for a tensor of the backend and one of the host. */
static inline double tensor_error(Bench *bench, const CvTensor *t,
                                  const CvTensor *expected)
{
    int64_t n = cv_elements(expected);
    float *host;
    double error;

    if (cv_elements(t) != n)
        return NAN;
    host = need(malloc((size_t)n * sizeof(*host)));
    if (cv_download(bench->backend, host, t) < 0)
        tap_bail("download: %s", bench->error);
    error = relative_error(host, expected->data, n);
    free(host);
    return error;
}

/* A tensor of the arena with the values of one on the host. */
static inline CvTensor upload_tensor(Bench *bench, const CvTensor *host)
{
    CvTensor t = *host;

    if (cv_arena_tensor(&bench->arena, &t) < 0 ||
        cv_upload(bench->backend, &t, host->data, CV_F32) < 0)
        tap_bail("upload: %s", bench->error);
    return t;
}

#endif /* CV_TESTS_FIXTURE_H */
