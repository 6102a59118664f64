/*
 * The GGUF container, versions 2 and 3.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * "GGUF", version, number of tensors, number of metadata; the metadata, each a
 * key, a type and a value; the tensors' names, dimensions (fastest first),
 * types and offsets; then, at the next multiple of general.alignment, the data.
 * Integers are little endian, lengths and counts have 64 bits.
 * Some converters store a tensor in another shape, whose rows are whole
 * blocks, and its own in "comfy.gguf.orig_shape.<name>".
 * Sources: checkpoints.md 1.7; ggml-org/ggml docs/gguf.md; city96/ComfyUI-GGUF
 * loader.py.
 */
#include <stdlib.h>
#include <string.h>

#include "weights/bytes.h"
#include "weights/gguf.h"
#include "weights/json.h"
#include "weights/reader.h"

#define MAX_TENSORS   (1 << 20)
#define MAX_METADATA  (1 << 16)
#define MAX_NESTING   4
#define MAX_ALIGNMENT (1 << 20)
#define AGAIN "get the file again"

/* Where reading has got to. */
typedef struct Cursor {
    CvWeights *weights;
    const CvFile *file;
    CvLog *log;
    size_t at;
} Cursor;

static int detect(const CvFile *file)
{
    return file->size >= 4 && !memcmp(file->data, "GGUF", 4);
}

static int cut_off(const Cursor *c)
{
    return cv_fail(c->log, EILSEQ, "'%s' is cut off or damaged: a value at "
                   "byte %zu reaches beyond its end; " AGAIN, c->file->path,
                   c->at);
}

/* The next n bytes. NULL: there are fewer, and a line says so. */
static const uint8_t *take(Cursor *c, uint64_t n)
{
    const uint8_t *p = c->file->data + c->at;

    if (n > c->file->size - c->at) {
        cut_off(c);
        return NULL;
    }
    c->at += (size_t)n;
    return p;
}

static int take_u32(Cursor *c, uint32_t *value)
{
    const uint8_t *p = take(c, 4);

    *value = p ? cv_le32(p) : 0;
    return p ? 0 : CAUSVID_ERR(EILSEQ);
}

static int take_u64(Cursor *c, uint64_t *value)
{
    const uint8_t *p = take(c, 8);

    *value = p ? cv_le64(p) : 0;
    return p ? 0 : CAUSVID_ERR(EILSEQ);
}

static int take_string(Cursor *c, const char **text, size_t *length)
{
    uint64_t n;
    int err = take_u64(c, &n);

    *text   = err < 0 ? NULL : (const char *)take(c, n);
    *length = *text ? (size_t)n : 0;
    return *text ? 0 : CAUSVID_ERR(EILSEQ);
}

/* A string of the file for a message: cut and printable. */
static const char *shown(char text[CV_PRINTABLE], const char *s, size_t n)
{
    char copy[CV_PRINTABLE + 8];

    n = n < sizeof(copy) - 1 ? n : sizeof(copy) - 1;
    memcpy(copy, s, n);
    copy[n] = 0;
    return cv_printable(text, copy);
}

/* ---- metadata ---- */

/* Bytes of a value; 0: it has no fixed size. */
static size_t value_bytes(uint32_t type)
{
    static const uint8_t bytes[CV_GGUF_TYPE_COUNT] = {
        [CV_GGUF_U8] = 1,  [CV_GGUF_I8] = 1,  [CV_GGUF_U16] = 2,
        [CV_GGUF_I16] = 2, [CV_GGUF_U32] = 4, [CV_GGUF_I32] = 4,
        [CV_GGUF_F32] = 4, [CV_GGUF_BOOL] = 1, [CV_GGUF_U64] = 8,
        [CV_GGUF_I64] = 8, [CV_GGUF_F64] = 8,
    };

    return bytes[type];
}

static int bad_type(const Cursor *c, uint32_t type)
{
    return cv_fail(c->log, EILSEQ, "'%s' is damaged: its metadata before byte "
                   "%zu has a value of the unknown type %u; " AGAIN,
                   c->file->path, c->at, type);
}

static int skip_values(Cursor *c, uint32_t type, uint64_t n, int depth);

/* Type and length of an array, whose elements follow. */
static int take_array(Cursor *c, uint32_t *type, uint64_t *n, int depth)
{
    int err;

    *type = 0;
    *n    = 0;
    if (depth == MAX_NESTING)
        return cv_fail(c->log, EILSEQ, "'%s': its metadata is nested too "
                       "deep; " AGAIN, c->file->path);
    if ((err = take_u32(c, type)) < 0 || (err = take_u64(c, n)) < 0)
        return err;
    return *type < CV_GGUF_TYPE_COUNT ? 0 : bad_type(c, *type);
}

/* n values of a type; the loops end with the file, of which each element takes
 * some bytes. */
static int skip_values(Cursor *c, uint32_t type, uint64_t n, int depth)
{
    const uint64_t left = c->file->size - c->at;
    const size_t bytes = value_bytes(type);
    int err = 0;

    if (bytes && n > left / bytes)
        return cut_off(c);
    if (bytes) {
        c->at += (size_t)n * bytes;
        return 0;
    }
    for (uint64_t i = 0; i < n && !err; i++) {
        const char *text;
        size_t length;
        uint32_t element;
        uint64_t m;

        if (type == CV_GGUF_STRING)
            err = take_string(c, &text, &length);
        else if (!(err = take_array(c, &element, &m, depth)))
            err = skip_values(c, element, m, depth + 1);
    }
    return err;
}

static int read_value(Cursor *c, CvGgufValue *v)
{
    uint32_t type;
    const char *text;
    int err;

    if ((err = take_string(c, &v->key, &v->key_length)) < 0 ||
        (err = take_u32(c, &type)) < 0)
        return err;
    if (type >= CV_GGUF_TYPE_COUNT)
        return bad_type(c, type);
    v->n = 1;
    if (type == CV_GGUF_STRING) {
        if ((err = take_string(c, &text, &v->bytes)) < 0)
            return err;
        *v = (CvGgufValue){ v->key, v->key_length, CV_GGUF_STRING, 0,
                            v->bytes, (const uint8_t *)text, v->bytes };
        return 0;
    }
    if (type == CV_GGUF_ARRAY) {
        v->is_array = 1;
        if ((err = take_array(c, &type, &v->n, 0)) < 0)
            return err;
    }
    v->type = (CvGgufType)type;
    v->data = c->file->data + c->at;
    err = skip_values(c, type, v->n, 1);
    v->bytes = (size_t)(c->file->data + c->at - v->data);
    return err;
}

static int compare_keys(const void *a, const void *b)
{
    const CvGgufValue *x = a, *y = b;
    size_t n = x->key_length < y->key_length ? x->key_length : y->key_length;
    int order = memcmp(x->key, y->key, n);

    return order ? order : (x->key_length > y->key_length) -
                           (x->key_length < y->key_length);
}

static int read_metadata(Cursor *c, CvGguf *g, uint64_t n)
{
    char text[CV_PRINTABLE];
    int err = 0;

    /* each takes 13 bytes at least */
    if (n > MAX_METADATA || n > (c->file->size - c->at) / 13)
        return cv_fail(c->log, EILSEQ, "'%s' is damaged: it has %llu metadata, "
                       "more than it has room for; " AGAIN, c->file->path,
                       (unsigned long long)n);
    g->values = calloc(n ? (size_t)n : 1, sizeof(*g->values));
    if (!g->values)
        return cv_fail_memory(c->log, n * sizeof(*g->values), "metadata");
    for (uint64_t i = 0; i < n && !err; i++)
        err = read_value(c, &g->values[i]);
    if (err < 0)
        return err;
    g->n_values = (int64_t)n;
    qsort(g->values, (size_t)n, sizeof(*g->values), compare_keys);
    for (uint64_t i = 1; i < n; i++)
        if (!compare_keys(&g->values[i - 1], &g->values[i]))
            return cv_fail(c->log, EILSEQ, "'%s' is damaged: its metadata has "
                           "'%s' twice; " AGAIN, c->file->path,
                           shown(text, g->values[i].key,
                                 g->values[i].key_length));
    return 0;
}

static const CvGgufValue *find_key(const CvGguf *g, const char *key, size_t n)
{
    CvGgufValue wanted = { .key = key, .key_length = n };

    return !g || !g->n_values ? NULL :
           bsearch(&wanted, g->values, (size_t)g->n_values,
                   sizeof(*g->values), compare_keys);
}

/* An unsigned integer of any width; `otherwise` when it is not there. */
static uint64_t find_number(const CvGguf *g, const char *key,
                            uint64_t otherwise)
{
    const CvGgufValue *v = find_key(g, key, strlen(key));
    uint64_t value = 0;

    if (!v || v->is_array || v->bytes > 8 || v->type == CV_GGUF_STRING ||
        v->type == CV_GGUF_F32 || v->type == CV_GGUF_F64)
        return otherwise;
    for (size_t i = 0; i < v->bytes; i++)
        value |= (uint64_t)v->data[i] << 8 * i;
    return value;
}

const CvGgufValue *cv_gguf_find(const CvWeights *w, const char *key)
{
    return find_key(w->gguf, key, strlen(key));
}

const char *cv_gguf_string(const uint8_t **at, size_t *length)
{
    const uint8_t *text = *at + 8;

    *length = (size_t)cv_le64(*at);
    *at     = text + *length;
    return (const char *)text;
}

void cv_gguf_free(CvGguf **gguf)
{
    if (!*gguf)
        return;
    free((*gguf)->values);
    free(*gguf);
    *gguf = NULL;
}

/* ---- tensors ---- */

/* What the numbers of types stand for; the name of one that is not read is
 * told to the user. */
static const struct {
    const char *name;
    int known;
    CvType type;
} types[] = {
    [0]  = { "F32", 1, CV_F32 },      [1]  = { "F16", 1, CV_F16 },
    [2]  = { "Q4_0", 1, CV_Q4_0 },    [3]  = { "Q4_1", 1, CV_Q4_1 },
    [6]  = { "Q5_0", 1, CV_Q5_0 },    [7]  = { "Q5_1", 1, CV_Q5_1 },
    [8]  = { "Q8_0", 1, CV_Q8_0 },    [9]  = { "Q8_1", 0, 0 },
    [10] = { "Q2_K", 1, CV_Q2_K },    [11] = { "Q3_K", 1, CV_Q3_K },
    [12] = { "Q4_K", 1, CV_Q4_K },    [13] = { "Q5_K", 1, CV_Q5_K },
    [14] = { "Q6_K", 1, CV_Q6_K },    [15] = { "Q8_K", 0, 0 },
    [16] = { "IQ2_XXS", 0, 0 },       [17] = { "IQ2_XS", 0, 0 },
    [18] = { "IQ3_XXS", 0, 0 },       [19] = { "IQ1_S", 0, 0 },
    [20] = { "IQ4_NL", 0, 0 },        [21] = { "IQ3_S", 0, 0 },
    [22] = { "IQ2_S", 0, 0 },         [23] = { "IQ4_XS", 0, 0 },
    [24] = { "I8", 1, CV_I8 },        [25] = { "I16", 1, CV_I16 },
    [26] = { "I32", 1, CV_I32 },      [27] = { "I64", 1, CV_I64 },
    [28] = { "F64", 1, CV_F64 },      [29] = { "IQ1_M", 0, 0 },
    [30] = { "BF16", 1, CV_BF16 },    [34] = { "TQ1_0", 0, 0 },
    [35] = { "TQ2_0", 0, 0 },         [39] = { "MXFP4", 0, 0 },
};

typedef struct Info {
    char name[CV_NAME_SIZE];
    CvTensor tensor;
    uint64_t offset;
} Info;

static int wrong_tensor(const Cursor *c, const Info *info, const char *why)
{
    char text[CV_PRINTABLE], shape[CV_SHAPE_TEXT];

    return cv_fail(c->log, EILSEQ, "'%s' is damaged: tensor '%s' %s %s; "
                   AGAIN, c->file->path, cv_printable(text, info->name),
                   cv_shape_text(shape, &info->tensor), why);
}

/* The shape that a converter has put aside, of as many elements. */
static int restore_shape(Cursor *c, Info *info)
{
    static const char start[] = "comfy.gguf.orig_shape.";
    char key[sizeof(start) + CV_NAME_SIZE];
    const CvGgufValue *v;
    CvTensor t = info->tensor;
    size_t n = sizeof(start) - 1;

    memcpy(key, start, n);
    memcpy(key + n, info->name, strlen(info->name));
    n += strlen(info->name);
    v = find_key(c->weights->gguf, key, n);
    if (!v)
        return 0;
    if (!v->is_array || v->n > CV_MAX_DIMS ||
        (v->type != CV_GGUF_I32 && v->type != CV_GGUF_U32))
        return wrong_tensor(c, info, "has an orig_shape that is not one");
    t.n_dims = (int)v->n;
    for (int i = 0; i < t.n_dims; i++)
        t.dim[i] = (int32_t)cv_le32(v->data + 4 * i);
    if (cv_elements(&t) != cv_elements(&info->tensor))
        return wrong_tensor(c, info, "has an orig_shape of another size");
    info->tensor = t;
    return 0;
}

static int read_type(Cursor *c, Info *info)
{
    uint32_t type;
    int err = take_u32(c, &type);
    const char *name;

    if (err < 0)
        return err;
    name = type < sizeof(types) / sizeof(*types) ? types[type].name : NULL;
    if (!name)
        return cv_fail(c->log, ENOSYS, "'%s': tensor '%s' has the type number "
                       "%u, which this version does not know; get another "
                       "file of this model, such as Q8_0 or Q4_K",
                       c->file->path, info->name, type);
    if (!types[type].known)
        return cv_fail(c->log, ENOSYS, "'%s': tensor '%s' has the type %s, "
                       "which is not supported; get another file of this "
                       "model, such as Q8_0 or Q4_K", c->file->path,
                       info->name, name);
    info->tensor.type = types[type].type;
    return 0;
}

static int read_info(Cursor *c, Info *info)
{
    char text[CV_PRINTABLE];
    CvTensor *t = &info->tensor;
    const char *name;
    uint32_t n_dims = 0;
    size_t length;
    int err;

    if ((err = take_string(c, &name, &length)) < 0 ||
        (err = take_u32(c, &n_dims)) < 0)
        return err;
    if (!length || length >= CV_NAME_SIZE || memchr(name, 0, length))
        return cv_fail(c->log, EILSEQ, "'%s' is damaged: a tensor's name has "
                       "%zu bytes or a NUL ('%s'); " AGAIN, c->file->path,
                       length, shown(text, name, length));
    for (size_t i = 0; i < length; i++) /* messages hold it from now on */
        if ((unsigned char)name[i] < 0x20 || name[i] == 0x7f)
            return cv_fail(c->log, EILSEQ, "'%s' is damaged: the name of "
                           "tensor '%s' holds control characters; " AGAIN,
                           c->file->path, shown(text, name, length));
    memcpy(info->name, name, length);
    info->name[length] = 0;
    if (n_dims > CV_MAX_DIMS)
        return cv_fail(c->log, EILSEQ, "'%s' is damaged: tensor '%s' has %u "
                       "dimensions, expected at most %d; " AGAIN,
                       c->file->path, cv_printable(text, info->name), n_dims,
                       CV_MAX_DIMS);
    t->n_dims = (int)n_dims;
    for (int i = t->n_dims - 1; i >= 0; i--) {
        uint64_t size;

        if ((err = take_u64(c, &size)) < 0)
            return err;
        /* beyond int64_t: -1, which is refused with the product */
        t->dim[i] = size > INT64_MAX ? -1 : (int64_t)size;
    }
    if ((err = read_type(c, info)) < 0 ||
        (err = take_u64(c, &info->offset)) < 0)
        return err;
    if (cv_elements(t) < 0)
        return wrong_tensor(c, info, "is larger than any memory");
    if ((t->n_dims ? t->dim[t->n_dims - 1] : 1) % cv_type_block(t->type))
        return wrong_tensor(c, info, "has rows that are not whole blocks");
    if (cv_tensor_bytes(t) < 0)
        return wrong_tensor(c, info, "is larger than any memory");
    return restore_shape(c, info);
}

/* Give the entries from `first` on their places. */
static int place_tensors(Cursor *c, const uint64_t *offsets, int64_t first,
                         uint64_t alignment)
{
    CvWeights *w = c->weights;
    uint64_t begin = (c->at + alignment - 1) / alignment * alignment, size;
    char text[CV_PRINTABLE];

    if (begin > c->file->size) /* without data there is no padding */
        begin = c->file->size;
    size = c->file->size - begin;
    for (int64_t i = first; i < w->n_entries; i++) {
        CvTensor *t = &w->entries[i].tensor;
        uint64_t bytes = (uint64_t)cv_tensor_bytes(t);
        uint64_t offset = offsets[i - first];

        if (offset % alignment || offset > size || bytes > size - offset)
            return cv_fail(c->log, EILSEQ, "'%s' is cut off or damaged: "
                           "tensor '%s' of %llu bytes at %llu is not within "
                           "its %llu bytes of data, or not aligned to %llu; "
                           AGAIN, c->file->path,
                           cv_printable(text, w->entries[i].name),
                           (unsigned long long)bytes,
                           (unsigned long long)offset,
                           (unsigned long long)size,
                           (unsigned long long)alignment);
        t->data = (void *)(c->file->data + begin + offset);
    }
    return cv_weights_check_places(w, first, c->file, c->file->data + begin,
                                   INT64_MAX, c->log);
}

static int read_tensors(Cursor *c, uint64_t n)
{
    const CvGguf *g = c->weights->gguf;
    uint64_t alignment = find_number(g, "general.alignment", 32);
    int64_t first = c->weights->n_entries;
    uint64_t *offsets;
    int err = 0;

    if (!alignment || alignment > MAX_ALIGNMENT ||
        (alignment & (alignment - 1)))
        return cv_fail(c->log, EILSEQ, "'%s' is damaged: its data is aligned "
                       "to %llu bytes; expected a power of two; " AGAIN,
                       c->file->path, (unsigned long long)alignment);
    if (find_number(g, "split.count", 1) > 1)
        return cv_fail(c->log, ENOSYS, "'%s' is one of %llu files of a model; "
                       "merge them first: gguf-split --merge", c->file->path,
                       (unsigned long long)find_number(g, "split.count", 1));
    /* each takes 24 bytes at least */
    if (n > MAX_TENSORS || n > (c->file->size - c->at) / 24)
        return cv_fail(c->log, EILSEQ, "'%s' is damaged: it has %llu tensors, "
                       "more than it has room for; " AGAIN, c->file->path,
                       (unsigned long long)n);
    offsets = malloc(n ? (size_t)n * sizeof(*offsets) : 1);
    if (!offsets)
        return cv_fail_memory(c->log, n * sizeof(*offsets),
                              "a list of tensors");
    for (uint64_t i = 0; i < n && !err; i++) {
        Info info = { .offset = 0 };

        if ((err = read_info(c, &info)) < 0)
            break;
        offsets[i] = info.offset;
        info.tensor.data = (void *)c->file->data; /* until they have a place */
        err = cv_weights_add(c->weights, c->file, info.name, &info.tensor,
                             c->log);
    }
    if (!err)
        err = place_tensors(c, offsets, first, alignment);
    free(offsets);
    return err;
}

static int read_gguf(CvWeights *w, const CvFile *file, CvLog *log)
{
    Cursor c = { w, file, log, 4 };
    const CvGgufValue *name;
    uint32_t version;
    uint64_t n_tensors, n_metadata = 0;
    char text[CV_PRINTABLE];
    int err;

    if ((err = take_u32(&c, &version)) < 0)
        return err;
    if (version != 2 && version != 3)
        return cv_fail(log, ENOSYS, "'%s' is GGUF of version %u%s; expected 2 "
                       "or 3: get a newer file of this model", file->path,
                       version, version >> 16 ? " (it may be big-endian)" :
                       "");
    if (w->gguf)
        return cv_fail(log, EILSEQ, "'%s' is a second GGUF file of one model; "
                       "expected one", file->path);
    if ((err = take_u64(&c, &n_tensors)) < 0 ||
        (err = take_u64(&c, &n_metadata)) < 0)
        return err;
    w->gguf = calloc(1, sizeof(*w->gguf));
    if (!w->gguf)
        return cv_fail_memory(log, sizeof(*w->gguf), "metadata");
    if ((err = read_metadata(&c, w->gguf, n_metadata)) < 0 ||
        (err = read_tensors(&c, n_tensors)) < 0)
        return err;
    name = cv_gguf_find(w, "general.architecture");
    if (name && name->type == CV_GGUF_STRING && !name->is_array)
        cv_log(log, CAUSVID_LOG_VERBOSE, "'%s': GGUF of the architecture "
               "'%s', %llu tensors", file->path,
               shown(text, (const char *)name->data, name->bytes),
               (unsigned long long)n_tensors);
    name = cv_gguf_find(w, "general.name");
    if (name && name->type == CV_GGUF_STRING && !name->is_array)
        cv_weights_add_title(w, "general.name",
                             shown(text, (const char *)name->data,
                                   name->bytes));
    return 0;
}

const CvReader cv_reader_gguf = {
    .format = "gguf",
    .detect = detect,
    .read   = read_gguf,
};
