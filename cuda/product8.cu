/*
 * Linear layers from fp8 to fp8 on sm_90a: the product, what follows it, and a
 * scale for each row.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * The scale of a row of outputs is wanted before any of them is known: it comes
 * from a bound. By Cauchy and Schwarz, no |y| of a row is above |x|_2 times the
 * largest |w|_2, plus the largest bias, and |gelu(y)| <= |y|. A first kernel
 * computes the norms of all rows of x and of w. Such a scale is 10 to 60 times
 * too large, but E4M3 keeps its 3 bits over 15 powers of two; docs/kernels.md
 * has what it costs, which is next to nothing.
 *
 * A block takes tile after tile of 256 rows x 192 columns:
 * - One thread copies x and w by TMA, 64 deep, into four stages of 28 KB.
 * - Two warpgroups multiply, 128 x 192 sums in 192 registers of each thread.
 *   So large a tile asks L2 for 28 KB in 768 clocks: 6.4 TB/s at 1400 TFLOP/s,
 *   where 128 x 256 would ask for 8.2 (or for clusters), and 128 x 192 in turns
 *   of warpgroups for 8.9.
 * - Sums leave as bf16 through 100 KB of shared memory, so that the next tile
 *   can begin 800 clocks later. Three more warps scale them, add the bias, and
 *   write GELU in fp8 meanwhile: 512 numbers a lane, 14,000 clocks (predicted)
 *   where a tile takes 18,400 or more. After a block's last tile warps of the
 *   others help.
 * wgmma reads 83 and the copies write 37 of the 128 bytes that shared memory
 * has a clock. Bound by the tensor cores, and by power. Not measured; predicted
 * for an H200:
 *   32,760: 5120 -> 13,824  69.8 waves, 3.35 ms and 0.06 of norms (the library
 *       and what follows it: 3.96)
 *   4,680: 1536 -> 8960     6.8 waves, 0.10 ms and 0.01 (0.14)
 */
#include "fp8.cuh"
#include "hopper8.cuh"
#include "vector.cuh"

enum {
    ROWS = 256, COLUMNS = 192, DEPTH = 64,
    STAGES = 4,
    BAND = 12,          /* tiles of rows that share columns in L2 */
    SUMS = COLUMNS / 2, /* of a thread, for 64 rows */
    WARPGROUP = 128,
    THREADS = 3 * WARPGROUP,
    MULTIPLIERS = 8,    /* warps */
    TEAM = 3,           /* warps that finish four rows at a time */
    VECTORS = COLUMNS / 8, /* of a row: a lane has one */
    TEAM_ROWS = TEAM * CV_WARP / VECTORS,
    STEP = 2 * COLUMNS + 16, /* bytes from row to row of sums: pairs as wgmma
                              * leaves them touch every bank once */
    NORM_ROWS = 8,      /* of a block */
    TAKEN = 224, GIVEN = 56, /* registers of a thread that multiplies, or not */
};

static_assert(TEAM * CV_WARP % VECTORS == 0 && ROWS % TEAM_ROWS == 0,
              "a team has whole rows");
/* What a block gets when it begins; with more, taking waits for ever. */
static_assert(WARPGROUP * (GIVEN + 2 * TAKEN) <= 65536 / THREADS / 8 * 8 *
                                                 THREADS, "registers");

/* Factors of a row: of its sums, and to fp8. */
typedef struct Factors {
    float in, out;
} Factors;

typedef struct Shared {
    uint8_t x[STAGES][ROWS * DEPTH], w[STAGES][COLUMNS * DEPTH];
    uint8_t sums[ROWS * STEP]; /* bf16 */
    Factors rows[ROWS];
    uint64_t full[STAGES], empty[STAGES], made, taken;
} Shared;

/* The largest norm of some rows of w, and the largest bias. */
typedef struct Largest {
    float norm, bias;
} Largest;

typedef struct Job {
    CvTensorMap x, w;
    int64_t n, o, depth;
    int down, across, tiles, steps; /* steps: DEPTH each */
    const float *x_scale, *w_scale;
    const cv_bf16 *bias;            /* or NULL */
    float *norms;                   /* of rows of x */
    Largest *largest;
    int n_largest, gelu;
    uint8_t *out;
    float *out_scale;
} Job;

/* ---- norms ---- */

static __device__ __forceinline__ float squares(uint32_t bytes)
{
    float sum = 0;

#pragma unroll
    for (int i = 0; i < 4; i++) {
        float v = __uint_as_float((bytes >> 8 * i & 0x7f) << 20) * 0x1p120f;

        sum += v * v;
    }
    return sum;
}

/* A warp has a row, of x and then of w. */
static __global__ void __launch_bounds__(NORM_ROWS *CV_WARP)
product8_norms_kernel(const Job job, const uint8_t *__restrict__ x,
                      const uint8_t *__restrict__ w, int x_blocks)
{
    cv_begin();
    __shared__ Largest found[NORM_ROWS];
    const int warp = (int)threadIdx.x / CV_WARP;
    const int lane = (int)threadIdx.x % CV_WARP;
    const bool of_x = (int)blockIdx.x < x_blocks;
    const int block = (int)blockIdx.x - (of_x ? 0 : x_blocks);
    const int64_t row = (int64_t)block * NORM_ROWS + warp;
    const bool exists = row < (of_x ? job.n : job.o);
    const uint4 *from = (const uint4 *)((of_x ? x : w) + row * job.depth);
    float sum = 0, bias = 0;

#pragma unroll 4
    for (int64_t i = lane; exists && i < job.depth / 16; i += CV_WARP) {
        const uint4 v = __ldg(from + i);

        sum += (squares(v.x) + squares(v.y)) + (squares(v.z) + squares(v.w));
    }
    sum = sqrtf(cv_warp_sum(sum));
    if (exists)
        sum *= fabsf((of_x ? job.x_scale : job.w_scale)[row]);
    if (of_x) {
        if (exists && lane == 0)
            job.norms[row] = sum;
        return;
    }
    if (exists && job.bias)
        bias = fabsf(cv_load(job.bias + row));
    if (lane == 0)
        found[warp] = Largest{ sum, bias };
    __syncthreads();
    if (threadIdx.x == 0) {
        for (int i = 0; i < NORM_ROWS; i++) {
            sum = fmaxf(sum, found[i].norm);
            bias = fmaxf(bias, found[i].bias);
        }
        job.largest[block] = Largest{ sum, bias };
    }
}

/* ---- the product ---- */

#if CV_HOPPER_CODE

/* Where a tile begins. BAND tiles of rows go through all columns together, so
 * that what a wave reads is in L2: 26 MB at 5120 deep. */
typedef struct Tile {
    int64_t row, column;
} Tile;

static __device__ __forceinline__ Tile find_tile(const Job &job, int i)
{
    const int band = i / (BAND * job.across) * BAND;
    const int rows = min(BAND, job.down - band);

    i %= BAND * job.across;
    return Tile{ (int64_t)(band + i % rows) * ROWS,
                 (int64_t)(i / rows) * COLUMNS };
}

/* A place in the ring of stages. */
typedef struct Ring {
    int stage, parity;
} Ring;

static __device__ __forceinline__ void advance(Ring *ring)
{
    if (++ring->stage == STAGES) {
        ring->stage = 0;
        ring->parity ^= 1;
    }
}

static __device__ __forceinline__ void copy_all(Shared *t, const Job &job)
{
    Ring at = { 0, 0 };

    cv_tma_prefetch(&job.x);
    cv_tma_prefetch(&job.w);
    for (int i = (int)blockIdx.x; i < job.tiles; i += (int)gridDim.x) {
        const Tile tile = find_tile(job, i);

        for (int k = 0; k < job.steps; k++) {
            uint64_t *full = &t->full[at.stage];

            cv_mbarrier_wait(&t->empty[at.stage], at.parity ^ 1);
            cv_mbarrier_expect(full, sizeof(t->x[0]) + sizeof(t->w[0]));
            cv_tma_load(t->x[at.stage], &job.x, full, k * DEPTH,
                        (int)tile.row, 0);
            cv_tma_load(t->w[at.stage], &job.w, full, k * DEPTH,
                        (int)tile.column, 0);
            advance(&at);
        }
    }
}

/* One arrival a warp: its lanes have read, or written. */
static __device__ __forceinline__ void arrive(uint64_t *barrier)
{
    __syncwarp();
    if (threadIdx.x % CV_WARP == 0)
        cv_mbarrier_arrive(barrier);
}

/* The sums of a warpgroup's 128 rows; `group` 0 or 1. Products of a stage are
 * waited for after the next one's were issued. */
static __device__ __forceinline__ void multiply_tile(Shared *t, const Job &job,
                                                     int group, Ring *at,
                                                     float (&sum)[2][SUMS])
{
    int before = 0;

    for (int k = 0; k < job.steps; k++) {
        const uint64_t a = cv_wgmma_operand64(t->x[at->stage] +
                                              group * (ROWS / 2 * DEPTH));
        const uint64_t b = cv_wgmma_operand64(t->w[at->stage]);

        cv_mbarrier_wait(&t->full[at->stage], at->parity);
        cv_wgmma_fence();
#pragma unroll
        for (int i = 0; i < DEPTH / 32; i++)
#pragma unroll
            for (int h = 0; h < 2; h++)
                cv_wgmma_e4m3_n192(sum[h], a + h * (64 * DEPTH / 16) + 2 * i,
                                   b + 2 * i, k + i > 0);
        cv_wgmma_commit();
        cv_wgmma_wait<1>();
        if (k > 0)
            arrive(&t->empty[before]);
        before = at->stage;
        advance(at);
    }
    cv_wgmma_wait<0>();
    cv_wgmma_hold(sum[0]);
    cv_wgmma_hold(sum[1]);
    arrive(&t->empty[before]);
}

/* Into shared memory, as bf16. */
static __device__ __forceinline__ void leave(Shared *t, int group,
                                             const float (&sum)[2][SUMS])
{
    const int lane = (int)threadIdx.x % CV_WARP;
    const int warp = (int)threadIdx.x % WARPGROUP / CV_WARP;
    uint8_t *to = t->sums + (group * (ROWS / 2) + warp * 16 + lane / 4) * STEP +
                  lane % 4 * 4;

#pragma unroll
    for (int h = 0; h < 2; h++)
#pragma unroll
        for (int j = 0; j < SUMS; j += 2)
            *(uint32_t *)(to + (h * 64 + j / 2 % 2 * 8) * STEP + j / 4 * 16) =
                cv_pack_pair(sum[h][j], sum[h][j + 1]);
}

/* As cv_gelu_of<true>(), with the logarithm's base in the factors. */
static __device__ __forceinline__ float gelu(float x)
{
    const float u = x * (-2.30220819f - 0.102943239f * x * x);

    return __fdividef(x, 1.0f + cv_exp2(u));
}

/* Every `step`th row of a tile from `row` on, in 8 columns; two at a time, and
 * one test of kGelu for all, so that a warp has several exponentials under way:
 * tested for each, they would wait for one another. Where there is no second
 * row, the last one is written twice. */
template <bool kGelu>
static __device__ __forceinline__ void
finish_rows(const Shared *t, const Job &job, Tile tile, int vector, int row,
            int step)
{
    const int64_t column = tile.column + vector * 8;
    const int rows = (int)min((int64_t)ROWS, job.n - tile.row);
    uint8_t *out = job.out + tile.row * job.o + column;
    float scale[8], bias[8] = {};

    if (column >= job.o)
        return;
    cv_load_n<8>(scale, job.w_scale + column);
    if (job.bias)
        cv_load_n<8>(bias, job.bias + column);
    for (; row < rows; row += 2 * step) {
        const int at[2] = { row, min(row + step, rows - 1) };
        float v[2][8];

#pragma unroll
        for (int h = 0; h < 2; h++) {
            const Factors f = t->rows[at[h]];

            cv_unpack<cv_bf16>(v[h], *(const uint4 *)(t->sums + at[h] * STEP +
                                                      vector * 16));
#pragma unroll
            for (int i = 0; i < 8; i++) {
                v[h][i] = v[h][i] * (f.in * scale[i]) + bias[i];
                v[h][i] = (kGelu ? gelu(v[h][i]) : v[h][i]) * f.out;
            }
        }
#pragma unroll
        for (int h = 0; h < 2; h++)
            *(uint2 *)(out + at[h] * job.o) = make_uint2(
                cv_pack_fp8(v[h]), cv_pack_fp8(v[h] + 4));
    }
}

/* One of `teams` teams; thread: of the team's. */
static __device__ __forceinline__ void finish_tile(const Shared *t,
                                                   const Job &job, Tile tile,
                                                   int team, int teams,
                                                   int thread)
{
    const int vector = thread % VECTORS;
    const int row = team * TEAM_ROWS + thread / VECTORS;

    if (job.gelu)
        finish_rows<true>(t, job, tile, vector, row, teams * TEAM_ROWS);
    else
        finish_rows<false>(t, job, tile, vector, row, teams * TEAM_ROWS);
}

/* The largest of all, in every lane. */
static __device__ __forceinline__ Largest find_largest(const Job &job)
{
    Largest all = { 0, 0 };

#pragma unroll 4
    for (int i = (int)threadIdx.x % CV_WARP; i < job.n_largest; i += CV_WARP) {
        const float2 v = __ldg((const float2 *)(job.largest + i));

        all.norm = fmaxf(all.norm, v.x);
        all.bias = fmaxf(all.bias, v.y);
    }
    for (int i = CV_WARP / 2; i > 0; i /= 2) {
        all.norm = fmaxf(all.norm, __shfl_xor_sync(0xffffffffu, all.norm, i));
        all.bias = fmaxf(all.bias, __shfl_xor_sync(0xffffffffu, all.bias, i));
    }
    return all;
}

/* Factors of a tile's rows; scales are written with the first columns. */
static __device__ __forceinline__ void make_factors(Shared *t, const Job &job,
                                                    Tile tile, Largest largest,
                                                    int thread)
{
    for (int i = thread; i < ROWS && tile.row + i < job.n;
         i += TEAM * CV_WARP) {
        const int64_t row = tile.row + i;
        Factors f;
        const float factor = cv_row_scale(
            __float_as_uint(job.norms[row] * largest.norm + largest.bias),
            &f.out);

        f.in = job.x_scale[row];
        t->rows[i] = f;
        if (!tile.column)
            job.out_scale[row] = factor;
    }
}

enum { TEAM_BARRIER = 1, LAST_BARRIER = 2 };

static __device__ __forceinline__ void finish_all(Shared *t, const Job &job)
{
    const int thread = (int)threadIdx.x - CV_WARP, team = TEAM * CV_WARP;
    const Largest largest = find_largest(job);
    int parity = 0;

    for (int i = (int)blockIdx.x; i < job.tiles; i += (int)gridDim.x) {
        const bool is_last = i + (int)gridDim.x >= job.tiles;
        const Tile tile = find_tile(job, i);

        cv_named_wait(TEAM_BARRIER, team); /* nobody needs the old ones */
        make_factors(t, job, tile, largest, thread);
        if (is_last)
            cv_named_wait(LAST_BARRIER, 3 * team);
        else
            cv_named_wait(TEAM_BARRIER, team);
        cv_mbarrier_wait(&t->made, parity);
        finish_tile(t, job, tile, 0, is_last ? 3 : 1, thread);
        arrive(&t->taken);
        parity ^= 1;
    }
}

static __device__ __forceinline__ void multiply_all(Shared *t, const Job &job,
                                                    int group)
{
    const int thread = (int)threadIdx.x % WARPGROUP;
    float sum[2][SUMS];
    Ring at = { 0, 0 };
    int parity = 0, last = 0;

#pragma unroll
    for (int i = 0; i < SUMS; i++)
        sum[0][i] = sum[1][i] = 0;
    for (int i = (int)blockIdx.x; i < job.tiles; i += (int)gridDim.x) {
        multiply_tile(t, job, group, &at, sum);
        cv_mbarrier_wait(&t->taken, parity ^ 1);
        leave(t, group, sum);
        arrive(&t->made);
        parity ^= 1;
        last = i;
    }
    if (thread >= TEAM * CV_WARP)
        return;
    cv_named_wait(LAST_BARRIER, 3 * TEAM * CV_WARP);
    cv_mbarrier_wait(&t->made, parity ^ 1);
    finish_tile(t, job, find_tile(job, last), 1 + group, 3, thread);
}

#endif /* CV_HOPPER_CODE */

static __global__ void __launch_bounds__(THREADS, 1)
product8_kernel(const __grid_constant__ Job job)
{
#if CV_HOPPER_CODE
    CV_DYNAMIC_SHARED(Shared, t);
    /* So that the compiler sees that it is the same for a warp. */
    const int warp = __shfl_sync(0xffffffffu, (int)threadIdx.x / CV_WARP, 0);

    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; i++) {
            cv_mbarrier_init(&t->full[i], 1);
            cv_mbarrier_init(&t->empty[i], MULTIPLIERS);
        }
        cv_mbarrier_init(&t->made, MULTIPLIERS);
        cv_mbarrier_init(&t->taken, TEAM);
        cv_mbarrier_init_done();
    }
    cv_begin();
    __syncthreads();
    if (warp >= WARPGROUP / CV_WARP) {
        cv_registers_take<TAKEN>();
        multiply_all(t, job, warp / (WARPGROUP / CV_WARP) - 1);
    } else {
        cv_registers_give<GIVEN>();
        if (warp)
            finish_all(t, job);
        else if (threadIdx.x == 0)
            copy_all(t, job);
    }
#else
    (void)job;
#endif
}

/* ---- the host's part ---- */

static int takes(const CvCuda *cuda, const CvLinear *a)
{
    const uintptr_t bits = (uintptr_t)a->x->data | (uintptr_t)a->weight->data |
                           (uintptr_t)a->scale->data |
                           (uintptr_t)(a->bias ? a->bias->data : NULL);
    const int64_t n = a->x->dim[0], o = a->out->dim[1];

    return cuda->hopper && bits % 16 == 0 && (uintptr_t)a->out->data % 8 == 0 &&
           a->x->dim[1] > 0 && a->x->dim[1] % 16 == 0 && o % 8 == 0 &&
           n < INT32_MAX / 2 && o < INT32_MAX / 2;
}

static int map_rows(CvCuda *cuda, CvTensorMap *map, const CvTensor *x, int rows)
{
    const int64_t dim[] = { x->dim[1], x->dim[0], 1 };
    const int64_t step[] = { x->dim[1], x->dim[0] * x->dim[1] };
    const int box[] = { DEPTH, rows, 1 };

    return cv_tensor_map_of(cuda, map, cv_form_bytes, 3, x->data, dim, step,
                            box);
}

int cv_cuda_product8(CvCuda *cuda, const CvLinear *a)
{
    const int64_t n = a->x->dim[0], o = a->out->dim[1];
    const size_t norm_bytes = (size_t)(n + 1) / 2 * 2 * sizeof(float);
    const unsigned x_blocks = cv_blocks(n, NORM_ROWS);
    const unsigned w_blocks = cv_blocks(o, NORM_ROWS);
    int64_t tiles;
    int err;
    Job job;

    if (!takes(cuda, a) || norm_bytes + w_blocks * sizeof(Largest) >
                               cuda->scratch_bytes)
        return CAUSVID_ERR(ENOSYS);
    job.n         = n;
    job.o         = o;
    job.depth     = a->x->dim[1];
    job.down      = (int)cv_blocks(n, ROWS);
    job.across    = (int)cv_blocks(o, COLUMNS);
    job.steps     = (int)cv_blocks(job.depth, DEPTH);
    job.x_scale   = (const float *)a->x_scale->data;
    job.w_scale   = (const float *)a->scale->data;
    job.bias      = a->bias ? (const cv_bf16 *)a->bias->data : NULL;
    job.norms     = (float *)cuda->scratch;
    job.largest   = (Largest *)((uint8_t *)cuda->scratch + norm_bytes);
    job.n_largest = (int)w_blocks;
    job.gelu      = a->epilogue == CV_EPI_GELU;
    job.out       = (uint8_t *)a->out->data;
    job.out_scale = (float *)a->out_scale->data;
    tiles = (int64_t)job.down * job.across;
    if (tiles > INT32_MAX / 2)
        return CAUSVID_ERR(ENOSYS);
    job.tiles = (int)tiles;
    if ((err = map_rows(cuda, &job.x, a->x, ROWS)) < 0 ||
        (err = map_rows(cuda, &job.w, a->weight, COLUMNS)) < 0)
        return err;
    err = CV_LAUNCH(cuda, cuda->stream, product8_norms_kernel,
                    x_blocks + w_blocks, NORM_ROWS * CV_WARP, 0, job,
                    (const uint8_t *)a->x->data,
                    (const uint8_t *)a->weight->data, (int)x_blocks);
    if (err)
        return err;
    return CV_LAUNCH(cuda, cuda->stream, product8_kernel,
                     (unsigned)min(job.tiles, cuda->processors), THREADS,
                     sizeof(Shared), job);
}
