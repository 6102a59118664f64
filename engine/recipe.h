/*
 * Recipes: how a checkpoint wants to be run.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * A recipe.json beside the model says it outright (docs/models.md lists the
 * keys); without one, the network's width, its config and words in its path
 * choose among the published recipes of checkpoints.md 7 (published.c).
 */
#ifndef CV_RECIPE_H
#define CV_RECIPE_H

#include "dit/dit.h"
#include "sampling/sampling.h"
#include "weights/files.h"

#define CV_MAX_LIST 64
#define CV_PROMPT_SIZE 4096

typedef struct CvRecipe {
    char name[64];
    enum CausvidVariant variant;
    int width, height;
    int rate_num, rate_den;
    int64_t frames;
    int frames_per_block;     /* latent frames a block, causal models */
    int window;               /* latent frames that attention sees, the block's
                                 own included: a multiple of frames_per_block */
    enum CausvidSampler sampler;
    int steps;
    float timesteps[CV_MAX_LIST];
    int n_timesteps;          /* 0: the sampler makes its own from steps */
    int warp;
    double shift;
    double guidance;
    char negative_prompt[CV_PROMPT_SIZE];
    /* for info and log lines */
    char source[32];          /* "recipe.json", "published", "name" */
    char family[48];          /* of a published one: "Wan", "CausVid", ... */
    char licence[64];         /* of its weights, "" when nobody says */
    char why[512];            /* what it was chosen by, and so the variant */
} CvRecipe;

/* Fill *recipe for a model; `variant` other than auto overrides. EINVAL: it may
 * be causal or not, and nothing says which. */
int cv_recipe_init(CvRecipe *recipe, const CvModelFiles *files,
                   const CvDitSize *size, enum CausvidVariant variant,
                   CvLog *log);

/* published.c: the same for a model without recipe.json. */
int cv_recipe_published(CvRecipe *recipe, const CvModelFiles *files,
                        const CvDitSize *size, enum CausvidVariant variant,
                        CvLog *log);
/* Let a LoRA that distils a model, which its name says, choose how that is run:
 * sampler, steps, shift and guidance 1. list: of lora.h. */
int cv_recipe_loras(CvRecipe *recipe, const char *list, const CvDitSize *size,
                    CvLog *log);
/* The sampler of a distilled model and the list that it was distilled for. */
void cv_recipe_list(CvRecipe *recipe, int warp, double shift, int n,
                    const float *list);

const char *cv_sampler_name(enum CausvidSampler sampler);
const char *cv_variant_name(enum CausvidVariant variant);
/* 0, or -1 when the name is unknown. */
int cv_sampler_from_name(const char *name, enum CausvidSampler *sampler);

#endif /* CV_RECIPE_H */
