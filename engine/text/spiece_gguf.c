/*
 * The tokenizer that llama.cpp's converter puts into GGUF files of T5.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * Its lists are those of the pieces of spiece.model: text, score and type.
 * Behind them are rows of the embedding that have no piece, "[PAD256000]" and
 * so on, and tokens that Hugging Face adds: with their scores, which no piece
 * of a vocabulary has, the tokenizer would not be the same. As with
 * spiece.model, normalisation (precompiled_charsmap) and the rest is left out.
 * Sources: checkpoints.md 1.7; ggml-org/llama.cpp convert_hf_to_gguf.py
 * (T5Model.set_vocab); city96/ComfyUI-GGUF loader.py (gguf_tokenizer_loader).
 */
#include <stdlib.h>
#include <string.h>

#include "spiece.h"
#include "weights/bytes.h"
#include "weights/gguf.h"
#include "weights/json.h"

#define OTHERWISE "name a spiece.model with the option tokenizer"
#define ADDED_SCORE (-1000.0f)

typedef struct Lists {
    const CvGgufValue *tokens, *scores, *types;
    const uint8_t *at; /* the next token */
} Lists;

static const CvGgufValue *find_list(const CvWeights *w, const char *key,
                                    CvGgufType type)
{
    const CvGgufValue *v = cv_gguf_find(w, key);

    return v && v->is_array && v->type == type ? v : NULL;
}

/* Piece i; pieces are read in their order. */
static CvPiece next_piece(Lists *l, uint64_t i)
{
    const uint32_t bits = cv_le32(l->scores->data + 4 * i);
    const uint32_t type = cv_le32(l->types->data + 4 * i);
    CvPiece piece = { .type = type > CV_PIECE_BYTE ? 0 : (int)type };

    memcpy(&piece.score, &bits, sizeof(bits));
    piece.text = cv_gguf_string(&l->at, &piece.bytes);
    return piece;
}

static int begins(const CvPiece *piece, const char *text)
{
    const size_t n = strlen(text);

    return piece->bytes > n && !memcmp(piece->text, text, n);
}

/* Is it one of those behind the pieces? */
static int is_added(const CvPiece *piece)
{
    return (piece->type == CV_PIECE_UNUSED && begins(piece, "[PAD")) ||
           (piece->score == ADDED_SCORE && begins(piece, "<extra_id_"));
}

static uint64_t count_pieces(Lists l)
{
    uint64_t n = 0;

    for (uint64_t i = 0; i < l.tokens->n; i++) {
        const CvPiece piece = next_piece(&l, i);

        if (!is_added(&piece))
            n = i + 1;
    }
    return n;
}

/* Is the vocabulary of the kind that T5 models have? */
static int check_kind(const CvWeights *w, CvLog *log)
{
    const CvGgufValue *v = cv_gguf_find(w, "tokenizer.ggml.model");
    const int is_text = v && !v->is_array && v->type == CV_GGUF_STRING;
    char name[32] = "", text[CV_PRINTABLE];

    if (is_text && v->bytes < sizeof(name))
        memcpy(name, v->data, v->bytes);
    if (is_text && v->bytes == 2 && !strcmp(name, "t5"))
        return 0;
    return cv_fail(log, ENOSYS, "'%s': its tokenizer is of the kind '%s'; "
                   "expected 't5', which UMT5 has: " OTHERWISE,
                   cv_weights_path(w), cv_printable(text, name));
}

int cv_spiece_gguf(uint8_t **model, size_t *bytes, const CvWeights *w,
                   CvLog *log)
{
    const char *path = cv_weights_path(w), *what = NULL;
    CvSpieceWriter writer;
    Lists l;
    uint64_t n, i = 0;
    int err;

    *model = NULL;
    *bytes = 0;
    if (!cv_gguf_find(w, "tokenizer.ggml.tokens"))
        return cv_fail(log, ENOENT, "'%s' holds no tokenizer; " OTHERWISE,
                       path);
    if ((err = check_kind(w, log)) < 0)
        return err;
    l.tokens = find_list(w, "tokenizer.ggml.tokens", CV_GGUF_STRING);
    l.scores = find_list(w, "tokenizer.ggml.scores", CV_GGUF_F32);
    l.types  = find_list(w, "tokenizer.ggml.token_type", CV_GGUF_I32);
    if (!l.tokens || !l.scores || !l.types || l.scores->n != l.tokens->n ||
        l.types->n != l.tokens->n)
        return cv_fail(log, EILSEQ, "'%s' is damaged: tokens, scores and "
                       "token_type of its tokenizer are not three lists of "
                       "one length; " OTHERWISE, path);
    l.at = l.tokens->data;
    n = count_pieces(l);
    if (cv_spiece_begin(&writer, l.tokens->bytes, (size_t)n) < 0)
        return cv_fail_memory(log, l.tokens->bytes, "the tokenizer");
    for (; i < n && !what; i++) {
        const CvPiece piece = next_piece(&l, i);

        what = cv_spiece_put(&writer, &piece);
    }
    if (!what)
        what = cv_spiece_finish(&writer, model, bytes);
    if (!what)
        return 0;
    free(writer.data);
    return cv_fail(log, EILSEQ, "'%s' is damaged: its tokenizer has %s (%llu "
                   "of %llu); " OTHERWISE, path, what, (unsigned long long)i,
                   (unsigned long long)n);
}
