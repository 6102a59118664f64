/*
 * What the files of the CPU backend share.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * Every operation works in float32. Work is cut into chunks whose borders
 * depend on shapes only (threads.h), and a chunk's arithmetic does not depend
 * on its neighbours, so results do not depend on the number of threads.
 * Arguments were checked by ops.c.
 */
#ifndef CV_CPU_H
#define CV_CPU_H

#include "ops.h"
#include "cpu/kernels.h"
#include "cpu/threads.h"

/* Scratch of each thread, taken at open: the bound on what operations use
 * besides their tensors. */
#define CV_CPU_SCRATCH ((int64_t)384 * 1024) /* floats */

typedef struct CvCpu {
    CvBackend base; /* first, so that a CvBackend * is a CvCpu * */
    const CvKernels *kernels;
    CvPool *pool;
    int blas;       /* linear uses BLAS */
    float *scratch; /* CV_CPU_SCRATCH floats for each thread */
} CvCpu;

static inline CvCpu *cv_cpu(CvBackend *b)
{
    return (CvCpu *)b;
}

static inline float *cv_cpu_scratch(const CvCpu *cpu, int worker)
{
    return cpu->scratch + worker * CV_CPU_SCRATCH;
}

/* Run a loop on all threads; arg: the struct that the job casts it to. */
static inline void cv_cpu_run(const CvCpu *cpu, int64_t n, int64_t grain,
                              CvJob job, void *arg)
{
    cv_pool_run(cpu->pool, n, grain, job, arg);
}

/* cv_cpu_open() with the kernels of that name (kernels.h), and with BLAS or
 * without; for tests. ENOSYS where they cannot be had. */
int cv_cpu_open_kernels(CvBackend **backend, int threads, const char *kernels,
                        int blas, CvLog *log);

static inline int64_t cv_min(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static inline int64_t cv_max(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* Rows of `row` elements that make a chunk worth handing to a thread. */
static inline int64_t cv_cpu_grain(int64_t row)
{
    return cv_max(1, 16384 / cv_max(row, 1));
}

/* Rows this far apart fall into so few sets of a first-level cache that the
 * rows a product reads at once throw each other out (measured: a third of the
 * speed). They are copied to rows that are not. */
static inline int cv_cpu_bad_step(int64_t floats)
{
    return floats % 512 == 0;
}

/* dst[rows, n] = src, rows dst_row and src_row apart. */
void cv_cpu_copy_rows(float *dst, int64_t dst_row, const float *src,
                      int64_t src_row, int64_t rows, int64_t n);

/* The table's entries, by file. */

/* upload.c */
int cv_cpu_upload(CvBackend *b, const CvTensor *dst, const CvSource *src,
                  CvType src_type, const void *tag);
int cv_cpu_uploaded(CvBackend *b, const void **bad);

/* blocks.c: from a type with blocks. 1 when a value is NaN or infinite. */
int cv_cpu_decode_blocks(float *dst, const uint8_t *src, CvType type,
                         int64_t blocks);

/* random.c */
int cv_cpu_random(CvBackend *b, const CvTensor *dst, uint64_t seed,
                  float scale);

/* linear.c, attention.c, conv.c */
int cv_cpu_linear(CvBackend *b, const CvLinear *a);
int cv_cpu_add_product(CvBackend *b, const CvTensor *out, const CvTensor *left,
                       const CvTensor *right, float scale);
int cv_cpu_attention(CvBackend *b, const CvAttention *a);
int cv_cpu_conv3d(CvBackend *b, const CvConv3d *a);

/* norm.c */
int cv_cpu_rms_norm(CvBackend *b, const CvTensor *out, const CvTensor *x,
                    const CvTensor *weight, float eps);
int cv_cpu_norm_modulate(CvBackend *b, const CvTensor *out,
                         const CvTensor *out_scale, const CvTensor *x,
                         const CvTensor *mod, int shift_row, int scale_row,
                         float eps);
int cv_cpu_layer_norm(CvBackend *b, const CvTensor *out,
                      const CvTensor *out_scale, const CvTensor *x,
                      const CvTensor *weight, const CvTensor *bias, float eps);
int cv_cpu_qk_norm_rope(CvBackend *b, const CvQkNormRope *a);
int cv_cpu_norm_silu(CvBackend *b, const CvTensor *out, const CvTensor *x,
                     const CvTensor *gamma, int silu);

/* embed.c */
int cv_cpu_embed(CvBackend *b, const CvTensor *out, const CvTensor *table,
                 const CvTensor *scale, const CvTensor *ids);
int cv_cpu_t5_bias(CvBackend *b, const CvTensor *out, const CvTensor *table);
int cv_cpu_timestep_embedding(CvBackend *b, const CvTensor *out,
                              const CvTensor *t);
int cv_cpu_modulation(CvBackend *b, const CvTensor *out, const CvTensor *table,
                      const CvTensor *x);
int cv_cpu_rope_table(CvBackend *b, const CvTensor *out, int64_t first_frame,
                      int frames, int h, int w);

/* elementwise.c */
int cv_cpu_silu(CvBackend *b, const CvTensor *out, const CvTensor *x);
int cv_cpu_combine(CvBackend *b, const CvTensor *out, const CvTerm *terms,
                   int n_terms);
int cv_cpu_convert(CvBackend *b, const CvTensor *out, const CvTensor *x);
int cv_cpu_check(CvBackend *b, const CvTensor *t, float *largest);
int cv_cpu_largest(CvBackend *b, const CvTensor *largest, const CvTensor *x);

/* layout.c */
int cv_cpu_patchify(CvBackend *b, const CvTensor *out, const CvTensor *x);
int cv_cpu_unpatchify(CvBackend *b, const CvTensor *out, const CvTensor *x);
int cv_cpu_soft_clamp(CvBackend *b, const CvTensor *out, const CvTensor *x,
                      float limit);
int cv_cpu_split_frames(CvBackend *b, const CvTensor *out, const CvTensor *x);
int cv_cpu_to_channels_last(CvBackend *b, const CvTensor *out,
                            const CvTensor *x, const float *mul,
                            const float *add);
int cv_cpu_to_channels_first(CvBackend *b, const CvTensor *out,
                             const CvTensor *x, const float *mul,
                             const float *add);

/* picture.c */
int cv_cpu_to_picture(CvBackend *b, const CvPictureArgs *a);

#endif /* CV_CPU_H */
