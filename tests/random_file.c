/*
 * Files with the weights of the engine's random models.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * The engine is asked for the numbers of a tensor as when it loads such a
 * model, with a backend that writes them as they are stored. So nothing here
 * knows of seeds and scales. 14B in fp8 is 14.5 GB: pieces are made by as many
 * threads as there are cores and go straight to their places in the file.
 */
#define _DEFAULT_SOURCE
#include "random_file.h"

#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cpu/threads.h"
#include "weights/reader.h"

#define PIECE ((int64_t)1 << 21) /* elements */

typedef struct Tensor {
    const CvEntry *entry; /* NULL: `factor` of the tensor before */
    float factor;
    int64_t at;           /* in the file */
} Tensor;

typedef struct Piece {
    const Tensor *tensor;
    int64_t first;        /* element */
} Piece;

typedef struct Writer {
    CvWeights *weights;
    CvLog *log;
    CvBackend backend;
    Tensor *tensors;
    int64_t n_tensors;
    Piece *pieces;
    int64_t n_pieces;
    uint8_t to_fp8[1 << 16]; /* by the bits of bf16 */
    int file;
    atomic_int err;
} Writer;

/* ---- a backend whose memory holds what a file does ---- */

static uint16_t to_bf16(float x)
{
    uint32_t bits;

    memcpy(&bits, &x, sizeof(bits));
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/* E4M3 of a finite number, nearest even, at most 448. */
static uint8_t to_e4m3(float x)
{
    const uint8_t sign = signbit(x) ? 0x80 : 0;
    float size = fminf(fabsf(x), 448), steps;
    int exponent;

    frexpf(size, &exponent); /* size < 2^exponent */
    exponent = size == 0 || exponent < -5 ? -5 : exponent;
    steps = nearbyintf(ldexpf(size, 4 - exponent)); /* 16: the next exponent */
    /* Below the smallest normal number, 8 steps, the field is 0. */
    return (uint8_t)(sign | (((exponent + 5) << 3) + (int)steps));
}

static void make_table(Writer *w)
{
    for (uint32_t i = 0; i < 1 << 16; i++) {
        const uint32_t bits = i << 16;
        float x;

        memcpy(&x, &bits, sizeof(x));
        w->to_fp8[i] = isfinite(x) ? to_e4m3(x) : 0;
    }
}

/* ops.h, `random` */
static int write_random(CvBackend *b, const CvTensor *dst, uint64_t seed,
                        float scale)
{
    const Writer *w = (const Writer *)((const char *)b -
                                       offsetof(Writer, backend));
    const int64_t n = cv_elements(dst);
    const float step = scale * 0x1p-23f;
    uint16_t *wide = dst->data;
    uint8_t *narrow = dst->data;

    for (int64_t i = 0; i < n; i++) {
        uint64_t z = seed + ((uint64_t)i + 1) * 0x9e3779b97f4a7c15u;
        uint16_t x;

        z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
        z = (z ^ z >> 27) * 0x94d049bb133111ebu;
        z = z ^ z >> 31;
        x = to_bf16((float)((int)(z >> 40) - (1 << 23)) * step);
        if (dst->type == CV_BF16)
            wide[i] = x;
        else
            narrow[i] = w->to_fp8[x];
    }
    return 0;
}

/* Of the weights that are 1. */
static int write_floats(CvBackend *b, const CvTensor *dst,
                        const CvSource *src, CvType type, const void *tag)
{
    uint16_t *to = dst->data;
    int err = 0;

    (void)b, (void)type, (void)tag;
    for (int64_t i = 0; i < cv_elements(dst) && !err; i++) {
        float one;

        err   = src->read(src->arg, &one, i, 1);
        to[i] = err ? 0 : to_bf16(one);
    }
    return err;
}

static const CvOps file_ops = { .upload = write_floats,
                                .random = write_random };

/* ---- the file ---- */

static int failed(Writer *w, const char *what, const char *path)
{
    return cv_fail(w->log, EIO, "'%s' cannot be %s", path, what);
}

/* Elements first.. of a tensor, as many as a piece has, to the file. */
static int write_piece(Writer *w, const Piece *p, void *buffer)
{
    const CvTensor *t = &p->tensor->entry->tensor;
    const int64_t all = cv_elements(t), n = all - p->first < PIECE ?
                                            all - p->first : PIECE;
    const size_t bytes = (size_t)n * cv_type_bytes(t->type);
    CvTensor part = CV_TENSOR(buffer, t->type, n);
    CvLoader loader = { .backend = &w->backend, .weights = w->weights,
                        .log = w->log };
    const off_t at = (off_t)(p->tensor->at + p->first *
                             (int64_t)cv_type_bytes(t->type));
    int err = cv_random_load(&loader, &part, p->tensor->entry, p->first);

    if (err < 0)
        return err;
    return pwrite(w->file, buffer, bytes, at) == (ssize_t)bytes ? 0 : -1;
}

static void write_job(void *arg, int64_t first, int64_t last, int worker)
{
    Writer *w = arg;
    void *buffer = malloc((size_t)PIECE * 2);

    (void)worker;
    if (!buffer)
        atomic_store(&w->err, 1);
    for (int64_t i = first; i < last && !atomic_load(&w->err); i++)
        if (write_piece(w, &w->pieces[i], buffer) < 0)
            atomic_store(&w->err, 1);
    free(buffer);
}

static int is_wanted(const CvEntry *e, int blocks)
{
    return blocks < 0 || strncmp(e->name, "blocks.", 7) ||
           atoi(e->name + 7) < blocks;
}

/* Tensors, their places behind each other, and the pieces of them. */
static int list_tensors(Writer *w, int blocks, int64_t *bytes)
{
    const int64_t n = cv_weights_count(w->weights);

    *bytes = 0;
    if (!(w->tensors = calloc((size_t)n * 2, sizeof(*w->tensors))))
        return -1;
    for (int64_t i = 0; i < n; i++) {
        const CvEntry *e = cv_weights_at(w->weights, i);

        if (!is_wanted(e, blocks))
            continue;
        w->tensors[w->n_tensors++] = (Tensor){ .entry = e, .at = *bytes };
        w->n_pieces += (cv_elements(&e->tensor) - 1) / PIECE + 1;
        *bytes += cv_tensor_bytes(&e->tensor);
        if (!cv_type_is_fp8(e->tensor.type))
            continue;
        w->tensors[w->n_tensors++] =
            (Tensor){ .factor = cv_random_factor(e), .at = *bytes };
        *bytes += (int64_t)sizeof(float);
    }
    if (!(w->pieces = malloc((size_t)w->n_pieces * sizeof(*w->pieces))))
        return -1;
    w->n_pieces = 0;
    for (int64_t i = 0; i < w->n_tensors; i++) {
        const Tensor *t = &w->tensors[i];

        for (int64_t first = 0; t->entry && first <
             cv_elements(&t->entry->tensor); first += PIECE)
            w->pieces[w->n_pieces++] = (Piece){ t, first };
    }
    return 0;
}

static void print_tensor(FILE *header, const Tensor *t)
{
    const CvEntry *e = t->entry ? t->entry : t[-1].entry;
    const int64_t bytes = t->entry ? cv_tensor_bytes(&e->tensor)
                                   : (int64_t)sizeof(float);

    /* "X.weight" is multiplied by "X.scale_weight" */
    fprintf(header, "\"%.*s%s\":{\"dtype\":\"%s\",\"shape\":[",
            (int)(strlen(e->name) - (t->entry ? 0 : strlen("weight"))),
            e->name, t->entry ? "" : "scale_weight",
            t->entry ? cv_type_name(e->tensor.type) : "F32");
    for (int i = 0; t->entry && i < e->tensor.n_dims; i++)
        fprintf(header, "%s%" PRId64, i ? "," : "", e->tensor.dim[i]);
    fprintf(header, "],\"data_offsets\":[%" PRId64 ",%" PRId64 "]}", t->at,
            t->at + bytes);
}

/* The header, and behind it what is not random; tensors' places count from the
 * beginning of the file afterwards. */
static int write_header(Writer *w, int64_t bytes)
{
    char *text = NULL;
    size_t n = 0;
    FILE *header = open_memstream(&text, &n);
    int err = header ? 0 : -1;

    for (int64_t i = 0; i < w->n_tensors && !err; i++) {
        fputc(i ? ',' : '{', header);
        print_tensor(header, &w->tensors[i]);
    }
    if (header) {
        fputc('}', header);
        while (ftell(header) % 8)
            fputc(' ', header);
        err |= fclose(header);
    }
    if (!err) {
        const uint64_t size = n; /* little endian, as all of this is */

        err = pwrite(w->file, &size, sizeof(size), 0) != sizeof(size) ||
              pwrite(w->file, text, n, sizeof(size)) != (ssize_t)n ||
              ftruncate(w->file, (off_t)(sizeof(size) + n) + bytes);
    }
    for (int64_t i = 0; i < w->n_tensors && !err; i++) {
        Tensor *t = &w->tensors[i];

        t->at += (int64_t)(sizeof(uint64_t) + n);
        if (!t->entry)
            err = pwrite(w->file, &t->factor, sizeof(t->factor),
                         (off_t)t->at) != sizeof(t->factor);
    }
    free(text);
    return err ? -1 : 0;
}

int write_random_file(const char *path, const char *source, int blocks,
                      int threads, CvLog *log)
{
    Writer *w = calloc(1, sizeof(*w));
    CvPool *pool = NULL;
    int64_t bytes;
    int err;

    if (!w)
        return cv_fail_memory(log, sizeof(*w), "a file");
    w->log  = log;
    w->file = -1;
    w->backend = (CvBackend){ .ops = &file_ops, .name = "file", .log = log,
                              .activation = CV_BF16, .weight = CV_BF16,
                              .fp8 = 1 };
    make_table(w);
    if ((err = cv_weights_open(&w->weights, source, log)) < 0)
        goto end;
    if ((err = cv_pool_open(&pool, threads)) < 0 ||
        (err = list_tensors(w, blocks, &bytes)) < 0) {
        err = cv_fail_memory(log, 1, "a file");
        goto end;
    }
    w->file = open(path, O_RDWR | O_CREAT | O_TRUNC, 0666);
    if (w->file < 0 || write_header(w, bytes) < 0) {
        err = failed(w, "made", path);
        goto end;
    }
    cv_pool_run(pool, w->n_pieces, 1, write_job, w);
    if (atomic_load(&w->err))
        err = failed(w, "written", path);
end:
    if (w->file >= 0 && close(w->file) && !err)
        err = failed(w, "written", path);
    cv_pool_close(&pool);
    cv_weights_close(&w->weights);
    free(w->pieces);
    free(w->tensors);
    free(w);
    return err;
}
