/*
 * The host's side of the CUDA backend: what its C files share.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#ifndef CV_CUDA_HOST_H
#define CV_CUDA_HOST_H

#include <stdatomic.h>

#include "cpu/threads.h"
#include "cuda.h"

/* The way of uploads and downloads, and the room for a picture on its way to
 * the host, on both sides; all taken at open. */
#define CV_CUDA_RING ((size_t)32 << 20)
#define CV_CUDA_PICTURE ((size_t)8 << 20)

/* Of the ring: the most that is sent at once, and how many may be under way. */
#define CV_CUDA_PIECE ((size_t)4 << 20)
#define CV_CUDA_PIECES 64

/* Uploads whose values have been looked at on the device, and nobody has asked
 * yet what was found. */
#define CV_CUDA_TAGS 4096

/* Graphs that are kept: for batches of different lengths. */
#define CV_CUDA_GRAPHS 4

/* A block of device memory that was given out. */
typedef struct CvCudaBlock {
    struct CvCudaBlock *next;
    void *data;
    size_t bytes;
} CvCudaBlock;

/* A part of the ring that is in use. */
typedef struct CvCudaPiece {
    uint8_t *pinned, *staging; /* host and device */
    size_t bytes;              /* and what was skipped before it */
    size_t before;             /* CvCudaRing.head */
    cudaEvent_t sent;          /* it was copied */
    cudaEvent_t done;          /* and needed no more */
} CvCudaPiece;

/* ring.c. Pieces are taken, used and freed in this order, counted from the
 * first one on. */
typedef struct CvCudaRing {
    uint8_t *pinned, *staging; /* CV_CUDA_RING */
    cudaStream_t stream;       /* pinned -> staging */
    size_t head;               /* behind the piece taken last */
    size_t bytes;              /* from the oldest piece to there */
    uint64_t taken, used, freed;
    CvCudaPiece pieces[CV_CUDA_PIECES];
} CvCudaRing;

/* A graph that can be launched: graphs.c. */
typedef struct CvCudaGraph {
    cudaGraphExec_t exec;
    size_t nodes;
    uint64_t used;             /* when; 0: there is none */
} CvCudaGraph;

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

    /* upload.c, memory.c; used by one thread at a time */
    CvCudaRing ring;
    CvPool *pool;              /* fills the ring while a model is loaded */
    uint64_t direct[2];        /* the last pieces that took no staging */
    unsigned *words;           /* device [CV_CUDA_TAGS + 1]: flags of
                                  cv_cuda_cast; the last: also for results */
    unsigned *words_host;      /* pinned */
    const void *tags[CV_CUDA_TAGS];
    int n_tags;
    const void *bad_tag;       /* of those that were asked for */
    cudaEvent_t marked, loaded; /* cv_cuda_mark(), the end of cv_cuda_ahead() */
    cudaStream_t engine;       /* while uploads run ahead: that of all else */
    int batch;                 /* the engine's stream is captured */
    uint64_t batches;          /* so far */
    CvCudaGraph graphs[CV_CUDA_GRAPHS];
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

/* Open the ring. */
cudaError_t cv_cuda_ring_open(CvCuda *cuda);
void cv_cuda_ring_close(CvCuda *cuda);

/* Take the next piece; NULL where there is no room and nobody is to wait, or
 * all of it is taken and not used. */
int cv_cuda_ring_take(CvCuda *cuda, size_t bytes, int wait,
                      CvCudaPiece **piece);

/* The oldest piece that was not used yet is not needed when what was asked of
 * the engine's stream so far is done. */
int cv_cuda_ring_used(CvCuda *cuda);

/* Free the oldest piece: 1; 0 when it is needed still, or there is none. */
int cv_cuda_ring_free(CvCuda *cuda, int wait);

/* After a failure: give back what was taken and not used. */
void cv_cuda_ring_drop(CvCuda *cuda);

/* upload.c: the device's word for results: read it, waiting, or clear it. */
int cv_cuda_read_word(CvCuda *cuda, unsigned *word);
int cv_cuda_clear_word(CvCuda *cuda);

/* memory.c: what is taken at open; 0 or the error of CUDA. Free what was taken,
 * also after a failure. */
cudaError_t cv_cuda_memory_open(CvCuda *cuda);
void cv_cuda_memory_close(CvCuda *cuda);

/* linear.c. open: 0, or an error with a line in `why`. */
int cv_cuda_blas_open(CvCuda *cuda, char why[CV_WHY_SIZE]);
void cv_cuda_blas_close(CvCuda *cuda);

/* linear_fp8.c. Does the library multiply E4M3 with scales of rows here? */
int cv_cuda_has_fp8(CvCuda *cuda);

#endif /* CV_CUDA_HOST_H */
