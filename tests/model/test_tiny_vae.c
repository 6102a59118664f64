/*
 * The tiny decoder on the CUDA backend, run by the emulator, in float32 and in
 * bf16; with --gpu on a real GPU. test_vae.c has the CPU and the files.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * In bf16 it may be 1.25 times as far from the exact frames as PyTorch's bf16
 * is. Fixtures: tests/model/make/tiny.py.
 */
#include <unistd.h>

#include "device.h"
#include "vae/vae.h"

#include "../tap.h"
#include "fixture.h"
#include "module.h"

static CvBackend *open_cuda(Bench *bench, int float32)
{
    CvCudaSettings settings = { .abi = CV_CUDA_ABI, .float32 = float32 };
    char why[CV_WHY_SIZE];
    CvBackend *b;

    if (cv_device_open(&b, &settings, why, &bench->log) < 0)
        tap_bail("the backend does not open: %s", why);
    if (cv_enter(b) < 0)
        tap_bail("it cannot be entered");
    return b;
}

/* Of frames clamped to -1..1, as those in the fixtures are. */
static double clamped_error(Bench *bench, const CvTensor *frames,
                            const CvTensor *expected)
{
    int64_t n = cv_elements(expected);
    float *host = need(malloc((size_t)n * sizeof(*host)));
    double error;

    if (cv_download(bench->backend, host, frames) < 0)
        tap_bail("download: %s", bench->error);
    for (int64_t i = 0; i < n; i++)
        host[i] = host[i] < -1 ? -1 : host[i] > 1 ? 1 : host[i];
    error = relative_error(host, expected->data, n);
    free(host);
    return error;
}

/* Decode all latents, in two calls, and compare. */
static int decode(Bench *bench, CvVae *vae, const CvTensor *latents,
                  const CvTensor *expected, double *error)
{
    CvRun *run = &bench->run;
    CvVaeState *state = NULL;
    int err = 0;

    cv_arena_plan(run->arena, run->backend);
    for (int pass = 0; pass < 2 && !err; pass++) {
        CvTensor in = *latents, out = *expected;
        int64_t first = 0;

        if (pass == 1)
            err = cv_arena_take(run->arena, run->log, "a test");
        if (err || (err = cv_arena_tensor(run->arena, &in)) < 0 ||
            (err = cv_arena_tensor(run->arena, &out)) < 0 ||
            (err = cv_upload(run->backend, &in, latents->data, CV_F32)) < 0 ||
            (err = cv_vae_decoder_state(&state, vae, run, (int)in.dim[2],
                                        (int)in.dim[3])) < 0 ||
            (err = cv_vae_state_reset(state, run)) < 0)
            break;
        for (int i = 0; i < 2 && !err; i++) {
            int64_t n = i ? in.dim[0] - 1 : 1;
            int64_t frames = cv_vae_frames(state, (int)n);
            CvTensor x = cv_rows(&in, i, n), y = cv_rows(&out, first, frames);

            err = cv_vae_decode(vae, run, state, &y, &x);
            first += frames;
        }
        cv_vae_state_free(&state);
        if (!err && pass == 1)
            *error = clamped_error(bench, &out, expected);
    }
    cv_vae_state_free(&state);
    run->backend->planning = 0;
    cv_arena_free(run->arena);
    return err;
}

static void test_fixture(Bench *bench, const char *name, int float32)
{
    char path[FIXTURE_PATH], file[64];
    CvBackend *cpu = bench->backend;
    CvTensor latents, frames;
    CvWeights *clips;
    CvVae *vae = NULL;
    double error = INFINITY, most;
    int err;

    snprintf(file, sizeof(file), "vae/%s/clips.safetensors", name);
    clips = open_tensors(bench, file);
    latents = read_tensor(clips, "latents");
    frames = read_tensor(clips, "frames");
    most = float32 ? 1e-5 : 1.25 * read_number(clips, "bf16_error");
    cv_weights_close(&clips);

    bench->backend = bench->run.backend = open_cuda(bench, float32);
    bench->arena = (CvArena){ .backend = bench->backend };
    snprintf(file, sizeof(file), "vae/%s/taew2_1.safetensors", name);
    err = cv_vae_open(&vae, bench->backend, fixture_path(path, file), "", 0,
                      &bench->log);
    if (!err)
        err = cv_vae_load(vae);
    if (!err)
        err = decode(bench, vae, &latents, &frames, &error);
    if (!ok(!err && error <= most, "%s in %s on %s: %.1e, at most %.1e", name,
            float32 ? "float32" : "bf16", bench->backend->device, error, most))
        tap_diag("%d: %s", err, bench->error);

    cv_vae_close(&vae);
    cv_leave(bench->backend);
    bench->backend->close(&bench->backend);
    bench->backend = bench->run.backend = cpu;
    free(latents.data);
    free(frames.data);
}

int main(int argc, char **argv)
{
    Bench bench;

    use_module(argc, argv);
    bench_open(&bench, 1);
    for (int float32 = 1; float32 >= 0; float32--) {
        test_fixture(&bench, "tiny", float32);
        test_fixture(&bench, "tiny-more", float32);
    }
    bench_close(&bench);
    return tap_done();
}
