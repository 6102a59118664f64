/*
 * The published checkpoints: which one a model is, and how it is run.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * A causal checkpoint has the tensors of the model that it was made from:
 * nothing in them tells the two apart. What does is the config, the names that
 * people give to files and folders, and a title in the file. Only the nearest names count: a whole
 * path says "causvid" as soon as this program's folder is in it.
 * Sources: checkpoints.md 1.1 to 1.7, 7.3 to 7.6; step distillation:
 * ModelTC/LightX2V:lightx2v/models/schedulers/wan/step_distill/scheduler.py;
 * rCM: thu-ml/TurboDiffusion:turbodiffusion/inference/wan2.1_t2v_infer.py.
 */
#define _XOPEN_SOURCE 700 /* realpath */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "recipe.h"
#include "weights/lora.h"

typedef enum Family {
    NONE,
    WAN,
    CAUSVID,
    CAUSVID_WARPED,
    CAUSVID_TWO_WAY, /* the bidirectional student */
    SELF_FORCING,
    STEP_DISTILL,
    RCM,
    WAN22,           /* an expert of A14B */
} Family;

static const struct {
    const char *name, *licence;
    enum CausvidVariant variant;
} families[] = {
    [WAN]             = { "Wan", "Apache-2.0", CAUSVID_VARIANT_BIDIRECTIONAL },
    [CAUSVID]         = { "CausVid", "CC BY-NC-SA 4.0: no commercial use",
                          CAUSVID_VARIANT_CAUSAL },
    [CAUSVID_WARPED]  = { "CausVid, 4 steps",
                          "CC BY-NC-SA 4.0: no commercial use",
                          CAUSVID_VARIANT_CAUSAL },
    [CAUSVID_TWO_WAY] = { "CausVid, bidirectional",
                          "CC BY-NC-SA 4.0: no commercial use",
                          CAUSVID_VARIANT_BIDIRECTIONAL },
    [SELF_FORCING]    = { "Self-Forcing", "see its authors' page",
                          CAUSVID_VARIANT_CAUSAL },
    [STEP_DISTILL]    = { "LightX2V step distillation",
                          "see its authors' page",
                          CAUSVID_VARIANT_BIDIRECTIONAL },
    [RCM]             = { "rCM", "see its authors' page",
                          CAUSVID_VARIANT_BIDIRECTIONAL },
};

/* In one name, the first word that it contains decides. */
static const struct {
    const char *word;
    Family family;
} words[] = {
    { "high_noise", WAN22 }, { "low_noise", WAN22 }, { "a14b", WAN22 },
    { "self_forcing", SELF_FORCING }, { "self-forcing", SELF_FORCING },
    { "selfforcing", SELF_FORCING }, { "causal_forcing", SELF_FORCING },
    { "causal-forcing", SELF_FORCING },
    { "stepdistill", STEP_DISTILL }, { "step_distill", STEP_DISTILL },
    { "step-distill", STEP_DISTILL },
    { "turbowan", RCM }, { "turbodiffusion", RCM }, { "rcm", RCM },
    { "warp_4step", CAUSVID_WARPED },
    { "bidirect", CAUSVID_TWO_WAY },
    { "causvid", CAUSVID }, { "autoregressive", CAUSVID },
    { "causal", CAUSVID },
    { "t2v-1.3b", WAN }, { "t2v_1.3b", WAN }, { "t2v-1_3b", WAN },
    { "t2v_1_3b", WAN }, { "t2v-14b", WAN }, { "t2v_14b", WAN },
};

static Family family_of(const char *name, const char **word)
{
    char lower[256];
    size_t n = strlen(name);

    if (n >= sizeof(lower))
        return NONE;
    for (size_t i = 0; i <= n; i++)
        lower[i] = (char)tolower((unsigned char)name[i]);
    for (size_t i = 0; i < sizeof(words) / sizeof(*words); i++) {
        if (strstr(lower, words[i].word)) {
            *word = words[i].word;
            return words[i].family;
        }
    }
    return NONE;
}

/* Names that only say what is in a folder, and those of a download cache:
 * the folder above is the one that was named by somebody. */
static int says_nothing(const char *name)
{
    size_t n = strlen(name);

    return !n || !strcmp(name, ".") || !strcmp(name, "transformer") ||
           !strcmp(name, "checkpoints") || !strcmp(name, "snapshots") ||
           (n == 40 && strspn(name, "0123456789abcdef") == n);
}

/* The absolute path of the folder, so that "." has names too; the file's own
 * name stays, since a cache keeps links to files without names. */
static void absolute(char path[CV_PATH_SIZE], const char *file)
{
    const char *slash = strrchr(file, '/');
    char folder[CV_PATH_SIZE], *real;
    int n = slash ? (int)(slash - file) + 1 : 0;

    snprintf(folder, sizeof(folder), "%.*s", n, file);
    real = realpath(n ? folder : ".", NULL);
    if (!real || snprintf(path, CV_PATH_SIZE, "%s/%s", real, file + n) >=
                 CV_PATH_SIZE)
        snprintf(path, CV_PATH_SIZE, "%s", file);
    free(real);
}

/* What the file's name says, or else its folder's. *release: the file has the
 * name that diffusers writes. */
static Family read_path(CvRecipe *r, const char *file, int *release)
{
    char path[CV_PATH_SIZE], *name;
    const char *word = "";
    Family family = NONE;
    int left = 2;

    absolute(path, file);
    name = strrchr(path, '/');
    *release = !strncmp(name ? name + 1 : path, "diffusion_pytorch_model", 23);
    for (; left > 0 && !family && name; name = strrchr(path, '/')) {
        if (!says_nothing(name + 1)) {
            family = family_of(name + 1, &word);
            if (family)
                snprintf(r->why, sizeof(r->why), "'%.255s' says '%s'",
                         name + 1, word);
            left--;
        }
        *name = 0;
    }
    return family;
}

/* "CausalWanModel" is the class of CausVid's and Self-Forcing's programs. That
 * of the release says nothing: they copy its config.json. */
static int read_class(CvRecipe *r, const char *config, int *causal, CvLog *log)
{
    cJSON *json;
    char name[64] = "";
    int err;

    *causal = 0;
    if (!config[0])
        return 0;
    if ((err = cv_json_read(&json, config, log)) < 0)
        return err;
    err = cv_json_string(json, config, "_class_name", name, sizeof(name),
                         log);
    cJSON_Delete(json);
    if (err < 0 || strcmp(name, "CausalWanModel"))
        return err;
    *causal = 1;
    snprintf(r->why, sizeof(r->why), "its config.json says '%s'", name);
    return 0;
}

/* What the file itself says to be, which counts only where it names a model of
 * few steps: converters keep the title of the model that they began with. What
 * is wrong with the file was told when it was opened. */
static Family read_titles(CvRecipe *r, const CvModelFiles *files)
{
    const char *title, *key, *word = "";
    Family family = NONE;
    CvWeights *w;

    if (cv_weights_open_key(&w, files->transformer, files->checkpoint_key,
                            NULL) < 0)
        return NONE;
    for (int i = 0; !family && (title = cv_weights_title(w, i, &key)); i++) {
        family = family_of(title, &word);
        if (family == WAN)
            family = NONE;
        if (family)
            snprintf(r->why, sizeof(r->why), "its %s '%s' says '%s'", key,
                     title, word);
    }
    cv_weights_close(&w);
    return family;
}

static int is_torch(const char *path)
{
    static const char *const ends[] = { ".pt", ".pth", ".ckpt", ".bin" };
    const char *dot = strrchr(path, '.');

    for (size_t i = 0; dot && i < sizeof(ends) / sizeof(*ends); i++)
        if (!strcmp(dot, ends[i]))
            return 1;
    return 0;
}

static void set_sampling(CvRecipe *r, Family family, const CvDitSize *size)
{
    static const float causvid[] = { 1000, 757, 522 };
    static const float four[]    = { 1000, 750, 500, 250 };
    /* tan(a) / (1 + tan(a)) of atan(80), 1.5, 1.4, 1. Its program also begins
     * with noise that is 1.2 % weaker, which is left out. */
    static const float rcm[]     = { 987.654f, 933.781f, 852.895f, 608.979f };
    const int wide = size->dim == 5120; /* 14B */

    switch (family) {
    case SELF_FORCING:
    case STEP_DISTILL:
        cv_recipe_list(r, 1, 5, 4, four);
        break;
    case CAUSVID_WARPED:
        cv_recipe_list(r, 1, 8, 4, four);
        break;
    case CAUSVID:
    case CAUSVID_TWO_WAY:
        cv_recipe_list(r, 0, 8, 3, causvid);
        if (!wide)
            break;
        /* LightX2V's nine steps, of which Kijai's users take the first */
        r->sampler     = CAUSVID_SAMPLER_FLOWMATCH;
        r->n_timesteps = 0;
        r->steps       = r->variant == CAUSVID_VARIANT_CAUSAL ? 9 : 6;
        break;
    case RCM:
        cv_recipe_list(r, 0, 1, 4, rcm);
        break;
    default: /* a plain Wan model: its own sampler and guidance */
        r->sampler  = CAUSVID_SAMPLER_UNIPC;
        r->steps    = 50;
        r->shift    = size->dim <= 1536 ? 8 : 5;
        r->guidance = size->dim <= 1536 ? 6 : 5;
    }
}

int cv_recipe_published(CvRecipe *r, const CvModelFiles *files,
                        const CvDitSize *size, enum CausvidVariant variant,
                        CvLog *log)
{
    const char *path = files->transformer;
    int release, causal = 0, err;
    Family family = read_path(r, path, &release), said;

    if (family == NONE || family == WAN) {
        err = read_class(r, files->transformer_config, &causal, log);
        if (err < 0)
            return err;
        if (causal)
            family = CAUSVID;
        else if ((said = read_titles(r, files)))
            family = said;
    }
    if (family == WAN22)
        return cv_fail(log, ENOSYS, "'%s': %s, so it is one of Wan 2.2's two "
                       "experts (A14B), which are not supported; use a Wan "
                       "2.1 text to video model", path, r->why);
    if (family == NONE && variant == CAUSVID_VARIANT_CAUSAL)
        family = CAUSVID;
    if (family == NONE && variant != CAUSVID_VARIANT_BIDIRECTIONAL &&
        !release && (is_torch(path) || size->dim != 5120))
        return cv_fail(log, EINVAL, "'%s': neither a recipe.json, nor a "
                       "config.json, nor its name and its folder's say "
                       "whether this model is causal (as CausVid and "
                       "Self-Forcing are) or not (as Wan is); say it with "
                       "variant=causal or variant=bidirectional", path);
    if (family == NONE) {
        family = WAN;
        snprintf(r->why, sizeof(r->why), "%s", release ?
                 "a release's folder, and no name says otherwise" :
                 "no name says otherwise");
    }
    if (family == WAN && variant == CAUSVID_VARIANT_CAUSAL)
        family = CAUSVID;
    if (variant)
        snprintf(r->why, sizeof(r->why), "the option variant says so");
    r->variant = variant ? variant : families[family].variant;
    snprintf(r->source, sizeof(r->source), "published");
    snprintf(r->family, sizeof(r->family), "%s", families[family].name);
    snprintf(r->licence, sizeof(r->licence), "%s",
             size->dim == 5120 && (family == CAUSVID ||
                                   family == CAUSVID_TWO_WAY) ?
             "see its authors' page" : families[family].licence);
    set_sampling(r, family, size);
    cv_log(log, CAUSVID_LOG_INFO, "recipe: %s (%s), since %s", r->family,
           cv_variant_name(r->variant), r->why);
    return 0;
}

/* Files whose names say only what they are: the folder has the name. */
static int is_plain_lora(const char *name)
{
    return !strncmp(name, "pytorch_lora_weights", 20) ||
           !strncmp(name, "adapter_model", 13);
}

/* Of a LoRA, only its own name counts: people keep all kinds in one folder. */
static Family lora_family(CvRecipe *r, const char *file)
{
    char path[CV_PATH_SIZE], *name;
    const char *word = "";
    Family family;

    absolute(path, file);
    name = strrchr(path, '/');
    if (name && is_plain_lora(name + 1)) {
        *name = 0;
        name  = strrchr(path, '/');
    }
    name   = name ? name + 1 : path;
    family = family_of(name, &word);
    if (family == NONE || family == WAN || family == WAN22)
        return NONE;
    snprintf(r->why, sizeof(r->why), "'%.255s' says '%s'", name, word);
    return family;
}

int cv_recipe_loras(CvRecipe *r, const char *list, const CvDitSize *size,
                    CvLog *log)
{
    char path[CV_PATH_SIZE];
    Family family = NONE;
    double strength;
    int err = 0;

    /* A model that is distilled already is run as it was. */
    if (r->guidance == 1)
        return 0;
    while (!family && (err = cv_lora_next(&list, path, &strength, log)) > 0)
        if (strength > 0)
            family = lora_family(r, path);
    if (err < 0 || !family)
        return err;
    r->guidance = 1;
    set_sampling(r, family, size);
    if (size->dim == 1536 && (family == CAUSVID || family == CAUSVID_TWO_WAY)) {
        r->sampler     = CAUSVID_SAMPLER_FLOWMATCH; /* Kijai's four */
        r->n_timesteps = 0;
        r->steps       = 4;
    }
    snprintf(r->family, sizeof(r->family), "%s%.*s LoRA",
             r->family[0] ? "Wan + " : "",
             (int)strcspn(families[family].name, ","), families[family].name);
    snprintf(r->licence, sizeof(r->licence), "see the pages of the model and "
             "of the LoRA");
    cv_log(log, CAUSVID_LOG_INFO, "recipe: %s (%s, %d steps, shift %g, "
           "guidance 1), since %s", r->family, cv_sampler_name(r->sampler),
           r->steps, r->shift, r->why);
    return 0;
}
