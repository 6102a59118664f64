/*
 * Attention in 8 bits: what goes at a time.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * Heads go as many at a time as fit into scratch in 8 bits and make even waves
 * (12.9 MB each at 32,760 tokens).
 */
#include "attention8.cuh"

enum {
    QUERIES = CV_PLAN_QUERIES,
    GROUPS = CV8_GROUPS,
    KEYS = CV8_KEYS,
    DIM = CV8_DIM,
    PARTS = 12,    /* of a tile of queries, at most */
    ENOUGH = 1600, /* cv_cuda_attention8_pays() */
};

static_assert(QUERIES == 2 * CV8_TOKENS, "as queries are quantised");

/* A head in 8 bits. */
static size_t head_bytes(int64_t query_tiles, int64_t key_tiles)
{
    return (size_t)query_tiles * QUERIES * (DIM + sizeof(float)) +
           (size_t)key_tiles * GROUPS *
           (CV8_BYTES + CV8_VALUES + sizeof(Cv8Group));
}

/* How many heads at a time take the fewest waves in all; 0: one is too much. A
 * round of them begins and ends with what takes a twentieth of a wave. */
static int plan_heads(const CvCuda *cuda, const CvAttend *a, size_t room)
{
    const size_t each = head_bytes(cv_blocks(a->n, QUERIES),
                                   cv_blocks(a->m, KEYS));
    CvPlan plan = cv_cuda_plan(a, 1, KEYS);
    double least = INFINITY;
    int best = 0;

    for (int heads = 1; heads <= a->heads && heads * each <= room; heads++) {
        int rounds = a->heads / heads, last = a->heads % heads;
        double waves = rounds * (cv_cuda_plan_waves(cuda, &plan, heads, PARTS,
                                                    room - heads * each) +
                                 0.05);

        if (last)
            waves += cv_cuda_plan_waves(cuda, &plan, last, PARTS,
                                        room - last * each) + 0.05;
        if (waves <= least) {
            least = waves;
            best = heads;
        }
    }
    return best;
}

/* Attend with `heads` heads from `head` on. */
static int attend(CvCuda *cuda, const CvAttend *a, Cv8Channels *channels,
                  int head, int heads, size_t room)
{
    CvPlan plan = cv_cuda_plan(a, heads, KEYS);
    Cv8 x = { channels, NULL, NULL, NULL, NULL, NULL, head, heads,
              2 * plan.query_tiles, GROUPS * plan.key_tiles };
    const size_t q = (size_t)heads * x.q_groups * CV8_BYTES;
    const size_t k = (size_t)heads * x.k_groups * CV8_BYTES;
    const size_t v = (size_t)heads * x.k_groups * CV8_VALUES;
    int err;

    x.q = (uint8_t *)(channels + a->heads);
    x.k = x.q + q;
    x.v = x.k + k;
    x.groups = (Cv8Group *)(x.v + v);
    x.q_factor = (float *)(x.groups + (size_t)heads * x.k_groups);
    plan.results = x.q_factor + (size_t)heads * x.q_groups * CV8_TOKENS;
    cv_cuda_plan_waves(cuda, &plan, heads, PARTS, room - heads *
                       head_bytes(plan.query_tiles, plan.key_tiles));
    err = cv_cuda_attention8_quantise(cuda, a, &x);
    if (!err)
        err = cv_cuda_attention8_attend(cuda, a, &x, &plan,
                                        cv_plan_blocks(&plan, heads));
    if (!err)
        err = cv_cuda_merge_parts(cuda, a, &plan, head, heads, 1, channels);
    return err;
}

int cv_cuda_attention8_pays(const CvAttend *a)
{
    /* Measured: 4,680 x 4,680 of 12 heads take as long as in bf16; with twice
     * the keys, an eighth less. */
    return a->n * (double)a->m >= ENOUGH * (a->n + 2.0 * a->m) &&
           a->n * (double)a->m * a->heads >= 0x1p27;
}

int cv_cuda_attention8(CvCuda *cuda, const CvAttend *a)
{
    const size_t own = (size_t)a->heads * sizeof(Cv8Channels);
    const size_t room = cuda->scratch_bytes > own ? cuda->scratch_bytes - own
                                                  : 0;
    const int heads = plan_heads(cuda, a, room);
    int err;

    if (!heads || a->m < 1)
        return cv_cuda_attention_hopper(cuda, a);
    err = cv_cuda_attention8_channels(cuda, a, (Cv8Channels *)cuda->scratch);
    for (int i = 0; i < a->heads && !err; i += heads)
        err = attend(cuda, a, (Cv8Channels *)cuda->scratch, i,
                     i + heads < a->heads ? heads : a->heads - i, room);
    return err;
}
