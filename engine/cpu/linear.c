/*
 * Linear layers with their epilogues, and products that are added to weights.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * The output is cut into tiles; a tile's product is made in scratch and
 * finished while it is in cache. Weights are packed (transposed) tile by tile,
 * which costs a fifteenth of the product for 180 tokens.
 *
 * Measured on one Zen 5 core, [180, 256] x [256, 256]^T: 252 GFLOP/s with
 * AVX-512, 136 with AVX2, 48 with plain vectors; OpenBLAS 0.3.21, which does
 * not know that core and takes its AVX2 kernels, in the same tiles 116. So
 * BLAS serves the machines that have no vector kernels here.
 */
#include <string.h>

#include "config.h"
#include "cpu/cpu.h"

#if CV_HAVE_BLAS
#include <cblas.h>
#endif

enum {
    TILE_ROWS = 512, /* tokens of a tile at most */
    TILE_K = 256,    /* length of the sums that are made at once */
    BLAS_COLS = 64,  /* columns of a tile that BLAS makes */
    ADD_ROWS = 64,   /* of a tile that add_product makes */
};

_Static_assert(TILE_ROWS * 4 * CV_MAX_PANEL + TILE_K * CV_MAX_PANEL +
               TILE_ROWS * (TILE_K + 16) <= CV_CPU_SCRATCH, "scratch");
_Static_assert(TILE_ROWS * BLAS_COLS <= CV_CPU_SCRATCH, "scratch");

typedef struct Linear {
    const CvCpu *cpu;
    CvEpilogue epilogue;
    int64_t n, in, out;      /* x [n, in], out [n, out] */
    int64_t row_tiles, col_tiles;
    int64_t cols;            /* of a tile */
    int copy;                /* rows of x are copied to scratch */
    const float *x, *weight, *bias, *other;
    const float *gate;       /* of the first group */
    int64_t group_rows;      /* tokens of a group */
    int64_t group_step;      /* floats from gate to gate */
    float *y;
} Linear;

/* tile[rows, cols] = x weight^T, rows l->cols apart */
static void product(const Linear *l, float *tile, int64_t row, int64_t rows,
                    int64_t col, int64_t cols)
{
    const CvKernels *kernels = l->cpu->kernels;
    float *packed = tile + TILE_ROWS * l->cols;
    float *copy = packed + TILE_K * kernels->panel;

    for (int64_t k = 0; k < l->in; k += TILE_K) {
        int64_t n = cv_min(TILE_K, l->in - k);
        const float *x = l->x + row * l->in + k;
        const float *weight = l->weight + col * l->in + k;
        CvGemm g = { .m = rows, .k = n, .n_parts = 1, .a = &x,
                     .a_row = l->in, .a_k = 1, .b = packed,
                     .c_row = l->cols, .add = k > 0 };

        if (l->copy) {
            g.a_row = TILE_K + 16;
            cv_cpu_copy_rows(copy, g.a_row, x, l->in, rows, n);
            x = copy;
        }
        for (int64_t j = 0; j < cols; j += kernels->panel) {
            g.n = cv_min(kernels->panel, cols - j);
            g.b_row = g.n > kernels->lanes ? kernels->panel : kernels->lanes;
            g.c = tile + j;
            kernels->pack(packed, g.b_row, weight + j * l->in, l->in, g.n, n);
            kernels->gemm(&g);
        }
    }
}

#if CV_HAVE_BLAS
static void blas_product(const Linear *l, float *tile, int64_t row,
                         int64_t rows, int64_t col, int64_t cols)
{
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)rows, (int)cols,
                (int)l->in, 1.0f, l->x + row * l->in, (int)l->in,
                l->weight + col * l->in, (int)l->in, 0.0f, tile,
                (int)l->cols);
}
#endif

static void finish(const Linear *l, const float *tile, int64_t row,
                   int64_t rows, int64_t col, int64_t cols)
{
    int64_t end = row + rows, next;

    /* Rows of one group at a time. */
    for (; row < end; tile += (next - row) * l->cols, row = next) {
        int64_t at = row * l->out + col, group = 0;
        CvFinish f = { .kind = l->epilogue, .n = cols, .y = l->y + at,
                       .other = l->other ? l->other + at : NULL,
                       .y_row = l->out, .x = tile, .x_row = l->cols,
                       .bias = l->bias ? l->bias + col : NULL };

        next = end;
        if (l->gate) {
            group = row / l->group_rows;
            next = cv_min(end, (group + 1) * l->group_rows);
            f.gate = l->gate + group * l->group_step + col;
        }
        f.rows = next - row;
        l->cpu->kernels->epilogue(&f);
    }
}

static void linear_job(void *arg, int64_t first, int64_t last, int worker)
{
    const Linear *l = arg;
    float *tile = cv_cpu_scratch(l->cpu, worker);

    for (int64_t i = first; i < last; i++) {
        int64_t t = i / l->col_tiles, col = i % l->col_tiles * l->cols;
        int64_t row = l->n * t / l->row_tiles;
        int64_t rows = l->n * (t + 1) / l->row_tiles - row;
        int64_t cols = cv_min(l->cols, l->out - col);

#if CV_HAVE_BLAS
        if (l->cpu->blas)
            blas_product(l, tile, row, rows, col, cols);
        else
#endif
            product(l, tile, row, rows, col, cols);
        finish(l, tile, row, rows, col, cols);
    }
}

int cv_cpu_linear(CvBackend *b, const CvLinear *a)
{
    CvCpu *cpu = cv_cpu(b);
    int64_t n = a->x->dim[0];
    Linear l = {
        .cpu = cpu, .epilogue = a->epilogue, .n = n, .in = a->x->dim[1],
        .out = a->weight->dim[0],
        .row_tiles = (n + TILE_ROWS - 1) / TILE_ROWS,
        .x = a->x->data, .weight = a->weight->data,
        .bias = a->bias ? a->bias->data : NULL,
        .other = a->other ? a->other->data : NULL, .y = a->out->data,
    };

    l.copy = !cpu->blas && n > 4 && cv_cpu_bad_step(l.in);
    l.cols = cpu->blas ? BLAS_COLS : cpu->kernels->panel;
    if (l.copy) /* make use of the copy, but leave work for all threads */
        l.cols *= l.row_tiles * l.out >= 32 * l.cols ? 4 : 2;
    l.col_tiles = (l.out + l.cols - 1) / l.cols;
    if (a->epilogue == CV_EPI_GATE_ADD) {
        l.gate = (const float *)a->mod->data + a->gate_row * l.out;
        l.group_rows = n / a->mod->dim[0];
        l.group_step = a->mod->dim[1] * l.out;
    }
    cv_cpu_run(cpu, l.row_tiles * l.col_tiles, 1, linear_job, &l);
    return 0;
}

/* ---- add_product ---- */

typedef struct AddProduct {
    const CvCpu *cpu;
    int64_t n, k, d; /* left [n, k], right [k, d] */
    const float *left, *right;
    float scale;
    float *out;
} AddProduct;

/* Items are tiles of rows. The left side is scaled on its way to scratch; the
 * sums of a tile are added last (kernels.h), so there is one rounding of what
 * is added to. */
static void add_product_job(void *arg, int64_t first, int64_t last, int worker)
{
    const AddProduct *a = arg;
    const CvKernels *kernels = a->cpu->kernels;
    float *left = cv_cpu_scratch(a->cpu, worker);
    float *right = left + ADD_ROWS * TILE_K;
    const float *rows = left;

    for (int64_t k = 0; k < a->k; k += TILE_K) {
        int64_t row = first * ADD_ROWS, length = cv_min(TILE_K, a->k - k);
        int64_t end = cv_min(last * ADD_ROWS, a->n);

        for (; row < end; row += ADD_ROWS) {
            CvGemm g = { .m = cv_min(ADD_ROWS, end - row), .k = length,
                         .n_parts = 1, .a = &rows, .a_row = length, .a_k = 1,
                         .b = right, .b_row = kernels->panel,
                         .c_row = a->d, .add = 1 };

            for (int64_t i = 0; i < g.m; i++)
                for (int64_t j = 0; j < length; j++)
                    left[i * length + j] =
                        a->scale * a->left[(row + i) * a->k + k + j];
            for (int64_t col = 0; col < a->d; col += kernels->panel) {
                g.n = cv_min(kernels->panel, a->d - col);
                g.c = a->out + row * a->d + col;
                memset(right, 0, (size_t)(length * kernels->panel) *
                       sizeof(*right));
                cv_cpu_copy_rows(right, kernels->panel,
                                 a->right + k * a->d + col, a->d, length,
                                 g.n);
                kernels->gemm(&g);
            }
        }
    }
}

int cv_cpu_add_product(CvBackend *b, const CvTensor *out, const CvTensor *left,
                       const CvTensor *right, float scale)
{
    AddProduct a = { .cpu = cv_cpu(b), .n = left->dim[0], .k = left->dim[1],
                     .d = right->dim[1], .left = left->data,
                     .right = right->data, .scale = scale, .out = out->data };

    cv_cpu_run(a.cpu, (a.n + ADD_ROWS - 1) / ADD_ROWS, 1, add_product_job, &a);
    return 0;
}
