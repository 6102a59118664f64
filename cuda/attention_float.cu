/*
 * Attention without tensor cores: float32 for checking, and the sizes of heads
 * and the alignments that the other kernels do not take.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * A block of 256 threads takes 64 queries of one head and 128 columns of the
 * result, and goes through the keys in tiles of 64 with a running softmax.
 * A thread makes 4 x 4 scores and 4 x 8 results, all float32. Both products go
 * through shared memory in slices: 32 columns of queries and keys, then 32
 * rows of values in the same place; each slice is summed by itself first, for
 * the sake of the last digits. Wider heads make their scores again for every
 * 128 columns.
 *
 * Bound by float32 operations. Predicted: 15 TFLOP/s, so 1.5 s for 32,760 x
 * 32,760 and 40 heads of 128.
 */
#include "attention.cuh"

enum {
    THREADS = 256,
    QUERIES = 64,
    KEYS = 64,
    COLUMNS = 128, /* of the result */
    SLICE = 32,    /* of q k^T's sums, or of keys */
    STEP = 68,     /* of a row of 64: 16-byte vectors, fewer bank conflicts */
};

static_assert(2 * SLICE * STEP >= SLICE * COLUMNS, "values fit");

/* tile[column][row] = src[row][first + column] for 64 rows and SLICE columns,
 * 0 outside `rows` and `d`. */
template <typename T>
static __device__ __forceinline__ void load_turned(float *tile, const T *src,
                                                   int64_t step, int rows,
                                                   int first, int d)
{
#pragma unroll
    for (int i = 0; i < 64 * SLICE / THREADS; i++) {
        int at = (int)threadIdx.x + i * THREADS;
        int row = at / SLICE, column = at % SLICE;

        tile[column * STEP + row] = row < rows && first + column < d ?
            cv_load(src + row * step + first + column) : 0.0f;
    }
}

/* tile[row][column] = src[row][first + column] for SLICE rows and COLUMNS
 * columns. */
template <typename T>
static __device__ __forceinline__ void load_values(float *tile, const T *src,
                                                   int64_t step, int rows,
                                                   int first, int d)
{
#pragma unroll
    for (int i = 0; i < SLICE * COLUMNS / THREADS; i++) {
        int at = (int)threadIdx.x + i * THREADS;
        int row = at / COLUMNS, column = at % COLUMNS;

        tile[at] = row < rows && first + column < d ?
            cv_load(src + row * step + first + column) : 0.0f;
    }
}

static __device__ __forceinline__ void load4(float x[4], const float *p)
{
    float4 v = *(const float4 *)p;

    x[0] = v.x;
    x[1] = v.y;
    x[2] = v.z;
    x[3] = v.w;
}

/* Thread t has rows 4 (t / 16) and the next 3; of scores, columns 4 (t % 16)
 * and the next 3; of the result, these and those 64 further. The 16 threads
 * of some rows are half a warp. */
template <typename T>
static __global__ void __launch_bounds__(THREADS, 1)
attention_float_kernel(CvAttend a)
{
    cv_begin();
    __shared__ __align__(16) float slices[2 * SLICE * STEP];
    __shared__ __align__(16) float weights[KEYS * STEP]; /* [key][query] */
    float *q_slice = slices, *k_slice = slices + SLICE * STEP;
    const int x = (int)threadIdx.x % 16 * 4, y = (int)threadIdx.x / 16 * 4;
    const int64_t step = (int64_t)a.heads * a.d;
    const int query = (int)blockIdx.x * QUERIES;
    const int head = (int)blockIdx.y, column = (int)blockIdx.z * COLUMNS;
    const int64_t head_at = (int64_t)head * a.d;
    const T *q = (const T *)a.q + query * step + head_at;
    float o[4][8], top[4], sum[4];

    for (int i = 0; i < 4; i++) {
        for (int j = 0; j < 8; j++)
            o[i][j] = 0;
        top[i] = -INFINITY;
        sum[i] = 0;
    }
    for (int key = 0; key < a.m; key += KEYS) {
        const T *k = (const T *)a.k + key * step + head_at;
        const T *v = (const T *)a.v + key * step + head_at;
        const int keys = min(KEYS, a.m - key);
        float s[4][4] = { { 0 } };

        for (int d = 0; d < a.d; d += SLICE) {
            float part[4][4] = { { 0 } };

            __syncthreads();
            load_turned(q_slice, q, step, a.n - query, d, a.d);
            load_turned(k_slice, k, step, keys, d, a.d);
            __syncthreads();
#pragma unroll 8
            for (int c = 0; c < SLICE; c++) {
                float left[4], right[4];

                load4(left, q_slice + c * STEP + y);
                load4(right, k_slice + c * STEP + x);
#pragma unroll
                for (int i = 0; i < 4; i++)
#pragma unroll
                    for (int j = 0; j < 4; j++)
                        part[i][j] = fmaf(left[i], right[j],
                                          part[i][j]);
            }
#pragma unroll
            for (int i = 0; i < 4; i++)
#pragma unroll
                for (int j = 0; j < 4; j++)
                    s[i][j] += part[i][j];
        }
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int row = query + y + i;
            float t = top[i], shrink, more = 0;

#pragma unroll
            for (int j = 0; j < 4; j++) {
                const int at = x + j;

                s[i][j] *= a.scale;
                if (a.bias && row < a.n && at < keys)
                    s[i][j] += a.bias[((int64_t)head * a.n + row) * a.m +
                                      key + at];
                if (key + at == a.m - 1)
                    s[i][j] += a.last;
                if (at >= keys)
                    s[i][j] = -INFINITY;
                t = fmaxf(t, s[i][j]);
            }
#pragma unroll
            for (int lane = 8; lane > 0; lane /= 2)
                t = fmaxf(t, __shfl_xor_sync(0xffffffffu, t, lane));
            shrink = expf(top[i] - t);
            top[i] = t;
#pragma unroll
            for (int j = 0; j < 4; j++) {
                s[i][j] = expf(s[i][j] - t);
                more += s[i][j];
            }
            sum[i] = sum[i] * shrink + more;
#pragma unroll
            for (int j = 0; j < 8; j++)
                o[i][j] *= shrink;
        }
#pragma unroll
        for (int j = 0; j < 4; j++)
            *(float4 *)(weights + (x + j) * STEP + y) =
                make_float4(s[0][j], s[1][j], s[2][j], s[3][j]);
        for (int first = 0; first < keys; first += SLICE) {
            float part[4][8] = { { 0 } };

            __syncthreads();
            load_values(slices, v + first * step, step, keys - first, column,
                        a.d);
            __syncthreads();
#pragma unroll 8
            for (int c = 0; c < SLICE; c++) {
                float left[4], right[8];

                load4(left, weights + (first + c) * STEP + y);
                load4(right, slices + c * COLUMNS + x);
                load4(right + 4, slices + c * COLUMNS + 64 + x);
#pragma unroll
                for (int i = 0; i < 4; i++)
#pragma unroll
                    for (int j = 0; j < 8; j++)
                        part[i][j] = fmaf(left[i], right[j],
                                          part[i][j]);
            }
#pragma unroll
            for (int i = 0; i < 4; i++)
#pragma unroll
                for (int j = 0; j < 8; j++)
                    o[i][j] += part[i][j];
        }
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
        T *out = (T *)a.out + (query + y + i) * step + head_at;

#pragma unroll
        for (int lane = 8; lane > 0; lane /= 2)
            sum[i] += __shfl_xor_sync(0xffffffffu, sum[i], lane);
#pragma unroll
        for (int j = 0; j < 8; j++) {
            int at = column + j / 4 * 64 + x + j % 4;

            if (query + y + i < a.n && at < a.d)
                cv_store(out + at, o[i][j] / sum[i]);
        }
    }
}

int cv_cuda_attention_float(CvCuda *cuda, const CvAttend *a)
{
    dim3 grid(cv_blocks(a->n, QUERIES), (unsigned)a->heads,
              cv_blocks(a->d, COLUMNS));

    if (grid.z > 65535)
        return cv_fail(cuda->base.log, ENOSYS, "attention: heads of %d",
                       a->d);
    if (cuda->base.activation == CV_F32)
        return CV_LAUNCH(cuda, cuda->stream, attention_float_kernel<float>,
                         grid, THREADS, 0, *a);
    return CV_LAUNCH(cuda, cuda->stream, attention_float_kernel<cv_bf16>, grid,
                     THREADS, 0, *a);
}
