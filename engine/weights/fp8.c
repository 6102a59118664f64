/*
 * Weights in fp8: their scales, and what files say about them.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * A weight is scale * number. Beside "X.weight" lies its scale, one number or
 * one for each row, as "X.scale_weight" (ComfyUI, with a marker "scaled_fp8")
 * or "X.weight_scale" (ComfyUI since, LightX2V). ComfyUI also says the format,
 * in a tensor "X.comfy_quant" that holds JSON, or in the metadata of the file.
 * No scale is 1. Whatever else is known to quantise weights is refused by name:
 * wrong numbers would run and draw noise. Source: checkpoints.md 2.8.
 */
#include <float.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "weights/json.h"
#include "weights/names.h"

#define ADVICE "use the fp8, bf16, fp16 or fp32 file of the model"

/* The largest number of fp8, of E5M2: no factor may take it out of float32. */
#define LARGEST 57344.0f

typedef struct CvQuantNote {
    struct CvQuantNote *next;
    const char *file;
    char text[];
} CvQuantNote;

int cv_quant_note(CvWeights *w, const CvFile *file, const char *text,
                  CvLog *log)
{
    size_t size = strlen(text) + 1;
    CvQuantNote *note = malloc(sizeof(*note) + size);

    if (!note)
        return cv_fail_memory(log, sizeof(*note) + size, "a file's metadata");
    note->next = w->notes;
    note->file = file->path;
    memcpy(note->text, text, size);
    w->notes = note;
    return 0;
}

void cv_quant_free(CvWeights *w)
{
    while (w->notes) {
        CvQuantNote *note = w->notes;

        w->notes = note->next;
        free(note);
    }
    for (int64_t i = 0; i < w->n_scales; i++) {
        if (w->scales[i].name != w->scales[i].stored)
            free((void *)w->scales[i].name);
        free((void *)w->scales[i].stored);
    }
    free(w->scales);
}

/* ---- formats ---- */

/* One object of ComfyUI's: {"format": "float8_e4m3fn"}. `where` and `name` are
 * for messages; e: the weight. */
static int check_format(const cJSON *json, CvEntry *e, const char *file,
                        const char *where, CvLog *log)
{
    const cJSON *format = cJSON_GetObjectItemCaseSensitive(json, "format");
    const char *name = cJSON_IsString(format) ? format->valuestring : "";
    char text[CV_PRINTABLE], shape[CV_SHAPE_TEXT];
    const cJSON *item;
    CvType type;

    if (!strcmp(name, "float8_e4m3fn"))
        type = CV_F8_E4M3;
    else if (!strcmp(name, "float8_e5m2"))
        type = CV_F8_E5M2;
    else
        return cv_fail(log, ENOSYS, "'%s': weights of the format '%s' ('%s') "
                       "are not supported; " ADVICE, file,
                       cv_printable(text, name), where);
    /* how a product is to be made, not what the numbers are */
    e->exact |= cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(
        json, "full_precision_matrix_mult"));
    cJSON_ArrayForEach(item, json)
        if (strcmp(item->string, "format") &&
            strcmp(item->string, "full_precision_matrix_mult"))
            return cv_fail(log, ENOSYS, "'%s': '%s' says \"%s\", which this "
                           "version does not know; " ADVICE, file, where,
                           cv_printable(text, item->string));
    if (e->tensor.type != type)
        return cv_fail(log, EILSEQ, "'%s': '%s' says that tensor '%s' is %s, "
                       "but it is %s; get the file again", file, where,
                       e->stored, cv_type_name(type),
                       cv_shape_text(shape, &e->tensor));
    return 0;
}

/* The weight of a module whose name is the first n bytes of `name`. */
static CvEntry *weight_of(CvWeights *w, const char *name, size_t n)
{
    return cv_weights_find(w, "%.*s.weight", (int)n, name);
}

/* A tensor "X.comfy_quant". */
static int check_quant(CvWeights *w, const CvEntry *e, size_t n, CvLog *log)
{
    CvEntry *weight = weight_of(w, e->name, n);
    const int64_t bytes = cv_tensor_bytes(&e->tensor);
    cJSON *json = NULL;
    char shape[CV_SHAPE_TEXT];
    int err;

    if (!weight)
        return cv_fail(log, EILSEQ, "'%s' says how '%.*s.weight' is quantised "
                       "('%s'), but has no such tensor; get the complete file",
                       e->file, (int)n, e->name, e->stored);
    if (e->view || e->tensor.type != CV_U8 || bytes < 2 || bytes > 65536)
        return cv_fail(log, EILSEQ, "'%s': tensor '%s' is %s; expected some "
                       "U8, a text of JSON", e->file, e->stored,
                       cv_shape_text(shape, &e->tensor));
    err = cv_json_parse(&json, e->tensor.data, (size_t)bytes, e->stored, log);
    if (!err)
        err = check_format(json, weight, e->file, e->stored, log);
    cJSON_Delete(json);
    return err;
}

/* {"format_version": "1.0", "layers": {"X": {"format": ...}, ...}} */
static int check_note(CvWeights *w, const CvQuantNote *note, CvLog *log)
{
    static const char where[] = "_quantization_metadata";
    const cJSON *layers, *layer;
    cJSON *json = NULL;
    char name[CV_NAME_SIZE];
    int err;

    err = cv_json_parse(&json, note->text, strlen(note->text), where, log);
    if (err < 0)
        return err;
    layers = cJSON_GetObjectItemCaseSensitive(json, "layers");
    if (!cJSON_IsObject(layers))
        err = cv_fail(log, ENOSYS, "'%s': its %s has no \"layers\", as this "
                      "version knows it; " ADVICE, note->file, where);
    else
        cJSON_ArrayForEach(layer, layers) {
            CvEntry *e;

            if (strlen(layer->string) >= sizeof(name))
                continue; /* names nothing */
            cv_names_unwrap(name, layer->string);
            /* of another network of the file */
            if (!(e = weight_of(w, name, strlen(name))))
                continue;
            if ((err = check_format(layer, e, note->file, e->stored, log)) < 0)
                break;
        }
    cJSON_Delete(json);
    return err;
}

/* ---- scales ---- */

/* The length of X where a name is X and one of these, else 0. */
static size_t stem(const char *name, const char *a, const char *b)
{
    if (cv_ends_with(name, a))
        return strlen(name) - strlen(a);
    return b && cv_ends_with(name, b) ? strlen(name) - strlen(b) : 0;
}

static size_t scale_stem(const char *name)
{
    return stem(name, ".scale_weight", ".weight_scale");
}

/* Companions of weights that are quantised in ways that are not read: nvfp4,
 * blocks of fp8, GPTQ and AWQ, bitsandbytes. */
static int is_unknown(const char *name)
{
    static const char *const ends[] = {
        ".weight_scale_2", ".weight_scale_inv", ".weight_zero_point",
        ".qweight", ".qzeros", ".scales", ".g_idx", ".absmax", ".quant_map",
        ".SCB", ".weight_format", ".quant_state",
    };

    for (size_t i = 0; i < sizeof(ends) / sizeof(*ends); i++)
        if (cv_ends_with(name, ends[i]))
            return 1;
    return strstr(name, ".quant_state.") != NULL;
}

/* Does the scale e fit the weight? */
static int check_scale(const CvEntry *weight, const CvEntry *e, CvLog *log)
{
    const CvTensor *t = &weight->tensor, *s = &e->tensor;
    char shape[CV_SHAPE_TEXT], scale[CV_SHAPE_TEXT];
    int64_t n = cv_elements(s);

    if (weight->scale)
        return cv_fail(log, EILSEQ, "'%s': tensor '%s' has two scales, '%s' "
                       "and '%s'; expected one", e->file, weight->stored,
                       weight->scale->stored, e->stored);
    if (!cv_type_is_fp8(t->type))
        return cv_fail(log, ENOSYS, "'%s': tensor '%s' is %s with a scale "
                       "('%s'); only F8_E4M3 and F8_E5M2 are read with scales; "
                       ADVICE, weight->file, weight->stored,
                       cv_shape_text(shape, t), e->stored);
    if (s->type != CV_F32 && s->type != CV_F16 && s->type != CV_BF16)
        return cv_fail(log, ENOSYS, "'%s': the scale '%s' is %s; expected "
                       "F32, F16 or BF16", e->file, e->stored,
                       cv_shape_text(scale, s));
    if (n != 1 && (!t->n_dims || !s->n_dims || n != t->dim[0] ||
                   s->dim[0] != n))
        return cv_fail(log, ENOSYS, "'%s': the scale '%s' is %s; expected one "
                       "number, or one for each row of '%s', which is %s",
                       e->file, e->stored, cv_shape_text(scale, s),
                       weight->stored, cv_shape_text(shape, t));
    return 0;
}

/* Copy the scales out of the directory and point their weights at them. */
static int attach(CvWeights *w, int64_t n, CvLog *log)
{
    int err;

    w->scales = calloc((size_t)n, sizeof(*w->scales));
    if (!w->scales)
        return cv_fail_memory(log, (uint64_t)n * sizeof(*w->scales),
                              "a list of scales");
    n = 0;
    for (int64_t i = 0; i < w->n_entries; i++) {
        const CvEntry *e = &w->entries[i];
        size_t length = scale_stem(e->name);
        CvEntry *weight;

        if (!length)
            continue;
        if (!(weight = weight_of(w, e->name, length)))
            return cv_fail(log, EILSEQ, "'%s' has the scale '%s', but not the "
                           "tensor '%.*s.weight'; get the complete file",
                           e->file, e->stored, (int)length, e->name);
        if ((err = check_scale(weight, e, log)) < 0)
            return err;
        w->scales[n]  = *e;
        weight->scale = &w->scales[n++];
    }
    /* The names now are theirs; before, they were needed for finding. */
    for (int64_t i = 0; i < w->n_entries; i++) {
        CvEntry *e = &w->entries[i];

        if (!scale_stem(e->name))
            continue;
        e->name = e->stored = NULL;
        cv_entry_drop(e);
    }
    w->n_scales = n;
    cv_entries_sweep(w);
    return 0;
}

int cv_scales_attach(CvWeights *w, CvLog *log)
{
    int64_t n = 0;
    int err;

    for (int64_t i = 0; i < w->n_entries; i++) {
        const CvEntry *e = &w->entries[i];
        size_t length = stem(e->name, ".comfy_quant", NULL);

        if (is_unknown(e->name))
            return cv_fail(log, ENOSYS, "'%s' holds weights that are quantised "
                           "in a way that is not supported ('%s'); " ADVICE,
                           e->file, e->stored);
        if (length && (err = check_quant(w, e, length, log)) < 0)
            return err;
        n += scale_stem(e->name) > 0;
    }
    for (const CvQuantNote *note = w->notes; note; note = note->next)
        if ((err = check_note(w, note, log)) < 0)
            return err;
    return n ? attach(w, n, log) : 0;
}

/* ---- numbers ---- */

static float float_of(uint32_t bits)
{
    float f;

    memcpy(&f, &bits, sizeof(f));
    return f;
}

/* Infinities and NaNs become infinite. */
static float from_half(uint32_t v)
{
    float f = (v & 0x7c00) == 0x7c00 ? float_of(0x7f800000u) :
              float_of((v & 0x7fff) << 13) * 0x1p112f;

    return v & 0x8000 ? -f : f;
}

static float from_e4m3(uint32_t v)
{
    float f = (v & 0x7f) == 0x7f ? float_of(0x7f800000u) :
              float_of((v & 0x7f) << 20) * 0x1p120f;

    return v & 0x80 ? -f : f;
}

static float from_16_bits(const uint8_t *p, CvType type)
{
    uint32_t v = (uint32_t)p[0] | (uint32_t)p[1] << 8;

    return type == CV_BF16 ? float_of(v << 16) : from_half(v);
}

/* The factors of n rows of e, `rows` [n] or from `first` on (then NULL). */
static int read_factors(CvLoader *l, float *factors, const CvEntry *e,
                        const int32_t *rows, int64_t first, int64_t n)
{
    const CvEntry *s = e->scale;
    const int64_t count = s ? cv_elements(&s->tensor) : 1;
    const float without = l->weights->random ? cv_random_factor(e) : 1;

    for (int64_t i = 0; i < n; i++) {
        float *f = &factors[i];
        uint8_t raw[4];

        *f = without;
        if (!s)
            continue;
        cv_entry_copy(raw, s, count == 1 ? 0 : rows ? rows[i] : first + i, 1);
        if (s->tensor.type == CV_F32)
            memcpy(f, raw, sizeof(*f));
        else
            *f = from_16_bits(raw, s->tensor.type);
        if (!(*f <= FLT_MAX / LARGEST && *f >= -FLT_MAX / LARGEST))
            return CAUSVID_ERR(EILSEQ);
    }
    return 0;
}

int cv_scale_load(CvLoader *l, const CvTensor *scale, const CvEntry *e,
                  const int32_t *rows)
{
    const int64_t n = scale->dim[0];
    float *factors;
    int err;

    if (!n)
        return 0;
    if (!(factors = malloc((size_t)n * sizeof(*factors))))
        return cv_fail_memory(l->log, (uint64_t)n * sizeof(*factors), e->name);
    err = read_factors(l, factors, e, rows, 0, n);
    if (!err)
        err = cv_upload_tagged(l->backend, scale, factors, CV_F32, e);
    free(factors);
    return err;
}

int cv_scale_upload(CvLoader *l, const CvTensor *t, const uint8_t *src,
                    const CvEntry *e, const int32_t *rows, int64_t first)
{
    const int64_t n = t->n_dims ? t->dim[0] : 1, row = cv_row_elements(t);
    float table[256], *factors, *to;
    int64_t floats;
    int err;

    if (cv_mul_size(n, row + 1, &floats) < 0 ||
        (uint64_t)floats > SIZE_MAX / sizeof(*factors) ||
        !(factors = malloc((size_t)floats * sizeof(*factors))))
        return cv_fail_memory(l->log, (uint64_t)floats * sizeof(*factors),
                              e->name);
    to = factors + n;
    for (uint32_t i = 0; i < 256; i++)
        table[i] = e->tensor.type == CV_F8_E4M3 ? from_e4m3(i)
                                                : from_half(i << 8);
    err = read_factors(l, factors, e, rows, first, n);
    for (int64_t i = 0; i < n && !err; i++)
        for (int64_t k = 0; k < row; k++)
            *to++ = factors[i] * table[*src++];
    if (!err)
        err = cv_upload_tagged(l->backend, t, factors + n, CV_F32, e);
    free(factors);
    return err;
}
