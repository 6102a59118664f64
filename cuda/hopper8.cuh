/*
 * More instructions of sm_90a: products of 8-bit numbers, and copies of bytes
 * as they lie.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * Operands are K-major alone: the direction of the sum lies along rows.
 * tests/emulator/emulated_hopper8.h has the same functions in C++.
 */
#ifndef CV_CUDA_HOPPER8_CUH
#define CV_CUDA_HOPPER8_CUH

#include "hopper.cuh"

#ifdef CV_EMULATE
#include "emulated_hopper8.h"
#else

/* Copy bytes, of which there are a multiple of 16, to shared memory; they are
 * counted at `barrier`. Both addresses are aligned to 16. One thread calls
 * this. */
static __device__ __forceinline__ void cv_bulk_load(void *shared,
                                                    const void *global,
                                                    uint32_t bytes,
                                                    uint64_t *barrier)
{
    asm volatile("cp.async.bulk.shared::cluster.global"
                 ".mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];\n" ::"r"(
                     cv_hopper_address(shared)),
                 "l"(__cvta_generic_to_global(global)), "r"(bytes),
                 "r"(cv_hopper_address(barrier))
                 : "memory");
}

/* Of a tensor map of bytes: rows of 64, swizzled as the next operand has it. */
static const CvTensorForm cv_form_bytes = { 0, 2, 1 };

/* Operand of rows of 64 bytes, of which 8 make 512 aligned bytes, and 16-byte
 * chunk c of row r lies at place c ^ (r / 2 % 4). */
static __device__ __forceinline__ uint64_t cv_wgmma_operand64(const void *p)
{
    return (uint64_t)(cv_hopper_address(p) >> 4 & 0x3fff) |
           (uint64_t)1 << 16 | (uint64_t)(512 >> 4) << 32 | (uint64_t)2 << 62;
}

template <int n>
static __device__ __forceinline__ void cv_wgmma_hold(int (&d)[n])
{
#pragma unroll
    for (int i = 0; i < n; i++)
        asm volatile("" : "+r"(d[i])::"memory");
}

#define CV_S8(d_, i_)                                                       \
    "+r"((d_)[i_]), "+r"((d_)[i_ + 1]), "+r"((d_)[i_ + 2]),                 \
        "+r"((d_)[i_ + 3]), "+r"((d_)[i_ + 4]), "+r"((d_)[i_ + 5]),         \
        "+r"((d_)[i_ + 6]), "+r"((d_)[i_ + 7])

/* d[64, 192] = (add ? d : 0) + a[64, 32] b[192, 32]^T, signed bytes, int32
 * sums; where d's elements are, cv_wgmma_n176() says. */
static __device__ __forceinline__ void cv_wgmma_s8_n192(int d[96], uint64_t a,
                                                        uint64_t b, int add)
{
    asm volatile(
        "{\n"
        ".reg .pred p;\n"
        "setp.ne.b32 p, %98, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n192k32.s32.s8.s8 "
        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, "
        "%15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, "
        "%28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, "
        "%41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, "
        "%54, %55, %56, %57, %58, %59, %60, %61, %62, %63, %64, %65, %66, "
        "%67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "
        "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, "
        "%93, %94, %95}, %96, %97, p;\n"
        "}\n"
        : CV_S8(d, 0), CV_S8(d, 8), CV_S8(d, 16), CV_S8(d, 24), CV_S8(d, 32),
          CV_S8(d, 40), CV_S8(d, 48), CV_S8(d, 56), CV_S8(d, 64), CV_S8(d, 72),
          CV_S8(d, 80), CV_S8(d, 88)
        : "l"(a), "l"(b), "r"(add));
}

/* d[64, 136] += a[64, 32] b[136, 32]^T, e4m3, float32 sums of which the
 * hardware keeps some 14 bits. With g = lane / 4 and c = lane % 4: a[0]: row
 * g, columns 4c to 4c + 3, the first lowest; a[1]: row g + 8; a[2]: row g,
 * columns 16 on; a[3]: row g + 8 of these. */
static __device__ __forceinline__ void
cv_wgmma_e4m3_n136_r(float d[68], const uint32_t a[4], uint64_t b)
{
    asm volatile(
        "{\n"
        ".reg .pred p;\n"
        "setp.eq.b32 p, 0, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n136k32.f32.e4m3.e4m3 "
        "{" CV_R64 ", %64, %65, %66, %67}, {%68, %69, %70, %71}, %72, p, 1, "
        "1;\n"
        "}\n"
        : CV_F8(d, 0), CV_F8(d, 8), CV_F8(d, 16), CV_F8(d, 24), CV_F8(d, 32),
          CV_F8(d, 40), CV_F8(d, 48), CV_F8(d, 56), "+f"(d[64]), "+f"(d[65]),
          "+f"(d[66]), "+f"(d[67])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

/* d[64, 192] = (add ? d : 0) + a[64, 32] b[192, 32]^T, e4m3, sums as above. */
static __device__ __forceinline__ void
cv_wgmma_e4m3_n192(float d[96], uint64_t a, uint64_t b, int add)
{
    asm volatile(
        "{\n"
        ".reg .pred p;\n"
        "setp.ne.b32 p, %98, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n192k32.f32.e4m3.e4m3 "
        "{" CV_R96 "}, %96, %97, p, 1, 1;\n"
        "}\n"
        : CV_F8(d, 0), CV_F8(d, 8), CV_F8(d, 16), CV_F8(d, 24), CV_F8(d, 32),
          CV_F8(d, 40), CV_F8(d, 48), CV_F8(d, 56), CV_F8(d, 64), CV_F8(d, 72),
          CV_F8(d, 80), CV_F8(d, 88)
        : "l"(a), "l"(b), "r"(add));
}

/* Four numbers as e4m3, the first lowest: nearest even, at most 448. */
static __device__ __forceinline__ uint32_t cv_pack_e4m3(float x, float y,
                                                        float z, float w)
{
    uint32_t v;

    asm("{\n"
        ".reg .b16 low, high;\n"
        "cvt.rn.satfinite.e4m3x2.f32 low, %2, %1;\n"
        "cvt.rn.satfinite.e4m3x2.f32 high, %4, %3;\n"
        "mov.b32 %0, {low, high};\n"
        "}\n"
        : "=r"(v)
        : "f"(x), "f"(y), "f"(z), "f"(w));
    return v;
}

/* One instruction of Hopper. */
static __device__ __forceinline__ int cv_max3(int x, int y, int z)
{
    return __vimax3_s32(x, y, z);
}

#endif /* CV_EMULATE */
#endif /* CV_CUDA_HOPPER8_CUH */
