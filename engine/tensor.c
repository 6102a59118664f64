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
    int block;
} types[CV_TYPE_COUNT] = {
    [CV_F32]     = { "F32", 4, 1 },     [CV_F64]     = { "F64", 8, 1 },
    [CV_F16]     = { "F16", 2, 1 },     [CV_BF16]    = { "BF16", 2, 1 },
    [CV_F8_E4M3] = { "F8_E4M3", 1, 1 }, [CV_F8_E5M2] = { "F8_E5M2", 1, 1 },
    [CV_I64]     = { "I64", 8, 1 },     [CV_I32]     = { "I32", 4, 1 },
    [CV_I16]     = { "I16", 2, 1 },     [CV_I8]      = { "I8", 1, 1 },
    [CV_U8]      = { "U8", 1, 1 },      [CV_BOOL]    = { "BOOL", 1, 1 },
    [CV_Q4_0]    = { "Q4_0", 18, 32 },  [CV_Q4_1]    = { "Q4_1", 20, 32 },
    [CV_Q5_0]    = { "Q5_0", 22, 32 },  [CV_Q5_1]    = { "Q5_1", 24, 32 },
    [CV_Q8_0]    = { "Q8_0", 34, 32 },  [CV_Q2_K]    = { "Q2_K", 84, 256 },
    [CV_Q3_K]    = { "Q3_K", 110, 256 }, [CV_Q4_K]   = { "Q4_K", 144, 256 },
    [CV_Q5_K]    = { "Q5_K", 176, 256 }, [CV_Q6_K]   = { "Q6_K", 210, 256 },
};

size_t cv_type_bytes(CvType type)
{
    return types[type].bytes;
}

int cv_type_block(CvType type)
{
    return types[type].block;
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

/* The product of the dimensions that are not 0: no stride is more, and none of
 * them may overflow because a tensor is empty. -1: it does, or one is negative. */
static int64_t extent(const CvTensor *t, int *empty)
{
    int64_t n = 1;

    *empty = 0;
    for (int i = 0; i < t->n_dims; i++)
        if (!t->dim[i])
            *empty = 1;
        else if (cv_mul_size(n, t->dim[i], &n) < 0)
            return -1;
    return n;
}

int64_t cv_elements(const CvTensor *t)
{
    int empty;
    int64_t n = extent(t, &empty);

    return n < 0 ? -1 : empty ? 0 : n;
}

int64_t cv_tensor_bytes(const CvTensor *t)
{
    const int block = cv_type_block(t->type);
    int empty;
    int64_t n = extent(t, &empty);

    if (n < 0 || (!empty && n % block) ||
        cv_mul_size(n / block, (int64_t)cv_type_bytes(t->type), &n) < 0)
        return -1;
    return empty ? 0 : n;
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
    size_t before = (size_t)(first * cv_row_elements(t));

    rows.data   = (uint8_t *)t->data + before / (size_t)types[t->type].block *
                                       types[t->type].bytes;
    rows.dim[0] = n;
    return rows;
}

int cv_same_dims(const CvTensor *a, const CvTensor *b)
{
    if (a->n_dims != b->n_dims)
        return 0;
    for (int i = 0; i < a->n_dims; i++)
        if (a->dim[i] != b->dim[i])
            return 0;
    return 1;
}

int cv_same_shape(const CvTensor *a, const CvTensor *b)
{
    return a->type == b->type && cv_same_dims(a, b);
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
