/*
 * The host's side of the CUDA backend, run by the emulator: what operations do
 * in pieces, and what only many or large tensors reach.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * tests/ops has the operations; this has the sizes at which buffers of a fixed
 * size are filled more than once. The CPU backend is the reference. And what
 * the emulator, which does everything at once, cannot show: that the pipeline
 * asks for frames to be drawn before it writes over them.
 */
#include <math.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

#include "../tap.h"
#include "device.h"
#include "loading.h"
#include "pipeline.h"

typedef struct Lines {
    char error[1024];
    int n_errors;
} Lines;

static void write_log(void *cookie, enum CausvidLogLevel level,
                      const char *format, va_list args)
{
    Lines *lines = cookie;

    if (level == CAUSVID_LOG_ERROR) {
        lines->n_errors++;
        vsnprintf(lines->error, sizeof(lines->error), format, args);
    }
}

static CvBackend *open_with(CvLog *log, const CvCudaSettings *settings)
{
    char why[CV_WHY_SIZE];
    CvBackend *b;

    if (cv_device_open(&b, settings, why, log) < 0)
        tap_bail("the emulated backend does not open: %s", why);
    if (cv_enter(b) < 0)
        tap_bail("it cannot be entered");
    return b;
}

static CvBackend *open_cuda(CvLog *log, int float32)
{
    return open_with(log, &(CvCudaSettings){ .abi = CV_CUDA_ABI,
                                             .float32 = float32 });
}

static void *need(void *memory)
{
    if (!memory)
        tap_bail("out of memory");
    return memory;
}

/* Numbers in -1..1, the same for the same seed. */
static float *make_numbers(int64_t n, uint64_t seed)
{
    float *x = need(malloc((size_t)n * sizeof(*x)));

    for (int64_t i = 0; i < n; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        x[i] = (float)((double)(seed >> 40) * 0x1p-23 - 1);
    }
    return x;
}

/* A tensor of a backend with these numbers. */
static CvTensor put(CvBackend *b, CvTensor shape, const float *numbers)
{
    size_t bytes = (size_t)cv_tensor_bytes(&shape);
    int err = b->ops->alloc(b, bytes, &shape.data);

    if (err || cv_upload(b, &shape, numbers, CV_F32) < 0)
        tap_bail("no memory, or no upload, for %zu bytes", bytes);
    return shape;
}

static double difference(const float *x, const float *y, int64_t n)
{
    double error = 0, size = 0;

    for (int64_t i = 0; i < n; i++) {
        error += ((double)x[i] - y[i]) * ((double)x[i] - y[i]);
        size  += (double)y[i] * y[i];
    }
    return sqrt(error / size);
}

/* ---- uploads and downloads of several chunks ---- */

static void test_transfers(CvLog *log, int float32)
{
    const int64_t n = (5 << 20) + 3; /* a chunk is 4 M of float32 */
    CvBackend *b = open_cuda(log, float32);
    float *numbers = make_numbers(n, 1), *back = make_numbers(n, 2);
    CvTensor t = put(b, CV_TENSOR(NULL, b->activation, n), numbers);
    double bar = float32 ? 0 : 2e-3, got;

    is_int(cv_download(b, back, &t), 0);
    got = difference(back, numbers, n);
    ok(got <= bar, "%s: %lld numbers there and back: %.1e", b->device,
       (long long)n, got);
    numbers[n - 2] = INFINITY;
    is_int(cv_upload(b, &t, numbers, CV_F32), CAUSVID_ERR(EILSEQ));
    numbers[n - 2] = 0;
    numbers[4] = NAN;
    is_int(cv_upload(b, &t, numbers, CV_F32), CAUSVID_ERR(EILSEQ));
    numbers[4] = 0;
    is_int(cv_upload(b, &t, numbers, CV_F32), 0);
    free(numbers);
    free(back);
    cv_leave(b);
    b->close(&b); /* gives back what is still allocated */
    ok(!b, "closed");
}

/* ---- linears ---- */

/* epilogue(x weight^T + bias) on backend b as `type`, to the host. */
static void run_linear(CvBackend *b, const int64_t size[3],
                       CvEpilogue epilogue, CvType type, const float *numbers,
                       float *out)
{
    const int64_t n = size[0], i = size[1], o = size[2];
    CvTensor x = put(b, CV_TENSOR(NULL, b->activation, n, i), numbers);
    CvTensor w = put(b, CV_TENSOR(NULL, b->weight, o, i), numbers + n * i);
    CvTensor bias = put(b, CV_TENSOR(NULL, CV_F32, o), numbers + 1);
    CvTensor mod = put(b, CV_TENSOR(NULL, CV_F32, 2, 1, o), numbers + 7);
    CvTensor y = put(b, CV_TENSOR(NULL, type, n, o), numbers + 3);
    CvTensor *all[] = { &x, &w, &bias, &mod, &y };
    CvLinear a = { .out = &y, .x = &x, .weight = &w, .bias = &bias,
                   .epilogue = epilogue };
    int err;

    if (epilogue >= CV_EPI_MUL)
        a.other = &y;
    if (epilogue == CV_EPI_GATE_ADD)
        a.mod = &mod;
    err = cv_linear(b, &a);
    if (err || cv_download(b, out, &y) < 0)
        tap_bail("linear on %s: %d", b->name, err);
    for (size_t k = 0; k < sizeof(all) / sizeof(*all); k++)
        b->ops->release(b, all[k]->data);
}

/* 39 MB of float32 results: more than a piece. */
static void test_linear_pieces(CvLog *log)
{
    static const CvEpilogue kinds[] = { CV_EPI_GATE_ADD, CV_EPI_GELU };
    const int64_t size[3] = { 1200, 2, 8192 }, n = size[0] * size[2];
    CvBackend *cuda = open_cuda(log, 1), *cpu;
    float *numbers = make_numbers(n + 16, 3);
    float *got = make_numbers(n, 4), *want = make_numbers(n, 5);

    if (cv_cpu_open(&cpu, 1, log) < 0)
        tap_bail("no CPU backend");
    for (size_t k = 0; k < sizeof(kinds) / sizeof(*kinds); k++) {
        run_linear(cuda, size, kinds[k], CV_F32, numbers, got);
        run_linear(cpu, size, kinds[k], CV_F32, numbers, want);
        ok(difference(got, want, n) <= 3e-6, "a linear in pieces of rows, "
           "epilogue %d: %.1e", (int)kinds[k], difference(got, want, n));
    }
    free(numbers);
    free(got);
    free(want);
    cv_leave(cuda);
    cuda->close(&cuda);
    cpu->close(&cpu);
}

/* Each shape is a plan; the first ones are met again after many others. */
static void test_many_plans(CvLog *log)
{
    CvBackend *cuda = open_cuda(log, 1), *cpu;
    float *numbers = make_numbers(4096, 6), got[16 * 8], want[16 * 8];
    double worst = 0;

    if (cv_cpu_open(&cpu, 1, log) < 0)
        tap_bail("no CPU backend");
    for (int round = 0; round < 2; round++) {
        for (int k = 0; k < 600; k++) {
            const int64_t size[3] = { 1 + k % 16, 1 + k / 16, 1 + k % 7 };
            const int64_t n = size[0] * size[2];

            run_linear(cuda, size, CV_EPI_ADD, CV_F32, numbers, got);
            run_linear(cpu, size, CV_EPI_ADD, CV_F32, numbers, want);
            worst = fmax(worst, difference(got, want, n));
        }
    }
    ok(worst <= 3e-6, "600 shapes of linears, twice: %.1e", worst);
    free(numbers);
    cv_leave(cuda);
    cuda->close(&cuda);
    cpu->close(&cpu);
}

/* ---- pictures ---- */

/* A frame as a picture, upside down when `up`; returns its planes. */
static uint8_t *draw(CvBackend *b, const float *numbers, int w, int h,
                     enum CausvidFormat format, size_t bytes, int up)
{
    CvTensor frame = put(b, CV_TENSOR(NULL, CV_F32, h, w, 3), numbers);
    const int rgb = format == CAUSVID_FORMAT_RGB24;
    const ptrdiff_t row = rgb ? 3 * w + 5 : w, half = w / 2;
    uint8_t *planes = need(calloc(1, bytes)), *at = planes;
    CausvidPicture pic = { .width = w, .height = h, .format = format,
                           .stride = { row, half, half } };

    for (int i = 0; i < (rgb ? 1 : 3); i++) {
        int rows = i ? h / 2 : h;

        pic.data[i] = up ? at + (rows - 1) * pic.stride[i] : at;
        at += rows * pic.stride[i];
        if (up)
            pic.stride[i] = -pic.stride[i];
    }
    if (cv_finish(b) < 0 ||
        cv_to_picture(b, &(CvPictureArgs){ .frame = &frame, .pic = &pic }))
        tap_bail("no picture on %s", b->name);
    b->ops->release(b, frame.data);
    return planes;
}

/* The GPU draws 8 MB at a time. */
static void test_large_pictures(CvLog *log)
{
    enum { W = 2048, H = 1366 };
    static const struct {
        enum CausvidFormat format;
        int h;
        size_t bytes;
    } cases[] = {
        { CAUSVID_FORMAT_RGB24, H, (size_t)(3 * W + 5) * H },
        { CAUSVID_FORMAT_YUV420P, H / 8 / 2 * 2, (size_t)W * H * 3 / 2 },
    };
    CvBackend *cuda = open_cuda(log, 1), *cpu;
    float *numbers = make_numbers(3 * W * H, 7);

    if (cv_cpu_open(&cpu, 1, log) < 0)
        tap_bail("no CPU backend");
    for (int i = 0; i < 2; i++) {
        uint8_t *got = draw(cuda, numbers, W, cases[i].h, cases[i].format,
                            cases[i].bytes, i);
        uint8_t *want = draw(cpu, numbers, W, cases[i].h, cases[i].format,
                             cases[i].bytes, i);

        ok(!memcmp(got, want, cases[i].bytes), "a picture of %dx%d in format "
           "%d is the CPU's", W, cases[i].h, (int)cases[i].format);
        free(got);
        free(want);
    }
    free(numbers);
    cv_leave(cuda);
    cuda->close(&cuda);
    cpu->close(&cpu);
}

/* ---- who writes over frames that are being drawn ---- */

static atomic_int asked, decodes, too_early;
static int (*real_to_channels_last)(CvBackend *b, const CvTensor *out,
                                    const CvTensor *x, const float *mul,
                                    const float *add);

static int note_reuse(CvBackend *b)
{
    (void)b;
    atomic_store(&asked, 1);
    return 0;
}

/* With this the decoding of a latent begins. */
static int note_decode(CvBackend *b, const CvTensor *out, const CvTensor *x,
                       const float *mul, const float *add)
{
    atomic_fetch_add(&decodes, 1);
    if (!atomic_exchange(&asked, 0))
        atomic_fetch_add(&too_early, 1);
    return real_to_channels_last(b, out, x, mul, add);
}

static void test_reuse(CvLog *log)
{
    const char *src = getenv("CAUSVID_SRC");
    static uint8_t rgb[3 * 48 * 32];
    CausvidSettings settings;
    CausvidClip args;
    CausvidPicture pic = { .format = CAUSVID_FORMAT_RGB24, .width = 48,
                           .height = 32, .data = { rgb },
                           .stride = { 3 * 48 } };
    CvPipeline *pipeline;
    CvArena arena = { 0 };
    CvBackend *b;
    CvModel model;
    CvOps ops;
    char path[4200];
    int frames = 0;

    snprintf(path, sizeof(path), "%s/tests/model/fixtures/clip/model",
             src ? src : ".");
    causvid_default_settings(&settings);
    causvid_default_clip(&args);
    settings.model = path;
    args.prompt = "a cat";
    args.width  = 48;
    args.height = 32;
    args.frames = 45; /* twelve latents, six slots for their frames */
    if (cv_cpu_open(&b, 1, log) < 0)
        tap_bail("no CPU backend");
    ops = *b->ops;
    real_to_channels_last = ops.to_channels_last;
    ops.reuse_frames = note_reuse;
    ops.to_channels_last = note_decode;
    b->ops = &ops;
    if (cv_model_open(&model, &settings, b, log) < 0 ||
        cv_model_load(&model, NULL, &args) < 0 ||
        cv_pipeline_start(&pipeline, &model, &arena, &args, NULL, NULL) < 0)
        tap_bail("the fixture model does not run");
    while (!cv_pipeline_read(pipeline, &pic))
        frames++;
    is_int(frames, 45);
    is_int(atomic_load(&decodes), 12);
    is_int(atomic_load(&too_early), 0);
    atomic_store(&asked, 0);
    cv_pipeline_stop(&pipeline);
    ok(atomic_load(&asked), "also before the clip's memory is another's");
    cv_arena_free(&arena);
    cv_model_close(&model);
}

int main(void)
{
    const char *build = getenv("CAUSVID_BUILD");
    CausvidSettings settings = { .log = write_log };
    Lines lines = { .n_errors = 0 };
    char module[4200];
    CvLog log;

    snprintf(module, sizeof(module), "%s/emulator/libcausvid_cuda.so",
             build ? build : "build");
    if (access(module, R_OK))
        tap_bail("%s is missing: make tests", module);
    setenv("CAUSVID_CUDA_MODULE", module, 1);
    settings.cookie = &lines;
    cv_log_init(&log, &settings);
    setenv("EMULATED_STREAMS", "3", 1); /* as late as can be */
    test_transfers(&log, 1);
    setenv("EMULATED_STREAMS", "1", 1);
    test_transfers(&log, 0);
    test_linear_pieces(&log);
    test_many_plans(&log);
    test_large_pictures(&log);
    test_reuse(&log);
    ok(!lines.n_errors, "no error was logged: %s", lines.error);
    cv_log_free(&log);
    return tap_done();
}
