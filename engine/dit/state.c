/*
 * What the transformer's attention remembers: the ring of keys and values of
 * earlier blocks, and those of the prompt.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#include "internal.h"

int cv_dit_state(CvDitState *state, const CvDit *dit, CvRun *run, int h, int w,
                 int block_frames, int slots)
{
    const CvDitSize *size = &dit->size;
    CvType act = run->backend->activation;
    int64_t tokens, rows, layers, own;
    int err;

    *state = (CvDitState){ .dit = dit, .h = h, .w = w,
                           .block_frames = block_frames, .slots = slots };
    if (h < 2 || w < 2 || h % 2 || w % 2 || block_frames < 1 || slots < 1)
        return cv_fail(run->log, EINVAL, "transformer: no state for %d blocks "
                       "of %d latent frames of %dx%d: the sides must be even",
                       slots, block_frames, w, h);
    if (cv_mul_size((int64_t)(h / 2) * (w / 2), block_frames, &tokens) ||
        cv_mul_size(tokens, slots, &rows))
        return cv_fail(run->log, EINVAL, "transformer: %d blocks of %d latent "
                       "frames of %dx%d are too many tokens", slots,
                       block_frames, w, h);
    state->ring = (CvRing){ .slots = slots, .tokens = tokens,
                            .heads = size->heads, .d = dit->head_dim };
    own = slots > 1 ? cv_ring_bytes(run->backend, &state->ring) : 0;
    /* With one slot nothing is read again by a later pass, so all layers use
     * the same room one after the other. */
    layers = slots > 1 ? size->layers : 1;
    state->cache_k = CV_TENSOR(NULL, act, layers, rows, size->heads,
                               dit->head_dim);
    state->cache_v = state->cache_k;
    state->text_k = CV_TENSOR(NULL, act, size->layers, CV_DIT_TEXT_ROWS,
                              size->heads, dit->head_dim);
    state->text_v = state->text_k;
    if (run->backend->product_heads == dit->head_dim) {
        state->largest = CV_TENSOR(NULL, CV_F32, 2 * size->layers);
        if ((err = cv_arena_tensor(run->arena, &state->largest)) < 0)
            return err;
    }
    if (own) {
        state->ring.data = CV_TENSOR(NULL, CV_U8, layers, own);
        err = cv_arena_tensor(run->arena, &state->ring.data);
        if (!err)
            err = cv_zero(run->backend, &state->ring.data);
    } else {
        err = cv_arena_tensor(run->arena, &state->cache_k);
        if (!err)
            err = cv_arena_tensor(run->arena, &state->cache_v);
    }
    if (!err)
        err = cv_arena_tensor(run->arena, &state->text_k);
    if (!err)
        err = cv_arena_tensor(run->arena, &state->text_v);
    return err;
}

size_t cv_dit_slot_bytes(const CvDitState *state)
{
    const CvTensor *own = &state->ring.data;
    int64_t bytes = own->data ? cv_tensor_bytes(own)
                              : 2 * cv_tensor_bytes(&state->cache_k);

    return bytes < 0 ? 0 : (size_t)bytes / (size_t)state->slots;
}

/* The text MLP: rows of out, A [rows, dim]. */
static int embed_text(const CvDit *dit, CvRun *run, const CvTensor *out,
                      const CvTensor *text)
{
    const CvDitSize *size = &dit->size;
    CvBackend *b = run->backend;
    int64_t n = text->dim[0], rows = out->dim[0];
    size_t mark = cv_arena_mark(run->arena);
    CvTensor padded = CV_TENSOR(NULL, b->activation, rows, size->text_dim);
    CvTensor hidden = CV_TENSOR(NULL, b->activation, rows, size->dim);
    CvDitText weights;
    CvTensor part;
    int err;

    err = cv_arena_tensor(run->arena, &padded);
    if (!err)
        err = cv_arena_tensor(run->arena, &hidden);
    if (!err)
        err = cv_dit_get_text(dit, run, &weights);
    if (err)
        goto end;
    part = cv_rows(&padded, 0, n);
    err = cv_convert(b, &part, text);
    if (!err && rows > n) {
        part = cv_rows(&padded, n, rows - n);
        err = cv_zero(b, &part);
    }
    if (!err)
        err = cv_dit_linear(b, &hidden, &padded, &weights.mlp_0, CV_EPI_GELU);
    if (!err)
        err = cv_dit_linear(b, out, &hidden, &weights.mlp_2, CV_EPI_NONE);
end:
    cv_arena_release(run->arena, mark);
    return err;
}

/* A layer's keys and values of the prompt. */
static int set_layer(const CvDit *dit, CvRun *run, const CvDitState *state,
                     int64_t number, const CvTensor *context)
{
    CvBackend *b = run->backend;
    const int64_t rows = context->dim[0], dim = dit->size.dim;
    size_t mark = cv_arena_mark(run->arena);
    CvTensor k = cv_dit_layer_rows(&state->text_k, number, rows);
    CvTensor v = cv_dit_layer_rows(&state->text_v, number, rows);
    CvTensor one;
    const CvTensor *largest = cv_dit_largest(state, dit->size.layers + number,
                                             &one);
    CvDitTextLayer layer;
    int err = cv_dit_get_text_layer(dit, run, number, &layer);

    k = CV_RESHAPE(k, rows, dim);
    v = CV_RESHAPE(v, rows, dim);
    if (!err)
        err = cv_dit_linear(b, &k, context, &layer.k, CV_EPI_NONE);
    if (!err)
        err = cv_rms_norm(b, &k, &k, &layer.norm_k, dit->eps);
    if (!err)
        err = cv_dit_linear(b, &v, context, &layer.v, CV_EPI_NONE);
    if (!err && largest)
        err = cv_zero(b, largest);
    if (!err && largest)
        err = cv_largest(b, largest, &v);
    cv_arena_release(run->arena, mark);
    return err;
}

int cv_dit_set_text(CvDit *dit, CvRun *run, CvDitState *state,
                    const CvTensor *text)
{
    const CvDitSize *size = &dit->size;
    size_t mark = cv_arena_mark(run->arena);
    int64_t n = text->dim[0];
    int64_t rows = n < CV_DIT_TEXT_ROWS ? n + 1 : n;
    CvTensor context = CV_TENSOR(NULL, run->backend->activation, rows,
                                 size->dim);
    int err;

    if (text->n_dims != 2 || n < 1 || n > CV_DIT_TEXT_ROWS ||
        text->dim[1] != size->text_dim) {
        char shape[CV_SHAPE_TEXT];
        return cv_fail(run->log, EINVAL, "transformer: text embeddings %s, "
                       "expected 1 to %d rows of %lld: text encoder and "
                       "transformer do not belong together",
                       cv_shape_text(shape, text), CV_DIT_TEXT_ROWS,
                       (long long)size->text_dim);
    }
    err = cv_arena_tensor(run->arena, &context);
    if (!err)
        err = embed_text(dit, run, &context, text);
    for (int64_t i = 0; i < size->layers && !err; i++) {
        err = cv_aborted(run->log);
        if (!err)
            err = set_layer(dit, run, state, i, &context);
    }
    if (dit->text_streamed)
        err = cv_load_end(&dit->loader, err);
    cv_arena_release(run->arena, mark);
    if (err)
        return err;
    /* All padding rows leave the MLP alike: one row stands for them. */
    state->text_rows = rows;
    state->text_repeats = CV_DIT_TEXT_ROWS - rows + 1;
    return 0;
}
