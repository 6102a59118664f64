/*
 * Device memory, and the way between it and the host.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * Host arrays go through two pinned chunks, which the device copies while the
 * next one is filled, and are converted on the device (elementwise.cu).
 * Whether a value is infinite or NaN is found there too and waited for; only
 * float32 arrays of one chunk (noise, a timestep) are looked at on the host,
 * so that uploading them waits for nothing.
 */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "host.h"

/* Threads that fill a pinned chunk, and how much is worth starting them. */
#define COPIERS   4
#define COPY_WIDE ((size_t)4 << 20)

cudaError_t cv_cuda_memory_open(CvCuda *cuda)
{
    struct CvCudaHost *host = cuda->host;
    cudaError_t error = cudaSuccess;

    for (int i = 0; i < 2; i++) {
        if (!error)
            error = cudaMallocHost(&host->pinned[i], CV_CUDA_CHUNK);
        if (!error)
            error = cudaMalloc(&host->staging[i], CV_CUDA_CHUNK);
        if (!error)
            error = cudaEventCreateWithFlags(&host->sent[i],
                                             cudaEventDisableTiming);
    }
    if (!error)
        error = cudaMalloc((void **)&host->word, sizeof(*host->word));
    if (!error)
        error = cudaMallocHost((void **)&host->word_host,
                               sizeof(*host->word_host));
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
    for (int i = 0; i < 2; i++) {
        cudaFreeHost(host->pinned[i]);
        cudaFree(host->staging[i]);
        if (host->sent[i])
            cudaEventDestroy(host->sent[i]);
    }
    cudaFree(host->word);
    cudaFreeHost(host->word_host);
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

/* The next pinned chunk, once the device has copied what was in it. */
static int next_chunk(CvCuda *cuda, int *i)
{
    struct CvCudaHost *host = cuda->host;

    *i = host->turn;
    host->turn = !host->turn;
    return cv_cuda_check(cuda, cudaEventSynchronize(host->sent[*i]),
                         "an upload");
}

/* Copy n floats; 1 when one of them is infinite or NaN. */
static int copy_and_check(void *to, const void *from, int64_t n)
{
    const uint8_t *p = from;
    uint32_t bad = 0;

    memcpy(to, from, (size_t)n * sizeof(float));
    for (int64_t i = 0; i < n; i++) {
        uint32_t bits;

        memcpy(&bits, p + 4 * i, sizeof(bits));
        bad |= (bits & 0x7f800000u) == 0x7f800000u;
    }
    return (int)bad;
}

typedef struct Share {
    void *to;
    const void *from;
    size_t bytes;
} Share;

static void *copy_share(void *argument)
{
    const Share *s = argument;

    memcpy(s->to, s->from, s->bytes);
    return NULL;
}

/* memcpy() by several threads: one alone, which also waits for the pages of a
 * mapped file, is slower than the way to the device. */
static void copy_wide(void *to, const void *from, size_t bytes)
{
    const size_t each = bytes / COPIERS / 4096 * 4096;
    pthread_t threads[COPIERS];
    Share shares[COPIERS];
    const int helpers = bytes >= COPY_WIDE ? COPIERS - 1 : 0;
    int started = 0;

    while (started < helpers) {
        shares[started] = (Share){ to, from, each };
        if (pthread_create(&threads[started], NULL, copy_share,
                           &shares[started]))
            break;
        to    = (uint8_t *)to + each;
        from  = (const uint8_t *)from + each;
        bytes -= each;
        started++;
    }
    memcpy(to, from, bytes);
    while (started)
        pthread_join(threads[--started], NULL);
}

/* `bytes` of pinned chunk i to the device. */
static int send(CvCuda *cuda, int i, void *to, size_t bytes)
{
    struct CvCudaHost *host = cuda->host;
    cudaError_t error;

    error = cudaMemcpyAsync(to, host->pinned[i], bytes, cudaMemcpyHostToDevice,
                            cuda->stream);
    if (!error)
        error = cudaEventRecord(host->sent[i], cuda->stream);
    return cv_cuda_check(cuda, error, "an upload");
}

/* Read the word that kernels have written, waiting for them. */
static int read_word(CvCuda *cuda, unsigned *word)
{
    struct CvCudaHost *host = cuda->host;
    cudaError_t error;

    error = cudaMemcpyAsync(host->word_host, host->word, sizeof(*word),
                            cudaMemcpyDeviceToHost, cuda->stream);
    if (!error)
        error = cudaStreamSynchronize(cuda->stream);
    *word = *host->word_host;
    return cv_cuda_check(cuda, error, "waiting for the GPU");
}

static int clear_word(CvCuda *cuda)
{
    return cv_cuda_check(cuda, cudaMemsetAsync(cuda->host->word, 0,
                                               sizeof(*cuda->host->word),
                                               cuda->stream), "a memset");
}

int cv_cuda_upload(CvBackend *b, const CvTensor *dst, const void *src,
                   CvType src_type)
{
    CvCuda *cuda = cv_cuda(b);
    struct CvCudaHost *host = cuda->host;
    const int64_t n = cv_elements(dst);
    const int block = cv_type_block(src_type);
    const size_t size = cv_type_bytes(src_type); /* of a block */
    const size_t dst_size = cv_type_bytes(dst->type);
    const int64_t most = (int64_t)(CV_CUDA_CHUNK / size) * block;
    const int raw = dst->type == src_type &&
                    (src_type == CV_I32 || src_type == CV_F32);
    const int look = src_type == CV_F32 && n <= most;
    const int flag = !look && src_type != CV_I32;
    unsigned bad = 0;
    int err = 0, i;

    if ((dst->type != CV_F32 && dst->type != b->activation &&
         dst->type != b->weight && dst->type != CV_I32 &&
         !(b->fp8 && cv_type_is_fp8(dst->type))) ||
        (src_type > CV_F8_E5M2 && src_type != CV_I32 && block == 1))
        return cv_fail(b->log, EINVAL, "upload: %s from %s is not supported",
                       cv_type_name(dst->type), cv_type_name(src_type));
    if (flag)
        err = clear_word(cuda);
    for (int64_t at = 0; at < n && !err; at += most) {
        const int64_t part = most < n - at ? most : n - at;
        const size_t bytes = (size_t)(part / block) * size;
        const uint8_t *from = (const uint8_t *)src +
                              (size_t)(at / block) * size;
        uint8_t *to = (uint8_t *)dst->data + (size_t)at * dst_size;

        if ((err = next_chunk(cuda, &i)) < 0)
            break;
        if (look)
            bad |= (unsigned)copy_and_check(host->pinned[i], from, part);
        else
            copy_wide(host->pinned[i], from, bytes);
        err = send(cuda, i, raw && !flag ? to : host->staging[i], bytes);
        if (!err && (!raw || flag))
            err = cv_cuda_cast(cuda, to, dst->type, host->staging[i], src_type,
                               part, (int *)host->word);
    }
    if (!err && flag)
        err = read_word(cuda, &bad);
    return err < 0 ? err : bad ? CAUSVID_ERR(EILSEQ) : 0;
}

int cv_cuda_download(CvBackend *b, float *dst, const CvTensor *src)
{
    CvCuda *cuda = cv_cuda(b);
    struct CvCudaHost *host = cuda->host;
    const int64_t n = cv_elements(src);
    const int64_t most = (int64_t)(CV_CUDA_CHUNK / sizeof(float));
    const size_t size = cv_type_bytes(src->type);

    for (int64_t at = 0; at < n; at += most) {
        const int64_t part = most < n - at ? most : n - at;
        const size_t bytes = (size_t)part * sizeof(float);
        const void *from = (const uint8_t *)src->data + (size_t)at * size;
        cudaError_t error;
        int err, i;

        if ((err = next_chunk(cuda, &i)) < 0)
            return err;
        if (src->type != CV_F32) {
            err = cv_cuda_cast(cuda, host->staging[i], CV_F32, from, src->type,
                               part, (int *)host->word);
            if (err < 0)
                return err;
            from = host->staging[i];
        }
        error = cudaMemcpyAsync(host->pinned[i], from, bytes,
                                cudaMemcpyDeviceToHost, cuda->stream);
        if (!error)
            error = cudaStreamSynchronize(cuda->stream);
        if ((err = cv_cuda_check(cuda, error, "a download")) < 0)
            return err;
        memcpy(dst + at, host->pinned[i], bytes);
    }
    return 0;
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

int cv_cuda_check_values(CvBackend *b, const CvTensor *t, float *largest)
{
    CvCuda *cuda = cv_cuda(b);
    unsigned bits;
    int err;

    if ((err = clear_word(cuda)) < 0 ||
        (err = cv_cuda_largest(cuda, t, cuda->host->word)) < 0 ||
        (err = read_word(cuda, &bits)) < 0)
        return err;
    memcpy(largest, &bits, sizeof(*largest));
    return 0;
}
