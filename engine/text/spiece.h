/*
 * SentencePiece models: reading the file, and the library behind C functions.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * The library trusts its file: it ends the process on some damage, and runs
 * whatever normalisation the file asks for. So cv_spiece_read() checks the
 * file and writes it anew, with nothing in it but pieces, scores and types.
 */
#ifndef CV_SPIECE_H
#define CV_SPIECE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Longest piece in bytes; UMT5's longest has 16 characters. */
#define CV_SPIECE_MAX_BYTES 512

struct CvLog; /* log.h, which C++ cannot read */

/* spiece.c: the checked and rewritten file, malloced. ENOENT, EILSEQ, ENOSYS
 * (not a Unigram model), EIO, ENOMEM. */
int cv_spiece_read(uint8_t **model, size_t *bytes, const char *path,
                   struct CvLog *log);

/* The same for a file that is already in memory; `path` is for messages. */
int cv_spiece_rewrite(uint8_t **model, size_t *bytes, const uint8_t *file,
                      size_t file_bytes, const char *path, struct CvLog *log);

/* spiece_gguf.c: the same of the vocabulary in a GGUF file's metadata, as
 * llama.cpp writes that of T5 models. ENOENT: it has none. ENOSYS: of another
 * kind. */
struct CvWeights;
int cv_spiece_gguf(uint8_t **model, size_t *bytes,
                   const struct CvWeights *weights, struct CvLog *log);

/* spiece_write.c: such a model, piece by piece. What returns text returns NULL
 * or what is wrong ("an empty piece"); then, data is to be freed. */
enum {
    CV_PIECE_NORMAL = 1, CV_PIECE_UNKNOWN, CV_PIECE_CONTROL,
    CV_PIECE_USER_DEFINED, CV_PIECE_UNUSED, CV_PIECE_BYTE
};

typedef struct CvPiece {
    const char *text;  /* without a NUL */
    size_t bytes;
    float score;
    int type;
} CvPiece;

typedef struct CvSpieceWriter {
    uint8_t *data;
    size_t n, room;
    size_t n_pieces, n_unknown;
} CvSpieceWriter;

/* Room for so many pieces and for what their texts take. -1: no memory. */
int cv_spiece_begin(CvSpieceWriter *writer, size_t text_bytes,
                    size_t n_pieces);
const char *cv_spiece_put(CvSpieceWriter *writer, const CvPiece *piece);
/* *model is the writer's data from now on. */
const char *cv_spiece_finish(CvSpieceWriter *writer, uint8_t **model,
                             size_t *bytes);

/* sentencepiece.cc: a vocabulary that the library holds. Nothing here throws;
 * a vocabulary may be used by several threads. */
typedef struct CvSpiece CvSpiece;

/* 0, -ENOMEM, or -EILSEQ with one line of text in error[error_bytes]. */
int cv_spiece_open(CvSpiece **spiece, const uint8_t *model, size_t bytes,
                   char *error, size_t error_bytes);
void cv_spiece_close(CvSpiece **spiece);
int32_t cv_spiece_count(const CvSpiece *spiece);
/* Id of the piece `text`, -1 when there is none. */
int32_t cv_spiece_find(const CvSpiece *spiece, const char *text, size_t bytes);
size_t cv_spiece_bytes(const CvSpiece *spiece, int32_t id); /* of its text */
float cv_spiece_score(const CvSpiece *spiece, int32_t id);
/* 1 for control pieces ("</s>") and "<unk>", which are no text. */
int cv_spiece_special(const CvSpiece *spiece, int32_t id);
int32_t cv_spiece_unknown(const CvSpiece *spiece); /* id of "<unk>" */

#ifdef __cplusplus
}
#endif

#endif /* CV_SPIECE_H */
