/*
 * The names in LoRA files: prefixes, suffixes, and the tensors that they mean.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * Source: checkpoints.md 3.1 and 3.2.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "weights/lora_names.h"
#include "weights/names.h"

static const struct {
    const char *end;
    CvLoraRole role;
} ends[] = {
    { ".lora_down.weight", CV_LORA_DOWN },
    { ".lora_A.weight", CV_LORA_DOWN },
    { ".lora_A", CV_LORA_DOWN },
    { "_lora.down.weight", CV_LORA_DOWN },
    { ".lora.down.weight", CV_LORA_DOWN },
    { ".lora_linear_layer.down.weight", CV_LORA_DOWN },
    { ".lora_up.weight", CV_LORA_UP },
    { ".lora_B.weight", CV_LORA_UP },
    { ".lora_B", CV_LORA_UP },
    { "_lora.up.weight", CV_LORA_UP },
    { ".lora.up.weight", CV_LORA_UP },
    { ".lora_linear_layer.up.weight", CV_LORA_UP },
    { ".alpha", CV_LORA_ALPHA },
    { ".diff", CV_LORA_DIFF },
    { ".diff_b", CV_LORA_DIFF_B },
    { ".diff_m", CV_LORA_DIFF_M },
};

/* Entries that mean something else than a sum: leaving them out would be wrong.
 */
static const struct {
    const char *part, *kind;
} others[] = {
    { ".dora_scale", "DoRA" },
    { ".lora_magnitude_vector", "DoRA" },
    { ".hada_", "LoHa" },
    { ".lokr_", "LoKr" },
    { ".oft_", "OFT" },
    { ".a1.weight", "GLoRA" },
    { ".a2.weight", "GLoRA" },
    { ".b1.weight", "GLoRA" },
    { ".b2.weight", "GLoRA" },
    { ".lora_mid.weight", "a LoRA of convolutions" },
    { ".reshape_weight", "a LoRA that changes shapes" },
    { ".w_norm", "a LoRA that replaces norms" },
    { ".b_norm", "a LoRA that replaces norms" },
    { ".set_weight", "a LoRA that replaces weights" },
    { ".lora_B.bias", "a LoRA with biases of PEFT" },
};

static const char *const prefixes[] = {
    "base_model.model.", "diffusion_model.", "transformer.", "pipe.dit.",
    "model.", "unet.", "generator.",
};

static const char *const flat_prefixes[] = { "lora_unet_", "lycoris_" };

static void cut(char *text, size_t n)
{
    memmove(text, text + n, strlen(text + n) + 1);
}

/* Take off what programs put in front; 1 when the name has '_' for '.'. */
static int strip(char *name)
{
    size_t n = sizeof(prefixes) / sizeof(*prefixes);

    for (size_t i = 0; i < n; i++) {
        size_t length = strlen(prefixes[i]);

        if (!strncmp(name, prefixes[i], length)) {
            cut(name, length);
            i = (size_t)-1; /* again from the first */
        }
    }
    for (size_t i = 0; i < 2; i++) {
        size_t length = strlen(flat_prefixes[i]);

        if (strncmp(name, flat_prefixes[i], length))
            continue;
        cut(name, length + strspn(name + length, "_"));
        return 1;
    }
    return 0;
}

/* An entry's module and role. */
static int parse(CvLoraModule *m, const CvEntry *e, CvLog *log)
{
    char *part;

    if (!(m->name = strdup(e->stored)))
        return cv_fail_memory(log, strlen(e->stored) + 1, "a LoRA's entry");
    while ((part = strstr(m->name, ".default")) && (!part[8] || part[8] == '.'))
        cut(part, 8); /* PEFT's name of the one adapter of a file */
    for (size_t i = 0; i < sizeof(ends) / sizeof(*ends); i++) {
        if (!cv_ends_with(m->name, ends[i].end))
            continue;
        m->name[strlen(m->name) - strlen(ends[i].end)] = 0;
        m->flat = strip(m->name);
        m->entry[ends[i].role] = e;
        return 0;
    }
    for (size_t i = 0; i < sizeof(others) / sizeof(*others); i++)
        if (strstr(m->name, others[i].part))
            return cv_fail(log, ENOSYS, "'%s': '%s' is an entry of %s, which "
                           "is not supported; merge it into the transformer "
                           "with another program", e->file, e->stored,
                           others[i].kind);
    return cv_fail(log, EILSEQ, "'%s': '%s' is no entry of a LoRA: expected a "
                   "name that ends with .lora_down.weight, .lora_A.weight, "
                   ".alpha, .diff or the like", e->file, e->stored);
}

static int compare_modules(const void *a, const void *b)
{
    const CvLoraModule *x = a, *y = b;
    int order = strcmp(x->name, y->name);

    return order ? order : x->flat - y->flat;
}

/* Neighbours of one name become one. */
static int join(CvLoraModule *modules, int64_t *n, CvLog *log)
{
    int64_t kept = 0;
    int err = 0;

    for (int64_t i = 0; i < *n; i++) {
        CvLoraModule *last = kept ? &modules[kept - 1] : NULL;

        if (!last || compare_modules(last, &modules[i])) {
            modules[kept++] = modules[i];
            continue;
        }
        for (int r = 0; r < CV_LORA_ROLES && !err; r++) {
            const CvEntry *e = modules[i].entry[r];

            if (e && last->entry[r])
                err = cv_fail(log, EILSEQ, "'%s': '%s' and '%s' are the same "
                              "part of one module; expected one of them",
                              e->file, last->entry[r]->stored, e->stored);
            else if (e)
                last->entry[r] = e;
        }
        free(modules[i].name);
    }
    *n = kept;
    return err;
}

int cv_lora_modules(CvLoraModule **out, int64_t *n, CvWeights *file,
                    CvLog *log)
{
    int64_t count = cv_weights_count(file);
    CvLoraModule *modules;
    int err = 0;

    *out = NULL;
    *n   = 0;
    cv_kind_detect(file);
    if (!count || (file->kind != CV_KIND_UNKNOWN &&
                   file->kind != CV_KIND_LORA))
        return cv_kind_check(file, CV_KIND_LORA, log);
    modules = calloc((size_t)count, sizeof(*modules));
    if (!modules)
        return cv_fail_memory(log, (uint64_t)count * sizeof(*modules),
                              "a LoRA's entries");
    for (int64_t i = 0; i < count && !err; i++)
        err = parse(&modules[i], cv_weights_at(file, i), log);
    if (!err) {
        qsort(modules, (size_t)count, sizeof(*modules), compare_modules);
        err = join(modules, &count, log);
    }
    *out = modules;
    *n   = count;
    if (err < 0)
        cv_lora_modules_free(out, count);
    return err;
}

void cv_lora_modules_free(CvLoraModule **modules, int64_t n)
{
    for (int64_t i = 0; *modules && i < n; i++)
        free((*modules)[i].name);
    free(*modules);
    *modules = NULL;
}

int cv_lora_is_image(const char *name)
{
    static const char *const parts[] = {
        "k_img", "v_img", "img_emb", "add_k_proj", "add_v_proj",
        "norm_added_", "image_embedder",
    };

    for (size_t i = 0; i < sizeof(parts) / sizeof(*parts); i++)
        if (strstr(name, parts[i]))
            return 1;
    return 0;
}

/* ---- targets ---- */

/* The official name or that of diffusers, with '_' for '.'. */
typedef struct Flat {
    char *name;
    CvEntry *entry;
} Flat;

struct CvLoraTargets {
    CvWeights *model;
    Flat *flat;
    int64_t n;
};

static int compare_flat(const void *a, const void *b)
{
    return strcmp(((const Flat *)a)->name, ((const Flat *)b)->name);
}

static char *flatten(const char *name)
{
    char *copy = strdup(name);

    for (char *p = copy; p && *p; p++)
        if (*p == '.')
            *p = '_';
    return copy;
}

int cv_lora_targets(CvLoraTargets **out, CvWeights *model, CvLog *log)
{
    int64_t n = cv_weights_count(model);
    CvLoraTargets *t = calloc(1, sizeof(*t));
    char name[CV_NAME_SIZE];

    *out = t;
    if (t)
        t->flat = calloc((size_t)n + 1, 2 * sizeof(*t->flat));
    if (!t || !t->flat)
        goto fail;
    t->model = model;
    for (int64_t i = 0; i < 2 * n; i++) {
        CvEntry *e = cv_weights_at(model, i / 2);

        if (i % 2 && !cv_names_to_diffusers(name, e->name))
            continue;
        t->flat[t->n].entry = e;
        if (!(t->flat[t->n++].name = flatten(i % 2 ? name : e->name)))
            goto fail;
    }
    qsort(t->flat, (size_t)t->n, sizeof(*t->flat), compare_flat);
    return 0;
fail:
    cv_lora_targets_free(out);
    return cv_fail_memory(log, 2 * (uint64_t)n * sizeof(Flat),
                          "names of tensors");
}

void cv_lora_targets_free(CvLoraTargets **targets)
{
    CvLoraTargets *t = *targets;

    if (!t)
        return;
    for (int64_t i = 0; i < t->n; i++)
        free(t->flat[i].name);
    free(t->flat);
    free(t);
    *targets = NULL;
}

CvEntry *cv_lora_target(CvLoraTargets *t, const CvLoraModule *m,
                        const char *member)
{
    char name[2 * CV_NAME_SIZE], official[CV_NAME_SIZE];
    const Flat key = { .name = name }, *found;
    CvEntry *e;

    snprintf(name, sizeof(name), "%s%c%s", m->name, m->flat ? '_' : '.',
             member);
    if (m->flat) {
        found = bsearch(&key, t->flat, (size_t)t->n, sizeof(*t->flat),
                        compare_flat);
        return found ? found->entry : NULL;
    }
    e = cv_weights_find(t->model, "%s", name);
    if (!e && cv_names_from_diffusers(official, name))
        e = cv_weights_find(t->model, "%s", official);
    return e;
}
