/*
 * One small model in fp8, as programs write it: the clip of the same numbers in
 * float32.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * The files, and what PyTorch makes of them in float32, are from
 * tests/model/make/fp8.py. On the CPU and with float32 on CUDA weights are
 * multiplied while they are loaded; on CUDA in bf16 they stay in fp8 until they
 * are used. All three must give what the float32 files give there, bit by bit.
 * CUDA is the emulated one, with --gpu a GPU.
 */
#include <math.h>
#include <unistd.h>

#include "../tap.h"
#include "module.h"
#include "traced.h"

/* The folder of a model: transformer and text encoder of these layouts. */
static void make_model(const char *name, const char *transformer,
                       const char *text)
{
    char dit[256], encoder[256];

    snprintf(dit, sizeof(dit), "fp8/%s/transformer", transformer);
    snprintf(encoder, sizeof(encoder), "fp8/%s/text_encoder", text);
    traced_model(name, dit, encoder, NULL);
}

static const struct {
    const char *name, *options;
} devices[] = {
    { "the CPU", "" },
    { "CUDA in bf16", "--device cuda --precision bf16" },
    { "CUDA in float32", "--device cuda --precision fp32" },
};

/* A layout beside its numbers in float32, and beside the model that was not
 * quantised, on the CPU. */
static void test_layout(const char *layout, const char *floats,
                        CvWeights *exact, double least)
{
    char plain[256];

    make_model(layout, layout, layout);
    snprintf(plain, sizeof(plain), "%s-of-%s", floats, layout);
    make_model(plain, floats, floats);
    for (size_t i = 0; i < sizeof(devices) / sizeof(*devices); i++) {
        CvWeights *got = traced_run(layout, devices[i].options);
        CvWeights *want = traced_run(plain, devices[i].options);

        ok(traced_same(got, want), "%s on %s: bit by bit as its numbers in float32",
           layout, devices[i].name);
        if (!i) {
            double db = traced_psnr(got, exact);

            ok(isfinite(db) && db >= least, "%s: frames of %.1f dB, of those "
               "of the model before", layout, db);
        }
        cv_weights_close(&got);
        cv_weights_close(&want);
    }
}

/* ---- a LoRA ---- */

#define SIDES 48 * 32 * 3
#define FRAMES 9
#define FP8_LEAST 15 /* dB */

static void write_log(void *cookie, enum CausvidLogLevel level,
                      const char *format, va_list args)
{
    char line[1024];

    (void)cookie;
    vsnprintf(line, sizeof(line), format, args);
    if (level <= CAUSVID_LOG_WARNING)
        tap_diag("%s", line);
}

/* The frames of a model with the LoRA. precision: auto is the CPU. */
static const uint8_t *merged_frames(const char *name,
                                    enum CausvidPrecision precision)
{
    static uint8_t frames[8][FRAMES * SIDES];
    static int turn;
    uint8_t *rgb = frames[turn++ % 8];
    char model[512], lora[4200];
    CausvidSettings s;
    CausvidContext *cv;
    CausvidClip clip;
    int err;

    snprintf(model, sizeof(model), "%s/%s", traced_folder, name);
    snprintf(lora, sizeof(lora), "%s/tests/model/fixtures/fp8/"
             "lora.safetensors=0.5", traced_src);
    causvid_default_settings(&s);
    s.model  = model;
    s.lora   = lora;
    s.device = precision == CAUSVID_PRECISION_AUTO ? CAUSVID_DEVICE_CPU
                                                   : CAUSVID_DEVICE_CUDA;
    s.precision = precision;
    s.log    = write_log;
    causvid_default_clip(&clip);
    clip.prompt = "a red circle";
    clip.seed   = 5;
    err = causvid_open(&cv, &s);
    if (!err)
        err = causvid_start(cv, &clip);
    for (int i = 0; i < FRAMES && !err; i++) {
        CausvidPicture pic = { .format = CAUSVID_FORMAT_RGB24, .width = 48,
                               .height = 32, .data = { rgb + i * SIDES },
                               .stride = { 48 * 3 } };

        err = causvid_read_frame(cv, &pic);
    }
    if (err)
        tap_bail("%s with a LoRA: %d", name, err);
    causvid_close(&cv);
    return rgb;
}

static double bytes_psnr(const uint8_t *a, const uint8_t *b)
{
    double sum = 0;

    for (int i = 0; i < FRAMES * SIDES; i++)
        sum += (a[i] - b[i]) * (a[i] - b[i]);
    return -10 * log10(sum / (FRAMES * SIDES) / 255 / 255);
}

/* What is added to a weight in fp8 is added to its number. On CUDA the sum is
 * fp8 again. */
static void test_lora(int gpu)
{
    const uint8_t *floats = merged_frames("rows-float32-of-rows",
                                          CAUSVID_PRECISION_AUTO);
    const uint8_t *fp8 = merged_frames("rows", CAUSVID_PRECISION_AUTO);
    double bf16, again;

    ok(!memcmp(floats, fp8, FRAMES * SIDES), "with a LoRA on the CPU: the "
       "frames of the float32 file with it");
    bf16  = bytes_psnr(floats, merged_frames("rows-float32-of-rows",
                                             CAUSVID_PRECISION_BF16));
    again = bytes_psnr(floats, merged_frames("rows", CAUSVID_PRECISION_BF16));
    /* 26.6 and 26.7 dB, less 3: a random network, as above */
    ok(bf16 > 23.6 && again > 23.7 && isfinite(again), "on CUDA: frames of %.1f dB, "
       "and of %.1f dB where the sum is bf16", again, bf16);
    /* The emulator then is a Hopper. The sums become fp8 wherever they come
     * from: of both files nearly the same. */
    if (!gpu)
        setenv("EMULATED_CAPABILITY", "90", 1);
    fp8 = merged_frames("rows", CAUSVID_PRECISION_FP8);
    bf16 = bytes_psnr(fp8, merged_frames("rows-float32-of-rows",
                                         CAUSVID_PRECISION_FP8));
    again = bytes_psnr(floats, fp8);
    ok(again > FP8_LEAST && isfinite(again), "with precision=fp8: frames of "
       "%.1f dB", again);
    ok(bf16 > 30, "and of the float32 file nearly the same ones, %.1f dB",
       bf16);
    if (!gpu)
        unsetenv("EMULATED_CAPABILITY");
}

/* ---- plans ---- */

/* A number that `causvid info --json` prints. */
static double info(const char *name, const char *key)
{
    char command[2048], line[1024];
    double value = -1;
    FILE *pipe;

    snprintf(command, sizeof(command), "cd %s/%s && %s/bin/causvid info "
             "--json .", traced_folder, name, traced_build);
    if (!(pipe = popen(command, "r")))
        tap_bail("popen");
    while (fgets(line, sizeof(line), pipe)) {
        if (strstr(line, key))
            value = atof(strchr(line, ':') + 1);
    }
    if (pclose(pipe))
        tap_bail("failed: %s", command);
    return value;
}

/* The plan of a GPU knows that they stay in fp8, that of the CPU that they do
 * not. (Of this small model most bytes are the VAE's and alignment.) */
static void test_plans(void)
{
    double fp8 = info("rows", "\"gpu_weights_mb\"");
    double floats = info("rows-float32-of-rows", "\"gpu_weights_mb\"");

    ok(fp8 > 0 && fp8 < floats, "a GPU's weights take %.4f MB, in bf16 %.4f",
       fp8, floats);
    fp8    = info("rows", "\"weights_mb\"");
    floats = info("rows-float32-of-rows", "\"weights_mb\"");
    ok(fp8 > 0 && fp8 == floats, "the CPU's take %.4f MB, as in float32",
       fp8);
}

int main(int argc, char **argv)
{
    CvWeights *exact;
    int gpu;

    traced_begin();
    gpu = use_module(argc, argv);
    traced_model("exact", NULL, NULL, NULL);
    exact = traced_run("exact", "");
    /* 22.4, 21.5 and 23.8 dB, less 3: the network is random, so that errors grow
     * more than in a trained one. */
    test_layout("plain", "plain-float32", exact, 19.4);
    test_layout("comfy-old", "comfy-old-float32", exact, 18.5);
    test_layout("comfy-new", "comfy-old-float32", exact, 18.5);
    test_layout("rows", "rows-float32", exact, 20.8);
    test_lora(gpu);
    test_plans();
    cv_weights_close(&exact);
    return tap_done();
}
