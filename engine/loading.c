/*
 * Filling a model's weights, within what memory there is.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#include "budget.h"
#include "generator.h"
#include "loading.h"

/* Bytes of all weights and the clip, as things are now. */
static int plan(int64_t *bytes, const CvModel *model, const CvClip *clip)
{
    int err = cv_generator_plan(bytes, model, clip, cv_clip_slots(clip));

    *bytes += (int64_t)cv_model_bytes(model);
    return err;
}

int cv_model_fit(CvModel *model, const CausvidClip *first,
                 char why[CV_WHY_SIZE])
{
    CausvidClip recipe;
    CvBudget budget = { .spare = CV_BUDGET_SPARE };
    CvClip clip;
    int64_t bytes;
    int err;

    /* A prompt that comes later and is not kept has to be encoded with what is
     * read from the file then: where all are kept, which is what a cache is
     * for, the largest of the networks is neither read nor held. */
    if (cv_model_has_prompts(model, first) && cv_umt5_stream(model->umt5))
        cv_log(model->log, CAUSVID_LOG_VERBOSE, "text encoder not loaded: the "
               "cache has the first clip's prompt");
    causvid_default_clip(&recipe);
    if ((err = cv_budget_limits(model->backend)) <= 0 ||
        (err = cv_clip_init(&clip, model, first ? first : &recipe)) < 0)
        return err;
    do
        err = plan(&bytes, model, &clip);
    while (!err &&
           (err = cv_budget_fit(&budget, model, &clip, bytes, why)) > 0);
    if (!err)
        cv_budget_tell(&budget, model, "");
    return err;
}

static int begin_first_text(CvModel *model, const CausvidClip *first)
{
    int32_t ids[CV_MAX_TOKENS];
    const int64_t n = first ? cv_model_try_tokens(model, first->prompt, ids)
                            : 0;

    return n ? cv_first_text_begin(model->first_text, model->backend,
                                   model->umt5, ids, n, model->log) : 0;
}

static int load(CvModel *model, const CausvidClip *first,
                char why[CV_WHY_SIZE])
{
    int err = cv_enter(model->backend);

    if (err < 0)
        return err;
    if (!(err = cv_model_fit(model, first, why)) &&
        !(err = cv_umt5_load(model->umt5)) &&
        !(err = begin_first_text(model, first)) &&
        !(err = cv_dit_load(model->dit)))
        err = cv_vae_load(model->vae);
    err = cv_first_text_end(model->first_text, model->backend, err);
    cv_leave(model->backend);
    return err;
}

int cv_model_load(CvModel *model, const CausvidSettings *settings,
                  const CausvidClip *first)
{
    CvLog *log = model->log;
    char why[CV_WHY_SIZE] = "";
    CausvidSettings cpu;
    int err = load(model, first, why);

    if (!*why)
        return err;
    if (!settings || settings->device != CAUSVID_DEVICE_AUTO ||
        settings->vram_bytes)
        return cv_fail(log, -err, "%s", why);
    cv_log(log, CAUSVID_LOG_INFO, "device=auto takes the CPU: %s", why);
    cpu = *settings;
    cpu.device = CAUSVID_DEVICE_CPU;
    cv_model_close(model);
    err = cv_model_open(model, &cpu, NULL, log);
    return err < 0 ? err : load(model, first, why);
}
