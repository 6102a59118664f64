/*
 * Tensor descriptions and their sizes.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "tensor.h"

static const struct {
    const char *name;
    size_t bytes;
} types[CV_TYPE_COUNT] = {
    [CV_F32]     = { "F32", 4 },     [CV_F64]     = { "F64", 8 },
    [CV_F16]     = { "F16", 2 },     [CV_BF16]    = { "BF16", 2 },
    [CV_F8_E4M3] = { "F8_E4M3", 1 }, [CV_F8_E5M2] = { "F8_E5M2", 1 },
    [CV_I64]     = { "I64", 8 },     [CV_I32]     = { "I32", 4 },
    [CV_I16]     = { "I16", 2 },     [CV_I8]      = { "I8", 1 },
    [CV_U8]      = { "U8", 1 },      [CV_BOOL]    = { "BOOL", 1 },
};

size_t cv_type_bytes(CvType type)
{
    return types[type].bytes;
}

const char *cv_type_name(CvType type)
{
    return types[type].name;
}

int cv_mul_size(int64_t a, int64_t b, int64_t *product)
{
    if (a < 0 || b < 0)
        return -1;
    return __builtin_mul_overflow(a, b, product) ? -1 : 0;
}

int64_t cv_elements(const CvTensor *t)
{
    int64_t n = 1;

    for (int i = 0; i < t->n_dims; i++)
        if (cv_mul_size(n, t->dim[i], &n) < 0)
            return -1;
    return n;
}

int64_t cv_tensor_bytes(const CvTensor *t)
{
    int64_t n = cv_elements(t);

    if (n < 0 || cv_mul_size(n, (int64_t)cv_type_bytes(t->type), &n) < 0)
        return -1;
    return n;
}

int64_t cv_row_elements(const CvTensor *t)
{
    int64_t n = 1;

    for (int i = 1; i < t->n_dims; i++)
        if (cv_mul_size(n, t->dim[i], &n) < 0)
            return -1;
    return n;
}

CvTensor cv_tensor(void *data, CvType type, int n_dims, ...)
{
    CvTensor t = { .data = data, .type = type, .n_dims = n_dims };
    va_list args;

    va_start(args, n_dims);
    for (int i = 0; i < n_dims && i < CV_MAX_DIMS; i++)
        t.dim[i] = va_arg(args, int64_t);
    va_end(args);
    return t;
}

CvTensor cv_rows(const CvTensor *t, int64_t first, int64_t n)
{
    CvTensor rows = *t;
    size_t row = (size_t)cv_row_elements(t) * cv_type_bytes(t->type);

    rows.data   = (uint8_t *)t->data + (size_t)first * row;
    rows.dim[0] = n;
    return rows;
}

int cv_same_shape(const CvTensor *a, const CvTensor *b)
{
    if (a->type != b->type || a->n_dims != b->n_dims)
        return 0;
    for (int i = 0; i < a->n_dims; i++)
        if (a->dim[i] != b->dim[i])
            return 0;
    return 1;
}

const char *cv_shape_text(char text[CV_SHAPE_TEXT], const CvTensor *t)
{
    int used = snprintf(text, CV_SHAPE_TEXT, "%s [", cv_type_name(t->type));

    /* 8 dimensions of at most 19 digits can pass the buffer: cut, not spill */
    for (int i = 0; i < t->n_dims && used < CV_SHAPE_TEXT; i++)
        used += snprintf(text + used, (size_t)(CV_SHAPE_TEXT - used),
                         "%s%lld", i ? ", " : "", (long long)t->dim[i]);
    if (used < CV_SHAPE_TEXT)
        snprintf(text + used, (size_t)(CV_SHAPE_TEXT - used), "]");
    return text;
}
