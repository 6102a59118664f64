/*
 * What fits into a GPU's memory.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#include <inttypes.h>
#include <stdio.h>

#include "budget.h"

static int is_limited(const CvMemory *m)
{
    return m->room < INT64_MAX || m->budget < INT64_MAX;
}

/* How much `taken` may become. */
static int64_t most(const CvMemory *m)
{
    const int64_t all = m->room < INT64_MAX - m->taken ? m->taken + m->room
                                                       : INT64_MAX;

    return all < m->budget ? all : m->budget;
}

/* What streaming is to keep it within: where only what is free decides, some of
 * that is left to others. Encoders and filters take theirs after us, and fail
 * without it. */
static int64_t goal(const CvMemory *m)
{
    return m->budget < INT64_MAX || m->room == INT64_MAX
               ? most(m) : most(m) - CV_BUDGET_SPARE;
}

static const char *limit_text(const CvMemory *m)
{
    return most(m) == m->budget ? "vram= allows" : "there are";
}

/* In MB, so that it suffices when it is given as a budget. */
static long long megabytes(int64_t bytes)
{
    return (long long)(bytes / 1000000 + !!(bytes % 1000000));
}

/* needed: the least; resident: with the text encoder in it, 0 where that is out
 * of question. */
static int refuse(const CvModel *model, const CvClip *clip, const CvMemory *m,
                  int64_t resident, int64_t needed, char why[CV_WHY_SIZE])
{
    char frames[32] = "an endless clip", with[64] = "", advice[64] = "";
    int n;

    if (clip->frames >= 0)
        snprintf(frames, sizeof(frames), "%" PRId64 " frames", clip->frames);
    if (megabytes(resident) > megabytes(needed))
        snprintf(with, sizeof(with), " (%lld MB if its text encoder is to "
                 "stay)", megabytes(resident));
    if (most(m) == m->budget && needed - m->taken <= m->room)
        snprintf(advice, sizeof(advice), "vram=%lldM or more, ",
                 megabytes(needed));
    n = snprintf(why, CV_WHY_SIZE, "%.80s needs %lld MB of GPU memory for "
                 "%dx%d, %s%s; %s %lld MB: give %s%sa smaller size or a "
                 "shorter clip", model->recipe.name, megabytes(needed),
                 clip->width, clip->height, frames, with, limit_text(m),
                 (long long)(most(m) / 1000000), advice,
                 cv_dit_can_narrow(model->dit) ? "precision=fp8, " : "");
    return n < 0 ? CAUSVID_ERR(EINVAL) : CAUSVID_ERR(ENOMEM);
}

/* Bytes of all weights and the clip, as things are now. */
static int plan(int64_t *bytes, const CvModel *model, const CvClip *clip)
{
    int err = cv_generator_plan(bytes, model, clip, cv_clip_slots(clip));

    *bytes += (int64_t)cv_model_bytes(model);
    return err;
}

/* Stream more of the model, for want of so many bytes: 1, or 0 where that cannot
 * be. */
static int stream_more(const CvModel *model, int64_t bytes)
{
    return cv_umt5_stream(model->umt5) || cv_dit_stream_text(model->dit) ||
           cv_dit_stream_layers(model->dit, bytes);
}

static const char *streamed_text(const CvModel *model, char text[160])
{
    const int64_t layers = cv_dit_streamed_layers(model->dit);

    if (layers)
        snprintf(text, 160, "text encoder streamed, and of the transformer its "
                 "weights for text and %" PRId64 " of %" PRId64 " layers, these "
                 "for each step", layers, cv_dit_size(model->dit)->layers);
    else
        snprintf(text, 160, "text encoder streamed%s",
                 cv_dit_streamed_bytes(model->dit)
                 ? ", and the transformer's weights for text" : "");
    return text;
}

int cv_budget_open(CvModel *model, const CausvidClip *first,
                   char why[CV_WHY_SIZE])
{
    int64_t resident, needed, least;
    char text[160];
    CausvidClip recipe;
    CvMemory m;
    CvClip clip;
    int err;

    /* A prompt that comes later and is not kept has to be encoded with what is
     * read from the file then: where all are kept, which is what a cache is
     * for, the largest of the networks is neither read nor held. */
    if (cv_model_has_prompts(model, first) && cv_umt5_stream(model->umt5))
        cv_log(model->log, CAUSVID_LOG_VERBOSE, "text encoder not loaded: the "
               "cache has the first clip's prompt");
    causvid_default_clip(&recipe);
    if ((err = cv_memory(model->backend, &m)) < 0 || !is_limited(&m))
        return err;
    if ((err = cv_clip_init(&clip, model, first ? first : &recipe)) < 0 ||
        (err = plan(&resident, model, &clip)) < 0)
        return err;
    resident += m.taken;
    /* Of a very small model a layer's scratch can be more than all of it. */
    for (needed = least = resident; needed > goal(&m);
         least = needed < least ? needed : least) {
        if (!stream_more(model, needed - goal(&m))) {
            if (needed <= most(&m))
                break;
            return refuse(model, &clip, &m, resident, least, why);
        }
        if ((err = plan(&needed, model, &clip)) < 0)
            return err;
        needed += m.taken;
    }
    if (needed != resident)
        cv_log(model->log, CAUSVID_LOG_INFO, "%s: %lld MB in place of %lld MB",
               streamed_text(model, text), megabytes(needed),
               megabytes(resident));
    return 0;
}

int cv_budget_clip(const CvModel *model, const CvClip *clip,
                   const CvArena *arena)
{
    char why[CV_WHY_SIZE], text[160];
    int64_t needed;
    CvMemory m;
    int err = cv_memory(model->backend, &m);

    if (err < 0 || !is_limited(&m) || arena->peak <= arena->size)
        return err;
    /* What the clip before has is given back first. */
    m.taken -= (int64_t)arena->size;
    if (m.room < INT64_MAX)
        m.room += (int64_t)arena->size;
    needed = m.taken + (int64_t)arena->peak;
    if (needed <= most(&m))
        return 0;
    if (!stream_more(model, needed - most(&m))) {
        err = refuse(model, clip, &m, 0, needed, why);
        return cv_fail(model->log, -err, "%s", why);
    }
    cv_log(model->log, CAUSVID_LOG_INFO, "%s from now on: otherwise this clip "
           "needs %lld MB, %s %lld MB", streamed_text(model, text),
           megabytes(needed), limit_text(&m), (long long)(most(&m) / 1000000));
    return 1;
}

int64_t cv_budget_peak(const CvModel *model, const CvArena *arena)
{
    CvMemory m;

    if (!cv_memory(model->backend, &m) && m.taken)
        return m.taken;
    return (int64_t)(cv_model_bytes(model) + arena->size);
}
