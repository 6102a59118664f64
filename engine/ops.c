/*
 * Checked calls of the operation table.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * Shapes and types are checked here, once for every backend, also while a plan
 * is made: a network that passes its plan cannot hand a backend a wrong shape.
 */
#include <string.h>

#include "ops.h"

/* Stop with EINVAL naming the operation and the condition that failed. */
#define CHECK(condition)                                                   \
    do {                                                                   \
        if (!(condition))                                                  \
            return cv_fail(b->log, EINVAL, "internal error: %s: expected " \
                           "%s", __func__, #condition);                    \
    } while (0)

#define RUN(call) return b->planning ? 0 : b->ops->call

static int is(const CvTensor *t, CvType type, int n_dims)
{
    return t && t->data && t->type == type && t->n_dims == n_dims;
}

static int is_vector(const CvTensor *t, int64_t n)
{
    return is(t, CV_F32, 1) && t->dim[0] == n;
}

/* A or float32 */
static int is_real(const CvBackend *b, const CvTensor *t)
{
    return t && t->data && (t->type == b->activation || t->type == CV_F32);
}

static int same_dims(const CvTensor *a, const CvTensor *b)
{
    if (a->n_dims != b->n_dims)
        return 0;
    for (int i = 0; i < a->n_dims; i++)
        if (a->dim[i] != b->dim[i])
            return 0;
    return 1;
}

/* W, or fp8 with a factor for each row */
static int is_matrix(const CvBackend *b, const CvTensor *t,
                     const CvTensor *scale)
{
    if (!scale || !scale->data)
        return is(t, b->weight, 2);
    return b->fp8 && cv_type_is_fp8(t->type) && is(t, t->type, 2) &&
           is_vector(scale, t->dim[0]);
}

/* P with a factor for each row */
static int is_product(const CvBackend *b, const CvTensor *t,
                      const CvTensor *scale)
{
    return b->product != b->activation && is(t, b->product, 2) && scale &&
           is_vector(scale, t->dim[0]);
}

/* A, or P with its factors */
static int is_input(const CvBackend *b, const CvTensor *t,
                    const CvTensor *scale)
{
    return (!scale && is(t, b->activation, 2)) || is_product(b, t, scale);
}

/* In the backend's own form, for these heads? */
static int is_ring(CvBackend *b, const CvRing *ring, const CvTensor *q)
{
    return is(&ring->data, CV_U8, 1) && ring->data.dim[0] > 0 &&
           ring->data.dim[0] == cv_ring_bytes(b, ring) &&
           ring->heads == q->dim[1] && ring->d == q->dim[2];
}

static int64_t last_dim(const CvTensor *t)
{
    return t->n_dims ? t->dim[t->n_dims - 1] : 1;
}

/* ---- memory ---- */

int cv_upload_from(CvBackend *b, const CvTensor *dst, const CvSource *src,
                   CvType type, const void *tag)
{
    CHECK(dst->data && src);
    CHECK((dst->type == CV_I32) == (type == CV_I32));
    CHECK(cv_elements(dst) % cv_type_block(type) == 0);
    CHECK(!cv_type_is_fp8(dst->type) || (b->fp8 && dst->type == type));
    RUN(upload)(b, dst, src, type, tag);
}

typedef struct Array {
    const uint8_t *data;
    CvType type;
} Array;

static int read_array(void *arg, void *to, int64_t first, int64_t n)
{
    const Array *a = arg;
    const int block = cv_type_block(a->type);
    const size_t size = cv_type_bytes(a->type);

    memcpy(to, a->data + (size_t)(first / block) * size,
           (size_t)(n / block) * size);
    return 0;
}

int cv_upload_tagged(CvBackend *b, const CvTensor *dst, const void *src,
                     CvType type, const void *tag)
{
    Array array = { src, type };
    const CvSource source = { read_array, &array };

    CHECK(src);
    return cv_upload_from(b, dst, &source, type, tag);
}

int cv_upload(CvBackend *b, const CvTensor *dst, const void *src, CvType type)
{
    return cv_upload_tagged(b, dst, src, type, NULL);
}

int cv_mark(CvBackend *b)
{
    return b->ops->mark && !b->planning ? b->ops->mark(b) : 0;
}

int cv_ahead(CvBackend *b, int on)
{
    return b->ops->ahead && !b->planning ? b->ops->ahead(b, on) : 0;
}

int cv_batch(CvBackend *b, int on)
{
    return b->ops->batch && !b->planning ? b->ops->batch(b, on) : 0;
}

int cv_uploaded(CvBackend *b, const void **bad)
{
    *bad = NULL;
    RUN(uploaded)(b, bad);
}

int cv_download(CvBackend *b, float *dst, const CvTensor *src)
{
    CHECK(is_real(b, src));
    RUN(download)(b, dst, src);
}

int cv_zero(CvBackend *b, const CvTensor *t)
{
    CHECK(t->data);
    RUN(zero)(b, t);
}

int cv_copy(CvBackend *b, const CvTensor *dst, const CvTensor *src)
{
    CHECK(dst->data && src->data && dst->type == src->type);
    CHECK(cv_elements(dst) == cv_elements(src));
    RUN(copy)(b, dst, src);
}

int cv_random(CvBackend *b, const CvTensor *dst, uint64_t seed, float scale)
{
    CHECK(is_real(b, dst) ||
          (dst->data && (dst->type == b->weight ||
                         (b->fp8 && dst->type == CV_F8_E4M3))));
    CHECK(scale > 0 && scale < 1e30f);
    RUN(random)(b, dst, seed, scale);
}

int cv_finish(CvBackend *b)
{
    RUN(finish)(b);
}

int cv_memory(CvBackend *b, CvMemory *memory)
{
    *memory = (CvMemory){ .room = INT64_MAX, .budget = INT64_MAX };
    RUN(memory)(b, memory);
}

int cv_check(CvBackend *b, const CvTensor *t, float *largest)
{
    CHECK(is_real(b, t) && cv_elements(t) >= 0);
    *largest = 0;
    RUN(check)(b, t, largest);
}

int cv_largest(CvBackend *b, const CvTensor *largest, const CvTensor *x)
{
    CHECK(is_vector(largest, 1) && is_real(b, x) && cv_elements(x) >= 0);
    RUN(largest)(b, largest, x);
}

/* Also while planning: a plan is made on the same thread as the run. */
int cv_enter(CvBackend *b)
{
    return b ? b->ops->enter(b) : 0;
}

void cv_leave(CvBackend *b)
{
    if (b)
        b->ops->leave(b);
}

/* ---- shared ---- */

int cv_linear(CvBackend *b, const CvLinear *a)
{
    const CvTensor *out = a->out, *x = a->x, *w = a->weight;

    CHECK(is_input(b, x, a->x_scale) && is_matrix(b, w, a->scale));
    CHECK(!a->x_scale || w->type == b->product);
    if (a->out_scale) {
        CHECK(is_product(b, out, a->out_scale) && a->x_scale);
        CHECK(a->epilogue <= CV_EPI_GELU);
        CHECK(!a->bias || a->bias->type == b->activation);
    } else {
        CHECK(is_real(b, out) && out->n_dims == 2);
    }
    CHECK(x->dim[0] == out->dim[0]);
    CHECK(x->dim[1] == w->dim[1] && out->dim[1] == w->dim[0]);
    CHECK(!a->bias || (is_real(b, a->bias) && a->bias->n_dims == 1 &&
                       a->bias->dim[0] == out->dim[1]));
    CHECK(out->data != x->data);
    if (a->epilogue >= CV_EPI_MUL) {
        CHECK(a->other && a->other->data && cv_same_shape(a->other, out));
    }
    if (a->epilogue == CV_EPI_GATE_ADD) {
        CHECK(is(a->mod, CV_F32, 3) && a->mod->dim[2] == out->dim[1]);
        CHECK(a->gate_row >= 0 && a->gate_row < a->mod->dim[1]);
        CHECK(a->mod->dim[0] > 0 && out->dim[0] % a->mod->dim[0] == 0);
    }
    RUN(linear)(b, a);
}

int cv_attention(CvBackend *b, const CvAttention *a)
{
    const CvTensor *q = a->q, *k = a->k, *v = a->v;

    CHECK(is(q, b->activation, 3));
    if (a->out_scale) {
        CHECK(q->dim[2] == b->product_heads && !a->bias && a->scale > 0);
        CHECK(is_product(b, a->out, a->out_scale) && a->largest);
        CHECK(is_vector(a->largest, 1) && a->out->dim[0] == q->dim[0]);
        CHECK(a->out->dim[1] == q->dim[1] * q->dim[2]);
    } else {
        CHECK(is(a->out, b->activation, 3) && same_dims(q, a->out));
    }
    if (a->ring) {
        CHECK(!k && !v && is_ring(b, a->ring, q));
        CHECK(a->keys > 0 && a->keys <= a->ring->slots * a->ring->tokens);
        CHECK(!a->bias && a->scale > 0 && a->last_repeats == 1);
        RUN(attention)(b, a);
    }
    CHECK(is(k, b->activation, 3) && is(v, b->activation, 3));
    CHECK(same_dims(k, v));
    CHECK(q->dim[1] == k->dim[1] && q->dim[2] == k->dim[2]);
    CHECK(k->dim[0] > 0 && a->last_repeats >= 1);
    CHECK(!a->bias || (is(a->bias, CV_F32, 3) &&
                       a->bias->dim[0] == q->dim[1] &&
                       a->bias->dim[1] == q->dim[0] &&
                       a->bias->dim[2] == k->dim[0]));
    RUN(attention)(b, a);
}

int cv_add_product(CvBackend *b, const CvTensor *out, const CvTensor *left,
                   const CvTensor *right, float scale)
{
    CHECK(is(out, CV_F32, 2) && is(left, CV_F32, 2) && is(right, CV_F32, 2));
    CHECK(left->dim[0] == out->dim[0] && right->dim[1] == out->dim[1]);
    CHECK(left->dim[1] == right->dim[0]);
    CHECK(out->data != left->data && out->data != right->data);
    RUN(add_product)(b, out, left, right, scale);
}

int cv_quantise(CvBackend *b, const CvTensor *out, const CvTensor *scale,
                const CvTensor *x)
{
    if (x->type == CV_F32)
        CHECK(is_matrix(b, out, scale) && cv_type_is_fp8(out->type));
    else
        CHECK(is_product(b, out, scale));
    CHECK(is_real(b, x) && x->n_dims == 2 && same_dims(x, out));
    RUN(quantise)(b, out, scale, x);
}

int cv_scale_rows(CvBackend *b, const CvTensor *x, const CvTensor *scale)
{
    CHECK(b->fp8 && is(x, CV_F32, 2) && is_vector(scale, x->dim[0]));
    RUN(scale_rows)(b, x, scale);
}

int cv_rms_norm(CvBackend *b, const CvTensor *out, const CvTensor *x,
                const CvTensor *weight, float eps)
{
    CHECK(is_real(b, x) && is(out, b->activation, 2) && same_dims(x, out));
    CHECK(is_vector(weight, x->dim[1]));
    RUN(rms_norm)(b, out, x, weight, eps);
}

int cv_silu(CvBackend *b, const CvTensor *out, const CvTensor *x)
{
    CHECK(x->data && out->data && x->type == CV_F32 && out->type == CV_F32);
    CHECK(same_dims(x, out));
    RUN(silu)(b, out, x);
}

/* ---- text ---- */

int cv_embed(CvBackend *b, const CvTensor *out, const CvTensor *table,
             const CvTensor *scale, const CvTensor *ids)
{
    CHECK(is(out, CV_F32, 2) && is_matrix(b, table, scale));
    CHECK(is(ids, CV_I32, 1));
    CHECK(out->dim[0] == ids->dim[0] && out->dim[1] == table->dim[1]);
    RUN(embed)(b, out, table, scale, ids);
}

int cv_t5_bias(CvBackend *b, const CvTensor *out, const CvTensor *table)
{
    CHECK(is(out, CV_F32, 3) && is(table, CV_F32, 2));
    CHECK(out->dim[0] == table->dim[1] && out->dim[1] == out->dim[2]);
    CHECK(table->dim[0] >= 4 && table->dim[0] % 4 == 0);
    RUN(t5_bias)(b, out, table);
}

/* ---- transformer ---- */

int cv_timestep_embedding(CvBackend *b, const CvTensor *out, const CvTensor *t)
{
    CHECK(is(out, CV_F32, 2) && is_vector(t, out->dim[0]));
    CHECK(out->dim[1] % 2 == 0);
    RUN(timestep_embedding)(b, out, t);
}

int cv_modulation(CvBackend *b, const CvTensor *out, const CvTensor *table,
                  const CvTensor *x)
{
    CHECK(is(out, CV_F32, 3) && is(table, CV_F32, 2));
    CHECK(is(x, CV_F32, 3) || is(x, CV_F32, 2));
    CHECK(table->dim[0] == out->dim[1] && table->dim[1] == out->dim[2]);
    CHECK(x->dim[0] == out->dim[0] && last_dim(x) == out->dim[2]);
    CHECK(x->n_dims == 2 || x->dim[1] == out->dim[1]);
    RUN(modulation)(b, out, table, x);
}

int cv_norm_modulate(CvBackend *b, const CvTensor *out,
                     const CvTensor *out_scale, const CvTensor *x,
                     const CvTensor *mod, int shift_row, int scale_row,
                     float eps)
{
    CHECK(is(x, CV_F32, 2) && is_input(b, out, out_scale));
    CHECK(same_dims(x, out));
    CHECK(is(mod, CV_F32, 3) && mod->dim[2] == x->dim[1]);
    CHECK(shift_row >= 0 && shift_row < mod->dim[1]);
    CHECK(scale_row >= 0 && scale_row < mod->dim[1]);
    CHECK(mod->dim[0] > 0 && x->dim[0] % mod->dim[0] == 0);
    RUN(norm_modulate)(b, out, out_scale, x, mod, shift_row, scale_row, eps);
}

int cv_layer_norm(CvBackend *b, const CvTensor *out, const CvTensor *out_scale,
                  const CvTensor *x, const CvTensor *weight,
                  const CvTensor *bias, float eps)
{
    CHECK(is(x, CV_F32, 2) && is_input(b, out, out_scale));
    CHECK(same_dims(x, out));
    CHECK(is_vector(weight, x->dim[1]) && is_vector(bias, x->dim[1]));
    RUN(layer_norm)(b, out, out_scale, x, weight, bias, eps);
}

int cv_rope_table(CvBackend *b, const CvTensor *out, int64_t first_frame,
                  int frames, int h, int w)
{
    CHECK(is(out, CV_F32, 3) && out->dim[2] == 2);
    CHECK(frames > 0 && h > 0 && w > 0 && first_frame >= 0);
    CHECK(out->dim[0] == (int64_t)frames * h * w);
    RUN(rope_table)(b, out, first_frame, frames, h, w);
}

int cv_qk_norm_rope(CvBackend *b, const CvQkNormRope *a)
{
    const CvTensor *q = a->out_q, *k = a->cache_k, *v = a->cache_v;

    CHECK(is(q, b->activation, 3) && a->row >= 0);
    if (a->ring) {
        CHECK(!k && !v && is_ring(b, a->ring, q));
        CHECK(a->row / a->ring->tokens < a->ring->slots);
        CHECK(a->row % a->ring->tokens % CV_RING_STEP == 0);
        CHECK(a->row % a->ring->tokens + q->dim[0] <= a->ring->tokens);
    } else {
        CHECK(is(k, b->activation, 3) && is(v, b->activation, 3));
        CHECK(same_dims(k, v) && a->row + q->dim[0] <= k->dim[0]);
        CHECK(q->dim[1] == k->dim[1] && q->dim[2] == k->dim[2]);
    }
    CHECK(is(a->qkv, b->activation, 2) && a->qkv->dim[0] == q->dim[0]);
    CHECK(a->qkv->dim[1] == 3 * q->dim[1] * q->dim[2]);
    CHECK(!a->largest || is_vector(a->largest, 1));
    CHECK(is_vector(a->norm_q, q->dim[1] * q->dim[2]));
    CHECK(is_vector(a->norm_k, q->dim[1] * q->dim[2]));
    CHECK(is(a->rope, CV_F32, 3) && a->rope->dim[0] == q->dim[0]);
    CHECK(a->rope->dim[1] * 2 == q->dim[2] && a->rope->dim[2] == 2);
    RUN(qk_norm_rope)(b, a);
}

int64_t cv_ring_bytes(CvBackend *b, const CvRing *ring)
{
    return b->ops->ring_bytes ? b->ops->ring_bytes(b, ring) : 0;
}

int cv_patchify(CvBackend *b, const CvTensor *out, const CvTensor *x)
{
    CHECK(is(x, CV_F32, 4) && is(out, b->activation, 2));
    CHECK(x->dim[2] % 2 == 0 && x->dim[3] % 2 == 0);
    CHECK(out->dim[0] == x->dim[0] * (x->dim[2] / 2) * (x->dim[3] / 2));
    CHECK(out->dim[1] == x->dim[1] * 4);
    RUN(patchify)(b, out, x);
}

int cv_unpatchify(CvBackend *b, const CvTensor *out, const CvTensor *x)
{
    CHECK(is(x, CV_F32, 2) && is(out, CV_F32, 4));
    CHECK(out->dim[2] % 2 == 0 && out->dim[3] % 2 == 0);
    CHECK(x->dim[0] == out->dim[0] * (out->dim[2] / 2) * (out->dim[3] / 2));
    CHECK(x->dim[1] == out->dim[1] * 4);
    RUN(unpatchify)(b, out, x);
}

/* ---- sampling ---- */

int cv_combine(CvBackend *b, const CvTensor *out, const CvTerm *terms,
               int n_terms)
{
    CHECK(out->data && out->type == CV_F32);
    CHECK(n_terms >= 1 && n_terms <= CV_MAX_TERMS);
    for (int i = 0; i < n_terms; i++) {
        CHECK(terms[i].tensor->data && terms[i].tensor->type == CV_F32);
        CHECK(cv_elements(terms[i].tensor) == cv_elements(out));
    }
    RUN(combine)(b, out, terms, n_terms);
}

/* ---- VAE ---- */

int cv_conv3d(CvBackend *b, const CvConv3d *a)
{
    const CvTensor *x = a->x, *w = a->weight, *out = a->out ? a->out : a->norm;
    int64_t p = a->history ? a->history->dim[0] : 0;

    CHECK(is(x, b->activation, 4) && is(w, b->weight, 5));
    CHECK(is(out, b->activation, 4) && out->data != x->data);
    CHECK(!a->history || (is(a->history, b->activation, 4) &&
                          a->history->dim[1] == x->dim[1] &&
                          a->history->dim[2] == x->dim[2] &&
                          a->history->dim[3] == x->dim[3]));
    CHECK(w->dim[4] == x->dim[3] && w->dim[0] == out->dim[3]);
    CHECK(!a->bias || is_vector(a->bias, out->dim[3]));
    CHECK(a->stride_t >= 1 && a->stride_s >= 1 && (a->up == 1 || a->up == 2));
    CHECK(a->pad_top >= 0 && a->pad_left >= 0);
    CHECK(a->pad_bottom >= 0 && a->pad_right >= 0);
    CHECK(p + x->dim[0] >= w->dim[1]);
    CHECK(out->dim[0] == (p + x->dim[0] - w->dim[1]) / a->stride_t + 1);
    CHECK(out->dim[1] == (a->up * x->dim[1] + a->pad_top + a->pad_bottom -
                          w->dim[2]) / a->stride_s + 1);
    CHECK(out->dim[2] == (a->up * x->dim[2] + a->pad_left + a->pad_right -
                          w->dim[3]) / a->stride_s + 1);
    CHECK(!a->add || (a->add->data && cv_same_shape(a->add, out)));
    CHECK(!a->norm || (a->norm->data && cv_same_shape(a->norm, out) &&
                       is_vector(a->gamma, out->dim[3])));
    CHECK(!a->norm || (a->norm->data != x->data &&
                       (!a->out || a->norm->data != a->out->data)));
    RUN(conv3d)(b, a);
}

int cv_norm_silu(CvBackend *b, const CvTensor *out, const CvTensor *x,
                 const CvTensor *gamma, int silu)
{
    CHECK(x->data && out->data && x->type == b->activation);
    CHECK(cv_same_shape(x, out) && is_vector(gamma, last_dim(x)));
    RUN(norm_silu)(b, out, x, gamma, silu);
}

int cv_soft_clamp(CvBackend *b, const CvTensor *out, const CvTensor *x,
                  float limit)
{
    CHECK(x->data && out->data && x->type == CV_F32 && out->type == CV_F32);
    CHECK(same_dims(x, out) && limit > 0);
    RUN(soft_clamp)(b, out, x, limit);
}

int cv_split_frames(CvBackend *b, const CvTensor *out, const CvTensor *x)
{
    CHECK(is(x, b->activation, 4) && is(out, b->activation, 4));
    CHECK(out->dim[0] == 2 * x->dim[0] && 2 * out->dim[3] == x->dim[3]);
    CHECK(out->dim[1] == x->dim[1] && out->dim[2] == x->dim[2]);
    CHECK(out->data != x->data);
    RUN(split_frames)(b, out, x);
}

int cv_to_channels_last(CvBackend *b, const CvTensor *out, const CvTensor *x,
                        const float *mul, const float *add)
{
    CHECK(is(x, CV_F32, 4) && is(out, b->activation, 4) && mul && add);
    CHECK(out->dim[0] == x->dim[0] && out->dim[1] == x->dim[2]);
    CHECK(out->dim[2] == x->dim[3] && out->dim[3] == x->dim[1]);
    RUN(to_channels_last)(b, out, x, mul, add);
}

int cv_to_channels_first(CvBackend *b, const CvTensor *out, const CvTensor *x,
                         const float *mul, const float *add)
{
    CHECK(is(x, b->activation, 4) && is(out, CV_F32, 4) && mul && add);
    CHECK(out->dim[0] == x->dim[0] && out->dim[2] == x->dim[1]);
    CHECK(out->dim[3] == x->dim[2] && out->dim[1] <= x->dim[3]);
    RUN(to_channels_first)(b, out, x, mul, add);
}

int cv_convert(CvBackend *b, const CvTensor *out, const CvTensor *x)
{
    CHECK(is_real(b, x) && is_real(b, out));
    CHECK(cv_elements(x) == cv_elements(out));
    RUN(convert)(b, out, x);
}

int cv_to_picture(CvBackend *b, const CvPictureArgs *a)
{
    CHECK(is(a->frame, CV_F32, 3) && a->frame->dim[2] == 3);
    CHECK(a->pic->height == a->frame->dim[0]);
    CHECK(a->pic->width == a->frame->dim[1]);
    RUN(to_picture)(b, a);
}

int cv_reuse_frames(CvBackend *b)
{
    RUN(reuse_frames)(b);
}
