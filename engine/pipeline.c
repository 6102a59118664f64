/*
 * The worker: generates ahead of the reader.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "budget.h"
#include "pipeline.h"

/* A prompt and the first block that it applies to; newest last. */
typedef struct Prompt {
    struct Prompt *next;
    int64_t from_block;
    int64_t n_ids;
    int32_t ids[CV_MAX_TOKENS];
    char *text;
} Prompt;

struct CvPipeline {
    CvGenerator generator;
    CvLog *log;
    void (*progress)(void *, const CausvidProgress *);
    void *cookie;
    struct timespec began;
    pthread_t thread;
    int running;               /* thread was made */

    int64_t next_frame;        /* the reader's alone */

    pthread_mutex_t lock;      /* of what follows */
    pthread_cond_t changed;
    Prompt *prompts;           /* the first is that of the block being read */
    int64_t read_block;        /* -1 before the first read */
    int64_t read_latents;      /* all of whose frames were read */
    int64_t decoded;           /* latents */
    int stop;
    int error;                 /* of the worker */
};

static double seconds_since(const struct timespec *began)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)(now.tv_sec - began->tv_sec) +
           (double)(now.tv_nsec - began->tv_nsec) * 1e-9;
}

/* ---- the worker's side ---- */

/* Wait until the condition holds; 0, or ECANCELED when asked to stop. Called
 * with the lock held. */
static int wait_for_reader(CvPipeline *p, const int64_t *value, int64_t least)
{
    while (*value < least && !p->stop)
        pthread_cond_wait(&p->changed, &p->lock);
    return p->stop ? CAUSVID_ERR(ECANCELED) : 0;
}

/* Encode the prompt of this block unless it is the one in use. The reader frees
 * a prompt only when a later one holds for the block that it reads, which this
 * thread has taken by then: neither pointer can be stale. */
static int take_prompt(CvPipeline *p, int64_t block, const Prompt **in_use)
{
    const Prompt *found = NULL;

    pthread_mutex_lock(&p->lock);
    for (const Prompt *i = p->prompts; i; i = i->next)
        if (i->from_block <= block)
            found = i;
    pthread_mutex_unlock(&p->lock);
    if (found == *in_use)
        return 0;
    *in_use = found;
    return cv_generator_prompt(&p->generator, found->ids, found->n_ids);
}

static void tell_progress(CvPipeline *p, int64_t block, double waited)
{
    const CvClip *clip = &p->generator.clip;
    int scale = cv_vae_time_scale(p->generator.model->vae);
    int64_t latents = (block + 1) * clip->block_latents;
    int64_t frames = (latents - 1) * scale + 1;
    double seconds = seconds_since(&p->began), busy = seconds - waited;
    double rate;
    CausvidProgress progress;

    if (clip->frames >= 0 && frames > clip->frames)
        frames = clip->frames;
    rate = busy > 0 ? (double)frames / busy : 0;
    if (clip->frames >= 0)
        cv_log(p->log, CAUSVID_LOG_INFO, "block %lld of %lld: %lld of %lld "
               "frames, %.1f frames/s, %.1f s left", (long long)block + 1,
               (long long)clip->blocks, (long long)frames,
               (long long)clip->frames, rate,
               rate > 0 ? (double)(clip->frames - frames) / rate : 0);
    else
        cv_log(p->log, CAUSVID_LOG_INFO, "block %lld: %lld frames, %.1f "
               "frames/s", (long long)block + 1, (long long)frames, rate);
    if (!p->progress)
        return;
    progress = (CausvidProgress){ .block = block + 1, .frames = frames,
                                  .total_frames = clip->frames,
                                  .seconds = seconds };
    pthread_mutex_lock(&p->log->lock); /* callbacks never overlap */
    p->progress(p->cookie, &progress);
    pthread_mutex_unlock(&p->log->lock);
}

/* Decode a block's latents as there is room. The block is told of before its
 * last frames are handed out, so a reader that has them all has heard of it. */
static int decode_block(CvPipeline *p, int64_t block, double waited)
{
    const CvClip *clip = &p->generator.clip;
    int slots = p->generator.picture_slots;
    int64_t first = block * clip->block_latents;
    int64_t end = first + clip->block_latents;

    if (clip->latents >= 0 && end > clip->latents)
        end = clip->latents; /* the last block was rounded up */
    for (int64_t latent = first; latent < end; latent++) {
        CvTensor frames;
        int err;

        pthread_mutex_lock(&p->lock);
        err = wait_for_reader(p, &p->read_latents, latent - slots + 1);
        pthread_mutex_unlock(&p->lock);
        /* The slot's last frame was handed out, but a GPU may not have drawn
         * it yet. */
        if (err < 0 ||
            (err = cv_aborted(p->log)) < 0 ||
            (err = cv_reuse_frames(p->generator.run.backend)) < 0 ||
            (err = cv_generator_decode(&p->generator, block,
                                       (int)(latent - first), &frames)) < 0 ||
            (err = cv_finish(p->generator.run.backend)) < 0)
            return err;
        if (latent == end - 1)
            tell_progress(p, block, waited);
        pthread_mutex_lock(&p->lock);
        p->decoded = latent + 1;
        pthread_cond_broadcast(&p->changed);
        pthread_mutex_unlock(&p->lock);
    }
    return 0;
}

static int work(CvPipeline *p)
{
    const CvClip *clip = &p->generator.clip;
    const Prompt *in_use = NULL;
    double waited = 0;

    for (int64_t block = 0; clip->blocks < 0 || block < clip->blocks;
         block++) {
        double before = seconds_since(&p->began);
        int err;

        pthread_mutex_lock(&p->lock);
        err = wait_for_reader(p, &p->read_block, block - 1);
        pthread_mutex_unlock(&p->lock);
        waited += seconds_since(&p->began) - before;
        if (err < 0 ||
            (err = take_prompt(p, block, &in_use)) < 0 ||
            (err = cv_generator_block(&p->generator, block)) < 0 ||
            (err = decode_block(p, block, waited)) < 0 ||
            (err = cv_generator_remember(&p->generator, block)) < 0)
            return err;
    }
    return 0;
}

static void *run(void *argument)
{
    CvPipeline *p = argument;
    CvBackend *backend = p->generator.run.backend;
    int err = cv_enter(backend);

    if (!err) {
        err = work(p);
        cv_leave(backend);
    }
    pthread_mutex_lock(&p->lock);
    p->error = err;
    pthread_cond_broadcast(&p->changed);
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

/* ---- the reader's side ---- */

static void free_prompt(Prompt *prompt)
{
    free(prompt->text);
    free(prompt);
}

static Prompt *make_prompt(const CvModel *model, const char *text)
{
    Prompt *prompt = calloc(1, sizeof(*prompt));

    if (prompt && !(prompt->text = strdup(text))) {
        free(prompt);
        prompt = NULL;
    }
    if (!prompt)
        cv_fail_memory(model->log, sizeof(*prompt), "a prompt");
    return prompt;
}

static const char *or_all(int64_t n, char text[32])
{
    if (n < 0)
        return "endless";
    snprintf(text, 32, "%lld", (long long)n);
    return text;
}

static void tell_start(const CvPipeline *p)
{
    const CvGenerator *g = &p->generator;
    const CvClip *clip = &g->clip;
    char frames[32];

    cv_log(p->log, CAUSVID_LOG_INFO, "%s (%s): %dx%d, %s frames, %d steps of "
           "%s, guidance %g, seed %lld, %s with %s%s, peak memory %.0f MB",
           g->model->recipe.name,
           cv_variant_name(g->model->recipe.variant), clip->width,
           clip->height, or_all(clip->frames, frames), clip->schedule.steps,
           cv_sampler_name(clip->schedule.sampler), clip->guidance,
           (long long)clip->seed, g->run.backend->name,
           g->run.backend->device,
           cv_dit_is_narrow(g->model->dit) && !g->run.backend->narrow
               ? " and products in fp8" : "",
           (double)cv_budget_peak(g->model, g->run.arena) / 1e6);
}

/* A distilled model only works as it was distilled. One line for a clip; of a
 * model with a recipe.json, its authors decide. */
static void tell_off_recipe(const CvPipeline *p, const CausvidClip *args)
{
    const CvRecipe *r = &p->generator.model->recipe;
    const CvClip *clip = &p->generator.clip;
    /* its sigmas are fixed, and each of its counts is a recipe */
    const int fixed = clip->schedule.sampler == CAUSVID_SAMPLER_FLOWMATCH;
    char text[256] = "";
    size_t n = 0;

    if (!r->family[0] || r->guidance != 1)
        return;
    if (clip->schedule.sampler != r->sampler)
        n += (size_t)snprintf(text + n, sizeof(text) - n, ", sampler=%s",
                              cv_sampler_name(clip->schedule.sampler));
    if (clip->schedule.steps != r->steps && !fixed)
        n += (size_t)snprintf(text + n, sizeof(text) - n, ", steps=%d",
                              clip->schedule.steps);
    if (args->n_timesteps > 0)
        n += (size_t)snprintf(text + n, sizeof(text) - n, ", timesteps");
    if (args->shift > 0 && args->shift != r->shift && !fixed)
        n += (size_t)snprintf(text + n, sizeof(text) - n, ", shift=%g",
                              args->shift);
    if (clip->guidance != r->guidance)
        n += (size_t)snprintf(text + n, sizeof(text) - n, ", guidance=%g",
                              clip->guidance);
    if (n)
        cv_log(p->log, CAUSVID_LOG_WARNING, "%s: not what %s was distilled "
               "for (%d steps of %s, shift %g, guidance 1); expect a worse "
               "picture", text + 2, r->family, r->steps,
               cv_sampler_name(r->sampler), r->shift);
}

int cv_pipeline_start(CvPipeline **pipeline, const CvModel *model,
                      CvArena *arena, const CausvidClip *args,
                      void (*progress)(void *, const CausvidProgress *),
                      void *cookie)
{
    CvPipeline *p;
    CvClip clip;
    int32_t negative[CV_MAX_TOKENS];
    int64_t n_negative = 0;
    int err;

    *pipeline = NULL;
    if (!args->prompt)
        return cv_fail(model->log, EINVAL, "no prompt was given; say what the "
                       "video shows with prompt='...'");
    if ((err = cv_clip_init(&clip, model, args)) < 0)
        return err;
    if (!(p = calloc(1, sizeof(*p))))
        return cv_fail_memory(model->log, sizeof(*p), "a clip");
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->changed, NULL);
    p->log        = model->log;
    p->progress   = progress;
    p->cookie     = cookie;
    p->read_block = -1;
    *pipeline     = p;

    err = CAUSVID_ERR(ENOMEM);
    if (!(p->prompts = make_prompt(model, args->prompt)) ||
        (err = cv_model_tokens(model, args->prompt, "prompt", 0,
                               p->prompts->ids, &p->prompts->n_ids)) < 0 ||
        (err = cv_model_tokens(model, clip.negative_prompt, "negative_prompt",
                               1, negative, &n_negative)) < 0)
        goto fail;
    if ((err = cv_generator_open(&p->generator, model, &clip, NULL, arena,
                                 cv_clip_slots(&clip))) < 0 ||
        (err = cv_generator_negative_prompt(&p->generator, negative,
                                            n_negative)) < 0)
        goto fail;
    tell_start(p);
    tell_off_recipe(p, args);
    clock_gettime(CLOCK_MONOTONIC, &p->began);
    if (pthread_create(&p->thread, NULL, run, p)) {
        err = cv_fail(p->log, ENOMEM, "no thread could be started; the "
                      "system's limit on threads may have been reached");
        goto fail;
    }
    p->running = 1;
    return 0;
fail:
    cv_pipeline_stop(pipeline);
    return err;
}

void cv_pipeline_stop(CvPipeline **pipeline)
{
    CvPipeline *p = *pipeline;

    if (!p)
        return;
    if (p->running) {
        atomic_store(&p->log->stop, 1);
        pthread_mutex_lock(&p->lock);
        p->stop = 1;
        pthread_cond_broadcast(&p->changed);
        pthread_mutex_unlock(&p->lock);
        pthread_join(p->thread, NULL);
        atomic_store(&p->log->stop, 0);
        /* What was asked for last may still run, and pictures be drawn, in
         * memory that the next clip takes. An error of it is past. */
        if (!cv_reuse_frames(p->generator.run.backend))
            cv_finish(p->generator.run.backend);
    }
    cv_generator_close(&p->generator);
    while (p->prompts) {
        Prompt *next = p->prompts->next;

        free_prompt(p->prompts);
        p->prompts = next;
    }
    pthread_cond_destroy(&p->changed);
    pthread_mutex_destroy(&p->lock);
    free(p);
    *pipeline = NULL;
}

/* Planes, rows and bytes that a format needs, to refuse what would be written
 * outside of the caller's memory. */
static int check_picture(const CvPipeline *p, const CausvidPicture *pic)
{
    const CvClip *clip = &p->generator.clip;
    static const struct { int planes, chroma_shift, bytes[3]; } formats[] = {
        [CAUSVID_FORMAT_YUV420P]   = { 3, 1, { 1, 1, 1 } },
        [CAUSVID_FORMAT_NV12]      = { 2, 1, { 1, 2 } },
        [CAUSVID_FORMAT_YUV444P]   = { 3, 0, { 1, 1, 1 } },
        [CAUSVID_FORMAT_YUV420P10] = { 3, 1, { 2, 2, 2 } },
        [CAUSVID_FORMAT_P010]      = { 2, 1, { 2, 4 } },
        [CAUSVID_FORMAT_GBRP]      = { 3, 0, { 1, 1, 1 } },
        [CAUSVID_FORMAT_RGB24]     = { 1, 0, { 3 } },
        [CAUSVID_FORMAT_RGB0]      = { 1, 0, { 4 } },
        [CAUSVID_FORMAT_BGR0]      = { 1, 0, { 4 } },
    };

    if (pic->memory != CAUSVID_MEMORY_HOST &&
        !p->generator.run.backend->cuda_planes)
        return cv_fail(p->log, ENOSYS, "pictures in GPU memory need a CUDA "
                       "device; this model runs on the CPU");
    if (pic->width != clip->width || pic->height != clip->height)
        return cv_fail(p->log, EINVAL, "a picture of %dx%d was given for a "
                       "clip of %dx%d", pic->width, pic->height, clip->width,
                       clip->height);
    if ((unsigned)pic->format >= sizeof(formats) / sizeof(*formats))
        return cv_fail(p->log, EINVAL, "unknown picture format %d",
                       (int)pic->format);
    for (int i = 0; i < formats[pic->format].planes; i++) {
        int shift = i ? formats[pic->format].chroma_shift : 0;
        ptrdiff_t row = ((clip->width + shift) >> shift) *
                        (ptrdiff_t)formats[pic->format].bytes[i];
        ptrdiff_t stride = pic->stride[i] < 0 ? -pic->stride[i]
                                              : pic->stride[i];

        if (!pic->data[i] || stride < row)
            return cv_fail(p->log, EINVAL, "plane %d of the picture has %s%td "
                           "bytes a row, expected at least %td", i,
                           pic->data[i] ? "" : "no memory and ",
                           stride, row);
    }
    return 0;
}

/* Wait for a latent and note what is read now; drop prompts that are over. */
static int reach(CvPipeline *p, int64_t latent, int64_t block,
                 const char **prompt)
{
    int err = 0;

    pthread_mutex_lock(&p->lock);
    p->read_block = block;
    pthread_cond_broadcast(&p->changed);
    while (p->decoded <= latent && !p->error)
        pthread_cond_wait(&p->changed, &p->lock);
    if (p->decoded <= latent)
        err = p->error;
    while (p->prompts->next && p->prompts->next->from_block <= block) {
        Prompt *over = p->prompts;

        p->prompts = over->next;
        free_prompt(over);
    }
    *prompt = p->prompts->text;
    pthread_mutex_unlock(&p->lock);
    return err;
}

int cv_pipeline_read(CvPipeline *p, CausvidPicture *pic)
{
    CvGenerator *g = &p->generator;
    int scale = cv_vae_time_scale(g->model->vae), place, err;
    int64_t latent = cv_latent_of_frame(p->next_frame, scale, &place);
    int64_t block = latent / g->clip.block_latents;
    CvTensor slot, frame;

    if (g->clip.frames >= 0 && p->next_frame >= g->clip.frames)
        return CAUSVID_EOF;
    if ((err = check_picture(p, pic)) < 0 ||
        (err = reach(p, latent, block, &pic->prompt)) < 0)
        return err;
    slot  = cv_generator_slot(g, latent);
    frame = cv_rows(&slot, place, 1);
    frame = CV_RESHAPE(frame, g->clip.height, g->clip.width, 3);
    err   = cv_to_picture(g->run.backend,
                          &(CvPictureArgs){ .frame = &frame, .pic = pic });
    if (err < 0)
        return err;
    pic->index = p->next_frame++;
    pic->block = block;
    pic->seed  = g->clip.seed;
    if (latent == 0 || place == scale - 1) {
        pthread_mutex_lock(&p->lock);
        p->read_latents = latent + 1;
        pthread_cond_broadcast(&p->changed);
        pthread_mutex_unlock(&p->lock);
    }
    return 0;
}

int cv_pipeline_set_prompt(CvPipeline *p, const char *text)
{
    const CvModel *model = p->generator.model;
    Prompt *prompt, *last;
    int err;

    if (!p->generator.clip.causal)
        return cv_fail(p->log, ENOSYS, "the prompt cannot change within a "
                       "clip: this model is bidirectional and makes the clip "
                       "as a whole");
    if (!(prompt = make_prompt(model, text)))
        return CAUSVID_ERR(ENOMEM);
    if ((err = cv_model_tokens(model, text, "prompt", 0, prompt->ids,
                               &prompt->n_ids)) < 0) {
        free_prompt(prompt);
        return err;
    }
    pthread_mutex_lock(&p->lock);
    prompt->from_block = p->read_block + 2;
    for (last = p->prompts; last->next; last = last->next)
        ;
    last->next = prompt;
    pthread_mutex_unlock(&p->lock);
    return 0;
}
