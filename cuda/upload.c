/*
 * From the host's memory to the device's, and back.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * Arrays go through the ring in pieces and are converted on the device, where
 * it is also seen whether a value is infinite or NaN: a flag for each tag, read
 * once at the end. Small float32 arrays without a tag (noise, a timestep) are
 * looked at on the host, so that uploading them waits for nothing.
 *
 * A large array, in a file mostly, is read into pinned memory by several
 * threads, because one of them is slower than the link to the device. The
 * calling thread hands out room, sends pieces that are full, and reads when
 * there is nothing else to do; so it works without any other thread too. Pieces
 * are filled while older ones are sent.
 */
#include <pthread.h>
#include <string.h>
#include <unistd.h>

#include "host.h"

/* Threads that fill the ring, the calling one included; what each takes at
 * once; and what is worth waking them. */
#define COPIERS 12
#define SLICE   ((size_t)512 << 10)
#define WIDE    ((size_t)2 << 20)

/* Pieces of an upload that are being filled at the same time; fewer than the
 * ring has room for, so that the others are being sent. */
#define OPEN 6

/* The most that is looked at on the host. */
#define LOOK ((size_t)16 << 20)

/* ---- results ---- */

static unsigned *result_word(CvCuda *cuda)
{
    return cuda->host->words + CV_CUDA_TAGS;
}

/* Read n words from `first` on into words_host, waiting for what writes. */
static int read_words(CvCuda *cuda, const unsigned *first, int n)
{
    struct CvCudaHost *host = cuda->host;
    cudaError_t error;

    error = cudaMemcpyAsync(host->words_host, first,
                            (size_t)n * sizeof(*first),
                            cudaMemcpyDeviceToHost, cuda->stream);
    if (!error)
        error = cudaStreamSynchronize(cuda->stream);
    return cv_cuda_check(cuda, error, "waiting for the GPU");
}

static int clear_words(CvCuda *cuda, unsigned *first, int n)
{
    return cv_cuda_check(cuda, cudaMemsetAsync(first, 0, (size_t)n *
                                               sizeof(*first), cuda->stream),
                         "a memset");
}

int cv_cuda_read_word(CvCuda *cuda, unsigned *word)
{
    int err = read_words(cuda, result_word(cuda), 1);

    *word = *cuda->host->words_host;
    return err;
}

int cv_cuda_clear_word(CvCuda *cuda)
{
    return clear_words(cuda, result_word(cuda), 1);
}

/* Look at the flags of all tags, and begin anew. */
static int read_tags(CvCuda *cuda)
{
    struct CvCudaHost *host = cuda->host;
    const int n = host->n_tags;
    int err;

    host->n_tags = 0;
    if (!n)
        return 0;
    if ((err = read_words(cuda, host->words, n)) < 0)
        return err;
    for (int i = 0; i < n && !host->bad_tag; i++)
        if (host->words_host[i])
            host->bad_tag = host->tags[i];
    /* finished, for uploads that go to the other stream next */
    if (!(err = clear_words(cuda, host->words, n)))
        err = cv_cuda_finish(&cuda->base);
    return err;
}

/* The flag of a tag; of several uploads one after the other it is the same. */
static int find_flag(CvCuda *cuda, const void *tag, unsigned **flag)
{
    struct CvCudaHost *host = cuda->host;
    int err;

    if (!tag) {
        *flag = result_word(cuda);
        return cv_cuda_clear_word(cuda);
    }
    if (!host->n_tags || host->tags[host->n_tags - 1] != tag) {
        if (host->n_tags == CV_CUDA_TAGS && (err = read_tags(cuda)) < 0)
            return err;
        host->tags[host->n_tags++] = tag;
    }
    *flag = host->words + host->n_tags - 1;
    return 0;
}

int cv_cuda_uploaded(CvBackend *b, const void **bad)
{
    CvCuda *cuda = cv_cuda(b);
    int err = read_tags(cuda);

    *bad = cuda->host->bad_tag;
    cuda->host->bad_tag = NULL;
    cv_pool_close(&cuda->host->pool);
    return err < 0 ? err : cv_cuda_finish(b);
}

/* ---- through the ring ---- */

/* An array on its way. */
typedef struct Upload {
    CvCuda *cuda;
    const CvSource *src;
    uint8_t *dst;
    CvType src_type, dst_type;
    int64_t n;            /* elements */
    int64_t each;         /* of a piece, and */
    int64_t slice;        /* of what is read at once: whole blocks */
    unsigned *flag;

    /* where several threads are at it, all below is guarded by `lock` */
    pthread_mutex_t lock;
    pthread_cond_t opened, filled;
    int64_t n_pieces;
    int64_t n_open, n_sent;
    int64_t at;           /* the piece that slices are handed out of */
    int64_t next;         /* of it: where the next one begins */
    struct {
        CvCudaPiece *piece;
        int64_t left;     /* elements that are not there yet */
    } open[OPEN];
    int over;             /* everything was sent, or something failed */
    int err;
} Upload;

static int64_t piece_elements(const Upload *u, int64_t i)
{
    return u->n - i * u->each < u->each ? u->n - i * u->each : u->each;
}

/* Of n elements, which are whole blocks, as they are stored. */
static size_t bytes_of(const Upload *u, int64_t n)
{
    return (size_t)(n / cv_type_block(u->src_type)) *
           cv_type_bytes(u->src_type);
}

static size_t piece_bytes(const Upload *u, int64_t i)
{
    return bytes_of(u, piece_elements(u, i));
}

/* n elements of piece i, from `first` of it on, to where they belong. */
static int read_piece(const Upload *u, const CvCudaPiece *piece, int64_t i,
                      int64_t first, int64_t n)
{
    return u->src->read(u->src->arg, piece->pinned + bytes_of(u, first),
                        i * u->each + first, n);
}

/* Piece i, which is in pinned memory, to its place. */
static int send(Upload *u, CvCudaPiece *piece, int64_t i)
{
    CvCuda *cuda = u->cuda;
    const int64_t first = i * u->each;
    cudaStream_t stream = cuda->host->ring.stream;
    cudaError_t error;
    int err;

    error = cudaMemcpyAsync(piece->staging, piece->pinned, piece_bytes(u, i),
                            cudaMemcpyHostToDevice, stream);
    if (!error)
        error = cudaEventRecord(piece->sent, stream);
    if (!error)
        error = cudaStreamWaitEvent(cuda->stream, piece->sent, 0);
    if ((err = cv_cuda_check(cuda, error, "an upload")) < 0 ||
        (err = cv_cuda_cast(cuda, u->dst + (size_t)first *
                            cv_type_bytes(u->dst_type), u->dst_type,
                            piece->staging, u->src_type,
                            piece_elements(u, i), (int *)u->flag)) < 0)
        return err;
    return cv_cuda_ring_used(cuda);
}

static int upload_alone(Upload *u)
{
    for (int64_t i = 0; i < u->n_pieces; i++) {
        CvCudaPiece *piece;
        int err = cv_cuda_ring_take(u->cuda, piece_bytes(u, i), 1, &piece);

        if (err < 0 ||
            (err = read_piece(u, piece, i, 0, piece_elements(u, i))) < 0 ||
            (err = send(u, piece, i)) < 0)
            return err;
    }
    return 0;
}

/* ---- by several threads ---- */

/* Read the next slice, where there is one. Called with the lock held, which it
 * releases meanwhile. */
static int read_slice(Upload *u)
{
    const int64_t i = u->at, first = u->next;
    const CvCudaPiece *piece;
    int64_t n;
    int err;

    if (i == u->n_open)
        return 0;
    n     = piece_elements(u, i) - first;
    n     = n < u->slice ? n : u->slice;
    piece = u->open[i % OPEN].piece;
    u->next += n;
    if (u->next == piece_elements(u, i)) {
        u->next = 0;
        u->at++;
    }
    pthread_mutex_unlock(&u->lock);
    err = read_piece(u, piece, i, first, n);
    pthread_mutex_lock(&u->lock);
    if (err < 0)
        u->err = err;
    u->open[i % OPEN].left -= n;
    if (!u->open[i % OPEN].left)
        pthread_cond_signal(&u->filled);
    return 1;
}

/* Let one more piece be filled: 1; 0 when there is no room. */
static int open_piece(Upload *u)
{
    const int64_t i = u->n_open;
    CvCudaPiece *piece;
    int err;

    if (i == u->n_pieces || i - u->n_sent == OPEN)
        return 0;
    err = cv_cuda_ring_take(u->cuda, piece_bytes(u, i), 0, &piece);
    if (err < 0 || !piece)
        return err;
    u->open[i % OPEN].piece = piece;
    u->open[i % OPEN].left  = piece_elements(u, i);
    u->n_open++;
    pthread_cond_broadcast(&u->opened);
    return 1;
}

/* The calling thread's part. Returns with the lock held, as it is called. */
static int manage(Upload *u)
{
    int err = 0;

    while (u->n_sent < u->n_pieces && err >= 0 && !u->err) {
        const int64_t next = u->n_sent;

        if (next < u->n_open && !u->open[next % OPEN].left) {
            pthread_mutex_unlock(&u->lock);
            err = send(u, u->open[next % OPEN].piece, next);
            pthread_mutex_lock(&u->lock);
            u->n_sent++;
        } else if (!(err = open_piece(u)) && !read_slice(u)) {
            if (next < u->n_open)
                pthread_cond_wait(&u->filled, &u->lock);
            else /* there is room when the oldest of all is gone */
                err = cv_cuda_ring_free(u->cuda, 1);
        }
    }
    return err < 0 ? err : u->err;
}

/* There are at least as many items as threads, so the caller gets one too: no
 * other thread has a second one before everything is over. */
static void upload_job(void *arg, int64_t first, int64_t last, int worker)
{
    Upload *u = arg;

    (void)first, (void)last;
    pthread_mutex_lock(&u->lock);
    if (worker) {
        while (!u->over)
            if (!read_slice(u))
                pthread_cond_wait(&u->opened, &u->lock);
    } else if (!u->over) {
        u->err  = manage(u);
        u->over = 1;
        /* Slices that nobody has begun are not begun after a failure. */
        u->at   = u->n_open;
        pthread_cond_broadcast(&u->opened);
    }
    pthread_mutex_unlock(&u->lock);
}

static int count_copiers(void)
{
    const long online = sysconf(_SC_NPROCESSORS_ONLN);

    return online < 1 ? 1 : online < COPIERS ? (int)online : COPIERS;
}

static int upload_wide(Upload *u, CvPool *pool)
{
    pthread_mutex_init(&u->lock, NULL);
    pthread_cond_init(&u->opened, NULL);
    pthread_cond_init(&u->filled, NULL);
    cv_pool_run(pool, COPIERS, 1, upload_job, u);
    pthread_cond_destroy(&u->filled);
    pthread_cond_destroy(&u->opened);
    pthread_mutex_destroy(&u->lock);
    return u->err;
}

/* NULL where no threads can be had: then it is done without. */
static CvPool *find_pool(CvCuda *cuda)
{
    struct CvCudaHost *host = cuda->host;

    if (!host->pool && cv_pool_open(&host->pool, count_copiers()) < 0)
        return NULL;
    return host->pool;
}

/* ---- without looking, or looking on the host ---- */

/* 1 when one of n floats is infinite or NaN. */
static int is_bad(const uint8_t *p, int64_t n)
{
    uint32_t bad = 0;

    for (int64_t i = 0; i < n; i++) {
        uint32_t bits;

        memcpy(&bits, p + 4 * i, sizeof(bits));
        bad |= (bits & 0x7f800000u) == 0x7f800000u;
    }
    return (int)bad;
}

/* Elements of four bytes as they are, on the engine's stream; float32 is looked
 * at. Two of these are under way at most, so that whoever asks for work (each
 * pass uploads its timestep) stays close to the device and can be stopped. */
static int upload_direct(Upload *u)
{
    struct CvCudaHost *host = u->cuda->host;
    int bad = 0, err;

    for (int64_t i = 0; i < u->n_pieces; i++) {
        const size_t bytes = piece_bytes(u, i);
        CvCudaPiece *piece;
        cudaError_t error;

        while (host->ring.freed < host->direct[0])
            if ((err = cv_cuda_ring_free(u->cuda, 1)) < 0)
                return err;
        if ((err = cv_cuda_ring_take(u->cuda, bytes, 1, &piece)) < 0 ||
            (err = read_piece(u, piece, i, 0, piece_elements(u, i))) < 0)
            return err;
        if (u->src_type == CV_F32)
            bad |= is_bad(piece->pinned, piece_elements(u, i));
        error = cudaMemcpyAsync(u->dst + bytes_of(u, i * u->each),
                                piece->pinned, bytes, cudaMemcpyHostToDevice,
                                u->cuda->stream);
        if ((err = cv_cuda_check(u->cuda, error, "an upload")) < 0 ||
            (err = cv_cuda_ring_used(u->cuda)) < 0)
            return err;
        host->direct[0] = host->direct[1];
        host->direct[1] = host->ring.used;
    }
    return bad ? CAUSVID_ERR(EILSEQ) : 0;
}

/* ---- the operations ---- */

int cv_cuda_upload(CvBackend *b, const CvTensor *dst, const CvSource *src,
                   CvType src_type, const void *tag)
{
    CvCuda *cuda = cv_cuda(b);
    const int block = cv_type_block(src_type);
    const size_t size = cv_type_bytes(src_type); /* of a block */
    Upload u = {
        .cuda = cuda, .src = src, .dst = dst->data, .src_type = src_type,
        .dst_type = dst->type, .n = cv_elements(dst),
        .each  = (int64_t)(CV_CUDA_PIECE / size) * block,
        .slice = (int64_t)(SLICE / size) * block,
    };
    const int raw = src_type == CV_I32 ||
                    (src_type == CV_F32 && dst->type == CV_F32 && !tag &&
                     u.n <= (int64_t)(LOOK / sizeof(float)));
    CvPool *pool;
    unsigned bad = 0;
    int err;

    if ((dst->type != CV_F32 && dst->type != b->activation &&
         dst->type != b->weight && dst->type != CV_I32 &&
         !(b->fp8 && cv_type_is_fp8(dst->type))) ||
        (src_type > CV_F8_E5M2 && src_type != CV_I32 && block == 1))
        return cv_fail(b->log, EINVAL, "upload: %s from %s is not supported",
                       cv_type_name(dst->type), cv_type_name(src_type));
    if (!u.n)
        return 0;
    u.n_pieces = (u.n - 1) / u.each + 1;
    if (raw)
        err = upload_direct(&u);
    else if ((err = find_flag(cuda, tag, &u.flag)) < 0)
        return err;
    else if (bytes_of(&u, u.n) >= WIDE && (pool = find_pool(cuda)))
        err = upload_wide(&u, pool);
    else
        err = upload_alone(&u);
    cv_cuda_ring_drop(cuda); /* nothing, unless it failed */
    if (!err && !raw && !tag)
        err = cv_cuda_read_word(cuda, &bad);
    return err < 0 ? err : bad ? CAUSVID_ERR(EILSEQ) : 0;
}

/* n elements at src, a device address, to dst. */
static int download(CvCuda *cuda, float *dst, const void *src, CvType type,
                    int64_t n)
{
    const size_t bytes = (size_t)n * sizeof(*dst);
    CvCudaPiece *piece;
    cudaError_t error;
    int err;

    if ((err = cv_cuda_ring_take(cuda, bytes, 1, &piece)) < 0)
        return err;
    if (type != CV_F32) {
        err = cv_cuda_cast(cuda, piece->staging, CV_F32, src, type, n,
                           (int *)result_word(cuda));
        if (err < 0)
            return err;
        src = piece->staging;
    }
    error = cudaMemcpyAsync(piece->pinned, src, bytes, cudaMemcpyDeviceToHost,
                            cuda->stream);
    if (!error)
        error = cudaStreamSynchronize(cuda->stream);
    if ((err = cv_cuda_check(cuda, error, "a download")) < 0)
        return err;
    memcpy(dst, piece->pinned, bytes);
    return cv_cuda_ring_used(cuda);
}

int cv_cuda_download(CvBackend *b, float *dst, const CvTensor *src)
{
    CvCuda *cuda = cv_cuda(b);
    const int64_t n = cv_elements(src);
    const int64_t most = (int64_t)(CV_CUDA_PIECE / sizeof(*dst));
    const size_t size = cv_type_bytes(src->type);
    int err = 0;

    for (int64_t at = 0; at < n && !err; at += most)
        err = download(cuda, dst + at,
                       (const uint8_t *)src->data + (size_t)at * size,
                       src->type, most < n - at ? most : n - at);
    cv_cuda_ring_drop(cuda);
    return err;
}
