/*
 * Linear layers: products by cuBLASLt, with what follows them; products that
 * are added to weights.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * Row-major out[n, o] = x[n, i] weight[o, i]^T is, in the column-major order of
 * cuBLASLt, out^T = weight^T' x: A = weight (transposed), B = x, D = out, and a
 * bias runs down a column of D, as the library wants it.
 *
 * Bound by operations, and on an H200 by power: 800 TFLOP/s in bf16 for the
 * first milliseconds, 700 to 750 then. Wan 14B, 32,760 tokens, dim 5120, ffn
 * 13,824, so measured with the library alone:
 *     qkv 5120 -> 15,360: 7.3 ms; o, cross q, cross o: 2.3 ms each;
 *     ffn 5120 -> 13,824 and back: 6.9 and 6.6 ms; 28 ms a layer.
 *
 * What follows the product, y = x w^T + b:
 * - In the library's epilogue, without another pass over memory: nothing, GELU
 *   (bf16 only, and of a y that the library rounds to bf16 first, as PyTorch's
 *   linear does), a bias of the output's type, and the addition of `other`, as C
 *   with beta = 1, in place or not.
 * - In cv_cuda_epilogue(), from a float32 y that the product leaves in scratch:
 *   all else. The rows go through in pieces of CV_CUDA_SUMS bytes, which stay in the
 *   L2 cache between the two (50 MB on an H100 or H200). From memory it would
 *   be 8 bytes more an element, 1.3 GB for [32,760, 5120]: 0.3 ms on top of
 *   2.3 ms. Measured through L2: 2.8 ms, of which smaller products cost a part.
 *   A gate in the weights, so that the library adds, was counted and would win
 *   half a percent of a layer: docs/kernels.md.
 *
 * Weights in fp8 beside an x of bf16 (linear_fp8.c has the others) are made
 * bf16 right before they are multiplied, in pieces of
 * rows that fill the other half of the scratch, and each piece makes its columns
 * of the output. A layer of 14B has 352e6 of them: 0.35 GB are read; the 0.7 GB
 * written and read again are pieces of 32 MB, which mostly stay in L2. Predicted
 * 0.1 to 0.3 ms more for a layer of 67 ms, the latter were it all memory.
 *
 * Split sums are added in float32, never in bf16 and never by atomics, so a
 * product's bits do not change from run to run.
 */
#include <cublasLt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host.h"
#include "product.h"

enum {
    PLANS = 256, /* kept; a power of two */
    PROBES = 8,  /* places in which a plan may lie */
    TILE = 128,  /* rows that a kernel of the library computes at least */
};

/* What a plan depends on. Without padding, so that memcmp() compares it. */
typedef struct Key {
    int64_t n, o, i, step;
    int32_t in, out;     /* CvType */
    int32_t epilogue;    /* of cublasLt */
    int32_t add;         /* C is another tensor */
    int32_t align[5];    /* of weight, x, c, d, bias */
    int32_t plain;
    int32_t scaled, unused;
} Key;

typedef struct Plan {
    Key key;
    uint64_t used;       /* when; 0: the place is empty */
    int usable;          /* the library has a kernel for it */
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t weight, x, out;
    cublasLtMatmulAlgo_t algo;
} Plan;

struct CvCudaBlas {
    cublasLtHandle_t handle;
    void *workspace;
    uint64_t clock;
    Plan plans[PLANS];
};

int cv_cuda_blas_open(CvCuda *cuda, char why[CV_WHY_SIZE])
{
    struct CvCudaBlas *blas = calloc(1, sizeof(*blas));

    cuda->blas = blas;
    if (blas && cublasLtCreate(&blas->handle) == CUBLAS_STATUS_SUCCESS &&
        cudaMalloc(&blas->workspace, CV_CUDA_WORKSPACE) == cudaSuccess)
        return 0;
    snprintf(why, CV_WHY_SIZE, "cuBLASLt cannot be opened: too little memory, "
             "or a driver that does not fit");
    return CAUSVID_ERR(ENODEV);
}

static void free_plan(Plan *plan)
{
    if (plan->desc)
        cublasLtMatmulDescDestroy(plan->desc);
    if (plan->weight)
        cublasLtMatrixLayoutDestroy(plan->weight);
    if (plan->x)
        cublasLtMatrixLayoutDestroy(plan->x);
    if (plan->out)
        cublasLtMatrixLayoutDestroy(plan->out);
    memset(plan, 0, sizeof(*plan));
}

void cv_cuda_blas_close(CvCuda *cuda)
{
    struct CvCudaBlas *blas = cuda->blas;

    if (!blas)
        return;
    for (int i = 0; i < PLANS; i++)
        free_plan(&blas->plans[i]);
    cudaFree(blas->workspace);
    if (blas->handle)
        cublasLtDestroy(blas->handle);
    free(blas);
    cuda->blas = NULL;
}

static int blas_error(CvCuda *cuda, cublasStatus_t status)
{
    return cv_cuda_fail(cuda, "a matrix product",
                        cublasLtGetStatusName(status));
}

/* ---- plans ---- */

static cudaDataType_t blas_type(CvType type)
{
    return type == CV_BF16 ? CUDA_R_16BF :
           type == CV_F8_E4M3 ? CUDA_R_8F_E4M3 : CUDA_R_32F;
}

/* The largest power of two up to 256 that divides an address. */
static int32_t alignment(const void *p)
{
    uintptr_t bits = (uintptr_t)p | 256;

    return (int32_t)(bits & -bits);
}

static int has_bias(cublasLtEpilogue_t epilogue)
{
    return epilogue == CUBLASLT_EPILOGUE_BIAS ||
           epilogue == CUBLASLT_EPILOGUE_GELU_BIAS;
}

static cublasStatus_t set_pointer(Plan *plan,
                                  cublasLtMatmulDescAttributes_t attribute,
                                  const void *p)
{
    return cublasLtMatmulDescSetAttribute(plan->desc, attribute, &p,
                                          sizeof(p));
}

static cublasStatus_t set_bias(Plan *plan, const void *bias)
{
    return set_pointer(plan, CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias);
}

#if CUBLAS_VERSION >= 120900
static cublasStatus_t set_scales(Plan *plan, const CvProduct *p)
{
    cublasStatus_t s = set_pointer(plan, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER,
                                   p->weight_scale);

    return s ? s : set_pointer(plan, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER,
                               p->x_scale);
}

/* Sums stay in the tensor cores' own registers, which have fewer bits than
 * float32: a fifth faster, and measured 1.5e-3 of error at 5120 inputs, 2.8e-3
 * at 13,824, where fp8 itself makes 3.7e-2. */
static cublasStatus_t describe_scales(Plan *plan, const CvProduct *p)
{
    const int32_t mode = CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F;
    const int32_t bias = CUDA_R_16BF;
    const int8_t fast = 1;
    cublasStatus_t s;

    s = cublasLtMatmulDescSetAttribute(plan->desc,
                                       CUBLASLT_MATMUL_DESC_A_SCALE_MODE,
                                       &mode, sizeof(mode));
    if (!s)
        s = cublasLtMatmulDescSetAttribute(plan->desc,
                                           CUBLASLT_MATMUL_DESC_B_SCALE_MODE,
                                           &mode, sizeof(mode));
    if (!s)
        s = cublasLtMatmulDescSetAttribute(plan->desc,
                                           CUBLASLT_MATMUL_DESC_FAST_ACCUM,
                                           &fast, sizeof(fast));
    if (!s && p->bias)
        s = cublasLtMatmulDescSetAttribute(plan->desc,
                                           CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE,
                                           &bias, sizeof(bias));
    return s ? s : set_scales(plan, p);
}
#else /* a library that does not know scales of rows */
static cublasStatus_t set_scales(Plan *plan, const CvProduct *p)
{
    (void)plan, (void)p;
    return CUBLAS_STATUS_NOT_SUPPORTED;
}

static cublasStatus_t describe_scales(Plan *plan, const CvProduct *p)
{
    return set_scales(plan, p);
}
#endif

/* What is multiplied, and how the result is finished. */
static cublasStatus_t describe(Plan *plan, const CvProduct *p)
{
    const cublasOperation_t operation = p->plain ? CUBLAS_OP_N : CUBLAS_OP_T;
    const int64_t rows = p->plain ? p->o : p->i; /* of the weight's columns */
    const cudaDataType_t in = blas_type(p->in), out = blas_type(p->out);
    cublasStatus_t s;

    /* float32 means float32: no TF32 */
    s = cublasLtMatmulDescCreate(&plan->desc, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    if (!s)
        s = cublasLtMatmulDescSetAttribute(plan->desc,
                                           CUBLASLT_MATMUL_DESC_TRANSA,
                                           &operation, sizeof(operation));
    if (!s)
        s = cublasLtMatmulDescSetAttribute(plan->desc,
                                           CUBLASLT_MATMUL_DESC_EPILOGUE,
                                           &p->epilogue, sizeof(p->epilogue));
    if (!s && has_bias(p->epilogue))
        s = set_bias(plan, p->bias);
    if (!s && p->x_scale)
        s = describe_scales(plan, p);
    if (!s)
        s = cublasLtMatrixLayoutCreate(&plan->weight, in, (uint64_t)rows,
                                       (uint64_t)(p->plain ? p->i : p->o),
                                       rows);
    if (!s)
        s = cublasLtMatrixLayoutCreate(&plan->x, in, (uint64_t)p->i,
                                       (uint64_t)p->n, p->i);
    if (!s)
        s = cublasLtMatrixLayoutCreate(&plan->out, out, (uint64_t)p->o,
                                       (uint64_t)p->n, p->step);
    return s;
}

/* Let the library choose a kernel. Its not having one is no error. */
static cublasStatus_t choose(CvCuda *cuda, Plan *plan)
{
    static const cublasLtMatmulPreferenceAttributes_t sides[] = {
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
    };
    const uint64_t workspace = CV_CUDA_WORKSPACE;
    const uint32_t reductions = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
    cublasLtMatmulPreference_t preference = NULL;
    cublasLtMatmulHeuristicResult_t found;
    cublasStatus_t s;
    int n = 0;

    memset(&found, 0, sizeof(found));
    s = cublasLtMatmulPreferenceCreate(&preference);
    if (!s)
        s = cublasLtMatmulPreferenceSetAttribute(
            preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace,
            sizeof(workspace));
    if (!s)
        s = cublasLtMatmulPreferenceSetAttribute(
            preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
            &reductions, sizeof(reductions));
    for (int i = 0; i < 4 && !s; i++) {
        const uint32_t bytes = (uint32_t)plan->key.align[i];

        s = cublasLtMatmulPreferenceSetAttribute(preference, sides[i], &bytes,
                                                 sizeof(bytes));
    }
    if (!s)
        s = cublasLtMatmulAlgoGetHeuristic(cuda->blas->handle, plan->desc,
                                           plan->weight, plan->x, plan->out,
                                           plan->out, preference, 1, &found,
                                           &n);
    if (preference)
        cublasLtMatmulPreferenceDestroy(preference);
    if (s == CUBLAS_STATUS_NOT_SUPPORTED || s == CUBLAS_STATUS_INVALID_VALUE)
        return CUBLAS_STATUS_SUCCESS;
    plan->algo   = found.algo;
    plan->usable = n > 0 && found.state == CUBLAS_STATUS_SUCCESS;
    return s;
}

static uint64_t hash(const Key *key)
{
    const uint8_t *p = (const uint8_t *)key;
    uint64_t h = 0xcbf29ce484222325u;

    for (size_t i = 0; i < sizeof(*key); i++)
        h = (h ^ p[i]) * 0x100000001b3u;
    return h ^ h >> 32;
}

/* The plan of a product, made when it is asked for first. When its places are
 * taken, the one that was not used for longest makes room. NULL: *status. */
static Plan *find_plan(cublasStatus_t *status, CvCuda *cuda,
                       const CvProduct *p)
{
    struct CvCudaBlas *blas = cuda->blas;
    const Key key = {
        .n = p->n, .o = p->o, .i = p->i, .step = p->step, .in = p->in,
        .out = p->out,
        .epilogue = (int32_t)p->epilogue, .add = p->c != NULL,
        .align = { alignment(p->weight), alignment(p->x),
                   alignment(p->c ? p->c : p->d), alignment(p->d),
                   p->bias ? alignment(p->bias) : 0 },
        .plain = p->plain, .scaled = p->x_scale != NULL,
    };
    const uint64_t first = hash(&key);
    Plan *oldest = NULL;

    for (unsigned i = 0; i < PROBES; i++) {
        Plan *plan = &blas->plans[(first + i) % PLANS];

        if (plan->used && !memcmp(&plan->key, &key, sizeof(key))) {
            plan->used = ++blas->clock;
            return plan;
        }
        if (!oldest || plan->used < oldest->used)
            oldest = plan;
    }
    free_plan(oldest);
    oldest->key = key;
    *status = describe(oldest, p);
    if (!*status)
        *status = choose(cuda, oldest);
    else if (*status == CUBLAS_STATUS_NOT_SUPPORTED)
        *status = CUBLAS_STATUS_SUCCESS; /* not usable */
    if (*status) {
        free_plan(oldest);
        return NULL;
    }
    oldest->used = ++blas->clock;
    return oldest;
}

int cv_cuda_multiply(CvCuda *cuda, const CvProduct *p)
{
    struct CvCudaBlas *blas = cuda->blas;
    const float alpha = p->factor, beta = p->c ? 1 : 0;
    cublasStatus_t s = CUBLAS_STATUS_SUCCESS;
    Plan *plan = find_plan(&s, cuda, p);

    if (!plan)
        return blas_error(cuda, s);
    if (!plan->usable)
        return CAUSVID_ERR(ENOSYS);
    if (p->bias)
        s = set_bias(plan, p->bias);
    if (!s && p->x_scale)
        s = set_scales(plan, p);
    if (!s)
        s = cublasLtMatmul(blas->handle, plan->desc, &alpha, p->weight,
                           plan->weight, p->x, plan->x, &beta,
                           p->c ? p->c : p->d, plan->out, p->d, plan->out,
                           &plan->algo, blas->workspace, CV_CUDA_WORKSPACE,
                           cuda->stream);
    return s ? blas_error(cuda, s) : 0;
}

int cv_cuda_can_multiply(CvCuda *cuda, const CvProduct *p)
{
    cublasStatus_t s = CUBLAS_STATUS_SUCCESS;
    const Plan *plan = find_plan(&s, cuda, p);

    return plan && plan->usable;
}

static int no_kernel(CvCuda *cuda, const CvProduct *p)
{
    return cv_fail(cuda->base.log, EIO, "cuBLASLt has no product of [%lld, "
                   "%lld] by [%lld, %lld] for GPU %d", (long long)p->n,
                   (long long)p->i, (long long)p->i, (long long)p->o,
                   cuda->device);
}

/* ---- linear ---- */

/* The columns [first, first + n) of the output, and the rows of the weight that
 * make them: all, or those that were made from fp8. */
typedef struct Columns {
    int64_t first, n;
    const void *weight;
} Columns;

/* From column `first` on. */
static void *from_column(const CvTensor *t, int64_t first)
{
    return (uint8_t *)t->data + (size_t)first * cv_type_bytes(t->type);
}

/* All of it in one product; ENOSYS when that cannot be. */
static int run_fused(CvCuda *cuda, const CvLinear *a, const Columns *c)
{
    const CvType out = a->out->type;
    const int gelu = a->epilogue == CV_EPI_GELU;
    CvProduct p = {
        .n = a->x->dim[0], .i = a->x->dim[1], .o = c->n,
        .step = a->out->dim[1], .in = a->x->type, .out = out, .factor = 1,
        .x = a->x->data, .weight = c->weight,
        .d = from_column(a->out, c->first),
        .bias = a->bias ? from_column(a->bias, c->first) : NULL,
        .c = a->epilogue == CV_EPI_ADD ? from_column(a->other, c->first)
                                       : NULL,
        .epilogue = gelu ? CUBLASLT_EPILOGUE_GELU : CUBLASLT_EPILOGUE_DEFAULT,
    };

    if (a->epilogue != CV_EPI_NONE && a->epilogue != CV_EPI_ADD &&
        !(gelu && out == CV_BF16))
        return CAUSVID_ERR(ENOSYS);
    if (p.bias) {
        p.epilogue = gelu ? CUBLASLT_EPILOGUE_GELU_BIAS
                          : CUBLASLT_EPILOGUE_BIAS;
        if (a->bias->type != out) /* the library's only way */
            return CAUSVID_ERR(ENOSYS);
    }
    return cv_cuda_multiply(cuda, &p);
}

int64_t cv_cuda_piece_rows(int64_t n, int64_t most)
{
    int64_t rows = most < 1 ? 1 : most, pieces;

    if (rows > TILE)
        rows -= rows % TILE;
    pieces = (n + rows - 1) / rows;
    rows   = (n + pieces - 1) / pieces;
    return rows > TILE ? (rows + TILE - 1) / TILE * TILE : rows;
}

/* Product to scratch, epilogue from there, in pieces of rows. */
static int run_pieces(CvCuda *cuda, const CvLinear *a, const Columns *c)
{
    const int64_t n = a->x->dim[0], i = a->x->dim[1];
    const size_t row_bytes = (size_t)c->n * sizeof(float);
    const size_t in_row = (size_t)i * cv_type_bytes(a->x->type);
    const int64_t rows = cv_cuda_piece_rows(n, (int64_t)(CV_CUDA_SUMS /
                                                         row_bytes));
    int err = 0;

    if (row_bytes > CV_CUDA_SUMS)
        return cv_fail(cuda->base.log, EINVAL, "linear: %lld outputs are more "
                       "than this backend has room for", (long long)c->n);
    for (int64_t row = 0; row < n && !err; row += rows) {
        const CvProduct p = {
            .n = rows < n - row ? rows : n - row, .i = i, .o = c->n,
            .step = c->n, .in = a->x->type, .out = CV_F32, .factor = 1,
            .epilogue = CUBLASLT_EPILOGUE_DEFAULT,
            .x = (const uint8_t *)a->x->data + (size_t)row * in_row,
            .weight = c->weight, .d = cuda->scratch,
        };

        err = cv_cuda_multiply(cuda, &p);
        if (err == CAUSVID_ERR(ENOSYS))
            return no_kernel(cuda, &p);
        if (!err)
            err = cv_cuda_epilogue(cuda, a, row, p.n, c->first, c->n,
                                   cuda->scratch);
    }
    return err;
}

static int run_columns(CvCuda *cuda, const CvLinear *a, const Columns *c)
{
    int err = run_fused(cuda, a, c);

    return err == CAUSVID_ERR(ENOSYS) ? run_pieces(cuda, a, c) : err;
}

/* Weights of fp8, piece by piece made bf16 in the scratch's second half. */
static int run_fp8(CvCuda *cuda, const CvLinear *a)
{
    const int64_t o = a->out->dim[1], i = a->x->dim[1];
    const size_t room = CV_CUDA_SCRATCH - CV_CUDA_SUMS;
    const size_t row_bytes = (size_t)i * cv_type_bytes(CV_BF16);
    void *weight = (uint8_t *)cuda->scratch + CV_CUDA_SUMS;
    const int64_t rows = cv_cuda_piece_rows(o, row_bytes ?
                                            (int64_t)(room / row_bytes) : o);
    int err = 0;

    if (row_bytes > room)
        return cv_fail(cuda->base.log, EINVAL, "linear: rows of %lld weights "
                       "are more than this backend has room for",
                       (long long)i);
    for (int64_t row = 0; row < o && !err; row += rows) {
        const Columns c = { row, rows < o - row ? rows : o - row, weight };

        err = cv_cuda_from_fp8(cuda, weight,
                               (const uint8_t *)a->weight->data + row * i,
                               a->weight->type,
                               (const float *)a->scale->data + row, c.n, i);
        if (!err)
            err = run_columns(cuda, a, &c);
    }
    return err;
}

int cv_cuda_linear(CvBackend *b, const CvLinear *a)
{
    const Columns all = { 0, a->out->dim[1], a->weight->data };
    CvCuda *cuda = cv_cuda(b);

    if (!cv_elements(a->out))
        return 0;
    if (a->x_scale)
        return cv_cuda_linear_fp8(cuda, a);
    return cv_type_is_fp8(a->weight->type) ? run_fp8(cuda, a)
                                           : run_columns(cuda, a, &all);
}

/* ---- add_product ---- */

/* Predicted for a LoRA of rank 32 on all linears of Wan 14B, 0.9 TFLOP in
 * float32: bound by the weights on their way through memory, about 0.1 s. */
int cv_cuda_add_product(CvBackend *b, const CvTensor *out,
                        const CvTensor *left, const CvTensor *right,
                        float scale)
{
    CvCuda *cuda = cv_cuda(b);
    const CvProduct p = {
        .n = left->dim[0], .o = right->dim[1], .i = left->dim[1], .plain = 1,
        .step = right->dim[1], .factor = scale, .in = CV_F32, .out = CV_F32,
        .epilogue = CUBLASLT_EPILOGUE_DEFAULT, .x = left->data,
        .weight = right->data, .c = out->data, .d = out->data,
    };
    int err;

    if (!cv_elements(out) || !p.i)
        return 0;
    err = cv_cuda_multiply(cuda, &p);
    return err == CAUSVID_ERR(ENOSYS) ? no_kernel(cuda, &p) : err;
}
