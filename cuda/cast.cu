/*
 * From the number formats of weight files to float32 and bf16.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * A thread has four elements, which it reads at once where addresses allow.
 * Bound by bytes, and hidden: the elements come over PCIe, some 50 GB/s, and
 * this reads and writes 4.2 TB/s on an H200 (predicted).
 */
#include <math.h>

#include "fp8.cuh"
#include "vector.cuh"

enum { kThreads = 256 };

/* Rounded to float32, or, where float32 is rounded again, to the neighbour
 * whose last bit is set unless it is exact: then the second rounding does what
 * a single one would. */
static __device__ __forceinline__ float from_f64(uint64_t v, bool again)
{
    double d = __longlong_as_double((long long)v);
    float f = (float)d;
    uint32_t bits = __float_as_uint(f);

    if (!again || (double)f == d || (bits & 0x7f800000u) == 0x7f800000u)
        return f;
    if (fabs((double)f) > fabs(d))
        bits--; /* towards zero; f is not zero here */
    return __uint_as_float(bits | 1);
}

/* Element i of four in `words`. */
template <CvType type>
static __device__ __forceinline__ float decode(const uint32_t *words, int i,
                                               bool again)
{
    if constexpr (type == CV_F64)
        return from_f64((uint64_t)words[2 * i + 1] << 32 | words[2 * i],
                        again);
    else if constexpr (type == CV_F16)
        return cv_checked_half(words[i / 2] >> i % 2 * 16 & 0xffff);
    else if constexpr (type == CV_BF16)
        return __uint_as_float(words[i / 2] >> i % 2 * 16 << 16);
    else if constexpr (type == CV_F8_E4M3 || type == CV_F8_E5M2)
        return cv_from_fp8<type>(words[0] >> i * 8 & 0xff);
    else
        return __uint_as_float(words[i]);
}

/* Four elements of `size` bytes at p, aligned to them or to 16 bytes. */
template <int size>
static __device__ __forceinline__ void load_words(uint32_t *words,
                                                  const uint8_t *p)
{
    if constexpr (size == 1) {
        words[0] = *(const uint32_t *)p;
    } else if constexpr (size == 2) {
        uint2 v = *(const uint2 *)p;

        words[0] = v.x;
        words[1] = v.y;
    } else {
#pragma unroll
        for (int i = 0; i < size; i += 4) {
            uint4 v = *(const uint4 *)(p + 4 * i);

            words[i] = v.x;
            words[i + 1] = v.y;
            words[i + 2] = v.z;
            words[i + 3] = v.w;
        }
    }
}

/* What the output holds. */
static __device__ __forceinline__ float rounded(float x, const float *)
{
    return x;
}

static __device__ __forceinline__ float rounded(float x, const cv_bf16 *)
{
    return __bfloat162float(__float2bfloat16_rn(x));
}

static __device__ __forceinline__ bool is_bad(float x)
{
    return (__float_as_uint(x) & 0x7f800000u) == 0x7f800000u;
}

template <typename Y, CvType type, int size>
__global__ void __launch_bounds__(kThreads)
cast_kernel(Y *__restrict__ out, const uint8_t *__restrict__ src,
            int64_t count, int vectors, int *bad)
{
    cv_begin();
    const bool again = sizeof(Y) == 2;
    bool found = false;
    uint32_t words[size == 8 ? 8 : size];
    int64_t first = ((int64_t)blockIdx.x * kThreads + threadIdx.x) * 4;
    int64_t last = first + 4 < count ? first + 4 : count;

    if (vectors && first + 4 <= count) {
        float v[4];

        load_words<size>(words, src + first * size);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            v[i] = decode<type>(words, i, again);
            found |= is_bad(rounded(v[i], out));
        }
        cv_store_n<4>(out + first, v);
    } else {
        for (int64_t i = first; i < last; i++) {
            uint64_t v = 0;
            float f;

            /* Of any alignment: files do not promise any. */
            for (int k = 0; k < size; k++)
                v |= (uint64_t)src[i * size + k] << 8 * k;
            words[0] = (uint32_t)v;
            if constexpr (size == 8)
                words[1] = (uint32_t)(v >> 32);
            f = decode<type>(words, 0, again);
            found |= is_bad(rounded(f, out));
            cv_store(out + i, f);
        }
    }
    if (found)
        atomicExch(bad, 1);
}

template <typename Y, CvType type, int size>
static int cast(CvCuda *cuda, void *dst, const void *src, int64_t n, int *bad)
{
    int vectors = cv_aligned16(dst) && cv_aligned16(src);
    auto kernel = cast_kernel<Y, type, size>;

    return CV_LAUNCH(cuda, cuda->stream, kernel, cv_blocks(n, 4 * kThreads),
                     kThreads, 0, (Y *)dst, (const uint8_t *)src, n, vectors,
                     bad);
}

template <typename Y>
static int cast_to(CvCuda *cuda, void *dst, const void *src, CvType type,
                   int64_t n, int *bad)
{
    switch (type) {
    case CV_F32:
        return cast<Y, CV_F32, 4>(cuda, dst, src, n, bad);
    case CV_F64:
        return cast<Y, CV_F64, 8>(cuda, dst, src, n, bad);
    case CV_F16:
        return cast<Y, CV_F16, 2>(cuda, dst, src, n, bad);
    case CV_BF16:
        return cast<Y, CV_BF16, 2>(cuda, dst, src, n, bad);
    case CV_F8_E4M3:
        return cast<Y, CV_F8_E4M3, 1>(cuda, dst, src, n, bad);
    case CV_F8_E5M2:
        return cast<Y, CV_F8_E5M2, 1>(cuda, dst, src, n, bad);
    default:
        return cv_fail(cuda->base.log, EINVAL, "upload: from %s is not "
                       "supported", cv_type_name(type));
    }
}

int cv_cuda_cast(CvCuda *cuda, void *dst, CvType dst_type, const void *src,
                 CvType src_type, int64_t n, int *bad)
{
    if (n <= 0)
        return 0;
    if (dst_type == CV_I32 && src_type == CV_I32)
        return cv_cuda_check(cuda, cudaMemcpyAsync(dst, src, (size_t)n * 4,
                                                   cudaMemcpyDeviceToDevice,
                                                   cuda->stream), "cast");
    if (cv_type_is_fp8(dst_type) && dst_type == src_type)
        return cv_cuda_copy_fp8(cuda, dst, src, src_type, n, bad);
    if (cv_type_block(src_type) > 1)
        return cv_cuda_decode_blocks(cuda, dst, dst_type, src, src_type, n,
                                     bad);
    if (dst_type == CV_F32)
        return cast_to<float>(cuda, dst, src, src_type, n, bad);
    if (dst_type == CV_BF16)
        return cast_to<cv_bf16>(cuda, dst, src, src_type, n, bad);
    return cv_fail(cuda->base.log, EINVAL, "upload: %s from %s is not "
                   "supported", cv_type_name(dst_type),
                   cv_type_name(src_type));
}
