/*
 * A loaded model: the networks, the tokenizer and the recipe, checked to fit
 * together.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#ifndef CV_MODEL_H
#define CV_MODEL_H

#include "dit/dit.h"
#include "first_text.h"
#include "recipe.h"
#include "text/cache.h"
#include "text/text.h"
#include "vae/vae.h"

typedef struct CvModel {
    CvLog *log;
    CvBackend *backend;
    CvModelFiles files;
    CvTokenizer *tokenizer;
    CvUmt5 *umt5;
    CvTextCache *cache; /* of prompts, or NULL */
    CvFirstText *first_text;
    CvDit *dit;
    CvVae *vae;
    CvRecipe recipe;
} CvModel;

/* Look at what the settings name: everything but the values of weights is
 * checked, and clips can be planned. backend: NULL (one is opened as the settings
 * say) or an open one, which the model takes over, also on failure. On failure
 * the model is empty again. The log must outlive the model. */
int cv_model_open(CvModel *model, const CausvidSettings *settings,
                  CvBackend *backend, CvLog *log);

void cv_model_close(CvModel *model);

/* Bytes of all weights on the backend. */
size_t cv_model_bytes(const CvModel *model);

/* Does the cache have the prompts that the clip needs? args: as given, not
 * checked, or NULL. Nothing is logged. */
int cv_model_has_prompts(const CvModel *model, const CausvidClip *args);

/* A prompt's ids: cleaned and cut to CV_MAX_TOKENS (with a warning that names
 * `option`). EINVAL: not UTF-8, or nothing but white space unless
 * `may_be_empty`. */
int cv_model_tokens(const CvModel *model, const char *prompt,
                    const char *option, int may_be_empty,
                    int32_t ids[CV_MAX_TOKENS], int64_t *n);

/* The same where nothing is wrong with it; otherwise, or of NULL, 0 ids and no
 * line. Returns their number. */
int64_t cv_model_try_tokens(const CvModel *model, const char *prompt,
                            int32_t ids[CV_MAX_TOKENS]);

#endif /* CV_MODEL_H */
