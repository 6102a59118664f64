/*
 * What fits into a GPU's memory.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#include <inttypes.h>
#include <stdio.h>

#include "budget.h"

/* How much `taken` may become. */
static int64_t most(const CvMemory *m)
{
    if (m->room == INT64_MAX || m->room >= INT64_MAX - m->taken)
        return m->budget; /* on the CPU, where nothing counts as taken */
    return m->taken + m->room < m->budget ? m->taken + m->room : m->budget;
}

/* What streaming is to keep it within: where only what is free decides, some of
 * that is left to others. Encoders and filters take theirs after us, and fail
 * without it. */
static int64_t goal(const CvBudget *b)
{
    const CvMemory *m = &b->memory;

    return m->budget < INT64_MAX || m->room == INT64_MAX
               ? most(m) : most(m) - b->spare;
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

static int refuse(const CvBudget *b, const CvModel *model, const CvClip *clip,
                  char why[CV_WHY_SIZE])
{
    const CvMemory *m = &b->memory;
    char frames[32] = "an endless clip", with[64] = "", advice[64] = "";
    int n;

    if (clip->frames >= 0)
        snprintf(frames, sizeof(frames), "%" PRId64 " frames", clip->frames);
    if (megabytes(b->first) > megabytes(b->least))
        snprintf(with, sizeof(with), " (%lld MB if its text encoder is to "
                 "stay)", megabytes(b->first));
    if (most(m) == m->budget && b->least - m->taken <= m->room)
        snprintf(advice, sizeof(advice), "vram=%lldM or more, ",
                 megabytes(b->least));
    n = snprintf(why, CV_WHY_SIZE, "%.80s needs %lld MB of GPU memory for "
                 "%dx%d, %s%s; %s %lld MB: give %s%sa smaller size or a "
                 "shorter clip", model->recipe.name, megabytes(b->least),
                 clip->width, clip->height, frames, with, limit_text(m),
                 (long long)(most(m) / 1000000), advice,
                 cv_dit_can_narrow(model->dit) ? "precision=fp8, " : "");
    return n < 0 ? CAUSVID_ERR(EINVAL) : CAUSVID_ERR(ENOMEM);
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

int cv_budget_limits(CvBackend *backend)
{
    CvMemory m;
    int err = cv_memory(backend, &m);

    return err < 0 ? err : m.room < INT64_MAX || m.budget < INT64_MAX;
}

int cv_budget_fit(CvBudget *b, const CvModel *model, const CvClip *clip,
                  int64_t bytes, char why[CV_WHY_SIZE])
{
    CvMemory *m = &b->memory;
    int err = cv_memory(model->backend, m); /* less, once more is streamed */

    if (err < 0)
        return err;
    m->taken -= b->given_back;
    if (m->room < INT64_MAX)
        m->room += b->given_back;
    b->now = m->taken + bytes;
    if (!b->first)
        b->first = b->least = b->now;
    /* Of a very small model a layer's scratch can be more than all of it. */
    if (b->now < b->least)
        b->least = b->now;
    if (b->now <= goal(b))
        return 0;
    if (stream_more(model, b->now - goal(b)))
        return 1;
    return b->now <= most(m) ? 0 : refuse(b, model, clip, why);
}

void cv_budget_tell(const CvBudget *b, const CvModel *model, const char *when)
{
    char text[160];

    if (b->now != b->first)
        cv_log(model->log, CAUSVID_LOG_INFO, "%s%s: %lld MB in place of %lld "
               "MB", streamed_text(model, text), when, megabytes(b->now),
               megabytes(b->first));
}

int64_t cv_budget_peak(const CvModel *model, const CvArena *arena)
{
    CvMemory m;

    if (!cv_memory(model->backend, &m) && m.taken)
        return m.taken;
    return (int64_t)(cv_model_bytes(model) + arena->size);
}
