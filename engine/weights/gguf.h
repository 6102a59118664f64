/*
 * The metadata of a GGUF file.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#ifndef CV_GGUF_H
#define CV_GGUF_H

#include "weights/weights.h"

/* The types of values, as files number them. */
typedef enum CvGgufType {
    CV_GGUF_U8, CV_GGUF_I8, CV_GGUF_U16, CV_GGUF_I16, CV_GGUF_U32, CV_GGUF_I32,
    CV_GGUF_F32, CV_GGUF_BOOL, CV_GGUF_STRING, CV_GGUF_ARRAY, CV_GGUF_U64,
    CV_GGUF_I64, CV_GGUF_F64, CV_GGUF_TYPE_COUNT
} CvGgufType;

/* One value: n elements of a type, little endian, in the file. A string is an
 * array of bytes without a NUL; elements of an array of strings are 8 bytes of
 * length and that many bytes each (cv_gguf_string()). Arrays of arrays are
 * checked, but not taken apart. */
typedef struct CvGgufValue {
    const char *key;     /* without a NUL */
    size_t key_length;
    CvGgufType type;     /* of the elements */
    int is_array;
    uint64_t n;
    const uint8_t *data;
    size_t bytes;
} CvGgufValue;

/* NULL: no such key, or no GGUF file. Valid while the weights are open. */
const CvGgufValue *cv_gguf_find(const CvWeights *weights, const char *key);

/* The string at *at (the value's data at first), which moves behind it. */
const char *cv_gguf_string(const uint8_t **at, size_t *length);

/* For reader.h: what w->gguf points to. */
typedef struct CvGguf {
    CvGgufValue *values; /* sorted by key */
    int64_t n_values;
} CvGguf;
void cv_gguf_free(CvGguf **gguf);

#endif /* CV_GGUF_H */
