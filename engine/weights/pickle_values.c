/*
 * The values of a pickle, and what the known names make of them.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * Values are owned by the pickle, not by each other: a list may hold itself,
 * and nothing walks values recursively.
 * Sources: checkpoints.md 8.2 to 8.4; pytorch torch/_weights_only_unpickler.py,
 * torch/_utils.py.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "weights/json.h"
#include "weights/pickle_values.h"

/* Far above what weights need (4000 tensors: 100000 values), and low enough
 * that a file of nothing else takes 100 MB. */
#define MAX_VALUES (1 << 20)
#define MAX_DEPTH  32

enum { CHUNK_VALUES = 256 };

struct CvPickleChunk {
    struct CvPickleChunk *next;
    int n;
    CvPickleValue values[CHUNK_VALUES];
};

/* What a known name stands for. */
typedef enum Meaning {
    ORDERED_DICT,
    TENSOR,      /* storage, offset, size, stride */
    TENSOR_V2,   /* the same, requires_grad, hooks; may be followed by more */
    TENSOR_V3,   /* the same, dtype; the storage is untyped */
    PARAMETER,   /* tensor, requires_grad, hooks */
    STORAGE,
    UNTYPED,     /* a storage that counts bytes */
    DTYPE,
    SIZE,        /* of a tuple: is it */
    OPAQUE,      /* may be called, with an inert result */
} Meaning;

static const struct {
    const char *module, *name;
    Meaning meaning;
    CvType type;
} globals[] = {
    { "collections", "OrderedDict", ORDERED_DICT, 0 },
    { "torch._utils", "_rebuild_tensor", TENSOR, 0 },
    { "torch._utils", "_rebuild_tensor_v2", TENSOR_V2, 0 },
    { "torch._utils", "_rebuild_tensor_v3", TENSOR_V3, 0 },
    { "torch._utils", "_rebuild_parameter", PARAMETER, 0 },
    { "torch", "FloatStorage", STORAGE, CV_F32 },
    { "torch", "DoubleStorage", STORAGE, CV_F64 },
    { "torch", "HalfStorage", STORAGE, CV_F16 },
    { "torch", "BFloat16Storage", STORAGE, CV_BF16 },
    { "torch", "LongStorage", STORAGE, CV_I64 },
    { "torch", "IntStorage", STORAGE, CV_I32 },
    { "torch", "ShortStorage", STORAGE, CV_I16 },
    { "torch", "CharStorage", STORAGE, CV_I8 },
    { "torch", "ByteStorage", STORAGE, CV_U8 },
    { "torch", "BoolStorage", STORAGE, CV_BOOL },
    { "torch.storage", "UntypedStorage", UNTYPED, 0 },
    { "torch.storage", "TypedStorage", OPAQUE, 0 },
    { "torch", "float32", DTYPE, CV_F32 },
    { "torch", "float64", DTYPE, CV_F64 },
    { "torch", "float16", DTYPE, CV_F16 },
    { "torch", "bfloat16", DTYPE, CV_BF16 },
    { "torch", "float8_e4m3fn", DTYPE, CV_F8_E4M3 },
    { "torch", "float8_e5m2", DTYPE, CV_F8_E5M2 },
    { "torch", "int64", DTYPE, CV_I64 },
    { "torch", "int32", DTYPE, CV_I32 },
    { "torch", "int16", DTYPE, CV_I16 },
    { "torch", "int8", DTYPE, CV_I8 },
    { "torch", "uint8", DTYPE, CV_U8 },
    { "torch", "bool", DTYPE, CV_BOOL },
    { "torch", "Size", SIZE, 0 },
    { "torch", "device", OPAQUE, 0 },
};
enum { N_GLOBALS = sizeof(globals) / sizeof(globals[0]) };

int cv_pickle_refuse(CvPickleMaker *m, const char *why)
{
    return cv_fail(m->log, EILSEQ, "'%s': its pickle is damaged or not of "
                   "weights: %s (at byte %zu); get the file again, or save "
                   "the state dict alone", m->path, why, m->at);
}

/* ---- values ---- */

CvPickleValue *cv_pickle_new(CvPickleMaker *m, CvPickleKind kind, int *err)
{
    struct CvPickleChunk *chunk = m->pickle->chunks;
    CvPickleValue *v;

    if (m->n_values == MAX_VALUES) {
        *err = cv_pickle_refuse(m, "it has too many values");
        return NULL;
    }
    if (!chunk || chunk->n == CHUNK_VALUES) {
        chunk = malloc(sizeof(*chunk));
        if (!chunk) {
            *err = cv_fail_memory(m->log, sizeof(*chunk), "a pickle");
            return NULL;
        }
        chunk->n    = 0;
        chunk->next = m->pickle->chunks;
        m->pickle->chunks = chunk;
    }
    m->n_values++;
    v = &chunk->values[chunk->n++];
    memset(v, 0, sizeof(*v));
    v->kind  = kind;
    v->depth = cv_pickle_is_container(v);
    return v;
}

void cv_pickle_free(CvPickle *p)
{
    while (p->chunks) {
        struct CvPickleChunk *chunk = p->chunks;

        for (int i = 0; i < chunk->n; i++)
            if (cv_pickle_is_container(&chunk->values[i]))
                free(chunk->values[i].u.list.items);
        p->chunks = chunk->next;
        free(chunk);
    }
    p->root = NULL;
}

int cv_pickle_extend(CvPickleMaker *m, CvPickleValue *list,
                     CvPickleValue *const *items, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (items[i]->depth >= list->depth)
            list->depth = items[i]->depth + 1;
    if (list->depth > MAX_DEPTH)
        return cv_pickle_refuse(m, "its containers are nested too deep");
    if (n > list->u.list.room - list->u.list.n) {
        size_t room = list->u.list.n + n;
        CvPickleValue **more;

        if (list->u.list.n) /* it grows bit by bit */
            room += list->u.list.n;
        more = realloc(list->u.list.items, room * sizeof(*more));
        if (!more)
            return cv_fail_memory(m->log, room * sizeof(*more), "a pickle");
        list->u.list.items = more;
        list->u.list.room  = room;
    }
    if (n)
        memcpy(list->u.list.items + list->u.list.n, items,
               n * sizeof(*items));
    list->u.list.n += n;
    return 0;
}

/* ---- names ---- */

static int is_text(const char *text, size_t n, const char *expected)
{
    return n == strlen(expected) && !memcmp(text, expected, n);
}

int cv_pickle_global(CvPickleMaker *m, const char *module, size_t n_module,
                     const char *name, size_t n_name)
{
    char whole[CV_PRINTABLE * 2], text[CV_PRINTABLE];

    for (int i = 0; i < N_GLOBALS; i++)
        if (is_text(module, n_module, globals[i].module) &&
            is_text(name, n_name, globals[i].name))
            return i;
    snprintf(whole, sizeof(whole), "%.*s.%.*s",
             n_module < CV_PRINTABLE ? (int)n_module : CV_PRINTABLE, module,
             n_name < CV_PRINTABLE - 2 ? (int)n_name : CV_PRINTABLE - 2, name);
    return cv_fail(m->log, EILSEQ, "'%s' asks for the Python object '%s', "
                   "which weights do not need; refused, and nothing of it was "
                   "run: save the state dict alone, with torch.save("
                   "model.state_dict(), ...)", m->path,
                   cv_printable(text, whole));
}

static int is_int(const CvPickleValue *v)
{
    return v->kind == CV_PICKLE_INT;
}

static int is_int_tuple(const CvPickleValue *v)
{
    if (v->kind != CV_PICKLE_TUPLE || v->u.list.n > CV_MAX_DIMS)
        return 0;
    for (size_t i = 0; i < v->u.list.n; i++)
        if (!is_int(v->u.list.items[i]))
            return 0;
    return 1;
}

static int is_global(const CvPickleValue *v, Meaning meaning)
{
    return v->kind == CV_PICKLE_GLOBAL &&
           globals[v->u.integer].meaning == meaning;
}

/* The tensor that the arguments of a _rebuild_tensor describe. NULL: they do
 * not describe one. */
static CvPickleValue *rebuild(CvPickleMaker *m, Meaning meaning,
                              CvPickleValue *const *args, size_t n, int *err)
{
    const size_t least = meaning == TENSOR ? 4 : meaning == TENSOR_V2 ? 6 : 7;
    CvPickleValue *v;

    if (n < least || n > least + (meaning != TENSOR) ||
        args[0]->kind != CV_PICKLE_STORAGE || !is_int(args[1]) ||
        !is_int_tuple(args[2]) || !is_int_tuple(args[3]) ||
        args[2]->u.list.n != args[3]->u.list.n ||
        (meaning == TENSOR_V3 && !is_global(args[6], DTYPE)) ||
        args[0]->u.storage.untyped != (meaning == TENSOR_V3)) {
        *err = cv_pickle_refuse(m, "a tensor's description is not one");
        return NULL;
    }
    v = cv_pickle_new(m, CV_PICKLE_TENSOR, err);
    if (!v)
        return NULL;
    v->u.tensor.storage = args[0];
    v->u.tensor.offset  = args[1]->u.integer;
    v->u.tensor.size    = args[2];
    v->u.tensor.stride  = args[3];
    v->u.tensor.type    = meaning == TENSOR_V3 ?
                          globals[args[6]->u.integer].type :
                          args[0]->u.storage.type;
    return v;
}

CvPickleValue *cv_pickle_call(CvPickleMaker *m, const CvPickleValue *f,
                              const CvPickleValue *args, int only_class,
                              int *err)
{
    const char *why = "it calls a type";
    CvPickleValue *const *arg = args->u.list.items;
    size_t n = args->u.list.n;

    if (f->kind != CV_PICKLE_GLOBAL || args->kind != CV_PICKLE_TUPLE) {
        *err = cv_pickle_refuse(m, "it calls what is no function");
        return NULL;
    }
    if (only_class && !is_global(f, ORDERED_DICT)) {
        *err = cv_pickle_refuse(m, "it makes an object of a class");
        return NULL;
    }
    switch (globals[f->u.integer].meaning) {
    case ORDERED_DICT:
        if (!n)
            return cv_pickle_new(m, CV_PICKLE_ORDERED_DICT, err);
        why = "an OrderedDict is made of something";
        break;
    case TENSOR:
    case TENSOR_V2:
    case TENSOR_V3:
        return rebuild(m, globals[f->u.integer].meaning, arg, n, err);
    case PARAMETER:
        if (n == 3 && arg[0]->kind == CV_PICKLE_TENSOR)
            return arg[0];
        why = "a parameter is made of no tensor";
        break;
    case SIZE:
        if (n == 1 && arg[0]->kind == CV_PICKLE_TUPLE)
            return arg[0];
        why = "a size is made of no tuple";
        break;
    case OPAQUE:
        return cv_pickle_new(m, CV_PICKLE_OTHER, err);
    default:
        break;
    }
    *err = cv_pickle_refuse(m, why);
    return NULL;
}

static int is_storage_id(const CvPickleValue *id)
{
    CvPickleValue *const *item = id->u.list.items;

    return id->kind == CV_PICKLE_TUPLE && id->u.list.n == 5 &&
           item[0]->kind == CV_PICKLE_STRING &&
           is_text(item[0]->u.string.text, item[0]->u.string.length,
                   "storage") &&
           (is_global(item[1], STORAGE) || is_global(item[1], UNTYPED)) &&
           item[2]->kind == CV_PICKLE_STRING &&
           item[3]->kind == CV_PICKLE_STRING && is_int(item[4]);
}

CvPickleValue *cv_pickle_storage(CvPickleMaker *m, const CvPickleValue *id,
                                 int *err)
{
    CvPickleValue *v, *const *item = id->u.list.items;

    if (!is_storage_id(id)) {
        *err = cv_pickle_refuse(m, "a storage's description is not one");
        return NULL;
    }
    v = cv_pickle_new(m, CV_PICKLE_STORAGE, err);
    if (!v)
        return NULL;
    v->u.storage.key      = item[2];
    v->u.storage.elements = item[4]->u.integer;
    v->u.storage.type     = globals[item[1]->u.integer].type;
    v->u.storage.untyped  = is_global(item[1], UNTYPED);
    return v;
}
