/*
 * One model under every set of names and in every layout: the same frames.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * The model is made of fixtures: the transformer with heads of 128, which needs
 * no config, and the text encoder, VAE and tokenizer of the clip. Each layout
 * is written anew, with the names of the fixtures (diffusers), the official
 * ones, or those of llama.cpp; tests/unit/test_names.c holds the translations
 * beside those of other programs. A recipe.json beside the transformer makes
 * all of them run alike.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "../tap.h"
#include "bad_model.h"
#include "weights/weights.h"

#define FRAMES 9 /* the first block */
#define ROOM 1024

/* ---- the networks ---- */

typedef enum Network { DIT, T5, VAE, N_NETWORKS } Network;
typedef enum Names { OFFICIAL, DIFFUSERS, LLAMA } Names;

static CvWeights *weights[N_NETWORKS];
static const struct {
    const char *path;
    CvKind kind;
} sources[] = {
    [DIT] = { "dit/head128/diffusion_pytorch_model.safetensors",
              CV_KIND_TRANSFORMER },
    [T5]  = { "clip/model/text_encoder/model.safetensors",
              CV_KIND_TEXT_ENCODER },
    [VAE] = { "clip/model/vae/diffusion_pytorch_model.safetensors",
              CV_KIND_VAE },
};

static const char *source_path(const char *folder, const char *name)
{
    static char path[1024];
    const char *src = getenv("CAUSVID_SRC");

    snprintf(path, sizeof(path), "%s/%s/%s", src ? src : ".", folder, name);
    return path;
}

static const char *fixture(const char *name)
{
    return source_path("tests/model/fixtures", name);
}

static uint8_t *read_file(const char *path, size_t *n)
{
    FILE *file = fopen(path, "rb");
    uint8_t *data = malloc(1 << 20);

    if (!file || !data)
        tap_bail("%s cannot be read", path);
    *n = fread(data, 1, (1 << 20) - 1, file);
    data[*n] = 0;
    fclose(file);
    return data;
}

static void open_sources(void)
{
    for (int i = 0; i < N_NETWORKS; i++)
        if (cv_weights_open(&weights[i], fixture(sources[i].path), NULL) < 0 ||
            cv_weights_canonical(weights[i], sources[i].kind, NULL) < 0)
            tap_bail("%s", sources[i].path);
}

/* The name that llama.cpp gives to an official one, of the table that the unit
 * test has from the gguf package. */
static const char *llama_name(const char *official)
{
    static char *table;
    static char name[128];
    size_t n = strlen(official);
    char *line;

    if (!table)
        table = (char *)read_file(source_path("tests/unit/data/weights",
                                              "text_encoder_llama.tsv"),
                                  &(size_t){ 0 });
    for (line = table; line && *line; line = strchr(line, '\n'),
                                      line += line != NULL) {
        if (strncmp(line, official, n) || line[n] != '\t')
            continue;
        snprintf(name, sizeof(name), "%.*s",
                 (int)strcspn(line + n + 1, "\n"), line + n + 1);
        return name;
    }
    tap_bail("no name for %s", official);
}

/* ---- files ---- */

typedef struct Item {
    char name[256];
    CvTensor tensor;
} Item;

static Item items[ROOM];
static int n_items;

static void add(const char *name, CvTensor tensor)
{
    if (n_items == ROOM)
        tap_bail("too many tensors");
    snprintf(items[n_items].name, sizeof(items[0].name), "%s", name);
    items[n_items++].tensor = tensor;
}

/* All tensors of a network below a prefix. */
static void add_network(Network network, Names names, const char *prefix)
{
    char name[256];

    for (int64_t i = 0; i < cv_weights_count(weights[network]); i++) {
        const CvEntry *e = cv_weights_at(weights[network], i);

        snprintf(name, sizeof(name), "%s%s", prefix,
                 names == OFFICIAL  ? e->name :
                 names == DIFFUSERS ? e->stored : llama_name(e->name));
        add(name, e->tensor);
    }
}

/* The tokenizer inside of a text encoder's file. */
static void add_spiece(const char *name, CvType type)
{
    static uint8_t *data;
    static size_t n;

    if (!data)
        data = read_file(fixture("clip/model/tokenizer/spiece.model"), &n);
    add(name, cv_tensor(data, type, 1,
                        (int64_t)(n / cv_type_bytes(type))));
}

static void add_scalar(const char *name)
{
    static float one = 1;

    add(name, cv_tensor(&one, CV_F32, 0));
}

static FILE *create(const char *name)
{
    char path[1200];
    FILE *file;

    snprintf(path, sizeof(path), "%s", model_file(name));
    for (char *p = strstr(path, "layouts"); (p = strchr(p, '/')); p++) {
        *p = 0;
        mkdir(path, 0755); /* it may be there */
        *p = '/';
    }
    if (!(file = fopen(path, "wb")))
        tap_bail("%s: %s", path, strerror(errno));
    return file;
}

/* Write the items from `first` on as name. */
static void save_items(const char *name, int first, int end)
{
    FILE *file = create(name);
    size_t room = 400 * ROOM, n = 0, at = 0;
    char *header = malloc(room);
    uint8_t length[8];

    if (!header)
        tap_bail("malloc");
    for (int i = first; i < end; i++) {
        const CvTensor *t = &items[i].tensor;
        size_t bytes = (size_t)cv_tensor_bytes(t);

        n += (size_t)snprintf(header + n, room - n, "%s\"%s\":{\"dtype\":\"%s"
                              "\",\"shape\":[", i > first ? "," : "{",
                              items[i].name, cv_type_name(t->type));
        for (int k = 0; k < t->n_dims; k++)
            n += (size_t)snprintf(header + n, room - n, "%s%lld", k ? "," : "",
                                  (long long)t->dim[k]);
        n += (size_t)snprintf(header + n, room - n, "],\"data_offsets\":"
                              "[%zu,%zu]}", at, at + bytes);
        at += bytes;
    }
    header[n++] = '}';
    for (int i = 0; i < 8; i++)
        length[i] = (uint8_t)((uint64_t)n >> (8 * i));
    fwrite(length, 1, 8, file);
    fwrite(header, 1, n, file);
    for (int i = first; i < end; i++)
        fwrite(items[i].tensor.data, 1,
               (size_t)cv_tensor_bytes(&items[i].tensor), file);
    if (fclose(file))
        tap_bail("%s: %s", name, strerror(errno));
    free(header);
}

static void save(const char *name)
{
    save_items(name, 0, n_items);
    n_items = 0;
}

static void save_network(const char *name, Network network, Names names,
                         const char *prefix)
{
    add_network(network, names, prefix);
    save(name);
}

static void copy(const char *from, const char *to)
{
    FILE *file = create(to);
    size_t n;
    uint8_t *data = read_file(fixture(from), &n);

    fwrite(data, 1, n, file);
    if (fclose(file))
        tap_bail("%s: %s", to, strerror(errno));
    free(data);
}

#define AT(name) "../layouts/" name
#define SPIECE_FILE "clip/model/tokenizer/spiece.model"
#define RECIPE "clip/model/recipe.json"

/* ---- what comes of it ---- */

static uint64_t expected; /* frames */

static Outcome run_with(const char *model, const char *text_encoder,
                        const char *vae, const char *tokenizer)
{
    CausvidSettings s;

    causvid_default_settings(&s);
    s.model        = model_file(model);
    s.text_encoder = text_encoder ? model_file(text_encoder) : NULL;
    s.vae          = vae ? model_file(vae) : NULL;
    s.tokenizer    = tokenizer ? model_file(tokenizer) : NULL;
    return try_model(&s, FRAMES);
}

static void same(Outcome o, const char *what)
{
    if (!ok(is_unharmed(&o, FRAMES, expected), "%s: the same frames", what))
        print_outcome(&o);
}

static void refused(Outcome o, int error, const char *parts, const char *what)
{
    if (!ok(is_refused(&o, "open", error, parts), "%s: %s", what,
            line_text(&o)))
        print_outcome(&o);
}

/* ---- layouts ---- */

/* As the fixtures are. */
static void test_diffusers(void)
{
    Outcome o;

    save_network(AT("d/transformer/diffusion_pytorch_model.safetensors"), DIT,
                 DIFFUSERS, "");
    copy("dit/head128/config.json", AT("d/transformer/config.json"));
    save_network(AT("d/text_encoder/model.safetensors"), T5, DIFFUSERS, "");
    copy("clip/model/text_encoder/config.json",
         AT("d/text_encoder/config.json"));
    save_network(AT("d/vae/diffusion_pytorch_model.safetensors"), VAE,
                 DIFFUSERS, "");
    copy("clip/model/vae/config.json", AT("d/vae/config.json"));
    copy(SPIECE_FILE, AT("d/tokenizer/spiece.model"));
    copy("clip/model/model_index.json", AT("d/model_index.json"));
    copy(RECIPE, AT("d/recipe.json"));
    o = run_with(AT("d"), NULL, NULL, NULL);
    ok(!o.error && o.frames == FRAMES && !o.errors && !o.warnings,
       "the diffusers layout: %s", line_text(&o));
    expected = o.hash;
    same(run_with(AT("d/transformer"), NULL, NULL, NULL),
         "its transformer's folder");
    same(run_with(AT("d/transformer/diffusion_pytorch_model.safetensors"),
                  NULL, NULL, NULL), "its transformer's file");
}

/* The folder of a release without its transformer. */
static void save_release(const char *folder)
{
    char name[256];

    snprintf(name, sizeof(name), AT("%s/models_t5_umt5-xxl-enc-bf16"
                                    ".safetensors"), folder);
    save_network(name, T5, OFFICIAL, "");
    snprintf(name, sizeof(name), AT("%s/Wan2.1_VAE.safetensors"), folder);
    save_network(name, VAE, OFFICIAL, "");
    snprintf(name, sizeof(name), AT("%s/google/umt5-xxl/spiece.model"),
             folder);
    copy(SPIECE_FILE, name);
}

static void save_index(const char *name, int cut)
{
    FILE *file = create(name);

    fprintf(file, "{\"metadata\":{},\"weight_map\":");
    for (int i = 0; i < n_items; i++)
        fprintf(file, "%s\"%s\":\"diffusion_pytorch_model-0000%d-of-00002"
                ".safetensors\"", i ? "," : "{", items[i].name,
                1 + (i >= cut));
    fprintf(file, "}}");
    fclose(file);
}

static void test_official(void)
{
    int cut;

    save_release("Wan2.1-T2V-1.3B");
    save_network(AT("Wan2.1-T2V-1.3B/diffusion_pytorch_model.safetensors"),
                 DIT, OFFICIAL, "");
    copy(RECIPE, AT("Wan2.1-T2V-1.3B/recipe.json"));
    same(run_with(AT("Wan2.1-T2V-1.3B"), NULL, NULL, NULL), "the release");

    save_release("wide");
    add_network(DIT, OFFICIAL, "");
    cut = n_items / 3;
    save_items(AT("wide/diffusion_pytorch_model-00001-of-00002.safetensors"),
               0, cut);
    save_items(AT("wide/diffusion_pytorch_model-00002-of-00002.safetensors"),
               cut, n_items);
    save_index(AT("wide/diffusion_pytorch_model.safetensors.index.json"), cut);
    n_items = 0;
    copy(RECIPE, AT("wide/recipe.json"));
    same(run_with(AT("wide"), NULL, NULL, NULL), "a release in shards");
}

static void test_comfyui(void)
{
    save_network(AT("c/models/diffusion_models/wan/wan2.1_t2v.safetensors"),
                 DIT, OFFICIAL, "model.diffusion_model.");
    copy(RECIPE, AT("c/models/diffusion_models/wan/recipe.json"));
    add_network(T5, DIFFUSERS, "");
    add_spiece("spiece_model", CV_U8);
    save(AT("c/models/text_encoders/umt5_xxl_fp16.safetensors"));
    add_network(T5, DIFFUSERS, "");
    add_spiece("spiece_model", CV_U8);
    save(AT("c/models/text_encoders/umt5_xxl_fp8.safetensors"));
    save_network(AT("c/models/vae/wan_2.1_vae.safetensors"), VAE, OFFICIAL,
                 "");
    same(run_with(AT("c/models/diffusion_models/wan/wan2.1_t2v.safetensors"),
                  NULL, NULL, NULL), "ComfyUI's folders");
    same(run_with(AT("c/models/diffusion_models/wan"), NULL, NULL, NULL),
         "the transformer's folder alone");
    same(run_with(AT("c/models/diffusion_models/wan"),
                  AT("Wan2.1-T2V-1.3B"), AT("d"),
                  AT("d/tokenizer/spiece.model")), "parts of other layouts");

    /* not a tokenizer */
    add_network(T5, DIFFUSERS, "");
    add_spiece("spiece_model", CV_I16);
    save(AT("c/models/text_encoders/umt5_xxl_fp16.safetensors"));
    refused(run_with(AT("c/models/diffusion_models/wan"), NULL, NULL, NULL),
            EILSEQ, "umt5_xxl_fp16.safetensors': tensor 'spiece_model', the "
            "tokenizer, is I16|option tokenizer", "a tokenizer of I16");
    add_network(T5, DIFFUSERS, "");
    add("spiece_model", cv_tensor(&(uint8_t){ 0xff }, CV_U8, 1, (int64_t)1));
    save(AT("c/models/text_encoders/umt5_xxl_fp16.safetensors"));
    refused(run_with(AT("c/models/diffusion_models/wan"), NULL, NULL, NULL),
            EILSEQ, "umt5_xxl_fp16.safetensors", "a damaged tokenizer");
}

static void test_kijai(void)
{
    save_network(AT("k/Wan2_1-T2V-1_3B_bf16.safetensors"), DIT, OFFICIAL, "");
    save_network(AT("k/umt5-xxl-enc-bf16.safetensors"), T5, OFFICIAL, "");
    save_network(AT("k/Wan2_1_VAE_fp32.safetensors"), VAE, OFFICIAL, "");
    add_scalar("blocks.0.self_attn.q.lora_down.weight");
    save(AT("k/Wan21_CausVid_14B_T2V_lora_rank32.safetensors"));
    copy(SPIECE_FILE, AT("k/spiece.model"));
    copy(RECIPE, AT("k/recipe.json"));
    same(run_with(AT("k"), NULL, NULL, NULL), "a folder of all files");
    same(run_with(AT("k/Wan2_1-T2V-1_3B_bf16.safetensors"), NULL, NULL, NULL),
         "the file in it");
}

/* Names of training programs, with the release in their wan_models/. */
static void test_training(void)
{
    static const struct {
        const char *prefix, *what;
    } programs[] = {
        { "model.", "CausVid" },
        { "model._fsdp_wrapped_module.", "Self-Forcing" },
        { "generator._orig_mod.model._checkpoint_wrapped_module.", "others" },
    };

    save_release("s/wan_models/Wan2.1-T2V-1.3B");
    copy(RECIPE, AT("s/checkpoints/any/recipe.json"));
    for (size_t i = 0; i < sizeof(programs) / sizeof(*programs); i++) {
        save_network(AT("s/checkpoints/any/causal_model.safetensors"), DIT,
                     OFFICIAL, programs[i].prefix);
        same(run_with(AT("s/checkpoints/any"), NULL, NULL, NULL),
             programs[i].what);
    }

    /* TurboDiffusion: the patch embedding as a linear, and counters */
    add_network(DIT, OFFICIAL, "net.");
    for (int i = 0; i < n_items; i++)
        if (!strcmp(items[i].name, "net.patch_embedding.weight"))
            items[i].tensor = CV_RESHAPE(items[i].tensor, 128, 64);
    add_scalar("net.accum_video_sample_counter");
    add_scalar("net.accum_iteration");
    save(AT("s/checkpoints/any/causal_model.safetensors"));
    same(run_with(AT("s/checkpoints/any"), NULL, NULL, NULL),
         "TurboDiffusion");
}

static void test_combined(void)
{
    static const char *const prefixes[][3] = {
        { "model.diffusion_model.", "text_encoders.umt5xxl.transformer.",
          "vae." },
        { "model.diffusion_model.", "text_encoders.t5xxl.transformer.",
          "first_stage_model." },
    };

    copy(RECIPE, AT("all/recipe.json"));
    for (int i = 0; i < 2; i++) {
        add_network(DIT, OFFICIAL, prefixes[i][0]);
        add_network(T5, DIFFUSERS, prefixes[i][1]);
        add_network(VAE, i ? DIFFUSERS : OFFICIAL, prefixes[i][2]);
        add_scalar("text_encoders.umt5xxl.logit_scale");
        add_spiece("text_encoders.spiece_model", CV_U8);
        save(AT("all/wan.safetensors"));
        same(run_with(AT("all/wan.safetensors"), NULL, NULL, NULL),
             "one file with all networks");
    }
    same(run_with(AT("k"), AT("all/wan.safetensors"),
                  AT("all/wan.safetensors"), NULL),
         "parts out of that file");

    for (int i = 0; i < 5; i++) {
        char name[64];

        snprintf(name, sizeof(name), "model.diffusion_model.new.%d", i);
        add_scalar(name);
    }
    add_network(DIT, OFFICIAL, prefixes[0][0]);
    add_network(T5, DIFFUSERS, prefixes[0][1]);
    add_network(VAE, OFFICIAL, prefixes[0][2]);
    add_spiece("text_encoders.spiece_model", CV_U8);
    save(AT("all/wan.safetensors"));
    refused(run_with(AT("all/wan.safetensors"), NULL, NULL, NULL), EILSEQ,
            "5 tensors that a transformer of this size does not have, such as "
            "'model.diffusion_model.new.0'|, 'model.diffusion_model.new.1', "
            "'model.diffusion_model.new.2';", "names that nobody knows");
}

static void test_llama(void)
{
    save_network(AT("k/umt5-xxl-enc-bf16.safetensors"), T5, LLAMA, "");
    same(run_with(AT("k"), NULL, NULL, NULL), "a text encoder of llama.cpp");
    copy("containers/tokenizer.gguf", AT("g/umt5-xxl.gguf"));
    same(run_with(AT("k"), NULL, NULL, AT("g/umt5-xxl.gguf")),
         "the tokenizer of a GGUF file");
    same(run_with(AT("k"), NULL, NULL,
                  AT("c/models/text_encoders/umt5_xxl_fp8.safetensors")),
         "the tokenizer of a ComfyUI file");
}

/* q, k and v one below the other, as diffusers fuses them. */
static void test_fused(void)
{
    static const char *const ends[] = { "weight", "bias" };
    static uint8_t data[4][3 * 128 * 128 * 4];
    int n = 0, kept = 0;

    add_network(DIT, DIFFUSERS, "");
    for (int i = 0; i < n_items; i++) /* what is fused goes */
        if (!strstr(items[i].name, ".attn1.to_q.") &&
            !strstr(items[i].name, ".to_k.") &&
            !strstr(items[i].name, ".to_v."))
            items[kept++] = items[i];
    ok(kept == n_items - 10, "one block has ten tensors that are fused");
    n_items = kept;
    for (int cross = 0; cross < 2; cross++) {
        for (int end = 0; end < 2; end++, n++) {
            CvTensor all = { 0 };
            size_t used = 0;
            char name[64];

            for (const char *part = cross ? "kv" : "qkv"; *part; part++) {
                const CvTensor *t = &cv_weights_find(weights[DIT],
                    "blocks.0.%s_attn.%c.%s", cross ? "cross" : "self", *part,
                    ends[end])->tensor;
                int64_t rows = all.dim[0] + t->dim[0];

                memcpy(data[n] + used, t->data, (size_t)cv_tensor_bytes(t));
                used += (size_t)cv_tensor_bytes(t);
                all = *t;
                all.dim[0] = rows;
            }
            all.data = data[n];
            snprintf(name, sizeof(name), "blocks.0.attn%d.to_%s.%s", 1 + cross,
                     cross ? "kv" : "qkv", ends[end]);
            add(name, all);
        }
    }
    save(AT("d/transformer/diffusion_pytorch_model.safetensors"));
    same(run_with(AT("d"), NULL, NULL, NULL), "fused projections");
}

/* A file of another part where an option names it. */
static void test_swapped(void)
{
    refused(run_with(AT("k/Wan2_1_VAE_fp32.safetensors"), NULL, NULL, NULL),
            EILSEQ, "holds a Wan VAE; expected a Wan transformer|option vae",
            "a VAE as the model");
    refused(run_with(AT("k"), AT("k/Wan2_1_VAE_fp32.safetensors"), NULL,
                     NULL), EILSEQ, "holds a Wan VAE; expected a UMT5",
            "a VAE as the text encoder");
    refused(run_with(AT("k/Wan21_CausVid_14B_T2V_lora_rank32.safetensors"),
                     NULL, NULL, NULL), EILSEQ,
            "holds a LoRA; expected a Wan transformer|option lora",
            "a LoRA as the model");
    save_network(AT("lone/any.safetensors"), VAE, DIFFUSERS, "");
    refused(run_with(AT("lone/any.safetensors"), NULL, NULL, NULL), EILSEQ,
            "lone/any.safetensors' holds a Wan VAE; expected a Wan transf",
            "a VAE as the model, and no parts around");
    refused(run_with(AT("all/none.safetensors"), NULL, NULL, NULL), ENOENT,
            "does not exist", "a file that is not there");
}

int main(void)
{
    model_reset(); /* makes the scratch folder */
    open_sources();
    test_diffusers();
    test_official();
    test_comfyui();
    test_kijai();
    test_training();
    test_combined();
    test_llama();
    test_fused();
    test_swapped();
    for (int i = 0; i < N_NETWORKS; i++)
        cv_weights_close(&weights[i]);
    return tap_done();
}
