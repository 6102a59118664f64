/*
 * The instructions of cuda/ptx.cuh in C++, by PTX's description of them.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#ifndef CV_EMULATED_PTX_H
#define CV_EMULATED_PTX_H

#include <time.h>

#include "cuda_bf16.h"

static inline uint4 cv_load_once16(const void *global)
{
    uint4 v;

    if ((uintptr_t)global % 16)
        emulator_fail("ld.global.v4: %p is not 16-byte aligned", global);
    memcpy(&v, global, sizeof(v));
    return v;
}

/* An asynchronous copy may arrive at any time before it is waited for: here
 * its place holds NaNs from now on, and the copy is made when it is waited
 * for. So what still reads the place, or reads it too early, gets NaNs. */
static inline void cv_cp_async16(void *shared, const void *global, int valid)
{
    if ((uintptr_t)shared % 16 || (valid && (uintptr_t)global % 16))
        emulator_fail("cp.async: %p to %p: not 16-byte aligned", global,
                      shared);
    emulator_copy_later(shared, global, 16, valid);
}

static inline void cv_cp_async_commit(void)
{
    emulator_commit_copies();
}

template <int n> static inline void cv_cp_async_wait(void)
{
    emulator_await_copies(n);
}

struct EmulatorMatrices {
    uint32_t *r;
    const void *row;
};

void emulator_ldmatrix(void **lanes, uint32_t mask);
void emulator_ldmatrix_trans(void **lanes, uint32_t mask);

static inline void cv_ldmatrix_x4(uint32_t r[4], const void *row,
                                  EMULATOR_HERE)
{
    EmulatorMatrices m = { r, row };

    emulator_collective(emulator_ldmatrix, &m, 0xffffffffu,
                        EMULATOR_AT("ldmatrix"));
}

static inline void cv_ldmatrix_x4_trans(uint32_t r[4], const void *row,
                                        EMULATOR_HERE)
{
    EmulatorMatrices m = { r, row };

    emulator_collective(emulator_ldmatrix_trans, &m, 0xffffffffu,
                        EMULATOR_AT("ldmatrix.trans"));
}

struct EmulatorProduct {
    float *d;
    const uint32_t *a;
    uint32_t b[2];
};

void emulator_mma_bf16(void **lanes, uint32_t mask);

static inline void cv_mma_bf16(float d[4], const uint32_t a[4], uint32_t b0,
                               uint32_t b1, EMULATOR_HERE)
{
    EmulatorProduct p = { d, a, { b0, b1 } };

    emulator_collective(emulator_mma_bf16, &p, 0xffffffffu,
                        EMULATOR_AT("mma"));
}

static inline float cv_exp2(float x)
{
    return x < -126 ? 0 : exp2f(x);
}

/* Nanoseconds in both cases. */
static inline uint64_t cv_nanoseconds(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static inline uint32_t cv_clock(void)
{
    return (uint32_t)cv_nanoseconds();
}

#endif /* CV_EMULATED_PTX_H */
