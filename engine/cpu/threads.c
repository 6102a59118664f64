/*
 * The thread pool: persistent workers that claim chunks of a loop.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * Chunks are claimed from an atomic counter instead of being dealt out in
 * advance, because the cores are shared with the program that consumes the
 * frames (an encoder): a static partition would wait for the slower core.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "causvid.h"
#include "threads.h"

typedef struct Worker {
    CvPool *pool;
    pthread_t thread;
    int number;
} Worker;

struct CvPool {
    int n_threads;  /* the caller included */
    int n_started;  /* workers that run */
    Worker *workers;

    pthread_mutex_t turn; /* held by the caller that owns the pool */

    pthread_mutex_t lock; /* guards all below but `next` */
    pthread_cond_t start, done;
    int n_wanted;         /* workers that may still join the loop */
    int n_busy;           /* workers that have joined and not finished */
    int quit;
    CvJob job;
    void *arg;
    int64_t n, grain;
    atomic_int_fast64_t next; /* first item that nobody has claimed */
};

static void work(CvPool *pool, CvJob job, void *arg, int64_t n, int64_t grain,
                 int worker)
{
    for (;;) {
        int64_t first = atomic_fetch_add(&pool->next, grain), last;

        if (first >= n)
            return;
        last = first + grain < n ? first + grain : n;
        job(arg, first, last, worker);
    }
}

static void *run_worker(void *arg)
{
    Worker *me = arg;
    CvPool *pool = me->pool;

    pthread_mutex_lock(&pool->lock);
    for (;;) {
        CvJob job;
        void *job_arg;
        int64_t n, grain;

        while (!pool->quit && !pool->n_wanted)
            pthread_cond_wait(&pool->start, &pool->lock);
        if (pool->quit)
            break;
        pool->n_wanted--;
        pool->n_busy++;
        job = pool->job;
        job_arg = pool->arg;
        n = pool->n;
        grain = pool->grain;
        pthread_mutex_unlock(&pool->lock);
        work(pool, job, job_arg, n, grain, me->number);
        pthread_mutex_lock(&pool->lock);
        if (--pool->n_busy == 0)
            pthread_cond_signal(&pool->done);
    }
    pthread_mutex_unlock(&pool->lock);
    return NULL;
}

int cv_pool_open(CvPool **out, int threads)
{
    CvPool *pool = calloc(1, sizeof(*pool));
    sigset_t all, before;
    int failed = 0;

    *out = NULL;
    if (!pool)
        return CAUSVID_ERR(ENOMEM);
    pool->n_threads = threads;
    pthread_mutex_init(&pool->turn, NULL);
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->start, NULL);
    pthread_cond_init(&pool->done, NULL);
    atomic_init(&pool->next, 0);
    pool->workers = calloc((size_t)threads, sizeof(*pool->workers));
    if (!pool->workers)
        goto fail;
    /* Signals are for the threads of the program. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    for (int i = 1; i < threads && !failed; i++) {
        Worker *worker = &pool->workers[pool->n_started];

        worker->pool = pool;
        worker->number = i;
        failed = pthread_create(&worker->thread, NULL, run_worker, worker);
        pool->n_started += !failed;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (failed)
        goto fail;
    *out = pool;
    return 0;

fail:
    cv_pool_close(&pool);
    return CAUSVID_ERR(ENOMEM);
}

void cv_pool_close(CvPool **p)
{
    CvPool *pool = *p;

    if (!pool)
        return;
    pthread_mutex_lock(&pool->lock);
    pool->quit = 1;
    pthread_cond_broadcast(&pool->start);
    pthread_mutex_unlock(&pool->lock);
    for (int i = 0; i < pool->n_started; i++)
        pthread_join(pool->workers[i].thread, NULL);
    pthread_cond_destroy(&pool->done);
    pthread_cond_destroy(&pool->start);
    pthread_mutex_destroy(&pool->lock);
    pthread_mutex_destroy(&pool->turn);
    free(pool->workers);
    free(pool);
    *p = NULL;
}

void cv_pool_run(CvPool *pool, int64_t n, int64_t grain, CvJob job, void *arg)
{
    int64_t chunks = n > 0 ? (n - 1) / grain + 1 : 0;
    int helpers = (int)(chunks - 1 < pool->n_started ? chunks - 1
                                                     : pool->n_started);

    if (!chunks)
        return;
    pthread_mutex_lock(&pool->turn);
    atomic_store(&pool->next, 0);
    if (helpers) {
        pthread_mutex_lock(&pool->lock);
        pool->job = job;
        pool->arg = arg;
        pool->n = n;
        pool->grain = grain;
        pool->n_wanted = helpers;
        pthread_mutex_unlock(&pool->lock);
        for (int i = 0; i < helpers; i++)
            pthread_cond_signal(&pool->start);
    }
    work(pool, job, arg, n, grain, 0);
    if (helpers) {
        pthread_mutex_lock(&pool->lock);
        pool->n_wanted = 0; /* who has not woken yet is not waited for */
        while (pool->n_busy)
            pthread_cond_wait(&pool->done, &pool->lock);
        pthread_mutex_unlock(&pool->lock);
    }
    pthread_mutex_unlock(&pool->turn);
}
