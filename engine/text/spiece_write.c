/*
 * Writes a SentencePiece model for the library, of pieces that it checks.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * The library ends the process on some damage: what it gets is all made here.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <utf8proc.h>

#include "spiece.h"

#define MAX_PIECES (1 << 20) /* UMT5 has 256000 */
#define MAX_SCORE  1e6

/* What a piece takes at most beyond its text. */
#define PIECE_OVERHEAD 16

enum { VARINT = 0, BYTES = 2, BITS32 = 5 };

/* The library's settings: a Unigram model without byte fallback; a normaliser
 * that changes nothing. Fields 2 {3: 1, 35: 0} and
 * 3 {1: "identity", 3: 0, 4: 0, 5: 0}. */
static const uint8_t settings[] = {
    0x12, 5, 0x18, 1, 0x98, 0x02, 0,
    0x1a, 16, 0x0a, 8, 'i', 'd', 'e', 'n', 't', 'i', 't', 'y',
    0x18, 0, 0x20, 0, 0x28, 0,
};

int cv_spiece_begin(CvSpieceWriter *w, size_t text_bytes, size_t n_pieces)
{
    const size_t more = (n_pieces < MAX_PIECES ? n_pieces : MAX_PIECES) *
                        PIECE_OVERHEAD + sizeof(settings);

    *w = (CvSpieceWriter){ 0 };
    if (text_bytes > SIZE_MAX - more)
        return -1;
    w->room = text_bytes + more;
    w->data = malloc(w->room);
    return w->data ? 0 : -1;
}

static void put_varint(CvSpieceWriter *w, uint64_t value)
{
    for (; value > 0x7f; value >>= 7)
        w->data[w->n++] = (uint8_t)(value | 0x80);
    w->data[w->n++] = (uint8_t)value;
}

static size_t varint_bytes(uint64_t value)
{
    size_t n = 1;

    for (; value > 0x7f; value >>= 7)
        n++;
    return n;
}

/* What is wrong with the piece, or NULL. */
static const char *check(const CvPiece *piece)
{
    if (piece->type < CV_PIECE_NORMAL || piece->type > CV_PIECE_BYTE)
        return "a piece of an unknown type";
    if (!piece->bytes)
        return "an empty piece";
    if (piece->bytes > CV_SPIECE_MAX_BYTES)
        return "a piece that is too long";
    for (size_t i = 0; i < piece->bytes;) {
        utf8proc_int32_t c;
        utf8proc_ssize_t n =
            utf8proc_iterate((const utf8proc_uint8_t *)piece->text + i,
                             (utf8proc_ssize_t)(piece->bytes - i), &c);

        if (n <= 0 || c == 0)
            return "a piece that is not UTF-8";
        i += (size_t)n;
    }
    if (!isfinite(piece->score) || fabsf(piece->score) > (float)MAX_SCORE)
        return "a piece whose score is no number";
    return NULL;
}

const char *cv_spiece_put(CvSpieceWriter *w, const CvPiece *piece)
{
    const char *what = check(piece);
    uint32_t bits;

    if (what)
        return what;
    if (w->n_pieces == MAX_PIECES ||
        piece->bytes + PIECE_OVERHEAD + sizeof(settings) > w->room - w->n)
        return "too many pieces";
    w->n_pieces++;
    w->n_unknown += piece->type == CV_PIECE_UNKNOWN;
    memcpy(&bits, &piece->score, sizeof(bits));
    put_varint(w, 1 << 3 | BYTES);
    put_varint(w, 1 + varint_bytes(piece->bytes) + piece->bytes + 5 + 2);
    put_varint(w, 1 << 3 | BYTES);
    put_varint(w, piece->bytes);
    memcpy(w->data + w->n, piece->text, piece->bytes);
    w->n += piece->bytes;
    put_varint(w, 2 << 3 | BITS32);
    for (int i = 0; i < 4; i++)
        w->data[w->n++] = (uint8_t)(bits >> (8 * i));
    put_varint(w, 3 << 3 | VARINT);
    put_varint(w, piece->type == CV_PIECE_UNKNOWN ||
                  piece->type == CV_PIECE_CONTROL ? (uint64_t)piece->type :
                                                    CV_PIECE_NORMAL);
    return NULL;
}

const char *cv_spiece_finish(CvSpieceWriter *w, uint8_t **model, size_t *bytes)
{
    if (w->n_unknown != 1)
        return w->n_unknown ? "more than one unknown piece" :
               w->n_pieces ? "no unknown piece" : "no piece";
    memcpy(w->data + w->n, settings, sizeof(settings));
    *model = w->data;
    *bytes = w->n + sizeof(settings);
    return NULL;
}
