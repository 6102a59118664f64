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

/* A number with its name, beside what was published for the same clip. */
typedef struct Row {
    const char *key, *label, *unit;
    double median, least, most;
    double published;  /* 0: nothing */
} Row;

enum { MAX_ROWS = 24 };

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

static int make_rows(CvBench *b, Row rows[MAX_ROWS])
{
    const int gpu = !strcmp(b->model.backend->name, "cuda");
    double frames = (double)b->clip.frames;
    Row *r = rows, *last, *sampling, *continuous, *memory;

    *r++ = row("load_s", "loading the model", "s", b->load);
    *r++ = row("warm_up_s", "first clip, prompt to last frame", "s",
               b->warm_up);
    *r++ = times(b, CV_BENCH_FIRST, "first_frame_s", "prompt to first frame");
    *r++ = times(b, CV_BENCH_LAST, "last_frame_s", "prompt to last frame");
    last = r - 1;
    *r++ = times(b, CV_BENCH_CONTINUOUS, "continuous_s",
                 "a clip, continuously");
    continuous = r - 1;
    *r++ = times(b, CV_BENCH_UNDECODED, "undecoded_s",
                 "prompt to last latent, no decoding");
    *r++ = row("frames_per_s", "frames a second, continuously", "",
               frames / continuous->median);
    *r++ = times(b, CV_BENCH_TEXT, "text_s", "stage: text encoder");
    *r++ = times(b, CV_BENCH_SAMPLING, "sampling_s", "stage: denoising");
    sampling = r - 1;
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
    *r++ = row("measured_gb", gpu ? "memory, in use on the GPU"
                                  : "memory, peak of the process",
               "GB", (double)b->memory.used / 1e9);
    memory = r - 1;
    if (is_headline(b)) {
        sampling->published   = 21;
        last->published       = 43;
        continuous->published = 22;
        memory->published     = 21.56;
    }
    return (int)(r - rows);
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

static void print_text(const CvBench *b, const Facts *f, const Row *rows,
                       int n, int markdown)
{
    const char *begin = markdown ? "- " : "";
    int headline = is_headline(b);

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
    printf("%smedian of %d run%s after a warm-up\n\n", begin, b->runs,
           b->runs == 1 ? "" : "s");
    if (markdown)
        printf("| what | median | least | most |%s\n|---|---|---|---|%s\n",
               headline ? " published, H100 |" : "", headline ? "---|" : "");
    for (int i = 0; i < n; i++) {
        const Row *r = &rows[i];
        const char *space = *r->unit ? " " : "";
        char published[32] = "";

        if (r->published > 0)
            snprintf(published, sizeof(published), "%.4g %s", r->published,
                     r->unit);
        if (markdown) {
            printf("| %s | %.3f%s%s | %.3f | %.3f |", r->label, r->median,
                   space, r->unit, r->least, r->most);
            if (headline)
                printf(" %s |", published);
        } else {
            printf("%-34s %9.3f%s%s", r->label, r->median, space, r->unit);
            if (r->least < r->most)
                printf("  (%.3f to %.3f)", r->least, r->most);
            if (*published)
                printf("  published, on an H100: %s", published);
        }
        putchar('\n');
    }
}

static int add(cJSON *object, const char *key, cJSON *value)
{
    if (value && cJSON_AddItemToObject(object, key, value))
        return 0;
    cJSON_Delete(value);
    return -1;
}

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

static int print_json(const CvBench *b, const Facts *f, const Row *rows, int n)
{
    const CvClip *c = &b->clip;
    cJSON *o = cJSON_CreateObject();
    char *text = NULL;
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
                b->model.backend->activation == CV_F32 ? "fp32" : "bf16")) < 0 ||
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
    for (int i = 0; i < n; i++)
        if (add_row(o, &rows[i]) < 0)
            goto end;
    if (!(text = cJSON_PrintUnformatted(o)))
        goto end;
    puts(text);
    err = 0;
end:
    cJSON_free(text);
    cJSON_Delete(o);
    return err;
}

const char *cv_bench_commit(void)
{
    return CV_COMMIT;
}

int cv_bench_print(CvBench *b, CvBenchForm form)
{
    Row rows[MAX_ROWS];
    int n = make_rows(b, rows);
    Facts facts;

    find_facts(b, &facts);
    if (form == CV_BENCH_JSON)
        return print_json(b, &facts, rows, n);
    print_text(b, &facts, rows, n, form == CV_BENCH_MARKDOWN);
    return 0;
}
