/*
 * Log lines and errors: one place that formats them.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * A function that fails says so once, where the reason is known, by
 * `return cv_fail(log, EINVAL, "...")`; its callers only pass the code on.
 */
#ifndef CV_LOG_H
#define CV_LOG_H

#include <errno.h>
#include <pthread.h>
#ifdef __cplusplus /* CUDA C++ sees this file through ops.h */
#include <atomic>
using std::atomic_int;
#else
#include <stdatomic.h>
#endif

#include "causvid.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct CvLog {
    void (*write)(void *cookie, enum CausvidLogLevel level, const char *format,
                  va_list args);              /* may be NULL */
    int (*abort)(void *cookie);               /* may be NULL */
    void *cookie;
    pthread_mutex_t lock; /* the caller's callbacks never overlap */
    atomic_int stop;      /* set by the library itself: as if abort said so */
} CvLog;

void cv_log_init(CvLog *log, const CausvidSettings *settings);
void cv_log_free(CvLog *log);

#define CV_PRINTF(f, a) __attribute__((format(printf, f, a)))

/* Log one line at any level. log may be NULL. */
void cv_log(CvLog *log, enum CausvidLogLevel level, const char *format, ...)
    CV_PRINTF(3, 4);

/* Log one ERROR line and return CAUSVID_ERR(error). log may be NULL. */
int cv_fail(CvLog *log, int error, const char *format, ...) CV_PRINTF(3, 4);

/* cv_fail() for a failed allocation of `bytes`, naming what it was for. */
int cv_fail_memory(CvLog *log, uint64_t bytes, const char *what);

/* 0, or CAUSVID_ERR(ECANCELED) when the caller asks to stop. Not logged. */
int cv_aborted(CvLog *log);

#ifdef __cplusplus
}
#endif

#endif /* CV_LOG_H */
