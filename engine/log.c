/*
 * Log lines and errors.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#include <stdio.h>
#include <string.h>

#include "log.h"

void cv_log_init(CvLog *log, const CausvidSettings *settings)
{
    memset(log, 0, sizeof(*log));
    log->write  = settings->log;
    log->abort  = settings->abort;
    log->cookie = settings->cookie;
    pthread_mutex_init(&log->lock, NULL);
}

void cv_log_free(CvLog *log)
{
    pthread_mutex_destroy(&log->lock);
}

static void write_line(CvLog *log, enum CausvidLogLevel level,
                       const char *format, va_list args)
{
    if (!log || !log->write)
        return;
    pthread_mutex_lock(&log->lock);
    log->write(log->cookie, level, format, args);
    pthread_mutex_unlock(&log->lock);
}

void cv_log(CvLog *log, enum CausvidLogLevel level, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    write_line(log, level, format, args);
    va_end(args);
}

int cv_fail(CvLog *log, int error, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    write_line(log, CAUSVID_LOG_ERROR, format, args);
    va_end(args);
    return CAUSVID_ERR(error);
}

int cv_fail_memory(CvLog *log, uint64_t bytes, const char *what)
{
    return cv_fail(log, ENOMEM, "no memory: %.1f MB for %s could not be had; "
                   "free some, or choose a smaller size or model",
                   (double)bytes / 1e6, what);
}

int cv_aborted(CvLog *log)
{
    int stop;

    if (!log)
        return 0;
    if (atomic_load(&log->stop))
        return CAUSVID_ERR(ECANCELED);
    if (!log->abort)
        return 0;
    pthread_mutex_lock(&log->lock);
    stop = log->abort(log->cookie);
    pthread_mutex_unlock(&log->lock);
    return stop ? CAUSVID_ERR(ECANCELED) : 0;
}
