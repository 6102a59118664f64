/*
 * Opening a transformer and loading its weights.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * Names and shapes: checkpoints.md 2.1.
 */
#include "internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "weights/lora.h"

#define STEM_SIZE 64

static int load_vector(CvLoader *loader, CvTensor *t, const char *block,
                       const char *name)
{
    return cv_load(loader, t, CV_LOAD_AS_IS, "%s%s", block, name);
}

/* block: "blocks.3." or "". type: of the output, and so of the bias, which
 * backends then add for nothing; of products in fp8 they do of A. */
static int load_linear(CvLoader *loader, CvDitLinear *linear,
                       const char *block, const char *name, CvType type,
                       int64_t out, int64_t in)
{
    char full[STEM_SIZE];
    int err;

    linear->matrix.weight.dim[0] = out;
    linear->matrix.weight.dim[1] = in;
    err = cv_load_matrix(loader, &linear->matrix, "%s%s.weight", block, name);
    if (err)
        return err;
    if (*block && cv_type_is_fp8(loader->backend->product) &&
        !linear->matrix.exact &&
        linear->matrix.weight.type == loader->backend->product)
        type = loader->backend->activation;
    linear->bias = CV_TENSOR(NULL, type, out);
    snprintf(full, sizeof(full), "%s.bias", name);
    return load_vector(loader, &linear->bias, block, full);
}

/* q, k and v of self-attention as one product. */
static int load_qkv(CvLoader *loader, CvDitLinear *linear, const char *block,
                    int64_t dim)
{
    static const char *const parts[] = { "q", "k", "v" };
    char stem[STEM_SIZE];
    int err;

    linear->matrix.weight.dim[0] = 3 * dim;
    linear->matrix.weight.dim[1] = dim;
    linear->bias = CV_TENSOR(NULL, loader->backend->activation, 3 * dim);
    snprintf(stem, sizeof(stem), "%sself_attn.%%s.weight", block);
    err = cv_load_matrix_stacked(loader, &linear->matrix, stem, parts, 3);
    if (err)
        return err;
    snprintf(stem, sizeof(stem), "%sself_attn.%%s.bias", block);
    return cv_load_stacked(loader, &linear->bias, stem, parts, 3);
}

/* "blocks.3." */
static void block_name(char block[STEM_SIZE / 2], int64_t number)
{
    snprintf(block, STEM_SIZE / 2, "blocks.%" PRId64 ".", number);
}

int cv_dit_load_layer(const CvDit *dit, CvLoader *loader, CvDitLayer *layer,
                      int64_t number)
{
    const CvType a = loader->backend->activation, x = CV_F32; /* residual */
    int64_t dim = dit->size.dim, ffn = dit->size.ffn_dim;
    struct { CvDitLinear *linear; const char *name; CvType type;
             int64_t out, in; }
    linears[] = {
        { &layer->self_o, "self_attn.o", x, dim, dim },
        { &layer->cross_q, "cross_attn.q", a, dim, dim },
        { &layer->cross_o, "cross_attn.o", x, dim, dim },
        { &layer->ffn_up, "ffn.0", a, ffn, dim },
        { &layer->ffn_down, "ffn.2", x, dim, ffn },
    };
    struct { CvTensor *t; const char *name; } vectors[] = {
        { &layer->self_norm_q, "self_attn.norm_q.weight" },
        { &layer->self_norm_k, "self_attn.norm_k.weight" },
        { &layer->cross_norm_q, "cross_attn.norm_q.weight" },
        { &layer->norm3, "norm3.weight" }, /* the last two may be absent */
        { &layer->norm3_bias, "norm3.bias" },
    };
    size_t n_vectors = sizeof(vectors) / sizeof(*vectors);
    char block[STEM_SIZE / 2];
    int err;

    block_name(block, number);
    loader->quantise = loader->backend->narrow;
    layer->modulation = CV_TENSOR(NULL, CV_F32, 6, dim);
    err = load_vector(loader, &layer->modulation, block, "modulation");
    if (!err)
        err = load_qkv(loader, &layer->qkv, block, dim);
    for (size_t i = 0; i < sizeof(linears) / sizeof(*linears) && !err; i++)
        err = load_linear(loader, linears[i].linear, block,
                          linears[i].name, linears[i].type, linears[i].out,
                          linears[i].in);
    if (!dit->cross_norm)
        n_vectors -= 2;
    for (size_t i = 0; i < n_vectors && !err; i++) {
        *vectors[i].t = CV_TENSOR(NULL, CV_F32, dim);
        err = load_vector(loader, vectors[i].t, block, vectors[i].name);
    }
    loader->quantise = 0;
    return err;
}

int cv_dit_load_text(const CvDit *dit, CvLoader *loader, CvDitText *text)
{
    const CvType a = loader->backend->activation;
    const int64_t dim = dit->size.dim;
    int err = load_linear(loader, &text->mlp_0, "", "text_embedding.0", a, dim,
                          dit->size.text_dim);

    return err ? err : load_linear(loader, &text->mlp_2, "",
                                   "text_embedding.2", a, dim, dim);
}

int cv_dit_load_text_layer(const CvDit *dit, CvLoader *loader,
                           CvDitTextLayer *layer, int64_t number)
{
    const CvType a = loader->backend->activation;
    const int64_t dim = dit->size.dim;
    char block[STEM_SIZE / 2];
    int err;

    block_name(block, number);
    loader->quantise = loader->backend->narrow;
    err = load_linear(loader, &layer->k, block, "cross_attn.k", a, dim, dim);
    if (!err)
        err = load_linear(loader, &layer->v, block, "cross_attn.v", a, dim,
                          dim);
    loader->quantise = 0;
    layer->norm_k = CV_TENSOR(NULL, CV_F32, dim);
    return err ? err : load_vector(loader, &layer->norm_k, block,
                                   "cross_attn.norm_k.weight");
}

/* What each pass needs. Only matrices of layers become fp8 with precision=fp8:
 * all else has little to do and much to lose. */
static int load_passes(CvDit *dit, CvLoader *loader)
{
    const CvDitSize *size = &dit->size;
    CvTensor *patch = &dit->patch.matrix.weight;
    int64_t dim = size->dim;
    int err;

    err = load_linear(loader, &dit->time_0, "", "time_embedding.0", CV_F32,
                      dim, size->freq_dim);
    if (!err)
        err = load_linear(loader, &dit->time_2, "", "time_embedding.2",
                          CV_F32, dim, dim);
    if (!err)
        err = load_linear(loader, &dit->time_projection, "",
                          "time_projection.1", CV_F32, 6 * dim, dim);
    if (!err)
        err = load_linear(loader, &dit->head, "", "head.head", CV_F32,
                          4 * size->out_channels, dim);
    if (err)
        return err;
    dit->head_modulation = CV_TENSOR(NULL, CV_F32, 2, dim);
    err = load_vector(loader, &dit->head_modulation, "", "head.modulation");
    if (err)
        return err;
    /* A convolution whose steps are its size is a product on whole patches. */
    *patch = CV_TENSOR(NULL, loader->backend->weight, dim, size->in_channels,
                       1, 2, 2);
    dit->patch.bias = CV_TENSOR(NULL, CV_F32, dim);
    err = load_vector(loader, patch, "", "patch_embedding.weight");
    if (!err)
        err = load_vector(loader, &dit->patch.bias, "",
                          "patch_embedding.bias");
    *patch = CV_RESHAPE(*patch, dim, 4 * size->in_channels);
    for (int64_t i = 0; i < dit->resident && !err; i++) {
        dit->layers[i].before = loader->arena->used;
        err = cv_aborted(loader->log);
        if (!err)
            err = cv_dit_load_layer(dit, loader, &dit->layers[i], i);
    }
    return err;
}

/* What only a new prompt needs. */
static int load_texts(CvDit *dit, CvLoader *loader)
{
    int err = cv_dit_load_text(dit, loader, &dit->text);

    for (int64_t i = 0; i < dit->size.layers && !err; i++) {
        err = cv_aborted(loader->log);
        if (!err)
            err = cv_dit_load_text_layer(dit, loader, &dit->text_layers[i],
                                         i);
    }
    return err;
}

/* Everything that is resident; run once while the arenas plan and once for
 * real. */
static int load_all(CvDit *dit)
{
    CvLoader *loader = &dit->loader;
    int err;

    loader->arena = &dit->arena;
    err = load_passes(dit, loader);
    loader->arena = &dit->text_arena;
    if (!err && !dit->text_streamed)
        err = load_texts(dit, loader);
    return err;
}

static void describe(CvDit *dit, CvWeights *weights)
{
    const CvDitSize *size = &dit->size;
    int64_t parameters = 0;
    char types[64];

    for (int64_t i = 0; i < cv_weights_count(weights); i++)
        parameters += cv_elements(&cv_weights_at(weights, i)->tensor);
    cv_weights_types(weights, types, sizeof(types));
    snprintf(dit->description, sizeof(dit->description),
             "Wan transformer, %" PRId64 " layers, width %" PRId64 ", %" PRId64
             " heads of %" PRId64 ", ffn %" PRId64 ", %.1f M parameters, %s, "
             "%s names", size->layers, size->dim, size->heads, dit->head_dim,
             size->ffn_dim, (double)parameters * 1e-6, types,
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
    *loader = (CvLoader){ .backend = backend, .log = log };
    err = cv_weights_open_key(&loader->weights, path, key, log);
    if (!err)
        err = cv_weights_canonical(loader->weights, CV_KIND_TRANSFORMER, log);
    if (!err)
        err = cv_dit_read_sizes(dit, loader->weights, log);
    if (!err)
        err = cv_dit_read_config(dit, config_path, path, log);
    if (err)
        goto fail;
    dit->layers = calloc((size_t)dit->size.layers, sizeof(*dit->layers));
    dit->text_layers = calloc((size_t)dit->size.layers,
                              sizeof(*dit->text_layers));
    if (!dit->layers || !dit->text_layers) {
        err = cv_fail_memory(log, (uint64_t)dit->size.layers *
                             sizeof(*dit->layers), "the transformer's layers");
        goto fail;
    }
    dit->resident = dit->size.layers;
    cv_arena_plan(&dit->arena, backend);
    cv_arena_plan(&dit->text_arena, backend);
    err = load_all(dit);
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

static void close_files(CvDit *dit)
{
    cv_loras_close(&dit->loader.loras);
    cv_weights_close(&dit->loader.weights);
}

int cv_dit_load(CvDit *dit)
{
    CvLoader *loader = &dit->loader;
    CvMemory memory;
    int err = cv_memory(loader->backend, &memory);

    if (!err)
        err = cv_arena_take(&dit->arena, loader->log,
                            "the transformer's weights");
    if (!err && !dit->text_streamed)
        err = cv_arena_take(&dit->text_arena, loader->log,
                            "the transformer's weights for text");
    if (!err)
        err = cv_load_end(loader, load_all(dit));
    if (!err)
        err = cv_dit_plan_streamed(dit);
    if (!err)
        cv_loras_finish(loader);
    cv_load_release(loader);
    if (err || (memory.room == INT64_MAX && memory.budget == INT64_MAX))
        close_files(dit);
    return err;
}

void cv_dit_close(CvDit **dit)
{
    if (!*dit)
        return;
    close_files(*dit);
    cv_arena_free(&(*dit)->arena);
    cv_arena_free(&(*dit)->text_arena);
    free((*dit)->text_layers);
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
    return dit->arena.peak + (dit->text_streamed ? 0 : dit->text_arena.peak);
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

int cv_dit_can_narrow(const CvDit *dit)
{
    const CvBackend *b = dit->loader.backend;

    return b->fp8 && !b->narrow &&
           !cv_type_is_fp8(dit->layers[0].ffn_up.matrix.weight.type);
}

const char *cv_dit_describe(const CvDit *dit)
{
    return dit->description;
}
