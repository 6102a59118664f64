/*
 * The UMT5 encoder: token ids to text embeddings.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * All sizes are those of the tensors; config.json gives the epsilon and is
 * held against the rest. Numerics: checkpoints.md 5. Source: Wan2.1
 * wan/modules/t5.py.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "text.h"
#include "weights/files.h"

#define EMBEDDING "token_embedding.weight"

#define MAX_SIZE (1 << 24) /* of any dimension; products fit into int64_t */

typedef struct Layer {
    CvTensor norm1, norm2;  /* float32 [dim] */
    CvMatrix q, k, v;       /* [inner, dim] */
    CvMatrix o;             /* [dim, inner] */
    CvTensor positions;     /* float32 [buckets, heads]; each layer has one */
    CvMatrix gate, up;      /* [ffn, dim] */
    CvMatrix down;          /* [dim, ffn] */
} Layer;

struct CvUmt5 {
    CvLoader loader;        /* its file is open as long as it may be needed */
    CvArena arena;          /* of resident weights */
    int streamed;
    int64_t vocab, dim, ffn, inner, heads, buckets;
    int64_t n_layers;
    float eps;
    CvMatrix embedding;     /* [vocab, dim] */
    CvTensor norm;          /* float32 [dim] */
    Layer *layers;          /* the weights of each, when they are resident */
    char description[200];
};

/* ---- sizes ---- */

/* The two dimensions of a tensor that must exist. */
static int read_dims(CvWeights *weights, const char *name, int64_t *rows,
                     int64_t *columns, CvLog *log)
{
    const CvEntry *entry = cv_weights_find(weights, "%s", name);
    const CvTensor *t = entry ? &entry->tensor : NULL;
    char text[CV_SHAPE_TEXT];

    if (!entry)
        return cv_fail(log, EILSEQ, "'%s': tensor '%s' is missing: the file "
                       "is incomplete or no UMT5 encoder",
                       cv_weights_path(weights), name);
    if (t->n_dims != 2 || t->dim[0] < 1 || t->dim[0] > MAX_SIZE ||
        t->dim[1] < 1 || t->dim[1] > MAX_SIZE)
        return cv_fail(log, EILSEQ, "'%s': tensor '%s' is %s, expected 2 "
                       "dimensions from 1 to %d", entry->file, entry->stored,
                       cv_shape_text(text, t), MAX_SIZE);
    *rows    = t->dim[0];
    *columns = t->dim[1];
    return 0;
}

static int read_sizes(CvUmt5 *u, CvWeights *weights, CvLog *log)
{
    int64_t columns;
    int err;

    if ((err = read_dims(weights, EMBEDDING, &u->vocab,
                         &u->dim, log)) < 0 ||
        (err = read_dims(weights, "blocks.0.attn.q.weight", &u->inner,
                         &columns, log)) < 0 ||
        (err = read_dims(weights, "blocks.0.pos_embedding.embedding.weight",
                         &u->buckets, &u->heads, log)) < 0 ||
        (err = read_dims(weights, "blocks.0.ffn.gate.0.weight", &u->ffn,
                         &columns, log)) < 0)
        return err;
    if (u->inner % u->heads)
        return cv_fail(log, EILSEQ, "'%s': %" PRId64 " heads do not divide "
                       "the %" PRId64 " rows of blocks.0.attn.q.weight",
                       cv_weights_path(weights), u->heads, u->inner);
    if (u->buckets < 4 || u->buckets % 4)
        return cv_fail(log, EILSEQ, "'%s': the position tables have %" PRId64
                       " rows, expected a multiple of 4 (UMT5 has 32)",
                       cv_weights_path(weights), u->buckets);
    /* Layers behind a gap stay unused, which cv_load_finish() refuses. */
    while (cv_weights_find(weights, "blocks.%" PRId64 ".norm1.weight",
                           u->n_layers))
        u->n_layers++;
    if (!u->n_layers)
        return cv_fail(log, EILSEQ, "'%s': tensor 'blocks.0.norm1.weight' is "
                       "missing: the file is incomplete",
                       cv_weights_path(weights));
    return 0;
}

/* A string key that must be absent or have one value. */
static int check_string(const cJSON *json, const char *path, const char *key,
                        const char *expected, CvLog *log)
{
    char found[64] = "";
    int err = cv_json_string(json, path, key, found, sizeof(found), log);

    if (err < 0 || !*found || !strcmp(found, expected))
        return err;
    return cv_fail(log, ENOSYS, "'%s': \"%s\" is \"%s\", which is not "
                   "supported; expected \"%s\": a UMT5 encoder", path, key,
                   found, expected);
}

static int check_config(CvUmt5 *u, const char *path, CvLog *log)
{
    const struct {
        const char *key;
        int64_t value;
    } sizes[] = {
        { "vocab_size", u->vocab },
        { "d_model", u->dim },
        { "d_ff", u->ffn },
        { "d_kv", u->inner / u->heads },
        { "num_heads", u->heads },
        { "num_layers", u->n_layers },
        { "relative_attention_num_buckets", u->buckets },
    };
    int64_t value, distance = 128;
    double eps = (double)u->eps;
    int gated = 1, err;
    cJSON *json;

    if (!path || !*path)
        return 0;
    if ((err = cv_json_read(&json, path, log)) < 0)
        return err;
    if (!cJSON_IsObject(json)) {
        err = cv_fail(log, EILSEQ, "'%s': expected a JSON object with the text "
                      "encoder's sizes", path);
        goto end;
    }
    if ((err = check_string(json, path, "model_type", "umt5", log)) < 0 ||
        (err = check_string(json, path, "feed_forward_proj", "gated-gelu",
                            log)) < 0 ||
        (err = check_string(json, path, "dense_act_fn", "gelu_new",
                            log)) < 0 ||
        (err = cv_json_bool(json, path, "is_gated_act", &gated, log)) < 0 ||
        (err = cv_json_int(json, path, "relative_attention_max_distance", 1,
                           MAX_SIZE, &distance, log)) < 0 ||
        (err = cv_json_number(json, path, "layer_norm_epsilon", 1e-12, 1e-2,
                              &eps, log)) < 0)
        goto end;
    if (!gated || distance != 128) {
        err = cv_fail(log, ENOSYS, "'%s': \"%s\" is not supported; expected "
                      "%s, as UMT5 has", path, gated ?
                      "relative_attention_max_distance" : "is_gated_act",
                      gated ? "128" : "true");
        goto end;
    }
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        value = sizes[i].value;
        if ((err = cv_json_int(json, path, sizes[i].key, 1, MAX_SIZE, &value,
                               log)) < 0)
            goto end;
        if (value != sizes[i].value) {
            err = cv_fail(log, EILSEQ, "'%s': \"%s\" is %" PRId64 ", but the "
                          "weights have %" PRId64 ": config and weights are "
                          "of different models", path, sizes[i].key, value,
                          sizes[i].value);
            goto end;
        }
    }
    u->eps = (float)eps;

end:
    cJSON_Delete(json);
    return err;
}

/* ---- loading ---- */

static int load_layer(const CvUmt5 *u, CvLoader *loader, int64_t number,
                      Layer *layer)
{
    const struct {
        CvTensor *t;
        const char *name;
        CvTensor shape;
    } tensors[] = {
        { &layer->norm1, "norm1", CV_TENSOR(NULL, CV_F32, u->dim) },
        { &layer->positions, "pos_embedding.embedding",
          CV_TENSOR(NULL, CV_F32, u->buckets, u->heads) },
        { &layer->norm2, "norm2", CV_TENSOR(NULL, CV_F32, u->dim) },
    };
    const struct {
        CvMatrix *m;
        const char *name;
        int64_t rows, columns;
    } matrices[] = {
        { &layer->q, "attn.q", u->inner, u->dim },
        { &layer->k, "attn.k", u->inner, u->dim },
        { &layer->v, "attn.v", u->inner, u->dim },
        { &layer->o, "attn.o", u->dim, u->inner },
        { &layer->gate, "ffn.gate.0", u->ffn, u->dim },
        { &layer->up, "ffn.fc1", u->ffn, u->dim },
        { &layer->down, "ffn.fc2", u->dim, u->ffn },
    };
    int err = cv_aborted(loader->log);

    for (size_t i = 0; i < sizeof(tensors) / sizeof(tensors[0]) && !err; i++) {
        *tensors[i].t = tensors[i].shape;
        err = cv_load(loader, tensors[i].t, CV_LOAD_AS_IS,
                      "blocks.%" PRId64 ".%s.weight", number, tensors[i].name);
    }
    for (size_t i = 0; i < sizeof(matrices) / sizeof(matrices[0]) && !err;
         i++) {
        matrices[i].m->weight.dim[0] = matrices[i].rows;
        matrices[i].m->weight.dim[1] = matrices[i].columns;
        err = cv_load_matrix(loader, matrices[i].m,
                             "blocks.%" PRId64 ".%s.weight", number,
                             matrices[i].name);
    }
    return err;
}

static int load_norm(const CvUmt5 *u, CvLoader *loader, CvTensor *norm)
{
    *norm = CV_TENSOR(NULL, CV_F32, u->dim);
    return cv_load(loader, norm, CV_LOAD_AS_IS, "norm.weight");
}

/* Everything; run once while the arena plans and once for real. */
static int load_all(CvUmt5 *u, CvLoader *loader)
{
    int err;

    u->embedding.weight.dim[0] = u->vocab;
    u->embedding.weight.dim[1] = u->dim;
    if ((err = cv_load_matrix(loader, &u->embedding, EMBEDDING)) < 0 ||
        (err = load_norm(u, loader, &u->norm)) < 0)
        return err;
    for (int64_t i = 0; i < u->n_layers && !err; i++)
        err = load_layer(u, loader, i, &u->layers[i]);
    return err;
}

static void describe(CvUmt5 *u, const CvWeights *weights)
{
    const int64_t layer = u->dim * (4 * u->inner + 3 * u->ffn + 2) +
                          u->buckets * u->heads;
    const double parameters = (double)(u->vocab + 1) * (double)u->dim +
                              (double)u->n_layers * (double)layer;
    char types[64];

    cv_weights_types(weights, types, sizeof(types));
    snprintf(u->description, sizeof(u->description),
             "UMT5 encoder, %" PRId64 " layers, width %" PRId64 ", %" PRId64
             " heads of %" PRId64 ", ffn %" PRId64 ", %" PRId64 " tokens, "
             "%.1f M parameters, %s, %s names", u->n_layers, u->dim, u->heads,
             u->inner / u->heads, u->ffn, u->vocab, parameters * 1e-6, types,
             cv_weights_layout(weights));
}

int cv_umt5_open(CvUmt5 **umt5, CvBackend *backend, const char *path,
                 const char *config_path, CvLog *log)
{
    CvUmt5 *u = calloc(1, sizeof(*u));
    CvLoader *loader;
    int err;

    *umt5 = NULL;
    if (!u)
        return cv_fail_memory(log, sizeof(*u), "the text encoder");
    u->eps = 1e-6f;
    loader = &u->loader;
    *loader = (CvLoader){ .backend = backend, .arena = &u->arena, .log = log };
    if ((err = cv_weights_open(&loader->weights, path, log)) < 0 ||
        (err = cv_weights_canonical(loader->weights, CV_KIND_TEXT_ENCODER,
                                    log)) < 0 ||
        (err = read_sizes(u, loader->weights, log)) < 0 ||
        (err = check_config(u, config_path, log)) < 0)
        goto fail;
    u->layers = calloc((size_t)u->n_layers, sizeof(*u->layers));
    if (!u->layers) {
        err = cv_fail_memory(log, (uint64_t)u->n_layers * sizeof(*u->layers),
                             "the text encoder's layers");
        goto fail;
    }
    cv_arena_plan(&u->arena, backend);
    err = load_all(u, loader);
    backend->planning = 0;
    if (err < 0 || (err = cv_load_finish(loader)) < 0)
        goto fail;
    describe(u, loader->weights);
    *umt5 = u;
    return 0;

fail:
    cv_umt5_close(&u);
    return err;
}

int cv_umt5_load(CvUmt5 *u)
{
    CvLoader *loader = &u->loader;
    CvMemory memory;
    int err;

    if (u->streamed)
        return 0;
    if ((err = cv_memory(loader->backend, &memory)) < 0 ||
        (err = cv_arena_take(&u->arena, loader->log, "the text encoder's "
                             "weights")) < 0 ||
        (err = cv_load_end(loader, load_all(u, loader))) < 0)
        return err;
    if (memory.room == INT64_MAX && memory.budget == INT64_MAX)
        cv_weights_close(&loader->weights);
    return 0;
}

int cv_umt5_stream(CvUmt5 *u)
{
    if (u->streamed || !u->loader.weights)
        return 0;
    u->streamed = 1;
    cv_arena_free(&u->arena);
    return 1;
}

void cv_umt5_close(CvUmt5 **umt5)
{
    if (!*umt5)
        return;
    cv_weights_close(&(*umt5)->loader.weights);
    cv_arena_free(&(*umt5)->arena);
    free((*umt5)->layers);
    free(*umt5);
    *umt5 = NULL;
}

int64_t cv_umt5_dim(const CvUmt5 *umt5)
{
    return umt5->dim;
}

int64_t cv_umt5_vocab(const CvUmt5 *umt5)
{
    return umt5->vocab;
}

size_t cv_umt5_bytes(const CvUmt5 *umt5)
{
    return umt5->streamed ? 0 : umt5->arena.peak;
}

CvWeights *cv_umt5_weights(const CvUmt5 *umt5)
{
    return umt5->loader.weights;
}

const char *cv_umt5_describe(const CvUmt5 *umt5)
{
    return umt5->description;
}

/* ---- forward ---- */

/* What the layers write over. */
typedef struct Scratch {
    CvTensor bias;       /* float32 [heads, n, n] */
    CvTensor h;          /* A [n, dim] */
    CvTensor q, k, v, a; /* A [n, inner] */
    CvTensor ffn;        /* A [n, ffn] */
} Scratch;

static int take_scratch(const CvUmt5 *u, CvRun *run, Scratch *s, int64_t n)
{
    const CvType a = run->backend->activation;
    CvTensor *tensors[] = { &s->bias, &s->h, &s->q, &s->k, &s->v, &s->a,
                            &s->ffn };
    int err = 0;

    s->bias = CV_TENSOR(NULL, CV_F32, u->heads, n, n);
    s->h    = CV_TENSOR(NULL, a, n, u->dim);
    s->q    = s->k = s->v = s->a = CV_TENSOR(NULL, a, n, u->inner);
    s->ffn  = CV_TENSOR(NULL, a, n, u->ffn);
    for (size_t i = 0; i < sizeof(tensors) / sizeof(tensors[0]) && !err; i++)
        err = cv_arena_tensor(run->arena, tensors[i]);
    return err;
}

static int linear(CvRun *run, const CvTensor *out, const CvTensor *x,
                  const CvMatrix *m, CvEpilogue epilogue)
{
    const CvLinear args = { .out = out, .x = x, .weight = &m->weight,
                            .scale = &m->scale, .epilogue = epilogue,
                            .other = epilogue >= CV_EPI_MUL ? out : NULL };

    return cv_linear(run->backend, &args);
}

static int attention(const CvUmt5 *u, CvRun *run, const Layer *layer,
                     Scratch *s, const CvTensor *x)
{
    const int64_t n = x->dim[0], size = u->inner / u->heads;
    const CvTensor q = CV_RESHAPE(s->q, n, u->heads, size);
    const CvTensor k = CV_RESHAPE(s->k, n, u->heads, size);
    const CvTensor v = CV_RESHAPE(s->v, n, u->heads, size);
    const CvTensor a = CV_RESHAPE(s->a, n, u->heads, size);
    /* T5 puts no 1 / sqrt(size) before its softmax. */
    const CvAttention args = { .out = &a, .q = &q, .k = &k, .v = &v,
                               .bias = &s->bias, .scale = 1,
                               .last_repeats = 1 };
    int err;

    if ((err = cv_rms_norm(run->backend, &s->h, x, &layer->norm1,
                           u->eps)) < 0 ||
        (err = linear(run, &s->q, &s->h, &layer->q, CV_EPI_NONE)) < 0 ||
        (err = linear(run, &s->k, &s->h, &layer->k, CV_EPI_NONE)) < 0 ||
        (err = linear(run, &s->v, &s->h, &layer->v, CV_EPI_NONE)) < 0 ||
        (err = cv_t5_bias(run->backend, &s->bias, &layer->positions)) < 0 ||
        (err = cv_attention(run->backend, &args)) < 0)
        return err;
    return linear(run, x, &s->a, &layer->o, CV_EPI_ADD);
}

/* x += down(up(norm(x)) * gelu(gate(norm(x)))) */
static int feed_forward(const CvUmt5 *u, CvRun *run, const Layer *layer,
                        Scratch *s, const CvTensor *x)
{
    int err;

    if ((err = cv_rms_norm(run->backend, &s->h, x, &layer->norm2,
                           u->eps)) < 0 ||
        (err = linear(run, &s->ffn, &s->h, &layer->gate, CV_EPI_GELU)) < 0 ||
        (err = linear(run, &s->ffn, &s->h, &layer->up, CV_EPI_MUL)) < 0)
        return err;
    return linear(run, x, &s->ffn, &layer->down, CV_EPI_ADD);
}

/* A layer's weights, from where they are kept. */
static int get_layer(const CvUmt5 *u, CvRun *run, int64_t number, Layer *layer)
{
    CvLoader loader = u->loader;

    if (u->streamed) {
        loader.arena = run->arena;
        return load_layer(u, &loader, number, layer);
    }
    *layer = u->layers[number];
    return 0;
}

static int run_layer(const CvUmt5 *u, CvRun *run, int64_t number, Scratch *s,
                     const CvTensor *x)
{
    size_t mark = cv_arena_mark(run->arena);
    Layer layer;
    int err;

    if ((err = cv_aborted(run->log)) < 0)
        return err;
    if (!(err = get_layer(u, run, number, &layer)) &&
        !(err = attention(u, run, &layer, s, x)))
        err = feed_forward(u, run, &layer, s, x);
    cv_arena_release(run->arena, mark);
    return err;
}

/* The residual stream's first values. */
static int embed(const CvUmt5 *u, CvRun *run, const CvTensor *out,
                 const int32_t *ids)
{
    const int64_t n = out->dim[0];
    size_t mark = cv_arena_mark(run->arena);
    CvTensor rows = CV_TENSOR(NULL, CV_I32, n);
    CvMatrix table = u->embedding;
    CvLoader loader = u->loader;
    int32_t in_order[CV_MAX_TOKENS];
    int err = cv_arena_tensor(run->arena, &rows);

    if (u->streamed && !err) {
        loader.arena = run->arena;
        table.weight.dim[0] = n;
        err = cv_load_matrix_rows(&loader, &table, u->vocab, ids, EMBEDDING);
        for (int32_t i = 0; i < n; i++)
            in_order[i] = i;
        ids = in_order;
    }
    if (!err && !(err = cv_upload(run->backend, &rows, ids, CV_I32)))
        err = cv_embed(run->backend, out, &table.weight, &table.scale,
                       &rows);
    cv_arena_release(run->arena, mark);
    return err;
}

/* The last norm. */
static int finish(const CvUmt5 *u, CvRun *run, Scratch *s, const CvTensor *out)
{
    size_t mark = cv_arena_mark(run->arena);
    CvLoader loader = u->loader;
    CvTensor norm = u->norm;
    int err = 0;

    if (u->streamed) {
        loader.arena = run->arena;
        err = load_norm(u, &loader, &norm);
    }
    if (!err && !(err = cv_rms_norm(run->backend, &s->h, out, &norm, u->eps)))
        err = cv_convert(run->backend, out, &s->h);
    cv_arena_release(run->arena, mark);
    return err;
}

int cv_umt5_forward(CvUmt5 *umt5, CvRun *run, const CvTensor *out,
                    const int32_t *ids)
{
    const size_t mark = cv_arena_mark(run->arena);
    const int64_t n = out->dim[0];
    Scratch s;
    int err;

    if (n < 1 || n > CV_MAX_TOKENS)
        return cv_fail(run->log, EINVAL, "internal error: %" PRId64 " tokens "
                       "for the text encoder", n);
    /* `out` is the residual stream until the last norm. */
    err = take_scratch(umt5, run, &s, n);
    if (!err)
        err = embed(umt5, run, out, ids);
    for (int64_t i = 0; i < umt5->n_layers && !err; i++)
        err = run_layer(umt5, run, i, &s, out);
    if (!err)
        err = finish(umt5, run, &s, out);
    if (umt5->streamed)
        err = cv_load_end(&umt5->loader, err);
    cv_arena_release(run->arena, mark);
    return err;
}
