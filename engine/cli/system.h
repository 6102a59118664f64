/*
 * What the system says of the files and the memory of a program that loads.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#ifndef CV_CLI_SYSTEM_H
#define CV_CLI_SYSTEM_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>

/* How much of the weight files at `path` (cv_weights_open) is in the system's
 * cache, 0..1; -1 when it cannot be told, or there are no files. drop: ask the
 * system first to forget it, which it does with a file on a disk that nobody
 * else has mapped. */
double cv_cached_share(const char *path, int drop);

/* The memory of this process that no file is behind, watched by a thread. */
typedef struct CvMemoryWatch {
    int64_t before, most; /* bytes; 0 where the system does not say */
    atomic_int over;
    int running;
    pthread_t thread;
} CvMemoryWatch;

void cv_watch_begin(CvMemoryWatch *watch);
void cv_watch_end(CvMemoryWatch *watch);

#endif /* CV_CLI_SYSTEM_H */
