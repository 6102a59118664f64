/*
 * From a prompt to text embeddings: cleaning, tokenizer, UMT5 encoder.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#ifndef CV_TEXT_H
#define CV_TEXT_H

#include "weights/weights.h"

/* Longest prompt in tokens, </s> included (checkpoints.md 4.4). */
#define CV_MAX_TOKENS 512

/*
 * Clean a prompt as Wan does (checkpoints.md 4.3: ftfy.fix_text without
 * mojibake repair, html.unescape twice, whitespace collapsed). *cleaned is
 * malloced. EINVAL: not UTF-8 (logged with the byte offset).
 */
int cv_clean_prompt(char **cleaned, const char *prompt, CvLog *log);

/* The tokenizer of a spiece.model (checkpoints.md 4.1, 4.2). */
typedef struct CvTokenizer CvTokenizer;

/* path: a spiece.model. ENOENT, EILSEQ, ENOMEM. */
int cv_tokenizer_open(CvTokenizer **tokenizer, const char *path, CvLog *log);
/* path: weights that hold such a file as the tensor "spiece_model", as those
 * of ComfyUI do (1.3), or its pieces as GGUF's metadata (1.7). ENOSYS: the
 * tokenizer of another model. */
int cv_tokenizer_open_embedded(CvTokenizer **tokenizer, const char *path,
                               CvLog *log);
int cv_tokenizer_of_weights(CvTokenizer **tokenizer, const CvWeights *weights,
                            CvLog *log);
void cv_tokenizer_close(CvTokenizer **tokenizer);
/* Ids that the model may give: pieces, or pieces plus the 300 sentinels. */
int64_t cv_tokenizer_size(const CvTokenizer *tokenizer);
/* Say how many rows the text encoder's table has (cv_umt5_vocab()), so that no
 * id lies outside: the sentinels "<extra_id_N>" are tokens where all 300 fit
 * behind the pieces, and are text elsewhere and until this is called. EILSEQ
 * when not even the pieces fit. */
int cv_tokenizer_fit(CvTokenizer *tokenizer, int64_t rows, CvLog *log);
/* Ids of a cleaned text with </s> at the end. At most CV_MAX_TOKENS are
 * written, the last being </s>; *n_tokens is the count before truncation. */
int cv_tokenizer_encode(CvTokenizer *tokenizer, const char *text,
                        int32_t ids[CV_MAX_TOKENS], int64_t *n_tokens,
                        CvLog *log);

/* The encoder. All sizes are read from the weights and config. */
typedef struct CvUmt5 CvUmt5;

/*
 * Its weights are either resident, loaded once, or streamed: then each pass
 * brings one layer after the other from the file into scratch, and only the
 * prompt's rows of the embedding, so that the encoder has no memory of its own.
 * Both give the same bytes.
 */

/* Look at text_encoder weights: everything but their values is checked, and a
 * pass can be planned. config_path may be "". */
int cv_umt5_open(CvUmt5 **umt5, CvBackend *backend, const char *path,
                 const char *config_path, CvLog *log);
/* Take their memory and load them, unless they are streamed. */
int cv_umt5_load(CvUmt5 *umt5);
/* From now on they are streamed: what was taken is given back. Before or after
 * loading; 0 when this cannot be done any more, since the file was closed (where
 * memory has no limit, loading closes it), or was done before. */
int cv_umt5_stream(CvUmt5 *umt5);
void cv_umt5_close(CvUmt5 **umt5);
int64_t cv_umt5_dim(const CvUmt5 *umt5);     /* d_model */
int64_t cv_umt5_vocab(const CvUmt5 *umt5);   /* rows of the embedding */
size_t cv_umt5_bytes(const CvUmt5 *umt5);    /* of resident weights */
/* Its files, before it is loaded; afterwards NULL where they were closed. */
CvWeights *cv_umt5_weights(const CvUmt5 *umt5);
const char *cv_umt5_describe(const CvUmt5 *umt5); /* for info: sizes, dtype */

/*
 * out: float32 [n, d_model] in the arena; ids: n of them, on the host, n at
 * most CV_MAX_TOKENS. Runs on the true length: padded keys have no weight, so
 * this equals the reference's 512 masked positions.
 */
int cv_umt5_forward(CvUmt5 *umt5, CvRun *run, const CvTensor *out,
                    const int32_t *ids);

#endif /* CV_TEXT_H */
