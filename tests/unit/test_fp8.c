/*
 * Weights in fp8: what their scales may be, and what is refused.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * Whole models, and CUDA, where weights stay in fp8: tests/model/test_fp8.c.
 */
#include <math.h>

#include "../tap.h"
#include "weights/reader.h"
#include "weights_util.h"

static Lines lines;
static CvBackend *cpu;

#define ROWS 4
#define COLUMNS 3
#define STEM "blocks.0.ffn.0"

/* E4M3: 1, -2, 0.5 | 448, 2^-9, -0 | 1.125, 0, 240 | -448, 3, 2^-6 */
static const uint8_t e4m3[ROWS * COLUMNS] = {
    0x38, 0xc0, 0x30, 0x7e, 0x01, 0x80, 0x39, 0x00, 0x77, 0xfe, 0x44, 0x08,
};
static const float of_e4m3[ROWS * COLUMNS] = {
    1, -2, 0.5f, 448, 0x1p-9f, -0.0f, 1.125f, 0, 240, -448, 3, 0x1p-6f,
};
/* E5M2: 1, -2, 0.5 | 57344, 2^-16, -0 | 1.25, 0, 7 | -57344, 3, 2^-14 */
static const uint8_t e5m2[ROWS * COLUMNS] = {
    0x3c, 0xc0, 0x38, 0x7b, 0x01, 0x80, 0x3d, 0x00, 0x47, 0xfb, 0x42, 0x04,
};
static const float of_e5m2[ROWS * COLUMNS] = {
    1, -2, 0.5f, 57344, 0x1p-16f, -0.0f, 1.25f, 0, 7, -57344, 3, 0x1p-14f,
};

/* What makes a directory a transformer's. */
#define TRANSFORMER                                              \
    { "patch_embedding.weight", CV_F32, 1, { 1 }, NULL },        \
    { "blocks.0.self_attn.q.weight", CV_F32, 1, { 1 }, NULL }
#define WEIGHT { STEM ".weight", CV_F8_E4M3, 2, { ROWS, COLUMNS }, e4m3 }

static int open_blob(CvWeights **w, Blob blob)
{
    int err = cv_weights_open_memory(w, blob.data, blob.size, "m.safetensors",
                                     &lines.log);

    return err ? err : cv_weights_canonical(*w, CV_KIND_TRANSFORMER,
                                            &lines.log);
}

/* ---- numbers ---- */

/* The weight with this scale, in float32. Rows 1 and 3 alone with `some`. */
static int load(float *values, const StTensor *tensors, int n, int some)
{
    static const int32_t ids[] = { 3, 1 };
    Blob blob = st_write(tensors, n, 1);
    CvWeights *w = NULL;
    CvArena arena = { 0 };
    CvLoader loader = { .backend = cpu, .arena = &arena, .log = &lines.log };
    CvMatrix m = { .scale = { 0 } };
    int err = open_blob(&w, blob);

    if (err)
        tap_bail("%s", lines.error);
    loader.weights = w;
    cv_arena_plan(&arena, cpu);
    for (int pass = 0; pass < 2 && !err; pass++) {
        m.weight.dim[0] = some ? 2 : ROWS;
        m.weight.dim[1] = COLUMNS;
        if (pass)
            err = cv_arena_take(&arena, &lines.log, "a test");
        if (!err)
            err = some ? cv_load_matrix_rows(&loader, &m, ROWS, ids,
                                             STEM ".weight")
                       : cv_load_matrix(&loader, &m, STEM ".weight");
    }
    if (!err && (m.weight.type != CV_F32 || m.scale.data))
        tap_bail("the CPU has it in %s", cv_type_name(m.weight.type));
    if (!err)
        err = cv_download(cpu, values, &m.weight);
    cpu->planning = 0;
    cv_arena_free(&arena);
    cv_weights_close(&w);
    blob_free(&blob);
    return err;
}

static void test_numbers(void)
{
    static const float one[] = { 0.3f }, each[] = { 0.1f, -3, 1e-8f, 0 };
    static const uint16_t half[] = { 0x3555, 0xb800, 0x0001, 0x7bff };
    static const float of_half[] = { 0x1.554p-2f, -0.5f, 0x1p-24f, 65504 };
    static const uint16_t bf16[] = { 0x3e9a };
    static const float of_bf16[] = { 0x1.34p-2f };
    static const struct {
        const char *what;
        StTensor scale;
        const float *factors;
        int n;
    } cases[] = {
        { "none", { NULL, CV_F32, 0, { 0 }, NULL }, NULL, 0 },
        { "ComfyUI's", { STEM ".scale_weight", CV_F32, 0, { 0 }, one }, one,
          1 },
        { "later ones", { STEM ".weight_scale", CV_F32, 1, { 1 }, one }, one,
          1 },
        { "one a row", { STEM ".weight_scale", CV_F32, 1, { ROWS }, each },
          each, ROWS },
        { "a column", { STEM ".weight_scale", CV_F32, 2, { ROWS, 1 }, each },
          each, ROWS },
        { "in half", { STEM ".weight_scale", CV_F16, 2, { ROWS, 1 }, half },
          of_half, ROWS },
        { "in bf16", { STEM ".scale_weight", CV_BF16, 0, { 0 }, bf16 },
          of_bf16, 1 },
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++)
        for (int kind = 0; kind < 2; kind++) {
            StTensor all[] = { TRANSFORMER, WEIGHT, cases[i].scale };
            const float *numbers = kind ? of_e5m2 : of_e4m3;
            float got[ROWS * COLUMNS], rows[2 * COLUMNS];
            int wrong = 0;

            if (kind) {
                all[2].type = CV_F8_E5M2;
                all[2].data = e5m2;
            }
            if (load(got, all, cases[i].n ? 4 : 3, 0) < 0 ||
                load(rows, all, cases[i].n ? 4 : 3, 1) < 0)
                tap_bail("%s", lines.error);
            for (int k = 0; k < ROWS * COLUMNS; k++) {
                const int r = k / COLUMNS;
                volatile float f = numbers[k];

                if (cases[i].n)
                    f *= cases[i].factors[cases[i].n > 1 ? r : 0];
                wrong += got[k] != f;
                if (r == 1 || r == 3)
                    wrong += rows[k % COLUMNS + (r == 1) * COLUMNS] != f;
            }
            ok(!wrong && lines_none(&lines), "%s, scales: %s",
               cv_type_name(all[2].type), cases[i].what);
        }
}

/* ---- refusals ---- */

static void refused(const StTensor *extra, int n, int error, const char *parts)
{
    StTensor all[8] = { TRANSFORMER };
    CvWeights *w = NULL;
    Blob blob;
    int err;

    for (int i = 0; i < n; i++)
        all[2 + i] = extra[i];
    blob = st_write(all, 2 + n, 0);
    err  = open_blob(&w, blob);
    ok(err == CAUSVID_ERR(error) && lines_error(&lines, parts),
       "refused: %s", parts);
    cv_weights_close(&w);
    blob_free(&blob);
}

static void test_refused(void)
{
    static const float ones[ROWS + 1] = { 1, 1, 1, 1, 1 };
    static const struct {
        int error;
        const char *parts;
        StTensor scale, other;
    } cases[] = {
        { ENOSYS, "'" STEM ".weight_scale' is F32 [2, 2]; expected one number, "
          "or one for each row|F8_E4M3 [4, 3]",
          { STEM ".weight_scale", CV_F32, 2, { 2, 2 }, ones }, WEIGHT },
        { ENOSYS, "F32 [5]; expected one number",
          { STEM ".scale_weight", CV_F32, 1, { 5 }, ones }, WEIGHT },
        { ENOSYS, "F32 [1, 4]; expected one number",
          { STEM ".weight_scale", CV_F32, 2, { 1, 4 }, ones }, WEIGHT },
        { ENOSYS, "F32 [0]; expected one number",
          { STEM ".weight_scale", CV_F32, 1, { 0 }, ones }, WEIGHT },
        { ENOSYS, "is I32 []; expected F32, F16 or BF16",
          { STEM ".weight_scale", CV_I32, 0, { 0 }, ones }, WEIGHT },
        { ENOSYS, "'" STEM ".weight' is I8 [4, 3] with a scale|only F8_E4M3",
          { STEM ".weight_scale", CV_F32, 0, { 0 }, ones },
          { STEM ".weight", CV_I8, 2, { ROWS, COLUMNS }, e4m3 } },
        { ENOSYS, "'" STEM ".weight' is BF16 [2, 3] with a scale",
          { STEM ".scale_weight", CV_F32, 0, { 0 }, ones },
          { STEM ".weight", CV_BF16, 2, { 2, 3 }, e4m3 } },
        { EILSEQ, "but not the tensor '" STEM ".weight'",
          { STEM ".scale_weight", CV_F32, 0, { 0 }, ones },
          { STEM ".weigh", CV_F8_E4M3, 2, { ROWS, COLUMNS }, e4m3 } },
    };
    const StTensor two[] = {
        WEIGHT, { STEM ".weight_scale", CV_F32, 0, { 0 }, ones },
        { STEM ".scale_weight", CV_F32, 0, { 0 }, ones },
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        const StTensor extra[] = { cases[i].other, cases[i].scale };

        refused(extra, 2, cases[i].error, cases[i].parts);
    }
    refused(two, 3, EILSEQ, "has two scales|scale_weight'|weight_scale'");
}

/* Values that would make numbers that are none. */
static void test_values(void)
{
    static const float bad[] = { NAN, INFINITY, -INFINITY, 3e38f };
    float values[ROWS * COLUMNS];
    uint8_t broken[sizeof(e4m3)];

    for (int i = 0; i < 5; i++) {
        float factors[ROWS] = { 1, 1, 1, 1 };
        StTensor all[] = { TRANSFORMER, WEIGHT,
                           { STEM ".weight_scale", CV_F32, 1, { ROWS },
                             factors } };

        memcpy(broken, e4m3, sizeof(broken));
        if (i < 4)
            factors[i] = bad[i];
        else
            broken[5] = 0xff;
        all[2].data = broken;
        ok(load(values, all, 4, 0) == CAUSVID_ERR(EILSEQ) &&
           lines_error(&lines, "'" STEM ".weight' or '" STEM ".weight_scale' "
                       "holds a value that is not a number"), "%s",
           i < 4 ? "a wrong factor" : "a wrong number");
    }
}

/* ---- what files say ---- */

static void test_quant(void)
{
    static const struct {
        int error;
        const char *parts, *json;
    } cases[] = {
        { 0, "", "{\"format\": \"float8_e4m3fn\"}" },
        { 0, "", "{\"format\": \"float8_e4m3fn\", "
          "\"full_precision_matrix_mult\": true}" },
        { ENOSYS, "of the format 'nvfp4' ('" STEM ".comfy_quant')",
          "{\"format\": \"nvfp4\"}" },
        { ENOSYS, "of the format 'int8_tensorwise'",
          "{\"format\": \"int8_tensorwise\"}" },
        { ENOSYS, "of the format ''", "{\"format\": 8}" },
        { ENOSYS, "of the format ''", "[1, 2]" },
        { ENOSYS, "says \"group_size\"",
          "{\"format\": \"float8_e4m3fn\", \"group_size\": 64}" },
        { EILSEQ, "is F8_E5M2, but it is F8_E4M3 [4, 3]",
          "{\"format\": \"float8_e5m2\"}" },
        { EILSEQ, "'" STEM ".comfy_quant'", "{\"format\": " },
        { EILSEQ, "'" STEM ".comfy_quant' is U8 [1]; expected", "{" },
    };
    const StTensor alone = { STEM ".comfy_quant", CV_U8, 1, { 4 }, "null" };
    const StTensor wide[] = {
        WEIGHT, { STEM ".comfy_quant", CV_F32, 1, { 4 }, NULL } };

    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        StTensor extra[] = { WEIGHT,
                             { STEM ".comfy_quant", CV_U8, 1, { 0 }, NULL } };
        StTensor all[] = { TRANSFORMER, extra[0], extra[1] };
        CvWeights *w = NULL;
        Blob blob;

        extra[1].dim[0] = all[3].dim[0] = (int64_t)strlen(cases[i].json);
        extra[1].data   = all[3].data   = cases[i].json;
        if (cases[i].error) {
            refused(extra, 2, cases[i].error, cases[i].parts);
            continue;
        }
        blob = st_write(all, 4, 0);
        ok(!open_blob(&w, blob) && cv_weights_count(w) == 3 &&
           lines_none(&lines), "%s is read", cases[i].json);
        is_int(cv_weights_find(w, STEM ".weight")->exact,
               strstr(cases[i].json, "true") != NULL);
        cv_weights_close(&w);
        blob_free(&blob);
    }
    refused(&alone, 1, EILSEQ, "has no such tensor");
    refused(wide, 2, EILSEQ, "is F32 [4]; expected some U8");
}

static void test_metadata(void)
{
#define LAYERS "{\\\"layers\\\": {"
#define NAME   "\\\"diffusion_model." STEM "\\\": "
    static const struct {
        int error;
        const char *parts, *value;
    } cases[] = {
        { 0, "", "\"" LAYERS NAME "{\\\"format\\\": \\\"float8_e4m3fn\\\"}}}\""
        },
        { 0, "", "\"" LAYERS "\\\"other\\\": {\\\"format\\\": \\\"nvfp4\\\"}}}"
          "\"" },
        { ENOSYS, "of the format 'nvfp4' ('" STEM ".weight')",
          "\"" LAYERS NAME "{\\\"format\\\": \\\"nvfp4\\\"}}}\"" },
        { EILSEQ, "is F8_E5M2, but it is F8_E4M3",
          "\"" LAYERS NAME "{\\\"format\\\": \\\"float8_e5m2\\\"}}}\"" },
        { ENOSYS, "has no \"layers\"", "\"{}\"" },
        { ENOSYS, "has no \"layers\"", "\"[]\"" },
        { EILSEQ, "_quantization_metadata", "\"{\"" },
        { EILSEQ, "_quantization_metadata is no text", "{}" },
        { EILSEQ, "__metadata__ is no object", NULL },
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        char header[2048];
        CvWeights *w = NULL;
        Blob blob;
        int err;

        snprintf(header, sizeof(header), "{\"__metadata__\":%s%s%s,"
                 "\"patch_embedding.weight\":{\"dtype\":\"F32\",\"shape\":[1],"
                 "\"data_offsets\":[0,4]},\"blocks.0.self_attn.q.weight\":{"
                 "\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]},"
                 "\"" STEM ".weight\":{\"dtype\":\"F8_E4M3\",\"shape\":[4,3],"
                 "\"data_offsets\":[8,20]}}", cases[i].value ?
                 "{\"format\":\"pt\",\"_quantization_metadata\":" : "[",
                 cases[i].value ? cases[i].value : "",
                 cases[i].value ? "}" : "]");
        blob = st_raw(header, 20);
        err  = open_blob(&w, blob);
        ok(err == CAUSVID_ERR(cases[i].error) &&
           (err ? lines_error(&lines, cases[i].parts) : lines_none(&lines)),
           "metadata: %s", err ? cases[i].parts : "read");
        cv_weights_close(&w);
        blob_free(&blob);
    }
}

int main(void)
{
    lines_init(&lines);
    if (cv_cpu_open(&cpu, 1, &lines.log) < 0)
        tap_bail("no CPU backend");
    test_numbers();
    test_refused();
    test_values();
    test_quant();
    test_metadata();
    cpu->close(&cpu);
    cv_log_free(&lines.log);
    return tap_done();
}
