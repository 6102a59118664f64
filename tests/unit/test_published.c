/*
 * Which published checkpoint a model is taken for, how it is then run, and
 * kinds of Wan models that are refused.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#include <sys/stat.h>
#include <unistd.h>

#include "../tap.h"
#include "device.h"
#include "recipe.h"
#include "weights_util.h"

#define FAILED(e) CAUSVID_ERR(e)

static Lines lines;
static char info[2048]; /* the last INFO line */
static int n_infos;

static void keep_info(void *cookie, enum CausvidLogLevel level,
                      const char *format, va_list args)
{
    va_list copy;

    va_copy(copy, args);
    if (level == CAUSVID_LOG_INFO) {
        vsnprintf(info, sizeof(info), format, copy);
        n_infos++;
    }
    va_end(copy);
    lines.log.write(cookie, level, format, args);
}

static CvRecipe recipe;

/* The recipe of root/file, whose folder is made and whose bytes are `blob`;
 * config: text of config.json beside it, or NULL. */
static int init_blob(const char *root, const char *file, Blob blob,
                     const char *config, int64_t dim,
                     enum CausvidVariant variant)
{
    const CausvidSettings settings = { .log = keep_info, .cookie = &lines };
    const CvDitSize size = { .dim = dim };
    CvModelFiles *files = calloc(1, sizeof(*files));
    CvLog log;
    int err;

    if (!files)
        tap_bail("calloc");
    strcpy(files->transformer, save_blob(root, file, blob));
    snprintf(files->root, sizeof(files->root), "%.*s",
             (int)(strrchr(files->transformer, '/') - files->transformer),
             files->transformer);
    if (config) {
        strcpy(files->transformer_config, files->root);
        strcpy(files->transformer_config,
               save_text(files->root, "config.json", config));
    }
    n_infos = 0;
    cv_log_init(&log, &settings);
    err = cv_recipe_init(&recipe, files, &size, variant, &log);
    cv_log_free(&log);
    free(files);
    return err;
}

static int init(const char *root, const char *file, const char *config,
                int64_t dim, enum CausvidVariant variant)
{
    return init_blob(root, file, (Blob){ NULL, 0 }, config, dim, variant);
}

/* ---- what names say ---- */

#define C "causal causvid "
#define SELF_FORCING C "4 5 1 warped / Self-Forcing"
#define CAUSVID      C "3 8 1 / CausVid"
#define CAUSVID_14B  "causal flowmatch_causvid 9 8 1 / CausVid"
#define WAN          "bidirectional unipc 50 8 6 / Wan"
#define WAN_14B      "bidirectional unipc 50 5 5 / Wan"
#define DISTILL \
    "bidirectional causvid 4 5 1 warped / LightX2V step distillation"
#define RCM          "bidirectional causvid 4 1 1 / rCM"
#define TWO_WAY      "bidirectional causvid 3 8 1 / CausVid, bidirectional"
#define TWO_WAY_14B \
    "bidirectional flowmatch_causvid 6 8 1 / CausVid, bidirectional"
#define OFFICIAL     "diffusion_pytorch_model.safetensors"

static const struct {
    const char *file;
    int64_t dim;
    const char *expected, *why;
} names[] = {
    /* releases and their copies */
    { "Wan2.1-T2V-1.3B/" OFFICIAL, 1536, WAN, "says 't2v-1.3b'" },
    { "Wan2.1-T2V-14B/diffusion_pytorch_model.safetensors.index.json", 5120,
      WAN_14B, "says 't2v-14b'" },
    { "any/" OFFICIAL, 1536, WAN, "release's folder" },
    { "any/transformer/" OFFICIAL, 5120, WAN_14B, "release's folder" },
    { "CausVid/wan_models/Wan2.1-T2V-1.3B/" OFFICIAL, 1536, WAN,
      "'Wan2.1-T2V-1.3B' says" },
    { "causvid/models/Wan2.1-T2V-1.3B-Diffusers/transformer/" OFFICIAL, 1536,
      WAN, "'Wan2.1-T2V-1.3B-Diffusers' says" },
    { "causvid/mine/transformer/" OFFICIAL, 1536, WAN, "release's folder" },
    { "m/wan2.1_t2v_1.3B_fp16.safetensors", 1536, WAN,
      "'wan2.1_t2v_1.3B_fp16.safetensors' says 't2v_1.3b'" },
    { "m/Wan2_1-T2V-1_3B_bf16.safetensors", 1536, WAN, "'t2v-1_3b'" },
    { "m/wan2.1-t2v-14b-Q8_0.gguf", 5120, WAN_14B, "'t2v-14b'" },
    { "m/unnamed.safetensors", 5120, WAN_14B, "no name says otherwise" },
    /* CausVid */
    { "causvid/autoregressive_checkpoint/model.pt", 1536, CAUSVID,
      "'autoregressive_checkpoint' says 'autoregressive'" },
    { "c/autoregressive_checkpoint_warp_4step_cfg2/model.pt", 1536,
      C "4 8 1 warped / CausVid, 4 steps", "'warp_4step'" },
    { "c/bidirectional_checkpoint2/model.pt", 1536, TWO_WAY, "'bidirect'" },
    { "c/wan_causal_ode_checkpoint_model_003000/model.pt", 1536, CAUSVID,
      "'causal'" },
    { "CausVid/checkpoints/model.pt", 1536, CAUSVID, "'CausVid' says" },
    { "models--tianweiy--CausVid/snapshots/"
      "ca211503f0b1b3e4d5c6a7b8c9d0e1f2a3b4c5d6/" OFFICIAL, 1536, CAUSVID,
      "'models--tianweiy--CausVid' says" },
    { "Wan2.1-T2V-14B-CausVid/causvid_models/causal_model.pt", 5120,
      CAUSVID_14B, "'causal_model.pt' says 'causal'" },
    { "my-causvid/transformer/" OFFICIAL, 5120, CAUSVID_14B, "'my-causvid'" },
    { "m/Wan2.1_T2V_14B_causvid_bidirect.safetensors", 5120, TWO_WAY_14B,
      "'bidirect'" },
    /* others */
    { "s/checkpoints/self_forcing_dmd.pt", 1536, SELF_FORCING,
      "'self_forcing'" },
    { "Self-Forcing/checkpoints/ode_init.pt", 1536, SELF_FORCING,
      "'Self-Forcing' says 'self-forcing'" },
    { "m/Wan2.1-T2V-1.3B_SELF_FORCING.safetensors", 1536, SELF_FORCING,
      "'self_forcing'" },
    { "Causal-Forcing/model.pt", 1536, SELF_FORCING, "'causal-forcing'" },
    { "Wan2.1-T2V-14B-StepDistill-CfgDistill/" OFFICIAL, 5120, DISTILL,
      "'stepdistill'" },
    { "m/wan2.1_t2v_14B_step_distill.safetensors", 5120, DISTILL,
      "'step_distill'" },
    { "m/TurboWan2.1-T2V-1.3B-480P.pth", 1536, RCM, "'turbowan'" },
    { "rCM-Wan/14b/" OFFICIAL, 5120, WAN_14B, "release's folder" },
    { "rCM-Wan/checkpoints/model.pth", 5120, RCM, "'rCM-Wan' says 'rcm'" },
};

static const char *text_of_recipe(void)
{
    static char text[256];

    snprintf(text, sizeof(text), "%s %s %d %g %g%s / %s",
             cv_variant_name(recipe.variant), cv_sampler_name(recipe.sampler),
             recipe.steps, recipe.shift, recipe.guidance,
             recipe.warp ? " warped" : "", recipe.family);
    return text;
}

static void test_names(void)
{
    const char *root = temp_folder();

    for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
        char file[256];
        int err;

        snprintf(file, sizeof(file), "%zu/%s", i, names[i].file);
        err = init(root, file, NULL, names[i].dim, 0);

        if (!ok(!err && !strcmp(text_of_recipe(), names[i].expected) &&
                strstr(recipe.why, names[i].why) && n_infos == 1 &&
                strstr(info, recipe.why) && strstr(info, recipe.family) &&
                recipe.licence[0] && lines_none(&lines), "%s",
                names[i].file))
            tap_diag("%s, since %s (%d lines: %s)", text_of_recipe(),
                     recipe.why, n_infos, info);
    }
}

/* Nothing says what it is: the option has to. */
static void test_undecided(void)
{
    static const struct { const char *file; int64_t dim; } files[] = {
        { "m/model.pt", 1536 }, { "m/model.pt", 5120 },
        { "m/best.pth", 5120 }, { "m/unnamed.safetensors", 1536 },
        { "m/q8.gguf", 1536 }, { "causvid/m/model.pt", 1536 },
    };
    const char *root = temp_folder();

    for (size_t i = 0; i < sizeof(files) / sizeof(*files); i++) {
        ok(init(root, files[i].file, NULL, files[i].dim, 0) == FAILED(EINVAL)
           && !n_infos && lines_error(&lines, "whether this model is causal|"
                                      "variant=causal or variant=bidir"),
           "%s, %d wide, asks", files[i].file, (int)files[i].dim);
        ok(!init(root, files[i].file, NULL, files[i].dim,
                 CAUSVID_VARIANT_CAUSAL) &&
           !strcmp(text_of_recipe(), files[i].dim == 5120 ? CAUSVID_14B
                                                          : CAUSVID) &&
           strstr(recipe.why, "option variant"), "it is told: causal");
        ok(!init(root, files[i].file, NULL, files[i].dim,
                 CAUSVID_VARIANT_BIDIRECTIONAL) &&
           !strcmp(text_of_recipe(), files[i].dim == 5120 ? WAN_14B : WAN),
           "it is told: bidirectional");
    }
    ok(lines_none(&lines), "without a line");
}

/* The option against what names say. */
static void test_overridden(void)
{
    const char *root = temp_folder();

    ok(!init(root, "self_forcing/model.pt", NULL, 1536,
             CAUSVID_VARIANT_BIDIRECTIONAL) &&
       !strcmp(text_of_recipe(), "bidirectional causvid 4 5 1 warped / "
               "Self-Forcing"), "the steps stay those of the checkpoint");
    ok(!init(root, "Wan2.1-T2V-1.3B/" OFFICIAL, NULL, 1536,
             CAUSVID_VARIANT_CAUSAL) && !strcmp(text_of_recipe(), CAUSVID),
       "causal: CausVid's steps");
    ok(lines_none(&lines), "without a line");
}

static void test_class(void)
{
    const char *root = temp_folder();

    ok(!init(root, "any/" OFFICIAL, "{\"_class_name\": \"CausalWanModel\"}",
             1536, 0) && !strcmp(text_of_recipe(), CAUSVID) &&
       strstr(recipe.why, "config.json says 'CausalWanModel'"),
       "a causal class");
    ok(!init(root, "self_forcing/" OFFICIAL,
             "{\"_class_name\": \"CausalWanModel\"}", 1536, 0) &&
       !strcmp(text_of_recipe(), SELF_FORCING), "names say more");
    ok(!init(root, "any/" OFFICIAL, "{\"_class_name\": \"WanModel\"}", 1536, 0)
       && !strcmp(text_of_recipe(), WAN), "the release's class");
    ok(init(root, "any/" OFFICIAL, "{\"_class_name\": 5}", 1536, 0) ==
       FAILED(EILSEQ) && lines_error(&lines, "config.json'|_class_name"),
       "no class at all");
    ok(lines_none(&lines), "without a line");
}

/* What is in the file counts where its name says nothing. */
static void test_titles(void)
{
    static const struct {
        const char *file, *metadata, *expected, *why;
    } files[] = {
        { "m/mine.safetensors", "\"modelspec.title\":\"My CausVid 1.3B\"",
          CAUSVID, "its modelspec.title 'My CausVid 1.3B' says 'causvid'" },
        { "m/t2v_1.3b.safetensors",
          "\"modelspec.title\":\"tuned\",\"modelspec.architecture\":"
          "\"wan2.1-self-forcing\"", SELF_FORCING,
          "its modelspec.architecture 'wan2.1-self-forcing' says" },
        { "m/causvid.safetensors", "\"modelspec.title\":\"Self-Forcing\"",
          CAUSVID, "'causvid.safetensors' says" },
        { "m/t2v_1.3b.safetensors", "\"modelspec.title\":\"Wan2.1-T2V-14B\"",
          WAN, "'t2v_1.3b.safetensors' says" },
        { "m/t2v_1.3b.safetensors", "\"modelspec.title\":[\"causvid\"]",
          WAN, "'t2v_1.3b.safetensors' says" },
        { "m/mine.safetensors", "\"modelspec.title\":\"Wan2.1-T2V-1.3B\"",
          NULL, "variant=causal or variant=bidirectional" },
        { "m/mine.safetensors", "\"modelspec.title\":\"T2V-A14B \\n\"",
          NULL, "its modelspec.title 'T2V-A14B ?' says 'a14b', so" },
    };
    /* version 3, no tensors, one string */
    static uint8_t gguf[] = "GGUF\3\0\0\0" "\0\0\0\0\0\0\0\0"
        "\1\0\0\0\0\0\0\0" "\x0c\0\0\0\0\0\0\0" "general.name"
        "\x08\0\0\0" "\x0b\0\0\0\0\0\0\0" "Wan CausVid";
    const char *root = temp_folder();

    for (size_t i = 0; i < sizeof(files) / sizeof(*files); i++) {
        char header[256];
        Blob blob;
        int err;

        snprintf(header, sizeof(header), "{\"__metadata__\":{%s}}",
                 files[i].metadata);
        blob = st_raw(header, 0);
        err  = init_blob(root, files[i].file, blob, NULL, 1536, 0);
        ok(files[i].expected ?
           !err && !strcmp(text_of_recipe(), files[i].expected) &&
           strstr(recipe.why, files[i].why) :
           err < 0 && lines_error(&lines, files[i].why), "%s, %s: %s",
           files[i].file, files[i].metadata, files[i].why);
        blob_free(&blob);
    }
    ok(!init_blob(root, "m/mine.gguf", (Blob){ gguf, sizeof(gguf) - 1 }, NULL,
                  1536, 0) && !strcmp(text_of_recipe(), CAUSVID) &&
       strstr(recipe.why, "its general.name 'Wan CausVid' says"),
       "the general.name of GGUF");
    ok(lines_none(&lines), "without a line");
}

static void test_wan22(void)
{
    static const char *const files[] = {
        "Wan2.2-T2V-A14B/high_noise_model/" OFFICIAL,
        "m/wan2.2_t2v_low_noise_14B_fp16.safetensors",
        "m/Wan2_2-T2V-A14B_HIGH_bf16.safetensors",
        "Wan2.2-T2V-A14B-Diffusers/transformer/" OFFICIAL,
    };
    const char *root = temp_folder();

    for (size_t i = 0; i < sizeof(files) / sizeof(*files); i++)
        ok(init(root, files[i], NULL, 5120, 0) == FAILED(ENOSYS) &&
           lines_error(&lines, "two experts (A14B)|Wan 2.1"), "%s", files[i]);
}

/* What a model is called in log lines. */
static void test_called(void)
{
    static const struct { const char *file, *name; } files[] = {
        { "a/Wan2.1-T2V-1.3B/" OFFICIAL, "Wan2.1-T2V-1.3B" },
        { "causvid/model.pt", "causvid" },
        { "causvid_models/causal_model.safetensors", "causvid_models" },
        { "diffusion_models/wan2.1_t2v_1.3B_fp16.safetensors",
          "wan2.1_t2v_1.3B_fp16" },
        { "c/self_forcing_dmd.pt", "self_forcing_dmd" },
    };
    const char *root = temp_folder();

    for (size_t i = 0; i < sizeof(files) / sizeof(*files); i++) {
        is_int(init(root, files[i].file, NULL, 1536, 0), 0);
        is_str(recipe.name, files[i].name);
    }
    ok(lines_none(&lines), "without a line");
}

/* Where names are relative, the folders above count all the same. */
static void test_here(void)
{
    const char *root = temp_folder();
    char path[1100], *old = getcwd(NULL, 0);
    CvModelFiles *files = calloc(1, sizeof(*files));
    const CvDitSize size = { .dim = 1536 };

    snprintf(path, sizeof(path), "%s/self-forcing", root);
    if (!old || !files || mkdir(path, 0777) < 0 || chdir(path) < 0)
        tap_bail("chdir");
    strcpy(files->root, ".");
    strcpy(files->transformer, "./model.pt");
    ok(!cv_recipe_init(&recipe, files, &size, 0, &lines.log) &&
       !strcmp(text_of_recipe(), SELF_FORCING), "model=.");
    strcpy(files->transformer, "model.pt");
    ok(!cv_recipe_init(&recipe, files, &size, 0, &lines.log) &&
       !strcmp(text_of_recipe(), SELF_FORCING), "model=model.pt");
    strcpy(files->transformer, "/none/such/causvid.pt");
    ok(!cv_recipe_init(&recipe, files, &size, 0, &lines.log) &&
       !strcmp(text_of_recipe(), CAUSVID), "a folder that is gone");
    ok(lines_none(&lines), "without a line");
    if (chdir(old) < 0)
        tap_bail("chdir");
    free(files);
    free(old);
}

/* ---- other kinds, by their tensors ---- */

static void test_kinds(void)
{
    static const struct {
        int64_t in, out;
        const char *extra, *says;
    } kinds[] = {
        { 36, 16, "blocks.0.cross_attn.k_img.weight", "(I2V), which" },
        { 36, 16, "img_emb.emb_pos", "(FLF2V)" },
        { 16, 16, "vace_blocks.0.before_proj.weight", "kind VACE" },
        { 16, 16, "vace_patch_embedding.weight", "kind VACE" },
        { 32, 16, "control_adapter.conv.weight", "(Fun-Camera)" },
        { 16, 16, "casual_audio_encoder.encoder.final_linear.weight",
          "speech to video (S2V)" },
        { 36, 16, "audio_proj.audio_proj_glob_1.layer.bias", "kind HuMo" },
        { 36, 16, "face_adapter.fuser_blocks.0.k_norm.weight",
          "kind Animate" },
        { 52, 16, "ref_conv.weight", "(Fun-Control)" },
        { 36, 16, "x", "(I2V) of Wan 2.2" },
        { 48, 48, "x", "(TI2V) of Wan 2.2, 5B" },
        { 32, 16, "x", "more input than output channels" },
    };
    const char *root = temp_folder();
    CvBackend *none;

    if (cv_null_open(&none, &lines.log) < 0)
        tap_bail("no backend");
    for (size_t i = 0; i < sizeof(kinds) / sizeof(*kinds); i++) {
        const StTensor t[] = {
            { "patch_embedding.weight", CV_F32, 5,
              { 8, kinds[i].in, 1, 2, 2 }, NULL },
            { "blocks.0.self_attn.q.weight", CV_F32, 2, { 8, 8 }, NULL },
            { "blocks.0.ffn.0.bias", CV_F32, 1, { 8 }, NULL },
            { "text_embedding.0.weight", CV_F32, 2, { 8, 4 }, NULL },
            { "time_embedding.0.weight", CV_F32, 2, { 8, 4 }, NULL },
            { "head.head.weight", CV_F32, 2, { 4 * kinds[i].out, 8 }, NULL },
            { kinds[i].extra, CV_F32, 1, { 1 }, NULL },
        };
        Blob blob = st_write(t, sizeof(t) / sizeof(*t), 0);
        const char *path = save_blob(root, "m.safetensors", blob);
        CvDit *dit;

        ok(cv_dit_open(&dit, none, path, "", "", &lines.log) ==
           FAILED(ENOSYS) &&
           lines_error(&lines, kinds[i].says), "%s", kinds[i].says);
        blob_free(&blob);
    }
    none->close(&none);
}

int main(void)
{
    lines_init(&lines);
    test_names();
    test_undecided();
    test_overridden();
    test_class();
    test_titles();
    test_wan22();
    test_called();
    test_here();
    test_kinds();
    return tap_done();
}
