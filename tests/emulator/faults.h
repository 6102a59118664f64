/*
 * Calls of the emulated CUDA that fail, and what they leave.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * Counted are launches and calls of the runtime and of cuBLASLt, but those that
 * free something.
 */
#ifndef CV_EMULATOR_FAULTS_H
#define CV_EMULATOR_FAULTS_H

#include <stddef.h>
#include <stdint.h>

#include "cuda_runtime.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- for tests ---- */

/* Count anew. The n-th call will fail; 0: none. onwards: as of a device that
 * broke down, and so do all after it, and entering a context. */
void emulator_fail_call(int64_t n, cudaError_t error, int onwards);
int64_t emulator_calls(void);

/* Free all streams, events, blocks of memory and objects of cuBLASLt; how many
 * there were. */
int emulator_forget(void);

/* ---- for the emulator ---- */

/* What this call, which is counted, returns without doing anything; 0: it is
 * not the one. Of the runtime: also the thread's last error. */
cudaError_t emulator_fault(void);
cudaError_t emulator_runtime_fault(void);

/* At the beginning of a function of the runtime. */
#define EMULATOR_MAY_FAIL()                                                 \
    do {                                                                    \
        cudaError_t fault_ = emulator_runtime_fault();                      \
        if (fault_)                                                         \
            return fault_;                                                  \
    } while (0)

/* 1: the device broke down. */
int emulator_is_broken(void);

/* An object that is to be freed, and one that was. What the emulator allocates
 * for itself comes from `new`: malloc() may fail for the sake of a test. */
void emulator_made(void *object, void (*free)(void *));
void emulator_freed(void *object);

#ifdef __cplusplus
}
#endif

#endif /* CV_EMULATOR_FAULTS_H */
