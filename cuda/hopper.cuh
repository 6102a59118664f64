/*
 * Instructions of sm_90a: asynchronous products of a warpgroup, the tensor
 * copy engine, and the barriers that count its bytes.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * PTX ISA, "Asynchronous warpgroup level matrix multiply-accumulate
 * operation", "cp.async.bulk.tensor" and "mbarrier". Layouts in shared memory
 * are those of 128-byte swizzle: rows of 128 bytes, of which 8 make 1024
 * aligned bytes, and 16-byte chunk c of row r lies at place c ^ (r % 8).
 * tests/emulator/emulated_hopper.h has the same functions in C++.
 */
#ifndef CV_CUDA_HOPPER_CUH
#define CV_CUDA_HOPPER_CUH

#include "launch.cuh"

/* Kernels are empty for other architectures; launchers look at cuda->hopper. */
#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || defined(CV_EMULATE)
#define CV_HOPPER_CODE 1
#else
#define CV_HOPPER_CODE 0
#endif

#ifdef CV_EMULATE
#include "emulated_hopper.h"
#else

/* ---- tensor maps ---- */

/* CUtensorMap. The toolkit's cuda.h, which declares it, cannot be included: it
 * has the name of ours. */
typedef struct __align__(64) CvTensorMap {
    uint64_t opaque[16];
} CvTensorMap;

/* How a tensor map's elements lie in shared memory: what cuTensorMapEncodeTiled
 * calls their type and their swizzling, and bytes of one. */
typedef struct CvTensorForm {
    int type, swizzle, bytes;
} CvTensorForm;

/* bf16: rows of 64, 128 bytes. */
static const CvTensorForm cv_form_bf16 = { 9, 3, (int)sizeof(cv_bf16) };

/* Describe n_dims (3 or 4) dimensions of `form` at `base`, the fastest first,
 * of which boxes of box[i] are copied, box[0] = 64, swizzled; what lies outside
 * is 0. step[i]: elements from one of dimension i + 1 to the next. base and
 * steps are aligned to 16 bytes. */
static inline int cv_tensor_map_of(CvCuda *cuda, CvTensorMap *map,
                                   CvTensorForm form, int n_dims,
                                   const void *base, const int64_t *dim,
                                   const int64_t *step, const int *box)
{
    /* cuTensorMapEncodeTiled; its enumerations, by value. */
    typedef int (*Encode)(void *map, int type, uint32_t rank, void *base,
                          const uint64_t *dim, const uint64_t *step_bytes,
                          const uint32_t *box, const uint32_t *every,
                          int interleave, int swizzle, int promotion,
                          int fill);
    enum { NOT_INTERLEAVED = 0, PROMOTE_256 = 3, ZEROS = 0 };
    uint64_t dims[4], steps[3];
    uint32_t boxes[4], every[4] = { 1, 1, 1, 1 };
    cudaDriverEntryPointQueryResult found;
    void *encode = NULL;
    cudaError_t e;

    e = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &encode,
                                         12000, cudaEnableDefault, &found);
    if (e != cudaSuccess || !encode)
        return cv_cuda_check(cuda, e ? e : cudaErrorNotSupported,
                             "cuTensorMapEncodeTiled");
    for (int i = 0; i < n_dims; i++) {
        dims[i] = (uint64_t)dim[i];
        boxes[i] = (uint32_t)box[i];
    }
    for (int i = 0; i + 1 < n_dims; i++)
        steps[i] = (uint64_t)(step[i] * form.bytes);
    if (((Encode)encode)(map, form.type, (uint32_t)n_dims,
                         (void *)(uintptr_t)base, dims, steps, boxes, every,
                         NOT_INTERLEAVED, form.swizzle, PROMOTE_256, ZEROS))
        return cv_cuda_check(cuda, cudaErrorInvalidValue, "a tensor map");
    return 0;
}

static inline int cv_tensor_map_n(CvCuda *cuda, CvTensorMap *map, int n_dims,
                                  const void *base, const int64_t *dim,
                                  const int64_t *step, const int *box)
{
    return cv_tensor_map_of(cuda, map, cv_form_bf16, n_dims, base, dim, step,
                            box);
}

static inline int cv_tensor_map(CvCuda *cuda, CvTensorMap *map,
                                const void *base, const int64_t dim[3],
                                const int64_t step[2], const int box[3])
{
    return cv_tensor_map_n(cuda, map, 3, base, dim, step, box);
}

static __device__ __forceinline__ uint32_t cv_hopper_address(const void *p)
{
    return (uint32_t)__cvta_generic_to_shared(p);
}

/* Copy the box at (x, y, z) to shared memory, 1024-byte aligned; its bytes are
 * counted at `barrier`. One thread calls this. */
static __device__ __forceinline__ void cv_tma_load(void *shared,
                                                   const CvTensorMap *map,
                                                   uint64_t *barrier, int x,
                                                   int y, int z)
{
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global"
                 ".mbarrier::complete_tx::bytes "
                 "[%0], [%1, {%3, %4, %5}], [%2];\n" ::"r"(
                     cv_hopper_address(shared)),
                 "l"(map), "r"(cv_hopper_address(barrier)), "r"(x), "r"(y),
                 "r"(z)
                 : "memory");
}

static __device__ __forceinline__ void cv_tma_load_4d(void *shared,
                                                      const CvTensorMap *map,
                                                      uint64_t *barrier, int x,
                                                      int y, int z, int f)
{
    asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global"
                 ".mbarrier::complete_tx::bytes "
                 "[%0], [%1, {%3, %4, %5, %6}], [%2];\n" ::"r"(
                     cv_hopper_address(shared)),
                 "l"(map), "r"(cv_hopper_address(barrier)), "r"(x), "r"(y),
                 "r"(z), "r"(f)
                 : "memory");
}

static __device__ __forceinline__ void cv_tma_prefetch(const CvTensorMap *map)
{
    asm volatile("prefetch.tensormap [%0];\n" ::"l"(map) : "memory");
}

/* ---- barriers ---- */

/* A barrier in shared memory, whose phases end after `count` arrivals and all
 * bytes expected. One thread makes it. */
static __device__ __forceinline__ void cv_mbarrier_init(uint64_t *barrier,
                                                        int count)
{
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;\n" ::"r"(
                     cv_hopper_address(barrier)),
                 "r"(count)
                 : "memory");
}

/* After the last init, by the same thread, before all others see them. */
static __device__ __forceinline__ void cv_mbarrier_init_done(void)
{
    asm volatile("fence.mbarrier_init.release.cluster;\n" ::: "memory");
}

static __device__ __forceinline__ void cv_mbarrier_arrive(uint64_t *barrier)
{
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];\n" ::"r"(
                     cv_hopper_address(barrier))
                 : "memory");
}

/* Arrive, and expect `bytes` in this phase. */
static __device__ __forceinline__ void cv_mbarrier_expect(uint64_t *barrier,
                                                          uint32_t bytes)
{
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;\n"
                 ::"r"(cv_hopper_address(barrier)), "r"(bytes)
                 : "memory");
}

/* Wait for the end of a phase by its parity: that of the first is 0; of what
 * was before it, 1. */
static __device__ __forceinline__ void cv_mbarrier_wait(uint64_t *barrier,
                                                        int parity)
{
    uint32_t done;

    do {
        asm volatile("{\n"
                     ".reg .pred p;\n"
                     "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
                     "selp.u32 %0, 1, 0, p;\n"
                     "}\n"
                     : "=r"(done)
                     : "r"(cv_hopper_address(barrier)), "r"(parity)
                     : "memory");
    } while (!done);
}

/* Named barrier `id` (1..15) of so many threads: wait, or only arrive. */
static __device__ __forceinline__ void cv_named_wait(int id, int threads)
{
    asm volatile("bar.sync %0, %1;\n" ::"r"(id), "r"(threads) : "memory");
}

static __device__ __forceinline__ void cv_named_arrive(int id, int threads)
{
    asm volatile("bar.arrive %0, %1;\n" ::"r"(id), "r"(threads) : "memory");
}

/* ---- registers ---- */

/* Of the calling warpgroup, from now on. */
template <int n> static __device__ __forceinline__ void cv_registers_give(void)
{
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;\n" ::"n"(n));
}

template <int n> static __device__ __forceinline__ void cv_registers_take(void)
{
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;\n" ::"n"(n));
}

/* ---- products ---- */

/* Operand in shared memory, bf16. Columns (the direction of the sum) lie along
 * rows of 128 bytes: `group` bytes from 8 rows to the next 8, further_on unused
 * (1 is as good as any). Transposed, the sum's direction goes down such rows:
 * `group` as before; further_on: bytes from 64 of the other direction to the
 * next 64. */
static __device__ __forceinline__ uint64_t cv_wgmma_operand(const void *p,
                                                            int group,
                                                            int further_on)
{
    return (uint64_t)(cv_hopper_address(p) >> 4 & 0x3fff) |
           (uint64_t)(further_on >> 4) << 16 | (uint64_t)(group >> 4) << 32 |
           (uint64_t)1 << 62;
}

/* Before the first product after registers of operands were written. */
static __device__ __forceinline__ void cv_wgmma_fence(void)
{
    asm volatile("wgmma.fence.sync.aligned;\n" ::: "memory");
}

static __device__ __forceinline__ void cv_wgmma_commit(void)
{
    asm volatile("wgmma.commit_group.sync.aligned;\n" ::: "memory");
}

/* Wait until at most n committed groups are under way. */
template <int n> static __device__ __forceinline__ void cv_wgmma_wait(void)
{
    asm volatile("wgmma.wait_group.sync.aligned %0;\n" ::"n"(n) : "memory");
}

/* Registers that a product under way writes: uses after this stay after it. */
template <int n>
static __device__ __forceinline__ void cv_wgmma_hold(float (&d)[n])
{
#pragma unroll
    for (int i = 0; i < n; i++)
        asm volatile("" : "+f"(d[i])::"memory");
}

#define CV_F8(d_, i_)                                                       \
    "+f"((d_)[i_]), "+f"((d_)[i_ + 1]), "+f"((d_)[i_ + 2]),                 \
        "+f"((d_)[i_ + 3]), "+f"((d_)[i_ + 4]), "+f"((d_)[i_ + 5]),         \
        "+f"((d_)[i_ + 6]), "+f"((d_)[i_ + 7])

/* d[64, n] = (add ? d : 0) + a[64, 16] b[n, 16]^T, under way until waited for.
 * Warp w has rows 16 w to 16 w + 15; for columns 8 j to 8 j + 7, d[4 j] to
 * d[4 j + 3] are as cv_mma_bf16() leaves them. */
static __device__ __forceinline__ void cv_wgmma_n176(float d[88], uint64_t a,
                                                     uint64_t b, int add)
{
    asm volatile(
        "{\n"
        ".reg .pred p;\n"
        "setp.ne.b32 p, %90, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n176k16.f32.bf16.bf16 "
        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, "
        "%15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, "
        "%28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, "
        "%41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, "
        "%54, %55, %56, %57, %58, %59, %60, %61, %62, %63, %64, %65, %66, "
        "%67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "
        "%80, %81, %82, %83, %84, %85, %86, %87}, "
        "%88, %89, p, 1, 1, 0, 0;\n"
        "}\n"
        : CV_F8(d, 0), CV_F8(d, 8), CV_F8(d, 16), CV_F8(d, 24), CV_F8(d, 32),
          CV_F8(d, 40), CV_F8(d, 48), CV_F8(d, 56), CV_F8(d, 64), CV_F8(d, 72),
          CV_F8(d, 80)
        : "l"(a), "l"(b), "r"(add));
}

/* d[64, 128] += a[64, 16] b[16, 128]; a: registers as for cv_mma_bf16(); b:
 * transposed. */
static __device__ __forceinline__ void cv_wgmma_n128_rt(float d[64],
                                                        const uint32_t a[4],
                                                        uint64_t b)
{
    asm volatile(
        "{\n"
        ".reg .pred p;\n"
        "setp.eq.b32 p, 0, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, "
        "%15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, "
        "%28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, "
        "%41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, "
        "%54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
        "{%64, %65, %66, %67}, %68, p, 1, 1, 1;\n"
        "}\n"
        : CV_F8(d, 0), CV_F8(d, 8), CV_F8(d, 16), CV_F8(d, 24), CV_F8(d, 32),
          CV_F8(d, 40), CV_F8(d, 48), CV_F8(d, 56)
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

#define CV_R8 "%0, %1, %2, %3, %4, %5, %6, %7"
#define CV_R48                                                              \
    CV_R8 ", %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, "    \
          "%20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "    \
          "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, "    \
          "%44, %45, %46, %47"
#define CV_R64                                                              \
    CV_R48 ", %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, " \
           "%60, %61, %62, %63"

#define CV_R96                                                              \
    CV_R64 ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, " \
           "%76, %77, %78, %79, %80, %81, %82, %83, %84, %85, %86, %87, "   \
           "%88, %89, %90, %91, %92, %93, %94, %95"

/* d[64, kN] += a[64, 16] b[kN, 16]^T, under way until waited for. */
template <int kN>
static __device__ __forceinline__ void cv_wgmma_add(float *d, uint64_t a,
                                                    uint64_t b);
template <>
__device__ __forceinline__ void cv_wgmma_add<16>(float *d, uint64_t a,
                                                 uint64_t b)
{
    asm volatile("wgmma.mma_async.sync.aligned.m64n16k16.f32.bf16.bf16 "
                 "{" CV_R8 "}, %8, %9, 1, 1, 1, 0, 0;\n"
                 : CV_F8(d, 0)
                 : "l"(a), "l"(b));
}
template <>
__device__ __forceinline__ void cv_wgmma_add<96>(float *d, uint64_t a,
                                                 uint64_t b)
{
    asm volatile("wgmma.mma_async.sync.aligned.m64n96k16.f32.bf16.bf16 "
                 "{" CV_R48 "}, %48, %49, 1, 1, 1, 0, 0;\n"
                 : CV_F8(d, 0), CV_F8(d, 8), CV_F8(d, 16), CV_F8(d, 24),
                   CV_F8(d, 32), CV_F8(d, 40)
                 : "l"(a), "l"(b));
}
template <>
__device__ __forceinline__ void cv_wgmma_add<128>(float *d, uint64_t a,
                                                  uint64_t b)
{
    asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
                 "{" CV_R64 "}, %64, %65, 1, 1, 1, 0, 0;\n"
                 : CV_F8(d, 0), CV_F8(d, 8), CV_F8(d, 16), CV_F8(d, 24),
                   CV_F8(d, 32), CV_F8(d, 40), CV_F8(d, 48), CV_F8(d, 56)
                 : "l"(a), "l"(b));
}

template <>
__device__ __forceinline__ void cv_wgmma_add<192>(float *d, uint64_t a,
                                                  uint64_t b)
{
    asm volatile("wgmma.mma_async.sync.aligned.m64n192k16.f32.bf16.bf16 "
                 "{" CV_R96 "}, %96, %97, 1, 1, 1, 0, 0;\n"
                 : CV_F8(d, 0), CV_F8(d, 8), CV_F8(d, 16), CV_F8(d, 24),
                   CV_F8(d, 32), CV_F8(d, 40), CV_F8(d, 48), CV_F8(d, 56),
                   CV_F8(d, 64), CV_F8(d, 72), CV_F8(d, 80), CV_F8(d, 88)
                 : "l"(a), "l"(b));
}

#endif /* CV_EMULATE */
#endif /* CV_CUDA_HOPPER_CUH */
