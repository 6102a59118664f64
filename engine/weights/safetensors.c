/*
 * The safetensors container.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * 8 bytes: length N of the header, little endian; N bytes of JSON, possibly
 * padded with spaces: {"name": {"dtype": "F32", "shape": [2, 3],
 * "data_offsets": [0, 24]}, ...}, offsets counting from the end of the header;
 * then the data. As in the reference reader, the data must be covered without
 * gaps and without overlaps, so that a file is read in one way only.
 * Source: checkpoints.md 1.8; huggingface/safetensors:
 * safetensors/src/tensor.rs (Metadata::validate).
 */
#include <string.h>

#include "weights/json.h"
#include "weights/reader.h"

#define MAX_HEADER 100000000 /* of the reference reader */

#define AGAIN "get the file again"

static uint64_t header_length(const CvFile *file)
{
    uint64_t n = 0;

    for (int i = 7; i >= 0; i--)
        n = n << 8 | file->data[i];
    return n;
}

static int detect(const CvFile *file)
{
    return file->size > 8 && file->data[8] == '{' &&
           header_length(file) <= MAX_HEADER;
}

static int parse_type(CvType *type, const cJSON *item)
{
    if (!cJSON_IsString(item))
        return -1;
    for (int i = 0; i <= CV_BOOL; i++) { /* not the blocks of GGUF */
        if (!strcmp(item->valuestring, cv_type_name((CvType)i))) {
            *type = (CvType)i;
            return 0;
        }
    }
    return -1;
}

/* A list of `*n` or fewer sizes; 0, or -1 when it is not one. */
static int parse_sizes(const cJSON *list, int64_t *sizes, int *n)
{
    const cJSON *item;
    int room = *n;

    if (!cJSON_IsArray(list))
        return -1;
    *n = 0;
    cJSON_ArrayForEach(item, list)
        if (*n == room || !cv_json_size(item, &sizes[(*n)++]))
            return -1;
    return 0;
}

/* Add the tensor that a member of the header describes. */
static int add_tensor(CvWeights *w, const CvFile *file, const cJSON *item,
                      const uint8_t *data, uint64_t data_size, CvLog *log)
{
    const cJSON *dtype = cJSON_GetObjectItemCaseSensitive(item, "dtype");
    const cJSON *shape = cJSON_GetObjectItemCaseSensitive(item, "shape");
    const cJSON *range = cJSON_GetObjectItemCaseSensitive(item,
                                                          "data_offsets");
    CvTensor t = { .n_dims = CV_MAX_DIMS };
    char name[CV_PRINTABLE], text[CV_SHAPE_TEXT], type[CV_PRINTABLE];
    int64_t offset[2], bytes;
    int n = 2;

    cv_printable(name, item->string);
    if (!cJSON_IsObject(item) || !dtype || !shape || !range)
        return cv_fail(log, EILSEQ, "'%s' is damaged: tensor '%s' lacks a "
                       "dtype, a shape or data_offsets; " AGAIN, file->path,
                       name);
    if (parse_type(&t.type, dtype) < 0)
        return cv_fail(log, EILSEQ, "'%s': tensor '%s' has the unknown dtype "
                       "'%s'; expected F64, F32, F16, BF16, F8_E4M3, F8_E5M2, "
                       "an integer type or BOOL", file->path, name,
                       cJSON_IsString(dtype) ?
                       cv_printable(type, dtype->valuestring) : "?");
    if (parse_sizes(shape, t.dim, &t.n_dims) < 0)
        return cv_fail(log, EILSEQ, "'%s' is damaged: the shape of tensor "
                       "'%s' is not a list of at most %d sizes; " AGAIN,
                       file->path, name, CV_MAX_DIMS);
    if (parse_sizes(range, offset, &n) < 0 || n != 2)
        return cv_fail(log, EILSEQ, "'%s' is damaged: the data_offsets of "
                       "tensor '%s' are not two positions; " AGAIN,
                       file->path, name);
    bytes = cv_tensor_bytes(&t);
    if (bytes < 0)
        return cv_fail(log, EILSEQ, "'%s' is damaged: tensor '%s' of %s is "
                       "larger than any memory; " AGAIN, file->path, name,
                       cv_shape_text(text, &t));
    if (offset[0] > offset[1] || offset[1] - offset[0] != bytes)
        return cv_fail(log, EILSEQ, "'%s' is damaged: tensor '%s' of %s takes "
                       "%lld bytes, but its data_offsets are %lld and %lld; "
                       AGAIN, file->path, name, cv_shape_text(text, &t),
                       (long long)bytes, (long long)offset[0],
                       (long long)offset[1]);
    if ((uint64_t)offset[1] > data_size)
        return cv_fail(log, EILSEQ, "'%s' is cut off: tensor '%s' ends at "
                       "byte %lld of the data, of which there are %llu; "
                       AGAIN, file->path, name, (long long)offset[1],
                       (unsigned long long)data_size);
    t.data = (void *)(data + offset[0]);
    return cv_weights_add(w, file, item->string, &t, log);
}

/* __metadata__: strings. One says how tensors are quantised (checkpoints.md
 * 2.8); of the rest, what Stability's ModelSpec has for a name. */
static int read_metadata(CvWeights *w, const CvFile *file, const cJSON *item,
                         CvLog *log)
{
    static const char *const titles[] = {
        "modelspec.title", "modelspec.architecture",
    };
    const cJSON *note;

    if (!cJSON_IsObject(item))
        return cv_fail(log, EILSEQ, "'%s' is damaged: its __metadata__ is no "
                       "object; " AGAIN, file->path);
    for (int i = 0; i < 2; i++) {
        note = cJSON_GetObjectItemCaseSensitive(item, titles[i]);
        if (cJSON_IsString(note))
            cv_weights_add_title(w, titles[i], note->valuestring);
    }
    note = cJSON_GetObjectItemCaseSensitive(item, "_quantization_metadata");
    if (!note)
        return 0;
    if (!cJSON_IsString(note))
        return cv_fail(log, EILSEQ, "'%s' is damaged: its "
                       "_quantization_metadata is no text; " AGAIN,
                       file->path);
    return cv_quant_note(w, file, note->valuestring, log);
}

static int read_header(CvWeights *w, const CvFile *file, CvLog *log)
{
    int64_t first = w->n_entries;
    const uint8_t *data;
    cJSON *json = NULL;
    const cJSON *item;
    uint64_t n;
    int err;

    if (file->size < 8)
        return cv_fail(log, EILSEQ, "'%s' is cut off: it has %zu bytes, "
                       "expected a safetensors header; " AGAIN, file->path,
                       file->size);
    n = header_length(file);
    if (n > MAX_HEADER)
        return cv_fail(log, EILSEQ, "'%s' is no safetensors file, or damaged: "
                       "its header would have %llu bytes, expected at most "
                       "%d; " AGAIN, file->path, (unsigned long long)n,
                       MAX_HEADER);
    if (n > file->size - 8)
        return cv_fail(log, EILSEQ, "'%s' is cut off: its header has %llu "
                       "bytes, the whole file %zu; " AGAIN, file->path,
                       (unsigned long long)n, file->size);
    data = file->data + 8 + n;
    if (!n || file->data[8] != '{')
        return cv_fail(log, EILSEQ, "'%s' is damaged: its header does not "
                       "begin with '{'; " AGAIN, file->path);
    err = cv_json_parse(&json, (const char *)file->data + 8, (size_t)n,
                        file->path, log);
    if (err < 0)
        return err;
    cJSON_ArrayForEach(item, json) {
        if (strcmp(item->string, "__metadata__"))
            err = add_tensor(w, file, item, data,
                             (uint64_t)file->size - 8 - n, log);
        else
            err = read_metadata(w, file, item, log);
        if (err < 0)
            goto end;
    }
    err = cv_weights_check_places(w, first, file, data, 0, log);
end:
    cJSON_Delete(json);
    return err;
}

const CvReader cv_reader_safetensors = {
    .format = "safetensors",
    .detect = detect,
    .read   = read_header,
};
