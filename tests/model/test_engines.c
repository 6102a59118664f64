/*
 * Several engines at the same time: each opened, run and closed in a thread of
 * its own must show what it shows alone, byte for byte.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * On the emulated CUDA backend; with --gpu on a real GPU, and then also with
 * engines of 1.3B parameters where they fit, on two GPUs where there are two,
 * and in a context and stream of the caller. What goes wrong in one engine (no
 * such GPU, too little memory) must not show in another that runs meanwhile,
 * nor in the next.
 */
#include <dlfcn.h>
#include <pthread.h>
#include <stdint.h>
#include <unistd.h>

#include "../emulator/libcuda.h"
#include "../tap.h"
#include "causvid.h"
#include "device.h"
#include "module.h"

static const char *src, *build;
static char small_model[4096], tokenizer[4096];

/* ---- the driver, as a caller of the library uses it ---- */

typedef uint64_t Address;

/* CUcontext and CUstream are pointers, CUresult and CUdevice are int. */
typedef struct Driver {
    int (*init)(unsigned flags);
    int (*count)(int *devices);
    int (*create)(void **context, unsigned flags, int device);
    int (*destroy)(void *context);
    int (*current)(void **context);
    int (*stream)(void **stream, unsigned flags);
    int (*synchronize)(void *stream);
    int (*free_stream)(void *stream);
    int (*info)(size_t *available, size_t *total);
    int (*alloc)(Address *address, size_t bytes);
    int (*free)(Address address);
    int (*to_device)(Address to, const void *from, size_t bytes);
    int (*to_host)(void *to, Address from, size_t bytes);
} Driver;

static Driver driver; /* empty without --gpu */

static void load_driver(void)
{
    const struct {
        const char *name;
        void *function;
    } list[] = {
        { "cuInit", &driver.init },
        { "cuDeviceGetCount", &driver.count },
        { "cuCtxCreate_v2", &driver.create },
        { "cuCtxDestroy_v2", &driver.destroy },
        { "cuCtxGetCurrent", &driver.current },
        { "cuStreamCreate", &driver.stream },
        { "cuStreamSynchronize", &driver.synchronize },
        { "cuStreamDestroy_v2", &driver.free_stream },
        { "cuMemGetInfo_v2", &driver.info },
        { "cuMemAlloc_v2", &driver.alloc },
        { "cuMemFree_v2", &driver.free },
        { "cuMemcpyHtoD_v2", &driver.to_device },
        { "cuMemcpyDtoH_v2", &driver.to_host },
    };
    void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);

    if (!library)
        tap_bail("%s", dlerror());
    for (size_t i = 0; i < sizeof(list) / sizeof(*list); i++) {
        void *symbol = dlsym(library, list[i].name);

        if (!symbol)
            tap_bail("%s", dlerror());
        memcpy(list[i].function, &symbol, sizeof(symbol));
    }
    if (driver.init(0))
        tap_bail("the driver does not start");
}

/* Of the calling thread. */
static void *current_context(void)
{
    void *context = NULL;

    if (driver.current)
        driver.current(&context);
    return context;
}

/* ---- an engine ---- */

typedef struct Lines {
    char error[1024];
    int n_errors;
} Lines;

typedef struct Engine {
    CausvidSettings settings;
    CausvidClip clip;
    int clips;                   /* how often the clip is made */
    pthread_barrier_t *together; /* where engines wait for each other */
    pthread_t thread;
    /* found */
    uint8_t *frames;             /* of the newest clip, yuv420p */
    int err;
    int unequal;                 /* clips that differ from the first */
    int changed_context;         /* calls after which another was current */
    Lines lines;
} Engine;

static void *need(void *memory)
{
    if (!memory)
        tap_bail("out of memory");
    return memory;
}

static void write_log(void *cookie, enum CausvidLogLevel level,
                      const char *format, va_list args)
{
    Lines *lines = cookie;

    if (level == CAUSVID_LOG_ERROR && !lines->n_errors++)
        vsnprintf(lines->error, sizeof(lines->error), format, args);
}

static size_t frame_bytes(const Engine *e)
{
    return (size_t)e->clip.width * (size_t)e->clip.height * 3 / 2;
}

static size_t clip_bytes(const Engine *e)
{
    return frame_bytes(e) * (size_t)e->clip.frames;
}

static void init_engine(Engine *e, int64_t seed,
                        enum CausvidPrecision precision)
{
    memset(e, 0, sizeof(*e));
    causvid_default_settings(&e->settings);
    e->settings.model     = small_model;
    e->settings.device    = CAUSVID_DEVICE_CUDA;
    e->settings.precision = precision;
    e->settings.threads   = 1;
    e->settings.log       = write_log;
    causvid_default_clip(&e->clip);
    e->clip.prompt = seed % 2 ? "a red circle" : "a blue square moves left";
    e->clip.seed   = seed;
    e->clip.width  = 48;
    e->clip.height = 32;
    e->clip.frames = 13; /* two blocks */
    e->clips       = 2;
    e->frames      = need(calloc(1, clip_bytes(e)));
}

static void init_large_engine(Engine *e, int64_t seed)
{
    init_engine(e, seed, CAUSVID_PRECISION_BF16);
    free(e->frames);
    e->settings.model     = "random:wan-1.3b";
    e->settings.tokenizer = tokenizer;
    e->settings.variant   = CAUSVID_VARIANT_CAUSAL;
    e->clip.width  = 832;
    e->clip.height = 480;
    e->clip.frames = 21;
    e->frames      = need(calloc(1, clip_bytes(e)));
}

/* A picture whose planes begin at `planes`. */
static CausvidPicture picture(const Engine *e, enum CausvidMemory memory,
                              uint8_t *planes)
{
    int w = e->clip.width, h = e->clip.height;

    return (CausvidPicture){
        .format = CAUSVID_FORMAT_YUV420P, .memory = memory, .width = w,
        .height = h, .stride = { w, w / 2, w / 2 },
        .data = { planes, planes + w * h, planes + w * h * 5 / 4 },
    };
}

/* A clip into planes of this kind; the context that is current before is to be
 * after each call. */
static int make_clip(Engine *e, CausvidContext *cv, enum CausvidMemory memory,
                     uint8_t *planes, const void *context)
{
    int err = causvid_start(cv, &e->clip);

    e->changed_context += current_context() != context;
    for (int64_t i = 0; i < e->clip.frames && !err; i++) {
        CausvidPicture pic = picture(e, memory, planes);

        err = causvid_read_frame(cv, &pic);
        if (!err && pic.index != i)
            err = CAUSVID_ERR(EINVAL);
        planes += frame_bytes(e);
        e->changed_context += current_context() != context;
    }
    return err;
}

static void meet(Engine *e)
{
    if (e->together)
        pthread_barrier_wait(e->together);
}

/* Also after an error it comes to each meeting, so that nobody waits forever.
 * Nothing here counts checks: it runs in threads. */
static void *run_engine(void *cookie)
{
    Engine *e = cookie;
    CausvidContext *cv = NULL;
    uint8_t *first = malloc(clip_bytes(e));
    const void *context = current_context();

    e->settings.cookie = &e->lines;
    e->err = first ? causvid_open(&cv, &e->settings) : CAUSVID_ERR(ENOMEM);
    e->changed_context += current_context() != context;
    for (int i = 0; i < e->clips; i++) {
        meet(e);
        memset(e->frames, 0, clip_bytes(e));
        if (!e->err)
            e->err = make_clip(e, cv, CAUSVID_MEMORY_HOST, e->frames, context);
        if (first && !i)
            memcpy(first, e->frames, clip_bytes(e));
        else if (first)
            e->unequal += memcmp(first, e->frames, clip_bytes(e)) != 0;
    }
    meet(e);
    causvid_close(&cv);
    e->changed_context += current_context() != context;
    free(first);
    return NULL;
}

static void start_engine(Engine *e)
{
    if (pthread_create(&e->thread, NULL, run_engine, e))
        tap_bail("a thread does not start");
}

static void check_engine(const Engine *e, const uint8_t *expected,
                         const char *what)
{
    ok(!e->err && !e->lines.n_errors, "%s runs: %d %s", what, e->err,
       e->lines.error);
    ok(!memcmp(e->frames, expected, clip_bytes(e)) && !e->unequal,
       "%s shows what it shows alone", what);
    if (driver.current)
        ok(!e->changed_context, "%s leaves its threads' contexts", what);
}

/* What the engine shows when there is no other. */
static uint8_t *alone(Engine *e)
{
    uint8_t *frames = need(malloc(clip_bytes(e)));
    int clips = e->clips, flat = 1;

    e->together = NULL;
    e->clips    = 1;
    run_engine(e);
    e->clips    = clips;
    if (e->err)
        tap_bail("an engine alone does not run: %s", e->lines.error);
    memcpy(frames, e->frames, clip_bytes(e));
    for (size_t i = 1; i < clip_bytes(e) && flat; i++)
        flat = frames[i] == frames[0];
    if (flat)
        tap_bail("an engine alone draws nothing");
    return frames;
}

/* Two engines that are open at the same time and make their clips at the same
 * time. second_gpu: where the other one runs; alone both run on the first. */
static void test_pair(Engine *a, Engine *b, int second_gpu, const char *what)
{
    Engine *engines[2] = { a, b };
    uint8_t *expected[2];
    pthread_barrier_t together;
    char name[128];

    for (int i = 0; i < 2; i++)
        expected[i] = alone(engines[i]);
    ok(clip_bytes(a) != clip_bytes(b) ||
       memcmp(expected[0], expected[1], clip_bytes(a)),
       "%s: the two clips are not the same", what);
    b->settings.gpu = second_gpu;
    if (pthread_barrier_init(&together, NULL, 2))
        tap_bail("no barrier");
    for (int i = 0; i < 2; i++) {
        engines[i]->together = &together;
        start_engine(engines[i]);
    }
    for (int i = 0; i < 2; i++)
        pthread_join(engines[i]->thread, NULL);
    pthread_barrier_destroy(&together);
    for (int i = 0; i < 2; i++) {
        snprintf(name, sizeof(name), "%s: engine %d of 2", what, i + 1);
        check_engine(engines[i], expected[i], name);
        free(expected[i]);
        free(engines[i]->frames);
    }
}

/* ---- what fails ---- */

/* Opening it, or starting its clip, must fail with one line. */
static void refuse(Engine *e, int error, const char *words, const char *what)
{
    CausvidContext *cv = NULL;
    int err;

    e->settings.cookie = &e->lines;
    err = causvid_open(&cv, &e->settings);
    ok(!err == (cv != NULL), "%s: a context only where there is no error",
       what);
    if (!err)
        err = causvid_start(cv, &e->clip);
    causvid_close(&cv);
    ok(err == CAUSVID_ERR(error) && e->lines.n_errors == 1 &&
       strstr(e->lines.error, words), "%s: %d, %d line: %s", what, err,
       e->lines.n_errors, e->lines.error);
    free(e->frames);
}

static void test_failures(void)
{
    uint8_t *expected;
    Engine running, bad;

    init_engine(&running, 3, CAUSVID_PRECISION_AUTO);
    expected = alone(&running);
    running.clips = 3;
    start_engine(&running);

    init_engine(&bad, 1, CAUSVID_PRECISION_AUTO);
    bad.settings.gpu = 99;
    refuse(&bad, ENODEV, "there is no GPU 99: this machine has", "gpu=99");
    init_engine(&bad, 1, CAUSVID_PRECISION_AUTO);
    bad.settings.vram_bytes = 1000;
    refuse(&bad, ENOMEM, "1000", "a budget of 1000 bytes");
    init_engine(&bad, 1, CAUSVID_PRECISION_AUTO);
    bad.settings.vram_bytes = CV_CUDA_OWN_BYTES + 4096;
    refuse(&bad, ENOMEM, "memory", "a budget that holds no weights");

    pthread_join(running.thread, NULL);
    check_engine(&running, expected, "an engine that ran meanwhile");
    running.clips = 1;
    run_engine(&running);
    check_engine(&running, expected, "the next one");
    free(expected);
    free(running.frames);
}

/* ---- the caller's context ---- */

static int touches, untouches;

static void count_touch(int open)
{
    if (open)
        touches++;
    else
        untouches++;
}

/* Of the emulator: it calls touch() for the context that is current. */
static void test_emulated_context(void)
{
    EmulatedContext context = { .magic = EMULATED_CONTEXT, .device = 0,
                                .touch = count_touch };
    uint8_t *expected;
    Engine e;

    init_engine(&e, 4, CAUSVID_PRECISION_AUTO);
    expected = alone(&e);
    e.clips  = 1;
    e.settings.cuda_context = &context;
    e.settings.gpu = 99; /* not used when there is a context */
    run_engine(&e);
    check_engine(&e, expected, "an engine in the caller's context");
    ok(touches > 0 && touches == untouches, "it works in that context (%d "
       "times) and leaves it (%d)", touches, untouches);
    free(expected);
    free(e.frames);
}

/* An engine when nothing of the device is left. */
static void test_full_device(Engine *e, void *context)
{
    CausvidContext *cv = NULL;
    Address hog = 0;
    size_t available, total, left = (size_t)64 << 20;
    int err;

    if (driver.info(&available, &total))
        tap_bail("cuMemGetInfo");
    /* Somebody else may have taken some in between. */
    while (driver.alloc(&hog, available - left) && left < available / 2)
        left += (size_t)64 << 20;
    if (left > (size_t)128 << 20) {
        tap_skip(2, "the memory of the device cannot be filled");
    } else {
        e->settings.cookie = &e->lines;
        err = causvid_open(&cv, &e->settings);
        ok(err < 0 && !cv && e->lines.n_errors == 1 &&
           strstr(e->lines.error, "memory"), "a device without memory: %d, "
           "%s", err, e->lines.error);
        ok(current_context() == context, "the caller's context is still "
           "current");
        causvid_close(&cv);
    }
    if (hog)
        driver.free(hog);
    memset(&e->lines, 0, sizeof(e->lines));
}

/* In a context of ours that is current in this thread, while another engine
 * runs in the device's primary one. */
static void test_context(void)
{
    static uint8_t pattern[1 << 20], back[1 << 20];
    uint8_t *expected, *expected_other, *pictures;
    Address mine = 0, planes = 0;
    void *context = NULL, *stream = NULL;
    CausvidContext *cv = NULL;
    Engine e, other;

    init_engine(&e, 4, CAUSVID_PRECISION_AUTO);
    init_engine(&other, 5, CAUSVID_PRECISION_AUTO);
    expected       = alone(&e);
    expected_other = alone(&other);
    pictures       = need(malloc(clip_bytes(&e)));
    for (size_t i = 0; i < sizeof(pattern); i++)
        pattern[i] = (uint8_t)(i * 7 + (i >> 8));
    if (driver.create(&context, 0, 0) || driver.stream(&stream, 1) ||
        driver.alloc(&mine, sizeof(pattern)) ||
        driver.alloc(&planes, clip_bytes(&e)) ||
        driver.to_device(mine, pattern, sizeof(pattern)))
        tap_bail("a context of our own cannot be made");
    e.settings.cuda_context = context;
    e.settings.cuda_stream  = stream;
    e.settings.gpu = 99; /* not used when there is a context */
    test_full_device(&e, context);

    other.clips = 4;
    start_engine(&other);
    e.err = causvid_open(&cv, &e.settings);
    e.changed_context = current_context() != context;
    if (!e.err)
        e.err = make_clip(&e, cv, CAUSVID_MEMORY_HOST, e.frames, context);
    ok(!e.err && !memcmp(e.frames, expected, clip_bytes(&e)), "in the "
       "caller's context: what it shows alone (%d %s)", e.err, e.lines.error);
    if (!e.err)
        e.err = make_clip(&e, cv, CAUSVID_MEMORY_CUDA,
                          (uint8_t *)(uintptr_t)planes, context);
    /* Nothing but the caller's stream is waited for. */
    ok(!e.err && !driver.synchronize(stream) &&
       !driver.to_host(pictures, planes, clip_bytes(&e)) &&
       !memcmp(pictures, expected, clip_bytes(&e)), "the same in the caller's "
       "memory, after its stream (%d %s)", e.err, e.lines.error);
    causvid_close(&cv);
    ok(!e.changed_context && current_context() == context, "the caller's "
       "context is current after each call");
    pthread_join(other.thread, NULL);
    check_engine(&other, expected_other, "an engine beside it");

    ok(!driver.to_host(back, mine, sizeof(back)) &&
       !memcmp(back, pattern, sizeof(back)), "the caller's memory is as it "
       "was");
    ok(!driver.free(planes) && !driver.alloc(&planes, 4096) &&
       !driver.synchronize(stream), "and its context and stream work");
    driver.free(planes);
    driver.free(mine);
    driver.free_stream(stream);
    is_int(driver.destroy(context), 0);

    free(expected);
    free(expected_other);
    free(pictures);
    free(e.frames);
    free(other.frames);
}

/* ---- */

static int is_large_device(void)
{
    size_t available = 0, total = 0;
    void *context = NULL;

    if (driver.create(&context, 0, 0))
        tap_bail("no context");
    driver.info(&available, &total);
    driver.destroy(context);
    return available > (size_t)56 << 30;
}

static void test_gpu(void)
{
    Engine a, b;
    int devices = 0;

    test_context();
    if (is_large_device()) {
        init_large_engine(&a, 1);
        init_large_engine(&b, 2);
        test_pair(&a, &b, 0, "two of 1.3B on one GPU");
    } else {
        tap_skip(1, "two engines of 1.3B do not fit into this GPU");
    }
    driver.count(&devices);
    if (devices < 2) {
        tap_skip(1, "there is one GPU");
        return;
    }
    init_engine(&a, 1, CAUSVID_PRECISION_BF16);
    init_engine(&b, 2, CAUSVID_PRECISION_BF16);
    test_pair(&a, &b, 1, "one on each of two GPUs");
    if (is_large_device()) {
        init_large_engine(&a, 1);
        init_large_engine(&b, 2);
        test_pair(&a, &b, 1, "1.3B on each of two GPUs");
    }
}

int main(int argc, char **argv)
{
    int gpu = use_module(argc, argv);
    Engine a, b;

    src   = getenv("CAUSVID_SRC") ? getenv("CAUSVID_SRC") : ".";
    build = getenv("CAUSVID_BUILD") ? getenv("CAUSVID_BUILD") : "build";
    snprintf(small_model, sizeof(small_model),
             "%s/tests/model/fixtures/clip/model", src);
    snprintf(tokenizer, sizeof(tokenizer), "%s/samples/shapes/tokenizer", src);
    if (gpu)
        load_driver();

    init_engine(&a, 1, CAUSVID_PRECISION_BF16);
    init_engine(&b, 2, CAUSVID_PRECISION_FP32);
    test_pair(&a, &b, 0, "two on one GPU");
    test_failures();
    if (gpu)
        test_gpu();
    else
        test_emulated_context();
    return tap_done();
}
