/*
 * Models with a part missing, damaged, or of another model: folders, JSON
 * files, the tokenizer, special files. What is wrong inside of weight files is
 * in test_bad_weights.c.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * Each case damages one thing of the fixture model and goes the whole way of a
 * user: causvid_open(), and where that succeeds a clip.
 */
#include <errno.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../sanitized.h"
#include "../tap.h"
#include "bad_model.h"

#define FRAMES 9 /* the first block */

static Outcome healthy;

/* Opening is refused in one line, which names what was found and expected. */
static void refused_by(const CausvidSettings *settings, int error,
                       const char *parts, const char *what)
{
    Outcome o = try_model(settings, FRAMES);

    if (!ok(is_refused(&o, "open", error, parts), "%s: %s", what,
            line_text(&o)))
        print_outcome(&o);
}

static void refused(int error, const char *parts, const char *what)
{
    refused_by(NULL, error, parts, what);
    model_reset();
}

/* The damage does not matter: the same frames, without a line. */
static void unharmed(const char *what)
{
    Outcome o = try_model(NULL, FRAMES);

    if (!ok(is_unharmed(&o, FRAMES, healthy.hash), "%s: the same frames",
            what))
        print_outcome(&o);
    model_reset();
}

static void test_missing(void)
{
    static const struct {
        const char *name, *parts; /* NULL: it can be done without */
        int error;
    } cases[] = {
        { "transformer", "model'|no transformer|transformer/", ENOENT },
        { "text_encoder", "model'|no text encoder|text_encoder", ENOENT },
        { "vae", "model'|no VAE|vae/|option vae", ENOENT },
        { "tokenizer", "model'|no tokenizer|spiece.model|option tokenizer",
          ENOENT },
        { DIT_FILE, "transformer|no |.safetensors", ENOENT },
        { TEXT_FILE, "text_encoder|no |.safetensors", ENOENT },
        { VAE_FILE, "vae|no |.safetensors", ENOENT },
        { SPIECE, "model'|no tokenizer|spiece.model", ENOENT },
        { "transformer/config.json", DIT_FILE "|32|128|config.json", EILSEQ },
        { "text_encoder/config.json", NULL, 0 },
        { "vae/config.json", NULL, 0 },
        { "model_index.json", NULL, 0 },
        { "scheduler", NULL, 0 },
        { "tokenizer/tokenizer.json", NULL, 0 },
    };
    CausvidSettings s;

    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        char what[128];

        snprintf(what, sizeof(what), "without %s", cases[i].name);
        file_remove(cases[i].name);
        if (cases[i].parts)
            refused(cases[i].error, cases[i].parts, what);
        else
            unharmed(what);
    }
    file_remove("");
    refused(ENOENT, "model' does not exist", "no model");
    file_remove("");
    mkdir(model_file("../model"), 0755);
    refused(ENOENT, "model'|no transformer", "an empty folder");
    causvid_default_settings(&s);
    s.model = "";
    refused_by(&s, EINVAL, "model is empty", "an empty path");
}

/* ---- JSON files ---- */

/* Text that no JSON file may hold, whichever it is. */
static void test_garbage(void)
{
    static const char *const files[] = {
        "transformer/config.json", "text_encoder/config.json",
        "vae/config.json", "recipe.json", "model_index.json",
    };
    static const char *const texts[] = {
        "", "{", "[]", "null", "7", "\"text\"", "{\"eps\": NaN}",
        "{\"eps\": 1, \"eps\": 2}", "{\"eps\": 01}", "{} {}", "{,}",
        "{\"a\": \"\xff\"}", "{\"a\": \"\\u0000\"}", "\x89PNG\r\n\x1a\n",
        "<html><body>404</body></html>", "not json at all\n",
    };
    char *deep = malloc(100001);

    if (!deep)
        tap_bail("no memory");
    memset(deep, '[', 100000);
    deep[100000] = 0;
    for (size_t f = 0; f < sizeof(files) / sizeof(*files); f++) {
        size_t n = sizeof(texts) / sizeof(*texts);
        char name[128];

        snprintf(name, sizeof(name), "model/%s", files[f]);
        for (size_t i = 0; i <= n; i++) {
            Outcome o;

            file_text(files[f], i < n ? texts[i] : deep);
            o = try_model(NULL, FRAMES);
            if (!ok(o.error == CAUSVID_ERR(EILSEQ) && o.errors == 1 &&
                    !strcmp(o.call, "open") && !o.bad && line_has(&o, name),
                    "%s, garbage %zu: %s", files[f], i, line_text(&o)))
                tap_diag("  %s gave %d", o.call, o.error);
            model_reset();
        }
    }
    free(deep);
}

typedef struct Key {
    const char *key, *value, *parts;
    int error; /* 0: opens and gives the same frames */
} Key;

static void test_keys(const char *file, const Key *keys, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        char what[256], parts[512];

        snprintf(what, sizeof(what), "%s: %s %s", file, keys[i].key,
                 keys[i].value ? keys[i].value : "removed");
        snprintf(parts, sizeof(parts), "model/%s|%s", file,
                 keys[i].parts ? keys[i].parts : keys[i].key);
        json_set(file, keys[i].key, keys[i].value);
        if (keys[i].error)
            refused(keys[i].error, parts, what);
        else
            unharmed(what);
    }
}

#define COUNT(array) (sizeof(array) / sizeof(*(array)))

static void test_configs(void)
{
    static const Key dit[] = {
        { "num_layers", "3", "num_layers|3|2", EILSEQ },
        { "num_layers", "0", "num_layers|0", EILSEQ },
        { "num_layers", "1e99", "num_layers|1e+99", EILSEQ },
        { "num_layers", "\"two\"", "num_layers|two", EILSEQ },
        { "num_layers", NULL, NULL, 0 },
        { "ffn_dim", "64", "ffn_dim|64|56", EILSEQ },
        { "freq_dim", "256", "freq_dim|256|32", EILSEQ },
        { "text_dim", "4096", "text_dim|4096|24", EILSEQ },
        { "in_channels", "36", "in_channels|36|16", EILSEQ },
        { "out_channels", "48", "out_channels|48|16", EILSEQ },
        { "dim", "1536", "dim|1536|32", EILSEQ },
        { "num_attention_heads", "12", "12 heads|16|32", EILSEQ },
        { "num_attention_heads", "-2", "num_attention_heads|-2", EILSEQ },
        { "attention_head_dim", "128", "2 heads|128|32", EILSEQ },
        { "attention_head_dim", "16.5", "attention_head_dim|16.5", EILSEQ },
        { "cross_attn_norm", "false", "cross_attn_norm|false|norm3", EILSEQ },
        { "cross_attn_norm", "1", "cross_attn_norm|1|true or false", EILSEQ },
        { "eps", "-1", "eps|-1", EILSEQ },
        { "eps", "1e400", "eps", EILSEQ },
        { "patch_size", "[1, 4, 4]", "patch_size|[1,4,4]|[1, 2, 2]", ENOSYS },
        { "patch_size", "[1, 2]", "patch_size|[1,2]", ENOSYS },
        { "patch_size", "\"1x2x2\"", "patch_size|1x2x2|list", EILSEQ },
        { "qk_norm", "null", NULL, ENOSYS },
        { "qk_norm", "\"rms_norm\"", "qk_norm|rms_norm", ENOSYS },
        { "qk_norm", "false", "qk_norm|false", ENOSYS },
        { "image_dim", "1280", "image_dim|1280|T2V", ENOSYS },
        { "added_kv_proj_dim", "5120", "added_kv_proj_dim|5120", ENOSYS },
        { "pos_embed_seq_len", "514", "pos_embed_seq_len|514", ENOSYS },
        { "vace_layers", "[0, 5]", "vace_layers|[0,5]", ENOSYS },
        { "model_type", "\"i2v\"", "model_type|i2v|t2v", ENOSYS },
        { "text_len", "77", "text_len|77|512", ENOSYS },
        { "window_size", "[7, 7]", "window_size|[7,7]", ENOSYS },
        { "_class_name", "\"CausalWanModel\"", NULL, 0 },
    };
    static const Key text[] = {
        { "vocab_size", "256384", "vocab_size|256384|41", EILSEQ },
        { "d_model", "4096", "d_model|4096|24", EILSEQ },
        { "d_ff", "10240", "d_ff|10240|40", EILSEQ },
        { "d_kv", "64", "d_kv|64|8", EILSEQ },
        { "num_heads", "64", "num_heads|64|3", EILSEQ },
        { "num_layers", "24", "num_layers|24|2", EILSEQ },
        { "num_layers", "{}", "num_layers|object", EILSEQ },
        { "relative_attention_num_buckets", "64", "buckets|64|32", EILSEQ },
        { "relative_attention_max_distance", "256", "max_distance|128",
          ENOSYS },
        { "layer_norm_epsilon", "0", "layer_norm_epsilon|0", EILSEQ },
        { "feed_forward_proj", "\"relu\"", "relu|gated-gelu", ENOSYS },
        { "dense_act_fn", "\"silu\"", "silu|gelu_new", ENOSYS },
        { "is_gated_act", "false", "is_gated_act|true", ENOSYS },
        { "model_type", "\"t5\"", "t5|umt5", ENOSYS },
        { "model_type", "5", "model_type|5|string", EILSEQ },
        { "vocab_size", NULL, NULL, 0 },
    };
    static const Key vae[] = {
        { "z_dim", "8", "z_dim|8|16", EILSEQ },
        { "z_dim", "16.5", "z_dim|16.5", EILSEQ },
        { "base_dim", "96", "decoder|384|8", EILSEQ },
        { "decoder_base_dim", "96", "decoder|384|8", EILSEQ },
        { "dim_mult", "[1, 2, 4, 8]", "dim_mult|decoder|16|8", EILSEQ },
        { "dim_mult", "[1, 2]", "decoder", EILSEQ },
        { "dim_mult", "[1, 2, 4, 1e300]", "dim_mult|1e+300", EILSEQ },
        { "dim_mult", "[1, 2, 4, -4]", "dim_mult|-4", EILSEQ },
        { "dim_mult", "\"all\"", "dim_mult|all|list", EILSEQ },
        { "num_res_blocks", "2", "decoder", EILSEQ },
        { "temperal_downsample", "[true, true, false]", "decoder|time",
          EILSEQ },
        { "temperal_downsample", "[0, 1, 1]", "temperal_downsample|booleans",
          EILSEQ },
        { "scale_factor_spatial", "16", "scale_factor_spatial|16|8", EILSEQ },
        { "scale_factor_temporal", "8", "scale_factor_temporal|8|4", EILSEQ },
        { "latents_mean", "[0, 0]", "latents_mean|2|16", EILSEQ },
        { "latents_std", "[]", "latents_std|0|16", EILSEQ },
        { "latents_std", "[1,1,1,1,1,1,1,0,1,1,1,1,1,1,1,1]", "std 0|7",
          EILSEQ },
        { "latents_std", "[1,1,1,1,1,1,1,1e308,1,1,1,1,1,1,1,1]", "1e+308|7",
          EILSEQ },
        { "latents_mean", "[0,0,0,0,0,0,0,1e308,0,0,0,0,0,0,0,0]", "1e+308|7",
          EILSEQ },
        { "latents_mean", "[0,0,0,null]", "latents_mean|null", EILSEQ },
        { "is_residual", "true", "is_residual|2.2", ENOSYS },
        { "patch_size", "2", "patch_size|2", ENOSYS },
        { "in_channels", "12", "in_channels|12|3", ENOSYS },
        { "out_channels", "12", "out_channels|12|3", ENOSYS },
        { "clip_output", "false", "clip_output", ENOSYS },
        { "attn_scales", "[0.25]", "attn_scales", ENOSYS },
        { "_class_name", "\"AutoencoderKL\"", "AutoencoderKL'", ENOSYS },
    };
    static const Key index[] = {
        { "transformer_2", "[\"diffusers\", \"WanTransformer3DModel\"]",
          "transformer_2|WanTransformer3DModel|Wan 2.2", ENOSYS },
        { "_class_name", "\"WanVideoToVideoPipeline\"", NULL, 0 },
        { "transformer_2", NULL, NULL, 0 },
    };

    test_keys("transformer/config.json", dit, COUNT(dit));
    test_keys("text_encoder/config.json", text, COUNT(text));
    test_keys("vae/config.json", vae, COUNT(vae));
    test_keys("model_index.json", index, COUNT(index));
}

static void test_recipes(void)
{
    static const Key recipe[] = {
        { "windov", "6", "unknown key 'windov'", EILSEQ },
        { "variant", NULL, "variant|causal", EILSEQ },
        { "variant", "\"sideways\"", "variant|sideways|causal", EILSEQ },
        { "variant", "true", "variant|true", EILSEQ },
        { "width", "50", "50x16|multiples of 16", EILSEQ },
        { "width", "0", "width|0", EILSEQ },
        { "height", "1000000", "height|1000000", EILSEQ },
        { "height", "\"16\"", "height|16", EILSEQ },
        { "rate", "0", "rate|0", EILSEQ },
        { "rate", "23.976", "rate|23.976", EILSEQ },
        { "frames", "-1", "frames|-1", EILSEQ },
        { "frames", "1e18", "frames|1e+18", EILSEQ },
        { "frames_per_block", "0", "frames_per_block|0", EILSEQ },
        { "frames_per_block", "4", "window|6|4", EILSEQ },
        { "window", "7", "window|7|multiple|3", EILSEQ },
        { "window", "1", "window|1|3", EILSEQ },
        { "window", "null", "window|21", 0 },
        { "sampler", "\"magic\"", "sampler|magic|causvid", EILSEQ },
        { "sampler", "\"auto\"", "sampler|auto", EILSEQ },
        { "sampler", "[\"causvid\"]", "sampler|list", EILSEQ },
        { "timesteps", "[]", "timesteps|steps", EILSEQ },
        { "timesteps", NULL, "timesteps|steps", EILSEQ },
        { "timesteps", "[0]", "timesteps|no step", EILSEQ },
        { "timesteps", "[522, 757, 1000]", "timesteps|757 after 522|falling",
          EILSEQ },
        { "timesteps", "[1000, 1000]", "timesteps|falling", EILSEQ },
        { "timesteps", "[1001, 500]", "timesteps|1001|1000", EILSEQ },
        { "timesteps", "[1000, -5]", "timesteps|-5|0", EILSEQ },
        { "timesteps", "[1000, 1e300]", "timesteps|entry 2", EILSEQ },
        { "timesteps", "[1000, \"757\"]", "timesteps|757", EILSEQ },
        { "timesteps", "1000", "timesteps|1000|list", EILSEQ },
        { "steps", "9", "steps|9|3", EILSEQ },
        { "steps", "0", "steps|0", EILSEQ },
        { "steps", "100000", "steps|100000", EILSEQ },
        { "warp", "\"yes\"", "warp|yes|true or false", EILSEQ },
        { "shift", "0", "shift|0", EILSEQ },
        { "shift", "1e99", "shift|1e+99", EILSEQ },
        { "guidance", "-1", "guidance|-1", EILSEQ },
        { "guidance", "1e9", "guidance|1000000000", EILSEQ },
        { "negative_prompt", "7", "negative_prompt|7|string", EILSEQ },
        { "name", "\"a\\nb\"", "name|a?b|control", EILSEQ },
        { "name", "\"a name\"", NULL, 0 },
        { "licence", "\"free\"", NULL, 0 },
        { "licence", "[\"free\"]", "licence|list", EILSEQ },
    };

    test_keys("recipe.json", recipe, COUNT(recipe));
    json_set("recipe.json", "sampler", "\"flowmatch_causvid\"");
    refused(EILSEQ, "model/recipe.json|timesteps|sampler",
            "a list for a sampler that has its own");
    json_set("recipe.json", "timesteps", NULL);
    json_set("recipe.json", "steps", "4");
    refused(EILSEQ, "model/recipe.json|timesteps",
            "no list for the causvid sampler");
}

/* A recipe that is legal, and needs far more memory than there is. */
static void test_memory(void)
{
    Outcome o;

    if (SANITIZED) {
        tap_skip(1, "the sanitizer takes such a request for an error");
        return;
    }
    json_set("recipe.json", "width", "8192");
    json_set("recipe.json", "height", "8192");
    json_set("recipe.json", "frames_per_block", "1024");
    json_set("recipe.json", "window", "4096");
    json_set("recipe.json", "frames", "1048576");
    o = try_model(NULL, 1 << 20);
    ok(o.error == CAUSVID_ERR(ENOMEM) && !strcmp(o.call, "start") &&
       o.errors == 1 && line_has(&o, "memory|smaller"),
       "a recipe that needs all memory there is: %s", line_text(&o));
    model_reset();
}

/* ---- parts of other models ---- */

static void test_swapped(void)
{
    static const struct {
        const char *from, *to, *parts;
    } cases[] = {
        { VAE_FILE, DIT_FILE, DIT_FILE "|holds a Wan VAE|Wan transformer" },
        { TEXT_FILE, DIT_FILE, DIT_FILE "|UMT5 text encoder|transformer" },
        { DIT_FILE, VAE_FILE, VAE_FILE "|holds a Wan transformer|Wan VAE" },
        { TEXT_FILE, VAE_FILE, VAE_FILE "|UMT5 text encoder|Wan VAE" },
        { DIT_FILE, TEXT_FILE, TEXT_FILE "|Wan transformer|text encoder" },
        { VAE_FILE, TEXT_FILE, TEXT_FILE "|Wan VAE|UMT5 text encoder" },
        { DIT_FILE, SPIECE, SPIECE "|SentencePiece" },
        { SPIECE, DIT_FILE, DIT_FILE "|safetensors" },
        { SPIECE, "recipe.json", "recipe.json|line 2" },
        { "vae/config.json", "transformer/config.json",
          "transformer/config.json|in_channels|3|16" },
        { "text_encoder/config.json", "transformer/config.json",
          "transformer/config.json|umt5" },
        { "transformer/config.json", "vae/config.json",
          "vae/config.json|patch_size|integer" },
    };

    for (size_t i = 0; i < COUNT(cases); i++) {
        char what[256];
        Outcome o;

        snprintf(what, sizeof(what), "%s as %s", cases[i].from, cases[i].to);
        file_copy(cases[i].from, cases[i].to);
        o = try_model(NULL, FRAMES);
        ok((o.error == CAUSVID_ERR(EILSEQ) || o.error == CAUSVID_ERR(ENOSYS)) &&
           !strcmp(o.call, "open") && o.errors == 1 && !o.bad &&
           line_has(&o, cases[i].parts), "%s: %s", what, line_text(&o));
        model_reset();
    }
}

/* Parts named by options, which belong to other models. */
static void test_options(void)
{
    CausvidSettings s;

    /* a text encoder of another width; its config tells the same */
    file_copy("text_encoder", "../wide");
    for (int i = 0; i < 2; i++) {
        static const char *const square[] = { "q", "k", "v", "o" };
        static const char *const tall[] = { "wi_0", "wi_1" };
        char name[160];

        for (int k = 0; k < 4; k++) {
            snprintf(name, sizeof(name), "encoder.block.%d.layer.0."
                     "SelfAttention.%s.weight", i, square[k]);
            st_tensor("../wide/model.safetensors", name, "F32",
                      k < 3 ? "24,32" : "32,24");
        }
        for (int k = 0; k < 2; k++) {
            snprintf(name, sizeof(name), "encoder.block.%d.layer.1."
                     "DenseReluDense.%s.weight", i, tall[k]);
            st_tensor("../wide/model.safetensors", name, "F32", "40,32");
            snprintf(name, sizeof(name), "encoder.block.%d.layer.%d."
                     "layer_norm.weight", i, k);
            st_tensor("../wide/model.safetensors", name, "F32", "32");
        }
        snprintf(name, sizeof(name), "encoder.block.%d.layer.1."
                 "DenseReluDense.wo.weight", i);
        st_tensor("../wide/model.safetensors", name, "F32", "32,40");
    }
    st_tensor("../wide/model.safetensors", "encoder.final_layer_norm.weight",
              "F32", "32");
    st_tensor("../wide/model.safetensors", "shared.weight", "F32", "41,32");
    json_set("../wide/config.json", "d_model", "32");
    causvid_default_settings(&s);
    s.text_encoder = model_file("../wide");
    refused_by(&s, EILSEQ, "wide|32|" DIT_FILE "|24",
               "a text encoder of another width");
    causvid_default_settings(&s);
    s.vae = model_file("../wide");
    refused_by(&s, EILSEQ, "wide|UMT5 text encoder|Wan VAE|text_encoder",
               "a text encoder as VAE");
    s.vae = NULL;
    s.tokenizer = model_file("vae");
    refused_by(&s, ENOENT, "model/vae'|spiece.model", "a folder without "
               "tokenizer as tokenizer");
    s.tokenizer = model_file(TEXT_FILE);
    refused_by(&s, EILSEQ, TEXT_FILE "|SentencePiece", "weights as tokenizer");
    s.tokenizer    = model_file(SPIECE);
    s.text_encoder = model_file("text_encoder");
    s.vae          = model_file("vae");
    s.model        = model_file(SPIECE);
    refused_by(&s, EILSEQ, SPIECE "|safetensors", "a tokenizer as model");
    s.model        = model_file("recipe.json");
    refused_by(&s, EILSEQ, "recipe.json|weight", "a recipe as model");
    file_remove("../wide");
    model_reset();
}

/* ---- tokenizers ---- */

static void append(const char *name, const void *data, size_t n)
{
    FILE *file = fopen(model_file(name), "ab");

    if (!file || fwrite(data, 1, n, file) != n || fclose(file))
        tap_bail("%s cannot be written", name);
}

static void test_tokenizers(void)
{
    size_t size = file_size(SPIECE), refusals = 0, opened = 0, strange = 0;
    uint8_t piece[] = { 0x0a, 10, 0x0a, 3, 'q', 'q', '0', 0x15,
                        0, 0, 0x80, 0xc0 };

    for (int kind = 0; kind < 2; kind++) {
        for (size_t i = 0; i < (kind ? 8 * size : size); i += kind ? 11 : 3) {
            size_t before = strange;
            Outcome o;

            if (kind)
                file_flip(SPIECE, i);
            else
                file_resize(SPIECE, i);
            o = try_model(NULL, 1);
            if (o.error) /* a damaged piece may mean another number of them */
                strange += (o.error != CAUSVID_ERR(EILSEQ) &&
                            o.error != CAUSVID_ERR(ENOSYS)) || o.errors != 1 ||
                           o.bad || strcmp(o.call, "open") ||
                           !line_has(&o, SPIECE);
            else
                strange += o.errors || o.frames != 1;
            *(o.error ? &refusals : &opened) += 1;
            if (strange > before)
                tap_diag("%s %zu: %s %d, %d lines, %d frames: %s",
                         kind ? "flip" : "cut", i, o.call, o.error, o.errors,
                         o.frames, line_text(&o));
            model_reset();
        }
    }
    ok(refusals > size / 4 && opened > size / 8 && !strange, "tokenizers cut "
       "or with a bit flipped: %zu refused in a line, %zu opened, %zu neither",
       refusals, opened, strange);
    file_resize(SPIECE, 0);
    refused(EILSEQ, SPIECE "|SentencePiece", "an empty tokenizer");
    file_resize(SPIECE, (size_t)100 << 20);
    refused(EILSEQ, SPIECE "|SentencePiece", "a tokenizer of 100 MB zeros");
    append(SPIECE, piece, sizeof(piece));
    refused(EILSEQ, SPIECE "|42 pieces|" TEXT_FILE "|41", "a tokenizer with "
            "more pieces than the text encoder has rows");
}

/* ---- what is no file ---- */

static void test_special(void)
{
    static const char *const names[] = {
        DIT_FILE, TEXT_FILE, VAE_FILE, SPIECE, "transformer/config.json",
        "text_encoder/config.json", "vae/config.json", "recipe.json",
        "model_index.json",
    };
    static const char *const kinds[] = {
        "a folder", "a FIFO", "/dev/zero", "/dev/null", "a link to nowhere",
    };

    for (size_t i = 0; i < COUNT(names); i++) {
        for (int kind = 0; kind < 5; kind++) {
            const char *path = model_file(names[i]);
            char file[128];
            Outcome o;
            int err;

            if (kind == 4 && strstr(names[i], ".json"))
                continue; /* is as if it were not there */
            file_remove(names[i]);
            err = kind == 0 ? mkdir(path, 0755)
                : kind == 1 ? mkfifo(path, 0644)
                : symlink(kind == 4 ? "nowhere" : kinds[kind], path);
            if (err)
                tap_bail("%s cannot be made", path);
            alarm(20); /* ends a program that waits for a writer */
            o = try_model(NULL, FRAMES);
            alarm(0);
            snprintf(file, sizeof(file), "model/%.*s",
                     kind == 4 ? (int)strcspn(names[i], "/") : 99, names[i]);
            err = kind == 4 || (kind == 0 && i < 3) ? ENOENT : EILSEQ;
            ok(o.error == CAUSVID_ERR(err) &&
               o.errors == 1 && !o.bad && !strcmp(o.call, "open") &&
               line_has(&o, kind == 4 && i == 3 ? "tokenizer" : file),
               "%s instead of %s: %s", kinds[kind], names[i], line_text(&o));
            model_reset();
        }
    }
}

static void test_permission(void)
{
    static const char *const names[] = {
        "", "transformer", "vae", DIT_FILE, TEXT_FILE, SPIECE, "recipe.json",
        "vae/config.json",
    };
    const uid_t root = geteuid();

    for (size_t i = 0; i < COUNT(names); i++) {
        char parts[160];

        file_mode(names[i], 0);
        if (!root && seteuid(65534))
            tap_bail("seteuid");
        if (!root && access(model_file(".."), X_OK)) {
            if (seteuid(root))
                tap_bail("seteuid");
            tap_skip((int)(COUNT(names) - i), "root is not refused, and others "
                     "cannot reach the build folder");
            model_reset();
            return;
        }
        snprintf(parts, sizeof(parts), "%s|Permission denied", names[i]);
        refused_by(NULL, EIO, parts, *names[i] ? names[i] : "the model");
        if (!root && seteuid(root))
            tap_bail("seteuid");
        model_reset();
    }
}

/* ---- */

static int count_descriptors(void)
{
    int n = 0;

    for (int fd = 0; fd < 256; fd++)
        n += lseek(fd, 0, SEEK_CUR) >= 0 || errno != EBADF;
    return n;
}

int main(void)
{
    int before;

    model_reset();
    healthy = try_model(NULL, FRAMES);
    if (healthy.error || healthy.frames != FRAMES || healthy.errors)
        tap_bail("the fixture model does not run: %s", healthy.line);
    before = count_descriptors();
    test_missing();
    test_garbage();
    test_configs();
    test_recipes();
    test_memory();
    test_swapped();
    test_options();
    test_tokenizers();
    test_special();
    test_permission();
    is_int(count_descriptors(), before);
    unharmed("after all that");
    return tap_done();
}
