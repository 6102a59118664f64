/*
 * Models without files: the published shapes, filled with random numbers, so
 * that speed and memory can be measured before anything is downloaded.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * The directory is filled as by a reader of files, but its tensors have no
 * bytes: where others are uploaded, the backend makes the numbers itself
 * (`random` in ops.h), from a seed that depends on the model's and the
 * tensor's name alone. Scales keep the size of activations from layer to
 * layer: linears and convolutions have a variance of 1 / inputs, weights of
 * norms are 1. What such a model draws is noise.
 * Names and shapes: checkpoints.md 2.1, 2.3, 2.5.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "weights/files.h"
#include "weights/reader.h"

typedef struct Shapes {
    const char *name;
    int64_t dim, ffn, layers;
    struct {
        int64_t vocab, dim, inner, ffn, heads, layers;
    } text;
    int64_t vae; /* channels next to the pixels */
    int fp8;     /* the matrices of blocks are in fp8, as in files of users */
} Shapes;

#define UMT5_XXL { 256384, 4096, 4096, 10240, 64, 24 }
static const Shapes models[] = {
    { "wan-1.3b", 1536, 8960, 30, UMT5_XXL, 96, 0 },
    { "wan-1.3b-fp8", 1536, 8960, 30, UMT5_XXL, 96, 1 },
    { "wan-14b", 5120, 13824, 40, UMT5_XXL, 96, 0 },
    { "wan-14b-fp8", 5120, 13824, 40, UMT5_XXL, 96, 1 },
    { "tiny", 256, 512, 2, { 8192, 128, 128, 256, 2, 2 }, 8, 0 },
    { "tiny-fp8", 256, 512, 2, { 8192, 128, 128, 256, 2, 2 }, 8, 1 },
};
#define N_MODELS ((int)(sizeof(models) / sizeof(*models)))

#define LATENT_CHANNELS 16
#define FREQ_DIM        256
#define POSITIONS       32 /* buckets */
#define FP8_LARGEST     448 /* of E4M3 */

/* ---- the directory ---- */

typedef struct Builder {
    CvWeights *weights;
    const CvFile *file;
    CvLog *log;
    int fp8;
    int err;    /* of the first tensor that could not be added */
} Builder;

/* Add a tensor of these dims; the name is printf-formatted. */
static void add(Builder *b, CvTensor t, const char *format, ...)
    CV_PRINTF(3, 4);

static void add(Builder *b, CvTensor t, const char *format, ...)
{
    char name[CV_NAME_SIZE];
    va_list args;

    va_start(args, format);
    vsnprintf(name, sizeof(name), format, args);
    va_end(args);
    if (b->fp8 && t.n_dims == 2 && !strncmp(name, "blocks.", 7) &&
        !strstr(name, "pos_embedding"))
        t.type = CV_F8_E4M3;
    if (!b->err)
        b->err = cv_weights_add(b->weights, b->file, name, &t, b->log);
}
#define SHAPE(...) CV_TENSOR(NULL, CV_BF16, __VA_ARGS__)

static void add_linear(Builder *b, const char *name, int64_t out, int64_t in)
{
    add(b, SHAPE(out, in), "%s.weight", name);
    add(b, SHAPE(out), "%s.bias", name);
}

static void add_block(Builder *b, const Shapes *s, int i)
{
    char name[64];

    add(b, SHAPE(1, 6, s->dim), "blocks.%d.modulation", i);
    for (int cross = 0; cross < 2; cross++) {
        const char *attn = cross ? "cross_attn" : "self_attn";

        for (const char *x = "qkvo"; *x; x++) {
            snprintf(name, sizeof(name), "blocks.%d.%s.%c", i, attn, *x);
            add_linear(b, name, s->dim, s->dim);
        }
        add(b, SHAPE(s->dim), "blocks.%d.%s.norm_q.weight", i, attn);
        add(b, SHAPE(s->dim), "blocks.%d.%s.norm_k.weight", i, attn);
    }
    add(b, SHAPE(s->dim), "blocks.%d.norm3.weight", i);
    add(b, SHAPE(s->dim), "blocks.%d.norm3.bias", i);
    snprintf(name, sizeof(name), "blocks.%d.ffn.0", i);
    add_linear(b, name, s->ffn, s->dim);
    snprintf(name, sizeof(name), "blocks.%d.ffn.2", i);
    add_linear(b, name, s->dim, s->ffn);
}

static void add_transformer(Builder *b, const Shapes *s)
{
    add(b, SHAPE(s->dim, LATENT_CHANNELS, 1, 2, 2), "patch_embedding.weight");
    add(b, SHAPE(s->dim), "patch_embedding.bias");
    add_linear(b, "text_embedding.0", s->dim, s->text.dim);
    add_linear(b, "text_embedding.2", s->dim, s->dim);
    add_linear(b, "time_embedding.0", s->dim, FREQ_DIM);
    add_linear(b, "time_embedding.2", s->dim, s->dim);
    add_linear(b, "time_projection.1", 6 * s->dim, s->dim);
    add_linear(b, "head.head", 4 * LATENT_CHANNELS, s->dim);
    add(b, SHAPE(1, 2, s->dim), "head.modulation");
    for (int i = 0; i < s->layers; i++)
        add_block(b, s, i);
}

static void add_text_encoder(Builder *b, const Shapes *s)
{
    const int64_t dim = s->text.dim, inner = s->text.inner, ffn = s->text.ffn;

    add(b, SHAPE(s->text.vocab, dim), "token_embedding.weight");
    add(b, SHAPE(dim), "norm.weight");
    for (int i = 0; i < s->text.layers; i++) {
        add(b, SHAPE(dim), "blocks.%d.norm1.weight", i);
        add(b, SHAPE(dim), "blocks.%d.norm2.weight", i);
        for (const char *x = "qkv"; *x; x++)
            add(b, SHAPE(inner, dim), "blocks.%d.attn.%c.weight", i, *x);
        add(b, SHAPE(dim, inner), "blocks.%d.attn.o.weight", i);
        add(b, SHAPE(POSITIONS, s->text.heads),
            "blocks.%d.pos_embedding.embedding.weight", i);
        add(b, SHAPE(ffn, dim), "blocks.%d.ffn.gate.0.weight", i);
        add(b, SHAPE(ffn, dim), "blocks.%d.ffn.fc1.weight", i);
        add(b, SHAPE(dim, ffn), "blocks.%d.ffn.fc2.weight", i);
    }
}

/* ---- the VAE ---- */

/* A convolution with a kernel of t frames and k x k pixels. */
static void add_conv(Builder *b, const char *name, int64_t out, int64_t in,
                     int t, int k)
{
    add(b, SHAPE(out, in, t, k, k), "%s.weight", name);
    add(b, SHAPE(out), "%s.bias", name);
}

/* One of frames alone, whose weight has four dimensions. */
static void add_conv2d(Builder *b, const char *name, int64_t out, int64_t in,
                       int k)
{
    add(b, SHAPE(out, in, k, k), "%s.weight", name);
    add(b, SHAPE(out), "%s.bias", name);
}

static void add_residual(Builder *b, const char *stem, int64_t in, int64_t out)
{
    char name[96];

    add(b, SHAPE(in, 1, 1, 1), "%s.residual.0.gamma", stem);
    snprintf(name, sizeof(name), "%s.residual.2", stem);
    add_conv(b, name, out, in, 3, 3);
    add(b, SHAPE(out, 1, 1, 1), "%s.residual.3.gamma", stem);
    snprintf(name, sizeof(name), "%s.residual.6", stem);
    add_conv(b, name, out, out, 3, 3);
    snprintf(name, sizeof(name), "%s.shortcut", stem);
    if (in != out)
        add_conv(b, name, out, in, 1, 1);
}

static void add_middle(Builder *b, const char *coder, int64_t width)
{
    char name[64];

    for (int i = 0; i < 3; i += 2) {
        snprintf(name, sizeof(name), "%s.middle.%d", coder, i);
        add_residual(b, name, width, width);
    }
    add(b, SHAPE(width, 1, 1), "%s.middle.1.norm.gamma", coder);
    snprintf(name, sizeof(name), "%s.middle.1.to_qkv", coder);
    add_conv2d(b, name, 3 * width, width, 1);
    snprintf(name, sizeof(name), "%s.middle.1.proj", coder);
    add_conv2d(b, name, width, width, 1);
}

/* A member of the flat lists. Widths in units of the VAE's base: a residual
 * block from `in` to `out`, or a resampler (with time_conv of `time`). */
typedef struct Member {
    int in, out, resample, time;
} Member;

static const Member down[] = {
    { 1, 1, 0, 0 }, { 1, 1, 0, 0 }, { 1, 1, 1, 0 }, { 1, 2, 0, 0 },
    { 2, 2, 0, 0 }, { 2, 2, 1, 2 }, { 2, 4, 0, 0 }, { 4, 4, 0, 0 },
    { 4, 4, 1, 4 }, { 4, 4, 0, 0 }, { 4, 4, 0, 0 },
};
static const Member up[] = {
    { 4, 4, 0, 0 }, { 4, 4, 0, 0 }, { 4, 4, 0, 0 }, { 4, 2, 1, 8 },
    { 2, 4, 0, 0 }, { 4, 4, 0, 0 }, { 4, 4, 0, 0 }, { 4, 2, 1, 8 },
    { 2, 2, 0, 0 }, { 2, 2, 0, 0 }, { 2, 2, 0, 0 }, { 2, 1, 1, 0 },
    { 1, 1, 0, 0 }, { 1, 1, 0, 0 }, { 1, 1, 0, 0 },
};

static void add_members(Builder *b, const char *list, const Member *members,
                        int n, int64_t base)
{
    char stem[64], name[96];

    for (int i = 0; i < n; i++) {
        const Member *m = &members[i];

        snprintf(stem, sizeof(stem), "%s.%d", list, i);
        if (!m->resample) {
            add_residual(b, stem, m->in * base, m->out * base);
            continue;
        }
        snprintf(name, sizeof(name), "%s.resample.1", stem);
        add_conv2d(b, name, m->out * base, m->in * base, 3);
        if (!m->time)
            continue;
        add(b, SHAPE(m->time * base, m->in * base, 3, 1, 1),
            "%s.time_conv.weight", stem);
        add(b, SHAPE(m->time * base), "%s.time_conv.bias", stem);
    }
}

static void add_vae(Builder *b, const Shapes *s)
{
    const int64_t base = s->vae, wide = 4 * base, c = LATENT_CHANNELS;

    add_conv(b, "conv1", 2 * c, 2 * c, 1, 1);
    add_conv(b, "encoder.conv1", base, 3, 3, 3);
    add_members(b, "encoder.downsamples", down,
                (int)(sizeof(down) / sizeof(*down)), base);
    add_middle(b, "encoder", wide);
    add(b, SHAPE(wide, 1, 1, 1), "encoder.head.0.gamma");
    add_conv(b, "encoder.head.2", 2 * c, wide, 3, 3);
    add_conv(b, "conv2", c, c, 1, 1);
    add_conv(b, "decoder.conv1", wide, c, 3, 3);
    add_middle(b, "decoder", wide);
    add_members(b, "decoder.upsamples", up, (int)(sizeof(up) / sizeof(*up)),
                base);
    add(b, SHAPE(base, 1, 1, 1), "decoder.head.0.gamma");
    add_conv(b, "decoder.head.2", 3, base, 3, 3);
}

/* TAEHV's taew2_1, its decoder. */
#define TINY CV_RANDOM "taew2_1"

static void add_tiny_vae(Builder *b)
{
    static const int64_t widths[] = { 256, 128, 64, 64 };
    char name[64];

    add_conv2d(b, "decoder.1", widths[0], LATENT_CHANNELS, 3);
    for (int stage = 0; stage < 3; stage++) {
        int64_t c = widths[stage];
        int at = 3 + 6 * stage;

        for (int i = at; i < at + 3; i++)
            for (int j = 0; j < 3; j++) {
                snprintf(name, sizeof(name), "decoder.%d.conv.%d", i, 2 * j);
                add_conv2d(b, name, c, j ? c : 2 * c, 3);
            }
        add(b, SHAPE(stage ? 2 * c : c, c, 1, 1), "decoder.%d.conv.weight",
            at + 4);
        add(b, SHAPE(widths[stage + 1], c, 3, 3), "decoder.%d.weight", at + 5);
    }
    add_conv2d(b, "decoder.22", 3, widths[3], 3);
}

/* ---- names ---- */

int cv_random_is(const char *path)
{
    return !strncmp(path, CV_RANDOM, strlen(CV_RANDOM));
}

/* The shapes of "random:NAME" or "random:NAME/PART". */
static const Shapes *find_shapes(const char *path)
{
    const char *name = path + strlen(CV_RANDOM);

    for (int i = 0; i < N_MODELS; i++) {
        size_t n = strlen(models[i].name);

        if (!strncmp(name, models[i].name, n) && (!name[n] || name[n] == '/'))
            return &models[i];
    }
    return NULL;
}

int cv_random_files(CvModelFiles *f, const char *model, CvLog *log)
{
    if (!find_shapes(model) || strchr(model, '/'))
        return cv_fail(log, ENOENT, "there is no model '%.100s'; expected "
                       "random:wan-1.3b, random:wan-14b or random:tiny, or "
                       "one of these with -fp8", model);
    snprintf(f->root, sizeof(f->root), "%s", model);
    snprintf(f->transformer, sizeof(f->transformer), "%s/transformer", model);
    snprintf(f->text_encoder, sizeof(f->text_encoder), "%s/text_encoder",
             model);
    snprintf(f->vae, sizeof(f->vae), "%s/vae", model);
    return 0;
}

int cv_random_read(CvWeights *weights, const CvFile *file, CvLog *log)
{
    const Shapes *shapes = find_shapes(file->path);
    const char *part = strchr(file->path, '/');
    Builder b = { weights, file, log, shapes && shapes->fp8, 0 };

    weights->random = 1;
    if (!strcmp(file->path, TINY)) {
        add_tiny_vae(&b);
        return b.err;
    }
    if (!shapes || !part)
        return cv_fail(log, ENOENT, "there are no weights '%.100s'",
                       file->path);
    if (!strcmp(part, "/transformer"))
        add_transformer(&b, shapes);
    else if (!strcmp(part, "/text_encoder"))
        add_text_encoder(&b, shapes);
    else if (!strcmp(part, "/vae"))
        add_vae(&b, shapes);
    else
        return cv_fail(log, ENOENT, "there are no weights '%.100s'",
                       file->path);
    return b.err;
}

/* ---- numbers ---- */

static int ends_with(const char *string, const char *end)
{
    size_t n = strlen(string), e = strlen(end);

    return n >= e && !strcmp(string + n - e, end);
}

/* A seed for each tensor of each model: FNV-1a of both names. */
static uint64_t seed_of(const CvEntry *e)
{
    uint64_t hash = 0xcbf29ce484222325;

    for (const char *p = e->file; *p; p++)
        hash = (hash ^ (unsigned char)*p) * 0x100000001b3;
    for (const char *p = e->name; *p; p++)
        hash = (hash ^ (unsigned char)*p) * 0x100000001b3;
    return hash;
}

/* 1 for tensors that are all ones: weights of norms. */
static int is_ones(const CvEntry *e)
{
    return ends_with(e->name, ".gamma") ||
           (e->tensor.n_dims == 1 && !ends_with(e->name, ".bias"));
}

/* The largest absolute value: uniform numbers have a third of its square as
 * their variance. */
static double scale_of(const CvEntry *e)
{
    double inputs = (double)cv_row_elements(&e->tensor);

    if (ends_with(e->name, ".bias"))
        return 0.05;
    if (ends_with(e->name, "modulation")) /* as Wan's are before training */
        return sqrt(3 / (double)e->tensor.dim[e->tensor.n_dims - 1]);
    if (ends_with(e->name, "pos_embedding.embedding.weight"))
        return 0.5;
    if (!strcmp(e->name, "token_embedding.weight"))
        return sqrt(3);
    if (ends_with(e->name, ".attn.q.weight")) /* UMT5 does not scale scores */
        return sqrt(3 / inputs) / 8;
    return sqrt(3 / inputs);
}

float cv_random_factor(const CvEntry *e)
{
    return (float)(scale_of(e) / FP8_LARGEST);
}

int cv_random_load(CvLoader *l, const CvTensor *t, const CvEntry *e,
                   int64_t first)
{
    /* An element's number times this is added to the seed (ops.h). */
    uint64_t seed = seed_of(e) + (uint64_t)first * 0x9e3779b97f4a7c15;
    int64_t n = cv_elements(t);
    float *ones;
    int err;

    if (cv_type_is_fp8(t->type))
        return cv_random(l->backend, t, seed, FP8_LARGEST);
    if (!is_ones(e))
        return cv_random(l->backend, t, seed, (float)scale_of(e));
    if (!(ones = malloc((size_t)n * sizeof(*ones))))
        return cv_fail_memory(l->log, (uint64_t)n * sizeof(*ones), e->name);
    for (int64_t i = 0; i < n; i++)
        ones[i] = 1;
    err = cv_upload_tagged(l->backend, t, ones, CV_F32, e);
    free(ones);
    return err;
}
