/*
 * Models whose weight files are damaged: cut files, headers, tensors missing,
 * added and misshapen, values that are no numbers or make the network overflow.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * Each case damages one thing of the fixture model and goes the whole way of a
 * user: causvid_open(), and where that succeeds a clip. tests/unit/test_weights
 * has more of the container alone.
 */
#include <errno.h>
#include <math.h>
#include <sys/resource.h>

#include "../sanitized.h"
#include "../tap.h"
#include "bad_model.h"

#define FRAMES 9 /* the first block */

#define COUNT(array) (sizeof(array) / sizeof(*(array)))

static const char *const weight_files[] = { DIT_FILE, TEXT_FILE, VAE_FILE };

static Outcome healthy;

static void refused(int error, const char *parts, const char *what)
{
    Outcome o = try_model(NULL, FRAMES);

    if (!ok(is_refused(&o, "open", error, parts), "%s: %s", what,
            line_text(&o)))
        print_outcome(&o);
    model_reset();
}

/* Opening cannot see it, but no frame is given out. */
static void breaks(const char *parts, const char *what)
{
    Outcome o = try_model(NULL, FRAMES);

    if (!ok(is_refused(&o, "read", EIO, parts), "%s: %s", what,
            line_text(&o)))
        print_outcome(&o);
    model_reset();
}

static void unharmed(const char *what)
{
    Outcome o = try_model(NULL, FRAMES);

    if (!ok(is_unharmed(&o, FRAMES, healthy.hash), "%s: the same frames",
            what))
        print_outcome(&o);
    model_reset();
}

/* ---- the container ---- */

static void test_truncated(void)
{
    for (size_t f = 0; f < COUNT(weight_files); f++) {
        const char *name = weight_files[f];
        size_t size = file_size(name), header = st_header(name);
        const size_t cuts[] = {
            0, 1, 7, 8, 9, 100, 8 + header / 2, 8 + header - 1, 8 + header,
            8 + header + 1, 8 + header + 4, size / 2, size - 4096, size - 4,
            size - 1, size + 1, size + 4096, (size_t)1 << 33,
        };
        size_t good = 0;

        for (size_t i = 0; i < COUNT(cuts); i++) {
            Outcome o;

            file_resize(name, cuts[i]);
            o = try_model(NULL, FRAMES);
            if (is_refused(&o, "open", EILSEQ, name))
                good++;
            else
                tap_diag("%s with %zu bytes: %s %d: %s", name, cuts[i], o.call,
                         o.error, line_text(&o));
            model_reset();
        }
        ok(good == COUNT(cuts), "%s cut or too long: %zu of %zu refused in a "
           "line", name, good, COUNT(cuts));
    }
}

/* The same tensors under any header are refused or the same. */
static void test_flipped(void)
{
    uint64_t seed = 20240607;

    for (size_t f = 0; f < COUNT(weight_files); f++) {
        const char *name = weight_files[f];
        size_t bits = 8 * (8 + st_header(name)), refusals = 0, strange = 0;
        char folder[64]; /* its config.json may be the one to disagree */

        snprintf(folder, sizeof(folder), "model/%.*s/",
                 (int)strcspn(name, "/"), name);

        for (int i = 0; i < 120; i++) {
            size_t bit;
            Outcome o;

            seed = seed * UINT64_C(6364136223846793005) + 1442695040888963407;
            /* the length of the header first */
            bit = i < 64 ? (size_t)i : (size_t)(seed >> 33) % bits;
            file_flip(name, bit);
            o = try_model(NULL, FRAMES);
            if (is_refused(&o, "open", EILSEQ, folder)) {
                refusals++;
            } else if (o.error || o.hash != healthy.hash || o.errors) {
                strange++;
                tap_diag("%s with bit %zu flipped: %s %d, %d frames: %s", name,
                         bit, o.call, o.error, o.frames, line_text(&o));
            }
            model_reset();
        }
        ok(refusals > 100 && !strange, "%s with a bit of the header flipped: "
           "%zu of 120 refused in a line, the others harmless", name,
           refusals);
    }
}

/* Headers that fit their file otherwise. */
static void test_headers(void)
{
    static const struct {
        const char *from, *to, *parts;
    } edits[] = {
        { "\"dtype\":\"F32\"", "\"dtype\":\"F33\"", "unknown dtype 'F33'" },
        { "\"dtype\":\"F32\"", "\"dtype\":\"I32\"", "I32|floating point" },
        { "\"dtype\":\"F32\"", "\"dtype\":\"F16\"", "F16|64 bytes|0 and 128" },
        { "\"dtype\":\"F32\"", "\"dtype\":32", "unknown dtype" },
        { "\"dtype\":\"F32\",", "", "lacks a dtype" },
        { "\"shape\":[32],", "", "lacks" },
        { "\"data_offsets\":[0,128]", "\"offsets\":[0,128]", "lacks" },
        { "\"shape\":[32]", "\"shape\":[32,9007199254740991,9007199254740991]", "larger than any" },
        { "\"shape\":[32]", "\"shape\":[-32]", "shape|sizes" },
        { "\"shape\":[32]", "\"shape\":[32.5]", "shape|sizes" },
        { "\"shape\":[32]", "\"shape\":[1,1,1,1,1,1,1,1,1,1,1,32]",
          "shape|sizes" },
        { "\"shape\":[32]", "\"shape\":[[32]]", "shape|sizes" },
        { "\"shape\":[32]", "\"shape\":32", "shape|sizes" },
        { "[0,128]", "[0,132]", "0 and 132|128 bytes" },
        { "[0,128]", "[128,256]", "bytes before|norm_k.weight" },
        { "[128,256]", "[0,128]", "norm_k.weight|norm_q.weight|overlap" },
        { "[0,128]", "[128,0]", "128 and 0" },
        { "[0,128]", "[-128,0]", "data_offsets" },
        { "[0,128]", "[0,1e30]", "data_offsets" },
        { "[0,128]", "[0,128,256]", "data_offsets" },
        { "[0,128]", "[\"0\",\"128\"]", "data_offsets" },
        { "[0,128]", "[1000000000000,1000000000128]", "ends at|158272" },
        { "norm_k.weight", "norm_q.weight", "twice|norm_q.weight" },
        { "{\"format\":\"pt\"}", "7", "__metadata__" },
        { "\"blocks.0.attn1.norm_k.weight\"", "\"\"", "name" },
        { "attn1.norm_k", "attn1.\\u0007norm_k", "key|control" },
        { "{", "[", "'{'" },
        { "\"dtype\":\"F32\"", "\"dtype\":\"F32\",\"dtype\":\"F32\"",
          "twice" },
        { ",\"blocks.1", ",,\"blocks.1", "column" },
    };
    const size_t deep = 100000;
    char *text = malloc(2 * deep + 100);

    for (size_t i = 0; i < COUNT(edits); i++) {
        char what[256], parts[256];

        st_edit(DIT_FILE, edits[i].from, edits[i].to);
        snprintf(what, sizeof(what), "%.60s for %.60s", edits[i].to,
                 edits[i].from);
        snprintf(parts, sizeof(parts), DIT_FILE "|%s", edits[i].parts);
        refused(EILSEQ, parts, what);
    }

    if (!text)
        tap_bail("no memory");
    memset(text, '[', deep);
    text[deep] = 0;
    memcpy(text, "{\"a\":", 5);
    for (size_t f = 0; f < COUNT(weight_files); f++) {
        st_set_header(weight_files[f], text);
        refused(EILSEQ, weight_files[f], "a deeply nested header");
    }
    for (size_t i = 0; i < deep; i++)
        memcpy(text + 6 + 2 * i, "0,", 2);
    memcpy(text, "{\"a\":[", 6);
    strcpy(text + 6 + 2 * deep, "0]}");
    st_set_header(TEXT_FILE, text);
    refused(EILSEQ, TEXT_FILE "|'a'", "a header of 100001 numbers");
    st_set_header(VAE_FILE, "{}");
    refused(EILSEQ, VAE_FILE, "a header without tensors");
    st_set_header(VAE_FILE, "");
    refused(EILSEQ, VAE_FILE "|'{'", "an empty header");
    free(text);
}

/* ---- tensors ---- */

static void test_tensors(void)
{
    static const struct {
        const char *file, *tensor, *dtype, *dims, *parts;
        int error;
    } cases[] = {
        /* missing */
        { DIT_FILE, "blocks.1.attn2.to_k.weight", NULL, NULL,
          "lacks|blocks.1.cross_attn.k.weight|[32, 32]", EILSEQ },
        { DIT_FILE, "patch_embedding.weight", NULL, NULL,
          "patch_embedding.weight|missing", EILSEQ },
        { DIT_FILE, "scale_shift_table", NULL, NULL,
          "lacks|head.modulation|[2, 32]", EILSEQ },
        { DIT_FILE, "blocks.0.norm2.bias", NULL, NULL,
          "lacks|blocks.0.norm3.bias|[32]", EILSEQ },
        { TEXT_FILE, "shared.weight", NULL, NULL,
          "token_embedding.weight|missing", EILSEQ },
        { TEXT_FILE, "encoder.block.1.layer.0.SelfAttention."
          "relative_attention_bias.weight", NULL, NULL,
          "lacks|blocks.1.pos_embedding.embedding.weight", EILSEQ },
        { TEXT_FILE, "encoder.final_layer_norm.weight", NULL, NULL,
          "lacks|norm.weight|[24]", EILSEQ },
        { VAE_FILE, "post_quant_conv.weight", NULL, NULL,
          "conv2.weight|missing", EILSEQ },
        { VAE_FILE, "decoder.conv_out.bias", NULL, NULL,
          "lacks|decoder.head.2.bias|[3]", EILSEQ },
        { VAE_FILE, "decoder.mid_block.attentions.0.norm.gamma", NULL, NULL,
          "decoder", EILSEQ },
        { VAE_FILE, "decoder.up_blocks.1.resnets.1.conv2.weight", NULL, NULL,
          "decoder.upsamples.", EILSEQ },
        /* of another shape */
        { DIT_FILE, "blocks.0.attn1.to_q.weight", "F32", "32,16",
          "blocks.0.attn1.to_q.weight|[32, 16]|[32, 32]", EILSEQ },
        { DIT_FILE, "blocks.0.attn1.norm_q.weight", "F32", "16",
          "norm_q.weight|[16]|[32]", EILSEQ },
        { DIT_FILE, "blocks.1.ffn.net.0.proj.bias", "F32", "0",
          "proj.bias|[0]|[56]", EILSEQ },
        { DIT_FILE, "proj_out.weight", "F32", "62,32", "head.head.weight|62|4",
          EILSEQ },
        { DIT_FILE, "patch_embedding.weight", "F32", "32,16,1,4,4",
          "patch_embedding.weight|[32, 16, 1, 4, 4]|1x2x2", ENOSYS },
        { DIT_FILE, "patch_embedding.weight", "F32", "32,36,1,2,2",
          "I2V|input|text to video", ENOSYS },
        { DIT_FILE, "patch_embedding.weight", "F32", "", "patch_embedding.weight",
          EILSEQ },
        { DIT_FILE, "blocks.0.attn1.to_q.weight", "I64", "32,32",
          "blocks.0.attn1.to_q.weight|I64|floating point", EILSEQ },
        { TEXT_FILE, "shared.weight", "F32", "41,25", "config.json|d_model|24|25", EILSEQ },
        { TEXT_FILE, "shared.weight", "F32", "40,24", "config.json|vocab_size|41|40",
          EILSEQ },
        { TEXT_FILE, "encoder.block.0.layer.0.SelfAttention.q.weight", "F32",
          "25,24", "3 heads|25", EILSEQ },
        { TEXT_FILE, "encoder.block.0.layer.1.DenseReluDense.wo.weight",
          "F32", "40,24", "wo.weight|[40, 24]|[24, 40]", EILSEQ },
        { TEXT_FILE, "encoder.block.0.layer.0.SelfAttention."
          "relative_attention_bias.weight", "F32", "30,3", "30|multiple of 4",
          EILSEQ },
        { VAE_FILE, "decoder.conv_in.weight", "F32", "8,16,3,3,4",
          "decoder.conv_in.weight|[8, 16, 3, 3, 4]|[8, 16, 3, 3, 3]", EILSEQ },
        { VAE_FILE, "decoder.conv_out.weight", "F32", "4,2,3,3,3",
          "decoder.conv_out|[4, 2, 3, 3, 3]|[3, 2, 3, 3, 3]", EILSEQ },
        { VAE_FILE, "post_quant_conv.weight", "F32", "16,8,1,1,1",
          "post_quant_conv.weight|[16, 8, 1, 1, 1]|16", EILSEQ },
        { VAE_FILE, "decoder.up_blocks.0.upsamplers.0.time_conv.weight",
          "F32", "15,8,3,1,1", "time_conv.weight|15|16", EILSEQ },
        /* one too many */
        { DIT_FILE, "blocks.0.attn1.to_q.lora_A.weight", "F32", "4,32",
          "does not have|lora_A", EILSEQ },
        { DIT_FILE, "blocks.2.norm2.weight", "F32", "32",
          "config.json|num_layers|2|3", EILSEQ },
        { DIT_FILE, "blocks.99999999.norm2.weight", "F32", "32",
          "blocks.99999999|block number", EILSEQ },
        { DIT_FILE, "condition_embedder.image_embedder.norm1.weight", "F32",
          "32", "image_embedder|does not have", EILSEQ },
        { TEXT_FILE, "encoder.block.7.layer.0.layer_norm.weight", "F32", "24",
          "encoder.block.7|does not have", EILSEQ },
        { TEXT_FILE, "decoder.embed_tokens.weight", "F32", "41,24",
          "decoder.embed_tokens.weight|does not have", EILSEQ },
        { VAE_FILE, "decoder.extra.weight", "F32", "8", "decoder.extra",
          EILSEQ },
        { VAE_FILE, "loss.logvar", "F32", "", "loss.logvar|does not have",
          EILSEQ },
    };

    for (size_t i = 0; i < COUNT(cases); i++) {
        char what[256], parts[256];

        st_tensor(cases[i].file, cases[i].tensor, cases[i].dtype,
                  cases[i].dims);
        snprintf(what, sizeof(what), "%s %s %s", cases[i].tensor,
                 cases[i].dtype ? cases[i].dtype : "removed",
                 cases[i].dtype ? cases[i].dims : "");
        snprintf(parts, sizeof(parts), "model/%.*s/|%s",
                 (int)strcspn(cases[i].file, "/"), cases[i].file,
                 cases[i].parts);
        refused(cases[i].error, parts, what);
    }
    /* the decoder alone is loaded for making videos */
    st_tensor(VAE_FILE, "encoder.conv_in.weight", NULL, NULL);
    unharmed("a VAE whose encoder lacks a tensor");
}

/* ---- values ---- */

static void test_values(void)
{
    static const struct {
        const char *file, *tensor;
    } places[] = {
        { DIT_FILE, "blocks.1.attn1.to_v.weight" },
        { DIT_FILE, "patch_embedding.weight" },
        { DIT_FILE, "scale_shift_table" },
        { TEXT_FILE, "shared.weight" },
        { TEXT_FILE, "encoder.block.0.layer.0.SelfAttention.q.weight" },
        { TEXT_FILE, "encoder.final_layer_norm.weight" },
        { VAE_FILE, "decoder.conv_in.weight" },
        { VAE_FILE, "decoder.up_blocks.3.resnets.1.norm2.gamma" },
        { VAE_FILE, "post_quant_conv.bias" },
    };

    for (size_t i = 0; i < COUNT(places); i++) {
        static const float values[] = { NAN, INFINITY, -INFINITY };

        for (int k = 0; k < 3; k++) {
            char what[256], parts[256];

            st_put(places[i].file, places[i].tensor, 1, values[k]);
            snprintf(what, sizeof(what), "%g in %s", (double)values[k],
                     places[i].tensor);
            snprintf(parts, sizeof(parts), "%s|%s|not a number",
                     places[i].file, places[i].tensor);
            refused(EILSEQ, parts, what);
        }
    }
    st_put(VAE_FILE, "encoder.conv_in.weight", 0, NAN);
    unharmed("NaN in the encoder of the VAE, which is not loaded");
}

/* Weights that load, but are so large that nothing good can come of them. */
static void test_overflow(void)
{
    static const struct {
        const char *file, *prefix;
        float factor;
        const char *what;
    } cases[] = {
        { DIT_FILE, "", 1e30f, "transformer" },
        { DIT_FILE, "", 1e10f, "transformer" },
        { DIT_FILE, "proj_out", 1e36f, "transformer" },
        { DIT_FILE, "proj_out", 1e8f, "transformer" },
        { DIT_FILE, "blocks.0.attn1.to", 1e25f, "transformer" },
        { DIT_FILE, "blocks.0.ffn", 1e25f, "transformer" },
        { DIT_FILE, "condition_embedder.text", 1e25f, "transformer" },
        { DIT_FILE, "condition_embedder.time", 1e25f, "transformer" },
        { TEXT_FILE, "", 1e30f, "text encoder" },
        { TEXT_FILE, "shared", 1e37f, "text encoder" },
        { TEXT_FILE, "encoder.final_layer_norm", 1e9f, "text encoder" },
        { TEXT_FILE, "encoder.block.0.layer.1", 1e20f, "text encoder" },
        { VAE_FILE, "", 1e30f, "VAE" },
        { VAE_FILE, "", 1e10f, "VAE" },
        { VAE_FILE, "decoder.conv_out", 1e30f, "VAE" },
        { VAE_FILE, "decoder.mid_block.resnets.0", 1e25f, "VAE" },
        { VAE_FILE, "decoder.norm_out", 1e38f, "VAE" },
        { VAE_FILE, "decoder.mid_block.attentions", 1e30f, "VAE" },
    };

    for (size_t i = 0; i < COUNT(cases); i++) {
        char what[256], parts[256];

        st_scale(cases[i].file, cases[i].prefix, cases[i].factor);
        snprintf(what, sizeof(what), "%s '%s*' times %g", cases[i].file,
                 cases[i].prefix, (double)cases[i].factor);
        snprintf(parts, sizeof(parts), "%s|%s|damaged", cases[i].what,
                 cases[i].file);
        breaks(parts, what);
    }
}

/* More than the memory that the process may have. */
static void test_memory(void)
{
    struct rlimit limit;

    if (SANITIZED) {
        tap_skip(1, "the sanitizer reserves more than any limit");
        return;
    }
    getrlimit(RLIMIT_AS, &limit);
    limit.rlim_cur = (rlim_t)4 << 30;
    setrlimit(RLIMIT_AS, &limit);
    file_resize(VAE_FILE, (size_t)1 << 34);
    refused(ENOMEM, VAE_FILE "|mapped", "a file of 16 GB in 4 GB");
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_AS, &limit);
}

int main(void)
{
    model_reset();
    healthy = try_model(NULL, FRAMES);
    if (healthy.error || healthy.frames != FRAMES || healthy.errors)
        tap_bail("the fixture model does not run: %s", healthy.line);
    test_truncated();
    test_flipped();
    test_headers();
    test_tensors();
    test_values();
    test_overflow();
    test_memory();
    unharmed("after all that");
    return tap_done();
}
