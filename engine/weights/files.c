/*
 * Finding a model's parts: as options name them, or around the transformer.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * A model is a folder, or a transformer's file whose companions lie in the
 * same file, beside it, or in the places that programs keep them in
 * (places.c). "random:NAME" is a model without files (random.c).
 */
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "weights/gguf.h"
#include "weights/places.h"
#include "weights/weights.h"

/* Of a model whose text encoder is not told, the tokenizer lies beside it. */
static const char *const tokenizer_names[] = {
    "tokenizer/spiece.model", "google/umt5-xxl/spiece.model", "spiece.model",
    "umt5-xxl/spiece.model",
};

/* Does a file hold more than one network would: another one, or a tokenizer
 * (CV_KIND_UNKNOWN)? Quiet: what is wrong with it is told when the network is
 * opened. */
static int file_holds(const char *path, CvKind kind)
{
    CvWeights *w;
    int holds;

    if (cv_weights_open(&w, path, NULL) < 0)
        return 0;
    if (kind != CV_KIND_UNKNOWN)
        holds = cv_weights_holds(w, kind);
    else
        holds = cv_weights_tokenizer(w) ||
                cv_gguf_find(w, "tokenizer.ggml.tokens");
    cv_weights_close(&w);
    return holds;
}

static int is_empty(const char *path)
{
    struct stat st;

    return !stat(path, &st) && S_ISREG(st.st_mode) && !st.st_size;
}

/* Before parts are looked for around a file: is it a transformer at all? Of an
 * empty one that is told when the network is opened. */
static int check_transformer(const CvModelFiles *f, CvLog *log)
{
    CvWeights *w;
    int err;

    if (f->transformer_config[0] || is_empty(f->transformer))
        return 0;
    if ((err = cv_weights_open_key(&w, f->transformer, f->checkpoint_key,
                                   log)) < 0)
        return err;
    err = cv_weights_canonical(w, CV_KIND_TRANSFORMER, log);
    cv_weights_close(&w);
    return err;
}

/* The part was nowhere: say so. */
static int not_found(const CvPart *part, const char *base, CvLog *log)
{
    if (part == &cv_part_transformer)
        return cv_fail(log, ENOENT, "'%s' holds no transformer: looked for "
                       "transformer/, %s; name a model's folder or the file "
                       "with the option model", base, part->known);
    return cv_fail(log, ENOENT, "'%s' holds no %s, and it is not in the usual "
                   "places around: looked for %s/, %s; name a file or folder "
                   "with the option %s", base, part->what, part->folder,
                   part->known, part->option);
}

/* The transformer of a model's folder. */
static int find_transformer(const char *base, char path[CV_PATH_SIZE],
                            char config[CV_PATH_SIZE], CvLog *log)
{
    int err = cv_part_find(&cv_part_transformer, base, 1, path, config, log);

    if (!err && !path[0])
        err = cv_part_single(base, path, log);
    return err < 0 || path[0] ? err :
                                not_found(&cv_part_transformer, base, log);
}

/* A part that an option names: a file, its folder, or the folder of a model
 * that has it. */
static int find_named(const CvPart *part, const char *option,
                      char path[CV_PATH_SIZE], char config[CV_PATH_SIZE],
                      CvLog *log)
{
    char given[CV_PATH_SIZE], folder[CV_PATH_SIZE];
    int err = cv_path_copy(given, option, part->option, log);

    if (err < 0)
        return err;
    if (cv_random_is(given)) {
        strcpy(path, given);
        return 0;
    }
    if ((err = cv_path_exists(given, log)) < 0)
        return err;
    if (!err)
        return cv_fail(log, ENOENT, "%s '%s' does not exist; expected a file "
                       "or folder of weights", part->option, given);
    if (cv_path_is_folder(given)) {
        err = cv_part_find(part, given, 1, path, config, log);
        if (err < 0 || path[0])
            return err;
        err = cv_folder_weights(path, given, "", log);
        return err < 0 ? err : cv_path_join_existing(config, given,
                                                     "config.json", log);
    }
    strcpy(path, given);
    /* Only the names that diffusers and transformers write have the config of
     * the same part beside them. */
    if (strncmp(cv_path_base_name(given), part->prefix, strlen(part->prefix)))
        return 0;
    if (!strncmp(cv_path_base_name(given), "models_", 7) ||
        !cv_path_parent(folder, given))
        return 0;
    return cv_path_join_existing(config, folder, "config.json", log);
}

/* A part that an option names, that is in the transformer's file, or that
 * lies in one of the places around it. */
static int find_part(const CvPart *part, const char *option, CvKind kind,
                     const CvModelFiles *f, char path[CV_PATH_SIZE],
                     char config[CV_PATH_SIZE], CvLog *log)
{
    CvPlaces places;
    int err;

    if (option)
        return find_named(part, option, path, config, log);
    if (!f->transformer_config[0] && file_holds(f->transformer, kind)) {
        strcpy(path, f->transformer);
        return 0;
    }
    cv_places_begin(&places, f->root);
    while (cv_places_next(&places)) {
        int strict = places.strict;

        err = cv_part_find(part, places.folder, strict, path, config,
                           strict ? log : NULL);
        if (path[0] || (err < 0 && strict))
            return err;
    }
    return not_found(part, f->root, log);
}

static int find_tokenizer_in(const char *base, char path[CV_PATH_SIZE],
                             CvLog *log)
{
    int err = 0;

    for (size_t i = 0; i < sizeof(tokenizer_names) / sizeof(*tokenizer_names);
         i++) {
        err = cv_path_join_existing(path, base, tokenizer_names[i], log);
        if (err < 0 || path[0])
            return err;
    }
    return err;
}

static int find_named_tokenizer(CvModelFiles *f, const char *option,
                                CvLog *log)
{
    char given[CV_PATH_SIZE];
    int err = cv_path_copy(given, option, "tokenizer", log);

    if (err < 0 || (err = cv_path_exists(given, log)) < 0)
        return err;
    if (!err)
        return cv_fail(log, ENOENT, "tokenizer '%s' does not exist; expected "
                       "a spiece.model or its folder", given);
    if (!cv_path_is_folder(given)) {
        strcpy(f->tokenizer, given);
        f->tokenizer_embedded = file_holds(given, CV_KIND_UNKNOWN);
        return 0;
    }
    err = find_tokenizer_in(given, f->tokenizer, log);
    if (err < 0 || f->tokenizer[0])
        return err;
    return cv_fail(log, ENOENT, "tokenizer folder '%s' holds no spiece.model",
                   given);
}

/* The tokenizer with a model or a text encoder, or in the places around. */
static int find_tokenizer_around(const char *root, int beside_only,
                                 char path[CV_PATH_SIZE], CvLog *log)
{
    CvPlaces places;
    int err = 0;

    cv_places_begin(&places, root);
    while (!err && !path[0] && cv_places_next(&places)) {
        int strict = places.strict;

        if (beside_only && !strict)
            break;
        err = find_tokenizer_in(places.folder, path, strict ? log : NULL);
        if (!strict)
            err = 0;
    }
    return err;
}

static int find_tokenizer(CvModelFiles *f, const CausvidSettings *s,
                          CvLog *log)
{
    char folder[CV_PATH_SIZE];
    int random = cv_random_is(f->root), err;

    if (s->tokenizer)
        return find_named_tokenizer(f, s->tokenizer, log);
    /* with the text encoder, where that is not the model's */
    if (s->text_encoder && cv_path_parent(folder, f->text_encoder)) {
        err = find_tokenizer_in(folder, f->tokenizer, log);
        if (!err && !f->tokenizer[0] && cv_path_parent(folder, folder))
            err = find_tokenizer_in(folder, f->tokenizer, log);
        if (err < 0 || f->tokenizer[0])
            return err;
    }
    err = random ? 0 :
          find_tokenizer_around(f->root, 1, f->tokenizer, log);
    if (err < 0 || f->tokenizer[0])
        return err;
    if (file_holds(f->text_encoder, CV_KIND_UNKNOWN)) {
        strcpy(f->tokenizer, f->text_encoder);
        f->tokenizer_embedded = 1;
        return 0;
    }
    if (!random)
        err = find_tokenizer_around(f->root, 0, f->tokenizer, log);
    if (!err && !f->tokenizer[0] && cv_path_parent(folder, f->text_encoder))
        err = find_tokenizer_around(folder, 0, f->tokenizer, log);
    if (err < 0 || f->tokenizer[0])
        return err;
    return cv_fail(log, ENOENT, "'%s' holds no tokenizer, nor does its text "
                   "encoder's file: looked for tokenizer/spiece.model, "
                   "google/umt5-xxl/spiece.model, spiece.model; name it with "
                   "the option tokenizer", f->root);
}

/* A model without files; its tokenizer is another one's. */
static int find_random(CvModelFiles *f, const CausvidSettings *s,
                       const char *model, CvLog *log)
{
    int err = cv_random_files(f, model, log);

    if (!err && s->text_encoder)
        err = find_named(&cv_part_text_encoder, s->text_encoder,
                         f->text_encoder, f->text_encoder_config, log);
    if (!err && s->vae)
        err = find_named(&cv_part_vae, s->vae, f->vae, f->vae_config, log);
    return err < 0 ? err : find_tokenizer(f, s, log);
}

/* recipe.json beside the transformer, or where model_index.json lies. */
static int find_recipe(CvModelFiles *f, CvLog *log)
{
    char folder[CV_PATH_SIZE];
    int err = cv_path_join_existing(f->recipe, f->root, "recipe.json", log);

    if (!err && !f->recipe[0] &&
        !strcmp(cv_path_base_name(f->root), "transformer") &&
        cv_path_parent(folder, f->root))
        err = cv_path_join_existing(f->recipe, folder, "recipe.json", log);
    return err;
}

int cv_files_find(CvModelFiles *f, const CausvidSettings *s, CvLog *log)
{
    char model[CV_PATH_SIZE];
    int err;

    memset(f, 0, sizeof(*f));
    if (!s->model)
        return cv_fail(log, EINVAL, "option model is missing; expected the "
                       "path of a model's folder");
    if ((err = cv_path_copy(model, s->model, "model", log)) < 0)
        return err;
    if (s->checkpoint_key &&
        snprintf(f->checkpoint_key, sizeof(f->checkpoint_key), "%s",
                 s->checkpoint_key) >= (int)sizeof(f->checkpoint_key))
        return cv_fail(log, EINVAL, "option checkpoint_key has %zu bytes; "
                       "expected the name of a .pt file's weights, such as "
                       "generator", strlen(s->checkpoint_key));
    if (cv_random_is(model))
        return find_random(f, s, model, log);
    if ((err = cv_path_exists(model, log)) < 0)
        return err;
    if (!err)
        return cv_fail(log, ENOENT, "model '%s' does not exist; "
                       "expected a folder in the diffusers layout or with the "
                       "official names, or a transformer's file", model);
    if (cv_path_is_folder(model)) {
        strcpy(f->root, model);
        err = find_transformer(model, f->transformer, f->transformer_config,
                               log);
    } else if (cv_path_parent(f->root, model)) {
        err = find_named(&cv_part_transformer, model, f->transformer,
                         f->transformer_config, log);
    } else {
        err = cv_fail(log, EINVAL, "the path of the model is longer than %d "
                      "bytes; use a shorter one", CV_PATH_SIZE - 4);
    }
    if (!err)
        err = check_transformer(f, log);
    if (!err)
        err = find_part(&cv_part_text_encoder, s->text_encoder,
                        CV_KIND_TEXT_ENCODER, f, f->text_encoder,
                        f->text_encoder_config, log);
    if (!err)
        err = find_part(&cv_part_vae, s->vae, CV_KIND_VAE, f, f->vae,
                        f->vae_config, log);
    if (!err)
        err = find_tokenizer(f, s, log);
    return err < 0 ? err : find_recipe(f, log);
}
