/*
 * The layouts in which people keep models: what is found where.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * File names are those of the published repositories, checkpoints.md 1.1 to
 * 1.7.
 */
#include <unistd.h>

#include "../tap.h"
#include "weights/files.h"
#include "weights_util.h"

#define FAILED(e) CAUSVID_ERR(e)
#define MAX_FILES 16

static Lines lines;
static CvModelFiles files;

/* What is expected, as names below the temporary folder. */
typedef struct Layout {
    const char *what;
    const char *files[MAX_FILES];
    const char *model, *transformer, *text_encoder, *vae, *tokenizer;
    const char *config; /* of the transformer; NULL: none */
} Layout;

#define COMFY "ComfyUI/models/"
#define T5_PTH "models_t5_umt5-xxl-enc-bf16.pth"
#define SPIECE "google/umt5-xxl/spiece.model"
#define RELEASE(folder) \
    folder "config.json", folder "diffusion_pytorch_model.safetensors", \
    folder T5_PTH, folder "Wan2.1_VAE.pth", folder SPIECE

static const Layout layouts[] = {
    { "the release of 1.3B", { RELEASE("wan/") }, "wan",
      "wan/diffusion_pytorch_model.safetensors", "wan/" T5_PTH,
      "wan/Wan2.1_VAE.pth", "wan/" SPIECE, "wan/config.json" },
    { "the release of 14B",
      { "w/config.json", "w/diffusion_pytorch_model-00001-of-00002.safetensors",
        "w/diffusion_pytorch_model-00002-of-00002.safetensors",
        "w/diffusion_pytorch_model.safetensors.index.json", "w/" T5_PTH,
        "w/Wan2.1_VAE.pth", "w/" SPIECE }, "w",
      "w/diffusion_pytorch_model.safetensors.index.json", "w/" T5_PTH,
      "w/Wan2.1_VAE.pth", "w/" SPIECE, "w/config.json" },
    { "the same, a checkpoint in a folder of its own",
      { RELEASE("wan/"), "wan/mine/model.pt" }, "wan/mine",
      "wan/mine/model.pt", "wan/" T5_PTH, "wan/Wan2.1_VAE.pth",
      "wan/" SPIECE, NULL },
    { "ComfyUI",
      { COMFY "diffusion_models/wan2.1_t2v_1.3B_fp16.safetensors",
        COMFY "diffusion_models/wan2.1_t2v_14B_fp8_scaled.safetensors",
        COMFY "text_encoders/clip_l.safetensors",
        COMFY "text_encoders/t5xxl_fp16.safetensors",
        COMFY "text_encoders/umt5_xxl_fp8_e4m3fn_scaled.safetensors",
        COMFY "text_encoders/umt5_xxl_fp16.safetensors",
        COMFY "vae/ae.safetensors", COMFY "vae/wan2.2_vae.safetensors",
        COMFY "vae/wan_2.1_vae.safetensors", COMFY "clip/spiece.model" },
      COMFY "diffusion_models/wan2.1_t2v_1.3B_fp16.safetensors",
      COMFY "diffusion_models/wan2.1_t2v_1.3B_fp16.safetensors",
      COMFY "text_encoders/umt5_xxl_fp16.safetensors",
      COMFY "vae/wan_2.1_vae.safetensors", COMFY "clip/spiece.model", NULL },
    { "ComfyUI with folders of one's own and GGUF",
      { COMFY "unet/wan/gguf/wan2.1-t2v-14b-Q8_0.gguf",
        COMFY "clip/umt5-xxl-encoder-Q4_K_M.gguf",
        COMFY "clip/umt5-xxl-encoder-Q8_0.gguf",
        COMFY "vae/Wan2_1_VAE_bf16.safetensors",
        COMFY "vae/Wan2_1_VAE_fp32.safetensors",
        COMFY "tokenizer/spiece.model" },
      COMFY "unet/wan/gguf/wan2.1-t2v-14b-Q8_0.gguf",
      COMFY "unet/wan/gguf/wan2.1-t2v-14b-Q8_0.gguf",
      COMFY "clip/umt5-xxl-encoder-Q8_0.gguf",
      COMFY "vae/Wan2_1_VAE_fp32.safetensors",
      COMFY "tokenizer/spiece.model", NULL },
    { "a folder with all of Kijai's files",
      { "k/Wan2_1-T2V-1_3B_bf16.safetensors", "k/config.json",
        "k/umt5-xxl-enc-bf16.safetensors",
        "k/umt5-xxl-enc-fp8_e4m3fn.safetensors",
        "k/Wan2_1_VAE_bf16.safetensors", "k/taew2_1.safetensors",
        "k/Wan21_CausVid_14B_T2V_lora_rank32.safetensors",
        "k/open-clip-xlm-roberta-large-vit-huge-14_fp16.safetensors",
        "k/.hidden.safetensors", "k/spiece.model" }, "k/",
      "k/Wan2_1-T2V-1_3B_bf16.safetensors", "k/umt5-xxl-enc-bf16.safetensors",
      "k/Wan2_1_VAE_bf16.safetensors", "k/spiece.model", NULL },
    { "CausVid's program",
      { RELEASE("CausVid/wan_models/Wan2.1-T2V-1.3B/"),
        "CausVid/checkpoints/autoregressive_checkpoint/model.pt" },
      "CausVid/checkpoints/autoregressive_checkpoint",
      "CausVid/checkpoints/autoregressive_checkpoint/model.pt",
      "CausVid/wan_models/Wan2.1-T2V-1.3B/" T5_PTH,
      "CausVid/wan_models/Wan2.1-T2V-1.3B/Wan2.1_VAE.pth",
      "CausVid/wan_models/Wan2.1-T2V-1.3B/" SPIECE, NULL },
    { "Self-Forcing's program",
      { RELEASE("s/wan_models/Wan2.1-T2V-1.3B/"),
        "s/checkpoints/self_forcing_dmd.pt", "s/checkpoints/ode_init.pt" },
      "s/checkpoints/self_forcing_dmd.pt", "s/checkpoints/self_forcing_dmd.pt",
      "s/wan_models/Wan2.1-T2V-1.3B/" T5_PTH,
      "s/wan_models/Wan2.1-T2V-1.3B/Wan2.1_VAE.pth",
      "s/wan_models/Wan2.1-T2V-1.3B/" SPIECE, NULL },
    { "LightX2V's 14B beside the release",
      { RELEASE("Wan2.1-T2V-14B/"), "Wan2.1-T2V-14B-CausVid/config.json",
        "Wan2.1-T2V-14B-CausVid/causvid_models/causal_model.pt" },
      "Wan2.1-T2V-14B-CausVid/causvid_models",
      "Wan2.1-T2V-14B-CausVid/causvid_models/causal_model.pt",
      "Wan2.1-T2V-14B/" T5_PTH, "Wan2.1-T2V-14B/Wan2.1_VAE.pth",
      "Wan2.1-T2V-14B/" SPIECE, NULL },
    { "a diffusers folder beside other models",
      { "d/model_index.json", "d/transformer/config.json",
        "d/transformer/diffusion_pytorch_model.safetensors",
        "d/text_encoder/model.safetensors", "d/vae/config.json",
        "d/vae/diffusion_pytorch_model.safetensors", "d/tokenizer/spiece.model",
        "vae/wan_2.1_vae.safetensors", "umt5_xxl_fp16.safetensors" }, "d",
      "d/transformer/diffusion_pytorch_model.safetensors",
      "d/text_encoder/model.safetensors",
      "d/vae/diffusion_pytorch_model.safetensors", "d/tokenizer/spiece.model",
      "d/transformer/config.json" },
    { "names in capitals",
      { "c/WAN.safetensors", "c/UMT5_XXL_FP16.safetensors",
        "c/WAN_2.1_VAE.safetensors", "c/spiece.model" }, "c/WAN.safetensors",
      "c/WAN.safetensors", "c/UMT5_XXL_FP16.safetensors",
      "c/WAN_2.1_VAE.safetensors", "c/spiece.model", NULL },
};

static int find(const char *root, const char *model, const char *tokenizer)
{
    char path[1200];
    CausvidSettings s = { .model = path, .tokenizer = tokenizer };

    snprintf(path, sizeof(path), "%s%s%s", root, *root ? "/" : "", model);
    return cv_files_find(&files, &s, &lines.log);
}

/* Is it root/name? Both empty when name is NULL. */
static int at(const char *path, const char *root, const char *name)
{
    size_t n = strlen(root);

    if (!name)
        return !path[0];
    if (strncmp(path, root, n) || (n && path[n] != '/') ||
        strcmp(path + n + !!n, name)) {
        tap_diag("got '%s', expected '%s/%s'", path, root, name);
        return 0;
    }
    return 1;
}

static void test_layouts(void)
{
    for (size_t i = 0; i < sizeof(layouts) / sizeof(*layouts); i++) {
        const Layout *l = &layouts[i];
        const char *root = temp_folder();

        for (int k = 0; k < MAX_FILES && l->files[k]; k++)
            save_text(root, l->files[k], "");
        ok(!find(root, l->model, NULL) &&
           at(files.transformer, root, l->transformer) &&
           at(files.transformer_config, root, l->config) &&
           at(files.text_encoder, root, l->text_encoder) &&
           at(files.vae, root, l->vae) &&
           at(files.tokenizer, root, l->tokenizer) &&
           !files.tokenizer_embedded && lines_none(&lines), "%s", l->what);
    }
}

/* Nothing is taken from around a diffusers folder that lacks a part. */
static void test_closed(void)
{
    static const char *const names[] = {
        "d/model_index.json",
        "d/transformer/diffusion_pytorch_model.safetensors",
        "d/text_encoder/model.safetensors", "d/tokenizer/spiece.model",
        "vae/wan_2.1_vae.safetensors", NULL,
    };
    const char *root = temp_folder();
    char path[1100];

    for (int i = 0; names[i]; i++)
        save_text(root, names[i], "");
    ok(find(root, "d", NULL) == FAILED(ENOENT) &&
       lines_error(&lines, "d' holds no VAE"), "a diffusers folder");
    ok(find(root, "d/transformer", NULL) == FAILED(ENOENT) &&
       lines_error(&lines, "holds no VAE"), "its transformer's folder");
    snprintf(path, sizeof(path), "%s/d/model_index.json", root);
    unlink(path);
    ok(!find(root, "d", NULL) && at(files.vae, root, names[4]) &&
       lines_none(&lines), "without its index it is any folder");
}

/* Relative paths reach the folders above too. */
static void test_relative(void)
{
    const char *root = temp_folder();
    char path[1200], *old = getcwd(NULL, 0);

    save_text(root, "m/diffusion_models/wan/wan.gguf", "");
    save_text(root, "m/text_encoders/umt5_xxl_fp16.safetensors", "");
    save_text(root, "m/vae/wan_2.1_vae.safetensors", "");
    save_text(root, "m/spiece.model", "");
    snprintf(path, sizeof(path), "%s/m/diffusion_models", root);
    if (!old || chdir(path) < 0)
        tap_bail("chdir");
    ok(!find("", "wan/wan.gguf", NULL) && at(files.root, "", "wan") &&
       at(files.vae, "./..", "vae/wan_2.1_vae.safetensors") &&
       at(files.text_encoder, "./..",
          "text_encoders/umt5_xxl_fp16.safetensors") &&
       at(files.tokenizer, "./..", "spiece.model"), "below this folder");
    if (chdir("wan") < 0)
        tap_bail("chdir");
    ok(!find("", "wan.gguf", NULL) && at(files.root, "", ".") &&
       at(files.vae, "./../..", "vae/wan_2.1_vae.safetensors"),
       "in this folder");
    ok(lines_none(&lines), "without a line");
    if (chdir(old) < 0)
        tap_bail("chdir");
    free(old);
}

/* ---- what is in a file counts ---- */

static StTensor tensor(const char *name)
{
    return (StTensor){ .name = name, .type = CV_U8, .n_dims = 1,
                       .dim = { 1 } };
}

static void save_tensors(const char *root, const char *name,
                         const char *first, const char *second,
                         const char *third)
{
    StTensor t[] = { tensor(first), tensor(second ? second : ""),
                     tensor(third ? third : "") };
    Blob blob = st_write(t, 1 + !!second + !!third, 0);

    save_blob(root, name, blob);
    blob_free(&blob);
}

static void test_combined(void)
{
    const char *root = temp_folder(), *name = "checkpoints/all.safetensors";

    save_tensors(root, name, "model.diffusion_model.patch_embedding.weight",
                 "text_encoders.umt5xxl.spiece_model", "vae.conv1.bias");
    /* which a file with its own does not need */
    save_text(root, "vae/wan_2.1_vae.safetensors", "");
    ok(!find(root, name, NULL) && at(files.transformer, root, name) &&
       at(files.text_encoder, root, name) && at(files.vae, root, name) &&
       at(files.tokenizer, root, name) && files.tokenizer_embedded &&
       !files.text_encoder_config[0] && !files.vae_config[0],
       "one file is all parts");
    save_text(root, "checkpoints/spiece.model", "");
    ok(!find(root, name, NULL) && !files.tokenizer_embedded &&
       at(files.tokenizer, root, "checkpoints/spiece.model"),
       "a tokenizer beside it");
    save_tensors(root, name, "model.diffusion_model.patch_embedding.weight",
                 "text_encoders.umt5xxl.spiece_model", NULL);
    ok(!find(root, name, NULL) && at(files.text_encoder, root, name) &&
       at(files.vae, root, "vae/wan_2.1_vae.safetensors"),
       "one without a VAE");
    ok(lines_none(&lines), "without a line");
}

static void test_embedded(void)
{
    const char *root = temp_folder();
    const char *encoder = "text_encoders/umt5_xxl_fp16.safetensors";
    const char *gguf = "text_encoders/umt5-xxl-encoder-Q8_0.gguf";
    char path[1200];
    Blob blob;

    save_text(root, "diffusion_models/wan.safetensors", "");
    save_text(root, "vae/wan_2.1_vae.safetensors", "");
    save_tensors(root, encoder, "shared.weight", NULL, NULL);
    ok(find(root, "diffusion_models", NULL) == FAILED(ENOENT) &&
       lines_error(&lines, "no tokenizer, nor does its text encoder's file|"
                   "spiece.model|option tokenizer"), "no tokenizer");
    save_tensors(root, encoder, "shared.weight", "spiece_model", NULL);
    ok(!find(root, "diffusion_models", NULL) && files.tokenizer_embedded &&
       at(files.tokenizer, root, encoder), "one in the text encoder's file");
    snprintf(path, sizeof(path), "%s",
             save_text(root, "other/any.model", "x"));
    ok(!find(root, "diffusion_models", path) && !files.tokenizer_embedded &&
       at(files.tokenizer, root, "other/any.model"), "one that is named");
    snprintf(path, sizeof(path), "%s/%s", root, encoder);
    ok(!find(root, "diffusion_models", path) && files.tokenizer_embedded &&
       at(files.tokenizer, root, encoder), "one in a file that is named");

    unlink(path);
    blob = blob_load(data_path("tokenizer.gguf"));
    save_blob(root, gguf, blob);
    blob_free(&blob);
    ok(!find(root, "diffusion_models", NULL) && files.tokenizer_embedded &&
       at(files.text_encoder, root, gguf) && at(files.tokenizer, root, gguf),
       "one in the text encoder's GGUF file");
    save_text(root, "text_encoders/spiece.model", "");
    ok(!find(root, "diffusion_models", NULL) && files.tokenizer_embedded,
       "of that and a spiece.model elsewhere, the file's own");
    save_text(root, "diffusion_models/spiece.model", "");
    ok(!find(root, "diffusion_models", NULL) && !files.tokenizer_embedded,
       "a spiece.model beside the model");
    ok(lines_none(&lines), "without a line");
}

int main(void)
{
    lines_init(&lines);
    test_layouts();
    test_closed();
    test_relative();
    test_combined();
    test_embedded();
    return tap_done();
}
