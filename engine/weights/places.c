/*
 * The layouts in which people keep models.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * Sources: checkpoints.md 1.1 to 1.7.
 */
#include <stdio.h>
#include <string.h>

#include "weights/places.h"

const CvPart cv_part_transformer = {
    "transformer", "model", "transformer", "diffusion_pytorch_model", 1,
    { "causal_model.*", "model.pt" },
    "diffusion_pytorch_model.*, causal_model.*, model.pt",
};

/* Several precisions of one network may lie side by side: less is lost in the
 * first ones. */
const CvPart cv_part_text_encoder = {
    "text encoder", "text_encoder", "text_encoder", "model", 0,
    { "models_t5_umt5-xxl-enc-bf16.*", "*umt5*xxl*bf16*", "*umt5*xxl*f*16*",
      "*umt5*xxl*32*", "*umt5*xxl*q8_0*", "*umt5*xxl*" },
    "models_t5_umt5-xxl-enc-bf16.*, umt5-xxl*",
};

const CvPart cv_part_vae = {
    "VAE", "vae", "vae", "diffusion_pytorch_model", 0,
    { "wan2.1_vae.*", "wan*2?1*vae*32*", "wan*2?1*vae*" },
    "Wan2.1_VAE.*, Wan2_1_VAE*, wan_2.1_vae.*",
};

/* Never the transformer, beside which they lie in folders without order. */
static const char *const not_transformers[] = {
    "*umt5*", "*t5*xxl*", "*vae*", "tae*", "*clip*", "*lora*", NULL,
};

/* Sub-folders that parts are looked for in, at the transformer's folder and at
 * those above: of ComfyUI's models/ and of repackaged releases, which have
 * diffusion_models/ beside these, and of the releases that CausVid,
 * Self-Forcing and LightX2V keep the other parts in. "": the folder itself. */
static const char *const places[] = {
    "", "text_encoders", "clip", "vae",
    "wan_models/Wan2.1-T2V-1.3B", "wan_models/Wan2.1-T2V-14B",
    "Wan2.1-T2V-1.3B", "Wan2.1-T2V-14B",
};
#define N_PLACES ((int)(sizeof(places) / sizeof(*places)))

/* models/diffusion_models/wan/a/b.gguf reaches models/ */
#define LEVELS 3

/* The part's folder in the diffusers layout. */
static int find_in_own(const CvPart *part, const char *folder, int strict,
                       char path[CV_PATH_SIZE], char config[CV_PATH_SIZE],
                       CvLog *log)
{
    CvFolder found;
    int err = cv_folder_scan(&found, folder, strict ? "" : part->prefix, NULL,
                             log);

    if (err < 0)
        return err;
    if (found.path[0]) {
        strcpy(path, found.path);
        return cv_path_join_existing(config, folder, "config.json", log);
    }
    /* ComfyUI has a vae/ too, with those of all families */
    err = cv_folder_first(path, folder, part->patterns, log);
    if (err < 0 || path[0] || !strict)
        return err;
    return cv_folder_weights(path, folder, "", log);
}

int cv_part_find(const CvPart *part, const char *base, int strict,
                 char path[CV_PATH_SIZE], char config[CV_PATH_SIZE],
                 CvLog *log)
{
    char folder[CV_PATH_SIZE];
    CvFolder found;
    int err;

    path[0] = config[0] = 0;
    if ((err = cv_path_join(folder, base, part->folder, log)) < 0)
        return err;
    if (cv_path_is_folder(folder)) {
        err = find_in_own(part, folder, strict, path, config, log);
        if (err < 0 || path[0])
            return err;
    }
    if (part->shards_beside) {
        err = cv_folder_scan(&found, base, part->prefix, NULL, log);
        if (err < 0)
            return err;
        if (found.n_indexes + found.n_files > 0)
            err = cv_folder_weights(path, base, part->prefix, log);
        if (err < 0)
            return err;
    }
    if (!path[0])
        err = cv_folder_first(path, base, part->patterns, log);
    if (!err && path[0] && part == &cv_part_transformer)
        err = cv_path_join_existing(config, base, "config.json", log);
    return err;
}

int cv_part_single(const char *base, char path[CV_PATH_SIZE], CvLog *log)
{
    CvFolder found;
    int err = cv_folder_scan(&found, base, "", not_transformers, log);

    path[0] = 0;
    if (err < 0)
        return err;
    if (found.n_indexes + found.n_files > 1)
        return cv_fail(log, EILSEQ, "'%s' holds %d files that may be the "
                       "transformer (%s); name the file itself with the "
                       "option model", base, found.n_indexes + found.n_files,
                       found.names);
    strcpy(path, found.path);
    return 0;
}

void cv_places_begin(CvPlaces *p, const char *root)
{
    char path[CV_PATH_SIZE];

    memset(p, 0, sizeof(*p));
    strcpy(p->root, root);
    strcpy(p->base, root);
    /* transformer/ of a diffusers model was named: the rest is beside it */
    if (!strcmp(cv_path_base_name(root), "transformer") &&
        cv_path_parent(path, root))
        strcpy(p->base, path);
    p->closed = !cv_path_join_existing(path, p->base, "model_index.json",
                                       NULL) && path[0];
    p->level  = strcmp(p->root, p->base) ? -1 : 0;
}

int cv_places_next(CvPlaces *p)
{
    if (p->level < 0) { /* transformer/ itself */
        p->level  = 0;
        p->strict = 1;
        strcpy(p->folder, p->root);
        return 1;
    }
    for (;;) {
        int entry = p->entry++;

        if (entry == N_PLACES) {
            if (p->level++ == LEVELS || !cv_path_parent(p->base, p->base))
                return 0;
            p->entry = 0;
            continue;
        }
        p->strict = !p->level && !entry;
        if (p->strict || !entry)
            strcpy(p->folder, p->base);
        else if (p->closed ||
                 cv_path_join(p->folder, p->base, places[entry], NULL) < 0)
            continue;
        if (p->closed && !p->strict)
            return 0;
        if (p->strict || cv_path_is_folder(p->folder))
            return 1;
    }
}
