/*
 * GGUF files, sound and hostile, and what their quantised blocks become.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * The sound ones are written by the gguf package, with what it makes of the
 * blocks beside them (data/make_containers.py); the hostile ones are the
 * fuzzer's corpus (tests/fuzz/make_corpus.py).
 */
#include "../tap.h"
#include "weights/gguf.h"
#include "weights_util.h"

static Lines lines;
static CvBackend *cpu;

static CvWeights *open_file(const char *name)
{
    CvWeights *w;

    if (cv_weights_open(&w, data_path(name), &lines.log) < 0)
        tap_bail("%s", lines.error);
    return w;
}

static void test_types(void)
{
    static const char *const tensors[][2] = {
        { "f32", "F32 [3, 5]" }, { "f64", "F64 [3, 5]" },
        { "f16", "F16 [3, 5]" }, { "bf16", "BF16 [3, 5]" },
        { "i8", "I8 [3, 5]" }, { "i16", "I16 [3, 5]" },
        { "i32", "I32 [3, 5]" }, { "i64", "I64 [3, 5]" },
        { "five", "F32 [2, 1, 3, 1, 2]" },
    };
    CvWeights *w = open_file("containers/blocks.gguf");

    is_str(cv_weights_container(w), "gguf");
    for (size_t i = 0; i < sizeof(tensors) / sizeof(*tensors); i++)
        ok(has_pattern(w, tensors[i][0], tensors[i][1]), "%s of the gguf "
           "package reads back", tensors[i][0]);
    cv_weights_close(&w);
}

static void test_metadata(void)
{
    static const char *const tokens[] = { "<pad>", "</s>",
                                          ("\xe2\x96\x81" "cat") };
    CvWeights *w = open_file("containers/blocks.gguf");
    const CvGgufValue *v = cv_gguf_find(w, "tokenizer.ggml.tokens");
    const uint8_t *at = v ? v->data : NULL;
    float score;
    int good;

    ok(v && v->is_array && v->type == CV_GGUF_STRING && v->n == 3, "tokens");
    good = v != NULL;
    for (int i = 0; i < 3 && good; i++) {
        size_t n;
        const char *token = cv_gguf_string(&at, &n);

        good = n == strlen(tokens[i]) && !memcmp(token, tokens[i], n);
    }
    ok(good && at == v->data + v->bytes, "what they are");
    v = cv_gguf_find(w, "tokenizer.ggml.scores");
    if (v && v->bytes == 12)
        memcpy(&score, v->data + 8, 4);
    ok(v && v->type == CV_GGUF_F32 && v->bytes == 12 && score == -1.5f,
       "scores");
    v = cv_gguf_find(w, "general.architecture");
    ok(v && !v->is_array && v->n == 3 && !memcmp(v->data, "wan", 3),
       "architecture");
    v = cv_gguf_find(w, "tokenizer.ggml.add_space_prefix");
    ok(v && v->type == CV_GGUF_BOOL && v->bytes == 1 && v->data[0] == 1,
       "a flag");
    ok(!cv_gguf_find(w, "tokenizer"), "no key that is a part of one");
    cv_weights_close(&w);
    w = open_file("weights/types.safetensors");
    ok(!cv_gguf_find(w, "general.architecture"), "other files have none");
    cv_weights_close(&w);
}

/* A tensor in the backend, as the engine loads it. 0 or an error. */
static int load(CvWeights *w, CvTensor *t, const char *name, float *values)
{
    CvArena arena = { 0 };
    CvLoader loader = { .backend = cpu, .arena = &arena,
                        .weights = w, .log = &lines.log };
    int err;

    cv_arena_plan(&arena, cpu);
    err = cv_load(&loader, t, CV_LOAD_AS_IS, "%s", name);
    if (!err && (err = cv_arena_take(&arena, &lines.log, "a test")) >= 0)
        err = cv_load(&loader, t, CV_LOAD_AS_IS, "%s", name);
    if (!err)
        err = cv_download(cpu, values, t);
    cpu->planning = 0;
    cv_arena_free(&arena);
    return err;
}

static void test_blocks(void)
{
    CvWeights *w = open_file("containers/blocks.gguf");
    CvWeights *reference = open_file("containers/blocks.safetensors");
    static float values[1024];

    is_int(cv_weights_count(reference), 11);
    for (int64_t i = 0; i < cv_weights_count(reference); i++) {
        const CvEntry *e = cv_weights_at(reference, i);
        CvTensor t = e->tensor;

        if (cv_elements(&t) != 1024)
            tap_bail("a wrong fixture");
        memset(values, 0xff, sizeof(values));
        ok(!load(w, &t, e->name, values) &&
           !memcmp(values, e->tensor.data, sizeof(values)),
           "%s: the gguf package's numbers, bit by bit", e->name);
    }
    cv_weights_close(&reference);
    cv_weights_close(&w);
    ok(lines_none(&lines), "without a line of complaint");
}

/* Give a stored tensor other dimensions. */
static void reshape(CvWeights *w, const char *name, CvTensor dims)
{
    CvTensor *t = &cv_weights_find(w, "%s", name)->tensor;

    dims.type = t->type;
    dims.data = t->data;
    *t = dims;
}

/* Rows of a stored table, and what cannot be taken apart. */
static void test_parts(void)
{
    CvWeights *w = open_file("containers/blocks.gguf");
    CvWeights *reference = open_file("containers/blocks.safetensors");
    const float *want = cv_weights_find(reference, "q4_k")->tensor.data;
    CvTensor rows = CV_TENSOR(NULL, CV_F32, 2, 512);
    CvTensor conv = CV_TENSOR(NULL, CV_F32, 8, 1, 4, 4, 8);
    const int32_t ids[] = { 1, 0 };
    CvArena arena = { 0 };
    CvLoader loader = { .backend = cpu, .arena = &arena,
                        .weights = w, .log = &lines.log };
    static float values[1024];

    cv_arena_plan(&arena, cpu);
    if (cv_load_rows(&loader, &rows, 2, ids, "q4_k") < 0 ||
        cv_arena_take(&arena, &lines.log, "a test") < 0 ||
        cv_load_rows(&loader, &rows, 2, ids, "q4_k") < 0 ||
        cv_download(cpu, values, &rows) < 0)
        tap_bail("%s", lines.error);
    ok(!memcmp(values, want + 512, 2048) && !memcmp(values + 512, want, 2048),
       "rows of a quantised table load");
    cv_arena_free(&arena);

    cv_arena_plan(&arena, cpu);
    reshape(w, "reshaped", CV_TENSOR(NULL, CV_F32, 8, 8, 4, 4));
    ok(cv_load(&loader, &conv, CV_LOAD_CONV, "reshaped") ==
       CAUSVID_ERR(ENOSYS) && lines_error(&lines, "convolution 'reshaped' is "
       "quantised as Q4_0|expected F32"), "a quantised convolution");
    reshape(w, "reshaped", CV_TENSOR(NULL, CV_F32, 128, 8));
    rows = CV_TENSOR(NULL, CV_F32, 2, 8);
    ok(cv_load_rows(&loader, &rows, 128, ids, "reshaped") ==
       CAUSVID_ERR(ENOSYS) && lines_error(&lines, "rows of tensor 'reshaped' "
       "are not whole blocks of Q4_0"), "rows that end within blocks");
    cpu->planning = 0;
    cv_arena_free(&arena);
    cv_weights_close(&reference);
    cv_weights_close(&w);
}

/* What the corpus is refused with; NULL: it opens. */
static const struct {
    const char *name;
    int error;
    const char *said;
} hostile[] = {
    { "sound", 0, NULL }, { "version2", 0, NULL }, { "empty", 0, NULL },
    { "nested", 0, NULL }, { "shape", 0, NULL }, { "alignment-64", 0, NULL },
    { "blocks-10", 0, NULL },
    { "version1", ENOSYS, "GGUF of version 1; expected 2 or 3" },
    { "version4", ENOSYS, "GGUF of version 4; expected 2 or 3" },
    { "big-endian", ENOSYS, "may be big-endian" },
    { "many-tensors", EILSEQ, "1152921504606846976 tensors, more than" },
    { "many-metadata", EILSEQ, "1152921504606846976 metadata, more than" },
    { "metadata-short", EILSEQ, "metadata" },
    { "key-twice", EILSEQ, "metadata has 'general.architecture' twice" },
    { "value-type", EILSEQ, "unknown type 13" },
    { "array-type", EILSEQ, "unknown type 99" },
    { "array-long", EILSEQ, "value at byte 49 reaches beyond its end" },
    { "strings-long", EILSEQ, "reaches beyond its end" },
    { "string-long", EILSEQ, "value at byte 45 reaches beyond its end" },
    { "nested-deep", EILSEQ, "nested too deep" },
    { "alignment-0", EILSEQ, "aligned to 0 bytes" },
    { "alignment-3", EILSEQ, "aligned to 24 bytes" },
    { "split", ENOSYS, "one of 3 files|--merge" },
    { "iq4", ENOSYS, "tensor 'w' has the type IQ4_XS" },
    { "type", ENOSYS, "tensor 'w' has the type number 99" },
    { "dims", EILSEQ, "'w' has 9 dimensions" },
    { "size", EILSEQ, "'w' F32 [1099511627776, 1099511627776] is larger" },
    { "size-negative", EILSEQ, "'w'|larger than any memory" },
    { "size-empty", EILSEQ, "'w' F32 [0, 1099511627776, 4294967296] is larger" },
    { "rows", EILSEQ, "'w' Q4_0 [4, 16] has rows that are not whole" },
    { "outside", EILSEQ, "'w' of 32 bytes at 64 is not within" },
    { "outside-far", EILSEQ, "'w' of 32 bytes at 18446744073709551584" },
    { "unaligned", EILSEQ, "'w' of 32 bytes at 4|not aligned to 32" },
    { "overlap", EILSEQ, "tensors 'w' and 'v' overlap" },
    { "name-twice", EILSEQ, "'w' and 'w' are both 'w'" },
    { "name-empty", EILSEQ, "a tensor's name has 0 bytes" },
    { "name-long", EILSEQ, "a tensor's name has 600 bytes" },
    { "name-nul", EILSEQ, "3 bytes or a NUL" },
    { "name-control", EILSEQ, "'a?b' holds control characters" },
    { "cut", EILSEQ, "'w' of 32 bytes at 0 is not within its 31 bytes" },
    { "shape-other", EILSEQ, "'w' F32 [2, 4] has an orig_shape of another" },
    { "shape-negative", EILSEQ, "orig_shape of another size" },
    { "shape-text", EILSEQ, "orig_shape that is not one" },
};

static void test_hostile(void)
{
    CvTensor t = CV_TENSOR(NULL, CV_F32, 32);
    char path[1024];
    const char *src = getenv("CAUSVID_SRC");
    float values[32];
    CvWeights *w;

    for (size_t i = 0; i < sizeof(hostile) / sizeof(*hostile); i++) {
        char name[64];

        snprintf(name, sizeof(name), "gguf/%s", hostile[i].name);
        ok(corpus_gives(&lines, name, hostile[i].error, hostile[i].said),
           "%s: %s", hostile[i].name, hostile[i].said ? hostile[i].said :
           "opens");
    }
    snprintf(path, sizeof(path), "%s/tests/fuzz/corpus/gguf/blocks-nan",
             src ? src : ".");
    if (cv_weights_open(&w, path, &lines.log) < 0)
        tap_bail("%s", lines.error);
    ok(load(w, &t, "w", values) == CAUSVID_ERR(EILSEQ) &&
       lines_error(&lines, "tensor 'w' holds a value that is not a number"),
       "a scale that is not a number");
    cv_weights_close(&w);
}

int main(void)
{
    lines_init(&lines);
    if (cv_cpu_open(&cpu, 1, &lines.log) < 0)
        tap_bail("%s", lines.error);
    test_types();
    test_metadata();
    test_blocks();
    test_parts();
    test_hostile();
    cpu->close(&cpu);
    return tap_done();
}
