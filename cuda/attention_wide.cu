/*
 * Attention for one wide head: 384, of the VAE, with mma.sync.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * A block of 8 warps takes 64 queries and goes through the keys in tiles of 64
 * with a running softmax. Results of 384 columns do not fit one warp's
 * registers: warps are 2 x 4, each with 32 queries and, of the scores, 16 keys,
 * of the results, 96 columns (96 registers a thread). So the rows' largest
 * scores and the weights go through shared memory, and a tile takes three
 * barriers: keys are here; everybody's largest scores are here, keys are free;
 * weights and values are here. Shared memory: 144 KB of tiles, 8 KB of
 * weights; where a block cannot have as much, attention_float.cu serves.
 *
 * Bound by reading shared memory for the scores, by operations for the
 * results. Measured on an H200: 6,240 x 6,240 (a latent frame of 832x480): 60
 * GFLOP, 0.31 ms (predicted: 0.3), 98 blocks on 132 multiprocessors; 6 ms of the VAE's 550 for 81
 * frames, so two blocks that share a row of queries were not tried.
 */
#include "attention.cuh"

enum {
    THREADS = 256,
    QUERIES = 64,
    KEYS = 64,
    ROWS = 32,   /* queries of a warp */
    ACROSS = 4,  /* warps that share queries */
    DIM = 384,
    COLUMNS = DIM / ACROSS,
};

/* The block's shared memory. */
typedef struct Tiles {
    cv_bf16 q[QUERIES * DIM], k[KEYS * DIM], v[KEYS * DIM];
    cv_bf16 p[QUERIES * KEYS];
    float rows[QUERIES][ACROSS]; /* of a row, one number of each warp */
} Tiles;

/* The row's largest or its sum over the warps across. */
static __device__ __forceinline__ float4 row_of(const Tiles *t, int row)
{
    return *(const float4 *)t->rows[row];
}

static __global__ void __launch_bounds__(THREADS, 1)
attention_wide_kernel(CvAttend a)
{
    cv_begin();
    CV_DYNAMIC_SHARED(Tiles, t);
    const int lane = (int)(threadIdx.x % CV_WARP);
    const int warp = (int)(threadIdx.x / CV_WARP);
    const int row = warp / ACROSS * ROWS, part = warp % ACROSS;
    const int query = (int)blockIdx.x * QUERIES;
    const int step = a.heads * DIM;
    const int64_t head = (int64_t)blockIdx.y * DIM;
    const cv_bf16 *k = (const cv_bf16 *)a.k, *v = (const cv_bf16 *)a.v;
    const int own = row + lane / 4; /* row of results; + 8, 16, 24 */
    const int place = cv_tile_at<DIM>(lane & 15, lane >> 4);
    const int p_place = cv_tile_at<KEYS>(lane & 15, lane >> 4);
    const float factor = a.scale * 1.44269504088896340736f;
    int64_t at = head; /* of the tile's first key */
    float o[2][COLUMNS / 8][4], top[2][2], sum[2][2];

#pragma unroll
    for (int i = 0; i < 2; i++) {
#pragma unroll
        for (int j = 0; j < COLUMNS / 8; j++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                o[i][j][e] = 0;
        top[i][0] = top[i][1] = -INFINITY;
        sum[i][0] = sum[i][1] = 0;
    }
    cv_tile_load<DIM, QUERIES, THREADS>(
        t->q, (const cv_bf16 *)a.q + (int64_t)query * step + head, step,
        a.n - query);
    cv_tile_load<DIM, KEYS, THREADS>(t->k, k + at, step, a.m);
    cv_cp_async_commit();
    for (int left = a.m; left > 0; left -= KEYS) {
        float s[2][2][4] = { { { 0 } } };

        cv_cp_async_wait<0>();
        __syncthreads();
        cv_tile_load<DIM, KEYS, THREADS>(t->v, v + at, step, left);
        cv_cp_async_commit();
#pragma unroll
        for (int c = 0; c < DIM / 16; c++) {
            uint32_t q[2][4], b[4];

            cv_ldmatrix_x4(b, t->k + part * 16 * DIM +
                           cv_tile_step(place, c));
#pragma unroll
            for (int i = 0; i < 2; i++) {
                cv_ldmatrix_x4(q[i], t->q + (row + i * 16) * DIM +
                               cv_tile_step(place, c));
                cv_mma_bf16(s[i][0], q[i], b[0], b[2]);
                cv_mma_bf16(s[i][1], q[i], b[1], b[3]);
            }
        }
        if (left <= KEYS) {
            int rest = left - part * 16 - lane % 4 * 2;

#pragma unroll
            for (int i = 0; i < 2; i++)
#pragma unroll
                for (int j = 0; j < 2; j++)
#pragma unroll
                    for (int e = 0; e < 4; e++) {
                        if (j * 8 + e % 2 == rest - 1)
                            s[i][j][e] += a.last / a.scale;
                        else if (j * 8 + e % 2 >= rest)
                            s[i][j][e] = -INFINITY;
                    }
        }
#pragma unroll
        for (int i = 0; i < 2; i++)
#pragma unroll
            for (int h = 0; h < 2; h++) {
                float x = cv_row_max(
                    fmaxf(fmaxf(s[i][0][2 * h], s[i][0][2 * h + 1]),
                          fmaxf(s[i][1][2 * h], s[i][1][2 * h + 1])));

                if (lane % 4 == 0)
                    t->rows[own + i * 16 + h * 8][part] = x;
            }
        __syncthreads();
        at += (int64_t)KEYS * step;
        /* After the last tile: zeros that nobody reads. */
        cv_tile_load<DIM, KEYS, THREADS>(t->k, k + at, step, left - KEYS);
        cv_cp_async_commit();
#pragma unroll
        for (int i = 0; i < 2; i++)
#pragma unroll
            for (int h = 0; h < 2; h++) {
                int r = own + i * 16 + h * 8;
                float4 x = row_of(t, r);
                float high = fmaxf(fmaxf(top[i][h], fmaxf(x.x, x.y)),
                                   fmaxf(x.z, x.w));
                float shift = high * factor, more = 0;
                float shrink = cv_exp2(top[i][h] * factor - shift);

                top[i][h] = high;
#pragma unroll
                for (int j = 0; j < 2; j++) {
                    float w0 = cv_exp2(s[i][j][2 * h] * factor - shift);
                    float w1 = cv_exp2(s[i][j][2 * h + 1] * factor - shift);

                    more += w0 + w1;
                    *(uint32_t *)(t->p + cv_tile_at<KEYS>(r, part * 2 + j) +
                                  lane % 4 * 2) = cv_pack_bf16(w0, w1);
                }
                sum[i][h] = sum[i][h] * shrink + more;
#pragma unroll
                for (int j = 0; j < COLUMNS / 8; j++) {
                    o[i][j][2 * h] *= shrink;
                    o[i][j][2 * h + 1] *= shrink;
                }
            }
        cv_cp_async_wait<1>();
        __syncthreads();
#pragma unroll
        for (int c = 0; c < KEYS / 16; c++) {
            uint32_t p[2][4];

#pragma unroll
            for (int i = 0; i < 2; i++)
                cv_ldmatrix_x4(p[i], t->p + (row + i * 16) * KEYS +
                               cv_tile_step(p_place, c));
#pragma unroll
            for (int j = 0; j < COLUMNS / 16; j++) {
                uint32_t b[4];

                cv_ldmatrix_x4_trans(b, t->v + c * 16 * DIM +
                                     cv_tile_step(place, part * COLUMNS / 16 +
                                                  j));
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    cv_mma_bf16(o[i][2 * j], p[i], b[0], b[1]);
                    cv_mma_bf16(o[i][2 * j + 1], p[i], b[2], b[3]);
                }
            }
        }
    }
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float x = cv_row_sum(sum[i][h]);

            if (lane % 4 == 0)
                t->rows[own + i * 16 + h * 8][part] = x;
        }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            int r = own + i * 16 + h * 8;
            float4 x = row_of(t, r);
            float share = __fdividef(1, x.x + x.y + (x.z + x.w));
            cv_bf16 *out = (cv_bf16 *)a.out + (int64_t)(query + r) * step +
                           head + part * COLUMNS + lane % 4 * 2;

            if (query + r < a.n)
#pragma unroll
                for (int j = 0; j < COLUMNS / 8; j++)
                    *(uint32_t *)(out + j * 8) =
                        cv_pack_bf16(o[i][j][2 * h] * share,
                                     o[i][j][2 * h + 1] * share);
        }
}

size_t cv_cuda_attention_wide_bytes(void)
{
    return sizeof(Tiles);
}

int cv_cuda_attention_wide(CvCuda *cuda, const CvAttend *a)
{
    dim3 grid(cv_blocks(a->n, QUERIES), (unsigned)a->heads);

    return CV_LAUNCH(cuda, cuda->stream, attention_wide_kernel, grid, THREADS,
                     sizeof(Tiles), *a);
}
