/*
 * Tests of upload from every number format, download, zero and copy.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "ops_test.h"

typedef struct Format {
    CvType type;
    int bytes, exponent, mantissa; /* bits; 0: a C type */
    int has_infinity;
} Format;

static const Format formats[] = {
    { CV_F32, 4, 8, 23, 1 }, { CV_F64, 8, 11, 52, 1 },
    { CV_F16, 2, 5, 10, 1 }, { CV_BF16, 2, 8, 7, 1 },
    { CV_F8_E4M3, 1, 4, 3, 0 }, { CV_F8_E5M2, 1, 5, 2, 1 },
};
enum { N_FORMATS = sizeof(formats) / sizeof(formats[0]) };

/* The value of a bit pattern by the definition of its format; NaN and
 * infinities give NaN. */
static double decode(const Format *f, uint64_t bits)
{
    uint64_t top = (1u << f->exponent) - 1;
    uint64_t e = bits >> f->mantissa & top;
    uint64_t m = bits & (((uint64_t)1 << f->mantissa) - 1);
    double sign = bits >> (f->exponent + f->mantissa) & 1 ? -1 : 1;
    double fraction = (double)m / (double)((uint64_t)1 << f->mantissa);
    int bias = (1 << (f->exponent - 1)) - 1;

    if (e == top && (f->has_infinity ||
                     m == ((uint64_t)1 << f->mantissa) - 1))
        return NAN;
    if (e == 0)
        return sign * fraction * pow(2, 1 - bias);
    return sign * (1 + fraction) * pow(2, (double)e - bias);
}

static uint64_t random_pattern(Env *e, const Format *f, int64_t i, int all)
{
    uint64_t bits = all ? (uint64_t)i : random_bits(e);

    if (f->type == CV_F64) /* mostly within the range of float32 */
        bits = (bits & 0x800fffffffffffffu) |
               (uint64_t)random_int(e, 1023 - 126, 1023 + 126) << 52;
    return bits;
}

static void store(uint8_t *dst, const Format *f, uint64_t bits)
{
    for (int i = 0; i < f->bytes; i++)
        dst[i] = (uint8_t)(bits >> 8 * i); /* files are little endian */
}

/* What the backend holds after an upload is rounded to its type: half a unit
 * in the last place, of the smallest numbers at least. */
static double rounding(const Buffer *buf, double x)
{
    return buf->t.type == CV_F32 ? 0x1p-24 * fabs(x) + 0x1p-150
                                 : 0x1p-8 * fabs(x) + 0x1p-134;
}

static void upload_case(Env *e, const Format *f, CvType to)
{
    /* Every pattern where there are few; at an odd address. */
    int all = f->bytes <= 2;
    int64_t n = all ? (int64_t)1 << 8 * f->bytes : 70001;
    Buffer *dst = OUTPUT(e, to, n);
    uint8_t *src = malloc((size_t)(n * f->bytes) + 1);
    double *expected = make_doubles(e, n);

    if (!src) {
        fail(e, "out of memory");
        return;
    }
    for (int64_t i = 0; i < n; i++) {
        uint64_t bits = random_pattern(e, f, i, all);

        if (isnan(decode(f, bits)) || fabs(decode(f, bits)) > 3e38)
            bits = 1; /* the smallest number */
        store(src + 1 + i * f->bytes, f, bits);
        expected[i] = decode(f, bits);
    }
    called(e, cv_upload(e->b, &dst->t, src + 1, f->type), "upload");
    called(e, cv_download(e->b, dst->host, &dst->t), "download");
    e->cases++;
    for (int64_t i = 0; i < n; i++) {
        double error = fabs(dst->host[i] - expected[i]);

        if (!(error <= rounding(dst, expected[i]))) {
            fail(e, "upload from %s: element %lld is %.9g, expected %.17g",
                 cv_type_name(f->type), (long long)i, dst->host[i],
                 expected[i]);
            break;
        }
    }
    add_to_hash(e, dst->host, (size_t)n * sizeof(float));
    free(src);
    end_case(e);
}

void test_upload(Env *e)
{
    static const int32_t ints[5] = { 0, -1, INT32_MAX, INT32_MIN, 7 };
    Buffer *dst;

    for (int i = 0; i < N_FORMATS; i++) {
        upload_case(e, &formats[i], CV_F32);
        if (e->b->activation != CV_F32)
            upload_case(e, &formats[i], e->b->activation);
    }
    dst = make_ids(e, 5, 3);
    called(e, cv_upload(e->b, &dst->t, ints, CV_I32), "upload of integers");
    e->cases++;
    if (!strcmp(e->b->name, "cpu") &&
        memcmp(dst->t.data, ints, sizeof(ints)))
        fail(e, "upload of integers changed them");
    end_case(e);
}

void test_upload_refuses(Env *e)
{
    for (int i = 0; i < 60; i++) {
        const Format *f = &formats[i % N_FORMATS];
        int64_t n = PICK(e, 1, 5, 1000, 70001), at = random_int(e, 0, n - 1);
        Buffer *dst = OUTPUT(e, CV_F32, n);
        uint8_t *src = calloc((size_t)n, (size_t)f->bytes);
        uint64_t exponent = (((uint64_t)1 << f->exponent) - 1) << f->mantissa;
        uint64_t ones = ((uint64_t)1 << f->mantissa) - 1, bits;
        int err;

        if (!src) {
            fail(e, "out of memory");
            return;
        }
        bits = exponent | (f->has_infinity && i % 2 ? 0 : ones);
        if (i / 6 % 2)
            bits |= (uint64_t)1 << (f->exponent + f->mantissa);
        if (f->type == CV_F64 && i % 4 == 1) /* infinite as float32 */
            bits = (uint64_t)(1023 + 128) << 52;
        store(src + at * f->bytes, f, bits);
        err = cv_upload(e->b, &dst->t, src, f->type);
        e->cases++;
        if (err != CAUSVID_ERR(EILSEQ))
            fail(e, "upload of %s with pattern %llx at %lld of %lld gave %d, "
                 "expected EILSEQ", cv_type_name(f->type),
                 (unsigned long long)bits, (long long)at, (long long)n, err);
        free(src);
        end_case(e);
    }
}

/* Upload n numbers from the case's float32 source with the number of a tag; 1
 * when the backend finds at once that one of them is infinite. */
static int upload_part(Env *e, Buffer *to, const float *from, const char *tag)
{
    int err = cv_upload_tagged(e->b, &to->t, from, CV_F32, tag);

    if (err != CAUSVID_ERR(EILSEQ))
        called(e, err, "upload");
    return err == CAUSVID_ERR(EILSEQ);
}

/* More than any backend keeps under way, small between large; then the same
 * with two that hold an infinity. The first of those is to be told. */
void test_upload_tags(Env *e)
{
    static const int64_t sizes[] = { 3, 3000001, 70001, 1, 2100000, 5,
                                     3000001, 1000, 3000001, 7 };
    enum { PARTS = sizeof(sizes) / sizeof(*sizes), MANY = 5000 };
    Buffer *to[PARTS];
    float *src[PARTS] = { NULL }, few[3] = { 1, 2, 3 };
    const char *tags = "a place of its own for each";
    const void *bad;
    int64_t n = 0;

    for (int i = 0; i < PARTS; i++) {
        if (!(src[i] = malloc((size_t)sizes[i] * sizeof(float)))) {
            fail(e, "out of memory");
            goto end;
        }
        to[i] = OUTPUT(e, i % 2 ? e->b->activation : CV_F32, sizes[i]);
        for (int64_t j = 0; j < sizes[i]; j++) /* bf16 has all of these */
            src[i][j] = (float)(int64_t)((uint64_t)(n++ * 40503) % 509 - 254);
    }
    for (int pass = 0; pass < 2; pass++) {
        const int first = pass ? (int)random_int(e, 0, PARTS - 2) : PARTS;
        int found = -1;

        if (pass) {
            src[first][random_int(e, 0, sizes[first] - 1)] = INFINITY;
            src[PARTS - 1][sizes[PARTS - 1] - 1] = INFINITY;
        }
        for (int i = 0; i < PARTS; i++)
            if (upload_part(e, to[i], src[i], tags + i) && found < 0)
                found = i;
        called(e, cv_uploaded(e->b, &bad), "uploaded");
        if (bad)
            found = (int)((const char *)bad - tags);
        e->cases++;
        if (found != (pass ? first : -1))
            fail(e, "of %d uploads number %d was told to be bad, expected %d",
                 PARTS, found, pass ? first : -1);
        for (int i = 0; i < PARTS && !pass; i++) {
            called(e, cv_download(e->b, to[i]->host, &to[i]->t), "download");
            for (int64_t j = 0; j < sizes[i]; j++)
                if (to[i]->host[j] != src[i][j]) {
                    fail(e, "upload %d: element %lld is %.9g, expected %.9g",
                         i, (long long)j, to[i]->host[j], src[i][j]);
                    break;
                }
        }
    }
    /* More tags than a backend has room for. */
    for (int i = 0; i < MANY; i++) {
        few[1] = i == 11 || i == MANY - 2 ? INFINITY : 2;
        if (upload_part(e, to[0], few, tags + i % 20) &&
            i != 11 && i != MANY - 2)
            fail(e, "upload %d of %d was refused", i, MANY);
    }
    called(e, cv_uploaded(e->b, &bad), "uploaded");
    e->cases++;
    if (strcmp(e->b->name, "cpu") ? bad != tags + 11 : bad != NULL)
        fail(e, "of %d uploads a wrong one was told to be bad", MANY);
    called(e, cv_uploaded(e->b, &bad), "uploaded");
    if (bad)
        fail(e, "a bad upload was told twice");
end:
    for (int i = 0; i < PARTS; i++)
        free(src[i]);
    end_case(e);
}

/* Element i is i, until one that cannot be read. */
typedef struct Counting {
    int64_t broken;
} Counting;

static int read_counting(void *arg, void *to, int64_t first, int64_t n)
{
    const Counting *c = arg;

    for (int64_t i = 0; i < n; i++) {
        const float x = (float)(first + i);

        if (first + i == c->broken)
            return CAUSVID_ERR(EIO);
        memcpy((uint8_t *)to + i * (int64_t)sizeof(x), &x, sizeof(x));
    }
    return 0;
}

/* Few and many elements; a source that fails anywhere fails the upload, and
 * nothing that comes later. */
void test_upload_source(Env *e)
{
    for (int i = 0; i < 8; i++) {
        const int64_t n = i % 2 ? 2000003 : PICK(e, 1, 1000);
        Counting counting = { i < 4 ? random_int(e, 0, n - 1) : -1 };
        const CvSource source = { read_counting, &counting };
        const char *tag = i / 2 % 2 ? "a tag" : NULL;
        Buffer *dst = OUTPUT(e, CV_F32, n);
        const void *bad;
        int err = cv_upload_from(e->b, &dst->t, &source, CV_F32, tag);

        e->cases++;
        if (err != (i < 4 ? CAUSVID_ERR(EIO) : 0))
            fail(e, "upload of %lld elements gave %d", (long long)n, err);
        called(e, cv_uploaded(e->b, &bad), "uploaded");
        if (bad)
            fail(e, "a source that fails is told to be no number");
        called(e, cv_download(e->b, dst->host, &dst->t), "download");
        for (int64_t k = 0; k < n && i >= 4; k++)
            if (dst->host[k] != (float)k) {
                fail(e, "element %lld is %.9g", (long long)k, dst->host[k]);
                break;
            }
        end_case(e);
    }
}

void test_memory(Env *e)
{
    for (int i = 0; i < 6; i++) {
        int64_t n = PICK(e, 1, 100, 5001, 200003);
        CvType type = i % 2 ? CV_F32 : e->b->activation;
        Buffer *x = INPUT(e, type, 1, n), *y = OUTPUT(e, type, n);
        double *expected = make_doubles(e, n), *zeros = make_doubles(e, n);
        void *data = NULL;

        for (int64_t j = 0; j < n; j++)
            expected[j] = x->host[j];
        called(e, cv_copy(e->b, &y->t, &x->t), "copy");
        compare(e, y, expected, "copy of %lld", (long long)n);
        called(e, cv_zero(e->b, &y->t), "zero");
        compare(e, y, zeros, "zero of %lld", (long long)n);
        called(e, e->b->ops->alloc(e->b, (size_t)n, &data), "alloc");
        if (!data || (uintptr_t)data % 64)
            fail(e, "alloc of %lld bytes is not aligned", (long long)n);
        e->b->ops->release(e->b, data);
        end_case(e);
    }
    /* More than any machine has. */
    {
        void *data = &data;

        e->cases++;
        if (e->b->ops->alloc(e->b, SIZE_MAX / 2, &data) !=
            CAUSVID_ERR(ENOMEM))
            fail(e, "alloc of half the address space did not give ENOMEM");
    }
}

static void check_is(Env *e, const CvTensor *t, float expected)
{
    float got = -1;

    e->cases++;
    called(e, cv_check(e->b, t, &got), "check");
    if (isnan(expected) ? !isnan(got) : got != expected)
        fail(e, "check of %lld gave %.9g, expected %.9g",
             (long long)cv_elements(t), got, expected);
    add_to_hash(e, &expected, sizeof(expected));
}

/* The largest absolute value, infinity, or NaN when there is one. */
void test_check(Env *e)
{
    for (int i = 0; i < 24; i++) {
        int64_t n = PICK(e, 1, 2, 31, 32, 33, 1000, 4097, 100001);
        int64_t at = random_int(e, 0, n - 1);
        CvType type = i % 2 ? CV_F32 : e->b->activation;
        Buffer *x = INPUT(e, type, i % 3 ? 1e-3 : 1e6, n);
        Buffer *wide = OUTPUT(e, CV_F32, n), *y = OUTPUT(e, type, n);
        Buffer *to = writable(INPUT(e, CV_F32, 1, 1));
        float *values = calloc((size_t)n, sizeof(*values)), largest = 0;
        CvTerm terms[2] = { { 1e20, &wide->t }, { -1, &wide->t } };

        if (!values) {
            fail(e, "out of memory");
            return;
        }
        for (int64_t j = 0; j < n; j++)
            largest = fmaxf(largest, fabsf(x->host[j]));
        check_is(e, &x->t, largest);
        values[0] = i % 2 ? 0 : 2e-3f;
        set_contents(e, to, values);
        called(e, cv_largest(e->b, &to->t, &x->t), "largest");
        check_is(e, &to->t, fmaxf(to->host[0], largest));
        values[0] = 0;
        /* No upload lets these through: overflow makes one of them. */
        values[at] = i % 4 < 2 ? 1e30f : -1e30f;
        set_contents(e, wide, values);
        called(e, cv_combine(e->b, &wide->t, terms, 1), "combine");
        called(e, cv_convert(e->b, &y->t, &wide->t), "convert");
        check_is(e, &y->t, INFINITY);
        terms[0].factor = 1;
        called(e, cv_combine(e->b, &wide->t, terms, 2), "combine");
        called(e, cv_convert(e->b, &y->t, &wide->t), "convert");
        check_is(e, &y->t, NAN);
        free(values);
        end_case(e);
    }
}

/* Element i as ops.h says, in double but for the one product. */
static double random_element(uint64_t seed, int64_t i, float scale)
{
    uint64_t z = seed + ((uint64_t)i + 1) * 0x9e3779b97f4a7c15u;
    volatile float step = scale * 0x1p-23f, x;
    double unit;
    int exponent;

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    z = z ^ z >> 31;
    x = (float)((int64_t)(z >> 40) - (1 << 23)) * step;
    if (x == 0)
        return 0;
    frexp((double)x, &exponent);
    unit = ldexp(1, exponent - 8); /* 8 significant bits */
    return rint((double)x / unit) * unit;
}

/* The same numbers to the last bit, in every type. */
void test_random(Env *e)
{
    for (int i = 0; i < 16; i++) {
        int64_t n = PICK(e, 1, 7, 8, 9, 2047, 2049, 70001), wrong = 0;
        CvType type = i % 2 ? CV_F32 : e->b->weight;
        Buffer *y = OUTPUT(e, type, n);
        float scale = (float)ldexp(1.5 + random_real(e) / 2,
                                   (int)random_int(e, -12, 3));
        uint64_t seed = random_bits(e);
        double sum = 0;

        called(e, cv_random(e->b, &y->t, seed, scale), "random");
        called(e, cv_download(e->b, y->host, &y->t), "download");
        e->cases++;
        for (int64_t j = 0; j < n; j++) {
            wrong += (double)y->host[j] != random_element(seed, j, scale);
            sum += (double)y->host[j] * (double)y->host[j];
        }
        if (wrong)
            fail(e, "random: %lld of %lld elements are wrong",
                 (long long)wrong, (long long)n);
        sum /= (double)n * (double)scale * (double)scale;
        if (n > 2000 && fabs(sum - 1.0 / 3) > 0.05)
            fail(e, "random: a variance of %g, expected 1/3", sum);
        add_to_hash(e, y->host, (size_t)n * sizeof(float));
        end_case(e);
    }
}

/* What is in use is more than a tensor that was just written takes. */
void test_used_memory(Env *e)
{
    CvMemory memory;
    Buffer *x = INPUT(e, CV_F32, 1, 1 << 20);

    called(e, cv_memory(e->b, &memory), "memory");
    e->cases++;
    if (memory.used < cv_tensor_bytes(&x->t))
        fail(e, "memory: %lld bytes are in use, but a tensor has %lld",
             (long long)memory.used, (long long)cv_tensor_bytes(&x->t));
    if (memory.room <= 0 || memory.taken > memory.used)
        fail(e, "memory: room for %lld bytes; %lld of %lld in use are taken",
             (long long)memory.room, (long long)memory.taken,
             (long long)memory.used);
    end_case(e);
}
