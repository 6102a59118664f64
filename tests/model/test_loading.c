/*
 * Models in files: what is loaded from them is what they hold, a value that is
 * no number is told with its tensor's name, and no weights lie on the host on
 * their way to a GPU. On the emulated CUDA backend, and on the CPU.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * The files are written by tests/random_file.c: the engine makes the same
 * numbers itself when it is given their names.
 */
#define _GNU_SOURCE /* pthread_setattr_default_np */
#include <malloc.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "../random_file.h"
#include "../tap.h"
#include "config.h"
#include "device.h"
#include "dit/internal.h"
#include "fixture.h"
#include "model.h"
#include "../sanitized.h"
#include "module.h"
#include "weights/reader.h"

static const char *const parts[] = { "transformer", "text_encoder", "vae" };
enum { TRANSFORMER, TEXT, VAE, PARTS };

static char folder[] = "/tmp/causvid-loading-XXXXXX";
static char paths[PARTS][64];

/* Of a VAE the engine makes the numbers in the order of its own weights, a file
 * has them in another: test_vae.c holds that against PyTorch. */

/* Of "random:..."; only so many blocks, -1: all. */
static void write_part(Bench *bench, const char *name, int part, int blocks)
{
    char source[64];

    snprintf(source, sizeof(source), "%s/%s", name, parts[part]);
    if (write_random_file(paths[part], source, blocks, 2, &bench->log) < 0)
        tap_bail("%s: %s", paths[part], bench->error);
}

static CvBackend *open_cuda(Bench *bench)
{
    CvCudaSettings settings = { .abi = CV_CUDA_ABI };
    char why[CV_WHY_SIZE];
    CvBackend *b;

    if (cv_device_open(&b, &settings, why, &bench->log) < 0)
        tap_bail("the backend does not open: %s", why);
    return b;
}

static CvBackend *open_cpu(Bench *bench)
{
    CvBackend *b;

    if (cv_cpu_open(&b, 2, &bench->log) < 0)
        tap_bail("no CPU backend");
    return b;
}

/* ---- the same as without files ---- */

static void open_model(CvModel *model, Bench *bench, CvBackend *b,
                       const char *random)
{
    CausvidSettings settings;

    causvid_default_settings(&settings);
    settings.variant = CAUSVID_VARIANT_CAUSAL;
    settings.model   = random ? random : paths[TRANSFORMER];
    if (!random) {
        settings.text_encoder = paths[TEXT];
        settings.vae          = paths[VAE];
        settings.tokenizer    = CAUSVID_SOURCE_MODEL;
    }
    if (cv_model_open(model, &settings, b, &bench->log) < 0 ||
        cv_enter(model->backend) < 0 || cv_umt5_load(model->umt5) < 0 ||
        cv_dit_load(model->dit) < 0 || cv_vae_load(model->vae) < 0)
        tap_bail("%s: %s", settings.model, bench->error);
}

static void close_model(CvModel *model)
{
    cv_leave(model->backend);
    cv_model_close(model);
}

/* Bytes of an arena; those between tensors are what the emulator makes of
 * memory that was not written. */
static float *download(CvBackend *b, const CvArena *arena, size_t *n)
{
    CvTensor t = CV_TENSOR(arena->base, CV_F32, (int64_t)(arena->peak / 4));
    float *data = need(malloc(arena->peak));

    *n = arena->peak / 4 * 4;
    if (cv_download(b, data, &t) < 0)
        tap_bail("download");
    return data;
}

static int same_arena(const CvModel *a, const CvArena *of_a, const CvModel *b,
                      const CvArena *of_b)
{
    size_t n_a, n_b;
    float *x = download(a->backend, of_a, &n_a);
    float *y = download(b->backend, of_b, &n_b);
    int same = n_a == n_b && !memcmp(x, y, n_a);

    free(x);
    free(y);
    return same;
}

enum { TOKENS = 5 };

/* The embeddings of some tokens. */
static float *encode(CvModel *model, Bench *bench)
{
    static const int32_t ids[TOKENS] = { 1, 2, 300, 17, 5 };
    const int64_t dim = cv_umt5_dim(model->umt5);
    CvTensor out = CV_TENSOR(NULL, CV_F32, TOKENS, dim), t = out;
    float *data = need(malloc((size_t)(TOKENS * dim) * sizeof(*data)));
    CvArena arena = { 0 };
    CvRun run = { .backend = model->backend, .arena = &arena,
                  .log = &bench->log };
    int err = 0;

    cv_arena_plan(&arena, model->backend);
    for (int pass = 0; pass < 2 && !err; pass++) {
        if (pass && (err = cv_arena_take(&arena, &bench->log, "a test")) < 0)
            break;
        t = out;
        if (!(err = cv_arena_tensor(&arena, &t)))
            err = cv_umt5_forward(model->umt5, &run, &t, ids);
    }
    if (err < 0 || cv_download(model->backend, data, &t) < 0)
        tap_bail("%s", bench->error);
    cv_arena_free(&arena);
    return data;
}

static void test_same(Bench *bench, CvBackend *open(Bench *),
                      const char *name, int gpu)
{
    CvModel made, read;
    float *x, *y;

    for (int part = 0; part < PARTS; part++)
        write_part(bench, name, part, -1);
    open_model(&made, bench, open(bench), name);
    open_model(&read, bench, open(bench), NULL);
    x = encode(&made, bench);
    y = encode(&read, bench);
    ok(!memcmp(x, y, (size_t)(TOKENS * cv_umt5_dim(made.umt5)) * sizeof(*x)),
       "%s, %s: the text encoder is that of the file", name,
       made.backend->device);
    free(x);
    free(y);
    if (!gpu && strcmp(made.backend->name, "cpu")) {
        ok(same_arena(&made, &made.dit->arena, &read, &read.dit->arena),
           "%s: the transformer is that of the file", name);
    } else {
        tap_skip(1, "what lies between weights differs from run to run");
    }
    close_model(&made);
    close_model(&read);
}

/* ---- values that are no numbers ---- */

/* Make an element of a tensor in bf16 infinite. */
static void spoil(Bench *bench, const char *name)
{
    static const uint8_t infinite[] = { 0x80, 0x7f };
    CvWeights *w;
    FILE *file;

    if (cv_weights_open(&w, paths[TRANSFORMER], &bench->log) < 0)
        tap_bail("%s", bench->error);
    if (!(file = fopen(paths[TRANSFORMER], "r+b")) ||
        fseek(file, (long)((const uint8_t *)cv_weights_find(w, "%s",
              name)->tensor.data - w->files[0]->data) + 6, SEEK_SET) ||
        fwrite(infinite, 2, 1, file) != 1 || fclose(file))
        tap_bail("%s cannot be changed", paths[TRANSFORMER]);
    cv_weights_close(&w);
}

static void test_spoilt(Bench *bench, CvBackend *b)
{
    CvDit *dit = NULL;

    write_part(bench, "random:tiny", TRANSFORMER, -1);
    for (int i = 0; i < 3; i++) {
        if (i)
            spoil(bench, i == 1 ? "blocks.1.ffn.2.weight"
                                : "blocks.0.cross_attn.q.bias");
        bench->error[0] = 0;
        if (cv_enter(b) < 0 || cv_dit_open(&dit, b, paths[TRANSFORMER], NULL, "",
                                           &bench->log) < 0)
            tap_bail("%s", bench->error);
        is_int(cv_dit_load(dit), i ? CAUSVID_ERR(EILSEQ) : 0);
        ok(strstr(bench->error, !i ? "" : i == 1 ?
                  "tensor 'blocks.1.ffn.2.weight' holds a value that" :
                  "tensor 'blocks.0.cross_attn.q.bias' holds a value that"),
           "%s, %d of them: %s", b->name, i, bench->error);
        cv_dit_close(&dit);
        cv_leave(b);
    }
    b->close(&b);
}

/* A file that becomes shorter between opening and loading it, which is large
 * enough for several threads. */
static void test_shortened(Bench *bench, CvBackend *b)
{
    CvDit *dit;

    bench->error[0] = 0;
    if (cv_enter(b) < 0 || cv_dit_open(&dit, b, paths[TRANSFORMER], NULL, "",
                                       &bench->log) < 0 ||
        truncate(paths[TRANSFORMER], 70000000))
        tap_bail("%s", bench->error);
    is_int(cv_dit_load(dit), CAUSVID_ERR(EIO));
    ok(strstr(bench->error, "cannot be read: it became shorter while it was "
              "loaded") != NULL, "%s: %s", b->name, bench->error);
    cv_dit_close(&dit);
    cv_leave(b);
    b->close(&b);
}

/* ---- memory of the host ---- */

/* VmData: what of this process is private and can be written, used or not. */
static int64_t data_bytes(void)
{
    FILE *file = fopen("/proc/self/status", "r");
    long long kb = 0;
    char line[128];

    while (file && fgets(line, sizeof(line), file))
        if (sscanf(line, "VmData: %lld kB", &kb) == 1)
            break;
    if (file)
        fclose(file);
    return kb * 1024;
}

static int64_t limit_data(int64_t bytes)
{
    struct rlimit limit;
    rlim_t before;

    if (getrlimit(RLIMIT_DATA, &limit))
        tap_bail("getrlimit");
    before = limit.rlim_cur;
    limit.rlim_cur = (rlim_t)bytes;
    if (setrlimit(RLIMIT_DATA, &limit))
        tap_bail("setrlimit");
    return (int64_t)before;
}

/* Load with that much more than the weights take where they end up, which is
 * memory of this process on either backend. */
static int load_within(Bench *bench, CvBackend *b, int64_t more)
{
    int64_t before;
    CvDit *dit;
    void *much;
    int err;

    if (cv_dit_open(&dit, b, paths[TRANSFORMER], NULL, "",
                    &bench->log) < 0)
        tap_bail("%s", bench->error);
    malloc_trim(0); /* what was freed must not serve instead */
    before = limit_data(data_bytes() + (int64_t)cv_dit_bytes(dit) + more);
    err    = cv_dit_load(dit);
    /* The limit holds: what was left to the loading is less than this. */
    much = mmap(NULL, (size_t)more, PROT_READ | PROT_WRITE,
                MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    limit_data(before);
    if (!err && much != MAP_FAILED)
        tap_bail("the system does not keep a limit of memory");
    cv_dit_close(&dit);
    return err;
}

/* 144 MB in bf16. The ring is there when the backend is open. */
static void test_memory(Bench *bench, CvBackend *b)
{
    CvTensor warm = CV_TENSOR(NULL, b->activation, 1);
    const float one = 1;

    if (cv_enter(b) < 0 || b->ops->alloc(b, 256, &warm.data) < 0 ||
        cv_upload(b, &warm, &one, CV_F32) < 0)
        tap_bail("%s", bench->error);
    is_int(load_within(bench, b, 8 << 20), 0);
    is_int(load_within(bench, b, -(4 << 20)), CAUSVID_ERR(ENOMEM));
    b->ops->release(b, warm.data);
    cv_leave(b);
    b->close(&b);
}

/* Room for stacks counts as memory, also that of threads that have ended; and
 * large blocks that were freed must not serve once more. */
static void measure_strictly(void)
{
    pthread_attr_t small;

    if (!mallopt(M_MMAP_THRESHOLD, 1 << 20))
        tap_bail("mallopt");
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 128 << 10);
    if (pthread_setattr_default_np(&small))
        tap_bail("pthread_setattr_default_np");
    pthread_attr_destroy(&small);
}

int main(int argc, char **argv)
{
    const int gpu = use_module(argc, argv);
    Bench bench;

    if (!SANITIZED)
        measure_strictly();
    bench_open(&bench, 1);
    if (!mkdtemp(folder))
        tap_bail("no place for files");
    for (int part = 0; part < PARTS; part++)
        snprintf(paths[part], sizeof(paths[part]), "%s/%s.safetensors", folder,
                 parts[part]);
    test_same(&bench, open_cpu, "random:tiny", gpu);
    test_same(&bench, open_cuda, "random:tiny", gpu);
    test_same(&bench, open_cuda, "random:tiny-fp8", gpu);
    test_spoilt(&bench, open_cuda(&bench));
    test_spoilt(&bench, open_cpu(&bench));
    write_part(&bench, "random:wan-1.3b", TRANSFORMER, 1);
    if (SANITIZED || gpu)
        tap_skip(2, "a sanitizer or a GPU's driver takes memory of its own");
    else
        test_memory(&bench, open_cuda(&bench));
    if (SANITIZED)
        tap_skip(2, "the sanitizer takes memory of its own");
    else
        test_memory(&bench, open_cpu(&bench));
    for (int i = 0; i < 2; i++) {
        write_part(&bench, "random:wan-1.3b", TRANSFORMER, 1);
        test_shortened(&bench, i ? open_cuda(&bench) : open_cpu(&bench));
    }
    for (int part = 0; part < PARTS; part++)
        unlink(paths[part]);
    rmdir(folder);
    bench_close(&bench);
    return tap_done();
}
