/*
 * `causvid info`: what a model is, without loading it.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * The model is opened on the null backend: names, shapes and types are checked
 * as for a run, and the memory of a clip is planned, but no weights are read
 * into memory. It is opened twice: with the types of the CPU backend and with
 * those of the CUDA backend.
 */
#include <stdio.h>
#include <string.h>

#include "device.h"
#include "info.h"

/* MB */
typedef struct Memory {
    double weights, clip;
    double backend; /* of a GPU: its own */
} Memory;

/* Open a null backend whose activations and weights are of this type; with
 * precision=fp8 as a GPU has it that multiplies fp8. */
static int open_model(CvModel *model, const CausvidSettings *settings,
                      CvType type, CvLog *log)
{
    CvBackend *backend;
    unsigned trials;
    int err = cv_null_open(&backend, log);

    if (err < 0)
        return err;
    backend->activation = backend->weight = type;
    backend->fp8 = type == CV_BF16;
    backend->narrow = backend->fp8 &&
                      settings->precision == CAUSVID_PRECISION_FP8;
    backend->product = backend->narrow ? CV_F8_E4M3 : type;
    if ((err = cv_trials(&trials, log)) < 0) {
        backend->close(&backend);
        return err;
    }
    if (backend->narrow && trials & CV_TRIAL_OUTPUTS8)
        backend->product_heads = 128;
    return cv_model_open(model, settings, backend, log);
}

/* Plan a clip of this size on the null backend. */
static int plan_clip(CvModel *model, const CausvidClip *args, CvClip *clip,
                     Memory *memory)
{
    int64_t bytes;
    int err;

    if ((err = cv_clip_init(clip, model, args)) < 0 ||
        (err = cv_generator_plan(&bytes, model, clip,
                                 cv_clip_slots(clip))) < 0)
        return err;
    memory->weights = (double)cv_model_bytes(model) / 1e6;
    memory->clip    = (double)bytes / 1e6;
    memory->backend = CV_CUDA_OWN_BYTES / 1e6;
    if (model->backend->narrow)
        memory->backend += CV_CUDA_ATTENTION8_BYTES / 1e6;
    return 0;
}

/* What is streamed: nothing, the text encoder, the transformer's weights for text
 * too, and its layers. */
enum { RESIDENT, STREAMED, TEXT, LEAST, N_PLANS };

/* The same in bf16 or fp8, as a GPU takes it; without a word, all was said
 * before. */
static int plan_gpu(const CausvidSettings *settings, const CausvidClip *args,
                    Memory gpu[N_PLANS])
{
    CausvidSettings silent = *settings;
    CvModel model;
    CvClip clip;
    CvLog log;
    int err;

    silent.log = NULL;
    cv_log_init(&log, &silent);
    err = open_model(&model, &silent, CV_BF16, &log);
    if (!err) {
        for (int i = RESIDENT; i < N_PLANS && !err; i++) {
            if (i == STREAMED)
                cv_umt5_stream(model.umt5);
            else if (i == TEXT)
                cv_dit_stream_text(model.dit);
            else if (i == LEAST)
                cv_dit_stream_layers(model.dit, INT64_MAX);
            err = plan_clip(&model, args, &clip, &gpu[i]);
        }
        cv_model_close(&model);
    }
    cv_log_free(&log);
    return err;
}

/* What a GPU is asked for. */
static double gpu_total(const Memory *gpu)
{
    return gpu->weights + gpu->clip + gpu->backend;
}

static const char *licence(const CvRecipe *r)
{
    return r->licence[0] ? r->licence :
           "not known here; see where the weights come from";
}

static void print_text(const CvModel *m, const CvInfoPart *parts,
                       const char *tokenizer, const CvClip *clip,
                       const Memory *memory, const Memory gpu[N_PLANS],
                       const char *type)
{
    static const char *const streamed[N_PLANS] = {
        "", "its text encoder", "its weights for text", "all of its layers"
    };
    const CvRecipe *r = &m->recipe;

    printf("model         %s\n", m->files.root);
    printf("name          %s (%s)\n", r->name, cv_variant_name(r->variant));
    printf("kind          text to video (T2V)\n");
    printf("variant       %s: %s\n", cv_variant_name(r->variant), r->why);
    printf("licence       %s\n", licence(r));
    printf("transformer   %s\n", cv_dit_describe(m->dit));
    cv_info_print(&parts[0]);
    printf("text encoder  %s\n", cv_umt5_describe(m->umt5));
    cv_info_print(&parts[1]);
    printf("VAE           %s\n", cv_vae_describe(m->vae));
    cv_info_print(&parts[2]);
    printf("tokenizer     %lld pieces\n              %s (%s)\n",
           (long long)cv_tokenizer_size(m->tokenizer), m->files.tokenizer,
           tokenizer);
    printf("recipe        from %s%s%s: %dx%d, %lld frames at %d/%d frames/s\n",
           r->source, r->family[0] ? ", " : "", r->family, r->width, r->height,
           (long long)r->frames, r->rate_num, r->rate_den);
    printf("              sampler %s, %d steps, shift %g, guidance %g\n",
           cv_sampler_name(r->sampler), r->steps, r->shift, r->guidance);
    printf("              timesteps");
    for (int i = 0; i < clip->schedule.steps && i < 16; i++)
        printf(" %.6g", clip->schedule.timestep[i]);
    printf("%s\n", clip->schedule.steps > 16 ? " ..." : "");
    if (r->variant == CAUSVID_VARIANT_CAUSAL)
        printf("              blocks of %d latent frames, attention over %d\n",
               r->frames_per_block, r->window);
    printf("memory        %.0f MB for %dx%d, %lld frames on the CPU: weights "
           "%.0f MB, clip %.0f MB\n", memory->weights + memory->clip,
           clip->width, clip->height, (long long)clip->frames, memory->weights,
           memory->clip);
    printf("              %.0f MB on a GPU in %s: weights %.0f MB, clip "
           "%.0f MB, backend %.0f MB\n", gpu_total(gpu), type, gpu->weights,
           gpu->clip, gpu->backend);
    for (int i = STREAMED; i < N_PLANS; i++)
        if (gpu_total(&gpu[i]) < gpu_total(&gpu[i - 1]))
            printf("              %.0f MB there with %s streamed%s: weights "
                   "%.0f MB, clip %.0f MB\n", gpu_total(&gpu[i]), streamed[i],
                   i == STREAMED ? "" : " too", gpu[i].weights, gpu[i].clip);
}

#define add cv_info_add

/* The networks and the tokenizer. */
static int add_parts(cJSON *o, const CvModel *m, const CvInfoPart *parts,
                     const char *tokenizer)
{
    const CvDitSize *size = cv_dit_size(m->dit);
    const struct { const char *key; int64_t value; } sizes[] = {
        { "layers", size->layers }, { "dim", size->dim },
        { "heads", size->heads }, { "ffn_dim", size->ffn_dim },
        { "in_channels", size->in_channels },
    };
    cJSON *list = cJSON_CreateArray(), *t = cJSON_CreateObject(), *part;

    for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++)
        if (add(o, sizes[i].key,
                cJSON_CreateNumber((double)sizes[i].value)) < 0)
            goto fail;
    for (int i = 0; i < CV_INFO_PARTS; i++) {
        if (!list || !(part = cv_info_json(&parts[i])))
            goto fail;
        cJSON_AddItemToArray(list, part);
    }
    if (add(t, "part", cJSON_CreateString("tokenizer")) < 0 ||
        add(t, "path", cJSON_CreateString(m->files.tokenizer)) < 0 ||
        add(t, "found", cJSON_CreateString(tokenizer)) < 0)
        goto fail;
    cJSON_AddItemToArray(list, t);
    return add(o, "parts", list);
fail:
    cJSON_Delete(t);
    cJSON_Delete(list);
    return -1;
}

static int add_recipe(cJSON *o, const CvRecipe *r, const CvSchedule *schedule)
{
    const int causal = r->variant == CAUSVID_VARIANT_CAUSAL;

    if (add(o, "recipe_source", cJSON_CreateString(r->source)) < 0 ||
        add(o, "sampler",
            cJSON_CreateString(cv_sampler_name(r->sampler))) < 0 ||
        add(o, "steps", cJSON_CreateNumber(r->steps)) < 0 ||
        add(o, "timesteps", cJSON_CreateDoubleArray(schedule->timestep,
                                                    schedule->steps)) < 0 ||
        add(o, "shift", cJSON_CreateNumber(r->shift)) < 0 ||
        add(o, "guidance", cJSON_CreateNumber(r->guidance)) < 0 ||
        (causal && add(o, "frames_per_block",
                       cJSON_CreateNumber(r->frames_per_block)) < 0) ||
        (causal && add(o, "window", cJSON_CreateNumber(r->window)) < 0))
        return -1;
    return add(o, "rate", cJSON_CreateNumber((double)r->rate_num /
                                             r->rate_den));
}

static int print_json(const CvModel *m, const CvInfoPart *parts,
                      const char *tokenizer, const CvClip *clip,
                      const Memory *memory, const Memory gpu[N_PLANS])
{
    const CvRecipe *r = &m->recipe;
    cJSON *o = cJSON_CreateObject();
    int err = -1;

    if (!o ||
        add(o, "model", cJSON_CreateString(m->files.root)) < 0 ||
        add(o, "name", cJSON_CreateString(r->name)) < 0 ||
        add(o, "variant",
            cJSON_CreateString(cv_variant_name(r->variant))) < 0 ||
        add(o, "variant_why", cJSON_CreateString(r->why)) < 0 ||
        add(o, "kind", cJSON_CreateString("t2v")) < 0 ||
        add(o, "family", cJSON_CreateString(r->family)) < 0 ||
        add(o, "licence", cJSON_CreateString(licence(r))) < 0 ||
        add_parts(o, m, parts, tokenizer) < 0 ||
        add(o, "transformer",
            cJSON_CreateString(cv_dit_describe(m->dit))) < 0 ||
        add(o, "text_encoder",
            cJSON_CreateString(cv_umt5_describe(m->umt5))) < 0 ||
        add(o, "vae", cJSON_CreateString(cv_vae_describe(m->vae))) < 0 ||
        add(o, "tokenizer_pieces", cJSON_CreateNumber(
                (double)cv_tokenizer_size(m->tokenizer))) < 0 ||
        add_recipe(o, r, &clip->schedule) < 0 ||
        add(o, "width", cJSON_CreateNumber(clip->width)) < 0 ||
        add(o, "height", cJSON_CreateNumber(clip->height)) < 0 ||
        add(o, "frames", cJSON_CreateNumber((double)clip->frames)) < 0 ||
        add(o, "weights_mb", cJSON_CreateNumber(memory->weights)) < 0 ||
        add(o, "clip_mb", cJSON_CreateNumber(memory->clip)) < 0 ||
        add(o, "gpu_weights_mb", cJSON_CreateNumber(gpu->weights)) < 0 ||
        add(o, "gpu_clip_mb", cJSON_CreateNumber(gpu->clip)) < 0 ||
        add(o, "gpu_backend_mb",
            cJSON_CreateNumber(gpu->backend)) < 0 ||
        add(o, "gpu_mb", cJSON_CreateNumber(gpu_total(gpu))) < 0 ||
        add(o, "gpu_streamed_mb",
            cJSON_CreateNumber(gpu_total(&gpu[STREAMED]))) < 0 ||
        add(o, "gpu_text_streamed_mb",
            cJSON_CreateNumber(gpu_total(&gpu[TEXT]))) < 0 ||
        add(o, "gpu_least_mb",
            cJSON_CreateNumber(gpu_total(&gpu[LEAST]))) < 0)
        goto end;
    err = cv_info_puts(o, 1);
end:
    cJSON_Delete(o);
    return err;
}

int cv_cli_info(int argc, char **argv)
{
    const char *path = NULL, *size = NULL, *frames = NULL, *variant = NULL;
    const char *text_encoder = NULL, *vae = NULL, *tokenizer = NULL;
    const char *lora = NULL, *checkpoint_key = NULL, *precision = NULL;
    int json = 0, help = 0, verbose = 0, status = 1, n_frames = 0;
    const CvOption options[] = {
        { "size", &size, NULL, "WxH: plan the memory for this size" },
        { "frames", &frames, NULL, "N: plan for a clip of this length" },
        { "variant", &variant, NULL, "NAME: auto, causal or bidirectional" },
        { "text_encoder", &text_encoder, NULL,
          "PATH: in place of the model's" },
        { "vae", &vae, NULL, "PATH: in place of the model's" },
        { "tokenizer", &tokenizer, NULL, "PATH: in place of the model's" },
        { "checkpoint_key", &checkpoint_key, NULL,
          "NAME: of a .pt file's weights" },
        { "lora", &lora, NULL, "PATH=STRENGTH|...: merged into it" },
        { "precision", &precision, NULL, "NAME: plan a GPU's memory for bf16 "
                                         "(the default) or fp8" },
        { "json", NULL, &json, "print JSON" },
        { "verbose", NULL, &verbose, "-v: say which files are opened" },
        { "help", NULL, &help, "print this" },
        { 0 }
    };
    CausvidSettings settings;
    CausvidClip args;
    CvLog log;
    CvModel model;
    CvClip clip;
    Memory memory, gpu[N_PLANS];
    CvInfoPart parts[CV_INFO_PARTS];

    if (cv_cli_parse(argc, argv, options, &path) < 0)
        return 2;
    if (help) {
        printf("usage: causvid info [options] [MODEL]\n\nWithout MODEL, the "
               "sample model is described.\n\noptions:\n");
        cv_cli_help(options);
        return 0;
    }
    causvid_default_clip(&args);
    if (size && cv_cli_size(size, &args.width, &args.height) < 0)
        return 2;
    if (frames && cv_cli_int("frames", frames, 1, 1 << 20, &n_frames) < 0)
        return 2;
    args.frames = n_frames;

    cv_cli_settings(&settings, verbose);
    settings.model        = path;
    settings.text_encoder = text_encoder;
    settings.vae          = vae;
    settings.tokenizer    = tokenizer;
    settings.lora         = lora;
    settings.checkpoint_key = checkpoint_key;
    if (variant) {
        int choice = cv_cli_choice("variant", variant,
                                   "auto|causal|bidirectional");

        if (choice < 0)
            return 2;
        settings.variant = (enum CausvidVariant)choice;
    }
    if (precision) {
        int choice = cv_cli_choice("precision", precision, "bf16|fp8");

        if (choice < 0)
            return 2;
        settings.precision = choice ? CAUSVID_PRECISION_FP8
                                    : CAUSVID_PRECISION_BF16;
    }
    cv_log_init(&log, &settings);
    if (open_model(&model, &settings, CV_F32, &log) < 0)
        goto end;
    if (plan_clip(&model, &args, &clip, &memory) == 0 &&
        plan_gpu(&settings, &args, gpu) == 0 &&
        cv_info_parts(parts, &model, &settings) == 0) {
        const char *where = cv_info_tokenizer(&model, &settings);

        status = 0;
        if (json)
            status = print_json(&model, parts, where, &clip, &memory,
                                gpu) < 0;
        else
            print_text(&model, parts, where, &clip, &memory, gpu,
                       settings.precision == CAUSVID_PRECISION_FP8 ? "fp8"
                                                                   : "bf16");
    }
    cv_model_close(&model);
end:
    cv_log_free(&log);
    return status;
}
