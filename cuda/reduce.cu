/*
 * The largest absolute value of a tensor.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * Bound by bytes: one read of the tensor. Predicted for the frames of one
 * latent at 832x480 (4 x 832 x 480 x 3 float32, 19 MB): 5 us on an H200.
 *
 * The bits of floats without their sign are ordered as the numbers are, with
 * infinity above them and NaN above infinity. So the result is one maximum of
 * unsigned integers, whatever the order in which blocks add theirs.
 */
#include "launch.cuh"

enum { kThreads = 256, kVectors = 4 };

static __device__ __forceinline__ unsigned magnitude(float x)
{
    return __float_as_uint(x) & 0x7fffffffu;
}

/* Of 16 bytes of T. */
template <typename T> static __device__ unsigned largest_of(uint4 v);

template <> __device__ __forceinline__ unsigned largest_of<float>(uint4 v)
{
    const unsigned low = max(v.x & 0x7fffffffu, v.y & 0x7fffffffu);
    const unsigned high = max(v.z & 0x7fffffffu, v.w & 0x7fffffffu);

    return max(low, high);
}

/* Of two bf16 in a word, as float32. */
static __device__ __forceinline__ unsigned largest_of_two(unsigned v)
{
    return max(v << 16 & 0x7fff0000u, v & 0x7fff0000u);
}

template <> __device__ __forceinline__ unsigned largest_of<cv_bf16>(uint4 v)
{
    const unsigned low = max(largest_of_two(v.x), largest_of_two(v.y));
    const unsigned high = max(largest_of_two(v.z), largest_of_two(v.w));

    return max(low, high);
}

/* x: n elements; the first n_vectors * 16 bytes are read as vectors. */
template <typename T>
static __global__ void __launch_bounds__(kThreads)
    largest_kernel(const T *__restrict__ x, int64_t n, int64_t n_vectors,
                   unsigned *bits)
{
    cv_begin();
    const int64_t each = 16 / sizeof(T);
    const int64_t step = (int64_t)gridDim.x * kThreads;
    const int64_t me = (int64_t)blockIdx.x * kThreads + threadIdx.x;
    const uint4 *v = (const uint4 *)x;
    unsigned largest = 0;

    for (int64_t i = me; i < n_vectors; i += step * kVectors) {
        uint4 part[kVectors];

#pragma unroll
        for (int j = 0; j < kVectors; j++)
            part[j] = i + j * step < n_vectors ? __ldg(&v[i + j * step])
                                               : make_uint4(0, 0, 0, 0);
#pragma unroll
        for (int j = 0; j < kVectors; j++)
            largest = max(largest, largest_of<T>(part[j]));
    }
    for (int64_t i = n_vectors * each + me; i < n; i += step)
        largest = max(largest, magnitude(cv_load(x + i)));
    for (int lane = CV_WARP / 2; lane > 0; lane /= 2)
        largest = max(largest, __shfl_xor_sync(0xffffffffu, largest, lane));
    if (threadIdx.x % CV_WARP == 0 && largest)
        atomicMax(bits, largest);
}

template <typename T>
static int launch(CvCuda *cuda, const CvTensor *t, unsigned *bits)
{
    const int64_t n = cv_elements(t);
    const int64_t vectors = (uintptr_t)t->data % 16 ? 0 : n * sizeof(T) / 16;
    const int64_t work = vectors ? vectors / kVectors + 1 : n;
    const int64_t most = 8 * (int64_t)cuda->processors;
    const int64_t blocks = cv_blocks(work, kThreads);

    return CV_LAUNCH(cuda, cuda->stream, largest_kernel<T>,
                     (unsigned)(blocks < most ? blocks : most), kThreads, 0,
                     (const T *)t->data, n, vectors, bits);
}

int cv_cuda_largest(CvCuda *cuda, const CvTensor *t, unsigned *bits)
{
    if (!cv_elements(t))
        return 0;
    return t->type == CV_BF16 ? launch<cv_bf16>(cuda, t, bits)
                              : launch<float>(cuda, t, bits);
}
