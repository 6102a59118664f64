/*
 * Linear layers in fp8: activations with a scale for each row, weights with one
 * for each of theirs.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * Hopper multiplies E4M3 twice as fast as bf16, and cuBLASLt (since CUDA 12.9)
 * scales the sums by a vector for each side ("outer vectors"). Measured on an
 * H200 with the library alone, at the shapes of linear.c, in TFLOP/s, bias
 * included:
 *     32,760 rows: 5120 -> 15,360 1370 to 1540; 5120 -> 5120 1510 to 1550;
 *         5120 -> 13,824 1350 to 1490; 13,824 -> 5120 1340 to 1520
 *     4,680 rows: 1536 -> 4608 1150; 1536 -> 1536 960; 1536 -> 8960 1310;
 *         8960 -> 1536 1350
 * Blocks of 128 with scales of their own cost a third of that (880 to 1200),
 * which is why a row has one.
 *
 * What follows a product:
 * - In the library: a bias of bf16, GELU, and the addition of float32 or bf16.
 *   Also a gate on what is added: out = other + gate (s w x + b) is other +
 *   (gate s) w x + gate b, so the gate of a column goes into the scale of a
 *   weight's row, by a kernel of a few microseconds. [32,760, 5120] with bias and
 *   addition took 1.25 ms, the product alone 1.14.
 * - An output in fp8: product8.cu, on Hopper, where trials are asked for (it has
 *   not run on a GPU). Elsewhere a row's scale needs its
 *   largest number, which no tile of a product knows: bf16 to scratch in pieces
 *   of rows, GELU included, and from there, out of the L2 cache, by quantise.cu.
 *   Pieces of 1024 rows of 13,824 run at 1430.
 * - All else as in linear.c: a float32 y to scratch, in pieces.
 * What the library has no kernel for (rows that are no multiple of 16 bytes) is
 * multiplied by a plain kernel, slowly: no model of Wan has such.
 */
#include "product.h"

static uint8_t *second_half(const CvCuda *cuda)
{
    return (uint8_t *)cuda->scratch + CV_CUDA_SUMS;
}

/* What kernels of fp8 ask of all addresses. */
static int is_aligned(const CvProduct *p)
{
    return ((uintptr_t)p->x | (uintptr_t)p->weight | (uintptr_t)p->d |
            (uintptr_t)p->c | (uintptr_t)p->bias | (uintptr_t)p->x_scale |
            (uintptr_t)p->weight_scale) % 16 == 0;
}

/* Scales and bias as the library adds them: with the gate in them, and bf16. */
static int prepare(CvCuda *cuda, const CvLinear *a, CvProduct *p)
{
    const int gated = a->epilogue == CV_EPI_GATE_ADD;
    const int64_t o = p->o;
    float *scale = (float *)(void *)second_half(cuda);
    const float *gate;

    p->weight_scale = a->scale->data;
    p->bias = a->bias ? a->bias->data : NULL;
    if (!gated && (!a->bias || a->bias->type == CV_BF16))
        return 0;
    if ((size_t)o > (CV_CUDA_SCRATCH - CV_CUDA_SUMS) / 8)
        return CAUSVID_ERR(ENOSYS);
    gate = gated ? (const float *)a->mod->data + a->gate_row * o : NULL;
    p->weight_scale = scale;
    if (p->bias) /* behind the scales, which are aligned for what follows */
        p->bias = scale + (o + 63) / 64 * 64;
    return cv_cuda_gate_scales(cuda, scale, (void *)p->bias, a->scale->data,
                               a->bias, gate, o);
}

/* All of it in one product; ENOSYS when that cannot be. */
static int run_whole(CvCuda *cuda, const CvLinear *a)
{
    const int gelu = a->epilogue == CV_EPI_GELU;
    const int adds = a->epilogue == CV_EPI_ADD ||
                     a->epilogue == CV_EPI_GATE_ADD;
    CvProduct p = {
        .n = a->x->dim[0], .i = a->x->dim[1], .o = a->out->dim[1],
        .step = a->out->dim[1], .in = a->x->type, .out = a->out->type,
        .factor = 1, .x = a->x->data, .weight = a->weight->data,
        .x_scale = a->x_scale->data, .d = a->out->data,
        .c = adds ? a->other->data : NULL,
        .epilogue = gelu ? CUBLASLT_EPILOGUE_GELU : CUBLASLT_EPILOGUE_DEFAULT,
    };
    int err;

    if ((a->epilogue != CV_EPI_NONE && !gelu && !adds) ||
        (a->epilogue == CV_EPI_GATE_ADD && a->mod->dim[0] != 1))
        return CAUSVID_ERR(ENOSYS);
    if (a->bias)
        p.epilogue = gelu ? CUBLASLT_EPILOGUE_GELU_BIAS
                          : CUBLASLT_EPILOGUE_BIAS;
    err = prepare(cuda, a, &p);
    if (err)
        return err;
    return is_aligned(&p) ? cv_cuda_multiply(cuda, &p) : CAUSVID_ERR(ENOSYS);
}

/* Rows [row, row + p->n) as float32 in scratch. */
static int sums(CvCuda *cuda, const CvProduct *p)
{
    int err = CAUSVID_ERR(ENOSYS);

    if (is_aligned(p))
        err = cv_cuda_multiply(cuda, p);
    return err == CAUSVID_ERR(ENOSYS) ? cv_cuda_plain_product(cuda, p->d, p->x,
               p->x_scale, p->weight, p->weight_scale, p->n, p->o, p->i) : err;
}

/* Product to scratch, epilogue from there, in pieces of rows. */
static int run_parts(CvCuda *cuda, const CvLinear *a)
{
    const int64_t n = a->x->dim[0], i = a->x->dim[1], o = a->out->dim[1];
    const size_t row_bytes = (size_t)o * sizeof(float);
    const int64_t rows = cv_cuda_piece_rows(n, (int64_t)(CV_CUDA_SUMS /
                                                         row_bytes));
    int err = 0;

    for (int64_t row = 0; row < n && !err; row += rows) {
        const CvProduct p = {
            .n = rows < n - row ? rows : n - row, .i = i, .o = o, .step = o,
            .in = a->x->type, .out = CV_F32, .factor = 1,
            .epilogue = CUBLASLT_EPILOGUE_DEFAULT,
            .x = (const uint8_t *)a->x->data + row * i,
            .x_scale = (const float *)a->x_scale->data + row,
            .weight = a->weight->data, .weight_scale = a->scale->data,
            .d = cuda->scratch,
        };

        err = sums(cuda, &p);
        if (!err)
            err = cv_cuda_epilogue(cuda, a, row, p.n, 0, o, cuda->scratch);
    }
    return err;
}

static int run(CvCuda *cuda, const CvLinear *a)
{
    int err = run_whole(cuda, a);

    return err == CAUSVID_ERR(ENOSYS) ? run_parts(cuda, a) : err;
}

/* To fp8, by way of bf16 in all of the scratch: where it fits, one large product
 * is more than what L2 would save (a block of causal 1.3B: 84 MB). ENOSYS: it
 * does not fit, or the library does not do it. */
static int run_narrow_whole(CvCuda *cuda, const CvLinear *a)
{
    const int64_t n = a->x->dim[0], o = a->out->dim[1];
    const CvTensor y = CV_TENSOR(cuda->scratch, CV_BF16, n, o);
    CvLinear whole = *a;
    int err;

    if (n > (int64_t)(cuda->scratch_bytes /
                      ((size_t)o * cv_type_bytes(CV_BF16))))
        return CAUSVID_ERR(ENOSYS);
    whole.out       = &y;
    whole.out_scale = NULL;
    err = run_whole(cuda, &whole); /* needs no scratch: the bias is bf16 */
    return err ? err : cv_cuda_narrow(cuda, a->out->data, a->out_scale->data,
                                      y.data, n, o);
}

/* The same in pieces, in the second half of the scratch. */
static int run_narrow(CvCuda *cuda, const CvLinear *a)
{
    const int64_t n = a->x->dim[0], o = a->out->dim[1];
    const int64_t most = (int64_t)((CV_CUDA_SCRATCH - CV_CUDA_SUMS) /
                                   ((size_t)o * cv_type_bytes(CV_BF16)));
    const int64_t rows = cv_cuda_piece_rows(n, most);
    int err = run_narrow_whole(cuda, a);

    if (err != CAUSVID_ERR(ENOSYS))
        return err;
    err = 0;
    for (int64_t row = 0; row < n && !err; row += rows) {
        const int64_t count = rows < n - row ? rows : n - row;
        const CvTensor x = cv_rows(a->x, row, count);
        const CvTensor x_scale = cv_rows(a->x_scale, row, count);
        const CvTensor y = CV_TENSOR(second_half(cuda), CV_BF16, count, o);
        CvLinear part = *a;

        part.x         = &x;
        part.x_scale   = &x_scale;
        part.out       = &y;
        part.out_scale = NULL;
        err = run(cuda, &part);
        if (!err)
            err = cv_cuda_narrow(cuda, (uint8_t *)a->out->data + row * o,
                                 (float *)a->out_scale->data + row, y.data,
                                 count, o);
    }
    return err;
}

int cv_cuda_linear_fp8(CvCuda *cuda, const CvLinear *a)
{
    const int64_t o = a->out->dim[1];
    int err;

    if (o > (int64_t)(CV_CUDA_SUMS / sizeof(float)))
        return cv_fail(cuda->base.log, EINVAL, "linear: %lld outputs are more "
                       "than this backend has room for", (long long)o);
    if (!a->out_scale)
        return run(cuda, a);
    err = cuda->trials & CV_TRIAL_PRODUCT8 ? cv_cuda_product8(cuda, a)
                                           : CAUSVID_ERR(ENOSYS);
    return err == CAUSVID_ERR(ENOSYS) ? run_narrow(cuda, a) : err;
}

/* ---- what the library can do ---- */

int cv_cuda_has_fp8(CvCuda *cuda)
{
    /* of Wan 1.3B; any address will do, since nothing is multiplied */
    const CvProduct p = {
        .n = 4680, .i = 1536, .o = 1536, .step = 1536, .in = CV_F8_E4M3,
        .out = CV_F32, .factor = 1, .epilogue = CUBLASLT_EPILOGUE_BIAS,
        .x = cuda->scratch, .weight = cuda->scratch, .c = cuda->scratch,
        .d = cuda->scratch, .bias = cuda->scratch, .x_scale = cuda->scratch,
        .weight_scale = cuda->scratch,
    };

    return cv_cuda_can_multiply(cuda, &p);
}
