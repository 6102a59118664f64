/*
 * Attention: the choice of a kernel, and the one for heads of 64 and 128 with
 * mma.sync.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * A block of 4 warps takes 128 queries of one head, 32 a warp, and goes
 * through the keys in tiles of 48 with a running softmax (Milakov and
 * Gimelshein, "Online normalizer calculation for softmax"; Dao,
 * "FlashAttention-2"). Scores and results stay in registers, 48 and 128 of
 * them a thread at d = 128; the weights become the left operand of the second
 * product where they are. 32 rows a warp, because with 16 each fragment of
 * keys and values read from shared memory would feed half as many products,
 * and reading would be the bound; tiles of 48, because with 64 registers are
 * spilled. The queries, a tile of keys and a tile of values are in shared
 * memory, 56 KB at d = 128, so two blocks fit on a multiprocessor: values
 * arrive while scores are made, the next keys while the values are used.
 * Query tiles are the grid's fast dimension, so that the blocks at work share
 * the keys and values of few heads in L2.
 *
 * Bound by operations. Measured on an H200: 32,760 x 32,760, 40 heads of 128:
 * 22.0 TFLOP, 58.9 ms, 373 TFLOP/s (predicted: 365, which FlashAttention-2
 * reaches in the same way). UMT5 (512 x 512, 64 heads of 64) without its bias:
 * 4.3 GFLOP, 24 us.
 */
#include "attention.cuh"

enum {
    THREADS = 128,
    QUERIES = 128, /* of a block */
    KEYS = 48,     /* of a tile */
    ROWS = 32,     /* queries of a warp */
};

#define LOG2E 1.44269504088896340736f

/* s = q k^T of the warp's 32 queries and a tile's keys. In all three tiles, a
 * lane gives ldmatrix the same places: the operands' registers are then those
 * of queries as they are, of keys with the middle two exchanged, and of values
 * in the transposed form. */
template <int kDim>
static __device__ __forceinline__ void score(float s[2][KEYS / 8][4],
                                             const cv_bf16 *queries,
                                             const cv_bf16 *keys, int lane)
{
    const int at = cv_tile_at<kDim>(lane & 15, lane >> 4);

#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int j = 0; j < KEYS / 8; j++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                s[i][j][e] = 0;
#pragma unroll
    for (int k = 0; k < kDim / 16; k++) {
        uint32_t q[2][4];

#pragma unroll
        for (int i = 0; i < 2; i++)
            cv_ldmatrix_x4(q[i], queries + i * 16 * kDim +
                           cv_tile_step(at, k));
#pragma unroll
        for (int j = 0; j < KEYS / 16; j++) {
            uint32_t b[4];

            cv_ldmatrix_x4(b, keys + j * 16 * kDim + cv_tile_step(at, k));
#pragma unroll
            for (int i = 0; i < 2; i++) {
                cv_mma_bf16(s[i][2 * j], q[i], b[0], b[2]);
                cv_mma_bf16(s[i][2 * j + 1], q[i], b[1], b[3]);
            }
        }
    }
}

/* o += p v */
template <int kDim>
static __device__ __forceinline__ void gather(float o[2][kDim / 8][4],
                                              const uint32_t
                                                  p[2][KEYS / 16][4],
                                              const cv_bf16 *values, int lane)
{
    const int at = cv_tile_at<kDim>(lane & 15, lane >> 4);

#pragma unroll
    for (int k = 0; k < KEYS / 16; k++) {
#pragma unroll
        for (int j = 0; j < kDim / 16; j++) {
            uint32_t b[4];

            cv_ldmatrix_x4_trans(b, values + k * 16 * kDim +
                                    cv_tile_step(at, j));
#pragma unroll
            for (int i = 0; i < 2; i++) {
                cv_mma_bf16(o[i][2 * j], p[i][k], b[0], b[1]);
                cv_mma_bf16(o[i][2 * j + 1], p[i][k], b[2], b[3]);
            }
        }
    }
}

/* The last key's repetitions, and nothing from keys past the end. */
static __device__ __forceinline__ void finish_keys(float s[2][KEYS / 8][4],
                                                   int left, float last,
                                                   int lane)
{
    left -= lane % 4 * 2;
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int j = 0; j < KEYS / 8; j++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                if (j * 8 + e % 2 == left - 1)
                    s[i][j][e] += last;
                else if (j * 8 + e % 2 >= left)
                    s[i][j][e] = -INFINITY;
            }
}

/* s = s * scale + bias[query, key], for `rows` queries and `left` keys. */
static __device__ __forceinline__ void add_bias(float s[2][KEYS / 8][4],
                                                const float *bias, int m,
                                                int rows, int left,
                                                float scale, int lane)
{
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int j = 0; j < KEYS / 8; j++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                int row = i * 16 + lane / 4 + e / 2 * 8;
                int at = j * 8 + lane % 4 * 2 + e % 2;
                float add = 0;

                if (row < rows && at < left)
                    add = bias[(int64_t)row * m + at];
                s[i][j][e] = s[i][j][e] * scale + add;
            }
}

/* Turn scores into weights 2^(factor (s - top)), with new tops, and scale down
 * what was gathered under the old ones. A pair of weights is where the left
 * operand of the second product wants it. */
template <int kDim>
static __device__ __forceinline__ void soften(uint32_t p[2][KEYS / 16][4],
                                              const float s[2][KEYS / 8][4],
                                              float o[2][kDim / 8][4],
                                              float top[2][2],
                                              float sum[2][2], float factor)
{
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float t = top[i][h], shift, shrink, more = 0;

#pragma unroll
            for (int j = 0; j < KEYS / 8; j++)
                t = fmaxf(t, fmaxf(s[i][j][2 * h], s[i][j][2 * h + 1]));
            t = cv_row_max(t);
            shift = t * factor;
            shrink = cv_exp2(top[i][h] * factor - shift);
            top[i][h] = t;
#pragma unroll
            for (int j = 0; j < KEYS / 8; j++) {
                float x = cv_exp2(s[i][j][2 * h] * factor - shift);
                float y = cv_exp2(s[i][j][2 * h + 1] * factor - shift);

                more += x + y;
                p[i][j / 2][j % 2 * 2 + h] = cv_pack_bf16(x, y);
            }
            sum[i][h] = sum[i][h] * shrink + more;
#pragma unroll
            for (int j = 0; j < kDim / 8; j++) {
                o[i][j][2 * h] *= shrink;
                o[i][j][2 * h + 1] *= shrink;
            }
        }
}

/* Write the warp's rows through its part of the tile of queries, which no
 * other warp reads, so that memory is written 16 bytes a lane. */
template <int kDim>
static __device__ __forceinline__ void write(const float o[2][kDim / 8][4],
                                             const float sum[2][2],
                                             cv_bf16 *tile, cv_bf16 *out,
                                             int step, int rows, int lane)
{
    constexpr int kChunks = kDim / 8;

    __syncwarp();
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float part = __fdividef(1, cv_row_sum(sum[i][h]));
            int row = i * 16 + h * 8 + lane / 4;

#pragma unroll
            for (int j = 0; j < kDim / 8; j++)
                *(uint32_t *)(tile + cv_tile_at<kDim>(row, j) +
                              lane % 4 * 2) =
                    cv_pack_bf16(o[i][j][2 * h] * part,
                                 o[i][j][2 * h + 1] * part);
        }
    __syncwarp();
#pragma unroll
    for (int i = 0; i < ROWS * kChunks / CV_WARP; i++) {
        int at = lane + i * CV_WARP, row = at / kChunks, chunk = at % kChunks;

        if (row < rows)
            *(uint4 *)(out + (int64_t)row * step + chunk * 8) =
                *(const uint4 *)(tile + cv_tile_at<kDim>(row, chunk));
    }
}

template <int kDim, int kBias>
static __global__ void __launch_bounds__(THREADS, 2)
attention_bf16_kernel(CvAttend a)
{
    cv_begin();
    CV_DYNAMIC_SHARED(cv_bf16, queries);
    cv_bf16 *keys = queries + QUERIES * kDim, *values = keys + KEYS * kDim;
    const int lane = (int)(threadIdx.x % CV_WARP);
    const int warp = (int)(threadIdx.x / CV_WARP);
    const int step = a.heads * kDim;
    const int query = (int)blockIdx.x * QUERIES; /* of the block */
    const int first = query + warp * ROWS;       /* of the warp */
    const int64_t head = (int64_t)blockIdx.y * kDim;
    const cv_bf16 *q = (const cv_bf16 *)a.q + query * step + head;
    const cv_bf16 *k = (const cv_bf16 *)a.k, *v = (const cv_bf16 *)a.v;
    int64_t at = head; /* of the tile's first key */
    /* With a bias, scores are scaled before it is added. */
    const float factor = kBias ? LOG2E : a.scale * LOG2E;
    float o[2][kDim / 8][4], s[2][KEYS / 8][4], top[2][2], sum[2][2];
    uint32_t p[2][KEYS / 16][4];

#pragma unroll
    for (int i = 0; i < 2; i++) {
#pragma unroll
        for (int j = 0; j < kDim / 8; j++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                o[i][j][e] = 0;
        top[i][0] = top[i][1] = -INFINITY;
        sum[i][0] = sum[i][1] = 0;
    }
    cv_tile_load<kDim, QUERIES, THREADS>(queries, q, step, a.n - query);
    cv_tile_load<kDim, KEYS, THREADS>(keys, k + at, step, a.m);
    cv_cp_async_commit();
    for (int left = a.m; left > 0; left -= KEYS) {
        cv_cp_async_wait<0>();
        __syncthreads(); /* keys are here, and nobody reads values any more */
        cv_tile_load<kDim, KEYS, THREADS>(values, v + at, step, left);
        cv_cp_async_commit();
        score<kDim>(s, queries + warp * ROWS * kDim, keys, lane);
        cv_cp_async_wait<0>();
        __syncthreads(); /* values are here, keys are free */
        at += (int64_t)KEYS * step;
        /* After the last tile: zeros that nobody reads. */
        cv_tile_load<kDim, KEYS, THREADS>(keys, k + at, step, left - KEYS);
        cv_cp_async_commit();
        if (kBias)
            add_bias(s, a.bias + ((int64_t)blockIdx.y * a.n + first) * a.m +
                     (a.m - left), a.m, a.n - first, left, a.scale, lane);
        if (left <= KEYS)
            finish_keys(s, left, kBias ? a.last : a.last / a.scale, lane);
        soften<kDim>(p, s, o, top, sum, factor);
        gather<kDim>(o, p, values, lane);
    }
    write<kDim>(o, sum, queries + warp * ROWS * kDim,
                (cv_bf16 *)a.out + (int64_t)first * step + head, step,
                a.n - first, lane);
}

template <int kDim, int kBias>
static int launch(CvCuda *cuda, const CvAttend *a)
{
    auto kernel = attention_bf16_kernel<kDim, kBias>;
    size_t bytes = (QUERIES + 2 * KEYS) * kDim * sizeof(cv_bf16);
    dim3 grid(cv_blocks(a->n, QUERIES), (unsigned)a->heads);

    return CV_LAUNCH(cuda, cuda->stream, kernel, grid, THREADS, bytes, *a);
}

static int aligned(const CvAttend *a)
{
    return (((uintptr_t)a->q | (uintptr_t)a->k | (uintptr_t)a->v |
             (uintptr_t)a->out) & 15) == 0;
}

int cv_cuda_attention(CvBackend *b, const CvAttention *a)
{
    CvCuda *cuda = cv_cuda(b);
    int64_t n = a->q->dim[0], m, heads = a->q->dim[1];
    CvAttend args;

    if (a->ring)
        return cv_cuda_attention_ring(cuda, a);
    m = a->k->dim[0];
    args = CvAttend{
        a->q->data, a->k->data, a->v->data, a->out->data,
        a->bias ? (const float *)a->bias->data : NULL, (int)n, (int)m,
        (int)heads, (int)a->q->dim[2], a->scale, logf((float)a->last_repeats),
        a->out_scale ? (float *)a->out_scale->data : NULL,
        a->largest ? (const float *)a->largest->data : NULL,
    };
    /* Tiles count past the end. Heads are a grid's second dimension. */
    if (n > INT32_MAX - 1024 || m > INT32_MAX - 1024 || heads > 65535 ||
        a->q->dim[2] > INT32_MAX - 1024)
        return cv_fail(b->log, ENOSYS, "attention: %lld x %lld, %lld heads",
                       (long long)n, (long long)m, (long long)heads);
    if (!n || !heads || !args.d)
        return 0;
    /* The kernels for tensor cores take the largest of q k^T for the largest
     * score. */
    if (b->activation == CV_BF16 && args.scale > 0 && aligned(&args)) {
        if (args.d == 128 && !args.bias && cuda->hopper &&
            a->last_repeats == 1 &&
            (cuda->attention8 == CV_ATTENTION8_ALWAYS ||
             (cuda->attention8 && cv_attention8_pays(n, m, heads))))
            return cv_cuda_attention8(cuda, &args, NULL);
        if (args.d == 128 && !args.bias && cuda->hopper)
            return cv_cuda_attention_hopper(cuda, &args);
        if (args.d == 128 && !args.bias)
            return launch<128, 0>(cuda, &args);
        if (args.d == 64)
            return args.bias ? launch<64, 1>(cuda, &args)
                             : launch<64, 0>(cuda, &args);
        if (args.d == 384 && !args.bias &&
            (size_t)cuda->shared_bytes >= cv_cuda_attention_wide_bytes())
            return cv_cuda_attention_wide(cuda, &args);
    }
    if (args.out_scale)
        return cv_fail(b->log, ENOSYS, "attention to fp8: an address");
    return cv_cuda_attention_float(cuda, &args);
}
