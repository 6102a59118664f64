/*
 * Convolution in bf16 with wgmma and TMA (sm_90a).
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * Channels last is what makes this simple: 8 x 8 pixels of a frame with
 * their neighbours, 64 channels of them, are a box that TMA copies in one
 * instruction, with zeros for padding, and each tap of the kernel is a
 * matrix of 64 rows within it that wgmma reads where it lies: 8 rows of 8
 * pixels, each begun (j, l) pixels further. So a pixel comes from L2 once for
 * the taps of a frame and not 9 times (kShare).
 *
 * A block makes four such squares x 16, 96 or 128 channels, two warpgroups
 * taking two squares each, or three squares x 96 or 192, three taking one each
 * (Shape). One thread of one more warpgroup copies ahead of them, windows (a
 * box for each square) and weights (64 columns of one tap, for all channels)
 * through rings of their own in shared memory. Blocks stay and take tile after
 * tile, so the copies for the next tile begin while the last one is written.
 *
 * up = 2: the four pixels that an input pixel becomes are four convolutions
 * with kernels of 2x2 (taps that read the same pixel are summed, and rounded
 * to bf16 again), 4/9 of the work.
 *
 * Bound by the tensor cores, one latent frame. Times of an H200, with what
 * CV_CONV_BRIEF 0 is; docs/kernels.md has what they are made of:
 *   1/8: 6,240 pixels, 384 -> 384: 50 GFLOP, 0.108 ms. 104 tiles of 4 squares
 *     x 96 for 132 multiprocessors (60 rows are 7.5 squares: of 3 squares there
 *     would be 140).
 *   1/4: 49,920 pixels, 384 -> 384: 397 GFLOP, 0.557 ms. 520 tiles of 3 squares
 *     x 192 are 4 rounds, all full.
 *   1/2: 399,360 pixels, 192 -> 192: 795 GFLOP, 1.137 ms; with all channels in
 *     a tile the norm is made with it.
 *   1/1: 1.6 million pixels, 96 -> 96: 795 GFLOP, 1.405 ms. Of a window's
 *     second 64 channels only 32 exist, and only they are multiplied. 9 taps of
 *     64 channels read 51 + 108 KB for 28 MFLOP: 3 TB/s from L2 at that rate
 *     (without kShare 8 TB/s, more than it has). wgmma itself reads 5 KB of
 *     shared memory in 48 clocks and the copies write 31 bytes a clock: more
 *     than the 128 bytes a clock that there are, by 8 %.
 *   192 channels a tile: 8 KB of shared memory in 96 clocks, less than 5 in 48;
 *   from L2 as much as 4 squares x 96. 3 squares x 96 read 1.2 times that.
 *   The whole decoder: 275 TFLOP, of which up = 2 saves 14.
 *
 * kShare relies on the 128-byte swizzle going by address bits 7 to 9 also where
 * a matrix begins between two multiples of 1024 bytes and its groups of 8 rows
 * are 1280 bytes apart. PTX's description of the descriptor's base offset says
 * so, and it is what an H200 does; with kShare 0 nothing depends on it.
 */
#include "conv_hopper.cuh"

/* A place in a ring of stages. */
typedef struct Ring {
    int stage;
    unsigned parity;
} Ring;

#if CV_HOPPER_CODE

static __device__ __forceinline__ void advance(Ring *ring, int stages)
{
    if (++ring->stage == stages) {
        ring->stage = 0;
        ring->parity ^= 1;
    }
}

/* full: what TMA brought; empty: what all warps have read. */
typedef struct Barriers {
    uint64_t a_full[kMaxStages], a_empty[kMaxStages];
    uint64_t b_full[kMaxStages], b_empty[kMaxStages];
} Barriers;
static_assert(sizeof(Barriers) <= kBarrierBytes, "room for barriers");

/* What one thread copies for a tile. */
template <typename S>
static __device__ __forceinline__ void copy_tile(const Plan *plan,
                                                 const CvConvJob *job,
                                                 Tile tile, Barriers *bars,
                                                 unsigned char *windows,
                                                 unsigned char *weights,
                                                 Ring *a, Ring *b,
                                                 CvClock *clock)
{
    /* Of the first tap; of up = 2, by its phase. */
    int top = job->pad_top - tile.phase / 2;
    int left = job->pad_left - tile.phase % 2;
    int row = tile.phase * job->o + tile.n0;
    CvConvPixel at[S::kSquares];

#pragma unroll
    for (int q = 0; q < S::kSquares; q++) {
        at[q] = find_square(plan, tile.square + q);
        at[q].f *= at[q].f < job->to ? job->stride_t : 1;
    }
    cv_stamp(clock, kAtFind);
    for (int i = 0; i < job->kt; i++)
        for (int window = 0; window < plan->outer_h * plan->outer_w; window++)
            for (int chunk = 0; chunk < plan->chunks; chunk++) {
                int oj = window / plan->outer_w, ol = window % plan->outer_w;
                unsigned char *to = windows +
                                    a->stage * S::kSquares * plan->window_bytes;
                uint64_t *full = &bars->a_full[a->stage];

                cv_stamp(clock, kAtCopy);
                cv_mbarrier_wait(&bars->a_empty[a->stage], a->parity ^ 1);
                cv_stamp(clock, kAtWindow);
                cv_mbarrier_expect(full, (unsigned)(S::kSquares *
                                                    plan->box_bytes));
#pragma unroll
                for (int q = 0; q < S::kSquares; q++) {
                    int f = at[q].f + i, past = f < job->p;

                    cv_tma_load_4d(to + q * plan->window_bytes,
                                   past ? &plan->history : &plan->x, full,
                                   chunk * kChannels, at[q].x - left + ol,
                                   at[q].y - top + oj, past ? f : f - job->p);
                }
                advance(a, plan->a_stages);
                for (int j = 0; j < plan->inner_h; j++)
                    for (int l = 0; l < plan->inner_w; l++) {
                        int tap = (i * plan->kh + oj + j) * plan->kw + ol + l;

                        full = &bars->b_full[b->stage];
                        cv_stamp(clock, kAtCopy);
                        cv_mbarrier_wait(&bars->b_empty[b->stage],
                                         b->parity ^ 1);
                        cv_stamp(clock, kAtWeights);
                        cv_mbarrier_expect(full, S::kN * kRow);
                        cv_tma_load(weights + b->stage * S::kN * kRow,
                                    &plan->weight, full, chunk * kChannels,
                                    tap, row);
                        advance(b, plan->b_stages);
                    }
            }
    cv_stamp(clock, kAtCopy);
}

/* What a warp keeps while it multiplies. */
typedef struct Multiplier {
    Barriers *bars;
    const unsigned char *windows, *weights; /* windows: of its squares */
    Ring a, b;
    int used;  /* the stage of weights that wgmmas may still read, or -1 */
    int first; /* the lane that arrives */
    CvClock clock;
} Multiplier;

/* sum += a window of its squares * the weights, of kParts times 16 channels.
 * The wgmmas of a tap are waited for after the next one's were issued. */
template <typename S, int kParts>
static __device__ __forceinline__ void
multiply_window(const Plan *plan, Multiplier *s, float (*sum)[S::kSums])
{
    int window = S::kSquares * plan->window_bytes;
    unsigned other = (unsigned)plan->window_bytes >> 4;
    uint64_t u = cv_wgmma_operand(s->windows + s->a.stage * window,
                                  plan->row_bytes, 16);
    /* The window before this one, once its last tap is done. */
    int before = s->used < 0 ? -1 :
                 (s->a.stage ? s->a.stage : plan->a_stages) - 1;

    cv_stamp(&s->clock, kAtProducts);
    cv_mbarrier_wait(&s->bars->a_full[s->a.stage], s->a.parity);
    if (s->used < 0)
        cv_stamp(&s->clock, kAtFirst);
    else
        cv_stamp(&s->clock, kAtWindow);
    for (int j = 0; j < plan->inner_h; j++)
        for (int l = 0; l < plan->inner_w; l++) {
            uint64_t v = cv_wgmma_operand(s->weights +
                                              s->b.stage * S::kN * kRow,
                                          8 * kRow, 16);
            uint64_t tap = u + (unsigned)(j * plan->row_bytes + l * kRow) / 16;

            cv_stamp(&s->clock, kAtProducts);
            cv_mbarrier_wait(&s->bars->b_full[s->b.stage], s->b.parity);
            cv_stamp(&s->clock, kAtWeights);
            cv_wgmma_fence();
#pragma unroll
            for (int k = 0; k < kParts; k++) {
                cv_wgmma_add<S::kN>(sum[0], tap + 2 * k, v + 2 * k);
                if constexpr (S::kOwn > 1)
                    cv_wgmma_add<S::kN>(sum[1], tap + other + 2 * k,
                                        v + 2 * k);
            }
            cv_wgmma_commit();
            cv_wgmma_wait<1>();
            if (s->first && s->used >= 0)
                cv_mbarrier_arrive(&s->bars->b_empty[s->used]);
            if (s->first && before >= 0)
                cv_mbarrier_arrive(&s->bars->a_empty[before]);
            s->used = s->b.stage;
            before = -1;
            advance(&s->b, plan->b_stages);
        }
    advance(&s->a, plan->a_stages);
}

/* The sums of a warpgroup's squares, and the bias that is not in them. */
template <typename S, int kLast>
static __device__ __forceinline__ void
multiply_tile(const Plan *plan, const CvConvJob *job, Tile tile,
              Multiplier *s, float2 (&bias)[S::kBiases],
              float (*sum)[S::kSums])
{
    int n = job->kt * plan->outer_h * plan->outer_w;

#pragma unroll
    for (int q = 0; q < S::kOwn; q++)
#pragma unroll
        for (int i = 0; i < S::kSums; i++)
            sum[q][i] = 0;
    s->used = -1;
    for (int i = 0; i < n; i++) {
        for (int chunk = 0; chunk < plan->chunks - 1; chunk++)
            multiply_window<S, kChannels / 16>(plan, s, sum);
        multiply_window<S, kLast>(plan, s, sum);
    }
    if (kBrief && S::kEarly && plan->staged && job->bias)
        load_bias<S>(job, tile, 0, bias); /* during the last products */
    cv_stamp(&s->clock, kAtProducts);
    cv_wgmma_wait<0>();
#pragma unroll
    for (int q = 0; q < S::kOwn; q++)
        cv_wgmma_hold(sum[q]);
    cv_stamp(&s->clock, kAtDrain);
    if (s->first) {
        int last = (s->a.stage ? s->a.stage : plan->a_stages) - 1;

        cv_mbarrier_arrive(&s->bars->b_empty[s->used]);
        cv_mbarrier_arrive(&s->bars->a_empty[last]);
    }
}

#endif /* CV_HOPPER_CODE */

/* kLast: of the last 64 channels, how many times 16 are multiplied. */
template <typename S, int kLast>
static __global__ void __launch_bounds__(S::kThreads, 1)
    conv_hopper_kernel(const __grid_constant__ Plan plan, const CvConvJob job)
{
#if CV_HOPPER_CODE
    CV_DYNAMIC_SHARED(unsigned char, shared);
    unsigned char *windows = shared;
    unsigned char *weights = windows + plan.a_stages * S::kSquares *
                                           plan.window_bytes;
    unsigned char *stages = weights + plan.b_stages * S::kN * kRow;
    Barriers *bars = (Barriers *)(stages + S::kWarps * S::kStages *
                                               S::kBytes);
    float *gamma = (float *)((unsigned char *)bars + kBarrierBytes);
    int warp = (int)threadIdx.x / CV_WARP;
    Ring a = { 0, 0 }, b = { 0, 0 };

    if (threadIdx.x == 0) {
        for (int i = 0; i < kMaxStages; i++) {
            cv_mbarrier_init(&bars->a_full[i], 1);
            cv_mbarrier_init(&bars->b_full[i], 1);
            cv_mbarrier_init(&bars->a_empty[i], S::kWarps);
            cv_mbarrier_init(&bars->b_empty[i], S::kWarps);
        }
        cv_mbarrier_init_done();
    }
    cv_begin();
    if (job.norm && threadIdx.x < S::kN)
        gamma[threadIdx.x] = (int)threadIdx.x < job.o
                                 ? job.gamma[threadIdx.x] *
                                       sqrtf((float)job.o) : 0;
    __syncthreads();
    if (warp >= S::kWarps) {
        cv_registers_give<S::kGiven>();
        if (threadIdx.x % CV_WARP || warp > S::kWarps)
            return;
        cv_tma_prefetch(&plan.x);
        cv_tma_prefetch(&plan.history);
        cv_tma_prefetch(&plan.weight);

        CvClock clock;

        cv_stamp_begin(&clock, S::kWarps / 4);
        for (int i = (int)blockIdx.x; i < plan.tiles; i += (int)gridDim.x)
            copy_tile<S>(&plan, &job, find_tile<S>(&plan, i), bars, windows,
                          weights, &a, &b, &clock);
        cv_stamp_end(&clock, S::kWarps / 4);
    } else {
        cv_registers_take<S::kTaken>();
        int q = warp / 4 * S::kOwn; /* the warpgroup's squares */
        unsigned char *stage = stages + warp * S::kStages *
                                            S::kBytes;
        Multiplier state = { bars, windows + q * plan.window_bytes, weights,
                             a, b, -1, threadIdx.x % CV_WARP == 0, {} };

        cv_stamp_begin(&state.clock, warp / 4);

        for (int i = (int)blockIdx.x; i < plan.tiles; i += (int)gridDim.x) {
            Tile tile = find_tile<S>(&plan, i);
            CvConvPixel at[S::kOwn];
            float sum[S::kOwn][S::kSums];
            float2 bias[S::kBiases];

#pragma unroll
            for (int k = 0; k < S::kOwn; k++)
                at[k] = find_square(&plan, tile.square + q + k);

            if (plan.staged && job.add)
#pragma unroll
                for (int k = 0; k < S::kStages; k++)
                    fetch_square<S>(&plan, &job, tile, at[k],
                                     stage + k * S::kBytes);
            cv_stamp(&state.clock, kAtFind);
            multiply_tile<S, kLast>(&plan, &job, tile, &state, bias, sum);
            finish_tile<S>(&plan, &job, tile, at, stage, gamma, bias,
                           &state.clock, sum);
        }
        cv_stamp_end(&state.clock, warp / 4);
    }
#else
    (void)plan;
    (void)job;
#endif
}

/* out[phase, o, kt, 2, 2, c] of weight[o, kt, 3, 3, c]: in phase (y, x), tap
 * (j, l) of the doubled picture reads what (j + 1 - y) / 2, (l + 1 - x) / 2 of
 * the picture itself does. Bound by bytes: 1.3 MB read and 2.4 MB written for
 * 384 -> 192, some microseconds (predicted). */
static __global__ void __launch_bounds__(256)
    conv_phases_kernel(cv_bf16 *out, const cv_bf16 *weight, int o, int kt,
                       int c)
{
    cv_begin();
    int64_t n = (int64_t)o * kt * c, i = (int64_t)blockIdx.x * 256 +
                                         threadIdx.x;
    int phase = (int)blockIdx.y;
    const cv_bf16 *from = weight + i / c * 9 * c + i % c;
    float sum[2][2] = {};

    if (i >= n)
        return;
    out += (phase * n + i / c * c) * 4 + i % c;
#pragma unroll
    for (int j = 0; j < 3; j++)
#pragma unroll
        for (int l = 0; l < 3; l++) {
            float w = cv_load(from + (j * 3 + l) * c);
            int row = (j + 1 - phase / 2) / 2, col = (l + 1 - phase % 2) / 2;

#pragma unroll
            for (int k = 0; k < 4; k++)
                if (row == k / 2 && col == k % 2)
                    sum[k / 2][k % 2] += w;
        }
#pragma unroll
    for (int k = 0; k < 4; k++)
        cv_store(out + k * c, sum[k / 2][k % 2]);
}

/* ---- the host's part ---- */

static int64_t phase_bytes(const CvConvJob *a)
{
    return (int64_t)4 * a->o * a->kt * 4 * a->c * (int64_t)sizeof(cv_bf16);
}

int cv_cuda_conv_hopper_takes(const CvCuda *cuda, const CvConvJob *a)
{
    if (!cuda->hopper || a->stride_s != 1 || a->c % 8 || a->c < kChannels)
        return 0;
    if (a->doubled)
        return a->kh == 3 && a->kw == 3 && a->pad_top == 1 &&
               a->pad_left == 1 && a->ho == 2 * a->h && a->wo == 2 * a->w &&
               phase_bytes(a) <= (int64_t)CV_CUDA_SCRATCH;
    return a->kh <= 3 && a->kw <= 3;
}

/* The tiles that there are: squares and channels. */
static const struct {
    int squares, width;
} shapes[] = { { 4, 128 }, { 4, 96 }, { 4, 16 }, { 3, 192 }, { 3, 96 } };
enum { kShapes = sizeof(shapes) / sizeof(shapes[0]), kWidest = 192 };

/* By the rounds of its tiles, each as long as its squares times its channels
 * and some more for its windows. What is normed has its channels in one tile.
 */
static int choose_shape(const CvCuda *cuda, const CvConvJob *a,
                        const Plan *plan)
{
    int64_t least = INT64_MAX;
    int best = 0;

    for (int i = 0; i < kShapes; i++) {
        int squares = shapes[i].squares, width = shapes[i].width;
        int64_t groups = (plan->squares + squares - 1) / squares;
        int64_t tiles = groups * plan->phases * ((a->o + width - 1) / width);
        int64_t rounds = (tiles + cuda->processors - 1) / cuda->processors;
        int64_t cost = rounds * squares * (width + 16);

        if (cost < least && (!a->norm || width >= a->o)) {
            least = cost;
            best = i;
        }
    }
    return best;
}

static void plan_windows(Plan *plan, const CvConvJob *a)
{
    int ho = a->ho / (a->doubled ? 2 : 1), wo = a->wo / (a->doubled ? 2 : 1);

    plan->phases = a->doubled ? 4 : 1;
    plan->kh = a->doubled ? 2 : a->kh;
    plan->kw = a->doubled ? 2 : a->kw;
    plan->inner_h = kShare ? plan->kh : 1;
    plan->inner_w = kShare ? plan->kw : 1;
    plan->outer_h = plan->kh / plan->inner_h;
    plan->outer_w = plan->kw / plan->inner_w;
    plan->chunks = (a->c + kChannels - 1) / kChannels;
    plan->row_bytes = (kSide + plan->inner_w - 1) * kRow;
    plan->box_bytes = (kSide + plan->inner_h - 1) * plan->row_bytes;
    plan->window_bytes = (plan->box_bytes + 1023) / 1024 * 1024;
    plan->down = divisor((ho + kSide - 1) / kSide);
    plan->across = divisor((wo + kSide - 1) / kSide);
    plan->squares = a->to * plan->down.by * plan->across.by;
}

static int is_aligned16(const void *p)
{
    return (uintptr_t)p % 16 == 0;
}

static int is_staged(const CvConvJob *a)
{
    return a->o % 8 == 0 && is_aligned16(a->out) && is_aligned16(a->norm) &&
           is_aligned16(a->add) && is_aligned16(a->bias) &&
           is_aligned16(a->gamma);
}

int cv_cuda_conv_hopper_norms(const CvCuda *, const CvConvJob *a)
{
    return is_staged(a) && a->o <= kWidest;
}

/* Frames of the input. */
static int map_frames(CvCuda *cuda, CvTensorMap *map, const Plan *plan,
                      const CvConvJob *a, const void *data, int frames)
{
    int64_t dim[] = { a->c, a->w, a->h, frames };
    int64_t step[] = { dim[0], dim[0] * dim[1], dim[0] * dim[1] * dim[2] };
    int box[] = { kChannels, kSide + plan->inner_w - 1,
                  kSide + plan->inner_h - 1, 1 };

    return cv_tensor_map_n(cuda, map, 4, data, dim, step, box);
}

static int make_maps(CvCuda *cuda, Plan *plan, const CvConvJob *a, int width)
{
    int64_t dim[] = { a->c, (int64_t)a->kt * plan->kh * plan->kw,
                      (int64_t)plan->phases * a->o };
    int64_t step[] = { dim[0], dim[0] * dim[1] };
    int box[] = { kChannels, 1, width };
    int err;

    err = map_frames(cuda, &plan->x, plan, a, a->x, a->t);
    if (err)
        return err;
    plan->history = plan->x; /* where there is none */
    if (a->p) {
        err = map_frames(cuda, &plan->history, plan, a, a->history, a->p);
        if (err)
            return err;
    }
    return cv_tensor_map(cuda, &plan->weight,
                         a->doubled ? cuda->scratch : a->weight, dim, step,
                         box);
}

/* Where CV_STAMPS is set. */
template <typename S>
static int print_stamps(CvCuda *cuda, const Plan *plan, const CvConvJob *a,
                        int blocks)
{
#ifdef CV_STAMPS
    static const char *const multiplies[] = {
        "find", "first window", "windows", "weights", "products", "drain",
        "sums", "write", "norm", NULL
    };
    static const char *const copies[] = {
        "find", "copy", "windows", "weights", NULL
    };
    const char *const *places[] = { multiplies, multiplies, copies, copies };
    char shape[128];

    places[2] = S::kWarps == 12 ? multiplies : copies;
    snprintf(shape, sizeof(shape), "[%d, %d, %d, %d] -> %d, %dx%dx%d%s%s%s%s, "
             "tiles of %d x %d", a->t, a->h, a->w, a->c, a->o, a->kt, a->kh,
             a->kw, a->doubled ? " doubled" : "", a->add ? " add" : "",
             a->out ? "" : " only", a->norm ? " norm" : "", S::kSquares,
             S::kN);
    return cv_stamps_print(cuda, blocks, plan->tiles, shape,
                           S::kWarps / 4 + 1, places);
#else
    (void)cuda;
    (void)plan;
    (void)a;
    (void)blocks;
    return 0;
#endif
}

template <typename S, int kLast>
static int launch(CvCuda *cuda, Plan *plan, const CvConvJob *a)
{
    auto kernel = conv_hopper_kernel<S, kLast>;
    int left = cuda->shared_bytes - S::kKept, bytes, blocks;
    int window = S::kSquares * plan->window_bytes;

    /* With one tap a window, both rings turn equally fast. */
    plan->a_stages = plan->inner_h * plan->inner_w > 1
                         ? 2 : left / (window + S::kN * kRow);
    plan->a_stages = plan->a_stages < kMaxStages ? plan->a_stages : kMaxStages;
    plan->b_stages = (left - plan->a_stages * window) / (S::kN * kRow);
    plan->b_stages = plan->b_stages < kMaxStages ? plan->b_stages : kMaxStages;
    bytes = plan->a_stages * window + plan->b_stages * S::kN * kRow +
            S::kKept;
    blocks = plan->tiles < cuda->processors ? plan->tiles : cuda->processors;
    int err = CV_LAUNCH(cuda, cuda->stream, kernel, (unsigned)blocks,
                        S::kThreads, (size_t)bytes, *plan, *a);

    return err ? err : print_stamps<S>(cuda, plan, a, blocks);
}

template <typename S>
static int launch_last(CvCuda *cuda, Plan *plan, const CvConvJob *a)
{
    int last = a->c - (plan->chunks - 1) * kChannels;

    /* More than exist are zeros. */
    return last <= kChannels / 2 ? launch<S, 2>(cuda, plan, a)
                                 : launch<S, 4>(cuda, plan, a);
}

int cv_cuda_conv_hopper(CvCuda *cuda, const CvConvJob *a)
{
    Plan plan;
    int shape, squares, width, err;

    plan_windows(&plan, a);
    plan.staged = is_staged(a);
    shape = choose_shape(cuda, a, &plan);
    squares = shapes[shape].squares;
    width = shapes[shape].width;
    plan.groups = divisor((plan.squares + squares - 1) / squares);
    plan.n_tiles = divisor((a->o + width - 1) / width);
    plan.tiles = plan.phases * plan.groups.by * plan.n_tiles.by;
    err = make_maps(cuda, &plan, a, width);
    if (err)
        return err;
    if (a->doubled) {
        dim3 grid(cv_blocks((int64_t)a->o * a->kt * a->c, 256), 4);

        err = CV_LAUNCH(cuda, cuda->stream, conv_phases_kernel, grid, 256, 0,
                        (cv_bf16 *)cuda->scratch, (const cv_bf16 *)a->weight,
                        a->o, a->kt, a->c);
        if (err)
            return err;
    }
    switch (shape) {
    case 0:
        return launch_last<Shape<128, 2, 2>>(cuda, &plan, a);
    case 1:
        return launch_last<Shape<96, 2, 2>>(cuda, &plan, a);
    case 2:
        return launch_last<Shape<16, 2, 2>>(cuda, &plan, a);
    case 3:
        return launch_last<Shape<192, 3, 1>>(cuda, &plan, a);
    default:
        return launch_last<Shape<96, 3, 1>>(cuda, &plan, a);
    }
}
