/*
 * Frames to the caller's planes, in device memory or on the host.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * Called by the thread that reads frames while another one generates. A frame
 * is finished before it is read (pipeline.c waits), so drawing needs no event
 * of the engine's stream; the next block may be running on that one.
 *
 * Planes on the device are drawn on the caller's stream: behind what the
 * caller still does with them, before what it does next. The event `drawn`
 * tells when the frame's own memory is free again.
 *
 * Planes on the host are drawn into memory of our own, on a stream of our own,
 * copied to pinned memory and from there to the planes, in pieces of rows when
 * a picture is larger than that memory. Pieces have an even number of rows:
 * chroma of 4:2:0 mixes pairs of rows only, so each piece is a picture.
 */
#include <string.h>

#include "host.h"

/* Start of a plane in our memory. */
#define ALIGNMENT 256

/* Bytes of a row and rows shared by a sample. Kept in step with
 * check_picture() of pipeline.c. */
static const struct Format {
    int planes, chroma_shift, bytes[3];
} formats[] = {
    [CAUSVID_FORMAT_YUV420P]   = { 3, 1, { 1, 1, 1 } },
    [CAUSVID_FORMAT_NV12]      = { 2, 1, { 1, 2 } },
    [CAUSVID_FORMAT_YUV444P]   = { 3, 0, { 1, 1, 1 } },
    [CAUSVID_FORMAT_YUV420P10] = { 3, 1, { 2, 2, 2 } },
    [CAUSVID_FORMAT_P010]      = { 2, 1, { 2, 4 } },
    [CAUSVID_FORMAT_GBRP]      = { 3, 0, { 1, 1, 1 } },
    [CAUSVID_FORMAT_RGB24]     = { 1, 0, { 3 } },
    [CAUSVID_FORMAT_RGB0]      = { 1, 0, { 4 } },
    [CAUSVID_FORMAT_BGR0]      = { 1, 0, { 4 } },
};

/* A plane of a picture of w x h: bytes a row that are used, and rows. */
typedef struct Plane {
    size_t row;
    int rows;
} Plane;

static Plane plane_of(const struct Format *f, int plane, int w, int h)
{
    int shift = plane ? f->chroma_shift : 0;

    return (Plane){ (size_t)((w + shift) >> shift) * (size_t)f->bytes[plane],
                    (h + shift) >> shift };
}

static size_t aligned(size_t n)
{
    return (n + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

/* Bytes of a picture of h rows in our memory, rows packed to ALIGNMENT. */
static size_t picture_bytes(const struct Format *f, int w, int h)
{
    size_t bytes = 0;

    for (int i = 0; i < f->planes; i++) {
        Plane p = plane_of(f, i, w, h);

        bytes += aligned(p.row) * (size_t)p.rows;
    }
    return bytes;
}

/* Rows [y, y + h) of the picture; y is even. */
static int draw_rows(CvCuda *cuda, const CvPictureArgs *a,
                     const struct Format *f, int y, int h)
{
    struct CvCudaHost *host = cuda->host;
    const CvTensor frame = cv_rows(a->frame, y, h);
    CausvidPicture device = *a->pic;
    uint8_t *at = host->picture;
    size_t bytes = picture_bytes(f, a->pic->width, h);
    cudaError_t error;
    int err;

    device.height = h;
    for (int i = 0; i < f->planes; i++) {
        Plane p = plane_of(f, i, a->pic->width, h);

        device.data[i]   = at;
        device.stride[i] = (ptrdiff_t)aligned(p.row);
        at += aligned(p.row) * (size_t)p.rows;
    }
    err = cv_cuda_draw_picture(cuda, &frame, &device, cuda->pictures);
    if (err < 0)
        return err;
    error = cudaMemcpyAsync(host->picture_host, host->picture, bytes,
                            cudaMemcpyDeviceToHost, cuda->pictures);
    if (!error)
        error = cudaStreamSynchronize(cuda->pictures);
    if ((err = cv_cuda_check(cuda, error, "reading a picture")) < 0)
        return err;
    at = host->picture_host;
    for (int i = 0; i < f->planes; i++) {
        Plane p = plane_of(f, i, a->pic->width, h);
        int first = i ? y >> f->chroma_shift : y;
        uint8_t *to = (uint8_t *)a->pic->data[i] +
                      (ptrdiff_t)first * a->pic->stride[i];

        for (int r = 0; r < p.rows; r++) {
            memcpy(to, at, p.row);
            to += a->pic->stride[i];
            at += aligned(p.row);
        }
    }
    return 0;
}

static int draw_on_host(CvCuda *cuda, const CvPictureArgs *a)
{
    const struct Format *f = &formats[a->pic->format];
    const int w = a->pic->width, h = a->pic->height;
    const size_t two = picture_bytes(f, w, 2);
    const size_t pairs = CV_CUDA_PICTURE / two;
    const int piece = pairs < (size_t)h / 2 + 1 ? 2 * (int)pairs : h;
    int err = 0;

    if (!pairs)
        return cv_fail(cuda->base.log, EINVAL, "a picture of %d pixels across "
                       "is too wide", w);
    for (int y = 0; y < h && !err; y += piece)
        err = draw_rows(cuda, a, f, y, piece < h - y ? piece : h - y);
    return err;
}

int cv_cuda_to_picture(CvBackend *b, const CvPictureArgs *a)
{
    CvCuda *cuda = cv_cuda(b);
    int err;

    if ((unsigned)a->pic->format >= sizeof(formats) / sizeof(*formats))
        return cv_fail(b->log, EINVAL, "to_picture: unknown format %d",
                       (int)a->pic->format);
    if (a->pic->memory != CAUSVID_MEMORY_CUDA)
        return draw_on_host(cuda, a);
    err = cv_cuda_draw_picture(cuda, a->frame, a->pic, cuda->caller);
    if (!err)
        err = cv_cuda_check(cuda, cudaEventRecord(cuda->host->drawn,
                                                  cuda->caller), "an event");
    atomic_store(&cuda->host->any_drawn, 1);
    return err;
}

int cv_cuda_reuse_frames(CvBackend *b)
{
    CvCuda *cuda = cv_cuda(b);

    if (!atomic_load(&cuda->host->any_drawn))
        return 0;
    return cv_cuda_check(cuda, cudaStreamWaitEvent(cuda->stream,
                                                   cuda->host->drawn, 0),
                         "waiting for pictures");
}
