/*
 * Kernels on the CPU: launching them, and what they find in their scope.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * The threads of a block are coroutines on the calling thread; blocks run one
 * after another. A thread runs until a barrier or a collective of its warp
 * needs others. A barrier that cannot complete ends the program with a report
 * of who waits where, and so does an access outside memory.
 */
#ifndef CV_EMULATOR_H
#define CV_EMULATOR_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <functional>

#include "cuda_runtime.h"

typedef struct EmulatorPlace {
    const char *file, *what;
    int line;
} EmulatorPlace;

/* Where a function that has this as a default argument was called. */
#define EMULATOR_HERE                                                       \
    const char *file_ = __builtin_FILE(), int line_ = __builtin_LINE()
#define EMULATOR_AT(what_) (EmulatorPlace{ file_, what_, line_ })

/* ---- for CV_LAUNCH and CV_DYNAMIC_SHARED ---- */

void emulator_run(cudaStream_t stream, dim3 grid, dim3 block, size_t shared,
                  const char *name, std::function<void()> kernel);

/* Of each file its own: types of the same name are others elsewhere. */
template <typename... P, typename... A>
static void emulator_launch(cudaStream_t stream, dim3 grid, dim3 block,
                            size_t shared, const char *name,
                            void (*kernel)(P...), A... arguments)
{
    emulator_run(stream, grid, block, shared, name,
                 [=] { kernel(arguments...); });
}

/* The block's dynamic shared memory, 1024-byte aligned; NaN until written. */
void *emulator_shared(void);

/* cv_begin(): the thread may touch device memory from here on. */
void emulator_begin(EMULATOR_HERE);

/* ---- for tests ---- */

/* What was seen since the program began. */
typedef struct EmulatorCounts {
    int64_t launches, blocks, switches, mmas, ldmatrices;
    int64_t bank_conflicts; /* ldmatrix: extra passes over shared memory */
    int64_t graphs, graph_launches; /* made, launched */
} EmulatorCounts;
extern EmulatorCounts emulator_counts;

/* Print what is wrong, with kernel, block and thread, and abort. */
__attribute__((format(printf, 1, 2), noreturn))
void emulator_fail(const char *format, ...);

/* ---- for the headers here ---- */

/* Wait for the threads of the block. */
void emulator_barrier(EmulatorPlace place);

/* The same for `threads` threads that name barrier `id` (bar.sync id, n). */
void emulator_named_barrier(int id, int threads, EmulatorPlace place);

/* Wait for the lanes of `mask`; the last to come calls run(arguments of all
 * lanes, mask) for all of them. Lanes must come with equal `run` and mask. */
void emulator_collective(void (*run)(void **, uint32_t), void *argument,
                         uint32_t mask, EmulatorPlace place);

/* Wait until until(cookie) is not 0 (mbarrier). A cookie begins with a pointer
 * to what is waited for. */
void emulator_wait_until(int (*until)(void *), void *cookie,
                         EmulatorPlace place);

/* With a random order of threads: let those who waited for `what`, and need
 * not any more, and all who are ready, run before the calling thread may. */
void emulator_give_way(const void *what);

int emulator_lane(void);

/* A queue of asynchronous copies of the calling thread (cp.async). */
void emulator_copy_later(void *dst, const void *src, size_t bytes, int valid);
void emulator_commit_copies(void);
void emulator_await_copies(int n);

/* ---- in scope of kernels ---- */

extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;
enum { warpSize = 32 };

#define __global__
#define __device__
#define __host__
#define __constant__
/* In a section of its own, which holds NaNs when a block begins. (gcc leaves
 * those of templates where other variables are.) */
#define __shared__ static __attribute__((section("cv_shared")))
#define __grid_constant__
#define __launch_bounds__(...)
#define __forceinline__ inline __attribute__((always_inline))
#define __align__(n) __attribute__((aligned(n)))

static inline void __syncthreads(EMULATOR_HERE)
{
    emulator_barrier(EMULATOR_AT("__syncthreads"));
}

static inline void emulator_nothing(void **, uint32_t) {}

static inline void __syncwarp(uint32_t mask = 0xffffffffu, EMULATOR_HERE)
{
    emulator_collective(emulator_nothing, nullptr, mask,
                        EMULATOR_AT("__syncwarp"));
}

static inline void __threadfence(void) {}
static inline void __threadfence_block(void) {}

/* ---- shuffles and votes ---- */

struct EmulatorExchange {
    uint64_t value, result;
    int source; /* lane */
};

static inline void emulator_shuffle(void **lanes, uint32_t mask)
{
    for (int i = 0; i < 32; i++) {
        if (!(mask >> i & 1))
            continue;
        EmulatorExchange *x = (EmulatorExchange *)lanes[i];

        /* What a lane that takes no part holds is not defined. */
        x->result = ~(uint64_t)0;
        if (mask >> x->source & 1)
            x->result = ((EmulatorExchange *)lanes[x->source])->value;
    }
}

template <typename T>
static inline T emulator_exchange(uint32_t mask, T value, int source,
                                  EmulatorPlace place)
{
    static_assert(sizeof(T) == 2 || sizeof(T) == 4 || sizeof(T) == 8,
                  "not a type of shuffles");
    EmulatorExchange x = { 0, 0, source };
    T result;

    memcpy(&x.value, &value, sizeof(T));
    emulator_collective(emulator_shuffle, &x, mask, place);
    memcpy(&result, &x.result, sizeof(T));
    return result;
}

template <typename T>
static inline T __shfl_sync(uint32_t mask, T value, int source,
                            int width = 32, EMULATOR_HERE)
{
    int lane = emulator_lane();

    return emulator_exchange(mask, value,
                             (lane & ~(width - 1)) | (source & (width - 1)),
                             EMULATOR_AT("__shfl_sync"));
}

template <typename T>
static inline T __shfl_xor_sync(uint32_t mask, T value, int bits,
                                int width = 32, EMULATOR_HERE)
{
    int lane = emulator_lane(), source = lane ^ bits;

    /* Segments before the own one may be read, those after it not. */
    if (source >= (lane & ~(width - 1)) + width)
        source = lane;
    return emulator_exchange(mask, value, source & 31,
                             EMULATOR_AT("__shfl_xor_sync"));
}

template <typename T>
static inline T __shfl_down_sync(uint32_t mask, T value, unsigned delta,
                                 int width = 32, EMULATOR_HERE)
{
    int lane = emulator_lane(), source = lane + (int)delta;

    if (source >= (lane & ~(width - 1)) + width)
        source = lane;
    return emulator_exchange(mask, value, source,
                             EMULATOR_AT("__shfl_down_sync"));
}

template <typename T>
static inline T __shfl_up_sync(uint32_t mask, T value, unsigned delta,
                               int width = 32, EMULATOR_HERE)
{
    int lane = emulator_lane(), source = lane - (int)delta;

    if (source < (lane & ~(width - 1)))
        source = lane;
    return emulator_exchange(mask, value, source,
                             EMULATOR_AT("__shfl_up_sync"));
}

static inline void emulator_vote(void **lanes, uint32_t mask)
{
    uint32_t votes = 0;

    for (int i = 0; i < 32; i++)
        if (mask >> i & 1 && ((EmulatorExchange *)lanes[i])->value)
            votes |= 1u << i;
    for (int i = 0; i < 32; i++)
        if (mask >> i & 1)
            ((EmulatorExchange *)lanes[i])->result = votes;
}

static inline uint32_t __ballot_sync(uint32_t mask, int vote, EMULATOR_HERE)
{
    EmulatorExchange x = { vote != 0, 0, 0 };

    emulator_collective(emulator_vote, &x, mask,
                        EMULATOR_AT("__ballot_sync"));
    return (uint32_t)x.result;
}

static inline int __any_sync(uint32_t mask, int vote, EMULATOR_HERE)
{
    return __ballot_sync(mask, vote, file_, line_) != 0;
}

static inline int __all_sync(uint32_t mask, int vote, EMULATOR_HERE)
{
    return __ballot_sync(mask, vote, file_, line_) == mask;
}

/* ---- atomics: there is one thread at a time ---- */

template <typename T, typename U>
static inline T atomicAdd(T *p, U x)
{
    T old = *p;

    *p = (T)(old + (T)x);
    return old;
}

template <typename T, typename U>
static inline T atomicOr(T *p, U x)
{
    T old = *p;

    *p = old | (T)x;
    return old;
}

template <typename T, typename U>
static inline T atomicAnd(T *p, U x)
{
    T old = *p;

    *p = old & (T)x;
    return old;
}

template <typename T, typename U>
static inline T atomicMax(T *p, U x)
{
    T old = *p;

    *p = old > (T)x ? old : (T)x;
    return old;
}

template <typename T, typename U>
static inline T atomicMin(T *p, U x)
{
    T old = *p;

    *p = old < (T)x ? old : (T)x;
    return old;
}

template <typename T, typename U>
static inline T atomicExch(T *p, U x)
{
    T old = *p;

    *p = (T)x;
    return old;
}

template <typename T, typename U, typename V>
static inline T atomicCAS(T *p, U compare, V x)
{
    T old = *p;

    if (old == (T)compare)
        *p = (T)x;
    return old;
}

#include "emulated_math.h"

#endif /* CV_EMULATOR_H */
