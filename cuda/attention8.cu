/*
 * Attention in 8 bits for heads of 128 on sm_90a: int8 for scores, e4m3 for
 * weights and values.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * The structure is attention_hopper.cu's: a block takes 128 queries of a head,
 * one warpgroup copies tiles of 192 keys and values, two compute 64 queries
 * each; the last wave's keys are shared out (attention_plan.cuh). Different
 * are:
 *
 * - Scores in int8, not e4m3, whose 4 bits miss the tolerance (relative error
 *   0.055 on normal data, 0.27 with channels that stand out; int8: 0.040 and
 *   0.031, in a simulation); attention8.cuh says what is done to queries and
 *   keys. A tile has three groups of keys with a scale each.
 * - Weights are at most 2^8, so that 17 binary orders of magnitude are numbers
 *   of e4m3. A group's scale of values, a power of two, goes into the weights.
 * - The special function unit, 16 exponentials a cycle, would be as busy as the
 *   tensor cores, and waiting for its results is what took the time: with all
 *   weights from it and sums of them by additions, 24.7 ms at 14B's size, both
 *   units idle half of the time. So three quarters of the weights come from the
 *   bits of e4m3, which nearly are a logarithm: two multiplications with
 *   additions each (soften()). Their error is 0.031 instead of 0.0265.
 * - Sums of weights are columns of the product, whose values are 1 or, since
 *   weights have the scales of values in them, another power of two.
 * - The tensor cores add e4m3 products to 14 bits or so, and cut off the rest.
 *   So every 8 tiles (48 products on end) results are added to float32 sums in
 *   shared memory; and four columns have a quarter of the sum of weights each,
 *   which is the sum that loses most, since all is of one sign: in one column,
 *   it was 2 % too low on an H200.
 * - The warpgroups do not take turns: that made nothing faster here.
 *
 * Registers of a thread: 96 scores, 24 of weights, 68 results. Shared memory:
 * 16 KB of queries, 2 tiles of 24 KB and 2 of 25.5 KB, 68 KB of results, 4 KB of
 * scales: 187 KB.
 *
 * Bound by latency: the tensor cores are busy for 60 % of the time. Measured on
 * an H200, to quantise included (test_ops --gpu --bench --backend "cuda 8-bit
 * attention"): 32,760 x 32,760, 40 heads: 20.0 ms, 1,100 TFLOP/s (predicted:
 * 1,160); 4,680 x 18,720, 12 heads: 0.655 ms, 822 (predicted: 1,010).
 */
#include "attention8.cuh"
#include "hopper8.cuh"
#include "vector.cuh"

enum {
    THREADS = 384,
    QUERIES = CV_PLAN_QUERIES,
    ROWS = 64,     /* queries of a warpgroup */
    GROUPS = CV8_GROUPS,
    KEYS = CV8_KEYS,
    DIM = CV8_DIM,
    TILE = GROUPS * CV8_BYTES,
    VALUES = GROUPS * CV8_VALUES,
    PLACES = 2,
    SCALES = 4,    /* tiles whose groups are kept: more than PLACES, since keys'
                    * places are free before their scales are */
    SCORES = KEYS / 2, /* registers of a thread */
    RESULTS = CV8_COLUMNS / 2, /* the last four: sums of weights */
    WARPGROUP = 128,
    KEEP = 8,      /* tiles from one sum in shared memory to the next */
    EXACT = 8,     /* of 32 weights: computed by the special function unit */
    LIFT = 8,      /* weights are at most 2^LIFT */
    ROW = 128,     /* bytes of Scales that are written: groups, and zeros */
    OWN = 1,       /* named barrier of the first warpgroup that computes */
};

/* A tile's groups, as a row of 128 bytes that is the first of eight, which
 * swizzling leaves as it is. */
typedef struct __align__(1024) Scales {
    Cv8Group groups[GROUPS];
} Scales;

typedef struct Tiles {
    uint8_t q[2 * CV8_BYTES];
    uint8_t k[PLACES][TILE], v[PLACES][VALUES];
    float4 kept[2][RESULTS / 4][WARPGROUP];
    Scales scales[SCALES];
    uint64_t q_full, k_full[PLACES], v_full[PLACES];
    uint64_t k_empty[PLACES], v_empty[PLACES];
    int seen[THREADS]; /* by nobody */
} Tiles;

/* A weight 2^y has in e4m3 the bits 8 (y + 7) and, of y between two integers,
 * what is linear in it: at most 1.06 times too much, of which the mean goes into
 * the rounding. Codes are 128ths of 0..1, so that saturation keeps them above
 * 0, and land in bits 8 to 15 of BASE's. */
#define BASE (49152 + 0.5f - 0.45f)

static_assert(TILE % 1024 == 0 && VALUES % 512 == 0, "aligned tiles");
static_assert(sizeof(Cv8Group) * GROUPS <= ROW, "one row");

#if CV_HOPPER_CODE

/* Tiles of keys come from the last to the first: so only the first step, which
 * holds no results yet, has keys past the end. Groups, which threads read, are
 * copied by a tensor map: racecheck takes other copies for writes of this
 * thread, and does not know that k_full ends them. */
static __device__ __forceinline__ void load_all(Tiles *t,
                                                const CvTensorMap *scales,
                                                const Cv8 &x,
                                                const CvJob &job)
{
    const int tiles = job.end - job.begin;
    const int64_t first = (int64_t)job.head * x.k_groups;

    cv_mbarrier_expect(&t->q_full, sizeof(t->q));
    cv_bulk_load(t->q, x.q + ((int64_t)job.head * x.q_groups +
                              job.query / CV8_TOKENS) * CV8_BYTES,
                 sizeof(t->q), &t->q_full);
    for (int i = 0; i < tiles; i++) {
        int place = i % PLACES, parity = i / PLACES & 1;
        int64_t group = first + (job.end - 1 - i) * GROUPS;

        cv_mbarrier_wait(&t->k_empty[place], parity ^ 1);
        cv_mbarrier_expect(&t->k_full[place], TILE + ROW);
        cv_tma_load(t->scales[i % SCALES].groups, scales, &t->k_full[place],
                    0, (int)(group / GROUPS), 0);
        cv_bulk_load(t->k[place], x.k + group * CV8_BYTES, TILE,
                     &t->k_full[place]);
        cv_mbarrier_wait(&t->v_empty[place], parity ^ 1);
        cv_mbarrier_expect(&t->v_full[place], VALUES);
        cv_bulk_load(t->v[place], x.v + group * CV8_VALUES, VALUES,
                     &t->v_full[place]);
    }
}

/* Issue s = q k^T. q: the warpgroup's rows. Operands count 16 bytes, so what
 * follows in shared memory is reached by adding to them. */
static __device__ __forceinline__ void score(int (&s)[SCORES],
                                             const uint8_t *q,
                                             const uint8_t *k)
{
    const uint64_t a = cv_wgmma_operand(q, 8 * DIM, 16);
    const uint64_t b = cv_wgmma_operand(k, 8 * DIM, 16);

#pragma unroll
    for (int i = 0; i < DIM / 32; i++)
        cv_wgmma_s8_n192(s, a + 2 * i, b + 2 * i, i > 0);
    cv_wgmma_commit();
}

/* Issue o += p v. */
static __device__ __forceinline__ void gather(float (&o)[RESULTS],
                                              const uint32_t (&p)[SCORES / 4],
                                              const uint8_t *v)
{
    const uint64_t b = cv_wgmma_operand64(v);

#pragma unroll
    for (int i = 0; i < KEYS / 32; i++)
        cv_wgmma_e4m3_n136_r(o, p + 4 * i, b + i / 2 * (CV8_VALUES / 16) +
                                           i % 2 * 2);
    cv_wgmma_commit();
}

/* Keys past the end, which soften<true>() knows by this. */
static __device__ __forceinline__ void finish_keys(int (&s)[SCORES], int left)
{
    left -= (int)(threadIdx.x % 4) * 2;
#pragma unroll
    for (int i = 0; i < SCORES; i++)
        if (i / 4 * 8 + i % 2 >= left)
            s[i] = INT32_MIN;
}

/* The largest of a group's scores of a row, which are s[0], s[1], s[4] .. */
static __device__ __forceinline__ int group_max(const int *s)
{
    int top = cv_max3(s[0], s[1], s[4]);

    top = max(top, s[5]);
#pragma unroll
    for (int i = 8; i < SCORES / GROUPS; i += 4)
        top = cv_max3(top, s[i], s[i + 1]);
    return top;
}

/* Whether a weight is computed by the special function unit, which is the
 * bound where it does all. */
static __device__ __forceinline__ constexpr bool is_exact(int at)
{
    return at % 32 < EXACT;
}

/* Scores become weights: the bits of e4m3, in the second byte of a float32.
 * shrink: of what was gathered under the old tops. Tops are of scores in base 2
 * with the logarithm of the values' scale. */
template <bool is_last>
static __device__ __forceinline__ void soften(int (&s)[SCORES],
                                              float (&top)[2],
                                              float (&shrink)[2],
                                              const float (&factor)[2],
                                              const Cv8Group *groups)
{
    float key[GROUPS], value[GROUPS];

#pragma unroll
    for (int g = 0; g < GROUPS; g++) {
        const float2 group = *(const float2 *)(groups + g);

        key[g] = group.x;
        value[g] = group.y;
    }
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float t = top[h];

#pragma unroll
        for (int g = 0; g < GROUPS; g++) {
            int most = group_max(s + g * (SCORES / GROUPS) + 2 * h);

            /* A group past the end has no scores. */
            if (!is_last || most != INT32_MIN)
                t = fmaxf(t, __int2float_rn(most) * (factor[h] * key[g]) +
                             value[g]);
        }
        t = cv_row_max(t);
        shrink[h] = cv_exp2(top[h] - t);
        top[h] = t;
#pragma unroll
        for (int g = 0; g < GROUPS; g++) {
            const float by = factor[h] * key[g], add = value[g] - t;
            const float by16 = by * (1.0f / 16);
            const float add16 = add * (1.0f / 16) + (LIFT + 7) / 16.0f;

#pragma unroll
            for (int i = 0; i < SCORES / GROUPS; i++) {
                int at = g * (SCORES / GROUPS) + i;
                float x;

                if (i / 2 % 2 != h)
                    continue;
                x = __int2float_rn(s[at]);
                if (is_exact(at))
                    x = cv_exp2(x * by + (add + LIFT));
                else
                    x = __saturatef(x * by16 + add16) * 128 + BASE;
                if (is_last && s[at] == INT32_MIN)
                    x = is_exact(at) ? 0 : BASE;
                s[at] = __float_as_int(x);
            }
        }
    }
}

/* Weights as the left operand: attention8.cuh says why nothing moves. */
static __device__ __forceinline__ void pack(uint32_t (&p)[SCORES / 4],
                                            const int (&s)[SCORES])
{
#pragma unroll
    for (int i = 0; i < SCORES / 4; i++) {
        const int at = i / 4 * 16 + i % 4 / 2 * 8 + i % 2 * 2;
        const uint32_t low = __byte_perm((uint32_t)s[at],
                                         (uint32_t)s[at + 1], 0x0051);
        const uint32_t high = __byte_perm((uint32_t)s[at + 4],
                                          (uint32_t)s[at + 5], 0x0051);

        if (is_exact(at))
            p[i] = cv_pack_e4m3(__int_as_float(s[at]),
                                __int_as_float(s[at + 1]),
                                __int_as_float(s[at + 4]),
                                __int_as_float(s[at + 5]));
        else
            p[i] = __byte_perm(low, high, 0x5410);
    }
}

/* Weights that are computed before this stay before it. */
static __device__ __forceinline__ void hold_weights(uint32_t (&p)[SCORES / 4])
{
#pragma unroll
    for (int i = 0; i < SCORES / 4; i++)
        asm volatile("" : "+r"(p[i])::"memory");
}

/* One arrival a warp: its lanes' products have read the tile, and its lanes
 * what they read of the tiles before. Without __syncwarp() one lane would speak
 * for others that are not ordered before it. */
static __device__ __forceinline__ void done_with(uint64_t *empty)
{
    __syncwarp();
    if (threadIdx.x % CV_WARP == 0)
        cv_mbarrier_arrive(empty);
}

/* Add results that become `shrink` times what they are to those kept, which
 * become `old` times what they were, and begin anew. */
static __device__ __forceinline__ void keep(float (&o)[RESULTS],
                                            float4 (*kept)[WARPGROUP],
                                            const float (&old)[2],
                                            const float (&shrink)[2])
{
    float4 *at = &kept[0][threadIdx.x % WARPGROUP];

#pragma unroll
    for (int i = 0; i < RESULTS / 4; i++, at += WARPGROUP) {
        float4 v = *at;

        v.x = v.x * old[0] + o[4 * i] * shrink[0];
        v.y = v.y * old[0] + o[4 * i + 1] * shrink[0];
        v.z = v.z * old[1] + o[4 * i + 2] * shrink[1];
        v.w = v.w * old[1] + o[4 * i + 3] * shrink[1];
        *at = v;
#pragma unroll
        for (int j = 0; j < 4; j++)
            o[4 * i + j] = 0;
    }
}

/* All of it, back in registers. */
static __device__ __forceinline__ void fetch(float (&o)[RESULTS],
                                             const float4 (*kept)[WARPGROUP],
                                             const float (&old)[2])
{
    const float4 *at = &kept[0][threadIdx.x % WARPGROUP];

#pragma unroll
    for (int i = 0; i < RESULTS / 4; i++, at += WARPGROUP) {
        const float4 v = *at;

        o[4 * i] += v.x * old[0];
        o[4 * i + 1] += v.y * old[0];
        o[4 * i + 2] += v.z * old[1];
        o[4 * i + 3] += v.w * old[1];
    }
}

/* The sum of a row's weights, of which each of four lanes has a part. */
static __device__ __forceinline__ float sum_of(const float (&o)[RESULTS],
                                               int h)
{
    return cv_row_sum(o[DIM / 2 + 2 * h] +
                      o[DIM / 2 + 2 * h + 1] * (1.0f / (1 << CV8_FAR)));
}

/* What was gathered becomes results. */
static __device__ __forceinline__ void divide(float (&o)[RESULTS], float unit,
                                              const float *mean)
{
    const int lane = (int)(threadIdx.x % CV_WARP);
    float share[2];

#pragma unroll
    for (int h = 0; h < 2; h++)
        share[h] = __fdividef(unit, sum_of(o, h));
#pragma unroll
    for (int j = 0; j < DIM / 8; j++) {
        const float2 add = *(const float2 *)(mean + j * 8 + lane % 4 * 2);

#pragma unroll
        for (int h = 0; h < 2; h++) {
            o[4 * j + 2 * h] = o[4 * j + 2 * h] * share[h] + add.x;
            o[4 * j + 2 * h + 1] = o[4 * j + 2 * h + 1] * share[h] + add.y;
        }
    }
}

/* Write the warp's 16 rows through `stage`, as much shared memory. */
static __device__ __forceinline__ void write(const float (&o)[RESULTS],
                                             cv_bf16 *stage,
                                             cv_bf16 *out, int64_t step,
                                             int rows)
{
    const int lane = (int)(threadIdx.x % CV_WARP);

#pragma unroll
    for (int j = 0; j < DIM / 8; j++)
#pragma unroll
        for (int h = 0; h < 2; h++)
            *(uint32_t *)(stage + cv_tile_at<DIM>(h * 8 + lane / 4, j) +
                          lane % 4 * 2) =
                cv_pack_bf16(o[4 * j + 2 * h], o[4 * j + 2 * h + 1]);
    __syncwarp();
#pragma unroll
    for (int i = 0; i < 16 * DIM / 8 / CV_WARP; i++) {
        int at = lane + i * CV_WARP, row = at / 16, chunk = at % 16;

        if (row < rows)
            *(uint4 *)(out + row * step + chunk * 8) =
                *(const uint4 *)(stage + cv_tile_at<DIM>(row, chunk));
    }
}

/* The warp's 16 rows, for cv_cuda_merge_parts(). */
static __device__ __forceinline__ void write_part(const float (&o)[RESULTS],
                                                  const float (&top)[2],
                                                  const CvPlan &plan, int row)
{
    const int lane = (int)(threadIdx.x % CV_WARP);

    row += lane / 4;
#pragma unroll
    for (int h = 0; h < 2; h++, row += 8) {
        float *to = plan.results + (int64_t)row * DIM + lane % 4 * 2;
        float all = sum_of(o, h);

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
                                               const Cv8 &x,
                                               const CvPlan &plan,
                                               const CvJob &job, int group)
{
    const int tiles = job.end - job.begin;
    const int warp = (int)(threadIdx.x % WARPGROUP / CV_WARP);
    const int lane = (int)(threadIdx.x % CV_WARP);
    const uint8_t *q = t->q + group * CV8_BYTES;
    const int first = job.query + group * ROWS + warp * 16;
    const int64_t step = (int64_t)a.heads * DIM;
    const float *factors = x.q_factor +
                           (int64_t)job.head * x.q_groups * CV8_TOKENS + first;
    const float factor[2] = { factors[lane / 4], factors[lane / 4 + 8] };
    const Cv8Channels *channels = &x.channels[x.head + job.head];
    float o[RESULTS], top[2], shrink[2], kept_top[2], old[2];
    float4 (*kept)[WARPGROUP] = t->kept[group];
    uint32_t p[SCORES / 4];
    int s[SCORES];

#pragma unroll
    for (int i = 0; i < RESULTS; i++)
        o[i] = 0;
#pragma unroll
    for (int i = 0; i < SCORES; i++)
        s[i] = 0;
#pragma unroll
    for (int i = 0; i < RESULTS / 4; i++)
        kept[i][threadIdx.x % WARPGROUP] = make_float4(0, 0, 0, 0);
    top[0] = top[1] = kept_top[0] = kept_top[1] = -INFINITY;
    cv_mbarrier_wait(&t->q_full, 0);
    cv_mbarrier_wait(&t->k_full[0], 0);
    cv_wgmma_hold(s);
    cv_wgmma_fence();
    score(s, q, t->k[0]);
    cv_wgmma_wait<0>();
    cv_wgmma_hold(s);
    done_with(&t->k_empty[0]);
    finish_keys(s, a.m - (job.end - 1) * KEYS);
    soften<true>(s, top, shrink, factor, t->scales[0].groups);
    pack(p, s);
    for (int i = 1; i < tiles; i++) {
        const int now = i % PLACES, before = (i - 1) % PLACES;

        cv_mbarrier_wait(&t->k_full[now], i / PLACES & 1);
        cv_wgmma_hold(s);
        cv_wgmma_hold(o);
        hold_weights(p);
        cv_wgmma_fence();
        score(s, q, t->k[now]);
        cv_mbarrier_wait(&t->v_full[before], (i - 1) / PLACES & 1);
        cv_wgmma_fence();
        gather(o, p, t->v[before]);
        cv_wgmma_wait<1>();
        cv_wgmma_hold(s);
        done_with(&t->k_empty[now]);
        soften<false>(s, top, shrink, factor, t->scales[i % SCALES].groups);
        cv_wgmma_hold(s);
        /* Weights are made while the product is under way: the assembler moves
         * the wait up to the scores otherwise, but not over a store. */
        *(volatile int *)&t->seen[threadIdx.x] = s[SCORES - 1];
        cv_wgmma_wait<0>();
        cv_wgmma_hold(o);
        done_with(&t->v_empty[before]);
        pack(p, s);
        if (i % KEEP == 0) {
#pragma unroll
            for (int h = 0; h < 2; h++) {
                old[h] = cv_exp2(kept_top[h] - top[h]);
                kept_top[h] = top[h];
            }
            keep(o, kept, old, shrink);
        } else if (__any_sync(0xffffffffu,
                              shrink[0] != 1 || shrink[1] != 1)) {
            /* After some tiles, few have a new top. */
#pragma unroll
            for (int j = 0; j < RESULTS; j++)
                o[j] *= shrink[j / 2 % 2];
        }
    }
    cv_mbarrier_wait(&t->v_full[(tiles - 1) % PLACES],
                     (tiles - 1) / PLACES & 1);
    cv_wgmma_hold(o);
    hold_weights(p);
    cv_wgmma_fence();
    gather(o, p, t->v[(tiles - 1) % PLACES]);
    cv_wgmma_wait<0>();
    cv_wgmma_hold(o);
#pragma unroll
    for (int h = 0; h < 2; h++)
        old[h] = cv_exp2(kept_top[h] - top[h]);
    fetch(o, kept, old);
    if (job.shared >= 0) {
        write_part(o, top, plan,
                   job.shared * QUERIES + group * ROWS + warp * 16);
        return;
    }
    divide(o, channels->value_unit, channels->value_mean);
    /* The warpgroup has fetched what it kept, and its place is free. */
    cv_named_wait(OWN + group, WARPGROUP);
    if (is_narrow)
        cv_write_narrow(o, a, x.head + job.head, first,
                        (uint8_t *)kept + warp * 16 * DIM);
    else
        write(o, (cv_bf16 *)kept + warp * 16 * DIM,
              (cv_bf16 *)a.out + first * step +
              (int64_t)(x.head + job.head) * DIM, step, a.n - first);
}

#endif /* CV_HOPPER_CODE */

template <bool is_narrow>
static __global__ void __launch_bounds__(THREADS, 1)
attention8_kernel(const __grid_constant__ CvTensorMap scales, CvAttend a,
                  Cv8 x, CvPlan plan)
{
#if CV_HOPPER_CODE
    CV_DYNAMIC_SHARED(Tiles, t);
    const CvJob job = cv_find_job(plan);
    /* So that the compiler sees that it is the same for a warp. */
    const int role = __shfl_sync(0xffffffffu,
                                 (int)(threadIdx.x / WARPGROUP), 0);

    if (threadIdx.x == 0) {
        cv_tma_prefetch(&scales);
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
            load_all(t, &scales, x, job);
    } else {
        cv_registers_take<240>();
        compute<is_narrow>(t, a, x, plan, job, role - 1);
    }
#else
    (void)scales;
    (void)a;
    (void)x;
    (void)plan;
#endif
}

int cv_cuda_attention8_attend(CvCuda *cuda, const CvAttend *a, const Cv8 *x,
                              const CvPlan *plan, int blocks)
{
    /* Rows of a tile's groups, as bf16; boxes are longer: zeros. */
    const int64_t dim[3] = { sizeof(Cv8Group) * GROUPS / 2,
                             (int64_t)x->heads * x->k_groups / GROUPS, 1 };
    const int64_t step[2] = { dim[0], dim[0] * dim[1] };
    const int box[3] = { ROW / 2, 1, 1 };
    auto kernel = a->out_scale ? attention8_kernel<true>
                               : attention8_kernel<false>;
    CvTensorMap scales;
    int err = cv_tensor_map(cuda, &scales, x->groups, dim, step, box);

    if (!err)
        err = CV_LAUNCH(cuda, cuda->stream, kernel, blocks, THREADS,
                        sizeof(Tiles), scales, *a, *x, *plan);
    return err;
}
