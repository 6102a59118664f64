/*
 * The first clip's prompt, encoded while the other networks are loaded.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * Only where uploads run beside operations (`ahead` of the table), and the text
 * encoder is resident: otherwise nothing is won. The embeddings wait on the
 * host, 16 KB a token of Wan's, until a prompt with these ids is wanted.
 */
#ifndef CV_FIRST_TEXT_H
#define CV_FIRST_TEXT_H

#include "text/text.h"

typedef struct CvFirstText {
    int64_t n, dim;
    int32_t ids[CV_MAX_TOKENS];
    float *embeds;  /* [n, dim] on the host, once it has ended */
    CvArena arena;  /* meanwhile: the embeddings and scratch */
    CvTensor there;
} CvFirstText;

/* Ask for the pass and leave uploads ahead of it. Scratch is taken, less than
 * any clip takes. Returns 0 also where there was nothing to win. */
int cv_first_text_begin(CvFirstText *first, CvBackend *backend, CvUmt5 *umt5,
                        const int32_t *ids, int64_t n, CvLog *log);
/* Behind the loading, also where it failed (err, which is returned then). What
 * has values that are no numbers is dropped: the pass that runs instead says so
 * as ever. */
int cv_first_text_end(CvFirstText *first, CvBackend *backend, int err);
/* Embeddings of these ids -> embeds, once: 1; 0 where there are none. */
int cv_first_text_take(CvFirstText *first, CvBackend *backend,
                       const CvTensor *embeds, const int32_t *ids);
void cv_first_text_free(CvFirstText *first);

#endif /* CV_FIRST_TEXT_H */
