/*
 * From the quantised blocks of GGUF files to float32 and bf16.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * A thread has four elements in a row, which share scale and offset: it reads
 * those, a few bytes that its neighbours read too, and makes four numbers.
 * Blocks have sizes such as 18 and 210, so bytes are read one by one. As
 * cast.cu, it is hidden behind the way over PCIe.
 */
#include "vector.cuh"
#include "blocks.h" /* after the C headers, whose linkage is said there */

enum { kThreads = 256 };

static __device__ __forceinline__ float rounded(float x, const float *)
{
    return x;
}

static __device__ __forceinline__ float rounded(float x, const cv_bf16 *)
{
    return __bfloat162float(__float2bfloat16_rn(x));
}

template <typename Y, CvType type, int block, int size>
__global__ void __launch_bounds__(kThreads)
decode_blocks_kernel(Y *__restrict__ out, const uint8_t *__restrict__ src,
                     int64_t count, int vectors, int *bad)
{
    cv_begin();
    static_assert(block % CV_BLOCK_GROUP == 0 && CV_BLOCK_GROUP % 4 == 0,
                  "four elements share a scale");
    int64_t at = ((int64_t)blockIdx.x * kThreads + threadIdx.x) * 4;
    bool found = false;
    float v[4];

    if (at >= count) /* a multiple of 4 */
        return;
    const uint8_t *p = src + at / block * size;
    const int k = (int)(at % CV_BLOCK_GROUP);
    const int first = (int)(at % block) - k; /* of the group */
    const CvBlockScale s = cv_block_scale(type, p, first);

#pragma unroll
    for (int i = 0; i < 4; i++) {
        v[i] = s.scale * (float)cv_block_level(type, p, first, k + i) -
               s.offset;
        found |= (__float_as_uint(rounded(v[i], out)) & 0x7f800000u) ==
                 0x7f800000u;
    }
    if (vectors)
        cv_store_n<4>(out + at, v);
    else
        for (int i = 0; i < 4; i++)
            cv_store(out + at + i, v[i]);
    if (found)
        atomicExch(bad, 1);
}

template <typename Y, CvType type, int block, int size>
static int decode(CvCuda *cuda, void *dst, const void *src, int64_t n,
                  int *bad)
{
    auto kernel = decode_blocks_kernel<Y, type, block, size>;

    if (cv_type_block(type) != block || cv_type_bytes(type) != size)
        return cv_fail(cuda->base.log, EINVAL, "internal error: blocks of %s",
                       cv_type_name(type));
    return CV_LAUNCH(cuda, cuda->stream, kernel, cv_blocks(n, 4 * kThreads),
                     kThreads, 0, (Y *)dst, (const uint8_t *)src, n,
                     cv_aligned16(dst), bad);
}

template <typename Y>
static int decode_to(CvCuda *cuda, void *dst, const void *src, CvType type,
                     int64_t n, int *bad)
{
    switch (type) {
    case CV_Q4_0:
        return decode<Y, CV_Q4_0, 32, 18>(cuda, dst, src, n, bad);
    case CV_Q4_1:
        return decode<Y, CV_Q4_1, 32, 20>(cuda, dst, src, n, bad);
    case CV_Q5_0:
        return decode<Y, CV_Q5_0, 32, 22>(cuda, dst, src, n, bad);
    case CV_Q5_1:
        return decode<Y, CV_Q5_1, 32, 24>(cuda, dst, src, n, bad);
    case CV_Q8_0:
        return decode<Y, CV_Q8_0, 32, 34>(cuda, dst, src, n, bad);
    case CV_Q2_K:
        return decode<Y, CV_Q2_K, 256, 84>(cuda, dst, src, n, bad);
    case CV_Q3_K:
        return decode<Y, CV_Q3_K, 256, 110>(cuda, dst, src, n, bad);
    case CV_Q4_K:
        return decode<Y, CV_Q4_K, 256, 144>(cuda, dst, src, n, bad);
    case CV_Q5_K:
        return decode<Y, CV_Q5_K, 256, 176>(cuda, dst, src, n, bad);
    case CV_Q6_K:
        return decode<Y, CV_Q6_K, 256, 210>(cuda, dst, src, n, bad);
    default:
        return cv_fail(cuda->base.log, EINVAL, "upload: from %s is not "
                       "supported", cv_type_name(type));
    }
}

int cv_cuda_decode_blocks(CvCuda *cuda, void *dst, CvType dst_type,
                          const void *src, CvType src_type, int64_t n,
                          int *bad)
{
    if (n <= 0)
        return 0;
    if (n % cv_type_block(src_type))
        return cv_fail(cuda->base.log, EINVAL, "upload: %lld elements are no "
                       "whole blocks of %s", (long long)n,
                       cv_type_name(src_type));
    if (dst_type == CV_F32)
        return decode_to<float>(cuda, dst, src, src_type, n, bad);
    if (dst_type == CV_BF16)
        return decode_to<cv_bf16>(cuda, dst, src, src_type, n, bad);
    return cv_fail(cuda->base.log, EINVAL, "upload: %s from %s is not "
                   "supported", cv_type_name(dst_type),
                   cv_type_name(src_type));
}
