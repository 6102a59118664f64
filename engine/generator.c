/*
 * A clip in the making.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "budget.h"
#include "generator.h"

/* Latents, text embeddings and pixels of a sound model are of the order of 1
 * to 10. */
#define MAX_VALUE 1e6f

static int latent_h(const CvGenerator *g)
{
    return g->clip.height / cv_vae_scale(g->model->vae);
}

static int latent_w(const CvGenerator *g)
{
    return g->clip.width / cv_vae_scale(g->model->vae);
}

static int has_guidance(const CvGenerator *g)
{
    return g->clip.guidance != 1;
}

static int64_t block_elements(const CvGenerator *g)
{
    return cv_elements(&g->sampler.x);
}

static int open_decoder(CvGenerator *g)
{
    int err = cv_vae_decoder_state(&g->vae, g->model->vae, &g->run,
                                   latent_h(g), latent_w(g));

    return err < 0 ? err : cv_vae_state_reset(g->vae, &g->run);
}

/* Everything that lives as long as the clip, in a fixed order: run once while
 * the arena plans and once for real. */
static int build(CvGenerator *g)
{
    const CvModel *m = g->model;
    const CvClip *clip = &g->clip;
    CvArena *arena = g->run.arena;
    int h = latent_h(g), w = latent_w(g), err;

    cv_vae_state_free(&g->vae);
    g->pictures = CV_TENSOR(NULL, CV_F32,
                            (int64_t)g->picture_slots *
                            cv_vae_time_scale(m->vae),
                            clip->height, clip->width, 3);
    if ((err = cv_arena_tensor(arena, &g->pictures)) < 0 ||
        (err = cv_sampler_init(&g->sampler, &clip->schedule, &g->run,
                               clip->block_latents, cv_vae_channels(m->vae),
                               h, w)) < 0 ||
        (clip->causal && (err = open_decoder(g)) < 0))
        return err;
    g->decoder_mark = cv_arena_mark(arena);
    if ((err = cv_dit_state(&g->text, m->dit, &g->run, h, w,
                            clip->block_latents, clip->slots)) < 0)
        return err;
    if (has_guidance(g)) {
        g->flow_negative = g->sampler.flow;
        if ((err = cv_dit_state(&g->negative, m->dit, &g->run, h, w,
                                clip->block_latents, clip->slots)) < 0 ||
            (err = cv_arena_tensor(arena, &g->flow_negative)) < 0)
            return err;
    }
    return 0;
}

static int wrong_values(CvGenerator *g, const char *what, const char *file,
                        const char *found)
{
    return cv_fail(g->log, EIO, "%s '%s' made %s, expected values between "
                   "about -10 and 10: its weights are damaged, or the settings "
                   "are far from the model's recipe", what, file, found);
}

/* Weights that load well can still make a network overflow: say so instead of
 * drawing black frames. In front of a norm an overflow leaves zeros, not NaN.
 * t: float32, what the network in `file` made. */
static int check_values(CvGenerator *g, const CvTensor *t, const char *what,
                        const char *file)
{
    char found[32];
    float largest;
    int err;

    if (g->run.backend->planning)
        return 0;
    if ((err = cv_check(g->run.backend, t, &largest)) < 0)
        return err;
    if (isnan(largest))
        return wrong_values(g, what, file, "a value that is no number");
    if (largest > MAX_VALUE) {
        snprintf(found, sizeof(found), "a value of %g", (double)largest);
        return wrong_values(g, what, file, found);
    }
    return largest > 0 ? 0 : wrong_values(g, what, file, "nothing but zeros");
}

/* What a caller of trace gives, to the backend. */
static int upload_given(CvGenerator *g, const CvTensor *t, const float *data,
                        const char *what)
{
    int err = cv_upload(g->run.backend, t, data, CV_F32);

    if (err == CAUSVID_ERR(EILSEQ))
        return cv_fail(g->log, EILSEQ, "%s holds a value that is not a "
                       "number, or infinite", what);
    return err;
}

/* A prompt's embeddings: from the text encoder, unless the cache has them. */
static int encode(CvGenerator *g, const CvTensor *embeds, const int32_t *ids)
{
    CvBackend *backend = g->run.backend;
    CvTextCache *cache = backend->planning ? NULL : g->model->cache;
    int err;

    if (cache && (err = cv_text_cache_load(cache, backend, embeds, ids)))
        return err < 0 ? err : 0;
    err = cv_first_text_take(g->model->first_text, backend, embeds, ids);
    if (!err)
        err = cv_umt5_forward(g->model->umt5, &g->run, embeds, ids);
    if (err < 0 ||
        (err = check_values(g, embeds, "text encoder",
                            g->model->files.text_encoder)) < 0)
        return err;
    return cache ? cv_text_cache_save(cache, backend, embeds, ids) : 0;
}

static int set_text(CvGenerator *g, CvDitState *state, const void *data,
                    CvType type, int64_t n)
{
    CvArena *arena = g->run.arena;
    size_t mark = cv_arena_mark(arena);
    CvTensor embeds = CV_TENSOR(NULL, CV_F32, n,
                                cv_dit_size(g->model->dit)->text_dim);
    int err;

    if ((err = cv_arena_tensor(arena, &embeds)) < 0)
        goto end;
    if (type == CV_I32) {
        if ((err = encode(g, &embeds, data)) < 0)
            goto end;
    } else if ((err = upload_given(g, &embeds, data, "text_embeds")) < 0) {
        goto end;
    }
    if (g->tap.tensor && state == &g->text && !g->run.backend->planning &&
        (err = g->tap.tensor(g->tap.cookie, g->run.backend, "text_embeds", 0,
                             0, &embeds)) < 0)
        goto end;
    err = cv_dit_set_text(g->model->dit, &g->run, state, &embeds);
end:
    cv_arena_release(arena, mark);
    return err;
}

int cv_generator_prompt(CvGenerator *g, const int32_t *ids, int64_t n)
{
    return set_text(g, &g->text, ids, CV_I32, n);
}

int cv_generator_negative_prompt(CvGenerator *g, const int32_t *ids,
                                 int64_t n)
{
    return has_guidance(g) ? set_text(g, &g->negative, ids, CV_I32, n) : 0;
}

int cv_generator_text(CvGenerator *g, const float *embeds, int64_t n)
{
    return set_text(g, &g->text, embeds, CV_F32, n);
}

/* Noise for a whole block into g->host. */
static int draw_noise(CvGenerator *g, int64_t block, int step)
{
    int64_t n = block_elements(g);
    int64_t frame = n / g->clip.block_latents;
    int64_t first = block * g->clip.block_latents;

    g->drawn = step ? -1 : block;
    if (g->tap.noise)
        return g->tap.noise(g->tap.cookie, g->host, first,
                            g->clip.block_latents, frame, block, step);
    cv_noise(g->host, n, (uint64_t)g->clip.seed, cv_noise_stream(step),
             (uint64_t)(first * frame));
    return 0;
}

static int make_noise(CvGenerator *g, const CvTensor *x, int64_t block,
                      int step)
{
    int err = 0;

    if (g->run.backend->planning)
        return 0;
    if (step || g->drawn != block)
        err = draw_noise(g, block, step);
    return err < 0 ? err : upload_given(g, x, g->host, "the noise");
}

static int predict_flow(CvGenerator *g, double timestep, int64_t block)
{
    CvDit *dit = g->model->dit;
    CvSampler *s = &g->sampler;
    double guidance = g->clip.guidance;
    int err = cv_dit_forward(dit, &g->run, &g->text, &s->flow, &s->x, timestep,
                             block);

    if (err < 0 || !has_guidance(g))
        return err;
    err = cv_dit_forward(dit, &g->run, &g->negative, &g->flow_negative, &s->x,
                         timestep, block);
    if (err < 0)
        return err;
    return cv_combine(g->run.backend, &s->flow, (CvTerm[]){
                          { guidance, &s->flow },
                          { 1 - guidance, &g->flow_negative } }, 2);
}

static int show(CvGenerator *g, const char *name, int64_t block, int step,
                const CvTensor *t)
{
    if (!g->tap.tensor || g->run.backend->planning)
        return 0;
    return g->tap.tensor(g->tap.cookie, g->run.backend, name, block, step, t);
}

int cv_generator_block(CvGenerator *g, int64_t block)
{
    CvSampler *s = &g->sampler;
    int err;

    if ((err = make_noise(g, &s->x, block, 0)) < 0)
        return err;
    cv_sampler_start(s);
    for (int step = 0; step < g->clip.schedule.steps; step++) {
        if ((err = predict_flow(g, g->clip.schedule.timestep[step],
                                block)) < 0 ||
            (err = show(g, "flow", block, step, &s->flow)) < 0)
            return err;
        if (cv_sampler_wants_noise(s) &&
            (err = make_noise(g, &s->noise, block, step + 1)) < 0)
            return err;
        if ((err = cv_sampler_step(s, &g->run)) < 0 ||
            (err = show(g, "x0", block, step, &s->x0)) < 0)
            return err;
    }
    if ((err = show(g, "latents", block, 0, &s->x0)) < 0)
        return err;
    return check_values(g, &s->x0, "transformer",
                        g->model->files.transformer);
}

CvTensor cv_generator_slot(const CvGenerator *g, int64_t latent)
{
    int64_t scale = cv_vae_time_scale(g->model->vae);

    return cv_rows(&g->pictures, latent % g->picture_slots * scale, scale);
}

int cv_generator_decode(CvGenerator *g, int64_t block, int i,
                        CvTensor *frames)
{
    int64_t latent = block * g->clip.block_latents + i;
    CvTensor slot = cv_generator_slot(g, latent);
    CvTensor x = cv_rows(&g->sampler.x0, i, 1);
    int err;

    /* A bidirectional clip is one block. Now that it is there, the decoder
     * takes the transformer's place. */
    if (!g->vae) {
        cv_arena_release(g->run.arena, g->decoder_mark);
        if ((err = open_decoder(g)) < 0)
            return err;
    }
    *frames = cv_rows(&slot, 0, cv_vae_frames(g->vae, 1));
    err = cv_vae_decode(g->model->vae, &g->run, g->vae, frames, &x);
    return err < 0 ? err : check_values(g, frames, "VAE",
                                        g->model->files.vae);
}

/* Once more at t = 0, so that later blocks attend to keys and values of the
 * clean latents (checkpoints.md 7.2). */
int cv_generator_remember(CvGenerator *g, int64_t block)
{
    int64_t after = block + 1;
    int err;

    if (!g->clip.causal || after == g->clip.blocks)
        return 0;
    err = cv_dit_forward(g->model->dit, &g->run, &g->text, NULL,
                         &g->sampler.x0, 0, block);
    if (!err && has_guidance(g))
        err = cv_dit_forward(g->model->dit, &g->run, &g->negative, NULL,
                             &g->sampler.x0, 0, block);
    /* A GPU is busy with that for as long as the next block's noise takes. */
    if (!err && !g->run.backend->planning)
        err = draw_noise(g, after, 0);
    return err;
}

/* Everything a clip ever does, for the plan: the longest prompts, one block of
 * each length of cache, and both kinds of latent. Loads no data. */
static int rehearse(CvGenerator *g)
{
    static const int32_t ids[CV_MAX_TOKENS];
    CvTensor frames;
    int err;

    if ((err = cv_generator_prompt(g, ids, CV_MAX_TOKENS)) < 0 ||
        (err = cv_generator_negative_prompt(g, ids, CV_MAX_TOKENS)) < 0)
        return err;
    for (int64_t block = 0; block < g->clip.slots; block++)
        if ((err = cv_generator_block(g, block)) < 0 ||
            (err = cv_generator_remember(g, block)) < 0)
            return err;
    for (int latent = 0; latent < 3; latent++)
        if ((err = cv_generator_decode(g, 0, 0, &frames)) < 0)
            return err;
    return 0;
}

static void init(CvGenerator *g, const CvModel *model, const CvClip *clip,
                 CvArena *arena, int picture_slots)
{
    memset(g, 0, sizeof(*g));
    g->model = model;
    g->log   = model->log;
    g->clip  = *clip;
    g->picture_slots = picture_slots;
    g->drawn = -1;
    g->run = (CvRun){ .backend = model->backend, .arena = arena,
                      .log = model->log };
}

static int plan(CvGenerator *g)
{
    int err;

    cv_arena_plan(g->run.arena, g->run.backend);
    err = build(g);
    if (!err)
        err = rehearse(g);
    g->run.backend->planning = 0;
    return err;
}

int cv_generator_plan(int64_t *bytes, const CvModel *model, const CvClip *clip,
                      int picture_slots)
{
    CvArena arena = { 0 };
    CvGenerator g;
    int err;

    init(&g, model, clip, &arena, picture_slots);
    err    = plan(&g);
    *bytes = (int64_t)arena.peak;
    cv_generator_close(&g);
    return err;
}

/* Plan it until it fits into the memory; what the clip before has is given back
 * first. */
static int fit(CvGenerator *g)
{
    CvArena *arena = g->run.arena;
    char why[CV_WHY_SIZE] = "";
    CvBudget budget = { .given_back = (int64_t)arena->size };
    int err;

    do
        err = plan(g);
    while (!err && (err = cv_budget_fit(&budget, g->model, &g->clip,
                                        (int64_t)arena->peak, why)) > 0);
    if (*why)
        return cv_fail(g->log, -err, "%s", why);
    if (!err)
        cv_budget_tell(&budget, g->model, " from now on");
    return err;
}

int cv_generator_open(CvGenerator *g, const CvModel *model, const CvClip *clip,
                      const CvTap *tap, CvArena *arena, int picture_slots)
{
    int64_t bytes;
    int err;

    init(g, model, clip, arena, picture_slots);
    if (tap)
        g->tap = *tap;
    if ((err = fit(g)) < 0 ||
        (err = cv_arena_take(arena, g->log, "this clip")) < 0 ||
        (err = build(g)) < 0)
        goto fail;
    bytes   = cv_tensor_bytes(&g->sampler.x);
    g->host = malloc((size_t)bytes);
    if (!g->host) {
        err = cv_fail_memory(g->log, (uint64_t)bytes, "noise");
        goto fail;
    }
    return 0;
fail:
    cv_generator_close(g);
    return err;
}

void cv_generator_close(CvGenerator *g)
{
    cv_vae_state_free(&g->vae);
    free(g->host);
    g->host = NULL;
}
