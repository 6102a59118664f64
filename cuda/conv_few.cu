/*
 * Convolution of 3x3 pixels to three channels, the last of a decoder, in bf16.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * With three columns for each tap, tensor cores would idle for 13 of 16
 * columns, and each pixel would be read for 9 taps. Here the taps are columns:
 * each pixel is multiplied with all 9 x 3 (of 32) columns at once, and the
 * products that belong to an output pixel are gathered afterwards from its 9
 * neighbours, in shared memory. Over time the sums stay in registers: a frame
 * is multiplied with the taps of kKt frames, each into the sums of its output.
 *
 * A block of 8 warps makes 32 x 8 pixels of all frames, one input frame after
 * another: 34 x 10 pixels of it are copied to shared memory (cp.async) while
 * the frame before is multiplied (mma.sync). Blocks stay and take tile after
 * tile.
 *
 * Bound by bytes. The VAE's head, 4 frames of 832x480 and 2 of history, 96
 * channels: 0.46 GB, 0.11 ms on an H200, of which the edges of the tiles, a
 * third more, come from L2. A tile's frame of 65 KB takes 3,300 clocks to come.
 * Measured, without the history: 0.31 ms, 7,500 clocks a frame of a tile, with
 * CV_CONV_BRIEF 0 (as a product of 16 columns: 0.77); docs/kernels.md. The tiny
 * decoder's, 64 channels and no history, 0.2 GB: 0.08 ms (predicted; before:
 * 0.24).
 *
 * Needs 207 KB of shared memory: Hopper's 227, not the 164 of compute
 * capability 8.0.
 */
#include "conv.cuh"
#include "ptx.cuh"
#include "stamps.cuh"

enum {
    kThreads = 256, kWarps = kThreads / CV_WARP,
    kWide = 32, kHigh = 8,                /* pixels of a tile */
    kAcross = kWide + 2,                  /* with what lies around them */
    kPixels = kAcross * (kHigh + 2),
    kTiles = (kPixels + 15) / 16,         /* of mma, and of a warp: */
    kOwn = (kTiles + kWarps - 1) / kWarps,
    kColumns = 32,                        /* (j, l, o), 27 of them */
    kSum = 29, /* floats from a pixel's sums to the next's: odd */
};

/* kSteps: of 16 channels. A row of shared memory, a pixel or a column of the
 * weights, is followed by 16 bytes, so that 8 rows touch all banks once. */
template <int kSteps, int kKt> struct Layout {
    static constexpr int kChannels = kSteps * 16;
    static constexpr int kParts = kChannels / 8;
    static constexpr int kRow = 2 * kChannels + 16;
    static constexpr int kFrame = kTiles * 16 * kRow;
    static constexpr int kWeights = kKt * kColumns * kRow;
    static constexpr int kBytes = 2 * kFrame + kWeights +
                                  kTiles * 16 * kSum * 4;
};

typedef struct Job {
    CvConvJob a;
    int across, tiles; /* of the picture */
} Job;

/* Begin to copy the pixels of input frame f under a tile. */
template <int kSteps, int kKt>
static __device__ __forceinline__ void copy_pieces(const Job *job, int tile,
                                                  int f, unsigned char *to)
{
    typedef Layout<kSteps, kKt> L;
    const CvConvJob *a = &job->a;
    const cv_bf16 *from = f < a->p ? (const cv_bf16 *)a->history
                                   : (const cv_bf16 *)a->x;
    int x0 = tile % job->across * kWide - 1;
    int y0 = tile / job->across * kHigh - 1;

    from += (int64_t)(f < a->p ? f : f - a->p) * a->h * a->w * L::kChannels;
    for (int i = (int)threadIdx.x; i < kPixels * L::kParts; i += kThreads) {
        int pixel = i / L::kParts, part = i % L::kParts;
        int x = x0 + pixel % kAcross, y = y0 + pixel / kAcross;
        int valid = (unsigned)x < (unsigned)a->w &&
                    (unsigned)y < (unsigned)a->h;

        cv_cp_async16(to + pixel * L::kRow + part * 16,
                      valid ? from + ((int64_t)y * a->w + x) * L::kChannels +
                                  part * 8
                            : (const cv_bf16 *)a->x, valid);
    }
    cv_cp_async_commit();
}

/* The same by rows: a thread has 16 bytes of two pixels of each, so that what
 * changes from row to row is one sum. */
template <int kSteps, int kKt>
static __device__ __forceinline__ void copy_frame(const Job *job, int tile,
                                                  int f, unsigned char *to)
{
    typedef Layout<kSteps, kKt> L;
    constexpr int kHalf = kAcross / 2;
    static_assert(kAcross % 2 == 0 && kHalf * L::kParts <= kThreads, "a row");
    const CvConvJob *a = &job->a;
    const cv_bf16 *any = (const cv_bf16 *)a->x;
    const cv_bf16 *from = f < a->p ? (const cv_bf16 *)a->history : any;
    int part = (int)(threadIdx.x % L::kParts);
    int pixel = (int)(threadIdx.x / L::kParts);
    int x = tile % job->across * kWide - 1 + pixel;
    int y = tile / job->across * kHigh - 1;
    int left = (unsigned)x < (unsigned)a->w;
    int right = (unsigned)(x + kHalf) < (unsigned)a->w;
    int64_t at = (((int64_t)(f < a->p ? f : f - a->p) * a->h + y) * a->w + x) *
                     L::kChannels + part * 8;

    if (!kBrief) {
        copy_pieces<kSteps, kKt>(job, tile, f, to);
        return;
    }
    to += pixel * L::kRow + part * 16;
    if (pixel < kHalf) {
#pragma unroll
        for (int i = 0; i < kHigh + 2; i++, y++) {
            int valid = (unsigned)y < (unsigned)a->h;

            cv_cp_async16(to + i * kAcross * L::kRow,
                          valid && left ? from + at : any, valid && left);
            cv_cp_async16(to + (i * kAcross + kHalf) * L::kRow,
                          valid && right ? from + at + kHalf * L::kChannels
                                         : any, valid && right);
            at += (int64_t)a->w * L::kChannels;
        }
    }
    cv_cp_async_commit();
}

/* Columns of the weights: (i, j, l, o), those that there are not zero. Rows of
 * pixels that no tile has are zero as well. */
template <int kSteps, int kKt>
static __device__ __forceinline__ void prepare(const CvConvJob *a,
                                               unsigned char *frames,
                                               unsigned char *weights)
{
    typedef Layout<kSteps, kKt> L;
    const cv_bf16 *w = (const cv_bf16 *)a->weight;

    for (int i = (int)threadIdx.x; i < kKt * kColumns * L::kParts;
         i += kThreads) {
        int row = i / L::kParts, part = i % L::kParts;
        int column = row % kColumns, tap = column / 3, o = column % 3;
        uint4 v = make_uint4(0, 0, 0, 0);

        if (tap < 9 && o < a->o)
            v = *(const uint4 *)(w + ((int64_t)(o * kKt + row / kColumns) * 9 +
                                      tap) * L::kChannels + part * 8);
        *(uint4 *)(weights + row * L::kRow + part * 16) = v;
    }
    for (int i = (int)threadIdx.x; i < (kTiles * 16 - kPixels) * L::kParts;
         i += kThreads) {
        int at = (kPixels + i / L::kParts) * L::kRow + i % L::kParts * 16;

        *(uint4 *)(frames + at) = make_uint4(0, 0, 0, 0);
        *(uint4 *)(frames + L::kFrame + at) = make_uint4(0, 0, 0, 0);
    }
}

/* sum[own][i] += the warp's pixels of input frame f times the taps of i. */
template <int kSteps, int kKt>
static __device__ __forceinline__ void
multiply(const CvConvJob *a, int f, const unsigned char *frame,
         const unsigned char *weights, float (&sum)[kOwn][kKt][4][4])
{
    typedef Layout<kSteps, kKt> L;
    int lane = (int)threadIdx.x % CV_WARP, warp = (int)threadIdx.x / CV_WARP;
    const unsigned char *u_at = frame + (warp * 16 + lane % 16) * L::kRow +
                                lane / 16 * 16;
    const unsigned char *v_at = weights +
                                (lane % 8 + lane / 16 * 8) * L::kRow +
                                lane / 8 % 2 * 16;

#pragma unroll
    for (int k = 0; k < kSteps; k++) {
        uint32_t u[kOwn][4];

#pragma unroll
        for (int own = 0; own < kOwn; own++)
            if (own * kWarps + warp < kTiles)
                cv_ldmatrix_x4(u[own], u_at + own * kWarps * 16 * L::kRow +
                                           k * 32);
#pragma unroll
        for (int i = 0; i < kKt; i++) {
            uint32_t v[2][4];

            if (f < i || f - i >= a->to) /* of no output */
                continue;
#pragma unroll
            for (int j = 0; j < 2; j++)
                cv_ldmatrix_x4(v[j], v_at + (i * kColumns + j * 16) * L::kRow +
                                         k * 32);
#pragma unroll
            for (int own = 0; own < kOwn; own++)
                if (own * kWarps + warp < kTiles)
#pragma unroll
                    for (int j = 0; j < 4; j++)
                        cv_mma_bf16(sum[own][i][j], u[own],
                                    v[j / 2][j % 2 * 2],
                                    v[j / 2][j % 2 * 2 + 1]);
        }
    }
}

/* The sums of output frame f, which are complete, into shared memory; those of
 * the next outputs move up. */
template <int kKt>
static __device__ __forceinline__ void put(float *sums,
                                           float (&sum)[kOwn][kKt][4][4])
{
    int lane = (int)threadIdx.x % CV_WARP, warp = (int)threadIdx.x / CV_WARP;

#pragma unroll
    for (int own = 0; own < kOwn; own++) {
        float *to = sums + ((own * kWarps + warp) * 16 + lane / 4) * kSum +
                    lane % 4 * 2;

        if (own * kWarps + warp >= kTiles)
            continue;
#pragma unroll
        for (int j = 0; j < 4; j++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                if (j * 8 + lane % 4 * 2 + e % 2 < 27)
                    to[e / 2 * 8 * kSum + j * 8 + e % 2] =
                        sum[own][kKt - 1][j][e];
    }
}

template <int kKt>
static __device__ __forceinline__ void move_up(float (&sum)[kOwn][kKt][4][4])
{
#pragma unroll
    for (int own = 0; own < kOwn; own++)
#pragma unroll
        for (int j = 0; j < 16; j++) {
#pragma unroll
            for (int i = kKt - 1; i > 0; i--)
                sum[own][i][j / 4][j % 4] = sum[own][i - 1][j / 4][j % 4];
            sum[own][0][j / 4][j % 4] = 0;
        }
}

/* One pixel of the tile: what its 9 neighbours have for it. */
static __device__ __forceinline__ void gather(const Job *job, int tile, int f,
                                              const float *sums)
{
    const CvConvJob *a = &job->a;
    int px = (int)threadIdx.x % kWide, py = (int)threadIdx.x / kWide;
    int x = tile % job->across * kWide + px;
    int y = tile / job->across * kHigh + py;
    int64_t at = (((int64_t)f * a->ho + y) * a->wo + x) * a->o;
    float v[3] = {};

    if (x >= a->wo || y >= a->ho)
        return;
#pragma unroll
    for (int tap = 0; tap < 9; tap++)
#pragma unroll
        for (int o = 0; o < 3; o++)
            v[o] += sums[((py + tap / 3) * kAcross + px + tap % 3) * kSum +
                         tap * 3 + o];
#pragma unroll
    for (int o = 0; o < 3; o++) {
        if (o >= a->o)
            break;
        if (a->bias)
            v[o] += a->bias[o];
        if (a->add)
            v[o] += cv_load((const cv_bf16 *)a->add + at + o);
        cv_store((cv_bf16 *)a->out + at + o, a->relu ? cv_conv_relu(v[o])
                                                     : v[o]);
    }
}

template <int kSteps, int kKt>
static __global__ void __launch_bounds__(kThreads, 1)
    conv_few_kernel(const Job job)
{
    cv_begin();
    typedef Layout<kSteps, kKt> L;
    CV_DYNAMIC_SHARED(unsigned char, frames);
    unsigned char *weights = frames + 2 * L::kFrame;
    float *sums = (float *)(weights + L::kWeights);
    int tile = (int)blockIdx.x, n = job.a.p + job.a.t, f = 0, place = 0;
    float sum[kOwn][kKt][4][4] = {};
    CvClock clock;

    cv_stamp_begin(&clock, (int)threadIdx.x / 128);
    prepare<kSteps, kKt>(&job.a, frames, weights);
    copy_frame<kSteps, kKt>(&job, tile, 0, frames);
    while (tile < job.tiles) {
        int next = f + 1 < n ? tile : tile + (int)gridDim.x;

        cv_cp_async_wait<0>();
        /* The frame is there for all, the other place and sums are free. */
        __syncthreads();
        cv_stamp(&clock, 0);
        if (next < job.tiles)
            copy_frame<kSteps, kKt>(&job, next, f + 1 < n ? f + 1 : 0,
                                    frames + (place ^ 1) * L::kFrame);
        cv_stamp(&clock, 1);
        multiply<kSteps, kKt>(&job.a, f, frames + place * L::kFrame, weights,
                              sum);
        cv_stamp(&clock, 2);
        if (f >= kKt - 1) {
            put<kKt>(sums, sum);
            __syncthreads();
            cv_stamp(&clock, 3);
            gather(&job, tile, f - kKt + 1, sums);
            cv_stamp(&clock, 4);
        }
        /* After a tile's last frame all sums are of no output, and zero. */
        move_up<kKt>(sum);
        place ^= 1;
        f = f + 1 < n ? f + 1 : 0;
        tile = next;
    }
    cv_stamp_end(&clock, (int)threadIdx.x / 128);
}

template <int kSteps, int kKt> static int launch(CvCuda *cuda, const Job *job)
{
    auto kernel = conv_few_kernel<kSteps, kKt>;
    int blocks = job->tiles < cuda->processors ? job->tiles
                                               : cuda->processors;

    int err = CV_LAUNCH(cuda, cuda->stream, kernel, (unsigned)blocks, kThreads,
                        (Layout<kSteps, kKt>::kBytes), *job);

#ifdef CV_STAMPS
    static const char *const names[] = { "wait", "copy", "products", "put",
                                         "gather", NULL };
    const char *const *places[] = { names, names };
    char shape[96];

    snprintf(shape, sizeof(shape), "[%d, %d, %d, %d] -> %d, frames of tiles",
             job->a.t, job->a.h, job->a.w, job->a.c, job->a.o);
    if (!err)
        err = cv_stamps_print(cuda, blocks,
                              job->tiles * (job->a.p + job->a.t), shape, 2,
                              places);
#endif
    return err;
}

int cv_cuda_conv_few_takes(const CvCuda *cuda, const CvConvJob *a)
{
    int is_head = a->c == 96 && a->kt == 3, is_tiny = a->c == 64 && a->kt == 1;
    int bytes = is_head ? Layout<6, 3>::kBytes : Layout<4, 1>::kBytes;

    return (is_head || is_tiny) && a->o <= 3 && a->kh == 3 && a->kw == 3 &&
           a->stride_t == 1 && a->stride_s == 1 && !a->doubled && !a->norm &&
           a->pad_top == 1 && a->pad_left == 1 && a->ho == a->h &&
           a->wo == a->w && bytes <= cuda->shared_bytes;
}

int cv_cuda_conv_few(CvCuda *cuda, const CvConvJob *a)
{
    Job job = { *a, (a->w + kWide - 1) / kWide, 0 };

    job.tiles = job.across * ((a->h + kHigh - 1) / kHigh);
    return a->c == 96 ? launch<6, 3>(cuda, &job) : launch<4, 1>(cuda, &job);
}
