/*
 * Queries, keys and values in 8 bits, for attention8.cu.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * Blocks at work at a time take the same tokens of all heads, which lie side by
 * side. A warp has 16 queries or keys: the Hadamard matrix of 128 is one of 16,
 * by mma.sync, times one of 8, by additions in a lane. A thread takes 4 values of
 * 8 channels, so that it has whole words of the transposed, which go through
 * shared memory to be written 16 bytes at a time.
 *
 * It reads two bytes and writes one an element. Measured on an H200: 14B (32,760
 * tokens, 40 heads): 1.5 GB, 0.64 ms (predicted: 0.40); causal 1.3B (4,680
 * queries, 18,720 keys, 12 heads): 0.19 GB, 0.10 ms, the channels included
 * (predicted: 0.054). With shuffles instead of mma.sync it took the same.
 */
#include "attention8.cuh"
#include "hopper8.cuh"
#include "vector.cuh"

enum {
    THREADS = 256,
    WARPS = THREADS / CV_WARP,
    ROW_WARPS = CV8_TOKENS / 16, /* that have a group of queries or keys */
    SAMPLES = 256,         /* tokens that channels are known by */
    SAMPLERS = 512,        /* threads */
    SPAN = 8,              /* channels of such a thread, and of one of values */
    VALUE_PAD = 16,        /* bytes after the values of SPAN channels */
    ROOM = 6,              /* binary orders of e4m3 that values can do without */
};

/* What a channel's factor is kept in. */
#define LARGEST 1024.0f

static_assert(WARPS == 2 * ROW_WARPS, "two groups");
static_assert(SPAN * 16 == CV8_DIM, "16 threads have a token");

#if CV_HOPPER_CODE

/* ---- numbers ---- */

/* The larger of two absolute values' bits: NaN is above all. */
static __device__ __forceinline__ uint32_t larger(uint32_t bits, float x)
{
    return max(bits, __float_as_uint(x) & 0x7fffffffu);
}

/* The largest of `lanes` lanes. */
template <int lanes>
static __device__ __forceinline__ uint32_t lanes_max(uint32_t bits)
{
#pragma unroll
    for (int i = 1; i < lanes; i *= 2)
        bits = max(bits, __shfl_xor_sync(0xffffffffu, bits, i));
    return bits;
}

static __device__ __forceinline__ uint32_t block_max(uint32_t bits,
                                                     uint32_t *parts)
{
    bits = lanes_max<CV_WARP>(bits);
    if (threadIdx.x % CV_WARP == 0)
        parts[threadIdx.x / CV_WARP] = bits;
    __syncthreads();
    return lanes_max<WARPS>(parts[threadIdx.x % WARPS]);
}

/* The factor that the largest, by its bits, is `top` times. */
static __device__ __forceinline__ float unit(uint32_t bits, float top,
                                             float least)
{
    float largest = __uint_as_float(bits);

    return largest < least * top ? least : largest / top;
}

/* The least n for which 2^n times 448 is not below x >= 0. */
static __device__ __forceinline__ int log_unit(float x)
{
    const uint32_t bits = __float_as_uint(x / 448);

    return (int)(bits >> 23) - 127 + ((bits & 0x7fffff) != 0);
}

/* 2^n. */
static __device__ __forceinline__ float power(int n)
{
    return __uint_as_float((uint32_t)(n + 127) << 23);
}

/* 2^n in e4m3, -9 <= n <= 8. */
static __device__ __forceinline__ uint32_t power_e4m3(int n)
{
    return n < -6 ? 1u << (n + 9) : (uint32_t)(n + 7) << 3;
}

/* ---- channels ---- */

/* Add the squares and the values of sampled tokens; row: of the SAMPLERS / 16
 * that are added at a time. */
static __device__ __forceinline__ void sample(float (&sum)[SPAN],
                                              float (&square)[SPAN],
                                              const cv_bf16 *x, int64_t step,
                                              int tokens, int row)
{
    const int n = tokens < SAMPLES ? tokens : SAMPLES;

#pragma unroll
    for (int i = 0; i < SPAN; i++)
        sum[i] = square[i] = 0;
#pragma unroll 4
    for (int i = row; i < n; i += SAMPLERS / 16) {
        float v[SPAN];

        cv_load_n<SPAN>(v, x + (int64_t)i * tokens / n * step);
#pragma unroll
        for (int j = 0; j < SPAN; j++) {
            sum[j] += v[j];
            square[j] += v[j] * v[j];
        }
    }
}

/* The sum over a block's rows, of channel threadIdx.x. */
static __device__ __forceinline__ float
add_rows(float (*rows)[CV8_DIM], const float (&v)[SPAN])
{
    const int lane = (int)threadIdx.x % CV_WARP;
    float sum = 0;

    __syncthreads();
#pragma unroll
    for (int j = 0; j < SPAN; j++) {
        float both = v[j] + __shfl_xor_sync(0xffffffffu, v[j], 16);

        if (lane < 16)
            rows[threadIdx.x / CV_WARP][lane * SPAN + j] = both;
    }
    __syncthreads();
    for (int i = 0; i < SAMPLERS / CV_WARP; i++)
        sum += rows[i][threadIdx.x % CV8_DIM];
    return sum;
}

#endif /* CV_HOPPER_CODE */

/* A block has the queries and keys, or the values of a head. */
static __global__ void __launch_bounds__(SAMPLERS)
attention8_channels_kernel(Cv8Rows a, Cv8Channels *channels)
{
#if CV_HOPPER_CODE
    cv_begin();
    __shared__ float rows[SAMPLERS / CV_WARP][CV8_DIM];
    __shared__ uint32_t parts[SAMPLERS / CV_WARP];
    const int head = (int)blockIdx.x, channel = (int)threadIdx.x;
    const int row = (int)threadIdx.x / 16;
    const int64_t at = (int64_t)head * CV8_DIM + threadIdx.x % 16 * SPAN;
    const float keys = (float)(a.m < SAMPLES ? a.m : SAMPLES);
    const float queries = (float)(a.n < SAMPLES ? a.n : SAMPLES);
    Cv8Channels *to = &channels[head];
    float sum[SPAN], square[SPAN], mean, spread, size, factor = 1;

    if (blockIdx.y == 1) {
        sample(sum, square, a.v + at, a.v_step, a.m, row);
        mean = add_rows(rows, sum) / keys;
        size = add_rows(rows, square) / keys;
        /* A mean has to stand out. One of what has none, by the samples' noise,
         * would be most of a result, and have the error of sums of weights; and
         * little is won by one that values of other blocks may not have. */
        if (2 * mean * mean < size)
            mean = 0;
        if (channel < CV8_DIM)
            to->value_mean[channel] = mean;
        /* The largest are some four times a channel's size, those of later
         * blocks of a ring perhaps more. */
        size = 32 * sqrtf(__uint_as_float(block_max(larger(0, size), parts)));
        if (channel == 0)
            to->value_unit = power(max(min(log_unit(size), 90), -60));
        return;
    }
    sample(sum, square, a.k + at, a.k_step, a.m, row);
    mean = add_rows(rows, sum) / keys;
    if (channel < a.turning)
        mean = 0;
    spread = add_rows(rows, square) / keys - mean * mean;
    sample(sum, square, a.q + at, a.q_step, a.n, row);
    size = add_rows(rows, square) / queries;
    /* Query and key of a channel become as large as one another. */
    if (spread > 0 && size > 0)
        factor = sqrtf(sqrtf(spread / size));
    factor = factor >= 1 / LARGEST && factor <= LARGEST ? factor : 1;
    if (channel < CV8_DIM) {
        to->query[channel] = factor;
        to->key[channel] = 1 / factor;
        to->key_mean[channel] = mean / factor;
    }
#else
    (void)a;
    (void)channels;
#endif
}

/* ---- queries and keys ---- */

#if CV_HOPPER_CODE

/* The lane's part of the symmetric Hadamard matrix of 16, columns `first` on,
 * as the right operand of a product: 1 or -1. */
static __device__ __forceinline__ void hadamard(uint32_t (&b)[2], int first)
{
    const int lane = (int)threadIdx.x % CV_WARP, column = first + lane / 4;

#pragma unroll
    for (int i = 0; i < 2; i++) {
        const int row = i * 8 + lane % 4 * 2;

        b[i] = 0x3f803f80u | (__popc(row & column) & 1) << 15 |
               (uint32_t)(__popc((row + 1) & column) & 1) << 31;
    }
}

/* 16 rows, of which the lane has rows lane / 4 and that + 8, times a symmetric
 * Hadamard matrix of 128: of 16 in products, of 8 in sums. Which channel is
 * which row of the matrix does not matter, as long as it is one for queries and
 * keys. x: of each row 32 channels, two to a word; y: [row][32]. */
static __device__ __forceinline__ void turn(float (&y)[2][32],
                                            const uint32_t (&x)[2][16])
{
    uint32_t b[2][2];

    hadamard(b[0], 0);
    hadamard(b[1], 8);
#pragma unroll
    for (int i = 0; i < 8; i++) {
        const uint32_t a[4] = { x[0][2 * i], x[1][2 * i], x[0][2 * i + 1],
                                x[1][2 * i + 1] };

#pragma unroll
        for (int j = 0; j < 2; j++) {
            float d[4] = { 0, 0, 0, 0 };

            cv_mma_bf16(d, a, b[j][0], b[j][1]);
#pragma unroll
            for (int k = 0; k < 4; k++)
                y[k / 2][i * 4 + j * 2 + k % 2] = d[k];
        }
    }
#pragma unroll
    for (int i = 4; i < 32; i *= 2)
#pragma unroll
        for (int j = 0; j < 32; j++)
            if (!(j & i)) {
#pragma unroll
                for (int h = 0; h < 2; h++) {
                    float low = y[h][j], high = y[h][j | i];

                    y[h][j] = low + high;
                    y[h][j | i] = low - high;
                }
            }
}

/* Integers, of at most 127, of 16 numbers. */
static __device__ __forceinline__ uint4 to_bytes(const float *x, float per)
{
    uint32_t word[4];

#pragma unroll
    for (int i = 0; i < 4; i++) {
        uint32_t v[4];

        /* The nearest integer is in the lowest bits of 1.5 2^23 + it. */
#pragma unroll
        for (int j = 0; j < 4; j++)
            v[j] = __float_as_uint(x[4 * i + j] * per + 12582912.0f);
        word[i] = __byte_perm(__byte_perm(v[0], v[1], 0x0040),
                              __byte_perm(v[2], v[3], 0x0040), 0x5410);
    }
    return make_uint4(word[0], word[1], word[2], word[3]);
}

/* The queries or keys of two groups, the second of which may be none. A warp
 * has 16 of them, a lane chunks lane % 4 + 0, 4, 8 and 12 of two. */
template <bool is_key>
static __device__ __forceinline__ void quantise_rows(const Cv8Rows &a,
                                                     const Cv8 &to, int head,
                                                     int pair, uint32_t *parts)
{
    const int lane = (int)threadIdx.x % CV_WARP;
    const int warp = (int)threadIdx.x / CV_WARP;
    const int tokens = is_key ? a.m : a.n;
    const int groups = is_key ? a.k_groups : a.q_groups;
    const int group = pair * 2 + warp / ROW_WARPS;
    const int row = warp % ROW_WARPS * 16 + lane / 4;
    const int64_t place = (int64_t)head * (is_key ? to.k_groups
                                                  : to.q_groups) + group;
    const Cv8Channels *channels = &to.channels[to.head + head];
    const int64_t step = is_key ? a.k_step : a.q_step;
    const cv_bf16 *from = (is_key ? a.k : a.q) +
                          (int64_t)(to.head + head) * CV8_DIM;
    uint8_t *image = (is_key ? to.k : to.q) + place * CV8_BYTES;
    uint32_t x[2][16], largest[2];
    bool valid[2];
    float y[2][32];
    uint4 raw[2][4];

#pragma unroll
    for (int h = 0; h < 2; h++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int token = group * CV8_TOKENS + row + h * 8;

            if (is_key)
                token = min(token, tokens - 1);
            raw[h][i] = make_uint4(0, 0, 0, 0);
            if (token < tokens)
                raw[h][i] = *(const uint4 *)(from + token * step +
                                             (lane % 4 + i * 4) * 8);
        }
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const int channel = (lane % 4 + i * 4) * 8;
        float factor[8], mean[8], v[8];

        cv_load_n<8>(factor, (is_key ? channels->key : channels->query) +
                     channel);
        if (is_key)
            cv_load_n<8>(mean, channels->key_mean + channel);
#pragma unroll
        for (int h = 0; h < 2; h++) {
            cv_unpack<cv_bf16>(v, raw[h][i]);
#pragma unroll
            for (int j = 0; j < 8; j++)
                v[j] = is_key ? v[j] * factor[j] - mean[j] : v[j] * factor[j];
#pragma unroll
            for (int j = 0; j < 4; j++)
                x[h][i * 4 + j] = cv_pack_pair(v[2 * j], v[2 * j + 1]);
        }
    }
    turn(y, x);
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float most = 0;

#pragma unroll
        for (int j = 0; j < 32; j++)
            most = fmaxf(most, fabsf(y[h][j]));
        /* What is no number is in all sums of a row. */
        largest[h] = larger(__float_as_uint(most), y[h][0]);
        valid[h] = is_key || group * CV8_TOKENS + row + h * 8 < tokens;
        largest[h] = valid[h] ? largest[h] : 0;
    }
    if (is_key) {
        largest[0] = lanes_max<CV_WARP>(max(largest[0], largest[1]));
        if (lane == 0)
            parts[warp] = largest[0];
        __syncthreads();
        largest[0] = lanes_max<ROW_WARPS>(
            parts[warp / ROW_WARPS * ROW_WARPS + lane % ROW_WARPS]);
        largest[1] = largest[0];
    }
    if (group >= groups)
        return;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const int at = row + h * 8;
        const float scale = unit(is_key ? largest[h]
                                        : lanes_max<4>(largest[h]),
                                 127, 0x1p-100f);

        if (is_key && threadIdx.x % (ROW_WARPS * CV_WARP) == 0)
            to.groups[place].key = scale;
        /* The matrix times itself is 128. */
        if (!is_key && lane % 4 == 0)
            to.q_factor[place * CV8_TOKENS + at] =
                scale * (a.scale * (1.44269504088896340736f / CV8_DIM));
#pragma unroll
        for (int i = 0; i < 2; i++)
            *(uint4 *)(image + at * CV8_DIM +
                       (((lane % 4 + 4 * i) ^ (at & 7)) << 4)) =
                to_bytes(y[h] + 16 * i, valid[h] ? 1 / scale : 0);
    }
}

/* The values of a group. */
static __device__ __forceinline__ void quantise_values(const Cv8Rows &a,
                                                       const Cv8 &to, int head,
                                                       int group,
                                                       uint8_t *staged,
                                                       uint32_t *parts)
{
    const int lane = (int)threadIdx.x % CV_WARP;
    const int warp = (int)threadIdx.x / CV_WARP;
    /* A warp has 8 spans of channels and 4 words of 4 keys. */
    const int span = warp % 2 * 8 + lane % 8, word = warp / 2 * 4 + lane / 8;
    const int first = group * CV8_TOKENS + word / 4 * 16 + word % 4 * 2;
    const int64_t place = (int64_t)head * to.k_groups + group;
    const Cv8Channels *channels = &to.channels[to.head + head];
    const cv_bf16 *from = a.v + (int64_t)(to.head + head) * CV8_DIM +
                          span * SPAN;
    uint8_t *stage = staged + span * (SPAN * CV8_TOKENS + VALUE_PAD);
    const int usual = log_unit(448 * channels->value_unit);
    uint4 *image = (uint4 *)(to.v + place * CV8_VALUES);
    uint32_t largest = 0, whole = 0;
    float x[4][SPAN], mean[SPAN], per;
    int scale;

#pragma unroll
    for (int i = 0; i < 4; i++) {
        int token = first + i / 2 * 8 + i % 2;

#pragma unroll
        for (int j = 0; j < SPAN; j++)
            x[i][j] = 0;
        if (token < a.m)
            cv_load_n<SPAN>(x[i], from + token * a.v_step);
    }
    cv_load_n<SPAN>(mean, channels->value_mean + span * SPAN);
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < SPAN; j++) {
            whole = larger(whole, x[i][j]);
            if (first + i / 2 * 8 + i % 2 < a.m)
                x[i][j] -= mean[j];
            largest = larger(largest, x[i][j]);
        }
    if (a.largest) {
        whole = lanes_max<CV_WARP>(whole);
        if (lane == 0)
            atomicMax(a.largest, whole);
    }
    largest = block_max(largest, parts);
    /* The same for all groups where that is not too coarse: what a larger one has
     * more, weights of the others have less. */
    scale = log_unit(__uint_as_float(largest));
    scale = min(max(scale, usual), scale + ROOM);
    scale = max(min(scale, usual + 9 + CV8_FAR), usual - 8);
    per = largest < 0x7f800000u ? power(-scale) : __uint_as_float(0x7fc00000u);
    if (threadIdx.x == 0)
        to.groups[place].value_log = (float)scale;
    /* What weights are summed by, since they take the scale on: in columns of
     * even numbers, or, where e4m3 does not reach, in the others; four of them
     * have every fourth key each. Tokens past the end have none. */
    if (threadIdx.x < CV8_VALUES / 16 - CV8_BYTES / 16) {
        const int near = usual - scale, far = near + CV8_FAR;
        const int is_far = near < -9, row = (int)threadIdx.x / 4;
        const int chunk = ((int)threadIdx.x % 4) ^ (row / 2);
        const int left = a.m - group * CV8_TOKENS - chunk * 16 -
                         row / 4 * 8 - row / 2 % 2;
        uint32_t v = 0;

        if (is_far == row % 2)
            v = power_e4m3(is_far ? far : near) << row / 2 * 8;
        image[CV8_BYTES / 16 + threadIdx.x] =
            make_uint4(left > 0 ? v : 0, left > 2 ? v : 0, left > 4 ? v : 0,
                       left > 6 ? v : 0);
    }
#pragma unroll
    for (int j = 0; j < SPAN; j++)
        *(uint32_t *)(stage + j * CV8_TOKENS +
                      (((word / 4) ^ (j / 2)) << 4) + word % 4 * 4) =
            cv_pack_e4m3(x[0][j] * per, x[1][j] * per, x[2][j] * per,
                         x[3][j] * per);
    __syncthreads();
#pragma unroll
    for (int i = 0; i < CV8_BYTES / 16 / THREADS; i++) {
        int at = (int)threadIdx.x + i * THREADS;

        image[at] = *(const uint4 *)(staged + at * 16 +
                                     at * 16 / (SPAN * CV8_TOKENS) *
                                     VALUE_PAD);
    }
}

#endif /* CV_HOPPER_CODE */

static __global__ void __launch_bounds__(THREADS, 2)
attention8_quantise_kernel(Cv8Rows a, Cv8 to)
{
#if CV_HOPPER_CODE
    cv_begin();
    __shared__ __align__(16) uint8_t
        staged[CV8_BYTES + CV8_DIM / SPAN * VALUE_PAD];
    __shared__ uint32_t parts[WARPS];
    const int head = (int)(blockIdx.x % to.heads);
    const int keys = (a.k_groups + 1) / 2;
    const int group = (int)(blockIdx.x / to.heads);

    if (group < keys)
        quantise_rows<true>(a, to, head, group, parts);
    else if (group < keys + a.k_groups)
        quantise_values(a, to, head, group - keys, staged, parts);
    else
        quantise_rows<false>(a, to, head, group - keys - a.k_groups, parts);
#else
    (void)a;
    (void)to;
#endif
}

int cv_cuda_attention8_channels(CvCuda *cuda, const Cv8Rows *from, int heads,
                                Cv8Channels *channels)
{
    return CV_LAUNCH(cuda, cuda->stream, attention8_channels_kernel,
                     dim3((unsigned)heads, 2), SAMPLERS, 0, *from, channels);
}

int cv_cuda_attention8_quantise(CvCuda *cuda, const Cv8Rows *from,
                                const Cv8 *to)
{
    unsigned blocks = (unsigned)((from->k_groups + 1) / 2 + from->k_groups +
                                 (from->q_groups + 1) / 2) *
                      (unsigned)to->heads;

    return CV_LAUNCH(cuda, cuda->stream, attention8_quantise_kernel, blocks,
                     THREADS, 0, *from, *to);
}
