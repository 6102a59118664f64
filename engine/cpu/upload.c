/*
 * From the number formats of weight files to float32.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * The small formats are shifted into the place of float32's fields and
 * multiplied by a power of two that makes up for the difference of the
 * exponents' biases, which is exact, subnormal numbers included. The loops have
 * no branches, so that compilers use vectors. What they read was put into the
 * nearest cache a moment ago: to copy it there costs less than the faults that
 * pages of a mapped file would.
 */
#include <stdatomic.h>
#include <string.h>

#include "cpu/cpu.h"

#define BUFFER_BYTES 32768 /* on a thread's stack */

typedef struct Upload {
    float *dst;
    const CvSource *src;
    CvType type;
    atomic_int bad; /* a value that is NaN or infinite was seen */
    atomic_int err; /* of the source */
} Upload;

static float float_of(uint32_t bits)
{
    float f;

    memcpy(&f, &bits, sizeof(f));
    return f;
}

static int is_bad(float f)
{
    uint32_t bits;

    memcpy(&bits, &f, sizeof(bits));
    return (bits & 0x7f800000u) == 0x7f800000u;
}

static int from_f32(float *dst, const uint8_t *src, int64_t n)
{
    int bad = 0;

    memcpy(dst, src, (size_t)n * sizeof(*dst));
    for (int64_t i = 0; i < n; i++)
        bad |= is_bad(dst[i]);
    return bad;
}

static int from_f64(float *dst, const uint8_t *src, int64_t n)
{
    int bad = 0;

    for (int64_t i = 0; i < n; i++) {
        double v;

        memcpy(&v, src + i * 8, sizeof(v));
        dst[i] = (float)v;
        bad |= is_bad(dst[i]);
    }
    return bad;
}

static int from_bf16(float *dst, const uint8_t *src, int64_t n)
{
    int bad = 0;

    for (int64_t i = 0; i < n; i++) {
        uint16_t v;

        memcpy(&v, src + i * 2, sizeof(v));
        dst[i] = float_of((uint32_t)v << 16);
        bad |= is_bad(dst[i]);
    }
    return bad;
}

static float from_half(uint32_t v)
{
    float f = float_of((v & 0x7fff) << 13) * 0x1p112f;

    return v & 0x8000 ? -f : f;
}

static int from_f16(float *dst, const uint8_t *src, int64_t n)
{
    int bad = 0;

    for (int64_t i = 0; i < n; i++) {
        uint16_t v;

        memcpy(&v, src + i * 2, sizeof(v));
        dst[i] = from_half(v);
        bad |= (v & 0x7c00) == 0x7c00;
    }
    return bad;
}

/* The upper byte of a half. */
static int from_f8_e5m2(float *dst, const uint8_t *src, int64_t n)
{
    int bad = 0;

    for (int64_t i = 0; i < n; i++) {
        dst[i] = from_half((uint32_t)src[i] << 8);
        bad |= (src[i] & 0x7c) == 0x7c;
    }
    return bad;
}

static int from_f8_e4m3(float *dst, const uint8_t *src, int64_t n)
{
    int bad = 0;

    for (int64_t i = 0; i < n; i++) {
        float f = float_of((uint32_t)(src[i] & 0x7f) << 20) * 0x1p120f;

        dst[i] = src[i] & 0x80 ? -f : f;
        bad |= (src[i] & 0x7f) == 0x7f;
    }
    return bad;
}

/* n blocks, of one element for most types. */
static int convert(float *dst, const uint8_t *src, CvType type, int64_t n)
{
    switch (type) {
    case CV_F64:
        return from_f64(dst, src, n);
    case CV_F16:
        return from_f16(dst, src, n);
    case CV_BF16:
        return from_bf16(dst, src, n);
    case CV_F8_E4M3:
        return from_f8_e4m3(dst, src, n);
    case CV_F8_E5M2:
        return from_f8_e5m2(dst, src, n);
    case CV_F32:
        return from_f32(dst, src, n);
    default:
        return cv_cpu_decode_blocks(dst, src, type, n);
    }
}

/* Items are blocks. */
static void upload_job(void *arg, int64_t first, int64_t last, int worker)
{
    Upload *u = arg;
    const int block = cv_type_block(u->type);
    const int64_t most = BUFFER_BYTES / (int64_t)cv_type_bytes(u->type);
    uint8_t buffer[BUFFER_BYTES];

    (void)worker;
    for (int64_t n; first < last && !atomic_load(&u->err); first += n) {
        int err;

        n   = last - first < most ? last - first : most;
        err = u->src->read(u->src->arg, buffer, first * block, n * block);
        if (err < 0)
            atomic_store(&u->err, err);
        else if (convert(u->dst + first * block, buffer, u->type, n))
            atomic_store(&u->bad, 1);
    }
}

/* Everything is known when it returns, with a tag as without. */
int cv_cpu_upload(CvBackend *b, const CvTensor *dst, const CvSource *src,
                  CvType src_type, const void *tag)
{
    const int block = cv_type_block(src_type);
    Upload u = { dst->data, src, src_type, 0, 0 };
    int err;

    (void)tag;
    if (dst->type == CV_I32 && src_type == CV_I32)
        return src->read(src->arg, dst->data, 0, cv_elements(dst));
    if (dst->type != CV_F32 || (src_type > CV_F8_E5M2 && block == 1))
        return cv_fail(b->log, EINVAL, "upload: %s from %s is not supported",
                       cv_type_name(dst->type), cv_type_name(src_type));
    cv_cpu_run(cv_cpu(b), cv_elements(dst) / block, 65536 / block, upload_job,
               &u);
    err = atomic_load(&u.err);
    return err < 0 ? err : atomic_load(&u.bad) ? CAUSVID_ERR(EILSEQ) : 0;
}

int cv_cpu_uploaded(CvBackend *b, const void **bad)
{
    (void)b;
    *bad = NULL;
    return 0;
}
