/*
 * From a network's prediction to the next, less noisy latents.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * Each rule is a linear combination of tensors with factors that only depend
 * on the schedule, so one operation does them all. Sources: checkpoints.md
 * 7.3, 7.4; Wan2.1 wan/utils/fm_solvers_unipc.py; Zhao et al., "UniPC", 2023.
 */
#include "sampling.h"

#include <math.h>

int cv_sampler_init(CvSampler *sampler, const CvSchedule *schedule, CvRun *run,
                    int frames, int channels, int h, int w)
{
    CvTensor shape = CV_TENSOR(NULL, CV_F32, frames, channels, h, w);
    int is_causvid = schedule->sampler == CAUSVID_SAMPLER_CAUSVID;
    int is_unipc = schedule->sampler == CAUSVID_SAMPLER_UNIPC;
    CvTensor *tensors[] = {
        &sampler->x, &sampler->x0, &sampler->flow,
        is_causvid ? &sampler->noise : NULL,
        is_unipc ? &sampler->m1 : NULL,
        is_unipc ? &sampler->m2 : NULL,
        is_unipc ? &sampler->last : NULL,
    };

    *sampler = (CvSampler){ .schedule = schedule };
    for (size_t i = 0; i < sizeof(tensors) / sizeof(*tensors); i++) {
        int err = 0;

        if (tensors[i]) {
            *tensors[i] = shape;
            err = cv_arena_tensor(run->arena, tensors[i]);
        }
        if (err)
            return err;
    }
    return 0;
}

void cv_sampler_start(CvSampler *sampler)
{
    sampler->step = 0;
}

int cv_sampler_wants_noise(const CvSampler *sampler)
{
    return sampler->schedule->sampler == CAUSVID_SAMPLER_CAUSVID &&
           sampler->step + 1 < sampler->schedule->steps;
}

/* x0 = x - sigma * flow */
static int predict_x0(CvSampler *s, CvRun *run)
{
    CvTerm terms[] = { { 1, &s->x },
                       { -s->schedule->sigma[s->step], &s->flow } };

    return cv_combine(run->backend, &s->x0, terms, 2);
}

/* Fresh noise at the level of the next timestep. */
static int causvid_step(CvSampler *s, CvRun *run)
{
    double next = s->schedule->sigma[s->step + 1];
    CvTerm terms[] = { { 1 - next, &s->x0 }, { next, &s->noise } };

    if (!cv_sampler_wants_noise(s))
        return cv_copy(run->backend, &s->x, &s->x0);
    return cv_combine(run->backend, &s->x, terms, 2);
}

static int euler_step(CvSampler *s, CvRun *run)
{
    const double *sigma = &s->schedule->sigma[s->step];
    CvTerm terms[] = { { 1, &s->x }, { sigma[1] - sigma[0], &s->flow } };

    return cv_combine(run->backend, &s->x, terms, 2);
}

/* ------------------------------------------------------------------- UniPC */

/* ln(alpha / sigma) with alpha = 1 - sigma. */
static double lambda(const CvSampler *s, int step)
{
    double sigma = s->schedule->sigma[step];

    return log((1 - sigma) / sigma);
}

/* Order of the predictor of a step, which is that of the next corrector. The
 * last step, again of order 1, is not made by these. */
static int unipc_order(int step)
{
    return step ? 2 : 1;
}

/* last = the sample of step i, corrected with m_i (x0) now that it is known.
 * x itself, the predicted sample, does not enter. */
static int unipc_correct(CvSampler *s, CvRun *run)
{
    const double *sigma = s->schedule->sigma;
    int i = s->step, order = unipc_order(i - 1);
    double h = lambda(s, i) - lambda(s, i - 1);
    double q = -h, phi = expm1(q), alpha = 1 - sigma[i];
    double k = -alpha * phi; /* B(h) = phi, the variant bh2 */
    double f_m0, f_m1 = -k, f_m2 = 0; /* factors of m_i, m_i-1, m_i-2 */
    CvTerm terms[4];

    if (order == 1) {
        f_m0 = 0.5 * k;
        f_m1 = k - f_m0;
    } else {
        double r = (lambda(s, i - 2) - lambda(s, i - 1)) / h;
        double b1 = (phi / q - 1) / phi;
        double b2 = 2 * ((phi / q - 1) / q - 0.5) / phi;
        double rho1 = (b1 - b2) / (1 - r), rho2 = b1 - rho1;

        f_m0 = k * rho2;
        f_m2 = k * rho1 / r;
        f_m1 = k - f_m2 - f_m0;
    }
    terms[0] = (CvTerm){ sigma[i] / sigma[i - 1], &s->last };
    terms[1] = (CvTerm){ f_m1, &s->m1 };
    terms[2] = (CvTerm){ f_m0, &s->x0 };
    terms[3] = (CvTerm){ f_m2, &s->m2 };
    return cv_combine(run->backend, &s->last, terms, order == 1 ? 3 : 4);
}

/* x = the sample of step i + 1, from `last`, that of step i. */
static int unipc_predict(CvSampler *s, CvRun *run)
{
    const double *sigma = s->schedule->sigma;
    int i = s->step, order = unipc_order(i);
    double h = lambda(s, i + 1) - lambda(s, i);
    double k = -(1 - sigma[i + 1]) * expm1(-h);
    double f_m1 = 0;
    CvTerm terms[3];

    if (order == 2)
        f_m1 = 0.5 * k * h / (lambda(s, i - 1) - lambda(s, i));
    terms[0] = (CvTerm){ sigma[i + 1] / sigma[i], &s->last };
    terms[1] = (CvTerm){ k - f_m1, &s->x0 };
    terms[2] = (CvTerm){ f_m1, &s->m1 };
    return cv_combine(run->backend, &s->x, terms, order == 1 ? 2 : 3);
}

static int unipc_step(CvSampler *s, CvRun *run)
{
    int err;

    /* sigma = 0 at the end: the step is of order 1 and gives m_i whatever the
     * sample was, so correcting that has no use. */
    if (s->step + 1 == s->schedule->steps)
        return cv_copy(run->backend, &s->x, &s->x0);
    if (s->step)
        err = unipc_correct(s, run);
    else
        err = cv_copy(run->backend, &s->last, &s->x);
    if (!err)
        err = unipc_predict(s, run);
    return err;
}

/* Predictions age by one step; the oldest one's memory is written next. */
static void rotate_predictions(CvSampler *s)
{
    CvTensor oldest = s->m2;

    s->m2 = s->m1;
    s->m1 = s->x0;
    s->x0 = oldest;
}

int cv_sampler_step(CvSampler *sampler, CvRun *run)
{
    int err;

    if (sampler->step >= sampler->schedule->steps)
        return cv_fail(run->log, EINVAL,
                       "internal error: a step after the sampler's last");
    if (sampler->schedule->sampler == CAUSVID_SAMPLER_UNIPC)
        rotate_predictions(sampler);
    err = predict_x0(sampler, run);
    if (err)
        return err;
    switch (sampler->schedule->sampler) {
    case CAUSVID_SAMPLER_CAUSVID:
        err = causvid_step(sampler, run);
        break;
    case CAUSVID_SAMPLER_UNIPC:
        err = unipc_step(sampler, run);
        break;
    default: /* Euler, whatever the list of sigmas */
        err = euler_step(sampler, run);
    }
    if (!err)
        sampler->step++;
    return err;
}
