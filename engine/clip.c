/*
 * A clip's settings: defaults filled in, everything checked.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#include <string.h>

#include "clip.h"

#define SIZE_MULTIPLE 16
#define MAX_SIDE      8192

/* Longest bidirectional clip: attention over all of it at once. */
#define MAX_BIDIRECTIONAL_FRAMES 1025

void causvid_default_clip(CausvidClip *clip)
{
    memset(clip, 0, sizeof(*clip));
    clip->guidance = -1;
}

static int check_size(CvClip *clip, const CvRecipe *recipe,
                      const CausvidClip *args, CvLog *log)
{
    int w = args->width, h = args->height;

    if (!w && !h) {
        w = recipe->width;
        h = recipe->height;
    }
    if (w < SIZE_MULTIPLE || h < SIZE_MULTIPLE || w > MAX_SIDE ||
        h > MAX_SIDE || w % SIZE_MULTIPLE || h % SIZE_MULTIPLE) {
        int near[2] = { w, h };

        for (int i = 0; i < 2; i++) {
            if (near[i] < SIZE_MULTIPLE)
                near[i] = SIZE_MULTIPLE;
            if (near[i] > MAX_SIDE)
                near[i] = MAX_SIDE;
            near[i] = (near[i] + SIZE_MULTIPLE / 2) / SIZE_MULTIPLE *
                      SIZE_MULTIPLE;
        }
        return cv_fail(log, EINVAL, "size %dx%d is not possible: width and "
                       "height must be multiples of %d from %d to %d; the "
                       "nearest is size=%dx%d", w, h, SIZE_MULTIPLE,
                       SIZE_MULTIPLE, MAX_SIDE, near[0], near[1]);
    }
    clip->width  = w;
    clip->height = h;
    return 0;
}

/* ceil(a / b) */
static int64_t div_up(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

static int count_blocks(CvClip *clip, const CvModel *model,
                        const CausvidClip *args)
{
    const CvRecipe *recipe = &model->recipe;
    int64_t scale = cv_vae_time_scale(model->vae);

    clip->frames = args->frames ? args->frames : recipe->frames;
    if (clip->frames < -1 || clip->frames > INT64_MAX / 4)
        return cv_fail(model->log, EINVAL, "a clip of %lld frames is not "
                       "possible", (long long)clip->frames);
    clip->causal = recipe->variant == CAUSVID_VARIANT_CAUSAL;
    if (clip->causal) {
        clip->block_latents = recipe->frames_per_block;
        clip->slots = recipe->window / recipe->frames_per_block;
        if (clip->frames < 0) {
            clip->latents = clip->blocks = -1;
            return 0;
        }
        clip->latents = div_up(clip->frames - 1, scale) + 1;
        clip->blocks  = div_up(clip->latents, clip->block_latents);
        if (clip->slots > clip->blocks)
            clip->slots = (int)clip->blocks;
        return 0;
    }
    if (clip->frames < 0 || clip->frames > MAX_BIDIRECTIONAL_FRAMES)
        return cv_fail(model->log, EINVAL, "this model is bidirectional: it "
                       "makes a clip as a whole, of at most %d frames; give a "
                       "shorter duration, or use a causal model for endless "
                       "video", MAX_BIDIRECTIONAL_FRAMES);
    clip->latents       = div_up(clip->frames - 1, scale) + 1;
    clip->block_latents = (int)clip->latents;
    clip->blocks        = 1;
    clip->slots         = 1;
    return 0;
}

static int make_schedule(CvClip *clip, const CvModel *model,
                         const CausvidClip *args)
{
    /* CausVid's published list, for recipes that have none of their own */
    static const float causvid[] = { 1000, 757, 522 };
    const CvRecipe *recipe = &model->recipe;
    CvScheduleArgs s = {
        .sampler = args->sampler ? args->sampler : recipe->sampler,
        .steps   = args->steps,
        .shift   = args->shift > 0 ? args->shift : recipe->shift,
        .dim     = cv_dit_size(model->dit)->dim,
    };

    if (args->shift && !(args->shift >= CV_LEAST_SHIFT && args->shift <= 1000))
        return cv_fail(model->log, EINVAL, "shift=%g is not possible: expected "
                       "0 (the recipe's), or a number from %g to 1000",
                       args->shift, (double)CV_LEAST_SHIFT);
    if (args->steps < 0 || args->steps > CV_MAX_STEPS)
        return cv_fail(model->log, EINVAL, "steps=%d is not possible: expected "
                       "1 to %d", args->steps, CV_MAX_STEPS);
    if (args->n_timesteps > 0) {
        /* what the caller lists is what the network is told */
        s.timesteps   = args->timesteps;
        s.n_timesteps = args->n_timesteps;
    } else if (s.sampler == recipe->sampler && recipe->n_timesteps) {
        s.timesteps   = recipe->timesteps;
        s.n_timesteps = recipe->n_timesteps;
        s.warp        = recipe->warp;
    } else if (s.sampler == CAUSVID_SAMPLER_CAUSVID) {
        s.timesteps   = causvid;
        s.n_timesteps = sizeof(causvid) / sizeof(*causvid);
    } else if (!s.steps && (s.sampler == recipe->sampler ||
                            s.sampler != CAUSVID_SAMPLER_FLOWMATCH)) {
        s.steps = recipe->steps; /* flowmatch_causvid has a count of its own */
    }
    return cv_schedule_init(&clip->schedule, &s, model->log);
}

int cv_clip_init(CvClip *clip, const CvModel *model, const CausvidClip *args)
{
    const CvRecipe *recipe = &model->recipe;
    CvLog *log = model->log;
    int err;

    memset(clip, 0, sizeof(*clip));
    if (args->seed < 0)
        return cv_fail(log, EINVAL, "seed=%lld is not possible: expected 0 or "
                       "more", (long long)args->seed);
    if (!(args->guidance <= 100))
        return cv_fail(log, EINVAL, "guidance=%g is not possible: expected "
                       "0 to 100, or a negative number for the recipe's",
                       args->guidance);
    clip->seed     = args->seed;
    clip->guidance = args->guidance < 0 ? recipe->guidance : args->guidance;
    clip->negative_prompt = args->negative_prompt ? args->negative_prompt
                                                  : recipe->negative_prompt;
    clip->rate_num = args->rate_num > 0 ? args->rate_num : recipe->rate_num;
    clip->rate_den = args->rate_num > 0 && args->rate_den > 0
                   ? args->rate_den : recipe->rate_den;
    if ((err = check_size(clip, recipe, args, log)) < 0 ||
        (err = count_blocks(clip, model, args)) < 0)
        return err;
    return make_schedule(clip, model, args);
}

int cv_clip_slots(const CvClip *clip)
{
    /* A causal block is decoded while the one before is read; of a clip that
     * is one block, one latent is read while the next is decoded. */
    return clip->causal ? 2 * clip->block_latents : 2;
}

int64_t cv_latent_of_frame(int64_t frame, int time_scale, int *place)
{
    if (frame == 0) {
        *place = 0;
        return 0;
    }
    *place = (int)((frame - 1) % time_scale);
    return (frame - 1) / time_scale + 1;
}
