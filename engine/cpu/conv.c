/*
 * Causal convolution as products of input lines and weights.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * The output is cut into blocks of a few rows. The input lines that a block
 * needs are copied to scratch with their padding (and doubled where up is 2),
 * so that the kw * c numbers under one row of the kernel are contiguous for
 * every output pixel: the matrix product reads them as rows that overlap, and
 * runs over the kt * kh kernel rows without writing its sums back. The copy
 * is kw times smaller than patches would be.
 *
 * Measured on one Zen 5 core with AVX-512: 218 GFLOP/s for 3x3x3 from 16 to 16
 * channels, 230 to 258 for 32 to 96, 170 for 384. Patches and sgemm (OpenBLAS)
 * were tried for 16 channels: 90 for the product alone, 145 with the kernels
 * that it has for other AVX-512 machines.
 */
#include <string.h>

#include "cpu/cpu.h"

enum {
    LINES = 224 * 1024,  /* floats of the lines of a block */
    PACKED = 64 * 1024,  /* floats of packed weights */
    PIXELS = 1024,       /* of a block, at most; a panel wide in scratch */
    RUN = 1024,          /* longest run of a product */
    PARTS = 64,          /* most runs of a product */
};

_Static_assert(LINES + PACKED + PIXELS * CV_MAX_PANEL <= CV_CPU_SCRATCH,
               "scratch");
_Static_assert(RUN * CV_MAX_PANEL <= PACKED, "a run of weights is packed");

typedef struct Conv {
    const CvCpu *cpu;
    int64_t p, t, h, w, c;        /* input */
    int64_t kt, kh, kw, o;
    int64_t to, ho, wo;           /* output */
    int64_t stride_t, stride_s, up, pad_top, pad_left;
    const float *x, *history, *weight, *bias, *add;
    float *out;
    int relu;

    int64_t rows, cols;           /* pixels of a block */
    int64_t row_blocks, col_blocks;
    int64_t groups, group;        /* of panels: number and panels of one */
    int direct;                   /* lines are read where they lie */
} Conv;

typedef struct Block {
    float *lines, *packed, *tile; /* scratch */
    int64_t frame, y, x, rows, cols; /* of the output */
    const float *line[PARTS];     /* of the block's first row, by kernel row */
    int64_t line_step;            /* floats from a line to the next */
} Block;

static const float *frame(const Conv *a, int64_t f)
{
    int64_t size = a->h * a->w * a->c;

    return f < a->p ? a->history + f * size : a->x + (f - a->p) * size;
}

/* Pixels x .. x + n - 1 of row y of the padded input. */
static void copy_line(const Conv *a, float *dst, const float *src, int64_t y,
                      int64_t x, int64_t n)
{
    int64_t width = a->w * a->up, c = a->c;
    size_t pixel = (size_t)c * sizeof(*dst);
    int64_t first, last;

    if (y < 0 || y >= a->h * a->up) {
        memset(dst, 0, (size_t)n * pixel);
        return;
    }
    first = cv_min(cv_max(-x, 0), n);
    last = cv_max(cv_min(width - x, n), first);
    src += y / a->up * a->w * c;
    memset(dst, 0, (size_t)first * pixel);
    if (a->up == 1)
        memcpy(dst + first * c, src + (x + first) * c,
               (size_t)(last - first) * pixel);
    else
        for (int64_t i = first; i < last; i++)
            memcpy(dst + i * c, src + (x + i) / a->up * c, pixel);
    memset(dst + last * c, 0, (size_t)(n - last) * pixel);
}

static void find_lines(const Conv *a, Block *b)
{
    int64_t rows = (b->rows - 1) * a->stride_s + a->kh;
    int64_t cols = (b->cols - 1) * a->stride_s + a->kw;
    int64_t y = b->y * a->stride_s - a->pad_top;
    int64_t x = b->x * a->stride_s - a->pad_left;

    b->line_step = (a->direct ? a->w : cols) * a->c;
    for (int64_t i = 0; i < a->kt; i++) {
        const float *src = frame(a, b->frame * a->stride_t + i);
        float *dst = b->lines + i * rows * b->line_step;

        for (int64_t j = 0; j < a->kh; j++)
            b->line[i * a->kh + j] = a->direct
                ? src + ((y + j) * a->w + x) * a->c : dst + j * b->line_step;
        for (int64_t j = 0; !a->direct && j < rows; j++)
            copy_line(a, dst + j * b->line_step, src, y + j, x, cols);
    }
}

/* Columns col.. of the tile: runs of `run` from `at` on of `parts` kernel rows
 * from `part` on. */
static void add_product(const Conv *a, const Block *b, int64_t col, int64_t n,
                        int64_t part, int64_t parts, int64_t at, int64_t run)
{
    const CvKernels *kernels = a->cpu->kernels;
    int64_t k = a->kw * a->c, taps = a->kt * a->kh;
    int64_t w = n > kernels->lanes ? kernels->panel : kernels->lanes;
    const float *lines[PARTS];
    CvGemm g = { .m = b->cols, .n = n, .k = run, .n_parts = (int)parts,
                 .a = lines, .a_row = a->stride_s * a->c, .a_k = 1,
                 .b = b->packed, .b_row = w, .c_row = kernels->panel,
                 .add = part || at };

    for (int64_t i = 0; i < parts; i++)
        kernels->pack(b->packed + i * run * w, w,
                      a->weight + (col * taps + part + i) * k + at, taps * k,
                      n, run);
    for (int64_t y = 0; y < b->rows; y++) {
        g.c = b->tile + y * b->cols * kernels->panel;
        for (int64_t i = 0; i < parts; i++)
            lines[i] = b->line[part + i] + y * a->stride_s * b->line_step + at;
        kernels->gemm(&g);
    }
}

static void relu(float *y, int64_t y_row, int64_t rows, int64_t n)
{
    for (int64_t r = 0; r < rows; r++, y += y_row)
        for (int64_t i = 0; i < n; i++)
            y[i] = y[i] < 0 ? 0 : y[i];
}

static void write_tile(const Conv *a, const Block *b, int64_t col, int64_t n)
{
    const CvKernels *kernels = a->cpu->kernels;

    for (int64_t y = 0; y < b->rows; y++) {
        int64_t at = (((b->frame * a->ho + b->y + y) * a->wo) + b->x) * a->o +
                     col;
        CvFinish f = { .kind = a->add ? CV_EPI_ADD : CV_EPI_NONE,
                       .rows = b->cols, .n = n, .y = a->out + at,
                       .other = a->add ? a->add + at : NULL, .y_row = a->o,
                       .x = b->tile + y * b->cols * kernels->panel,
                       .x_row = kernels->panel,
                       .bias = a->bias ? a->bias + col : NULL };

        kernels->epilogue(&f);
        if (a->relu)
            relu(f.y, f.y_row, f.rows, f.n);
    }
}

static void conv_block(const Conv *a, Block *b, int64_t group)
{
    int64_t panel = a->cpu->kernels->panel, taps = a->kt * a->kh;
    int64_t run = cv_min(a->kw * a->c, RUN);
    int64_t parts = cv_max(1, PACKED / (run * panel));
    int64_t end = cv_min(a->o, (group + 1) * a->group * panel);

    find_lines(a, b);
    for (int64_t col = group * a->group * panel; col < end; col += panel) {
        int64_t n = cv_min(panel, end - col);

        if (run < a->kw * a->c)
            parts = 1;
        for (int64_t part = 0; part < taps; part += parts)
            for (int64_t at = 0; at < a->kw * a->c; at += run)
                add_product(a, b, col, n, part, cv_min(parts, taps - part),
                            at, cv_min(run, a->kw * a->c - at));
        write_tile(a, b, col, n);
    }
}

static void conv_job(void *arg, int64_t first, int64_t last, int worker)
{
    const Conv *a = arg;
    Block b = { .lines = cv_cpu_scratch(a->cpu, worker) };

    b.packed = b.lines + LINES;
    b.tile = b.packed + PACKED;
    for (int64_t i = first; i < last; i++) {
        int64_t at = i / a->groups, y, x;

        x = at % a->col_blocks;
        at /= a->col_blocks;
        y = at % a->row_blocks;
        b.frame = at / a->row_blocks;
        b.y = a->ho * y / a->row_blocks;
        b.rows = a->ho * (y + 1) / a->row_blocks - b.y;
        b.x = a->wo * x / a->col_blocks;
        b.cols = a->wo * (x + 1) / a->col_blocks - b.x;
        conv_block(a, &b, i % a->groups);
    }
}

static int64_t line_floats(const Conv *a, int64_t rows, int64_t cols)
{
    return a->kt * ((rows - 1) * a->stride_s + a->kh) *
           ((cols - 1) * a->stride_s + a->kw) * a->c;
}

/* Blocks as large as scratch allows: weights are packed once for each. But
 * some work for every thread, unless it is little. */
static int choose_blocks(Conv *a)
{
    enum { ITEMS = 8, FEW = 96 };
    int64_t panels = (a->o + a->cpu->kernels->panel - 1) /
                     a->cpu->kernels->panel;
    int64_t blocks;

    if (a->kt * a->kh > PARTS ||
        (!a->direct && line_floats(a, 1, 1) > LINES))
        return -1;
    a->col_blocks = 1;
    a->cols = a->wo;
    while (a->cols > PIXELS ||
           (!a->direct && line_floats(a, 1, a->cols) > LINES)) {
        a->col_blocks++;
        a->cols = (a->wo + a->col_blocks - 1) / a->col_blocks;
    }
    a->row_blocks = 1;
    a->rows = a->ho;
    while (a->rows > 1 &&
           (a->rows * a->cols > PIXELS ||
            (!a->direct && line_floats(a, a->rows, a->cols) > LINES) ||
            (a->to * a->row_blocks * a->col_blocks < ITEMS &&
             a->rows * a->cols > 2 * FEW))) {
        a->row_blocks++;
        a->rows = (a->ho + a->row_blocks - 1) / a->row_blocks;
    }
    blocks = a->to * a->row_blocks * a->col_blocks;
    a->groups = cv_min(panels, (ITEMS + blocks - 1) / blocks);
    a->group = (panels + a->groups - 1) / a->groups;
    a->groups = (panels + a->group - 1) / a->group;
    return 0;
}

int cv_cpu_conv3d(CvBackend *b, const CvConv3d *a)
{
    const CvTensor *out = a->out ? a->out : a->norm;
    Conv c = {
        .cpu = cv_cpu(b), .p = a->history ? a->history->dim[0] : 0,
        .t = a->x->dim[0], .h = a->x->dim[1], .w = a->x->dim[2],
        .c = a->x->dim[3], .o = a->weight->dim[0], .kt = a->weight->dim[1],
        .kh = a->weight->dim[2], .kw = a->weight->dim[3],
        .to = out->dim[0], .ho = out->dim[1], .wo = out->dim[2],
        .stride_t = a->stride_t, .stride_s = a->stride_s, .up = a->up,
        .pad_top = a->pad_top, .pad_left = a->pad_left, .x = a->x->data,
        .history = a->history ? a->history->data : NULL,
        .weight = a->weight->data, .bias = a->bias ? a->bias->data : NULL,
        .add = a->add ? a->add->data : NULL, .out = out->data,
        .relu = a->relu,
    };

    c.direct = a->up == 1 && !a->pad_top && !a->pad_left && !a->pad_bottom &&
               !a->pad_right;
    if (choose_blocks(&c) < 0)
        return cv_fail(b->log, ENOSYS, "conv3d: %lld channels under a kernel "
                       "of %lldx%lldx%lld are more than the CPU backend takes",
                       (long long)c.c, (long long)c.kt, (long long)c.kh,
                       (long long)c.kw);
    cv_cpu_run(c.cpu, c.to * c.row_blocks * c.col_blocks * c.groups, 1,
               conv_job, &c);
    return a->norm ? cv_cpu_norm_silu(b, a->norm, out, a->gamma, 1) : 0;
}
