/*
 * Attention for heads of 128 on sm_90a, with wgmma and tensor copies.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * The plan is FlashAttention-3's (Shah et al., 2024). A block takes 128 queries
 * of one head and goes through the keys in tiles of 176. A warpgroup of which
 * one thread works copies tiles of keys and of values into two places each;
 * two warpgroups compute, 64 queries each. Both issue the scores of a tile
 * together with the product of the weights and values of the tile before, and
 * turn scores into weights while the latter runs; and they take turns, so that
 * the tensor cores work for one while the other computes exponentials. The
 * weights stay in registers: 88 for scores, 44 for weights of two bf16, 64 for
 * results, of 240. Shared memory: 32 KB of queries, 4 tiles of 44 KB.
 *
 * The last wave's keys are shared out (attention_plan.cuh).
 *
 * Bound by operations. Measured on an H200: 32,760 x 32,760, 40 heads: 22.0
 * TFLOP, 29.6 ms, 742 TFLOP/s (predicted: 600; published for FlashAttention-3:
 * 650). 4,680 x 18,720, 12 heads, 444 blocks: 0.87 ms, 620 TFLOP/s, before the
 * 48 blocks of the last wave were split; that took a denoising pass of the
 * causal 1.3B from 53 to 48 ms.
 */
#include "attention_plan.cuh"
#include "hopper.cuh"
#include "vector.cuh"

enum {
    THREADS = 384,
    QUERIES = CV_PLAN_QUERIES,
    ROWS = 64,     /* queries of a warpgroup */
    KEYS = 176,
    DIM = CV_PLAN_DIM,
    HALF = 64,     /* a tile is two of this many columns, each contiguous */
    PLACES = 2,
    SCORES = KEYS / 2, /* registers of a thread */
    RESULTS = DIM / 2,
    WARPGROUP = 128,
    WAVES = 16,    /* from which on the last one is too little to split */
    TURN = 1,      /* named barrier of the first warpgroup that computes; */
    OWN = 3,       /* of the first, for it alone */
};

typedef struct Tiles {
    cv_bf16 q[2][QUERIES * HALF];
    cv_bf16 k[PLACES][2][KEYS * HALF], v[PLACES][2][KEYS * HALF];
    uint64_t q_full, k_full[PLACES], v_full[PLACES];
    uint64_t k_empty[PLACES], v_empty[PLACES];
    float sums[THREADS]; /* nobody reads them */
} Tiles;

static_assert(sizeof(((Tiles *)0)->k[0][0]) % 1024 == 0, "aligned tiles");

typedef struct Maps {
    CvTensorMap q, k, v;
} Maps;

/* From 8 rows to the next 8, and from a half to the next. */
enum { GROUP = 8 * HALF * 2, NEXT_HALF = KEYS * HALF * 2 };

#if CV_HOPPER_CODE

/* Both halves of a tile of one head. */
static __device__ __forceinline__ void load(cv_bf16 *tile, int half,
                                            const CvTensorMap *map,
                                            uint64_t *full, int head, int row)
{
    cv_mbarrier_expect(full, (uint32_t)(2 * half * sizeof(cv_bf16)));
    cv_tma_load(tile, map, full, 0, head, row);
    cv_tma_load(tile + half, map, full, HALF, head, row);
}

/* Tiles of keys come from the last to the first: so only the first step, which
 * holds no results yet, has keys past the end. */
static __device__ __forceinline__ void load_all(Tiles *t, const Maps *maps,
                                                const CvJob &job)
{
    const int head = job.head, tiles = job.end - job.begin;

    load(t->q[0], QUERIES * HALF, &maps->q, &t->q_full, head, job.query);
    for (int i = 0; i < tiles; i++) {
        int place = i % PLACES, parity = i / PLACES & 1;
        int key = (job.end - 1 - i) * KEYS;

        cv_mbarrier_wait(&t->k_empty[place], parity ^ 1);
        load(t->k[place][0], KEYS * HALF, &maps->k, &t->k_full[place], head,
             key);
        cv_mbarrier_wait(&t->v_empty[place], parity ^ 1);
        load(t->v[place][0], KEYS * HALF, &maps->v, &t->v_full[place], head,
             key);
    }
}

/* Issue s = q k^T. q: the warpgroup's rows. Operands count 16 bytes, so what
 * follows in shared memory is reached by adding to them. */
static __device__ __forceinline__ void score(float (&s)[SCORES],
                                             const cv_bf16 *q,
                                             const cv_bf16 *k)
{
    const uint64_t a = cv_wgmma_operand(q, GROUP, 16);
    const uint64_t b = cv_wgmma_operand(k, GROUP, 16);

#pragma unroll
    for (int i = 0; i < DIM / 16; i++) {
        int half = i / 4, column = i % 4 * 16;

        cv_wgmma_n176(s, a + (half * QUERIES * HALF + column) / 8,
                      b + (half * KEYS * HALF + column) / 8, i > 0);
    }
    cv_wgmma_commit();
}

/* Issue o += p v. */
static __device__ __forceinline__ void gather(float (&o)[RESULTS],
                                              const uint32_t (&p)[SCORES / 2],
                                              const cv_bf16 *v)
{
    const uint64_t b = cv_wgmma_operand(v, GROUP, NEXT_HALF);

#pragma unroll
    for (int i = 0; i < KEYS / 16; i++)
        cv_wgmma_n128_rt(o, p + 4 * i, b + i * 16 * HALF / 8);
    cv_wgmma_commit();
}

/* The last key's repetitions, and nothing from keys past the end. */
static __device__ __forceinline__ void finish_keys(float (&s)[SCORES],
                                                   int left, float last)
{
    left -= (int)(threadIdx.x % 4) * 2;
#pragma unroll
    for (int i = 0; i < SCORES; i++) {
        int at = i / 4 * 8 + i % 2;

        if (at == left - 1)
            s[i] += last;
        else if (at >= left)
            s[i] = -INFINITY;
    }
}

/* Scores become weights; shrink: of what was gathered under the old tops. */
static __device__ __forceinline__ void soften(float (&s)[SCORES],
                                              float (&top)[2],
                                              float (&sum)[2],
                                              float (&shrink)[2], float factor)
{
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float t = top[h], more = 0, shift;

#pragma unroll
        for (int i = 2 * h; i < SCORES; i += 4)
            t = fmaxf(t, fmaxf(s[i], s[i + 1]));
        t = cv_row_max(t);
        shift = t * factor;
        shrink[h] = cv_exp2(top[h] * factor - shift);
        top[h] = t;
#pragma unroll
        for (int i = 2 * h; i < SCORES; i += 4) {
            s[i] = cv_exp2(s[i] * factor - shift);
            s[i + 1] = cv_exp2(s[i + 1] * factor - shift);
            more += s[i] + s[i + 1];
        }
        sum[h] = sum[h] * shrink[h] + more;
    }
}

static __device__ __forceinline__ void pack(uint32_t (&p)[SCORES / 2],
                                            const float (&s)[SCORES])
{
#pragma unroll
    for (int i = 0; i < SCORES / 2; i++)
        p[i] = cv_pack_bf16(s[2 * i], s[2 * i + 1]);
}

/* Weights that are computed before this stay before it. */
static __device__ __forceinline__ void hold_weights(uint32_t (&p)[SCORES / 2])
{
#pragma unroll
    for (int i = 0; i < SCORES / 2; i++)
        asm volatile("" : "+r"(p[i])::"memory");
}

/* One arrival a warp: its lanes' products have read the tile. */
static __device__ __forceinline__ void done_with(uint64_t *empty)
{
    if (threadIdx.x % CV_WARP == 0)
        cv_mbarrier_arrive(empty);
}

/* What was gathered becomes results. */
static __device__ __forceinline__ void divide(float (&o)[RESULTS],
                                              const float (&sum)[2])
{
    const float share[2] = { __fdividef(1, cv_row_sum(sum[0])),
                             __fdividef(1, cv_row_sum(sum[1])) };

#pragma unroll
    for (int i = 0; i < RESULTS; i++)
        o[i] *= share[i / 2 % 2];
}

/* Write the warp's 16 rows through its part of the queries. */
static __device__ __forceinline__ void write(const float (&o)[RESULTS],
                                             cv_bf16 *q, cv_bf16 *out,
                                             int64_t step, int rows)
{
    const int lane = (int)(threadIdx.x % CV_WARP);

#pragma unroll
    for (int h = 0; h < 2; h++) {
        int row = h * 8 + lane / 4;

#pragma unroll
        for (int j = 0; j < DIM / 8; j++)
            *(uint32_t *)(q + j / 8 * QUERIES * HALF +
                          cv_tile_at<HALF>(row, j % 8) + lane % 4 * 2) =
                cv_pack_bf16(o[4 * j + 2 * h], o[4 * j + 2 * h + 1]);
    }
    __syncwarp();
#pragma unroll
    for (int i = 0; i < 16 * DIM / 8 / CV_WARP; i++) {
        int at = lane + i * CV_WARP, row = at / 16, chunk = at % 16;

        if (row < rows)
            *(uint4 *)(out + row * step + chunk * 8) =
                *(const uint4 *)(q + chunk / 8 * QUERIES * HALF +
                                 cv_tile_at<HALF>(row, chunk % 8));
    }
}

/* The warp's 16 rows, for cv_cuda_merge_parts(). */
static __device__ __forceinline__ void write_part(const float (&o)[RESULTS],
                                                  const float (&top)[2],
                                                  const float (&sum)[2],
                                                  const CvPlan &plan, int row)
{
    const int lane = (int)(threadIdx.x % CV_WARP);

    row += lane / 4;
#pragma unroll
    for (int h = 0; h < 2; h++, row += 8) {
        float *to = plan.results + (int64_t)row * DIM + lane % 4 * 2;
        float all = cv_row_sum(sum[h]);

        if (lane % 4 == 0)
            plan.sums[row] = make_float2(top[h], all);
#pragma unroll
        for (int j = 0; j < DIM / 8; j++)
            *(float2 *)(to + j * 8) = make_float2(o[4 * j + 2 * h],
                                                  o[4 * j + 2 * h + 1]);
    }
}

template <bool is_narrow>
static __device__ __forceinline__ void compute(Tiles *t, const CvAttend &a,
                                               const CvPlan &plan,
                                               const CvJob &job, int group)
{
    const int tiles = job.end - job.begin;
    const int warp = (int)(threadIdx.x % WARPGROUP / CV_WARP);
    const cv_bf16 *q = t->q[0] + group * ROWS * HALF;
    const float factor = a.scale * 1.44269504088896340736f;
    const int first = job.query + group * ROWS + warp * 16;
    const int64_t step = (int64_t)a.heads * DIM;
    float s[SCORES], o[RESULTS], top[2], sum[2], shrink[2];
    uint32_t p[SCORES / 2];

#pragma unroll
    for (int i = 0; i < RESULTS; i++)
        o[i] = 0;
#pragma unroll
    for (int i = 0; i < SCORES; i++)
        s[i] = 0;
    top[0] = top[1] = -INFINITY;
    sum[0] = sum[1] = 0;
    /* The first turn is the first warpgroup's. */
    if (group == 1 && tiles > 1)
        cv_named_arrive(TURN, 2 * WARPGROUP);
    cv_mbarrier_wait(&t->q_full, 0);
    cv_mbarrier_wait(&t->k_full[0], 0);
    cv_wgmma_hold(s);
    cv_wgmma_fence();
    score(s, q, t->k[0][0]);
    cv_wgmma_wait<0>();
    cv_wgmma_hold(s);
    done_with(&t->k_empty[0]);
    finish_keys(s, a.m - (job.end - 1) * KEYS, a.last / a.scale);
    soften(s, top, sum, shrink, factor);
    pack(p, s);
    for (int i = 1; i < tiles; i++) {
        const int now = i % PLACES, before = (i - 1) % PLACES;

        cv_mbarrier_wait(&t->k_full[now], i / PLACES & 1);
        cv_named_wait(TURN + group, 2 * WARPGROUP);
        cv_wgmma_hold(s);
        cv_wgmma_hold(o);
        hold_weights(p);
        cv_wgmma_fence();
        score(s, q, t->k[now][0]);
        cv_mbarrier_wait(&t->v_full[before], (i - 1) / PLACES & 1);
        cv_wgmma_fence();
        gather(o, p, t->v[before][0]);
        /* The second's last turn is followed by nobody's. */
        if (group == 0 || i + 1 < tiles)
            cv_named_arrive(TURN + (group ^ 1), 2 * WARPGROUP);
        cv_wgmma_wait<1>();
        cv_wgmma_hold(s);
        done_with(&t->k_empty[now]);
        soften(s, top, sum, shrink, factor);
        cv_wgmma_hold(s);
        /* Weights are made while the product is under way: the assembler moves
         * the wait up to the scores otherwise, but not over a store. */
        *(volatile float *)&t->sums[threadIdx.x] = sum[0] + sum[1];
        cv_wgmma_wait<0>();
        cv_wgmma_hold(o);
        done_with(&t->v_empty[before]);
        pack(p, s);
#pragma unroll
        for (int j = 0; j < RESULTS; j++)
            o[j] *= shrink[j / 2 % 2];
    }
    cv_mbarrier_wait(&t->v_full[(tiles - 1) % PLACES],
                     (tiles - 1) / PLACES & 1);
    cv_wgmma_hold(o);
    hold_weights(p);
    cv_wgmma_fence();
    gather(o, p, t->v[(tiles - 1) % PLACES][0]);
    cv_wgmma_wait<0>();
    cv_wgmma_hold(o);
    if (job.shared >= 0) {
        write_part(o, top, sum, plan,
                   job.shared * QUERIES + group * ROWS + warp * 16);
        return;
    }
    divide(o, sum);
    /* No warp's products read the queries any more. */
    cv_named_wait(OWN + group, WARPGROUP);
    cv_bf16 *stage = t->q[0] + (group * ROWS + warp * 16) * HALF;
    if (is_narrow)
        cv_write_narrow(o, a, job.head, first, (uint8_t *)stage);
    else
        write(o, stage, (cv_bf16 *)a.out + first * step +
              (int64_t)job.head * DIM, step, a.n - first);
}

#endif /* CV_HOPPER_CODE */

template <bool is_narrow>
static __global__ void __launch_bounds__(THREADS, 1)
attention_hopper_kernel(const __grid_constant__ Maps maps, CvAttend a,
                        CvPlan plan)
{
#if CV_HOPPER_CODE
    CV_DYNAMIC_SHARED(Tiles, t);
    const CvJob job = cv_find_job(plan);
    /* So that the compiler sees that it is the same for a warp. */
    const int role = __shfl_sync(0xffffffffu,
                                 (int)(threadIdx.x / WARPGROUP), 0);

    if (threadIdx.x == 0) {
        cv_tma_prefetch(&maps.q);
        cv_tma_prefetch(&maps.k);
        cv_tma_prefetch(&maps.v);
        cv_mbarrier_init(&t->q_full, 1);
        for (int i = 0; i < PLACES; i++) {
            cv_mbarrier_init(&t->k_full[i], 1);
            cv_mbarrier_init(&t->v_full[i], 1);
            cv_mbarrier_init(&t->k_empty[i], 2 * WARPGROUP / CV_WARP);
            cv_mbarrier_init(&t->v_empty[i], 2 * WARPGROUP / CV_WARP);
        }
        cv_mbarrier_init_done();
    }
    cv_begin();
    __syncthreads();
    if (role == 0) {
        cv_registers_give<24>();
        if (threadIdx.x == 0)
            load_all(t, &maps, job);
    } else {
        cv_registers_take<240>();
        compute<is_narrow>(t, a, plan, job, role - 1);
    }
#else
    (void)maps;
    (void)a;
    (void)plan;
#endif
}

/* Split the last wave's tiles, where there are waves few enough for it to
 * matter, and then among no more multiprocessors than there are. */
static CvPlan make_plan(const CvCuda *cuda, const CvAttend *a)
{
    CvPlan plan = cv_cuda_plan(a, a->heads, KEYS);
    const int rest = plan.whole % cuda->processors;

    plan.results = (float *)cuda->scratch;
    if (rest && plan.whole / cuda->processors <= WAVES)
        cv_cuda_plan_waves(cuda, &plan, a->heads, cuda->processors / rest,
                           CV_CUDA_SCRATCH);
    return plan;
}

int cv_cuda_attention_hopper(CvCuda *cuda, const CvAttend *a)
{
    const int64_t dim_q[3] = { DIM, a->heads, a->n };
    const int64_t dim_k[3] = { DIM, a->heads, a->m };
    const int64_t step[2] = { DIM, (int64_t)a->heads * DIM };
    const int box_q[3] = { HALF, 1, QUERIES }, box_k[3] = { HALF, 1, KEYS };
    const CvPlan plan = make_plan(cuda, a);
    auto kernel = a->out_scale ? attention_hopper_kernel<true>
                               : attention_hopper_kernel<false>;
    Maps maps;
    int err = cv_tensor_map(cuda, &maps.q, a->q, dim_q, step, box_q);

    if (!err)
        err = cv_tensor_map(cuda, &maps.k, a->k, dim_k, step, box_k);
    if (!err)
        err = cv_tensor_map(cuda, &maps.v, a->v, dim_k, step, box_k);
    if (!err)
        err = CV_LAUNCH(cuda, cuda->stream, kernel,
                        cv_plan_blocks(&plan, a->heads), THREADS,
                        sizeof(Tiles), maps, *a, plan);
    if (!err)
        err = cv_cuda_merge_parts(cuda, a, &plan, 0, a->heads,
                                  a->scale * 1.44269504088896340736f, NULL);
    return err;
}
