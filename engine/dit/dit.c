/*
 * One forward pass of the Wan transformer over one block of latent frames.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * The residual stream x is float32 from the patch embedding to the head; what
 * goes into a matrix product has the backend's activation type. Causal and
 * bidirectional models share every line: a block's keys and values always go
 * through the cache, and attention sees as much of it as is filled.
 * Sources: Wan2.1 wan/modules/model.py; CausVid causvid/models/wan/
 * causal_model.py (kv_cache branch); checkpoints.md 7.1, 7.2.
 */
#include "internal.h"

#include <math.h>

/* Rows of a layer's modulation. */
enum {
    SHIFT_SELF, SCALE_SELF, GATE_SELF, SHIFT_FFN, SCALE_FFN, GATE_FFN
};

/* What one pass works on. */
typedef struct Pass {
    const CvDit *dit;
    CvRun *run;
    CvBackend *b;
    CvDitState *state;
    int64_t n;        /* tokens of the block */
    int64_t row;      /* of the cache, where they begin */
    int64_t keys;     /* filled rows of the cache, these included */
    CvTensor x;       /* float32 [n, dim]: residual stream */
    CvTensor q;       /* A [n, heads, d] */
    CvTensor e;       /* float32 [1, dim]: time embedding */
    CvTensor e0;      /* float32 [1, 6, dim]: its projection */
    CvTensor mod;     /* float32 [1, 6, dim]: e0 + the layer's table */
    CvTensor rope;    /* float32 [n, d / 2, 2] */
} Pass;

/* Rows [first, first + n) of a pass. Modulation is that of the block. */
static Pass part_of(const Pass *whole, int64_t first, int64_t n)
{
    Pass p = *whole;

    p.n    = n;
    p.row += first;
    p.x    = cv_rows(&whole->x, first, n);
    p.q    = cv_rows(&whole->q, first, n);
    p.rope = cv_rows(&whole->rope, first, n);
    return p;
}

/* Rows of a part: about equal ones, in tiles of matrix products. */
static int64_t part_rows(const Pass *p)
{
    const int64_t tile = 128, parts = (p->n - 1) / p->dit->part_tokens + 1;
    const int64_t rows = (p->n - 1) / parts + 1;

    return parts == 1 || rows < tile ? rows : (rows + tile - 1) / tile * tile;
}

/* What is multiplied with weights: A, or in fp8 with factors (ops.h). */
typedef struct Input {
    CvTensor x, scale;
} Input;

/* Take a tensor from the arena unless an earlier step failed. */
static void take(Pass *p, int *err, CvTensor *t)
{
    if (!*err)
        *err = cv_arena_tensor(p->run->arena, t);
}

/* The factors as operations want them: NULL where there are none. */
static const CvTensor *scale_of(const Input *in)
{
    return in->scale.data ? &in->scale : NULL;
}

/* Do weights and backend multiply in fp8? */
static int is_narrow(const Pass *p, const CvDitLinear *linear)
{
    return cv_type_is_fp8(p->b->product) && !linear->matrix.exact &&
           linear->matrix.weight.type == p->b->product;
}

/* What is multiplied with these weights, [n, columns]. */
static int take_input(Pass *p, Input *in, const CvDitLinear *linear,
                      int narrow)
{
    int err = 0;

    in->x = CV_TENSOR(NULL, narrow ? p->b->product : p->b->activation, p->n,
                      linear->matrix.weight.dim[1]);
    in->scale = CV_TENSOR(NULL, CV_F32, p->n);
    take(p, &err, &in->x);
    if (narrow)
        take(p, &err, &in->scale);
    return err;
}

/* out = epilogue(in * weight^T + bias), with out_scale where out is in fp8. */
static int multiply(Pass *p, const CvTensor *out, const CvTensor *out_scale,
                    const Input *in, const CvDitLinear *linear,
                    CvEpilogue epilogue)
{
    return cv_linear(p->b, &(CvLinear){
        .out = out, .out_scale = out_scale, .x = &in->x,
        .x_scale = scale_of(in), .weight = &linear->matrix.weight,
        .scale = &linear->matrix.scale, .bias = &linear->bias,
        .epilogue = epilogue });
}

/* x += in * weight^T + bias, that times a row of the modulation unless gate_row
 * is negative. */
static int add_product(Pass *p, const Input *in, const CvDitLinear *linear,
                       int gate_row)
{
    const int gated = gate_row >= 0;

    return cv_linear(p->b, &(CvLinear){
        .out = &p->x, .x = &in->x, .x_scale = scale_of(in),
        .weight = &linear->matrix.weight, .scale = &linear->matrix.scale,
        .bias = &linear->bias, .other = &p->x, .mod = gated ? &p->mod : NULL,
        .epilogue = gated ? CV_EPI_GATE_ADD : CV_EPI_ADD,
        .gate_row = gated ? gate_row : 0 });
}

static int take_buffers(Pass *p)
{
    const CvDitSize *size = &p->dit->size;
    CvType act = p->b->activation;
    int err = 0;

    p->x = CV_TENSOR(NULL, CV_F32, p->n, size->dim);
    p->q = CV_TENSOR(NULL, act, p->n, size->heads, p->dit->head_dim);
    p->e = CV_TENSOR(NULL, CV_F32, 1, size->dim);
    p->e0 = CV_TENSOR(NULL, CV_F32, 1, 6, size->dim);
    p->mod = CV_TENSOR(NULL, CV_F32, 1, 6, size->dim);
    p->rope = CV_TENSOR(NULL, CV_F32, p->n, p->dit->head_dim / 2, 2);
    take(p, &err, &p->x);
    take(p, &err, &p->q);
    take(p, &err, &p->e);
    take(p, &err, &p->e0);
    take(p, &err, &p->mod);
    take(p, &err, &p->rope);
    return err;
}

/* e and e0 of the timestep. */
static int embed_time(Pass *p, double timestep)
{
    const CvDit *dit = p->dit;
    const CvDitSize *size = &dit->size;
    size_t mark = cv_arena_mark(p->run->arena);
    float host = (float)timestep;
    CvType act = p->b->activation;
    CvTensor t = CV_TENSOR(NULL, CV_F32, 1);
    CvTensor wave = CV_TENSOR(NULL, CV_F32, 1, size->freq_dim);
    CvTensor wave_a = CV_TENSOR(NULL, act, 1, size->freq_dim);
    CvTensor hidden = CV_TENSOR(NULL, act, 1, size->dim);
    CvTensor silu = CV_TENSOR(NULL, CV_F32, 1, size->dim);
    CvTensor e0 = CV_RESHAPE(p->e0, 1, 6 * size->dim);
    int err = 0;

    take(p, &err, &t);
    take(p, &err, &wave);
    take(p, &err, &wave_a);
    take(p, &err, &hidden);
    take(p, &err, &silu);
    if (!err)
        err = cv_upload(p->b, &t, &host, CV_F32);
    if (!err)
        err = cv_timestep_embedding(p->b, &wave, &t);
    if (!err)
        err = cv_convert(p->b, &wave_a, &wave);
    if (!err)
        err = cv_dit_linear(p->b, &hidden, &wave_a, &dit->time_0, CV_EPI_SILU);
    if (!err)
        err = cv_dit_linear(p->b, &p->e, &hidden, &dit->time_2, CV_EPI_NONE);
    if (!err)
        err = cv_silu(p->b, &silu, &p->e);
    if (!err)
        err = cv_convert(p->b, &hidden, &silu);
    if (!err)
        err = cv_dit_linear(p->b, &e0, &hidden, &dit->time_projection,
                            CV_EPI_NONE);
    cv_arena_release(p->run->arena, mark);
    return err;
}

static int embed_patches(Pass *p, const CvTensor *latents)
{
    size_t mark = cv_arena_mark(p->run->arena);
    CvTensor patches = CV_TENSOR(NULL, p->b->activation, p->n,
                                 p->dit->size.in_channels * 4);
    int err = 0;

    take(p, &err, &patches);
    if (!err)
        err = cv_patchify(p->b, &patches, latents);
    if (!err)
        err = cv_dit_linear(p->b, &p->x, &patches, &p->dit->patch,
                            CV_EPI_NONE);
    cv_arena_release(p->run->arena, mark);
    return err;
}

/* A layer's keys and values: k and v, or the ring where the backend has a form
 * of its own for them. */
typedef struct Cache {
    CvTensor k, v;
    CvRing ring;
} Cache;

static Cache cache_of(const CvDitState *state, int64_t layer)
{
    const int64_t rows = state->cache_k.dim[1];
    const int64_t at = state->cache_k.dim[0] > 1 ? layer : 0;
    Cache c = { .ring = state->ring };

    if (state->ring.data.data) {
        c.ring.data = cv_dit_layer_rows(&state->ring.data, layer,
                                        state->ring.data.dim[1]);
        return c;
    }
    c.k = cv_dit_layer_rows(&state->cache_k, at, rows);
    c.v = cv_dit_layer_rows(&state->cache_v, at, rows);
    return c;
}

/* q, and the block's keys and values into the cache. largest: of the values, or
 * NULL; it begins anew with the first rows of a cache that has none. */
static int write_cache(Pass *p, const CvDitLayer *layer, const Cache *c,
                       const CvTensor *largest)
{
    const int own = c->ring.data.data != NULL;
    const int alone = p->row == 0 && p->keys <= p->state->ring.tokens;
    const CvDit *dit = p->dit;
    size_t mark = cv_arena_mark(p->run->arena);
    CvTensor qkv = CV_TENSOR(NULL, p->b->activation, p->n, 3 * dit->size.dim);
    Input in;
    int err = take_input(p, &in, &layer->qkv, is_narrow(p, &layer->qkv));

    take(p, &err, &qkv);
    if (!err)
        err = cv_norm_modulate(p->b, &in.x, scale_of(&in), &p->x, &p->mod,
                               SHIFT_SELF, SCALE_SELF, dit->eps);
    if (!err)
        err = multiply(p, &qkv, NULL, &in, &layer->qkv, CV_EPI_NONE);
    if (!err && largest && alone)
        err = cv_zero(p->b, largest);
    if (!err)
        err = cv_qk_norm_rope(p->b, &(CvQkNormRope){
            .out_q = &p->q, .cache_k = own ? NULL : &c->k,
            .cache_v = own ? NULL : &c->v, .row = p->row, .qkv = &qkv,
            .norm_q = &layer->self_norm_q, .norm_k = &layer->self_norm_k,
            .rope = &p->rope, .largest = largest, .eps = dit->eps,
            .ring = own ? &c->ring : NULL, .alone = alone });
    cv_arena_release(p->run->arena, mark);
    return err;
}

/* Attention of p->q over what `a` has, projected by `o` and added to x; gated by
 * a row of the modulation unless gate_row is negative. */
static int attend(Pass *p, CvAttention a, const CvDitLinear *o, int gate_row)
{
    const CvDit *dit = p->dit;
    const int narrow = is_narrow(p, o), direct = narrow && a.largest;
    size_t mark = cv_arena_mark(p->run->arena);
    CvTensor seen = CV_TENSOR(NULL, p->b->activation, p->n, dit->size.heads,
                              dit->head_dim);
    CvTensor rows;
    Input in;
    int err = take_input(p, &in, o, narrow);

    if (narrow && !direct)
        take(p, &err, &seen);
    else
        seen.data = in.x.data;
    a.out       = direct ? &in.x : &seen;
    a.out_scale = direct ? &in.scale : NULL;
    a.q         = &p->q;
    a.scale     = (float)(1 / sqrt((double)dit->head_dim));
    if (!err)
        err = cv_attention(p->b, &a);
    /* A factor is one of a row, of which attention has a head at a time: it
     * makes fp8 by itself only where a bound is known. */
    rows = CV_RESHAPE(seen, p->n, dit->size.dim);
    if (!err && narrow && !direct)
        err = cv_quantise(p->b, &in.x, &in.scale, &rows);
    if (!err)
        err = add_product(p, &in, o, gate_row);
    cv_arena_release(p->run->arena, mark);
    return err;
}

static int cross_attention(Pass *p, const CvDitLayer *layer, int64_t i)
{
    const CvDit *dit = p->dit;
    const CvDitState *state = p->state;
    CvTensor k = cv_dit_layer_rows(&state->text_k, i, state->text_rows);
    CvTensor v = cv_dit_layer_rows(&state->text_v, i, state->text_rows);
    CvTensor q = CV_RESHAPE(p->q, p->n, dit->size.dim);
    size_t mark = cv_arena_mark(p->run->arena);
    CvTensor largest;
    Input in;
    int err = take_input(p, &in, &layer->cross_q,
                         is_narrow(p, &layer->cross_q));

    if (!err && dit->cross_norm)
        err = cv_layer_norm(p->b, &in.x, scale_of(&in), &p->x, &layer->norm3,
                            &layer->norm3_bias, dit->eps);
    else if (!err && scale_of(&in))
        err = cv_quantise(p->b, &in.x, &in.scale, &p->x);
    else if (!err)
        err = cv_convert(p->b, &in.x, &p->x);
    if (!err)
        err = multiply(p, &q, NULL, &in, &layer->cross_q, CV_EPI_NONE);
    cv_arena_release(p->run->arena, mark);
    if (!err)
        err = cv_rms_norm(p->b, &q, &q, &layer->cross_norm_q, dit->eps);
    if (!err)
        err = attend(p, (CvAttention){ .k = &k, .v = &v, .last_repeats =
                     state->text_repeats, .largest = cv_dit_largest(state,
                     dit->size.layers + i, &largest) }, &layer->cross_o, -1);
    return err;
}

static int feed_forward(Pass *p, const CvDitLayer *layer)
{
    size_t mark = cv_arena_mark(p->run->arena);
    Input in, hidden;
    const int narrow = is_narrow(p, &layer->ffn_up);
    int err = take_input(p, &in, &layer->ffn_up, narrow);

    if (!err) /* fp8 only comes out where fp8 goes in */
        err = take_input(p, &hidden, &layer->ffn_down,
                         narrow && is_narrow(p, &layer->ffn_down));
    if (!err)
        err = cv_norm_modulate(p->b, &in.x, scale_of(&in), &p->x, &p->mod,
                               SHIFT_FFN, SCALE_FFN, p->dit->eps);
    if (!err)
        err = multiply(p, &hidden.x, scale_of(&hidden), &in, &layer->ffn_up,
                       CV_EPI_GELU);
    if (!err)
        err = add_product(p, &hidden, &layer->ffn_down, GATE_FFN);
    cv_arena_release(p->run->arena, mark);
    return err;
}

/* kv_only: stop once the keys and values are in the cache. */
static int run_layer(Pass *p, const CvDitLayer *layer, int64_t i, int kv_only)
{
    const int64_t step = part_rows(p);
    const Cache c = cache_of(p->state, i);
    CvTensor k, v, largest;
    CvAttention self = { .last_repeats = 1, .largest =
                         cv_dit_largest(p->state, i, &largest) };
    int err;

    err = cv_modulation(p->b, &p->mod, &layer->modulation, &p->e0);
    for (int64_t first = 0; first < p->n && !err; first += step) {
        Pass part = part_of(p, first, step < p->n - first ? step : p->n - first);

        err = write_cache(&part, layer, &c, self.largest);
    }
    if (err || kv_only)
        return err;
    if (c.ring.data.data) {
        self.ring = &c.ring;
        self.keys = p->keys;
    } else {
        k = cv_rows(&c.k, 0, p->keys);
        v = cv_rows(&c.v, 0, p->keys);
        self.k = &k;
        self.v = &v;
    }
    err = attend(p, self, &layer->self_o, GATE_SELF);
    if (!err)
        err = cross_attention(p, layer, i);
    for (int64_t first = 0; first < p->n && !err; first += step) {
        Pass part = part_of(p, first, step < p->n - first ? step : p->n - first);

        err = feed_forward(&part, layer);
    }
    return err;
}

static int run_head(Pass *p, const CvTensor *flow)
{
    const CvDit *dit = p->dit;
    size_t mark = cv_arena_mark(p->run->arena);
    CvTensor mod = CV_TENSOR(NULL, CV_F32, 1, 2, dit->size.dim);
    CvTensor out = CV_TENSOR(NULL, CV_F32, p->n, 4 * dit->size.out_channels);
    CvTensor norm = CV_TENSOR(NULL, p->b->activation, p->n, dit->size.dim);
    int err = 0;

    take(p, &err, &norm);
    take(p, &err, &mod);
    take(p, &err, &out);
    if (!err)
        err = cv_modulation(p->b, &mod, &dit->head_modulation, &p->e);
    if (!err)
        err = cv_norm_modulate(p->b, &norm, NULL, &p->x, &mod, 0, 1,
                               dit->eps);
    if (!err)
        err = cv_dit_linear(p->b, &out, &norm, &dit->head, CV_EPI_NONE);
    if (!err)
        err = cv_unpatchify(p->b, flow, &out);
    cv_arena_release(p->run->arena, mark);
    return err;
}

/* Where the block lies in the ring. */
static int place_block(Pass *p, const CvTensor *x, int64_t block)
{
    const CvDitState *state = p->state;
    int64_t frame_tokens = (int64_t)(state->h / 2) * (state->w / 2);
    int64_t block_tokens = frame_tokens * state->block_frames;
    int64_t slot = block % state->slots;
    int64_t filled = block < state->slots ? block + 1 : state->slots;
    int64_t frames = x->dim[0];

    if (x->n_dims != 4 || x->dim[2] != state->h || x->dim[3] != state->w ||
        frames < 1 || frames > state->block_frames || block < 0) {
        char text[CV_SHAPE_TEXT];
        return cv_fail(p->run->log, EINVAL, "transformer: input %s for block "
                       "%lld does not fit a state of %d frames of %dx%d",
                       cv_shape_text(text, x), (long long)block,
                       state->block_frames, state->h, state->w);
    }
    /* A short block leaves rows of its slot unwritten. They must not be seen,
     * so it has to be the last of the filled ones. */
    if (frames < state->block_frames && slot + 1 != filled)
        return cv_fail(p->run->log, EINVAL, "transformer: block %lld has %lld "
                       "of %d frames, which a ring that went round cannot "
                       "hold; generate whole blocks and drop frames",
                       (long long)block, (long long)frames,
                       state->block_frames);
    if (state->text_rows < 1)
        return cv_fail(p->run->log, EINVAL,
                       "transformer: no text was set before the first pass");
    p->n = frames * frame_tokens;
    p->row = slot * block_tokens;
    p->keys = slot + 1 == filled ? p->row + p->n : filled * block_tokens;
    return 0;
}

/* Layers that a device is given as one (ops.h). With all of them a device that
 * waits would go on waiting while a whole pass is asked for. */
enum { BATCH = 5 };

/* In front of layer i, and behind it or where it failed. Where layers are
 * loaded meanwhile there are no batches. */
static int begin_batch(const Pass *p, int64_t i)
{
    return i % BATCH || p->dit->resident < p->dit->size.layers
        ? 0 : cv_batch(p->b, 1);
}

static int end_batch(const Pass *p, int64_t i, int err)
{
    const int64_t n = p->dit->size.layers;
    const int ends = err || (i + 1) % BATCH == 0 || i + 1 == n;
    const int off = ends && p->dit->resident == n ? cv_batch(p->b, 0) : 0;

    return err ? err : off;
}

/* All layers; the next one's weights are got while one runs. */
static int run_layers(Pass *p, int kv_only)
{
    const int64_t n = p->dit->size.layers;
    CvDitLayer layers[2];
    CvArena slots[2] = { { 0 } };
    int err = cv_dit_take_slots(p->dit, p->run, slots);

    if (!err)
        err = cv_dit_mark(p->dit, 0);
    if (!err)
        err = cv_dit_get_layer(p->dit, &slots[0], 0, &layers[0]);
    for (int64_t i = 0; i < n && !err; i++) {
        err = cv_aborted(p->run->log);
        if (!err)
            err = cv_dit_mark(p->dit, i + 1);
        if (!err)
            err = begin_batch(p, i);
        if (!err)
            err = run_layer(p, &layers[i % 2], i, kv_only && i == n - 1);
        err = end_batch(p, i, err);
        if (!err && i + 1 < n)
            err = cv_dit_get_layer(p->dit, &slots[(i + 1) % 2], i + 1,
                                   &layers[(i + 1) % 2]);
    }
    return err;
}

int cv_dit_forward(CvDit *dit, CvRun *run, CvDitState *state,
                   const CvTensor *flow, const CvTensor *x, double timestep,
                   int64_t block)
{
    Pass p = { .dit = dit, .run = run, .b = run->backend, .state = state };
    size_t mark = cv_arena_mark(run->arena);
    int err;

    err = place_block(&p, x, block);
    if (err)
        return err;
    /* With one slot no pass sees what another one left behind. */
    if (!flow && state->slots == 1)
        return 0;
    err = take_buffers(&p);
    if (!err)
        err = embed_time(&p, timestep);
    if (!err)
        err = cv_rope_table(p.b, &p.rope, block * state->block_frames,
                            (int)x->dim[0], state->h / 2, state->w / 2);
    if (!err)
        err = embed_patches(&p, x);
    if (!err)
        err = run_layers(&p, !flow);
    if (dit->resident < dit->size.layers)
        err = cv_load_end(&dit->loader, err);
    if (!err && flow)
        err = run_head(&p, flow);
    cv_arena_release(run->arena, mark);
    return err;
}
