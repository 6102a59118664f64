/*
 * From the names in a file to the official Wan names.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * Four steps: take off what training code and programs wrap around names, keep
 * the wanted network of a file with several, see what it is (kinds.c), and
 * translate (rules.c). Source: checkpoints.md 1.9.
 */
#include <stdlib.h>
#include <string.h>

#include "weights/names.h"

int cv_ends_with(const char *string, const char *end)
{
    size_t n = strlen(string), e = strlen(end);

    return n >= e && !strcmp(string + n - e, end);
}

/* ---- wrappers ---- */

/* Some tell the network, in files that hold several. */
static const struct {
    const char *prefix;
    CvKind kind;
} prefixes[] = {
    { "text_encoders.umt5xxl.transformer.", CV_KIND_TEXT_ENCODER },
    { "text_encoders.t5xxl.transformer.", CV_KIND_TEXT_ENCODER },
    { "text_encoders.umt5xxl.", CV_KIND_TEXT_ENCODER },
    { "text_encoders.t5xxl.", CV_KIND_TEXT_ENCODER },
    { "text_encoders.", CV_KIND_TEXT_ENCODER },
    { "first_stage_model.", CV_KIND_VAE },
    { "vae.", CV_KIND_VAE },
    { "model.diffusion_model.", CV_KIND_TRANSFORMER },
    { "diffusion_model.", CV_KIND_UNKNOWN },
    { "module.", CV_KIND_UNKNOWN },
    { "generator.", CV_KIND_UNKNOWN },
    { "model.", CV_KIND_UNKNOWN },
    { "net.", CV_KIND_UNKNOWN },
    { "transformer.", CV_KIND_UNKNOWN },
};

CvKind cv_names_unwrap(char to[CV_NAME_SIZE], const char *name)
{
    static const char *const segments[] = {
        "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "_orig_mod.",
    };
    size_t used = 0, n_prefixes = sizeof(prefixes) / sizeof(*prefixes);
    size_t begin = 0;
    CvKind kind = CV_KIND_UNKNOWN;

    while (*name) {
        size_t skip = 0;

        for (int i = 0; i < 3 && !skip; i++)
            if (!strncmp(name, segments[i], strlen(segments[i])))
                skip = strlen(segments[i]);
        if (!skip)
            to[used++] = *name;
        name += skip ? skip : 1;
    }
    to[used] = 0;
    /* no name of a network begins with one of the prefixes */
    for (size_t i = 0; i < n_prefixes; i++) {
        size_t n = strlen(prefixes[i].prefix);

        if (strncmp(to + begin, prefixes[i].prefix, n))
            continue;
        if (kind == CV_KIND_UNKNOWN)
            kind = prefixes[i].kind;
        begin += n;
        i = (size_t)-1; /* again from the first */
    }
    memmove(to, to + begin, used - begin + 1);
    return kind;
}

/* ---- the directory ---- */

int cv_entry_rename(CvEntry *e, const char *name, CvLog *log)
{
    char *copy;

    if (!strcmp(e->name, name))
        return 0;
    copy = strdup(name);
    if (!copy)
        return cv_fail_memory(log, strlen(name) + 1, "a tensor's name");
    if (e->name != e->stored)
        free((void *)e->name);
    e->name = copy;
    return 0;
}

void cv_entry_drop(CvEntry *e)
{
    e->used = -1;
}

void cv_entries_sweep(CvWeights *w)
{
    int64_t kept = 0;

    for (int64_t i = 0; i < w->n_entries; i++) {
        CvEntry *e = &w->entries[i];

        if (e->used >= 0) {
            w->entries[kept++] = *e;
            continue;
        }
        if (e->name != e->stored)
            free((void *)e->name);
        free((void *)e->stored);
    }
    w->n_entries = kept;
}

/* ---- networks of a file ---- */

int cv_weights_holds(const CvWeights *w, CvKind kind)
{
    char name[CV_NAME_SIZE];

    for (int64_t i = 0; i < w->n_entries; i++)
        if (cv_names_unwrap(name, w->entries[i].stored) == kind)
            return 1;
    return 0;
}

const CvEntry *cv_weights_tokenizer(const CvWeights *w)
{
    char name[CV_NAME_SIZE];

    for (int64_t i = 0; i < w->n_entries; i++) {
        cv_names_unwrap(name, w->entries[i].stored);
        if (!strcmp(name, "spiece_model"))
            return &w->entries[i];
    }
    return NULL;
}

/* Is it one of the two names that all transformers have? */
static int is_transformers(const char *name)
{
    return !strcmp(name, "patch_embedding.weight") ||
           !strcmp(name, "patch_embedding.bias");
}

/* Unwrap all names. Of a file with several networks, keep the expected one;
 * names that belong to none are the transformer's, so that they are not
 * overlooked. */
static int unwrap_all(CvWeights *w, CvKind expected, CvLog *log)
{
    int64_t count[CV_KIND_COUNT] = { 0 };
    char name[CV_NAME_SIZE];
    int n_networks = 0, err;

    for (int64_t i = 0; i < w->n_entries; i++) {
        CvKind kind = cv_names_unwrap(name, w->entries[i].stored);

        /* without a prefix of its own, beside networks that have one */
        if (kind == CV_KIND_UNKNOWN && is_transformers(name))
            kind = CV_KIND_TRANSFORMER;
        count[kind]++;
        if ((err = cv_entry_rename(&w->entries[i], name, log)) < 0)
            return err;
    }
    for (int i = CV_KIND_UNKNOWN + 1; i < CV_KIND_COUNT; i++)
        n_networks += count[i] > 0;
    if (n_networks < 2 || !count[expected])
        return 0; /* what there is instead is told by its names */
    for (int64_t i = 0; i < w->n_entries; i++) {
        CvKind kind = cv_names_unwrap(name, w->entries[i].stored);

        if (kind == CV_KIND_UNKNOWN)
            kind = CV_KIND_TRANSFORMER;
        if (kind != expected)
            cv_entry_drop(&w->entries[i]);
    }
    cv_entries_sweep(w);
    return 0;
}

/* checkpoints.md 2.8: what does not change the network's arithmetic here.
 * logit_scale is what ComfyUI stores with every text encoder. */
static int is_ignorable(const char *name)
{
    return cv_ends_with(name, "scaled_fp8") || !strcmp(name, "spiece_model") ||
           cv_ends_with(name, ".scale_input") ||
           cv_ends_with(name, ".input_scale") ||
           cv_ends_with(name, ".comfy_quant") ||
           !strncmp(name, "accum_", 6) || !strcmp(name, "logit_scale") ||
           cv_ends_with(name, "norm_added_q.weight");
}

/* The patch embedding is a convolution whose steps are its size, and some
 * programs store it as the linear that it is: [D, C * 4] (TurboDiffusion), or
 * with two dimensions as one where their container has four at most. */
static void view_patches(CvWeights *w)
{
    CvEntry *e = cv_weights_find(w, "patch_embedding.weight");
    const CvEntry *bias = cv_weights_find(w, "patch_embedding.bias");
    CvTensor *t = e ? &e->tensor : NULL;
    int64_t n = t ? cv_elements(t) : 0, dim;

    if (n <= 0 || !bias || bias->tensor.n_dims != 1)
        return;
    dim = bias->tensor.dim[0];
    if (dim < 1 || n % dim || n / dim % 4)
        return;
    if (!(t->n_dims == 2 && t->dim[0] == dim) &&
        !(t->n_dims == 4 && t->dim[0] == n / 4 && t->dim[1] == 1 &&
          t->dim[2] == 2))
        return;
    t->n_dims = 5;
    t->dim[0] = dim;
    t->dim[1] = n / dim / 4;
    t->dim[2] = 1;
    t->dim[3] = t->dim[4] = 2;
}

int cv_weights_canonical(CvWeights *w, CvKind expected, CvLog *log)
{
    int err = unwrap_all(w, expected, log);

    if (!err)
        err = cv_weights_sort(w, log);
    if (err < 0)
        return err;
    cv_kind_detect(w);
    if ((err = cv_kind_check(w, expected, log)) < 0)
        return err;
    if ((err = cv_scales_attach(w, log)) < 0)
        return err;
    for (int64_t i = 0; i < w->n_entries; i++)
        if (is_ignorable(w->entries[i].name))
            cv_entry_drop(&w->entries[i]);
    cv_entries_sweep(w);
    if (strcmp(w->layout, "official"))
        err = cv_names_translate(w, log);
    if (!err)
        err = cv_weights_sort(w, log);
    if (!err && expected == CV_KIND_TRANSFORMER)
        view_patches(w);
    return err;
}
