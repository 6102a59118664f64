/*
 * Attention's last wave: sharing it out, and adding what was shared.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#include "attention8.cuh"
#include "attention_plan.cuh"
#include "vector.cuh"

enum {
    QUERIES = CV_PLAN_QUERIES,
    DIM = CV_PLAN_DIM,
    MERGE = 256,   /* threads of the kernel that adds parts */
    LEAST = 4,     /* tiles of keys in a part */
};

/* A warp adds the parts of a row of queries. */
static __global__ void __launch_bounds__(MERGE)
merge_parts_kernel(CvAttend a, CvPlan plan, int first_head, float factor,
                   const Cv8Channels *channels)
{
    cv_begin();
    const int rows = MERGE / CV_WARP, lane = (int)(threadIdx.x % CV_WARP);
    const int at = (int)blockIdx.x * rows + (int)threadIdx.x / CV_WARP;
    const int tile = plan.whole + at / QUERIES;
    const int query = tile % plan.query_tiles * QUERIES + at % QUERIES;
    const int head = first_head + tile / plan.query_tiles;
    const int first = at / QUERIES * plan.parts * QUERIES + at % QUERIES;
    float top = -INFINITY, sum = 0, o[4] = { 0 }, v[4] = { 0 }, unit = 1;

    if (query >= a.n)
        return;
    for (int i = 0; i < plan.parts; i++)
        top = fmaxf(top, plan.sums[first + i * QUERIES].x);
    for (int i = 0; i < plan.parts; i++) {
        const int row = first + i * QUERIES;
        const float2 part = plan.sums[row];
        const float share = exp2f((part.x - top) * factor);
        float more[4];

        cv_load_n<4>(more, plan.results + (int64_t)row * DIM + lane * 4);
        sum += share * part.y;
#pragma unroll
        for (int j = 0; j < 4; j++)
            o[j] += share * more[j];
    }
    if (channels) {
        unit = channels[head].value_unit;
        cv_load_n<4>(v, channels[head].value_mean + lane * 4);
    }
#pragma unroll
    for (int j = 0; j < 4; j++)
        o[j] = __fdividef(o[j] * unit, sum) + v[j];
    if (a.out_scale) {
        float inverse;
        const float scale = cv_results_scale(a, &inverse);

        if (head == 0 && lane == 0)
            a.out_scale[query] = scale;
#pragma unroll
        for (int j = 0; j < 4; j++)
            o[j] *= inverse;
        *(uint32_t *)((uint8_t *)a.out + ((int64_t)query * a.heads + head) *
                      DIM + lane * 4) = cv_pack_fp8(o);
        return;
    }
    cv_store_n<4>((cv_bf16 *)a.out + ((int64_t)query * a.heads + head) * DIM +
                  lane * 4, o);
}

CvPlan cv_cuda_plan(const CvAttend *a, int heads, int keys)
{
    CvPlan plan = { (int)cv_blocks(a->n, QUERIES), (int)cv_blocks(a->m, keys),
                    0, 1, NULL, NULL };

    plan.whole = plan.query_tiles * heads;
    return plan;
}

double cv_cuda_plan_waves(const CvCuda *cuda, CvPlan *plan, int heads,
                          int most, size_t room)
{
    const int tiles = plan->query_tiles * heads;
    const int rest = tiles % cuda->processors;
    const double whole = tiles / cuda->processors;
    double least = rest ? whole + 1 : whole;

    plan->whole = tiles;
    plan->parts = 1;
    for (int parts = 2; rest && parts <= most; parts++) {
        int blocks = rest * parts;
        double waves = whole + (double)cv_blocks(blocks, cuda->processors) *
                       (1.0 / parts + 1.5 / plan->key_tiles);

        if (plan->key_tiles / parts < LEAST ||
            (size_t)blocks * CV_PLAN_PART_BYTES > room)
            break;
        /* More blocks than multiprocessors have to win something. */
        if (waves < least - (blocks > cuda->processors ? 0.01 : 0)) {
            least = waves;
            plan->whole = tiles - rest;
            plan->parts = parts;
        }
    }
    plan->sums = (float2 *)(plan->results + (size_t)cv_plan_rest(plan, heads) *
                            plan->parts * QUERIES * DIM);
    return least;
}

int cv_cuda_merge_parts(CvCuda *cuda, const CvAttend *a, const CvPlan *plan,
                        int head, int heads, float factor,
                        const Cv8Channels *channels)
{
    const int rest = cv_plan_rest(plan, heads);

    if (!rest)
        return 0;
    return CV_LAUNCH(cuda, cuda->stream, merge_parts_kernel,
                     rest * (QUERIES / (MERGE / CV_WARP)), MERGE, 0, *a, *plan,
                     head, factor, channels);
}
