/*
 * Every operation of a backend against references in double precision.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 *     test_ops [--backend NAME] [--op NAME] [--seed N]
 *     test_ops --bench [--backend NAME] [--op NAME] [--threads N]
 *
 * Each test runs with one and with three threads; both must give the same
 * bits. Without --backend every variant that this machine can run is tested.
 * --bench measures instead (op "rows": the norms).
 */
#include <stdlib.h>
#include <time.h>

#include "../tap.h"
#include "cpu/cpu.h"
#include "ops_test.h"

const OpTest op_tests[] = {
    { "upload", test_upload },
    { "upload", test_upload_refuses },
    { "memory", test_memory },
    { "linear", test_linear },
    { "attention", test_attention },
    { "rms_norm", test_rms_norm },
    { "norm_modulate", test_norm_modulate },
    { "layer_norm", test_layer_norm },
    { "norm_silu", test_norm_silu },
    { "qk_norm_rope", test_qk_norm_rope },
    { "silu", test_silu },
    { "embed", test_embed },
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

typedef struct Backend {
    const char *name;
    double tolerance; /* relative L2 error */
    int (*open)(CvBackend **b, int threads, CvLog *log);
} Backend;

static int open_avx512(CvBackend **b, int threads, CvLog *log)
{
    return cv_cpu_open_kernels(b, threads, "avx512", 0, log);
}

static int open_avx2(CvBackend **b, int threads, CvLog *log)
{
    return cv_cpu_open_kernels(b, threads, "avx2", 0, log);
}

static int open_generic(CvBackend **b, int threads, CvLog *log)
{
    return cv_cpu_open_kernels(b, threads, "generic", 0, log);
}

static int open_blas(CvBackend **b, int threads, CvLog *log)
{
    return cv_cpu_open_kernels(b, threads, "generic", 1, log);
}

static const Backend backends[] = {
    { "cpu", 3e-6, cv_cpu_open },
    { "cpu-avx512", 3e-6, open_avx512 },
    { "cpu-avx2", 3e-6, open_avx2 },
    { "cpu-generic", 3e-6, open_generic },
    { "cpu-blas", 3e-6, open_blas },
};
enum { N_BACKENDS = sizeof(backends) / sizeof(backends[0]) };

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

static CvBackend *open_backend(const Backend *backend, int threads,
                               CvLog *log)
{
    CvBackend *b;
    int err = backend->open(&b, threads, log);

    if (err == CAUSVID_ERR(ENOSYS) || err == CAUSVID_ERR(ENODEV))
        return NULL;
    if (err)
        tap_bail("%s does not open: %s", backend->name, strerror(-err));
    return b;
}

static void run_tests(const Backend *backend, const char *only, uint64_t seed,
                      CvLog *log)
{
    CvBackend *one = open_backend(backend, 1, log);
    CvBackend *three = one ? open_backend(backend, 3, log) : NULL;

    if (!one) {
        tap_skip(1, "%s cannot run on this machine", backend->name);
        return;
    }
    for (int i = 0; op_tests[i].op; i++) {
        Env e = { .b = one, .random = seed, .tolerance = backend->tolerance };
        Env f = { .b = three, .random = seed,
                  .tolerance = backend->tolerance };

        if (only && strcmp(only, op_tests[i].op))
            continue;
        op_tests[i].run(&e);
        ok(!e.failures && e.cases, "%s %s, %d cases: %.2g", backend->name,
           op_tests[i].op, e.cases, e.worst);
        op_tests[i].run(&f);
        ok(e.hash == f.hash && !f.failures, "%s %s, 1 and 3 threads agree",
           backend->name, op_tests[i].op);
    }
    one->close(&one);
    three->close(&three);
}

static void run_bench(const Backend *backend, const char *only, int threads,
                      CvLog *log)
{
    CvBackend *b = open_backend(backend, threads, log);

    if (!ok(b != NULL, "%s opens", backend->name))
        return;
    bench_ops(b, only);
    b->close(&b);
}

int main(int argc, char **argv)
{
    const char *only = NULL, *name = NULL;
    uint64_t seed = (uint64_t)time(NULL);
    CausvidSettings settings = { .log = print_log };
    int bench = 0, threads = 0;
    CvLog log;

    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--bench"))
            bench = 1;
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
    printf("# seed %llu\n", (unsigned long long)seed);
    for (int i = 0; i < N_BACKENDS; i++) {
        if (name && strcmp(name, backends[i].name))
            continue;
        if (bench)
            run_bench(&backends[i], only, threads, &log);
        else
            run_tests(&backends[i], only, seed, &log);
        if (bench && !name) /* the default is enough */
            break;
    }
    cv_log_free(&log);
    return tap_done();
}
