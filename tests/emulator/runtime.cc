/*
 * The CUDA runtime without a GPU: memory, streams, events, one device.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * Device memory ends at a page that nobody may touch and holds NaNs at first.
 * Small allocations can only be touched while a kernel or a copy runs, so
 * that host code which takes a device address for its own faults here too.
 */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <vector>

#include "device_memory.h"
#include "emulator.h"
#include "faults.h"
#include "libcuda.h"
#include "streams.h"

enum {
    GUARD = 64 << 10,
    ALIGNMENT = 256,
    CANARY = 0xa5,
    PROTECTED = 4 << 20, /* opening and closing more takes too long */
};
/* EMULATED_MEMORY=N: megabytes of the device. */
static size_t device_bytes(void)
{
    const char *megabytes = getenv("EMULATED_MEMORY");

    return megabytes ? (size_t)atoi(megabytes) * 1000000 : (size_t)8 << 30;
}

struct Allocation {
    size_t bytes, slack, pages; /* data, canaries after it, both and more */
};

static std::recursive_mutex lock;
static std::map<uint8_t *, Allocation> allocations; /* by address of data */
static std::map<uint8_t *, size_t> pinned; /* host memory */
static size_t used;
static int entered;
static int capability; /* 0: from the environment */

struct Locked {
    std::lock_guard<std::recursive_mutex> guard;
    Locked() : guard(lock) {}
};

static size_t round_up(size_t n, size_t to)
{
    return (n + to - 1) / to * to;
}

static void protect(uint8_t *data, const Allocation &a, int open)
{
    if (a.bytes <= PROTECTED &&
        mprotect(data + a.bytes + a.slack - a.pages, a.pages,
                 open ? PROT_READ | PROT_WRITE : PROT_NONE))
        emulator_fail("mprotect failed");
}

/* Contexts of this thread; the last one is current. */
static thread_local EmulatedContext *contexts[16];
static thread_local int n_contexts;

/* Memory that came with a context of the caller's: see libcuda.h. */
static void touch_callers_memory(int open)
{
    if (n_contexts && contexts[n_contexts - 1]->touch)
        contexts[n_contexts - 1]->touch(open);
}

void emulator_enter(void)
{
    Locked locked;

    touch_callers_memory(1);
    if (!entered++)
        for (const auto &i : allocations)
            protect(i.first, i.second, 1);
}

void emulator_leave(void)
{
    Locked locked;

    if (!--entered)
        for (const auto &i : allocations)
            protect(i.first, i.second, 0);
    touch_callers_memory(0);
}

EmulatedContext *emulator_context(void)
{
    return n_contexts ? contexts[n_contexts - 1] : NULL;
}

void emulator_with_context(EmulatedContext *context,
                           const std::function<void()> &work)
{
    if (n_contexts == 16)
        emulator_fail("16 contexts are pushed");
    if (context)
        contexts[n_contexts++] = context;
    work();
    n_contexts -= context != NULL;
}

struct Entered {
    Entered() { emulator_enter(); }
    ~Entered() { emulator_leave(); }
};

/* The allocation that p lies in or just behind, or the end. */
static std::map<uint8_t *, Allocation>::iterator find(const void *p)
{
    auto i = allocations.upper_bound((uint8_t *)p);

    if (i == allocations.begin())
        return allocations.end();
    --i;
    return (uint8_t *)p < i->first + i->second.bytes + i->second.slack + GUARD
        ? i : allocations.end();
}

void emulator_describe_address(char *text, size_t bytes, const void *p)
{
    /* A fault while the lock is held by this thread comes here too. */
    auto i = find(p);
    auto next = allocations.upper_bound((uint8_t *)p);

    if (i != allocations.end()) {
        size_t at = (size_t)((uint8_t *)p - i->first);

        if (at < i->second.bytes)
            snprintf(text, bytes, "device memory, byte %zu of %zu", at,
                     i->second.bytes);
        else
            snprintf(text, bytes, "%zu bytes after %zu bytes of device "
                     "memory", at - i->second.bytes, i->second.bytes);
    } else if (next != allocations.end() &&
               next->first - (uint8_t *)p <= 2 * GUARD) {
        snprintf(text, bytes, "%td bytes before %zu bytes of device memory",
                 next->first - (uint8_t *)p, next->second.bytes);
    } else {
        snprintf(text, bytes, "no device memory is near");
    }
}

extern "C" {

int emulator_is_device_memory(const void *p)
{
    Locked locked;
    auto i = find(p);

    return i != allocations.end() &&
           (uint8_t *)p < i->first + i->second.bytes;
}

/* ---- memory ---- */

cudaError_t cudaMalloc(void **data, size_t bytes)
{
    EMULATOR_MAY_FAIL();
    Locked locked;
    Allocation a;
    uint8_t *memory;

    emulator_catch_faults();
    *data = NULL;
    if (!bytes)
        return cudaSuccess;
    if (used > device_bytes() || bytes > device_bytes() - used)
        return cudaErrorMemoryAllocation;
    a.bytes = bytes;
    a.slack = round_up(bytes, ALIGNMENT) - bytes;
    a.pages = round_up(bytes, GUARD);
    memory = (uint8_t *)mmap(NULL, a.pages + 2 * GUARD,
                             PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1,
                             0);
    if (memory == MAP_FAILED)
        return cudaErrorMemoryAllocation;
    if (mprotect(memory, GUARD, PROT_NONE) ||
        mprotect(memory + GUARD + a.pages, GUARD, PROT_NONE))
        emulator_fail("mprotect failed");
    memory += GUARD + a.pages - a.bytes - a.slack;
    memset(memory, 0xff, bytes);
    memset(memory + bytes, CANARY, a.slack);
    used += bytes;
    allocations[memory] = a;
    if (!entered)
        protect(memory, a, 0);
    *data = memory;
    emulator_made(memory, [](void *p) { cudaFree(p); });
    return cudaSuccess;
}

cudaError_t cudaFree(void *data)
{
    emulator_drain();

    Locked locked;
    auto i = allocations.find((uint8_t *)data);

    if (!data)
        return cudaSuccess;
    if (i == allocations.end())
        emulator_fail("cudaFree: %p is not from cudaMalloc", data);

    Allocation a = i->second;

    protect(i->first, a, 1);
    for (size_t j = 0; j < a.slack; j++)
        if (i->first[a.bytes + j] != CANARY)
            emulator_fail("byte %zu of %zu bytes of device memory was "
                          "written", a.bytes + j, a.bytes);
    munmap(i->first + a.bytes + a.slack - a.pages - GUARD,
           a.pages + 2 * GUARD);
    used -= a.bytes;
    emulator_freed(data);
    allocations.erase(i);
    return cudaSuccess;
}

cudaError_t cudaMallocAsync(void **data, size_t bytes, cudaStream_t)
{
    return cudaMalloc(data, bytes);
}

cudaError_t cudaFreeAsync(void *data, cudaStream_t)
{
    return cudaFree(data);
}

cudaError_t cudaMallocHost(void **data, size_t bytes)
{
    EMULATOR_MAY_FAIL();
    Locked locked;

    *data = operator new(bytes, std::nothrow);
    if (!*data)
        return cudaErrorMemoryAllocation;
    emulator_made(*data, [](void *p) { cudaFreeHost(p); });
    pinned[(uint8_t *)*data] = bytes;
    return cudaSuccess;
}

cudaError_t cudaHostAlloc(void **data, size_t bytes, unsigned)
{
    return cudaMallocHost(data, bytes);
}

cudaError_t cudaFreeHost(void *data)
{
    emulator_drain();

    Locked locked;

    pinned.erase((uint8_t *)data);
    emulator_freed(data);
    operator delete(data);
    return cudaSuccess;
}

/* Memory that copies of a stream may reach while its owner does other things. */
static bool is_pinned(const void *p)
{
    Locked locked;
    auto i = pinned.upper_bound((uint8_t *)p);

    if (i == pinned.begin())
        return false;
    --i;
    return (uint8_t *)p < i->first + i->second;
}

static void check_side(const char *call, const char *which, const void *p,
                       size_t bytes, int device)
{
    Locked locked;
    auto i = find(p);

    if (!device) {
        if (i != allocations.end())
            emulator_fail("%s: the %s is device memory, the call says "
                          "host memory", call, which);
        return;
    }
    if (i == allocations.end())
        emulator_fail("%s: the %s is not device memory", call, which);
    if ((size_t)((uint8_t *)p - i->first) > i->second.bytes ||
        bytes > i->second.bytes - (size_t)((uint8_t *)p - i->first))
        emulator_fail("%s: the %s passes the end of %zu bytes of device "
                      "memory", call, which, i->second.bytes);
}

static cudaError_t copy(const char *call, void *dst, size_t dst_pitch,
                        const void *src, size_t src_pitch, size_t width,
                        size_t height, enum cudaMemcpyKind kind,
                        cudaStream_t stream)
{
    std::shared_ptr<std::vector<uint8_t>> kept;
    const size_t bytes = src_pitch * (height - 1) + width;

    if (!width || !height)
        return cudaSuccess;
    if (width > dst_pitch || width > src_pitch)
        return cudaErrorInvalidValue;
    if (kind != cudaMemcpyDefault) {
        check_side(call, "destination", dst,
                   dst_pitch * (height - 1) + width,
                   kind == cudaMemcpyHostToDevice ||
                   kind == cudaMemcpyDeviceToDevice);
        check_side(call, "source", src, bytes,
                   kind == cudaMemcpyDeviceToHost ||
                   kind == cudaMemcpyDeviceToDevice);
    }
    if (kind != cudaMemcpyDeviceToDevice && emulator_is_captured(stream))
        emulator_fail("%s: between host and device, on a stream that is "
                      "captured: whenever its graph is launched", call);
    if (kind == cudaMemcpyHostToDevice && !is_pinned(src)) {
        /* it may be written again when the call returns */
        kept = std::make_shared<std::vector<uint8_t>>(
            (const uint8_t *)src, (const uint8_t *)src + bytes);
        src  = kept->data();
    }
    emulator_do(stream, [=] {
        Entered inside;

        (void)kept;
        for (size_t i = 0; i < height; i++)
            memmove((uint8_t *)dst + i * dst_pitch,
                    (const uint8_t *)src + i * src_pitch, width);
    });
    if (kind == cudaMemcpyDeviceToHost && !is_pinned(dst))
        return cudaStreamSynchronize(stream);
    return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t bytes,
                            enum cudaMemcpyKind kind, cudaStream_t stream)
{
    EMULATOR_MAY_FAIL();
    return copy("cudaMemcpyAsync", dst, bytes, src, bytes, bytes, 1, kind,
                stream);
}

cudaError_t cudaMemcpy2DAsync(void *dst, size_t dst_pitch, const void *src,
                              size_t src_pitch, size_t width, size_t height,
                              enum cudaMemcpyKind kind, cudaStream_t stream)
{
    EMULATOR_MAY_FAIL();
    return copy("cudaMemcpy2DAsync", dst, dst_pitch, src, src_pitch, width,
                height, kind, stream);
}

cudaError_t cudaMemcpy(void *dst, const void *src, size_t bytes,
                       enum cudaMemcpyKind kind)
{
    cudaError_t error = cudaMemcpyAsync(dst, src, bytes, kind, NULL);

    return error ? error : cudaStreamSynchronize(NULL);
}

cudaError_t cudaMemcpy2D(void *dst, size_t dst_pitch, const void *src,
                         size_t src_pitch, size_t width, size_t height,
                         enum cudaMemcpyKind kind)
{
    cudaError_t error = cudaMemcpy2DAsync(dst, dst_pitch, src, src_pitch,
                                          width, height, kind, NULL);

    return error ? error : cudaStreamSynchronize(NULL);
}

cudaError_t cudaMemsetAsync(void *data, int value, size_t bytes,
                            cudaStream_t stream)
{
    EMULATOR_MAY_FAIL();
    if (!bytes)
        return cudaSuccess;
    check_side("cudaMemset", "destination", data, bytes, 1);
    emulator_do(stream, [=] {
        Entered inside;

        memset(data, value, bytes);
    });
    return cudaSuccess;
}

cudaError_t cudaMemset(void *data, int value, size_t bytes)
{
    cudaError_t error = cudaMemsetAsync(data, value, bytes, NULL);

    return error ? error : cudaStreamSynchronize(NULL);
}

/* ---- the device ---- */

cudaError_t cudaGetDeviceCount(int *count)
{
    EMULATOR_MAY_FAIL();
    const char *devices = getenv("EMULATED_DEVICES"); /* as in libcuda.c */

    *count = devices && !atoi(devices) ? 0 : 1;
    return *count ? cudaSuccess : cudaErrorNoDevice;
}

cudaError_t cudaGetDevice(int *device)
{
    EMULATOR_MAY_FAIL();
    *device = 0;
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int device)
{
    return device ? cudaErrorInvalidDevice : cudaSuccess;
}

cudaError_t cudaInitDevice(int device, unsigned, unsigned)
{
    return cudaSetDevice(device);
}

void emulator_set_capability(int to)
{
    capability = to;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp *prop, int device)
{
    EMULATOR_MAY_FAIL();
    const char *wanted = getenv("EMULATED_CAPABILITY");
    int is = capability ? capability : wanted ? atoi(wanted) : 80;

    if (device)
        return cudaErrorInvalidDevice;
    memset(prop, 0, sizeof(*prop));
    strcpy(prop->name, "emulated");
    prop->totalGlobalMem = device_bytes();
    prop->sharedMemPerBlock = 48 << 10;
    prop->sharedMemPerBlockOptin = (is >= 90 ? 227 : 163) << 10;
    prop->sharedMemPerMultiprocessor = prop->sharedMemPerBlockOptin + 1024;
    prop->regsPerBlock = 65536;
    prop->warpSize = 32;
    prop->maxThreadsPerBlock = 1024;
    prop->maxThreadsPerMultiProcessor = 2048;
    prop->multiProcessorCount = 4;
    prop->major = is / 10;
    prop->minor = is % 10;
    prop->l2CacheSize = 40 << 20;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attribute,
                                   int device)
{
    cudaDeviceProp prop;
    cudaError_t error = cudaGetDeviceProperties(&prop, device);

    if (error)
        return error;
    switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock:
        *value = prop.maxThreadsPerBlock;
        return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlock:
        *value = (int)prop.sharedMemPerBlock;
        return cudaSuccess;
    case cudaDevAttrWarpSize:
        *value = prop.warpSize;
        return cudaSuccess;
    case cudaDevAttrMultiProcessorCount:
        *value = prop.multiProcessorCount;
        return cudaSuccess;
    case cudaDevAttrL2CacheSize:
        *value = prop.l2CacheSize;
        return cudaSuccess;
    case cudaDevAttrComputeCapabilityMajor:
        *value = prop.major;
        return cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor:
        *value = prop.minor;
        return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
        *value = (int)prop.sharedMemPerMultiprocessor;
        return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
        *value = (int)prop.sharedMemPerBlockOptin;
        return cudaSuccess;
    }
    return cudaErrorInvalidValue;
}

cudaError_t cudaDeviceSynchronize(void)
{
    emulator_drain();
    return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *available, size_t *total)
{
    EMULATOR_MAY_FAIL();
    Locked locked;

    *available = used < device_bytes() ? device_bytes() - used : 0;
    *total = device_bytes();
    return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int *version)
{
    EMULATOR_MAY_FAIL();
    *version = CUDART_VERSION;
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *version)
{
    *version = CUDART_VERSION;
    return cudaSuccess;
}

/* ---- the driver: contexts are remembered, nothing more ---- */

static int push_current(void *pointer)
{
    EmulatedContext *context = (EmulatedContext *)pointer;

    if (!context || context->magic != EMULATED_CONTEXT)
        emulator_fail("cuCtxPushCurrent: %p is no context", pointer);
    if (n_contexts == 16)
        emulator_fail("cuCtxPushCurrent: 16 contexts are pushed");
    if (emulator_is_broken())
        return 719; /* CUDA_ERROR_LAUNCH_FAILED */
    contexts[n_contexts++] = context;
    return 0;
}

static int pop_current(void **context)
{
    if (!n_contexts)
        return 201; /* CUDA_ERROR_INVALID_CONTEXT */
    n_contexts--;
    if (context)
        *context = contexts[n_contexts];
    return 0;
}

static int get_current(void **context)
{
    *context = n_contexts ? contexts[n_contexts - 1] : NULL;
    return 0;
}

static int set_current(void *context)
{
    if (n_contexts)
        n_contexts--;
    return context ? push_current(context) : 0;
}

static int context_device(int *device)
{
    *device = 0;
    return n_contexts ? 0 : 201;
}

/* The primary context where libcuda.c, which has some of its own, is not. */
static std::atomic<unsigned> primary_flags;
static std::atomic<int> primary_references;

static int retain_primary(void **context, int device)
{
    static EmulatedContext primary = { EMULATED_CONTEXT, 0, NULL };

    *context = &primary;
    primary_references += !device;
    return device ? 101 : 0;
}

static int release_primary(int device)
{
    primary_references -= !device;
    return device ? 101 : 0;
}

static int primary_state(int device, unsigned *flags, int *active)
{
    *flags  = primary_flags;
    *active = primary_references > 0;
    return device ? 101 : 0;
}

static int set_primary_flags(int device, unsigned flags)
{
    if (!device)
        primary_flags = flags;
    return device ? 101 : 0;
}

/* A function of libcuda.c where the system's loader finds that one, as it does
 * under FFmpeg: then the primary contexts are shared, as on a GPU. */
static void *driver_function(const char *name)
{
    static void *driver = dlopen("libcuda.so.1", RTLD_LAZY);

    if (!driver || !dlsym(driver, EMULATED_DRIVER))
        return NULL;
    return dlsym(driver, name);
}

cudaError_t cudaGetDriverEntryPointByVersion(
    const char *symbol, void **function, unsigned, unsigned long long,
    enum cudaDriverEntryPointQueryResult *status)
{
    EMULATOR_MAY_FAIL();
    static const struct {
        const char *name;
        void *function;
        bool shared; /* with libcuda.c */
    } functions[] = {
        { "cuCtxPushCurrent", (void *)push_current, false },
        { "cuCtxPopCurrent", (void *)pop_current, false },
        { "cuCtxGetCurrent", (void *)get_current, false },
        { "cuCtxSetCurrent", (void *)set_current, false },
        { "cuCtxGetDevice", (void *)context_device, false },
        { "cuDevicePrimaryCtxRetain", (void *)retain_primary, true },
        { "cuDevicePrimaryCtxRelease", (void *)release_primary, true },
        { "cuDevicePrimaryCtxGetState", (void *)primary_state, true },
        { "cuDevicePrimaryCtxSetFlags", (void *)set_primary_flags, true },
    };

    *function = NULL;
    if (status)
        *status = cudaDriverEntryPointSymbolNotFound;
    for (const auto &f : functions)
        if (!strcmp(f.name, symbol)) {
            void *driver = f.shared ? driver_function(symbol) : NULL;

            *function = driver ? driver : f.function;
            if (status)
                *status = cudaDriverEntryPointSuccess;
        }
    return cudaSuccess;
}

cudaError_t cudaGetDriverEntryPoint(
    const char *symbol, void **function, unsigned long long flags,
    enum cudaDriverEntryPointQueryResult *status)
{
    return cudaGetDriverEntryPointByVersion(symbol, function, CUDART_VERSION,
                                            flags, status);
}

/* ---- errors ---- */

static const struct {
    cudaError_t error;
    const char *name, *text;
} errors[] = {
    { cudaSuccess, "cudaSuccess", "no error" },
    { cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument" },
    { cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation",
      "out of memory" },
    { cudaErrorInvalidDevice, "cudaErrorInvalidDevice",
      "invalid device ordinal" },
    { cudaErrorInvalidResourceHandle, "cudaErrorInvalidResourceHandle",
      "invalid resource handle" },
    { cudaErrorNotReady, "cudaErrorNotReady", "device not ready" },
};

/* Of this thread, until somebody asks: what a launch would take for its own. */
static thread_local cudaError_t last_error;

cudaError_t emulator_failed(cudaError_t error)
{
    return last_error = error;
}

const char *cudaGetErrorName(cudaError_t error)
{
    for (const auto &e : errors)
        if (e.error == error)
            return e.name;
    return "cudaErrorUnknown";
}

const char *cudaGetErrorString(cudaError_t error)
{
    for (const auto &e : errors)
        if (e.error == error)
            return e.text;
    return "unknown error";
}

cudaError_t cudaGetLastError(void)
{
    cudaError_t error = last_error;

    last_error = cudaSuccess;
    return error;
}

cudaError_t cudaPeekAtLastError(void)
{
    return last_error;
}

} /* extern "C" */
