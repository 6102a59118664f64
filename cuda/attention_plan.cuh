/*
 * Which block of an attention does what, and results that leave in fp8: what
 * attention_hopper.cu and attention8.cu share.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * A block takes a tile of queries of one head. Blocks that would make an
 * incomplete last wave share its keys among the multiprocessors instead: each
 * writes its part of the results in float32, and a second kernel adds the parts,
 * in a fixed order.
 *
 * A row's results are made by heads that know nothing of one another, and fp8
 * wants one scale for all of them. Results are means of values, so none is above
 * the largest of these; e4m3 is a floating type, to which a scale that is up to
 * some thousand times too large is as good as an exact one (docs/kernels.md,
 * Attention that ends in fp8). So all rows have the scale that this gives.
 */
#ifndef CV_CUDA_ATTENTION_PLAN_CUH
#define CV_CUDA_ATTENTION_PLAN_CUH

#include "attention.cuh"
#include "fp8.cuh"

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

/* The scale of all rows of results in e4m3, and what they are multiplied with.
 * 416 is a number of e4m3 as well: values that were rounded up have room. */
static __device__ __forceinline__ float cv_results_scale(const CvAttend &a,
                                                         float *inverse)
{
    return cv_row_scale(__float_as_uint(__ldg(a.largest) * (448.0f / 416)),
                        inverse);
}

/* Write 16 rows of a head, from row `first` on, in e4m3: o as wgmma leaves a
 * warp's part, through `stage`, 2 KB of shared memory. */
template <int n>
static __device__ __forceinline__ void cv_write_narrow(const float (&o)[n],
                                                       const CvAttend &a,
                                                       int head, int first,
                                                       uint8_t *stage)
{
    const int lane = (int)(threadIdx.x % CV_WARP), rows = a.n - first;
    const int64_t step = (int64_t)a.heads * CV_PLAN_DIM;
    uint8_t *out = (uint8_t *)a.out + first * step + head * CV_PLAN_DIM;
    float inverse;
    const float scale = cv_results_scale(a, &inverse);

    if (head == 0 && lane < 16 && lane < rows)
        a.out_scale[first + lane] = scale;
#pragma unroll
    for (int j = 0; j < CV_PLAN_DIM / 16; j++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const int row = h * 8 + lane / 4, at = 8 * j + 2 * h;
            const float v[4] = { o[at] * inverse, o[at + 1] * inverse,
                                 o[at + 4] * inverse, o[at + 5] * inverse };
            const uint32_t bytes = cv_pack_fp8(v);
            uint16_t *to = (uint16_t *)(stage + row * CV_PLAN_DIM +
                                        ((j ^ (row & 7)) << 4)) + lane % 4;

            to[0] = (uint16_t)bytes;
            to[4] = (uint16_t)(bytes >> 16);
        }
    __syncwarp();
#pragma unroll
    for (int i = 0; i < 16 * CV_PLAN_DIM / 16 / CV_WARP; i++) {
        const int row = lane / 8 + i * 4, chunk = lane % 8;

        if (row < rows)
            *(uint4 *)(out + row * step + chunk * 16) =
                *(const uint4 *)(stage + row * CV_PLAN_DIM +
                                 ((chunk ^ (row & 7)) << 4));
    }
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
