/*
 * One whole causal clip, block after block with the ring of keys and values,
 * against the reference on top of diffusers' modules.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * Drives transformer and sampler directly; the same fixture runs through
 * `causvid trace` as a whole. Fixtures: tests/model/make/clip.py.
 */
#include "dit/dit.h"
#include "sampling/sampling.h"

#include "../tap.h"
#include "fixture.h"

#define BLOCKS 3
#define BLOCK_FRAMES 3

static const float timesteps[] = { 1000, 757, 522 };

typedef struct Clip {
    Bench bench;
    CvDit *dit;
    CvSchedule schedule;
    CvWeights *inputs;
    CvTensor noise, text;   /* of inputs */
    int slots;
    CvWeights *reference;   /* where outputs are looked up first */
    CvWeights *fallback;    /* and then */
    double worst_flow[BLOCKS], worst_x0[BLOCKS];
    float *latents;         /* of all blocks */
} Clip;

/* Compare with `what`.<block>.<step> of the reference; the worst is kept. */
static void compare(Clip *clip, const CvTensor *t, const char *what, int block,
                    int step, double *worst)
{
    CvTensor expected;
    char name[64];

    if (clip->bench.backend->planning)
        return;
    snprintf(name, sizeof(name), "%s.%d.%d", what, block, step);
    expected = find_tensor(clip->reference, name);
    if (!expected.data)
        expected = read_tensor(clip->fallback, name);
    *worst = fmax(*worst, tensor_error(&clip->bench, t, &expected));
    free(expected.data);
}

static int run_block(Clip *clip, CvDitState *state, CvSampler *sampler,
                     int block)
{
    Bench *bench = &clip->bench;
    CvTensor rows = cv_rows(&clip->noise, block * BLOCK_FRAMES, BLOCK_FRAMES);
    int64_t elements = cv_elements(&rows);
    char name[64];
    int err;

    err = cv_upload(bench->backend, &sampler->x, rows.data, CV_F32);
    cv_sampler_start(sampler);
    while (!err && sampler->step < clip->schedule.steps) {
        int step = sampler->step;

        err = cv_dit_forward(clip->dit, &bench->run, state, &sampler->flow,
                             &sampler->x, clip->schedule.timestep[step],
                             block);
        if (err)
            break;
        compare(clip, &sampler->flow, "flow", block, step,
                &clip->worst_flow[block]);
        if (cv_sampler_wants_noise(sampler)) {
            CvTensor fresh;

            snprintf(name, sizeof(name), "renoise.%d.%d", block, step + 1);
            fresh = read_tensor(clip->inputs, name);
            err = cv_upload(bench->backend, &sampler->noise, fresh.data,
                            CV_F32);
            free(fresh.data);
        }
        if (!err)
            err = cv_sampler_step(sampler, &bench->run);
        if (!err)
            compare(clip, &sampler->x0, "x0", block, step,
                    &clip->worst_x0[block]);
    }
    if (!err)
        err = cv_download(bench->backend, clip->latents + block * elements,
                          &sampler->x0);
    if (!err) /* the keys and values that later blocks see */
        err = cv_dit_forward(clip->dit, &bench->run, state, NULL, &sampler->x0,
                             0, block);
    return err;
}

/* All of the clip, as plan or for real. */
static int run_clip(Clip *clip)
{
    Bench *bench = &clip->bench;
    int c = (int)clip->noise.dim[1];
    int h = (int)clip->noise.dim[2], w = (int)clip->noise.dim[3];
    CvDitState state;
    CvSampler sampler;
    CvTensor text;
    int err;

    memset(clip->worst_flow, 0, sizeof(clip->worst_flow));
    memset(clip->worst_x0, 0, sizeof(clip->worst_x0));
    err = cv_dit_state(&state, clip->dit, &bench->run, h, w, BLOCK_FRAMES,
                       clip->slots);
    if (!err)
        err = cv_sampler_init(&sampler, &clip->schedule, &bench->run,
                              BLOCK_FRAMES, c, h, w);
    if (err)
        return err;
    text = upload_tensor(bench, &clip->text);
    err = cv_dit_set_text(clip->dit, &bench->run, &state, &text);
    for (int block = 0; block < BLOCKS && !err; block++)
        err = run_block(clip, &state, &sampler, block);
    return err;
}

static void test_window(Clip *clip, int slots, CvWeights *reference)
{
    Bench *bench = &clip->bench;
    CvTensor latents = read_tensor(reference, "latents");
    int64_t n = cv_elements(&latents);
    int err;

    clip->slots = slots;
    clip->reference = reference;
    memset(clip->latents, 0, (size_t)n * sizeof(float));
    cv_arena_plan(&bench->arena, bench->backend);
    err = run_clip(clip);
    bench->backend->planning = 0;
    if (!err)
        err = cv_arena_take(&bench->arena, &bench->log, "the test");
    if (!err)
        err = run_clip(clip);
    if (!ok(!err, "a clip of %d blocks in a ring of %d", BLOCKS, slots))
        tap_diag("%d: %s", err, bench->error);
    for (int block = 0; block < BLOCKS && !err; block++)
        ok(clip->worst_flow[block] <= FIXTURE_TOLERANCE &&
           clip->worst_x0[block] <= FIXTURE_TOLERANCE,
           "ring of %d, block %d: flow %.1e, x0 %.1e", slots, block,
           clip->worst_flow[block], clip->worst_x0[block]);
    ok(relative_error(clip->latents, latents.data, n) <= FIXTURE_TOLERANCE,
       "ring of %d: all latents %.1e", slots,
       relative_error(clip->latents, latents.data, n));
    free(latents.data);
}

int main(void)
{
    CvScheduleArgs args = { .sampler = CAUSVID_SAMPLER_CAUSVID,
                            .timesteps = timesteps, .n_timesteps = 3,
                            .shift = 8 };
    char path[FIXTURE_PATH], config[FIXTURE_PATH];
    CvWeights *narrow, *wide;
    Clip clip = { 0 };

    bench_open(&clip.bench, 2);
    fixture_path(path, "clip/model/transformer");
    fixture_path(config, "clip/model/transformer/config.json");
    if (cv_dit_open(&clip.dit, clip.bench.backend, path, "", config,
                    &clip.bench.log) < 0 ||
        cv_dit_load(clip.dit) < 0 ||
        cv_schedule_init(&clip.schedule, &args, &clip.bench.log) < 0)
        tap_bail("%s", clip.bench.error);
    clip.inputs = open_tensors(&clip.bench, "clip/inputs.safetensors");
    narrow = open_tensors(&clip.bench, "clip/reference.safetensors");
    wide = open_tensors(&clip.bench, "clip/reference-window9.safetensors");
    clip.fallback = narrow;
    clip.noise = read_tensor(clip.inputs, "noise");
    clip.text = read_tensor(clip.inputs, "text_embeds");
    clip.latents = need(malloc((size_t)cv_tensor_bytes(&clip.noise)));

    test_window(&clip, 2, narrow);
    test_window(&clip, 3, wide);
    test_window(&clip, 5, wide); /* more room than blocks */

    free(clip.latents);
    free(clip.noise.data);
    free(clip.text.data);
    cv_weights_close(&clip.inputs);
    cv_weights_close(&narrow);
    cv_weights_close(&wide);
    cv_dit_close(&clip.dit);
    bench_close(&clip.bench);
    return tap_done();
}
