/*
 * `causvid trace`: one clip on given tensors, everything computed written out.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * So that any other implementation can be held beside this one. The names of
 * inputs and outputs are in docs/design.md 6.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"
#include "cpu/threads.h"
#include "loading.h"
#include "trace_file.h"

typedef struct Trace {
    CvModel model;
    CvLog log;
    CvWeights *inputs;
    const CvEntry *noise;     /* [T, c, h, w] */
    CvClip clip;
    CvGenerator generator;
    CvArena arena;
    CvTraceFile outputs;
    float *latents, *frames;  /* whole clip, in outputs */
} Trace;

/* A float32 input of these dims, NULL and a line when it is not. -1 as a dim
 * stands for any. */
static const CvEntry *find_input(Trace *t, const char *name, int required,
                                 int n_dims, const int64_t *dims)
{
    const CvEntry *e = cv_weights_find(t->inputs, "%s", name);
    char found[CV_SHAPE_TEXT];
    int ok;

    if (!e) {
        if (required)
            cv_fail(&t->log, EINVAL, "'%s' has no tensor '%s'",
                    cv_weights_path(t->inputs), name);
        return NULL;
    }
    ok = e->tensor.type == CV_F32 && e->tensor.n_dims == n_dims;
    for (int i = 0; ok && i < n_dims; i++)
        ok = dims[i] < 0 ? e->tensor.dim[i] > 0 : e->tensor.dim[i] == dims[i];
    if (!ok) {
        cv_fail(&t->log, EINVAL, "'%s': '%s' is %s, which does not fit: "
                "expected F32 with %d dimensions that agree with the model "
                "and with 'noise'", e->file, name,
                cv_shape_text(found, &e->tensor), n_dims);
        return NULL;
    }
    return e;
}

static int give_noise(void *cookie, float *out, int64_t first, int frames,
                      int64_t frame_elements, int64_t block, int step)
{
    Trace *t = cookie;
    const CvTensor *noise = &t->noise->tensor;
    int64_t dims[4] = { frames, noise->dim[1], noise->dim[2], noise->dim[3] };
    int64_t n = frames * frame_elements;
    const CvEntry *e;
    char name[64];

    if (step == 0) {
        memcpy(out, (const float *)noise->data + first * frame_elements,
               (size_t)n * sizeof(*out));
        return 0;
    }
    snprintf(name, sizeof(name), "renoise.%lld.%d", (long long)block, step);
    if (!cv_weights_find(t->inputs, "%s", name)) {
        cv_noise(out, n, (uint64_t)t->clip.seed, cv_noise_stream(step),
                 (uint64_t)(first * frame_elements));
        return 0;
    }
    if (!(e = find_input(t, name, 1, 4, dims)))
        return CAUSVID_ERR(EINVAL);
    memcpy(out, e->tensor.data, (size_t)n * sizeof(*out));
    return 0;
}

static int keep(void *cookie, CvBackend *backend, const char *name,
                int64_t block, int step, const CvTensor *tensor)
{
    Trace *t = cookie;
    char full[64];
    float *data;

    if (!strcmp(name, "latents"))
        return cv_download(backend, t->latents +
                           block * cv_elements(tensor), tensor);
    if (!strcmp(name, "text_embeds"))
        snprintf(full, sizeof(full), "%s", name);
    else
        snprintf(full, sizeof(full), "%s.%lld.%d", name, (long long)block,
                 step);
    if (!(data = cv_trace_add(&t->outputs, full, tensor)))
        return cv_fail_memory(&t->log, (uint64_t)cv_tensor_bytes(tensor),
                              full);
    return cv_download(backend, data, tensor);
}

/* The prompt: token_ids, or text_embeds. */
static int give_text(Trace *t)
{
    const CvEntry *ids = cv_weights_find(t->inputs, "token_ids");
    int64_t dims[2] = { -1, cv_dit_size(t->model.dit)->text_dim };
    int32_t list[CV_MAX_TOKENS];
    const CvEntry *embeds;

    if (!ids) {
        if (!(embeds = find_input(t, "text_embeds", 1, 2, dims)))
            return CAUSVID_ERR(EINVAL);
        if (embeds->tensor.dim[0] > CV_MAX_TOKENS)
            return cv_fail(&t->log, EINVAL, "'%s': text_embeds has %lld rows, "
                           "expected at most %d", embeds->file,
                           (long long)embeds->tensor.dim[0], CV_MAX_TOKENS);
        return cv_generator_text(&t->generator, embeds->tensor.data,
                                 embeds->tensor.dim[0]);
    }
    if (ids->tensor.type != CV_I64 || ids->tensor.n_dims != 1 ||
        ids->tensor.dim[0] < 1 || ids->tensor.dim[0] > CV_MAX_TOKENS) {
        char found[CV_SHAPE_TEXT];

        return cv_fail(&t->log, EINVAL, "'%s': token_ids is %s, expected I64 "
                       "[n] with n from 1 to %d", ids->file,
                       cv_shape_text(found, &ids->tensor), CV_MAX_TOKENS);
    }
    for (int64_t i = 0; i < ids->tensor.dim[0]; i++) {
        int64_t id;

        memcpy(&id, (const uint8_t *)ids->tensor.data + 8 * i, 8);
        if (id < 0 || id >= cv_umt5_vocab(t->model.umt5))
            return cv_fail(&t->log, EINVAL, "'%s': token_ids[%lld] is %lld, "
                           "expected 0 to %lld", ids->file, (long long)i,
                           (long long)id,
                           (long long)cv_umt5_vocab(t->model.umt5) - 1);
        list[i] = (int32_t)id;
    }
    return cv_generator_prompt(&t->generator, list, ids->tensor.dim[0]);
}

static int run_clip(Trace *t)
{
    CvTap tap = { .cookie = t, .noise = give_noise, .tensor = keep };
    CvGenerator *g = &t->generator;
    const CvClip *clip = &t->clip;
    int64_t n_frames = 0, frame = 0;
    int32_t negative[CV_MAX_TOKENS];
    int64_t n_negative;
    CvTensor all;
    int err;

    if ((err = cv_generator_open(g, &t->model, clip, &tap, &t->arena, 1)) < 0)
        return err;
    all = t->noise->tensor;
    t->latents = cv_trace_add(&t->outputs, "latents", &all);
    all = CV_TENSOR(NULL, CV_F32, clip->frames, clip->height, clip->width, 3);
    t->frames = cv_trace_add(&t->outputs, "frames", &all);
    if (!t->latents || !t->frames)
        return cv_fail_memory(&t->log, (uint64_t)cv_tensor_bytes(&all),
                              "frames");
    if ((err = cv_model_tokens(&t->model, clip->negative_prompt,
                               "negative_prompt", 1, negative,
                               &n_negative)) < 0 ||
        (clip->guidance != 1 &&
         (err = cv_generator_negative_prompt(g, negative, n_negative)) < 0) ||
        (err = give_text(t)) < 0)
        return err;
    for (int64_t block = 0; block < clip->blocks; block++) {
        if ((err = cv_generator_block(g, block)) < 0)
            return err;
        for (int i = 0; i < clip->block_latents; i++) {
            CvTensor frames;
            float *out;

            if ((err = cv_generator_decode(g, block, i, &frames)) < 0)
                return err;
            out = t->frames + frame * cv_row_elements(&frames);
            if ((err = cv_download(g->run.backend, out, &frames)) < 0)
                return err;
            frame += frames.dim[0];
            n_frames = cv_elements(&frames);
            for (int64_t k = 0; k < n_frames; k++) /* -1..1 to 0..1 */
                out[k] = 0.5f * fminf(fmaxf(out[k], -1), 1) + 0.5f;
        }
        if ((err = cv_generator_remember(g, block)) < 0)
            return err;
    }
    return 0;
}

/* Read the inputs and derive the clip from the shape of the noise. */
static int prepare(Trace *t, const char *inputs, CausvidClip *args)
{
    int64_t dims[4] = { -1, cv_vae_channels(t->model.vae), -1, -1 };
    int scale = cv_vae_scale(t->model.vae), err;

    if ((err = cv_weights_open(&t->inputs, inputs, &t->log)) < 0)
        return err;
    if (!(t->noise = find_input(t, "noise", 1, 4, dims)))
        return CAUSVID_ERR(EINVAL);
    if (t->noise->tensor.dim[0] > 1 << 20 ||
        t->noise->tensor.dim[2] > 1024 || t->noise->tensor.dim[3] > 1024)
        return cv_fail(&t->log, EINVAL, "'%s': noise is too large", inputs);
    args->width  = (int)t->noise->tensor.dim[3] * scale;
    args->height = (int)t->noise->tensor.dim[2] * scale;
    args->frames = (t->noise->tensor.dim[0] - 1) *
                   cv_vae_time_scale(t->model.vae) + 1;
    if ((err = cv_clip_init(&t->clip, &t->model, args)) < 0)
        return err;
    if (t->clip.blocks * t->clip.block_latents != t->clip.latents)
        return cv_fail(&t->log, EINVAL, "'%s': noise has %lld latent frames, "
                       "expected a multiple of %d, the model's block", inputs,
                       (long long)t->clip.latents, t->clip.block_latents);
    return 0;
}

int cv_cli_trace(int argc, char **argv)
{
    const char *model = NULL, *inputs = NULL, *outputs = NULL;
    const char *threads = NULL, *steps = NULL, *sampler = NULL;
    const char *device = NULL, *precision = NULL, *gpu = NULL, *vram = NULL;
    const char *text_encoder = NULL, *tokenizer = NULL;
    const char *lora = NULL, *checkpoint_key = NULL;
    int help = 0, verbose = 0, status = 1;
    const CvOption options[] = {
        { "model", &model, NULL, "PATH: the model; default: the sample model" },
        { "inputs", &inputs, NULL, "FILE: safetensors with noise and token_ids "
                                   "or text_embeds" },
        { "outputs", &outputs, NULL, "FILE: where what was computed goes" },
        { "sampler", &sampler, NULL, "NAME: in place of the recipe's" },
        { "steps", &steps, NULL, "N: in place of the recipe's" },
        { "device", &device, NULL, "NAME: auto, cpu or cuda; default: cpu" },
        { "gpu", &gpu, NULL, "N: which CUDA device" },
        { "precision", &precision, NULL, "NAME: auto, fp32, bf16 or fp8" },
        { "vram", &vram, NULL, "N: the most GPU memory to take, such as 12G" },
        { "text_encoder", &text_encoder, NULL, "PATH: in place of the model's" },
        { "tokenizer", &tokenizer, NULL, "PATH: in place of the model's" },
        { "checkpoint_key", &checkpoint_key, NULL,
          "NAME: of a .pt file's weights" },
        { "lora", &lora, NULL, "PATH=STRENGTH|...: merged into it" },
        { "threads", &threads, NULL, "N: CPU threads" },
        { "verbose", NULL, &verbose, "-v: say what is done" },
        { "help", NULL, &help, "print this" },
        { 0 }
    };
    CausvidSettings settings;
    CausvidClip args;
    Trace t = { 0 };
    int choice, entered;

    if (cv_cli_parse(argc, argv, options, NULL) < 0)
        return 2;
    if (help) {
        printf("usage: causvid trace --inputs FILE --outputs FILE [options]\n\n"
               "options:\n");
        cv_cli_help(options);
        return 0;
    }
    if (!inputs || !outputs) {
        fprintf(stderr, "causvid: trace needs --inputs and --outputs\n");
        return 2;
    }
    causvid_default_clip(&args);
    cv_cli_settings(&settings, verbose);
    settings.model  = model;
    settings.text_encoder = text_encoder;
    settings.tokenizer    = tokenizer;
    settings.lora         = lora;
    settings.checkpoint_key = checkpoint_key;
    settings.device = CAUSVID_DEVICE_CPU;
    if (device) {
        if ((choice = cv_cli_choice("device", device, "auto|cpu|cuda")) < 0)
            return 2;
        settings.device = (enum CausvidDevice)choice;
    }
    if (precision) {
        if ((choice = cv_cli_choice("precision", precision,
                                    "auto|fp32|bf16|fp8")) < 0)
            return 2;
        settings.precision = (enum CausvidPrecision)choice;
    }
    if ((threads && cv_cli_int("threads", threads, 1, CV_MAX_THREADS,
                               &settings.threads) < 0) ||
        (gpu && cv_cli_int("gpu", gpu, 0, 1023, &settings.gpu) < 0) ||
        (vram && cv_cli_bytes("vram", vram, &settings.vram_bytes) < 0) ||
        (steps && cv_cli_int("steps", steps, 1, CV_MAX_STEPS,
                             &args.steps) < 0))
        return 2;
    if (sampler && cv_sampler_from_name(sampler, &args.sampler) < 0) {
        fprintf(stderr, "causvid: --sampler is '%s', expected causvid, euler, "
                "unipc or flowmatch_causvid\n", sampler);
        return 2;
    }
    cv_log_init(&t.log, &settings);
    if (cv_model_open(&t.model, &settings, NULL, &t.log) < 0)
        goto end;
    entered = !cv_enter(t.model.backend);
    if (entered && prepare(&t, inputs, &args) == 0 &&
        cv_model_load(&t.model, NULL, &args) == 0 && run_clip(&t) == 0 &&
        cv_trace_write(&t.outputs, outputs, &t.log) == 0)
        status = 0;
    cv_trace_free(&t.outputs);
    cv_generator_close(&t.generator);
    cv_arena_free(&t.arena);
    cv_weights_close(&t.inputs);
    if (entered)
        cv_leave(t.model.backend);
    cv_model_close(&t.model);
end:
    cv_log_free(&t.log);
    return status;
}
