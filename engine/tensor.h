/*
 * Tensor descriptions and their sizes.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * A CvTensor describes memory that somebody else owns (an arena, a weight
 * buffer, a mapped file): a typed, contiguous, row-major array whose slowest
 * dimension comes first. On a GPU backend `data` is a device address, so only
 * operations (ops.h) look behind it. Views of leading rows are made by moving
 * `data`; there are no strides.
 */
#ifndef CV_TENSOR_H
#define CV_TENSOR_H

#include <stddef.h>
#include <stdint.h>

typedef enum CvType {
    CV_F32, /* 0, so that a zeroed tensor is float32 */
    CV_F64,
    CV_F16,
    CV_BF16,
    CV_F8_E4M3, /* bias 7, no infinity, 0x7f and 0xff are NaN */
    CV_F8_E5M2,
    CV_I64,
    CV_I32,
    CV_I16,
    CV_I8,
    CV_U8,
    CV_BOOL,
    /* of weight files only: blocks of numbers with common scales (blocks.h) */
    CV_Q4_0,
    CV_Q4_1,
    CV_Q5_0,
    CV_Q5_1,
    CV_Q8_0,
    CV_Q2_K,
    CV_Q3_K,
    CV_Q4_K,
    CV_Q5_K,
    CV_Q6_K,
    CV_TYPE_COUNT
} CvType;

#define CV_MAX_DIMS 8

typedef struct CvTensor {
    void *data;
    CvType type;
    int n_dims;                /* 0: a scalar */
    int64_t dim[CV_MAX_DIMS];  /* slowest first */
} CvTensor;

/* Is it one of the two of 8 bits? */
static inline int cv_type_is_fp8(CvType type)
{
    return type == CV_F8_E4M3 || type == CV_F8_E5M2;
}

/* Bytes of one element; where cv_type_block() is not 1, of one block. */
size_t cv_type_bytes(CvType type);

/* Elements of one block: 32 or 256 of the types with blocks, else 1. */
int cv_type_block(CvType type);

/* Name as in safetensors and GGUF files: "F32", "BF16", "Q4_K", ... */
const char *cv_type_name(CvType type);

/* Number of elements, 1 for a scalar; -1 when a dimension is negative, or when
 * the product of those that are not 0 overflows int64_t. */
int64_t cv_elements(const CvTensor *t);

/* Bytes of the whole tensor; -1 as above, or when blocks do not fill it. What
 * passes has strides that count in bytes, be it empty. */
int64_t cv_tensor_bytes(const CvTensor *t);

/* Product of all dimensions but the first (the size of one row). */
int64_t cv_row_elements(const CvTensor *t);

/* Describe memory: cv_tensor(p, CV_F32, 2, rows, cols); dims are int64_t. */
CvTensor cv_tensor(void *data, CvType type, int n_dims, ...);

/* cv_tensor() with literal dimensions, which are converted for you:
 * CV_TENSOR(p, CV_F32, rows, cols). */
#define CV_TENSOR(data_, type_, ...)                                        \
    ((CvTensor){ .data = (data_), .type = (type_),                          \
                 .n_dims = (int)(sizeof((int64_t[]){ __VA_ARGS__ }) /       \
                                 sizeof(int64_t)),                          \
                 .dim = { __VA_ARGS__ } })

/* `n` rows of the slowest dimension from row `first` on, which begins a block.
 */
CvTensor cv_rows(const CvTensor *t, int64_t first, int64_t n);

/* Same memory, other dimensions; the number of elements must agree (checked
 * by the operations, which look at every shape). */
#define CV_RESHAPE(t_, ...) CV_TENSOR((t_).data, (t_).type, __VA_ARGS__)

/* 1 when every dimension is equal. */
int cv_same_dims(const CvTensor *a, const CvTensor *b);

/* 1 when type and every dimension are equal. */
int cv_same_shape(const CvTensor *a, const CvTensor *b);

/* Write "F32 [21, 16, 60, 104]" and return text. */
#define CV_SHAPE_TEXT 160
const char *cv_shape_text(char text[CV_SHAPE_TEXT], const CvTensor *t);

/* 0 and the product, or -1 on overflow or negative input. */
int cv_mul_size(int64_t a, int64_t b, int64_t *product);

#endif /* CV_TENSOR_H */
