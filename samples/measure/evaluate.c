/*
 * Does the sample model draw what its prompts say? Generates a clip for each
 * prompt of a list and counts what the pixels show.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * The list (samples/evaluate-prompts.tsv) holds prompts whose combination of
 * colour, shape and motion training never saw, with what is expected of each.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "beside.h"
#include "causvid.h"
#include "measure.h"

#define MAX_LINE  4096
#define N_FIELDS  8

typedef struct Expected {
    char prompt[MAX_LINE];
    int background, n_objects;
    ObjectSeen object[MAX_OBJECTS]; /* colour, shape, motion */
} Expected;

/* Right answers and questions. */
typedef struct Score {
    int colour[2], background[2], shape[2], motion[2];
    int by_shape[N_SHAPES][2], by_motion[N_MOTIONS][2];
} Score;

typedef struct Options {
    const char *model, *prompts, *raw, *save, *against, *device, *precision;
    int frames, limit, every, threads, seed, tail, verbose, markdown;
} Options;

static void write_log(void *cookie, enum CausvidLogLevel level,
                      const char *format, va_list args)
{
    (void)cookie;
    if (level > CAUSVID_LOG_WARNING)
        return;
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
}

/* Split a line at tabs in place. */
static int split(char *line, char **fields)
{
    int n = 0;

    line[strcspn(line, "\r\n")] = 0;
    while (line && n < N_FIELDS) {
        fields[n++] = line;
        if ((line = strchr(line, '\t')))
            *line++ = 0;
    }
    return n;
}

static int read_expected(Expected *e, char *line)
{
    char *f[N_FIELDS];

    memset(e, 0, sizeof(*e));
    if (split(line, f) != N_FIELDS)
        return -1;
    snprintf(e->prompt, sizeof(e->prompt), "%s", f[0]);
    e->background = find_name(colour_names, N_COLOURS, f[4]);
    e->n_objects  = *f[5] ? 2 : 1;
    for (int i = 0; i < e->n_objects; i++) {
        char **word = i ? f + 5 : f + 1;
        ObjectSeen *o = &e->object[i];

        o->colour = find_name(colour_names, N_COLOURS, word[0]);
        o->shape  = find_name(shape_names, N_SHAPES, word[1]);
        o->motion = find_name(motion_names, N_MOTIONS, word[2]);
        if (o->colour < 0 || o->shape < 0 || o->motion < 0)
            return -1;
    }
    return e->background < 0 ? -1 : 0;
}

static const char *name_of(const char *const *names, int i)
{
    return i < 0 ? "nothing" : names[i];
}

static void count(int tally[2], int right)
{
    tally[0] += right;
    tally[1]++;
}

/* Objects are matched by colour; an object whose colour is not there is wrong
 * in everything. */
static void compare(Score *score, const Expected *e, const ClipSeen *seen,
                    int verbose)
{
    count(score->background, e->background == seen->background);
    if (verbose && e->background != seen->background)
        printf("wrong background: %s for \"%s\"\n",
               name_of(colour_names, seen->background), e->prompt);
    for (int i = 0; i < e->n_objects; i++) {
        const ObjectSeen *want = &e->object[i], *got = NULL;
        int shape, motion;

        for (int k = 0; k < seen->n_objects; k++)
            if (seen->object[k].colour == want->colour)
                got = &seen->object[k];
        shape  = got && got->shape == want->shape;
        motion = got && got->motion == want->motion;
        count(score->colour, got != NULL);
        count(score->shape, shape);
        count(score->motion, motion);
        count(score->by_shape[want->shape], shape);
        count(score->by_motion[want->motion], motion);
        if (!verbose || (shape && motion))
            continue;
        if (!got)
            printf("missing: %s %s in \"%s\"\n", colour_names[want->colour],
                   shape_names[want->shape], e->prompt);
        else
            printf("wrong: %s %s (vx %.1f vy %.1f growth %.2f turn %.2f "
                   "radius %.1f match %.2f) for \"%s\"\n",
                   name_of(shape_names, got->shape),
                   name_of(motion_names, got->motion), got->vx, got->vy,
                   got->growth, got->turn, got->radius, got->match, e->prompt);
    }
}

/* ---- clips from the engine, or from a file of raw pictures ---- */

typedef struct Source {
    CausvidContext *cv;
    FILE *raw;
    int width, height;
    double rate;
} Source;

/* The number of a name in a list of the API's order. */
static int choose(int *choice, const char *option, const char *value,
                  const char *const *names, int n)
{
    if (!value || (*choice = find_name(names, n, value)) >= 0)
        return 0;
    fprintf(stderr, "evaluate: %s is '%s', expected", option, value);
    for (int i = 0; i < n; i++)
        fprintf(stderr, "%s %s", i ? "," : "", names[i]);
    fputc('\n', stderr);
    return -1;
}

static int choose_backend(CausvidSettings *settings, const Options *o)
{
    static const char *const devices[] = {
        [CAUSVID_DEVICE_AUTO] = "auto", [CAUSVID_DEVICE_CPU] = "cpu",
        [CAUSVID_DEVICE_CUDA] = "cuda",
    };
    static const char *const precisions[] = {
        [CAUSVID_PRECISION_AUTO] = "auto", [CAUSVID_PRECISION_FP32] = "fp32",
        [CAUSVID_PRECISION_BF16] = "bf16", [CAUSVID_PRECISION_FP8] = "fp8",
    };
    int device = settings->device, precision = settings->precision;

    if (choose(&device, "--device", o->device, devices, 3) < 0 ||
        choose(&precision, "--precision", o->precision, precisions, 4) < 0)
        return -1;
    settings->device    = (enum CausvidDevice)device;
    settings->precision = (enum CausvidPrecision)precision;
    return 0;
}

static int open_source(Source *s, const Options *o)
{
    CausvidSettings settings;
    CausvidInfo info;

    if (o->raw) {
        s->width  = 160;
        s->height = 96;
        s->rate   = 16;
        s->raw    = fopen(o->raw, "rb");
        if (!s->raw)
            fprintf(stderr, "evaluate: '%s' cannot be read\n", o->raw);
        return s->raw ? 0 : -1;
    }
    causvid_default_settings(&settings);
    settings.model   = o->model;
    settings.threads = o->threads;
    settings.log     = write_log;
    if (choose_backend(&settings, o) < 0 ||
        causvid_open(&s->cv, &settings) < 0)
        return -1;
    causvid_get_info(s->cv, &info);
    s->width  = info.width;
    s->height = info.height;
    s->rate   = (double)info.rate_num / info.rate_den;
    return 0;
}

static int make_clip(Source *s, const Options *o, const char *prompt,
                     int number, uint8_t *rgb)
{
    size_t frame = (size_t)s->width * s->height * 3;
    CausvidClip clip;

    if (s->raw)
        return fread(rgb, frame, (size_t)o->frames, s->raw) ==
               (size_t)o->frames ? 0 : -1;
    causvid_default_clip(&clip);
    clip.prompt = prompt;
    clip.frames = o->frames;
    clip.seed   = o->seed + number;
    if (causvid_start(s->cv, &clip) < 0)
        return -1;
    for (int i = 0; i < o->frames; i++) {
        CausvidPicture pic = {
            .width = s->width, .height = s->height,
            .format = CAUSVID_FORMAT_RGB24, .data = { rgb + frame * i },
            .stride = { 3 * s->width }
        };

        if (causvid_read_frame(s->cv, &pic) != 0)
            return -1;
    }
    return 0;
}

/* ---- the table ---- */

static double percent(const int tally[2])
{
    return tally[1] ? 100.0 * tally[0] / tally[1] : 100;
}

static int row(const Options *o, const char *name, const int tally[2],
               double bar)
{
    int passed = percent(tally) >= bar;

    printf(o->markdown ? "| %s | %d | %d | %.1f %% | %.0f %% | %s |\n"
                       : "%-18s %5d of %5d  %6.1f %%  (bar %.0f %%) %s\n",
           name, tally[0], tally[1], percent(tally), bar,
           passed ? "pass" : "FALLS SHORT");
    return passed;
}

static int print_score(const Options *o, const Score *s)
{
    int passed = 1;

    if (o->markdown)
        printf("| what | right | asked | share | bar | |\n"
               "|---|---|---|---|---|---|\n");
    passed &= row(o, "object colour", s->colour, 97);
    passed &= row(o, "background colour", s->background, 97);
    passed &= row(o, "motion", s->motion, 95);
    passed &= row(o, "shape", s->shape, 90);
    if (o->verbose) {
        for (int i = 0; i < N_SHAPES; i++)
            printf("  %-12s %5.1f %%\n", shape_names[i],
                   percent(s->by_shape[i]));
        for (int i = 0; i < N_MOTIONS; i++)
            printf("  %-12s %5.1f %%\n", motion_names[i],
                   percent(s->by_motion[i]));
    }
    return passed;
}

static int evaluate(const Options *o, FILE *list)
{
    Source source = { 0 };
    Score score;
    char line[MAX_LINE];
    Expected *expected = malloc(sizeof(*expected));
    Beside *beside = NULL;
    uint8_t *rgb = NULL;
    int status = 1, number = 0, clips = 0, first;
    struct timespec began, now;
    size_t frame;

    memset(&score, 0, sizeof(score));
    if (!expected || !(beside = beside_open(o->save, o->against)) ||
        open_source(&source, o) < 0)
        goto end;
    frame = (size_t)source.width * source.height * 3;
    if (!(rgb = malloc(frame * (size_t)o->frames)))
        goto end;
    clock_gettime(CLOCK_MONOTONIC, &began);
    if (!fgets(line, sizeof(line), list)) /* the header */
        goto end;
    first = o->tail && o->tail < o->frames ? o->frames - o->tail : 0;
    for (; fgets(line, sizeof(line), list) &&
           (!o->limit || clips < o->limit); number++) {
        ClipPixels pixels = { rgb + frame * (size_t)first, o->frames - first,
                              source.height, source.width, source.rate };
        ClipSeen seen;

        if (number % o->every)
            continue;
        if (read_expected(expected, line) < 0) {
            fprintf(stderr, "evaluate: line %d of '%s' is not understood\n",
                    number + 2, o->prompts);
            goto end;
        }
        if (make_clip(&source, o, expected->prompt, number, rgb) < 0 ||
            beside_clip(beside, rgb, frame * (size_t)o->frames,
                        expected->prompt) < 0 ||
            measure_clip(&seen, &pixels, expected->n_objects) < 0)
            goto end;
        compare(&score, expected, &seen, o->verbose);
        clips++;
    }
    clock_gettime(CLOCK_MONOTONIC, &now);
    printf("%d clips of %d frames, frames %d to %d measured, %.1f s\n", clips,
           o->frames, first, o->frames - 1,
           (double)(now.tv_sec - began.tv_sec) +
           (double)(now.tv_nsec - began.tv_nsec) * 1e-9);
    if (beside_print(beside) < 0)
        goto end;
    status = !clips || !print_score(o, &score);
end:
    if (source.raw)
        fclose(source.raw);
    causvid_close(&source.cv);
    beside_close(beside);
    free(rgb);
    free(expected);
    return status;
}

static void help(void)
{
    printf("usage: evaluate [options]\n\n"
           "  --model PATH    the model; default: the sample model\n"
           "  --prompts FILE  list; default: samples/evaluate-prompts.tsv\n"
           "  --frames N      frames a clip (81)\n"
           "  --tail N        measure only the last N frames\n"
           "  --every N       take each Nth prompt of the list\n"
           "  --limit N       stop after N clips\n"
           "  --seed N        seed of the first prompt (1)\n"
           "  --device NAME   auto, cpu or cuda (auto)\n"
           "  --precision P   auto, fp32, bf16 or fp8 (auto)\n"
           "  --threads N     CPU threads\n"
           "  --raw FILE      measure raw rgb24 160x96 clips, one a prompt\n"
           "  --save FILE     write the clips there, as --raw reads them\n"
           "  --against FILE  compare with such clips: PSNR\n"
           "  --markdown      print the table as Markdown\n"
           "  --verbose       list what is wrong\n\n"
           "Exit status 0 when every bar is reached.\n");
}

int main(int argc, char **argv)
{
    Options o = { .prompts = "samples/evaluate-prompts.tsv", .frames = 81,
                  .every = 1, .seed = 1 };
    const struct { const char *name; const char **text; int *number; } known[] =
    {
        { "--model", &o.model, NULL },   { "--prompts", &o.prompts, NULL },
        { "--save", &o.save, NULL },     { "--against", &o.against, NULL },
        { "--raw", &o.raw, NULL },       { "--frames", NULL, &o.frames },
        { "--tail", NULL, &o.tail },     { "--every", NULL, &o.every },
        { "--limit", NULL, &o.limit },   { "--seed", NULL, &o.seed },
        { "--threads", NULL, &o.threads }, { "--device", &o.device, NULL },
        { "--precision", &o.precision, NULL },
    };
    const int n = sizeof(known) / sizeof(*known);
    FILE *list;
    int status;

    for (int i = 1; i < argc; i++) {
        int k = 0;

        if (!strcmp(argv[i], "--help")) {
            help();
            return 0;
        }
        if (!strcmp(argv[i], "--verbose") || !strcmp(argv[i], "--markdown")) {
            *(argv[i][2] == 'v' ? &o.verbose : &o.markdown) = 1;
            continue;
        }
        while (k < n && strcmp(known[k].name, argv[i]))
            k++;
        if (k == n || i + 1 == argc) {
            fprintf(stderr, "evaluate: option '%s' is unknown or has no "
                    "value; --help lists the options\n", argv[i]);
            return 2;
        }
        i++;
        if (known[k].text)
            *known[k].text = argv[i];
        else
            *known[k].number = atoi(argv[i]);
    }
    if (o.frames < 16 || o.frames > 100000 || o.every < 1 || o.limit < 0 ||
        (o.tail && o.tail < 16)) {
        fprintf(stderr, "evaluate: --frames and --tail need 16 or more, "
                "--every 1 or more\n");
        return 2;
    }
    if (!(list = fopen(o.prompts, "r"))) {
        fprintf(stderr, "evaluate: '%s' cannot be read; run from the source "
                "tree or give --prompts\n", o.prompts);
        return 2;
    }
    status = evaluate(&o, list);
    fclose(list);
    return status;
}
