/*
 * A backend that computes nothing: for looking at a model without loading it.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * Its memory is address space that is never touched, and it has only the
 * operations that opening a model and preparing a clip ask for, which do
 * nothing. A plan made on it counts what the CPU backend would take.
 */
#define _DEFAULT_SOURCE /* MAP_ANONYMOUS, MAP_NORESERVE */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "device.h"

/* Remembered in front of each block, since munmap() wants the size. */
#define HEADER 4096

static int null_alloc(CvBackend *b, size_t bytes, void **data)
{
    uint8_t *p = mmap(NULL, bytes + HEADER, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    (void)b;
    if (p == MAP_FAILED)
        return CAUSVID_ERR(ENOMEM);
    memcpy(p, &bytes, sizeof(bytes));
    *data = p + HEADER;
    return 0;
}

static void null_release(CvBackend *b, void *data)
{
    size_t bytes;

    (void)b;
    if (!data)
        return;
    memcpy(&bytes, (uint8_t *)data - HEADER, sizeof(bytes));
    munmap((uint8_t *)data - HEADER, bytes + HEADER);
}

static int null_upload(CvBackend *b, const CvTensor *dst, const CvSource *src,
                       CvType type, const void *tag)
{
    (void)b, (void)dst, (void)src, (void)type, (void)tag;
    return 0;
}

static int null_uploaded(CvBackend *b, const void **bad)
{
    (void)b, (void)bad;
    return 0;
}

static int null_random(CvBackend *b, const CvTensor *dst, uint64_t seed,
                       float scale)
{
    (void)b, (void)dst, (void)seed, (void)scale;
    return 0;
}

static int null_zero(CvBackend *b, const CvTensor *t)
{
    (void)b, (void)t;
    return 0;
}

/* As where a GPU multiplies fp8, and this trial is asked for. */
static int64_t null_ring_bytes(CvBackend *b, const CvRing *ring)
{
    unsigned trials = 0;

    cv_trials(&trials, NULL);
    return cv_ring8_bytes(b->narrow && cv_type_is_fp8(b->product) &&
                                  trials & CV_TRIAL_RING8
                              ? CV_ATTENTION8_PAYS : CV_ATTENTION8_NEVER,
                          ring);
}

static int null_memory(CvBackend *b, CvMemory *memory)
{
    (void)b, (void)memory; /* no limits */
    return 0;
}

/* finish, enter */
static int null_nothing(CvBackend *b)
{
    (void)b;
    return 0;
}

static void null_leave(CvBackend *b)
{
    (void)b;
}

static void null_close(CvBackend **backend)
{
    free(*backend);
    *backend = NULL;
}

int cv_null_open(CvBackend **backend, CvLog *log)
{
    static const CvOps ops = {
        .alloc   = null_alloc,
        .release = null_release,
        .upload  = null_upload,
        .uploaded = null_uploaded,
        .zero    = null_zero,
        .random  = null_random,
        .finish  = null_nothing,
        .memory  = null_memory,
        .enter   = null_nothing,
        .leave   = null_leave,
        .ring_bytes = null_ring_bytes,
    };
    CvBackend *b = calloc(1, sizeof(*b));

    *backend = b;
    if (!b)
        return cv_fail_memory(log, sizeof(*b), "a backend");
    b->ops        = &ops;
    b->name       = "none";
    b->activation = CV_F32;
    b->weight     = CV_F32;
    b->product    = CV_F32;
    b->log        = log;
    b->close      = null_close;
    return 0;
}
