/*
 * From a weight file into a backend's memory.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * Tensors are converted by the backend while it uploads them, and rearranged
 * while it reads them (source.h), so that loading never takes a second copy of
 * a tensor.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "weights/lora.h"
#include "weights/source.h"

#define BUFFER_BYTES (8 << 20)

/* Without leading and trailing dimensions of 1. */
static CvTensor trimmed(const CvTensor *t)
{
    CvTensor s = *t;
    int first = 0, end = t->n_dims;

    while (end > 0 && t->dim[end - 1] == 1)
        end--;
    while (first < end && t->dim[first] == 1)
        first++;
    s.n_dims = end - first;
    for (int i = first; i < end; i++)
        s.dim[i - first] = t->dim[i];
    return s;
}

/* The stored dims that `t` is made of, for messages too. */
static CvTensor stored_shape(const CvTensor *t, CvLoadLayout layout)
{
    CvTensor s = *t;

    if (layout == CV_LOAD_CONV) { /* [o, kt, kh, kw, c] <- [o, c, kt, kh, kw] */
        s.dim[1] = t->dim[4];
        s.dim[2] = t->dim[1];
        s.dim[3] = t->dim[2];
        s.dim[4] = t->dim[3];
    } else if (layout == CV_LOAD_CONV_PAIR) {
        s.n_dims = 4;
        s.dim[1] = 2 * t->dim[4];
        s.dim[2] = t->dim[2];
        s.dim[3] = t->dim[3];
    }
    return s;
}

static int shape_agrees(const CvTensor *stored, const CvTensor *expected,
                        CvLoadLayout layout)
{
    CvTensor a, b;

    if (layout == CV_LOAD_CONV) {
        a = *expected;
        if (stored->n_dims == 4 && expected->dim[2] == 1) {
            a.n_dims = 4;
            a.dim[2] = a.dim[3];
            a.dim[3] = a.dim[4];
        }
        return cv_same_dims(stored, &a);
    }
    if (layout == CV_LOAD_CONV_PAIR)
        return cv_same_dims(stored, expected);
    a = trimmed(stored);
    b = trimmed(expected);
    return cv_same_dims(&a, &b);
}

/* Numbers, as they are or quantised. */
static int is_float(CvType type)
{
    return cv_type_block(type) > 1 || type == CV_F32 || type == CV_F64 || type == CV_F16 ||
           type == CV_BF16 || type == CV_F8_E4M3 || type == CV_F8_E5M2;
}

/* "'name'", or both names where the file has its own. */
static const char *name_text(char *text, size_t size, const CvEntry *e)
{
    if (!strcmp(e->name, e->stored))
        snprintf(text, size, "'%s'", e->name);
    else
        snprintf(text, size, "'%s' (officially '%s')", e->stored, e->name);
    return text;
}
#define NAME_TEXT (2 * CV_NAME_SIZE + 32)

/* The entry of a name, with the shape and type that `t` needs. */
static int find(CvEntry **entry, CvLoader *l, const char *name,
                const CvTensor *t, CvLoadLayout layout)
{
    char found[CV_SHAPE_TEXT], wanted[CV_SHAPE_TEXT], text[NAME_TEXT];
    CvTensor expected = stored_shape(t, layout);
    CvEntry *e = cv_weights_find(l->weights, "%s", name);
    const char *path = cv_weights_path(l->weights);

    *entry = e;
    expected.type = e ? e->tensor.type : t->type;
    cv_shape_text(wanted, &expected);
    if (!e)
        return cv_fail(l->log, EILSEQ, "'%s' lacks tensor '%s', expected as "
                       "%s%s; get the complete file of this model", path, name,
                       strchr(wanted, '['),
                       strcmp(cv_weights_layout(l->weights), "official") ?
                       " (the official name of it)" : "");
    if (!shape_agrees(&e->tensor, &expected, layout))
        return cv_fail(l->log, EILSEQ, "'%s': tensor %s is %s; expected %s: "
                       "is it, and its config.json, of this model?", e->file,
                       name_text(text, sizeof(text), e),
                       cv_shape_text(found, &e->tensor), strchr(wanted, '['));
    if (t->type == CV_I32 ? e->tensor.type != CV_I32 :
                            !is_float(e->tensor.type))
        return cv_fail(l->log, EILSEQ, "'%s': tensor %s has the type %s; "
                       "expected %s", e->file,
                       name_text(text, sizeof(text), e),
                       cv_type_name(e->tensor.type),
                       t->type == CV_I32 ? "I32" : "floating point numbers");
    if (layout != CV_LOAD_AS_IS && cv_type_block(e->tensor.type) > 1)
        return cv_fail(l->log, ENOSYS, "'%s': the convolution %s is quantised "
                       "as %s; expected F32, F16 or BF16, as converters leave "
                       "convolutions: get another file of this model",
                       e->file, name_text(text, sizeof(text), e),
                       cv_type_name(e->tensor.type));
    if (e->scale && cv_elements(&e->scale->tensor) != 1 &&
        (!t->n_dims || cv_elements(&e->scale->tensor) != t->dim[0]))
        return cv_fail(l->log, EILSEQ, "'%s': the scale '%s' is %s; expected "
                       "one number, or %lld", e->file, e->scale->stored,
                       cv_shape_text(found, &e->scale->tensor),
                       t->n_dims ? (long long)t->dim[0] : 1LL);
    return 0;
}

/* Bytes of n elements of a tensor, which are whole blocks. */
static size_t bytes_of(const CvEntry *e, int64_t n)
{
    return (size_t)(n / cv_type_block(e->tensor.type)) *
           cv_type_bytes(e->tensor.type);
}

/* Elements of a stored tensor, in the order of the source, -> t, which is in
 * memory; its rows, from `row` on, times their factors where these are to be
 * multiplied here. */
static int upload_source(CvLoader *l, const CvTensor *t, const CvEntry *e,
                         CvStored *stored, int scaled, int64_t row)
{
    const CvSource source = { cv_stored_read, stored };
    const int64_t n = cv_elements(t);
    uint8_t *buffer;
    int err;

    if (!n)
        return 0;
    if (!scaled)
        return cv_upload_from(l->backend, t, &source, e->tensor.type, e);
    if (!(buffer = malloc(bytes_of(e, n))))
        return cv_fail_memory(l->log, bytes_of(e, n), e->name);
    if (!(err = cv_stored_read(stored, buffer, 0, n)))
        err = cv_scale_upload(l, t, buffer, e, NULL, row);
    free(buffer);
    return err;
}

/* The stored tensor -> t, which is in memory. What is multiplied on the way
 * goes through a buffer, a few rows at a time. */
static int upload(CvLoader *l, const CvTensor *t, const CvEntry *e,
                  CvLoadLayout layout)
{
    const int64_t row = cv_row_elements(t), rows = t->n_dims ? t->dim[0] : 1;
    const int scaled = e->scale && !cv_type_is_fp8(t->type);
    CvTensor whole = *t, part;
    int64_t n = rows;
    int err = 0;

    /* With one tap the order is the file's. */
    if (layout == CV_LOAD_CONV && row == t->dim[4])
        layout = CV_LOAD_AS_IS;
    if (!t->n_dims)
        whole = CV_RESHAPE(*t, 1);
    if (scaled && row && (n = BUFFER_BYTES / (int64_t)bytes_of(e, row)) < 1)
        n = 1;
    for (int64_t first = 0; first < rows && !err; first += n) {
        CvStored stored;

        part = cv_rows(&whole, first, n < rows - first ? n : rows - first);
        cv_stored_init(&stored, l->weights, e, layout, first * row, l->log);
        err = upload_source(l, &part, e, &stored, scaled, first);
    }
    return err;
}

static int wrong_value(CvLoader *l, const CvEntry *e)
{
    char text[NAME_TEXT];

    return cv_fail(l->log, EILSEQ, "'%s': tensor %s%s%s%s holds a value that "
                   "is not a number, or infinite; get the file again, or "
                   "another one of this model", e->file,
                   name_text(text, sizeof(text), e), e->scale ? " or '" : "",
                   e->scale ? e->scale->stored : "", e->scale ? "'" : "");
}

int cv_load_end(CvLoader *l, int err)
{
    const void *bad;
    int late = cv_uploaded(l->backend, &bad);

    if (err < 0 || (err = late) < 0)
        return err;
    return bad ? wrong_value(l, bad) : 0;
}

int cv_load_piece(CvLoader *l, const CvTensor *t, const CvEntry *e,
                  int scaled, int64_t first, int64_t step)
{
    const int64_t rows = t->dim[0], row = t->dim[1];
    CvStored stored;
    int err;

    if (l->weights->random) {
        err = cv_random_load(l, t, e, first);
    } else {
        cv_stored_init(&stored, l->weights, e, CV_LOAD_AS_IS, first, l->log);
        if (row != step && rows > 1)
            cv_stored_parts(&stored, row, step);
        err = upload_source(l, t, e, &stored, scaled && e->scale,
                            first / step);
    }
    return err == CAUSVID_ERR(EILSEQ) ? wrong_value(l, e) : err;
}

/* Find, check and upload one tensor into memory that m has. */
static int load_into(CvLoader *l, const CvMatrix *m, CvLoadLayout layout,
                     const char *name)
{
    const CvTensor *t = &m->weight;
    CvDelta *deltas;
    CvEntry *e;
    int64_t n;
    int err = find(&e, l, name, t, layout);

    if (err < 0)
        return err;
    e->used = 1;
    deltas = cv_loras_find(l->loras, e, &n);
    if (deltas || (cv_type_is_fp8(t->type) && t->type != e->tensor.type)) {
        /* What becomes or stays fp8 is multiplied on the device. */
        if (cv_type_is_fp8(t->type) && e->scale && !l->backend->planning)
            err = cv_scale_load(l, &m->scale, e, NULL);
        if (err == CAUSVID_ERR(EILSEQ))
            return wrong_value(l, e);
        return err < 0 ? err : cv_loras_merge(l, m, e, deltas,
                                              deltas ? n : 0);
    }
    if (l->backend->planning)
        return 0;
    err = l->weights->random ? cv_random_load(l, t, e, 0)
                             : upload(l, t, e, layout);
    if (!err && cv_type_is_fp8(t->type))
        err = cv_scale_load(l, &m->scale, e, NULL);
    return err == CAUSVID_ERR(EILSEQ) ? wrong_value(l, e) : err;
}

/* Take the memory of a tensor, and where it is in fp8 that of its factors: one
 * for each row, also where the file has one for all or none. The factors of 14B
 * then take 10 MB of 14 GB, parts with factors of their own can lie one below
 * the other, and there is one case instead of three. */
static int take(CvLoader *l, CvMatrix *m)
{
    int err = cv_arena_tensor(l->arena, &m->weight);

    m->scale = CV_TENSOR(NULL, CV_F32, m->weight.n_dims ? m->weight.dim[0]
                                                        : 1);
    if (!err && cv_type_is_fp8(m->weight.type))
        err = cv_arena_tensor(l->arena, &m->scale);
    return err;
}

/* Can an entry stay as it is stored? */
static int stays_fp8(const CvLoader *l, const CvEntry *e)
{
    return l->backend->fp8 && cv_type_is_fp8(e->tensor.type);
}

/* The type that a matrix gets which is stored as e: `type`, unless it stays in
 * fp8 or becomes so. */
static CvType matrix_type(const CvLoader *l, const CvEntry *e, CvType type)
{
    if (l->backend->fp8 && l->quantise)
        return CV_F8_E4M3;
    return stays_fp8(l, e) ? e->tensor.type : type;
}

/* keep: it may stay in fp8, or become so; else it has m->weight.type. */
static int load_one(CvLoader *l, CvMatrix *m, int keep, CvLoadLayout layout,
                    const char *name)
{
    CvEntry *e;
    /* before memory is taken: a wrong file must not decide how much */
    int err = find(&e, l, name, &m->weight, layout);

    if (err < 0)
        return err;
    if (keep)
        m->weight.type = matrix_type(l, e, m->weight.type);
    m->exact = e->exact;
    err = take(l, m);
    return err < 0 ? err : load_into(l, m, layout, name);
}

/* The name of a tensor, or an internal error of `function`. */
static int format_name(char name[CV_NAME_SIZE], CvLoader *l,
                       const char *function, const char *format, va_list args)
{
    int n = vsnprintf(name, CV_NAME_SIZE, format, args);

    if (n >= 0 && n < CV_NAME_SIZE)
        return 0;
    return cv_fail(l->log, EINVAL, "internal error: %s of '%s'", function,
                   format);
}

int cv_load(CvLoader *l, CvTensor *t, CvLoadLayout layout, const char *format,
            ...)
{
    CvMatrix m = { .weight = *t };
    char name[CV_NAME_SIZE];
    va_list args;
    int err;

    va_start(args, format);
    err = format_name(name, l, "cv_load", format, args);
    va_end(args);
    if (!err && layout != CV_LOAD_AS_IS && t->n_dims != 5)
        return cv_fail(l->log, EINVAL, "internal error: cv_load of '%s'",
                       format);
    if (!err)
        err = load_one(l, &m, 0, layout, name);
    *t = m.weight;
    return err;
}

int cv_load_matrix(CvLoader *l, CvMatrix *m, const char *format, ...)
{
    char name[CV_NAME_SIZE];
    va_list args;
    int err;

    m->weight = CV_TENSOR(NULL, l->backend->weight, m->weight.dim[0],
                          m->weight.dim[1]);
    va_start(args, format);
    err = format_name(name, l, "cv_load_matrix", format, args);
    va_end(args);
    return err < 0 ? err : load_one(l, m, 1, CV_LOAD_AS_IS, name);
}

/* Parts that are not all of one type in fp8 do not stay so. */
static int load_stacked(CvLoader *l, CvMatrix *m, int keep, const char *stem,
                        const char *const *parts, int n_parts)
{
    const char *hole = strstr(stem, "%s");
    CvTensor *t = &m->weight, share = *t;
    CvType type = t->type;
    int err = m->exact = 0;

    if (!hole || n_parts < 1 || t->n_dims < 1 || t->dim[0] % n_parts)
        return cv_fail(l->log, EINVAL, "internal error: cv_load_stacked of "
                       "'%s'", stem);
    share.dim[0] /= n_parts;
    for (int pass = 0; pass < 2 && !err; pass++) {
        if (pass) {
            t->type = keep ? type : t->type;
            if ((err = take(l, m)) < 0)
                break;
        }
        for (int i = 0; i < n_parts && !err; i++) {
            const int64_t first = i * share.dim[0];
            char name[CV_NAME_SIZE];
            CvMatrix rows = *m;
            CvEntry *e;

            if (snprintf(name, sizeof(name), "%.*s%s%s", (int)(hole - stem),
                         stem, parts[i], hole + 2) >= (int)sizeof(name))
                return cv_fail(l->log, EINVAL, "internal error: "
                               "cv_load_stacked of '%s'", stem);
            if (!pass) {
                if ((err = find(&e, l, name, &share, CV_LOAD_AS_IS)) < 0)
                    break;
                m->exact |= e->exact;
                if (!i)
                    type = matrix_type(l, e, t->type);
                else if (matrix_type(l, e, t->type) != type)
                    keep = 0;
                continue;
            }
            rows.weight = cv_rows(t, first, share.dim[0]);
            if (m->scale.data)
                rows.scale = cv_rows(&m->scale, first, share.dim[0]);
            err = load_into(l, &rows, CV_LOAD_AS_IS, name);
        }
    }
    return err;
}

int cv_load_stacked(CvLoader *l, CvTensor *t, const char *stem,
                    const char *const *parts, int n_parts)
{
    CvMatrix m = { .weight = *t };
    int err = load_stacked(l, &m, 0, stem, parts, n_parts);

    *t = m.weight;
    return err;
}

int cv_load_matrix_stacked(CvLoader *l, CvMatrix *m, const char *stem,
                           const char *const *parts, int n_parts)
{
    m->weight = CV_TENSOR(NULL, l->backend->weight, m->weight.dim[0],
                          m->weight.dim[1]);
    return load_stacked(l, m, 1, stem, parts, n_parts);
}

/* The rows ids[0] .. of e -> t, which is in memory, in one upload. */
static int upload_rows(CvLoader *l, const CvTensor *t, const CvEntry *e,
                       const int32_t *ids)
{
    size_t row = bytes_of(e, cv_row_elements(t));
    uint8_t *buffer = malloc(((size_t)t->dim[0] + 1) * row);
    int err;

    if (!buffer)
        return cv_fail_memory(l->log, ((uint64_t)t->dim[0] + 1) * row,
                              e->name);
    for (int64_t i = 0; i < t->dim[0]; i++)
        cv_entry_copy(buffer + (size_t)i * row, e,
                      ids[i] * cv_row_elements(t), cv_row_elements(t));
    err = e->scale && !cv_type_is_fp8(t->type)
              ? cv_scale_upload(l, t, buffer, e, ids, 0)
              : cv_upload_tagged(l->backend, t, buffer, e->tensor.type, e);
    free(buffer);
    return err;
}

static int random_rows(CvLoader *l, const CvTensor *t, const CvEntry *e,
                       const int32_t *ids)
{
    int err = 0;

    for (int64_t i = 0; i < t->dim[0] && !err; i++) {
        CvTensor row = cv_rows(t, i, 1);

        err = cv_random_load(l, &row, e, ids[i] * cv_row_elements(t));
    }
    return err;
}

static int load_rows(CvLoader *l, CvMatrix *m, int keep, int64_t rows,
                     const int32_t *ids, const char *name)
{
    CvTensor *t = &m->weight, whole = *t;
    CvEntry *e;
    int err;

    whole.dim[0] = rows;
    if ((err = find(&e, l, name, &whole, CV_LOAD_AS_IS)) < 0)
        return err;
    if (cv_row_elements(t) % cv_type_block(e->tensor.type))
        return cv_fail(l->log, ENOSYS, "'%s': rows of tensor '%s' are not "
                       "whole blocks of %s; get another file of this model",
                       e->file, e->stored, cv_type_name(e->tensor.type));
    if (keep && stays_fp8(l, e))
        t->type = e->tensor.type;
    if ((err = take(l, m)) < 0)
        return err;
    e->used = 1;
    for (int64_t i = 0; i < t->dim[0]; i++)
        if (ids[i] < 0 || ids[i] >= rows)
            return cv_fail(l->log, EINVAL, "internal error: row %d of '%s'",
                           (int)ids[i], name);
    if (l->backend->planning || !cv_elements(t))
        return 0;
    err = l->weights->random ? random_rows(l, t, e, ids)
                             : upload_rows(l, t, e, ids);
    if (!err && cv_type_is_fp8(t->type))
        err = cv_scale_load(l, &m->scale, e, ids);
    return err == CAUSVID_ERR(EILSEQ) ? wrong_value(l, e) : err;
}

int cv_load_rows(CvLoader *l, CvTensor *t, int64_t rows, const int32_t *ids,
                 const char *name)
{
    CvMatrix m = { .weight = *t };
    int err = load_rows(l, &m, 0, rows, ids, name);

    *t = m.weight;
    return err;
}

int cv_load_matrix_rows(CvLoader *l, CvMatrix *m, int64_t rows,
                        const int32_t *ids, const char *name)
{
    m->weight = CV_TENSOR(NULL, l->backend->weight, m->weight.dim[0],
                          m->weight.dim[1]);
    return load_rows(l, m, 1, rows, ids, name);
}

int cv_load_finish(CvLoader *l)
{
    static const char *const kinds[] = {
        [CV_KIND_UNKNOWN]      = "network",
        [CV_KIND_TRANSFORMER]  = "transformer",
        [CV_KIND_TEXT_ENCODER] = "text encoder",
        [CV_KIND_VAE]          = "VAE",
        [CV_KIND_TINY_VAE]     = "tiny VAE",
        [CV_KIND_LORA]         = "LoRA",
    };
    char text[CV_SHAPE_TEXT], names[3 * CV_NAME_SIZE] = "";
    const CvEntry *first = NULL;
    size_t used = 0;
    int64_t n = 0;

    for (int64_t i = 0; i < cv_weights_count(l->weights); i++) {
        const CvEntry *e = cv_weights_at(l->weights, i);

        if (e->used)
            continue;
        if (!n++)
            first = e;
        else if (n <= 3 && used < sizeof(names))
            used += (size_t)snprintf(names + used, sizeof(names) - used,
                                     ", '%s'", e->stored);
    }
    if (!n)
        return 0;
    return cv_fail(l->log, EILSEQ, "'%s' holds %lld tensor%s that a %s of "
                   "this size does not have, such as '%s' %s%s; use the file "
                   "of a Wan 2.1 text-to-video model", first->file,
                   (long long)n, n == 1 ? "" : "s",
                   kinds[cv_weights_kind(l->weights)], first->stored,
                   cv_shape_text(text, &first->tensor), names);
}
