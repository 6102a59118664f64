/*
 * `causvid bench`: how long a clip takes, as a whole and by stage, and what
 * memory it needs.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * Two things are measured. Whole clips go through the pipeline, as a program
 * that uses the library gets them: one after the other, a thread generating
 * ahead of the reader. Stages are those of clips that run without a thread and
 * wait for the device at the border of each stage, which only these do; what
 * overlaps in a whole clip does not there, so stages add up to a little more.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "bench.h"
#include "budget.h"
#include "cli.h"
#include "cpu/threads.h"
#include "loading.h"
#include "pipeline.h"

/* Without --runs: so many, or as many as are thought to fit into this time. */
#define DEFAULT_RUNS   5
#define LONGEST_SECONDS 300
#define LOAD_RUNS 3 /* with --load */

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* When this process began, on the clock of now(): Linux tells it to a
 * hundredth of a second. Where it does not, the time now. */
static double process_began(void)
{
    FILE *file = fopen("/proc/self/stat", "r");
    double age = 0;
#ifdef CLOCK_BOOTTIME
    char text[1024] = "";
    unsigned long long ticks;
    struct timespec t;
    char *at;

    if (file && fgets(text, sizeof(text), file) && (at = strrchr(text, ')')) &&
        sscanf(at + 1, " %*c %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s"
               " %*s %*s %*s %*s %*s %*s %llu", &ticks) == 1 &&
        !clock_gettime(CLOCK_BOOTTIME, &t))
        age = (double)t.tv_sec + (double)t.tv_nsec * 1e-9 -
              (double)ticks / (double)sysconf(_SC_CLK_TCK);
#endif
    if (file)
        fclose(file);
    return now() - (age > 0 && age < 60 ? age : 0);
}

static CausvidPicture picture(CvBench *b)
{
    int w = b->clip.width, h = b->clip.height;

    return (CausvidPicture){
        .width = w, .height = h, .format = CAUSVID_FORMAT_NV12,
        .memory = CAUSVID_MEMORY_HOST, .data = { b->nv12, b->nv12 + w * h },
        .stride = { w, w },
    };
}

/* ---- whole clips ---- */

/* One clip through the pipeline; *last: when the clip before ended. */
static int whole_clip(CvBench *b, const CausvidClip *args, double *last,
                      double times[3])
{
    CausvidPicture pic = picture(b);
    CvPipeline *pipeline = NULL;
    double began = now(), first = 0;
    int err;

    err = cv_pipeline_start(&pipeline, &b->model, &b->arena, args, NULL, NULL);
    while (!err && !(err = cv_pipeline_read(pipeline, &pic)))
        if (pic.index == 0)
            first = now();
    times[0] = first - began;
    times[1] = now() - began;
    times[2] = now() - *last;
    *last    = now();
    cv_pipeline_stop(&pipeline);
    return err == CAUSVID_EOF ? 0 : err;
}

/* ---- stages ---- */

typedef struct Stages {
    double text, sampling, cache, vae, pictures;
} Stages;

static int stage_text(CvBench *b, CvGenerator *g, Stages *s)
{
    int32_t ids[CV_MAX_TOKENS];
    double began = now();
    int64_t n;
    int err;

    if ((err = cv_model_tokens(&b->model, b->clip.negative_prompt,
                               "negative_prompt", 1, ids, &n)) < 0 ||
        (err = cv_generator_negative_prompt(g, ids, n)) < 0 ||
        (err = cv_model_tokens(&b->model, b->prompt, "prompt", 0, ids,
                               &n)) < 0 ||
        (err = cv_generator_prompt(g, ids, n)) < 0 ||
        (err = cv_finish(g->run.backend)) < 0)
        return err;
    s->text   = now() - began;
    b->tokens = n;
    return 0;
}

static int draw(CvBench *b, CvGenerator *g, const CvTensor *frames)
{
    for (int64_t i = 0; i < frames->dim[0]; i++) {
        CvTensor frame = cv_rows(frames, i, 1);
        CausvidPicture pic = picture(b);
        int err;

        frame = CV_RESHAPE(frame, b->clip.height, b->clip.width, 3);
        err   = cv_to_picture(g->run.backend,
                              &(CvPictureArgs){ .frame = &frame, .pic = &pic });
        if (err < 0)
            return err;
    }
    return 0;
}

static int stage_frames(CvBench *b, CvGenerator *g, int64_t block, Stages *s)
{
    int64_t first = block * b->clip.block_latents;

    for (int i = 0; i < b->clip.block_latents; i++) {
        double began = now(), decoded;
        CvTensor frames;
        int err;

        if (first + i >= b->clip.latents)
            break; /* the last block was rounded up */
        if ((err = cv_reuse_frames(g->run.backend)) < 0 ||
            (err = cv_generator_decode(g, block, i, &frames)) < 0 ||
            (err = cv_finish(g->run.backend)) < 0)
            return err;
        decoded = now();
        if ((err = draw(b, g, &frames)) < 0)
            return err;
        s->vae      += decoded - began;
        s->pictures += now() - decoded;
    }
    return 0;
}

static int stages_of_clip(CvBench *b, Stages *s)
{
    CvGenerator g;
    int err;

    memset(s, 0, sizeof(*s));
    /* as many slots as the pipeline takes: the same memory */
    err = cv_generator_open(&g, &b->model, &b->clip, NULL, &b->arena,
                            cv_clip_slots(&b->clip));
    if (err < 0)
        return err;
    err = stage_text(b, &g, s);
    for (int64_t block = 0; block < b->clip.blocks && !err; block++) {
        double began = now();

        if ((err = cv_generator_block(&g, block)) < 0 ||
            (err = cv_finish(g.run.backend)) < 0)
            break;
        s->sampling += now() - began;
        if ((err = stage_frames(b, &g, block, s)) < 0)
            break;
        began = now();
        if ((err = cv_generator_remember(&g, block)) < 0 ||
            (err = cv_finish(g.run.backend)) < 0)
            break;
        s->cache += now() - began;
    }
    cv_generator_close(&g);
    return err;
}

/* ---- all of it ---- */

static int measure(CvBench *b, const CausvidClip *args, int runs)
{
    double last = now(), times[3];
    Stages s;
    int err;

    if ((err = cv_clip_init(&b->clip, &b->model, args)) < 0)
        return err;
    if (b->clip.frames < 0)
        return cv_fail(&b->log, EINVAL, "an endless clip cannot be measured");
    b->nv12 = malloc((size_t)b->clip.width * (size_t)b->clip.height * 3 / 2);
    if (!b->nv12)
        return cv_fail_memory(&b->log, (uint64_t)b->clip.width *
                              (uint64_t)b->clip.height * 3 / 2, "a frame");
    if ((err = whole_clip(b, args, &last, times)) < 0)
        return err;
    b->warm_up = times[1];
    b->process = last - b->began;
    b->runs = runs;
    if (!runs) { /* each takes two clips */
        double fit = LONGEST_SECONDS / (2 * b->warm_up + 1e-9);

        b->runs = fit >= DEFAULT_RUNS ? DEFAULT_RUNS : fit < 1 ? 1 : (int)fit;
    }
    last = now();
    for (int i = 0; i < b->runs; i++) {
        if ((err = whole_clip(b, args, &last, times)) < 0)
            return err;
        for (int k = 0; k < 3; k++)
            b->seconds[CV_BENCH_FIRST + k][i] = times[k];
    }
    for (int i = 0; i < b->runs; i++) {
        if ((err = stages_of_clip(b, &s)) < 0)
            return err;
        b->seconds[CV_BENCH_TEXT][i]     = s.text;
        b->seconds[CV_BENCH_SAMPLING][i] = s.sampling;
        b->seconds[CV_BENCH_CACHE][i]    = s.cache;
        b->seconds[CV_BENCH_DENOISED][i] = s.sampling + s.cache;
        b->seconds[CV_BENCH_VAE][i]      = s.vae;
        b->seconds[CV_BENCH_PICTURES][i] = s.pictures;
        b->seconds[CV_BENCH_UNDECODED][i] = s.text + s.sampling + s.cache;
    }
    b->taken_bytes = cv_budget_peak(&b->model, &b->arena);
    if ((err = cv_memory(b->model.backend, &b->memory)) < 0)
        return err;
    return cv_bench_ceilings(b->model.backend, &b->ceilings);
}

/* The command line as it can be given again. */
static void note_command(CvBench *b, int argc, char **argv)
{
    size_t used = (size_t)snprintf(b->command, sizeof(b->command),
                                   "causvid bench");

    for (int i = 0; i < argc && used < sizeof(b->command); i++) {
        const char *quote = strpbrk(argv[i], " '\"$\\") ? "'" : "";

        used += (size_t)snprintf(b->command + used, sizeof(b->command) - used,
                                 " %s%s%s", quote, argv[i], quote);
    }
}

static int run(CvBench *b, const CausvidSettings *settings,
               const CausvidClip *args, int runs, CvBenchForm form)
{
    double began = now();
    int status = 1;

    if (cv_model_open(&b->model, settings, NULL, &b->log) < 0)
        return 1;
    if (!cv_enter(b->model.backend)) {
        int err = cv_model_load(&b->model, NULL, args);

        b->load = now() - began;
        if (!err && !measure(b, args, runs)) {
            status = cv_bench_print(b, form) < 0;
            if (status)
                cv_fail_memory(&b->log, sizeof(*b), "the results");
        }
        cv_arena_free(&b->arena);
        cv_leave(b->model.backend);
    }
    free(b->nv12);
    cv_model_close(&b->model);
    return status;
}

int cv_cli_bench(int argc, char **argv)
{
    const char *variant = NULL, *size = NULL, *frames = NULL, *steps = NULL;
    const char *sampler = NULL, *precision = NULL, *device = NULL, *gpu = NULL;
    const char *runs = NULL, *threads = NULL, *prompt = NULL, *model = NULL;
    const char *vram = NULL, *text_encoder = NULL, *tokenizer = NULL;
    const char *lora = NULL, *checkpoint_key = NULL, *format = NULL;
    const char *vae = NULL;
    int json = 0, markdown = 0, load = 0, cold = 0, help = 0, verbose = 0;
    int n_runs = 0, n_frames = 0, choice = 0, status;
    const CvOption options[] = {
        { "model", &model, NULL, "PATH: the model; default: the sample model" },
        { "text_encoder", &text_encoder, NULL, "PATH: in place of the model's" },
        { "vae", &vae, NULL, "PATH: in place of the model's, or "
                             "random:taew2_1" },
        { "tokenizer", &tokenizer, NULL, "PATH: in place of the model's" },
        { "checkpoint_key", &checkpoint_key, NULL,
          "NAME: of a .pt file's weights" },
        { "lora", &lora, NULL, "PATH=STRENGTH|...: merged into it" },
        { "variant", &variant, NULL, "NAME: auto, causal or bidirectional" },
        { "size", &size, NULL, "WxH; default: the recipe's" },
        { "frames", &frames, NULL, "N: frames of a clip; default: the "
                                   "recipe's" },
        { "steps", &steps, NULL, "N: in place of the recipe's" },
        { "sampler", &sampler, NULL, "NAME: in place of the recipe's" },
        { "precision", &precision, NULL, "NAME: auto, fp32, bf16 or fp8" },
        { "device", &device, NULL, "NAME: auto, cpu or cuda; default: auto" },
        { "gpu", &gpu, NULL, "N: which CUDA device" },
        { "vram", &vram, NULL, "N: the most GPU memory to take, such as 12G" },
        { "threads", &threads, NULL, "N: CPU threads" },
        { "prompt", &prompt, NULL, "TEXT: what the clip shows" },
        { "runs", &runs, NULL, "N: default: 5, or as many as fit into five "
                               "minutes" },
        { "load", NULL, &load, "load the model --runs (3) times instead" },
        { "cold", NULL, &cold, "with --load: from the disk each time" },
        { "format", &format, NULL, "NAME: text, a line of json or tables in "
                                   "markdown" },
        { "json", NULL, &json, "as --format json" },
        { "markdown", NULL, &markdown, "as --format markdown" },
        { "verbose", NULL, &verbose, "-v: say what is done" },
        { "help", NULL, &help, "print this" },
        { 0 }
    };
    CausvidSettings settings;
    CausvidClip args;
    CvBench *b;

    if (!(b = calloc(1, sizeof(*b)))) {
        fprintf(stderr, "causvid: error: out of memory\n");
        return 1;
    }
    b->began = process_began();
    note_command(b, argc, argv);
    status = 2;
    if (cv_cli_parse(argc, argv, options, NULL) < 0)
        goto end;
    if (help) {
        printf("usage: causvid bench [options]\n\nMedians of several clips "
               "after a warm-up; see docs/usage.md.\n\noptions:\n");
        cv_cli_help(options);
        status = 0;
        goto end;
    }
    if (format) {
        if ((choice = cv_cli_choice("format", format,
                                    "text|json|markdown")) < 0)
            goto end;
        if (json || markdown) {
            fprintf(stderr, "causvid: bench takes --format or its short form, "
                    "not both\n");
            goto end;
        }
        json     = choice == 1;
        markdown = choice == 2;
    }
    if (json && markdown) {
        fprintf(stderr, "causvid: bench prints --json or --markdown, not "
                "both\n");
        goto end;
    }
    if (cold && !load) {
        fprintf(stderr, "causvid: bench --cold is for --load\n");
        goto end;
    }
    if (load && markdown) {
        fprintf(stderr, "causvid: bench --load prints no --markdown\n");
        goto end;
    }
    causvid_default_clip(&args);
    cv_cli_settings(&settings, verbose);
    settings.model        = model;
    settings.text_encoder = text_encoder;
    settings.vae          = vae;
    settings.tokenizer    = tokenizer;
    settings.lora         = lora;
    settings.checkpoint_key = checkpoint_key;
    b->prompt = prompt ? prompt
                       : "a red circle moves right on a blue background";
    args.prompt = b->prompt;
    if ((size && cv_cli_size(size, &args.width, &args.height) < 0) ||
        (frames && cv_cli_int("frames", frames, 1, 1 << 20, &n_frames) < 0) ||
        (steps && cv_cli_int("steps", steps, 1, CV_MAX_STEPS,
                             &args.steps) < 0) ||
        (runs && cv_cli_int("runs", runs, 1, CV_BENCH_RUNS, &n_runs) < 0) ||
        (gpu && cv_cli_int("gpu", gpu, 0, 1023, &settings.gpu) < 0) ||
        (vram && cv_cli_bytes("vram", vram, &settings.vram_bytes) < 0) ||
        (threads && cv_cli_int("threads", threads, 1, CV_MAX_THREADS,
                               &settings.threads) < 0))
        goto end;
    args.frames = n_frames;
    if (variant) {
        if ((choice = cv_cli_choice("variant", variant,
                                    "auto|causal|bidirectional")) < 0)
            goto end;
        settings.variant = (enum CausvidVariant)choice;
    }
    if (sampler) {
        if ((choice = cv_cli_choice("sampler", sampler, "auto|causvid|euler|"
                                    "unipc|flowmatch_causvid")) < 0)
            goto end;
        args.sampler = (enum CausvidSampler)choice;
    }
    if (precision) {
        if ((choice = cv_cli_choice("precision", precision,
                                    "auto|fp32|bf16|fp8")) < 0)
            goto end;
        settings.precision = (enum CausvidPrecision)choice;
    }
    if (device) {
        if ((choice = cv_cli_choice("device", device, "auto|cpu|cuda")) < 0)
            goto end;
        settings.device = (enum CausvidDevice)choice;
    }
    cv_log_init(&b->log, &settings);
    if (load)
        status = cv_bench_load(&settings, &args, n_runs ? n_runs : LOAD_RUNS,
                               cold, json, b->command, &b->log) < 0;
    else
        status = run(b, &settings, &args, n_runs,
                     json ? CV_BENCH_JSON : markdown ? CV_BENCH_MARKDOWN
                                                     : CV_BENCH_TEXT_FORM);
    cv_log_free(&b->log);
end:
    free(b);
    return status;
}
