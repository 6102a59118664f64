/*
 * Where the clocks of a kernel go: compiled in by -DCV_STAMPS=n, else nothing.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * The first thread of each role (a warpgroup, the one that copies) counts the
 * clocks from one cv_stamp() to the next as spent at the place that is named.
 * After the launch cv_stamps_print() waits for it and prints on stderr how many
 * a tile took at each place, means over all blocks: for launch n, from 0, of
 * those of one shape in a row (test_ops --bench has three at least). What
 * counting costs shows as the difference of the bench's times.
 *
 * One file that includes this has counts of its own.
 */
#ifndef CV_CUDA_STAMPS_CUH
#define CV_CUDA_STAMPS_CUH

#include "launch.cuh"

#ifdef CV_STAMPS

#include <stdio.h>
#include <string.h>

#include "ptx.cuh"

enum { kStampBlocks = 264, kStampRoles = 4, kStampPlaces = 12 };

typedef struct CvClock {
    uint32_t last, spent[kStampPlaces];
} CvClock;

typedef struct CvStamps {
    uint32_t spent[kStampPlaces], nanoseconds;
} CvStamps;

static __device__ CvStamps cv_stamps[kStampBlocks][kStampRoles];

static __device__ __forceinline__ CvStamps *cv_stamps_of(int role)
{
    return &cv_stamps[blockIdx.x % kStampBlocks][role];
}

static __device__ __forceinline__ void cv_stamp_begin(CvClock *c, int role)
{
    if (threadIdx.x % 128 == 0)
        cv_stamps_of(role)->nanoseconds = (uint32_t)cv_nanoseconds();
#pragma unroll
    for (int i = 0; i < kStampPlaces; i++)
        c->spent[i] = 0;
    c->last = cv_clock();
}

/* place: a constant. */
static __device__ __forceinline__ void cv_stamp(CvClock *c, int place)
{
    uint32_t now = cv_clock();

    c->spent[place] += now - c->last;
    c->last = now;
}

static __device__ __forceinline__ void cv_stamp_end(CvClock *c, int role)
{
    CvStamps *to = cv_stamps_of(role);

    if (threadIdx.x % 128)
        return;

#pragma unroll
    for (int i = 0; i < kStampPlaces; i++)
        to->spent[i] = c->spent[i];
    to->nanoseconds = (uint32_t)cv_nanoseconds() - to->nanoseconds;
}

/* Of a launch of `blocks` that made `tiles`. places: of each role, names after
 * each other up to a NULL. */
static inline int cv_stamps_print(CvCuda *cuda, int blocks, int tiles,
                                  const char *shape, int roles,
                                  const char *const *const *places)
{
    static char last[160];
    static int times;
    static CvStamps rows[kStampBlocks][kStampRoles];
    cudaError_t e = cudaStreamSynchronize(cuda->stream);

    times = strcmp(last, shape) ? 0 : times + 1;
    snprintf(last, sizeof(last), "%s", shape);
    if (e != cudaSuccess || times != CV_STAMPS || blocks > kStampBlocks)
        return cv_cuda_check(cuda, e, shape);
    e = cudaMemcpyFromSymbol(rows, cv_stamps, sizeof(rows));
    if (e != cudaSuccess)
        return cv_cuda_check(cuda, e, "stamps");
    fprintf(stderr, "stamps %s: %d tiles on %d blocks; clocks a tile\n",
            shape, tiles, blocks);
    for (int r = 0; r < roles; r++) {
        double all = 0, nanoseconds = 0;

        fprintf(stderr, "  role %d:", r);
        for (int i = 0; i < kStampPlaces && places[r][i]; i++) {
            double sum = 0;

            for (int b = 0; b < blocks; b++)
                sum += rows[b][r].spent[i];
            fprintf(stderr, " %s %.0f,", places[r][i], sum / tiles);
            all += sum;
        }
        for (int b = 0; b < blocks; b++)
            nanoseconds += rows[b][r].nanoseconds;
        fprintf(stderr, " all %.0f; %.3f GHz, %.4f ms\n", all / tiles,
                nanoseconds > 0 ? all / nanoseconds : 0,
                nanoseconds * 1e-6 / blocks);
    }
    return 0;
}

#else

typedef struct CvClock {
} CvClock;

static __device__ __forceinline__ void cv_stamp_begin(CvClock *, int)
{
}

static __device__ __forceinline__ void cv_stamp(CvClock *, int)
{
}

static __device__ __forceinline__ void cv_stamp_end(CvClock *, int)
{
}

#endif /* CV_STAMPS */
#endif /* CV_CUDA_STAMPS_CUH */
