/*
 * Speed of the operations: on the CPU at the shapes of the sample model and of
 * Wan 1.3B, on a GPU at those of Wan 1.3B and 14B at 832x480.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * Prints the best of several runs, which a busy machine disturbs least, and its
 * share of what the backend reaches in a large product or a large copy, measured
 * at the start. As text or as lines of JSON, which tests/bench/peer.py holds
 * beside PyTorch.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "dit/internal.h"
#include "ops_test.h"

typedef struct Bench {
    CvBackend *b;
    const char *only;
    int n_tensors;
    CvTensor tensors[12];
    double best; /* seconds */
    int json;
    double product, copy; /* ceilings: FLOP/s, bytes/s */
} Bench;

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* A tensor of random numbers in -1..1, made where it lies. */
static CvTensor *tensor(Bench *s, CvTensor shape)
{
    CvTensor *t = &s->tensors[s->n_tensors++];

    *t = shape;
    if (s->b->ops->alloc(s->b, (size_t)cv_tensor_bytes(t), &t->data)) {
        fputs("Bail out! out of memory\n", stdout);
        exit(255);
    }
    if (cv_random(s->b, t, (uint64_t)s->n_tensors, 1))
        fputs("# random numbers failed\n", stderr);
    return t;
}

#define TENSOR(s, type, ...) tensor(s, CV_TENSOR(NULL, type, __VA_ARGS__))

/* One of E4M3, of numbers that are spread over all of it. */
static CvTensor *narrow_tensor(Bench *s, int64_t rows, int64_t columns)
{
    CvTensor *t = &s->tensors[s->n_tensors++];

    *t = CV_TENSOR(NULL, CV_F8_E4M3, rows, columns);
    if (s->b->ops->alloc(s->b, (size_t)cv_tensor_bytes(t), &t->data)) {
        fputs("Bail out! out of memory\n", stdout);
        exit(255);
    }
    if (cv_random(s->b, t, (uint64_t)rows, 448))
        fputs("# random failed\n", stderr);
    return t;
}

static void release(Bench *s)
{
    for (int i = 0; i < s->n_tensors; i++)
        s->b->ops->release(s->b, s->tensors[i].data);
    s->n_tensors = 0;
}

/* Time a statement: for some tenths of a second, but three times at least. */
#define TIME(s, call)                                                      \
    do {                                                                   \
        double begin_ = now(), start_, took_;                              \
        (s)->best = INFINITY;                                              \
        for (int i_ = 0; i_ < 3 || now() - begin_ < 0.3; i_++) {           \
            start_ = now();                                                \
            if ((call) || cv_finish((s)->b))                               \
                fputs("# the operation failed\n", stderr);                 \
            took_ = now() - start_;                                        \
            (s)->best = took_ < (s)->best ? took_ : (s)->best;             \
        }                                                                  \
    } while (0)

/* Of `work` units of 1e9 in a second: FLOP and bytes have a ceiling. */
static void print(const Bench *s, const char *op, double work,
                  const char *unit, const char *shape)
{
    double rate = work / s->best, share;
    int large;

    share = !strcmp(unit, "GFLOP/s") && s->product > 0 ? rate / s->product :
            !strcmp(unit, "GB/s") && s->copy > 0 ? rate / s->copy : 0;
    if (s->json) {
        printf("{\"backend\":\"%s\",\"op\":\"%s\",\"shape\":\"%s\","
               "\"seconds\":%.9g,\"work\":%.9g,\"unit\":\"%s\","
               "\"share\":%.6g}\n", s->b->name, op, shape, s->best, work,
               work > 0 ? unit : "", share);
    } else {
        printf("# %-10s %-46s %9.3f ms", op, shape, s->best * 1e3);
        large = rate >= 1e12 && *unit == 'G';
        if (work > 0)
            printf(" %8.1f %s%s", rate * (large ? 1e-12 : 1e-9),
                   large ? "T" : "", unit + large);
        if (share > 0)
            printf(" %5.1f %%", 100 * share);
        putchar('\n');
    }
    fflush(stdout);
}

static void bench_linear(Bench *s, int64_t n, int64_t in, int64_t out,
                         CvEpilogue kind)
{
    const int adds = kind >= CV_EPI_ADD; /* to the residual stream */
    CvType type = s->b->activation;
    CvTensor *y = TENSOR(s, adds ? CV_F32 : type, n, out);
    CvLinear a = { .out = y, .x = TENSOR(s, type, n, in),
                   .weight = TENSOR(s, s->b->weight, out, in),
                   .bias = TENSOR(s, y->type, out), .epilogue = kind,
                   .other = adds ? y : NULL,
                   .mod = adds ? TENSOR(s, CV_F32, 1, 6, out) : NULL };
    char text[64];

    TIME(s, cv_linear(s->b, &a));
    snprintf(text, sizeof(text), "[%d, %d] x [%d, %d]^T%s", (int)n, (int)in,
             (int)out, (int)in, kind == CV_EPI_GELU ? ", gelu" :
             kind == CV_EPI_GATE_ADD ? ", gate" : adds ? ", add" : "");
    print(s, "linear", 2.0 * (double)n * (double)in * (double)out, "GFLOP/s",
          text);
    release(s);
}

/* The same in fp8, as a block has it: with GELU to fp8, too. */
static void bench_linear_narrow(Bench *s, int64_t n, int64_t in, int64_t out,
                                CvEpilogue kind)
{
    const int adds = kind >= CV_EPI_ADD, gelu = kind == CV_EPI_GELU;
    CvTensor *y = gelu ? narrow_tensor(s, n, out)
                       : TENSOR(s, adds ? CV_F32 : s->b->activation, n, out);
    CvLinear a = { .out = y, .out_scale = gelu ? TENSOR(s, CV_F32, n) : NULL,
                   .x = narrow_tensor(s, n, in),
                   .x_scale = TENSOR(s, CV_F32, n),
                   .weight = narrow_tensor(s, out, in),
                   .scale = TENSOR(s, CV_F32, out),
                   .bias = TENSOR(s, s->b->activation, out),
                   .epilogue = kind, .other = adds ? y : NULL,
                   .mod = adds ? TENSOR(s, CV_F32, 1, 6, out) : NULL };
    char text[64];

    TIME(s, cv_linear(s->b, &a));
    snprintf(text, sizeof(text), "fp8 [%d, %d] x [%d, %d]^T%s", (int)n,
             (int)in, (int)out, (int)in, gelu ? ", gelu to fp8" :
             kind == CV_EPI_GATE_ADD ? ", gate" : adds ? ", add" : "");
    print(s, "linear", 2.0 * (double)n * (double)in * (double)out, "GFLOP/s",
          text);
    release(s);
}

static void bench_attention(Bench *s, int64_t n, int64_t m, int64_t heads,
                            int64_t d)
{
    CvType type = s->b->activation;
    CvAttention a = { .out = TENSOR(s, type, n, heads, d),
                      .q = TENSOR(s, type, n, heads, d),
                      .k = TENSOR(s, type, m, heads, d),
                      .v = TENSOR(s, type, m, heads, d),
                      .scale = 1 / sqrtf((float)d), .last_repeats = 1 };
    char text[64];

    TIME(s, cv_attention(s->b, &a));
    snprintf(text, sizeof(text), "%d x %d, %d heads of %d", (int)n, (int)m,
             (int)heads, (int)d);
    print(s, "attention", 4.0 * (double)(n * m) * (double)(heads * d),
          "GFLOP/s", text);
    release(s);
}

/* ---- attention as models have it, and its error ---- */

/* As a normal distribution would have them: sums of four numbers of a hash. */
static float drawn(uint64_t i)
{
    uint64_t z = (i + 1) * 0x9e3779b97f4a7c15u;
    int sum = 0;

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z ^= z >> 27;
    for (int j = 0; j < 64; j += 16)
        sum += (int)(z >> j & 0xffff) - 0x8000;
    return (float)sum / 37837;
}

/* Drawn numbers, of which some channels are larger; what the backend holds of
 * them comes back, to be freed. */
static float *drawn_tensor(Bench *s, CvTensor **t, CvTensor shape, int seed,
                           float larger)
{
    int64_t n = cv_elements(&shape);
    float *values = malloc((size_t)n * sizeof(*values));

    *t = &s->tensors[s->n_tensors++];
    **t = shape;
    if (!values || s->b->ops->alloc(s->b, (size_t)cv_tensor_bytes(&shape),
                                    &(*t)->data)) {
        fputs("Bail out! out of memory\n", stdout);
        exit(255);
    }
    for (int64_t i = 0; i < n; i++)
        values[i] = drawn((uint64_t)(i * 3 + seed)) *
                    (i % 128 % 50 == 3 ? larger : 1);
    if (cv_upload(s->b, *t, values, CV_F32) ||
        cv_download(s->b, values, *t))
        fputs("# upload failed\n", stderr);
    return values;
}

/* The relative L2 error of some queries of some heads. */
static double sampled_error(const CvAttention *a, const float *q,
                            const float *k, const float *v, const float *out)
{
    enum { SAMPLES = 16 };
    int64_t n = a->q->dim[0], m = a->k->dim[0], heads = a->q->dim[1];
    int64_t d = a->q->dim[2];
    double *score = malloc((size_t)m * sizeof(*score)), wrong = 0, norm = 0;

    for (int64_t j = 0; j < SAMPLES && score; j++) {
        int64_t h = (heads - 1) * j / (SAMPLES - 1);
        int64_t at = ((n - 1) * j / (SAMPLES - 1) * heads + h) * d;
        double top = -INFINITY, sum = 0;

        for (int64_t i = 0; i < m; i++) {
            score[i] = 0;
            for (int64_t c = 0; c < d; c++)
                score[i] += (double)q[at + c] * k[(i * heads + h) * d + c];
            score[i] *= a->scale;
            top = fmax(top, score[i]);
        }
        for (int64_t i = 0; i < m; i++)
            sum += score[i] = exp(score[i] - top);
        for (int64_t c = 0; c < d; c++) {
            double y = 0;

            for (int64_t i = 0; i < m; i++)
                y += score[i] / sum * v[(i * heads + h) * d + c];
            wrong += (out[at + c] - y) * (out[at + c] - y);
            norm += y * y;
        }
    }
    free(score);
    return sqrt(wrong / norm);
}

/* outliers: channels of keys 20 times, of values 30 times as large. */
static void bench_attention8(Bench *s, int64_t n, int64_t m, int64_t heads,
                             int outliers)
{
    CvType type = s->b->activation;
    CvTensor *q, *k, *v, *out = TENSOR(s, type, n, heads, 128);
    float *qs = drawn_tensor(s, &q, CV_TENSOR(NULL, type, n, heads, 128), 0, 1);
    float *ks = drawn_tensor(s, &k, CV_TENSOR(NULL, type, m, heads, 128), 1,
                             outliers ? 20 : 1);
    float *vs = drawn_tensor(s, &v, CV_TENSOR(NULL, type, m, heads, 128), 2,
                             outliers ? 30 : 1);
    float *outs = malloc((size_t)cv_elements(out) * sizeof(*outs));
    CvAttention a = { .out = out, .q = q, .k = k, .v = v,
                      .scale = 1 / sqrtf(128), .last_repeats = 1 };
    char text[64];

    TIME(s, cv_attention(s->b, &a));
    if (outs && !cv_download(s->b, outs, out)) {
        snprintf(text, sizeof(text), "%d x %d, %d heads%s, error %.4f", (int)n,
                 (int)m, (int)heads, outliers ? ", outliers" : "",
                 sampled_error(&a, qs, ks, vs, outs));
        print(s, "attention", 4.0 * (double)(n * m) * (double)(heads * 128),
              "GFLOP/s", text);
    }
    free(outs);
    free(qs);
    free(ks);
    free(vs);
    release(s);
}

/* What a product in fp8 follows: made fp8 after attention, and by it. repeats:
 * more than 1 for attention to the text, in bf16. */
static void bench_outputs(Bench *s, int64_t n, int64_t m, int64_t heads,
                          int64_t repeats)
{
    CvType type = s->b->activation;
    CvTensor *y = narrow_tensor(s, n, heads * 128);
    CvTensor *scale = TENSOR(s, CV_F32, n);
    CvTensor *out = TENSOR(s, type, n, heads, 128);
    CvTensor rows = CV_RESHAPE(*out, n, heads * 128);
    CvAttention a = { .out = out, .q = TENSOR(s, type, n, heads, 128),
                      .k = TENSOR(s, type, m, heads, 128),
                      .v = TENSOR(s, type, m, heads, 128),
                      .largest = TENSOR(s, CV_F32, 1),
                      .scale = 1 / sqrtf(128), .last_repeats = repeats };
    const double work = 4.0 * (double)(n * m) * (double)(heads * 128);
    char text[64];

    TIME(s, cv_attention(s->b, &a) || cv_quantise(s->b, y, scale, &rows));
    snprintf(text, sizeof(text), "%d x %d, %d heads, then to fp8", (int)n,
             (int)m, (int)heads);
    print(s, "attention", work, "GFLOP/s", text);
    if (s->b->product_heads == 128) {
        if (cv_zero(s->b, a.largest) || cv_largest(s->b, a.largest, a.v))
            fputs("# the operation failed\n", stderr);
        a.out = y;
        a.out_scale = scale;
        TIME(s, cv_attention(s->b, &a));
        snprintf(text, sizeof(text), "%d x %d, %d heads, to fp8", (int)n,
                 (int)m, (int)heads);
        print(s, "attention", work, "GFLOP/s", text);
    }
    release(s);
}

/* A pass over a block of n tokens and a ring that is full: what goes into the
 * ring, with the norm and rotation before it, and attention, the queries made 8
 * bits included. Beside it, norm and rotation into tensors. */
static void bench_ring(Bench *s, int64_t n, int64_t slots, int64_t heads)
{
    CvType type = s->b->activation;
    CvRing ring = { .slots = slots, .tokens = n, .heads = heads, .d = 128 };
    const int64_t bytes = cv_ring_bytes(s->b, &ring);
    CvTensor *q = TENSOR(s, type, n, heads, 128);
    CvTensor *out = TENSOR(s, type, n, heads, 128);
    CvQkNormRope a = { .out_q = q, .eps = 1e-6f,
                       .qkv = TENSOR(s, type, n, 3 * heads * 128),
                       .rope = TENSOR(s, CV_F32, n, 64, 2),
                       .cache_k = TENSOR(s, type, n, heads, 128),
                       .cache_v = TENSOR(s, type, n, heads, 128) };
    char text[64];

    a.norm_q = a.norm_k = TENSOR(s, CV_F32, heads * 128);
    snprintf(text, sizeof(text), "[%d, %d]", (int)n, (int)heads * 128);
    TIME(s, cv_qk_norm_rope(s->b, &a));
    print(s, "norm_rope", 0, "", text);
    if (bytes) {
        CvAttention see = { .out = out, .q = q, .scale = 1 / sqrtf(128),
                            .last_repeats = 1, .ring = &ring,
                            .keys = n * slots };

        ring.data = CV_TENSOR(NULL, CV_U8, bytes);
        if (s->b->ops->alloc(s->b, (size_t)bytes, &ring.data.data) ||
            cv_zero(s->b, &ring.data))
            fputs("# no memory\n", stderr);
        s->tensors[s->n_tensors++] = ring.data; /* to be released */
        a.cache_k = a.cache_v = NULL;
        a.ring = &ring;
        for (int64_t i = 0; i < slots; i++, a.row += n) {
            a.alone = i == 0;
            if (cv_qk_norm_rope(s->b, &a))
                fputs("# the operation failed\n", stderr);
        }
        a.row = 0;
        TIME(s, cv_qk_norm_rope(s->b, &a));
        snprintf(text, sizeof(text), "[%d, %d] into a ring", (int)n,
                 (int)heads * 128);
        print(s, "norm_rope", 0, "", text);
        TIME(s, cv_attention(s->b, &see));
        snprintf(text, sizeof(text), "%d x %d, %d heads, a ring", (int)n,
                 (int)(n * slots), (int)heads);
        print(s, "attention", 4.0 * (double)(n * n * slots) *
              (double)(heads * 128), "GFLOP/s", text);
    }
    release(s);
}

enum { PLAIN, NORMED, ADDED }; /* alone; the norm; added, and normed as well */

/* A causal convolution with its history, or a spatial one. */
static void bench_conv_with(Bench *s, int64_t t, int64_t h, int64_t w,
                            int64_t c, int64_t o, int64_t kt, int64_t k,
                            int up, int with)
{
    CvType type = s->b->activation;
    CvTensor *out = TENSOR(s, type, t, up * h, up * w, o);
    CvConv3d a = { .out = out, .x = TENSOR(s, type, t, h, w, c),
                   .history = kt > 1 ? TENSOR(s, type, kt - 1, h, w, c) : NULL,
                   .weight = TENSOR(s, s->b->weight, o, kt, k, k, c),
                   .bias = TENSOR(s, CV_F32, o), .stride_t = 1,
                   .stride_s = 1, .up = up, .pad_top = (int)k / 2,
                   .pad_left = (int)k / 2, .pad_bottom = (int)k / 2,
                   .pad_right = (int)k / 2 };
    char text[96];

    if (with) {
        a.gamma = TENSOR(s, CV_F32, o);
        a.norm = TENSOR(s, type, t, up * h, up * w, o);
        a.add = with == ADDED ? out : NULL;
        a.out = with == ADDED ? out : NULL;
    }
    TIME(s, cv_conv3d(s->b, &a));
    snprintf(text, sizeof(text), "[%d, %d, %d, %d] -> %d, %dx%dx%d%s%s", (int)t,
             (int)h, (int)w, (int)c, (int)o, (int)kt, (int)k, (int)k,
             up > 1 ? ", doubled" : "", with == ADDED ? ", add, norm" :
             with ? ", norm" : "");
    print(s, "conv3d", 2.0 * (double)cv_elements(out) * (double)(kt * k * k) *
          (double)c, "GFLOP/s", text);
    release(s);
}

static void bench_conv(Bench *s, int64_t t, int64_t h, int64_t w, int64_t c,
                       int64_t o, int64_t kt, int64_t k, int up)
{
    bench_conv_with(s, t, h, w, c, o, kt, k, up, PLAIN);
}

static void bench_norm_silu(Bench *s, int64_t t, int64_t h, int64_t w,
                            int64_t c)
{
    CvTensor *x = TENSOR(s, s->b->activation, t, h, w, c);
    CvTensor *weight = TENSOR(s, CV_F32, c);
    char text[64];

    TIME(s, cv_norm_silu(s->b, x, x, weight, 1));
    snprintf(text, sizeof(text), "[%d, %d, %d, %d]", (int)t, (int)h, (int)w,
             (int)c);
    print(s, "norm_silu", 2.0 * (double)cv_tensor_bytes(x), "GB/s", text);
    release(s);
}

/* The row operations of a transformer block: n tokens, heads of 128. */
static void bench_block(Bench *s, int64_t n, int64_t heads)
{
    CvType type = s->b->activation;
    int64_t d = heads * 128;
    CvTensor *x = TENSOR(s, CV_F32, n, d), *y = TENSOR(s, type, n, d);
    CvTensor *mod = TENSOR(s, CV_F32, 1, 6, d), *w = TENSOR(s, CV_F32, d);
    CvTensor *qkv = TENSOR(s, type, n, 3 * d);
    CvTensor *rope = TENSOR(s, CV_F32, n, 64, 2);
    CvTensor *q = TENSOR(s, type, n, heads, 128);
    CvTensor *k = TENSOR(s, type, n, heads, 128);
    CvTensor *v = TENSOR(s, type, n, heads, 128);
    CvQkNormRope a = { .out_q = q, .cache_k = k, .cache_v = v, .qkv = qkv,
                       .norm_q = w, .norm_k = w, .rope = rope, .eps = 1e-6f };
    char text[64];

    snprintf(text, sizeof(text), "[%d, %d]", (int)n, (int)d);
    TIME(s, cv_norm_modulate(s->b, y, NULL, x, mod, 0, 1, 1e-6f));
    print(s, "modulate", (double)(cv_tensor_bytes(x) + cv_tensor_bytes(y)),
          "GB/s", text);
    TIME(s, cv_rms_norm(s->b, y, y, w, 1e-6f));
    print(s, "rms_norm", 2.0 * (double)cv_tensor_bytes(y), "GB/s", text);
    TIME(s, cv_qk_norm_rope(s->b, &a));
    print(s, "norm_rope", 2.0 * (double)cv_tensor_bytes(qkv), "GB/s", text);
    if (s->b->product_heads) {
        a.largest = TENSOR(s, CV_F32, 1);
        TIME(s, cv_zero(s->b, a.largest) || cv_qk_norm_rope(s->b, &a));
        snprintf(text, sizeof(text), "[%d, %d] and max |v|", (int)n, (int)d);
        print(s, "norm_rope", 2.0 * (double)cv_tensor_bytes(qkv), "GB/s",
              text);
    }
    release(s);
}

/* To fp8: from the residual stream, and from attention. */
static void bench_narrow(Bench *s, int64_t n, int64_t d)
{
    CvTensor *x = TENSOR(s, CV_F32, n, d), *mod = TENSOR(s, CV_F32, 1, 6, d);
    CvTensor *a = TENSOR(s, s->b->activation, n, d);
    CvTensor *y = narrow_tensor(s, n, d), *scale = TENSOR(s, CV_F32, n);
    char text[64];

    snprintf(text, sizeof(text), "[%d, %d] to fp8", (int)n, (int)d);
    TIME(s, cv_norm_modulate(s->b, y, scale, x, mod, 0, 1, 1e-6f));
    print(s, "modulate", (double)(cv_tensor_bytes(x) + cv_tensor_bytes(y)),
          "GB/s", text);
    TIME(s, cv_quantise(s->b, y, scale, a));
    print(s, "quantise", (double)(cv_tensor_bytes(a) + cv_tensor_bytes(y)),
          "GB/s", text);
    release(s);
}

static void bench_rows(Bench *s)
{
    CvTensor *rope;

    bench_norm_silu(s, 4, 96, 160, 16);
    bench_norm_silu(s, 2, 48, 80, 64);
    bench_block(s, 180, 2);
    rope = TENSOR(s, CV_F32, 180, 64, 2);
    TIME(s, cv_rope_table(s->b, rope, 3, 3, 6, 10));
    print(s, "rope_table", 0, "", "3 x 6 x 10, 64 pairs");
    release(s);
}

static void bench_picture(Bench *s)
{
    CvTensor *frame = TENSOR(s, CV_F32, 480, 832, 3);
    size_t size = (size_t)480 * 832;
    uint8_t *memory = calloc(size, 4);
    CausvidPicture pic = { .width = 832, .height = 480,
                           .data = { memory, memory + size * 2,
                                     memory + size * 3 },
                           .stride = { 832, 416, 416 } };
    CvPictureArgs a = { frame, &pic };

    if (memory) {
        pic.format = CAUSVID_FORMAT_YUV420P;
        TIME(s, cv_to_picture(s->b, &a));
        print(s, "to_picture", 832 * 480, "Gpixel/s", "832x480 yuv420p");
        pic.format = CAUSVID_FORMAT_YUV420P10;
        pic.stride[0] = 1664;
        pic.stride[1] = pic.stride[2] = 832;
        TIME(s, cv_to_picture(s->b, &a));
        print(s, "to_picture", 832 * 480, "Gpixel/s", "832x480 yuv420p10");
    }
    free(memory);
    release(s);
}

static int wanted(const Bench *s, const char *op)
{
    return !s->only || !strcmp(s->only, op);
}

/* A block's linears: n tokens of width d, the FFN's width f. */
static void bench_linears(Bench *s, int64_t n, int64_t d, int64_t f)
{
    if (s->b->product == CV_F8_E4M3) {
        bench_linear_narrow(s, n, d, 3 * d, CV_EPI_NONE);
        bench_linear_narrow(s, n, d, d, CV_EPI_NONE);
        bench_linear_narrow(s, n, d, d, CV_EPI_ADD);
        bench_linear_narrow(s, n, d, d, CV_EPI_GATE_ADD);
        bench_linear_narrow(s, n, d, f, CV_EPI_GELU);
        bench_linear_narrow(s, n, f, d, CV_EPI_GATE_ADD);
        return;
    }
    bench_linear(s, n, d, 3 * d, CV_EPI_NONE);
    bench_linear(s, n, d, d, CV_EPI_NONE);
    bench_linear(s, n, d, d, CV_EPI_ADD);
    bench_linear(s, n, d, d, CV_EPI_GATE_ADD);
    bench_linear(s, n, d, f, CV_EPI_GELU);
    bench_linear(s, n, f, d, CV_EPI_ADD);
    bench_linear(s, n, f, d, CV_EPI_GATE_ADD);
    if (n > CV_DIT_PART_TOKENS) { /* as a clip has it */
        bench_linear(s, CV_DIT_PART_TOKENS, f, d, CV_EPI_ADD);
        bench_linear(s, CV_DIT_PART_TOKENS, f, d, CV_EPI_GATE_ADD);
    }
}

/* The ceilings: n x n matrices, arrays of so many bytes. */
static void measure_ceilings(Bench *s, int64_t n, int64_t bytes)
{
    CvType type = s->b->activation;
    CvLinear a = { .out = TENSOR(s, type, n, n), .x = TENSOR(s, type, n, n),
                   .weight = TENSOR(s, s->b->weight, n, n) };
    CvTensor *to, *from;
    char shape[64];

    TIME(s, cv_linear(s->b, &a));
    s->product = 2.0 * (double)(n * n * n) / s->best;
    snprintf(shape, sizeof(shape), "%d x %d x %d", (int)n, (int)n, (int)n);
    print(s, "product", 2.0 * (double)(n * n * n), "GFLOP/s", shape);
    release(s);
    to   = TENSOR(s, CV_F32, bytes / 4);
    from = TENSOR(s, CV_F32, bytes / 4);
    TIME(s, cv_copy(s->b, to, from));
    s->copy = 2.0 * (double)bytes / s->best;
    snprintf(shape, sizeof(shape), "%d MB", (int)(bytes / 1000000));
    print(s, "copy", 2.0 * (double)bytes, "GB/s", shape);
    release(s);
}

static void print_head(const Bench *s)
{
    if (!s->json)
        printf("# %s, %d threads: best time, rate, share of the product's or "
               "the copy's\n", s->b->name, s->b->threads);
}

/* A whole clip of Wan 14B, a block of the causal 1.3B, the VAE a latent. */
void bench_gpu(CvBackend *b, const char *only, int json)
{
    Bench s = { .b = b, .only = only, .json = json };

    print_head(&s);
    measure_ceilings(&s, 8192, 256000000);
    if (wanted(&s, "linear")) {
        bench_linears(&s, 32760, 5120, 13824);
        bench_linears(&s, 4680, 1536, 8960);
    }
    if (wanted(&s, "attention")) {
        bench_attention(&s, 32760, 32760, 40, 128);
        bench_attention(&s, 32760, 512, 40, 128);
        bench_attention(&s, 4680, 18720, 12, 128);
        bench_attention(&s, 4680, 512, 12, 128);
        bench_attention(&s, 6240, 6240, 1, 384);
        bench_attention(&s, 512, 512, 64, 64);
    }
    if (only && wanted(&s, "outputs8") && b->product == CV_F8_E4M3) {
        bench_outputs(&s, 32760, 32760, 40, 1);
        bench_outputs(&s, 32760, 512, 40, 400);
        bench_outputs(&s, 4680, 18720, 12, 1);
        bench_outputs(&s, 4680, 512, 12, 400);
    }
    if (only && wanted(&s, "attention8")) {
        bench_attention8(&s, 32760, 32760, 40, 0);
        bench_attention8(&s, 4680, 18720, 12, 0);
        bench_attention8(&s, 4680, 18720, 12, 1);
        bench_attention8(&s, 4680, 4680, 12, 0);
        bench_ring(&s, 4680, 4, 12);
        bench_ring(&s, 4680, 7, 12);
    }
    if (wanted(&s, "conv3d")) {
        bench_conv(&s, 1, 60, 104, 384, 384, 3, 3, 1);
        bench_conv(&s, 2, 120, 208, 384, 384, 3, 3, 1);
        bench_conv(&s, 4, 240, 416, 192, 192, 3, 3, 1);
        bench_conv(&s, 4, 480, 832, 96, 96, 3, 3, 1);
        bench_conv(&s, 4, 480, 832, 96, 3, 3, 3, 1);
        bench_conv_with(&s, 2, 120, 208, 384, 384, 3, 3, 1, NORMED);
        bench_conv_with(&s, 2, 120, 208, 384, 384, 3, 3, 1, ADDED);
        bench_conv_with(&s, 4, 240, 416, 192, 192, 3, 3, 1, NORMED);
        bench_conv_with(&s, 4, 240, 416, 192, 192, 3, 3, 1, ADDED);
        bench_conv_with(&s, 4, 480, 832, 96, 96, 3, 3, 1, NORMED);
        bench_conv_with(&s, 4, 480, 832, 96, 96, 3, 3, 1, ADDED);
        bench_conv_with(&s, 4, 240, 416, 192, 96, 1, 3, 2, ADDED);
        bench_conv(&s, 1, 60, 104, 384, 768, 3, 1, 1);
        bench_conv(&s, 2, 60, 104, 384, 192, 1, 3, 2);
        bench_conv(&s, 4, 240, 416, 192, 96, 1, 3, 2);
        bench_conv(&s, 4, 240, 416, 96, 192, 1, 1, 1);
        /* of the tiny decoder */
        bench_conv(&s, 1, 60, 104, 256, 256, 1, 3, 1);
        bench_conv(&s, 1, 120, 208, 128, 128, 2, 3, 1);
        bench_conv(&s, 2, 240, 416, 64, 64, 2, 3, 1);
        bench_conv(&s, 4, 240, 416, 64, 64, 1, 3, 2);
        bench_conv(&s, 4, 480, 832, 64, 3, 1, 3, 1);
    }
    if (wanted(&s, "rows") && b->product == CV_F8_E4M3) {
        bench_narrow(&s, 32760, 5120);
        bench_narrow(&s, 4680, 1536);
    }
    if (wanted(&s, "rows")) {
        bench_block(&s, 32760, 40);
        bench_block(&s, 4680, 12);
        bench_norm_silu(&s, 4, 480, 832, 96);
        bench_norm_silu(&s, 4, 240, 416, 192);
        bench_norm_silu(&s, 1, 60, 104, 384);
    }
    if (wanted(&s, "to_picture"))
        bench_picture(&s);
}

void bench_ops(CvBackend *b, const char *only, int json)
{
    Bench s = { .b = b, .only = only, .json = json };

    print_head(&s);
    measure_ceilings(&s, 1024, 64000000);
    if (wanted(&s, "linear")) {
        bench_linear(&s, 1, 256, 1536, CV_EPI_NONE);
        bench_linear(&s, 180, 256, 768, CV_EPI_NONE);
        bench_linear(&s, 180, 256, 256, CV_EPI_NONE);
        bench_linear(&s, 180, 256, 1024, CV_EPI_GELU);
        bench_linear(&s, 180, 1024, 256, CV_EPI_NONE);
        bench_linear(&s, 180, 384, 1536, CV_EPI_GELU);
        bench_linear(&s, 180, 1536, 384, CV_EPI_NONE);
        bench_linear(&s, 4680, 1536, 1536, CV_EPI_NONE);
    }
    if (wanted(&s, "attention")) {
        bench_attention(&s, 180, 180, 2, 128);
        bench_attention(&s, 180, 720, 2, 128);
        bench_attention(&s, 180, 720, 3, 128);
        bench_attention(&s, 180, 20, 2, 128);
        bench_attention(&s, 1560, 4680, 12, 128);
    }
    if (wanted(&s, "conv3d")) {
        bench_conv(&s, 4, 96, 160, 16, 16, 3, 3, 1);
        bench_conv(&s, 4, 96, 160, 12, 12, 3, 3, 1);
        bench_conv(&s, 4, 96, 160, 16, 3, 3, 3, 1);
        bench_conv(&s, 4, 48, 80, 32, 16, 1, 3, 2);
        bench_conv(&s, 4, 48, 80, 32, 32, 3, 3, 1);
        bench_conv(&s, 2, 24, 40, 64, 32, 1, 3, 2);
        bench_conv(&s, 2, 24, 40, 64, 64, 3, 3, 1);
        bench_conv(&s, 1, 12, 20, 64, 64, 3, 3, 1);
        bench_conv(&s, 1, 24, 40, 64, 128, 3, 1, 1);
        bench_conv(&s, 4, 96, 160, 32, 64, 1, 1, 1);
        bench_conv(&s, 1, 60, 104, 384, 384, 3, 3, 1);
        bench_conv(&s, 4, 240, 416, 96, 96, 3, 3, 1);
    }
    if (wanted(&s, "rows"))
        bench_rows(&s);
    if (wanted(&s, "to_picture"))
        bench_picture(&s);
}
