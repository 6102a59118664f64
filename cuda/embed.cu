/*
 * Embeddings of tokens, timesteps and positions, and the modulation rows.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * All are bound by bytes, or too small to be bound by anything but their
 * launch. Predicted for an H200 at 4.2 TB/s:
 *   t5_bias      64 heads of 512 x 512 (UMT5-XXL)    67 MB   16 us
 *   rope_table   32760 tokens of 64 pairs            17 MB    6 us
 *   embed        512 rows of 4096                    13 MB    4 us
 *   modulation   21 groups of 6 x 5120                8 MB    3 us
 *
 * Angles are in float64, as on the CPU: their cosines would show the rounding
 * of a float32 angle. sincos() costs about a hundred operations in float64,
 * which keeps rope_table near its bytes on a data center GPU and takes some
 * milliseconds where float64 runs at 1/64 of the rate, once a clip.
 */
#include <math.h>

#include "fp8.cuh"
#include "vector.cuh"

enum { kThreads = 256 };

/* ---- embed ---- */

/* A block has a row of n-element pieces, 4 or 1. */
template <typename W, int n>
__global__ void __launch_bounds__(kThreads)
embed_kernel(float *__restrict__ out, const W *__restrict__ table,
             const int32_t *__restrict__ ids, int64_t d)
{
    cv_begin();
    const W *row = table + ids[blockIdx.x] * d;

    out += blockIdx.x * d;
    for (int64_t i = (int64_t)threadIdx.x * n; i < d; i += kThreads * n) {
        if constexpr (n == 4) {
            float v[4];

            cv_load_n<4>(v, row + i);
            cv_store_n<4>(out + i, v);
        } else {
            out[i] = cv_load(row + i);
        }
    }
}

template <typename W>
static int embed(CvCuda *cuda, const CvTensor *out, const CvTensor *table,
                 const CvTensor *ids)
{
    float *dst = (float *)out->data;
    const W *rows = (const W *)table->data;
    const int32_t *id = (const int32_t *)ids->data;
    int64_t d = table->dim[1];
    int vectors = d % 4 == 0 && cv_aligned16(dst) && cv_aligned16(rows);
    auto kernel = vectors ? embed_kernel<W, 4> : embed_kernel<W, 1>;

    return CV_LAUNCH(cuda, cuda->stream, kernel, (unsigned)out->dim[0],
                     kThreads, 0, dst, rows, id, d);
}

/* A few hundred rows a prompt: one element at a time will do. */
template <CvType type>
__global__ void __launch_bounds__(kThreads)
embed_fp8_kernel(float *__restrict__ out, const uint8_t *__restrict__ table,
                 const float *__restrict__ scale,
                 const int32_t *__restrict__ ids, int64_t d)
{
    cv_begin();
    const uint8_t *row = table + ids[blockIdx.x] * d;
    float factor = scale[ids[blockIdx.x]];

    out += blockIdx.x * d;
    for (int64_t i = threadIdx.x; i < d; i += kThreads)
        out[i] = factor * cv_from_fp8<type>(row[i]);
}

template <CvType type>
static int embed_fp8(CvCuda *cuda, const CvTensor *out, const CvTensor *table,
                     const CvTensor *scale, const CvTensor *ids)
{
    auto kernel = embed_fp8_kernel<type>;

    return CV_LAUNCH(cuda, cuda->stream, kernel, (unsigned)out->dim[0],
                     kThreads, 0, (float *)out->data,
                     (const uint8_t *)table->data, (const float *)scale->data,
                     (const int32_t *)ids->data, table->dim[1]);
}

int cv_cuda_embed(CvBackend *b, const CvTensor *out, const CvTensor *table,
                  const CvTensor *scale, const CvTensor *ids)
{
    if (!cv_elements(out))
        return 0;
    if (table->type == CV_F8_E4M3)
        return embed_fp8<CV_F8_E4M3>(cv_cuda(b), out, table, scale, ids);
    if (table->type == CV_F8_E5M2)
        return embed_fp8<CV_F8_E5M2>(cv_cuda(b), out, table, scale, ids);
    return table->type == CV_F32
               ? embed<float>(cv_cuda(b), out, table, ids)
               : embed<cv_bf16>(cv_cuda(b), out, table, ids);
}

/* ---- t5_bias ---- */

enum { kFar = 128 }; /* all distances from here on share a bucket */

/* Buckets of the distances -kFar..kFar, made on the host, whose logarithm
 * decides the borders for both backends. */
typedef struct Buckets {
    uint16_t of[2 * kFar + 1];
} Buckets;

static int bucket(int distance, int buckets)
{
    int half = buckets / 2, exact = half / 2, a = abs(distance), step;
    int base = distance > 0 ? half : 0;

    if (a < exact)
        return base + a;
    /* Distances that are a bucket's lower bound give an integer; the addend
     * keeps rounding from putting them below it. */
    step = exact + (int)(log((double)a / exact) / log((double)kFar / exact) *
                         (half - exact) + 1e-9);
    return base + (step < half ? step : half - 1);
}

/* A block has some queries of a head. */
enum { kQueries = 8 };

__global__ void __launch_bounds__(kThreads)
t5_bias_kernel(float *__restrict__ out, const float *__restrict__ table,
               const __grid_constant__ Buckets buckets, int64_t heads, int n)
{
    cv_begin();
    __shared__ float bias[2 * kFar + 1];
    int64_t head = blockIdx.y;
    int first = (int)blockIdx.x * kQueries, last = min(first + kQueries, n);

    for (int i = (int)threadIdx.x; i < 2 * kFar + 1; i += kThreads)
        bias[i] = table[buckets.of[i] * heads + head];
    __syncthreads();
    for (int i = first; i < last; i++) {
        float *row = out + (head * n + i) * n;

        for (int j = (int)threadIdx.x; j < n; j += kThreads)
            row[j] = bias[max(-kFar, min(j - i, (int)kFar)) + kFar];
    }
}

int cv_cuda_t5_bias(CvBackend *b, const CvTensor *out, const CvTensor *table)
{
    CvCuda *cuda = cv_cuda(b);
    float *dst = (float *)out->data;
    const float *rows = (const float *)table->data;
    int64_t heads = out->dim[0], n = out->dim[1];
    Buckets buckets;
    dim3 grid(cv_blocks(n, kQueries), (unsigned)heads);

    if (!cv_elements(out))
        return 0;
    if (table->dim[0] / 4 >= kFar || heads > 65535)
        return cv_fail(b->log, EINVAL, "t5_bias: %lld buckets of %lld heads "
                       "are not supported", (long long)table->dim[0],
                       (long long)heads);
    for (int i = 0; i < 2 * kFar + 1; i++)
        buckets.of[i] = (uint16_t)bucket(i - kFar, (int)table->dim[0]);
    return CV_LAUNCH(cuda, cuda->stream, t5_bias_kernel, grid, kThreads, 0,
                     dst, rows, buckets, heads, (int)n);
}

/* ---- timestep_embedding ---- */

__global__ void __launch_bounds__(kThreads)
timestep_embedding_kernel(float *__restrict__ out,
                          const float *__restrict__ t, int64_t n, int64_t half)
{
    cv_begin();
    int64_t i = (int64_t)blockIdx.x * kThreads + threadIdx.x;

    if (i < n) {
        int64_t group = i / half, j = i % half;
        double angle = t[group] * pow(10000.0, -(double)j / (double)half);

        out[group * 2 * half + j] = (float)cos(angle);
        out[group * 2 * half + half + j] = (float)sin(angle);
    }
}

int cv_cuda_timestep_embedding(CvBackend *b, const CvTensor *out,
                               const CvTensor *t)
{
    CvCuda *cuda = cv_cuda(b);
    float *dst = (float *)out->data;
    const float *steps = (const float *)t->data;
    int64_t half = out->dim[1] / 2, n = out->dim[0] * half;

    if (!n)
        return 0;
    return CV_LAUNCH(cuda, cuda->stream, timestep_embedding_kernel,
                     cv_blocks(n, kThreads), kThreads, 0, dst, steps, n, half);
}

/* ---- modulation ---- */

__global__ void __launch_bounds__(kThreads)
modulation_kernel(float *__restrict__ out, const float *__restrict__ table,
                  const float *__restrict__ x, int64_t n, int64_t rows,
                  int64_t d, int shared)
{
    cv_begin();
    int64_t i = (int64_t)blockIdx.x * kThreads + threadIdx.x;

    if (i < n)
        out[i] = table[i % (rows * d)] +
                 x[shared ? i / (rows * d) * d + i % d : i];
}

int cv_cuda_modulation(CvBackend *b, const CvTensor *out,
                       const CvTensor *table, const CvTensor *x)
{
    CvCuda *cuda = cv_cuda(b);
    float *dst = (float *)out->data;
    const float *base = (const float *)table->data;
    const float *add = (const float *)x->data;
    int64_t n = cv_elements(out);
    int shared = x->n_dims == 2; /* one row of x serves all rows */

    if (!n)
        return 0;
    return CV_LAUNCH(cuda, cuda->stream, modulation_kernel,
                     cv_blocks(n, kThreads), kThreads, 0, dst, base, add, n,
                     out->dim[1], out->dim[2], shared);
}

/* ---- rope_table ---- */

typedef struct RopeTable {
    int64_t first_frame, tokens;
    int h, w, pairs, side; /* side: pairs of row and column */
} RopeTable;

enum { kTokens = 16 }; /* of a block */

/* The frequencies are made once for each block: a power costs as much as
 * several angles. */
__global__ void __launch_bounds__(kThreads)
rope_table_kernel(float *__restrict__ out, const RopeTable a)
{
    cv_begin();
    CV_DYNAMIC_SHARED(double, frequency);
    int frame_pairs = a.pairs - 2 * a.side;
    int64_t first = (int64_t)blockIdx.x * kTokens;

    for (int j = (int)threadIdx.x; j < a.pairs; j += kThreads) {
        int k = j < frame_pairs ? j : (j - frame_pairs) % a.side;
        int n = j < frame_pairs ? frame_pairs : a.side;

        frequency[j] = pow(10000.0, -(double)k / (double)n);
    }
    __syncthreads();
    for (int i = (int)threadIdx.x; i < kTokens * a.pairs; i += kThreads) {
        int64_t token = first + i / a.pairs, line = token / a.w;
        int j = i % a.pairs;
        int64_t at = j < frame_pairs            ? a.first_frame + line / a.h
                     : j < frame_pairs + a.side ? line % a.h
                                                : token % a.w;
        double s, c;

        if (token >= a.tokens)
            break;
        sincos((double)at * frequency[j], &s, &c);
        /* The table may begin at any float. */
        out[(first * a.pairs + i) * 2] = (float)c;
        out[(first * a.pairs + i) * 2 + 1] = (float)s;
    }
}

int cv_cuda_rope_table(CvBackend *b, const CvTensor *out, int64_t first_frame,
                       int frames, int h, int w)
{
    CvCuda *cuda = cv_cuda(b);
    float *dst = (float *)out->data;
    int pairs = (int)out->dim[1];
    RopeTable a = { first_frame, (int64_t)frames * h * w, h, w, pairs,
                    pairs * 2 / 6 };

    if (!pairs)
        return 0;
    return CV_LAUNCH(cuda, cuda->stream, rope_table_kernel,
                     cv_blocks(a.tokens, kTokens), kThreads,
                     (size_t)pairs * sizeof(double), dst, a);
}
