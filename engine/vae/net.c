/*
 * Reading the graph of a VAE from its tensor names and shapes.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * Names and shapes: checkpoints.md 2.3. Nothing but the names says how many
 * residual blocks a stage has, and nothing but `time_conv` which resamplers
 * change time.
 */
#include "vae/net.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PATH_SIZE 96

/* 1 when some tensor's name begins with `stem`.`part`. */
static int has_any(CvWeights *weights, const char *stem, const char *part)
{
    char prefix[PATH_SIZE];
    int length = snprintf(prefix, sizeof(prefix), "%s.%s", stem, part);

    for (int64_t i = 0; i < cv_weights_count(weights); i++)
        if (!strncmp(cv_weights_at(weights, i)->name, prefix, (size_t)length))
            return 1;
    return 0;
}

int64_t cv_vae_outputs(CvLoader *loader, const char *path, int64_t expected)
{
    const CvEntry *entry = cv_weights_find(loader->weights, "%s.weight", path);

    if (!entry || entry->tensor.n_dims < 1 || entry->tensor.dim[0] < 1 ||
        entry->tensor.dim[0] > CV_VAE_MAX_WIDTH)
        return expected;
    return entry->tensor.dim[0];
}

static const char *list_name(const CvVaeNet *net)
{
    return net->up ? "upsamples" : "downsamples";
}

/* The steps in their order: the decoder begins with the three of the middle,
 * the encoder ends with them. Sets path and returns the kind. */
static CvVaeKind step_path(const CvVaeNet *net, CvWeights *weights, int step,
                           char path[PATH_SIZE])
{
    int middle = net->up ? step : step - (net->n_steps - 3);
    int index = net->up ? step - 3 : step;

    if (middle >= 0 && middle < 3) {
        snprintf(path, PATH_SIZE, "%s.middle.%d", net->name, middle);
        return middle == 1 ? CV_VAE_ATTENTION : CV_VAE_RESIDUAL;
    }
    snprintf(path, PATH_SIZE, "%s.%s.%d", net->name, list_name(net), index);
    return has_any(weights, path, "residual.") ? CV_VAE_RESIDUAL
                                               : CV_VAE_RESAMPLE;
}

int cv_vae_net_open(CvVaeNet *net, CvLoader *loader, const char *name)
{
    CvWeights *weights = loader->weights;
    int up = !strcmp(name, "decoder");
    char path[PATH_SIZE];
    int n;

    *net = (CvVaeNet){ .name = name, .up = up };
    for (n = 0; n <= CV_VAE_MAX_STEPS; n++) {
        snprintf(path, sizeof(path), "%s.%s.%d", name, list_name(net), n);
        if (!has_any(weights, path, ""))
            break;
        if (!has_any(weights, path, "residual.") &&
            !has_any(weights, path, "resample.") &&
            !has_any(weights, path, "time_conv."))
            return cv_fail(loader->log, ENOSYS,
                           "%s: '%s' is no block of the Wan 2.1 VAE (other "
                           "VAEs, such as that of Wan 2.2, are not supported)",
                           cv_weights_path(weights), path);
    }
    if (n + 3 > CV_VAE_MAX_STEPS)
        return cv_fail(loader->log, EILSEQ,
                       "%s: the %s has more than %d blocks",
                       cv_weights_path(weights), name, CV_VAE_MAX_STEPS);
    net->n_steps = n + 3;
    net->steps = calloc((size_t)net->n_steps, sizeof(*net->steps));
    if (!net->steps)
        return cv_fail_memory(loader->log,
                              (uint64_t)net->n_steps * sizeof(*net->steps),
                              "the VAE's graph");
    return 0;
}

void cv_vae_net_free(CvVaeNet *net)
{
    free(net->steps);
    net->steps = NULL;
    net->n_steps = 0;
}

static int load_gamma(CvLoader *loader, CvTensor *gamma, int64_t c,
                      const char *path, const char *part)
{
    *gamma = CV_TENSOR(NULL, CV_F32, c);
    return cv_load(loader, gamma, CV_LOAD_AS_IS, "%s.%s.gamma", path, part);
}

static int load_bias(CvLoader *loader, CvVaeConv *conv, CvType type, int64_t o,
                     const char *path)
{
    conv->bias = CV_TENSOR(NULL, type, o);
    return cv_load(loader, &conv->bias, CV_LOAD_AS_IS, "%s.bias", path);
}

/* A convolution with a kernel of kt frames and ks x ks pixels; `slot`: it
 * keeps frames of its input. */
static int load_conv(CvLoader *loader, CvVaeNet *net, CvVaeConv *conv,
                     int64_t o, int kt, int ks, int64_t c, const char *path)
{
    int err;

    conv->slot = kt > 1 ? net->n_slots++ : -1;
    conv->weight = CV_TENSOR(NULL, loader->backend->weight, o, kt, ks, ks, c);
    err = cv_load(loader, &conv->weight, CV_LOAD_CONV, "%s.weight", path);
    if (err < 0)
        return err;
    return load_bias(loader, conv, CV_F32, o, path);
}

/* A 1x1 or 1x1x1 convolution: a linear over channels. */
static int load_mix(CvLoader *loader, CvVaeConv *conv, int64_t o, int64_t c,
                    const char *path)
{
    int err;

    conv->slot = -1;
    conv->weight = CV_TENSOR(NULL, loader->backend->weight, o, c);
    err = cv_load(loader, &conv->weight, CV_LOAD_AS_IS, "%s.weight", path);
    if (err < 0)
        return err;
    return load_bias(loader, conv, loader->backend->activation, o, path);
}

static int load_residual(CvLoader *loader, CvVaeNet *net, CvVaeStep *step,
                         const char *path)
{
    char part[PATH_SIZE + 16];
    int err;

    snprintf(part, sizeof(part), "%s.residual.2", path);
    step->out = cv_vae_outputs(loader, part, step->in);
    err = load_gamma(loader, &step->gamma[0], step->in, path, "residual.0");
    if (err < 0)
        return err;
    err = load_conv(loader, net, &step->conv[0], step->out, 3, 3, step->in,
                    part);
    if (err < 0)
        return err;
    err = load_gamma(loader, &step->gamma[1], step->out, path, "residual.3");
    if (err < 0)
        return err;
    snprintf(part, sizeof(part), "%s.residual.6", path);
    err = load_conv(loader, net, &step->conv[1], step->out, 3, 3, step->out,
                    part);
    if (err < 0 || step->in == step->out)
        return err;
    snprintf(part, sizeof(part), "%s.shortcut", path);
    return load_mix(loader, &step->shortcut, step->out, step->in, part);
}

static int load_attention(CvLoader *loader, CvVaeStep *step, const char *path)
{
    char part[PATH_SIZE + 16];
    int err;

    step->out = step->in;
    err = load_gamma(loader, &step->gamma[0], step->in, path, "norm");
    if (err < 0)
        return err;
    snprintf(part, sizeof(part), "%s.to_qkv", path);
    err = load_mix(loader, &step->conv[0], 3 * step->in, step->in, part);
    if (err < 0)
        return err;
    snprintf(part, sizeof(part), "%s.proj", path);
    return load_mix(loader, &step->conv[1], step->in, step->in, part);
}

static int load_resample(CvLoader *loader, CvVaeNet *net, CvVaeStep *step,
                         const char *path)
{
    char part[PATH_SIZE + 16];
    int err;

    step->has_time = has_any(loader->weights, path, "time_conv.");
    snprintf(part, sizeof(part), "%s.resample.1", path);
    step->out = cv_vae_outputs(loader, part, step->in);
    err = load_conv(loader, net, &step->conv[0], step->out, 1, 3, step->in,
                    part);
    if (err < 0 || !step->has_time)
        return err;
    /* The decoder's comes before the convolution in space and gives two frames
     * for one; the encoder's comes after it. */
    snprintf(part, sizeof(part), "%s.time_conv", path);
    if (net->up)
        return load_conv(loader, net, &step->conv[1], 2 * step->in, 3, 1,
                         step->in, part);
    return load_conv(loader, net, &step->conv[1], step->out, 3, 1, step->out,
                     part);
}

/* Count the resamplers and find where the pieces begin or end. */
static int measure(CvVaeNet *net, CvLoader *loader)
{
    int n = 0, outer = 0;

    net->scale = net->time_scale = 1;
    for (int i = 0; i < net->n_steps; i++) {
        const CvVaeStep *step = &net->steps[i];

        if (step->kind != CV_VAE_RESAMPLE)
            continue;
        if (++n > CV_VAE_MAX_RESAMPLERS)
            return cv_fail(loader->log, EILSEQ,
                           "%s: the %s has more than %d resamplers",
                           cv_weights_path(loader->weights), net->name,
                           CV_VAE_MAX_RESAMPLERS);
        net->scale *= 2;
        if (step->has_time)
            net->time_scale *= 2;
        /* The resampler next to the largest frames runs in pieces too, unless
         * it changes the number of frames. */
        if (net->up)
            outer = step->has_time ? i + 1 : i;
        else if (n == 1)
            outer = step->has_time ? i : i + 1;
    }
    net->split = outer;
    return 0;
}

int cv_vae_net_load(CvVaeNet *net, CvLoader *loader, int64_t channels)
{
    int64_t in = net->up ? channels : 3;
    int64_t out = net->up ? 3 : 2 * channels;
    int64_t width;
    char path[PATH_SIZE];
    int err;

    net->n_slots = 0;
    snprintf(path, sizeof(path), "%s.head.2", net->name);
    if (net->up && cv_vae_outputs(loader, path, 3) == 12)
        return cv_fail(loader->log, ENOSYS,
                       "%s: a decoder of 12 channels is that of the Wan 2.2 "
                       "VAE, which is not supported",
                       cv_weights_path(loader->weights));

    /* Of the encoder's rows only the first half, the means, is used. */
    err = net->up ? load_mix(loader, &net->mix, channels, channels, "conv2")
                  : load_mix(loader, &net->mix, out, out, "conv1");
    if (err < 0)
        return err;

    snprintf(path, sizeof(path), "%s.conv1", net->name);
    width = cv_vae_outputs(loader, path, in);
    err = load_conv(loader, net, &net->first, width, 3, 3, in, path);
    if (err < 0)
        return err;
    for (int i = 0; i < net->n_steps; i++) {
        CvVaeStep *step = &net->steps[i];

        step->kind = step_path(net, loader->weights, i, path);
        step->in = width;
        if (step->kind == CV_VAE_RESIDUAL)
            err = load_residual(loader, net, step, path);
        else if (step->kind == CV_VAE_ATTENTION)
            err = load_attention(loader, step, path);
        else
            err = load_resample(loader, net, step, path);
        if (err < 0)
            return err;
        width = step->out;
    }
    snprintf(path, sizeof(path), "%s.head", net->name);
    err = load_gamma(loader, &net->gamma, width, path, "0");
    if (err < 0)
        return err;
    snprintf(path, sizeof(path), "%s.head.2", net->name);
    err = load_conv(loader, net, &net->last, out, 3, 3, width, path);
    if (err < 0)
        return err;
    return measure(net, loader);
}
