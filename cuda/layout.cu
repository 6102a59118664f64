/*
 * Operations that put elements in another order.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * All are bound by bytes. split_frames moves whole pixels. The others
 * exchange the channel with the position; they see latents only (2.1 million
 * elements in 81 frames of 832x480), so a transposition through shared memory
 * would win nothing: a warp takes 8 positions of 4 channels, which reads and
 * writes whole 32-byte sectors (for bf16, at least 8 bytes of them, and the
 * second-level cache gathers the rest).
 *
 * Predicted for an H200 at 4.2 TB/s:
 *   split_frames   3 frames of 208x120, c = 768 (bf16)   230 MB   55 us
 *   patchify, unpatchify   21 x 16 x 60 x 104     13, 17 MB      3, 4 us
 *   to_channels_*          1 x 16 x 60 x 104        0.6 MB       launches
 */
#include "vector.cuh"

enum { kThreads = 256 };

/* A block covers kPositions x kChannels; threads of a warp are laid out as
 * `wide` positions x CV_WARP / wide channels, which the block's warps repeat
 * along the positions. */
enum { kWide = 8, kChannels = CV_WARP / kWide, kPositions = 8 * kWide };

typedef struct Place {
    int64_t position;
    int channel;
} Place;

static __device__ __forceinline__ Place place(void)
{
    int lane = (int)threadIdx.x % CV_WARP;
    Place p = { (int64_t)blockIdx.x * kPositions +
                    (int)threadIdx.x / CV_WARP * kWide + lane % kWide,
                (int)blockIdx.y * kChannels + lane / kWide };

    return p;
}

static dim3 grid_of(int64_t positions, int64_t channels)
{
    return dim3(cv_blocks(positions, kPositions),
                cv_blocks(channels, kChannels));
}

/* ---- patchify, unpatchify: a position is a token ---- */

typedef struct Patches {
    int64_t tokens;
    int c, h, w; /* h, w: tokens of a column and of a row */
} Patches;

static Patches patches_of(const CvTensor *latents)
{
    Patches p = { latents->dim[0] * (latents->dim[2] / 2) *
                      (latents->dim[3] / 2),
                  (int)latents->dim[1], (int)(latents->dim[2] / 2),
                  (int)(latents->dim[3] / 2) };

    return p;
}

/* The upper left element of a patch, in [t, c, 2h, 2w]; the row below is 2w
 * elements on. */
static __device__ __forceinline__ int64_t corner(const Patches &a, Place p)
{
    unsigned token = (unsigned)p.position, line = token / (unsigned)a.w;
    int64_t frame = line / (unsigned)a.h, row = line % (unsigned)a.h;

    return (((frame * a.c + p.channel) * a.h + row) * a.w * 2 +
            token % (unsigned)a.w) * 2;
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
patchify_kernel(T *__restrict__ out, const float *__restrict__ x,
                const Patches a)
{
    cv_begin();
    Place p = place();

    if (p.position < a.tokens && p.channel < a.c) {
        const float *from = x + corner(a, p);
        T *to = out + (p.position * a.c + p.channel) * 4;

        cv_store(to, from[0]);
        cv_store(to + 1, from[1]);
        cv_store(to + 2, from[2 * a.w]);
        cv_store(to + 3, from[2 * a.w + 1]);
    }
}

int cv_cuda_patchify(CvBackend *b, const CvTensor *out, const CvTensor *x)
{
    CvCuda *cuda = cv_cuda(b);
    const float *src = (const float *)x->data;
    Patches a = patches_of(x);
    dim3 grid = grid_of(a.tokens, a.c);

    if (!cv_elements(x))
        return 0;
    if (out->type == CV_F32)
        return CV_LAUNCH(cuda, cuda->stream, patchify_kernel<float>, grid,
                         kThreads, 0, (float *)out->data, src, a);
    return CV_LAUNCH(cuda, cuda->stream, patchify_kernel<cv_bf16>, grid,
                     kThreads, 0, (cv_bf16 *)out->data, src, a);
}

__global__ void __launch_bounds__(kThreads)
unpatchify_kernel(float *__restrict__ out, const float *__restrict__ x,
                  const Patches a)
{
    cv_begin();
    Place p = place();

    if (p.position < a.tokens && p.channel < a.c) {
        const float *from = x + p.position * 4 * a.c + p.channel;
        float *to = out + corner(a, p);

        to[0] = from[0];
        to[1] = from[a.c];
        to[2 * a.w] = from[2 * a.c];
        to[2 * a.w + 1] = from[3 * a.c];
    }
}

int cv_cuda_unpatchify(CvBackend *b, const CvTensor *out, const CvTensor *x)
{
    CvCuda *cuda = cv_cuda(b);
    Patches a = patches_of(out);

    if (!cv_elements(x))
        return 0;
    return CV_LAUNCH(cuda, cuda->stream, unpatchify_kernel,
                     grid_of(a.tokens, a.c), kThreads, 0, (float *)out->data,
                     (const float *)x->data, a);
}

/* ---- split_frames ---- */

/* Pieces of type P, `width` for each of the two halves of a pixel. A block
 * has kThreads / lanes pixels. */
template <typename P>
__global__ void __launch_bounds__(kThreads)
split_frames_kernel(P *__restrict__ out, const P *__restrict__ x,
                    int64_t pixels, int64_t area, int64_t width, int lanes)
{
    cv_begin();
    int64_t pixel = (int64_t)blockIdx.x * (kThreads / lanes) +
                    (int)threadIdx.x / lanes;
    int64_t frame = pixel / area;
    P *even = out + (pixel + frame * area) * width, *odd = even + area * width;

    if (pixel >= pixels)
        return;
    x += pixel * 2 * width;
    for (int64_t i = (int)threadIdx.x % lanes; i < 2 * width; i += lanes) {
        if (i < width)
            even[i] = x[i];
        else
            odd[i - width] = x[i];
    }
}

template <typename P>
static int split_frames(CvCuda *cuda, const CvTensor *out, const CvTensor *x,
                        int64_t width)
{
    int64_t area = x->dim[1] * x->dim[2], pixels = x->dim[0] * area;
    auto kernel = split_frames_kernel<P>;
    int lanes = kThreads;

    while (lanes > 1 && lanes / 2 >= 2 * width)
        lanes /= 2;
    return CV_LAUNCH(cuda, cuda->stream, kernel,
                     cv_blocks(pixels, kThreads / lanes), kThreads, 0,
                     (P *)out->data, (const P *)x->data, pixels, area, width,
                     lanes);
}

int cv_cuda_split_frames(CvBackend *b, const CvTensor *out, const CvTensor *x)
{
    CvCuda *cuda = cv_cuda(b);
    int64_t bytes = out->dim[3] * (int64_t)cv_type_bytes(out->type);

    if (!cv_elements(x))
        return 0;
    if (bytes % 16 == 0 && cv_aligned16(out->data) && cv_aligned16(x->data))
        return split_frames<uint4>(cuda, out, x, bytes / 16);
    if (out->type == CV_F32)
        return split_frames<float>(cuda, out, x, out->dim[3]);
    return split_frames<cv_bf16>(cuda, out, x, out->dim[3]);
}

/* ---- to_channels_last, to_channels_first: a position is a pixel ---- */

/* The host's factors travel as arguments, some channels at a time. */
enum { kScales = 64 };

typedef struct Scales {
    float mul[kScales], add[kScales];
    int64_t pixels, area;
    int64_t first;     /* channel of mul[0] */
    int n;             /* channels here */
    int64_t c, k;      /* channels of a pixel: channels first, last */
} Scales;

template <typename T>
__global__ void __launch_bounds__(kThreads)
to_channels_last_kernel(T *__restrict__ out, const float *__restrict__ x,
                        const __grid_constant__ Scales a)
{
    cv_begin();
    Place p = place();

    if (p.position < a.pixels && p.channel < a.n) {
        int64_t frame = p.position / a.area, at = p.position % a.area;
        int64_t channel = a.first + p.channel;

        cv_store(out + p.position * a.k + channel,
                 x[(frame * a.c + channel) * a.area + at] * a.mul[p.channel] +
                 a.add[p.channel]);
    }
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
to_channels_first_kernel(float *__restrict__ out, const T *__restrict__ x,
                         const __grid_constant__ Scales a)
{
    cv_begin();
    Place p = place();

    if (p.position < a.pixels && p.channel < a.n) {
        int64_t frame = p.position / a.area, at = p.position % a.area;
        int64_t channel = a.first + p.channel;

        out[(frame * a.c + channel) * a.area + at] =
            cv_load(x + p.position * a.k + channel) * a.mul[p.channel] +
            a.add[p.channel];
    }
}

/* planes: the tensor [t, c, h, w]; k: channels of the other's pixels. */
static Scales scales_of(const CvTensor *planes, int64_t k, const float *mul,
                        const float *add, int64_t first)
{
    int64_t c = planes->dim[1], area = planes->dim[2] * planes->dim[3];
    int n = c - first < kScales ? (int)(c - first) : (int)kScales;
    Scales a = { { 0 }, { 0 }, planes->dim[0] * area, area, first, n, c, k };

    memcpy(a.mul, mul + first, (size_t)a.n * sizeof(*mul));
    memcpy(a.add, add + first, (size_t)a.n * sizeof(*add));
    return a;
}

int cv_cuda_to_channels_last(CvBackend *b, const CvTensor *out,
                             const CvTensor *x, const float *mul,
                             const float *add)
{
    CvCuda *cuda = cv_cuda(b);
    const float *src = (const float *)x->data;
    int err = 0;

    if (!cv_elements(x))
        return 0;
    for (int64_t first = 0; !err && first < x->dim[1]; first += kScales) {
        Scales a = scales_of(x, out->dim[3], mul, add, first);
        dim3 grid = grid_of(a.pixels, a.n);

        if (out->type == CV_F32)
            err = CV_LAUNCH(cuda, cuda->stream,
                            to_channels_last_kernel<float>, grid, kThreads, 0,
                            (float *)out->data, src, a);
        else
            err = CV_LAUNCH(cuda, cuda->stream,
                            to_channels_last_kernel<cv_bf16>, grid, kThreads,
                            0, (cv_bf16 *)out->data, src, a);
    }
    return err;
}

int cv_cuda_to_channels_first(CvBackend *b, const CvTensor *out,
                              const CvTensor *x, const float *mul,
                              const float *add)
{
    CvCuda *cuda = cv_cuda(b);
    float *dst = (float *)out->data;
    int err = 0;

    if (!cv_elements(out))
        return 0;
    for (int64_t first = 0; !err && first < out->dim[1]; first += kScales) {
        Scales a = scales_of(out, x->dim[3], mul, add, first);
        dim3 grid = grid_of(a.pixels, a.n);

        if (x->type == CV_F32)
            err = CV_LAUNCH(cuda, cuda->stream,
                            to_channels_first_kernel<float>, grid, kThreads, 0,
                            dst, (const float *)x->data, a);
        else
            err = CV_LAUNCH(cuda, cuda->stream,
                            to_channels_first_kernel<cv_bf16>, grid, kThreads,
                            0, dst, (const cv_bf16 *)x->data, a);
    }
    return err;
}
