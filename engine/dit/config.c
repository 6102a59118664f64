/*
 * The transformer's config.json: what it adds to the weights, and whether it
 * agrees with them.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * Only the number of heads and eps are taken from it; everything else shows in
 * the weights and must be the same. Official and diffusers files name the same
 * numbers differently (checkpoints.md 1.1, 1.2).
 */
#include "internal.h"

#include <inttypes.h>
#include <string.h>

#include "weights/files.h"

#define OFFICIAL_HEAD_DIM 128

typedef struct Config {
    const cJSON *json;
    const char *path;
    CvLog *log;
} Config;

/* A size; *value stays when the key is absent. */
static int read_size(const Config *c, const char *key, int64_t *value)
{
    return cv_json_int(c->json, c->path, key, 1, CV_DIT_MAX_SIZE, value,
                       c->log);
}

/* One that the weights show too. */
static int check_size(const Config *c, const char *key, int64_t in_weights)
{
    int64_t value = in_weights;
    int err = read_size(c, key, &value);

    if (!err && value != in_weights)
        err = cv_fail(c->log, EILSEQ, "'%s': \"%s\" is %" PRId64 ", but the "
                      "weights have %" PRId64 ": config and weights are of "
                      "different models", c->path, key, value, in_weights);
    return err;
}

static int refuse(const Config *c, const char *key, const char *expected)
{
    char *found = cJSON_PrintUnformatted(
        cJSON_GetObjectItemCaseSensitive(c->json, key));
    int err = cv_fail(c->log, ENOSYS, "'%s': \"%s\" is %.60s, which is not "
                      "supported; expected %s", c->path, key,
                      found ? found : "something", expected);

    cJSON_free(found);
    return err;
}

/* Keys that must be absent, null or have their ordinary value. */
static int check_features(const Config *c, int has_cross_norm)
{
    static const char *const image_keys[] = {
        "image_dim", "added_kv_proj_dim", "pos_embed_seq_len", "vace_layers",
        "vace_in_channels"
    };
    double values[8];
    char text[64] = "";
    int64_t text_len = CV_DIT_TEXT_ROWS;
    int cross_norm = has_cross_norm, n, err;
    const cJSON *item;

    err = cv_json_string(c->json, c->path, "model_type", text, sizeof(text),
                         c->log);
    if (err)
        return err;
    if (*text && strcmp(text, "t2v"))
        return refuse(c, "model_type", "\"t2v\", a text to video model");
    for (size_t i = 0; i < sizeof(image_keys) / sizeof(*image_keys); i++) {
        item = cJSON_GetObjectItemCaseSensitive(c->json, image_keys[i]);
        if (item && !cJSON_IsNull(item))
            return refuse(c, image_keys[i],
                          "null: a text to video (T2V) model, not I2V, FLF2V "
                          "or VACE");
    }
    n = (int)(sizeof(values) / sizeof(*values));
    err = cv_json_numbers(c->json, c->path, "patch_size", values, &n, c->log);
    if (err)
        return err;
    if (n && (n != 3 || values[0] != 1 || values[1] != 2 || values[2] != 2))
        return refuse(c, "patch_size", "[1, 2, 2]");
    n = (int)(sizeof(values) / sizeof(*values));
    err = cv_json_numbers(c->json, c->path, "window_size", values, &n, c->log);
    if (err)
        return err;
    if (n && (n != 2 || values[0] != -1 || values[1] != -1))
        return refuse(c, "window_size", "[-1, -1]");
    err = read_size(c, "text_len", &text_len);
    if (err)
        return err;
    if (text_len != CV_DIT_TEXT_ROWS)
        return refuse(c, "text_len", "512");

    /* true in official files, the name of the norm in diffusers ones. */
    item = cJSON_GetObjectItemCaseSensitive(c->json, "qk_norm");
    if (item && !cJSON_IsTrue(item) &&
        !(cJSON_IsString(item) &&
          !strcmp(item->valuestring, "rms_norm_across_heads")))
        return refuse(c, "qk_norm", "true or \"rms_norm_across_heads\"");
    err = cv_json_bool(c->json, c->path, "cross_attn_norm", &cross_norm,
                       c->log);
    if (!err && cross_norm != has_cross_norm)
        err = cv_fail(c->log, EILSEQ, "'%s': \"cross_attn_norm\" is %s, but "
                      "the weights have %s norm3: config and weights are of "
                      "different models", c->path,
                      cross_norm ? "true" : "false",
                      has_cross_norm ? "a" : "no");
    return err;
}

/* Official and diffusers configs name the same numbers differently; a key that
 * is absent changes nothing. */
static int check_config(CvDit *dit, const Config *c)
{
    const CvDitSize *size = &dit->size;
    const struct { const char *key; int64_t value; } sizes[] = {
        { "dim", size->dim }, { "ffn_dim", size->ffn_dim },
        { "freq_dim", size->freq_dim }, { "text_dim", size->text_dim },
        { "num_layers", size->layers }, { "in_dim", size->in_channels },
        { "in_channels", size->in_channels },
        { "out_dim", size->out_channels },
        { "out_channels", size->out_channels },
    };
    int64_t heads = 0, head_dim = 0;
    double eps = dit->eps;
    int err;

    err = check_features(c, dit->cross_norm);
    for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes) && !err; i++)
        err = check_size(c, sizes[i].key, sizes[i].value);
    if (!err)
        err = read_size(c, "num_heads", &heads);
    if (!err)
        err = read_size(c, "num_attention_heads", &heads);
    if (!err)
        err = read_size(c, "attention_head_dim", &head_dim);
    if (!err)
        err = cv_json_number(c->json, c->path, "eps", 1e-12, 1e-2, &eps,
                             c->log);
    if (err)
        return err;
    dit->eps = (float)eps;
    if (heads && !head_dim)
        head_dim = size->dim / heads;
    if (!heads && head_dim)
        heads = size->dim / head_dim;
    if (heads && heads * head_dim != size->dim)
        return cv_fail(c->log, EILSEQ, "'%s': %" PRId64 " heads of %" PRId64
                       " do not make the width of the weights, %" PRId64,
                       c->path, heads, head_dim, size->dim);
    dit->size.heads = heads;
    dit->head_dim = head_dim;
    return 0;
}

int cv_dit_read_config(CvDit *dit, const char *path, const char *weights,
                       CvLog *log)
{
    Config c = { .path = path, .log = log };
    cJSON *json = NULL;
    int err;

    if (path && *path) {
        err = cv_json_read(&json, path, log);
        c.json = json;
        if (!err && !cJSON_IsObject(json))
            err = cv_fail(log, EILSEQ, "'%s': expected a JSON object with the "
                          "transformer's sizes", path);
        if (!err)
            err = check_config(dit, &c);
        cJSON_Delete(json);
        if (err)
            return err;
    }
    if (!dit->size.heads) {
        if (dit->size.dim % OFFICIAL_HEAD_DIM)
            return cv_fail(log, EILSEQ, "transformer '%s' is %" PRId64 " wide, "
                           "which is no multiple of %d, and no config.json "
                           "beside it says how many heads it has; get its "
                           "config.json", weights, dit->size.dim,
                           OFFICIAL_HEAD_DIM);
        dit->head_dim = OFFICIAL_HEAD_DIM;
        dit->size.heads = dit->size.dim / OFFICIAL_HEAD_DIM;
    }
    if (dit->head_dim < 8 || dit->head_dim % 2)
        return cv_fail(log, ENOSYS, "'%s': heads of %" PRId64 " numbers cannot "
                       "be rotated, expected an even number from 8 on",
                       path, dit->head_dim);
    return 0;
}
