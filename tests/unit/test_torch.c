/*
 * Files of torch.save(), sound and hostile.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * The sound ones are written by PyTorch (data/make_containers.py), the hostile
 * ones are the fuzzer's corpus (tests/fuzz/make_corpus.py).
 */
#include "../tap.h"
#include "weights/pickle.h"
#include "weights_util.h"

static Lines lines;

static void test_types(void)
{
    static const char *const tensors[][2] = {
        { "f64", "F64 [3, 5]" }, { "f32", "F32 [2, 3, 4]" },
        { "f16", "F16 [7]" }, { "bf16", "BF16 [5, 1]" },
        { "f8_e4m3", "F8_E4M3 [11]" }, { "f8_e5m2", "F8_E5M2 [13]" },
        { "i64", "I64 [2, 2]" }, { "i32", "I32 [3]" }, { "i16", "I16 [3]" },
        { "i8", "I8 [5]" }, { "u8", "U8 [9]" }, { "bool", "BOOL [6]" },
        { "scalar", "F32 []" }, { "empty", "F32 [0, 4]" },
        { "parameter", "F32 [2, 3]" }, { "shared.a", "F32 [4, 6]" },
        { "shared.b", "F32 [4, 6]" }, { "shared.rows", "F32 [3, 6]" },
        { "offset", "F32 [7]" }, { "transposed", "F32 [4, 3]" },
        { "transposed.bf16", "BF16 [5, 7]" }, { "spread", "F32 [3, 4]" },
        { "spread.f8", "F8_E4M3 [3, 4]" }, { "last.4d", "F32 [2, 3, 2, 3]" },
        { "last.5d", "F16 [3, 4, 2, 2, 3]" },
    };
    int n = (int)(sizeof(tensors) / sizeof(*tensors));
    const CvEntry *a, *b;
    CvWeights *w;

    if (cv_weights_open(&w, data_path("containers/types.pt"),
                        &lines.log) < 0)
        tap_bail("%s", lines.error);
    is_str(cv_weights_container(w), "torch");
    is_int(cv_weights_count(w), n);
    for (int i = 0; i < n; i++)
        ok(has_pattern(w, tensors[i][0], tensors[i][1]), "%s of PyTorch reads "
           "back", tensors[i][0]);
    a = cv_weights_find(w, "shared.a");
    b = cv_weights_find(w, "shared.b");
    ok(a && b && a->tensor.data && a->tensor.data == b->tensor.data,
       "shared tensors lie in the same place");
    a = cv_weights_find(w, "spread");
    ok(a && a->view && !a->tensor.data, "a view is one");
    cv_weights_close(&w);
    ok(lines_none(&lines), "without a line of complaint");
}

static void test_roots(void)
{
    static const char *const files[][2] = {
        { "containers/ema.pt", "w" }, { "containers/generator.pt", "w" },
        { "containers/module.pt", "w.weight" },
    };

    for (int i = 0; i < 3; i++) {
        CvWeights *w;

        if (cv_weights_open(&w, data_path(files[i][0]), &lines.log) < 0)
            tap_bail("%s", lines.error);
        ok(cv_weights_count(w) == 1 &&
           has_pattern(w, files[i][1], "F32 [2, 3]"), "%s: the weights of the "
           "generator", files[i][0]);
        cv_weights_close(&w);
    }
}

/* The option checkpoint_key: the roots of a file by name. */
static void test_keys(void)
{
    static const struct {
        const char *file, *key, *said; /* NULL: opens */
        int good; /* the weights, not those of the others */
    } cases[] = {
        { "containers/ema.pt", "generator", NULL, 0 },
        { "containers/ema.pt", "generator_ema", NULL, 1 },
        { "containers/ema.pt", "", NULL, 1 },
        { "containers/generator.pt", "critic", NULL, 0 },
        { "containers/generator.pt", "generator", NULL, 1 },
        { "containers/generator.pt", "generator_ema",
          "checkpoint_key is 'generator_ema', but '|' holds tensors under "
          "'critic', 'generator'; name one of these", 0 },
        { "containers/ema.pt", "step", "tensors under 'critic', 'generator', 'generator_ema';", 0 },
        { "containers/types.pt", "generator", "holds its tensors under no "
          "key; leave the option out", 0 },
        { "weights/types.safetensors", "generator", "is no .pt file: it holds "
          "one set of weights (safetensors); leave the option out", 0 },
        { "containers/blocks.gguf", "model", "(gguf); leave the option out", 0 },
        { "weights/sharded", "model", "leave the option out", 0 },
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        CvWeights *w;
        int err = cv_weights_open_key(&w, data_path(cases[i].file),
                                      cases[i].key, &lines.log);

        ok(cases[i].said ? err == CAUSVID_ERR(EINVAL) && !w &&
                           lines_error(&lines, cases[i].said) :
                           !err && cv_weights_count(w) == 1 &&
                           has_pattern(w, "w", "F32 [2, 3]") == cases[i].good,
           "%s, '%s': %s",
           cases[i].file, cases[i].key,
           cases[i].said ? cases[i].said : "opens");
        cv_weights_close(&w);
    }
}

/* Of a network as the engine loads it, plan and run. */
static void load(CvBackend *cpu, CvWeights *w, CvTensor *t,
                 CvLoadLayout layout, const char *name, float *values)
{
    CvArena arena = { 0 };
    CvLoader loader = { .backend = cpu, .arena = &arena,
                        .weights = w, .log = &lines.log };

    cv_arena_plan(&arena, cpu);
    if (cv_load(&loader, t, layout, "%s", name) < 0 ||
        cv_arena_take(&arena, &lines.log, "a test") < 0 ||
        cv_load(&loader, t, layout, "%s", name) < 0 ||
        cv_download(cpu, values, t) < 0)
        tap_bail("%s", lines.error);
    cv_arena_free(&arena);
}

/* Element i of the pattern. */
static float pattern(int64_t i)
{
    return (float)(i * 7 % 9 - 4) / 4;
}

static void test_views(void)
{
    CvTensor flat = CV_TENSOR(NULL, CV_F32, 3, 4);
    CvTensor conv = CV_TENSOR(NULL, CV_F32, 3, 2, 2, 3, 4);
    CvTensor rows = CV_TENSOR(NULL, CV_F32, 2, 4);
    const int32_t ids[] = { 2, 0 };
    float values[3 * 4 * 12];
    CvArena arena = { 0 };
    CvBackend *cpu;
    CvLoader loader;
    CvWeights *w;
    int good = 1;

    if (cv_cpu_open(&cpu, 1, &lines.log) < 0 ||
        cv_weights_open(&w, data_path("containers/types.pt"), &lines.log) < 0)
        tap_bail("%s", lines.error);
    load(cpu, w, &flat, CV_LOAD_AS_IS, "spread", values);
    for (int i = 0; i < 12; i++)
        good &= values[i] == pattern(i);
    ok(good, "a view loads");
    load(cpu, w, &conv, CV_LOAD_CONV, "last.5d", values);
    good = 1;
    for (int o = 0; o < 3; o++)
        for (int c = 0; c < 4; c++)
            for (int k = 0; k < 12; k++)
                good &= values[(o * 12 + k) * 4 + c] ==
                        pattern((o * 4 + c) * 12 + k);
    ok(good, "a convolution in channels_last loads");
    loader = (CvLoader){ .backend = cpu, .arena = &arena,
                         .weights = w, .log = &lines.log };
    cv_arena_plan(&arena, cpu);
    if (cv_load_rows(&loader, &rows, 3, ids, "spread") < 0 ||
        cv_arena_take(&arena, &lines.log, "a test") < 0 ||
        cv_load_rows(&loader, &rows, 3, ids, "spread") < 0 ||
        cv_download(cpu, values, &rows) < 0)
        tap_bail("%s", lines.error);
    good = 1;
    for (int i = 0; i < 4; i++)
        good &= values[i] == pattern(8 + i) && values[4 + i] == pattern(i);
    ok(good, "rows of a view load");
    cv_arena_free(&arena);
    cv_weights_close(&w);
    cpu->close(&cpu);
}

/* What the corpus is refused with; NULL: it opens. */
static const char *const hostile[][2] = {
    { "sound", NULL }, { "sound-old", NULL }, { "sound-wide", NULL },
    { "no-byteorder", NULL }, { "newobj-dict", NULL }, { "roots", NULL },
    { "tensor-view", NULL },
    { "compressed", "member 'archive/data.pkl' is compressed" },
    { "compressed-here", "header of member 'archive/data.pkl' does not agree" },
    { "encrypted", "member 'archive/data.pkl' is encrypted" },
    { "twice", "two members with the name 'archive/data/0'" },
    { "two-roots", "several folders" },
    { "overlap", "'archive/data.pkl' and 'archive/x' overlap" },
    { "outside", "'archive/x' of 0 bytes at 1073741824 is not within" },
    { "too-long", "'archive/x' of 1048576 bytes|is not within" },
    { "two-sizes", "'archive/x' has two sizes" },
    { "dots", "'archive/../x'|must stay within" },
    { "absolute", "'/archive/x'|must stay within" },
    { "backslash", "must stay within" },
    { "no-pickle", "without a data.pkl" },
    { "script", "TorchScript|state_dict" },
    { "big-endian", "big-endian" },
    { "other-name", "header of member 'archive/data.pkl' does not agree" },
    { "several-disks", "part of several" },
    { "disk", "part of several" },
    { "more-members", "more members than its directory" },
    { "fewer-members", "more members than it says" },
    { "directory", "does not end at its zip64 record" },
    { "two-ends", "two end records disagree" },
    { "end64-elsewhere", "does not lie before its locator" },
    { "no-size64", "sizes of member 'archive/x' are not there" },
    { "size64-twice", "sizes of member 'archive/x' are not there" },
    { "cut", "no end record" },
    { "os-system", "Python object 'os.system'|nothing of it was run" },
    { "eval", "Python object 'builtins.eval'" },
    { "eval2", "Python object '__builtin__.eval'" },
    { "getattr", "Python object 'builtins.getattr'" },
    { "numpy", "Python object 'numpy.core.multiarray._reconstruct'" },
    { "argparse", "Python object 'argparse.Namespace'" },
    { "control", "Python object 'os?[2J.system'" },
    { "name-start", "Python object 'torch._utils._rebuild'" },
    { "op-stack-global", "instruction 0x93" },
    { "op-inst", "instruction 0x69" },
    { "op-obj", "instruction 0x6f" },
    { "op-ext1", "instruction 0x82" },
    { "op-ext2", "instruction 0x83" },
    { "op-ext4", "instruction 0x84" },
    { "op-persid", "instruction 0x50" },
    { "op-newobj-ex", "instruction 0x92" },
    { "op-bytes", "instruction 0x43" },
    { "op-next-buffer", "instruction 0x97" },
    { "op-frame", "instruction 0x95" },
    { "op-memoize", "instruction 0x94" },
    { "newobj", "makes an object of a class" },
    { "call-type", "calls a type" },
    { "call-text", "calls what is no function" },
    { "call-without", "calls what is no function" },
    { "build-dict", "sets the state of an object" },
    { "build-text", "sets the state of an object" },
    { "item-of-list", "items into what is no container" },
    { "append-to-dict", "items into what is no container" },
    { "odd-items", "items into what is no container" },
    { "protocol4", "protocol 4; expected 2" },
    { "protocol-twice", "begins twice" },
    { "cut-pickle", "it is cut off (at byte 111)" },
    { "more-behind", "bytes follow its end" },
    { "middle", "ends in the middle" },
    { "empty-pickle", "it is cut off (at byte 0)" },
    { "no-mark", "a mark is missing" },
    { "only-mark", "its stack is empty" },
    { "below-mark", "its stack is empty" },
    { "empty-stack", "its stack is empty" },
    { "marks", "nested too deep" },
    { "deep-lists", "nested too deep" },
    { "deep-tuples", "nested too deep" },
    { "own-list", "nested too deep" },
    { "own-dict", "no tensors under 'model', only 'model'" },
    { "memo-missing", "takes from its memo what was not put there" },
    { "memo-huge", "its memo is too large" },
    { "long", "a number that is too large" },
    { "tensor-storage-tuple", "a storage's description is not one" },
    { "tensor-storage-int", "a storage's description is not one" },
    { "tensor-size-text", "a tensor's description is not one" },
    { "tensor-shapes", "a tensor's description is not one" },
    { "tensor-dims", "a tensor's description is not one" },
    { "tensor-untyped", "a tensor's description is not one" },
    { "tensor-negative-size", "tensor 'w' has a negative size or stride" },
    { "tensor-negative-stride", "tensor 'w' has a negative size or stride" },
    { "tensor-negative-offset", "tensor 'w' reaches beyond its storage" },
    { "tensor-beyond", "tensor 'w' reaches beyond its storage" },
    { "tensor-stride", "tensor 'w' reaches beyond its storage" },
    { "tensor-stride-overflow", "tensor 'w' reaches beyond its storage" },
    { "tensor-size-overflow", "tensor 'w' is larger than any memory" },
    { "tensor-size-empty", "tensor 'w' is larger than any memory" },
    { "tensor-expanded", "tensor 'w' has more elements than its storage" },
    { "tensor-no-storage", "tensor 'w' lies in a storage that is not there" },
    { "tensor-storage-path", "tensor 'w' lies in a storage that is not there" },
    { "tensor-storage-short", "tensor 'w' lies in a storage that is cut off" },
    { "tensor-storage-negative", "in a storage that is cut off" },
    { "tensor-storage-overflow", "in a storage that is cut off" },
    { "two-generators", "two things with the name 'generator'" },
    { "two-tensors", "tensors 'w' and 'w' are both 'w'" },
    { "no-tensors", "no tensors, only 'step', 'x?'; expected" },
    { "root-list", "does not hold a dictionary of tensors" },
    { "nul", "no string of at most 511 bytes" },
    { "long-name", "no string of at most 511 bytes" },
    { "control-name", "'a?b' holds control characters" },
    { "pickle", "begins with the bytes 80 02" }, /* no archive around it */
};

static void test_hostile(void)
{
    for (size_t i = 0; i < sizeof(hostile) / sizeof(*hostile); i++) {
        const char *said = hostile[i][1];
        char name[64];

        snprintf(name, sizeof(name), "torch/%s", hostile[i][0]);
        ok(corpus_gives(&lines, name, said ? EILSEQ : 0, said), "%s: %s",
           hostile[i][0], said ? said : "opens");
    }
    for (int i = 0; i < 3; i++) {
        static const char *const files[][2] = {
            { "containers/legacy.pt", "before 1.6|torch.save(torch.load(" },
            { "containers/module-object.pt",
              "Python object 'torch.nn.modules.linear.Linear'" },
            { "containers/protocol4.pt", "protocol 4; expected 2" },
        };
        CvWeights *w;

        cv_weights_open(&w, data_path(files[i][0]), &lines.log);
        ok(!w && lines_error(&lines, files[i][1]), "%s of PyTorch",
           files[i][0]);
    }
}

/* A pickle of protocol 2 that begins so and then repeats something. */
static int refuses(const char *start, const char *repeated, size_t times,
                   const char *said)
{
    size_t begin = strlen(start), n = strlen(repeated);
    size_t size = 2 + begin + n * times;
    uint8_t *data = malloc(size);
    CvPickle pickle;
    int err;

    if (!data)
        tap_bail("malloc");
    memcpy(data, "\x80\2", 2);
    memcpy(data + 2, start, begin);
    for (size_t i = 0; i < times; i++)
        memcpy(data + 2 + begin + i * n, repeated, n);
    err = cv_pickle_read(&pickle, data, size, "p", &lines.log);
    free(data);
    return err == CAUSVID_ERR(EILSEQ) && !pickle.root &&
           lines_error(&lines, said);
}

static void test_limits(void)
{
    static const char dict[] = "ccollections\nOrderedDict\n)R";

    ok(refuses("", "N", 70000, "its stack is too deep"), "a deep stack");
    ok(refuses("", "(l", 1, "instruction 0x6c"), "one of protocol 0");
    ok(refuses("(", ")t(", 1, "it is cut off"), "a pickle without an end");
    ok(refuses("N(", "t", 2, "a mark is missing"), "more ends than marks");
    ok(refuses(dict, "Nb", 1 << 20, "too many values"), "many values");
    ok(refuses("", "\x88", 17 << 20, "expected at most"), "a long pickle");
}

int main(void)
{
    lines_init(&lines);
    test_types();
    test_roots();
    test_keys();
    test_views();
    test_hostile();
    test_limits();
    return tap_done();
}
