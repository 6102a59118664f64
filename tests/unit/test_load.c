/*
 * Tensors from a weight file in a backend's memory, and every way in which a
 * file can be the wrong one.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#include <math.h>

#include "../tap.h"
#include "weights/reader.h"
#include "weights_util.h"

#define FAILED(e) CAUSVID_ERR(e)

static Lines lines;
static CvBackend *cpu;

/* One file opened, and what it is loaded into. */
typedef struct Case {
    Blob blob;
    CvWeights *weights;
    CvArena arena;
    CvLoader loader;
} Case;

static void begin(Case *c, const StTensor *tensors, int n, int pad)
{
    memset(c, 0, sizeof(*c));
    c->blob = st_write(tensors, n, pad);
    if (cv_weights_open_memory(&c->weights, c->blob.data, c->blob.size,
                               "m.safetensors", &lines.log) < 0)
        tap_bail("%s", lines.error);
    c->loader = (CvLoader){ .backend = cpu, .arena = &c->arena,
                            .weights = c->weights, .log = &lines.log };
    cv_arena_plan(&c->arena, cpu);
}

static void end(Case *c)
{
    cpu->planning = 0;
    cv_arena_free(&c->arena);
    cv_weights_close(&c->weights);
    blob_free(&c->blob);
}

static void take(Case *c)
{
    if (cv_arena_take(&c->arena, &lines.log, "a test") < 0)
        tap_bail("%s", lines.error);
}

/* Load one tensor, plan and run. The result is malloced floats. */
static float *load(Case *c, CvTensor *t, CvLoadLayout layout, const char *name)
{
    float *values = calloc((size_t)cv_elements(t) + 1, sizeof(*values));

    if (!values)
        tap_bail("malloc");
    if (cv_load(&c->loader, t, layout, "%s", name) < 0)
        tap_bail("plan: %s", lines.error);
    take(c);
    if (cv_load(&c->loader, t, layout, "%s", name) < 0)
        tap_bail("run: %s", lines.error);
    if (cv_download(cpu, values, t) < 0)
        tap_bail("download");
    return values;
}

/* The same, for a load that must fail in the plan with such a line. */
static int refused(const StTensor *tensor, CvTensor t, CvLoadLayout layout,
                   const char *name, const char *line)
{
    size_t peak;
    Case c;
    int err;

    begin(&c, tensor, 1, 0);
    err  = cv_load(&c.loader, &t, layout, "%s", name);
    peak = c.arena.peak;
    end(&c);
    return err == FAILED(EILSEQ) && !peak && lines_error(&lines, line);
}

/* ---- values ---- */

#define N 15
static const float numbers[N] = {
    0, 1, -1, 0.5f, -2, 3, 0.25f, -0.125f, 6, 7, -8, 1.5f, -1.25f, 4, 0.75f,
};

/* A number as sign, exponent and mantissa of these widths, exactly. */
static unsigned small_bits(float v, int exponent_bits, int mantissa_bits)
{
    int bias = (1 << (exponent_bits - 1)) - 1, e;
    float m = frexpf(fabsf(v), &e); /* 0.5 <= m < 1 */
    unsigned sign = signbit(v) ? 1u << (exponent_bits + mantissa_bits) : 0;

    if (v == 0)
        return sign;
    return sign | (unsigned)(e - 1 + bias) << mantissa_bits |
           (unsigned)lrintf((m * 2 - 1) * (float)(1 << mantissa_bits));
}

/* numbers[] in a type. */
static void make(uint8_t *dst, CvType type)
{
    for (int i = 0; i < N; i++) {
        double d = (double)numbers[i];
        uint16_t h;

        switch (type) {
        case CV_F64:
            memcpy(dst + 8 * i, &d, 8);
            break;
        case CV_F32:
            memcpy(dst + 4 * i, &numbers[i], 4);
            break;
        case CV_F16:
        case CV_BF16:
            h = (uint16_t)(type == CV_F16 ? small_bits(numbers[i], 5, 10) :
                                            small_bits(numbers[i], 8, 7));
            memcpy(dst + 2 * i, &h, 2);
            break;
        default:
            dst[i] = (uint8_t)(type == CV_F8_E4M3 ?
                               small_bits(numbers[i], 4, 3) :
                               small_bits(numbers[i], 5, 2));
        }
    }
}

static void test_types(void)
{
    uint8_t data[8 * N] = { 0 };

    for (int type = CV_F32; type <= CV_F8_E5M2; type++) {
        int good = 0;

        make(data, (CvType)type);
        for (int pad = 0; pad < 8; pad++) {
            StTensor s = { "x", (CvType)type, 2, { 3, 5 }, data };
            CvTensor t = CV_TENSOR(NULL, CV_F32, 3, 5);
            float *v;
            Case c;

            begin(&c, &s, 1, pad);
            v = load(&c, &t, CV_LOAD_AS_IS, "x");
            /* two bits of mantissa are enough for each of them */
            good += !memcmp(v, numbers, sizeof(numbers));
            free(v);
            ok(!cv_load_finish(&c.loader), "%s: nothing is left",
               cv_type_name((CvType)type));
            end(&c);
        }
        ok(good == 8, "%s at every alignment: %d of 8",
           cv_type_name((CvType)type), good);
    }
}

static float value(int64_t i)
{
    return (float)((i * 7 + i / 11) % 1021) - 500;
}

/* [o, c, kt, kh, kw] -> [o, kt, kh, kw, c], stored as float32 or bf16. */
static void test_conv(int64_t o, int64_t c_in, int64_t kt, int64_t kh,
                      int64_t kw, int dims, int pad)
{
    int64_t n = o * c_in * kt * kh * kw, wrong = 0, i = 0;
    float *data = malloc((size_t)n * sizeof(*data)), *v;
    StTensor s = { .name = "conv", .type = CV_F32, .n_dims = dims };
    CvTensor t = CV_TENSOR(NULL, CV_F32, o, kt, kh, kw, c_in);
    Case c;

    if (!data)
        tap_bail("malloc");
    for (int64_t k = 0; k < n; k++)
        data[k] = value(k);
    s.data   = data;
    s.dim[0] = o;
    s.dim[1] = c_in;
    s.dim[2] = dims == 5 ? kt : kh;
    s.dim[3] = dims == 5 ? kh : kw;
    s.dim[4] = kw;
    begin(&c, &s, 1, pad);
    v = load(&c, &t, CV_LOAD_CONV, "conv");
    for (int64_t a = 0; a < o; a++)
        for (int64_t f = 0; f < kt; f++)
            for (int64_t y = 0; y < kh; y++)
                for (int64_t x = 0; x < kw; x++)
                    for (int64_t b = 0; b < c_in; b++, i++)
                        wrong += v[i] != data[(((a * c_in + b) * kt + f) * kh +
                                               y) * kw + x];
    ok(!wrong, "conv [%d, %d, %d, %d, %d] stored in %d dims: %lld wrong",
       (int)o, (int)c_in, (int)kt, (int)kh, (int)kw, dims, (long long)wrong);
    free(v);
    free(data);
    end(&c);
}

static void test_stacked(void)
{
    static const char *const parts[] = { "q", "k", "v" };
    float data[3][6];
    StTensor s[3] = {
        { "b.0.q.weight", CV_F32, 2, { 2, 3 }, data[0] },
        { "b.0.k.weight", CV_F32, 2, { 2, 3 }, data[1] },
        { "b.0.v.weight", CV_F32, 2, { 2, 3 }, data[2] },
    };
    CvTensor t = CV_TENSOR(NULL, CV_F32, 6, 3);
    CvTensor bad = CV_TENSOR(NULL, CV_F32, 9, 3);
    float v[18];
    int good = 1;
    Case c;

    for (int i = 0; i < 18; i++)
        data[i / 6][i % 6] = value(i);
    begin(&c, s, 3, 3);
    is_int(cv_load_stacked(&c.loader, &t, "b.0.%s.weight", parts, 3), 0);
    take(&c);
    is_int(cv_load_stacked(&c.loader, &t, "b.0.%s.weight", parts, 3), 0);
    is_int(cv_download(cpu, v, &t), 0);
    for (int i = 0; i < 18; i++)
        good &= v[i] == value(i);
    ok(good, "q, k and v one after the other");
    is_int(cv_load_finish(&c.loader), 0);
    ok(cv_load_stacked(&c.loader, &bad, "b.0.%s.weight", parts, 3) ==
       FAILED(EILSEQ) && lines_error(&lines, "'b.0.q.weight'|[2, 3]|[3, 3]"),
       "parts of the wrong shape");
    ok(cv_load_stacked(&c.loader, &t, "b.1.%s.weight", parts, 3) ==
       FAILED(EILSEQ) && lines_error(&lines, "lacks tensor 'b.1.q.weight'"),
       "a part that is missing");
    end(&c);
}

/* ---- shapes ---- */

static void test_shapes(void)
{
    static const struct {
        int n_stored, n_wanted;
        int64_t stored[5], wanted[5];
        int fits;
    } cases[] = {
        { 4, 1, { 6, 1, 1, 1 }, { 6 }, 1 },
        { 3, 2, { 1, 2, 3 }, { 2, 3 }, 1 },
        { 5, 2, { 2, 3, 1, 1, 1 }, { 2, 3 }, 1 },
        { 4, 2, { 2, 3, 1, 1 }, { 2, 3 }, 1 },
        { 2, 3, { 2, 3 }, { 1, 2, 3 }, 1 },
        { 1, 1, { 1 }, { 1 }, 1 },
        { 0, 1, { 0 }, { 1 }, 1 },
        { 2, 2, { 2, 3 }, { 3, 2 }, 0 },
        { 2, 1, { 2, 3 }, { 6 }, 0 },
        { 1, 2, { 6 }, { 2, 3 }, 0 },
        { 3, 2, { 2, 1, 3 }, { 2, 3 }, 0 },
        { 1, 1, { 6 }, { 5 }, 0 },
        { 1, 1, { 6 }, { 7 }, 0 },
        { 1, 1, { 0 }, { 6 }, 0 },
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        StTensor s = { .name = "x", .type = CV_F32,
                       .n_dims = cases[i].n_stored };
        CvTensor t = { .type = CV_F32, .n_dims = cases[i].n_wanted };

        memcpy(s.dim, cases[i].stored, sizeof(s.dim));
        memcpy(t.dim, cases[i].wanted, sizeof(s.dim));
        if (cases[i].fits) {
            Case c;

            begin(&c, &s, 1, 0);
            free(load(&c, &t, CV_LOAD_AS_IS, "x"));
            ok(lines_none(&lines), "shape %zu fits", i);
            end(&c);
        } else {
            ok(refused(&s, t, CV_LOAD_AS_IS, "x", "'m.safetensors'|'x'|"
                       "expected ["), "shape %zu does not", i);
        }
    }
}

static void test_wrong(void)
{
    StTensor s = { "x.weight", CV_F32, 5, { 2, 3, 1, 2, 2 }, NULL };
    CvTensor conv = CV_TENSOR(NULL, CV_F32, 2, 1, 2, 2, 3);
    CvTensor big = CV_TENSOR(NULL, CV_F32, 2, 3, 2, 2, 3);
    CvTensor flat = CV_TENSOR(NULL, CV_F32, 24);
    CvTensor none = CV_TENSOR(NULL, CV_F32, 4, 4);

    ok(refused(&s, none, CV_LOAD_AS_IS, "y.weight", "'m.safetensors' lacks "
               "tensor 'y.weight', expected as [4, 4]"), "a missing tensor");
    ok(refused(&s, flat, CV_LOAD_AS_IS, "x.weight", "tensor 'x.weight' is F32 "
               "[2, 3, 1, 2, 2]; expected [24]"), "a wrong shape");
    ok(refused(&s, big, CV_LOAD_CONV, "x.weight", "'x.weight' is F32 "
               "[2, 3, 1, 2, 2]; expected [2, 3, 3, 2, 2]"), "a wrong kernel");
    s.n_dims = 4;
    s.dim[2] = s.dim[3] = 2;
    ok(refused(&s, big, CV_LOAD_CONV, "x.weight", "is F32 [2, 3, 2, 2]; "
               "expected [2, 3, 3, 2, 2]"), "a flat kernel for a deep one");
    for (int type = CV_I64; type <= CV_BOOL; type++) {
        char line[64];

        s.type = (CvType)type;
        snprintf(line, sizeof(line), "'x.weight' has the type %s; expected",
                 cv_type_name(s.type));
        ok(refused(&s, conv, CV_LOAD_CONV, "x.weight", line),
           "%s is not taken for numbers", cv_type_name(s.type));
    }
}

static void test_extra(void)
{
    StTensor s[3] = {
        { "a", CV_F32, 1, { 2 }, NULL }, { "b", CV_BF16, 2, { 2, 3 }, NULL },
        { "c", CV_F32, 1, { 2 }, NULL },
    };
    CvTensor t = CV_TENSOR(NULL, CV_F32, 2);
    Case c;

    begin(&c, s, 3, 0);
    free(load(&c, &t, CV_LOAD_AS_IS, "a"));
    ok(cv_load_finish(&c.loader) == FAILED(EILSEQ) &&
       lines_error(&lines, "'m.safetensors' holds 2 tensors|such as 'b' BF16 "
                   "[2, 3]"), "tensors that nobody took");
    end(&c);
}

/* ---- values that are no numbers ---- */

static void test_nan(void)
{
    static const struct {
        CvType type;
        const char *what;
        uint64_t bits;
    } cases[] = {
        { CV_F32, "NaN", 0x7fc00000 }, { CV_F32, "-NaN", 0xffc00001 },
        { CV_F32, "infinity", 0x7f800000 },
        { CV_F64, "NaN", 0x7ff8000000000000 },
        { CV_F64, "-infinity", 0xfff0000000000000 },
        { CV_F16, "NaN", 0x7e00 }, { CV_F16, "infinity", 0x7c00 },
        { CV_BF16, "NaN", 0x7fc0 }, { CV_BF16, "-infinity", 0xff80 },
        { CV_F8_E4M3, "NaN", 0x7f }, { CV_F8_E4M3, "-NaN", 0xff },
        { CV_F8_E5M2, "NaN", 0x7d }, { CV_F8_E5M2, "infinity", 0x7c },
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        size_t size = cv_type_bytes(cases[i].type);
        int good = 0;

        /* the last element, whole and in pieces */
        for (int pad = 0; pad < 2; pad++) {
            uint8_t data[8 * 12] = { 0 };
            StTensor s = { "x.weight", cases[i].type, 5, { 2, 3, 1, 2, 1 },
                           data };
            CvTensor t = CV_TENSOR(NULL, CV_F32, 2, 3, 2);
            CvTensor conv = CV_TENSOR(NULL, CV_F32, 2, 1, 2, 1, 3);
            CvTensor *p = pad ? &conv : &t;
            CvLoadLayout layout = pad ? CV_LOAD_CONV : CV_LOAD_AS_IS;
            int err;
            Case c;

            if (!pad) {
                s.n_dims = 3;
                s.dim[2] = 2;
            }
            memcpy(data + 11 * size, &cases[i].bits, size);
            begin(&c, &s, 1, pad);
            err = cv_load(&c.loader, p, layout, "x.weight");
            take(&c);
            good += !err && cv_load(&c.loader, p, layout, "x.weight") ==
                    FAILED(EILSEQ) &&
                    lines_error(&lines, "'m.safetensors'|'x.weight' holds a "
                                "value that is not a number, or infinite");
            end(&c);
        }
        ok(good == 2, "%s %s is refused", cv_type_name(cases[i].type),
           cases[i].what);
    }
}

/* ---- rows of a table ---- */

/* Rows `ids` of a table of `rows` rows, planned and loaded. */
static int load_rows(Case *c, CvTensor *t, int64_t rows, const int32_t *ids,
                     const char *name, float *values)
{
    int err = cv_load_rows(&c->loader, t, rows, ids, name);

    take(c);
    if (!err)
        err = cv_load_rows(&c->loader, t, rows, ids, name);
    if (!err && cv_download(cpu, values, t) < 0)
        tap_bail("download");
    return err;
}

static void test_rows(void)
{
    static const int32_t ids[] = { 2, 0, 2, 1 }, wrong[] = { 0, 3, 0, 0 };
    static const int32_t first[] = { 0, 0, 0, 0 };
    const CvTensor shape = CV_TENSOR(NULL, CV_F32, 4, 5);
    uint8_t data[2 * N];
    float values[4 * 5];
    int good = 0;
    Case c;

    make(data, CV_BF16);
    for (int pad = 0; pad < 2; pad++) {
        StTensor s = { "x", CV_BF16, 2, { 3, 5 }, data };
        CvTensor t = shape;

        begin(&c, &s, 1, pad);
        good += !load_rows(&c, &t, 3, ids, "x", values);
        for (int i = 0; i < 4; i++)
            good += !memcmp(values + 5 * i, numbers + 5 * ids[i],
                            5 * sizeof(float));
        t = shape;
        good += load_rows(&c, &t, 4, ids, "x", values) == FAILED(EILSEQ) &&
                lines_error(&lines, "[4, 5]");
        t = shape;
        good += load_rows(&c, &t, 3, wrong, "x", values) == FAILED(EINVAL) &&
                lines_error(&lines, "row 3");
        end(&c);
    }
    ok(good == 2 * 7, "rows of a table");

    data[2 * 5 + 1] = 0x7f, data[2 * 5] = 0xc0; /* NaN in row 1 */
    for (int i = 0; i < 2; i++) {
        StTensor s = { "x", CV_BF16, 2, { 3, 5 }, data };
        CvTensor t = shape;

        begin(&c, &s, 1, 0);
        if (i)
            ok(load_rows(&c, &t, 3, ids, "x", values) == FAILED(EILSEQ) &&
               lines_error(&lines, "tensor 'x' holds a value"),
               "a row that is no number");
        else
            ok(!load_rows(&c, &t, 3, first, "x", values),
               "which counts only where it is wanted");
        end(&c);
    }
}

/* Of a model of random numbers: the rows that the whole table has. */
static void test_random_rows(void)
{
    enum { ROWS = 8192, WIDTH = 128 };
    static const int32_t ids[] = { 8191, 0, 1, 8191, 77 };
    static float rows[5 * WIDTH];
    CvTensor t = CV_TENSOR(NULL, CV_F32, 5, WIDTH);
    CvTensor table = CV_TENSOR(NULL, CV_F32, ROWS, WIDTH);
    const char *name = "token_embedding.weight";
    int good = 0;
    float *whole;
    Case c;

    memset(&c, 0, sizeof(c));
    if (cv_weights_open(&c.weights, "random:tiny/text_encoder",
                        &lines.log) < 0)
        tap_bail("%s", lines.error);
    c.loader = (CvLoader){ .backend = cpu, .arena = &c.arena,
                           .weights = c.weights, .log = &lines.log };
    cv_arena_plan(&c.arena, cpu);
    good += !load_rows(&c, &t, ROWS, ids, name, rows);
    cv_arena_plan(&c.arena, cpu);
    whole = load(&c, &table, CV_LOAD_AS_IS, name);
    for (int i = 0; i < 5; i++)
        good += !memcmp(rows + i * WIDTH, whole + ids[i] * WIDTH,
                        WIDTH * sizeof(float));
    ok(good == 6, "rows of random numbers");
    free(whole);
    end(&c);
}

int main(void)
{
    lines_init(&lines);
    if (cv_cpu_open(&cpu, 1, &lines.log) < 0)
        tap_bail("%s", lines.error);
    test_types();
    test_conv(3, 5, 3, 2, 4, 5, 0);
    test_conv(3, 5, 3, 2, 4, 5, 1);
    test_conv(4, 7, 1, 3, 3, 5, 0);
    test_conv(4, 7, 1, 3, 3, 4, 0);
    test_conv(4, 7, 3, 1, 1, 5, 2);
    test_conv(5, 3, 1, 1, 1, 5, 0);
    test_conv(5, 3, 1, 1, 1, 4, 3);
    test_conv(1, 1, 3, 3, 3, 5, 0);
    test_conv(67, 1300, 3, 3, 3, 5, 0); /* 9 MB: more than one buffer */
    test_stacked();
    test_shapes();
    test_wrong();
    test_extra();
    test_nan();
    test_rows();
    test_random_rows();
    cpu->close(&cpu);
    return tap_done();
}
