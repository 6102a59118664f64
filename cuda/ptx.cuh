/*
 * The instructions that CUDA C++ has no name for.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * Each is one PTX instruction (PTX ISA, "Warp-level matrix instructions" and
 * "Asynchronous copy"); tests/emulator has the same functions in C++.
 */
#ifndef CV_CUDA_PTX_CUH
#define CV_CUDA_PTX_CUH

#include <cuda_bf16.h>
#include <stdint.h>

#ifdef CV_EMULATE
#include "emulated_ptx.h"
#else

static __device__ __forceinline__ uint32_t cv_shared_address(const void *p)
{
    return (uint32_t)__cvta_generic_to_shared(p);
}

/* For stamps.cuh: of the multiprocessor; and of the whole GPU. */
static __device__ __forceinline__ uint32_t cv_clock(void)
{
    uint32_t n;

    asm volatile("mov.u32 %0, %%clock;\n" : "=r"(n)::"memory");
    return n;
}

static __device__ __forceinline__ uint64_t cv_nanoseconds(void)
{
    uint64_t n;

    asm volatile("mov.u64 %0, %%globaltimer;\n" : "=l"(n)::"memory");
    return n;
}

/* 16 aligned bytes of global memory that are read once: they do not push out
 * of the first-level cache what is read for every row. */
static __device__ __forceinline__ uint4 cv_load_once16(const void *global)
{
    uint4 v;

    asm volatile("ld.global.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];\n"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(__cvta_generic_to_global(global)));
    return v;
}

/* 16 bytes from global to shared memory, both 16-byte aligned, zeros instead
 * when `valid` is 0 (then nothing is read). */
static __device__ __forceinline__ void cv_cp_async16(void *shared,
                                                     const void *global,
                                                     int valid)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(
                     cv_shared_address(shared)),
                 "l"(global), "r"(valid ? 16 : 0)
                 : "memory");
}

static __device__ __forceinline__ void cv_cp_async_commit(void)
{
    asm volatile("cp.async.commit_group;\n" ::: "memory");
}

/* Wait until all but the last n groups of this thread have arrived. */
template <int n> static __device__ __forceinline__ void cv_cp_async_wait(void)
{
    asm volatile("cp.async.wait_group %0;\n" ::"n"(n) : "memory");
}

/* Four 8x8 matrices of 16-bit elements; lane l gives the address of row l % 8
 * of matrix l / 8 (16 bytes, aligned). r[i]: the lane's part of matrix i: row
 * l / 4, elements 2 (l % 4) and the next; `trans`: of the transposed. */
static __device__ __forceinline__ void cv_ldmatrix_x4(uint32_t r[4],
                                                      const void *row)
{
    asm volatile(
        "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
        : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
        : "r"(cv_shared_address(row))
        : "memory");
}

static __device__ __forceinline__ void cv_ldmatrix_x4_trans(uint32_t r[4],
                                                            const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 "
                 "{%0, %1, %2, %3}, [%4];\n"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(cv_shared_address(row))
                 : "memory");
}

/* d[16, 8] += a[16, 16] * b[16, 8], a and b bf16, d float32, spread over the
 * warp as PTX says for mma.m16n8k16. With g = lane / 4 and c = lane % 4:
 * a[0]: row g, columns 2c, 2c + 1; a[1]: row g + 8; a[2]: row g, columns
 * 2c + 8, 2c + 9; a[3]: row g + 8 of these. b[0]: rows 2c, 2c + 1 of column
 * g; b[1]: rows 2c + 8, 2c + 9. d[0], d[1]: row g, columns 2c, 2c + 1; d[2],
 * d[3]: row g + 8. */
static __device__ __forceinline__ void cv_mma_bf16(float d[4],
                                                   const uint32_t a[4],
                                                   uint32_t b0, uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};\n"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0),
                   "r"(b1));
}

/* 2^x to 2 units in the last place; 0 below 2^-126. */
static __device__ __forceinline__ float cv_exp2(float x)
{
    float y;

    asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(y) : "f"(x));
    return y;
}

#endif /* CV_EMULATE */
#endif /* CV_CUDA_PTX_CUH */
