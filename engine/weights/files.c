/*
 * Where a model's parts lie.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * Three layouts are known: the diffusers folder (transformer/, text_encoder/,
 * vae/, tokenizer/), the official names side by side in one folder, and a
 * transformer file, whose companions lie beside it or are named by options.
 * "random:NAME" is a model without files (random.c).
 * Sources: checkpoints.md 1.1, 1.2.
 */
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "weights/files.h"
#include "weights/reader.h"

/* A part of a model and the names under which it is found. */
typedef struct Part {
    const char *what, *option;
    const char *folder;      /* in the diffusers layout */
    const char *prefix;      /* of its files there, and of its shards */
    int shards_beside;       /* its shards may lie in the model's folder */
    const char *names[8];    /* other names in use, preferred ones first */
    const char *unread[4];   /* names in formats that are not read */
} Part;

static const Part transformer = {
    "transformer", "model", "transformer", "diffusion_pytorch_model", 1,
    { "causal_model.safetensors" },
    { "model.pt", "causal_model.pt", "diffusion_pytorch_model.bin" },
};

static const Part text_encoder = {
    "text encoder", "text_encoder", "text_encoder", "model", 0,
    { "models_t5_umt5-xxl-enc-bf16.safetensors",
      "umt5-xxl-enc-bf16.safetensors", "umt5_xxl_fp16.safetensors",
      "umt5_xxl_bf16.safetensors", "umt5-xxl-enc-fp8_e4m3fn.safetensors" },
    { "models_t5_umt5-xxl-enc-bf16.pth" },
};

static const Part vae = {
    "VAE", "vae", "vae", "diffusion_pytorch_model", 0,
    { "Wan2.1_VAE.safetensors", "Wan2_1_VAE_fp32.safetensors",
      "wan_2.1_vae.safetensors", "Wan2_1_VAE_bf16.safetensors" },
    { "Wan2.1_VAE.pth" },
};

static const char *const tokenizer_names[] = {
    "tokenizer/spiece.model", "google/umt5-xxl/spiece.model", "spiece.model",
};

static int is_folder(const char *path)
{
    struct stat st;

    return !stat(path, &st) && S_ISDIR(st.st_mode);
}

/* 1, 0, or EIO when that cannot be seen, which must not pass for 0. */
static int exists(const char *path, CvLog *log)
{
    struct stat st;

    if (!stat(path, &st))
        return 1;
    if (errno == ENOENT || errno == ENOTDIR)
        return 0;
    return cv_fail(log, EIO, "'%s' cannot be read: %s", path,
                   strerror(errno));
}

/* path = folder/name; EINVAL when that is too long. */
static int join(char path[CV_PATH_SIZE], const char *folder, const char *name,
                CvLog *log)
{
    int n = snprintf(path, CV_PATH_SIZE, "%s/%s", folder, name);

    if (n >= 0 && n < CV_PATH_SIZE)
        return 0;
    path[0] = 0;
    return cv_fail(log, EINVAL, "the path of '%s' is longer than %d bytes; "
                   "use a shorter one", name, CV_PATH_SIZE - 1);
}

/* As join(), but path = "" when there is no such file or folder. */
static int join_existing(char path[CV_PATH_SIZE], const char *folder,
                         const char *name, CvLog *log)
{
    int err = join(path, folder, name, log);

    if (!err && (err = exists(path, log)) <= 0)
        path[0] = 0;
    return err < 0 ? err : 0;
}

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');

    return slash ? slash + 1 : path;
}

/* The folder that a path lies in. */
static void parent(char folder[CV_PATH_SIZE], const char *path)
{
    const char *slash = strrchr(path, '/');

    if (!slash)
        strcpy(folder, ".");
    else
        snprintf(folder, CV_PATH_SIZE, "%.*s",
                 slash == path ? 1 : (int)(slash - path), path);
}

/* Copy a path of the user's, without slashes at its end. */
static int copy_path(char path[CV_PATH_SIZE], const char *from,
                     const char *option, CvLog *log)
{
    size_t n = strlen(from);

    if (!n)
        return cv_fail(log, EINVAL, "option %s is empty; expected a path",
                       option);
    if (n >= CV_PATH_SIZE)
        return cv_fail(log, EINVAL, "option %s has %zu bytes; expected a path "
                       "of at most %d", option, n, CV_PATH_SIZE - 1);
    strcpy(path, from);
    while (n > 1 && path[n - 1] == '/')
        path[--n] = 0;
    return 0;
}

/* Look for a part in a model's folder. *path stays empty when it is not there.
 * A file under its usual name has its config only in the diffusers layout, or
 * where the whole folder is the transformer's. */
static int find_in(const Part *part, const char *base, char path[CV_PATH_SIZE],
                   char config[CV_PATH_SIZE], CvLog *log)
{
    char folder[CV_PATH_SIZE];
    CvFolder found;
    int err;

    path[0] = config[0] = 0;
    if ((err = join(folder, base, part->folder, log)) < 0)
        return err;
    if (is_folder(folder)) {
        err = cv_folder_weights(path, folder, "", log);
        return err < 0 ? err :
                         join_existing(config, folder, "config.json", log);
    }
    if (part->shards_beside) {
        err = cv_folder_scan(&found, base, part->prefix, log);
        if (err < 0)
            return err;
        if (found.n_indexes + found.n_files > 0)
            err = cv_folder_weights(path, base, part->prefix, log);
        if (err < 0)
            return err;
    }
    for (int i = 0; i < 8 && part->names[i] && !path[0]; i++)
        if ((err = join_existing(path, base, part->names[i], log)) < 0)
            return err;
    if (path[0] && part == &transformer)
        err = join_existing(config, base, "config.json", log);
    return err;
}

/* ENOSYS when the part is there in a format that is not read, else 0. */
static int find_unread(const Part *part, const char *base, CvLog *log)
{
    char path[CV_PATH_SIZE];
    int err;

    for (int i = 0; i < 4 && part->unread[i]; i++) {
        err = join_existing(path, base, part->unread[i], log);
        if (err < 0)
            return err;
        if (path[0])
            return cv_fail(log, ENOSYS, "'%s', the %s, is a PyTorch file; "
                           CV_CONVERT ", then name it with the option %s",
                           path, part->what, part->option);
    }
    return 0;
}

/* The part was in none of the folders: say so. */
static int not_found(const Part *part, const char *base, CvLog *log)
{
    char names[512] = "";
    CvFolder found = { 0 };
    int err = find_unread(part, base, log);

    if (err < 0)
        return err;
    for (int i = 0; i < 8 && part->names[i]; i++)
        snprintf(names + strlen(names), sizeof(names) - strlen(names),
                 ", %s", part->names[i]);
    if (part != &transformer)
        return cv_fail(log, ENOENT, "'%s' holds no %s: looked for %s/%s; name "
                       "a file or folder with the option %s", base, part->what,
                       part->folder, names, part->option);
    if (cv_folder_scan(&found, base, "", NULL) < 0 || !found.n_files)
        return cv_fail(log, ENOENT, "'%s' holds no transformer: looked for "
                       "transformer/, %s*.safetensors%s; name a model's folder "
                       "or a .safetensors file with the option model", base,
                       part->prefix, names);
    return cv_fail(log, ENOENT, "'%s' holds no transformer under a name that "
                   "is known, but %s; name the file itself with the option "
                   "model", base, found.names);
}

/* A part that an option names: a file, its folder, or the folder of a model
 * that has it. */
static int find_named(const Part *part, const char *option,
                      char path[CV_PATH_SIZE], char config[CV_PATH_SIZE],
                      CvLog *log)
{
    char given[CV_PATH_SIZE], folder[CV_PATH_SIZE];
    int err = copy_path(given, option, part->option, log);

    if (err < 0)
        return err;
    if ((err = exists(given, log)) < 0)
        return err;
    if (!err)
        return cv_fail(log, ENOENT, "%s '%s' does not exist; expected a file "
                       "or folder of weights", part->option, given);
    if (is_folder(given)) {
        err = find_in(part, given, path, config, log);
        if (err < 0 || path[0])
            return err;
        if ((err = find_unread(part, given, log)) < 0)
            return err;
        err = cv_folder_weights(path, given, "", log);
        return err < 0 ? err :
                         join_existing(config, given, "config.json", log);
    }
    strcpy(path, given);
    /* Only the names that diffusers and transformers write have the config of
     * the same part beside them. */
    if (strncmp(base_name(given), part->prefix, strlen(part->prefix)))
        return 0;
    if (!strncmp(base_name(given), "models_", 7))
        return 0;
    parent(folder, given);
    return join_existing(config, folder, "config.json", log);
}

static int find_tokenizer_in(const char *base, char path[CV_PATH_SIZE],
                             CvLog *log)
{
    int err = 0;

    for (size_t i = 0; i < sizeof(tokenizer_names) / sizeof(*tokenizer_names);
         i++) {
        err = join_existing(path, base, tokenizer_names[i], log);
        if (err < 0 || path[0])
            return err;
    }
    return err;
}

static int find_tokenizer(CvModelFiles *f, const CausvidSettings *s,
                          const char *parts, CvLog *log)
{
    char given[CV_PATH_SIZE], folder[CV_PATH_SIZE];
    int err;

    if (s->tokenizer) {
        err = copy_path(given, s->tokenizer, "tokenizer", log);
        if (err < 0)
            return err;
        if ((err = exists(given, log)) < 0)
            return err;
        if (!err)
            return cv_fail(log, ENOENT, "tokenizer '%s' does not exist; "
                           "expected a spiece.model or its folder", given);
        if (!is_folder(given)) {
            strcpy(f->tokenizer, given);
            return 0;
        }
        err = find_tokenizer_in(given, f->tokenizer, log);
        if (err < 0 || f->tokenizer[0])
            return err;
        return cv_fail(log, ENOENT, "tokenizer folder '%s' holds no "
                       "spiece.model", given);
    }
    err = find_tokenizer_in(f->root, f->tokenizer, log);
    if (!err && !f->tokenizer[0])
        err = find_tokenizer_in(parts, f->tokenizer, log);
    if (!err && !f->tokenizer[0] && s->text_encoder) {
        /* the model that the text encoder was taken from */
        parent(folder, f->text_encoder);
        err = find_tokenizer_in(folder, f->tokenizer, log);
        if (!err && !f->tokenizer[0]) {
            char above[CV_PATH_SIZE];

            parent(above, folder);
            err = find_tokenizer_in(above, f->tokenizer, log);
        }
    }
    if (err < 0 || f->tokenizer[0])
        return err;
    return cv_fail(log, ENOENT, "'%s' holds no tokenizer: looked for "
                   "tokenizer/spiece.model, google/umt5-xxl/spiece.model, "
                   "spiece.model; name it with the option tokenizer",
                   f->root);
}

/* A part that an option names, or that lies with the transformer. */
static int find_part(const Part *part, const char *option, const char *root,
                     const char *parts, char path[CV_PATH_SIZE],
                     char config[CV_PATH_SIZE], CvLog *log)
{
    int err;

    if (option)
        return find_named(part, option, path, config, log);
    err = find_in(part, root, path, config, log);
    if (!err && !path[0] && strcmp(root, parts))
        err = find_in(part, parts, path, config, log);
    return err < 0 || path[0] ? err : not_found(part, root, log);
}

/* A model without files; its tokenizer is another one's. */
static int find_random(CvModelFiles *f, const CausvidSettings *s,
                       const char *model, CvLog *log)
{
    int err = cv_random_files(f, model, log);

    if (!err && s->text_encoder)
        err = find_named(&text_encoder, s->text_encoder, f->text_encoder,
                         f->text_encoder_config, log);
    if (!err && s->vae)
        err = find_named(&vae, s->vae, f->vae, f->vae_config, log);
    return err < 0 ? err : find_tokenizer(f, s, f->root, log);
}

int cv_files_find(CvModelFiles *f, const CausvidSettings *s, CvLog *log)
{
    char model[CV_PATH_SIZE], parts[CV_PATH_SIZE];
    int err;

    memset(f, 0, sizeof(*f));
    if (!s->model)
        return cv_fail(log, EINVAL, "option model is missing; expected the "
                       "path of a model's folder");
    if ((err = copy_path(model, s->model, "model", log)) < 0)
        return err;
    if (cv_random_is(model))
        return find_random(f, s, model, log);
    if ((err = exists(model, log)) < 0)
        return err;
    if (!err)
        return cv_fail(log, ENOENT, "model folder '%s' does not exist; "
                       "expected a folder in the diffusers layout or with the "
                       "official names, or a .safetensors file", model);
    if (is_folder(model)) {
        strcpy(f->root, model);
        err = find_in(&transformer, model, f->transformer,
                      f->transformer_config, log);
        if (!err && !f->transformer[0])
            err = not_found(&transformer, model, log);
    } else {
        parent(f->root, model);
        err = find_named(&transformer, model, f->transformer,
                         f->transformer_config, log);
    }
    if (err < 0)
        return err;
    /* transformer/ of a diffusers model was named: the rest is beside it */
    strcpy(parts, f->root);
    if (!strcmp(base_name(f->root), "transformer"))
        parent(parts, f->root);
    err = find_part(&text_encoder, s->text_encoder, f->root, parts,
                    f->text_encoder, f->text_encoder_config, log);
    if (!err)
        err = find_part(&vae, s->vae, f->root, parts, f->vae, f->vae_config,
                        log);
    if (!err)
        err = find_tokenizer(f, s, parts, log);
    if (!err)
        err = join_existing(f->recipe, f->root, "recipe.json", log);
    return err;
}
