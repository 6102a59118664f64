/*
 * Recipes: how a checkpoint wants to be run.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#include <stdio.h>
#include <string.h>

#include "recipe.h"

#define LINE_SIZE 512 /* of a line about a schedule */

static const char *const sampler_names[] = {
    [CAUSVID_SAMPLER_AUTO]      = "auto",
    [CAUSVID_SAMPLER_CAUSVID]   = "causvid",
    [CAUSVID_SAMPLER_EULER]     = "euler",
    [CAUSVID_SAMPLER_UNIPC]     = "unipc",
    [CAUSVID_SAMPLER_FLOWMATCH] = "flowmatch_causvid",
};

const char *cv_sampler_name(enum CausvidSampler sampler)
{
    return sampler_names[sampler];
}

int cv_sampler_from_name(const char *name, enum CausvidSampler *sampler)
{
    for (int i = 0; i < (int)(sizeof(sampler_names) / sizeof(*sampler_names));
         i++)
        if (!strcmp(name, sampler_names[i])) {
            *sampler = (enum CausvidSampler)i;
            return 0;
        }
    return -1;
}

const char *cv_variant_name(enum CausvidVariant variant)
{
    return variant == CAUSVID_VARIANT_CAUSAL        ? "causal"
         : variant == CAUSVID_VARIANT_BIDIRECTIONAL ? "bidirectional"
                                                    : "auto";
}

/* The negative prompt that every Wan release ships (checkpoints.md 4.5). */
static const char wan_negative[] =
    "色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，"
    "整体发灰，最差质量，低质量，JPEG压缩残留，丑陋的，残缺的，多余的手指，"
    "画得不好的手部，画得不好的脸部，畸形的，毁容的，形态畸形的肢体，手指融合，"
    "静止不动的画面，杂乱的背景，三条腿，背景人很多，倒着走";

/* What all Wan 2.1 checkpoints have in common. */
static void wan_base(CvRecipe *r)
{
    r->width            = 832;
    r->height           = 480;
    r->rate_num         = 16;
    r->rate_den         = 1;
    r->frames           = 81;
    r->frames_per_block = 3;
    r->window           = 21;
    r->guidance         = 1;
    snprintf(r->negative_prompt, sizeof(r->negative_prompt), "%s",
             wan_negative);
}

void cv_recipe_list(CvRecipe *r, int warp, double shift, int n,
                    const float *list)
{
    r->sampler = CAUSVID_SAMPLER_CAUSVID;
    for (int i = 0; i < n; i++)
        r->timesteps[i] = list[i];
    r->n_timesteps = n;
    r->steps       = n;
    r->warp        = warp;
    r->shift       = shift;
}

/* What random weights are run with: the recipes that measurements of models of
 * these shapes were published for. */
static void random_recipe(CvRecipe *r, const CvDitSize *size,
                          enum CausvidVariant variant)
{
    static const float causvid[] = { 1000, 757, 522 };
    int causal = variant == CAUSVID_VARIANT_CAUSAL;

    snprintf(r->source, sizeof(r->source), "name");
    snprintf(r->why, sizeof(r->why), "random numbers for measuring");
    snprintf(r->licence, sizeof(r->licence), "none: random numbers");
    r->variant = causal ? variant : CAUSVID_VARIANT_BIDIRECTIONAL;
    cv_recipe_list(r, 0, 8, 3, causvid);
    if (!causal && size->dim > 1536) {
        r->sampler     = CAUSVID_SAMPLER_FLOWMATCH;
        r->n_timesteps = 0;
        r->steps       = 6;
    }
    if (size->dim < 1536) { /* of a model for tests */
        r->width  = 64;
        r->height = 48;
        r->frames = 33;
    }
}

static int read_size(CvRecipe *r, const cJSON *json, const char *path,
                     CvLog *log)
{
    int64_t width = r->width, height = r->height, rate = r->rate_num;
    int64_t frames = r->frames;
    int err;

    if ((err = cv_json_int(json, path, "width", 16, 8192, &width, log)) < 0 ||
        (err = cv_json_int(json, path, "height", 16, 8192, &height, log)) < 0 ||
        (err = cv_json_int(json, path, "rate", 1, 1000, &rate, log)) < 0 ||
        (err = cv_json_int(json, path, "frames", 1, 1 << 20, &frames,
                           log)) < 0)
        return err;
    if (width % 16 || height % 16)
        return cv_fail(log, EILSEQ, "'%s': width and height are %lldx%lld, "
                       "expected multiples of 16", path, (long long)width,
                       (long long)height);
    r->width    = (int)width;
    r->height   = (int)height;
    r->rate_num = (int)rate;
    r->frames   = frames;
    return 0;
}

static int read_blocks(CvRecipe *r, const cJSON *json, const char *path,
                       CvLog *log)
{
    int64_t block = r->frames_per_block, window = r->window;
    char variant[32] = "";
    int err;

    if ((err = cv_json_string(json, path, "variant", variant,
                              sizeof(variant), log)) < 0 ||
        (err = cv_json_int(json, path, "frames_per_block", 1, 1024, &block,
                           log)) < 0 ||
        (err = cv_json_int(json, path, "window", 1, 4096, &window, log)) < 0)
        return err;
    if (!strcmp(variant, "causal"))
        r->variant = CAUSVID_VARIANT_CAUSAL;
    else if (!strcmp(variant, "bidirectional"))
        r->variant = CAUSVID_VARIANT_BIDIRECTIONAL;
    else
        return cv_fail(log, EILSEQ, "'%s': variant is '%s', expected 'causal' "
                       "or 'bidirectional'", path, variant);
    if (window % block)
        return cv_fail(log, EILSEQ, "'%s': window is %lld latent frames, "
                       "expected a multiple of frames_per_block (%lld)", path,
                       (long long)window, (long long)block);
    r->frames_per_block = (int)block;
    r->window           = (int)window;
    return 0;
}

static void keep_line(void *cookie, enum CausvidLogLevel level,
                      const char *format, va_list args)
{
    (void)level;
    vsnprintf(cookie, LINE_SIZE, format, args);
}

/* Make the schedule as a clip will, so that a recipe that cannot be run is
 * refused with its file's name, and to count the steps of a list: a 0 at its
 * end is none. */
static int check_schedule(CvRecipe *r, const CvDitSize *size, int64_t steps,
                          const char *path, CvLog *log)
{
    const CvScheduleArgs args = {
        .sampler = r->sampler, .steps = (int)steps,
        .timesteps = r->timesteps, .n_timesteps = r->n_timesteps,
        .warp = r->warp, .shift = r->shift, .dim = size->dim,
    };
    char line[LINE_SIZE] = "";
    const CausvidSettings settings = { .log = keep_line, .cookie = line };
    CvSchedule schedule;
    CvLog kept;
    int err;

    cv_log_init(&kept, &settings);
    err = cv_schedule_init(&schedule, &args, &kept);
    cv_log_free(&kept);
    if (err < 0)
        return cv_fail(log, EILSEQ, "'%s': %s", path, line);
    r->steps = schedule.steps;
    if (r->n_timesteps)
        r->n_timesteps = schedule.steps;
    return 0;
}

static int read_sampling(CvRecipe *r, const cJSON *json, const char *path,
                         const CvDitSize *size, CvLog *log)
{
    double list[CV_MAX_LIST];
    int n = CV_MAX_LIST, err;
    int64_t steps = 0;
    char sampler[32] = "causvid";

    if ((err = cv_json_string(json, path, "sampler", sampler,
                              sizeof(sampler), log)) < 0 ||
        (err = cv_json_numbers(json, path, "timesteps", list, &n, log)) < 0 ||
        (err = cv_json_int(json, path, "steps", 1, CV_MAX_STEPS, &steps,
                           log)) < 0 ||
        (err = cv_json_bool(json, path, "warp", &r->warp, log)) < 0 ||
        (err = cv_json_number(json, path, "shift", 0.01, 100, &r->shift,
                              log)) < 0 ||
        (err = cv_json_number(json, path, "guidance", 0, 100, &r->guidance,
                              log)) < 0 ||
        (err = cv_json_string(json, path, "negative_prompt",
                              r->negative_prompt, sizeof(r->negative_prompt),
                              log)) < 0)
        return err;
    if (cv_sampler_from_name(sampler, &r->sampler) < 0 ||
        r->sampler == CAUSVID_SAMPLER_AUTO)
        return cv_fail(log, EILSEQ, "'%s': sampler is '%s', expected causvid, "
                       "euler, unipc or flowmatch_causvid", path, sampler);
    for (int i = 0; i < n; i++)
        r->timesteps[i] = (float)list[i];
    r->n_timesteps = n;
    if (!n && !steps)
        return cv_fail(log, EILSEQ, "'%s': expected 'timesteps' (a list) or "
                       "'steps'", path);
    return check_schedule(r, size, steps, path, log);
}

/* Keys that are understood; others are refused, so that a misspelt key is not
 * silently without effect. */
static int check_keys(const cJSON *json, const char *path, CvLog *log)
{
    static const char *const known[] = {
        "name", "variant", "width", "height", "rate", "frames",
        "frames_per_block", "window", "sampler", "timesteps", "steps", "warp",
        "shift", "guidance", "negative_prompt", "licence",
    };

    for (const cJSON *item = json->child; item; item = item->next) {
        size_t i = 0, n = sizeof(known) / sizeof(*known);

        while (i < n && strcmp(known[i], item->string))
            i++;
        if (i == n)
            return cv_fail(log, EILSEQ, "'%s': unknown key '%.64s'; "
                           "docs/models.md lists the keys", path,
                           item->string);
    }
    return 0;
}

static int read_recipe(CvRecipe *r, const char *path, const CvDitSize *size,
                       CvLog *log)
{
    cJSON *json = NULL;
    int err = cv_json_read(&json, path, log);

    if (err < 0)
        return err;
    if (!cJSON_IsObject(json)) {
        err = cv_fail(log, EILSEQ, "'%s': expected a JSON object", path);
        goto end;
    }
    snprintf(r->source, sizeof(r->source), "recipe.json");
    snprintf(r->why, sizeof(r->why), "recipe.json says so");
    r->negative_prompt[0] = 0;
    r->shift              = 8;
    if ((err = check_keys(json, path, log)) < 0 ||
        (err = cv_json_string(json, path, "name", r->name, sizeof(r->name),
                              log)) < 0 ||
        (err = cv_json_string(json, path, "licence", r->licence,
                              sizeof(r->licence), log)) < 0 ||
        (err = read_size(r, json, path, log)) < 0 ||
        (err = read_blocks(r, json, path, log)) < 0)
        goto end;
    err = read_sampling(r, json, path, size, log);
end:
    cJSON_Delete(json);
    return err;
}

/* The last part of a path. */
static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');

    return slash && slash[1] ? slash + 1 : path;
}

/* A model is called as its folder is, unless its file has a name of its own. */
static void set_name(CvRecipe *r, const CvModelFiles *files)
{
    static const char *const usual[] = {
        "diffusion_pytorch_model", "model.", "causal_model.",
    };
    const char *name = base_name(files->transformer);
    const char *dot = strrchr(name, '.');
    int n = dot && dot > name ? (int)(dot - name) : (int)strlen(name);

    for (size_t i = 0; i < sizeof(usual) / sizeof(*usual) && n; i++)
        if (!strncmp(name, usual[i], strlen(usual[i])))
            n = 0;
    if (!n || cv_random_is(files->transformer)) {
        name = base_name(files->root);
        n = (int)strlen(name);
    }
    snprintf(r->name, sizeof(r->name), "%.*s", n, name);
}

int cv_recipe_init(CvRecipe *recipe, const CvModelFiles *files,
                   const CvDitSize *size, enum CausvidVariant variant,
                   CvLog *log)
{
    memset(recipe, 0, sizeof(*recipe));
    wan_base(recipe);
    set_name(recipe, files);
    if (files->recipe[0]) {
        int err = read_recipe(recipe, files->recipe, size, log);

        if (err < 0)
            return err;
        if (variant && variant != recipe->variant) {
            cv_log(log, CAUSVID_LOG_WARNING, "variant=%s overrides the recipe "
                   "of this model, which is %s", cv_variant_name(variant),
                   cv_variant_name(recipe->variant));
            recipe->variant = variant;
            snprintf(recipe->why, sizeof(recipe->why), "the option variant "
                     "says so");
        }
    } else if (cv_random_is(files->transformer)) {
        random_recipe(recipe, size, variant);
    } else {
        return cv_recipe_published(recipe, files, size, variant, log);
    }
    return 0;
}
