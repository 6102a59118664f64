/*
 * A block of threads that has a row, in registers where it fits.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#ifndef CV_CUDA_ROWS_CUH
#define CV_CUDA_ROWS_CUH

#include "vector.cuh"

/* Threads of a block that holds a row in registers. Kernels say that two such
 * blocks share a multiprocessor: left to itself, the compiler spills to make
 * room for more. */
enum { kCvMaxThreads = 512 };
enum { kCvAnyThreads = 256 }; /* of a block that does not */

/* ---- rows in registers: how many vectors a thread has ---- */

typedef struct CvRowShape {
    int vectors; /* 16-byte vectors of a row */
    int parts;   /* of each thread: 3 or 5; 0: the row does not fit */
    unsigned threads;
} CvRowShape;

static inline unsigned cv_threads_for(int64_t vectors, int parts)
{
    int64_t each = (vectors + parts - 1) / parts;

    return (unsigned)((each + CV_WARP - 1) / CV_WARP * CV_WARP);
}

/* The split that leaves fewer lanes without work: 5 for 5120 elements, 3 for
 * 1536 and 4096. */
static inline CvRowShape cv_row_shape(int64_t d, int elements)
{
    CvRowShape s = { 0, 0, 0 };
    int64_t n = d / elements;
    unsigned three, five;

    if (d % elements || n > 5 * kCvMaxThreads)
        return s;
    three = cv_threads_for(n, 3);
    five = cv_threads_for(n, 5);
    s.vectors = (int)n;
    s.parts = three > kCvMaxThreads || five * 5 < three * 3 ? 5 : 3;
    s.threads = s.parts == 5 ? five : three;
    return s;
}

static inline unsigned cv_any_threads(int64_t d)
{
    return d < kCvAnyThreads ? cv_threads_for(d, 1) : (unsigned)kCvAnyThreads;
}

template <int parts>
static __device__ __forceinline__ void cv_load_row(uint4 *raw, const void *row,
                                                   int vectors)
{
#pragma unroll
    for (int p = 0; p < parts; p++) {
        int i = p * (int)blockDim.x + (int)threadIdx.x;

        raw[p] = i < vectors ? cv_load_once16((const uint4 *)row + i)
                             : make_uint4(0, 0, 0, 0);
    }
}

#endif /* CV_CUDA_ROWS_CUH */
