/*
 * Every operation of a backend against references in double precision.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 *     test_ops [--backend NAME] [--op NAME] [--seed N] [--gpu | --probe]
 *     test_ops --bench [--json] [--backend NAME] [--op NAME] [--threads N]
 *
 * Each test runs twice, and the second time must give the bits of the first: the
 * CPU backend has one and then three threads, the emulated CUDA backend runs
 * threads and blocks in ascending and then in another order. Without --backend every
 * variant that this machine can run is tested; NAME is a name or a part of
 * several. --seed draws other shapes and numbers. --gpu: what needs a GPU, which
 * then has to be there; --probe: say whether it is.
 * --bench measures instead (op "rows": the norms; "attention8": attention with
 * its error, in 8 bits with --backend "cuda 8-bit attention"); --json: a line of
 * JSON for each figure, and nothing else.
 */
#include <stdlib.h>

#include "../tap.h"
#include "cpu/cpu.h"
#include "device.h"
#include "ops_test.h"

const OpTest op_tests[] = {
    { "upload", test_upload },
    { "upload", test_upload_refuses },
    { "upload", test_upload_tags },
    { "upload", test_upload_source },
    { "upload", test_upload_blocks },
    { "upload", test_upload_fp8 },
    { "memory", test_memory },
    { "check", test_check },
    { "random", test_random },
    { "random", test_random_fp8 },
    { "memory", test_used_memory },
    { "linear", test_linear },
    { "linear", test_linear_fp8 },
    { "linear", test_linear_narrow },
    { "attention", test_attention },
    { "attention", test_no_ring },
    { "add_product", test_add_product },
    { "quantise", test_quantise },
    { "scale_rows", test_scale_rows },
    { "quantise", test_quantise_narrow },
    { "rms_norm", test_rms_norm },
    { "norm_modulate", test_norm_modulate },
    { "norm_modulate", test_norm_modulate_narrow },
    { "layer_norm", test_layer_norm },
    { "layer_norm", test_layer_norm_narrow },
    { "norm_silu", test_norm_silu },
    { "qk_norm_rope", test_qk_norm_rope },
    { "silu", test_silu },
    { "soft_clamp", test_soft_clamp },
    { "embed", test_embed },
    { "embed", test_embed_fp8 },
    { "t5_bias", test_t5_bias },
    { "timestep_embedding", test_timestep_embedding },
    { "modulation", test_modulation },
    { "rope_table", test_rope_table },
    { "combine", test_combine },
    { "convert", test_convert },
    { "patchify", test_patchify },
    { "unpatchify", test_unpatchify },
    { "split_frames", test_split_frames },
    { "to_channels_last", test_to_channels_last },
    { "to_channels_first", test_to_channels_first },
    { "conv3d", test_conv3d },
    { "conv3d", test_conv3d_vae },
    { "to_picture", test_to_picture },
    { NULL, NULL },
};

/* Of a backend that computes attention in 8 bits. */
static const OpTest attention8_tests[] = {
    { "attention8", test_attention8 },
    { NULL, NULL },
};

/* Of a backend that differs in them alone. */
static const OpTest narrow_tests[] = {
    { "linear", test_linear_narrow },
    { NULL, NULL },
};

static const OpTest ring8_tests[] = {
    { "ring", test_ring8 },
    { "outputs8", test_outputs8 },
    { NULL, NULL },
};

/* Where a backend computes. */
typedef enum Where {
    ON_CPU,
    ON_GPU,
    EMULATED, /* the CUDA backend on the CPU: tests/emulator */
} Where;

typedef struct Backend {
    const char *name;
    double tolerance; /* relative L2 error: Env.tolerance */
    Where where;
    const char *kernels; /* of the CPU backend */
    int blas;
    int capability; /* of the emulated device, 0: 8.0 */
    const char *ops; /* only these, or NULL: all */
    CvCudaSettings cuda;
    const OpTest *tests; /* its own, or NULL: op_tests */
} Backend;

/*
 * Float32 sums differ by their order alone. Beyond the rounding of a result to
 * bf16, which is not counted, bf16 kernels are as exact: their inputs are bf16
 * numbers and their sums float32. Operations that round in between say so
 * where they are tested.
 */
#define NARROW " linear quantise norm_modulate layer_norm "
#define CUDA .cuda.abi = CV_CUDA_ABI, .tolerance = 3e-6
#define EIGHT_BITS                                                         \
    .cuda.attention8 = CV_ATTENTION8_ALWAYS, .tests = attention8_tests
#define RING                                                               \
    .cuda.attention8 = CV_ATTENTION8_ALWAYS, .cuda.trials = CV_TRIALS_ALL, \
    .cuda.fp8 = CV_FP8_ALL, .tests = ring8_tests
static const Backend backends[] = {
    { "cpu", 3e-6, .kernels = NULL },
    { "cpu-avx512", 3e-6, .kernels = "avx512" },
    { "cpu-avx2", 3e-6, .kernels = "avx2" },
    { "cpu-generic", 3e-6, .kernels = "generic" },
    { "cpu-blas", 3e-6, .kernels = "generic", .blas = 1 },
    { "cuda bf16 (emulated)", .where = EMULATED, CUDA },
    { "cuda bf16, Hopper kernels (emulated)", .where = EMULATED, CUDA,
      .capability = 90 },
    { "cuda 8-bit attention (emulated)", .where = EMULATED, CUDA,
      .capability = 90, EIGHT_BITS },
    { "cuda 8-bit attention, trials (emulated)", .where = EMULATED, CUDA,
      .capability = 90, RING },
    { "cuda float32 (emulated)", .where = EMULATED, CUDA, .cuda.float32 = 1 },
    { "cuda fp8 (emulated)", .where = EMULATED, CUDA, .capability = 90,
      .cuda.fp8 = CV_FP8_ALL, .ops = NARROW },
    { "cuda fp8, trials (emulated)", .where = EMULATED, CUDA,
      .capability = 90, .cuda.fp8 = CV_FP8_ALL,
      .cuda.trials = CV_TRIALS_ALL, .tests = narrow_tests },
    { "cuda bf16", .where = ON_GPU, CUDA },
    { "cuda bf16, generic kernels", .where = ON_GPU, CUDA,
      .cuda.generic = 1 },
    { "cuda 8-bit attention", .where = ON_GPU, CUDA, EIGHT_BITS },
    { "cuda 8-bit attention, trials", .where = ON_GPU, CUDA, RING },
    { "cuda float32", .where = ON_GPU, CUDA, .cuda.float32 = 1 },
    { "cuda fp8", .where = ON_GPU, CUDA, .cuda.fp8 = CV_FP8_ALL,
      .ops = NARROW },
    { "cuda fp8, trials", .where = ON_GPU, CUDA, .cuda.fp8 = CV_FP8_ALL,
      .cuda.trials = CV_TRIALS_ALL, .tests = narrow_tests },
};
enum { N_BACKENDS = sizeof(backends) / sizeof(backends[0]) };

/* What of the emulated backend is linked in; weak, so that the program also
 * exists without it. */
extern int cv_cuda_open(CvBackend **b, const CvCudaSettings *settings,
                        char why[CV_WHY_SIZE], CvLog *log)
    __attribute__((weak));
extern void emulator_set_order(uint64_t seed) __attribute__((weak));
extern void emulator_set_capability(int capability) __attribute__((weak));

static void print_log(void *cookie, enum CausvidLogLevel level,
                      const char *format, va_list args)
{
    (void)cookie;
    if (level > CAUSVID_LOG_WARNING)
        return;
    fputs("# ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
}

/* NULL: it cannot run here, and `why` has the reason. */
static CvBackend *open_backend(const Backend *backend, int threads,
                               char why[CV_WHY_SIZE], CvLog *log)
{
    CvBackend *b = NULL;
    int err;

    snprintf(why, CV_WHY_SIZE, "this machine does not have it");
    if (backend->where == ON_GPU) {
        err = cv_device_open(&b, &backend->cuda, why, log);
    } else if (backend->where == EMULATED) {
        snprintf(why, CV_WHY_SIZE, "the emulator is not in this build");
        if (emulator_set_capability)
            emulator_set_capability(backend->capability);
        err = cv_cuda_open ? cv_cuda_open(&b, &backend->cuda, why, log)
                           : CAUSVID_ERR(ENOSYS);
    } else if (backend->kernels) {
        err = cv_cpu_open_kernels(&b, threads, backend->kernels,
                                  backend->blas, log);
    } else {
        err = cv_cpu_open(&b, threads, log);
    }
    if (err == CAUSVID_ERR(ENOSYS) || err == CAUSVID_ERR(ENODEV))
        return NULL;
    if (err)
        tap_bail("%s does not open: %s", backend->name, strerror(-err));
    return b;
}

/* The emulator's order of threads for the first and for the second run. */
static void set_order(const Backend *backend, uint64_t seed)
{
    if (backend->where == EMULATED && emulator_set_order)
        emulator_set_order(seed);
}

static int is_meant(const Backend *backend, const char *op)
{
    char word[64];

    snprintf(word, sizeof(word), " %s ", op);
    return !backend->ops || strstr(backend->ops, word);
}

static void run_tests(const Backend *backend, const char *only, uint64_t seed,
                      CvLog *log)
{
    static const char *const agree[] = {
        [ON_CPU] = "1 and 3 threads agree",
        [ON_GPU] = "the same again",
        [EMULATED] = "the same in another order of threads",
    };
    const OpTest *tests = backend->tests ? backend->tests : op_tests;
    char why[CV_WHY_SIZE];
    CvBackend *first = open_backend(backend, 1, why, log);
    CvBackend *second = first ? open_backend(backend, 3, why, log) : NULL;

    if (!first || !second) {
        if (first)
            first->close(&first);
        tap_skip(1, "%s: %s", backend->name, why);
        return;
    }
    if (cv_enter(first) || cv_enter(second))
        tap_bail("%s: no context", backend->name);
    for (int i = 0; tests[i].op; i++) {
        Env e = { .b = first, .random = seed,
                  .tolerance = backend->tolerance };
        Env f = { .b = second, .random = seed,
                  .tolerance = backend->tolerance, .again = 1 };

        if ((only && strcmp(only, tests[i].op)) ||
            !is_meant(backend, tests[i].op))
            continue;
        set_order(backend, 0);
        tests[i].run(&e);
        ok(!e.failures && e.cases, "%s %s, %d cases: %.2g", backend->name,
           tests[i].op, e.cases, e.worst);
        set_order(backend, seed | 1);
        tests[i].run(&f);
        ok(e.hash == f.hash && !f.failures, "%s %s, %s", backend->name,
           tests[i].op, agree[backend->where]);
    }
    cv_leave(second);
    cv_leave(first);
    first->close(&first);
    second->close(&second);
}

static void run_bench(const Backend *backend, const char *only, int threads,
                      int json, CvLog *log)
{
    char why[CV_WHY_SIZE];
    CvBackend *b = open_backend(backend, threads, why, log);

    if (!b)
        tap_bail("%s does not open: %s", backend->name, why);
    if (cv_enter(b))
        tap_bail("%s: no context", backend->name);
    (backend->where == ON_GPU ? bench_gpu : bench_ops)(
        b, !only && backend->tests ? backend->tests[0].op : only, json);
    cv_leave(b);
    b->close(&b);
}

/* Is there a GPU that the CUDA backend can use? */
static int have_gpu(CvLog *log)
{
    char why[CV_WHY_SIZE];
    CvCudaSettings settings = { .abi = CV_CUDA_ABI };
    CvBackend *b = NULL;

    if (cv_device_open(&b, &settings, why, log)) {
        fprintf(stderr, "There is no GPU to test on: %s.\n", why);
        return 0;
    }
    b->close(&b);
    return 1;
}

/* Is a backend asked for by its name, or by a part of it that is not the name
 * of another? */
static int is_named(const Backend *backend, const char *name)
{
    for (int i = 0; i < N_BACKENDS; i++)
        if (!strcmp(backends[i].name, name))
            return backend == &backends[i];
    return strstr(backend->name, name) != NULL;
}

int main(int argc, char **argv)
{
    const char *only = NULL, *name = NULL;
    uint64_t seed = 1;
    CausvidSettings settings = { .log = print_log };
    int bench = 0, json = 0, threads = 0, gpu = 0, probe = 0, n = 0;
    CvLog log;

    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--bench"))
            bench = 1;
        else if (!strcmp(argv[i], "--json"))
            json = 1;
        else if (!strcmp(argv[i], "--gpu"))
            gpu = 1;
        else if (!strcmp(argv[i], "--probe"))
            probe = 1;
        else if (i + 1 < argc && !strcmp(argv[i], "--op"))
            only = argv[++i];
        else if (i + 1 < argc && !strcmp(argv[i], "--backend"))
            name = argv[++i];
        else if (i + 1 < argc && !strcmp(argv[i], "--threads"))
            threads = atoi(argv[++i]);
        else if (i + 1 < argc && !strcmp(argv[i], "--seed"))
            seed = strtoull(argv[++i], NULL, 0);
        else
            tap_bail("unknown argument %s", argv[i]);
    }
    cv_log_init(&log, &settings);
    if (probe || gpu) {
        int have = have_gpu(&log);

        if (probe || !have) {
            cv_log_free(&log);
            return !have;
        }
    }
    if (!bench)
        printf("# seed %llu\n", (unsigned long long)seed);
    for (int i = 0; i < N_BACKENDS; i++) {
        if ((name && !is_named(&backends[i], name)) ||
            (gpu && backends[i].where != ON_GPU))
            continue;
        n++;
        if (bench)
            run_bench(&backends[i], only, threads, json, &log);
        else
            run_tests(&backends[i], only, seed, &log);
        if (bench && !name) /* the default is enough */
            break;
    }
    cv_log_free(&log);
    if (!n)
        tap_bail("there is no backend %s", name);
    return bench ? 0 : tap_done();
}
