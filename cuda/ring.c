/*
 * The ring that everything between host and device goes through.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * Pinned memory, and as much of the device's: what lies at a place of one goes
 * to the same place of the other, on a stream of its own, so that the link does
 * not wait for the kernel that takes it from there. A piece is free again when
 * that kernel has ended. Pieces are as long as they need to be: thousands of
 * small tensors do not take the room of large ones.
 */
#include "host.h"

#define ALIGNMENT ((size_t)256)

cudaError_t cv_cuda_ring_open(CvCuda *cuda)
{
    CvCudaRing *ring = &cuda->host->ring;
    cudaError_t error = cudaMallocHost((void **)&ring->pinned, CV_CUDA_RING);

    if (!error)
        error = cudaMalloc((void **)&ring->staging, CV_CUDA_RING);
    if (!error)
        error = cudaStreamCreateWithFlags(&ring->stream,
                                          cudaStreamNonBlocking);
    if (!error)
        error = cudaEventCreateWithFlags(&cuda->host->marked,
                                         cudaEventDisableTiming);
    if (!error)
        error = cudaEventCreateWithFlags(&cuda->host->loaded,
                                         cudaEventDisableTiming);
    for (int i = 0; i < CV_CUDA_PIECES && !error; i++) {
        CvCudaPiece *piece = &ring->pieces[i];

        error = cudaEventCreateWithFlags(&piece->sent, cudaEventDisableTiming);
        if (!error)
            error = cudaEventCreateWithFlags(&piece->done,
                                             cudaEventDisableTiming);
    }
    return error;
}

void cv_cuda_ring_close(CvCuda *cuda)
{
    CvCudaRing *ring = &cuda->host->ring;

    for (int i = 0; i < CV_CUDA_PIECES; i++) {
        if (ring->pieces[i].sent)
            cudaEventDestroy(ring->pieces[i].sent);
        if (ring->pieces[i].done)
            cudaEventDestroy(ring->pieces[i].done);
    }
    if (cuda->host->marked)
        cudaEventDestroy(cuda->host->marked);
    if (cuda->host->loaded)
        cudaEventDestroy(cuda->host->loaded);
    if (ring->stream)
        cudaStreamDestroy(ring->stream);
    cudaFree(ring->staging);
    cudaFreeHost(ring->pinned);
}

int cv_cuda_ring_free(CvCuda *cuda, int wait)
{
    CvCudaRing *ring = &cuda->host->ring;
    CvCudaPiece *piece = &ring->pieces[ring->freed % CV_CUDA_PIECES];
    cudaError_t error;

    if (ring->freed == ring->used)
        return 0;
    error = wait ? cudaEventSynchronize(piece->done)
                 : cudaEventQuery(piece->done);
    if (error == cudaErrorNotReady) {
        cudaGetLastError(); /* or the next launch takes it for its own */
        return 0;
    }
    if (error)
        return cv_cuda_check(cuda, error, "an upload");
    ring->bytes -= piece->bytes;
    ring->freed++;
    return 1;
}

int cv_cuda_ring_take(CvCuda *cuda, size_t bytes, int wait,
                      CvCudaPiece **taken)
{
    CvCudaRing *ring = &cuda->host->ring;
    CvCudaPiece *piece;
    size_t first, gap;

    *taken = NULL;
    bytes = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    for (;;) {
        int err;

        /* A piece is in one part: what is left behind the last is skipped. */
        first = ring->head;
        gap   = 0;
        if (CV_CUDA_RING - first < bytes) {
            gap   = CV_CUDA_RING - first;
            first = 0;
        }
        if (ring->taken - ring->freed < CV_CUDA_PIECES &&
            ring->bytes + gap + bytes <= CV_CUDA_RING)
            break;
        if ((err = cv_cuda_ring_free(cuda, wait)) <= 0)
            return err;
    }
    piece = &ring->pieces[ring->taken++ % CV_CUDA_PIECES];
    piece->before  = ring->head;
    piece->bytes   = gap + bytes;
    piece->pinned  = ring->pinned + first;
    piece->staging = ring->staging + first;
    ring->head     = first + bytes;
    ring->bytes   += piece->bytes;
    *taken = piece;
    return 0;
}

int cv_cuda_ring_used(CvCuda *cuda)
{
    CvCudaRing *ring = &cuda->host->ring;
    CvCudaPiece *piece = &ring->pieces[ring->used % CV_CUDA_PIECES];
    int err = cv_cuda_check(cuda, cudaEventRecord(piece->done, cuda->stream),
                            "an upload");

    if (!err)
        ring->used++;
    return err;
}

void cv_cuda_ring_drop(CvCuda *cuda)
{
    CvCudaRing *ring = &cuda->host->ring;

    while (ring->taken > ring->used) {
        CvCudaPiece *piece = &ring->pieces[--ring->taken % CV_CUDA_PIECES];

        ring->head   = piece->before;
        ring->bytes -= piece->bytes;
    }
}

/* ---- beside operations ---- */

int cv_cuda_mark(CvBackend *b)
{
    CvCuda *cuda = cv_cuda(b);

    return cuda->trials & CV_TRIAL_UPLOADS ? cv_cuda_check(cuda, cudaEventRecord(
               cuda->host->marked, cuda->stream), "an upload") : 0;
}

/* Everything that is asked for meanwhile goes to the ring's stream. */
int cv_cuda_ahead(CvBackend *b, int on)
{
    CvCuda *cuda = cv_cuda(b);
    struct CvCudaHost *host = cuda->host;
    cudaError_t error;

    if (!(cuda->trials & CV_TRIAL_UPLOADS) || on == (host->engine != NULL))
        return 0;
    if (on) {
        error = cudaStreamWaitEvent(host->ring.stream, host->marked, 0);
        host->engine = cuda->stream;
        cuda->stream = host->ring.stream;
    } else {
        error = cudaEventRecord(host->loaded, host->ring.stream);
        cuda->stream = host->engine;
        host->engine = NULL;
        if (!error)
            error = cudaStreamWaitEvent(cuda->stream, host->loaded, 0);
    }
    return cv_cuda_check(cuda, error, "an upload");
}
