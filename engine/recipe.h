/*
 * Recipes: how a checkpoint wants to be run.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * A recipe.json beside model_index.json says it outright (docs/models.md lists
 * the keys); without one, the width of the network and words in the path
 * choose among the published recipes of checkpoints.md 7.
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
    char source[32];          /* "recipe.json", "width and path": for info */
} CvRecipe;

/* Fill *recipe for a model; `variant` other than auto overrides. */
int cv_recipe_init(CvRecipe *recipe, const CvModelFiles *files,
                   const CvDitSize *size, enum CausvidVariant variant,
                   CvLog *log);

const char *cv_sampler_name(enum CausvidSampler sampler);
const char *cv_variant_name(enum CausvidVariant variant);
/* 0, or -1 when the name is unknown. */
int cv_sampler_from_name(const char *name, enum CausvidSampler *sampler);

#endif /* CV_RECIPE_H */
