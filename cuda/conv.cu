/*
 * Convolution over time and space: the generic bf16 path (sm_80 and later),
 * and the choice of the path.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * An implicit product (conv.cuh) with mma.sync. A block makes kM pixels x kN
 * channels from steps of 32 columns, which are copied to four stages of
 * shared memory by cp.async, 16 bytes (8 channels of one tap) a time, with
 * zeros for padding. Every thread always copies the same 8 of the 32 columns,
 * for one or two pixels, and follows their place in the kernel by additions.
 * Rows of a stage are 64 bytes; the four pieces of row r lie at piece ^
 * (r / 2) % 4, so that both the copies and ldmatrix touch every bank once.
 * Numbers of channels that are no multiple of 8 (3 of a picture) go through
 * the same stages element by element.
 *
 * Bound by the tensor cores as mma.sync reaches them and by L2: at 832x480,
 * for one latent frame (4 frames of the clip), measured on an H200:
 *   1/8: 6,240 pixels, 384 -> 384, 3x3x3: 50 GFLOP, 0.28 ms (predicted: 0.2).
 *     147 blocks of 128 x 128 would leave the second wave nearly empty: 64 x
 *     128.
 *   1/4: 49,920 pixels, 384 -> 384: 397 GFLOP, 1.22 ms, 326 TFLOP/s. A step of
 *     128 x 128 x 32 reads 16 KB for 1.05 MFLOP: 5.2 TB/s from L2, where each
 *     pixel lies that 27 taps read.
 *   1/1: 1.6 million pixels, 96 -> 96: 795 GFLOP, 2.89 ms, 275 TFLOP/s. A
 *     step of 128 x 96 reads 14 KB for 0.79 MFLOP: L2 is the limit.
 * Not done: up = 2 costs its 9 taps on the doubled picture; four 2x2
 * convolutions with summed weights would be 4/9 of that (25 TFLOP). Taps of
 * one row taken one after another for the same channels would find two of
 * three pixels in L1 (cp.async.ca); to be measured.
 */
#include <limits.h>

#include "conv.cuh"
#include "ptx.cuh"

enum { kK = 32, kRow = 2 * kK, kPieces = kRow / 16, kStages = 4,
       kThreads = 256 };

/* The bytes from a stage's start to a piece of a row. 8 rows on are 8 kRow
 * bytes on, and two pieces on or back are ^ 32. */
static __device__ __forceinline__ int piece_at(int row, int piece)
{
    return row * kRow + (piece ^ (row / 2 % 4)) * 16;
}

/* What a thread copies: a column of pieces, of every kThreads / kPieces th
 * row. */
template <int kM, int kN, bool kVectors> struct Copier {
    static constexpr int kStep = kThreads / kPieces; /* rows */
    static constexpr int kPixels = kM / kStep;
    static constexpr int kStage = (kM + kN) * kRow;  /* bytes */

    const CvConvJob *a;
    CvConvPixel pixel[kPixels];
    const cv_bf16 *from[kPixels]; /* under the present tap, or NULL */
    const cv_bf16 *weight;        /* of the first row of weights */
    CvConvTap at;
    int k, n;                     /* n: rows of weights left */
    int to;                       /* bytes from the start of a stage */

    __device__ __forceinline__ void find(void)
    {
#pragma unroll
        for (int i = 0; i < kPixels; i++)
            from[i] = k < a->k ? cv_conv_input<cv_bf16>(a, pixel[i], at.i,
                                                        at.j, at.l)
                               : NULL;
    }

    __device__ __forceinline__ void start(const CvConvJob *job, int m0, int n0)
    {
        int row = (int)threadIdx.x / kPieces;
        int piece = (int)threadIdx.x % kPieces;

        a = job;
        to = piece_at(row, piece);
        k = piece * 8;
        n = a->o - n0 - row;
        weight = (const cv_bf16 *)a->weight + (int64_t)(n0 + row) * a->k;
        at = { 0, 0, 0, 0 };
#pragma unroll
        for (int i = 0; i < kPixels; i++)
            pixel[i] = cv_conv_pixel(a, m0 + row + i * kStep);
        cv_conv_advance(a, &at, k);
        find();
    }

    /* Whether the tile has the i-th row of weights from the thread's on. */
    __device__ __forceinline__ bool has_row(int i)
    {
        return i + kStep <= kN || (int)threadIdx.x < (kN - i) * kPieces;
    }

    __device__ __forceinline__ void copy_vectors(unsigned char *stage)
    {
        const cv_bf16 *any = (const cv_bf16 *)a->weight;

        stage += to;
#pragma unroll
        for (int i = 0; i < kPixels; i++)
            cv_cp_async16(stage + i * kStep * kRow,
                          from[i] ? from[i] + at.c : any, from[i] != NULL);
#pragma unroll
        for (int i = 0; i < kN; i += kStep) {
            int valid = i < n && k < a->k;

            if (has_row(i))
                cv_cp_async16(stage + (kM + i) * kRow,
                              valid ? weight + (int64_t)i * a->k + k : any,
                              valid);
        }
        k += kK;
        at.c += kK;
        if (at.c >= a->c) { /* for all threads at once where 32 divides c */
            cv_conv_advance(a, &at, 0);
            find();
        }
    }

    __device__ __forceinline__ void copy_elements(unsigned char *stage)
    {
        cv_bf16 zero = __float2bfloat16_rn(0);

        stage += to;
        for (int e = 0; e < 8; e++) {
#pragma unroll
            for (int i = 0; i < kPixels; i++)
                ((cv_bf16 *)(stage + i * kStep * kRow))[e] =
                    from[i] ? from[i][at.c] : zero;
#pragma unroll
            for (int i = 0; i < kN; i += kStep)
                if (has_row(i))
                    ((cv_bf16 *)(stage + (kM + i) * kRow))[e] =
                        i < n && k < a->k ? weight[(int64_t)i * a->k + k]
                                          : zero;
            k++;
            cv_conv_advance(a, &at, 1);
            find();
        }
        k += kK - 8;
        cv_conv_advance(a, &at, kK - 8);
        find();
    }

    __device__ __forceinline__ void copy(unsigned char *stage)
    {
        if (kVectors)
            copy_vectors(stage);
        else
            copy_elements(stage);
    }
};

/* m, n: of the lane's first sum. */
template <bool kRelu, int kTilesM, int kTilesN>
static __device__ __forceinline__ void
write_tiles(const CvConvJob *a, int m, int n,
            const float (&sum)[kTilesM][kTilesN][4])
{
#pragma unroll
    for (int i = 0; i < kTilesM; i++)
#pragma unroll
        for (int j = 0; j < kTilesN; j++) {
            cv_conv_finish<kRelu>(a, m + i * 16, n + j * 8, sum[i][j][0],
                                  sum[i][j][1]);
            cv_conv_finish<kRelu>(a, m + i * 16 + 8, n + j * 8, sum[i][j][2],
                                  sum[i][j][3]);
        }
}

/* kWarpsM of the eight warps share the pixels, the rest the channels. */
template <int kM, int kN, int kWarpsM, bool kVectors>
static __global__ void __launch_bounds__(kThreads, kVectors ? 2 : 1)
    conv_bf16_kernel(const CvConvJob a)
{
    cv_begin();
    typedef Copier<kM, kN, kVectors> Copies;
    constexpr int kWarpM = kM / kWarpsM;
    constexpr int kWarpN = kN / (kThreads / CV_WARP / kWarpsM);
    constexpr int kTilesM = kWarpM / 16, kTilesN = kWarpN / 8;
    static_assert(kWarpM % 16 == 0 && kWarpN % 16 == 0, "ldmatrix takes 16");
    static_assert(kM % Copies::kStep == 0, "each thread copies whole rows");
    CV_DYNAMIC_SHARED(unsigned char, shared);
    int lane = (int)threadIdx.x % CV_WARP, warp = (int)threadIdx.x / CV_WARP;
    int warp_m = warp % kWarpsM * kWarpM, warp_n = warp / kWarpsM * kWarpN;
    int n_blocks = (a.o + kN - 1) / kN;
    int m0 = (int)(blockIdx.x / (unsigned)n_blocks) * kM;
    int n0 = (int)(blockIdx.x % (unsigned)n_blocks) * kN;
    /* Where ldmatrix begins in a stage, for pixels and for weights. */
    int u_at = piece_at(warp_m + lane % 16, lane / 16);
    int v_at = piece_at(kM + warp_n + lane % 8 + lane / 16 * 8, lane / 8 % 2);
    int steps = (a.k + kK - 1) / kK, next = 0, load = kStages - 1;
    float sum[kTilesM][kTilesN][4] = {};
    Copies copies;

    copies.start(&a, m0, n0);
#pragma unroll
    for (int i = 0; i < kStages - 1; i++) {
        if (i < steps)
            copies.copy(shared + i * Copies::kStage);
        cv_cp_async_commit();
    }
    for (int step = 0; step < steps; step++) {
        const unsigned char *stage = shared + next * Copies::kStage;

        cv_cp_async_wait<kStages - 2>();
        /* Step's stage is there for all, and the one before is free. */
        __syncthreads();
        if (step + kStages - 1 < steps)
            copies.copy(shared + load * Copies::kStage);
        cv_cp_async_commit();
#pragma unroll
        for (int half = 0; half < kK / 16; half++) {
            uint32_t u[kTilesM][4], v[kTilesN / 2][4];

#pragma unroll
            for (int i = 0; i < kTilesM; i++)
                cv_ldmatrix_x4(u[i], stage + (u_at ^ half * 32) +
                                         i * 16 * kRow);
#pragma unroll
            for (int j = 0; j < kTilesN / 2; j++)
                cv_ldmatrix_x4(v[j], stage + (v_at ^ half * 32) +
                                         j * 16 * kRow);
#pragma unroll
            for (int i = 0; i < kTilesM; i++)
#pragma unroll
                for (int j = 0; j < kTilesN; j++)
                    cv_mma_bf16(sum[i][j], u[i], v[j / 2][j % 2 * 2],
                                v[j / 2][j % 2 * 2 + 1]);
        }
        next = next + 1 == kStages ? 0 : next + 1;
        load = load + 1 == kStages ? 0 : load + 1;
    }
    m0 += warp_m + lane / 4;
    n0 += warp_n + lane % 4 * 2;
    if (a.relu)
        write_tiles<true, kTilesM, kTilesN>(&a, m0, n0, sum);
    else
        write_tiles<false, kTilesM, kTilesN>(&a, m0, n0, sum);
}

template <int kM, int kN, int kWarpsM, bool kVectors>
static int launch(CvCuda *cuda, const CvConvJob *a)
{
    auto kernel = conv_bf16_kernel<kM, kN, kWarpsM, kVectors>;
    unsigned blocks = cv_blocks(a->m, kM) * cv_blocks(a->o, kN);
    size_t bytes = (size_t)kStages * Copier<kM, kN, kVectors>::kStage;

    return CV_LAUNCH(cuda, cuda->stream, kernel, blocks, kThreads, bytes, *a);
}

/* The width of the tile: each tile of n channels costs n, and about 48 more
 * for the pixels that it copies again. */
static int choose_width(int o)
{
    static const int widths[] = { 128, 96, 64, 32, 16 };
    int best = 0, least = INT_MAX;

    for (int width : widths) {
        int cost = (o + width - 1) / width * (width + 48);

        if (cost < least) {
            least = cost;
            best = width;
        }
    }
    return best;
}

static int conv_bf16(CvCuda *cuda, const CvConvJob *a, int vectors)
{
    int width = choose_width(a->o);
    int64_t blocks = (int64_t)cv_blocks(a->m, 128) * cv_blocks(a->o, width);

    if (!vectors)
        return width > 16 ? launch<128, 96, 4, false>(cuda, a)
                          : launch<128, 16, 8, false>(cuda, a);
    /* Two blocks run on a multiprocessor. With fewer than two rounds of
     * them, lower tiles leave less of the last round empty. */
    if (width == 128)
        return blocks < 4 * cuda->processors
                   ? launch<64, 128, 2, true>(cuda, a)
                   : launch<128, 128, 2, true>(cuda, a);
    if (width == 96)
        return blocks < 4 * cuda->processors
                   ? launch<64, 96, 4, true>(cuda, a)
                   : launch<128, 96, 4, true>(cuda, a);
    if (width == 64)
        return launch<128, 64, 4, true>(cuda, a);
    return width == 32 ? launch<128, 32, 4, true>(cuda, a)
                       : launch<128, 16, 8, true>(cuda, a);
}

static int is_aligned(const void *p, size_t bytes)
{
    return (uintptr_t)p % bytes == 0;
}

/* Kernels count pixels and columns in 32 bits. */
static int fits(const CvConv3d *a)
{
    const int64_t most = INT32_MAX / 4;
    const CvTensor *out = a->out ? a->out : a->norm;
    const CvTensor *parts[] = { a->x, a->weight, out };
    int64_t pixels = out->dim[0] * out->dim[1] * out->dim[2];

    for (const CvTensor *part : parts)
        for (int i = 0; i < part->n_dims; i++)
            if (part->dim[i] > most)
                return 0;
    return pixels <= most && cv_row_elements(a->weight) <= most &&
           a->pad_top <= most && a->pad_left <= most;
}

int cv_cuda_conv3d(CvBackend *b, const CvConv3d *args)
{
    CvCuda *cuda = cv_cuda(b);
    const CvTensor *x = args->x, *weight = args->weight;
    const CvTensor *out = args->out ? args->out : args->norm;
    CvConvJob a = {};
    int err, vectors, hopper;

    if (!fits(args))
        return cv_fail(b->log, ENOSYS, "conv3d: more than 2^29 pixels or "
                       "weights of a channel");
    a.p = args->history ? (int)args->history->dim[0] : 0;
    a.t = (int)x->dim[0];
    a.h = (int)x->dim[1];
    a.w = (int)x->dim[2];
    a.c = (int)x->dim[3];
    a.o = (int)weight->dim[0];
    a.kt = (int)weight->dim[1];
    a.kh = (int)weight->dim[2];
    a.kw = (int)weight->dim[3];
    a.to = (int)out->dim[0];
    a.ho = (int)out->dim[1];
    a.wo = (int)out->dim[2];
    a.stride_t = args->stride_t;
    a.stride_s = args->stride_s;
    a.pad_top = args->pad_top;
    a.pad_left = args->pad_left;
    a.doubled = args->up == 2;
    a.m = a.to * a.ho * a.wo;
    a.k = a.kt * a.kh * a.kw * a.c;
    a.x = x->data;
    a.history = args->history ? args->history->data : NULL;
    a.weight = weight->data;
    a.bias = args->bias ? (const float *)args->bias->data : NULL;
    a.add = args->add ? args->add->data : NULL;
    a.out = out->data;
    a.relu = args->relu;
    a.pairs = a.o % 2 == 0 && is_aligned(a.out, 4) && is_aligned(a.add, 4);
    vectors = a.c % 8 == 0 && is_aligned(a.x, 16) &&
              is_aligned(a.history, 16) && is_aligned(a.weight, 16);
    hopper = b->activation == CV_BF16 && vectors &&
             cv_cuda_conv_hopper_takes(cuda, &a);
    if (args->norm && hopper) {
        a.norm = args->norm->data;
        a.gamma = (const float *)args->gamma->data;
        a.out = args->out ? args->out->data : NULL;
        if (!cv_cuda_conv_hopper_norms(cuda, &a)) {
            a.out = out->data;
            a.norm = NULL;
        }
    }

    if (b->activation == CV_F32)
        err = cv_cuda_conv_float(cuda, &a);
    else if (vectors && cv_cuda_conv_few_takes(cuda, &a))
        err = cv_cuda_conv_few(cuda, &a);
    else
        err = hopper ? cv_cuda_conv_hopper(cuda, &a)
                     : conv_bf16(cuda, &a, vectors);
    if (!err && args->norm && !a.norm)
        err = cv_cuda_norm_silu(b, args->norm, out, args->gamma, 1);
    return err;
}
