/*
 * Keys and values that are kept in 8 bits (CvRing in ops.h).
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * Of each head its channels, its keys, its values and the scales of its groups,
 * as attention8.cuh says and attention8.cu reads them: so a pass makes its own
 * block's rows 8 bits and no others. A slot is filled up to whole groups.
 *
 * Means and factors of channels are chosen while one block is alone, which each
 * of its passes writes again, last of all the one of its clean latents: then
 * nothing in the ring is of another choice. Later blocks may differ as they
 * like, results stay right; but what a mean takes off that is none of theirs
 * costs them some of their 8 bits. So no mean is taken off the channels that turn
 * with the frame (rope_table), where that of a later block points anywhere.
 *
 * Bound by bytes. Predicted for an H200, a block of 4,680 tokens, 12 heads: keys
 * and values to 8 bits, 44 MB, of which keys are in L2: 22 us; queries 12 us.
 */
#include "attention8.cuh"
#include "vector.cuh"

/* Channels that turn with the frame: the first of a head. */
#define TURNING (CV8_DIM - 4 * (CV8_DIM / 6))

/* Where everything of a ring lies. */
static Cv8 find_ring(const CvRing *ring)
{
    Cv8 x = { (Cv8Channels *)ring->data.data, NULL, NULL, NULL, NULL, NULL, 0,
              (int)ring->heads, 0, (int)cv_ring8_stride(ring) };
    const size_t groups = (size_t)ring->heads * x.k_groups;

    x.k = (uint8_t *)(x.channels + ring->heads);
    x.v = x.k + groups * CV8_BYTES;
    x.groups = (Cv8Group *)(x.v + groups * CV8_VALUES);
    return x;
}

int64_t cv_cuda_ring_bytes(CvBackend *b, const CvRing *ring)
{
    return cv_cuda(b)->trials & CV_TRIAL_RING8
               ? cv_ring8_bytes(cv_cuda(b)->attention8, ring) : 0;
}

/* Rows [first, first + n) of the block; the first one goes to a group of the
 * ring. Keys are made in scratch. */
static int write_rows(CvCuda *cuda, const CvQkNormRope *a, int64_t first,
                      int64_t n, int64_t group)
{
    const int64_t heads = a->ring->heads, width = heads * CV8_DIM;
    const CvTensor q = cv_rows(a->out_q, first, n);
    const CvTensor qkv = cv_rows(a->qkv, first, n);
    const CvTensor rope = cv_rows(a->rope, first, n);
    const CvTensor k = cv_tensor(cuda->scratch, CV_BF16, 3, n, heads,
                                 (int64_t)CV8_DIM);
    const Cv8Rows rows = { (const cv_bf16 *)q.data, (const cv_bf16 *)k.data,
                           (const cv_bf16 *)qkv.data + 2 * width, width, width,
                           3 * width, (int)n, (int)n, 0,
                           (int)cv_blocks(n, CV8_TOKENS), 1, TURNING,
                           a->largest ? (uint32_t *)a->largest->data : NULL };
    CvQkNormRope part = *a;
    Cv8 x = find_ring(a->ring);
    int err;

    part.ring = NULL;
    part.largest = NULL; /* values come after it */
    part.out_q = &q;
    part.cache_k = &k;
    part.row = 0;
    part.qkv = &qkv;
    part.rope = &rope;
    err = cv_cuda_qk_norm_rope(&cuda->base, &part);
    if (!err && a->alone && first == 0)
        err = cv_cuda_attention8_channels(cuda, &rows, x.heads, x.channels);
    x.k += group * CV8_BYTES;
    x.v += group * CV8_VALUES;
    x.groups += group;
    if (!err)
        err = cv_cuda_attention8_quantise(cuda, &rows, &x);
    return err;
}

int cv_cuda_write_ring(CvBackend *b, const CvQkNormRope *a)
{
    CvCuda *cuda = cv_cuda(b);
    const CvRing *ring = a->ring;
    const int64_t n = a->out_q->dim[0], row = a->row % ring->tokens;
    const int64_t bytes = ring->heads * CV8_DIM * (int64_t)sizeof(cv_bf16);
    const int64_t step = (int64_t)CV_CUDA_SCRATCH / bytes / CV8_TOKENS *
                         CV8_TOKENS;
    int64_t group = a->row / ring->tokens * cv_ring8_groups(ring) +
                    row / CV8_TOKENS;
    int err = 0;

    if (step < 1 || !cv_aligned16(a->out_q->data) ||
        !cv_aligned16(a->qkv->data))
        return cv_fail(b->log, ENOSYS, "ring: %lld heads, or an address",
                       (long long)ring->heads);
    for (int64_t i = 0; i < n && !err; i += step, group += step / CV8_TOKENS)
        err = write_rows(cuda, a, i, step < n - i ? step : n - i, group);
    return err;
}

int cv_cuda_attention_ring(CvCuda *cuda, const CvAttention *a)
{
    const CvRing *ring = a->ring;
    const int64_t n = a->q->dim[0], full = (a->keys - 1) / ring->tokens;
    const int64_t m = full * cv_ring8_groups(ring) * CV8_TOKENS +
                      a->keys - full * ring->tokens;
    const CvAttend args = { a->q->data, NULL, NULL, a->out->data, NULL,
                            (int)n, (int)m, (int)ring->heads, CV8_DIM,
                            a->scale, 0,
                            a->out_scale ? (float *)a->out_scale->data : NULL,
                            a->largest ? (const float *)a->largest->data
                                       : NULL };
    const Cv8 x = find_ring(ring);

    if (n > INT32_MAX - 1024 || m > INT32_MAX - 1024 ||
        !cv_aligned16(a->q->data) || !cv_aligned16(a->out->data))
        return cv_fail(cuda->base.log, ENOSYS, "attention: %lld x %lld, or an "
                       "address", (long long)n, (long long)m);
    return n ? cv_cuda_attention8(cuda, &args, &x) : 0;
}
