/*
 * What the files of the CUDA backend share.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * Activations (A) and weights (W) are bf16, or float32 for checking; sums and
 * statistics are float32. Arguments were checked by engine/ops.c. Operations
 * are launched on one stream and return at once; a failed launch is EIO, and
 * so is every later call once the device has faulted.
 *
 * The files are C11 (host code) and CUDA C++ (kernels and the operations that
 * launch them). The same files are compiled for the CPU by tests/emulator,
 * where a launch runs the threads of a block as coroutines: so kernels say
 * CV_LAUNCH and CV_DYNAMIC_SHARED (launch.cuh), and use the instructions that
 * CUDA C++ has no name for only through ptx.cuh.
 */
#ifndef CV_CUDA_H
#define CV_CUDA_H

#include <cuda_runtime.h>

#include "log.h" /* has C++ of its own */

#ifdef __cplusplus
extern "C" {
#endif

#include "device.h"
#include "ops.h"

/* Scratch of operations, taken at open: split results that a second kernel
 * finishes. An operation that needs more works in pieces. */
#define CV_CUDA_SCRATCH ((size_t)64 << 20)

/* More of it, where attention computes in 8 bits and keeps heads so. */
#define CV_CUDA_SCRATCH8 ((size_t)32 << 20)

/* Workspace of cuBLASLt. */
#define CV_CUDA_WORKSPACE ((size_t)32 << 20)

typedef struct CvCuda {
    CvBackend base;        /* first, so that a CvBackend * is a CvCuda * */
    int device;            /* ordinal */
    int capability;        /* 10 * major + minor */
    int processors;        /* multiprocessors */
    int shared_bytes;      /* most dynamic shared memory of a thread block */
    int hopper;            /* use the sm_90a kernels */
    int early;             /* launch kernels early: launch.cuh */
    unsigned trials;         /* CvTrials */
    CvAttention8 attention8; /* attention in 8 bits; not 0: also hopper */
    void *context;         /* CUcontext: the caller's, or the primary */
    cudaStream_t stream;   /* operations */
    cudaStream_t pictures; /* to_picture into host memory */
    cudaStream_t caller;   /* the caller's stream, may be NULL */
    void *scratch;         /* CV_CUDA_SCRATCH bytes, for `stream` alone */
    size_t scratch_bytes;  /* what it has, CV_CUDA_SCRATCH8 included */
    struct CvCudaHost *host; /* backend.c: staging buffers, events */
    struct CvCudaBlas *blas; /* linear.c: handle, plans, workspace */
} CvCuda;

static inline CvCuda *cv_cuda(CvBackend *b)
{
    return (CvCuda *)b;
}

/* The module's only visible symbol; device.h says what it does. backend.c */
CAUSVID_API int cv_cuda_open(CvBackend **backend,
                             const CvCudaSettings *settings,
                             char why[CV_WHY_SIZE], CvLog *log);

/* EIO, with a log line: an error the first time only. */
int cv_cuda_fail(CvCuda *cuda, const char *what, const char *why);
/* 0, or this. */
int cv_cuda_check(CvCuda *cuda, cudaError_t error, const char *what);

/* ---- the table's entries, by file ---- */

/* memory.c */
int cv_cuda_alloc(CvBackend *b, size_t bytes, void **data);
void cv_cuda_release(CvBackend *b, void *data);
int cv_cuda_zero(CvBackend *b, const CvTensor *t);
int cv_cuda_copy(CvBackend *b, const CvTensor *dst, const CvTensor *src);
int cv_cuda_finish(CvBackend *b);
int cv_cuda_memory(CvBackend *b, CvMemory *memory);

/* graphs.c */
int cv_cuda_batch(CvBackend *b, int on);
void cv_cuda_graphs_close(CvCuda *cuda);

/* upload.c */
int cv_cuda_upload(CvBackend *b, const CvTensor *dst, const CvSource *src,
                   CvType src_type, const void *tag);
int cv_cuda_uploaded(CvBackend *b, const void **bad);
int cv_cuda_mark(CvBackend *b);
int cv_cuda_ahead(CvBackend *b, int on);
int cv_cuda_download(CvBackend *b, float *dst, const CvTensor *src);

/* memory.c; its kernel is in reduce.cu: *bits (device, 0 before) becomes the
 * bits of the largest absolute value, above those of infinity with a NaN. */
int cv_cuda_check_values(CvBackend *b, const CvTensor *t, float *largest);
int cv_cuda_largest_of(CvBackend *b, const CvTensor *largest,
                       const CvTensor *x);
int cv_cuda_largest(CvCuda *cuda, const CvTensor *t, unsigned *bits);

/* linear.c */
int cv_cuda_linear(CvBackend *b, const CvLinear *a);
int cv_cuda_add_product(CvBackend *b, const CvTensor *out,
                        const CvTensor *left, const CvTensor *right,
                        float scale);

/* attention8_ring.cu; the second: qk_norm_rope into a ring */
int64_t cv_cuda_ring_bytes(CvBackend *b, const CvRing *ring);
int cv_cuda_write_ring(CvBackend *b, const CvQkNormRope *a);

/* attention.cu, conv.cu */
int cv_cuda_attention(CvBackend *b, const CvAttention *a);
int cv_cuda_conv3d(CvBackend *b, const CvConv3d *a);

/* norm.cu */
int cv_cuda_rms_norm(CvBackend *b, const CvTensor *out, const CvTensor *x,
                     const CvTensor *weight, float eps);
int cv_cuda_norm_modulate(CvBackend *b, const CvTensor *out,
                          const CvTensor *out_scale, const CvTensor *x,
                          const CvTensor *mod, int shift_row, int scale_row,
                          float eps);
int cv_cuda_layer_norm(CvBackend *b, const CvTensor *out,
                       const CvTensor *out_scale, const CvTensor *x,
                       const CvTensor *weight, const CvTensor *bias,
                       float eps);
int cv_cuda_qk_norm_rope(CvBackend *b, const CvQkNormRope *a);
int cv_cuda_norm_silu(CvBackend *b, const CvTensor *out, const CvTensor *x,
                      const CvTensor *gamma, int silu);

/* embed.cu */
int cv_cuda_embed(CvBackend *b, const CvTensor *out, const CvTensor *table,
                  const CvTensor *scale, const CvTensor *ids);
int cv_cuda_t5_bias(CvBackend *b, const CvTensor *out, const CvTensor *table);
int cv_cuda_timestep_embedding(CvBackend *b, const CvTensor *out,
                               const CvTensor *t);
int cv_cuda_modulation(CvBackend *b, const CvTensor *out,
                       const CvTensor *table, const CvTensor *x);
int cv_cuda_rope_table(CvBackend *b, const CvTensor *out, int64_t first_frame,
                       int frames, int h, int w);

/* elementwise.cu */
int cv_cuda_silu(CvBackend *b, const CvTensor *out, const CvTensor *x);
int cv_cuda_combine(CvBackend *b, const CvTensor *out, const CvTerm *terms,
                    int n_terms);
int cv_cuda_convert(CvBackend *b, const CvTensor *out, const CvTensor *x);

/* What linear.c does to a product that cuBLASLt has no epilogue for: of a->out
 * rows [row, row + n) and columns [first, first + width) =
 * epilogue(y + bias), y: float32 [n, width]. */
int cv_cuda_epilogue(CvCuda *cuda, const CvLinear *a, int64_t row, int64_t n,
                     int64_t first, int64_t width, const float *y);

/* fp8.cu */
int cv_cuda_quantise(CvBackend *b, const CvTensor *out, const CvTensor *scale,
                     const CvTensor *x);

int cv_cuda_scale_rows(CvBackend *b, const CvTensor *x, const CvTensor *scale);
/* quantise.cu. Rows of bf16 -> E4M3 with a scale for each: P of ops.h. */
int cv_cuda_narrow(CvCuda *cuda, void *out, void *scale, const void *x,
                   int64_t rows, int64_t columns);
/* out_scale[n] = scale * gate, and, where there is a bias (float32 or bf16),
 * out_bias[n] (bf16) = bias * gate; gate: float32 or NULL, for ones. */
int cv_cuda_gate_scales(CvCuda *cuda, float *out_scale, void *out_bias,
                        const void *scale, const CvTensor *bias,
                        const float *gate, int64_t n);
/* y[n, o] (float32) = x_scale[n] * w_scale[o] * x[n, i] w[o, i]^T, x and w in
 * E4M3: for sizes that cuBLASLt does not take. */
int cv_cuda_plain_product(CvCuda *cuda, void *y, const void *x,
                          const void *x_scale, const void *w,
                          const void *w_scale, int64_t n, int64_t o, int64_t i);

/* product8.cu. Linear from P to P, on Hopper. ENOSYS, not logged: not of such
 * sizes, at such addresses, on this GPU. */
int cv_cuda_product8(CvCuda *cuda, const CvLinear *a);

/* fp8.cu. Rows of a matrix: out (bf16 [rows, columns]) = scale[row] * src; at
 * most 2^31 elements. */
int cv_cuda_from_fp8(CvCuda *cuda, void *out, const void *src, CvType type,
                     const float *scale, int64_t rows, int64_t columns);
/* n bytes of fp8 as they are; *bad (device) is set to 1 by one that is NaN or
 * infinite. */
int cv_cuda_copy_fp8(CvCuda *cuda, void *dst, const void *src, CvType type,
                     int64_t n, int *bad);

/* n elements at src (device, src_type) -> dst (device, dst_type), rounded to
 * nearest even; *bad (device) is set to 1 where one is NaN or infinite. */
int cv_cuda_cast(CvCuda *cuda, void *dst, CvType dst_type, const void *src,
                 CvType src_type, int64_t n, int *bad);

/* The same from a type with blocks, of which n is a multiple; blocks.cu. */
int cv_cuda_decode_blocks(CvCuda *cuda, void *dst, CvType dst_type,
                          const void *src, CvType src_type, int64_t n,
                          int *bad);

/* random.cu */
int cv_cuda_random(CvBackend *b, const CvTensor *dst, uint64_t seed,
                   float scale);

/* layout.cu */
int cv_cuda_patchify(CvBackend *b, const CvTensor *out, const CvTensor *x);
int cv_cuda_unpatchify(CvBackend *b, const CvTensor *out, const CvTensor *x);
int cv_cuda_soft_clamp(CvBackend *b, const CvTensor *out, const CvTensor *x,
                       float limit);
int cv_cuda_split_frames(CvBackend *b, const CvTensor *out, const CvTensor *x);
int cv_cuda_to_channels_last(CvBackend *b, const CvTensor *out,
                             const CvTensor *x, const float *mul,
                             const float *add);
int cv_cuda_to_channels_first(CvBackend *b, const CvTensor *out,
                              const CvTensor *x, const float *mul,
                              const float *add);

/* transfer of pictures: pictures.c; its kernel is in picture.cu: planes are
 * device memory. */
int cv_cuda_to_picture(CvBackend *b, const CvPictureArgs *a);
int cv_cuda_reuse_frames(CvBackend *b);
int cv_cuda_draw_picture(CvCuda *cuda, const CvTensor *frame,
                         const CausvidPicture *planes, cudaStream_t stream);

#ifdef __cplusplus
}
#endif

#endif /* CV_CUDA_H */
