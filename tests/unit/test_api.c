/*
 * The public API: clips, frames, prompts, errors, clean stops.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * Runs on the random model of tests/model/fixtures/clip, whose pictures mean
 * nothing but take no time.
 */
#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/resource.h>
#include <time.h>

#include "causvid.h"
#include "../sanitized.h"
#include "../tap.h"

#define WIDTH  48
#define HEIGHT 32

static char model_path[4096];

/* What the log said. */
typedef struct Lines {
    char error[1024], warning[1024], info[8192];
    int n_errors, blocks;
    int polls, polls_at[8]; /* of the abort callback; when a block was told of */
    atomic_int stop;
} Lines;

static void write_log(void *cookie, enum CausvidLogLevel level,
                      const char *format, va_list args)
{
    Lines *lines = cookie;
    size_t used;

    switch (level) {
    case CAUSVID_LOG_ERROR:
        lines->n_errors++;
        vsnprintf(lines->error, sizeof(lines->error), format, args);
        break;
    case CAUSVID_LOG_WARNING:
        vsnprintf(lines->warning, sizeof(lines->warning), format, args);
        break;
    case CAUSVID_LOG_INFO:
        used = strlen(lines->info);
        vsnprintf(lines->info + used, sizeof(lines->info) - used, format,
                  args);
        break;
    default:
        break;
    }
}

static void note_progress(void *cookie, const CausvidProgress *progress)
{
    Lines *lines = cookie;

    lines->blocks = (int)progress->block;
    if (lines->blocks < 8)
        lines->polls_at[lines->blocks] = lines->polls;
}

static int wants_stop(void *cookie)
{
    Lines *lines = cookie;

    lines->polls++; /* callbacks never overlap */
    return atomic_load(&lines->stop);
}

static CausvidContext *open_model(Lines *lines)
{
    CausvidContext *cv = NULL;
    CausvidSettings settings;

    memset(lines, 0, sizeof(*lines));
    causvid_default_settings(&settings);
    settings.model    = model_path;
    settings.threads  = 2;
    settings.log      = write_log;
    settings.progress = note_progress;
    settings.abort    = wants_stop;
    settings.cookie   = lines;
    if (causvid_open(&cv, &settings) < 0)
        tap_bail("the fixture model does not open: %s", lines->error);
    return cv;
}

static CausvidClip small_clip(const char *prompt, int64_t frames)
{
    CausvidClip clip;

    causvid_default_clip(&clip);
    clip.prompt = prompt;
    clip.frames = frames;
    clip.width  = WIDTH;
    clip.height = HEIGHT;
    return clip;
}

static uint64_t hash_bytes(uint64_t hash, const void *data, size_t n)
{
    const uint8_t *p = data;

    while (n--)
        hash = (hash ^ *p++) * UINT64_C(1099511628211);
    return hash;
}

/* Read a frame as RGB; the value is causvid_read_frame()'s. */
static int read_rgb(CausvidContext *cv, uint8_t *rgb, CausvidPicture *out)
{
    CausvidPicture pic = { .width = WIDTH, .height = HEIGHT,
                           .format = CAUSVID_FORMAT_RGB24,
                           .data = { rgb }, .stride = { 3 * WIDTH } };
    int err = causvid_read_frame(cv, &pic);

    if (out)
        *out = pic;
    return err;
}

/* Hash of a whole clip; change_at >= 0: another prompt after that frame.
 * *first_new: the first frame that reports it. */
static uint64_t hash_clip(CausvidContext *cv, const CausvidClip *clip,
                          int change_at, int pause_ms, int64_t *first_new,
                          int64_t *n)
{
    static uint8_t rgb[3 * WIDTH * HEIGHT];
    uint64_t hash = UINT64_C(14695981039346656037);
    CausvidPicture pic;
    int err = causvid_start(cv, clip);

    *n = 0;
    if (first_new)
        *first_new = -1;
    while (!err && !(err = read_rgb(cv, rgb, &pic))) {
        hash = hash_bytes(hash, rgb, sizeof(rgb));
        if (pic.index != *n)
            return 0;
        if (first_new && *first_new < 0 && !strcmp(pic.prompt, "another"))
            *first_new = pic.index;
        if (pic.index == change_at)
            err = causvid_set_prompt(cv, "another");
        if (pause_ms)
            nanosleep(&(struct timespec){ .tv_nsec = pause_ms * 1000000L },
                      NULL);
        ++*n;
    }
    return err == CAUSVID_EOF ? hash : 0;
}

static void test_clips(void)
{
    Lines lines;
    CausvidContext *cv = open_model(&lines);
    CausvidClip clip = small_clip("a cat", 29);
    CausvidInfo info;
    uint64_t a, b;
    int64_t n;

    is_int(causvid_get_info(cv, &info), 0);
    ok(info.variant == CAUSVID_VARIANT_CAUSAL && info.block_frames == 12,
       "the model is causal, 12 frames a block");
    a = hash_clip(cv, &clip, -1, 0, NULL, &n);
    ok(a && n == 29, "29 frames, numbered from 0, then the end");
    ok(strstr(lines.info, "29 frames") && strstr(lines.info, "block 3 of 3"),
       "INFO tells the clip and its blocks");
    is_int(lines.blocks, 3);
    is_int(read_rgb(cv, (uint8_t[3 * WIDTH * HEIGHT]){ 0 }, NULL),
           CAUSVID_EOF);
    b = hash_clip(cv, &clip, -1, 0, NULL, &n);
    ok(a == b, "the same seed gives the same bytes");
    clip.seed = 1;
    b = hash_clip(cv, &clip, -1, 0, NULL, &n);
    ok(b && a != b, "another seed gives others");
    clip.seed   = 0;
    clip.prompt = "another";
    b = hash_clip(cv, &clip, -1, 0, NULL, &n);
    ok(b && a != b, "another prompt gives others");
    clip.frames = 1;
    ok(hash_clip(cv, &clip, -1, 0, NULL, &n) && n == 1, "a clip of one frame");
    clip.frames   = 13;
    clip.guidance = 3;
    clip.prompt   = "a cat";
    b = hash_clip(cv, &clip, -1, 0, NULL, &n);
    clip.negative_prompt = "a dog";
    ok(b && b != hash_clip(cv, &clip, -1, 0, NULL, &n),
       "with guidance the negative prompt counts");
    clip.guidance = 1;
    for (int s = CAUSVID_SAMPLER_CAUSVID; s <= CAUSVID_SAMPLER_UNIPC; s++) {
        clip.sampler = (enum CausvidSampler)s;
        clip.steps   = 2;
        ok(hash_clip(cv, &clip, -1, 0, NULL, &n) && n == 13, "sampler %d", s);
    }
    is_int(lines.n_errors, 0);
    causvid_close(&cv);
    ok(!cv, "closing sets the pointer to NULL");
}

/* A pass over a block polls the abort callback once a layer. The last block has
 * no cache pass, so it takes as many polls as another one only if a pass comes
 * after the frames of its block. */
static void test_order(void)
{
    Lines lines;
    CausvidContext *cv = open_model(&lines);
    CausvidClip clip = small_clip("a cat", 45);
    const int *at = lines.polls_at;
    int64_t n;

    hash_clip(cv, &clip, -1, 0, NULL, &n);
    ok(n == 45 && lines.blocks == 4 && at[2] > at[1] &&
       at[3] - at[2] == at[2] - at[1] && at[4] - at[3] == at[3] - at[2],
       "no frame waits for its block's cache pass: %d, %d, %d polls",
       at[2] - at[1], at[3] - at[2], at[4] - at[3]);
    causvid_close(&cv);
}

static void test_prompt_change(void)
{
    Lines lines;
    CausvidContext *cv = open_model(&lines);
    CausvidClip clip = small_clip("a cat", 61);
    uint64_t plain, a, b;
    int64_t n, first;

    plain = hash_clip(cv, &clip, -1, 0, NULL, &n);
    a = hash_clip(cv, &clip, 12, 0, &first, &n);
    /* frame 12 is in block 1 (block 0 holds 9 frames): acts from block 3 */
    is_int(first, 9 + 12 + 12);
    ok(a && a != plain, "a new prompt changes the clip");
    b = hash_clip(cv, &clip, 12, 3, &first, &n);
    ok(a == b, "the same bytes when the reader is slow");
    ok(causvid_set_prompt(cv, "  ") == CAUSVID_ERR(EINVAL) &&
       strstr(lines.error, "empty"), "an empty prompt is refused: %s",
       lines.error);
    causvid_close(&cv);
}

static void test_endless(void)
{
    static uint8_t rgb[3 * WIDTH * HEIGHT];
    Lines lines;
    CausvidContext *cv = open_model(&lines);
    CausvidClip clip = small_clip("a cat", -1);
    struct rusage early, late;
    int err = causvid_start(cv, &clip);

    for (int i = 0; i < 81 && !err; i++)
        err = read_rgb(cv, rgb, NULL);
    getrusage(RUSAGE_SELF, &early);
    for (int i = 81; i < 960 && !err; i++)
        err = read_rgb(cv, rgb, NULL);
    getrusage(RUSAGE_SELF, &late);
    is_int(err, 0);
    ok((double)late.ru_maxrss <= 1.05 * (double)early.ru_maxrss,
       "60 s take the memory of 5 s: %ld and %ld kB", late.ru_maxrss,
       early.ru_maxrss);
    causvid_close(&cv);
}

static void *stop_soon(void *argument)
{
    nanosleep(&(struct timespec){ .tv_nsec = 20 * 1000000L }, NULL);
    atomic_store(&((Lines *)argument)->stop, 1);
    return NULL;
}

static void test_stops(void)
{
    static uint8_t rgb[3 * WIDTH * HEIGHT];
    Lines lines;
    CausvidContext *cv;
    CausvidClip clip = small_clip("a cat", -1);
    pthread_t thread;
    int err = 0;

    for (int i = 0; i < 24; i++) {
        cv = open_model(&lines);
        err |= causvid_start(cv, &clip);
        for (int k = 0; k < i; k++)
            err |= read_rgb(cv, rgb, NULL);
        causvid_close(&cv);
    }
    is_int(err, 0);
    cv = open_model(&lines);
    causvid_start(cv, &clip);
    pthread_create(&thread, NULL, stop_soon, &lines);
    while (!(err = read_rgb(cv, rgb, NULL)))
        ;
    pthread_join(thread, NULL);
    ok(err == CAUSVID_ERR(ECANCELED), "the abort callback ends a clip");
    causvid_close(&cv);
}

/* Let the process have no more than 4 GiB, or as much as there is. */
static void limit_memory(int on)
{
    struct rlimit limit;

    getrlimit(RLIMIT_AS, &limit);
    limit.rlim_cur = on ? (rlim_t)4 << 30 : limit.rlim_max;
    setrlimit(RLIMIT_AS, &limit);
}

static void test_errors(void)
{
    static uint8_t rgb[3 * WIDTH * HEIGHT];
    Lines lines;
    CausvidContext *cv = open_model(&lines);
    CausvidClip clip;
    CausvidPicture pic = { .width = WIDTH, .height = HEIGHT,
                           .format = CAUSVID_FORMAT_RGB24,
                           .data = { rgb }, .stride = { 3 * WIDTH } };
    static const float rising[] = { 500, 700 };

#define REFUSED(change, code, words) do {                                   \
        clip = small_clip("a cat", 13);                                     \
        change;                                                             \
        lines.n_errors = 0;                                                 \
        lines.error[0] = 0;                                                 \
        ok(causvid_start(cv, &clip) == CAUSVID_ERR(code) &&                 \
           lines.n_errors == 1 && strstr(lines.error, words),               \
           #change ": %s", lines.error);                                    \
    } while (0)

    REFUSED(clip.prompt = NULL, EINVAL, "prompt");
    REFUSED(clip.prompt = "", EINVAL, "empty");
    REFUSED(clip.prompt = " \n ", EINVAL, "empty");
    REFUSED(clip.prompt = "caf\xe9 au lait", EINVAL, "UTF-8");
    REFUSED(clip.width = 50, EINVAL, "size=48x32");
    REFUSED(clip.width = 0, EINVAL, "size=16x32");
    REFUSED(clip.height = -5, EINVAL, "size=48x16");
    REFUSED(clip.width = clip.height = 1 << 20, EINVAL, "8192");
    if (!SANITIZED) {
        limit_memory(1);
        REFUSED(clip.width = clip.height = 8192; clip.frames = -1, ENOMEM, "MB");
        limit_memory(0);
    }
    REFUSED(clip.frames = -7, EINVAL, "-7");
    REFUSED(clip.frames = INT64_MAX, EINVAL, "frames");
    REFUSED(clip.seed = -2, EINVAL, "seed");
    REFUSED(clip.steps = -1, EINVAL, "steps");
    REFUSED(clip.steps = 50, EINVAL, "steps");
    REFUSED(clip.shift = -1, EINVAL, "shift");
    REFUSED(clip.shift = 1e-9f, EINVAL, "from 0.001 to 1000");
    REFUSED(clip.shift = NAN, EINVAL, "shift");
    REFUSED(clip.guidance = 1e9f, EINVAL, "guidance");
    REFUSED(clip.timesteps = rising; clip.n_timesteps = 2, EINVAL, "timestep");

    lines.n_errors = 0;
    ok(causvid_read_frame(cv, &pic) == CAUSVID_ERR(EINVAL) &&
       strstr(lines.error, "causvid_start"), "reading without a clip: %s",
       lines.error);
    clip = small_clip("a cat", 13);
    is_int(causvid_start(cv, &clip), 0);
    pic.width = 64;
    ok(causvid_read_frame(cv, &pic) == CAUSVID_ERR(EINVAL), "a picture of "
       "another size: %s", lines.error);
    pic.width     = WIDTH;
    pic.stride[0] = WIDTH;
    ok(causvid_read_frame(cv, &pic) == CAUSVID_ERR(EINVAL), "rows that are too "
       "short: %s", lines.error);
    pic.stride[0] = 3 * WIDTH;
    pic.memory    = CAUSVID_MEMORY_CUDA;
    ok(causvid_read_frame(cv, &pic) == CAUSVID_ERR(ENOSYS), "GPU memory: %s",
       lines.error);
    pic.memory = CAUSVID_MEMORY_HOST;
    is_int(causvid_read_frame(cv, &pic), 0);
    causvid_close(&cv);
    causvid_close(&cv);
    causvid_close(NULL);
}

static void test_long_prompt(void)
{
    Lines lines;
    CausvidContext *cv = open_model(&lines);
    CausvidClip clip;
    char *prompt = malloc(5 * 600 + 1);
    int64_t n;

    for (int i = 0; i < 600; i++)
        memcpy(prompt + 5 * i, " cat ", 6);
    clip = small_clip(prompt, 1);
    ok(hash_clip(cv, &clip, -1, 0, NULL, &n) && n == 1, "a prompt of over 512 "
       "tokens runs");
    ok(strstr(lines.warning, "tokens") && strstr(lines.warning, "512"),
       "with a warning: %s", lines.warning);
    free(prompt);
    causvid_close(&cv);
}

/* A call that must fail, with the code and the words of its line. */
static void refuse_open(CausvidSettings *settings, Lines *lines, int error,
                        const char *words, const char *what)
{
    CausvidContext *cv = (CausvidContext *)lines;

    memset(lines, 0, sizeof(*lines));
    settings->log    = write_log;
    settings->cookie = lines;
    ok(causvid_open(&cv, settings) == CAUSVID_ERR(error) && !cv &&
       lines->n_errors == 1 && strstr(lines->error, words), "%s: %s", what,
       lines->error);
}

static void test_open_errors(void)
{
    Lines lines;
    CausvidSettings s;

    causvid_default_settings(&s);
    s.model = "/nowhere/at/all";
    refuse_open(&s, &lines, ENOENT, "/nowhere/at/all", "no such model");
    s.model     = model_path;
    s.tokenizer = "/nowhere/spiece.model";
    refuse_open(&s, &lines, ENOENT, "/nowhere/spiece.model", "no tokenizer");
    s.tokenizer = NULL;
    s.vae       = "/nowhere/vae";
    refuse_open(&s, &lines, ENOENT, "/nowhere/vae", "no VAE");
    s.vae    = NULL;
    s.device = CAUSVID_DEVICE_CUDA;
    refuse_open(&s, &lines, ENOSYS, "device=cpu", "device=cuda");
    s.device    = CAUSVID_DEVICE_CPU;
    s.precision = CAUSVID_PRECISION_BF16;
    refuse_open(&s, &lines, ENOSYS, "precision=fp32", "precision=bf16");
    s.precision = CAUSVID_PRECISION_FP32;
    s.lora      = "x.safetensors";
    refuse_open(&s, &lines, ENOENT, "x.safetensors", "lora");
    s.lora   = NULL;
    s.device = (enum CausvidDevice)77;
    refuse_open(&s, &lines, EINVAL, "device: 77", "no such device");
    s.device    = CAUSVID_DEVICE_CPU;
    s.precision = (enum CausvidPrecision)-1;
    refuse_open(&s, &lines, EINVAL, "precision: -1", "no such precision");
    s.precision = CAUSVID_PRECISION_FP32;
    s.variant   = (enum CausvidVariant)3;
    refuse_open(&s, &lines, EINVAL, "variant: 3", "no such variant");
    ok(causvid_strerror(CAUSVID_ERR(ENOENT)) && causvid_strerror(-12345) &&
       causvid_version() == CAUSVID_VERSION_INT, "error texts and version");
}

static void test_nulls(void)
{
    const int refused = CAUSVID_ERR(EINVAL);
    Lines lines;
    CausvidContext *cv = (CausvidContext *)&lines;
    CausvidSettings settings;
    CausvidClip clip = small_clip("a cat", 1);
    CausvidPicture pic = { 0 };
    CausvidInfo info;

    causvid_default_settings(&settings);
    ok(causvid_open(NULL, &settings) == refused &&
       causvid_open(&cv, NULL) == refused && !cv, "opening without a context "
       "or settings");
    ok(causvid_get_info(NULL, &info) == refused &&
       causvid_start(NULL, &clip) == refused &&
       causvid_read_frame(NULL, &pic) == refused &&
       causvid_set_prompt(NULL, "a dog") == refused, "calls without a context");
    cv = open_model(&lines);
    ok(causvid_get_info(cv, NULL) == refused &&
       causvid_start(cv, NULL) == refused, "calls without a struct");
    is_int(causvid_start(cv, &clip), 0);
    ok(causvid_read_frame(cv, NULL) == refused &&
       causvid_set_prompt(cv, NULL) == refused, "of a running clip too");
    causvid_close(&cv);
}

int main(void)
{
    const char *src = getenv("CAUSVID_SRC");

    snprintf(model_path, sizeof(model_path), "%s/tests/model/fixtures/clip/"
             "model", src ? src : ".");
    test_clips();
    test_order();
    test_prompt_change();
    test_endless();
    test_stops();
    test_errors();
    test_long_prompt();
    test_open_errors();
    test_nulls();
    return tap_done();
}
