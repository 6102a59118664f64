/*
 * Schedules, samplers and noise.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * Sources: checkpoints.md 7.3 (CausVid), 7.4 (UniPC as in Wan), 7.5 (Euler),
 * 7.6 (flowmatch_causvid).
 */
#ifndef CV_SAMPLING_H
#define CV_SAMPLING_H

#include "memory.h"

#define CV_MAX_STEPS 1000

/* With less, 1 + (shift - 1) sigma may be rounded to 0. */
#define CV_LEAST_SHIFT 0.001

/* The noise levels of a clip. */
typedef struct CvSchedule {
    enum CausvidSampler sampler;
    int steps;
    double timestep[CV_MAX_STEPS];   /* what the transformer is told */
    double sigma[CV_MAX_STEPS + 1];  /* of step i; [steps] is the last, 0 for
                                        all but the causvid sampler */
} CvSchedule;

/* What a schedule is made from; 0 and NULL mean: not given. */
typedef struct CvScheduleArgs {
    enum CausvidSampler sampler;
    int steps;               /* with a list: use its first `steps` entries */
    const float *timesteps;  /* CausVid step list, 0..1000, strictly falling */
    int n_timesteps;
    int warp;                /* map the list through the shifted table (7.3) */
    double shift;            /* of the table or the sigmas; > 0; 0: 8 for the
                                causvid sampler, else 5 (Wan's default) */
    int64_t dim;             /* transformer width: flowmatch_causvid's list */
} CvScheduleArgs;

/* EINVAL with a line that names the option: no steps, a list that rises or
 * leaves 0..1000, more steps than the list has, flowmatch_causvid with other
 * counts than its list allows. A trailing 0 in a CausVid list is dropped.
 * Euler and UniPC take a list too: sigma = t / 1000, without shift. */
int cv_schedule_init(CvSchedule *schedule, const CvScheduleArgs *args,
                     CvLog *log);

/* The latents of one block (or clip) while they are denoised. All float32 of
 * one shape, in an arena. UniPC keeps up to three more tensors. */
typedef struct CvSampler {
    const CvSchedule *schedule;
    CvTensor x;          /* the noisy latents: input of the network */
    CvTensor x0;         /* newest prediction of the clean latents */
    CvTensor flow;       /* where the network writes */
    CvTensor noise;      /* fresh noise for the causvid sampler */
    CvTensor m1, m2, last; /* UniPC: earlier predictions, sample before */
    int step;            /* the next step to do */
} CvSampler;

int cv_sampler_init(CvSampler *sampler, const CvSchedule *schedule, CvRun *run,
                    int frames, int channels, int h, int w);

/* Begin with pure noise, already in sampler->x. */
void cv_sampler_start(CvSampler *sampler);

/* 1 when the step that comes next needs fresh noise in sampler->noise before
 * cv_sampler_step() (causvid sampler, all steps but the last). */
int cv_sampler_wants_noise(const CvSampler *sampler);

/*
 * After the network wrote sampler->flow for sampler->x at
 * schedule->timestep[step]: compute x0 and the next x, advance step. After the
 * last step x0 is the result (and x equals it).
 */
int cv_sampler_step(CvSampler *sampler, CvRun *run);

/*
 * n standard normal numbers, a pure function of (seed, stream, index): Philox
 * 4x32-10 counters, Box-Muller in float64, rounded to float32. Streams number
 * what the noise is for: cv_noise_stream(). Element i of latent frame f of a
 * clip gets index f * frame_elements + i, so noise does not depend on how
 * frames are grouped into blocks. On the host; upload it.
 */
void cv_noise(float *out, int64_t n, uint64_t seed, uint64_t stream,
              uint64_t first_index);

/* Stream of the noise added before step `step` (0: the initial noise). */
uint64_t cv_noise_stream(int step);

#endif /* CV_SAMPLING_H */
