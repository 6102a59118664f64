/*
 * cuBLASLt's matrix product without a GPU: D = epilogue(alpha A B + beta C).
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * Column-major matrices as the library has them, summed in double precision
 * and rounded once. What the documentation does not promise is refused with a
 * line on stderr: other types, a bias of another type than D, addresses less
 * aligned than the algorithm was chosen for, memory that is not the device's.
 * E4M3 is multiplied as an H200 with CUDA 13.0 was seen to do it, with a scale
 * for each row of both sides; which sizes it refused is refused in silence, since
 * programs may ask.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include <new>
#include <vector>

#include "cublasLt.h"
#include "cuda_bf16.h"
#include "device_memory.h"
#include "faults.h"
#include "streams.h"

struct cublasLtContext {
    int unused;
};

struct cublasLtMatmulDescOpaque {
    cublasComputeType_t compute;
    int32_t scale, pointer_mode, transa, transb;
    uint32_t epilogue;
    const void *bias;
    int32_t bias_type; /* -1: that of D */
    int32_t scale_mode[2]; /* of A, B */
    const void *scales[2];
    int8_t fast;
};

struct cublasLtMatrixLayoutOpaque {
    uint32_t type;
    int32_t order;
    uint64_t rows, columns;
    int64_t ld;
};

struct cublasLtMatmulPreferenceOpaque {
    uint64_t workspace;
    uint32_t alignment[4]; /* of A, B, C, D */
};

/* What is kept in cublasLtMatmulAlgo_t. */
struct Algorithm {
    uint64_t magic;
    uint32_t alignment[4];
};
static const uint64_t magic = 0x656d756c61746564u;

static cublasStatus_t refuse(cublasStatus_t status, const char *why)
{
    fprintf(stderr, "# emulated cuBLASLt: %s\n", why);
    return status;
}

static void free_object(void *p)
{
    emulator_freed(p);
    operator delete(p);
}

static void *object(size_t bytes)
{
    void *p = emulator_fault() ? NULL : operator new(bytes, std::nothrow);

    if (!p)
        return NULL;
    emulator_made(p, free_object);
    return memset(p, 0, bytes);
}

static size_t type_bytes(uint32_t type)
{
    return type == CUDA_R_32F ? 4 : type == CUDA_R_16BF ? 2 :
           type == CUDA_R_8F_E4M3 ? 1 : 0;
}

static double from_e4m3(uint8_t v)
{
    int exponent = v >> 3 & 15, fraction = v & 7;
    double x = exponent ? ldexp(8 + fraction, exponent - 10)
                        : ldexp(fraction, -9);

    if ((v & 0x7f) == 0x7f)
        return NAN;
    return v & 0x80 ? -x : x;
}

static double load(const void *p, uint32_t type, size_t i)
{
    static const struct Table {
        double value[256];

        Table()
        {
            for (int v = 0; v < 256; v++)
                value[v] = from_e4m3((uint8_t)v);
        }
    } e4m3;

    if (type == CUDA_R_8F_E4M3)
        return e4m3.value[((const uint8_t *)p)[i]];
    return type == CUDA_R_32F
        ? ((const float *)p)[i]
        : __bfloat162float(((const __nv_bfloat16 *)p)[i]);
}

static cublasStatus_t set(void *to, size_t size, const void *value,
                          size_t bytes)
{
    if (bytes != size)
        return refuse(CUBLAS_STATUS_INVALID_VALUE,
                      "attribute of another size");
    memcpy(to, value, size);
    return CUBLAS_STATUS_SUCCESS;
}
#define SET(member) set(&(member), sizeof(member), value, bytes)

/* D[row, column] with column-major D of m rows: one column. */
static void column(const cublasLtMatmulDescOpaque *desc, int64_t m, int64_t k,
                   const void *a, const cublasLtMatrixLayoutOpaque *la,
                   const std::vector<double> &b, double alpha,
                   std::vector<double> &sums)
{
    std::fill(sums.begin(), sums.end(), 0);
    if (desc->transa == CUBLAS_OP_T) {
        for (int64_t i = 0; i < m; i++) {
            size_t row = (size_t)(i * la->ld);
            double sum = 0;

            for (int64_t l = 0; l < k; l++)
                sum += load(a, la->type, row + (size_t)l) * b[(size_t)l];
            sums[(size_t)i] = sum;
        }
    } else {
        for (int64_t l = 0; l < k; l++)
            for (int64_t i = 0; i < m; i++)
                sums[(size_t)i] += b[(size_t)l] *
                    load(a, la->type, (size_t)(l * la->ld + i));
    }
    for (double &sum : sums)
        sum *= alpha;
}

static double gelu(double x)
{
    return 0.5 * x * (1 + tanh(0.79788456080286536 *
                               (x + 0.044715 * x * x * x)));
}

/* The type that a bias has to have. */
static uint32_t bias_type(const cublasLtMatrixLayoutOpaque *a,
                          const cublasLtMatrixLayoutOpaque *d)
{
    return a->type == CUDA_R_8F_E4M3 ? (uint32_t)CUDA_R_16BF : d->type;
}

/* In fp8: is it refused? */
static int no_fp8(const cublasLtMatmulDescOpaque *desc,
                  const cublasLtMatrixLayoutOpaque *a,
                  const cublasLtMatrixLayoutOpaque *b,
                  const cublasLtMatrixLayoutOpaque *d)
{
    cudaDeviceProp properties;

    if (cudaGetDeviceProperties(&properties, 0) || properties.major != 9)
        return 1;
    return desc->transa != CUBLAS_OP_T || desc->transb != CUBLAS_OP_N ||
           a->rows % 16 || a->ld % 16 || b->ld % 16 ||
           (size_t)d->ld * type_bytes(d->type) % 16 ||
           d->rows * type_bytes(d->type) % 16;
}

/* Why a product is not supported, or NULL. */
static const char *problem(const cublasLtMatmulDescOpaque *desc,
                           const cublasLtMatrixLayoutOpaque *a,
                           const cublasLtMatrixLayoutOpaque *b,
                           const cublasLtMatrixLayoutOpaque *c,
                           const cublasLtMatrixLayoutOpaque *d)
{
    int ta = desc->transa == CUBLAS_OP_T, tb = desc->transb == CUBLAS_OP_T;

    if ((desc->compute != CUBLAS_COMPUTE_32F &&
         desc->compute != CUBLAS_COMPUTE_32F_PEDANTIC) ||
        desc->scale != CUDA_R_32F)
        return "only CUBLAS_COMPUTE_32F with a scale of CUDA_R_32F";
    if ((desc->transa != CUBLAS_OP_N && !ta) ||
        (desc->transb != CUBLAS_OP_N && !tb))
        return "operations are N or T";
    if (a->type != b->type || !type_bytes(a->type) || c->type != d->type ||
        type_bytes(d->type) < 2 ||
        (a->type == CUDA_R_32F && d->type != CUDA_R_32F))
        return "A and B are both bf16, both float32 or both fp8, C and D "
               "alike, not fp8, and not bf16 for float32 A";
    if (a->type == CUDA_R_8F_E4M3) {
        if (desc->scale_mode[0] != CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F ||
            desc->scale_mode[1] != CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F)
            return "fp8 only with a scale for each row";
    } else if (desc->scale_mode[0] || desc->scale_mode[1] || desc->fast) {
        return "scales and fast sums only with fp8";
    }
    if (a->order || b->order || c->order || d->order)
        return "only column-major matrices";
    for (const auto *l : { a, b, c, d })
        if (!l->rows || !l->columns || l->ld < (int64_t)l->rows)
            return "a leading dimension shorter than a column";
    if ((ta ? a->columns : a->rows) != d->rows ||
        (tb ? b->rows : b->columns) != d->columns ||
        (ta ? a->rows : a->columns) != (tb ? b->columns : b->rows) ||
        c->rows != d->rows || c->columns != d->columns)
        return "shapes do not agree";
    switch (desc->epilogue) {
    case CUBLASLT_EPILOGUE_DEFAULT:
    case CUBLASLT_EPILOGUE_GELU:
        break;
    case CUBLASLT_EPILOGUE_BIAS:
    case CUBLASLT_EPILOGUE_GELU_BIAS:
        if (desc->bias_type >= 0 ? (uint32_t)desc->bias_type != bias_type(a, d)
                                 : bias_type(a, d) != d->type)
            return "a bias has the type of D, or bf16 with fp8";
        break;
    default:
        return "only the epilogues default, bias, GELU and GELU with bias";
    }
    return NULL;
}

extern "C" {

cublasStatus_t cublasLtCreate(cublasLtHandle_t *handle)
{
    *handle = (cublasLtHandle_t)object(sizeof(**handle));
    return *handle ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_ALLOC_FAILED;
}

cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle)
{
    free_object(handle);
    return CUBLAS_STATUS_SUCCESS;
}

size_t cublasLtGetVersion(void)
{
    return 130000;
}

const char *cublasLtGetStatusName(cublasStatus_t status)
{
    switch (status) {
    case CUBLAS_STATUS_SUCCESS:
        return "CUBLAS_STATUS_SUCCESS";
    case CUBLAS_STATUS_INVALID_VALUE:
        return "CUBLAS_STATUS_INVALID_VALUE";
    case CUBLAS_STATUS_NOT_SUPPORTED:
        return "CUBLAS_STATUS_NOT_SUPPORTED";
    default:
        return "CUBLAS_STATUS_INTERNAL_ERROR";
    }
}

const char *cublasLtGetStatusString(cublasStatus_t status)
{
    return cublasLtGetStatusName(status);
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *desc,
                                        cublasComputeType_t compute,
                                        cudaDataType_t scale)
{
    *desc = (cublasLtMatmulDesc_t)object(sizeof(**desc));
    if (!*desc)
        return CUBLAS_STATUS_ALLOC_FAILED;
    (*desc)->compute = compute;
    (*desc)->scale = scale;
    (*desc)->epilogue = CUBLASLT_EPILOGUE_DEFAULT;
    (*desc)->bias_type = -1;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t desc)
{
    free_object(desc);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescSetAttribute(
    cublasLtMatmulDesc_t desc, cublasLtMatmulDescAttributes_t attribute,
    const void *value, size_t bytes)
{
    switch (attribute) {
    case CUBLASLT_MATMUL_DESC_SCALE_TYPE:
        return SET(desc->scale);
    case CUBLASLT_MATMUL_DESC_POINTER_MODE:
        return SET(desc->pointer_mode);
    case CUBLASLT_MATMUL_DESC_TRANSA:
        return SET(desc->transa);
    case CUBLASLT_MATMUL_DESC_TRANSB:
        return SET(desc->transb);
    case CUBLASLT_MATMUL_DESC_EPILOGUE:
        return SET(desc->epilogue);
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER:
        return SET(desc->bias);
    case CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE:
        return SET(desc->bias_type);
    case CUBLASLT_MATMUL_DESC_A_SCALE_MODE:
        return SET(desc->scale_mode[0]);
    case CUBLASLT_MATMUL_DESC_B_SCALE_MODE:
        return SET(desc->scale_mode[1]);
    case CUBLASLT_MATMUL_DESC_A_SCALE_POINTER:
        return SET(desc->scales[0]);
    case CUBLASLT_MATMUL_DESC_B_SCALE_POINTER:
        return SET(desc->scales[1]);
    case CUBLASLT_MATMUL_DESC_FAST_ACCUM:
        return SET(desc->fast);
    default:
        return refuse(CUBLAS_STATUS_INVALID_VALUE,
                      "unknown attribute of a product");
    }
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *layout,
                                          cudaDataType type, uint64_t rows,
                                          uint64_t columns, int64_t ld)
{
    *layout = (cublasLtMatrixLayout_t)object(sizeof(**layout));
    if (!*layout)
        return CUBLAS_STATUS_ALLOC_FAILED;
    (*layout)->type = (uint32_t)type;
    (*layout)->rows = rows;
    (*layout)->columns = columns;
    (*layout)->ld = ld;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout)
{
    free_object(layout);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutSetAttribute(
    cublasLtMatrixLayout_t layout, cublasLtMatrixLayoutAttribute_t attribute,
    const void *value, size_t bytes)
{
    switch (attribute) {
    case CUBLASLT_MATRIX_LAYOUT_TYPE:
        return SET(layout->type);
    case CUBLASLT_MATRIX_LAYOUT_ORDER:
        return SET(layout->order);
    case CUBLASLT_MATRIX_LAYOUT_ROWS:
        return SET(layout->rows);
    case CUBLASLT_MATRIX_LAYOUT_COLS:
        return SET(layout->columns);
    case CUBLASLT_MATRIX_LAYOUT_LD:
        return SET(layout->ld);
    default:
        return refuse(CUBLAS_STATUS_INVALID_VALUE,
                      "unknown attribute of a matrix");
    }
}

cublasStatus_t cublasLtMatmulPreferenceCreate(
    cublasLtMatmulPreference_t *preference)
{
    *preference = (cublasLtMatmulPreference_t)object(sizeof(**preference));
    if (!*preference)
        return CUBLAS_STATUS_ALLOC_FAILED;
    for (uint32_t &alignment : (*preference)->alignment)
        alignment = 256;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceDestroy(
    cublasLtMatmulPreference_t preference)
{
    free_object(preference);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(
    cublasLtMatmulPreference_t preference,
    cublasLtMatmulPreferenceAttributes_t attribute, const void *value,
    size_t bytes)
{
    uint32_t ignored;

    switch (attribute) {
    case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES:
        return SET(preference->workspace);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES:
        return SET(preference->alignment[0]);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES:
        return SET(preference->alignment[1]);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES:
        return SET(preference->alignment[2]);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES:
        return SET(preference->alignment[3]);
    case CUBLASLT_MATMUL_PREF_SEARCH_MODE:
    case CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK:
        return SET(ignored);
    default:
        return refuse(CUBLAS_STATUS_INVALID_VALUE,
                      "unknown attribute of a preference");
    }
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(
    cublasLtHandle_t handle, cublasLtMatmulDesc_t desc,
    cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
    cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
    cublasLtMatmulPreference_t preference, int wanted,
    cublasLtMatmulHeuristicResult_t *results, int *found)
{
    const char *why = problem(desc, a, b, c, d);
    Algorithm algorithm = { magic, { 0, 0, 0, 0 } };

    *found = 0;
    if (emulator_fault())
        return CUBLAS_STATUS_EXECUTION_FAILED;
    if (!handle || wanted < 1)
        return refuse(CUBLAS_STATUS_INVALID_VALUE, "no handle, no results");
    if (why)
        return refuse(CUBLAS_STATUS_NOT_SUPPORTED, why);
    if (a->type == CUDA_R_8F_E4M3) {
        if (no_fp8(desc, a, b, d))
            return CUBLAS_STATUS_NOT_SUPPORTED;
        for (uint32_t alignment : preference->alignment)
            if (alignment < 16)
                return CUBLAS_STATUS_NOT_SUPPORTED;
    }
    memset(results, 0, sizeof(*results));
    memcpy(algorithm.alignment, preference->alignment,
           sizeof(algorithm.alignment));
    memcpy(&results->algo, &algorithm, sizeof(algorithm));
    results->workspaceSize = (size_t)preference->workspace;
    results->wavesCount = 1;
    *found = 1;
    return CUBLAS_STATUS_SUCCESS;
}

/* All of a product that is asked for; the caller may free the rest. */
struct Product {
    cublasLtMatmulDescOpaque desc;
    cublasLtMatrixLayoutOpaque la, lb, lc, ld;
    const void *a, *b, *c;
    void *d;
    double factor, old; /* d = factor * a b + old * c, and so on */
};

static void multiply(const Product &p)
{
    const int tb = p.desc.transb == CUBLAS_OP_T;
    const int64_t m = (int64_t)p.ld.rows, n = (int64_t)p.ld.columns;
    const int64_t k = (int64_t)(tb ? p.lb.columns : p.lb.rows);
    std::vector<double> sums((size_t)m), right((size_t)k);

    for (int64_t j = 0; j < n; j++) {
        for (int64_t l = 0; l < k; l++)
            right[(size_t)l] = load(p.b, p.lb.type, (size_t)(
                tb ? l * p.lb.ld + j : j * p.lb.ld + l));
        column(&p.desc, m, k, p.a, &p.la, right, p.factor, sums);
        for (int64_t i = 0; i < m; i++) {
            size_t to = (size_t)(j * p.ld.ld + i);
            double y = sums[(size_t)i];

            if (p.desc.scale_mode[0])
                y *= (double)((const float *)p.desc.scales[0])[i] *
                     ((const float *)p.desc.scales[1])[j];
            if (p.old != 0)
                y += p.old * load(p.c, p.lc.type, (size_t)(j * p.lc.ld + i));
            if (p.desc.epilogue & CUBLASLT_EPILOGUE_BIAS)
                y += load(p.desc.bias, bias_type(&p.la, &p.ld), (size_t)i);
            if (p.desc.epilogue & CUBLASLT_EPILOGUE_GELU)
                y = gelu(y);
            if (p.ld.type == CUDA_R_32F)
                ((float *)p.d)[to] = (float)y;
            else
                ((__nv_bfloat16 *)p.d)[to] = __float2bfloat16_rn((float)y);
        }
    }
}

cublasStatus_t cublasLtMatmul(
    cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, const void *alpha,
    const void *a, cublasLtMatrixLayout_t la, const void *b,
    cublasLtMatrixLayout_t lb, const void *beta, const void *c,
    cublasLtMatrixLayout_t lc, void *d, cublasLtMatrixLayout_t ld,
    const cublasLtMatmulAlgo_t *algo, void *workspace, size_t bytes,
    cudaStream_t stream)
{
    const char *why = problem(desc, la, lb, lc, ld);
    const void *all[] = { a, b, c, d };
    int biased = desc->epilogue & CUBLASLT_EPILOGUE_BIAS;
    Algorithm algorithm;
    double factor, old;

    if (emulator_fault())
        return CUBLAS_STATUS_EXECUTION_FAILED;
    if (!handle || desc->pointer_mode != CUBLASLT_POINTER_MODE_HOST)
        return refuse(CUBLAS_STATUS_NOT_SUPPORTED,
                      "only a handle and factors of the host");
    if (why)
        return refuse(CUBLAS_STATUS_NOT_SUPPORTED, why);
    if (la->type == CUDA_R_8F_E4M3) {
        if (no_fp8(desc, la, lb, ld))
            return refuse(CUBLAS_STATUS_NOT_SUPPORTED, "fp8 of this size");
        for (const void *scales : desc->scales)
            if (!emulator_is_device_memory(scales) || (uintptr_t)scales % 16)
                return refuse(CUBLAS_STATUS_EXECUTION_FAILED,
                              "scales are not in device memory, or not "
                              "aligned to 16 bytes");
    }
    factor = *(const float *)alpha;
    old = *(const float *)beta;
    if (algo) {
        memcpy(&algorithm, algo, sizeof(algorithm));
        if (algorithm.magic != magic)
            return refuse(CUBLAS_STATUS_INVALID_VALUE,
                          "an algorithm that was not chosen");
        for (int i = 0; i < 4; i++)
            if ((i != 2 || old != 0) && algorithm.alignment[i] &&
                (uintptr_t)all[i] % algorithm.alignment[i])
                return refuse(CUBLAS_STATUS_INVALID_VALUE,
                              "a matrix is less aligned than the "
                              "preference said");
    }
    for (int i = 0; i < 4; i++)
        if ((i != 2 || old != 0) && !emulator_is_device_memory(all[i]))
            return refuse(CUBLAS_STATUS_EXECUTION_FAILED,
                          "a matrix is not in device memory");
    if ((biased && !emulator_is_device_memory(desc->bias)) ||
        (bytes && !emulator_is_device_memory(workspace)))
        return refuse(CUBLAS_STATUS_EXECUTION_FAILED,
                      "bias or workspace is not in device memory");
    emulator_do(stream, [=, p = Product{ *desc, *la, *lb, lc ? *lc : *ld, *ld, a,
                                         b, c, d, factor, old }] {
        emulator_enter();
        if (bytes) /* what it held is lost */
            memset(workspace, 0xff, bytes < 4096 ? bytes : 4096);
        multiply(p);
        emulator_leave();
    });
    return CUBLAS_STATUS_SUCCESS;
}

} /* extern "C" */
