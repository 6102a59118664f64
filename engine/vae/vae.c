/*
 * Opening a VAE and what is known of it.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#include "vae/net.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Tensors that belong to the encoder's direction only. */
static int is_encoder_name(const char *name)
{
    return !strncmp(name, "encoder.", 8) || !strncmp(name, "conv1.", 6);
}

static int file_has_encoder(CvWeights *weights)
{
    for (int64_t i = 0; i < cv_weights_count(weights); i++)
        if (!strncmp(cv_weights_at(weights, i)->name, "encoder.", 8))
            return 1;
    return 0;
}

/* Channels of a latent: what the first convolution takes. */
static int find_channels(CvVae *vae, CvLoader *loader)
{
    const char *name = vae->decoder.tiny ? "decoder.1.weight" : "conv2.weight";
    const CvEntry *entry = cv_weights_find(loader->weights, "%s", name);

    if (!entry)
        return cv_fail(loader->log, EILSEQ, "%s: tensor '%s' is missing%s",
                       cv_weights_path(loader->weights), name,
                       vae->decoder.tiny ? "" : " (in diffusers files "
                       "'post_quant_conv.weight')");
    if (entry->tensor.n_dims < 2 || entry->tensor.dim[1] < 1 ||
        entry->tensor.dim[1] > CV_VAE_MAX_CHANNELS) {
        char shape[CV_SHAPE_TEXT];

        return cv_fail(loader->log, EILSEQ,
                       "%s: '%s' is %s; expected 16 channels, at most %d",
                       entry->file, entry->stored,
                       cv_shape_text(shape, &entry->tensor),
                       CV_VAE_MAX_CHANNELS);
    }
    vae->channels = (int)entry->tensor.dim[1];
    return 0;
}

/* Both halves of CvLoader's double run. */
static int load_all(CvVae *vae, CvLoader *loader)
{
    int err = vae->decoder.tiny
        ? cv_tiny_load(&vae->decoder, loader, vae->channels)
        : cv_vae_net_load(&vae->decoder, loader, vae->channels);

    if (err < 0 || !vae->has_encoder)
        return err;
    return cv_vae_net_load(&vae->encoder, loader, vae->channels);
}

static int check_encoder(const CvVae *vae, CvLoader *loader)
{
    const CvVaeNet *d = &vae->decoder, *e = &vae->encoder;

    if (!vae->has_encoder ||
        (e->scale == d->scale && e->time_scale == d->time_scale))
        return 0;
    return cv_fail(loader->log, EILSEQ,
                   "%s: the encoder divides sizes by %d and time by %d, the "
                   "decoder multiplies them by %d and %d",
                   cv_weights_path(loader->weights), e->scale, e->time_scale,
                   d->scale, d->time_scale);
}

static void describe(CvVae *vae, CvLoader *loader)
{
    char types[64];

    cv_weights_types(loader->weights, types, sizeof(types));
    snprintf(vae->text, sizeof(vae->text),
             "%d channels, %dx%d pixels and %d frames a latent, %s of "
             "%lld to %lld channels in %d blocks, %s, %s names, %s",
             vae->channels, vae->decoder.scale, vae->decoder.scale,
             vae->decoder.time_scale,
             vae->decoder.tiny ? "tiny decoder (TAEHV)" : "decoder",
             (long long)vae->decoder.steps[0].in,
             (long long)vae->decoder.last.weight.dim[4], vae->decoder.n_steps,
             vae->has_encoder ? "with encoder" : "without encoder",
             cv_weights_layout(loader->weights), types);
}

/* A tiny decoder takes latents as they are, and no config describes it. */
static int open_tiny(CvVae *vae, CvLoader *loader)
{
    for (int i = 0; i < CV_VAE_MAX_CHANNELS; i++)
        vae->decode_mul[i] = 1;
    return cv_tiny_open(&vae->decoder, loader);
}

static int check_config(CvVae *vae, CvLoader *loader,
                        const CvVaeConfig *config)
{
    int err = cv_vae_config_check(config, vae, loader->log);

    return err < 0 ? err :
           cv_vae_statistics(vae, config, cv_weights_path(loader->weights),
                             loader->log);
}

static int open_weights(CvVae *vae, CvLoader *loader, CvVaeConfig *config,
                        const char *config_path, int encoder)
{
    CvWeights *weights = loader->weights;
    int tiny, err;

    err = cv_weights_canonical(weights, CV_KIND_VAE, loader->log);
    if (err < 0)
        return err;
    tiny = cv_weights_kind(weights) == CV_KIND_TINY_VAE;
    if (tiny)
        err = open_tiny(vae, loader);
    else if (!(err = cv_vae_config_read(config, config_path, loader->log)))
        err = cv_vae_net_open(&vae->decoder, loader, "decoder");
    if (err < 0 || (err = find_channels(vae, loader)) < 0)
        return err;
    vae->has_encoder = encoder && !tiny && file_has_encoder(weights);
    if (vae->has_encoder &&
        (err = cv_vae_net_open(&vae->encoder, loader, "encoder")) < 0)
        return err;

    cv_arena_plan(loader->arena, loader->backend);
    err = load_all(vae, loader);
    loader->backend->planning = 0;
    if (err < 0 || (err = check_encoder(vae, loader)) < 0 ||
        (!tiny && (err = check_config(vae, loader, config)) < 0))
        return err;
    if (!vae->has_encoder)
        for (int64_t i = 0; i < cv_weights_count(weights); i++)
            if (is_encoder_name(cv_weights_at(weights, i)->name))
                cv_weights_at(weights, i)->used = 1;
    if ((err = cv_load_finish(loader)) < 0)
        return err;
    describe(vae, loader);
    return 0;
}

int cv_vae_open(CvVae **vae, CvBackend *backend, const char *path,
                const char *config_path, int encoder, CvLog *log)
{
    CvVaeConfig *config = NULL;
    CvVae *v = NULL;
    int err;

    *vae = NULL;
    v = calloc(1, sizeof(*v));
    config = calloc(1, sizeof(*config));
    if (!v || !config) {
        err = cv_fail_memory(log, sizeof(*v) + sizeof(*config), "the VAE");
        goto fail;
    }
    v->backend = backend;
    v->loader = (CvLoader){ .backend = backend, .arena = &v->weights,
                            .log = log };
    if ((err = cv_weights_open(&v->loader.weights, path, log)) < 0 ||
        (err = open_weights(v, &v->loader, config, config_path, encoder)) < 0)
        goto fail;
    cv_log(log, CAUSVID_LOG_VERBOSE, "VAE: %s", v->text);
    *vae = v;
    v = NULL;
fail:
    free(config);
    cv_vae_close(&v);
    return err;
}

int cv_vae_load(CvVae *vae)
{
    CvLoader *loader = &vae->loader;
    int err = cv_arena_take(loader->arena, loader->log,
                            "the weights of the VAE");

    if (!err)
        err = cv_load_end(loader, load_all(vae, loader));
    cv_weights_close(&loader->weights);
    return err;
}

void cv_vae_close(CvVae **vae)
{
    if (!*vae)
        return;
    cv_vae_net_free(&(*vae)->decoder);
    cv_vae_net_free(&(*vae)->encoder);
    cv_weights_close(&(*vae)->loader.weights);
    cv_arena_free(&(*vae)->weights);
    free(*vae);
    *vae = NULL;
}

int cv_vae_channels(const CvVae *vae)
{
    return vae->channels;
}

int cv_vae_scale(const CvVae *vae)
{
    return vae->decoder.scale;
}

int cv_vae_time_scale(const CvVae *vae)
{
    return vae->decoder.time_scale;
}

int cv_vae_has_encoder(const CvVae *vae)
{
    return vae->has_encoder;
}

size_t cv_vae_bytes(const CvVae *vae)
{
    return vae->weights.peak;
}

const char *cv_vae_describe(const CvVae *vae)
{
    return vae->text;
}
