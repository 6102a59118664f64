/*
 * Convolution with wgmma: where tiles are, and what becomes of their sums.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * wgmma leaves a lane two neighbouring channels of a pixel in a place; written
 * like that, a warp's 4 bytes a lane go to 8 places of 16 bytes. So each warp
 * lays its 16 pixels into shared memory of its own (a stage), from where it
 * writes 16 bytes a lane, whole pixels next to each other. What is added is
 * fetched into the same place, by cp.async, when the tile begins.
 *
 * Where a tile has all channels of its pixels, norm and SiLU are done here
 * as well: a pixel's sum of squares is in four lanes. SiLU takes 1.5
 * operations of the special function unit (cv_silu_pair): 24,576 numbers of a
 * tile of 96 channels are 2,300 clocks of it, beside 31,000 of wgmma; as a
 * kernel of its own the norm would read and write them again, 6,400 clocks at
 * the bandwidth of device memory (predicted).
 */
#ifndef CV_CUDA_CONV_HOPPER_CUH
#define CV_CUDA_CONV_HOPPER_CUH

#include "conv.cuh"
#include "hopper.cuh"
#include "stamps.cuh"
#include "vector.cuh"

enum {
    kShare = 1,       /* one window for all taps of a frame, or one each */
    kSide = 8, kChannels = 64, kRow = 2 * kChannels,
    kMaxStages = 8,
    kBarrierBytes = 256,
};

/* Places of stamps: of those who multiply, and of the one who copies. */
enum { kAtFind, kAtFirst, kAtWindow, kAtWeights, kAtProducts, kAtDrain,
       kAtSums, kAtWrite, kAtNorm };
enum { kAtCopy = kAtFirst };

/* Division of numbers below 2^31 by one that the host knows. */
typedef struct Divisor {
    int by, shift;
    uint32_t factor;
} Divisor;

static inline Divisor divisor(int by)
{
    int bits = 0;

    while ((int64_t)1 << bits < by)
        bits++;
    return { by, 31 + bits,
             (uint32_t)((((uint64_t)1 << (31 + bits)) + by - 1) / by) };
}

static __device__ __forceinline__ int divide(int n, const Divisor *d)
{
    return kBrief ? (int)((uint64_t)(uint32_t)n * d->factor >> d->shift)
                  : n / d->by;
}

typedef struct Plan {
    CvTensorMap x, history, weight;
    int phases;                /* 4: up = 2 */
    Divisor down, across;      /* squares of a frame */
    int squares;               /* of a phase */
    Divisor groups, n_tiles;   /* of squares; across channels */
    int tiles;                 /* in all */
    int kh, kw;                /* taps of a phase */
    int outer_h, outer_w, inner_h, inner_w; /* windows, and taps in each */
    int chunks;                /* of kChannels */
    int row_bytes, box_bytes, window_bytes; /* window: box, aligned */
    int a_stages, b_stages;
    int staged; /* outputs go through shared memory */
} Plan;

/* A tile: `groups` warpgroups have `own` squares each, of n channels. Four
 * more warps are the one that copies and three that only give their registers
 * to the others. */
template <int n, int groups, int own> struct Shape {
    static constexpr int kN = n, kOwn = own, kSums = n / 2; /* of a lane */
    static constexpr int kSquares = groups * own, kWarps = groups * 4;
    static constexpr int kThreads = (kWarps + 4) * CV_WARP;
    static constexpr int kGiven = groups == 3 ? 24 : 40;
    static constexpr int kTaken = groups == 3 ? 160 : 232;

    /* A warp's part of a square in shared memory, its stage: 16 pixels, so far
     * apart that pairs as wgmma leaves them touch every bank once. A warp has
     * stages for all its squares or for one at a time. */
    static constexpr int kRowBytes = 2 * n + 16, kBytes = 16 * kRowBytes;
    static constexpr int kParts = n / 8; /* 16 bytes of a pixel */
    static constexpr int kCopies = 16 * kParts / CV_WARP; /* of a lane */
    static constexpr int kStages = n > 96 ? 1 : own;
    /* A lane's pieces i and i + kPeriod are in one column, kDown rows apart. */
    static constexpr int kPeriod = kParts % 3 ? 1 : 3;
    static constexpr int kDown = kPeriod * CV_WARP / kParts;
    static_assert(kPeriod * CV_WARP % kParts == 0 &&
                  (kDown <= kSide ? kSide % kDown == 0 : kCopies == kPeriod),
                  "find_piece() does not carry from columns to rows");
    /* After the barriers: gamma, where a tile has all channels. */
    static constexpr int kKept = kWarps * kStages * kBytes + kBarrierBytes +
                                 n * (int)sizeof(float);

    /* Pairs of biases that a lane has registers for, and whether so already
     * while it multiplies. */
    static constexpr int kBiases = kParts > 16 ? 12 : kParts;
    static constexpr bool kEarly = groups == 2 && n <= 96;
    static constexpr int kUnroll = kBrief ? kCopies : 4;

    /* Of a lane's piece: its pixel, its channels, its place in the stage. */
    static __device__ __forceinline__ int row(int i)
    {
        return (int)((threadIdx.x % CV_WARP + i * CV_WARP) / kParts);
    }

    static __device__ __forceinline__ int column(int i)
    {
        return (int)((threadIdx.x % CV_WARP + i * CV_WARP) % kParts * 8);
    }

    static __device__ __forceinline__ int place(int i)
    {
        return row(i % kPeriod) * kRowBytes + 2 * column(i % kPeriod) +
               i / kPeriod * kDown * kRowBytes;
    }
};

#if CV_HOPPER_CODE

/* Where a tile is. */
typedef struct Tile {
    int n0, phase, square; /* the first of its squares */
} Tile;

template <typename S>
static __device__ __forceinline__ Tile find_tile(const Plan *plan, int i)
{
    int group = divide(i, &plan->n_tiles);
    Tile tile;

    tile.n0 = (i - group * plan->n_tiles.by) * S::kN;
    tile.phase = divide(group, &plan->groups);
    tile.square = (group - tile.phase * plan->groups.by) * S::kSquares;
    return tile;
}

/* A square's output frame, row and column (of its phase). Past the last one:
 * a frame far outside, of zeros. */
static __device__ __forceinline__ CvConvPixel find_square(const Plan *plan,
                                                          int square)
{
    CvConvPixel at = { 1 << 28, 0, 0 };

    if (square < plan->squares) {
        int row = divide(square, &plan->across);

        at.f = divide(row, &plan->down);
        at.x = (square - row * plan->across.by) * kSide;
        at.y = (row - at.f * plan->down.by) * kSide;
    }
    return at;
}

/* The pixel of row `row` of a warp's part of a square, 2 rows of 8 of them;
 * job->m: there is none. */
static __device__ __forceinline__ int find_pixel(const Plan *plan,
                                                 const CvConvJob *job,
                                                 Tile tile, CvConvPixel at,
                                                 int row)
{
    int up = plan->phases > 1 ? 2 : 1;
    int y = at.y + (int)threadIdx.x / CV_WARP % 4 * 2 + row / 8;
    int x = at.x + row % 8;

    y = y * up + tile.phase / 2;
    x = x * up + tile.phase % 2;
    return at.f < job->to && y < job->ho && x < job->wo
               ? (at.f * job->ho + y) * job->wo + x : job->m;
}

/* A warp's part of a square in a tensor like the output. */
typedef struct Part {
    int64_t at, line; /* elements: to its first pixel, from a row to the next */
    int step;         /* from a pixel to the next */
    int high, wide, deep; /* rows, pixels, channels that there are from `at` */
} Part;

static __device__ __forceinline__ Part find_part(const Plan *plan,
                                                 const CvConvJob *job,
                                                 Tile tile, CvConvPixel at)
{
    int twice = plan->phases > 1;
    int y = at.y + (int)threadIdx.x / CV_WARP % 4 * 2;
    Part part;

    part.high = at.f < job->to ? (job->ho >> twice) - y : 0;
    part.wide = (job->wo >> twice) - at.x;
    part.deep = job->o - tile.n0;
    part.step = job->o << twice;
    part.line = (int64_t)(job->wo << twice) * job->o;
    y = (at.f < job->to ? at.f : 0) * job->ho + (y << twice) +
        tile.phase / 2;
    part.at = ((int64_t)y * job->wo + (at.x << twice) + tile.phase % 2) *
                  job->o + tile.n0;
    return part;
}

/* Where a lane's piece i is: whether it is there at all. */
template <typename S>
static __device__ __forceinline__ bool
find_piece(const Plan *plan, const CvConvJob *job, Tile tile, CvConvPixel at,
           const Part &part, int i, int64_t *to)
{
    /* The lane decides about the pieces of a period; the rest are constant
     * distances from those. */
    int first = S::row(i % S::kPeriod), down = i / S::kPeriod * S::kDown;
    int x = first % kSide + down % kSide, y = first / kSide + down / kSide;
    int n = S::column(i % S::kPeriod);

    if constexpr (!kBrief) {
        int m = find_pixel(plan, job, tile, at, S::row(i));

        *to = (int64_t)m * job->o + tile.n0 + n;
        return m < job->m && n < part.deep;
    }
    *to = part.at + y * part.line + (x * part.step + n);
    return y < part.high && x < part.wide && n < part.deep;
}

/* Begin to copy what is added to a square. It arrives while the square is
 * multiplied. */
template <typename S>
static __device__ __forceinline__ void fetch_square(const Plan *plan,
                                                    const CvConvJob *job,
                                                    Tile tile, CvConvPixel at,
                                                    unsigned char *stage)
{
    const cv_bf16 *add = (const cv_bf16 *)job->add;
    Part part = find_part(plan, job, tile, at);

#pragma unroll S::kUnroll
    for (int i = 0; i < S::kCopies; i++) {
        int64_t from;
        int valid = find_piece<S>(plan, job, tile, at, part, i, &from);

        cv_cp_async16(stage + S::place(i), valid ? add + from : add, valid);
    }
    cv_cp_async_commit();
}

/* Round the warp's part of a square and write it, by way of its stage. */
template <typename S>
static __device__ __forceinline__ void
write_staged(const Plan *plan, const CvConvJob *job, Tile tile, CvConvPixel at,
             unsigned char *stage, void *to, const float (&v)[S::kSums])
{
    int lane = (int)threadIdx.x % CV_WARP;
    Part part = find_part(plan, job, tile, at);

#pragma unroll
    for (int j = 0; j < S::kParts; j++)
#pragma unroll
        for (int i = 0; i < 2; i++)
            *(__nv_bfloat162 *)(stage + (lane / 4 + i * 8) * S::kRowBytes +
                                (j * 8 + lane % 4 * 2) * 2) =
                __floats2bfloat162_rn(v[4 * j + 2 * i], v[4 * j + 2 * i + 1]);
    __syncwarp();
#pragma unroll S::kUnroll
    for (int i = 0; i < S::kCopies; i++) {
        uint4 piece = *(const uint4 *)(stage + S::place(i));
        int64_t at_piece;

        if (find_piece<S>(plan, job, tile, at, part, i, &at_piece))
            *(uint4 *)((cv_bf16 *)to + at_piece) = piece;
    }
    __syncwarp();
}

/* v = norm_silu(v): the warp has all channels of its pixels, four lanes each
 * of them. gamma: in shared memory, times the root of the number of channels; 0
 * for those that there are not. */
template <typename S>
static __device__ __forceinline__ void norm_square(const CvConvJob *job,
                                                   const float *gamma,
                                                   float (&v)[S::kSums])
{
    int n = (int)threadIdx.x % 4 * 2;
    float r[2];

#pragma unroll
    for (int i = 0; i < 2; i++) {
        float sum = 0;

#pragma unroll
        for (int j = 0; j < S::kParts; j++)
            sum += j * 8 >= job->o ? 0 :
                   v[4 * j + 2 * i] * v[4 * j + 2 * i] +
                   v[4 * j + 2 * i + 1] * v[4 * j + 2 * i + 1];
        sum += __shfl_xor_sync(0xffffffffu, sum, 1);
        sum += __shfl_xor_sync(0xffffffffu, sum, 2);
        r[i] = kBrief ? fminf(rsqrtf(sum), 1e12f)
                      : sqrtf((float)job->o) / fmaxf(sqrtf(sum), 1e-12f);
    }
#pragma unroll
    for (int j = 0; j < S::kParts; j++) {
        float2 g = make_float2(0, 0);

        if (kBrief)
            g = *(const float2 *)(gamma + n + j * 8);
        else if (n + j * 8 < job->o)
            g = __ldg((const float2 *)(job->gamma + n + j * 8));
#pragma unroll
        for (int i = 0; i < 2; i++) {
            v[4 * j + 2 * i] *= r[i] * g.x;
            v[4 * j + 2 * i + 1] *= r[i] * g.y;
            cv_silu_pair(&v[4 * j + 2 * i], &v[4 * j + 2 * i + 1]);
        }
    }
}

/* A lane's pairs of the tile's biases from pair `first` on, asked for all at
 * once. Where there are no such channels: of the first. */
template <typename S>
static __device__ __forceinline__ void load_bias(const CvConvJob *job,
                                                 Tile tile, int first,
                                                 float2 (&bias)[S::kBiases])
{
    int n = tile.n0 + (int)threadIdx.x % 4 * 2 + first * 8;

#pragma unroll
    for (int j = 0; j < S::kBiases; j++)
        bias[j] = __ldg((const float2 *)(job->bias +
                                         (n + j * 8 < job->o ? n + j * 8
                                                             : 0)));
}

/* v += bias, of which the first pairs were loaded where kEarly. */
template <typename S>
static __device__ __forceinline__ void add_bias(const CvConvJob *job,
                                                Tile tile,
                                                float2 (&bias)[S::kBiases],
                                                float (&v)[S::kSums])
{
#pragma unroll
    for (int k = 0; k < S::kParts; k += S::kBiases) {
        if (k || !S::kEarly)
            load_bias<S>(job, tile, k, bias);
#pragma unroll
        for (int i = 0; i < 4 * S::kBiases; i++)
            v[4 * k + i] += i % 2 ? bias[i / 4].y : bias[i / 4].x;
    }
}

/* v += bias, one pair after the other. */
template <typename S>
static __device__ __forceinline__ void add_bias_slowly(const CvConvJob *job,
                                                Tile tile,
                                                float (&v)[S::kSums])
{
    int n = tile.n0 + (int)threadIdx.x % 4 * 2;

#pragma unroll
    for (int j = 0; j < S::kParts; j++) {
        float2 bias = make_float2(0, 0);

        if (job->bias && n + j * 8 < job->o)
            bias = __ldg((const float2 *)(job->bias + n + j * 8));
#pragma unroll
        for (int i = 0; i < 2; i++) {
            v[4 * j + 2 * i] += bias.x;
            v[4 * j + 2 * i + 1] += bias.y;
        }
    }
}

/* A square's sums with what is added, which has arrived in `stage`, into the
 * output, and normed as well where that is wanted. */
template <typename S>
static __device__ __forceinline__ void
finish_square(const Plan *plan, const CvConvJob *job, Tile tile,
              CvConvPixel at, unsigned char *stage, const float *gamma,
              float2 (&bias)[S::kBiases], CvClock *clock,
              float (&v)[S::kSums])
{
    int lane = (int)threadIdx.x % CV_WARP, n = lane % 4 * 2;

    if (kBrief && job->bias)
        add_bias<S>(job, tile, bias, v);
    else if (!kBrief)
        add_bias_slowly<S>(job, tile, v);
    if (job->add) {
#pragma unroll
        for (int j = 0; j < S::kParts; j++)
#pragma unroll
            for (int i = 0; i < 2; i++) {
                __nv_bfloat162 more = *(const __nv_bfloat162 *)(
                    stage + (lane / 4 + i * 8) * S::kRowBytes +
                    (j * 8 + n) * 2);

                v[4 * j + 2 * i] += __bfloat162float(more.x);
                v[4 * j + 2 * i + 1] += __bfloat162float(more.y);
            }
    }
    if (job->relu) {
#pragma unroll
        for (int i = 0; i < S::kSums; i++)
            v[i] = cv_conv_relu(v[i]);
    }
    cv_stamp(clock, kAtSums);
    if (job->out)
        write_staged<S>(plan, job, tile, at, stage, job->out, v);
    cv_stamp(clock, kAtWrite);
    if (job->norm) {
        norm_square<S>(job, gamma, v);
        cv_stamp(clock, kAtNorm);
        write_staged<S>(plan, job, tile, at, stage, job->norm, v);
        cv_stamp(clock, kAtWrite);
    }
}

/* The same without a stage, for outputs that are not whole 16 bytes. */
template <typename S, bool kRelu>
static __device__ __forceinline__ void write_square(const Plan *plan,
                                                    const CvConvJob *job,
                                                    Tile tile, CvConvPixel at,
                                                    const float (&v)[S::kSums])
{
    int lane = (int)threadIdx.x % CV_WARP, n = tile.n0 + lane % 4 * 2;

#pragma unroll
    for (int i = 0; i < 2; i++) {
        int m = find_pixel(plan, job, tile, at, lane / 4 + i * 8);

#pragma unroll
        for (int j = 0; j < S::kParts; j++)
            cv_conv_finish<kRelu>(job, m, n + j * 8, v[4 * j + 2 * i],
                                  v[4 * j + 2 * i + 1]);
    }
}

/* A warpgroup's squares, whose addends were fetched into the stages before as
 * far as there are stages. */
template <typename S>
static __device__ __forceinline__ void
finish_tile(const Plan *plan, const CvConvJob *job, Tile tile,
            const CvConvPixel (&at)[S::kOwn], unsigned char *stage,
            const float *gamma, float2 (&bias)[S::kBiases],
            CvClock *clock, float (&sum)[S::kOwn][S::kSums])
{
    if (!plan->staged) {
#pragma unroll
        for (int k = 0; k < S::kOwn; k++)
            if (job->relu)
                write_square<S, true>(plan, job, tile, at[k], sum[k]);
            else
                write_square<S, false>(plan, job, tile, at[k], sum[k]);
        return;
    }
#pragma unroll
    for (int k = 0; k < S::kOwn; k++) {
        unsigned char *own = stage + k % S::kStages *
                                         S::kBytes;

        if (job->add) {
            if (k >= S::kStages)
                fetch_square<S>(plan, job, tile, at[k], own);
            cv_cp_async_wait<0>();
            __syncwarp();
        }
        finish_square<S>(plan, job, tile, at[k], own, gamma, bias,
                         clock, sum[k]);
    }
}

#endif /* CV_HOPPER_CODE */
#endif /* CV_CUDA_CONV_HOPPER_CUH */
