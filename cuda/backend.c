/*
 * Opening a CUDA device, and the table of its operations.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * A context is made current by pushing it on the calling thread's stack and
 * popped afterwards, the caller's as well as the device's primary one: so a
 * thread finds everything as it was, and the device is never switched under
 * it. The driver's functions come through the runtime, so that the module
 * loads where there is no driver and can say so.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config.h"
#include "host.h"

#ifdef CV_EMULATE
#define HAVE_SM_90A 1
#else
#define HAVE_SM_90A CV_HAVE_SM_90A
#endif

/* Version of the driver's interface whose functions are asked for. */
#define DRIVER_API 12000

/* CU_CTX_SCHED_BLOCKING_SYNC of cuda.h */
#define BLOCKING_SYNC 4u

_Static_assert(CV_CUDA_SCRATCH + CV_CUDA_WORKSPACE + CV_CUDA_RING +
               CV_CUDA_PICTURE == CV_CUDA_OWN_BYTES, "as device.h says");
_Static_assert(CV_CUDA_SCRATCH8 == CV_CUDA_ATTENTION8_BYTES,
               "as device.h says");

static const CvOps cuda_ops;

int cv_cuda_fail(CvCuda *cuda, const char *what, const char *why)
{
    /* After a fault every call fails: one line is enough. */
    const int again = atomic_exchange(&cuda->host->failed, 1);

    cv_log(cuda->base.log, again ? CAUSVID_LOG_VERBOSE : CAUSVID_LOG_ERROR,
           "%s failed on GPU %d: %s", what, cuda->device, why);
    return CAUSVID_ERR(EIO);
}

int cv_cuda_check(CvCuda *cuda, cudaError_t error, const char *what)
{
    char why[256];

    if (error == cudaSuccess)
        return 0;
    cudaGetLastError(); /* said here: no later launch is to find it */
    snprintf(why, sizeof(why), "%s (%s)", cudaGetErrorName(error),
             cudaGetErrorString(error));
    return cv_cuda_fail(cuda, what, why);
}

static int cuda_enter(CvBackend *b)
{
    CvCuda *cuda = cv_cuda(b);
    int result = cuda->host->push(cuda->context);
    char why[64];

    if (!result)
        return 0;
    snprintf(why, sizeof(why), "error %d of the CUDA driver", result);
    return cv_cuda_fail(cuda, "making the context current", why);
}

static void cuda_leave(CvBackend *b)
{
    void *context;

    cv_cuda(b)->host->pop(&context);
}

/* ---- opening ---- */

static int unusable(char why[CV_WHY_SIZE], const char *format, ...)
    CV_PRINTF(2, 3);

static int unusable(char why[CV_WHY_SIZE], const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vsnprintf(why, CV_WHY_SIZE, format, args);
    va_end(args);
    return CAUSVID_ERR(ENODEV);
}

static int cannot(char why[CV_WHY_SIZE], cudaError_t error, const char *what)
{
    return unusable(why, "%s: %s (%s)", what, cudaGetErrorName(error),
                    cudaGetErrorString(error));
}

/* Is there a driver, is it new enough, and does it see a device? */
static int find_devices(int *n, char why[CV_WHY_SIZE])
{
    int driver = 0, runtime = 0;
    cudaError_t error;

    *n = 0;
    cudaRuntimeGetVersion(&runtime);
    if (cudaDriverGetVersion(&driver) != cudaSuccess || !driver)
        return unusable(why, "no NVIDIA driver is installed");
    error = cudaGetDeviceCount(n);
    if (error == cudaErrorInsufficientDriver)
        return unusable(why, "the NVIDIA driver is too old: it serves CUDA "
                        "%d.%d, this build needs %d.%d", driver / 1000,
                        driver % 1000 / 10, runtime / 1000,
                        runtime % 1000 / 10);
    if (error == cudaErrorNoDevice || (!error && !*n))
        return unusable(why, "there is no NVIDIA GPU");
    if (error)
        return cannot(why, error, "the NVIDIA driver sees no GPU");
    return 0;
}

static int find_function(void *function, const char *name,
                         char why[CV_WHY_SIZE])
{
    enum cudaDriverEntryPointQueryResult status;
    void *symbol = NULL;
    cudaError_t error;

    error = cudaGetDriverEntryPointByVersion(name, &symbol, DRIVER_API,
                                             cudaEnableDefault, &status);
    if (error || status != cudaDriverEntryPointSuccess || !symbol)
        return unusable(why, "the NVIDIA driver has no %s: it is too old",
                        name);
    memcpy(function, &symbol, sizeof(symbol));
    return 0;
}

static int find_functions(struct CvCudaHost *host, char why[CV_WHY_SIZE])
{
    int err;

    if ((err = find_function(&host->push, "cuCtxPushCurrent", why)) < 0 ||
        (err = find_function(&host->pop, "cuCtxPopCurrent", why)) < 0 ||
        (err = find_function(&host->retain, "cuDevicePrimaryCtxRetain",
                             why)) < 0 ||
        (err = find_function(&host->state, "cuDevicePrimaryCtxGetState",
                             why)) < 0 ||
        (err = find_function(&host->set_flags, "cuDevicePrimaryCtxSetFlags",
                             why)) < 0)
        return err;
    return find_function(&host->release, "cuDevicePrimaryCtxRelease", why);
}

/* FFmpeg takes the primary context with this flag only, and its CUDA filters
 * may come after us in the process. The context of somebody who was first
 * stays as it is, and works as well: no error here matters. */
static void prepare_primary(const struct CvCudaHost *host, int gpu)
{
    unsigned flags = 0;
    int active = 1;

    if (!host->state(gpu, &flags, &active) && !active &&
        flags != BLOCKING_SYNC)
        host->set_flags(gpu, BLOCKING_SYNC);
}

/* Make the context current; it says which device it is of. */
static int enter_context(CvCuda *cuda, const CvCudaSettings *settings,
                         int n_devices, char why[CV_WHY_SIZE])
{
    struct CvCudaHost *host = cuda->host;
    int result;

    cuda->context = settings->context;
    if (!cuda->context) {
        if (settings->gpu < 0 || settings->gpu >= n_devices)
            return unusable(why, "there is no GPU %d: this machine has %d, "
                            "numbered from 0", settings->gpu, n_devices);
        prepare_primary(host, settings->gpu);
        if ((result = host->retain(&cuda->context, settings->gpu)))
            return unusable(why, "GPU %d cannot be opened (error %d of the "
                            "CUDA driver)", settings->gpu, result);
        host->retained = 1;
        cuda->device = settings->gpu;
    }
    if ((result = host->push(cuda->context)))
        return unusable(why, "the CUDA context cannot be used (error %d of "
                        "the CUDA driver)", result);
    return 0;
}

/* What kernels are chosen by, and the name. The context is current. */
static int describe(CvCuda *cuda, const CvCudaSettings *settings,
                    char why[CV_WHY_SIZE])
{
    const struct {
        enum cudaDeviceAttr attribute;
        int *value;
    } list[] = {
        { cudaDevAttrMultiProcessorCount, &cuda->processors },
        { cudaDevAttrMaxSharedMemoryPerBlockOptin, &cuda->shared_bytes },
    };
    cudaError_t error = cudaGetDevice(&cuda->device);
    struct cudaDeviceProp properties;

    if (!error)
        error = cudaGetDeviceProperties(&properties, cuda->device);
    for (size_t i = 0; i < sizeof(list) / sizeof(*list) && !error; i++)
        error = cudaDeviceGetAttribute(list[i].value, list[i].attribute,
                                       cuda->device);
    if (error)
        return cannot(why, error, "the GPU does not describe itself");
    cuda->capability = 10 * properties.major + properties.minor;
    if (cuda->capability < 80)
        return unusable(why, "%s has compute capability %d.%d, at least 8.0 "
                        "is needed", properties.name, properties.major,
                        properties.minor);
    /* sm_90a is the code of this one capability, not of later ones; without it
     * the kernels are there all the same, and do nothing. */
    cuda->hopper = HAVE_SM_90A && cuda->capability == 90 && !settings->generic;
    if (!HAVE_SM_90A && cuda->capability == 90)
        cv_log(cuda->base.log, CAUSVID_LOG_INFO, "the CUDA module was built "
               "without sm_90a (configure --cuda-arch): %s runs the kernels of "
               "older GPUs, which take twice as long", properties.name);
    cuda->trials = settings->trials;
    cuda->early  = cuda->hopper && cuda->trials & CV_TRIAL_LAUNCHES;
    cuda->scratch_bytes = CV_CUDA_SCRATCH;
    if (cuda->hopper && !settings->float32)
        cuda->attention8 = settings->attention8;
    /* With less, fewer heads go at a time. */
    if (cuda->attention8 && (!settings->memory_bytes ||
        settings->memory_bytes >= CV_CUDA_OWN_BYTES +
                                  CV_CUDA_ATTENTION8_BYTES)) {
        cuda->scratch_bytes += CV_CUDA_SCRATCH8;
        cuda->host->taken += CV_CUDA_ATTENTION8_BYTES;
    }
    snprintf(cuda->base.device, sizeof(cuda->base.device), "%.100s",
             properties.name);
    return 0;
}

static int take_memory(CvCuda *cuda, char why[CV_WHY_SIZE])
{
    size_t available = 0, total = 0;
    cudaError_t error = cudaMemGetInfo(&available, &total);

    cuda->host->before = (int64_t)(total - available);
    if (!error)
        error = cudaStreamCreateWithFlags(&cuda->stream,
                                          cudaStreamNonBlocking);
    if (!error)
        error = cudaStreamCreateWithFlags(&cuda->pictures,
                                          cudaStreamNonBlocking);
    if (!error)
        error = cudaMalloc(&cuda->scratch, cuda->scratch_bytes);
    if (!error)
        error = cv_cuda_memory_open(cuda);
    if (error == cudaErrorMemoryAllocation)
        return unusable(why, "too little memory: %.0f MB of the %.0f MB of GPU "
                        "%d are free", (double)available / 1e6,
                        (double)total / 1e6, cuda->device);
    if (error)
        return cannot(why, error, "the GPU cannot be used");
    cv_log(cuda->base.log, CAUSVID_LOG_VERBOSE, "CUDA: GPU %d, %s, capability "
           "%d.%d, %d multiprocessors, %.0f of %.0f MB free, %s kernels",
           cuda->device, cuda->base.device, cuda->capability / 10,
           cuda->capability % 10, cuda->processors, (double)available / 1e6,
           (double)total / 1e6, cuda->hopper ? "sm_90a" : "sm_80");
    return cv_cuda_blas_open(cuda, why);
}

/* What precision asks for, as far as this GPU has it, and the name of it; the
 * library is open. */
static void choose_types(CvCuda *cuda, const CvCudaSettings *settings)
{
    CvBackend *b = &cuda->base;
    const size_t used = strlen(b->device);

    b->activation = settings->float32 ? CV_F32 : CV_BF16;
    b->weight     = b->activation;
    b->product    = b->activation;
    b->fp8        = !settings->float32;
    b->narrow     = b->fp8 && settings->fp8 == CV_FP8_ALL;
    if (b->fp8 && settings->fp8 != CV_FP8_NEVER && cv_cuda_has_fp8(cuda))
        b->product = CV_F8_E4M3;
    if (b->product == CV_F8_E4M3 && cuda->hopper &&
        cuda->trials & CV_TRIAL_OUTPUTS8)
        b->product_heads = 128;
    snprintf(b->device + used, sizeof(b->device) - used, ", %s",
             settings->float32 ? "float32" : !b->narrow ? "bf16" :
             b->product == CV_F8_E4M3 ? "fp8" : "bf16 with weights in fp8");
}

/* Give everything back; the context is current when it ever was. */
static void give_back(CvCuda *cuda)
{
    cv_cuda_graphs_close(cuda);
    cv_cuda_blas_close(cuda);
    cv_cuda_memory_close(cuda);
    cudaFree(cuda->scratch);
    if (cuda->pictures)
        cudaStreamDestroy(cuda->pictures);
    if (cuda->stream)
        cudaStreamDestroy(cuda->stream);
}

/* The last step, also of an opening that failed: what is the host's. */
static void free_backend(CvCuda *cuda)
{
    struct CvCudaHost *host = cuda->host;

    if (host->retained)
        host->release(cuda->device);
    cv_pool_close(&host->pool);
    while (host->blocks) {
        CvCudaBlock *next = host->blocks->next;

        free(host->blocks);
        host->blocks = next;
    }
    free(cuda->blas);
    free(host);
    free(cuda);
}

static void cuda_close(CvBackend **b)
{
    CvCuda *cuda = *b ? cv_cuda(*b) : NULL;

    if (!cuda)
        return;
    /* Of a device that broke down nothing can be given back. */
    if (!cuda->host->push(cuda->context)) {
        give_back(cuda);
        cuda_leave(*b);
    }
    free_backend(cuda);
    *b = NULL;
}

int cv_cuda_open(CvBackend **backend, const CvCudaSettings *settings,
                 char why[CV_WHY_SIZE], CvLog *log)
{
    int n_devices, entered = 0, err;
    CvCuda *cuda;

    *backend = NULL;
    if (settings->abi != CV_CUDA_ABI)
        return unusable(why, "the CUDA module is of another version of "
                        "libcausvid (%d, expected %d)", CV_CUDA_ABI,
                        settings->abi);
    if ((err = find_devices(&n_devices, why)) < 0) {
        cudaGetLastError(); /* said in `why`: no later launch is to find it */
        return err;
    }
    if (settings->memory_bytes && settings->memory_bytes < CV_CUDA_OWN_BYTES)
        return cv_fail(log, ENOMEM, "vram=%lld: the CUDA backend alone takes "
                       "%lld bytes", (long long)settings->memory_bytes,
                       (long long)CV_CUDA_OWN_BYTES);
    if (!(cuda = calloc(1, sizeof(*cuda))) ||
        !(cuda->host = calloc(1, sizeof(*cuda->host)))) {
        free(cuda);
        return cv_fail_memory(log, sizeof(*cuda) + sizeof(struct CvCudaHost),
                              "the CUDA backend");
    }
    cuda->base.ops         = &cuda_ops;
    cuda->base.name        = "cuda";
    cuda->base.log         = log;
    cuda->base.cuda_planes = 1;
    cuda->base.close       = cuda_close;
    cuda->caller           = settings->stream;
    cuda->host->budget     = settings->memory_bytes;
    cuda->host->taken      = CV_CUDA_OWN_BYTES;
    if ((err = find_functions(cuda->host, why)) < 0 ||
        (err = enter_context(cuda, settings, n_devices, why)) < 0)
        goto fail;
    entered = 1;
    if ((err = describe(cuda, settings, why)) < 0 ||
        (err = take_memory(cuda, why)) < 0)
        goto fail;
    choose_types(cuda, settings);
    cuda_leave(&cuda->base);
    *backend = &cuda->base;
    return 0;
fail:
    if (entered) {
        give_back(cuda);
        cuda_leave(&cuda->base);
    }
    cudaGetLastError(); /* the same */
    free_backend(cuda);
    return err;
}

static const CvOps cuda_ops = {
    .alloc = cv_cuda_alloc,
    .release = cv_cuda_release,
    .upload = cv_cuda_upload,
    .uploaded = cv_cuda_uploaded,
    .mark = cv_cuda_mark,
    .ahead = cv_cuda_ahead,
    .batch = cv_cuda_batch,
    .download = cv_cuda_download,
    .zero = cv_cuda_zero,
    .copy = cv_cuda_copy,
    .random = cv_cuda_random,
    .finish = cv_cuda_finish,
    .memory = cv_cuda_memory,
    .check = cv_cuda_check_values,
    .largest = cv_cuda_largest_of,
    .enter = cuda_enter,
    .leave = cuda_leave,
    .linear = cv_cuda_linear,
    .attention = cv_cuda_attention,
    .add_product = cv_cuda_add_product,
    .quantise = cv_cuda_quantise,
    .scale_rows = cv_cuda_scale_rows,
    .rms_norm = cv_cuda_rms_norm,
    .silu = cv_cuda_silu,
    .embed = cv_cuda_embed,
    .t5_bias = cv_cuda_t5_bias,
    .timestep_embedding = cv_cuda_timestep_embedding,
    .modulation = cv_cuda_modulation,
    .norm_modulate = cv_cuda_norm_modulate,
    .layer_norm = cv_cuda_layer_norm,
    .rope_table = cv_cuda_rope_table,
    .qk_norm_rope = cv_cuda_qk_norm_rope,
    .ring_bytes = cv_cuda_ring_bytes,
    .patchify = cv_cuda_patchify,
    .unpatchify = cv_cuda_unpatchify,
    .combine = cv_cuda_combine,
    .conv3d = cv_cuda_conv3d,
    .norm_silu = cv_cuda_norm_silu,
    .soft_clamp = cv_cuda_soft_clamp,
    .split_frames = cv_cuda_split_frames,
    .to_channels_last = cv_cuda_to_channels_last,
    .to_channels_first = cv_cuda_to_channels_first,
    .convert = cv_cuda_convert,
    .to_picture = cv_cuda_to_picture,
    .reuse_frames = cv_cuda_reuse_frames,
};
