/*
 * Samplers step by step against diffusers' schedulers and CausVid's.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * Fixtures: tests/model/make/sampling.py.
 */
#include "sampling/sampling.h"

#include "../tap.h"
#include "fixture.h"

static CvWeights *runs;
static char name[128];

static const char *key(const char *run, const char *what, int step)
{
    if (step < 0)
        snprintf(name, sizeof(name), "%s.%s", run, what);
    else
        snprintf(name, sizeof(name), "%s.%s.%d", run, what, step);
    return name;
}

/* The schedule that the fixture was made with, built by us. */
static int make_schedule(Bench *bench, const char *run, CvSchedule *schedule)
{
    CvScheduleArgs args = {
        .sampler = (enum CausvidSampler)read_number(runs,
                                                    key(run, "sampler", -1)),
        .steps = (int)read_number(runs, key(run, "steps", -1)),
        .shift = read_number(runs, key(run, "shift", -1)),
        .dim = 1536,
    };
    CvTensor list = find_tensor(runs, key(run, "list", -1));
    int err;

    if (list.data) {
        args.timesteps = list.data;
        args.n_timesteps = (int)list.dim[0];
        args.warp = read_number(runs, key(run, "warp", -1)) != 0;
    }
    err = cv_schedule_init(schedule, &args, &bench->log);
    free(list.data);
    return err;
}

/* Relative L2 error of float64 values against a list of the fixture. */
static double list_error(const char *run, const char *what,
                         const double *values, int n)
{
    CvTensor list = read_tensor(runs, key(run, what, -1));
    float *as_float = need(malloc((size_t)n * sizeof(*as_float)));
    double error = NAN;

    for (int i = 0; i < n; i++)
        as_float[i] = (float)values[i];
    if (list.dim[0] == n)
        error = relative_error(as_float, list.data, n);
    free(as_float);
    free(list.data);
    return error;
}

/* Put a tensor of the fixture in one of the sampler's. */
static void put(Bench *bench, const CvTensor *to, const char *what)
{
    CvTensor host = read_tensor(runs, what);

    if (cv_upload(bench->backend, to, host.data, CV_F32) < 0)
        tap_bail("%s: %s", what, bench->error);
    free(host.data);
}

static double difference(Bench *bench, const CvTensor *t, const char *what)
{
    CvTensor host = read_tensor(runs, what);
    double error = tensor_error(bench, t, &host);

    free(host.data);
    return error;
}

/* As a pipeline does it, as plan or for real; returns the worst error of x0
 * and of x over all steps. */
static int run_steps(Bench *bench, const char *run, const CvSchedule *schedule,
                     double *worst)
{
    CvTensor start = read_tensor(runs, key(run, "start", -1));
    CvSampler sampler;
    int err;

    *worst = 0;
    err = cv_sampler_init(&sampler, schedule, &bench->run, (int)start.dim[0],
                          (int)start.dim[1], (int)start.dim[2],
                          (int)start.dim[3]);
    free(start.data);
    if (err)
        return err;
    put(bench, &sampler.x, key(run, "start", -1));
    cv_sampler_start(&sampler);
    for (int i = 0; i < schedule->steps; i++) {
        int noise = cv_weights_find(runs, "%s.noise.%d", run, i + 1) != NULL;

        put(bench, &sampler.flow, key(run, "flow", i));
        if (cv_sampler_wants_noise(&sampler) != noise)
            tap_bail("%s: step %d: noise is wanted, or not, wrongly", run, i);
        if (noise)
            put(bench, &sampler.noise, key(run, "noise", i + 1));
        err = cv_sampler_step(&sampler, &bench->run);
        if (err)
            return err;
        if (!bench->backend->planning) {
            *worst = fmax(*worst, difference(bench, &sampler.x0,
                                             key(run, "x0", i)));
            *worst = fmax(*worst, difference(bench, &sampler.x,
                                             key(run, "x", i)));
        }
    }
    if (!cv_sampler_step(&sampler, &bench->run))
        tap_bail("%s: a step after the last one is done", run);
    return 0;
}

static void test_run(Bench *bench, const char *run)
{
    CvSchedule schedule;
    double sigmas, timesteps, worst = NAN;
    int err;

    if (!ok(!make_schedule(bench, run, &schedule), "%s: schedule", run)) {
        tap_diag("%s", bench->error);
        return;
    }
    sigmas = list_error(run, "sigmas", schedule.sigma, schedule.steps + 1);
    timesteps = list_error(run, "timesteps", schedule.timestep,
                           schedule.steps);
    ok(sigmas <= 1e-6 && timesteps <= 1e-6,
       "%s: sigmas %.1e, timesteps %.1e", run, sigmas, timesteps);
    cv_arena_plan(&bench->arena, bench->backend);
    err = run_steps(bench, run, &schedule, &worst);
    bench->backend->planning = 0;
    if (!err)
        err = cv_arena_take(&bench->arena, &bench->log, "the test");
    if (!err)
        err = run_steps(bench, run, &schedule, &worst);
    ok(!err && worst <= FIXTURE_TOLERANCE, "%s: every x0 and x: %.1e", run,
       worst);
}

/* CausVid's table: the sigma of every whole timestep and some others. */
static void test_lookup(const char *run)
{
    CvTensor t = read_tensor(runs, key(run, "timesteps", -1));
    CvTensor sigmas = read_tensor(runs, key(run, "sigmas", -1));
    double shift = read_number(runs, key(run, "shift", -1));
    int wrong = 0;

    for (int64_t i = 0; i < t.dim[0]; i++) {
        CvScheduleArgs args = { .sampler = CAUSVID_SAMPLER_CAUSVID,
                                .timesteps = (float *)t.data + i,
                                .n_timesteps = 1, .shift = shift };
        double expected = ((float *)sigmas.data)[i];
        CvSchedule schedule;

        if (cv_schedule_init(&schedule, &args, NULL) < 0 ||
            fabs(schedule.sigma[0] - expected) > 2e-7) {
            wrong++;
            tap_diag("t = %.9g: sigma %.9g, expected %.9g",
                     (double)*args.timesteps, schedule.sigma[0], expected);
        }
    }
    ok(!wrong, "%s: %d of %d timesteps have another sigma", run, wrong,
       (int)t.dim[0]);
    free(t.data);
    free(sigmas.data);
}

int main(void)
{
    static const char *const names[] = {
        "unipc1", "unipc2", "unipc3", "unipc4", "unipc7", "unipc20", "euler1",
        "euler4", "euler7", "flowmatch4", "causvid1", "causvid3",
        "causvid4warp", "selfforcing4",
    };
    Bench bench;

    bench_open(&bench, 1);
    runs = open_tensors(&bench, "sampling/steps.safetensors");
    for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
        test_run(&bench, names[i]);
    test_lookup("lookup8");
    test_lookup("lookup5");
    cv_weights_close(&runs);
    bench_close(&bench);
    return tap_done();
}
