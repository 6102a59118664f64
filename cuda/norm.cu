/*
 * Normalisations, and what is fused with them.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * All are bound by bytes. A row is held in registers between its sums and its
 * output, so that each element is read once and written once. A block has one
 * row (5120 elements: 256 threads of 5 vectors); norm_silu, whose rows are
 * pixels of 96 to 384 channels, gives a row to 4 to 16 lanes. The factors of
 * the columns (weights, modulation) are as large as a row and are read for
 * every row: they come from the first-level cache, which rows bypass.
 *
 * Measured on an H200 (a copy: 4.2 TB/s), bf16, and what was predicted:
 *   norm_modulate, layer_norm  32760 x 5120       1.01 GB   0.26 ms   0.24
 *   rms_norm (q of cross attention), the same     0.67 GB   0.17 ms   0.16
 *   qk_norm_rope               32760 x 15360      2.03 GB   0.52 ms   0.48
 *
 * Rows whose length or address does not allow vectors, or that are longer than
 * the registers of a block, go through plain loops (the *_any_kernel).
 */
#include "fp8.cuh"
#include "rows.cuh"

/* The sum of squares of this thread's vectors. */
template <typename T, int parts>
static __device__ __forceinline__ float squares(const uint4 *raw)
{
    const int n = CvVector<T>::kElements;
    float sum = 0;

#pragma unroll
    for (int p = 0; p < parts; p++) {
        float v[n];

        cv_unpack<T>(v, raw[p]);
#pragma unroll
        for (int i = 0; i < n; i++)
            sum += v[i] * v[i];
    }
    return sum;
}

template <typename T>
static __device__ __forceinline__ float squares_any(const T *x, int64_t d)
{
    float sum = 0;

    for (int64_t i = threadIdx.x; i < d; i += blockDim.x)
        sum += cv_load(x + i) * cv_load(x + i);
    return sum;
}

/* ---- rms_norm ---- */

/* No __restrict__ on x and out: they may be the same. A thread writes only
 * what it has read. */
template <typename X, typename Y, int parts>
__global__ void __launch_bounds__(kCvMaxThreads, 2)
rms_norm_kernel(Y *out, const X *x, const float *__restrict__ weight,
                int vectors, float eps)
{
    cv_begin();
    const int n = CvVector<X>::kElements;
    int64_t d = (int64_t)vectors * n, start = blockIdx.x * d;
    __shared__ float sums[CV_WARP];
    uint4 raw[parts];
    float r;

    cv_load_row<parts>(raw, x + start, vectors);
    r = cv_block_sum(squares<X, parts>(raw), sums);
    r = 1.0f / sqrtf(r / (float)d + eps);
#pragma unroll
    for (int p = 0; p < parts; p++) {
        int i = p * (int)blockDim.x + (int)threadIdx.x;
        float v[n], w[n];

        if (i < vectors) {
            cv_unpack<X>(v, raw[p]);
            cv_load_n<n>(w, weight + i * n);
#pragma unroll
            for (int j = 0; j < n; j++)
                v[j] *= r * w[j];
            cv_store_n<n>(out + start + i * n, v);
        }
    }
}

template <typename X, typename Y>
__global__ void __launch_bounds__(kCvAnyThreads)
rms_norm_any_kernel(Y *out, const X *x, const float *__restrict__ weight,
                    int64_t d, float eps)
{
    cv_begin();
    int64_t start = blockIdx.x * d;
    __shared__ float sums[CV_WARP];
    float r = cv_block_sum(squares_any(x + start, d), sums);

    r = 1.0f / sqrtf(r / (float)d + eps);
    for (int64_t i = threadIdx.x; i < d; i += blockDim.x)
        cv_store(out + start + i, cv_load(x + start + i) * r * weight[i]);
}

template <typename X, typename Y>
static int rms_norm(CvCuda *cuda, const CvTensor *out, const CvTensor *x,
                    const CvTensor *weight, float eps)
{
    const X *src = (const X *)x->data;
    const float *w = (const float *)weight->data;
    Y *dst = (Y *)out->data;
    int64_t d = weight->dim[0];
    unsigned rows = (unsigned)x->dim[0];
    CvRowShape s = cv_row_shape(d, CvVector<X>::kElements);

    if (!s.parts || !cv_aligned16(src) || !cv_aligned16(w) ||
        !cv_aligned16(dst)) {
        auto kernel = rms_norm_any_kernel<X, Y>;

        return CV_LAUNCH(cuda, cuda->stream, kernel, rows, cv_any_threads(d), 0,
                         dst, src, w, d, eps);
    }
    auto kernel = s.parts == 5 ? rms_norm_kernel<X, Y, 5>
                               : rms_norm_kernel<X, Y, 3>;
    return CV_LAUNCH(cuda, cuda->stream, kernel, rows, s.threads, 0, dst, src,
                     w, s.vectors, eps);
}

int cv_cuda_rms_norm(CvBackend *b, const CvTensor *out, const CvTensor *x,
                     const CvTensor *weight, float eps)
{
    CvCuda *cuda = cv_cuda(b);

    if (!cv_elements(x))
        return 0;
    if (out->type == CV_F32)
        return rms_norm<float, float>(cuda, out, x, weight, eps);
    if (x->type == CV_F32)
        return rms_norm<float, cv_bf16>(cuda, out, x, weight, eps);
    return rms_norm<cv_bf16, cv_bf16>(cuda, out, x, weight, eps);
}

/* ---- norm_modulate and layer_norm ---- */

/* out = ln(x) * (scale + one) + shift */
typedef struct Columns {
    const float *scale, *shift; /* of the first group */
    unsigned group_rows;        /* rows of a group */
    int64_t group_step;         /* floats from a group's rows to the next's */
    float one, eps;
    float *factors;             /* of rows, where they leave in fp8 */
} Columns;

/* Bytes are numbers of E4M3. */
typedef uint8_t Fp8;

/* The mean's rounding error would show where rows lie far from zero: the
 * differences from it have a mean of their own, `rest`, which is taken off. The
 * scale of a row in fp8 costs a third time through the registers. */
template <typename Y, int parts>
__global__ void __launch_bounds__(kCvMaxThreads, 2)
layer_norm_kernel(Y *__restrict__ out, const float *__restrict__ x,
                  const Columns c, int vectors)
{
    cv_begin();
    int64_t d = (int64_t)vectors * 4, start = blockIdx.x * d;
    int64_t group = blockIdx.x / c.group_rows * c.group_step;
    __shared__ uint32_t maxima[CV_WARP];
    __shared__ float sums[3][CV_WARP];
    float v[parts][4], about = 0, rest = 0, square = 0, r;
    uint32_t largest = 0;

#pragma unroll
    for (int p = 0; p < parts; p++) {
        int i = p * (int)blockDim.x + (int)threadIdx.x;

        cv_unpack<float>(v[p], i < vectors
                                   ? cv_load_once16(x + start + i * 4)
                                   : make_uint4(0, 0, 0, 0));
        about += (v[p][0] + v[p][1]) + (v[p][2] + v[p][3]);
    }
    about = cv_block_sum(about, sums[0]) / (float)d;
#pragma unroll
    for (int p = 0; p < parts; p++) {
        if (p * (int)blockDim.x + (int)threadIdx.x < vectors) {
#pragma unroll
            for (int j = 0; j < 4; j++) {
                v[p][j] -= about;
                rest += v[p][j];
                square += v[p][j] * v[p][j];
            }
        }
    }
    rest = cv_block_sum(rest, sums[1]) / (float)d;
    r = 1.0f / sqrtf(cv_block_sum(square, sums[2]) / (float)d + c.eps);
#pragma unroll
    for (int p = 0; p < parts; p++) {
        int i = p * (int)blockDim.x + (int)threadIdx.x;
        float scale[4], shift[4];

        if (i < vectors) {
            cv_load_n<4>(scale, c.scale + group + i * 4);
            cv_load_n<4>(shift, c.shift + group + i * 4);
#pragma unroll
            for (int j = 0; j < 4; j++)
                v[p][j] = (v[p][j] - rest) * r * (scale[j] + c.one) + shift[j];
            if constexpr (sizeof(Y) == sizeof(Fp8)) {
#pragma unroll
                for (int j = 0; j < 4; j++)
                    largest = max(largest, cv_size_bits(v[p][j]));
            } else {
                cv_store_n<4>(out + start + i * 4, v[p]);
            }
        }
    }
    if constexpr (sizeof(Y) == sizeof(Fp8)) {
        float factor = cv_row_scale(cv_block_largest(largest, maxima), &r);

        if (threadIdx.x == 0)
            c.factors[blockIdx.x] = factor;
#pragma unroll
        for (int p = 0; p < parts; p++) {
            int i = p * (int)blockDim.x + (int)threadIdx.x;

#pragma unroll
            for (int j = 0; j < 4; j++)
                v[p][j] *= r;
            if (i < vectors)
                *(uint32_t *)(out + start + i * 4) = cv_pack_fp8(v[p]);
        }
    }
}

template <typename Y>
__global__ void __launch_bounds__(kCvAnyThreads)
layer_norm_any_kernel(Y *__restrict__ out, const float *__restrict__ x,
                      const Columns c, int64_t d)
{
    cv_begin();
    int64_t start = blockIdx.x * d;
    int64_t group = blockIdx.x / c.group_rows * c.group_step;
    __shared__ uint32_t maxima[CV_WARP];
    __shared__ float sums[3][CV_WARP];
    float about = 0, rest = 0, square = 0, factor, inverse, r;
    uint32_t largest = 0;

    x += start;
    for (int64_t i = threadIdx.x; i < d; i += blockDim.x)
        about += x[i];
    about = cv_block_sum(about, sums[0]) / (float)d;
    for (int64_t i = threadIdx.x; i < d; i += blockDim.x) {
        rest += x[i] - about;
        square += (x[i] - about) * (x[i] - about);
    }
    rest = cv_block_sum(rest, sums[1]) / (float)d;
    r = 1.0f / sqrtf(cv_block_sum(square, sums[2]) / (float)d + c.eps);
    for (int pass = sizeof(Y) == sizeof(Fp8) ? 0 : 1; pass < 2; pass++) {
        for (int64_t i = threadIdx.x; i < d; i += blockDim.x) {
            float y = (x[i] - about - rest) * r *
                      (c.scale[group + i] + c.one) + c.shift[group + i];

            if (!pass)
                largest = max(largest, cv_size_bits(y));
            else if constexpr (sizeof(Y) == sizeof(Fp8))
                out[start + i] = (Fp8)cv_to_fp8<CV_F8_E4M3>(y * inverse);
            else
                cv_store(out + start + i, y);
        }
        if (pass)
            break;
        factor = cv_row_scale(cv_block_largest(largest, maxima), &inverse);
        if (threadIdx.x == 0)
            c.factors[blockIdx.x] = factor;
    }
}

template <typename Y>
static int layer_norm(CvCuda *cuda, const CvTensor *out, const CvTensor *x,
                      const Columns *c)
{
    const float *src = (const float *)x->data;
    Y *dst = (Y *)out->data;
    int64_t d = x->dim[1];
    unsigned rows = (unsigned)x->dim[0];
    CvRowShape s = cv_row_shape(d, 4);

    if (!rows || !d)
        return 0;
    /* scale and shift lie whole rows of a multiple of 4 from each other. */
    if (!s.parts || !cv_aligned16(src) || !cv_aligned16(dst) ||
        !cv_aligned16(c->scale) || !cv_aligned16(c->shift)) {
        auto kernel = layer_norm_any_kernel<Y>;

        return CV_LAUNCH(cuda, cuda->stream, kernel, rows, cv_any_threads(d), 0,
                         dst, src, *c, d);
    }
    auto kernel = s.parts == 5 ? layer_norm_kernel<Y, 5>
                               : layer_norm_kernel<Y, 3>;
    return CV_LAUNCH(cuda, cuda->stream, kernel, rows, s.threads, 0, dst, src,
                     *c, s.vectors);
}

static int layer_norm_to(CvCuda *cuda, const CvTensor *out,
                         const CvTensor *out_scale, const CvTensor *x,
                         Columns *c)
{
    if (out_scale) {
        c->factors = (float *)out_scale->data;
        return layer_norm<Fp8>(cuda, out, x, c);
    }
    return out->type == CV_F32 ? layer_norm<float>(cuda, out, x, c)
                               : layer_norm<cv_bf16>(cuda, out, x, c);
}

int cv_cuda_norm_modulate(CvBackend *b, const CvTensor *out,
                          const CvTensor *out_scale, const CvTensor *x,
                          const CvTensor *mod, int shift_row, int scale_row,
                          float eps)
{
    const float *m = (const float *)mod->data;
    int64_t d = mod->dim[2];
    Columns c = { m + scale_row * d, m + shift_row * d,
                  (unsigned)(x->dim[0] / mod->dim[0]), mod->dim[1] * d, 1,
                  eps, NULL };

    return layer_norm_to(cv_cuda(b), out, out_scale, x, &c);
}

int cv_cuda_layer_norm(CvBackend *b, const CvTensor *out,
                       const CvTensor *out_scale, const CvTensor *x,
                       const CvTensor *weight, const CvTensor *bias,
                       float eps)
{
    Columns c = { (const float *)weight->data, (const float *)bias->data,
                  (unsigned)x->dim[0], 0, 0, eps, NULL };

    return layer_norm_to(cv_cuda(b), out, out_scale, x, &c);
}

/* ---- qk_norm_rope: a block for each of q, k, v of a token, or of q and k where
 * v stays where it is ---- */

template <typename T> struct Qkv {
    T *q, *k, *v; /* k, v: from the first row that is written */
    const T *qkv;
    const float *norm_q, *norm_k, *rope;
    int width, d; /* heads * d */
    float eps;
    int parts;    /* 3, or 2: without v */
    uint32_t *largest; /* of v, by its bits, or NULL */
};

/* A block's largest number of v. Most blocks' is not above what is there. */
static __device__ __forceinline__ void keep_largest(uint32_t *to, uint32_t bits,
                                                    float *parts)
{
    bits = cv_block_largest(bits, (uint32_t *)parts);
    if (threadIdx.x == 0 && bits > *(volatile uint32_t *)to)
        atomicMax(to, bits);
}

/* Where part 0, 1, 2 (q, k, v) of a token goes. */
template <typename T>
static __device__ __forceinline__ T *destination(const Qkv<T> &a, int part,
                                                 int64_t token)
{
    return (part == 0 ? a.q : part == 1 ? a.k : a.v) + token * a.width;
}

template <typename T, int parts>
__global__ void __launch_bounds__(kCvMaxThreads, 2)
qk_norm_rope_kernel(const Qkv<T> a, int vectors)
{
    cv_begin();
    const int n = CvVector<T>::kElements;
    int part = (int)(blockIdx.x % a.parts);
    int64_t token = blockIdx.x / a.parts;
    const float *weight = part ? a.norm_k : a.norm_q;
    const float *rope = a.rope + token * a.d;
    T *out = destination(a, part, token);
    __shared__ float sums[CV_WARP];
    uint4 raw[parts];
    float r;

    cv_load_row<parts>(raw, a.qkv + (token * 3 + part) * a.width, vectors);
    if (part == 2) {
#pragma unroll
        for (int p = 0; p < parts; p++) {
            int i = p * (int)blockDim.x + (int)threadIdx.x;

            if (i < vectors)
                *(uint4 *)(out + i * n) = raw[p];
        }
        if (a.largest) {
            uint32_t largest = 0;

#pragma unroll
            for (int p = 0; p < parts; p++) {
                float v[n];

                cv_unpack<T>(v, raw[p]);
#pragma unroll
                for (int j = 0; j < n; j++)
                    largest = max(largest, cv_size_bits(v[j]));
            }
            keep_largest(a.largest, largest, sums);
        }
        return;
    }
    r = cv_block_sum(squares<T, parts>(raw), sums);
    r = 1.0f / sqrtf(r / (float)a.width + a.eps);
#pragma unroll
    for (int p = 0; p < parts; p++) {
        int i = p * (int)blockDim.x + (int)threadIdx.x;
        float v[n], w[n], turn[n];

        if (i < vectors) {
            cv_unpack<T>(v, raw[p]);
            cv_load_n<n>(w, weight + i * n);
            cv_load_n<n>(turn, rope + i * n % a.d);
#pragma unroll
            for (int j = 0; j < n; j += 2) {
                float x0 = v[j] * r * w[j], x1 = v[j + 1] * r * w[j + 1];

                v[j] = x0 * turn[j] - x1 * turn[j + 1];
                v[j + 1] = x0 * turn[j + 1] + x1 * turn[j];
            }
            cv_store_n<n>(out + i * n, v);
        }
    }
}

template <typename T>
__global__ void __launch_bounds__(kCvAnyThreads)
qk_norm_rope_any_kernel(const Qkv<T> a)
{
    cv_begin();
    int part = (int)(blockIdx.x % a.parts);
    int64_t token = blockIdx.x / a.parts;
    const float *weight = part ? a.norm_k : a.norm_q;
    const float *rope = a.rope + token * a.d;
    const T *x = a.qkv + (token * 3 + part) * a.width;
    T *out = destination(a, part, token);
    __shared__ float sums[CV_WARP];
    float r;

    if (part == 2) {
        uint32_t largest = 0;

        for (int i = (int)threadIdx.x; i < a.width; i += (int)blockDim.x) {
            out[i] = x[i];
            largest = max(largest, cv_size_bits(cv_load(x + i)));
        }
        if (a.largest)
            keep_largest(a.largest, largest, sums);
        return;
    }
    r = cv_block_sum(squares_any(x, a.width), sums);
    r = 1.0f / sqrtf(r / (float)a.width + a.eps);
    for (int i = 2 * (int)threadIdx.x; i < a.width; i += 2 * (int)blockDim.x) {
        const float *turn = rope + i % a.d;
        float x0 = cv_load(x + i) * r * weight[i];
        float x1 = cv_load(x + i + 1) * r * weight[i + 1];

        cv_store(out + i, x0 * turn[0] - x1 * turn[1]);
        cv_store(out + i + 1, x0 * turn[1] + x1 * turn[0]);
    }
}

template <typename T>
static int qk_norm_rope(CvCuda *cuda, const CvQkNormRope *args)
{
    int64_t tokens = args->out_q->dim[0], d = args->out_q->dim[2];
    int64_t width = args->out_q->dim[1] * d;
    Qkv<T> a = { (T *)args->out_q->data,
                 (T *)args->cache_k->data + args->row * width,
                 args->cache_v ? (T *)args->cache_v->data + args->row * width
                               : NULL,
                 (const T *)args->qkv->data,
                 (const float *)args->norm_q->data,
                 (const float *)args->norm_k->data,
                 (const float *)args->rope->data, (int)width, (int)d,
                 args->eps, args->cache_v ? 3 : 2,
                 args->largest ? (uint32_t *)args->largest->data : NULL };
    CvRowShape s = cv_row_shape(width, CvVector<T>::kElements);
    unsigned blocks = (unsigned)(a.parts * tokens);

    if (!tokens || !width)
        return 0;
    if (!s.parts || d % CvVector<T>::kElements || !cv_aligned16(a.q) ||
        !cv_aligned16(a.k) || !cv_aligned16(a.v) || !cv_aligned16(a.qkv) ||
        !cv_aligned16(a.norm_q) || !cv_aligned16(a.norm_k) ||
        !cv_aligned16(a.rope)) {
        auto kernel = qk_norm_rope_any_kernel<T>;

        return CV_LAUNCH(cuda, cuda->stream, kernel, blocks,
                         cv_any_threads(width), 0, a);
    }
    auto kernel = s.parts == 5 ? qk_norm_rope_kernel<T, 5>
                               : qk_norm_rope_kernel<T, 3>;
    return CV_LAUNCH(cuda, cuda->stream, kernel, blocks, s.threads, 0, a,
                     s.vectors);
}

int cv_cuda_qk_norm_rope(CvBackend *b, const CvQkNormRope *a)
{
    if (a->ring)
        return cv_cuda_write_ring(b, a);
    return a->out_q->type == CV_F32 ? qk_norm_rope<float>(cv_cuda(b), a)
                                    : qk_norm_rope<cv_bf16>(cv_cuda(b), a);
}
