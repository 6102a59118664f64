/*
 * What the tests of the operations share: random tensors between canaries on
 * any backend, comparison with references in double precision.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * A test is a function that draws shapes, makes tensors with input() and
 * output(), calls one cv_<op>() and gives compare() what the specification in
 * ops.h says, computed in double from the numbers that the backend holds
 * (after rounding to its types). The same functions test every backend.
 */
#ifndef CV_OPS_TEST_H
#define CV_OPS_TEST_H

#include "ops.h"

#define MAX_BUFFERS 16

/* A tensor of the backend between two margins of canaries. */
typedef struct Buffer {
    CvTensor t;
    CvTensor whole;  /* margins included; owns the memory */
    int64_t margin;  /* elements before; after it: MARGIN */
    int64_t n;
    float *host;     /* what the backend holds (integers: as int32_t) */
    int constant;    /* an input: must not change */
} Buffer;

typedef struct Env {
    CvBackend *b;
    uint64_t random;     /* state of the generator */
    double tolerance;    /* largest relative L2 error, after half a unit in
                          * the last place of bf16 results is taken off */
    int any_address;     /* tensors of this case begin anywhere ... */
    int aligned;         /* ... never, when a test sets this */
    int again;           /* the second run: its bits are held against the
                          * first's, not against a reference, which tests
                          * leave out where it takes long */
    int n_buffers;
    Buffer buffers[MAX_BUFFERS];

    /* What the test found. */
    int cases, failures;
    double worst;        /* relative L2 error */
    uint64_t hash;       /* of the bits of all results */
} Env;

/* A matrix of E4M3 between margins, with its scales. */
typedef struct Narrow {
    CvTensor t, whole;
    void *memory;
    Buffer *scale;
    uint8_t *bytes;  /* of an input [rows * columns] */
    double *values;  /* and what they are, without the scale */
} Narrow;

typedef struct OpTest {
    const char *op;
    void (*run)(Env *e);
} OpTest;

extern const OpTest op_tests[]; /* ends with a NULL name */

/* Benchmarks of one operation; prints lines. */
void bench_ops(CvBackend *b, const char *only, int json);
void bench_gpu(CvBackend *b, const char *only, int json);

/* ---- random numbers ---- */

uint64_t random_bits(Env *e);
int64_t random_int(Env *e, int64_t low, int64_t high); /* both included */
double random_real(Env *e);                            /* -1..1 */
int64_t pick(Env *e, int n, const int64_t *choices);
#define PICK(e, ...)                                                       \
    pick(e, (int)(sizeof((int64_t[]){ __VA_ARGS__ }) / sizeof(int64_t)),   \
         (const int64_t[]){ __VA_ARGS__ })

/* ---- tensors; all are released by end_case() ---- */

/* Uniform numbers in -scale..scale of A, W or float32; the shape is that of
 * CV_TENSOR. */
#define INPUT(e, type, scale, ...)                                         \
    make_input(e, CV_TENSOR(NULL, type, __VA_ARGS__), scale)
#define OUTPUT(e, type, ...)                                               \
    make_output(e, CV_TENSOR(NULL, type, __VA_ARGS__))
Buffer *make_input(Env *e, CvTensor shape, double scale);
/* Filled with poison. */
Buffer *make_output(Env *e, CvTensor shape);
Buffer *make_ids(Env *e, int64_t n, int64_t below);
/* Give a buffer other contents, as many floats as it has elements. */
void set_contents(Env *e, Buffer *buf, const float *values);
/* An input that the operation may write (in place). */
Buffer *writable(Buffer *buf);

/* n doubles, zero, released by end_case(); no more than MAX_BUFFERS. */
double *make_doubles(Env *e, int64_t n);

/* The inner product, for references. */
double dot(const float *a, const float *b, int64_t n);

/* ops_narrow.c. input: of random numbers, times scales that bring them to about
 * `size`. To be freed. */
Narrow make_narrow(Env *e, int64_t rows, int64_t columns, int input,
                   double size);
void free_narrow(Env *e, Narrow *m);

/* ---- results ---- */

void fail(Env *e, const char *format, ...) CV_PRINTF(2, 3);
/* Compare with `expected`, in the first run; the format describes the case. */
void compare(Env *e, Buffer *buf, const double *expected, const char *format,
             ...) CV_PRINTF(4, 5);
/* `expected` [rows, columns], known but for `slack` of its size, in fp8; sums:
 * the size of what may have been lost in sums, relative to a row's largest
 * number. bounds: of rows, what scales may be made of instead of their largest
 * number; or NULL. ops_narrow.c */
void compare_narrow(Env *e, const Narrow *m, const double *expected,
                    const double *bounds, double slack, double sums,
                    const char *what);
/* Check that the call succeeded. */
void called(Env *e, int err, const char *op);
/* Check canaries and inputs, release everything. */
void end_case(Env *e);
void add_to_hash(Env *e, const void *data, size_t bytes);

/* ---- the tests, by file ---- */

void test_upload(Env *e);          /* ops_memory.c */
void test_upload_refuses(Env *e);
void test_upload_tags(Env *e);
void test_upload_source(Env *e);
void test_upload_blocks(Env *e);   /* ops_blocks.c */
void test_upload_fp8(Env *e);      /* ops_fp8.c */
void test_linear_fp8(Env *e);
void test_embed_fp8(Env *e);
void test_random_fp8(Env *e);
void test_quantise(Env *e);
void test_scale_rows(Env *e);
void test_linear_narrow(Env *e);   /* ops_narrow.c */
void test_quantise_narrow(Env *e);
void test_norm_modulate_narrow(Env *e);
void test_layer_norm_narrow(Env *e);
void test_memory(Env *e);          /* ops_memory.c */
void test_check(Env *e);
void test_random(Env *e);
void test_used_memory(Env *e);
void test_linear(Env *e);          /* ops_linear.c */
void test_attention(Env *e);
void test_attention8(Env *e);      /* ops_attention.c */
void test_outputs8(Env *e);
void test_ring8(Env *e);
void test_no_ring(Env *e);
void test_add_product(Env *e);     /* ops_linear.c */
void test_rms_norm(Env *e);        /* ops_norm.c */
void test_norm_modulate(Env *e);
void test_layer_norm(Env *e);
void test_norm_silu(Env *e);
void test_qk_norm_rope(Env *e);
void test_silu(Env *e);            /* ops_small.c */
void test_soft_clamp(Env *e);
void test_embed(Env *e);
void test_t5_bias(Env *e);
void test_timestep_embedding(Env *e);
void test_modulation(Env *e);
void test_rope_table(Env *e);
void test_combine(Env *e);
void test_convert(Env *e);
void test_patchify(Env *e);        /* ops_layout.c */
void test_unpatchify(Env *e);
void test_split_frames(Env *e);
void test_to_channels_last(Env *e);
void test_to_channels_first(Env *e);
void test_conv3d(Env *e);          /* ops_conv.c */
void test_conv3d_vae(Env *e);
void test_to_picture(Env *e);      /* ops_picture.c */

#endif /* CV_OPS_TEST_H */
