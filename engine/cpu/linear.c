/*
 * Linear layers with their epilogues.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#include <math.h>

#include "cpu/cpu.h"

/* The output is cut into tiles of this many rows and columns. */
enum { TILE_ROWS = 256, TILE_COLS = 64 };

typedef struct Linear {
    CvCpu *cpu;
    CvEpilogue epilogue;
    int64_t n, in, out;      /* x [n, in], out [n, out] */
    int64_t row_tiles;
    const float *x, *weight, *bias, *other;
    const float *gate;       /* row gate_row of the first group */
    int64_t group_rows;      /* tokens of a group */
    int64_t group_step;      /* floats from gate to gate */
    float *y;
} Linear;

static float gelu(float x)
{
    return 0.5f * x * (1 + tanhf(0.7978845608028654f *
                                 (x + 0.044715f * x * x * x)));
}

static void finish_row(const Linear *l, int64_t row, int64_t col, int64_t n,
                       float *tile)
{
    float *y = l->y + row * l->out + col;
    const float *other = l->other ? l->other + row * l->out + col : NULL;
    const float *gate;

    if (l->bias)
        for (int64_t i = 0; i < n; i++)
            tile[i] += l->bias[col + i];
    switch (l->epilogue) {
    case CV_EPI_NONE:
        for (int64_t i = 0; i < n; i++)
            y[i] = tile[i];
        break;
    case CV_EPI_GELU:
        for (int64_t i = 0; i < n; i++)
            y[i] = gelu(tile[i]);
        break;
    case CV_EPI_SILU:
        for (int64_t i = 0; i < n; i++)
            y[i] = tile[i] / (1 + expf(-tile[i]));
        break;
    case CV_EPI_MUL:
        for (int64_t i = 0; i < n; i++)
            y[i] = tile[i] * other[i];
        break;
    case CV_EPI_ADD:
        for (int64_t i = 0; i < n; i++)
            y[i] = other[i] + tile[i];
        break;
    case CV_EPI_GATE_ADD:
        gate = l->gate + row / l->group_rows * l->group_step + col;
        for (int64_t i = 0; i < n; i++)
            y[i] = other[i] + gate[i] * tile[i];
        break;
    }
}

static void linear_job(void *arg, int64_t first, int64_t last, int worker)
{
    const Linear *l = arg;
    float *tile = cv_cpu_scratch(l->cpu, worker);

    for (int64_t i = first; i < last; i++) {
        int64_t row = i % l->row_tiles * TILE_ROWS;
        int64_t col = i / l->row_tiles * TILE_COLS;
        int64_t rows = cv_min(TILE_ROWS, l->n - row);
        int64_t cols = cv_min(TILE_COLS, l->out - col);

        cv_cpu_gemm_nt(rows, cols, l->in, l->x + row * l->in, l->in,
                       l->weight + col * l->in, l->in, tile, TILE_COLS, 0);
        for (int64_t r = 0; r < rows; r++)
            finish_row(l, row + r, col, cols, tile + r * TILE_COLS);
    }
}

int cv_cpu_linear(CvBackend *b, const CvLinear *a)
{
    int64_t out = a->weight->dim[0], in = a->weight->dim[1];
    int64_t n = cv_elements(a->x) / cv_max(in, 1);
    Linear l = {
        .cpu = cv_cpu(b), .epilogue = a->epilogue, .n = n, .in = in,
        .out = out, .row_tiles = (n + TILE_ROWS - 1) / TILE_ROWS,
        .x = a->x->data, .weight = a->weight->data,
        .bias = a->bias ? a->bias->data : NULL,
        .other = a->other ? a->other->data : NULL, .y = a->out->data,
    };

    if (a->epilogue == CV_EPI_GATE_ADD) {
        l.gate = (const float *)a->mod->data + a->gate_row * out;
        l.group_rows = n / a->mod->dim[0];
        l.group_step = a->mod->dim[1] * out;
    }
    cv_cpu_run(l.cpu, l.row_tiles * ((out + TILE_COLS - 1) / TILE_COLS), 1,
               linear_job, &l);
    return 0;
}
