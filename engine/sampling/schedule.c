/*
 * Noise levels: which timesteps the network is told, and their sigmas.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * sigma is the share of noise: x = (1 - sigma) * clean + sigma * noise, and
 * the network predicts noise - clean. The references keep sigmas as float32;
 * they are rounded to it here too, because 1 - sigma near 1 would differ.
 * Formulas: checkpoints.md 7.3 to 7.6.
 */
#include "sampling.h"

#include <math.h>

#define TABLE 1000 /* training timesteps */

static double shifted(double sigma, double shift)
{
    return shift * sigma / (1 + (shift - 1) * sigma);
}

/* CausVid's FlowMatchScheduler: sigma of entry i of its table, in float32
 * arithmetic like torch.linspace() and what follows it. */
static float table_sigma(int i, float shift)
{
    const float step = -1.0f / TABLE;
    float s = i < (TABLE + 1) / 2 ? 1.0f + step * (float)i
                                  : 0.0f - step * (float)(TABLE - i);

    return shift * s / (1 + (shift - 1) * s);
}

static float table_timestep(int i, float shift)
{
    return TABLE * table_sigma(i, shift);
}

/* The entry nearest to t, the first one of equals. */
static int table_index(double t, float shift)
{
    int best = 0;

    for (int i = 1; i < TABLE; i++)
        if (fabs(table_timestep(i, shift) - t) <
            fabs(table_timestep(best, shift) - t))
            best = i;
    return best;
}

/* Check the given list and copy what is used of it; sets schedule->steps. */
static int read_list(CvSchedule *schedule, const CvScheduleArgs *args,
                     CvLog *log)
{
    int n = args->n_timesteps;

    for (int i = 0; i < n; i++) {
        double t = args->timesteps[i];

        if (!(t >= 0 && t <= TABLE))
            return cv_fail(log, EINVAL, "timesteps: entry %d is %g, expected "
                           "0 to %d", i + 1, t, TABLE);
        if (i && !(t < args->timesteps[i - 1]))
            return cv_fail(log, EINVAL, "timesteps: entry %d is %g after %g, "
                           "expected a falling list", i + 1, t,
                           (double)args->timesteps[i - 1]);
        if (args->warp && t != floor(t))
            return cv_fail(log, EINVAL, "timesteps: entry %d is %g, but a list "
                           "that is warped needs whole numbers", i + 1, t);
    }
    /* Some lists end with the clean picture, which needs no step. */
    if (n > 0 && args->timesteps[n - 1] == 0)
        n--;
    if (n < 1)
        return cv_fail(log, EINVAL, "timesteps: the list has no step");
    if (n > CV_MAX_STEPS)
        return cv_fail(log, EINVAL, "timesteps: %d entries, expected at most "
                       "%d", n, CV_MAX_STEPS);
    if (args->steps > n)
        return cv_fail(log, EINVAL, "steps: %d, but the list of timesteps has "
                       "%d; choose fewer steps, give a longer list with "
                       "timesteps, or another sampler", args->steps, n);
    schedule->steps = args->steps ? args->steps : n;
    for (int i = 0; i < schedule->steps; i++) {
        double t = args->timesteps[i];

        /* Warped: entry 1000 - t of the table with a 0 behind it; t > 0. */
        if (args->warp)
            t = table_timestep(TABLE - (int)t, (float)args->shift);
        schedule->timestep[i] = t;
    }
    return 0;
}

static int causvid_schedule(CvSchedule *schedule, const CvScheduleArgs *args,
                            CvLog *log)
{
    float shift = (float)args->shift;
    int err;

    if (!args->timesteps)
        return cv_fail(log, EINVAL, "timesteps: the causvid sampler needs the "
                       "list that the model was distilled for, for example "
                       "1000,757,522; or choose the sampler unipc or euler");
    err = read_list(schedule, args, log);
    if (err)
        return err;
    for (int i = 0; i < schedule->steps; i++)
        schedule->sigma[i] =
            table_sigma(table_index(schedule->timestep[i], shift), shift);
    /* Never used for a step: the last x0 is the result. It is what the
     * scheduler would say of t = 0. */
    schedule->sigma[schedule->steps] = table_sigma(TABLE - 1, shift);
    return 0;
}

/* A given list for Euler and UniPC: sigma = t / 1000 of the (warped) list. */
static int list_schedule(CvSchedule *schedule, const CvScheduleArgs *args,
                         CvLog *log)
{
    int err = read_list(schedule, args, log);

    if (err)
        return err;
    for (int i = 0; i < schedule->steps; i++)
        schedule->sigma[i] = (float)(schedule->timestep[i] / TABLE);
    return 0;
}

static int check_steps(const CvScheduleArgs *args, CvLog *log)
{
    if (args->steps < 1 || args->steps > CV_MAX_STEPS)
        return cv_fail(log, EINVAL, "steps: %d, expected 1 to %d", args->steps,
                       CV_MAX_STEPS);
    return 0;
}

static int euler_schedule(CvSchedule *schedule, const CvScheduleArgs *args,
                          CvLog *log)
{
    int err;

    if (args->timesteps)
        return list_schedule(schedule, args, log);
    err = check_steps(args, log);
    if (err)
        return err;
    schedule->steps = args->steps;
    for (int i = 0; i < args->steps; i++) {
        double sigma = shifted(1 - (double)i / args->steps, args->shift);

        schedule->sigma[i] = (float)sigma;
        schedule->timestep[i] = TABLE * sigma;
    }
    return 0;
}

static int unipc_schedule(CvSchedule *schedule, const CvScheduleArgs *args,
                          CvLog *log)
{
    const double largest = 0.999; /* of the base schedule, made with shift 1 */
    int err;

    if (args->timesteps) {
        err = list_schedule(schedule, args, log);
        /* ln((1 - sigma) / sigma) has to stay finite. */
        if (!err && schedule->sigma[0] > 1 - 1e-6)
            schedule->sigma[0] = (float)(1 - 1e-6);
        return err;
    }
    err = check_steps(args, log);
    if (err)
        return err;
    schedule->steps = args->steps;
    for (int i = 0; i < args->steps; i++) {
        double base = largest * (1 - (double)i / args->steps);
        double sigma = shifted(base, args->shift);

        schedule->sigma[i] = (float)sigma;
        schedule->timestep[i] = trunc(TABLE * sigma);
    }
    return 0;
}

static int flowmatch_schedule(CvSchedule *schedule, const CvScheduleArgs *args,
                              CvLog *log)
{
    static const int wide[] = { 999, 934, 862, 756, 603, 410, 250, 140, 74 };
    static const int narrow[] = { 1000, 750, 500, 250 };
    const int64_t wide_dim = 5120; /* the 14B models */
    int is_wide = args->dim == wide_dim;
    int max = is_wide ? (int)(sizeof(wide) / sizeof(*wide))
                      : (int)(sizeof(narrow) / sizeof(*narrow));
    int steps = args->steps ? args->steps : max;

    if (args->timesteps)
        return cv_fail(log, EINVAL, "timesteps: the flowmatch sampler has its "
                       "own list; use the sampler euler with yours");
    if (is_wide ? steps < 1 || steps > max : steps != max)
        return cv_fail(log, EINVAL, "steps: %d, but the flowmatch_causvid sampler has "
                       "%s%d for this model", steps,
                       is_wide ? "1 to " : "exactly ", max);
    schedule->steps = steps;
    for (int i = 0; i < steps; i++) {
        schedule->timestep[i] = is_wide ? wide[i] : narrow[i];
        schedule->sigma[i] = (float)(schedule->timestep[i] / TABLE);
    }
    return 0;
}

int cv_schedule_init(CvSchedule *schedule, const CvScheduleArgs *args,
                     CvLog *log)
{
    CvScheduleArgs a = *args;

    *schedule = (CvSchedule){ .sampler = a.sampler };
    if (a.shift && !(a.shift >= CV_LEAST_SHIFT && a.shift <= 1000))
        return cv_fail(log, EINVAL, "shift: %g, expected %g to 1000", a.shift,
                       (double)CV_LEAST_SHIFT);
    if (a.steps < 0 || a.n_timesteps < 0)
        return cv_fail(log, EINVAL, "steps: %d, expected 1 to %d",
                       a.steps < 0 ? a.steps : a.n_timesteps, CV_MAX_STEPS);
    if (!a.n_timesteps)
        a.timesteps = NULL;
    switch (a.sampler) {
    case CAUSVID_SAMPLER_CAUSVID:
        if (!a.shift)
            a.shift = 8;
        return causvid_schedule(schedule, &a, log);
    case CAUSVID_SAMPLER_EULER:
        if (!a.shift)
            a.shift = 5;
        return euler_schedule(schedule, &a, log);
    case CAUSVID_SAMPLER_UNIPC:
        if (!a.shift)
            a.shift = 5;
        return unipc_schedule(schedule, &a, log);
    case CAUSVID_SAMPLER_FLOWMATCH:
        return flowmatch_schedule(schedule, &a, log);
    default:
        return cv_fail(log, EINVAL, "sampler: %d is none of causvid, euler, "
                       "unipc, flowmatch_causvid", (int)a.sampler);
    }
}
