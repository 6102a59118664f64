/*
 * What the files of the runtime know of its streams.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#ifndef CV_EMULATOR_STREAMS_H
#define CV_EMULATOR_STREAMS_H

#include <functional>

#include "cuda_runtime.h"
#include "libcuda.h"

/* Do the work when its turn in the stream has come: at once, or, with
 * EMULATED_STREAMS in the environment, later. */
void emulator_do(cudaStream_t stream, std::function<void()> work);

/* Is its work kept for a graph? */
bool emulator_is_captured(cudaStream_t stream);

/* Do all that is left, of all streams. */
void emulator_drain(void);

/* runtime.cc: this thread's context, and work under another thread's. */
EmulatedContext *emulator_context(void);
void emulator_with_context(EmulatedContext *context,
                           const std::function<void()> &work);

/* runtime.cc: keep the error for cudaGetLastError(). */
extern "C" cudaError_t emulator_failed(cudaError_t error);

#endif /* CV_EMULATOR_STREAMS_H */
