/*
 * `causvid bench --load`: how long a model takes to load, and at what speed.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * The model is opened, loaded and closed several times, one part after the
 * other with the device waited for behind each. What the first time costs
 * depends on whether the files were in the system's cache, so it is told apart
 * from the others, and so is how much of them was there. Bytes are those of the
 * tensors as they are stored.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "bench.h"
#include "loading.h"
#include "config.h"
#include "info.h"
#include "system.h"

/* In the order of loading. */
enum { TEXT, TRANSFORMER, VAE, PARTS, SUM = PARTS, OPENING, ROWS };

typedef struct Load {
    CvModel model;
    const CausvidSettings *settings;
    const CausvidClip *clip;
    CvLog *log;
    int runs, cold;
    double cached[PARTS][CV_BENCH_RUNS]; /* 0..1 before a run; -1: no file */
    CvMemoryWatch memory;                /* of the run that took most */
    double seconds[ROWS][CV_BENCH_RUNS];
    double first[ROWS], median[ROWS]; /* median: of the others; 0: none */
    CvModelFiles files;
    CvInfoPart parts[PARTS];
    int streamed;                     /* the text encoder */
    int64_t streamed_dit;             /* bytes of the transformer */
    int64_t bytes[ROWS], resident;
    char device[160];
} Load;

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static int load_parts(Load *l, int run)
{
    CvModel *m = &l->model;
    char why[CV_WHY_SIZE] = "";
    double began;
    int err = cv_model_fit(m, l->clip, why);

    if (*why)
        return cv_fail(l->log, -err, "%s", why);
    for (int part = 0; part < PARTS && !err; part++) {
        began = now();
        err   = part == TEXT ? cv_umt5_load(m->umt5) :
                part == TRANSFORMER ? cv_dit_load(m->dit) :
                cv_vae_load(m->vae);
        if (!err)
            err = cv_finish(m->backend);
        l->seconds[part][run] = now() - began;
        l->seconds[SUM][run] += l->seconds[part][run];
    }
    return err;
}

static const char *path_of(const CvModelFiles *files, int part)
{
    return part == TEXT ? files->text_encoder :
           part == VAE ? files->vae : files->transformer;
}

/* What is the same each time. */
static int describe(Load *l)
{
    const CvModel *m = &l->model;
    CvInfoPart parts[CV_INFO_PARTS];
    int err = cv_info_parts(parts, m, l->settings);

    if (err < 0)
        return cv_fail(l->log, -err, "the model's files cannot be looked at "
                       "again");
    for (int i = 0; i < CV_INFO_PARTS; i++) {
        int part = !strcmp(parts[i].option, "text_encoder") ? TEXT :
                   !strcmp(parts[i].option, "vae") ? VAE : TRANSFORMER;

        l->parts[part] = parts[i];
    }
    l->streamed = !cv_umt5_bytes(m->umt5);
    l->streamed_dit = cv_dit_streamed_bytes(m->dit);
    l->resident = (int64_t)cv_model_bytes(m);
    for (int part = 0; part < PARTS; part++) {
        l->bytes[part] = part == TEXT && l->streamed ? 0 : l->parts[part].bytes;
        if (part == TRANSFORMER)
            l->bytes[part] -= l->streamed_dit;
        l->bytes[SUM] += l->bytes[part];
    }
    snprintf(l->device, sizeof(l->device), "%s, %s", m->backend->name,
             m->backend->device);
    return 0;
}

/* Where the files are, before anything is opened that reads them. */
static int find_files(Load *l)
{
    CvBackend *none;
    CvModel model;
    int err = cv_null_open(&none, l->log);

    if (err < 0 || (err = cv_model_open(&model, l->settings, none,
                                        l->log)) < 0)
        return err;
    l->files = model.files;
    cv_model_close(&model);
    return 0;
}

static int load_once(Load *l, int run)
{
    CvMemoryWatch memory;
    double began;
    int err;

    for (int part = 0; part < PARTS; part++)
        l->cached[part][run] = cv_cached_share(path_of(&l->files, part),
                                               l->cold);
    began = now();
    if ((err = cv_model_open(&l->model, l->settings, NULL, l->log)) < 0)
        return err;
    l->seconds[OPENING][run] = now() - began;
    if (!(err = cv_enter(l->model.backend))) {
        cv_watch_begin(&memory);
        err = load_parts(l, run);
        cv_watch_end(&memory);
        if (!run || memory.most - memory.before >
                    l->memory.most - l->memory.before)
            l->memory = memory;
        if (!err && run == l->runs - 1)
            err = describe(l);
        cv_leave(l->model.backend);
    }
    cv_model_close(&l->model);
    return err;
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static void find_medians(Load *l)
{
    const int n = l->runs - 1;

    for (int row = 0; row < ROWS; row++) {
        double *s = l->seconds[row];

        l->first[row] = *s++;
        if (!n)
            continue;
        qsort(s, (size_t)n, sizeof(*s), compare_doubles);
        l->median[row] = n % 2 ? s[n / 2] : (s[n / 2 - 1] + s[n / 2]) / 2;
    }
}

static double speed(int64_t bytes, double seconds)
{
    return seconds > 0 ? (double)bytes / 1e9 / seconds : 0;
}

static void print_row(const Load *l, int row, const char *label)
{
    printf("%-13s", label);
    if (row == OPENING)
        printf("%9s   ", "");
    else
        printf("%9.3f GB", (double)l->bytes[row] / 1e9);
    printf(" %9.4f s", l->first[row]);
    if (row != OPENING)
        printf(" %7.2f GB/s", speed(l->bytes[row], l->first[row]));
    else if (l->runs > 1)
        printf(" %12s", "");
    if (l->runs > 1) {
        printf(" %9.4f s", l->median[row]);
        if (row != OPENING)
            printf(" %7.2f GB/s", speed(l->bytes[row], l->median[row]));
    }
    putchar('\n');
}

/* How much of each file the system had in memory. */
static void print_cached(const Load *l, int run, const char *when)
{
    const char *comma = "";

    for (int part = 0; part < PARTS; part++) {
        if (l->cached[part][run] < 0)
            continue;
        if (!*comma)
            printf("in the system's cache %s: ", when);
        printf("%s%s %.0f %%", comma, l->parts[part].title,
               100 * l->cached[part][run]);
        comma = ", ";
    }
    if (*comma)
        putchar('\n');
}

static void print_text(const Load *l, const char *command)
{
    printf("command: %s\nversion: causvid %s, %s\ndevice: %s\n", command,
           CAUSVID_VERSION_STRING, cv_bench_commit(), l->device);
    for (int part = 0; part < PARTS; part++) {
        printf("%s:\n", l->parts[part].title);
        cv_info_print(&l->parts[part]);
    }
    if (l->streamed)
        printf("the text encoder is streamed: of it nothing is loaded\n");
    if (l->streamed_dit)
        printf("of the transformer, %.3f GB are streamed\n",
               (double)l->streamed_dit / 1e9);
    printf("takes %.3f GB when it is loaded\n", (double)l->resident / 1e9);
    if (l->runs > 1)
        printf("\n%34s %24s\n", "the first time",
               l->runs > 2 ? "median of the others" : "the second time");
    else
        printf("\n%34s\n", "the only time");
    print_row(l, OPENING, "opening");
    for (int part = 0; part < PARTS; part++)
        print_row(l, part, l->parts[part].title);
    print_row(l, SUM, "all parts");
    print_cached(l, 0, "before the first time");
    if (l->runs > 1)
        print_cached(l, l->runs - 1, "before the last time");
    if (l->memory.most)
        printf("memory of the process without files: %.1f MB before the parts, "
               "%.1f MB at most while loading\n",
               (double)l->memory.before / 1e6, (double)l->memory.most / 1e6);
}

static cJSON *make_row(const Load *l, int row, cJSON *o)
{
    int err = 0;

    if (row != OPENING) {
        err |= cv_info_add(o, "loaded_bytes",
                           cJSON_CreateNumber((double)l->bytes[row]));
        err |= cv_info_add(o, "first_gb_per_s", cJSON_CreateNumber(
                               speed(l->bytes[row], l->first[row])));
    }
    err |= cv_info_add(o, "first_s", cJSON_CreateNumber(l->first[row]));
    if (l->runs > 1) {
        err |= cv_info_add(o, "median_s", cJSON_CreateNumber(l->median[row]));
        if (row != OPENING)
            err |= cv_info_add(o, "gb_per_s", cJSON_CreateNumber(
                                   speed(l->bytes[row], l->median[row])));
    }
    if (!err)
        return o;
    cJSON_Delete(o);
    return NULL;
}

static int print_json(const Load *l, const char *command)
{
    cJSON *o = cJSON_CreateObject(), *parts = cJSON_CreateArray();
    int err = o && parts ? 0 : -1;

    for (int part = 0; part < PARTS && !err; part++) {
        cJSON *row = make_row(l, part, cv_info_json(&l->parts[part]));

        if (row && l->cached[part][0] >= 0)
            err |= cv_info_add(row, "first_cached",
                               cJSON_CreateNumber(l->cached[part][0]));
        if (row && l->runs > 1 && l->cached[part][l->runs - 1] >= 0)
            err |= cv_info_add(row, "last_cached", cJSON_CreateNumber(
                                   l->cached[part][l->runs - 1]));
        if (!row || !cJSON_AddItemToArray(parts, row)) {
            cJSON_Delete(row);
            err = -1;
        }
    }
    err |= cv_info_add(o, "command", cJSON_CreateString(command));
    err |= cv_info_add(o, "version",
                       cJSON_CreateString(CAUSVID_VERSION_STRING));
    err |= cv_info_add(o, "commit", cJSON_CreateString(cv_bench_commit()));
    err |= cv_info_add(o, "device", cJSON_CreateString(l->device));
    err |= cv_info_add(o, "runs", cJSON_CreateNumber(l->runs));
    err |= cv_info_add(o, "streamed", cJSON_CreateBool(l->streamed));
    err |= cv_info_add(o, "streamed_transformer_bytes",
                       cJSON_CreateNumber((double)l->streamed_dit));
    err |= cv_info_add(o, "resident_bytes",
                       cJSON_CreateNumber((double)l->resident));
    err |= cv_info_add(o, "memory_before",
                       cJSON_CreateNumber((double)l->memory.before));
    err |= cv_info_add(o, "memory_most",
                       cJSON_CreateNumber((double)l->memory.most));
    err |= cv_info_add(o, "opening",
                       make_row(l, OPENING, cJSON_CreateObject()));
    err |= cv_info_add(o, "parts", parts);
    err |= cv_info_add(o, "sum", make_row(l, SUM, cJSON_CreateObject()));
    if (!err)
        err = cv_info_puts(o, 0);
    cJSON_Delete(o);
    return err;
}

int cv_bench_load(const CausvidSettings *settings, const CausvidClip *clip,
                  int runs, int cold, int json, const char *command,
                  CvLog *log)
{
    Load *l = calloc(1, sizeof(*l));
    int err = 0;

    if (!l)
        return cv_fail_memory(log, sizeof(*l), "the results");
    l->settings = settings;
    l->clip = clip;
    l->log  = log;
    l->runs = runs;
    l->cold = cold;
    err = find_files(l);
    for (int run = 0; run < runs && !err; run++)
        err = load_once(l, run);
    if (!err) {
        find_medians(l);
        if (!json)
            print_text(l, command);
        else if (print_json(l, command) < 0)
            err = cv_fail_memory(log, sizeof(*l), "the results");
    }
    free(l);
    return err;
}
