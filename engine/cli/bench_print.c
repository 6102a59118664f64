/*
 * What `causvid bench` prints: text, a line of JSON, or a table.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench.h"
#include "commit.h" /* made by the Makefile: CV_COMMIT */
#include "config.h"
#include "device.h"
#include "info.h"

/* A number with its name. */
typedef struct Row {
    const char *key, *label, *unit;
    double median, least, most;
    double published;  /* for the same clip; 0: nothing */
} Row;

/* The headline comes first, then the machine's ceilings, then what the
 * headline is made of. */
typedef struct Report {
    Row rows[40];
    int headline, ceilings, n; /* where each of the three ends */
    char product[64];          /* a label */
} Report;

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static Row row(const char *key, const char *label, const char *unit,
               double value)
{
    return (Row){ key, label, unit, value, value, value, 0 };
}

static Row times(CvBench *b, CvBenchTime which, const char *key,
                 const char *label)
{
    double *s = b->seconds[which];
    int n = b->runs;

    qsort(s, (size_t)n, sizeof(*s), compare_doubles);
    return (Row){ key, label, "s",
                  n % 2 ? s[n / 2] : (s[n / 2 - 1] + s[n / 2]) / 2,
                  s[0], s[n - 1], 0 };
}

/* The clip that CausVid's published figures are of: a 14B model on an H100. */
static int is_headline(const CvBench *b)
{
    const CvClip *c = &b->clip;

    return cv_dit_size(b->model.dit)->dim == 5120 && !c->causal &&
           c->width == 832 && c->height == 480 && c->frames == 81 &&
           c->schedule.steps == 6 && c->guidance == 1;
}

static void add_headline(CvBench *b, Report *report, int gpu)
{
    Row *r = report->rows;

    r[0] = times(b, CV_BENCH_DENOISED, "denoised_s", b->clip.causal ?
                 "sampling, with cache passes" : "sampling");
    r[1] = times(b, CV_BENCH_LAST, "last_frame_s", "prompt to last frame");
    r[2] = times(b, CV_BENCH_CONTINUOUS, "continuous_s",
                 "a clip, continuously");
    r[3] = row("process_s", "process start to last frame", "s", b->process);
    r[4] = row("measured_gb", gpu ? "memory, in use on the GPU"
                                  : "memory, peak of the process",
               "GB", (double)b->memory.used / 1e9);
    if (is_headline(b)) {
        /* 43 s: the published clip loaded its model */
        const double published[] = { 21, 43, 22, 43, 21.56 };

        for (int i = 0; i < 5; i++)
            r[i].published = published[i];
    }
    r[5] = row("frames_per_s", "frames a second, continuously", "",
               (double)b->clip.frames / r[2].median);
    report->headline = report->n = 6;
}

static void add_ceilings(CvBench *b, Report *report)
{
    const CvCeilings *c = &b->ceilings;
    const double work = cv_bench_work(b);
    const Row sampling = times(b, CV_BENCH_SAMPLING, "", "");
    Row *r = report->rows + report->n;

    snprintf(report->product, sizeof(report->product),
             "%s product, %lld x %lld", b->model.backend->activation ==
             CV_F32 ? "float32" : "bf16", (long long)c->product_size,
             (long long)c->product_size);
    if (c->product > 0)
        *r++ = row("product_tflops", report->product, "TFLOP/s",
                   c->product / 1e12);
    if (c->copy > 0)
        *r++ = row("copy_tbs", "copy, bytes read and written", "TB/s",
                   c->copy / 1e12);
    *r++ = row("work_tflop", "work of the denoising steps", "TFLOP",
               work / 1e12);
    *r++ = row("sampling_tflops", "denoising", "TFLOP/s",
               work / 1e12 / sampling.median);
    if (c->product > 0)
        *r++ = row("sampling_share", "denoising, share of the product's", "%",
                   100 * work / sampling.median / c->product);
    report->ceilings = report->n = (int)(r - report->rows);
}

static void add_details(CvBench *b, Report *report, int gpu)
{
    Row *r = report->rows + report->n;

    *r++ = row("load_s", "loading the model", "s", b->load);
    *r++ = row("warm_up_s", "first clip, prompt to last frame", "s",
               b->warm_up);
    *r++ = times(b, CV_BENCH_FIRST, "first_frame_s", "prompt to first frame");
    *r++ = times(b, CV_BENCH_UNDECODED, "undecoded_s",
                 "prompt to last latent, no decoding");
    *r++ = times(b, CV_BENCH_TEXT, "text_s", "stage: text encoder");
    *r++ = times(b, CV_BENCH_SAMPLING, "sampling_s", "stage: denoising");
    *r++ = times(b, CV_BENCH_CACHE, "cache_s", "stage: cache passes");
    *r++ = times(b, CV_BENCH_VAE, "vae_s", "stage: VAE");
    *r++ = times(b, CV_BENCH_PICTURES, "pictures_s", "stage: nv12 on the host");
    if (gpu) {
        *r++ = row("taken_gb", "memory, taken for model and clip", "GB",
                   (double)b->taken_bytes / 1e9);
        *r++ = row("before_gb", "memory, CUDA and other programs", "GB",
                   (double)b->memory.before / 1e9);
    }
    *r++ = row("predicted_gb", "memory, predicted peak", "GB",
               (double)(b->taken_bytes + (gpu ? b->memory.before +
                                          CV_CUDA_CODE_BYTES : 0)) / 1e9);
    report->n = (int)(r - report->rows);
}

/* The rest of the first line of a file in /proc that begins with `begin`. */
static void find_line(const char *path, const char *begin, char text[128])
{
    FILE *file = fopen(path, "r");
    char line[512];

    snprintf(text, 128, "unknown");
    while (file && fgets(line, sizeof(line), file)) {
        const char *at = line + strlen(begin);

        if (strncmp(line, begin, strlen(begin)))
            continue;
        at += strspn(at, " \t:");
        snprintf(text, 128, "%.*s", (int)strcspn(at, "\n"), at);
        break;
    }
    if (file)
        fclose(file);
}

typedef struct Facts {
    char device[160], processor[128], driver[128], clip[192], name[160];
} Facts;

static void find_facts(const CvBench *b, Facts *f)
{
    const CvBackend *backend = b->model.backend;
    const CvClip *c = &b->clip;
    int gpu = !strcmp(backend->name, "cuda");

    snprintf(f->device, sizeof(f->device), "%s, %s%s", backend->name,
             backend->device, gpu ? "" : ", float32");
    find_line("/proc/cpuinfo", "model name", f->processor);
    f->driver[0] = 0;
    if (gpu)
        find_line("/proc/driver/nvidia/version", "NVRM version", f->driver);
    snprintf(f->name, sizeof(f->name), "%s (%s)", b->model.recipe.name,
             c->causal ? "causal" : "bidirectional");
    snprintf(f->clip, sizeof(f->clip), "%dx%d, %lld frames, %d steps of %s, "
             "guidance %g, a prompt of %lld tokens", c->width, c->height,
             (long long)c->frames, c->schedule.steps,
             cv_sampler_name(c->schedule.sampler), c->guidance,
             (long long)b->tokens);
}

static void print_facts(const CvBench *b, const Facts *f, const char *begin)
{
    printf("%scommand: %s\n", begin, b->command);
    printf("%sversion: causvid %s, %s\n", begin, CAUSVID_VERSION_STRING,
           CV_COMMIT);
    printf("%sdevice: %s\n", begin, f->device);
    printf("%sprocessor: %s\n", begin, f->processor);
    if (f->driver[0])
        printf("%sdriver: %s\n", begin, f->driver);
    printf("%smodel: %s, %s\n", begin, f->name,
           cv_dit_describe(b->model.dit));
    printf("%sclip: %s\n", begin, f->clip);
    printf("%smedian of %d run%s after a warm-up\n", begin, b->runs,
           b->runs == 1 ? "" : "s");
}

/* A value as it is read best; *unit begins with a space. */
static double shown(const Row *r, double value, char unit[16])
{
    int small = *r->unit == 'T' && r->median < 0.999;

    snprintf(unit, 16, "%s%s%s", *r->unit ? " " : "", small ? "G" : "",
             r->unit + small);
    return small ? 1e3 * value : value;
}

/* A part of the rows below `title`, with what was published beside them. */
static void print_rows(const Row *rows, int n, const char *title,
                       int published)
{
    const char *beside = "published, H100";

    printf("\n%s%*s\n", title, published ? 65 - (int)strlen(title) : 0,
           published ? beside : "");
    for (int i = 0; i < n; i++) {
        const Row *r = &rows[i];
        char unit[16];
        const double value = shown(r, r->median, unit);
        int used = printf("%-36s %9.*f%s", r->label, value < 100 ? 3 : 1,
                          value, unit);

        if (published && r->published > 0)
            printf("%*.4g%s", 65 - used - (int)strlen(unit), r->published,
                   unit);
        else if (r->least < r->most)
            printf("  (%.3f to %.3f)", r->least, r->most);
        putchar('\n');
    }
}

static void print_table(const Row *rows, int n, const char *title,
                        int published)
{
    printf("\n| %s | median | least | most |%s\n|---|---|---|---|%s\n", title,
           published ? " published, H100 |" : "", published ? "---|" : "");
    for (int i = 0; i < n; i++) {
        const Row *r = &rows[i];
        char unit[16];
        const double value = shown(r, r->median, unit);

        printf("| %s | %.*f%s |", r->label, value < 100 ? 3 : 1, value, unit);
        if (r->least < r->most)
            printf(" %.3f | %.3f |", r->least, r->most);
        else
            printf(" | |");
        if (published && r->published > 0)
            printf(" %.4g%s |", r->published, unit);
        else if (published)
            printf(" |");
        putchar('\n');
    }
}

static void print_text(const CvBench *b, const Facts *f, const Report *report,
                       int markdown)
{
    void (*print)(const Row *, int, const char *, int) =
        markdown ? print_table : print_rows;
    const Row *r = report->rows;

    print_facts(b, f, markdown ? "- " : "");
    print(r, report->headline, markdown ? "headline" : "Headline",
          is_headline(b));
    print(r + report->headline, report->ceilings - report->headline,
          markdown ? "this machine" : "This machine", 0);
    print(r + report->ceilings, report->n - report->ceilings,
          markdown ? "more" : "More", 0);
}

#define add cv_info_add

/* key, and key_least and key_most where several values were measured */
static int add_row(cJSON *o, const Row *r)
{
    char key[64];

    if (add(o, r->key, cJSON_CreateNumber(r->median)) < 0)
        return -1;
    if (r->least < r->most) {
        snprintf(key, sizeof(key), "%s_least", r->key);
        if (add(o, key, cJSON_CreateNumber(r->least)) < 0)
            return -1;
        snprintf(key, sizeof(key), "%s_most", r->key);
        if (add(o, key, cJSON_CreateNumber(r->most)) < 0)
            return -1;
    }
    if (!(r->published > 0))
        return 0;
    snprintf(key, sizeof(key), "%s_published", r->key);
    return add(o, key, cJSON_CreateNumber(r->published));
}

static int print_json(const CvBench *b, const Facts *f, const Report *report)
{
    const CvClip *c = &b->clip;
    cJSON *o = cJSON_CreateObject();
    int err = -1;

    if (!o ||
        add(o, "command", cJSON_CreateString(b->command)) < 0 ||
        add(o, "version", cJSON_CreateString(CAUSVID_VERSION_STRING)) < 0 ||
        add(o, "commit", cJSON_CreateString(CV_COMMIT)) < 0 ||
        add(o, "device", cJSON_CreateString(f->device)) < 0 ||
        add(o, "processor", cJSON_CreateString(f->processor)) < 0 ||
        add(o, "driver", cJSON_CreateString(f->driver)) < 0 ||
        add(o, "model", cJSON_CreateString(b->model.files.root)) < 0 ||
        add(o, "name", cJSON_CreateString(f->name)) < 0 ||
        add(o, "transformer",
            cJSON_CreateString(cv_dit_describe(b->model.dit))) < 0 ||
        add(o, "precision", cJSON_CreateString(
                b->model.backend->activation == CV_F32 ? "fp32" :
                b->model.backend->narrow ? "fp8" : "bf16")) < 0 ||
        add(o, "causal", cJSON_CreateBool(c->causal)) < 0 ||
        add(o, "width", cJSON_CreateNumber(c->width)) < 0 ||
        add(o, "height", cJSON_CreateNumber(c->height)) < 0 ||
        add(o, "frames", cJSON_CreateNumber((double)c->frames)) < 0 ||
        add(o, "steps", cJSON_CreateNumber(c->schedule.steps)) < 0 ||
        add(o, "sampler", cJSON_CreateString(
                cv_sampler_name(c->schedule.sampler))) < 0 ||
        add(o, "guidance", cJSON_CreateNumber(c->guidance)) < 0 ||
        add(o, "tokens", cJSON_CreateNumber((double)b->tokens)) < 0 ||
        add(o, "runs", cJSON_CreateNumber(b->runs)) < 0)
        goto end;
    for (int i = 0; i < report->n; i++)
        if (add_row(o, &report->rows[i]) < 0)
            goto end;
    err = cv_info_puts(o, 0);
end:
    cJSON_Delete(o);
    return err;
}

const char *cv_bench_commit(void)
{
    return CV_COMMIT;
}

int cv_bench_print(CvBench *b, CvBenchForm form)
{
    const int gpu = !strcmp(b->model.backend->name, "cuda");
    Report report = { .n = 0 };
    Facts facts;

    add_headline(b, &report, gpu);
    add_ceilings(b, &report);
    add_details(b, &report, gpu);
    find_facts(b, &facts);
    if (form == CV_BENCH_JSON)
        return print_json(b, &facts, &report);
    print_text(b, &facts, &report, form == CV_BENCH_MARKDOWN);
    return 0;
}
