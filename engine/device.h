/*
 * The CUDA backend as the engine sees it: a module that is loaded when it is
 * wanted.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#ifndef CV_DEVICE_H
#define CV_DEVICE_H

#include "ops.h"

/* A line that says why a device cannot be used. */
#define CV_WHY_SIZE 320

/* The folder of the library, or of the program that it is linked into, with a
 * slash at its end; "" when it cannot be told. */
#define CV_FOLDER_BYTES 4096
void cv_own_folder(char folder[CV_FOLDER_BYTES]);

/* Changes when CvCudaSettings, CvBackend, CvOps or the arguments of an
 * operation do: a module of another version is refused. */
#define CV_CUDA_ABI 14

/* Device memory that an open backend takes for itself; weights and clips come
 * on top, and what CUDA and its libraries need for their code. */
#define CV_CUDA_OWN_BYTES ((int64_t)136 << 20)

/* Device memory that CUDA takes for code: it loads kernels, ours and those of
 * cuBLASLt, when they are first used. An allowance, since nobody can ask for it:
 * clips of 1.3B and 14B took 11 and 12 MB on an H200 with CUDA 13.0. */
#define CV_CUDA_CODE_BYTES ((int64_t)16 << 20)

/* As much more where attention computes in 8 bits. */
#define CV_CUDA_ATTENTION8_BYTES ((int64_t)32 << 20)

/* Attention of heads of 128 in 8 bits: where the GPU has the kernels (Hopper). */
typedef enum CvAttention8 {
    CV_ATTENTION8_NEVER,
    CV_ATTENTION8_PAYS,   /* where tokens are so many that it is faster */
    CV_ATTENTION8_ALWAYS, /* for tests */
} CvAttention8;

/* In 8 bits, keys and values go in groups of so many tokens, which begin anew in
 * each slot, and in tiles of so many groups; of a head, and of each of its
 * groups, there are so many bytes: cuda/attention8.cuh. */
enum {
    CV_RING8_TOKENS = 64, CV_RING8_TILE = 3,
    CV_RING8_HEAD_BYTES = 2064, CV_RING8_GROUP_BYTES = 8192 + 8704 + 16,
};

static inline int64_t cv_ring8_groups(const CvRing *ring)
{
    return (ring->tokens + CV_RING8_TOKENS - 1) / CV_RING8_TOKENS;
}

/* Groups of a head that there is memory for: whole tiles. */
static inline int64_t cv_ring8_stride(const CvRing *ring)
{
    int64_t groups = ring->slots * cv_ring8_groups(ring);

    return (groups + CV_RING8_TILE - 1) / CV_RING8_TILE * CV_RING8_TILE;
}

/* Measured, with all keys made 8 bits: 4,680 x 4,680 of 12 heads take as long as
 * in bf16; with twice the keys, an eighth less. */
static inline int cv_attention8_pays(int64_t n, int64_t m, int64_t heads)
{
    const double products = (double)n * (double)m;

    return products >= 1600 * ((double)n + 2.0 * (double)m) &&
           products * (double)heads >= 0x1p27;
}

/* CvOps.ring_bytes of a CUDA backend that computes attention so. */
static inline int64_t cv_ring8_bytes(CvAttention8 attention8,
                                     const CvRing *ring)
{
    const int64_t most = 1 << 18; /* queries of a head fit into scratch */

    if (attention8 == CV_ATTENTION8_NEVER || ring->d != 128 ||
        ring->slots < 1 || ring->slots > most || ring->heads < 1 ||
        ring->heads > most || ring->tokens < 1 || ring->tokens > most ||
        ring->slots * ring->tokens > INT32_MAX / 2 ||
        (attention8 == CV_ATTENTION8_PAYS &&
         !cv_attention8_pays(ring->tokens, ring->slots * ring->tokens,
                             ring->heads)))
        return 0;
    return ring->heads * (CV_RING8_HEAD_BYTES + cv_ring8_stride(ring) *
                          CV_RING8_GROUP_BYTES);
}

/* What linears compute in 8 bits. */
typedef enum CvFp8 {
    CV_FP8_NEVER,    /* nothing; weights in fp8 are made bf16 */
    CV_FP8_PRODUCTS, /* weights that are in fp8 are multiplied so, where the GPU
                        and its libraries do that (CvBackend.product) */
    CV_FP8_ALL,      /* and all weights of blocks become fp8 */
} CvFp8;

/*
 * Code that no GPU has run yet, and that is used only where it is asked for
 * (docs/kernels.md, Trials): by the environment variable CAUSVID_CUDA_TRIALS,
 * "1" for all or names separated by commas, and by tests.
 */
typedef enum CvTrials {
    CV_TRIAL_PRODUCT8 = 1 << 0, /* "product8": a product that ends in fp8 */
    CV_TRIAL_RING8    = 1 << 1, /* "ring8": a causal ring in 8 bits */
    CV_TRIAL_UPLOADS  = 1 << 2, /* "uploads": beside operations */
    CV_TRIAL_OUTPUTS8 = 1 << 3, /* "outputs8": attention's output in fp8 */
    CV_TRIAL_LAUNCHES = 1 << 4, /* "launches": kernels begin early */
    CV_TRIAL_GRAPHS   = 1 << 5, /* "graphs": layers in batches */
    CV_TRIALS_ALL     = (1 << 6) - 1,
} CvTrials;

/* What the environment asks for. EINVAL: a name that is none; log may be
 * NULL. */
int cv_trials(unsigned *trials, CvLog *log);

/* How to open the CUDA backend. */
typedef struct CvCudaSettings {
    int abi;              /* CV_CUDA_ABI; stays the first field */
    int gpu;              /* ordinal, when there is no context */
    void *context;        /* the caller's CUcontext, or NULL: the primary */
    void *stream;         /* the caller's CUstream, or NULL */
    int64_t memory_bytes; /* most device memory to take; 0: what is free */
    int float32;          /* compute in float32 instead of bf16 */
    int generic;          /* no sm_90a kernels, even where they would run */
    CvAttention8 attention8;
    CvFp8 fp8;            /* without float32 */
    unsigned trials;      /* CvTrials */
} CvCudaSettings;

/* The module's entry, cv_cuda_open(). ENODEV (no usable device, or a module of
 * another version): the reason is in `why`, not logged. Other errors are
 * logged. */
typedef int CvCudaOpen(CvBackend **backend, const CvCudaSettings *settings,
                       char why[CV_WHY_SIZE], CvLog *log);

/*
 * Find the module libcausvid_cuda.so, load it and open a backend. Looked for
 * in this order: what the environment variable CAUSVID_CUDA_MODULE names
 * (nothing else, then), beside this library or program, in ../lib of that,
 * where the system's loader looks.
 * ENOSYS: there is no module; otherwise as CvCudaOpen. A module that exists
 * and cannot be loaded (libraries of CUDA are missing) is ENODEV.
 */
int cv_device_open(CvBackend **backend, const CvCudaSettings *settings,
                   char why[CV_WHY_SIZE], CvLog *log);

#endif /* CV_DEVICE_H */
