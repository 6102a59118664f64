/*
 * Opening LoRA files: which tensor each entry changes, and how.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * Nobody agrees on names, and what is overlooked is a video that is a little
 * wrong: so every entry of a file has to find its place, or is an error. The
 * exceptions are entries for an image input, which text models do not have, and
 * they are told of.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "weights/bytes.h"
#include "weights/lora.h"
#include "weights/lora_names.h"
#include "weights/names.h"

/* ---- the list ---- */

/* A decimal number that is all of the text; not strtod(), which wants a comma
 * in some countries. */
static int read_number(const char *text, double *value)
{
    double unit = 1, sum = 0;
    int negative = *text == '-', digits = 0, point = 0;

    for (text += negative; *text; text++) {
        if (*text == '.' && !point) {
            point = 1;
        } else if (*text >= '0' && *text <= '9' && ++digits <= 15) {
            sum = 10 * sum + (*text - '0');
            unit *= point ? 10 : 1;
        } else {
            return 0;
        }
    }
    if (digits)
        *value = (negative ? -sum : sum) / unit;
    return digits > 0;
}

int cv_lora_next(const char **list, char path[CV_PATH_SIZE], double *strength,
                 CvLog *log)
{
    size_t n = strcspn(*list, "|");
    char *equals;

    if (!**list)
        return 0;
    if (n >= CV_PATH_SIZE)
        return cv_fail(log, EINVAL, "lora: a path of %zu bytes; expected at "
                       "most %d", n, CV_PATH_SIZE - 1);
    memcpy(path, *list, n);
    path[n] = 0;
    *list += n + ((*list)[n] == '|');
    *strength = 1;
    equals = strrchr(path, '=');
    if (equals && read_number(equals + 1, strength))
        *equals = 0;
    if (!*path || (n && !**list && (*list)[-1] == '|'))
        return cv_fail(log, EINVAL, "lora: a path is empty; expected "
                       "path=strength, with '|' between several");
    if (!(fabs(*strength) <= 100))
        return cv_fail(log, EINVAL, "lora='%s=%g': expected a strength from "
                       "-100 to 100", path, *strength);
    return 1;
}

/* ---- one file ---- */

typedef struct Opening {
    CvLoras *loras;
    CvLoraFile *file;
    int number;           /* of the file */
    CvLoraTargets *targets;
    CvLog *log;
    const char *path;
    int64_t images;       /* entries for an image input */
    int64_t unknown;      /* modules that the model lacks, */
    size_t used;          /* and the first of them */
    char names[3 * CV_NAME_SIZE];
} Opening;

/* The dimensions that are not 1; how many. */
static int64_t dims_but_1(const CvTensor *t, int64_t dim[CV_MAX_DIMS])
{
    int n = 0;

    for (int i = 0; i < t->n_dims; i++)
        if (t->dim[i] != 1)
            dim[n++] = t->dim[i];
    return n;
}

/* Equal but for dimensions of 1. */
static int same_dims(const CvTensor *a, const CvTensor *b)
{
    int64_t x[CV_MAX_DIMS], y[CV_MAX_DIMS], n = dims_but_1(a, x);

    return n == dims_but_1(b, y) && !memcmp(x, y, (size_t)n * sizeof(*x));
}

/* [a, b], or [a, b, 1, ...] */
static int is_matrix(const CvTensor *t, int64_t a, int64_t b)
{
    for (int i = 2; i < t->n_dims; i++)
        if (t->dim[i] != 1)
            return 0;
    return t->n_dims >= 2 && t->dim[0] == a && t->dim[1] == b;
}

static int check_type(const Opening *o, const CvEntry *e)
{
    switch (e->tensor.type) {
    case CV_F32: case CV_F64: case CV_F16: case CV_BF16:
    case CV_F8_E4M3: case CV_F8_E5M2:
        return 0;
    default:
        return cv_fail(o->log, EILSEQ, "'%s': '%s' has the type %s; expected "
                       "floating point numbers", o->path, e->stored,
                       cv_type_name(e->tensor.type));
    }
}

static double half(uint32_t bits)
{
    int exponent = bits >> 10 & 31;
    double value = exponent == 31 ? NAN
                 : exponent ? ldexp(1024 + (bits & 1023), exponent - 25)
                            : ldexp(bits & 1023, -24);

    return bits & 0x8000 ? -value : value;
}

/* A tensor of one number. */
static int read_scalar(const Opening *o, const CvEntry *e, double *value)
{
    char text[CV_SHAPE_TEXT];
    uint8_t bytes[8];
    uint64_t wide;
    uint32_t bits;
    float single;

    *value = NAN;
    if (cv_elements(&e->tensor) == 1 && cv_type_block(e->tensor.type) == 1) {
        cv_entry_copy(bytes, e, 0, 1);
        switch (e->tensor.type) {
        case CV_F64:
            wide = cv_le64(bytes);
            memcpy(value, &wide, sizeof(*value));
            break;
        case CV_I64:
            *value = (double)(int64_t)cv_le64(bytes);
            break;
        case CV_I32:
            *value = (int32_t)cv_le32(bytes);
            break;
        case CV_F32:
        case CV_BF16:
            bits = e->tensor.type == CV_F32 ? cv_le32(bytes)
                                            : cv_le16(bytes) << 16;
            memcpy(&single, &bits, sizeof(single));
            *value = single;
            break;
        case CV_F16:
            *value = half(cv_le16(bytes));
            break;
        default:
            break;
        }
    }
    if (isfinite(*value))
        return 0;
    return cv_fail(o->log, EILSEQ, "'%s': '%s', %s, is no finite number",
                   o->path, e->stored, cv_shape_text(text, &e->tensor));
}

static int add_delta(Opening *o, const CvDelta *delta)
{
    CvLoras *l = o->loras;

    if (l->n_deltas == l->room) {
        int64_t room = l->room ? 2 * l->room : 512;
        CvDelta *larger = realloc(l->deltas, (size_t)room * sizeof(*larger));

        if (!larger)
            return cv_fail_memory(o->log, (uint64_t)room * sizeof(*larger),
                                  "a LoRA's entries");
        l->deltas = larger;
        l->room   = room;
    }
    l->deltas[l->n_deltas++] = *delta;
    return 0;
}

/* The tensor "module.member", or NULL: then it was counted. */
static CvEntry *find_target(Opening *o, const CvLoraModule *m,
                            const char *member, const CvEntry *e)
{
    CvEntry *target = cv_lora_target(o->targets, m, member);

    if (target)
        return target;
    if (cv_lora_is_image(e->stored)) {
        o->images++;
    } else if (++o->unknown <= 3) {
        int n = snprintf(o->names + o->used, sizeof(o->names) - o->used,
                         "%s'%s'", o->used ? ", " : "", e->stored);

        o->used += (size_t)n < sizeof(o->names) - o->used ? (size_t)n : 0;
    }
    return NULL;
}

/* target += strength * e */
static int add_difference(Opening *o, const CvLoraModule *m,
                          const char *member, const CvEntry *e)
{
    char found[CV_SHAPE_TEXT], wanted[CV_SHAPE_TEXT];
    CvDelta delta = { .up = e, .file = o->number,
                      .scale = (float)o->file->strength };
    const CvEntry *target;
    CvTensor like;
    int err;

    if (!e)
        return 0;
    o->file->entries++;
    if (!(target = find_target(o, m, member, e)))
        return 0;
    delta.target = target;
    if (same_dims(&e->tensor, &target->tensor))
        return (err = check_type(o, e)) < 0 ? err : add_delta(o, &delta);
    cv_shape_text(found, &e->tensor);
    cv_shape_text(wanted, &target->tensor);
    /* A LoRA of a model that sees an image, too. */
    like = target->tensor;
    if (e->tensor.n_dims == like.n_dims && like.n_dims == 5)
        like.dim[1] = e->tensor.dim[1];
    if (!strcmp(target->name, "patch_embedding.weight") &&
        same_dims(&e->tensor, &like)) {
        cv_log(o->log, CAUSVID_LOG_WARNING, "LoRA '%s': '%s', %s, is left "
               "out: it is for other input channels than the model's, %s",
               o->path, e->stored, found, wanted);
        return 0;
    }
    return cv_fail(o->log, EILSEQ, "'%s': '%s' is %s, but '%s' of the model is "
                   "%s: use a LoRA for a model of this size", o->path,
                   e->stored, found, target->stored, wanted);
}

/* target += strength * alpha / rank * up down */
static int add_pair(Opening *o, const CvLoraModule *m)
{
    char a[CV_SHAPE_TEXT], b[CV_SHAPE_TEXT], wanted[CV_SHAPE_TEXT];
    const CvEntry *up = m->entry[CV_LORA_UP], *down = m->entry[CV_LORA_DOWN];
    const CvEntry *any = up ? up : down, *target;
    const CvTensor *t;
    double scale = o->file->strength, alpha;
    CvTensor shape;
    int64_t rank;
    int err;

    if (!any)
        return 0;
    if (!up || !down)
        return cv_fail(o->log, EILSEQ, "'%s': '%s', %s, has no partner: the "
                       "%s half of the pair is missing; get the file again",
                       o->path, any->stored, cv_shape_text(a, &any->tensor),
                       up ? "lora_down (lora_A)" : "lora_up (lora_B)");
    o->file->entries++;
    if (!(target = find_target(o, m, "weight", up)))
        return 0;
    if ((err = check_type(o, up)) < 0 || (err = check_type(o, down)) < 0)
        return err;
    t     = &target->tensor;
    rank  = down->tensor.n_dims ? down->tensor.dim[0] : 0;
    shape = *t; /* of the lower factor: [rank, in] or [rank, c, kt, kh, kw] */
    if (t->n_dims)
        shape.dim[0] = rank;
    if (rank < 1 || t->n_dims < 2 || !is_matrix(&up->tensor, t->dim[0], rank) ||
        !(is_matrix(&down->tensor, rank, cv_row_elements(t)) ||
          (down->tensor.n_dims == t->n_dims &&
           same_dims(&down->tensor, &shape))))
        return cv_fail(o->log, EILSEQ, "'%s': '%s' is %s and '%s' is %s, but "
                       "'%s' of the model is %s: use a LoRA for a model of "
                       "this size", o->path, up->stored,
                       cv_shape_text(a, &up->tensor), down->stored,
                       cv_shape_text(b, &down->tensor), target->stored,
                       cv_shape_text(wanted, t));
    if (m->entry[CV_LORA_ALPHA]) {
        if ((err = read_scalar(o, m->entry[CV_LORA_ALPHA], &alpha)) < 0)
            return err;
        scale *= alpha / (double)rank;
    }
    if (!(fabs(scale) < 1e30))
        return cv_fail(o->log, EILSEQ, "'%s': '%s' is %g: expected about the "
                       "rank, %lld", o->path,
                       m->entry[CV_LORA_ALPHA]->stored, alpha,
                       (long long)rank);
    return add_delta(o, &(CvDelta){ .target = target, .up = up, .down = down,
                                    .rank = rank, .scale = (float)scale,
                                    .file = o->number });
}

static int add_module(Opening *o, const CvLoraModule *m)
{
    const CvEntry *alpha = m->entry[CV_LORA_ALPHA];
    int err;

    if (alpha && !m->entry[CV_LORA_UP] && !m->entry[CV_LORA_DOWN] &&
        !m->entry[CV_LORA_DIFF])
        return cv_fail(o->log, EILSEQ, "'%s': '%s' belongs to no pair: its "
                       "lora_up and lora_down are missing; get the file again",
                       o->path, alpha->stored);
    if ((err = add_pair(o, m)) < 0 ||
        (err = add_difference(o, m, "weight", m->entry[CV_LORA_DIFF])) < 0 ||
        (err = add_difference(o, m, "bias", m->entry[CV_LORA_DIFF_B])) < 0)
        return err;
    return add_difference(o, m, "modulation", m->entry[CV_LORA_DIFF_M]);
}

static int read_file(Opening *o)
{
    CvLoraModule *modules = NULL;
    int64_t n = 0, before = o->loras->n_deltas;
    int err = cv_weights_open(&o->file->weights, o->path, o->log);

    if (!err && o->file->weights->random)
        err = cv_fail(o->log, EINVAL, "lora='%s': random numbers make no LoRA",
                      o->path);
    if (!err)
        err = cv_lora_modules(&modules, &n, o->file->weights, o->log);
    for (int64_t i = 0; i < n && !err; i++)
        err = add_module(o, &modules[i]);
    if (!err && o->unknown)
        err = cv_fail(o->log, EILSEQ, "'%s': %lld of its %lld entries are for "
                      "modules that the transformer does not have, such as "
                      "%s; use a LoRA for Wan 2.1 text to video models",
                      o->path, (long long)o->unknown,
                      (long long)o->file->entries, o->names);
    if (!err && before == o->loras->n_deltas)
        err = cv_fail(o->log, EILSEQ, "'%s': none of its %lld entries is for a "
                      "text to video model; use a LoRA for one", o->path,
                      (long long)o->file->entries);
    if (!err && o->images)
        cv_log(o->log, CAUSVID_LOG_WARNING, "LoRA '%s': %lld entries for an "
               "image input are left out: this is a text to video model",
               o->path, (long long)o->images);
    cv_lora_modules_free(&modules, n);
    return err;
}

/* ---- all files ---- */

/* Entries lie in one array, so addresses order them. */
static int compare_deltas(const void *a, const void *b)
{
    const CvDelta *x = a, *y = b;
    uintptr_t p = (uintptr_t)x->target, q = (uintptr_t)y->target;

    if (p != q)
        return p < q ? -1 : 1;
    if (x->file != y->file)
        return x->file < y->file ? -1 : 1;
    /* a pair and a whole difference: the pair first */
    return strcmp(x->down ? "" : x->up->name, y->down ? "" : y->up->name);
}

static int compare_target(const void *key, const void *delta)
{
    uintptr_t p = (uintptr_t)key, q = (uintptr_t)((const CvDelta *)delta)->target;

    return p < q ? -1 : p > q;
}

CvDelta *cv_loras_find(const CvLoras *loras, const CvEntry *target, int64_t *n)
{
    CvDelta *first, *end;

    *n = 0;
    if (!loras || !loras->n_deltas)
        return NULL;
    first = bsearch(target, loras->deltas, (size_t)loras->n_deltas,
                    sizeof(*first), compare_target);
    if (!first)
        return NULL;
    for (end = first; end < loras->deltas + loras->n_deltas &&
                      end->target == target; end++)
        ;
    while (first > loras->deltas && first[-1].target == target)
        first--;
    *n = end - first;
    return first;
}

int cv_loras_open(CvLoras **out, const char *list, CvWeights *model,
                  CvLog *log)
{
    CvLoras *l = calloc(1, sizeof(*l));
    Opening *o = calloc(1, sizeof(*o));
    CvLoraTargets *targets = NULL;
    const char *rest = list;
    char *path = malloc(CV_PATH_SIZE);
    double strength;
    int err = 0, n = 1;

    *out = l;
    for (const char *p = list; *p; p++)
        n += *p == '|';
    if (!l || !o || !path ||
        !(l->files = calloc((size_t)n, sizeof(*l->files)))) {
        err = cv_fail_memory(log, sizeof(*o) + CV_PATH_SIZE, "LoRA files");
        goto end;
    }
    if ((err = cv_lora_targets(&targets, model, log)) < 0)
        goto end;
    if (!*list)
        err = cv_fail(log, EINVAL, "lora is empty; expected path=strength, "
                      "with '|' between several");
    while (!err && (err = cv_lora_next(&rest, path, &strength, log)) > 0) {
        int number = l->n_files++;

        l->files[number].strength = strength;
        *o = (Opening){ .loras = l, .file = &l->files[number],
                        .number = number, .targets = targets, .log = log,
                        .path = path };
        err = read_file(o);
    }
    if (!err)
        qsort(l->deltas, (size_t)l->n_deltas, sizeof(*l->deltas),
              compare_deltas);
end:
    cv_lora_targets_free(&targets);
    free(path);
    free(o);
    if (err < 0)
        cv_loras_close(out);
    return err;
}

void cv_loras_close(CvLoras **loras)
{
    CvLoras *l = *loras;

    if (!l)
        return;
    for (int i = 0; i < l->n_files; i++)
        cv_weights_close(&l->files[i].weights);
    free(l->files);
    free(l->deltas);
    free(l);
    *loras = NULL;
}
