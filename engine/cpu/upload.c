/*
 * From the number formats of weight files to float32.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#include <math.h>
#include <stdatomic.h>
#include <string.h>

#include "cpu/cpu.h"

static float float_of(uint32_t bits)
{
    float f;

    memcpy(&f, &bits, sizeof(f));
    return f;
}

/* A small float of `exponent` and `mantissa` bits whose exponents are biased
 * as in IEEE 754; the largest exponent is that of infinity and NaN if `ieee`. */
static float small_float(uint32_t v, int exponent, int mantissa, int ieee)
{
    uint32_t sign = v >> (exponent + mantissa) & 1;
    uint32_t top = (1u << exponent) - 1;
    uint32_t e = v >> mantissa & top, m = v & ((1u << mantissa) - 1);
    int bias = (1 << (exponent - 1)) - 1;
    float f;

    if (ieee && e == top)
        return float_of(sign << 31 | 0x7f800000u | m << (23 - mantissa));
    if (!e)
        f = ldexpf((float)m, 1 - bias - mantissa);
    else
        f = ldexpf((float)(m | 1u << mantissa), (int)e - bias - mantissa);
    return sign ? -f : f;
}

static float from_f8_e4m3(uint8_t v)
{
    if ((v & 0x7f) == 0x7f)
        return NAN;
    return small_float(v, 4, 3, 0);
}

typedef struct Upload {
    float *dst;
    const uint8_t *src; /* of any alignment: files do not promise any */
    CvType type;
    atomic_int bad; /* a value that is NaN or infinite was seen */
} Upload;

static float load(const Upload *u, int64_t i)
{
    switch (u->type) {
    case CV_F64: {
        double v;

        memcpy(&v, u->src + i * 8, 8);
        return (float)v;
    }
    case CV_F16: {
        uint16_t v;

        memcpy(&v, u->src + i * 2, 2);
        return small_float(v, 5, 10, 1);
    }
    case CV_BF16: {
        uint16_t v;

        memcpy(&v, u->src + i * 2, 2);
        return float_of((uint32_t)v << 16);
    }
    case CV_F8_E4M3:
        return from_f8_e4m3(u->src[i]);
    case CV_F8_E5M2:
        return small_float(u->src[i], 5, 2, 1);
    default: {
        float v;

        memcpy(&v, u->src + i * 4, 4);
        return v;
    }
    }
}

static void upload_job(void *arg, int64_t first, int64_t last, int worker)
{
    Upload *u = arg;

    (void)worker;
    for (int64_t i = first; i < last; i++) {
        u->dst[i] = load(u, i);
        if (!isfinite(u->dst[i]))
            atomic_store(&u->bad, 1);
    }
}

int cv_cpu_upload(CvBackend *b, const CvTensor *dst, const void *src,
                  CvType src_type)
{
    Upload u = { dst->data, src, src_type, 0 };

    if (dst->type == CV_I32 && src_type == CV_I32) {
        memcpy(dst->data, src, (size_t)cv_tensor_bytes(dst));
        return 0;
    }
    if (dst->type != CV_F32 ||
        (src_type != CV_F32 && src_type != CV_F64 && src_type != CV_F16 &&
         src_type != CV_BF16 && src_type != CV_F8_E4M3 &&
         src_type != CV_F8_E5M2))
        return cv_fail(b->log, EINVAL, "upload: %s from %s is not supported",
                       cv_type_name(dst->type), cv_type_name(src_type));
    cv_cpu_run(cv_cpu(b), cv_elements(dst), 65536, upload_job, &u);
    return u.bad ? CAUSVID_ERR(EILSEQ) : 0;
}
