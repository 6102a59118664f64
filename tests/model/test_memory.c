/*
 * Models that do not fit into memory with what only a prompt needs: it is
 * streamed, the frames are the same, and what does not fit even so is refused
 * before anything is taken.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * The CPU backend stands in for a GPU: its memory is counted, and has limits as
 * those of a GPU have. tests/model/test_cuda.c does the same with the real one.
 */
#include "../tap.h"
#include "budget.h"
#include "fixture.h"
#include "loading.h"
#include "pipeline.h"

enum { MAX_BLOCKS = 16 };

/* The memory of the backend. */
static struct {
    int64_t budget, size; /* INT64_MAX: no limit */
    int64_t taken, peak;
    int allocations;
    struct { void *data; int64_t bytes; } blocks[MAX_BLOCKS];
} device;

static const CvOps *real;

static int count_alloc(CvBackend *b, size_t bytes, void **data)
{
    int err = real->alloc(b, bytes, data), i = 0;

    if (err < 0)
        return err;
    while (device.blocks[i].data)
        if (++i == MAX_BLOCKS)
            tap_bail("more than %d blocks", MAX_BLOCKS);
    device.blocks[i].data  = *data;
    device.blocks[i].bytes = (int64_t)bytes;
    device.taken += (int64_t)bytes;
    device.allocations++;
    if (device.taken > device.peak)
        device.peak = device.taken;
    return 0;
}

static void count_release(CvBackend *b, void *data)
{
    for (int i = 0; i < MAX_BLOCKS; i++)
        if (data && device.blocks[i].data == data) {
            device.taken -= device.blocks[i].bytes;
            device.blocks[i].data = NULL;
        }
    real->release(b, data);
}

static int tell_memory(CvBackend *b, CvMemory *memory)
{
    (void)b;
    memory->used   = device.taken;
    memory->taken  = device.taken;
    memory->budget = device.budget;
    if (device.size < INT64_MAX)
        memory->room = device.size - device.taken;
    return 0;
}

/* ---- a model and its clips ---- */

typedef struct Run {
    CvModel model;
    CvArena arena;
    CvLog log;
    char error[1024], info[4096];
    int n_errors;
    uint64_t hash; /* of the frames of the last clip */
} Run;

static void write_log(void *cookie, enum CausvidLogLevel level,
                      const char *format, va_list args)
{
    Run *r = cookie;
    const size_t used = strlen(r->info);

    if (level == CAUSVID_LOG_ERROR && !r->n_errors++)
        vsnprintf(r->error, sizeof(r->error), format, args);
    else if (level == CAUSVID_LOG_INFO)
        vsnprintf(r->info + used, sizeof(r->info) - used, format, args);
}

static CausvidClip clip_of(int width, int64_t frames)
{
    CausvidClip clip;

    causvid_default_clip(&clip);
    clip.prompt = "a red circle";
    clip.width  = width;
    clip.height = 32;
    clip.frames = frames;
    return clip;
}

static const char *lora; /* merged into the models, or NULL */
static int stream_all;   /* of the transformer, in any case */

static int open_run(Run *r, const char *model, int64_t budget, int64_t size,
                    const CausvidClip *first)
{
    static CvOps ops;
    CausvidSettings settings;
    CvBackend *b;

    memset(r, 0, sizeof(*r));
    memset(&device, 0, sizeof(device));
    device.budget = budget;
    device.size   = size;
    causvid_default_settings(&settings);
    settings.model   = model;
    settings.lora    = lora;
    settings.variant = CAUSVID_VARIANT_CAUSAL;
    settings.log     = write_log;
    settings.cookie  = r;
    cv_log_init(&r->log, &settings);
    if (cv_cpu_open(&b, 1, &r->log) < 0)
        tap_bail("no CPU backend");
    real = b->ops;
    ops  = *real;
    ops.alloc   = count_alloc;
    ops.release = count_release;
    ops.memory  = tell_memory;
    b->ops = &ops;
    if (cv_model_open(&r->model, &settings, b, &r->log) < 0)
        tap_bail("%s", r->error);
    if (stream_all && (!cv_dit_stream_text(r->model.dit) ||
                       !cv_dit_stream_layers(r->model.dit, INT64_MAX)))
        tap_bail("the transformer is not streamed");
    return cv_model_load(&r->model, NULL, first);
}

static void close_run(Run *r)
{
    cv_arena_free(&r->arena);
    cv_model_close(&r->model);
    cv_log_free(&r->log);
    if (device.taken)
        tap_bail("%lld bytes were not given back", (long long)device.taken);
}

static int make_clip(Run *r, const CausvidClip *clip)
{
    static uint8_t rgb[3 * 256 * 32];
    CausvidPicture pic = { .format = CAUSVID_FORMAT_RGB24,
                           .width = clip->width, .height = clip->height,
                           .data = { rgb }, .stride = { 3 * clip->width } };
    CvPipeline *pipeline = NULL;
    int err = cv_pipeline_start(&pipeline, &r->model, &r->arena, clip, NULL,
                                NULL);

    r->hash = 0xcbf29ce484222325;
    while (!err && !(err = cv_pipeline_read(pipeline, &pic))) {
        /* One prompt more for the thread that generates. */
        if (!pic.index && cv_pipeline_set_prompt(pipeline, "a blue square"))
            tap_bail("%s", r->error);
        for (int i = 0; i < 3 * clip->width * clip->height; i++)
            r->hash = (r->hash ^ rgb[i]) * 0x100000001b3;
    }
    cv_pipeline_stop(&pipeline);
    return err == CAUSVID_EOF ? 0 : err;
}

/* ---- tests ---- */

typedef struct Result {
    int err;
    int64_t peak;
    uint64_t hash;
    char info[4096], error[1024];
    int allocations, n_errors;
} Result;

/* One clip of a model that was opened for it. */
static Result once(const char *model, int64_t budget, int64_t size,
                   const CausvidClip *clip)
{
    Result result = { 0 };
    static Run r;

    result.err = open_run(&r, model, budget, size, clip);
    if (!result.err)
        result.err = make_clip(&r, clip);
    result.peak = device.peak;
    result.hash = r.hash;
    result.allocations = device.allocations;
    result.n_errors = r.n_errors;
    memcpy(result.info, r.info, sizeof(r.info));
    memcpy(result.error, r.error, sizeof(r.error));
    close_run(&r);
    return result;
}

/* How many parts are streamed. */
static int streamed(const char *info)
{
    return (strstr(info, "text encoder streamed") != NULL) +
           (strstr(info, "weights for text") != NULL) +
           (strstr(info, " layers, these for each step") != NULL);
}

/* A budget in the words of the advice to give it. */
static const char *advice(int64_t bytes)
{
    static char text[64];

    snprintf(text, sizeof(text), "vram=%lldM or more",
             (long long)((bytes + 999999) / 1000000));
    return text;
}

/* A budget of a byte less than what is needed streams more, until nothing is
 * left to be streamed. */
static void test_boundaries(const char *name, const char *model,
                            const CausvidClip *clip)
{
    Result whole = once(model, INT64_MAX, INT64_MAX, clip);
    Result at = once(model, INT64_MAX - 1, INT64_MAX, clip), none;
    int64_t least = at.peak;
    int parts = 0;

    ok(!whole.err && !at.err && at.hash == whole.hash && !streamed(at.info),
       "%s: resident, %lld bytes", name, (long long)at.peak);
    while (!at.err) {
        least = at.peak;
        at = once(model, least, INT64_MAX, clip);
        ok(!at.err && at.hash == whole.hash && streamed(at.info) == parts &&
           at.peak == least, "%lld bytes are enough of a budget",
           (long long)least);
        at = once(model, INT64_MAX, least + CV_BUDGET_SPARE, clip);
        ok(!at.err && at.hash == whole.hash && streamed(at.info) == parts &&
           at.peak == least, "and of memory, with what is left to others");
        at = once(model, INT64_MAX, least, clip);
        ok(!at.err && at.hash == whole.hash && streamed(at.info) == 3,
           "without it more is streamed, nothing refused");
        at = once(model, least - 1, INT64_MAX, clip);
        if (at.err)
            break;
        parts = parts < 3 ? parts + 1 : parts;
        if (!ok(at.hash == whole.hash && streamed(at.info) == parts &&
                at.peak < least, "with a byte less %d parts are streamed, "
                "%lld bytes: the same frames", parts, (long long)at.peak))
            tap_diag("%s%s", at.error, at.info);
    }
    is_int(parts, 3);

    none = once(model, least - 1, INT64_MAX, clip);
    ok(none.err == CAUSVID_ERR(ENOMEM) && none.n_errors == 1 &&
       !none.allocations && strstr(none.error, advice(least)),
       "a byte less is refused before anything is taken: %s", none.error);
    none = once(model, least - 1, least - 1, clip);
    ok(none.err == CAUSVID_ERR(ENOMEM) && none.n_errors == 1 &&
       !strstr(none.error, "or more"), "a larger budget is not advised "
       "where there is not so much: %s", none.error);
    none = once(model, INT64_MAX, least - 1, clip);
    ok(none.err == CAUSVID_ERR(ENOMEM) && none.n_errors == 1 &&
       !none.allocations && !strstr(none.error, "vram") &&
       strstr(none.error, "there are"), "%s", none.error);
}

/* A text encoder so small that streaming it takes more than it: what the
 * refusal advises is enough, and no less. */
static void test_too_small(void)
{
    const CausvidClip clip = clip_of(48, 21);
    char path[FIXTURE_PATH];
    Result whole, none;
    int needed = 0;

    fixture_path(path, "clip/model");
    whole = once(path, INT64_MAX - 1, INT64_MAX, &clip);
    none  = once(path, 1, INT64_MAX, &clip);
    ok(!whole.err && none.err == CAUSVID_ERR(ENOMEM) && !none.allocations &&
       sscanf(none.error, "model needs %d MB", &needed) == 1,
       "a tiny model: %s", none.error);
    ok(once(path, needed * 1000000LL, INT64_MAX, &clip).hash == whole.hash &&
       once(path, (needed - 1) * 1000000LL, INT64_MAX, &clip).err ==
       CAUSVID_ERR(ENOMEM), "%d MB are enough, no less", needed);
    ok(once(path, INT64_MAX, whole.peak, &clip).hash == whole.hash, "for "
       "others' sake nothing is streamed that would then not fit");
}

/* What is streamed is changed by a LoRA each time, in scratch that was planned. */
static void test_lora(const char *model, const CausvidClip *clip)
{
    const char *applied = "applied 69 of 69 entries";
    Result at, whole = once(model, INT64_MAX - 1, INT64_MAX, clip);

    stream_all = 1;
    at = once(model, INT64_MAX - 1, INT64_MAX, clip);
    stream_all = 0;
    ok(!at.err && at.hash == whole.hash && strstr(whole.info, applied) &&
       strstr(at.info, applied), "a LoRA: the same frames streamed");
    lora = NULL;
    at = once(model, INT64_MAX - 1, INT64_MAX, clip);
    ok(!at.err && at.hash != whole.hash, "others without it");
}

/* Clips that grow while the model stays open. */
static void test_growth(const char *model)
{
    const CausvidClip small = clip_of(48, 21), large = clip_of(96, 21);
    CausvidClip huge = clip_of(240, 45);
    Result a = once(model, INT64_MAX - 1, INT64_MAX, &small);
    Result b = once(model, INT64_MAX - 1, INT64_MAX, &large);
    Run r;
    int err;

    if (a.err || b.err || a.peak >= b.peak)
        tap_bail("the clips do not grow");
    if (open_run(&r, model, b.peak - 1, INT64_MAX, &small) < 0)
        tap_bail("%s", r.error);
    ok(!make_clip(&r, &small) && r.hash == a.hash && !streamed(r.info),
       "a small clip leaves the text encoder");
    ok(!make_clip(&r, &large) && r.hash == b.hash && streamed(r.info) &&
       device.taken < b.peak, "a larger one does not");
    huge.guidance = 2;
    err = make_clip(&r, &huge);
    ok(err == CAUSVID_ERR(ENOMEM) && r.n_errors == 1 &&
       strstr(r.error, "240x32, 45 frames"), "the next is refused: %s",
       r.error);
    r.info[0] = 0;
    ok(!make_clip(&r, &small) && r.hash == a.hash && !streamed(r.info),
       "the small one runs as before, still streamed");
    is_int(r.n_errors, 1);
    ok(device.peak < b.peak, "the budget was kept");
    close_run(&r);
}

int main(void)
{
    const CausvidClip clip = clip_of(48, 33);
    CausvidClip guided = clip;
    const char *src = getenv("CAUSVID_SRC");
    char path[FIXTURE_PATH], styles[FIXTURE_PATH];

    snprintf(path, sizeof(path), "%s/samples/shapes", src ? src : ".");
    test_boundaries("the sample model", path, &clip);
    guided.guidance = 2;
    test_boundaries("random numbers", "random:tiny", &guided);
    snprintf(path, sizeof(path), "%s/tests/model/fixtures/clip/model",
             src ? src : ".");
    snprintf(styles, sizeof(styles), "%s/tests/model/fixtures/lora/"
             "kijai.safetensors", src ? src : ".");
    lora = styles;
    test_lora(path, &clip);
    lora = NULL;
    test_growth("random:tiny");
    test_too_small();
    return tap_done();
}
