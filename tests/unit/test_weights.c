/*
 * Reading safetensors files, sound and damaged.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#include <time.h>
#include <unistd.h>

#include "../tap.h"
#include "weights/json.h"
#include "weights/reader.h"
#include "weights_util.h"

static Lines lines;

#define FAILED(e) CAUSVID_ERR(e)

/* Open a copy of exactly these bytes, look at every tensor's first and last
 * byte (a sanitizer watches), and close. */
static int open_blob(Blob blob)
{
    Blob copy = blob_part(blob, blob.size);
    CvWeights *w;
    volatile uint8_t sum = 0;
    int err = cv_weights_open_memory(&w, copy.data, copy.size,
                                     "a.safetensors", &lines.log);

    for (int64_t i = 0; !err && i < cv_weights_count(w); i++) {
        const CvTensor *t = &cv_weights_at(w, i)->tensor;
        int64_t bytes = cv_tensor_bytes(t);
        const uint8_t *p = t->data;

        if (bytes > 0)
            sum = (uint8_t)(sum + p[0] + p[bytes - 1]);
        if (bytes < 0 || p < copy.data ||
            p + bytes > copy.data + copy.size)
            tap_bail("a tensor lies outside of its file");
    }
    if (!err)
        cv_weights_close(&w);
    else if (w)
        tap_bail("a failed open left an object");
    blob_free(&copy);
    return err;
}

/* ---- sound files ---- */

static void test_types(void)
{
    static const char *const tensors[][2] = {
        { "f64", "F64 [3, 5]" }, { "f32", "F32 [2, 3, 4]" },
        { "f16", "F16 [7]" }, { "bf16", "BF16 [5, 1]" },
        { "f8_e4m3", "F8_E4M3 [11]" }, { "f8_e5m2", "F8_E5M2 [13]" },
        { "i64", "I64 [2, 2]" }, { "i32", "I32 [3]" }, { "i16", "I16 [3]" },
        { "i8", "I8 [5]" }, { "u8", "U8 [9]" }, { "bool", "BOOL [6]" },
        { "scalar", "F32 []" }, { "empty", "F32 [0, 4]" },
        { "name with \"quotes\", \\ and \xc3\xbcn\xc3\xaf" "code", "F32 [2]" },
    };
    int n = (int)(sizeof(tensors) / sizeof(*tensors));
    char text[64];
    CvWeights *w;

    if (cv_weights_open(&w, data_path("weights/types.safetensors"),
                        &lines.log) < 0)
        tap_bail("%s", lines.error);
    is_int(cv_weights_count(w), n);
    for (int i = 0; i < n; i++)
        ok(has_pattern(w, tensors[i][0], tensors[i][1]), "%s of the safetensors "
           "library reads back", tensors[i][1]);
    ok(!cv_weights_find(w, "f3"), "a name that is not there is not found");
    ok(!cv_weights_find(w, "%600s", "f32"), "nor one that is too long");
    ok(!cv_weights_at(w, -1) && !cv_weights_at(w, n), "nor one out of range");
    cv_weights_types(w, text, sizeof(text));
    ok(!strncmp(text, "F64+F32+", 8), "types by size: %s", text);
    cv_weights_types(w, text, 6);
    ok(!strcmp(text, "F64+F"), "a short text is cut: %s", text);
    cv_weights_close(&w);
    ok(!w, "close sets the pointer to NULL");
    cv_weights_close(&w);
    ok(lines_none(&lines), "no line was logged");
}

static void test_sharded(void)
{
    char folder[1024];
    CvWeights *w;
    int good = 1;

    snprintf(folder, sizeof(folder), "%s", data_path("weights/sharded"));
    if (cv_weights_open(&w, folder, &lines.log) < 0)
        tap_bail("%s", lines.error);
    is_int(cv_weights_count(w), 22);
    for (int64_t i = 0; i < cv_weights_count(w); i++)
        good &= holds_pattern(cv_weights_at(w, i));
    ok(good, "every tensor of the shards of transformers reads back");
    is_str(cv_weights_path(w), folder);
    cv_weights_close(&w);
    strcat(folder, "/model.safetensors.index.json");
    is_int(cv_weights_open(&w, folder, &lines.log), 0);
    cv_weights_close(&w);
    ok(lines_none(&lines), "total_size agrees");
}

/* ---- damaged files ---- */

static Blob sound_file(void)
{
    static const StTensor tensors[] = {
        { .name = "b", .type = CV_F32, .n_dims = 2, .dim = { 2, 3 } },
        { .name = "a.weight", .type = CV_BF16, .n_dims = 1, .dim = { 5 } },
        { .name = "c", .type = CV_U8, .n_dims = 1, .dim = { 7 } },
    };

    return st_write(tensors, 3, 2);
}

static void test_truncated(void)
{
    const char *folder = temp_folder(), *path;
    Blob blob = sound_file();
    size_t good = 0;
    CvWeights *w;

    is_int(open_blob(blob), 0);
    for (size_t n = 0; n < blob.size; n++) {
        Blob part = blob_part(blob, n);

        good += open_blob(part) == FAILED(EILSEQ) &&
                lines_error(&lines, "'a.safetensors'");
        blob_free(&part);
    }
    ok(good == blob.size, "cut at each of %zu bytes: %zu refused in one line",
       blob.size, good);
    good = 0;
    for (size_t n = blob.size; n-- > 0;) {
        path = save_blob(folder, "cut.safetensors", blob);
        if (truncate(path, (off_t)n) < 0)
            tap_bail("truncate");
        good += cv_weights_open(&w, path, &lines.log) == FAILED(EILSEQ) &&
                !w && lines_error(&lines, path);
    }
    ok(good == blob.size, "the same as mapped files");
    blob_free(&blob);
}

/* Every byte of the header length and the header, replaced by others: read
 * or refused, but never outside of the file. */
static void test_changed(void)
{
    static const uint8_t values[] = {
        0, 1, 0x7f, 0x80, 0xff, '"', '\\', '{', '}', '[', ']', ',', ':', '-',
        '9', 'e', '.', ' ', '\n',
    };
    Blob blob = sound_file();
    size_t header = blob.size - 24 - 10 - 7;
    int refused = 0, taken = 0, wrong = 0;

    for (size_t i = 0; i < header; i++) {
        uint8_t was = blob.data[i];

        for (size_t v = 0; v < sizeof(values); v++) {
            blob.data[i] = values[v];
            if (open_blob(blob) == 0) {
                taken++;
                wrong += !lines_none(&lines);
            } else {
                refused++;
                wrong += !lines_error(&lines, "'a.safetensors'");
            }
        }
        blob.data[i] = was;
    }
    ok(!wrong && refused > 3000 && taken > 100, "changed bytes: %d refused in "
       "one line, %d taken, %d wrong", refused, taken, wrong);
    blob_free(&blob);
}

/* A header and what the line about it must say. */
static const struct {
    const char *header;
    size_t n_data;
    const char *line; /* NULL: sound */
} headers[] = {
#define T(dtype, shape, offsets) \
    "{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}"
#define A "{\"a\":"
    { "{}", 0, NULL },
    { "{}   \n\t ", 0, NULL },
    { A T("F32", "[]", "[0,4]") "}", 4, NULL },
    { A T("F32", "[0]", "[0,0]") ",\"b\":" T("U8", "[3]", "[0,3]")
      ",\"c\":" T("I64", "[0,7]", "[3,3]") "}", 3, NULL },
    { A "{\"shape\":[2e0],\"data_offsets\":[0.0,2],\"dtype\":\"U8\","
      "\"more\":{}}}", 2, NULL },
    { "", 0, "does not begin with '{'" },
    { "[]", 0, "does not begin with '{'" },
    { " {}", 0, "does not begin with '{'" },
    { "{", 0, "line 1, column 2|no '\"'" },
    { "{} {}", 0, "column 4|after the end" },
    { "{}\xff", 0, "column 3|after the end" },
    { A T("F32", "[2]", "[0,8]") ",}", 8, "no '\"' where a key" },
    { A T("F32", "[2]", "[0,8]"), 8, "neither ',' nor '}'" },
    { "{\"a\" 1}", 0, "no ':'" },
    { "{\n\"a\": tru }", 0, "line 2, column 6|no value" },
    { "{'a':1}", 0, "no '\"'" },
    { "{\"a\":01}", 0, "neither ',' nor '}'" },
    { "{\"a\":-}", 0, "broken number" },
    { "{\"a\":1.}", 0, "broken number" },
    { "{\"a\":1e}", 0, "broken number" },
    { "{\"a\":NaN}", 0, "no value" },
    { "{\"a\":1000000000000000000000000000000000000000000000000000000000000}",
      0, "more than 60 characters" },
    { "{\"a", 0, "the end inside a string" },
    { "{\"a\x01\":1}", 0, "control character" },
    { "{\"a\\x\":1}", 0, "unknown escape" },
    { "{\"a\\u12g4\":1}", 0, "broken \\u" },
    { "{\"a\\u0000\":1}", 0, "NUL" },
    { "{\"a\\ud800\":1}", 0, "surrogate" },
    { "{\"a\\udc00\":1}", 0, "surrogate" },
    { "{\"a\\ud800\\u0041\":1}", 0, "surrogate" },
    { "{\"\xc0\xaf\":1}", 0, "not UTF-8" },
    { "{\"\xe0\x9f\xbf\":1}", 0, "not UTF-8" },
    { "{\"\xed\xa0\x80\":1}", 0, "not UTF-8" },
    { "{\"\xf0\x8f\xbf\xbf\":1}", 0, "not UTF-8" },
    { "{\"\xf4\x90\x80\x80\":1}", 0, "not UTF-8" },
    { "{\"\xe2\x82\":1}", 0, "not UTF-8" },
    { "{\"\xf0\x9f\x98", 0, "not UTF-8" },
    { A T("F32", "[1]", "[0,4]") ",\"a\":" T("F32", "[1]", "[0,4]") "}", 4,
      "'a' twice" },
    { A T("F32", "[1]", "[0,4]") ",\"\\u0061\":" T("F32", "[1]", "[4,8]") "}",
      8, "'a' twice" },
    { A "{\"dtype\":\"F32\",\"dtype\":\"F16\",\"shape\":[2],\"data_offsets\":"
      "[0,4]}}", 4, "'dtype' twice" },
    { "{\"__metadata__\":{\"a\":\"1\",\"a\":\"2\"}}", 0, "'a' twice" },
    { "{\"__metadata__\":7}", 0, "__metadata__" },
    { A "5}", 0, "'a' lacks" },
    { A "[]}", 0, "'a' lacks" },
    { A "null}", 0, "'a' lacks" },
    { A "{\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "'a' lacks" },
    { A "{\"dtype\":\"F32\",\"data_offsets\":[0,4]}}", 4, "'a' lacks" },
    { A "{\"dtype\":\"F32\",\"shape\":[1]}}", 4, "'a' lacks" },
    { A "{\"dtype\":\"F32\",\"Shape\":[1],\"data_offsets\":[0,4]}}", 4,
      "'a' lacks" },
    { A T("F33", "[1]", "[0,4]") "}", 4, "'a'|dtype 'F33'|expected F64" },
    { A T("f32", "[1]", "[0,4]") "}", 4, "dtype 'f32'" },
    { A T("", "[1]", "[0,4]") "}", 4, "dtype ''" },
    { A "{\"dtype\":3,\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "dtype '?'" },
    { A T("F32", "[-1]", "[0,4]") "}", 4, "shape of tensor 'a'" },
    { A T("F32", "[1.5]", "[0,6]") "}", 6, "shape of tensor 'a'" },
    { A T("F32", "[\"1\"]", "[0,4]") "}", 4, "shape of tensor 'a'" },
    { A T("F32", "1", "[0,4]") "}", 4, "shape of tensor 'a'" },
    { A T("F32", "[1,1,1,1,1,1,1,1]", "[0,4]") "}", 4, NULL },
    { A T("F32", "[1,1,1,1,1,1,1,1,1]", "[0,4]") "}", 4, "at most 8" },
    { A T("F32", "[9007199254740993]", "[0,4]") "}", 4, "shape of tensor" },
    { A T("F32", "[1e300]", "[0,4]") "}", 4, "shape of tensor" },
    { A T("F32", "[1e999]", "[0,4]") "}", 4, "shape of tensor" },
    { A T("F32", "[4294967296,4294967296]", "[0,0]") "}", 0, "any memory" },
    { A T("F64", "[1152921504606846976,2]", "[0,0]") "}", 0, "shape of" },
    { A T("F32", "[0,1099511627776,4194304]", "[0,0]") "}", 0,
      "'a' of F32 [0, 1099511627776, 4194304] is larger" },
    { A T("F64", "[8589934592,268435456]", "[0,0]") "}", 0, "any memory" },
    { A T("F32", "[3037000500,3037000500]", "[0,4]") "}", 4, "any memory" },
    { A T("F32", "[2]", "[8,0]") "}", 8, "takes 8 bytes|8 and 0" },
    { A T("F32", "[2]", "[0,4]") "}", 4, "takes 8 bytes|0 and 4" },
    { A T("F32", "[2]", "[0,9]") "}", 9, "takes 8 bytes|0 and 9" },
    { A T("F32", "[2]", "[-8,0]") "}", 8, "data_offsets of tensor 'a'" },
    { A T("F32", "[2]", "[0,8,8]") "}", 8, "data_offsets of tensor 'a'" },
    { A T("F32", "[2]", "[8]") "}", 8, "data_offsets of tensor 'a'" },
    { A T("F32", "[2]", "{}") "}", 8, "data_offsets of tensor 'a'" },
    { A T("F32", "[2]", "[0.5,8.5]") "}", 9, "data_offsets of tensor 'a'" },
    { A T("F32", "[2]", "[0,8]") "}", 7, "cut off|'a'|byte 8|are 7" },
    { A T("U8", "[2]", "[9007199254740989,9007199254740991]") "}", 2,
      "cut off|'a'" },
    { A T("F32", "[2]", "[0,8]") "}", 9, "last 1 bytes" },
    { A T("F32", "[1]", "[4,8]") "}", 8, "4 bytes before tensor 'a'" },
    { A T("F32", "[2]", "[0,8]") ",\"b\":" T("F32", "[1]", "[4,8]") "}", 8,
      "'a' and 'b' overlap" },
    { A T("F32", "[1]", "[0,4]") ",\"b\":" T("F32", "[1]", "[0,4]") "}", 4,
      "'a'|'b'|overlap" },
    { A T("F32", "[1]", "[0,4]") ",\"b\":" T("F32", "[1]", "[8,12]") "}", 12,
      "4 bytes before tensor 'b'" },
    { A T("F32", "[2]", "[0,8]") ",\"b\":" T("F32", "[0]", "[4,4]") "}", 8,
      "overlap" },
    { "{\"\":" T("F32", "[1]", "[0,4]") "}", 4, "name has 0 bytes" },
    { "{\"a\\n\":" T("F32", "[1]", "[0,4]") "}", 4, "control character" },
    { "{\"a\\u001b\":" T("F32", "[1]", "[0,4]") "}", 4, "control character" },
    { "{\"a\x7f\":" T("F32", "[1]", "[0,4]") "}", 4, "control character" },
    { A T("F32\\n", "[1]", "[0,4]") "}", 4, "dtype 'F32?'" },
    /* 32 levels of nesting, and one more */
    { "{\"__metadata__\":{\"a\":" "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[0"
      "]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]}}", 0, NULL },
    { "{\"__metadata__\":{\"a\":" "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[0"
      "]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]}}", 0, "more than 32 levels" },
#undef T
#undef A
};

static void test_headers(void)
{
    char *text = malloc(1400);
    Blob blob;

    for (size_t i = 0; i < sizeof(headers) / sizeof(*headers); i++) {
        int err;

        blob = st_raw(headers[i].header, headers[i].n_data);
        err  = open_blob(blob);
        if (headers[i].line)
            ok(err == FAILED(EILSEQ) && lines_error(&lines, headers[i].line),
               "header %zu: %s", i, headers[i].line);
        else
            ok(!err && lines_none(&lines), "header %zu is sound", i);
        blob_free(&blob);
    }
    if (!text)
        tap_bail("malloc");
    snprintf(text, 1400, "{\"%0600d\":{\"dtype\":\"U8\",\"shape\":[],"
             "\"data_offsets\":[0,1]}}", 0);
    blob = st_raw(text, 1);
    ok(open_blob(blob) == FAILED(EILSEQ) &&
       lines_error(&lines, "name has 600 bytes|000..."), "an overlong name");
    blob_free(&blob);
    free(text);
}

/* What other readers will ask of the directory. */
static void test_add(void)
{
    CvTensor t = CV_TENSOR(NULL, CV_U8, 0);
    CvFile file = { .path = (char[]){ "f" } };
    Blob blob = st_raw("{}", 0);
    CvWeights *w;

    if (cv_weights_open_memory(&w, blob.data, blob.size, "a.safetensors",
                               &lines.log) < 0)
        tap_bail("%s", lines.error);
    ok(cv_weights_add(w, &file, "a\n\033b", &t, &lines.log) ==
       FAILED(EILSEQ) && lines_error(&lines, "'f'|'a??b' holds control"),
       "a name with control characters");
    ok(!cv_weights_add(w, &file, "b", &t, &lines.log) &&
       !cv_weights_add(w, &file, "a", &t, &lines.log) &&
       !cv_weights_sort(w, &lines.log) &&
       !strcmp(cv_weights_at(w, 0)->name, "a"), "names are sorted");
    ok(!cv_weights_add(w, &file, "b", &t, &lines.log) &&
       cv_weights_sort(w, &lines.log) == FAILED(EILSEQ) &&
       lines_error(&lines, "'f'|'b' and 'b'"), "a name twice");
    cv_weights_close(&w);
    blob_free(&blob);
}

/* ---- bombs ---- */

static double seconds(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* Natively each takes well below a second; valgrind needs ten. What is not
 * linear in the size would take hours. */
#define BOMB_SECONDS 60

/* A header of `head`, `unit` repeated to about `size` bytes, `tail`. */
static void bomb(const char *what, const char *head, const char *unit,
                 size_t size, const char *tail, const char *line)
{
    size_t h = strlen(head), u = strlen(unit), t = strlen(tail);
    size_t n = size / u;
    char *text = malloc(h + n * u + t + 1), *p = text;
    double start;
    Blob blob;
    int err;

    if (!text)
        tap_bail("malloc");
    memcpy(p, head, h);
    p += h;
    for (size_t i = 0; i < n; i++, p += u)
        memcpy(p, unit, u);
    memcpy(p, tail, t + 1);
    blob = st_raw(text, 0);
    free(text);
    start = seconds();
    err   = open_blob(blob);
    start = seconds() - start;
    blob_free(&blob);
    ok((line ? err == FAILED(EILSEQ) && lines_error(&lines, line) :
               !err && lines_none(&lines)) && start < BOMB_SECONDS,
       "%s of %zu MB: %.2f s", what, size >> 20, start);
}

static void test_bombs(void)
{
    uint8_t bytes[16] = { 0, 0, 0, 0, 0, 0, 0, 0x80, '{' };
    Blob blob = { bytes, 16 };

    bomb("nested lists", "{\"a\":", "[", 30 << 20, "", "32 levels");
    bomb("nested objects", "", "{\"a\":", 30 << 20, "", "32 levels");
    bomb("a list of zeros", "{\"a\":[0", ",0", 30 << 20, "]}", "1048576");
    bomb("a list of lists", "{\"a\":[0", ",[]", 30 << 20, "]}", "1048576");
    bomb("a million values", "{\"a\":[0", ",0", 2000000, "]}", "'a' lacks");
    bomb("the same key again", "{\"b\":0", ",\"a\":0", 5 << 20, "}",
         "'a' twice");
    bomb("a string", "{\"__metadata__\":{\"a\":\"", "abcdefgh", 30 << 20,
         "\"}}", NULL);
    bomb("a name", "{\"", "abcdefgh", 30 << 20, "\":1}", "'abcdef|...' lacks");
    bomb("blanks", "{", "    ", 30 << 20, "}", NULL);
    ok(open_blob(blob) == FAILED(EILSEQ) &&
       lines_error(&lines, "9223372036854775808 bytes|at most 100000000"),
       "a header of 2^63 bytes");
    memset(bytes, 0xff, 8);
    ok(open_blob(blob) == FAILED(EILSEQ) &&
       lines_error(&lines, "18446744073709551615 bytes"), "and of 2^64 - 1");
    memcpy(bytes, "\x00\xe1\xf5\x05\0\0\0\0", 8);
    ok(open_blob(blob) == FAILED(EILSEQ) &&
       lines_error(&lines, "cut off|100000000 bytes|file 16"),
       "and of 100 MB in a small file");
}

int main(void)
{
    lines_init(&lines);
    test_types();
    test_sharded();
    test_truncated();
    test_changed();
    test_headers();
    test_add();
    test_bombs();
    return tap_done();
}
