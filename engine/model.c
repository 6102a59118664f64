/*
 * A loaded model.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "config.h"
#include "device.h"
#include "model.h"

/* The model that is used when none is named: the installed sample model, also
 * where all that was installed has been moved, or the one in the source tree
 * for a build that was not installed. */
static const char *default_model(char moved[CV_FOLDER_BYTES])
{
    static const char installed[] = CAUSVID_DATADIR "/shapes";
    static const char beside[]    = "../share/causvid/shapes";
    size_t n;

    if (!access(installed, R_OK))
        return installed;
    cv_own_folder(moved);
    n = strlen(moved);
    if (n && n + sizeof(beside) <= CV_FOLDER_BYTES) {
        memcpy(moved + n, beside, sizeof(beside));
        if (!access(moved, R_OK))
            return moved;
    }
    return CAUSVID_SOURCE_MODEL;
}

/* The CUDA backend where the settings ask for it and it can be had; 0 and no
 * backend where device=auto has to take the CPU. */
static int open_cuda(CvModel *model, const CausvidSettings *settings)
{
    CvCudaSettings cuda = {
        .abi = CV_CUDA_ABI, .gpu = settings->gpu,
        .context = settings->cuda_context, .stream = settings->cuda_stream,
        .memory_bytes = settings->vram_bytes,
        .float32 = settings->precision == CAUSVID_PRECISION_FP32,
        .fp8 = settings->precision == CAUSVID_PRECISION_FP8 ? CV_FP8_ALL :
               settings->precision == CAUSVID_PRECISION_AUTO ? CV_FP8_PRODUCTS
                                                             : CV_FP8_NEVER,
        .attention8 = settings->precision == CAUSVID_PRECISION_FP8
                          ? CV_ATTENTION8_PAYS : CV_ATTENTION8_NEVER,
    };
    int wanted = settings->device == CAUSVID_DEVICE_CUDA;
    CvLog *log = model->log;
    char why[CV_WHY_SIZE];
    int err;

    if (settings->device == CAUSVID_DEVICE_CPU)
        return 0;
    if (settings->gpu < 0)
        return cv_fail(log, EINVAL, "gpu=%d: expected the number of a CUDA "
                       "device, 0 or more", settings->gpu);
    if (settings->vram_bytes < 0)
        return cv_fail(log, EINVAL, "vram=%lld: expected bytes, or 0 for what "
                       "is free", (long long)settings->vram_bytes);
    err = cv_trials(&cuda.trials, log);
    if (err < 0)
        return err;
    err = cv_device_open(&model->backend, &cuda, why, log);
    if (err == CAUSVID_ERR(ENODEV) || err == CAUSVID_ERR(ENOSYS)) {
        if (wanted)
            return cv_fail(log, -err, "device=cuda: %s; use device=cpu or "
                           "device=auto", why);
        /* Of a library without CUDA nobody expects a GPU. */
        cv_log(log, err == CAUSVID_ERR(ENOSYS) ? CAUSVID_LOG_VERBOSE :
               CAUSVID_LOG_INFO, "device=auto takes the CPU: %s", why);
        return 0;
    }
    if (!err && cuda.fp8 == CV_FP8_ALL &&
        !cv_type_is_fp8(model->backend->product))
        cv_log(log, CAUSVID_LOG_INFO, "precision=fp8 saves memory here, and no "
               "time: products in fp8 take a Hopper GPU (H100, H200) and CUDA "
               "12.9 or later");
    return err;
}

static int open_backend(CvModel *model, const CausvidSettings *settings)
{
    CvLog *log = model->log;
    int err = open_cuda(model, settings);

    if (err < 0 || model->backend)
        return err;
    if (settings->precision == CAUSVID_PRECISION_BF16 ||
        settings->precision == CAUSVID_PRECISION_FP8)
        return cv_fail(log, ENOSYS, "precision=%s needs a CUDA device; on the "
                       "CPU use precision=fp32 or precision=auto",
                       settings->precision == CAUSVID_PRECISION_BF16 ? "bf16"
                                                                     : "fp8");
    return cv_cpu_open(&model->backend, settings->threads, log);
}

/* The networks are read from separate files: check that they belong together,
 * before one of them meets a tensor of a wrong shape. */
static int check_fit(const CvModel *model)
{
    const CvDitSize *size = cv_dit_size(model->dit);
    int64_t vocab = cv_umt5_vocab(model->umt5);
    int64_t text = cv_umt5_dim(model->umt5);
    int64_t pieces = cv_tokenizer_size(model->tokenizer);
    int channels = cv_vae_channels(model->vae), err;

    if (pieces > vocab)
        return cv_fail(model->log, EILSEQ, "tokenizer '%s' has %lld pieces, "
                       "but text encoder '%s' has %lld rows for them; they "
                       "belong to different models", model->files.tokenizer,
                       (long long)pieces, model->files.text_encoder,
                       (long long)vocab);
    if ((err = cv_tokenizer_fit(model->tokenizer, vocab, model->log)) < 0)
        return err;
    if (text != size->text_dim)
        return cv_fail(model->log, EILSEQ, "text encoder '%s' gives %lld "
                       "values a token, but transformer '%s' expects %lld; "
                       "they belong to different models",
                       model->files.text_encoder, (long long)text,
                       model->files.transformer, (long long)size->text_dim);
    if (channels != size->in_channels || channels != size->out_channels)
        return cv_fail(model->log, EILSEQ, "VAE '%s' has latents of %d "
                       "channels, but transformer '%s' takes %lld and gives "
                       "%lld; they belong to different models",
                       model->files.vae, channels, model->files.transformer,
                       (long long)size->in_channels,
                       (long long)size->out_channels);
    return 0;
}

/* The folder's model_index.json, of which only this matters: that it does not
 * ask for more than the parts that are read here. */
static int check_index(const CvModel *model)
{
    char path[CV_PATH_SIZE], *text;
    cJSON *json;
    const cJSON *item, *first;
    int err;

    if (snprintf(path, sizeof(path), "%s/model_index.json",
                 model->files.root) >= (int)sizeof(path) || access(path, F_OK))
        return 0; /* only the diffusers layout has one */
    if ((err = cv_json_read(&json, path, model->log)) < 0)
        return err;
    item  = cJSON_GetObjectItemCaseSensitive(json, "transformer_2");
    first = cJSON_IsArray(item) ? item->child : item;
    if (!cJSON_IsObject(json)) {
        err = cv_fail(model->log, EILSEQ, "'%s': expected a JSON object with "
                      "the parts of a model", path);
    } else if (first && !cJSON_IsNull(first)) {
        text = cJSON_PrintUnformatted(item);
        err  = cv_fail(model->log, ENOSYS, "'%s': transformer_2 is %.80s: a "
                       "model of two transformers (Wan 2.2), which is not "
                       "supported; use a Wan 2.1 text-to-video model", path,
                       text ? text : "set");
        cJSON_free(text);
    }
    cJSON_Delete(json);
    return err;
}

static int open_tokenizer(CvModel *model)
{
    const CvModelFiles *files = &model->files;

    if (files->tokenizer_embedded)
        return cv_tokenizer_open_embedded(&model->tokenizer, files->tokenizer,
                                          model->log);
    return cv_tokenizer_open(&model->tokenizer, files->tokenizer, model->log);
}

static int merge_loras(CvModel *model, const char *list)
{
    int err = cv_dit_merge(model->dit, list);

    return err < 0 ? err : cv_recipe_loras(&model->recipe, list,
                                           cv_dit_size(model->dit),
                                           model->log);
}

static int open_cache(CvModel *model, const char *folder)
{
    return cv_text_cache_open(&model->cache, folder,
                              cv_umt5_weights(model->umt5),
                              model->files.text_encoder_config, model->backend,
                              model->log);
}

/* Programs that call from other languages give numbers. */
static int check_choices(const CausvidSettings *settings, CvLog *log)
{
    const struct { const char *name; int value, last; } choices[] = {
        { "variant", (int)settings->variant, CAUSVID_VARIANT_BIDIRECTIONAL },
        { "precision", (int)settings->precision, CAUSVID_PRECISION_FP8 },
        { "device", (int)settings->device, CAUSVID_DEVICE_CUDA },
    };

    for (size_t i = 0; i < sizeof(choices) / sizeof(*choices); i++)
        if (choices[i].value < 0 || choices[i].value > choices[i].last)
            return cv_fail(log, EINVAL, "%s: %d is none of its values; "
                           "expected 0 to %d, see causvid.h", choices[i].name,
                           choices[i].value, choices[i].last);
    return 0;
}

int cv_model_open(CvModel *model, const CausvidSettings *settings,
                  CvBackend *backend, CvLog *log)
{
    CausvidSettings wanted = *settings;
    CvModelFiles *files = &model->files;
    char moved[CV_FOLDER_BYTES];
    int entered = 0, err;

    memset(model, 0, sizeof(*model));
    model->log     = log;
    model->backend = backend;
    if ((err = check_choices(settings, log)) < 0)
        goto fail;
    if (!wanted.model)
        wanted.model = default_model(moved);
    if (!(model->first_text = calloc(1, sizeof(*model->first_text)))) {
        err = cv_fail_memory(log, sizeof(*model->first_text), "a prompt");
        goto fail;
    }
    /* Which words a prompt has does not matter there, only their number. */
    if (cv_random_is(wanted.model) && !wanted.tokenizer)
        wanted.tokenizer = default_model(moved);
    if ((!backend && (err = open_backend(model, &wanted)) < 0) ||
        (err = cv_enter(model->backend)) < 0)
        goto fail;
    entered = 1;
    if ((err = cv_files_find(files, &wanted, log)) < 0 ||
        (err = check_index(model)) < 0 ||
        (err = open_tokenizer(model)) < 0 ||
        (err = cv_umt5_open(&model->umt5, model->backend, files->text_encoder,
                            files->text_encoder_config, log)) < 0 ||
        (err = cv_dit_open(&model->dit, model->backend, files->transformer,
                           files->checkpoint_key, files->transformer_config,
                           log)) < 0 ||
        (err = cv_vae_open(&model->vae, model->backend, files->vae,
                           files->vae_config, 0, log)) < 0 ||
        (err = cv_recipe_init(&model->recipe, files, cv_dit_size(model->dit),
                              wanted.variant, log)) < 0 ||
        (wanted.lora && (err = merge_loras(model, wanted.lora)) < 0) ||
        (err = check_fit(model)) < 0 ||
        (wanted.cache && (err = open_cache(model, wanted.cache)) < 0))
        goto fail;
    cv_leave(model->backend);
    return 0;
fail:
    if (entered)
        cv_leave(model->backend);
    cv_model_close(model);
    return err;
}

int64_t cv_model_try_tokens(const CvModel *model, const char *prompt,
                            int32_t ids[CV_MAX_TOKENS])
{
    char *cleaned = NULL;
    int64_t n = 0;

    if (!prompt || cv_clean_prompt(&cleaned, prompt, NULL) < 0 || !*cleaned ||
        cv_tokenizer_encode(model->tokenizer, cleaned, ids, &n, NULL) < 0)
        n = 0;
    free(cleaned);
    return n < CV_MAX_TOKENS ? n : CV_MAX_TOKENS;
}

void cv_model_close(CvModel *model)
{
    int entered = model->backend && !cv_enter(model->backend);

    cv_vae_close(&model->vae);
    cv_dit_close(&model->dit);
    cv_text_cache_close(&model->cache);
    if (model->first_text)
        cv_first_text_free(model->first_text);
    free(model->first_text);
    model->first_text = NULL;
    cv_umt5_close(&model->umt5);
    cv_tokenizer_close(&model->tokenizer);
    if (entered)
        cv_leave(model->backend);
    if (model->backend)
        model->backend->close(&model->backend);
}

size_t cv_model_bytes(const CvModel *model)
{
    return cv_umt5_bytes(model->umt5) + cv_dit_bytes(model->dit) +
           cv_vae_bytes(model->vae);
}

static int has_prompt(const CvModel *model, const char *prompt)
{
    int32_t ids[CV_MAX_TOKENS];
    const int64_t n = cv_model_try_tokens(model, prompt, ids);

    return n > 0 && cv_text_cache_has(model->cache, ids, n,
                                      cv_umt5_dim(model->umt5));
}

int cv_model_has_prompts(const CvModel *model, const CausvidClip *args)
{
    const CvRecipe *r = &model->recipe;

    if (!model->cache || !args || !has_prompt(model, args->prompt))
        return 0;
    return (args->guidance < 0 ? r->guidance : args->guidance) == 1 ||
           has_prompt(model, args->negative_prompt ? args->negative_prompt
                                                   : r->negative_prompt);
}

int cv_model_tokens(const CvModel *model, const char *prompt,
                    const char *option, int may_be_empty,
                    int32_t ids[CV_MAX_TOKENS], int64_t *n)
{
    CvLog *log = model->log;
    char *cleaned = NULL;
    int err = cv_clean_prompt(&cleaned, prompt, log);

    if (err < 0)
        return err;
    if (!*cleaned && !may_be_empty) {
        err = cv_fail(log, EINVAL, "%s is empty; say what the video shows, "
                      "for example %s='a red circle moves right'", option,
                      option);
        goto end;
    }
    err = cv_tokenizer_encode(model->tokenizer, cleaned, ids, n, log);
    if (!err && *n > CV_MAX_TOKENS) {
        cv_log(log, CAUSVID_LOG_WARNING, "%s has %lld tokens, the model reads "
               "%d: the rest is ignored", option, (long long)*n,
               CV_MAX_TOKENS);
        *n = CV_MAX_TOKENS;
    }
end:
    free(cleaned);
    return err;
}
