/*
 * libcuda.so.1 without a GPU: what FFmpeg's CUDA frames ask of the driver.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * Two devices; contexts, memory and copies. Memory can only be touched while a
 * copy runs, or a kernel of the emulated backend in a context of ours, and ends
 * at a page that nobody may touch: who takes it for host memory, or draws in
 * another context, faults. All is done at once, so the order of streams is not
 * checked. A function that is not here ends the program, and so does what is
 * left when the library is closed.
 *
 * EMULATED_DRIVER_LOG=FILE: a line in it for each context that is made; of a
 * primary one for each that takes it, and its flags if FFmpeg does not want
 * them.
 * EMULATED_DEVICES=N: there are that many, at most two.
 * EMULATED_PRIMARY_FLAGS=N: somebody else uses the primary contexts already,
 * with these flags.
 */
#define _GNU_SOURCE /* MAP_ANONYMOUS */
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "libcuda.h"

#define API __attribute__((visibility("default")))

enum {
    N_DEVICES = 2,
    TEXTURE_ALIGNMENT = 512,
    GUARD = 64 << 10,
    MOST_CONTEXTS = 16, /* pushed by a thread */
    BLOCKING_SYNC = 4,  /* flag of a context */
};

/* Errors of the driver. */
enum {
    SUCCESS,
    INVALID_VALUE,
    OUT_OF_MEMORY,
    NO_DEVICE = 100,
    INVALID_DEVICE = 101,
    INVALID_CONTEXT = 201,
    PRIMARY_CONTEXT_ACTIVE = 708,
};

typedef struct Context {
    EmulatedContext base;
    unsigned flags;
    int references; /* of a primary one */
    int blocks;     /* of memory */
} Context;

typedef struct Block {
    struct Block *next;
    Context *context;
    uint8_t *data, *pages;
    size_t bytes, n_pages;
} Block;

API const int cv_emulated_driver = 1;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static Block *blocks;
static int touched;    /* how often memory was opened and not closed */
static int n_contexts; /* made by cuCtxCreate */
static int n_pushed;   /* by all threads */
static Context primary[N_DEVICES];
static int n_devices = N_DEVICES;

static _Thread_local Context *pushed[MOST_CONTEXTS];
static _Thread_local int depth;

__attribute__((format(printf, 1, 2), noreturn))
static void fail(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    fputs("emulated libcuda: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    abort();
}

__attribute__((format(printf, 1, 2)))
static void note(const char *format, ...)
{
    const char *path = getenv("EMULATED_DRIVER_LOG");
    FILE *f = path ? fopen(path, "a") : NULL;
    va_list args;

    if (!f)
        return;
    va_start(args, format);
    vfprintf(f, format, args);
    fputc('\n', f);
    va_end(args);
    fclose(f);
}

/* ---- memory that may be touched ---- */

static void protect(const Block *b, int open)
{
    if (mprotect(b->pages, b->n_pages,
                 open ? PROT_READ | PROT_WRITE : PROT_NONE))
        fail("mprotect failed");
}

static void touch(int open)
{
    pthread_mutex_lock(&lock);
    if (open ? !touched++ : !--touched)
        for (const Block *b = blocks; b; b = b->next)
            protect(b, open);
    pthread_mutex_unlock(&lock);
}

/* The block that [p, p + bytes) lies in. */
static const Block *find(const uint8_t *p, size_t bytes)
{
    for (const Block *b = blocks; b; b = b->next)
        if (p >= b->data && p < b->data + b->bytes &&
            bytes <= (size_t)(b->data + b->bytes - p))
            return b;
    return NULL;
}

/* ---- contexts ---- */

static void set_up(Context *c, int device, unsigned flags)
{
    *c = (Context){ .base = { EMULATED_CONTEXT, device, touch },
                    .flags = flags };
}

static Context *current(const char *function)
{
    if (!depth)
        fail("%s: no context is current", function);
    return pushed[depth - 1];
}

__attribute__((constructor))
static void begin(void)
{
    const char *flags = getenv("EMULATED_PRIMARY_FLAGS");
    const char *devices = getenv("EMULATED_DEVICES");

    if (devices && atoi(devices) < N_DEVICES)
        n_devices = atoi(devices);
    for (int i = 0; i < N_DEVICES; i++) {
        set_up(&primary[i], i, flags ? (unsigned)atoi(flags) : 0);
        primary[i].references = flags != NULL;
    }
}

__attribute__((destructor))
static void end(void)
{
    const int others = getenv("EMULATED_PRIMARY_FLAGS") != NULL;

    if (blocks)
        fail("memory is left");
    if (n_contexts)
        fail("%d contexts are left", n_contexts);
    if (n_pushed)
        fail("%d contexts were pushed and not popped", n_pushed);
    for (int i = 0; i < N_DEVICES; i++)
        if (primary[i].references != others)
            fail("the primary context of device %d is left", i);
}

API int cuInit(unsigned flags)
{
    return flags ? INVALID_VALUE : n_devices > 0 ? SUCCESS : NO_DEVICE;
}

API int cuDeviceGetCount(int *count)
{
    *count = n_devices;
    return SUCCESS;
}

API int cuDeviceGet(int *device, int ordinal)
{
    *device = ordinal;
    return ordinal >= 0 && ordinal < n_devices ? SUCCESS : INVALID_DEVICE;
}

API int cuDeviceGetAttribute(int *value, int attribute, int device)
{
    if (attribute != 14 || device < 0 || device >= N_DEVICES)
        fail("cuDeviceGetAttribute: attribute %d of device %d is not emulated",
             attribute, device);
    *value = TEXTURE_ALIGNMENT;
    return SUCCESS;
}

API int cuCtxPushCurrent_v2(Context *c)
{
    if (!c || c->base.magic != EMULATED_CONTEXT)
        fail("cuCtxPushCurrent: %p is no context", (void *)c);
    if (depth == MOST_CONTEXTS)
        fail("cuCtxPushCurrent: %d contexts are pushed", depth);
    pushed[depth++] = c;
    __atomic_add_fetch(&n_pushed, 1, __ATOMIC_RELAXED);
    return SUCCESS;
}

API int cuCtxPopCurrent_v2(Context **c)
{
    Context *top = current("cuCtxPopCurrent");

    depth--;
    __atomic_sub_fetch(&n_pushed, 1, __ATOMIC_RELAXED);
    if (c)
        *c = top;
    return SUCCESS;
}

API int cuCtxGetCurrent(Context **c)
{
    *c = depth ? pushed[depth - 1] : NULL;
    return SUCCESS;
}

API int cuCtxGetDevice(int *device)
{
    *device = depth ? pushed[depth - 1]->base.device : -1;
    return depth ? SUCCESS : INVALID_CONTEXT;
}

API int cuCtxCreate_v2(Context **c, unsigned flags, int device)
{
    if (device < 0 || device >= N_DEVICES)
        return INVALID_DEVICE;
    if (!(*c = malloc(sizeof(**c))))
        return OUT_OF_MEMORY;
    set_up(*c, device, flags);
    __atomic_add_fetch(&n_contexts, 1, __ATOMIC_RELAXED);
    note("a context of device %d", device);
    return cuCtxPushCurrent_v2(*c);
}

API int cuCtxDestroy_v2(Context *c)
{
    if (!c || c->base.magic != EMULATED_CONTEXT)
        fail("cuCtxDestroy: %p is no context", (void *)c);
    if (c->blocks)
        fail("cuCtxDestroy: %d blocks of memory are left", c->blocks);
    *(volatile uint32_t *)&c->base.magic = 0; /* for who has kept it */
    free(c);
    __atomic_sub_fetch(&n_contexts, 1, __ATOMIC_RELAXED);
    return SUCCESS;
}

static Context *primary_of(int device)
{
    if (device < 0 || device >= N_DEVICES)
        fail("there is no device %d", device);
    return &primary[device];
}

API int cuDevicePrimaryCtxGetState(int device, unsigned *flags, int *active)
{
    const Context *c = primary_of(device);

    *flags  = c->flags;
    *active = c->references > 0;
    return SUCCESS;
}

API int cuDevicePrimaryCtxSetFlags(int device, unsigned flags)
{
    Context *c = primary_of(device);

    if (c->references && c->flags != flags)
        return PRIMARY_CONTEXT_ACTIVE;
    c->flags = flags;
    return SUCCESS;
}

API int cuDevicePrimaryCtxRetain(Context **c, int device)
{
    *c = primary_of(device);
    (*c)->references++;
    if ((*c)->flags == BLOCKING_SYNC)
        note("the primary context of device %d", device);
    else
        note("the primary context of device %d with flags %u", device,
             (*c)->flags);
    return SUCCESS;
}

API int cuDevicePrimaryCtxRelease_v2(int device)
{
    Context *c = primary_of(device);

    if (!c->references)
        return INVALID_CONTEXT;
    if (!--c->references && c->blocks)
        fail("cuDevicePrimaryCtxRelease: %d blocks of memory are left",
             c->blocks);
    return SUCCESS;
}

API int cuDevicePrimaryCtxRelease(int device)
{
    return cuDevicePrimaryCtxRelease_v2(device);
}

/* ---- memory and copies ---- */

/* The data ends where the guard begins and holds 0xff at first. */
API int cuMemAlloc_v2(unsigned long long *address, size_t bytes)
{
    Context *c = current("cuMemAlloc");
    Block *b = calloc(1, sizeof(*b));

    if (!bytes || bytes > SIZE_MAX / 2)
        fail("cuMemAlloc: %zu bytes", bytes);
    if (!b)
        return OUT_OF_MEMORY;
    b->context = c;
    b->bytes   = (bytes + TEXTURE_ALIGNMENT - 1) / TEXTURE_ALIGNMENT *
                 TEXTURE_ALIGNMENT;
    b->n_pages = (b->bytes + GUARD - 1) / GUARD * GUARD;
    b->pages   = mmap(NULL, b->n_pages + GUARD, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (b->pages == MAP_FAILED) {
        free(b);
        return OUT_OF_MEMORY;
    }
    if (mprotect(b->pages + b->n_pages, GUARD, PROT_NONE))
        fail("mprotect failed");
    b->data = b->pages + b->n_pages - b->bytes;
    memset(b->data, 0xff, b->bytes);
    pthread_mutex_lock(&lock);
    if (!touched)
        protect(b, 0);
    b->next = blocks;
    blocks  = b;
    c->blocks++;
    pthread_mutex_unlock(&lock);
    *address = (uintptr_t)b->data;
    return SUCCESS;
}

API int cuMemFree_v2(unsigned long long address)
{
    Context *c = current("cuMemFree");
    Block *b, **at;

    pthread_mutex_lock(&lock);
    for (at = &blocks; (b = *at); at = &b->next)
        if ((uintptr_t)b->data == address)
            break;
    if (!b || b->context != c)
        fail("cuMemFree: %llx is not of this context", address);
    *at = b->next;
    c->blocks--;
    pthread_mutex_unlock(&lock);
    munmap(b->pages, b->n_pages + GUARD);
    free(b);
    return SUCCESS;
}

/* As in cuda.h: of 64 bits. */
typedef struct Copy2D {
    size_t src_x, src_y;
    int src_type;
    const void *src_host;
    unsigned long long src_device;
    void *src_array;
    size_t src_pitch;
    size_t dst_x, dst_y;
    int dst_type;
    void *dst_host;
    unsigned long long dst_device;
    void *dst_array;
    size_t dst_pitch, width, height;
} Copy2D;

enum { HOST = 1, DEVICE };

static uint8_t *side(int type, const void *host, unsigned long long device,
                     size_t bytes, const char *name)
{
    uint8_t *p = type == HOST ? (uint8_t *)(uintptr_t)host
                              : (uint8_t *)(uintptr_t)device;
    const Block *b;

    pthread_mutex_lock(&lock);
    b = find(p, type == HOST ? 1 : bytes);
    pthread_mutex_unlock(&lock);
    if (type != HOST && type != DEVICE)
        fail("cuMemcpy2DAsync: memory of type %d", type);
    if (!b != (type == HOST))
        fail("cuMemcpy2DAsync: the %s is not %zu bytes of the %s", name, bytes,
             type == HOST ? "host" : "device");
    return p;
}

API int cuMemcpy2DAsync_v2(const Copy2D *c, void *stream)
{
    uint8_t *dst;
    const uint8_t *src;

    current("cuMemcpy2DAsync");
    if (stream)
        fail("cuMemcpy2DAsync: there is no stream %p", stream);
    if (!c->width || !c->height)
        return SUCCESS;
    if (c->src_x || c->src_y || c->dst_x || c->dst_y)
        fail("cuMemcpy2DAsync: offsets are not emulated");
    if (c->width > c->src_pitch || c->width > c->dst_pitch)
        return INVALID_VALUE;
    src = side(c->src_type, c->src_host, c->src_device,
               c->src_pitch * (c->height - 1) + c->width, "source");
    dst = side(c->dst_type, c->dst_host, c->dst_device,
               c->dst_pitch * (c->height - 1) + c->width, "destination");
    touch(1);
    for (size_t y = 0; y < c->height; y++)
        memcpy(dst + y * c->dst_pitch, src + y * c->src_pitch, c->width);
    touch(0);
    return SUCCESS;
}

API int cuStreamSynchronize(void *stream)
{
    if (stream)
        fail("cuStreamSynchronize: there is no stream %p", stream);
    return SUCCESS;
}

/* ---- errors ---- */

API int cuGetErrorName(int error, const char **name)
{
    *name = error == INVALID_DEVICE ? "CUDA_ERROR_INVALID_DEVICE" :
            error == NO_DEVICE ? "CUDA_ERROR_NO_DEVICE" :
            error == OUT_OF_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY" :
            error == INVALID_CONTEXT ? "CUDA_ERROR_INVALID_CONTEXT" :
            error == PRIMARY_CONTEXT_ACTIVE ?
            "CUDA_ERROR_PRIMARY_CONTEXT_ACTIVE" : "CUDA_ERROR_INVALID_VALUE";
    return SUCCESS;
}

API int cuGetErrorString(int error, const char **text)
{
    *text = error == INVALID_DEVICE ? "invalid device ordinal" :
            error == NO_DEVICE ? "no CUDA-capable device is detected" :
            error == OUT_OF_MEMORY ? "out of memory" :
            error == INVALID_CONTEXT ? "invalid device context" :
            error == PRIMARY_CONTEXT_ACTIVE ? "primary context is active" :
            "invalid argument";
    return SUCCESS;
}

/* ---- what FFmpeg looks for and does not call here ---- */

#define ABSENT(name)                                    \
    API int name(void)                                  \
    {                                                   \
        fail("%s is not emulated", #name);              \
    }

ABSENT(cuDriverGetVersion)
ABSENT(cuDeviceGetName)
ABSENT(cuDeviceComputeCapability)
ABSENT(cuDevicePrimaryCtxReset)
ABSENT(cuCtxSetLimit)
ABSENT(cuMemAllocPitch_v2)
ABSENT(cuMemAllocManaged)
ABSENT(cuMemsetD8Async)
ABSENT(cuMemcpy)
ABSENT(cuMemcpyAsync)
ABSENT(cuMemcpy2D_v2)
ABSENT(cuMemcpyHtoD_v2)
ABSENT(cuMemcpyHtoDAsync_v2)
ABSENT(cuMemcpyDtoH_v2)
ABSENT(cuMemcpyDtoHAsync_v2)
ABSENT(cuMemcpyDtoD_v2)
ABSENT(cuMemcpyDtoDAsync_v2)
ABSENT(cuStreamCreate)
ABSENT(cuStreamQuery)
ABSENT(cuStreamDestroy_v2)
ABSENT(cuStreamAddCallback)
ABSENT(cuStreamWaitEvent)
ABSENT(cuEventCreate)
ABSENT(cuEventDestroy_v2)
ABSENT(cuEventSynchronize)
ABSENT(cuEventQuery)
ABSENT(cuEventRecord)
ABSENT(cuLaunchKernel)
ABSENT(cuLinkCreate)
ABSENT(cuLinkAddData)
ABSENT(cuLinkComplete)
ABSENT(cuLinkDestroy)
ABSENT(cuModuleLoadData)
ABSENT(cuModuleUnload)
ABSENT(cuModuleGetFunction)
ABSENT(cuModuleGetGlobal)
ABSENT(cuTexObjectCreate)
ABSENT(cuTexObjectDestroy)
ABSENT(cuGLGetDevices_v2)
ABSENT(cuGraphicsGLRegisterImage)
ABSENT(cuGraphicsUnregisterResource)
ABSENT(cuGraphicsMapResources)
ABSENT(cuGraphicsUnmapResources)
ABSENT(cuGraphicsSubResourceGetMappedArray)
ABSENT(cuGraphicsResourceGetMappedPointer_v2)
ABSENT(cuArrayCreate_v2)
ABSENT(cuArray3DCreate_v2)
ABSENT(cuArrayDestroy)
