/*
 * Queries, keys and values in 8 bits, for attention8.cu.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * A block takes 64 tokens of a head; blocks at work at a time take the same
 * tokens of all heads, which lie side by side. 8 lanes have a query or a key, 16
 * channels each: four stages of the Hadamard transform stay in a lane, three go
 * through shuffles. A thread takes 4 values of 8 channels, so that it has whole
 * words of the transposed, which go through shared memory to be written 16
 * bytes at a time.
 *
 * Bound by bytes, of which it reads two and writes one an element. Predicted on
 * an H200: 14B (32,760 tokens, 40 heads): 1.5 GB, 0.40 ms beside 20 of
 * attention; causal 1.3B (4,680 queries, 18,720 keys, 12 heads): 0.19 GB, 50 us
 * beside 480, and 4 us for the channels.
 */
#include "attention8.cuh"
#include "hopper8.cuh"
#include "vector.cuh"

enum {
    THREADS = 256,
    WARPS = THREADS / CV_WARP,
    LANES = 8,             /* of a query or key */
    EACH = CV8_DIM / LANES,
    STEPS = CV8_TOKENS * LANES / THREADS,
    SAMPLES = 256,         /* tokens that channels are known by */
    SAMPLERS = 512,        /* threads */
    SPAN = 8,              /* channels of such a thread, and of one of values */
    VALUE_PAD = 16,        /* bytes after the values of SPAN channels */
};

/* What a channel's factor is kept in. */
#define LARGEST 1024.0f

static_assert(STEPS * THREADS == CV8_TOKENS * LANES, "whole steps");
static_assert(SPAN * 16 == CV8_DIM, "16 threads have a token");

#if CV_HOPPER_CODE

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
attention8_channels_kernel(CvAttend a, Cv8Channels *channels)
{
#if CV_HOPPER_CODE
    __shared__ float rows[SAMPLERS / CV_WARP][CV8_DIM];
    const int head = (int)blockIdx.x, channel = (int)threadIdx.x;
    const int row = (int)threadIdx.x / 16;
    const int64_t step = (int64_t)a.heads * CV8_DIM;
    const int64_t at = (int64_t)head * CV8_DIM + threadIdx.x % 16 * SPAN;
    const float keys = (float)(a.m < SAMPLES ? a.m : SAMPLES);
    const float queries = (float)(a.n < SAMPLES ? a.n : SAMPLES);
    Cv8Channels *to = &channels[head];
    float sum[SPAN], square[SPAN], mean, spread, size, factor = 1;

    if (blockIdx.y == 1) {
        sample(sum, square, (const cv_bf16 *)a.v + at, step, a.m, row);
        mean = add_rows(rows, sum) / keys;
        if (channel < CV8_DIM)
            to->value_mean[channel] = mean;
        return;
    }
    sample(sum, square, (const cv_bf16 *)a.k + at, step, a.m, row);
    mean = add_rows(rows, sum) / keys;
    spread = add_rows(rows, square) / keys - mean * mean;
    sample(sum, square, (const cv_bf16 *)a.q + at, step, a.n, row);
    size = add_rows(rows, square) / queries;
    /* Query and key of a channel become as large as one another. */
    if (spread > 0 && size > 0)
        factor = sqrtf(sqrtf(spread / size));
    factor = factor >= 1 / LARGEST && factor <= LARGEST ? factor : 1;
    if (channel < CV8_DIM) {
        to->query[channel] = factor;
        to->key[channel] = 1 / factor;
        to->key_mean[channel] = mean;
    }
#else
    (void)a;
    (void)channels;
#endif
}

/* ---- numbers ---- */

#if CV_HOPPER_CODE

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

/* x times the symmetric Hadamard matrix of 128, without its 1 / sqrt(128). */
static __device__ __forceinline__ void turn(float (&x)[EACH])
{
#pragma unroll
    for (int i = 1; i < EACH; i *= 2)
#pragma unroll
        for (int j = 0; j < EACH; j++)
            if (!(j & i)) {
                float low = x[j], high = x[j | i];

                x[j] = low + high;
                x[j | i] = low - high;
            }
#pragma unroll
    for (int i = 1; i < LANES; i *= 2) {
        const float sign = threadIdx.x & i ? -1.0f : 1.0f;

#pragma unroll
        for (int j = 0; j < EACH; j++)
            x[j] = sign * x[j] + __shfl_xor_sync(0xffffffffu, x[j], i);
    }
}

/* Integers, of at most 127, of 16 numbers. */
static __device__ __forceinline__ uint4 to_bytes(const float (&x)[EACH],
                                                 float per)
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

/* The queries or keys of a group. mean: of keys. */
template <bool is_key>
static __device__ __forceinline__ void quantise_rows(const CvAttend &a,
                                                     const Cv8 &to, int head,
                                                     int group,
                                                     uint32_t *parts)
{
    const int part = (int)threadIdx.x % LANES;
    const int row = (int)threadIdx.x / LANES;
    const int tokens = is_key ? a.m : a.n;
    const int groups = is_key ? to.k_groups : to.q_groups;
    const int64_t place = (int64_t)head * groups + group;
    const Cv8Channels *channels = &to.channels[to.head + head];
    const int64_t step = (int64_t)a.heads * CV8_DIM;
    const cv_bf16 *from = (const cv_bf16 *)(is_key ? a.k : a.q) +
                          (int64_t)(to.head + head) * CV8_DIM + part * EACH;
    uint8_t *image = (is_key ? to.k : to.q) + place * CV8_BYTES;
    float x[STEPS][EACH], factor[EACH], mean[EACH], scale[STEPS];
    uint32_t largest[STEPS];

#pragma unroll
    for (int s = 0; s < STEPS; s++) {
        int token = group * CV8_TOKENS + s * (THREADS / LANES) + row;

#pragma unroll
        for (int j = 0; j < EACH; j++)
            x[s][j] = 0;
        if (token < tokens)
            cv_load_n<EACH>(x[s], from + token * step);
    }
    cv_load_n<EACH>(factor, (is_key ? channels->key : channels->query) +
                    part * EACH);
    cv_load_n<EACH>(mean, channels->key_mean + part * EACH);
#pragma unroll
    for (int s = 0; s < STEPS; s++) {
        int token = group * CV8_TOKENS + s * (THREADS / LANES) + row;

#pragma unroll
        for (int j = 0; j < EACH; j++) {
            if (is_key && token < tokens)
                x[s][j] -= mean[j];
            x[s][j] *= factor[j];
        }
        turn(x[s]);
        largest[s] = 0;
#pragma unroll
        for (int j = 0; j < EACH; j++)
            largest[s] = larger(largest[s], x[s][j]);
    }
    if (is_key) {
        uint32_t all = largest[0];

#pragma unroll
        for (int s = 1; s < STEPS; s++)
            all = max(all, largest[s]);
        scale[0] = unit(block_max(all, parts), 127, 0x1p-100f);
#pragma unroll
        for (int s = 1; s < STEPS; s++)
            scale[s] = scale[0];
        if (threadIdx.x == 0)
            to.groups[place].key = scale[0];
    }
#pragma unroll
    for (int s = 0; s < STEPS; s++) {
        int at = s * (THREADS / LANES) + row;

        if (!is_key) {
            scale[s] = unit(lanes_max<LANES>(largest[s]), 127, 0x1p-100f);
            /* The matrix times itself is 128. */
            if (part == 0)
                to.q_factor[place * CV8_TOKENS + at] =
                    scale[s] * (a.scale * (1.44269504088896340736f / CV8_DIM));
        }
        *(uint4 *)(image + at * CV8_DIM + ((part ^ (at & 7)) << 4)) =
            to_bytes(x[s], 1 / scale[s]);
    }
}

/* The values of a group. */
static __device__ __forceinline__ void quantise_values(const CvAttend &a,
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
    const int64_t step = (int64_t)a.heads * CV8_DIM;
    const cv_bf16 *from = (const cv_bf16 *)a.v +
                          (int64_t)(to.head + head) * CV8_DIM + span * SPAN;
    uint8_t *stage = staged + span * (SPAN * CV8_TOKENS + VALUE_PAD);
    uint4 *image = (uint4 *)(to.v + place * CV8_BYTES);
    uint32_t largest = 0;
    float x[4][SPAN], mean[SPAN], scale, per;

#pragma unroll
    for (int i = 0; i < 4; i++) {
        int token = first + i / 2 * 8 + i % 2;

#pragma unroll
        for (int j = 0; j < SPAN; j++)
            x[i][j] = 0;
        if (token < a.m)
            cv_load_n<SPAN>(x[i], from + token * step);
    }
    cv_load_n<SPAN>(mean, channels->value_mean + span * SPAN);
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < SPAN; j++) {
            if (first + i / 2 * 8 + i % 2 < a.m)
                x[i][j] -= mean[j];
            largest = larger(largest, x[i][j]);
        }
    /* Weights take the scale on: were it 0 for a group, the logarithm would be
     * none. */
    scale = unit(block_max(largest, parts), 448, 0x1p-60f);
    per = 1 / scale;
    if (threadIdx.x == 0) {
        to.groups[place].log_value = log2f(scale);
        to.groups[place].per_value = per;
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

static __global__ void __launch_bounds__(THREADS, 4)
attention8_quantise_kernel(CvAttend a, Cv8 to)
{
#if CV_HOPPER_CODE
    __shared__ __align__(16) uint8_t
        staged[CV8_BYTES + CV8_DIM / SPAN * VALUE_PAD];
    __shared__ uint32_t parts[WARPS];
    const int head = (int)(blockIdx.x % to.heads);
    const int group = (int)(blockIdx.x / to.heads);

    if (group < to.k_groups)
        quantise_rows<true>(a, to, head, group, parts);
    else if (group < 2 * to.k_groups)
        quantise_values(a, to, head, group - to.k_groups, staged, parts);
    else
        quantise_rows<false>(a, to, head, group - 2 * to.k_groups, parts);
#else
    (void)a;
    (void)to;
#endif
}

int cv_cuda_attention8_channels(CvCuda *cuda, const CvAttend *a,
                                Cv8Channels *channels)
{
    return CV_LAUNCH(cuda, cuda->stream, attention8_channels_kernel,
                     dim3((unsigned)a->heads, 2), SAMPLERS, 0, *a, channels);
}

int cv_cuda_attention8_quantise(CvCuda *cuda, const CvAttend *a, const Cv8 *to)
{
    unsigned blocks = (unsigned)(2 * to->k_groups + to->q_groups) *
                      (unsigned)to->heads;

    return CV_LAUNCH(cuda, cuda->stream, attention8_quantise_kernel, blocks,
                     THREADS, 0, *a, *to);
}
