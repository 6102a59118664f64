/*
 * Attention in 8 bits: what goes at a time, and adding parts.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * Heads go as many at a time as fit into scratch in 8 bits and make even waves
 * (12.9 MB each at 32,760 tokens). What would be an incomplete last wave is
 * shared out by keys, and a kernel adds the parts in a fixed order.
 */
#include "attention8.cuh"
#include "vector.cuh"

enum {
    QUERIES = CV8_QUERIES,
    GROUPS = CV8_GROUPS,
    KEYS = CV8_KEYS,
    DIM = CV8_DIM,
    MERGE = 256,   /* threads of the kernel that adds parts */
    LEAST = 4,     /* tiles of keys in a part */
    PARTS = 12,    /* at most */
    ENOUGH = 1600, /* cv_cuda_attention8_pays() */
};

static_assert(QUERIES == 2 * CV8_TOKENS, "as queries are quantised");

/* A warp adds the parts of a row of queries. */
static __global__ void __launch_bounds__(MERGE)
attention8_merge_kernel(CvAttend a, Cv8 x, Cv8Plan plan)
{
    const int rows = MERGE / CV_WARP, lane = (int)(threadIdx.x % CV_WARP);
    const int at = (int)blockIdx.x * rows + (int)threadIdx.x / CV_WARP;
    const int tile = plan.whole + at / QUERIES;
    const int query = tile % plan.query_tiles * QUERIES + at % QUERIES;
    const int head = x.head + tile / plan.query_tiles;
    const int first = at / QUERIES * plan.parts * QUERIES + at % QUERIES;
    float top = -INFINITY, sum = 0, o[4] = { 0 }, v[4];

    if (query >= a.n)
        return;
    for (int i = 0; i < plan.parts; i++)
        top = fmaxf(top, plan.sums[first + i * QUERIES].x);
    for (int i = 0; i < plan.parts; i++) {
        const int row = first + i * QUERIES;
        const float2 part = plan.sums[row];
        const float share = exp2f(part.x - top);

        cv_load_n<4>(v, plan.results + (int64_t)row * DIM + lane * 4);
        sum += share * part.y;
#pragma unroll
        for (int j = 0; j < 4; j++)
            o[j] += share * v[j];
    }
    cv_load_n<4>(v, x.channels[head].value_mean + lane * 4);
#pragma unroll
    for (int j = 0; j < 4; j++)
        o[j] = __fdividef(o[j] * x.channels[head].value_unit, sum) + v[j];
    cv_store_n<4>((cv_bf16 *)a.out + ((int64_t)query * a.heads + head) * DIM +
                  lane * 4, o);
}

/* ---- what goes at a time ---- */

/* Bytes of a part's results. */
enum { PART_BYTES = QUERIES * (DIM * (int)sizeof(float) +
                               (int)sizeof(float2)) };

/* A head in 8 bits. */
static size_t head_bytes(int64_t query_tiles, int64_t key_tiles)
{
    return (size_t)query_tiles * QUERIES * (DIM + sizeof(float)) +
           (size_t)key_tiles * GROUPS *
           (CV8_BYTES + CV8_VALUES + sizeof(Cv8Group));
}

/* Share out what would be an incomplete last wave of blocks: `parts` of a tile
 * of queries such that the waves, with the tile and a half that a block takes to
 * begin, are least. Returns them. room: bytes for parts. */
static double plan_waves(const CvCuda *cuda, Cv8Plan *plan, int heads,
                         size_t room)
{
    const int tiles = plan->query_tiles * heads;
    const int rest = tiles % cuda->processors;
    const double whole = tiles / cuda->processors;
    double least = rest ? whole + 1 : whole;

    plan->whole = tiles;
    plan->parts = 1;
    for (int parts = 2; rest && parts <= PARTS; parts++) {
        int blocks = rest * parts;
        double waves = whole + (double)cv_blocks(blocks, cuda->processors) *
                       (1.0 / parts + 1.5 / plan->key_tiles);

        if (plan->key_tiles / parts < LEAST ||
            (size_t)blocks * PART_BYTES > room)
            break;
        if (waves < least - 0.01) {
            least = waves;
            plan->whole = tiles - rest;
            plan->parts = parts;
        }
    }
    return least;
}

/* How many heads at a time take the fewest waves in all; 0: one is too much. A
 * round of them begins and ends with what takes a twentieth of a wave. */
static int plan_heads(const CvCuda *cuda, const CvAttend *a, size_t room)
{
    const size_t each = head_bytes(cv_blocks(a->n, QUERIES),
                                   cv_blocks(a->m, KEYS));
    Cv8Plan plan = { (int)cv_blocks(a->n, QUERIES),
                     (int)cv_blocks(a->m, KEYS), 0, 0, NULL, NULL };
    double least = INFINITY;
    int best = 0;

    for (int heads = 1; heads <= a->heads && heads * each <= room; heads++) {
        int rounds = a->heads / heads, last = a->heads % heads;
        double waves = rounds * (plan_waves(cuda, &plan, heads,
                                            room - heads * each) + 0.05);

        if (last)
            waves += plan_waves(cuda, &plan, last, room - last * each) + 0.05;
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
    Cv8Plan plan = { (int)cv_blocks(a->n, QUERIES),
                     (int)cv_blocks(a->m, KEYS), 0, 0, NULL, NULL };
    Cv8 x = { channels, NULL, NULL, NULL, NULL, NULL, head, heads,
              2 * plan.query_tiles, GROUPS * plan.key_tiles };
    const size_t q = (size_t)heads * x.q_groups * CV8_BYTES;
    const size_t k = (size_t)heads * x.k_groups * CV8_BYTES;
    const size_t v = (size_t)heads * x.k_groups * CV8_VALUES;
    int rest, err;

    plan_waves(cuda, &plan, heads,
               room - heads * head_bytes(plan.query_tiles, plan.key_tiles));
    rest = plan.query_tiles * heads - plan.whole;
    x.q = (uint8_t *)(channels + a->heads);
    x.k = x.q + q;
    x.v = x.k + k;
    x.groups = (Cv8Group *)(x.v + v);
    x.q_factor = (float *)(x.groups + (size_t)heads * x.k_groups);
    plan.results = x.q_factor + (size_t)heads * x.q_groups * CV8_TOKENS;
    plan.sums = (float2 *)(plan.results + (size_t)rest * plan.parts * QUERIES *
                           DIM);
    err = cv_cuda_attention8_quantise(cuda, a, &x);
    if (!err)
        err = cv_cuda_attention8_attend(cuda, a, &x, &plan,
                                        plan.whole + rest * plan.parts);
    if (err || !rest)
        return err;
    return CV_LAUNCH(cuda, cuda->stream, attention8_merge_kernel,
                     rest * (QUERIES / (MERGE / CV_WARP)), MERGE, 0, *a, x,
                     plan);
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
