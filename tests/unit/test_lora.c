/*
 * LoRA files: lists of them, every style of names, what is added, and every
 * way in which a file can be the wrong one.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#include <math.h>
#include <unistd.h>

#include "../tap.h"
#include "recipe.h"
#include "weights/lora.h"
#include "weights_util.h"

#define FAILED(e) CAUSVID_ERR(e)

static Lines lines;
static CvBackend *cpu;
static char folder[512]; /* of the LoRA files */

static void text_is(const char *got, const char *expected, const char *what)
{
    if (!ok(!strcmp(got, expected), "%s: %s", what, expected))
        tap_diag("  got %s", got);
}

/* ---- lists ---- */

/* "path strength,path strength" or "error". */
static const char *items(const char *list)
{
    static char text[256];
    char path[CV_PATH_SIZE];
    double strength;
    size_t used = 0;
    int err;

    text[0] = 0;
    while ((err = cv_lora_next(&list, path, &strength, &lines.log)) > 0)
        used += (size_t)snprintf(text + used, sizeof(text) - used, "%s%s %g",
                                 used ? "," : "", path, strength);
    return err ? "error" : text;
}

static void test_lists(void)
{
    text_is(items("a"), "a 1", "a path alone");
    text_is(items("a.safetensors=0.7|b=1"), "a.safetensors 0.7,b 1", "two");
    text_is(items("a=-1.25|b=.5|c=2."), "a -1.25,b 0.5,c 2", "numbers");
    text_is(items("x=1=2.5|a=b|=c"), "x=1 2.5,a=b 1,=c 1",
           "'=' in paths, and what is no number");
    text_is(items("a=1e3|b=|c=-|d=0x1|e=nan"), "a=1e3 1,b= 1,c=- 1,d=0x1 1,"
           "e=nan 1", "these are no numbers either");
    text_is(items(""), "", "nothing");
    lines_none(&lines);
    text_is(items("a||b"), "error", "an empty path");
    ok(lines_error(&lines, "lora: a path is empty|path=strength"), "its line");
    text_is(items("a|"), "error", "a '|' at the end");
    text_is(items("=0.5"), "error", "only a strength");
    text_is(items("a=100.5"), "error", "a strength that is too large");
    lines_init(&lines);
}

/* ---- names ---- */

/* A transformer's directory: all shapes differ. */
static const StTensor model_tensors[] = {
    { "patch_embedding.weight", CV_F32, 5, { 3, 2, 1, 2, 2 }, NULL },
    { "patch_embedding.bias", CV_F32, 1, { 3 }, NULL },
    { "blocks.0.self_attn.q.weight", CV_F32, 2, { 3, 5 }, NULL },
    { "blocks.0.self_attn.q.bias", CV_F32, 1, { 3 }, NULL },
    { "blocks.0.cross_attn.o.weight", CV_F32, 2, { 3, 4 }, NULL },
    { "blocks.0.norm3.weight", CV_F32, 1, { 6 }, NULL },
    { "blocks.0.modulation", CV_F32, 3, { 1, 6, 2 }, NULL },
    { "blocks.10.ffn.0.weight", CV_F32, 2, { 7, 3 }, NULL },
    { "time_projection.1.weight", CV_F32, 2, { 8, 3 }, NULL },
    { "head.head.weight", CV_F32, 2, { 9, 3 }, NULL },
    { "head.modulation", CV_F32, 3, { 1, 2, 3 }, NULL },
};
#define N_MODEL ((int)(sizeof(model_tensors) / sizeof(*model_tensors)))

typedef struct Model {
    Blob blob;
    CvWeights *weights;
} Model;

static void open_model(Model *m, const StTensor *tensors, int n)
{
    m->weights = NULL;
    m->blob    = st_write(tensors, n, 0);
    if (cv_weights_open_memory(&m->weights, m->blob.data, m->blob.size,
                               "model.safetensors", &lines.log) < 0 ||
        cv_weights_sort(m->weights, &lines.log) < 0)
        tap_bail("%s", lines.error);
}

static void close_model(Model *m)
{
    cv_weights_close(&m->weights);
    blob_free(&m->blob);
}

/* Open a LoRA of these tensors; its path with `strength` behind it. */
static int open_lora(CvLoras **loras, Model *m, const StTensor *tensors, int n,
                     const char *strength)
{
    Blob blob = st_write(tensors, n, 0);
    char list[512];

    snprintf(list, sizeof(list), "%s%s", save_blob(folder, "lora.safetensors",
             blob), strength);
    blob_free(&blob);
    return cv_loras_open(loras, list, m->weights, &lines.log);
}

/* A pair "down up", or one entry; of [out, in], rank 2. */
static int open_names(CvLoras **loras, Model *m, const char *names,
                      const StTensor *target)
{
    StTensor t[3];
    char down[128], up[128], alpha[128];
    int n = sscanf(names, "%127s %127s %127s", down, up, alpha);
    int64_t in = 1;

    for (int i = 1; i < target->n_dims; i++)
        in *= target->dim[i];
    memset(t, 0, sizeof(t));
    t[0] = *target;
    if (n > 1)
        t[0] = (StTensor){ .type = CV_F16, .n_dims = 2, .dim = { 2, in } };
    t[1] = (StTensor){ .name = up, .type = CV_F16, .n_dims = 2,
                       .dim = { target->dim[0], 2 } };
    t[2] = (StTensor){ .name = alpha, .type = CV_F32 };
    t[0].name = down;
    return open_lora(loras, m, t, n, "");
}

static void test_names(void)
{
#define Q "blocks.0.self_attn.q"
#define FLAT_Q "blocks_0_self_attn_q"
    static const struct {
        const char *names, *target;
    } cases[] = {
        { "diffusion_model." Q ".lora_A.weight "
          "diffusion_model." Q ".lora_B.weight", Q ".weight" },
        { "transformer.blocks.0.attn1.to_q.lora_A.weight "
          "transformer.blocks.0.attn1.to_q.lora_B.weight", Q ".weight" },
        { "lora_unet_" FLAT_Q ".lora_down.weight "
          "lora_unet_" FLAT_Q ".lora_up.weight lora_unet_" FLAT_Q ".alpha",
          Q ".weight" },
        { "lora_unet__" FLAT_Q ".lora_down.weight "
          "lora_unet__" FLAT_Q ".lora_up.weight", Q ".weight" },
        { "lycoris_" FLAT_Q ".lora_down.weight "
          "lycoris_" FLAT_Q ".lora_up.weight", Q ".weight" },
        { "lycoris_blocks_0_attn1_to_q.lora_down.weight "
          "lycoris_blocks_0_attn1_to_q.lora_up.weight", Q ".weight" },
        { "lora_unet_blocks_10_ffn_0.lora_down.weight "
          "lora_unet_blocks_10_ffn_0.lora_up.weight",
          "blocks.10.ffn.0.weight" },
        { "pipe.dit." Q ".lora_A.default.weight "
          "pipe.dit." Q ".lora_B.default.weight", Q ".weight" },
        { "base_model.model." Q ".lora_A.weight "
          "base_model.model." Q ".lora_B.weight", Q ".weight" },
        { "base_model.model.blocks.0.attn2.to_out.0.lora_A.default.weight "
          "base_model.model.blocks.0.attn2.to_out.0.lora_B.default.weight",
          "blocks.0.cross_attn.o.weight" },
        { Q ".lora_A " Q ".lora_B", Q ".weight" },
        { "model." Q "_lora.down.weight model." Q "_lora.up.weight",
          Q ".weight" },
        { "unet." Q ".lora.down.weight unet." Q ".lora.up.weight",
          Q ".weight" },
        { "generator.model." Q ".lora_linear_layer.down.weight "
          "generator.model." Q ".lora_linear_layer.up.weight", Q ".weight" },
        { "transformer.proj_out.lora_A.weight "
          "transformer.proj_out.lora_B.weight", "head.head.weight" },
        { "transformer.condition_embedder.time_proj.lora_A.weight "
          "transformer.condition_embedder.time_proj.lora_B.weight",
          "time_projection.1.weight" },
        { "diffusion_model.patch_embedding.lora_down.weight "
          "diffusion_model.patch_embedding.lora_up.weight",
          "patch_embedding.weight" },
        { "diffusion_model.patch_embedding.diff", "patch_embedding.weight" },
        { "diffusion_model." Q ".diff", Q ".weight" },
        { "diffusion_model." Q ".diff_b", Q ".bias" },
        { "lora_unet_" FLAT_Q ".diff_b", Q ".bias" },
        { "diffusion_model.blocks.0.norm3.diff", "blocks.0.norm3.weight" },
        /* module norm2 of diffusers is norm3 */
        { "transformer.blocks.0.norm2.diff", "blocks.0.norm3.weight" },
        { "diffusion_model.blocks.0.diff_m", "blocks.0.modulation" },
        { "lora_unet_blocks_0.diff_m", "blocks.0.modulation" },
        { "diffusion_model.head.diff_m", "head.modulation" },
    };
    Model m;

    open_model(&m, model_tensors, N_MODEL);
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        const StTensor *target = model_tensors;
        CvLoras *l = NULL;
        int err, same;

        while (strcmp(target->name, cases[i].target))
            target++;
        err  = open_names(&l, &m, cases[i].names, target);
        same = !err && l->n_deltas == 1 && l->files[0].entries == 1 &&
               !strcmp(l->deltas[0].target->name, cases[i].target);
        if (!ok(same && lines_none(&lines), "'%s'", cases[i].names))
            tap_diag("  %d: %s", err, lines.error);
        cv_loras_close(&l);
    }
    close_model(&m);
}

/* ---- what is refused ---- */

static int wrong(const StTensor *tensors, int n, int error, const char *parts)
{
    CvLoras *l = NULL;
    Model m;
    int err;

    open_model(&m, model_tensors, N_MODEL);
    err = open_lora(&l, &m, tensors, n, "=0.5");
    if (err != FAILED(error))
        tap_diag("  %d: %s", err, lines.error);
    cv_loras_close(&l);
    close_model(&m);
    if (err == FAILED(error) && lines_error(&lines, parts))
        return 1;
    tap_diag("  %s", lines.error);
    lines_init(&lines);
    return 0;
}

#define WRONG(error, parts, what, ...)                                      \
    do {                                                                    \
        const StTensor list_[] = { __VA_ARGS__ };                           \
        ok(wrong(list_, (int)(sizeof(list_) / sizeof(*list_)), error,       \
                 parts), "%s", what);                                       \
    } while (0)
#define T(name_, type_, n_dims_, ...)                                       \
    { .name = name_, .type = type_, .n_dims = n_dims_, .dim = { __VA_ARGS__ } }

static void test_refused(void)
{
    static const char *const others[] = {
        ".dora_scale", ".hada_w1_a", ".lokr_w1", ".a1.weight", ".b2.weight",
        ".lora_mid.weight", ".reshape_weight", ".w_norm", ".b_norm",
        ".set_weight", ".oft_blocks", ".lora_magnitude_vector",
        ".lora_B.bias",
    };
    static const float bad[] = { 0, NAN, 0 };

    WRONG(EILSEQ, "lora.safetensors': '" Q ".lora_up.weight' is F32 [3, 2] and "
          "'" Q ".lora_down.weight' is F32 [2, 6], but '" Q ".weight' of the "
          "model is F32 [3, 5]: use a LoRA for a model of this size",
          "a lower factor of another width",
          T(Q ".lora_down.weight", CV_F32, 2, 2, 6),
          T(Q ".lora_up.weight", CV_F32, 2, 3, 2));
    WRONG(EILSEQ, "F32 [4, 2]", "an upper factor of another width",
          T(Q ".lora_down.weight", CV_F32, 2, 2, 5),
          T(Q ".lora_up.weight", CV_F32, 2, 4, 2));
    WRONG(EILSEQ, "F32 [3, 4] and|F32 [2, 5]", "two ranks",
          T(Q ".lora_down.weight", CV_F32, 2, 2, 5),
          T(Q ".lora_up.weight", CV_F32, 2, 3, 4));
    WRONG(EILSEQ, "F32 [3, 0]", "a rank of 0",
          T(Q ".lora_down.weight", CV_F32, 2, 0, 5),
          T(Q ".lora_up.weight", CV_F32, 2, 3, 0));
    WRONG(EILSEQ, "F32 [3]", "factors that are no matrices",
          T(Q ".lora_down.weight", CV_F32, 0, 0),
          T(Q ".lora_up.weight", CV_F32, 1, 3));
    WRONG(EILSEQ, "is F32 [3] and", "a pair for a vector",
          T("blocks.0.norm3.lora_down.weight", CV_F32, 1, 3),
          T("blocks.0.norm3.lora_up.weight", CV_F32, 1, 3));
    WRONG(EILSEQ, "'" Q ".diff_b' is F32 [4], but '" Q ".bias' of the model "
          "is F32 [3]", "a difference of another length",
          T(Q ".diff_b", CV_F32, 1, 4));
    WRONG(EILSEQ, "'" Q ".lora_up.weight', F32 [3, 2], has no partner: the "
          "lora_down", "an upper factor alone",
          T(Q ".lora_up.weight", CV_F32, 2, 3, 2));
    WRONG(EILSEQ, "has no partner: the lora_up", "a lower factor alone",
          T(Q ".lora_A.weight", CV_F32, 2, 2, 5),
          T(Q ".alpha", CV_F32, 0, 0));
    WRONG(EILSEQ, "'" Q ".alpha' belongs to no pair", "alpha alone",
          T(Q ".alpha", CV_F32, 0, 0), T(Q ".diff_b", CV_F32, 1, 3));
    WRONG(EILSEQ, "'" Q ".lora_A.weight' and '" Q ".lora_down.weight' are the "
          "same part", "an entry twice",
          T(Q ".lora_A.weight", CV_F32, 2, 2, 5),
          T(Q ".lora_down.weight", CV_F32, 2, 2, 5),
          T(Q ".lora_up.weight", CV_F32, 2, 3, 2));
    WRONG(EILSEQ, "4 of its 5 entries are for modules that the transformer "
          "does not have, such as 'blocks.1.ffn.2.lora_up.weight', "
          "'blocks.2.norm3.diff', 'lora_te_x.diff';|for Wan 2.1",
          "modules of another model",
          T("blocks.2.norm3.diff", CV_F32, 1, 6), T("lora_te_x.diff", CV_F32, 1, 6),
          T("blocks.1.ffn.2.lora_down.weight", CV_F32, 2, 2, 5),
          T("blocks.1.ffn.2.lora_up.weight", CV_F32, 2, 3, 2),
          T("patch_embedding.diff_m", CV_F32, 1, 3),
          T("patch_embedding.diff_b", CV_F32, 1, 3));
    WRONG(EILSEQ, "'" Q ".diff_x' is no entry of a LoRA", "an unknown ending",
          T(Q ".diff_x", CV_F32, 1, 3), T(Q ".diff", CV_F32, 2, 3, 5));
    WRONG(EILSEQ, "has the type I32", "whole numbers",
          T(Q ".diff_b", CV_I32, 1, 3));
    WRONG(EILSEQ, "holds a Wan transformer; expected a LoRA: name it with the "
          "option model", "a transformer",
          T("patch_embedding.weight", CV_F32, 5, 3, 2, 1, 2, 2),
          T("blocks.0.self_attn.q.weight", CV_F32, 2, 3, 5));
    WRONG(EILSEQ, "none of its 1 entries", "only what sees an image",
          T("diffusion_model.img_emb.proj.1.diff", CV_F32, 2, 3, 5));
    WRONG(EILSEQ, "'" Q ".alpha', F32 [], is no finite number",
          "an alpha that is no number",
          { Q ".alpha", CV_F32, 0, { 0 }, &bad[1] },
          T(Q ".lora_down.weight", CV_F32, 2, 2, 5),
          T(Q ".lora_up.weight", CV_F32, 2, 3, 2));
    WRONG(EILSEQ, "'" Q ".alpha', F32 [2], is no", "two alphas",
          T(Q ".alpha", CV_F32, 1, 2),
          T(Q ".lora_down.weight", CV_F32, 2, 2, 5),
          T(Q ".lora_up.weight", CV_F32, 2, 3, 2));
    for (size_t i = 0; i < sizeof(others) / sizeof(*others); i++) {
        char name[64];

        snprintf(name, sizeof(name), Q "%s", others[i]);
        WRONG(ENOSYS, "which is not supported; merge it", others[i],
              { name, CV_F32, 1, { 3 }, NULL });
    }
}

/* Left out, with a line. */
static void test_left_out(void)
{
    static const StTensor tensors[] = {
        T("blocks.0.cross_attn.k_img.lora_down.weight", CV_F32, 2, 2, 4),
        T("blocks.0.cross_attn.k_img.lora_up.weight", CV_F32, 2, 3, 2),
        T("lora_unet_img_emb_proj_1.diff_b", CV_F32, 1, 4),
        T(Q ".diff_b", CV_F32, 1, 3),
        T("patch_embedding.diff", CV_F32, 5, 3, 4, 1, 2, 2),
    };
    CvLoras *l = NULL;
    Model m;

    open_model(&m, model_tensors, N_MODEL);
    ok(!open_lora(&l, &m, tensors, 5, "") && l->n_deltas == 1 &&
       l->files[0].entries == 4 && lines.warnings == 2 && !lines.errors,
       "of a LoRA for images, what a text model lacks is left out");
    ok(strstr(lines.warning, "2 entries for an image input are left out"),
       "with a warning: %s", lines.warning);
    cv_loras_close(&l);
    lines_init(&lines);
    open_lora(&l, &m, tensors + 3, 2, "");
    ok(strstr(lines.warning, "'patch_embedding.diff', F32 [3, 4, 1, 2, 2], is "
              "left out: it is for other input channels than the model's, F32 "
              "[3, 2, 1, 2, 2]"), "and so is its patch embedding");
    cv_loras_close(&l);
    close_model(&m);
    lines_init(&lines);
}

/* ---- what is added ---- */

/* What load_with() took for it. */
static size_t scratch_bytes;

/* Load a tensor with the changes of a LoRA; malloced floats. */
static float *load_with(Model *m, CvLoras *l, const char *name)
{
    const CvEntry *e = cv_weights_find(m->weights, "%s", name);
    CvArena arena = { 0 };
    CvLoader loader = { .backend = cpu, .arena = &arena,
                        .weights = m->weights, .log = &lines.log,
                        .loras = l };
    CvTensor t = e->tensor;
    float *values = NULL;

    t.type = CV_F32;
    cv_arena_plan(&arena, cpu);
    if (!cv_load(&loader, &t, CV_LOAD_AS_IS, "%s", name) &&
        !cv_arena_take(&arena, &lines.log, "a test") &&
        !cv_load(&loader, &t, CV_LOAD_AS_IS, "%s", name) &&
        (values = malloc((size_t)cv_tensor_bytes(&t))) &&
        cv_download(cpu, values, &t) < 0)
        tap_bail("download");
    cpu->planning = 0;
    scratch_bytes = loader.scratch_bytes;
    cv_load_release(&loader);
    cv_arena_free(&arena);
    return values;
}

static float alpha_of(CvType type, const void *data)
{
    const StTensor tensors[] = {
        T(Q ".lora_down.weight", CV_F32, 2, 2, 5),
        T(Q ".lora_up.weight", CV_F32, 2, 3, 2),
        { Q ".alpha", type, type == CV_F16, { 1 }, data },
    };
    CvLoras *l = NULL;
    float scale = NAN;
    Model m;

    open_model(&m, model_tensors, N_MODEL);
    if (!open_lora(&l, &m, tensors, 3, "=0.5"))
        scale = l->deltas[0].scale;
    cv_loras_close(&l);
    close_model(&m);
    return scale;
}

static void test_alpha(void)
{
    static const double f64 = 16;
    static const float f32 = -16;
    static const uint16_t f16 = 0x4c00, bf16 = 0x4180, subnormal = 1;
    static const int64_t i64 = 16;

    ok(alpha_of(CV_F64, &f64) == 4 && alpha_of(CV_F32, &f32) == -4 &&
       alpha_of(CV_F16, &f16) == 4 && alpha_of(CV_BF16, &bf16) == 4 &&
       alpha_of(CV_I64, &i64) == 4, "alpha of every type, over the rank");
    ok(alpha_of(CV_F16, &subnormal) == 0x1p-26f, "a small one in half");
}

/* Larger than a piece in rows and in rank. */
static void test_pieces(void)
{
    enum { OUT = 3000, IN = 3000, RANK = 1500 };
    static const StTensor tensors[] = {
        T("w.weight", CV_BF16, 2, OUT, IN),
    };
    StTensor parts[2] = { T("w.lora_A", CV_F32, 2, RANK, IN),
                          T("w.lora_B", CV_F32, 2, OUT, RANK) };
    float *down = calloc((size_t)RANK * IN, sizeof(float));
    float *up = calloc((size_t)OUT * RANK, sizeof(float)), *w;
    int64_t wrong_values = 0;
    CvLoras *l = NULL;
    Model m;

    if (!down || !up)
        tap_bail("malloc");
    /* up has one number in a row, so the sums are simple */
    for (int i = 0; i < OUT; i++)
        up[(size_t)i * RANK + (size_t)(i * 7 % RANK)] = (float)(1 + i % 5);
    for (int i = 0; i < RANK * IN; i++)
        down[i] = (float)(i % 1009);
    parts[0].data = down;
    parts[1].data = up;
    open_model(&m, tensors, 1);
    if (open_lora(&l, &m, parts, 2, "=2") < 0 ||
        !(w = load_with(&m, l, "w.weight")))
        tap_bail("%s", lines.error);
    for (int i = 0; i < OUT; i++)
        for (int j = 0; j < IN; j++)
            wrong_values += w[(size_t)i * IN + (size_t)j] !=
                2 * (float)(1 + i % 5) *
                down[(size_t)(i * 7 % RANK) * IN + (size_t)j];
    ok(!wrong_values, "a matrix of several pieces, %lld wrong",
       (long long)wrong_values);
    ok(scratch_bytes && scratch_bytes <= (size_t)64 << 20,
       "%zu bytes of scratch", scratch_bytes);
    cv_loras_close(&l);
    close_model(&m);
    free(w);
    free(up);
    free(down);
}

/* A value that is no number shows only when it is read. */
static void test_bad_values(void)
{
    static const float bad[] = { 0, NAN, 0 };
    static const StTensor tensors[] = {
        { Q ".diff_b", CV_F32, 1, { 3 }, bad },
    };
    CvLoras *l = NULL;
    Model m;

    open_model(&m, model_tensors, N_MODEL);
    ok(!open_lora(&l, &m, tensors, 1, "") &&
       !load_with(&m, l, Q ".bias") &&
       lines_error(&lines, "lora.safetensors': tensor '" Q ".diff_b' holds a "
                   "value that is not a number"), "NaN in a LoRA");
    cv_loras_close(&l);
    close_model(&m);
}

/* Random models take LoRA files too: for measuring. */
static void test_random(void)
{
    float ones[256];
    StTensor tensors[] = {
        { "time_embedding.2.lora_A", CV_F32, 2, { 1, 256 }, ones },
        { "time_embedding.2.lora_B", CV_F32, 2, { 256, 1 }, ones },
    };
    const char *name = "time_embedding.2.weight";
    float *plain, *changed, worst = 0;
    CvLoras *l = NULL;
    Model m = { { 0 }, NULL };

    for (int i = 0; i < 256; i++)
        ones[i] = 1;
    if (cv_weights_open(&m.weights, "random:tiny/transformer",
                        &lines.log) < 0 ||
        cv_weights_canonical(m.weights, CV_KIND_TRANSFORMER,
                             &lines.log) < 0 ||
        open_lora(&l, &m, tensors, 2, "=0.25") < 0 ||
        !(plain = load_with(&m, NULL, name)) ||
        !(changed = load_with(&m, l, name)))
        tap_bail("%s", lines.error);
    for (int i = 0; i < 256 * 256; i++)
        worst = fmaxf(worst, fabsf(changed[i] - plain[i] - 0.25f));
    ok(worst < 1e-7f, "a random model with a LoRA: %g", (double)worst);
    cv_loras_close(&l);
    cv_weights_close(&m.weights);
    free(plain);
    free(changed);
}

/* ---- recipes ---- */

/* What a LoRA of this name makes of plain Wan. */
static const char *recipe_with(const char *name, int64_t dim)
{
    static char text[256];
    const CvDitSize size = { .dim = dim };
    CvRecipe *r = calloc(1, sizeof(*r));

    if (!r)
        tap_bail("malloc");
    r->variant  = CAUSVID_VARIANT_BIDIRECTIONAL;
    r->sampler  = CAUSVID_SAMPLER_UNIPC;
    r->steps    = 50;
    r->shift    = 5;
    r->guidance = 5;
    strcpy(r->family, "Wan");
    if (cv_recipe_loras(r, name, &size, &lines.log) < 0)
        tap_bail("%s", lines.error);
    snprintf(text, sizeof(text), "%s %s %d %g %g / %s",
             cv_variant_name(r->variant), cv_sampler_name(r->sampler),
             r->steps, r->shift, r->guidance, r->family);
    free(r);
    return text;
}

static void test_recipes(void)
{
    static const char plain[] = "bidirectional unipc 50 5 5 / Wan";

    text_is(recipe_with("loras/Wan21_CausVid_14B_T2V_lora_rank32_v2.safetensors"
                       "=0.7", 5120), "bidirectional flowmatch_causvid 6 8 1 / "
           "Wan + CausVid LoRA", "CausVid, 14B");
    text_is(recipe_with("style.safetensors|Wan21_CausVid_14B.safetensors",
                       5120), "bidirectional flowmatch_causvid 6 8 1 / "
           "Wan + CausVid LoRA", "the second of two");
    text_is(recipe_with("Wan21_CausVid_bidirect2_T2V_1_3B_lora_rank32."
                       "safetensors", 1536), "bidirectional "
           "flowmatch_causvid 4 8 1 / Wan + CausVid LoRA",
           "CausVid, 1.3B");
    text_is(recipe_with("causvid-loras/style.safetensors=0.5", 5120), plain,
           "a folder of that name says nothing");
    text_is(recipe_with("CausVid-14B/pytorch_lora_weights.safetensors", 5120),
           "bidirectional flowmatch_causvid 6 8 1 / Wan + CausVid LoRA",
           "but for a file that has no name");
    text_is(recipe_with("Wan21_CausVid_14B.safetensors=-1", 5120), plain,
           "taken away from the model");
    text_is(recipe_with("wan_t2v_14b_style.safetensors", 5120), plain,
           "another LoRA");
}

int main(void)
{
    lines_init(&lines);
    if (cv_cpu_open(&cpu, 2, &lines.log) < 0)
        tap_bail("%s", lines.error);
    snprintf(folder, sizeof(folder), "%s", temp_folder());
    test_lists();
    test_names();
    test_refused();
    test_left_out();
    test_alpha();
    test_pieces();
    test_bad_values();
    test_random();
    test_recipes();
    cpu->close(&cpu);
    return tap_done();
}
