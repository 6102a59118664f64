/*
 * The public API: a context holds a model, and a pipeline while a clip runs.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "loading.h"
#include "pipeline.h"

struct CausvidContext {
    CvLog log;
    CvModel model;
    CvArena arena;         /* of clips; kept from one to the next */
    CvPipeline *pipeline;  /* NULL between clips */
    void (*progress)(void *, const CausvidProgress *);
    void *cookie;
};

unsigned causvid_version(void)
{
    return CAUSVID_VERSION_INT;
}

const char *causvid_strerror(int error)
{
    switch (-error) {
    case 0:         return "no error";
    case EINVAL:    return "invalid argument or option";
    case ENOMEM:    return "out of memory";
    case ENOENT:    return "no such file or component";
    case EILSEQ:    return "damaged or wrong model file";
    case ENODEV:    return "no usable GPU";
    case ENOSYS:    return "not supported by this build";
    case ECANCELED: return "stopped by the caller";
    case EIO:       return "reading failed, or a device fault";
    }
    return error == CAUSVID_EOF ? "end of the clip" : "unknown error";
}

void causvid_default_settings(CausvidSettings *settings)
{
    memset(settings, 0, sizeof(*settings));
}

int causvid_open(CausvidContext **ctx, const CausvidSettings *settings)
{
    CausvidContext *c;
    struct timespec began, now;
    int err;

    if (!ctx)
        return CAUSVID_ERR(EINVAL);
    *ctx = NULL;
    if (!settings)
        return CAUSVID_ERR(EINVAL);
    c = calloc(1, sizeof(*c));
    if (!c) {
        CvLog log;

        cv_log_init(&log, settings);
        err = cv_fail_memory(&log, sizeof(*c), "a context");
        cv_log_free(&log);
        return err;
    }
    clock_gettime(CLOCK_MONOTONIC, &began);
    cv_log_init(&c->log, settings);
    c->progress = settings->progress;
    c->cookie   = settings->cookie;
    if ((err = cv_model_open(&c->model, settings, NULL, &c->log)) < 0 ||
        (err = cv_model_load(&c->model, settings, settings->clip)) < 0) {
        causvid_close(&c);
        return err;
    }
    clock_gettime(CLOCK_MONOTONIC, &now);
    cv_log(&c->log, CAUSVID_LOG_INFO, "%s loaded: %.0f MB of weights, %.1f s",
           c->model.recipe.name, (double)cv_model_bytes(&c->model) / 1e6,
           (double)(now.tv_sec - began.tv_sec) +
           (double)(now.tv_nsec - began.tv_nsec) * 1e-9);
    *ctx = c;
    return 0;
}

void causvid_close(CausvidContext **ctx)
{
    CausvidContext *c = ctx ? *ctx : NULL;
    CvBackend *backend;
    int entered;

    if (!c)
        return;
    /* A GPU that broke down cannot be entered: the thread is stopped and the
     * host's memory freed all the same. */
    backend = c->model.backend;
    entered = !cv_enter(backend);
    cv_pipeline_stop(&c->pipeline);
    cv_arena_free(&c->arena);
    if (entered)
        cv_leave(backend);
    cv_model_close(&c->model);
    cv_log_free(&c->log);
    free(c);
    *ctx = NULL;
}

int causvid_get_info(const CausvidContext *ctx, CausvidInfo *info)
{
    const CvRecipe *r;

    if (!ctx || !info)
        return CAUSVID_ERR(EINVAL);
    r = &ctx->model.recipe;
    memset(info, 0, sizeof(*info));
    info->name          = r->name;
    info->backend       = ctx->model.backend->name;
    info->variant       = r->variant;
    info->width         = r->width;
    info->height        = r->height;
    info->rate_num      = r->rate_num;
    info->rate_den      = r->rate_den;
    info->frames        = r->frames;
    info->steps         = r->steps;
    info->guidance      = (float)r->guidance;
    info->sampler       = r->sampler;
    info->size_multiple = 16;
    if (r->variant == CAUSVID_VARIANT_CAUSAL)
        info->block_frames = (int64_t)r->frames_per_block *
                             cv_vae_time_scale(ctx->model.vae);
    return 0;
}

int causvid_start(CausvidContext *ctx, const CausvidClip *clip)
{
    CvBackend *backend;
    int err;

    if (!ctx || !clip)
        return CAUSVID_ERR(EINVAL);
    backend = ctx->model.backend;
    if ((err = cv_enter(backend)) < 0)
        return err;
    cv_pipeline_stop(&ctx->pipeline);
    err = cv_pipeline_start(&ctx->pipeline, &ctx->model, &ctx->arena, clip,
                            ctx->progress, ctx->cookie);
    cv_leave(backend);
    return err;
}

int causvid_read_frame(CausvidContext *ctx, CausvidPicture *pic)
{
    CvBackend *backend;
    int err;

    if (!ctx || !pic)
        return CAUSVID_ERR(EINVAL);
    if (!ctx->pipeline)
        return cv_fail(&ctx->log, EINVAL, "no clip is running; call "
                       "causvid_start() first");
    backend = ctx->model.backend;
    if ((err = cv_enter(backend)) < 0)
        return err;
    err = cv_pipeline_read(ctx->pipeline, pic);
    cv_leave(backend);
    return err;
}

int causvid_set_prompt(CausvidContext *ctx, const char *prompt)
{
    if (!ctx || !prompt)
        return CAUSVID_ERR(EINVAL);
    if (!ctx->pipeline)
        return cv_fail(&ctx->log, EINVAL, "no clip is running; call "
                       "causvid_start() first");
    return cv_pipeline_set_prompt(ctx->pipeline, prompt);
}
