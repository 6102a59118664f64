/*
 * Text embeddings kept in a folder, so that a prompt is encoded once.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * A file for each prompt, KEY.safetensors with `token_ids` (I64 [n]) and
 * `text_embeds` (float32 [n, dim]), which `causvid trace` reads too. The key is
 * a hash over the text encoder, the arithmetic and the ids. What a file holds
 * is only taken when all of it is as it would have been written. A cache that
 * does not work costs a warning and time, never the clip.
 */
#ifndef CV_CACHE_H
#define CV_CACHE_H

#include "weights/weights.h"

typedef struct CvTextCache CvTextCache;

/* Use a folder, which is made when it is missing, for the text encoder of these
 * weights and this config ("": none) on this backend. *cache is NULL when that
 * cannot be done (a warning). ENOMEM. */
int cv_text_cache_open(CvTextCache **cache, const char *folder,
                       CvWeights *weights, const char *config,
                       const CvBackend *backend, CvLog *log);
void cv_text_cache_close(CvTextCache **cache);

/* Is there a file for n ids whose embeddings have `dim` values? Whether it is
 * sound shows when it is loaded. */
int cv_text_cache_has(const CvTextCache *cache, const int32_t *ids, int64_t n,
                      int64_t dim);

/* embeds: float32 [n, dim] on the backend; ids: n of them. 1 when they were
 * there; 0 when not, with a warning when there is a file that is not sound. */
int cv_text_cache_load(CvTextCache *cache, CvBackend *backend,
                       const CvTensor *embeds, const int32_t *ids);
/* The first time that this cannot be done there is a warning, no error. */
int cv_text_cache_save(CvTextCache *cache, CvBackend *backend,
                       const CvTensor *embeds, const int32_t *ids);

#endif /* CV_CACHE_H */
