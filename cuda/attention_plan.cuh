/*
 * Which block of an attention does what: what attention_hopper.cu and
 * attention8.cu share.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * A block takes a tile of queries of one head. Blocks that would make an
 * incomplete last wave share its keys among the multiprocessors instead: each
 * writes its part of the results in float32, and a second kernel adds the parts,
 * in a fixed order.
 */
#ifndef CV_CUDA_ATTENTION_PLAN_CUH
#define CV_CUDA_ATTENTION_PLAN_CUH

#include "attention.cuh"

enum {
    CV_PLAN_QUERIES = 128, /* of a tile */
    CV_PLAN_DIM = 128,
    CV_PLAN_PART_BYTES = CV_PLAN_QUERIES * /* of a part's results */
                         (CV_PLAN_DIM * (int)sizeof(float) +
                          (int)sizeof(float2)),
};

/* The first `whole` blocks take a tile of queries each with all keys, `parts` at
 * a time share one each of the others. */
typedef struct CvPlan {
    int query_tiles, key_tiles, whole, parts;
    float *results; /* [blocks that share, queries, d], not divided yet */
    float2 *sums;   /* [blocks that share, queries]: largest score and sum */
} CvPlan;

/* What a block has to do. */
typedef struct CvJob {
    int query, head;
    int begin, end; /* tiles of keys */
    int shared;     /* number among the blocks that share, or -1 */
} CvJob;

static __device__ __forceinline__ CvJob cv_find_job(const CvPlan &plan)
{
    const int block = (int)blockIdx.x;
    int tile = block;
    CvJob job = { 0, 0, 0, plan.key_tiles, -1 };

    if (block >= plan.whole) {
        int part = (block - plan.whole) % plan.parts;

        job.shared = block - plan.whole;
        tile = plan.whole + job.shared / plan.parts;
        job.begin = plan.key_tiles * part / plan.parts;
        job.end = plan.key_tiles * (part + 1) / plan.parts;
    }
    job.query = tile % plan.query_tiles * CV_PLAN_QUERIES;
    job.head = tile / plan.query_tiles;
    return job;
}

/* Tiles of queries that are shared out, and blocks in all. */
static inline int cv_plan_rest(const CvPlan *plan, int heads)
{
    return plan->query_tiles * heads - plan->whole;
}

static inline int cv_plan_blocks(const CvPlan *plan, int heads)
{
    return plan->whole + cv_plan_rest(plan, heads) * plan->parts;
}

/* A plan for tiles of `keys` keys that shares nothing out. */
CvPlan cv_cuda_plan(const CvAttend *a, int heads, int keys);

/* Share out what would be an incomplete last wave of blocks: a number of parts
 * of a tile of queries, `most` of them at most, such that the waves, with the
 * tile and a half that a block takes to begin, are least. Returns them. room:
 * bytes for parts, which lie at plan->results. */
double cv_cuda_plan_waves(const CvCuda *cuda, CvPlan *plan, int heads,
                          int most, size_t room);

/* Add the parts, where there are any. factor: of scores, to base 2. head: the
 * plan's first one. channels: what 8-bit attention made of the values of all
 * heads, or NULL. */
int cv_cuda_merge_parts(CvCuda *cuda, const CvAttend *a, const CvPlan *plan,
                        int head, int heads, float factor,
                        const struct Cv8Channels *channels);

#endif /* CV_CUDA_ATTENTION_PLAN_CUH */
