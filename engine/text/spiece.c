/*
 * Reads spiece.model, whose pieces spiece_write.c checks and writes anew.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * The file is a protobuf message (google/sentencepiece,
 * src/sentencepiece_model.proto). Used of it: field 1, the pieces {1: text,
 * 2: score, 3: type}, and 2.3, the kind of model. Left out, because the
 * reference tokenizer does not know of it: normalisation (3, 5), self-tests
 * (4), and all types but CONTROL and UNKNOWN. tokenizer.json holds user
 * defined and byte pieces as ordinary ones with their scores; so do we.
 */
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "log.h"
#include "spiece.h"
#include "weights/places.h"

#define MAX_FILE_BYTES (64 << 20) /* UMT5's is 4.5 MB */

enum { VARINT = 0, BITS64 = 1, BYTES = 2, BITS32 = 5 };

typedef struct Reader {
    const uint8_t *file; /* for offsets in messages */
    const uint8_t *at, *end;
} Reader;

typedef struct Field {
    uint32_t number;
    int wire;
    uint64_t value; /* VARINT, BITS32 */
    Reader bytes;   /* BYTES */
} Field;

/* -1 when the varint is cut off or has more than 64 bits. */
static int read_varint(Reader *r, uint64_t *value)
{
    *value = 0;
    for (int shift = 0; shift < 70 && r->at < r->end; shift += 7) {
        uint8_t byte = *r->at++;

        if (shift == 63 && byte > 1)
            return -1;
        *value |= (uint64_t)(byte & 0x7f) << shift;
        if (!(byte & 0x80))
            return 0;
    }
    return -1;
}

static int read_field(Reader *r, Field *f)
{
    uint64_t key, n;

    if (read_varint(r, &key) < 0 || key > UINT32_MAX || key >> 3 == 0)
        return -1;
    f->number = (uint32_t)(key >> 3);
    f->wire   = (int)(key & 7);
    f->value  = 0;
    switch (f->wire) {
    case VARINT:
        return read_varint(r, &f->value);
    case BITS32:
    case BITS64:
        n = f->wire == BITS32 ? 4 : 8;
        break;
    case BYTES:
        if (read_varint(r, &n) < 0)
            return -1;
        break;
    default: /* groups, which the format does not use, and errors */
        return -1;
    }
    if (n > (uint64_t)(r->end - r->at))
        return -1;
    f->bytes = (Reader){ r->file, r->at, r->at + n };
    if (f->wire == BITS32)
        for (int i = 0; i < 4; i++)
            f->value |= (uint64_t)r->at[i] << (8 * i);
    r->at += n;
    return 0;
}

static float float_of_bits(uint64_t bits)
{
    uint32_t low = (uint32_t)bits;
    float value;

    memcpy(&value, &low, sizeof(value));
    return value;
}

/* -1 when the piece is damaged; what it holds is not looked at. */
static int read_piece(Reader *r, CvPiece *piece)
{
    Field f;

    *piece = (CvPiece){ .type = CV_PIECE_NORMAL };
    while (r->at < r->end) {
        if (read_field(r, &f) < 0)
            return -1;
        if (f.number == 1 && f.wire == BYTES) {
            piece->text  = (const char *)f.bytes.at;
            piece->bytes = (size_t)(f.bytes.end - f.bytes.at);
        } else if (f.number == 2 && f.wire == BITS32) {
            piece->score = float_of_bits(f.value);
        } else if (f.number == 3 && f.wire == VARINT) {
            piece->type = f.value <= INT_MAX ? (int)f.value : INT_MAX;
        } else if (f.number <= 3) {
            return -1;
        }
    }
    return 0;
}

/* The kind of model out of the trainer's settings; 0 when damaged. */
static uint64_t read_model_type(Reader *r)
{
    uint64_t type = 1;
    Field f;

    while (r->at < r->end) {
        if (read_field(r, &f) < 0 || (f.number == 3 && f.wire != VARINT))
            return 0;
        if (f.number == 3)
            type = f.value;
    }
    return type;
}

static int damaged(const Reader *r, const char *path, const char *what,
                   CvLog *log)
{
    static const char pointer[] = "version https://git-lfs";

    if ((size_t)(r->end - r->file) > sizeof(pointer) &&
        !memcmp(r->file, pointer, sizeof(pointer) - 1))
        return cv_fail(log, EILSEQ, "%s: is a Git LFS pointer, not the file; "
                       "fetch it with 'git lfs pull'", path);
    return cv_fail(log, EILSEQ, "%s: %s before byte %zu, expected a "
                   "SentencePiece model (spiece.model); get it again", path,
                   what, (size_t)(r->at - r->file));
}

int cv_spiece_rewrite(uint8_t **model, size_t *bytes, const uint8_t *file,
                      size_t file_bytes, const char *path, CvLog *log)
{
    Reader r = { file, file, file + file_bytes };
    CvSpieceWriter w;
    const char *what;
    Field f;
    CvPiece piece;
    int err;

    *model = NULL;
    *bytes = 0;
    /* A piece of the file is at least 5 bytes long. */
    if (cv_spiece_begin(&w, file_bytes, file_bytes / 5) < 0)
        return cv_fail_memory(log, file_bytes, "the tokenizer");
    while (r.at < r.end) {
        if (read_field(&r, &f) < 0) {
            err = damaged(&r, path, "damage", log);
            goto fail;
        }
        if (f.number == 1) {
            what = f.wire != BYTES || read_piece(&f.bytes, &piece) < 0 ?
                   "a damaged piece" : cv_spiece_put(&w, &piece);
            if (what) {
                err = damaged(&r, path, what, log);
                goto fail;
            }
        } else if (f.number == 2) {
            uint64_t type = f.wire == BYTES ? read_model_type(&f.bytes) : 0;

            if (!type) {
                err = damaged(&r, path, "damaged settings", log);
                goto fail;
            }
            if (type != 1) {
                err = cv_fail(log, ENOSYS, "%s: is not a Unigram model (its "
                              "type is %llu); expected UMT5's spiece.model",
                              path, (unsigned long long)type);
                goto fail;
            }
        }
    }
    if (!(what = cv_spiece_finish(&w, model, bytes)))
        return 0;
    err = damaged(&r, path, what, log);

fail:
    free(w.data);
    return err;
}

/* Bytes up to the end of the file, at most `room`. */
static int read_all(uint8_t *data, size_t room, size_t *n, int fd)
{
    *n = 0;
    while (*n < room) {
        ssize_t got = read(fd, data + *n, room - *n);

        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return (int)got;
        *n += (size_t)got;
    }
    return 0;
}

int cv_spiece_read(uint8_t **model, size_t *bytes, const char *path,
                   CvLog *log)
{
    uint8_t *data = NULL;
    off_t size;
    size_t n;
    int err, fd = cv_path_open(path, &size, "a SentencePiece model "
                               "(spiece.model)", log);

    *model = NULL;
    *bytes = 0;
    if (fd < 0)
        return fd;
    if (size > MAX_FILE_BYTES) {
        err = cv_fail(log, EILSEQ, "%s: has %lld bytes, expected a "
                      "SentencePiece model (spiece.model) of at most %d", path,
                      (long long)size, MAX_FILE_BYTES);
        goto end;
    }
    data = malloc((size_t)size + 1);
    if (!data) {
        err = cv_fail_memory(log, (uint64_t)size, "the tokenizer");
        goto end;
    }
    if (read_all(data, (size_t)size, &n, fd) < 0) {
        err = cv_fail(log, EIO, "%s: cannot read the tokenizer: %s", path,
                      strerror(errno));
        goto end;
    }
    err = cv_spiece_rewrite(model, bytes, data, n, path, log);

end:
    close(fd);
    free(data);
    return err;
}
