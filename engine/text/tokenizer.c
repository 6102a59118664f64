/*
 * The UMT5 tokenizer, as tokenizer.json defines it.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * Added tokens are split out, spaces become U+2581 with one in front, and each
 * piece of text that begins at such a mark is cut into the pieces whose scores
 * have the greatest sum; checkpoints.md 4.2.
 *
 * The SentencePiece library holds the vocabulary, but the sum is ours: the
 * library adds in float32, the reference (Hugging Face tokenizers, Unigram) in
 * float64. Cuts that are equally good differ then ("!!!" as "!!" "!" or as
 * "!" "!!"), and long texts without spaces, such as Chinese, could too.
 */
#include <stdlib.h>
#include <string.h>

#include <utf8proc.h>

#include "spiece.h"
#include "text.h"

#define N_SENTINELS 300
#define MAX_EMBEDDED (64 << 20) /* bytes; as of a file */
#define MARK        "\xe2\x96\x81" /* U+2581, which stands for a space */
#define MARK_BYTES  3

/* How much worse than the worst piece a character without piece is. */
#define UNKNOWN_PENALTY 10.0

struct CvTokenizer {
    CvSpiece *spiece;
    int32_t n_pieces;
    int32_t eos;
    double unknown_score;
    size_t longest;       /* bytes of a piece */
    size_t longest_added; /* bytes of a control piece or "<unk>" */
    int sentinels; /* whether <extra_id_N> that are no pieces have ids */
};

/* The best way to a byte of the text. */
typedef struct Node {
    double score;
    int32_t id;   /* of the last piece */
    int32_t from; /* where that begins, -1: not reached yet */
    int32_t next; /* where the next piece ends, on the best way */
} Node;

typedef struct Encoder {
    const CvTokenizer *tokenizer;
    char *text;   /* of one section, spaces replaced */
    Node *nodes;  /* room for one more than its bytes */
    int32_t *ids;
    int64_t n;    /* ids so far, also those without room */
} Encoder;

/* Takes `model` over. */
static int open_model(CvTokenizer **tokenizer, uint8_t *model, size_t bytes,
                      const char *path, CvLog *log)
{
    CvTokenizer *t = calloc(1, sizeof(*t));
    double worst = 0;
    char text[200];
    int err;

    if (!t) {
        err = cv_fail_memory(log, sizeof(*t), "the tokenizer");
        goto fail;
    }
    err = cv_spiece_open(&t->spiece, model, bytes, text, sizeof(text));
    if (err == CAUSVID_ERR(ENOMEM)) {
        cv_fail_memory(log, bytes, "the tokenizer");
        goto fail;
    }
    if (err < 0) {
        cv_fail(log, -err, "%s: the SentencePiece library refuses it (%s); "
                "get it again", path, text);
        goto fail;
    }
    t->n_pieces = cv_spiece_count(t->spiece);
    t->eos = cv_spiece_find(t->spiece, "</s>", 4);
    if (t->eos < 0) {
        err = cv_fail(log, EILSEQ, "%s: has no piece </s>; expected UMT5's "
                      "spiece.model", path);
        goto fail;
    }
    for (int32_t i = 0; i < t->n_pieces; i++) {
        const double score = (double)cv_spiece_score(t->spiece, i);
        const size_t piece_bytes = cv_spiece_bytes(t->spiece, i);
        size_t *longest = cv_spiece_special(t->spiece, i) ?
                          &t->longest_added : &t->longest;

        worst    = score < worst ? score : worst;
        *longest = piece_bytes > *longest ? piece_bytes : *longest;
    }
    t->unknown_score = worst - UNKNOWN_PENALTY;
    cv_log(log, CAUSVID_LOG_VERBOSE, "tokenizer %s: %d pieces", path,
           (int)t->n_pieces);
    free(model);
    *tokenizer = t;
    return 0;

fail:
    free(model);
    cv_tokenizer_close(&t);
    return err;
}

int cv_tokenizer_open(CvTokenizer **tokenizer, const char *path, CvLog *log)
{
    uint8_t *model = NULL;
    size_t bytes;
    int err;

    *tokenizer = NULL;
    if ((err = cv_spiece_read(&model, &bytes, path, log)) < 0)
        return err;
    return open_model(tokenizer, model, bytes, path, log);
}

/* The spiece.model that a tensor is. */
static int read_tensor(uint8_t **model, size_t *bytes, const CvEntry *e,
                       const char *path, CvLog *log)
{
    const int64_t n = cv_elements(&e->tensor);
    char text[CV_SHAPE_TEXT];
    uint8_t *file;
    int err;

    if ((e->tensor.type != CV_U8 && e->tensor.type != CV_I8) || n < 1 ||
        n > MAX_EMBEDDED)
        return cv_fail(log, EILSEQ, "'%s': tensor '%s', the tokenizer, is %s; "
                       "expected the U8 of a spiece.model: name one with the "
                       "option tokenizer", path, e->stored,
                       cv_shape_text(text, &e->tensor));
    if (!(file = malloc((size_t)n)))
        return cv_fail_memory(log, (uint64_t)n, "the tokenizer");
    cv_entry_copy(file, e, 0, n);
    err = cv_spiece_rewrite(model, bytes, file, (size_t)n, path, log);
    free(file);
    return err;
}

int cv_tokenizer_of_weights(CvTokenizer **tokenizer, const CvWeights *weights,
                            CvLog *log)
{
    const char *path = cv_weights_path(weights);
    const CvEntry *e = cv_weights_tokenizer(weights);
    uint8_t *model = NULL;
    size_t bytes;
    int err;

    *tokenizer = NULL;
    err = e ? read_tensor(&model, &bytes, e, path, log)
            : cv_spiece_gguf(&model, &bytes, weights, log);
    return err < 0 ? err : open_model(tokenizer, model, bytes, path, log);
}

int cv_tokenizer_open_embedded(CvTokenizer **tokenizer, const char *path,
                               CvLog *log)
{
    CvWeights *weights;
    int err;

    *tokenizer = NULL;
    if ((err = cv_weights_open(&weights, path, log)) < 0)
        return err;
    err = cv_tokenizer_of_weights(tokenizer, weights, log);
    cv_weights_close(&weights);
    return err;
}

void cv_tokenizer_close(CvTokenizer **tokenizer)
{
    if (!*tokenizer)
        return;
    if ((*tokenizer)->spiece)
        cv_spiece_close(&(*tokenizer)->spiece);
    free(*tokenizer);
    *tokenizer = NULL;
}

int64_t cv_tokenizer_size(const CvTokenizer *tokenizer)
{
    return tokenizer->n_pieces + (tokenizer->sentinels ? N_SENTINELS : 0);
}

int cv_tokenizer_fit(CvTokenizer *tokenizer, int64_t rows, CvLog *log)
{
    if (rows < tokenizer->n_pieces)
        return cv_fail(log, EILSEQ, "the tokenizer has %d pieces, but the "
                       "text encoder only %lld rows; they do not belong "
                       "together", (int)tokenizer->n_pieces, (long long)rows);
    tokenizer->sentinels = rows >= tokenizer->n_pieces + N_SENTINELS;
    return 0;
}

/* Bytes of the character that valid UTF-8 has at s. */
static size_t char_bytes(const char *s)
{
    unsigned char c = (unsigned char)*s;

    return c < 0x80 ? 1 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
}

static void put(Encoder *e, int32_t id)
{
    if (e->n < CV_MAX_TOKENS)
        e->ids[e->n] = id;
    e->n++;
}

/* The sentinel at s: its number and length, or 0. */
static size_t read_sentinel(const char *s, int32_t *number)
{
    static const char stem[] = "<extra_id_";
    const size_t first = sizeof(stem) - 1;
    size_t n = first;

    if (strncmp(s, stem, first))
        return 0;
    for (*number = 0; s[n] >= '0' && s[n] <= '9' && n < first + 3; n++)
        *number = *number * 10 + (s[n] - '0');
    if (n == first || s[n] != '>' || (s[first] == '0' && n > first + 1) ||
        *number >= N_SENTINELS)
        return 0;
    return n + 1;
}

/* Bytes of the longest added token at s, or 0. */
static size_t read_added(const CvTokenizer *t, const char *s, int32_t *id)
{
    size_t found, n = 0;
    int32_t number;

    /* No sentinel is the beginning of another token. */
    if ((found = read_sentinel(s, &number))) {
        *id = cv_spiece_find(t->spiece, s, found);
        if (*id < 0 && t->sentinels)
            *id = t->n_pieces + N_SENTINELS - 1 - number;
        return *id < 0 ? 0 : found;
    }
    while (s[n] && n < t->longest_added) {
        int32_t piece;

        n += char_bytes(s + n);
        piece = cv_spiece_find(t->spiece, s, n);
        if (piece >= 0 && cv_spiece_special(t->spiece, piece)) {
            *id   = piece;
            found = n;
        }
    }
    return found;
}

static void reach(Node *node, double score, int32_t id, size_t from)
{
    if (node->from >= 0 && score <= node->score)
        return;
    node->score = score;
    node->id    = id;
    node->from  = (int32_t)from;
}

/* Viterbi over n bytes that begin at a mark and hold no other. */
static void encode_segment(Encoder *e, const char *s, size_t n)
{
    const CvSpiece *spiece = e->tokenizer->spiece;
    const int32_t unknown = cv_spiece_unknown(spiece);
    Node *nodes = e->nodes;
    int32_t last = -1;

    for (size_t i = 0; i <= n; i++)
        nodes[i] = (Node){ .from = -1 };
    for (size_t at = 0; at < n; at += char_bytes(s + at)) {
        const double score = nodes[at].score;
        const size_t single = at + char_bytes(s + at);
        int covered = 0;
        size_t end = at;

        while (end < n && end - at < e->tokenizer->longest) {
            int32_t id;

            end += char_bytes(s + end);
            id = cv_spiece_find(spiece, s + at, end - at);
            if (id < 0 || cv_spiece_special(spiece, id))
                continue;
            reach(&nodes[end], score + (double)cv_spiece_score(spiece, id), id,
                  at);
            covered |= end == single;
        }
        if (!covered)
            reach(&nodes[single], score + e->tokenizer->unknown_score, unknown,
                  at);
    }
    for (size_t at = n; at > 0; at = (size_t)nodes[at].from)
        nodes[nodes[at].from].next = (int32_t)at;
    for (size_t at = 0; at < n;) {
        at = (size_t)nodes[at].next;
        if (nodes[at].id != unknown || last != unknown)
            put(e, nodes[at].id);
        last = nodes[at].id;
    }
}

/* n bytes between added tokens. */
static void encode_section(Encoder *e, const char *s, size_t n)
{
    size_t bytes = 0, begin = 0;

    if (!n)
        return;
    if (s[0] != ' ' && (n < MARK_BYTES || memcmp(s, MARK, MARK_BYTES))) {
        memcpy(e->text, MARK, MARK_BYTES);
        bytes = MARK_BYTES;
    }
    for (size_t i = 0; i < n; i++) {
        if (s[i] == ' ') {
            memcpy(e->text + bytes, MARK, MARK_BYTES);
            bytes += MARK_BYTES;
        } else {
            e->text[bytes++] = s[i];
        }
    }
    for (size_t i = MARK_BYTES; i <= bytes; i++) {
        if (i < bytes && (bytes - i < MARK_BYTES ||
                          memcmp(e->text + i, MARK, MARK_BYTES)))
            continue;
        encode_segment(e, e->text + begin, i - begin);
        begin = i;
    }
}

int cv_tokenizer_encode(CvTokenizer *tokenizer, const char *text,
                        int32_t ids[CV_MAX_TOKENS], int64_t *n_tokens,
                        CvLog *log)
{
    Encoder e = { .tokenizer = tokenizer, .ids = ids };
    const size_t bytes = strlen(text);
    size_t begin = 0, i = 0, room;
    int err = 0;

    *n_tokens = 0;
    if (bytes > INT32_MAX / 64)
        return cv_fail(log, EINVAL, "the prompt has %zu bytes; shorten it",
                       bytes);
    for (size_t at = 0; at < bytes;) {
        utf8proc_int32_t c;
        utf8proc_ssize_t n =
            utf8proc_iterate((const utf8proc_uint8_t *)text + at,
                             (utf8proc_ssize_t)(bytes - at), &c);

        if (n <= 0)
            return cv_fail(log, EINVAL, "the text is not UTF-8 at offset %zu",
                           at);
        at += (size_t)n;
    }
    room = MARK_BYTES * (bytes + 1);
    e.text  = malloc(room);
    e.nodes = malloc((room + 1) * sizeof(*e.nodes));
    if (!e.text || !e.nodes) {
        err = cv_fail_memory(log, room * sizeof(*e.nodes), "the prompt");
        goto end;
    }
    while (i < bytes) {
        int32_t id;
        size_t n = read_added(tokenizer, text + i, &id);

        if (n) {
            encode_section(&e, text + begin, i - begin);
            put(&e, id);
            begin = i + n;
        }
        i += n ? n : char_bytes(text + i);
    }
    encode_section(&e, text + begin, bytes - begin);
    put(&e, tokenizer->eos);
    /* Truncation keeps the end mark. */
    ids[e.n < CV_MAX_TOKENS ? e.n - 1 : CV_MAX_TOKENS - 1] = tokenizer->eos;
    *n_tokens = e.n;

end:
    free(e.text);
    free(e.nodes);
    return err;
}
