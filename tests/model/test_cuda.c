/*
 * The whole engine on the CUDA backend, run by the emulator: every launch,
 * copy and product of a clip, without a GPU. With --gpu on a real one; with
 * "trials" behind it only what trials must not change.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * Through the same doors as a user: the module that CAUSVID_CUDA_MODULE names,
 * `causvid trace`, and the public API. What the emulator cannot show is said in
 * tests/emulator/README.md.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "../tap.h"
#include "device.h"
#include "module.h"
#include "weights/weights.h"

#define WIDTH  48
#define HEIGHT 32
#define FRAMES 33 /* three blocks: the third takes the frames of the first */

/* Bytes of a yuv420p picture. */
#define BYTES (WIDTH * HEIGHT * 3 / 2)

static const char *src, *build;
static char model[4096], module[4096];

/* What the log said. */
typedef struct Lines {
    char error[1024], info[4096];
    int n_errors;
} Lines;

static void write_log(void *cookie, enum CausvidLogLevel level,
                      const char *format, va_list args)
{
    Lines *lines = cookie;
    size_t used = strlen(lines->info);

    if (level == CAUSVID_LOG_ERROR && !lines->n_errors++)
        vsnprintf(lines->error, sizeof(lines->error), format, args);
    else if (level == CAUSVID_LOG_INFO || strstr(format, "encoded while"))
        vsnprintf(lines->info + used, sizeof(lines->info) - used, format,
                  args);
}

/* ---- causvid trace against PyTorch ---- */

/* |a - b| / |b|; tensors of files lie at any address. */
static double relative_error(const CvTensor *a, const CvTensor *b)
{
    int64_t n = cv_elements(a);
    const uint8_t *p = a->data, *q = b->data;
    double error = 0, size = 0;

    for (int64_t i = 0; i < n; i++, p += 4, q += 4) {
        float x, y;

        memcpy(&x, p, sizeof(x));
        memcpy(&y, q, sizeof(y));
        error += ((double)x - y) * ((double)x - y);
        size  += (double)y * y;
    }
    return sqrt(error / size);
}

/* The largest error that is allowed. float32: as on the CPU. bf16: 1.25 times
 * what PyTorch 2.11 with diffusers and transformers makes of the same weights
 * and inputs in bf16 on a CPU: 1.62e-2 for the text, 5.8e-3 for the flow of the
 * first block's first step, 9.4e-3 for frames of exact latents. */
static double bar(const char *precision, const char *name)
{
    if (strcmp(precision, "bf16"))
        return 1e-4;
    if (!strcmp(name, "text_embeds"))
        return 1.25 * 1.62e-2;
    return 1.25 * (strcmp(name, "frames") ? 5.8e-3 : 9.4e-3);
}

static void compare(const char *outputs, const char *reference,
                    const char *precision)
{
    CvWeights *got = NULL, *want = NULL;
    int compared = 0;

    if (cv_weights_open(&got, outputs, NULL) < 0 ||
        cv_weights_open(&want, reference, NULL) < 0)
        tap_bail("'%s' or '%s' cannot be read", outputs, reference);
    for (int64_t i = 0; i < cv_weights_count(want); i++) {
        const CvEntry *w = cv_weights_at(want, i);
        const CvEntry *g = cv_weights_find(got, "%s", w->name);

        if (w->tensor.type != CV_F32)
            continue;
        if (!g || !cv_same_shape(&g->tensor, &w->tensor)) {
            ok(0, "%s is there, with the reference's shape", w->name);
            continue;
        }
        ok(relative_error(&g->tensor, &w->tensor) <= bar(precision, w->name),
           "%s: %s: %.1e", precision, w->name,
           relative_error(&g->tensor, &w->tensor));
        compared++;
    }
    ok(compared >= 10, "%d tensors compared", compared);
    cv_weights_close(&got);
    cv_weights_close(&want);
}

static void test_trace(const char *precision)
{
    char command[20000], outputs[4096], reference[4200];

    snprintf(outputs, sizeof(outputs), "%s/cuda-test.safetensors", build);
    snprintf(reference, sizeof(reference),
             "%s/tests/model/fixtures/clip/reference.safetensors", src);
    unlink(outputs);
    snprintf(command, sizeof(command),
             "%s/bin/causvid trace --device cuda --precision %s --model %s "
             "--inputs %s/tests/model/fixtures/clip/inputs.safetensors "
             "--outputs %s", build, precision, model, src, outputs);
    is_int(system(command), 0);
    compare(outputs, reference, precision);
    unlink(outputs);
}

/* ---- the API ---- */

static CausvidContext *open_model(Lines *lines, enum CausvidDevice device,
                                  enum CausvidPrecision precision)
{
    CausvidContext *cv = NULL;
    CausvidSettings settings;

    memset(lines, 0, sizeof(*lines));
    causvid_default_settings(&settings);
    settings.model     = model;
    settings.device    = device;
    settings.precision = precision;
    settings.threads   = 1;
    settings.log       = write_log;
    settings.cookie    = lines;
    if (causvid_open(&cv, &settings) < 0)
        tap_bail("the fixture model does not open: %s", lines->error);
    return cv;
}

/* All frames of a clip. For the emulator the memory of the device is memory
 * like any other, so that a test can give it as planes. */
static void make_clip(CausvidContext *cv, Lines *lines, uint8_t *all,
                      enum CausvidMemory memory, int pause_ms)
{
    CausvidClip clip;
    int err;

    causvid_default_clip(&clip);
    clip.prompt = "a red circle";
    clip.width  = WIDTH;
    clip.height = HEIGHT;
    clip.frames = FRAMES;
    memset(all, 0, FRAMES * BYTES);
    if (causvid_start(cv, &clip) < 0)
        tap_bail("the clip does not start: %s", lines->error);
    for (int i = 0; i < FRAMES; i++, all += BYTES) {
        CausvidPicture pic = {
            .format = CAUSVID_FORMAT_YUV420P, .memory = memory,
            .width = WIDTH, .height = HEIGHT,
            .data = { all, all + WIDTH * HEIGHT,
                      all + WIDTH * HEIGHT * 5 / 4 },
            .stride = { WIDTH, WIDTH / 2, WIDTH / 2 },
        };

        if ((err = causvid_read_frame(cv, &pic)) || pic.index != i)
            tap_bail("frame %d: %d: %s", i, err, lines->error);
        if (pause_ms)
            nanosleep(&(struct timespec){ .tv_nsec = pause_ms * 1000000L },
                      NULL);
    }
}

/* The largest difference of two clips' samples. */
static int difference(const uint8_t *a, const uint8_t *b)
{
    int largest = 0;

    for (int i = 0; i < FRAMES * BYTES; i++)
        if (abs(a[i] - b[i]) > largest)
            largest = abs(a[i] - b[i]);
    return largest;
}

static void test_frames(int gpu)
{
    enum CausvidMemory planes = gpu ? CAUSVID_MEMORY_HOST
                                    : CAUSVID_MEMORY_CUDA;
    static uint8_t cpu[FRAMES * BYTES], host[FRAMES * BYTES];
    static uint8_t again[FRAMES * BYTES];
    CausvidContext *cv;
    CausvidInfo info;
    Lines lines;

    cv = open_model(&lines, CAUSVID_DEVICE_CPU, CAUSVID_PRECISION_AUTO);
    make_clip(cv, &lines, cpu, CAUSVID_MEMORY_HOST, 0);
    causvid_close(&cv);

    cv = open_model(&lines, CAUSVID_DEVICE_CUDA, CAUSVID_PRECISION_FP32);
    causvid_get_info(cv, &info);
    is_str(info.backend, "cuda");
    make_clip(cv, &lines, host, CAUSVID_MEMORY_HOST, 0);
    ok(difference(cpu, host) <= 1, "float32 shows what the CPU shows "
       "(differences of at most %d)", difference(cpu, host));
    make_clip(cv, &lines, again, planes, 0);
    causvid_close(&cv); /* and the caller's stream has drawn its planes */
    ok(!memcmp(host, again, sizeof(host)), "a second clip%s: the same bytes",
       gpu ? "" : ", into planes of the device");

    cv = open_model(&lines, CAUSVID_DEVICE_AUTO, CAUSVID_PRECISION_AUTO);
    causvid_get_info(cv, &info);
    is_str(info.backend, "cuda");
    make_clip(cv, &lines, host, CAUSVID_MEMORY_HOST, 3);
    ok(strstr(lines.info, gpu ? ", bf16" : "emulated, bf16"), "device=auto takes the "
       "GPU: %s", lines.info);
    ok(difference(cpu, host) <= 40, "bf16 shows nearly that (differences of "
       "at most %d)", difference(cpu, host));
    make_clip(cv, &lines, again, planes, 0);
    causvid_close(&cv);
    ok(!memcmp(host, again, sizeof(host)), "and the same bytes a second time");
    is_int(lines.n_errors, 0);
}

/* dB; of equal ones as if one sample differed by 1. */
static double psnr(const uint8_t *a, const uint8_t *b)
{
    double sum = 0;

    for (int i = 0; i < FRAMES * BYTES; i++)
        sum += (double)(a[i] - b[i]) * (a[i] - b[i]);
    return 10 * log10(255.0 * 255 * FRAMES * BYTES / fmax(sum, 1));
}

/* The fixture's blocks have products that the library takes, and of their 56
 * hidden numbers one that it does not. */
static void test_fp8_frames(void)
{
    static uint8_t bf16[FRAMES * BYTES], fp8[FRAMES * BYTES];
    static uint8_t again[FRAMES * BYTES];
    CausvidContext *cv;
    Lines lines;

    cv = open_model(&lines, CAUSVID_DEVICE_CUDA, CAUSVID_PRECISION_BF16);
    make_clip(cv, &lines, bf16, CAUSVID_MEMORY_HOST, 0);
    causvid_close(&cv);
    cv = open_model(&lines, CAUSVID_DEVICE_CUDA, CAUSVID_PRECISION_FP8);
    make_clip(cv, &lines, fp8, CAUSVID_MEMORY_HOST, 0);
    ok(strstr(lines.info, ", fp8,") != NULL, "precision=fp8: %s", lines.info);
    ok(psnr(bf16, fp8) >= 30 && memcmp(bf16, fp8, sizeof(fp8)),
       "fp8 shows what bf16 does, but for %.1f dB", psnr(bf16, fp8));
    make_clip(cv, &lines, again, CAUSVID_MEMORY_HOST, 0);
    ok(!memcmp(fp8, again, sizeof(fp8)), "and the same bytes a second time");
    is_int(lines.n_errors, 0);
    causvid_close(&cv);
}

/* A call that must fail, with the code and the words of its only line. */
static void refuse(const CausvidSettings *settings, int error,
                   const char *words, const char *what)
{
    CausvidSettings s = *settings;
    CausvidContext *cv = NULL;
    Lines lines = { .n_errors = 0 };
    int err;

    s.log    = write_log;
    s.cookie = &lines;
    err = causvid_open(&cv, &s);
    ok(err == CAUSVID_ERR(error) && !cv && lines.n_errors == 1 &&
       strstr(lines.error, words), "%s: %d, %s", what, err, lines.error);
    causvid_close(&cv);
}

static void test_refusals(void)
{
    CausvidSettings s;
    CausvidContext *cv;
    CausvidInfo info;
    Lines lines;
    char path[4200];

    causvid_default_settings(&s);
    s.model  = model;
    s.device = CAUSVID_DEVICE_CUDA;
    s.gpu    = 7;
    refuse(&s, ENODEV, "no GPU 7", "a GPU that is not there");
    s.gpu    = -1;
    refuse(&s, EINVAL, "gpu=-1", "a negative number of it");
    s.gpu    = 0;
    s.vram_bytes = 1000;
    refuse(&s, ENOMEM, "vram=1000", "a budget below the backend's own memory");
    s.vram_bytes = CV_CUDA_OWN_BYTES + 1000;
    refuse(&s, ENOMEM, "vram= allows 142 MB", "a budget below the weights");
    s.vram_bytes = 0;

    setenv("CAUSVID_CUDA_MODULE", "/nowhere/at/all.so", 1);
    refuse(&s, ENODEV, "/nowhere/at/all.so", "no such module");
    snprintf(path, sizeof(path), "%s/lib/libcausvid.so", build);
    setenv("CAUSVID_CUDA_MODULE", path, 1);
    refuse(&s, ENODEV, "another version", "a library that is no module");
    cv = open_model(&lines, CAUSVID_DEVICE_AUTO, CAUSVID_PRECISION_AUTO);
    causvid_get_info(cv, &info);
    is_str(info.backend, "cpu");
    ok(strstr(lines.info, "another version") != NULL, "device=auto says why "
       "it takes the CPU: %s", lines.info);
    causvid_close(&cv);
    setenv("CAUSVID_CUDA_MODULE", module, 1);
}

/* ---- budgets ---- */

/* Of random numbers; also "random:tiny-fp8". */
static const char *tiny = "random:tiny";
static enum CausvidPrecision precision;
static int unannounced; /* the clip, when the model is opened */
static int64_t attention8_bytes; /* what the backend takes for that */

/* The frames of a clip of it as one hash; 0 where it is refused. */
static uint64_t run_tiny(enum CausvidDevice device, int64_t vram,
                         Lines *lines)
{
    static uint8_t rgb[3 * WIDTH * HEIGHT];
    char tokenizer[4200]; /* the tree may not be where it was built */
    CausvidPicture pic = { .format = CAUSVID_FORMAT_RGB24, .width = WIDTH,
                           .height = HEIGHT, .data = { rgb },
                           .stride = { 3 * WIDTH } };
    uint64_t hash = 0xcbf29ce484222325;
    CausvidSettings s;
    CausvidContext *cv;
    CausvidClip clip;
    int err;

    memset(lines, 0, sizeof(*lines));
    causvid_default_clip(&clip);
    clip.prompt = "a red circle";
    clip.width  = WIDTH;
    clip.height = HEIGHT;
    clip.frames = 5;
    clip.steps  = 1;
    causvid_default_settings(&s);
    snprintf(tokenizer, sizeof(tokenizer), "%s/samples/shapes/tokenizer", src);
    s.model      = tiny;
    s.precision  = precision;
    s.tokenizer  = tokenizer;
    s.device     = device;
    s.vram_bytes = vram;
    s.clip       = unannounced ? NULL : &clip;
    s.log        = write_log;
    s.cookie     = lines;
    if (causvid_open(&cv, &s) < 0)
        return 0;
    err = causvid_start(cv, &clip);
    while (!err && !(err = causvid_read_frame(cv, &pic)))
        for (size_t i = 0; i < sizeof(rgb); i++)
            hash = (hash ^ rgb[i]) * 0x100000001b3;
    causvid_close(&cv);
    return err == CAUSVID_EOF ? hash : 0;
}

/* A file in fp8 is multiplied so where the GPU can, unless bf16 is asked for. */
static void test_fp8_file(void)
{
    Lines lines;
    uint64_t with, without;

    tiny = "random:tiny-fp8";
    without = run_tiny(CAUSVID_DEVICE_CUDA, 0, &lines);
    ok(without && !strstr(lines.info, "products in fp8"),
       "a file in fp8 on a GPU without products of it: %s", lines.info);
    setenv("EMULATED_CAPABILITY", "90", 1);
    with = run_tiny(CAUSVID_DEVICE_CUDA, 0, &lines);
    ok(with && with != without &&
       strstr(lines.info, "bf16 and products in fp8"),
       "and on one that has them: %s", lines.info);
    ok(run_tiny(CAUSVID_DEVICE_CUDA, 0, &lines) == with,
       "the same bytes again");
    unsetenv("EMULATED_CAPABILITY");
    tiny = "random:tiny";
}

static uint64_t run_within(int64_t vram, Lines *lines)
{
    return run_tiny(CAUSVID_DEVICE_CUDA, vram, lines);
}

/* What a refusal advises is enough, and no megabyte less. */
static void test_budgets(void)
{
    const char *streamed = "text encoder streamed";
    const int64_t own = CV_CUDA_OWN_BYTES + attention8_bytes;
    int needed = 0, resident = 0;
    uint64_t whole, hash;
    Lines lines;

    whole = run_within(0, &lines);
    ok(whole && !strstr(lines.info, streamed), "without a budget: %s",
       lines.info);
    ok(strstr(lines.info, "encoded while") != NULL, "its prompt is encoded "
       "while the other networks are loaded");
    unannounced = 1;
    hash = run_within(0, &lines);
    ok(hash == whole && !strstr(lines.info, "encoded while"), "the same bytes "
       "where it is not known then");
    unannounced = 0;
    ok(!run_within(own + 1000, &lines) && lines.n_errors == 1 &&
       !strncmp(lines.error, tiny, strlen(tiny)) &&
       sscanf(lines.error + strlen(tiny), " needs %d MB of GPU memory for "
              "48x32, 5 frames (%d MB", &needed, &resident) == 2, "%s",
       lines.error);
    hash = run_within(resident * 1000000LL, &lines);
    ok(hash == whole && !strstr(lines.info, streamed), "with %d MB nothing is "
       "streamed", resident);
    hash = run_within((resident - 1) * 1000000LL, &lines);
    ok(hash == whole && strstr(lines.info, streamed), "with %d MB the text "
       "encoder is: the same bytes", resident - 1);
    hash = run_within(needed * 1000000LL, &lines);
    ok(hash == whole && strstr(lines.info, streamed), "%d MB are enough",
       needed);
    ok(!run_within((needed - 1) * 1000000LL, &lines) && lines.n_errors == 1 &&
       !strncmp(lines.error, tiny, strlen(tiny)), "%d MB are not",
       needed - 1);
}

/* What is free is too little: device=auto takes the CPU and says why, and
 * device=cuda and a given budget do not. */
static void test_small_device(void)
{
    uint64_t hash;
    Lines lines;

    setenv("EMULATED_MEMORY", "150", 1);
    ok(run_tiny(CAUSVID_DEVICE_AUTO, 0, &lines) && !lines.n_errors &&
       strstr(lines.info, "device=auto takes the CPU: random:tiny needs"),
       "device=auto: %s", lines.info);
    ok(!run_tiny(CAUSVID_DEVICE_CUDA, 0, &lines) && lines.n_errors == 1 &&
       strstr(lines.error, "; there are "), "device=cuda: %s",
       lines.error);
    /* Of what is free some is left to others, but nothing refused for it. */
    setenv("EMULATED_MEMORY", "300", 1);
    hash = run_tiny(CAUSVID_DEVICE_CUDA, 0, &lines);
    ok(hash && strstr(lines.info, "text encoder streamed"), "300 MB: %s",
       lines.info);
    setenv("EMULATED_MEMORY", "2000", 1);
    ok(run_tiny(CAUSVID_DEVICE_CUDA, 0, &lines) == hash &&
       !strstr(lines.info, "streamed"), "2000 MB: %s", lines.info);
    unsetenv("EMULATED_MEMORY");
    ok(!run_tiny(CAUSVID_DEVICE_AUTO, CV_CUDA_OWN_BYTES + 1000, &lines) &&
       lines.n_errors == 1 && strstr(lines.error, "vram= allows 142 MB"),
       "device=auto with a budget: %s", lines.error);
}

/* precision=fp8: without products in fp8, and with them. Matrices are made fp8
 * each time that they are streamed. */
static void test_narrow(void)
{
    uint64_t wide, narrow;
    Lines lines;

    tiny = "random:tiny";
    wide = run_tiny(CAUSVID_DEVICE_CUDA, 0, &lines);
    precision = CAUSVID_PRECISION_FP8;
    narrow = run_tiny(CAUSVID_DEVICE_CUDA, 0, &lines);
    ok(narrow && narrow != wide && strstr(lines.info, "saves memory here") &&
       strstr(lines.info, "bf16 with weights in fp8"), "fp8 without Hopper: %s",
       lines.info);
    test_budgets();
    setenv("EMULATED_CAPABILITY", "90", 1);
    ok(run_tiny(CAUSVID_DEVICE_CUDA, 0, &lines) != narrow &&
       !strstr(lines.info, "saves memory here"), "with it: %s", lines.info);
    attention8_bytes = CV_CUDA_ATTENTION8_BYTES;
    test_budgets();
    unsetenv("EMULATED_CAPABILITY");
    precision = CAUSVID_PRECISION_AUTO;
    attention8_bytes = 0;
}

/* Streams whose work is done late, and in several orders: layers that are
 * streamed and the first prompt, with uploads in the stream of the operations and
 * beside them, where they end; layers in batches, where they are not streamed. */
static void test_streams(void)
{
    static const char *const trials[] = { NULL, "uploads", "graphs" };
    const uint64_t whole = run_tiny(CAUSVID_DEVICE_CUDA, 0, &(Lines){ 0 });
    char seed[] = "1";
    int needed = 0;
    Lines lines;

    run_tiny(CAUSVID_DEVICE_CUDA, CV_CUDA_OWN_BYTES + 1000, &lines);
    ok(whole && sscanf(lines.error, "random:tiny needs %d MB", &needed) == 1,
       "%s", lines.error);
    for (; *seed < '4'; ++*seed) {
        setenv("EMULATED_STREAMS", seed, 1);
        for (int trial = 0; trial < 3; trial++) {
            uint64_t all, part;

            if (trials[trial])
                setenv("CAUSVID_CUDA_TRIALS", trials[trial], 1);
            all  = run_tiny(CAUSVID_DEVICE_CUDA, 0, &lines);
            part = run_tiny(CAUSVID_DEVICE_CUDA, needed * 1000000LL, &lines);
            ok(all == whole && part == whole &&
               strstr(lines.info, "2 of 2 layers"), "late streams, %s, %s: "
               "the same bytes", seed, trial ? trials[trial] : "no trials");
            unsetenv("CAUSVID_CUDA_TRIALS");
        }
    }
    unsetenv("EMULATED_STREAMS");
    setenv("CAUSVID_CUDA_TRIALS", "uploads,upload", 1);
    ok(!run_tiny(CAUSVID_DEVICE_CUDA, 0, &lines) &&
       strstr(lines.error, "'upload' is no trial"), "no trial: %s",
       lines.error);
    unsetenv("CAUSVID_CUDA_TRIALS");
}

/* Trials that change when things run, not what is computed. */
static void test_timing(int runs)
{
    static const char *const trials[] = {
        "uploads", "launches", "graphs", "uploads,launches,graphs",
    };
    const enum CausvidPrecision precisions[] = {
        CAUSVID_PRECISION_BF16, CAUSVID_PRECISION_FP8,
    };
    Lines lines;

    tiny = "random:tiny";
    for (int p = 0; p < 2; p++) {
        uint64_t whole;

        precision = precisions[p];
        whole = run_tiny(CAUSVID_DEVICE_CUDA, 0, &lines);
        for (int t = 0; t < 4; t++) {
            int same = 0;

            setenv("CAUSVID_CUDA_TRIALS", trials[t], 1);
            for (int run = 0; run < runs; run++)
                same += run_tiny(CAUSVID_DEVICE_CUDA, 0, &lines) == whole;
            ok(whole && same == runs, "%s, %s: the same bytes, %d of %d times",
               p ? "fp8" : "bf16", trials[t], same, runs);
            unsetenv("CAUSVID_CUDA_TRIALS");
        }
    }
    precision = CAUSVID_PRECISION_AUTO;
}

int main(int argc, char **argv)
{
    int gpu = use_module(argc, argv);

    snprintf(module, sizeof(module), "%s", getenv("CAUSVID_CUDA_MODULE"));
    src   = getenv("CAUSVID_SRC") ? getenv("CAUSVID_SRC") : ".";
    build = getenv("CAUSVID_BUILD") ? getenv("CAUSVID_BUILD") : "build";
    snprintf(model, sizeof(model), "%s/tests/model/fixtures/clip/model", src);
    if (argc > 2 && !strcmp(argv[2], "trials")) {
        test_timing(8);
        return tap_done();
    }
    test_trace("fp32");
    test_trace("bf16");
    if (gpu) {
        test_frames(1);
        test_fp8_frames();
        test_budgets();
        tiny = "random:tiny-fp8";
        test_budgets();
        return tap_done();
    }
    /* The emulator then has what Hopper's kernels need. */
    setenv("EMULATED_CAPABILITY", "90", 1);
    test_trace("bf16");
    test_fp8_frames();
    unsetenv("EMULATED_CAPABILITY");
    setenv("EMULATED_STREAMS", "3", 1);
    test_frames(0);
    unsetenv("EMULATED_STREAMS");
    test_refusals();
    test_budgets();
    test_small_device();
    test_fp8_file();
    tiny = "random:tiny-fp8";
    test_budgets();
    test_narrow();
    test_streams();
    return tap_done();
}
