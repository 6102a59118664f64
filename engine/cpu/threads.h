/*
 * A pool of threads that share out the items of one loop at a time.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#ifndef CV_CPU_THREADS_H
#define CV_CPU_THREADS_H

#include <stddef.h>
#include <stdint.h>

typedef struct CvPool CvPool;

/* Items first..last - 1 of a loop. worker: 0 for the calling thread, else the
 * number of the pool's thread; no two run at once with the same number. */
typedef void (*CvJob)(void *arg, int64_t first, int64_t last, int worker);

/* threads: 1..CV_MAX_THREADS, the caller of cv_pool_run() among them.
 * 0 or a negative CAUSVID_ERR; fewer threads than asked for is ENOMEM. */
#define CV_MAX_THREADS 256
int cv_pool_open(CvPool **pool, int threads);
void cv_pool_close(CvPool **pool);

/*
 * Run job over the items 0..n - 1 and wait. Items are handed out in chunks of
 * `grain`, borders at multiples of it, to whichever thread is free: a job
 * whose chunks do not depend on each other gives the same result whatever the
 * timing and the number of threads. Callers from several threads take turns.
 */
void cv_pool_run(CvPool *pool, int64_t n, int64_t grain, CvJob job, void *arg);

#endif /* CV_CPU_THREADS_H */
