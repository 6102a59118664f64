/*
 * Attention in 8 bits: what goes at a time.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * Heads go as many at a time as fit into scratch in 8 bits and make even waves:
 * 12.9 MB each at 32,760 tokens, 4.3 MB where keys and values lie in a ring.
 */
#include "attention8.cuh"

enum {
    QUERIES = CV_PLAN_QUERIES,
    GROUPS = CV8_GROUPS,
    KEYS = CV8_KEYS,
    PARTS = 12,    /* of a tile of queries, at most */
};

static_assert(QUERIES == 2 * CV8_TOKENS, "as queries are quantised");

/* What a head needs of scratch. */
static size_t head_bytes(const CvPlan *plan, const Cv8 *ring)
{
    const size_t q = (size_t)plan->query_tiles * QUERIES *
                     (CV8_DIM + sizeof(float));

    return ring ? q : q + (size_t)plan->key_tiles * GROUPS *
                          (CV8_BYTES + CV8_VALUES + sizeof(Cv8Group));
}

/* How many heads at a time take the fewest waves in all; 0: one is too much. A
 * round of them begins and ends with what takes a twentieth of a wave. */
static int plan_heads(const CvCuda *cuda, const CvAttend *a, const Cv8 *ring,
                      size_t room)
{
    CvPlan plan = cv_cuda_plan(a, 1, KEYS);
    const size_t each = head_bytes(&plan, ring);
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

/* Attend with `heads` heads from `head` on. rows: what `a` has; channels: of all
 * heads; scratch: of `room` bytes. */
static int attend(CvCuda *cuda, const CvAttend *a, const Cv8 *ring,
                  Cv8Rows rows, Cv8Channels *channels, int head, int heads,
                  uint8_t *scratch, size_t room)
{
    CvPlan plan = cv_cuda_plan(a, heads, KEYS);
    Cv8 x = { channels, NULL, NULL, NULL, NULL, NULL, head, heads,
              2 * plan.query_tiles, GROUPS * plan.key_tiles };
    size_t first;
    int err;

    rows.q_groups = x.q_groups;
    rows.k_groups = ring ? 0 : x.k_groups;
    if (ring) {
        x.k_groups = ring->k_groups;
        first = (size_t)head * x.k_groups;
        x.k = ring->k + first * CV8_BYTES;
        x.v = ring->v + first * CV8_VALUES;
        x.groups = ring->groups + first;
    } else {
        first = (size_t)heads * x.k_groups;
        x.k = scratch;
        x.v = x.k + first * CV8_BYTES;
        x.groups = (Cv8Group *)(x.v + first * CV8_VALUES);
        scratch = (uint8_t *)(x.groups + first);
    }
    x.q = scratch;
    x.q_factor = (float *)(x.q + (size_t)heads * x.q_groups * CV8_BYTES);
    plan.results = x.q_factor + (size_t)heads * x.q_groups * CV8_TOKENS;
    cv_cuda_plan_waves(cuda, &plan, heads, PARTS,
                       room - heads * head_bytes(&plan, ring));
    err = cv_cuda_attention8_quantise(cuda, &rows, &x);
    if (!err)
        err = cv_cuda_attention8_attend(cuda, a, &x, &plan,
                                        cv_plan_blocks(&plan, heads));
    if (!err)
        err = cv_cuda_merge_parts(cuda, a, &plan, head, heads, 1, channels);
    return err;
}

int cv_cuda_attention8(CvCuda *cuda, const CvAttend *a, const Cv8 *ring)
{
    const int64_t step = (int64_t)a->heads * CV8_DIM;
    const size_t own = ring ? 0 : (size_t)a->heads * sizeof(Cv8Channels);
    const size_t room = cuda->scratch_bytes > own ? cuda->scratch_bytes - own
                                                  : 0;
    const int heads = plan_heads(cuda, a, ring, room);
    Cv8Channels *channels = ring ? ring->channels
                                 : (Cv8Channels *)cuda->scratch;
    const Cv8Rows rows = { (const cv_bf16 *)a->q, (const cv_bf16 *)a->k,
                           (const cv_bf16 *)a->v, step, step, step, a->n,
                           a->m, 0, 0, a->scale, 0, NULL };
    int err = 0;

    if (!heads && ring)
        return cv_fail(cuda->base.log, ENOSYS, "attention: %d queries", a->n);
    if (!heads || a->m < 1)
        return cv_cuda_attention_hopper(cuda, a);
    if (!ring)
        err = cv_cuda_attention8_channels(cuda, &rows, a->heads, channels);
    for (int i = 0; i < a->heads && !err; i += heads)
        err = attend(cuda, a, ring, rows, channels, i,
                     i + heads < a->heads ? heads : a->heads - i,
                     (uint8_t *)cuda->scratch + own, room);
    return err;
}
