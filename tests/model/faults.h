/*
 * Functions of the system that fail when they are told to, and what they gave
 * and did not get back.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * For the one program that is linked with --wrap for each of them and with the
 * emulated CUDA backend, which is the module that dlopen() finds. Include after
 * tap.h.
 */
#ifndef CV_TESTS_FAULTS_H
#define CV_TESTS_FAULTS_H

#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "device.h"

/* Of the emulated backend. */
int cv_cuda_open(CvBackend **backend, const CvCudaSettings *settings,
                 char why[CV_WHY_SIZE], CvLog *log);

/* ---- what fails ---- */

typedef enum Kind { MEMORY, FILES, THREADS, CUDA, CUDA_MEMORY, KINDS } Kind;

static const char *const kind_names[KINDS] = {
    "memory", "files", "threads", "cuda", "cuda-memory"
};

/* Of the run that is under way; the lock guards all. */
static struct {
    Kind kind;      /* what fails */
    long n;         /* the n-th of them, */
    int onwards;    /* and all after it */
    long seen;      /* of that kind; of CUDA's the emulator keeps count */
    int on;
} fault;

/* What was taken and not given back. */
#define MOST (1 << 16)

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct {
    void *what;  /* NULL: none ever; GONE: given back */
    void *where; /* who took it */
} taken[MOST];
static char gone;
static int n_taken, n_threads;

/* Does this call fail? */
static int fails(Kind kind)
{
    int yes;

    pthread_mutex_lock(&lock);
    yes = fault.on && fault.kind == kind &&
          (++fault.seen == fault.n || (fault.onwards && fault.seen > fault.n));
    pthread_mutex_unlock(&lock);
    return yes;
}

static size_t place(const void *p)
{
    return (size_t)((uintptr_t)p >> 4) * 0x9e3779b1u % MOST;
}

static void *take(void *p, void *where)
{
    size_t i = place(p);

    if (!p)
        return p;
    pthread_mutex_lock(&lock);
    if (fault.on) {
        while (taken[i].what && taken[i].what != &gone)
            i = (i + 1) % MOST;
        taken[i].what  = p;
        taken[i].where = where;
        if (++n_taken == MOST / 2)
            abort();
    }
    pthread_mutex_unlock(&lock);
    return p;
}

static void give(const void *p)
{
    pthread_mutex_lock(&lock);
    for (size_t i = place(p); p && taken[i].what; i = (i + 1) % MOST)
        if (taken[i].what == p) {
            taken[i].what = &gone;
            n_taken--;
            break;
        }
    pthread_mutex_unlock(&lock);
}

/* ---- the functions ---- */

#define HERE __builtin_return_address(0)
#define WRAP(type, name, ...)                                                 \
    type __real_##name(__VA_ARGS__);                                          \
    type __wrap_##name(__VA_ARGS__);                                          \
    type __wrap_##name(__VA_ARGS__)

/* Without memory; errno as malloc() sets it. */
static int no_memory(void)
{
    if (!fails(MEMORY))
        return 0;
    errno = ENOMEM;
    return 1;
}

static int no_file(void)
{
    if (!fails(FILES))
        return 0;
    errno = EIO;
    return 1;
}

WRAP(void, free, void *p)
{
    give(p);
    __real_free(p);
}

WRAP(void *, malloc, size_t n)
{
    return no_memory() ? NULL : take(__real_malloc(n), HERE);
}

WRAP(void *, calloc, size_t n, size_t each)
{
    return no_memory() ? NULL : take(__real_calloc(n, each), HERE);
}

WRAP(void *, realloc, void *p, size_t n)
{
    if (no_memory())
        return NULL;
    give(p);
    return take(__real_realloc(p, n), HERE);
}

WRAP(char *, strdup, const char *s)
{
    return no_memory() ? NULL : take(__real_strdup(s), HERE);
}

WRAP(int, posix_memalign, void **p, size_t alignment, size_t n)
{
    int error = no_memory() ? ENOMEM : __real_posix_memalign(p, alignment, n);

    if (!error)
        take(*p, HERE);
    return error;
}

WRAP(int, scandir, const char *path, struct dirent ***list,
     int (*filter)(const struct dirent *),
     int (*compare)(const struct dirent **, const struct dirent **))
{
    return no_memory() || no_file()
               ? -1 : __real_scandir(path, list, filter, compare);
}

WRAP(int, open, const char *path, int flags, ...)
{
    /* Nobody here makes a file with it. */
    return no_file() ? -1 : __real_open(path, flags);
}

WRAP(int, mkstemp, char *path)
{
    return no_file() ? -1 : __real_mkstemp(path);
}

WRAP(ssize_t, read, int fd, void *data, size_t n)
{
    return no_file() ? -1 : __real_read(fd, data, n);
}

WRAP(ssize_t, pread, int fd, void *data, size_t n, off_t at)
{
    return no_file() ? -1 : __real_pread(fd, data, n, at);
}

WRAP(ssize_t, write, int fd, const void *data, size_t n)
{
    return no_file() ? -1 : __real_write(fd, data, n);
}

WRAP(int, fstat, int fd, struct stat *st)
{
    return no_file() ? -1 : __real_fstat(fd, st);
}

WRAP(int, rename, const char *from, const char *to)
{
    return no_file() ? -1 : __real_rename(from, to);
}

WRAP(FILE *, fopen, const char *path, const char *mode)
{
    return no_file() ? NULL : __real_fopen(path, mode);
}

WRAP(void *, mmap, void *at, size_t n, int access, int flags, int fd,
     off_t from)
{
    if (fd < 0)
        return __real_mmap(at, n, access, flags, fd, from);
    return no_file() ? MAP_FAILED
                     : take(__real_mmap(at, n, access, flags, fd, from), HERE);
}

WRAP(int, munmap, void *p, size_t n)
{
    give(p);
    return __real_munmap(p, n);
}

WRAP(int, pthread_create, pthread_t *thread, const pthread_attr_t *attributes,
     void *(*run)(void *), void *argument)
{
    int error = fails(THREADS) ? EAGAIN : __real_pthread_create(
                    thread, attributes, run, argument);

    pthread_mutex_lock(&lock);
    n_threads += !error;
    pthread_mutex_unlock(&lock);
    return error;
}

WRAP(int, pthread_join, pthread_t thread, void **result)
{
    pthread_mutex_lock(&lock);
    n_threads--;
    pthread_mutex_unlock(&lock);
    return __real_pthread_join(thread, result);
}

/* The module. */
WRAP(void *, dlopen, const char *path, int mode)
{
    if (!strstr(path, "causvid_cuda"))
        return __real_dlopen(path, mode);
    return &fault;
}

WRAP(void *, dlsym, void *module, const char *name)
{
    CvCudaOpen *open = cv_cuda_open;
    void *symbol;

    if (module != &fault)
        return __real_dlsym(module, name);
    memcpy(&symbol, &open, sizeof(symbol));
    return symbol;
}

#endif /* CV_TESTS_FAULTS_H */
