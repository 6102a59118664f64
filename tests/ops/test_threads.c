/*
 * The thread pool of the CPU backend, and its use by two callers at once.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

#include "../tap.h"
#include "cpu/cpu.h"
#include "cpu/threads.h"

enum { MAX_ITEMS = 5000 };

typedef struct Count {
    atomic_int times[MAX_ITEMS];      /* that an item was run */
    atomic_int inside[CV_MAX_THREADS]; /* jobs that run as this worker */
    int64_t n, grain;
    atomic_int wrong;
} Count;

static void count_job(void *arg, int64_t first, int64_t last, int worker)
{
    Count *c = arg;

    if (worker < 0 || worker >= CV_MAX_THREADS ||
        atomic_fetch_add(&c->inside[worker], 1) != 0)
        atomic_fetch_add(&c->wrong, 1);
    if (first % c->grain || last - first > c->grain || last > c->n)
        atomic_fetch_add(&c->wrong, 1);
    for (int64_t i = first; i < last; i++)
        atomic_fetch_add(&c->times[i], 1);
    atomic_fetch_sub(&c->inside[worker], 1);
}

/* Loops of many sizes; the number of mistakes. */
static int run_loops(CvPool *pool, int rounds)
{
    static const int64_t sizes[] = { 0, 1, 2, 3, 7, 64, 65, 1000, MAX_ITEMS };
    static const int64_t grains[] = { 1, 2, 3, 64, 10000 };
    Count *c = malloc(sizeof(*c));
    int wrong = 0;

    if (!c)
        return -1;
    for (int r = 0; r < rounds; r++) {
        for (size_t s = 0; s < sizeof(sizes) / sizeof(sizes[0]); s++) {
            memset(c, 0, sizeof(*c));
            c->n = sizes[s];
            c->grain = grains[((size_t)r + s) % 5];
            cv_pool_run(pool, c->n, c->grain, count_job, c);
            wrong += atomic_load(&c->wrong);
            for (int64_t i = 0; i < MAX_ITEMS; i++)
                wrong += atomic_load(&c->times[i]) != (i < c->n);
        }
    }
    free(c);
    return wrong;
}

/* Items take milliseconds, so that every thread gets some, and the caller has
 * done its last one before the others have. */
static void slow_job(void *arg, int64_t first, int64_t last, int worker)
{
    Count *c = arg;
    struct timespec t = { 0, worker ? 5000000 : 1000000 };

    for (int64_t i = first; i < last; i++) {
        nanosleep(&t, NULL);
        atomic_fetch_add(&c->times[i], 1);
        atomic_fetch_add(&c->inside[worker], 1);
    }
}

static void test_sharing(void)
{
    enum { ITEMS = 60, THREADS = 3 };
    Count *c = calloc(1, sizeof(*c));
    int late = 0, idle = 0;
    CvPool *pool;

    if (!c || cv_pool_open(&pool, THREADS) < 0)
        tap_bail("no memory for a pool");
    cv_pool_run(pool, ITEMS, 1, slow_job, c);
    for (int i = 0; i < ITEMS; i++)
        late += atomic_load(&c->times[i]) != 1;
    for (int i = 0; i < THREADS; i++)
        idle += !atomic_load(&c->inside[i]);
    ok(!late, "a loop ends when its last item has");
    ok(!idle, "every thread takes part");
    cv_pool_close(&pool);
    free(c);
}

typedef struct Caller {
    CvPool *pool;
    int wrong;
} Caller;

static void *run_caller(void *arg)
{
    Caller *caller = arg;

    caller->wrong = run_loops(caller->pool, 50);
    return NULL;
}

static void test_pool(void)
{
    static const int threads[] = { 1, 2, 3, 8, 40 };
    CvPool *pool;

    for (int i = 0; i < 5; i++) {
        if (!ok(cv_pool_open(&pool, threads[i]) == 0, "%d threads start",
                threads[i]))
            continue;
        ok(run_loops(pool, 60) == 0, "%d threads run each item once",
           threads[i]);
        cv_pool_close(&pool);
        ok(!pool, "%d threads end", threads[i]);
    }
    for (int i = 0; i < 200; i++) {
        if (cv_pool_open(&pool, 4) < 0)
            break;
        if (i % 2)
            run_loops(pool, 1);
        cv_pool_close(&pool);
    }
    ok(!pool, "200 pools open and close");
}

static void test_callers(void)
{
    Caller callers[3];
    pthread_t thread[3];
    CvPool *pool;
    int n = 0;

    if (!ok(cv_pool_open(&pool, 3) == 0, "a pool for three callers"))
        return;
    for (; n < 3; n++) {
        callers[n] = (Caller){ pool, -1 };
        if (pthread_create(&thread[n], NULL, run_caller, &callers[n]))
            break;
    }
    for (int i = 0; i < n; i++)
        pthread_join(thread[i], NULL);
    for (int i = 0; i < 3; i++)
        ok(i < n && callers[i].wrong == 0, "caller %d got its items run", i);
    cv_pool_close(&pool);
}

enum { W = 64, H = 48, TOKENS = 40, WIDTH = 96, ROUNDS = 60 };

/* What one thread computes while another converts pictures. */
typedef struct Shared {
    CvBackend *b;
    float x[TOKENS * WIDTH], weight[WIDTH * WIDTH], y[TOKENS * WIDTH];
    float frame[H * W * 3];
    uint8_t luma[H * W], chroma[2][H * W / 4];
    int changed; /* linears whose result was not that of the first */
    int failed;
} Shared;

static void *run_linears(void *arg)
{
    Shared *s = arg;
    float first[TOKENS * WIDTH];
    CvTensor x = CV_TENSOR(s->x, CV_F32, TOKENS, WIDTH);
    CvTensor w = CV_TENSOR(s->weight, CV_F32, WIDTH, WIDTH);
    CvTensor y = CV_TENSOR(s->y, CV_F32, TOKENS, WIDTH);
    CvLinear a = { .out = &y, .x = &x, .weight = &w,
                   .epilogue = CV_EPI_GELU };

    for (int i = 0; i < ROUNDS * 4; i++) {
        if (cv_linear(s->b, &a))
            s->failed++;
        if (!i)
            memcpy(first, s->y, sizeof(first));
        if (memcmp(first, s->y, sizeof(first)))
            s->changed++;
    }
    return NULL;
}

static int convert(Shared *s)
{
    CvTensor frame = CV_TENSOR(s->frame, CV_F32, H, W, 3);
    CausvidPicture pic = { .width = W, .height = H,
                           .format = CAUSVID_FORMAT_YUV420P,
                           .data = { s->luma, s->chroma[0], s->chroma[1] },
                           .stride = { W, W / 2, W / 2 } };
    CvPictureArgs a = { &frame, &pic };

    return cv_to_picture(s->b, &a);
}

static void test_pictures(void)
{
    Shared *s = calloc(1, sizeof(*s));
    uint8_t first[H * W];
    pthread_t thread;
    int changed = 0, failed = 0;

    if (!s || cv_cpu_open(&s->b, 3, NULL) < 0)
        tap_bail("no memory for a backend");
    for (int i = 0; i < TOKENS * WIDTH; i++)
        s->x[i] = (float)(i % 17) / 8 - 1;
    for (int i = 0; i < WIDTH * WIDTH; i++)
        s->weight[i] = (float)(i % 13) / 60 - 0.1f;
    for (int i = 0; i < H * W * 3; i++)
        s->frame[i] = (float)(i % 211) / 105 - 1;
    failed += convert(s) != 0;
    memcpy(first, s->luma, sizeof(first));
    if (pthread_create(&thread, NULL, run_linears, s))
        tap_bail("no thread");
    for (int i = 0; i < ROUNDS; i++) {
        failed += convert(s) != 0;
        changed += memcmp(first, s->luma, sizeof(first)) != 0;
    }
    pthread_join(thread, NULL);
    ok(!failed && !changed, "to_picture beside other operations");
    ok(!s->failed && !s->changed, "linear beside to_picture");
    s->b->close(&s->b);
    ok(!s->b, "the backend closes");
    free(s);
}

static void test_open(void)
{
    CvBackend *b;

    ok(cv_cpu_open(&b, -1, NULL) == CAUSVID_ERR(EINVAL) && !b,
       "-1 threads are refused");
    ok(cv_cpu_open(&b, CV_MAX_THREADS + 1, NULL) == CAUSVID_ERR(EINVAL) && !b,
       "too many threads are refused");
    ok(cv_cpu_open_kernels(&b, 1, "mmx", 0, NULL) == CAUSVID_ERR(ENOSYS) && !b,
       "unknown kernels are refused");
    if (ok(cv_cpu_open(&b, 0, NULL) == 0, "0 threads: one for each core")) {
        ok(b->threads >= 1, "that is %d", b->threads);
        ok(b->activation == CV_F32 && b->weight == CV_F32, "all is float32");
        b->close(&b);
    }
}

int main(void)
{
    test_pool();
    test_sharing();
    test_callers();
    test_pictures();
    test_open();
    return tap_done();
}
