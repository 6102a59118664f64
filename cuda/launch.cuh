/*
 * Launching kernels, and what all kernels share.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#ifndef CV_CUDA_LAUNCH_CUH
#define CV_CUDA_LAUNCH_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

#include "cuda.h"

#define CV_WARP 32

/*
 * return CV_LAUNCH(cuda, stream, kernel, grid, block, shared, arguments...);
 * kernel: a name without commas (put an instance of a template with several
 * arguments into an `auto` variable first). shared: bytes of dynamic shared
 * memory. 0 or EIO, logged.
 */
#ifdef CV_EMULATE
#include "emulator.h"
#define CV_LAUNCH(cuda_, stream_, kernel_, grid_, block_, shared_, ...)     \
    (emulator_launch(stream_, dim3(grid_), dim3(block_), shared_,           \
                     __FILE__ ": " #kernel_, kernel_, __VA_ARGS__),         \
     cv_cuda_check(cuda_, cudaGetLastError(), #kernel_))
#else
#define CV_LAUNCH(cuda_, stream_, kernel_, grid_, block_, shared_, ...)     \
    ([&]() -> int {                                                         \
        if ((size_t)(shared_) > 48 * 1024) {                                \
            cudaError_t e_ = cudaFuncSetAttribute(                          \
                kernel_, cudaFuncAttributeMaxDynamicSharedMemorySize,       \
                (int)(shared_));                                            \
            if (e_ != cudaSuccess)                                          \
                return cv_cuda_check(cuda_, e_, #kernel_);                  \
        }                                                                   \
        kernel_<<<grid_, block_, shared_, stream_>>>(__VA_ARGS__);          \
        return cv_cuda_check(cuda_, cudaGetLastError(), #kernel_);          \
    }())
#endif

/* CV_DYNAMIC_SHARED(type, name): name is the block's dynamic shared memory,
 * 1024-byte aligned (as TMA's widest swizzle wants). */
#ifdef CV_EMULATE
#define CV_DYNAMIC_SHARED(type_, name_)                                     \
    type_ *name_ = (type_ *)emulator_shared()
#else
#define CV_DYNAMIC_SHARED(type_, name_)                                     \
    extern __shared__ __align__(1024) unsigned char cv_dynamic_shared[];    \
    type_ *name_ = (type_ *)cv_dynamic_shared
#endif

typedef __nv_bfloat16 cv_bf16;

/* Blocks that cover n elements. */
static inline unsigned cv_blocks(int64_t n, int64_t each)
{
    return (unsigned)((n + each - 1) / each);
}

template <typename T> __device__ __forceinline__ float cv_load(const T *p);
template <> __device__ __forceinline__ float cv_load(const float *p)
{
    return *p;
}
template <> __device__ __forceinline__ float cv_load(const cv_bf16 *p)
{
    return __bfloat162float(*p);
}

template <typename T> __device__ __forceinline__ void cv_store(T *p, float x);
template <> __device__ __forceinline__ void cv_store(float *p, float x)
{
    *p = x;
}
template <> __device__ __forceinline__ void cv_store(cv_bf16 *p, float x)
{
    *p = __float2bfloat16_rn(x);
}

/* The sum over a warp, in every lane; always added in the same order. */
static __device__ __forceinline__ float cv_warp_sum(float x)
{
    for (int lane = CV_WARP / 2; lane > 0; lane /= 2)
        x += __shfl_xor_sync(0xffffffffu, x, lane);
    return x;
}

#endif /* CV_CUDA_LAUNCH_CUH */
