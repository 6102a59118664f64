/*
 * The emulator itself: barriers, collectives, matrices, copies, reports.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * Mistakes that the emulator has to find are made in a child process, whose
 * report is looked at.
 */
#include <math.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../tap.h"
#include "cublasLt.h"
#include "launch.cuh"
#include "ptx.cuh"

[[maybe_unused]] static CvCuda *const cuda = NULL;

/* Of the backend, which is not here. */
int cv_cuda_check(CvCuda *, cudaError_t error, const char *what)
{
    if (error)
        tap_bail("%s fails", what);
    return 0;
}

static uint64_t random_state = 1;

static double random_real(void)
{
    uint64_t z = random_state += 0x9e3779b97f4a7c15u;

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (double)((z ^ z >> 31) >> 11) * 0x1p-52 - 1;
}

template <typename T> static T *device(size_t n)
{
    T *p;

    if (cudaMalloc(&p, n * sizeof(T)))
        tap_bail("out of memory");
    return p;
}

template <typename T> static void get(T *host, const T *from, size_t n)
{
    cudaMemcpy(host, from, n * sizeof(T), cudaMemcpyDeviceToHost);
}

template <typename T> static void put(T *to, const T *host, size_t n)
{
    cudaMemcpy(to, host, n * sizeof(T), cudaMemcpyHostToDevice);
}

/* ---- barriers, shuffles, indices ---- */

static __global__ void index_kernel(int *out)
{
    cv_begin();
    int block = (int)((blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x +
                      blockIdx.x);
    int thread = (int)((threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x +
                       threadIdx.x);

    atomicAdd(&out[block * 30 + thread], 1000 * block + thread);
}

/* Sums by a tree over shared memory: each level reads what another thread
 * wrote. */
static __global__ void sum_kernel(int *out, int n)
{
    cv_begin();
    CV_DYNAMIC_SHARED(int, s);
    int t = (int)threadIdx.x;

    s[t] = (int)blockIdx.x * n + t;
    for (int n2 = n / 2; n2; n2 /= 2) {
        __syncthreads();
        if (t < n2)
            s[t] += s[t + n2];
    }
    if (!t)
        out[blockIdx.x] = s[0];
}

static __global__ void shuffle_kernel(float *out)
{
    cv_begin();
    int lane = (int)threadIdx.x % 32;
    float x = (float)threadIdx.x;
    unsigned odd = __ballot_sync(0xffffffffu, lane & 1);

    out += threadIdx.x * 6;
    out[0] = __shfl_xor_sync(0xffffffffu, x, 5);
    out[1] = __shfl_down_sync(0xffffffffu, x, 3);
    out[2] = __shfl_sync(0xffffffffu, x, 7, 16);
    out[3] = __shfl_up_sync(0xffffffffu, x, 2, 8);
    out[4] = cv_warp_sum(1);
    out[5] = odd == 0xaaaaaaaau && __any_sync(0xffffffffu, lane == 9) &&
             !__all_sync(0xffffffffu, lane == 9);
}

static void test_threads(void)
{
    int *indices = device<int>(24 * 30), got[24 * 30], wrong = 0;
    int *sums = device<int>(5), sum[5];
    float *shuffles = device<float>(64 * 6), shuffled[64 * 6];

    cudaMemset(indices, 0, sizeof(got));
    CV_LAUNCH(cuda, 0, index_kernel, dim3(2, 3, 4), dim3(3, 5, 2), 0,
              indices);
    get(got, indices, 24 * 30);
    for (int i = 0; i < 24 * 30; i++)
        wrong += got[i] != i / 30 * 1000 + i % 30;
    is_int(wrong, 0);

    CV_LAUNCH(cuda, 0, sum_kernel, 5, 512, 512 * sizeof(int), sums, 512);
    get(sum, sums, 5);
    for (int i = 0; i < 5; i++)
        wrong += sum[i] != 512 * 512 * i + 512 * 511 / 2;
    ok(!wrong, "a sum over shared memory with barriers");

    CV_LAUNCH(cuda, 0, shuffle_kernel, 1, 64, 0, shuffles);
    get(shuffled, shuffles, 64 * 6);
    for (int i = 0; i < 64; i++) {
        const float *x = shuffled + 6 * i;

        wrong += x[0] != (float)(i ^ 5);
        wrong += x[1] != (float)(i % 32 < 29 ? i + 3 : i);
        wrong += x[2] != (float)(i / 16 * 16 + 7);
        wrong += x[3] != (float)(i % 8 < 2 ? i : i - 2);
        wrong += x[4] != 32;
        wrong += x[5] != 1;
    }
    ok(!wrong, "shuffles and votes");
    cudaFree(indices);
    cudaFree(sums);
    cudaFree(shuffles);
}

/* ---- matrices ---- */

/* The fragments that PTX ISA's figures for mma.m16n8k16 give lane l, from
 * memory, without ldmatrix. */
static __global__ void mma_kernel(float *d, const cv_bf16 *a,
                                  const cv_bf16 *b)
{
    cv_begin();
    int l = (int)threadIdx.x, g = l >> 2, c = l & 3;
    uint32_t fa[4], fb[2];
    float fd[4];

    memcpy(&fa[0], &a[g * 16 + 2 * c], 4);
    memcpy(&fa[1], &a[(g + 8) * 16 + 2 * c], 4);
    memcpy(&fa[2], &a[g * 16 + 2 * c + 8], 4);
    memcpy(&fa[3], &a[(g + 8) * 16 + 2 * c + 8], 4);
    /* b is [8][16]: the column's 16 rows lie together */
    memcpy(&fb[0], &b[g * 16 + 2 * c], 4);
    memcpy(&fb[1], &b[g * 16 + 2 * c + 8], 4);
    for (int i = 0; i < 4; i++)
        fd[i] = d[(g + i / 2 * 8) * 8 + 2 * c + i % 2];
    cv_mma_bf16(fd, fa, fb[0], fb[1]);
    for (int i = 0; i < 4; i++)
        d[(g + i / 2 * 8) * 8 + 2 * c + i % 2] = fd[i];
}

/* The same with ldmatrix; b_rows: b is [16][8], read transposed. */
static __global__ void ldmatrix_kernel(float *d, const cv_bf16 *a,
                                       const cv_bf16 *b, int b_rows)
{
    cv_begin();
    CV_DYNAMIC_SHARED(cv_bf16, s);
    cv_bf16 *sb = s + 16 * 16;
    int l = (int)threadIdx.x, g = l >> 2, c = l & 3;
    uint32_t fa[4], fb[4];
    float fd[4] = { 0, 0, 0, 0 };

    for (int i = l; i < 32; i += 32)
        cv_cp_async16(s + 8 * i, a + 8 * i, 1);
    cv_cp_async_commit();
    for (int i = l; i < 32; i += 32) /* the second half: zeros */
        cv_cp_async16(sb + 8 * i, i < 16 ? b + 8 * i : NULL, i < 16);
    cv_cp_async_commit();
    cv_cp_async_wait<0>();
    __syncthreads();
    cv_ldmatrix_x4(fa, s + (l % 16) * 16 + l / 16 * 8);
    if (b_rows)
        cv_ldmatrix_x4_trans(fb, sb + l * 8);
    else
        cv_ldmatrix_x4(fb, sb + l % 8 * 16 + l / 8 % 2 * 8 + l / 16 * 128);
    cv_mma_bf16(fd, fa, fb[0], fb[1]);
    for (int i = 0; i < 4; i++)
        d[(g + i / 2 * 8) * 8 + 2 * c + i % 2] = fd[i];
    /* What came as zeros adds nothing. */
    cv_mma_bf16(fd, fa, fb[2], fb[3]);
    for (int i = 0; i < 4; i++)
        if (d[(g + i / 2 * 8) * 8 + 2 * c + i % 2] != fd[i])
            d[0] = NAN;
}

static void test_matrices(void)
{
    cv_bf16 a[256], b[128], t[128];
    float d[128], got[128];
    double expected[128], worst = 0;
    cv_bf16 *da = device<cv_bf16>(256), *db = device<cv_bf16>(128);
    float *dd = device<float>(128);

    for (int i = 0; i < 256; i++)
        a[i] = __float2bfloat16_rn((float)random_real());
    for (int i = 0; i < 128; i++) {
        b[i] = __float2bfloat16_rn((float)random_real());
        t[i % 16 * 8 + i / 16] = b[i];
        d[i] = (float)random_real();
    }
    for (int i = 0; i < 16; i++)
        for (int j = 0; j < 8; j++) {
            expected[i * 8 + j] = 0;
            for (int k = 0; k < 16; k++)
                expected[i * 8 + j] += (double)__bfloat162float(
                    a[i * 16 + k]) * __bfloat162float(b[j * 16 + k]);
        }
    put(da, a, 256);
    put(db, b, 128);
    put(dd, d, 128);
    CV_LAUNCH(cuda, 0, mma_kernel, 1, 32, 0, dd, da, db);
    get(got, dd, 128);
    for (int i = 0; i < 128; i++)
        worst = fmax(worst, fabs(got[i] - expected[i] - d[i]));
    ok(worst < 2e-6, "mma against a product in double: %.2g", worst);
    for (int rows = 0; rows < 2; rows++) {
        put(db, rows ? t : b, 128);
        CV_LAUNCH(cuda, 0, ldmatrix_kernel, 1, 32, 1024, dd, da, db, rows);
        get(got, dd, 128);
        worst = 0;
        for (int i = 0; i < 128; i++)
            if (!(fabs(got[i] - expected[i]) <= worst))
                worst = fabs(got[i] - expected[i]);
        ok(worst < 2e-6, "cp.async, ldmatrix%s, mma: %.2g",
           rows ? ".trans" : "", worst);
    }
    cudaFree(da);
    cudaFree(db);
    cudaFree(dd);
}

/* ---- numbers ---- */

static void test_numbers(void)
{
    int wrong = 0;

    for (int i = 0; i < 65536; i++) {
        __half h = __ushort_as_half((unsigned short)i);
        __nv_bfloat16 b = __ushort_as_bfloat16((unsigned short)i);
        float x = __half2float(h), y = __bfloat162float(b);

        if (x == x)
            wrong += __float2half_rn(x).bits != i;
        if (y == y)
            wrong += __float2bfloat16_rn(y).bits != i;
    }
    ok(!wrong, "float16 and bfloat16 survive float32");
    /* Halfway cases go to even, and a carry reaches the exponent. */
    ok(__float2half_rn(1 + 0x1p-11f).bits == 0x3c00 &&
       __float2half_rn(1 + 3 * 0x1p-11f).bits == 0x3c02 &&
       __float2half_rn(65519).bits == 0x7bff &&
       __float2half_rn(65520).bits == 0x7c00 &&
       __float2half_rn(0x1p-25f).bits == 0 &&
       __float2half_rn(0x1.8p-24f).bits == 2 &&
       __float2half_rn(-0x1.ff8p-15f).bits == 0x83ff &&
       __float2half_rn(-0x1.ffep-15f).bits == 0x8400, "rounding to float16");
    ok(__float2bfloat16_rn(1 + 0x1p-8f).bits == 0x3f80 &&
       __float2bfloat16_rn(1 + 3 * 0x1p-8f).bits == 0x3f82 &&
       __float2bfloat16_rn(0x1.ffp127f).bits == 0x7f80,
       "rounding to bfloat16");
    ok(__float2int_rn(2.5f) == 2 && __float2int_rn(-3.5f) == -4 &&
       __float2int_rn(NAN) == 0 && __float2int_rz(-2.9f) == -2,
       "float to integer");
}

/* ---- cuBLASLt ---- */

static void test_product(void)
{
    enum { M = 5, N = 7, K = 11 }; /* out [N, M] = x [N, K] w [M, K]^T */
    float w[M * K], x[N * K], bias[M], y[N * M], got[N * M], one = 1;
    float *dw = device<float>(M * K), *dx = device<float>(N * K);
    float *db = device<float>(M), *dy = device<float>(N * M);
    cublasLtHandle_t handle;
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t lw, lx, ly;
    cublasLtMatmulPreference_t preference;
    cublasLtMatmulHeuristicResult_t result;
    int32_t transposed = CUBLAS_OP_T;
    uint32_t epilogue = CUBLASLT_EPILOGUE_GELU_BIAS, aligned = 4;
    int found;
    double worst = 0;

    for (float &v : w)
        v = (float)random_real();
    for (float &v : x)
        v = (float)random_real();
    for (float &v : bias)
        v = (float)random_real();
    for (float &v : y)
        v = (float)random_real();
    put(dw, w, M * K);
    put(dx, x, N * K);
    put(db, bias, M);
    put(dy, y, N * M);
    cublasLtCreate(&handle);
    cublasLtMatmulDescCreate(&desc, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_TRANSA,
                                   &transposed, sizeof(transposed));
    cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_EPILOGUE,
                                   &epilogue, sizeof(epilogue));
    cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER,
                                   &db, sizeof(db));
    cublasLtMatrixLayoutCreate(&lw, CUDA_R_32F, K, M, K);
    cublasLtMatrixLayoutCreate(&lx, CUDA_R_32F, K, N, K);
    cublasLtMatrixLayoutCreate(&ly, CUDA_R_32F, M, N, M);
    cublasLtMatmulPreferenceCreate(&preference);
    for (int i = 0; i < 4; i++)
        cublasLtMatmulPreferenceSetAttribute(
            preference, (cublasLtMatmulPreferenceAttributes_t)(
                CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES + i), &aligned,
            sizeof(aligned));
    ok(!cublasLtMatmulAlgoGetHeuristic(handle, desc, lw, lx, ly, ly,
                                       preference, 1, &result, &found) &&
       found == 1, "an algorithm is found");
    ok(!cublasLtMatmul(handle, desc, &one, dw, lw, dx, lx, &one, dy, ly, dy,
                       ly, &result.algo, NULL, 0, NULL), "the product runs");
    get(got, dy, N * M);
    for (int i = 0; i < N; i++)
        for (int j = 0; j < M; j++) {
            double s = bias[j] + (double)y[i * M + j];

            for (int k = 0; k < K; k++)
                s += (double)x[i * K + k] * w[j * K + k];
            s = s / (1 + exp(-2 * sqrt(2 / M_PI) *
                             (s + 0.044715 * s * s * s)));
            worst = fmax(worst, fabs(got[i * M + j] - s));
        }
    ok(worst < 1e-6, "gelu(x w^T + y + bias): %.2g", worst);
    cublasLtMatmulPreferenceDestroy(preference);
    cublasLtMatrixLayoutDestroy(lw);
    cublasLtMatrixLayoutDestroy(lx);
    cublasLtMatrixLayoutDestroy(ly);
    cublasLtMatmulDescDestroy(desc);
    cublasLtDestroy(handle);
    cudaFree(dw);
    cudaFree(dx);
    cudaFree(db);
    cudaFree(dy);
}

/* ---- mistakes ---- */

static __global__ void divergent_kernel(int *out)
{
    cv_begin();
    if (threadIdx.x < 40)
        __syncthreads();
    out[threadIdx.x] = 1;
}

static __global__ void two_barriers_kernel(int *out)
{
    cv_begin();
    if (threadIdx.x < 32)
        __syncthreads();
    else
        __syncthreads();
    out[threadIdx.x] = 1;
}

static __global__ void lost_lane_kernel(float *out)
{
    cv_begin();
    if (threadIdx.x != 3)
        out[threadIdx.x] = cv_warp_sum(1);
}

static __global__ void shared_overrun_kernel(int *out)
{
    cv_begin();
    CV_DYNAMIC_SHARED(int, s);

    s[threadIdx.x + 1024] = 1;
    out[0] = s[0];
}

static __global__ void shared_slack_kernel(int *out)
{
    cv_begin();
    CV_DYNAMIC_SHARED(int, s);

    s[threadIdx.x] = 1;
    out[0] = s[0];
}

static __global__ void overrun_kernel(int *out, int n)
{
    cv_begin();
    out[n] = 1;
}

static __global__ void vector_kernel(int *out, int n)
{
    cv_begin();
    ((float2 *)(out + n))->x = 1; /* clang does not check whole structs */
}

static __global__ void early_kernel(int *out, int n)
{
    if (n)
        out[threadIdx.x] = 1;
    if (n || threadIdx.x < 40)
        cv_begin();
}

static void early(void)
{
    CV_LAUNCH(cuda, 0, early_kernel, 1, 64, 0, device<int>(64), 1);
}

static void without_begin(void)
{
    CV_LAUNCH(cuda, 0, early_kernel, 1, 64, 0, device<int>(64), 0);
}

static void divergent(void)
{
    CV_LAUNCH(cuda, 0, divergent_kernel, 1, 64, 0, device<int>(64));
}

static void two_barriers(void)
{
    CV_LAUNCH(cuda, 0, two_barriers_kernel, 1, 64, 0, device<int>(64));
}

static void lost_lane(void)
{
    CV_LAUNCH(cuda, 0, lost_lane_kernel, 1, 32, 0, device<float>(32));
}

static void shared_overrun(void)
{
    CV_LAUNCH(cuda, 0, shared_overrun_kernel, 1, 32, 4096, device<int>(1));
}

static void shared_slack(void)
{
    CV_LAUNCH(cuda, 0, shared_slack_kernel, 1, 32, 124, device<int>(1));
}

static void overrun(void)
{
    int *p = device<int>(64);

    CV_LAUNCH(cuda, 0, overrun_kernel, 1, 1, 0, p, 64);
}

static void slack(void)
{
    int *p = device<int>(63);

    CV_LAUNCH(cuda, 0, overrun_kernel, 1, 1, 0, p, 63);
    cudaFree(p);
}

static void misaligned(void)
{
    CV_LAUNCH(cuda, 0, vector_kernel, 1, 1, 0, device<int>(64), 3);
}

static void host_touches(void)
{
    *(volatile int *)device<int>(16) = 1;
}

static void wrong_side(void)
{
    int host = 0;

    cudaMemcpy(&host, &host, sizeof(host), cudaMemcpyDeviceToHost);
}

static void too_large(void)
{
    CV_LAUNCH(cuda, 0, overrun_kernel, 1, 1025, 0, device<int>(1), 0);
}

static void captured(void)
{
    cudaStream_t stream;

    cudaStreamCreate(&stream);
    cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed);
    cudaStreamSynchronize(stream);
}

/* `make` has to end the program with a report that holds `expected`. */
static void reports(const char *name, void (*make)(void),
                    const char *expected)
{
    char text[4096];
    size_t n = 0;
    ssize_t got;
    int ends[2], status;
    pid_t child;

    fflush(NULL);
    if (pipe(ends) || (child = fork()) < 0)
        tap_bail("no child process");
    if (!child) {
        dup2(ends[1], STDERR_FILENO);
        close(ends[0]);
        make();
        _exit(0);
    }
    close(ends[1]);
    while (n < sizeof(text) - 1 &&
           (got = read(ends[0], text + n, sizeof(text) - 1 - n)) > 0)
        n += (size_t)got;
    text[n] = 0;
    close(ends[0]);
    waitpid(child, &status, 0);
    if (!ok(WIFSIGNALED(status) && strstr(text, expected),
            "%s: reported", name))
        tap_diag("%s", text);
}

static void test_reports(void)
{
    reports("a barrier that some threads miss", divergent,
            "40 threads (0..39) at __syncthreads");
    reports("two barriers", two_barriers, "different barriers");
    reports("a collective that a lane misses", lost_lane,
            "31 threads (0..31) at __shfl_xor_sync");
    reports("written in what rounds shared memory up", shared_slack,
            "byte 124 of 124 bytes of shared memory was written");
    reports("written in what rounds device memory up", slack,
            "byte 252 of 252 bytes of device memory was written");
    reports("a thread without cv_begin()", without_begin,
            "a thread ends that did not call cv_begin()");
    reports("a copy in the wrong direction", wrong_side,
            "source is not device memory");
    reports("a block of 1025 threads", too_large, "no GPU can launch this");
    reports("waiting for a stream that is captured", captured,
            "cudaStreamSynchronize: the stream is captured");
#ifndef __SANITIZE_ADDRESS__ /* has reports of its own */
    reports("a vector at an odd address", misaligned, "addr2line");
    reports("written after shared memory", shared_overrun,
            "0 bytes after shared memory");
    reports("written after device memory", overrun,
            "0 bytes after 256 bytes of device memory");
    reports("touched before cv_begin()", early,
            "device memory, byte 0 of 256, before cv_begin()");
    reports("touched by the host", host_touches, "the host touched");
#else
    (void)early;
    (void)shared_overrun;
    (void)overrun;
    (void)misaligned;
    (void)host_touches;
#endif
}

/* ---- graphs ---- */

typedef struct Step {
    int *to;
    int add;
} Step;

static __global__ void step_kernel(const Step step)
{
    cv_begin();
    *step.to = *step.to * 10 + step.add;
}

/* Two kernels that append digits, `first` and the next one. */
static cudaGraph_t capture(cudaStream_t stream, int *to, int first, int n)
{
    Step step = { to, first };
    cudaGraph_t graph;

    cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed);
    for (int i = 0; i < n; i++) {
        CV_LAUNCH(cuda, stream, step_kernel, 1, 1, 0, step);
        step.add++; /* a graph has what it was when it was asked for */
    }
    cudaStreamEndCapture(stream, &graph);
    return graph;
}

static void test_graphs(void)
{
    int *number = device<int>(1), got, updated = 0;
    cudaGraphExecUpdateResultInfo info;
    cudaGraph_t one, other, longer;
    cudaGraphExec_t exec;
    cudaStream_t stream;

    cudaStreamCreate(&stream);
    cudaMemset(number, 0, sizeof(int));
    one    = capture(stream, number, 1, 2);
    other  = capture(stream, number, 3, 2);
    longer = capture(stream, number, 5, 3);
    get(&got, number, 1);
    is_int(got, 0);
    cudaGraphInstantiate(&exec, one, 0);
    cudaGraphLaunch(exec, stream);
    ok(cudaGraphExecUpdate(exec, longer, &info) ==
           cudaErrorGraphExecUpdateFailure &&
       cudaGetLastError() == cudaErrorGraphExecUpdateFailure,
       "a graph takes no more nodes than it has");
    for (int i = 0; i < 3; i++)
        updated += !cudaGraphExecUpdate(exec, other, &info);
    cudaGetLastError();
    is_int(updated, 2);
    cudaGraphLaunch(exec, stream);
    get(&got, number, 1);
    is_int(got, 1234);
    cudaGraphExecDestroy(exec);
    cudaGraphDestroy(one);
    cudaGraphDestroy(other);
    cudaGraphDestroy(longer);
    cudaStreamDestroy(stream);
    cudaFree(number);
}

/* ---- mistakes that change the result ---- */

/* Reads what the thread before wrote, with or without a barrier between. */
static __global__ void neighbour_kernel(int *out, int barrier)
{
    cv_begin();
    CV_DYNAMIC_SHARED(int, s);
    int t = (int)threadIdx.x;

    s[t] = t;
    if (barrier)
        __syncthreads();
    out[t] = s[t ? t - 1 : 0];
}

static __global__ void copy_kernel(float *out, const float *x, int wait)
{
    cv_begin();
    CV_DYNAMIC_SHARED(float, s);

    cv_cp_async16(s, x, 1);
    cv_cp_async_commit();
    cv_cp_async16(s + 4, x + 4, 1);
    cv_cp_async_commit();
    if (wait)
        cv_cp_async_wait<1>();
    out[0] = s[0];
    out[1] = s[4];
    cv_cp_async_wait<0>();
    out[2] = s[4];
}

/* Only the first block writes. */
static __global__ void unwritten_kernel(float *out)
{
    cv_begin();
    __shared__ float s;

    if (!blockIdx.x)
        s = 1;
    out[blockIdx.x] = s;
}

static int neighbours_wrong(int barrier, uint64_t order)
{
    int *out = device<int>(256), got[256], wrong = 0;

    emulator_set_order(order);
    CV_LAUNCH(cuda, 0, neighbour_kernel, 1, 256, 1024, out, barrier);
    emulator_set_order(0);
    get(got, out, 256);
    for (int i = 1; i < 256; i++)
        wrong += got[i] != i - 1;
    cudaFree(out);
    return wrong;
}

static void test_races(void)
{
    float x[8] = { 1, 2, 3, 4, 5, 6, 7, 8 }, got[3];
    float *dx = device<float>(8), *out = device<float>(3);

    ok(!neighbours_wrong(1, 0) && !neighbours_wrong(1, 7),
       "with a barrier the order of threads does not matter");
    ok(neighbours_wrong(0, 7) > 50, "without it, another order shows");
    put(dx, x, 8);
    CV_LAUNCH(cuda, 0, copy_kernel, 1, 1, 1024, out, dx, 1);
    get(got, out, 3);
    ok(got[0] == 1 && isnan(got[1]) && got[2] == 5,
       "a group that was not waited for has not arrived");
    CV_LAUNCH(cuda, 0, copy_kernel, 1, 1, 1024, out, dx, 0);
    get(got, out, 3);
    ok(isnan(got[0]), "a missing wait shows");
    CV_LAUNCH(cuda, 0, unwritten_kernel, 2, 1, 0, out);
    get(got, out, 2);
    ok(got[0] == 1 && isnan(got[1]), "blocks begin with NaNs");
    cudaFree(dx);
    cudaFree(out);
}

int main(void)
{
    test_threads();
    test_matrices();
    test_numbers();
    test_product();
    test_races();
    test_reports();
    test_graphs();
    return tap_done();
}
