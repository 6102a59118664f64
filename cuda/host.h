/*
 * The host's side of the CUDA backend: what its C files share.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#ifndef CV_CUDA_HOST_H
#define CV_CUDA_HOST_H

#include <stdatomic.h>

#include "cuda.h"

/* One of the two halves of the way of uploads and downloads, and the room for
 * a picture on its way to the host; all taken at open. */
#define CV_CUDA_CHUNK ((size_t)16 << 20)
#define CV_CUDA_PICTURE ((size_t)8 << 20)

/* A block of device memory that was given out. */
typedef struct CvCudaBlock {
    struct CvCudaBlock *next;
    void *data;
    size_t bytes;
} CvCudaBlock;

struct CvCudaHost {
    /* of the driver; CUcontext is a pointer, CUresult and CUdevice are int */
    int (*push)(void *context);
    int (*pop)(void **context);
    int (*retain)(void **context, int device);
    int (*release)(int device);
    int (*state)(int device, unsigned *flags, int *active);
    int (*set_flags)(int device, unsigned flags);
    int retained;              /* the primary context, by us */

    atomic_int failed;         /* an error was logged */

    /* memory.c; used by one thread at a time */
    void *pinned[2];           /* host, CV_CUDA_CHUNK */
    void *staging[2];          /* device, CV_CUDA_CHUNK */
    cudaEvent_t sent[2];       /* pinned[i] has been copied */
    int turn;
    unsigned *word;            /* device: flag of cv_cuda_cast, or a result */
    unsigned *word_host;       /* pinned */
    int64_t budget;            /* bytes, 0: none */
    int64_t taken;             /* the backend's own included */
    int64_t before;            /* of the device, before anything was taken */
    CvCudaBlock *blocks;

    /* pictures.c; used by the thread that reads frames */
    void *picture;             /* device, CV_CUDA_PICTURE */
    void *picture_host;        /* pinned */
    cudaEvent_t drawn;         /* on the caller's stream: a picture is */
    atomic_int any_drawn;
};

/* memory.c: the rings; 0 or the error of CUDA. Free what was taken, also after
 * a failure. */
cudaError_t cv_cuda_memory_open(CvCuda *cuda);
void cv_cuda_memory_close(CvCuda *cuda);

/* linear.c. open: 0, or an error with a line in `why`. */
int cv_cuda_blas_open(CvCuda *cuda, char why[CV_WHY_SIZE]);
void cv_cuda_blas_close(CvCuda *cuda);

#endif /* CV_CUDA_HOST_H */
