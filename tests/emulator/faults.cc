/*
 * Calls of the emulated CUDA that fail, and what they leave.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#include <atomic>
#include <map>
#include <mutex>

#include "faults.h"
#include "streams.h"

static std::atomic<int64_t> calls, failing; /* 0: none */
static std::atomic<int> onwards;
static std::atomic<cudaError_t> failure;

static std::recursive_mutex lock;
static std::map<void *, void (*)(void *)> objects; /* and how they are freed */

void emulator_fail_call(int64_t n, cudaError_t error, int all)
{
    failing = n;
    failure = error;
    onwards = all;
    calls = 0;
}

int64_t emulator_calls(void)
{
    return calls;
}

int emulator_forget(void)
{
    std::lock_guard<std::recursive_mutex> guard(lock);
    int n = 0;

    for (; !objects.empty(); n++)
        objects.begin()->second(objects.begin()->first);
    return n;
}

cudaError_t emulator_fault(void)
{
    const int64_t call = ++calls;

    if (!failing || call < failing || (call > failing && !onwards))
        return cudaSuccess;
    return failure;
}

cudaError_t emulator_runtime_fault(void)
{
    const cudaError_t fault = emulator_fault();

    return fault ? emulator_failed(fault) : cudaSuccess;
}

int emulator_is_broken(void)
{
    return failing && onwards && calls >= failing;
}

void emulator_made(void *object, void (*free)(void *))
{
    std::lock_guard<std::recursive_mutex> guard(lock);

    objects[object] = free;
}

void emulator_freed(void *object)
{
    std::lock_guard<std::recursive_mutex> guard(lock);

    objects.erase(object);
}
