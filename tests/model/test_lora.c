/*
 * LoRA files in the styles of several programs against merges by PyTorch.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * Fixtures: tests/model/make/lora.py. Numbers that are exact in any order give
 * the frames of the merged model bit for bit, on the CPU and on CUDA (emulated,
 * with --gpu on a GPU) in float32 and in bf16; others its tensors within
 * rounding.
 */
#include <unistd.h>

#include "../tap.h"
#include "bad_model.h"
#include "fixture.h"
#include "module.h"
#include "weights/lora.h"

#define FRAMES 9 /* the first block */
#define STYLES "lora/"

static char path[8][FIXTURE_PATH];

static const char *lora(const char *name)
{
    static int turn;
    char *p = path[turn++ % 8];

    fixture_path(p, name);
    return p;
}

/* ---- frames ---- */

static CausvidSettings settings;

static Outcome frames_with(const char *list)
{
    settings.lora = list;
    return try_model(&settings, FRAMES);
}

/* A fixture as a file of the copy. */
static void put(const char *name, const char *as)
{
    size_t n = (size_t)1 << 20;
    char *data = need(malloc(n));
    FILE *file = fopen(lora(name), "rb");

    if (!file)
        tap_bail("%s is missing", name);
    n = fread(data, 1, n, file);
    fclose(file);
    file_write(as, data, n);
    free(data);
}

/* The frames of the model whose transformer is that of a fixture. */
static uint64_t frames_of(const char *name)
{
    Outcome o;

    put(name, DIT_FILE);
    o = frames_with(NULL);
    if (o.error || o.frames != FRAMES)
        tap_bail("%s: %s", name, line_text(&o));
    model_reset();
    return o.hash;
}

static void same(uint64_t expected, const char *list, const char *what)
{
    Outcome o = frames_with(list);

    if (!ok(is_unharmed(&o, FRAMES, expected), "%s: %s", settings.device ==
            CAUSVID_DEVICE_CUDA ? "cuda" : "cpu", what))
        print_outcome(&o);
}

static void test_frames(void)
{
    static const char *const styles[] = { "kohya", "diffusers", "peft" };
    uint64_t plain = frames_with(NULL).hash;
    uint64_t merged = frames_of(STYLES "merged.safetensors");
    uint64_t pairs = frames_of(STYLES "merged-pairs.safetensors");
    char list[2 * FIXTURE_PATH + 16], name[64];

    ok(plain != merged && merged != pairs && plain != pairs,
       "the changes show");
    same(merged, lora(STYLES "kijai.safetensors"), "the names of Kijai");
    for (int i = 0; i < 3; i++) {
        snprintf(name, sizeof(name), STYLES "%s.%s", styles[i],
                 i == 2 ? "pt" : "safetensors");
        same(pairs, lora(name), styles[i]);
    }
    snprintf(list, sizeof(list), "%s=1.0|%s", lora(STYLES "rest.safetensors"),
             lora(STYLES "blocks.safetensors"));
    same(merged, list, "two files");
    snprintf(list, sizeof(list), "%s=0", lora(STYLES "kijai.safetensors"));
    same(plain, list, "strength 0");
}

static void test_devices(void)
{
    static const enum CausvidPrecision all[] = { CAUSVID_PRECISION_FP32,
                                                 CAUSVID_PRECISION_BF16 };

    test_frames();
    settings.device = CAUSVID_DEVICE_CUDA;
    for (int i = 0; i < 2; i++) {
        settings.precision = all[i];
        tap_diag("precision %s", i ? "bf16" : "fp32");
        test_frames();
    }
    settings.device    = CAUSVID_DEVICE_CPU;
    settings.precision = CAUSVID_PRECISION_AUTO;
}

/* ---- tensors ---- */

/* Load all tensors with their changes; the largest difference to those of the
 * merged model, over the largest value of each. */
static double largest_error(Bench *bench, const char *list,
                            const char *merged_name)
{
    CvWeights *model = open_tensors(bench, "clip/model/" DIT_FILE);
    CvWeights *merged = open_tensors(bench, merged_name);
    CvLoader l = { .backend = bench->backend, .arena = &bench->arena,
                   .weights = model, .log = &bench->log };
    double worst = 0;

    if (cv_weights_canonical(model, CV_KIND_TRANSFORMER, l.log) < 0 ||
        cv_weights_canonical(merged, CV_KIND_TRANSFORMER, l.log) < 0 ||
        cv_loras_open(&l.loras, list, model, l.log) < 0)
        tap_bail("%s: %s", list, bench->error);
    for (int64_t i = 0; i < cv_weights_count(model); i++) {
        const CvEntry *e = cv_weights_at(model, i);
        const CvEntry *expected = cv_weights_find(merged, "%s", e->name);
        int64_t n = cv_elements(&e->tensor);
        double error = 0, largest = 0;
        CvTensor t = e->tensor;
        float *got;

        t.type = CV_F32;
        cv_arena_plan(l.arena, l.backend);
        if (cv_load(&l, &t, CV_LOAD_AS_IS, "%s", e->name) < 0 ||
            cv_arena_take(l.arena, l.log, "a tensor") < 0 ||
            cv_load(&l, &t, CV_LOAD_AS_IS, "%s", e->name) < 0 ||
            cv_finish(l.backend) < 0)
            tap_bail("%s: %s", e->name, bench->error);
        got = t.data;
        for (int64_t k = 0; k < n; k++) {
            float x;

            memcpy(&x, (const uint8_t *)expected->tensor.data + 4 * k, 4);
            error   = fmax(error, fabs((double)got[k] - x));
            largest = fmax(largest, fabs(x));
        }
        worst = fmax(worst, error / largest);
    }
    for (int i = 0; i < l.loras->n_files; i++)
        ok(l.loras->files[i].applied == l.loras->files[i].entries,
           "%s: applied %lld of %lld entries", merged_name,
           (long long)l.loras->files[i].applied,
           (long long)l.loras->files[i].entries);
    cv_load_release(&l);
    cv_loras_close(&l.loras);
    cv_weights_close(&model);
    cv_weights_close(&merged);
    return worst;
}

static void test_tensors(void)
{
    char list[2 * FIXTURE_PATH + 16];
    double error;
    Bench bench;

    bench_open(&bench, 2);
    error = largest_error(&bench, lora(STYLES "kijai.safetensors"),
                          STYLES "merged.safetensors");
    ok(error == 0, "exact sums: %.2e", error);
    snprintf(list, sizeof(list), "%s=0.7|%s=-1.5",
             lora(STYLES "random.safetensors"),
             lora(STYLES "kijai.safetensors"));
    error = largest_error(&bench, list, STYLES "merged-random.safetensors");
    ok(error <= 1e-6, "two files, alpha, ranks of 1 to 7, strengths: %.2e",
       error);
    bench_close(&bench);
}

/* ---- what is refused ---- */

static void refused(const char *list, int error, const char *parts,
                    const char *what)
{
    Outcome o = frames_with(list);

    if (!ok(is_refused(&o, "open", error, parts), "refused: %s", what))
        print_outcome(&o);
}

static void test_refused(void)
{
    refused("/nowhere/lora.safetensors=0.5", ENOENT,
            "/nowhere/lora.safetensors'", "no such file");
    refused(lora("clip/model/" DIT_FILE), EILSEQ,
            "holds a Wan transformer; expected a LoRA|option model",
            "a transformer");
    refused("random:wan-1.3b/transformer", EINVAL, "make no LoRA",
            "random numbers");
    refused("", EINVAL, "lora is empty", "no file");
    settings.model = lora("../../../samples/shapes");
    refused(lora(STYLES "kijai.safetensors"), EILSEQ,
            "kijai.safetensors': 'diffusion_model.blocks.0.diff_m' is F16 "
            "[1, 6, 32], but 'blocks.0.|[1, 6, 256]: use a LoRA for a model "
            "of this size", "a LoRA of another width");
    settings.model = NULL;
}

/* ---- recipes ---- */

typedef struct Said {
    char all[4096]; /* INFO and WARNING lines */
    int warnings;
} Said;

static void keep_lines(void *cookie, enum CausvidLogLevel level,
                       const char *format, va_list args)
{
    Said *said = cookie;
    size_t used = strlen(said->all);

    said->warnings += level == CAUSVID_LOG_WARNING;
    if (level <= CAUSVID_LOG_INFO) {
        vsnprintf(said->all + used, sizeof(said->all) - used - 1, format,
                  args);
        strcat(said->all, "\n");
    }
}

static int said_all(const Said *said, const char *text)
{
    int found = !!strstr(said->all, text);

    if (!found)
        tap_diag("%s", said->all);
    return found;
}

/* A LoRA that says what it is makes of plain Wan a model of few steps. */
static void test_recipe(void)
{
    CausvidContext *cv = NULL;
    CausvidSettings s = settings;
    CausvidInfo info;
    CausvidClip clip;
    Said said = { { 0 }, 0 };
    char list[FIXTURE_PATH + 8];

    file_remove("recipe.json");
    put(STYLES "kijai.safetensors", "../a_causvid_lora.safetensors");
    snprintf(list, sizeof(list), "%s=0.7",
             model_file("../a_causvid_lora.safetensors"));
    s.model   = model_file("");
    s.lora    = list;
    s.variant = CAUSVID_VARIANT_BIDIRECTIONAL;
    s.log     = keep_lines;
    s.cookie  = &said;
    if (causvid_open(&cv, &s) < 0)
        tap_bail("open: %s", said.all);
    causvid_get_info(cv, &info);
    ok(info.steps == 3 && info.guidance == 1 &&
       info.sampler == CAUSVID_SAMPLER_CAUSVID, "it chooses the recipe");
    ok(said_all(&said, "recipe: Wan + CausVid LoRA (causvid, 3 steps, shift 8, "
                "guidance 1), since 'a_causvid_lora.safetensors' says "
                "'causvid'"), "and says so");
    ok(said_all(&said, "applied 69 of 69 entries, strength 0.7"),
       "all entries are applied, and the log says it");
    causvid_default_clip(&clip);
    clip.prompt = "a cat";
    clip.width  = 48;
    clip.height = 16;
    clip.frames = 5;
    ok(!causvid_start(cv, &clip) && !said.warnings, "its recipe is fine");
    clip.steps    = 2;
    clip.guidance = 5;
    ok(!causvid_start(cv, &clip) && said.warnings == 1 &&
       said_all(&said, "\nsteps=2, guidance=5: not what Wan + CausVid LoRA was "
                "distilled for (3 steps of causvid, shift 8, guidance 1)"),
       "other settings get one warning");
    causvid_close(&cv);
    model_reset();
}

int main(int argc, char **argv)
{
    use_module(argc, argv);
    causvid_default_settings(&settings);
    settings.device = CAUSVID_DEVICE_CPU;
    model_reset();
    test_devices();
    test_tensors();
    test_refused();
    test_recipe();
    return tap_done();
}
