/*
 * Device memory, and what is done to it as a whole.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#include <stdlib.h>
#include <string.h>

#include "host.h"

cudaError_t cv_cuda_memory_open(CvCuda *cuda)
{
    struct CvCudaHost *host = cuda->host;
    const size_t words = (CV_CUDA_TAGS + 1) * sizeof(*host->words);
    cudaError_t error = cv_cuda_ring_open(cuda);

    if (!error)
        error = cudaMalloc((void **)&host->words, words);
    if (!error)
        error = cudaMemsetAsync(host->words, 0, words, cuda->stream);
    if (!error)
        error = cudaMallocHost((void **)&host->words_host, words);
    if (!error)
        error = cudaMalloc(&host->picture, CV_CUDA_PICTURE);
    if (!error)
        error = cudaMallocHost(&host->picture_host, CV_CUDA_PICTURE);
    if (!error)
        error = cudaEventCreateWithFlags(&host->drawn,
                                         cudaEventDisableTiming);
    return error;
}

void cv_cuda_memory_close(CvCuda *cuda)
{
    struct CvCudaHost *host = cuda->host;

    while (host->blocks)
        cv_cuda_release(&cuda->base, host->blocks->data);
    cv_cuda_ring_close(cuda);
    cudaFree(host->words);
    cudaFreeHost(host->words_host);
    cudaFree(host->picture);
    cudaFreeHost(host->picture_host);
    if (host->drawn)
        cudaEventDestroy(host->drawn);
}

int cv_cuda_alloc(CvBackend *b, size_t bytes, void **data)
{
    struct CvCudaHost *host = cv_cuda(b)->host;
    CvCudaBlock *block;
    cudaError_t error;

    *data = NULL;
    if (!bytes)
        bytes = 1;
    if (bytes > PTRDIFF_MAX / 2 ||
        (host->budget && ((int64_t)bytes > host->budget - host->taken)) ||
        !(block = malloc(sizeof(*block))))
        return CAUSVID_ERR(ENOMEM);
    error = cudaMalloc(data, bytes);
    if (error) {
        free(block);
        *data = NULL;
        cudaGetLastError(); /* the caller says it; the next call starts clean */
        return error == cudaErrorMemoryAllocation ? CAUSVID_ERR(ENOMEM) :
               cv_cuda_check(cv_cuda(b), error, "allocation");
    }
    *block = (CvCudaBlock){ host->blocks, *data, bytes };
    host->blocks = block;
    host->taken += (int64_t)bytes;
    return 0;
}

void cv_cuda_release(CvBackend *b, void *data)
{
    struct CvCudaHost *host = cv_cuda(b)->host;

    for (CvCudaBlock **at = &host->blocks; *at; at = &(*at)->next) {
        CvCudaBlock *block = *at;

        if (block->data != data)
            continue;
        *at = block->next;
        host->taken -= (int64_t)block->bytes;
        free(block);
        break;
    }
    cudaFree(data);
}

int cv_cuda_zero(CvBackend *b, const CvTensor *t)
{
    CvCuda *cuda = cv_cuda(b);

    return cv_cuda_check(cuda, cudaMemsetAsync(t->data, 0,
                                               (size_t)cv_tensor_bytes(t),
                                               cuda->stream), "a memset");
}

int cv_cuda_copy(CvBackend *b, const CvTensor *dst, const CvTensor *src)
{
    CvCuda *cuda = cv_cuda(b);
    cudaError_t error;

    error = cudaMemcpyAsync(dst->data, src->data,
                            (size_t)cv_tensor_bytes(src),
                            cudaMemcpyDeviceToDevice, cuda->stream);
    return cv_cuda_check(cuda, error, "a copy");
}

int cv_cuda_finish(CvBackend *b)
{
    CvCuda *cuda = cv_cuda(b);

    return cv_cuda_check(cuda, cudaStreamSynchronize(cuda->stream),
                         "waiting for the GPU");
}

int cv_cuda_memory(CvBackend *b, CvMemory *memory)
{
    CvCuda *cuda = cv_cuda(b);
    struct CvCudaHost *host = cuda->host;
    size_t available = 0, total = 0;
    cudaError_t error = cudaMemGetInfo(&available, &total);
    int64_t code; /* still to come */

    memory->used   = (int64_t)(total - available);
    memory->before = host->before;
    memory->taken  = host->taken;
    /* What is in use and neither was before nor is ours is code by now, so
     * that what fits at one time fits later too. Others may have taken it, or
     * given something back. */
    code = CV_CUDA_CODE_BYTES - (memory->used - host->before - host->taken);
    if (code > CV_CUDA_CODE_BYTES)
        code = CV_CUDA_CODE_BYTES;
    if (code < 0)
        code = 0;
    memory->room = (int64_t)available > code ? (int64_t)available - code : 0;
    if (host->budget)
        memory->budget = host->budget;
    return cv_cuda_check(cuda, error, "asking for the memory");
}

int cv_cuda_largest_of(CvBackend *b, const CvTensor *largest,
                       const CvTensor *x)
{
    return cv_cuda_largest(cv_cuda(b), x, largest->data);
}

int cv_cuda_check_values(CvBackend *b, const CvTensor *t, float *largest)
{
    CvCuda *cuda = cv_cuda(b);
    unsigned bits;
    int err;

    if ((err = cv_cuda_clear_word(cuda)) < 0 ||
        (err = cv_cuda_largest(cuda, t, cuda->host->words +
                               CV_CUDA_TAGS)) < 0 ||
        (err = cv_cuda_read_word(cuda, &bits)) < 0)
        return err;
    memcpy(largest, &bits, sizeof(*largest));
    return 0;
}
