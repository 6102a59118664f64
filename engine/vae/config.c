/*
 * The config.json of a diffusers VAE: what is supported, what must agree with
 * the weights, and the statistics of latents.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#include "vae/net.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* Statistics of latents are of the order of 1. */
#define MAX_STATISTIC 1e6

/* Of the Wan 2.1 VAE, checkpoints.md 6.1; files with official names come
 * without a config. */
static const double wan_mean[16] = {
    -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
    0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
};
static const double wan_std[16] = {
    2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
    3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160,
};

/* Whatever changes the graph beyond what the tensor names tell. */
static int refuse_unsupported(const cJSON *json, const char *path, CvLog *log)
{
    const cJSON *scales;
    char name[64] = "AutoencoderKLWan";
    int64_t patch = 1, in = 3, out = 3;
    int residual = 0, clip = 1, err;

    if ((err = cv_json_string(json, path, "_class_name", name, sizeof(name),
                              log)) < 0 ||
        (err = cv_json_bool(json, path, "is_residual", &residual, log)) < 0 ||
        (err = cv_json_int(json, path, "patch_size", 1, 64, &patch,
                           log)) < 0 ||
        (err = cv_json_int(json, path, "in_channels", 1, 4096, &in,
                           log)) < 0 ||
        (err = cv_json_int(json, path, "out_channels", 1, 4096, &out,
                           log)) < 0 ||
        (err = cv_json_bool(json, path, "clip_output", &clip, log)) < 0)
        return err;
    if (strcmp(name, "AutoencoderKLWan"))
        return cv_fail(log, ENOSYS,
                       "%s: describes '%s'; the only VAE that is supported is "
                       "Wan 2.1's, an AutoencoderKLWan", path, name);
    if (residual || patch != 1)
        return cv_fail(log, ENOSYS,
                       "%s: describes the Wan 2.2 VAE (is_residual %s, "
                       "patch_size %lld), which is not supported; the Wan 2.1 "
                       "VAE is", path, residual ? "true" : "false",
                       (long long)patch);
    if (in != 3 || out != 3)
        return cv_fail(log, ENOSYS,
                       "%s: in_channels %lld and out_channels %lld are not "
                       "supported, only 3 and 3 (RGB)", path, (long long)in,
                       (long long)out);
    if (!clip)
        return cv_fail(log, ENOSYS,
                       "%s: clip_output false is not supported", path);
    scales = cJSON_GetObjectItemCaseSensitive(json, "attn_scales");
    if (cJSON_IsArray(scales) && scales->child)
        return cv_fail(log, ENOSYS,
                       "%s: attn_scales are not supported, only attention in "
                       "the middle block", path);
    return 0;
}

static int read_temporal(CvVaeConfig *config, const cJSON *json, CvLog *log)
{
    const char *key = "temperal_downsample"; /* as the field is spelled */
    const cJSON *array = cJSON_GetObjectItemCaseSensitive(json, key);
    const cJSON *item;

    config->n_temporal = 0;
    if (!array || cJSON_IsNull(array))
        return 0;
    cJSON_ArrayForEach(item, array) {
        if (!cJSON_IsBool(item) || config->n_temporal == CV_VAE_MAX_RESAMPLERS)
            goto bad;
        config->temporal[config->n_temporal++] = cJSON_IsTrue(item);
    }
    if (cJSON_IsArray(array))
        return 0;
bad:
    return cv_fail(log, EILSEQ, "%s: '%s' must be an array of at most %d "
                   "booleans", config->path, key, CV_VAE_MAX_RESAMPLERS);
}

int cv_vae_config_read(CvVaeConfig *config, const char *path, CvLog *log)
{
    cJSON *json = NULL;
    int err;

    *config = (CvVaeConfig){ .num_res_blocks = -1 };
    if (!path[0])
        return 0;
    if (strlen(path) >= sizeof(config->path))
        return cv_fail(log, EINVAL, "path of the VAE's config is longer than "
                       "%zu bytes", sizeof(config->path) - 1);
    strcpy(config->path, path);
    err = cv_json_read(&json, path, log);
    if (err < 0)
        return err;
    if (!cJSON_IsObject(json)) {
        err = cv_fail(log, EILSEQ, "'%s': expected a JSON object with the "
                      "VAE's sizes", path);
        goto end;
    }
    config->n_mult = CV_VAE_MAX_RESAMPLERS + 1;
    config->n_mean = config->n_std = CV_VAE_MAX_CHANNELS;
    if ((err = refuse_unsupported(json, path, log)) < 0 ||
        (err = cv_json_int(json, path, "z_dim", 1, CV_VAE_MAX_CHANNELS,
                           &config->z_dim, log)) < 0 ||
        (err = cv_json_int(json, path, "base_dim", 1, CV_VAE_MAX_WIDTH,
                           &config->base_dim, log)) < 0 ||
        (err = cv_json_int(json, path, "decoder_base_dim", 1,
                           CV_VAE_MAX_WIDTH, &config->decoder_base_dim,
                           log)) < 0 ||
        (err = cv_json_int(json, path, "num_res_blocks", 0, CV_VAE_MAX_STEPS,
                           &config->num_res_blocks, log)) < 0 ||
        (err = cv_json_int(json, path, "scale_factor_spatial", 1, 4096,
                           &config->scale, log)) < 0 ||
        (err = cv_json_int(json, path, "scale_factor_temporal", 1, 4096,
                           &config->time_scale, log)) < 0 ||
        (err = cv_json_numbers(json, path, "dim_mult", config->dim_mult,
                               &config->n_mult, log)) < 0 ||
        (err = read_temporal(config, json, log)) < 0 ||
        (err = cv_json_numbers(json, path, "latents_mean", config->mean,
                               &config->n_mean, log)) < 0 ||
        (err = cv_json_numbers(json, path, "latents_std", config->std,
                               &config->n_std, log)) < 0)
        goto end;
    for (int i = 0; i < config->n_mult; i++)
        if (!(config->dim_mult[i] > 0) ||
            config->dim_mult[i] > CV_VAE_MAX_WIDTH) {
            err = cv_fail(log, EILSEQ, "'%s': dim_mult holds %g; expected "
                          "numbers above 0, at most %d", path,
                          config->dim_mult[i], CV_VAE_MAX_WIDTH);
            goto end;
        }
    if (!config->decoder_base_dim)
        config->decoder_base_dim = config->base_dim;
end:
    cJSON_Delete(json);
    return err < 0 ? err : 0;
}

static int check_number(const CvVaeConfig *config, const char *key,
                        int64_t said, int64_t found, CvLog *log)
{
    if (said <= 0 || said == found)
        return 0;
    return cv_fail(log, EILSEQ,
                   "%s: '%s' is %lld, but the weights have %lld; does the "
                   "config belong to other weights?", config->path, key,
                   (long long)said, (long long)found);
}

/* "a residual block to 384 channels" */
static const char *step_text(char text[64], int resample, int has_time,
                             int64_t out)
{
    snprintf(text, 64, "a %s to %lld channels",
             !resample ? "residual block" :
             has_time ? "resampler with time" : "resampler without time",
             (long long)out);
    return text;
}

/*
 * Hold the chain of blocks that dim_mult, num_res_blocks and
 * temperal_downsample describe beside the chain that the names gave.
 * Source: diffusers autoencoder_kl_wan.py, WanDecoder3d and WanEncoder3d.
 */
static int check_chain(const CvVaeConfig *config, const CvVaeNet *net,
                       int64_t base, CvLog *log)
{
    int stages = config->n_mult, blocks = (int)config->num_res_blocks;
    int k = net->up ? 3 : 0, end = net->up ? net->n_steps : net->n_steps - 3;

    if (!stages || blocks < 0 || !base || config->n_temporal < stages - 1)
        return 0; /* not described */
    if (net->up)
        blocks++;
    for (int i = 0; i < stages; i++) {
        int from = net->up ? stages - 1 - i : i;
        int64_t width = (int64_t)((double)base * config->dim_mult[from]);
        int more = i < stages - 1; /* a resampler follows */
        int time = more && config->temporal[net->up ? stages - 2 - i : i];

        for (int j = 0; j < blocks + more; j++, k++) {
            const CvVaeStep *step = &net->steps[k];
            int resample = j == blocks;
            int64_t out = resample && net->up ? width / 2 : width;
            char said[64], found[64];

            if (k >= end)
                break;
            if ((step->kind == CV_VAE_RESAMPLE) == resample &&
                step->out == out && (!resample || step->has_time == time))
                continue;
            return cv_fail(log, EILSEQ,
                           "%s: by dim_mult, num_res_blocks and "
                           "temperal_downsample, block %d of the %s is %s, "
                           "but the weights have %s; does the config belong "
                           "to other weights?", config->path,
                           net->up ? k - 3 : k, net->name,
                           step_text(said, resample, time, out),
                           step_text(found, step->kind == CV_VAE_RESAMPLE,
                                     step->has_time, step->out));
        }
    }
    if (k == end)
        return 0;
    return cv_fail(log, EILSEQ,
                   "%s: by dim_mult and num_res_blocks, the %s has %d blocks, "
                   "but the weights have %d; does the config belong to other "
                   "weights?", config->path, net->name,
                   stages * blocks + stages - 1,
                   net->up ? end - 3 : end);
}

int cv_vae_config_check(const CvVaeConfig *config, const CvVae *vae,
                        CvLog *log)
{
    int err;

    if (!config->path[0])
        return 0;
    if ((err = check_number(config, "z_dim", config->z_dim, vae->channels,
                            log)) < 0 ||
        (err = check_number(config, "scale_factor_spatial", config->scale,
                            vae->decoder.scale, log)) < 0 ||
        (err = check_number(config, "scale_factor_temporal",
                            config->time_scale, vae->decoder.time_scale,
                            log)) < 0 ||
        (err = check_chain(config, &vae->decoder, config->decoder_base_dim,
                           log)) < 0)
        return err;
    if (vae->has_encoder)
        return check_chain(config, &vae->encoder, config->base_dim, log);
    return 0;
}

int cv_vae_statistics(CvVae *vae, const CvVaeConfig *config, const char *path,
                      CvLog *log)
{
    const double *mean = config->mean, *std = config->std;

    if (config->n_mean || config->n_std) {
        if (config->n_mean != vae->channels || config->n_std != vae->channels)
            return cv_fail(log, EILSEQ,
                           "%s: 'latents_mean' has %d and 'latents_std' %d "
                           "numbers, but latents have %d channels",
                           config->path, config->n_mean, config->n_std,
                           vae->channels);
    } else if (vae->channels == 16) {
        mean = wan_mean;
        std = wan_std;
    } else {
        return cv_fail(log, EILSEQ,
                       "%s: latents have %d channels, which are not those of "
                       "Wan 2.1 (16), so a config.json with latents_mean and "
                       "latents_std is needed beside the weights",
                       config->path[0] ? config->path : path, vae->channels);
    }
    for (int i = 0; i < vae->channels; i++) {
        if (!(fabs(mean[i]) <= MAX_STATISTIC) ||
            !(std[i] >= 1 / MAX_STATISTIC && std[i] <= MAX_STATISTIC))
            return cv_fail(log, EILSEQ,
                           "%s: mean %g and std %g of latent channel %d; "
                           "expected numbers like -0.75 and 2.8, the second "
                           "above 0", config->path, mean[i], std[i], i);
        vae->decode_mul[i] = (float)std[i];
        vae->decode_add[i] = (float)mean[i];
        vae->encode_mul[i] = (float)(1 / std[i]);
        vae->encode_add[i] = (float)(-mean[i] / std[i]);
    }
    return 0;
}
