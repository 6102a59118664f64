/*
 * Stored tensors as sources of uploads.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * What lies in a file in the order that is wanted is read from the file, not
 * from its mapping: of what the system has in its cache that costs one copy,
 * where a mapping costs a fault for each few pages too, and then, when the file
 * is closed, 10 to 65 ms a GiB to take the pages out again (docs/benchmarks.md).
 * What lies in another order is gathered from the mapping, by as many threads as
 * the backend reads with.
 */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "weights/source.h"

/* 0: everything comes from the mappings, to measure the difference. */
#ifndef CV_READ_FILES
#define CV_READ_FILES 1
#endif

/* The order of the file, of elements that follow each other. */
static CvView whole_view(const CvEntry *e)
{
    const CvTensor *t = &e->tensor;
    CvView v = { .data = t->data, .n_dims = t->n_dims };
    int64_t stride = 1;

    for (int i = t->n_dims - 1; i >= 0; i--) {
        v.dim[i]    = t->dim[i];
        v.stride[i] = stride;
        stride     *= t->dim[i];
    }
    return v;
}

static void set_dim(CvView *v, int i, int64_t dim, int64_t stride)
{
    v->dim[i]    = dim;
    v->stride[i] = stride;
}

/* [o, c, (kt,) kh, kw] -> [o, (kt,) kh, kw, c] */
static void put_channels_last(CvView *v)
{
    const int64_t dim = v->dim[1], stride = v->stride[1];
    const int last = v->n_dims - 1;

    for (int i = 1; i < last; i++)
        set_dim(v, i, v->dim[i + 1], v->stride[i + 1]);
    set_dim(v, last, dim, stride);
}

/* [o, 2 c, kh, kw] -> [o, 2, kh, kw, c], of which the second half comes first */
static void put_pair(CvView *v, size_t size)
{
    const int64_t channels = v->dim[1] / 2, stride = v->stride[1];

    v->data  += channels * stride * (ptrdiff_t)size;
    v->n_dims = 5;
    set_dim(v, 1, 2, -channels * stride);
    set_dim(v, 4, channels, stride);
}

void cv_stored_init(CvStored *s, const CvWeights *w, const CvEntry *e,
                    CvLoadLayout layout, int64_t first, CvLog *log)
{
    *s = (CvStored){ .entry = e, .first = first, .part = INT64_MAX,
                     .step = INT64_MAX, .log = log };
    if (e->view || layout != CV_LOAD_AS_IS) {
        s->view = e->view ? *e->view : whole_view(e);
        if (layout == CV_LOAD_CONV)
            put_channels_last(&s->view);
        else if (layout == CV_LOAD_CONV_PAIR)
            put_pair(&s->view, cv_type_bytes(e->tensor.type));
        return;
    }
    for (int i = 0; i < w->n_files && CV_READ_FILES; i++)
        if (w->files[i]->path == e->file && w->files[i]->is_open)
            s->file = w->files[i];
}

void cv_stored_parts(CvStored *s, int64_t part, int64_t step)
{
    s->part = part;
    s->step = step;
    s->file = NULL; /* parts are too short to ask the system for each */
}

static int read_file(CvStored *s, uint8_t *to, size_t n, size_t at)
{
    while (n) {
        const ssize_t part = pread(s->file->fd, to, n, (off_t)at);

        if (part < 0 && errno == EINTR)
            continue;
        if (part <= 0) /* a line for the first thread that sees it */
            return atomic_exchange(&s->told, 1) ? CAUSVID_ERR(EIO) :
                   cv_fail(s->log, EIO, "'%s' cannot be read: %s",
                           s->file->path, part ? strerror(errno) : "it became "
                           "shorter while it was loaded");
        to += part;
        at += (size_t)part;
        n  -= (size_t)part;
    }
    return 0;
}

/* n elements of the tensor, in the order of the source. */
static int read_run(CvStored *s, uint8_t *to, int64_t first, int64_t n)
{
    const CvEntry *e = s->entry;
    const int block = cv_type_block(e->tensor.type);
    const size_t size = cv_type_bytes(e->tensor.type);
    const uint8_t *src = e->tensor.data;

    if (s->view.n_dims) {
        cv_view_copy(to, &s->view, size, first, n);
        return 0;
    }
    src += (size_t)(first / block) * size;
    if (s->file)
        return read_file(s, to, (size_t)(n / block) * size,
                         (size_t)(src - s->file->data));
    memcpy(to, src, (size_t)(n / block) * size);
    return 0;
}

int cv_stored_read(void *arg, void *to, int64_t first, int64_t n)
{
    CvStored *s = arg;
    const CvType type = s->entry->tensor.type;
    int err = 0;

    for (int64_t done = 0, run; done < n && !err; done += run) {
        const int64_t at = first + done, within = at % s->part;

        run = s->part - within < n - done ? s->part - within : n - done;
        err = read_run(s, (uint8_t *)to + (size_t)(done / cv_type_block(type)) *
                       cv_type_bytes(type), s->first + at / s->part * s->step +
                       within, run);
    }
    return err;
}
