/*
 * Opening a transformer: sizes from the weights, then the weights.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * Models that need more than text (I2V, FLF2V, VACE) are refused by name
 * instead of run wrongly.
 * Names and shapes: checkpoints.md 2.1; detection: 1.9.
 */
#include "internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "weights/lora.h"

/* ----------------------------------------------------- sizes of the weights */

/* Dimension `axis` of a tensor that must exist and have n_dims dimensions. */
static int read_dim(int64_t *value, CvWeights *weights, const char *name,
                    int n_dims, int axis, CvLog *log)
{
    const CvEntry *entry = cv_weights_find(weights, "%s", name);
    char text[CV_SHAPE_TEXT];

    if (!entry)
        return cv_fail(log, EILSEQ, "'%s': tensor '%s' is missing: the file is "
                       "incomplete or no Wan transformer",
                       cv_weights_path(weights), name);
    if (entry->tensor.n_dims != n_dims || entry->tensor.dim[axis] < 1 ||
        entry->tensor.dim[axis] > CV_DIT_MAX_SIZE)
        return cv_fail(log, EILSEQ, "'%s': tensor '%s' is %s, expected %d "
                       "dimensions from 1 to %d", entry->file, entry->stored,
                       cv_shape_text(text, &entry->tensor), n_dims,
                       CV_DIT_MAX_SIZE);
    *value = entry->tensor.dim[axis];
    return 0;
}

/* The largest number in blocks.N. plus one; at most the number of tensors, so
 * that a hostile name cannot ask for much memory. */
static int count_layers(int64_t *layers, CvWeights *weights, CvLog *log)
{
    int64_t n = cv_weights_count(weights);

    *layers = 0;
    for (int64_t i = 0; i < n; i++) {
        const char *name = cv_weights_at(weights, i)->name;
        int64_t number = 0;
        const char *digit;

        if (strncmp(name, "blocks.", 7))
            continue;
        for (digit = name + 7; *digit >= '0' && *digit <= '9'; digit++)
            number = number < n ? 10 * number + (*digit - '0') : number;
        if (digit == name + 7 || *digit != '.' || number >= n)
            return cv_fail(log, EILSEQ, "'%s': tensor '%s' has no sensible "
                           "block number", cv_weights_path(weights), name);
        if (number >= *layers)
            *layers = number + 1;
    }
    return 0;
}

/* Tensors by which kinds are known that need inputs which this version does
 * not make. Source of all but the first and the last: Comfy-Org/ComfyUI
 * comfy/model_detection.py. */
static const struct {
    const char *name, *kind;
} other_kinds[] = {
    { "vace_blocks.0.before_proj.weight", "VACE" },
    { "vace_patch_embedding.weight", "VACE" },
    { "control_adapter.conv.weight", "camera control (Fun-Camera)" },
    { "casual_audio_encoder.encoder.final_linear.weight",
      "speech to video (S2V) of Wan 2.2" },
    { "audio_proj.audio_proj_glob_1.layer.bias", "HuMo" },
    { "face_adapter.fuser_blocks.0.k_norm.weight", "Animate of Wan 2.2" },
    { "img_emb.emb_pos", "first and last frame to video (FLF2V)" },
    { "ref_conv.weight", "control by a video (Fun-Control)" },
    { "blocks.0.cross_attn.k_img.weight", "image to video (I2V)" },
};

static int refuse_other_kinds(CvWeights *weights, const CvDitSize *size,
                              CvLog *log)
{
    const size_t n = sizeof(other_kinds) / sizeof(*other_kinds);
    const char *kind = NULL;

    for (size_t i = 0; i < n && !kind; i++)
        if (cv_weights_find(weights, "%s", other_kinds[i].name))
            kind = other_kinds[i].kind;
    if (!kind && size->in_channels == 48 && size->out_channels == 48)
        kind = "text and image to video (TI2V) of Wan 2.2, 5B";
    if (!kind && size->in_channels == 36)
        kind = "image to video (I2V) of Wan 2.2 (36 input channels, but no "
               "keys for an image)";
    if (!kind && size->in_channels != size->out_channels)
        kind = "image to video (I2V): it has more input than output channels";
    if (!kind)
        return 0;
    return cv_fail(log, ENOSYS, "'%s': this is a Wan model of the kind %s, "
                   "which is not supported; use a text to video (T2V) model",
                   cv_weights_path(weights), kind);
}

static int read_sizes(CvDit *dit, CvWeights *weights, CvLog *log)
{
    CvDitSize *size = &dit->size;
    const CvEntry *patch;
    char text[CV_SHAPE_TEXT];
    int64_t out = 0;
    int err;

    err = read_dim(&size->dim, weights, "patch_embedding.weight", 5, 0, log);
    if (!err)
        err = read_dim(&size->in_channels, weights, "patch_embedding.weight",
                       5, 1, log);
    if (!err)
        err = read_dim(&size->ffn_dim, weights, "blocks.0.ffn.0.bias", 1, 0,
                       log);
    if (!err)
        err = read_dim(&size->text_dim, weights, "text_embedding.0.weight", 2,
                       1, log);
    if (!err)
        err = read_dim(&size->freq_dim, weights, "time_embedding.0.weight", 2,
                       1, log);
    if (!err)
        err = read_dim(&out, weights, "head.head.weight", 2, 0, log);
    if (!err)
        err = count_layers(&size->layers, weights, log);
    if (err)
        return err;

    patch = cv_weights_find(weights, "patch_embedding.weight");
    if (patch->tensor.dim[2] != 1 || patch->tensor.dim[3] != 2 ||
        patch->tensor.dim[4] != 2)
        return cv_fail(log, ENOSYS, "'%s': tensor '%s' is %s, only patches of "
                       "1x2x2 are supported", patch->file, patch->stored,
                       cv_shape_text(text, &patch->tensor));
    if (out % 4)
        return cv_fail(log, EILSEQ, "'%s': tensor 'head.head.weight' has "
                       "%" PRId64 " rows, expected 4 for each channel",
                       cv_weights_path(weights), out);
    if (size->freq_dim % 2)
        return cv_fail(log, EILSEQ, "'%s': tensor 'time_embedding.0.weight' "
                       "has %" PRId64 " columns, expected an even number",
                       cv_weights_path(weights), size->freq_dim);
    size->out_channels = out / 4;
    dit->cross_norm = cv_weights_find(weights, "blocks.0.norm3.weight") != NULL;
    return refuse_other_kinds(weights, size, log);
}

/* ------------------------------------------------------------------ loading */

#define STEM_SIZE 64

static int load_vector(CvDit *dit, CvLoader *loader, CvTensor *t,
                       const char *block, const char *name)
{
    dit->parameters += cv_elements(t);
    return cv_load(loader, t, CV_LOAD_AS_IS, "%s%s", block, name);
}

/* block: "blocks.3." or "". type: of the output, and so of the bias, which
 * backends then add for nothing; of products in fp8 they do of A. */
static int load_linear(CvDit *dit, CvLoader *loader, CvDitLinear *linear,
                       const char *block, const char *name, CvType type,
                       int64_t out, int64_t in)
{
    char full[STEM_SIZE];
    int err;

    linear->matrix.weight.dim[0] = out;
    linear->matrix.weight.dim[1] = in;
    dit->parameters += out * in;
    err = cv_load_matrix(loader, &linear->matrix, "%s%s.weight", block, name);
    if (err)
        return err;
    if (*block && cv_type_is_fp8(loader->backend->product) &&
        !linear->matrix.exact &&
        linear->matrix.weight.type == loader->backend->product)
        type = loader->backend->activation;
    linear->bias = CV_TENSOR(NULL, type, out);
    snprintf(full, sizeof(full), "%s.bias", name);
    return load_vector(dit, loader, &linear->bias, block, full);
}

/* q, k and v of self-attention as one product. */
static int load_qkv(CvDit *dit, CvLoader *loader, CvDitLinear *linear,
                    const char *block)
{
    static const char *const parts[] = { "q", "k", "v" };
    int64_t dim = dit->size.dim;
    char stem[STEM_SIZE];
    int err;

    linear->matrix.weight.dim[0] = 3 * dim;
    linear->matrix.weight.dim[1] = dim;
    linear->bias = CV_TENSOR(NULL, loader->backend->activation, 3 * dim);
    dit->parameters += 3 * dim * (dim + 1);
    snprintf(stem, sizeof(stem), "%sself_attn.%%s.weight", block);
    err = cv_load_matrix_stacked(loader, &linear->matrix, stem, parts, 3);
    if (err)
        return err;
    snprintf(stem, sizeof(stem), "%sself_attn.%%s.bias", block);
    return cv_load_stacked(loader, &linear->bias, stem, parts, 3);
}

static int load_layer(CvDit *dit, CvLoader *loader, CvDitLayer *layer,
                      int64_t number)
{
    const CvType a = loader->backend->activation, x = CV_F32; /* residual */
    int64_t dim = dit->size.dim, ffn = dit->size.ffn_dim;
    struct { CvDitLinear *linear; const char *name; CvType type;
             int64_t out, in; }
    linears[] = {
        { &layer->self_o, "self_attn.o", x, dim, dim },
        { &layer->cross_q, "cross_attn.q", a, dim, dim },
        { &layer->cross_k, "cross_attn.k", a, dim, dim },
        { &layer->cross_v, "cross_attn.v", a, dim, dim },
        { &layer->cross_o, "cross_attn.o", x, dim, dim },
        { &layer->ffn_up, "ffn.0", a, ffn, dim },
        { &layer->ffn_down, "ffn.2", x, dim, ffn },
    };
    struct { CvTensor *t; const char *name; } vectors[] = {
        { &layer->self_norm_q, "self_attn.norm_q.weight" },
        { &layer->self_norm_k, "self_attn.norm_k.weight" },
        { &layer->cross_norm_q, "cross_attn.norm_q.weight" },
        { &layer->cross_norm_k, "cross_attn.norm_k.weight" },
        { &layer->norm3, "norm3.weight" }, /* the last two may be absent */
        { &layer->norm3_bias, "norm3.bias" },
    };
    size_t n_vectors = sizeof(vectors) / sizeof(*vectors);
    char block[STEM_SIZE / 2];
    int err;

    snprintf(block, sizeof(block), "blocks.%" PRId64 ".", number);
    layer->modulation = CV_TENSOR(NULL, CV_F32, 6, dim);
    err = load_vector(dit, loader, &layer->modulation, block, "modulation");
    if (!err)
        err = load_qkv(dit, loader, &layer->qkv, block);
    for (size_t i = 0; i < sizeof(linears) / sizeof(*linears) && !err; i++)
        err = load_linear(dit, loader, linears[i].linear, block,
                          linears[i].name, linears[i].type, linears[i].out,
                          linears[i].in);
    if (!dit->cross_norm)
        n_vectors -= 2;
    for (size_t i = 0; i < n_vectors && !err; i++) {
        *vectors[i].t = CV_TENSOR(NULL, CV_F32, dim);
        err = load_vector(dit, loader, vectors[i].t, block, vectors[i].name);
    }
    return err;
}

/* Everything; run once while the arena plans and once for real. */
static int load_all(CvDit *dit, CvLoader *loader)
{
    const CvDitSize *size = &dit->size;
    const CvType a = loader->backend->activation;
    CvTensor *patch = &dit->patch.matrix.weight;
    int64_t dim = size->dim;
    int err;

    dit->parameters = 0;
    err = load_linear(dit, loader, &dit->text_0, "", "text_embedding.0", a,
                      dim, size->text_dim);
    if (!err)
        err = load_linear(dit, loader, &dit->text_2, "", "text_embedding.2",
                          a, dim, dim);
    if (!err)
        err = load_linear(dit, loader, &dit->time_0, "", "time_embedding.0",
                          CV_F32, dim, size->freq_dim);
    if (!err)
        err = load_linear(dit, loader, &dit->time_2, "", "time_embedding.2",
                          CV_F32, dim, dim);
    if (!err)
        err = load_linear(dit, loader, &dit->time_projection, "",
                          "time_projection.1", CV_F32, 6 * dim, dim);
    if (!err)
        err = load_linear(dit, loader, &dit->head, "", "head.head", CV_F32,
                          4 * size->out_channels, dim);
    if (err)
        return err;
    dit->head_modulation = CV_TENSOR(NULL, CV_F32, 2, dim);
    err = load_vector(dit, loader, &dit->head_modulation, "",
                      "head.modulation");
    if (err)
        return err;
    /* A convolution whose steps are its size is a product on whole patches. */
    *patch = CV_TENSOR(NULL, loader->backend->weight, dim, size->in_channels,
                       1, 2, 2);
    dit->patch.bias = CV_TENSOR(NULL, CV_F32, dim);
    err = load_vector(dit, loader, patch, "", "patch_embedding.weight");
    if (!err)
        err = load_vector(dit, loader, &dit->patch.bias, "",
                          "patch_embedding.bias");
    *patch = CV_RESHAPE(*patch, dim, 4 * size->in_channels);
    /* What is above has little to do and much to lose. */
    loader->quantise = loader->backend->narrow;
    for (int64_t i = 0; i < size->layers && !err; i++) {
        err = cv_aborted(loader->log);
        if (!err)
            err = load_layer(dit, loader, &dit->layers[i], i);
    }
    loader->quantise = 0;
    return err;
}

static void describe(CvDit *dit, const CvWeights *weights)
{
    const CvDitSize *size = &dit->size;
    char types[64];

    cv_weights_types(weights, types, sizeof(types));
    snprintf(dit->description, sizeof(dit->description),
             "Wan transformer, %" PRId64 " layers, width %" PRId64 ", %" PRId64
             " heads of %" PRId64 ", ffn %" PRId64 ", %.1f M parameters, %s, "
             "%s names", size->layers, size->dim, size->heads, dit->head_dim,
             size->ffn_dim, (double)dit->parameters * 1e-6, types,
             cv_weights_layout(weights));
}

int cv_dit_open(CvDit **out, CvBackend *backend, const char *path,
                const char *key, const char *config_path, CvLog *log)
{
    CvDit *dit = calloc(1, sizeof(*dit));
    CvLoader *loader;
    int err;

    *out = NULL;
    if (!dit)
        return cv_fail_memory(log, sizeof(*dit), "the transformer");
    dit->eps = 1e-6f;
    dit->part_tokens = CV_DIT_PART_TOKENS;
    loader = &dit->loader;
    *loader = (CvLoader){ .backend = backend, .arena = &dit->arena,
                          .log = log };
    err = cv_weights_open_key(&loader->weights, path, key, log);
    if (!err)
        err = cv_weights_canonical(loader->weights, CV_KIND_TRANSFORMER, log);
    if (!err)
        err = read_sizes(dit, loader->weights, log);
    if (!err)
        err = cv_dit_read_config(dit, config_path, path, log);
    if (err)
        goto fail;
    dit->layers = calloc((size_t)dit->size.layers, sizeof(*dit->layers));
    if (!dit->layers) {
        err = cv_fail_memory(log, (uint64_t)dit->size.layers *
                             sizeof(*dit->layers), "the transformer's layers");
        goto fail;
    }
    cv_arena_plan(&dit->arena, backend);
    err = load_all(dit, loader);
    backend->planning = 0;
    if (!err)
        err = cv_load_finish(loader);
    if (err)
        goto fail;
    describe(dit, loader->weights);
    *out = dit;
    return 0;

fail:
    cv_dit_close(&dit);
    return err;
}

int cv_dit_merge(CvDit *dit, const char *loras)
{
    return cv_loras_open(&dit->loader.loras, loras, dit->loader.weights,
                         dit->loader.log);
}

int cv_dit_load(CvDit *dit)
{
    CvLoader *loader = &dit->loader;
    int err = cv_arena_take(&dit->arena, loader->log,
                            "the transformer's weights");

    if (!err)
        err = cv_load_end(loader, load_all(dit, loader));
    if (!err)
        cv_loras_finish(loader);
    cv_load_release(loader);
    cv_loras_close(&loader->loras);
    cv_weights_close(&loader->weights);
    return err;
}

void cv_dit_close(CvDit **dit)
{
    if (!*dit)
        return;
    cv_loras_close(&(*dit)->loader.loras);
    cv_weights_close(&(*dit)->loader.weights);
    cv_arena_free(&(*dit)->arena);
    free((*dit)->layers);
    free(*dit);
    *dit = NULL;
}

const CvDitSize *cv_dit_size(const CvDit *dit)
{
    return &dit->size;
}

size_t cv_dit_bytes(const CvDit *dit)
{
    return dit->arena.peak;
}

int cv_dit_is_narrow(const CvDit *dit)
{
    const CvType product = dit->loader.backend->product;

    for (int64_t i = 0; i < dit->size.layers && cv_type_is_fp8(product); i++)
        if ((dit->layers[i].qkv.matrix.weight.type == product &&
             !dit->layers[i].qkv.matrix.exact) ||
            (dit->layers[i].ffn_up.matrix.weight.type == product &&
             !dit->layers[i].ffn_up.matrix.exact))
            return 1;
    return 0;
}

const char *cv_dit_describe(const CvDit *dit)
{
    return dit->description;
}
