/*
 * Allocations, file operations, threads and CUDA calls fail, one after another:
 * opening a model and making a clip then fails with one line and the right
 * error, or gives what it gives otherwise, and nothing is left behind.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * On the emulated CUDA backend many calls are left out in between: `test_faults
 * all` takes each. `test_faults MODEL [KIND [N]]` begins there. What libraries
 * allocate does not fail, but for cJSON. (Protocol buffers in the SentencePiece
 * library would not survive it.)
 */
#define _GNU_SOURCE /* dladdr */
#include <signal.h>

#include <cjson/cJSON.h>

#include "../tap.h"
#include "../emulator/faults.h"
#include "causvid.h"
#include "faults.h"
#include "traced.h"

static int count_files(void)
{
    DIR *dir = opendir("/proc/self/fd");
    int n = 0;

    if (!dir)
        tap_bail("/proc/self/fd");
    while (readdir(dir))
        n++;
    closedir(dir);
    return n;
}

/* ---- a clip ---- */

#define SIDE 32

typedef struct Case {
    const char *name;
    CausvidSettings settings;
    int frames;
    float guidance;
    int fresh;        /* the cache is empty each time */
} Case;

typedef struct Run {
    const char *call; /* that failed first */
    int err;
    int again;        /* of a second try of it */
    int n_errors;     /* lines, in the first try */
    char line[1024];  /* the first of them */
    uint64_t hash;    /* of the frames */
} Run;

static char cache[4200];

static void empty_cache(void)
{
    DIR *dir = opendir(cache);
    struct dirent *entry;
    char path[4500];

    while (dir && (entry = readdir(dir))) {
        snprintf(path, sizeof(path), "%s/%s", cache, entry->d_name);
        unlink(path);
    }
    if (dir)
        closedir(dir);
}

static void write_log(void *cookie, enum CausvidLogLevel level,
                      const char *format, va_list args)
{
    Run *r = cookie;

    if (level == CAUSVID_LOG_ERROR && !r->n_errors++)
        vsnprintf(r->line, sizeof(r->line), format, args);
}

static int make_clip(CausvidContext *cv, const CausvidClip *clip, Run *r)
{
    static uint8_t rgb[SIDE * SIDE * 3];
    CausvidPicture pic = { .format = CAUSVID_FORMAT_RGB24, .width = SIDE,
                           .height = SIDE, .data = { rgb },
                           .stride = { 3 * SIDE } };
    int err;

    r->hash = 0;
    r->call = "start";
    err = causvid_start(cv, clip);
    for (int64_t i = 0; i < clip->frames && !err; i++) {
        r->call = "read";
        if ((err = causvid_read_frame(cv, &pic)))
            break;
        for (size_t j = 0; j < sizeof(rgb); j++)
            r->hash = (r->hash ^ rgb[j]) * UINT64_C(1099511628211);
        if (!i) {
            r->call = "set_prompt";
            err = causvid_set_prompt(cv, "a blue square");
        }
    }
    if (!err)
        r->call = "";
    return err;
}

/* What failed for want of memory is tried again where that is promised. */
static void run(const Case *c, Run *r)
{
    CausvidSettings settings = c->settings;
    CausvidContext *cv = NULL;
    CausvidClip clip;
    int n_errors;

    memset(r, 0, sizeof(*r));
    causvid_default_clip(&clip);
    clip.prompt   = "a red circle";
    clip.width    = SIDE;
    clip.height   = SIDE;
    clip.frames   = c->frames;
    clip.guidance = c->guidance;
    settings.log    = write_log;
    settings.cookie = r;
    settings.clip   = &clip;
    r->call = "open";
    if ((r->err = causvid_open(&cv, &settings)) < 0)
        return;
    r->err   = make_clip(cv, &clip, r);
    n_errors = r->n_errors;
    if (r->err == CAUSVID_ERR(ENOMEM) && !fault.onwards)
        r->again = make_clip(cv, &clip, r);
    r->n_errors = n_errors;
    causvid_close(&cv);
}

/* ---- in turn ---- */

static int all;        /* no call is left out */
static long first = 1; /* the first that fails */

static const char *device_name(const Case *c)
{
    return c->settings.device == CAUSVID_DEVICE_CUDA ? "CUDA" : "the CPU";
}

static int complain(const Case *c, const Run *r, const char *what)
{
    tap_diag("%s on %s, %s %ld%s: %s: %s: %d, %d lines: %s", c->name,
             device_name(c),
             kind_names[fault.kind], fault.n, fault.onwards ? "+" : "", what,
             r->call, r->err, r->n_errors, r->line);
    return 0;
}

static int is_expected(const Case *c, const Run *r)
{
    switch (-r->err) {
    case 0:
        return 1;
    case ENOMEM:
        return fault.kind != FILES && fault.kind != CUDA;
    case EIO:
        return fault.kind == FILES || fault.kind >= CUDA;
    case ENODEV: /* when the device is opened */
        return c->settings.device == CAUSVID_DEVICE_CUDA &&
               !strcmp(r->call, "open");
    }
    return 0;
}

/* The program ends in the midst of a run. */
static void on_signal(int number)
{
    signal(number, SIG_DFL);
    tap_diag("%s %ld%s ends the program", kind_names[fault.kind], fault.n,
             fault.onwards ? "+" : "");
    raise(number);
}

static void arm(Kind kind, long n, int onwards)
{
    memset(taken, 0, sizeof(taken));
    n_taken   = 0;
    n_threads = 0;
    fault.kind    = kind;
    fault.n       = n;
    fault.onwards = onwards;
    fault.seen    = 0;
    fault.on      = 1;
    if (kind >= CUDA)
        emulator_fail_call(n, kind == CUDA ? cudaErrorLaunchFailure
                                           : cudaErrorMemoryAllocation,
                           onwards);
    alarm(300);
}

static void disarm(void)
{
    alarm(0);
    if (fault.kind >= CUDA)
        fault.seen = (long)emulator_calls();
    fault.on = 0;
    emulator_fail_call(0, cudaSuccess, 0);
}

static int is_clean(const Case *c, const Run *r)
{
    int clean = 1;

    for (size_t i = 0; i < MOST && n_taken; i++)
        if (taken[i].what && taken[i].what != &gone) {
            Dl_info info;
            int known = dladdr(taken[i].where, &info);

            clean = complain(c, r, "memory is left");
            tap_diag("taken at %s+%#zx", known ? info.dli_fname : "?",
                     known ? (size_t)((char *)taken[i].where -
                                      (char *)info.dli_fbase) : 0);
        }
    if (n_threads)
        clean = complain(c, r, "threads are left");
    if (cudaGetLastError())
        clean = complain(c, r, "a later launch would find an error");
    /* Of a device that broke down nothing can be given back. */
    if (emulator_forget() && !fault.onwards)
        clean = complain(c, r, "something of CUDA is left");
    return clean;
}

/* One run, in which the fault may come about. */
static int try_fault(const Case *c, Kind kind, long n, int onwards,
                     uint64_t hash)
{
    const int files = count_files();
    int fine;
    Run r;

    if (c->fresh)
        empty_cache();
    arm(kind, n, onwards);
    run(c, &r);
    disarm();
    fine = is_clean(c, &r);
    if (count_files() != files)
        fine = complain(c, &r, "files are left open");
    if (!is_expected(c, &r))
        fine = complain(c, &r, "another error");
    if (r.n_errors != !!r.err)
        fine = complain(c, &r, "not one line for an error");
    if (r.again)
        fine = complain(c, &r, "a second clip fails");
    if (!*r.call && r.hash != hash)
        fine = complain(c, &r, "other frames");
    return fine;
}

/* each: 0, or after so many calls more and more are left out. */
static void test_faults(const Case *c, Kind kind, int onwards, long each)
{
    int bad = 0, tried = 0;
    Run sound;

    run(c, &sound);
    if (sound.err)
        tap_bail("%s: %s: %s", c->name, sound.call, sound.line);
    for (long n = first; bad < 20; n += 1 + (each && !all ? n / each : 0)) {
        bad += !try_fault(c, kind, n, onwards, sound.hash);
        if (fault.seen < n)
            break;
        tried++;
    }
    ok(!bad, "%s on %s, %s: %d of %ld calls fail%s", c->name,
       device_name(c),
       kind_names[kind], tried, fault.seen,
       onwards ? ", and all after it" : "");
}

/* A container that holds all parts. */
#define CONTAINER(name)                                                       \
    "containers/" name "/transformer", "containers/" name "/text_encoder",    \
    "containers/" name "/vae"

static const struct Model {
    const char *name, *transformer, *text_encoder, *vae, *lora;
    float guidance;
    int cached, fresh; /* with a cache, which is empty each time */
    int cuda;          /* also there */
} models[] = {
    { "safetensors", NULL, NULL, NULL, NULL, 1, 0, 0, 1 },
    { "gguf", CONTAINER("gguf-f32"), NULL, 1, 0, 0, 0 },
    { "q4_k", "containers/gguf-q4_k/transformer",
      "containers/gguf-q4_k/text_encoder", NULL, NULL, 1, 0, 0, 0 },
    { "torch-ema", CONTAINER("torch-ema"), NULL, 1, 0, 0, 0 },
    { "fp8", "fp8/comfy-new/transformer", "fp8/comfy-new/text_encoder", NULL,
      "fp8/lora.safetensors", 1, 0, 0, 1 },
    { "cached", NULL, NULL, NULL, NULL, 3, 1, 0, 0 },
    { "caching", NULL, NULL, NULL, NULL, 3, 1, 1, 1 },
};

static void test_model(const struct Model *m, int cuda, const char *kind_wanted)
{
    char path[4200], lora[4200];
    Case c = { .name = m->name, .frames = 1, .guidance = m->guidance,
               .fresh = m->fresh };

    causvid_default_settings(&c.settings);
    snprintf(path, sizeof(path), "%s/%s", traced_folder, m->name);
    snprintf(lora, sizeof(lora), "%s/tests/model/fixtures/%s=0.5", traced_src,
             m->lora ? m->lora : "");
    c.settings.model   = path;
    c.settings.lora    = m->lora ? lora : NULL;
    c.settings.cache   = m->cached ? cache : NULL;
    c.settings.device  = cuda ? CAUSVID_DEVICE_CUDA : CAUSVID_DEVICE_CPU;
    c.settings.threads = 2;
    for (Kind kind = MEMORY; kind < (cuda ? KINDS : CUDA); kind++) {
        if (kind_wanted && strcmp(kind_names[kind], kind_wanted))
            continue;
        test_faults(&c, kind, 0, cuda ? 3 : 0);
        test_faults(&c, kind, 1, cuda ? 2 : 4);
    }
}

int main(int argc, char **argv)
{
    static const int deadly[] = { SIGABRT, SIGSEGV, SIGALRM };
    const char *name = argc > 1 ? argv[1] : "";
    cJSON_Hooks hooks = { malloc, free };

    all = !strcmp(name, "all");
    if (argc > 3)
        first = atol(argv[3]);
    cJSON_InitHooks(&hooks);
    for (size_t i = 0; i < sizeof(deadly) / sizeof(*deadly); i++)
        signal(deadly[i], on_signal);
    traced_begin();
    snprintf(cache, sizeof(cache), "%s/cache", traced_folder);
    for (size_t i = 0; i < sizeof(models) / sizeof(*models); i++) {
        const struct Model *m = &models[i];

        if (*name && !all && strcmp(name, m->name))
            continue;
        traced_model(m->name, m->transformer, m->text_encoder, m->vae);
        for (int cuda = 0; cuda <= m->cuda; cuda++)
            test_model(m, cuda, argc > 2 ? argv[2] : NULL);
    }
    return tap_done();
}
