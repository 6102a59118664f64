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
 *
 * Kernels of the engine's stream may be launched early (cuda->early; CUDA calls
 * it programmatic dependent launch): while the one before still runs, as soon as
 * each of its blocks has called cv_begin() or ended. Then what is between two is
 * hidden but for what a kernel waits for in its own cv_begin().
 *
 * Why results are the same. No kernel touches memory of the GPU before
 * cv_begin(), which waits until the kernel before has ended as a whole and all
 * that it wrote can be seen. That one waited in the same way, so it ended after
 * all kernels before it. So only one kernel at a time is behind its cv_begin():
 * what others left is complete, and nobody still reads what is about to be
 * written (scratch). Threads may end early, but not before it. When the next
 * kernel is let in makes no difference to results; it takes room only where all
 * blocks of this one have theirs, and lets nobody in while it waits.
 * Copies, memsets, events and whoever waits for them, and the host, wait for
 * all kernels before. So do those of cuBLASLt, or they are launched early and
 * wait by themselves: the library's matter. On the streams of pictures, of which
 * one is the caller's, with kernels that we do not know, nothing is launched
 * early; nor where the code is not sm_90a's: before 9.0 there is nothing to wait
 * with.
 */
#ifdef CV_EMULATE
#include "emulator.h"
#define CV_LAUNCH(cuda_, stream_, kernel_, grid_, block_, shared_, ...)     \
    (emulator_launch(stream_, dim3(grid_), dim3(block_), shared_,           \
                     __FILE__ ": " #kernel_, kernel_, __VA_ARGS__),         \
     cv_cuda_check(cuda_, cudaGetLastError(), #kernel_))
#else
template <typename... Parameters, typename... Arguments>
static inline int cv_launch(CvCuda *cuda, cudaStream_t stream, const char *name,
                            void (*kernel)(Parameters...), dim3 grid,
                            dim3 block, size_t shared, Arguments... arguments)
{
    cudaLaunchAttribute early = {};
    cudaLaunchConfig_t config = {};
    cudaError_t e = cudaSuccess;

    early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    early.val.programmaticStreamSerializationAllowed = 1;
    config.gridDim          = grid;
    config.blockDim         = block;
    config.dynamicSmemBytes = shared;
    config.stream           = stream;
    config.attrs            = &early;
    config.numAttrs         = cuda->early && stream == cuda->stream;
    if (shared > 48 * 1024)
        e = cudaFuncSetAttribute(
            kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared);
    if (e == cudaSuccess)
        e = cudaLaunchKernelEx(&config, kernel, arguments...);
    if (e == cudaSuccess)
        e = cudaGetLastError();
    return cv_cuda_check(cuda, e, name);
}
#define CV_LAUNCH(cuda_, stream_, kernel_, grid_, block_, shared_, ...)     \
    cv_launch(cuda_, stream_, #kernel_, kernel_, dim3(grid_), dim3(block_), \
              shared_, __VA_ARGS__)
#endif

/* What every kernel begins with, in all threads, and without which none may
 * end: nothing of the GPU's memory is touched before, but barriers in shared
 * memory may be made and tensor maps fetched. Threads must not depend on what
 * others do after it. */
static __device__ __forceinline__ void cv_begin(void)
{
#ifdef CV_EMULATE
    emulator_begin();
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;\n"
                 "griddepcontrol.launch_dependents;\n" ::: "memory");
#endif
}

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
