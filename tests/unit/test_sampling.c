/*
 * Schedules against published numbers, what their options refuse, and noise.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * Step by step against PyTorch: tests/model/test_sampling.c.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "sampling/philox.h"
#include "sampling/sampling.h"

#include "../tap.h"

/* ---------------------------------------------------------------- schedules */

static char last_error[512];

static void keep_error(void *cookie, enum CausvidLogLevel level,
                       const char *format, va_list args)
{
    (void)cookie;
    (void)level;
    vsnprintf(last_error, sizeof(last_error), format, args);
}

static int near(double a, double b)
{
    return fabs(a - b) <= 1e-7 * (1 + fabs(b));
}

/* Values that PyTorch gives for the reference's table, shift 8. */
static void test_causvid_table(void)
{
    static const struct { float t; double sigma; } known[] = {
        { 1000, 1.0 }, { 757, 0.7567567229 }, { 750, 0.7502576709 },
        { 522, 0.5217391253 }, { 500, 0.4997186363 }, { 250, 0.2500000298 },
    };
    CvSchedule s;

    for (size_t i = 0; i < sizeof(known) / sizeof(*known); i++) {
        CvScheduleArgs args = { .sampler = CAUSVID_SAMPLER_CAUSVID,
                                .timesteps = &known[i].t, .n_timesteps = 1,
                                .shift = 8 };

        int err = cv_schedule_init(&s, &args, NULL);

        ok(!err && s.steps == 1 && s.timestep[0] == known[i].t &&
           near(s.sigma[0], known[i].sigma),
           "causvid, shift 8: t = %g has sigma %.10f", known[i].t, s.sigma[0]);
        ok(near(s.sigma[1], 0.0079443902), "and t = 0 has %.10f", s.sigma[1]);
    }
}

static void test_warp(void)
{
    static const float list[] = { 1000, 750, 500, 250, 0 };
    static const struct { double shift, t[4]; } known[] = {
        { 8, { 1000, 960, 888.8889, 727.2728 } },
        { 5, { 1000, 937.5, 833.3333, 625 } },
    };
    CvSchedule s;

    for (int k = 0; k < 2; k++) {
        CvScheduleArgs args = { .sampler = CAUSVID_SAMPLER_CAUSVID,
                                .timesteps = list, .n_timesteps = 5,
                                .warp = 1, .shift = known[k].shift };

        ok(!cv_schedule_init(&s, &args, NULL) && s.steps == 4,
           "a trailing 0 is no step");
        for (int i = 0; i < 4; i++)
            ok(fabs(s.timestep[i] - known[k].t[i]) < 1e-4 &&
               near(s.sigma[i], s.timestep[i] / 1000),
               "warped with shift %g: %g is %.4f, sigma %.7f", known[k].shift,
               list[i], s.timestep[i], s.sigma[i]);
    }
}

static void test_unipc_sigmas(void)
{
    static const int known[] = { 999, 937, 833, 624 };
    CvScheduleArgs args = { .sampler = CAUSVID_SAMPLER_UNIPC, .steps = 4,
                            .shift = 5 };
    CvSchedule s;

    ok(!cv_schedule_init(&s, &args, NULL) && s.steps == 4 && s.sigma[4] == 0,
       "UniPC, 4 steps, ends at 0");
    for (int i = 0; i < 4; i++)
        is_int((int)s.timestep[i], known[i]);
    args.steps = CV_MAX_STEPS;
    ok(!cv_schedule_init(&s, &args, NULL) && s.steps == CV_MAX_STEPS &&
       s.sigma[CV_MAX_STEPS - 1] > 0 && s.sigma[CV_MAX_STEPS] == 0,
       "UniPC, as many steps as there is room for");
    args.timesteps = (float[]){ 1000, 500 };
    args.n_timesteps = 2;
    args.steps = 0;
    ok(!cv_schedule_init(&s, &args, NULL) && s.sigma[0] < 1 &&
       s.timestep[0] == 1000 && s.sigma[1] == 0.5,
       "UniPC with a list stays below sigma 1");
}

static void test_flowmatch(void)
{
    static const int known[] = { 999, 934, 862, 756, 603, 410, 250, 140, 74 };
    CvScheduleArgs args = { .sampler = CAUSVID_SAMPLER_FLOWMATCH, .steps = 6,
                            .dim = 5120 };
    CvSchedule s;
    int same = 1;

    ok(!cv_schedule_init(&s, &args, NULL) && s.steps == 6 && s.sigma[6] == 0,
       "flowmatch_causvid, 14B, 6 steps");
    args.steps = 0;
    ok(!cv_schedule_init(&s, &args, NULL) && s.steps == 9,
       "flowmatch_causvid, 14B, all of its list");
    for (int i = 0; i < 9; i++)
        same &= s.timestep[i] == known[i] && near(s.sigma[i], known[i] / 1e3);
    ok(same, "its timesteps and sigmas");
    args.dim = 1536;
    ok(!cv_schedule_init(&s, &args, NULL) && s.steps == 4 &&
       s.timestep[1] == 750 && s.sigma[3] == 0.25 && s.sigma[4] == 0,
       "flowmatch_causvid, 1.3B: 1000, 750, 500, 250");
}

static void test_list_use(void)
{
    static const float list[] = { 1000, 757, 522 };
    CvScheduleArgs args = { .sampler = CAUSVID_SAMPLER_CAUSVID, .steps = 2,
                            .timesteps = list, .n_timesteps = 3, .shift = 8 };
    CvSchedule s;

    ok(!cv_schedule_init(&s, &args, NULL) && s.steps == 2 &&
       s.timestep[1] == 757, "the first `steps` entries of a list");
    args.sampler = CAUSVID_SAMPLER_EULER;
    args.steps = 0;
    ok(!cv_schedule_init(&s, &args, NULL) && s.steps == 3 &&
       near(s.sigma[1], 0.757) && s.sigma[3] == 0, "Euler with a list");
}

static void test_refusals(void)
{
    static const float falling[] = { 1000, 757, 522 }, level[] = { 700, 700 },
                       rising[] = { 500, 600 }, high[] = { 1001, 500 },
                       low[] = { 500, -1 }, nan[] = { NAN }, zero[] = { 0 },
                       part[] = { 750.5f };
    static const enum CausvidSampler C = CAUSVID_SAMPLER_CAUSVID,
                                     E = CAUSVID_SAMPLER_EULER,
                                     U = CAUSVID_SAMPLER_UNIPC,
                                     F = CAUSVID_SAMPLER_FLOWMATCH;
    const struct { CvScheduleArgs args; const char *says; } bad[] = {
        { { C, 4, falling, 3, 0, 8, 0 }, "steps: 4" },
        { { C, 4, NULL, 0, 0, 8, 0 }, "timesteps" },
        { { C, 0, level, 2, 0, 8, 0 }, "700 after 700" },
        { { C, 0, rising, 2, 0, 8, 0 }, "600 after 500" },
        { { C, 0, high, 2, 0, 8, 0 }, "1001" },
        { { C, 0, low, 2, 0, 8, 0 }, "-1" },
        { { C, 0, nan, 1, 0, 8, 0 }, "nan" },
        { { C, 0, zero, 1, 0, 8, 0 }, "no step" },
        { { C, 0, part, 1, 1, 8, 0 }, "750.5" },
        { { C, 0, falling, 3, 0, -8, 0 }, "shift" },
        { { C, 0, falling, 3, 0, NAN, 0 }, "shift" },
        { { C, -1, falling, 3, 0, 8, 0 }, "steps: -1" },
        { { E, 0, NULL, 0, 0, 8, 0 }, "steps: 0" },
        { { E, CV_MAX_STEPS + 1, NULL, 0, 0, 8, 0 }, "steps: 1001" },
        { { U, 0, NULL, 0, 0, 5, 0 }, "steps: 0" },
        { { U, 0, rising, 2, 0, 5, 0 }, "600 after 500" },
        { { F, 10, NULL, 0, 0, 0, 5120 }, "steps: 10" },
        { { F, 3, NULL, 0, 0, 0, 1536 }, "exactly 4" },
        { { F, 0, falling, 3, 0, 0, 1536 }, "timesteps" },
        { { CAUSVID_SAMPLER_AUTO, 4, NULL, 0, 0, 8, 0 }, "sampler" },
    };
    CausvidSettings settings = { .log = keep_error };
    CvSchedule s;
    CvLog log;

    cv_log_init(&log, &settings);
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        *last_error = 0;
        ok(cv_schedule_init(&s, &bad[i].args, &log) == CAUSVID_ERR(EINVAL) &&
           strstr(last_error, bad[i].says), "refused: %s", last_error);
    }
    cv_log_free(&log);
}

/* -------------------------------------------------------------------- noise */

/* Test vectors of the Random123 distribution (kat_vectors, philox4x32 10). */
static void test_philox(void)
{
    static const struct { uint32_t counter[4], key[2], out[4]; } known[] = {
        { { 0, 0, 0, 0 }, { 0, 0 },
          { 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8 } },
        { { 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff },
          { 0xffffffff, 0xffffffff },
          { 0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd } },
        { { 0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344 },
          { 0xa4093822, 0x299f31d0 },
          { 0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1 } },
    };

    for (size_t i = 0; i < sizeof(known) / sizeof(*known); i++) {
        uint32_t out[4];

        cv_philox4x32(out, known[i].counter, known[i].key);
        ok(!memcmp(out, known[i].out, sizeof(out)),
           "philox4x32-10, vector %d: %08x %08x %08x %08x", (int)i, out[0],
           out[1], out[2], out[3]);
    }
}

/* The words of vector 0 are those of seed 0, stream 0, numbers 0 to 3. Their
 * normal numbers were computed by another program from these words:
 * r = sqrt(-2 ln((word0 + 1/2) / 2^32)), r cos and r sin of
 * 2 pi (word1 + 1/2) / 2^32, and likewise for words 2 and 3. */
static void test_noise_vector(void)
{
    static const double known[] = { 0.99113768, -0.92466259, -0.61760896,
                                    -0.48206859 };
    float out[4];

    cv_noise(out, 4, 0, 0, 0);
    for (int i = 0; i < 4; i++)
        ok(fabs(out[i] - known[i]) < 1e-6, "number %d of seed 0 is %.8f", i,
           out[i]);
}

#define N 1000003

static void test_moments(void)
{
    float *x = malloc(N * sizeof(*x));
    double m[5] = { 0 }, lag = 0;
    int tail = 0, finite = 1;

    if (!x)
        tap_bail("out of memory");
    cv_noise(x, N, 42, cv_noise_stream(0), 0);
    for (int i = 0; i < N; i++) {
        double v = x[i];

        for (int k = 1; k < 5; k++)
            m[k] += pow(v, k) / N;
        lag += i ? v * x[i - 1] / N : 0;
        tail += fabs(v) > 3;
        finite &= isfinite(x[i]) != 0;
    }
    /* Five standard errors of each statistic. */
    ok(finite, "every number is finite");
    ok(fabs(m[1]) < 5e-3, "mean %.5f", m[1]);
    ok(fabs(m[2] - 1) < 5 * 1.42e-3, "variance %.5f", m[2]);
    ok(fabs(m[3]) < 5 * 3.9e-3, "third moment %.5f", m[3]);
    ok(fabs(m[4] - 3) < 5 * 9.8e-3, "fourth moment %.5f", m[4]);
    ok(fabs(lag) < 5e-3, "neighbours correlate by %.5f", lag);
    ok(abs(tail - 2700) < 5 * 52, "%d of %d beyond 3 deviations", tail, N);
    free(x);
}

static double correlation(uint64_t seed, uint64_t stream)
{
    enum { COUNT = 20000 };
    static float a[COUNT], b[COUNT];
    double sum = 0;

    cv_noise(a, COUNT, 7, 0, 0);
    cv_noise(b, COUNT, seed, stream, 0);
    for (int i = 0; i < COUNT; i++)
        sum += (double)a[i] * b[i] / COUNT;
    return sum;
}

static void test_grouping(void)
{
    enum { COUNT = 997 };
    float whole[COUNT], parts[COUNT];
    uint64_t far = UINT64_C(1) << 40;
    int at = 0;

    cv_noise(whole, COUNT, 7, 2, far);
    for (int size = 1; at < COUNT; size = size * 2 % 61 + 1) {
        int n = size < COUNT - at ? size : COUNT - at;

        cv_noise(parts + at, n, 7, 2, far + (uint64_t)at);
        at += n;
    }
    ok(!memcmp(whole, parts, sizeof(whole)),
       "any grouping gives the same numbers");
    cv_noise(parts, COUNT, 7, 2, 0);
    ok(memcmp(whole, parts, sizeof(whole)), "indices above 2^32 differ");
    ok(correlation(7, 0) > 0.95, "same seed and stream: %.4f",
       correlation(7, 0));
    ok(fabs(correlation(8, 0)) < 0.036, "another seed: %.4f",
       correlation(8, 0));
    ok(fabs(correlation(7 + (UINT64_C(1) << 32), 0)) < 0.036,
       "a seed that differs above 2^32: %.4f",
       correlation(7 + (UINT64_C(1) << 32), 0));
    ok(fabs(correlation(7, 1)) < 0.036, "another stream: %.4f",
       correlation(7, 1));
    ok(cv_noise_stream(0) != cv_noise_stream(1) &&
       cv_noise_stream(1) != cv_noise_stream(2), "each step has its stream");
}

int main(void)
{
    test_causvid_table();
    test_warp();
    test_unipc_sigmas();
    test_flowmatch();
    test_list_use();
    test_refusals();
    test_philox();
    test_noise_vector();
    test_moments();
    test_grouping();
    return tap_done();
}
