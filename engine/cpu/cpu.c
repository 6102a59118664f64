/*
 * The CPU backend: opening, memory, and the table of operations.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#define _GNU_SOURCE /* sched_getaffinity */
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "config.h"
#include "cpu/cpu.h"

#if CV_HAVE_BLAS
#include <cblas.h>
#endif

/* Smaller requests are not worth a look at /proc. */
#define LARGE_BYTES ((size_t)64 << 20)

/* Those that the process may run on, as taskset and containers have it. */
static long count_cores(void)
{
    cpu_set_t set;

    return sched_getaffinity(0, sizeof(set), &set)
               ? sysconf(_SC_NPROCESSORS_ONLN) : CPU_COUNT(&set);
}

/* Whether the machine has this much memory to give now. Linux promises more
 * than it has and ends a process that believes it, so a clip that cannot fit
 * must be refused by asking first. 1 when it cannot be told. */
static int is_available(size_t bytes)
{
    FILE *file = fopen("/proc/meminfo", "r");
    unsigned long long kb = 0;
    char line[128];
    int found = 0;

    if (!file)
        return 1;
    while (!found && fgets(line, sizeof(line), file))
        found = sscanf(line, "MemAvailable: %llu kB", &kb) == 1;
    fclose(file);
    return !found || bytes / 1024 < kb;
}

static int cpu_alloc(CvBackend *b, size_t bytes, void **data)
{
    (void)b;
    *data = NULL;
    if (bytes > PTRDIFF_MAX / 2 ||
        (bytes >= LARGE_BYTES && !is_available(bytes)) ||
        posix_memalign(data, 64, bytes ? bytes : 64)) {
        *data = NULL;
        return CAUSVID_ERR(ENOMEM);
    }
    return 0;
}

static void cpu_release(CvBackend *b, void *data)
{
    (void)b;
    free(data);
}

static int cpu_download(CvBackend *b, float *dst, const CvTensor *src)
{
    (void)b;
    memcpy(dst, src->data, (size_t)cv_tensor_bytes(src));
    return 0;
}

static int cpu_zero(CvBackend *b, const CvTensor *t)
{
    (void)b;
    memset(t->data, 0, (size_t)cv_tensor_bytes(t));
    return 0;
}

typedef struct Copy {
    uint8_t *dst;
    const uint8_t *src;
} Copy;

static void copy_job(void *arg, int64_t first, int64_t last, int worker)
{
    const Copy *a = arg;

    (void)worker;
    memcpy(a->dst + first, a->src + first, (size_t)(last - first));
}

static int cpu_copy(CvBackend *b, const CvTensor *dst, const CvTensor *src)
{
    Copy copy = { dst->data, src->data };

    cv_cpu_run(cv_cpu(b), cv_tensor_bytes(src), 256 * 1024, copy_job, &copy);
    return 0;
}

/* VmHWM: the largest part of the process that was ever in memory. */
static int cpu_memory(CvBackend *b, CvMemory *memory)
{
    FILE *file = fopen("/proc/self/status", "r");
    unsigned long long kb = 0;
    char line[128];

    (void)b;
    while (file && fgets(line, sizeof(line), file))
        if (sscanf(line, "VmHWM: %llu kB", &kb) == 1)
            break;
    if (file)
        fclose(file);
    memory->used = (int64_t)kb * 1024;
    return 0;
}

/* finish, enter, reuse_frames: every operation is done when it returns, and
 * any thread may ask for one. */
static int cpu_nothing(CvBackend *b)
{
    (void)b;
    return 0;
}

static void cpu_leave(CvBackend *b)
{
    (void)b;
}

static const CvOps cpu_ops = {
    .alloc = cpu_alloc,
    .release = cpu_release,
    .upload = cv_cpu_upload,
    .uploaded = cv_cpu_uploaded,
    .download = cpu_download,
    .zero = cpu_zero,
    .copy = cpu_copy,
    .random = cv_cpu_random,
    .finish = cpu_nothing,
    .memory = cpu_memory,
    .check = cv_cpu_check,
    .largest = cv_cpu_largest,
    .enter = cpu_nothing,
    .leave = cpu_leave,
    .linear = cv_cpu_linear,
    .attention = cv_cpu_attention,
    .add_product = cv_cpu_add_product,
    .rms_norm = cv_cpu_rms_norm,
    .silu = cv_cpu_silu,
    .embed = cv_cpu_embed,
    .t5_bias = cv_cpu_t5_bias,
    .timestep_embedding = cv_cpu_timestep_embedding,
    .modulation = cv_cpu_modulation,
    .norm_modulate = cv_cpu_norm_modulate,
    .layer_norm = cv_cpu_layer_norm,
    .rope_table = cv_cpu_rope_table,
    .qk_norm_rope = cv_cpu_qk_norm_rope,
    .patchify = cv_cpu_patchify,
    .unpatchify = cv_cpu_unpatchify,
    .combine = cv_cpu_combine,
    .conv3d = cv_cpu_conv3d,
    .norm_silu = cv_cpu_norm_silu,
    .soft_clamp = cv_cpu_soft_clamp,
    .split_frames = cv_cpu_split_frames,
    .to_channels_last = cv_cpu_to_channels_last,
    .to_channels_first = cv_cpu_to_channels_first,
    .convert = cv_cpu_convert,
    .to_picture = cv_cpu_to_picture,
    .reuse_frames = cpu_nothing,
};

static void cpu_close(CvBackend **b)
{
    CvCpu *cpu = *b ? cv_cpu(*b) : NULL;

    if (!cpu)
        return;
    cv_pool_close(&cpu->pool);
    free(cpu->scratch);
    free(cpu);
    *b = NULL;
}

void cv_cpu_copy_rows(float *dst, int64_t dst_row, const float *src,
                      int64_t src_row, int64_t rows, int64_t n)
{
    for (int64_t i = 0; i < rows; i++)
        memcpy(dst + i * dst_row, src + i * src_row, (size_t)n * sizeof(*dst));
}

int cv_cpu_open(CvBackend **backend, int threads, CvLog *log)
{
    const CvKernels *best = cv_kernels_find(NULL);

    /* BLAS where there are no kernels for the machine: see linear.c. */
    return cv_cpu_open_kernels(backend, threads, best->name,
                               CV_HAVE_BLAS && best == &cv_kernels_generic,
                               log);
}

int cv_cpu_open_kernels(CvBackend **backend, int threads, const char *kernels,
                        int blas, CvLog *log)
{
    CvBackend *b;
    CvCpu *cpu;
    size_t bytes;
    void *scratch;
    int err;

    *backend = NULL;
    if (threads < 0 || threads > CV_MAX_THREADS)
        return cv_fail(log, EINVAL, "%d threads; expected 0 (one for each "
                       "core) to %d", threads, CV_MAX_THREADS);
    if (!threads)
        threads = (int)cv_min(cv_max(count_cores(), 1), CV_MAX_THREADS);
    if (!cv_kernels_find(kernels) || (blas && !CV_HAVE_BLAS))
        return CAUSVID_ERR(ENOSYS);
    cpu = calloc(1, sizeof(*cpu));
    if (!cpu)
        return cv_fail_memory(log, sizeof(*cpu), "the CPU backend");
    cpu->kernels = cv_kernels_find(kernels);
    cpu->blas = blas;
    b = &cpu->base;
    b->ops = &cpu_ops;
    b->name = "cpu";
    b->activation = CV_F32;
    b->weight = CV_F32;
    b->product = CV_F32;
    b->log = log;
    b->threads = threads;
    snprintf(b->device, sizeof(b->device), "%d threads", threads);
    b->close = cpu_close;
    bytes = (size_t)threads * CV_CPU_SCRATCH * sizeof(float);
    if (posix_memalign(&scratch, 64, bytes)) {
        err = cv_fail_memory(log, bytes, "the CPU backend's scratch");
        goto fail;
    }
    cpu->scratch = scratch;
    err = cv_pool_open(&cpu->pool, threads);
    if (err < 0) {
        cv_fail(log, -err, "cannot start %d threads; use fewer (option "
                "threads)", threads);
        goto fail;
    }
#if CV_HAVE_BLAS
    /* Our threads each call BLAS on their part of the work; its own would
     * only compete with them. This setting is the process's. */
    if (blas)
        openblas_set_num_threads(1);
#endif
    cv_log(log, CAUSVID_LOG_VERBOSE, "CPU: %d threads, %s kernels%s", threads,
           cpu->kernels->name, blas ? ", OpenBLAS" : "");
    *backend = b;
    return 0;

fail:
    cpu_close(&b);
    return err;
}
