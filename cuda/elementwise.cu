/*
 * Operations that treat each element alike, and epilogues of linear.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * All are bound by bytes. A thread has 4 elements (16 bytes of float32): the
 * 64 warps of a multiprocessor then have more under way than the memory's
 * latency asks for. Where addresses do not allow vectors it has one.
 *
 * Predicted for an H200 at 4.2 TB/s:
 *   epilogue, gate and add   32760 x 5120, float32    2.01 GB   0.48 ms
 *   epilogue, gelu to bf16   32760 x 13824            2.72 GB   0.65 ms
 *   combine, 4 terms         21 x 16 x 60 x 104         42 MB     10 us
 *   convert, silu                                    launches
 */
#include "vector.cuh"

enum { kThreads = 256 };

/* The elements [first, last) of this thread, n each. */
#define THREAD_RANGE(n_, count_)                                            \
    int64_t first = ((int64_t)blockIdx.x * kThreads + threadIdx.x) * (n_);  \
    int64_t last = first + (n_) < (count_) ? first + (n_) : (count_)

/* ---- silu ---- */

/* No __restrict__ here and below where in place is allowed. */
template <int n>
__global__ void __launch_bounds__(kThreads)
silu_kernel(float *out, const float *x, int64_t count)
{
    cv_begin();
    THREAD_RANGE(n, count);

    if constexpr (n == 4) {
        if (first + n <= count) {
            float v[n];

            cv_load_n<n>(v, x + first);
#pragma unroll
            for (int i = 0; i < n; i++)
                v[i] = cv_silu_of<false>(v[i]);
            cv_store_n<n>(out + first, v);
            return;
        }
    }
    for (int64_t i = first; i < last; i++)
        out[i] = cv_silu_of<false>(x[i]);
}

int cv_cuda_silu(CvBackend *b, const CvTensor *out, const CvTensor *x)
{
    CvCuda *cuda = cv_cuda(b);
    const float *src = (const float *)x->data;
    float *dst = (float *)out->data;
    int64_t count = cv_elements(x);
    int n = cv_aligned16(src) && cv_aligned16(dst) ? 4 : 1;
    auto kernel = n == 4 ? silu_kernel<4> : silu_kernel<1>;

    if (!count)
        return 0;
    return CV_LAUNCH(cuda, cuda->stream, kernel, cv_blocks(count, n * kThreads),
                     kThreads, 0, dst, src, count);
}

/* ---- soft_clamp: of a latent, a few hundred kilobytes ---- */

__global__ void __launch_bounds__(kThreads)
soft_clamp_kernel(float *out, const float *x, float limit, int64_t count)
{
    cv_begin();
    int64_t i = (int64_t)blockIdx.x * kThreads + threadIdx.x;

    if (i < count)
        out[i] = limit * tanhf(x[i] / limit);
}

int cv_cuda_soft_clamp(CvBackend *b, const CvTensor *out, const CvTensor *x,
                       float limit)
{
    CvCuda *cuda = cv_cuda(b);
    int64_t count = cv_elements(x);

    if (!count)
        return 0;
    return CV_LAUNCH(cuda, cuda->stream, soft_clamp_kernel,
                     cv_blocks(count, kThreads), kThreads, 0,
                     (float *)out->data, (const float *)x->data, limit, count);
}

/* ---- combine ---- */

typedef struct Combine {
    float *out;
    const float *term[CV_MAX_TERMS];
    double factor[CV_MAX_TERMS];
    int n_terms;
    int64_t count;
} Combine;

/* Products and sums are rounded one by one, as on the CPU: the sampler's
 * results are the same bits. */
template <int n>
__global__ void __launch_bounds__(kThreads)
combine_kernel(const __grid_constant__ Combine a)
{
    cv_begin();
    THREAD_RANGE(n, a.count);

    if constexpr (n == 4) {
        if (first + n <= a.count) {
            double sum[n] = { 0, 0, 0, 0 };
            float v[n];

            for (int t = 0; t < a.n_terms; t++) {
                cv_load_n<n>(v, a.term[t] + first);
#pragma unroll
                for (int i = 0; i < n; i++)
                    sum[i] = __dadd_rn(sum[i], __dmul_rn(a.factor[t], v[i]));
            }
#pragma unroll
            for (int i = 0; i < n; i++)
                v[i] = (float)sum[i];
            cv_store_n<n>(a.out + first, v);
            return;
        }
    }
    for (int64_t i = first; i < last; i++) {
        double sum = 0;

        for (int t = 0; t < a.n_terms; t++)
            sum = __dadd_rn(sum, __dmul_rn(a.factor[t], a.term[t][i]));
        a.out[i] = (float)sum;
    }
}

int cv_cuda_combine(CvBackend *b, const CvTensor *out, const CvTerm *terms,
                    int n_terms)
{
    CvCuda *cuda = cv_cuda(b);
    int n = cv_aligned16(out->data) ? 4 : 1;
    Combine a = { (float *)out->data, { NULL }, { 0 }, n_terms,
                  cv_elements(out) };

    for (int t = 0; t < n_terms; t++) {
        a.term[t] = (const float *)terms[t].tensor->data;
        a.factor[t] = terms[t].factor;
        if (!cv_aligned16(a.term[t]))
            n = 1;
    }
    auto kernel = n == 4 ? combine_kernel<4> : combine_kernel<1>;
    if (!a.count)
        return 0;
    return CV_LAUNCH(cuda, cuda->stream, kernel,
                     cv_blocks(a.count, n * kThreads), kThreads, 0, a);
}

/* ---- convert ---- */

template <typename Y, typename X, int n>
__global__ void __launch_bounds__(kThreads)
convert_kernel(Y *__restrict__ out, const X *__restrict__ x, int64_t count)
{
    cv_begin();
    THREAD_RANGE(n, count);

    if constexpr (n == 4) {
        if (first + n <= count) {
            float v[n];

            cv_load_n<n>(v, x + first);
            cv_store_n<n>(out + first, v);
            return;
        }
    }
    for (int64_t i = first; i < last; i++)
        cv_store(out + i, cv_load(x + i));
}

template <typename Y, typename X>
static int convert(CvCuda *cuda, const CvTensor *out, const CvTensor *x)
{
    const X *src = (const X *)x->data;
    Y *dst = (Y *)out->data;
    int64_t count = cv_elements(x);
    int n = cv_aligned16(src) && cv_aligned16(dst) ? 4 : 1;
    auto kernel = n == 4 ? convert_kernel<Y, X, 4> : convert_kernel<Y, X, 1>;

    return CV_LAUNCH(cuda, cuda->stream, kernel, cv_blocks(count, n * kThreads),
                     kThreads, 0, dst, src, count);
}

int cv_cuda_convert(CvBackend *b, const CvTensor *out, const CvTensor *x)
{
    if (!cv_elements(x))
        return 0;
    if (out->type == x->type)
        return cv_cuda_copy(b, out, x);
    return out->type == CV_F32
               ? convert<float, cv_bf16>(cv_cuda(b), out, x)
               : convert<cv_bf16, float>(cv_cuda(b), out, x);
}

/* ---- epilogue ---- */

/* All pointers but y's are those of the first element that is written, or of
 * its column. */
template <typename Y, typename B> struct Epilogue {
    CvEpilogue kind;
    Y *out;
    const Y *other;
    const B *bias;
    const float *y, *gate;        /* gate: of the first group */
    int64_t row, rows, width;     /* row: of the first in the whole output */
    int64_t step;                 /* from row to row; of y: width */
    int64_t group_rows, group_step;
    int lanes; /* threads of a row, a power of two up to kThreads */
};

template <bool fast>
static __device__ __forceinline__ float finish(CvEpilogue kind, float y,
                                               float other, float gate)
{
    switch (kind) {
    case CV_EPI_GELU:
        return cv_gelu_of<fast>(y);
    case CV_EPI_SILU:
        return cv_silu_of<fast>(y);
    case CV_EPI_MUL:
        return y * other;
    case CV_EPI_ADD:
        return other + y;
    case CV_EPI_GATE_ADD:
        return other + gate * y;
    default:
        return y;
    }
}

/* A block has one or several rows: no division for each element. */
template <typename Y, typename B, int n>
__global__ void __launch_bounds__(kThreads)
epilogue_kernel(const Epilogue<Y, B> a)
{
    cv_begin();
    const bool fast = sizeof(Y) == 2;
    int64_t row = (int64_t)blockIdx.x * (kThreads / a.lanes) +
                  (int)threadIdx.x / a.lanes;
    const float *gate = NULL;

    if (row >= a.rows)
        return;
    if (a.gate)
        gate = a.gate + (a.row + row) / a.group_rows * a.group_step;
    for (int64_t c = (int)threadIdx.x % a.lanes * n; c < a.width;
         c += a.lanes * n) {
        int64_t at = row * a.step + c, from = row * a.width + c;

        if constexpr (n == 4) {
            float y[n], bias[n] = { 0 }, other[n] = { 0 }, g[n] = { 0 };

            cv_load_n<n>(y, a.y + from);
            if (a.bias)
                cv_load_n<n>(bias, a.bias + c);
            if (a.other)
                cv_load_n<n>(other, a.other + at);
            if (gate)
                cv_load_n<n>(g, gate + c);
#pragma unroll
            for (int i = 0; i < n; i++)
                y[i] = finish<fast>(a.kind, y[i] + bias[i], other[i], g[i]);
            cv_store_n<n>(a.out + at, y);
        } else {
            cv_store(a.out + at,
                     finish<fast>(a.kind, a.y[from] +
                                      (a.bias ? cv_load(a.bias + c) : 0),
                                  a.other ? cv_load(a.other + at) : 0,
                                  gate ? gate[c] : 0));
        }
    }
}

template <typename Y, typename B>
static int epilogue(CvCuda *cuda, const CvLinear *l, int64_t row, int64_t rows,
                    int64_t first, int64_t width, const float *y)
{
    int64_t step = l->out->dim[1], at = row * step + first, pieces;
    Epilogue<Y, B> a = { l->epilogue, (Y *)l->out->data + at, NULL, NULL, y,
                         NULL, row, rows, width, step, 1, 0, kThreads };
    int n;

    if (l->bias)
        a.bias = (const B *)l->bias->data + first;
    if (l->epilogue >= CV_EPI_MUL)
        a.other = (const Y *)l->other->data + at;
    if (l->epilogue == CV_EPI_GATE_ADD) {
        a.gate = (const float *)l->mod->data + l->gate_row * step + first;
        a.group_rows = l->out->dim[0] / l->mod->dim[0];
        a.group_step = l->mod->dim[1] * step;
    }
    n = width % 4 == 0 && step % 4 == 0 && cv_aligned16(a.out) &&
        cv_aligned16(a.other) && cv_aligned16(y) && cv_aligned16(a.bias) &&
        cv_aligned16(a.gate) ? 4 : 1;
    pieces = width / n;
    while (a.lanes > 1 && a.lanes / 2 >= pieces)
        a.lanes /= 2;
    auto kernel = n == 4 ? epilogue_kernel<Y, B, 4> : epilogue_kernel<Y, B, 1>;
    return CV_LAUNCH(cuda, cuda->stream, kernel,
                     cv_blocks(rows, kThreads / a.lanes), kThreads, 0, a);
}

int cv_cuda_epilogue(CvCuda *cuda, const CvLinear *a, int64_t row, int64_t n,
                     int64_t first, int64_t width, const float *y)
{
    if (!n || !width)
        return 0;
    if (a->out->type == CV_F32)
        return a->bias && a->bias->type == CV_BF16
                   ? epilogue<float, cv_bf16>(cuda, a, row, n, first, width, y)
                   : epilogue<float, float>(cuda, a, row, n, first, width, y);
    return a->bias && a->bias->type == CV_BF16
               ? epilogue<cv_bf16, cv_bf16>(cuda, a, row, n, first, width, y)
               : epilogue<cv_bf16, float>(cuda, a, row, n, first, width, y);
}
