/*
 * The tokenizer beside Hugging Face's, damaged vocabularies, those in GGUF
 * files, and the real one.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * With an argument: compares with the vectors of that file instead; see
 * data/make_tokenizer.py. CAUSVID_UMT5_SPIECE=path/of/spiece.model adds the
 * vectors of UMT5's own vocabulary (data/umt5.tsv; their source is
 * checkpoints.md 4.5, ids as tokenizer.json gives them).
 */
#define _POSIX_C_SOURCE 200809L
#include <unistd.h>

#include "../tap.h"
#include "text/spiece.h"
#include "text/text.h"
#include "vectors.h"

static void remember(void *cookie, enum CausvidLogLevel level,
                     const char *format, va_list args)
{
    if (level == CAUSVID_LOG_ERROR)
        vsnprintf(cookie, 512, format, args);
}

/* 1 when the space-separated numbers of `expected` are ids[n]. */
static int same_ids(const int32_t *ids, int64_t n, const char *expected)
{
    char *end;

    for (int64_t i = 0; i < n; i++, expected = end)
        if (strtol(expected, &end, 10) != ids[i] || end == expected)
            return 0;
    return *expected == 0;
}

static void test_vectors(CvTokenizer *tokenizer, FILE *file, int clean,
                         const char *what, CvLog *log)
{
    char *line = NULL, *fields[3], *cleaned = NULL;
    int32_t ids[CV_MAX_TOKENS + 1];
    size_t room = 0;
    int n = 0, wrong = 0, more;

    while ((more = vectors_next(file, &line, &room, fields, 3)) > 0) {
        const char *text = fields[0];
        int64_t count = 0;
        int err = 0;

        n++;
        ids[CV_MAX_TOKENS] = -7;
        if (clean) {
            err  = cv_clean_prompt(&cleaned, text, log);
            text = cleaned;
        }
        if (err < 0 ||
            cv_tokenizer_encode(tokenizer, text, ids, &count, log) < 0 ||
            count != atoll(fields[2]) || ids[CV_MAX_TOKENS] != -7 ||
            !same_ids(ids, count < CV_MAX_TOKENS ? count : CV_MAX_TOKENS,
                      fields[1])) {
            if (wrong++ < 10) {
                tap_diag("line %d: \"%s\", %s tokens\n#   expected %s",
                         n, fields[0], fields[2], fields[1]);
                fprintf(stderr, "#   got     ");
                for (int64_t i = 0; i < count && i < CV_MAX_TOKENS; i++)
                    fprintf(stderr, " %d", (int)ids[i]);
                fprintf(stderr, "\n");
            }
        }
        free(cleaned);
        cleaned = NULL;
    }
    ok(more == 0, "%s: the vectors can be read", what);
    ok(n > 0 && !wrong, "%s: %d of %d texts have the reference's ids", what,
       n - wrong, n);
    free(line);
}

static void test_sizes(CvTokenizer *t, CvLog *log)
{
    int32_t ids[CV_MAX_TOKENS];
    const int64_t pieces = cv_tokenizer_size(t) - 300; /* fitted by main() */
    int64_t n;
    int inside = 1;

    ok(cv_tokenizer_fit(t, pieces - 1, log) == CAUSVID_ERR(EILSEQ),
       "a table with fewer rows than pieces is refused");
    ok(cv_tokenizer_fit(t, pieces + 299, log) == 0 &&
       cv_tokenizer_size(t) == pieces, "no sentinels where they do not fit");
    ok(!cv_tokenizer_encode(t, "x <extra_id_299>", ids, &n, log) && n > 5,
       "then they are text");
    for (int64_t i = 0; i < n; i++)
        inside &= ids[i] < pieces;
    ok(inside, "and give no id beyond the table");
    ok(cv_tokenizer_fit(t, pieces + 300, log) == 0 &&
       cv_tokenizer_size(t) == pieces + 300, "sentinels where they fit");
    ok(!cv_tokenizer_encode(t, "<extra_id_0>", ids, &n, log) && n == 2 &&
       ids[0] == pieces + 299, "<extra_id_0> is the last id");
    ok(cv_tokenizer_encode(t, "a\xff", ids, &n, log) == CAUSVID_ERR(EINVAL),
       "text that is not UTF-8 is refused");
}

/* ---- damaged files ---- */

static char temporary[] = "/tmp/causvid-tokenizer-XXXXXX";

/* The file stays open and is written over: some file systems are slow to empty
 * and close. */
static int open_bytes(const void *data, size_t n, CvLog *log)
{
    static FILE *file;
    CvTokenizer *t = NULL;
    int32_t ids[CV_MAX_TOKENS];
    int64_t count;
    int err;

    if (!file)
        file = fopen(temporary, "wb");
    else
        rewind(file);
    if (!file || fwrite(data, 1, n, file) != n || fflush(file) ||
        ftruncate(fileno(file), (off_t)n))
        tap_bail("cannot write %s", temporary);
    err = cv_tokenizer_open(&t, temporary, log);
    if (err == 0) {
        err = cv_tokenizer_encode(t, "a red <s>circle!!! <extra_id_3>"
                                  "\xe7\x94\xbb", ids, &count, log);
        for (int64_t i = 0; err == 0 && i < count; i++)
            if (ids[i] < 0 || ids[i] >= cv_tokenizer_size(t))
                err = -1;
    } else if (t) {
        err = -1;
    }
    cv_tokenizer_close(&t);
    return err;
}

static void refuses(const void *data, size_t n, int error,
                    const char *expected, CvLog *log, char *message)
{
    int err;

    message[0] = 0;
    err = open_bytes(data, n, log);
    ok(err == CAUSVID_ERR(error) && strstr(message, expected) &&
       !strchr(message, '\n'), "refused (%s): %s", expected,
       strlen(message) > sizeof(temporary) ? message + sizeof(temporary) + 1 :
       message);
}

#define BYTES(s) s, sizeof(s) - 1
#define PIECE(n, m, text, rest) "\x0a" n "\x0a" m text rest
#define UNK PIECE("\x09", "\x05", "<unk>", "\x18\x02")
#define EOS PIECE("\x08", "\x04", "</s>", "\x18\x03")
#define LETTER PIECE("\x08", "\x01", "a", "\x15\x00\x00\x80\xbf")

static void test_refused(CvLog *log, char *message)
{
    ok(open_bytes(BYTES(UNK EOS LETTER), log) == 0, "three pieces are enough");
    refuses(BYTES(""), EILSEQ, "no piece", log, message);
    refuses(BYTES("hello world"), EILSEQ, "damage", log, message);
    refuses(BYTES("{\"version\": \"1.0\"}"), EILSEQ, "damage", log, message);
    refuses(BYTES("version https://git-lfs.github.com/spec/v1\noid sha256:0"),
            EILSEQ, "Git LFS pointer", log, message);
    refuses(BYTES(EOS LETTER), EILSEQ, "no unknown piece", log, message);
    refuses(BYTES(UNK UNK EOS), EILSEQ, "more than one unknown", log, message);
    refuses(BYTES(UNK LETTER), EILSEQ, "no piece </s>", log, message);
    refuses(BYTES(UNK EOS LETTER LETTER), EILSEQ, "library refuses", log,
            message);
    refuses(BYTES(UNK EOS "\x0a\x05\x15\x00\x00\x80\xbf"), EILSEQ,
            "empty piece", log, message);
    refuses(BYTES(UNK EOS PIECE("\x03", "\x01", "\xff", "")), EILSEQ,
            "not UTF-8", log, message);
    refuses(BYTES(UNK EOS PIECE("\x04", "\x02", "a\0", "")), EILSEQ,
            "not UTF-8", log, message);
    refuses(BYTES(UNK EOS PIECE("\x08", "\x01", "b", "\x15\x00\x00\xc0\x7f")),
            EILSEQ, "score is no number", log, message);
    refuses(BYTES(UNK EOS PIECE("\x05", "\x01", "b", "\x18\x07")), EILSEQ,
            "unknown type", log, message);
    refuses(BYTES(UNK EOS PIECE("\x05", "\x02", "b", "\x18\x01")), EILSEQ,
            "damaged piece", log, message);
    refuses(BYTES(UNK EOS "\x0a\x7f"), EILSEQ, "damage", log, message);
    refuses(BYTES(UNK EOS "\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"),
            EILSEQ, "damage", log, message);
    refuses(BYTES(UNK EOS "\x12\x02\x18\x02"), ENOSYS, "not a Unigram", log,
            message);
    refuses(BYTES(UNK EOS "\x12\x01\x18"), EILSEQ, "damaged settings", log,
            message);
}

static void test_damage(CvLog *log)
{
    FILE *file = vectors_open("tokenizer.model");
    static uint8_t model[1 << 16], copy[1 << 16];
    uint64_t seed = 20240607;
    size_t n;
    int refused = 0, strange = 0;

    if (!file)
        tap_bail("cannot read tokenizer.model");
    n = fread(model, 1, sizeof(model), file);
    fclose(file);
    for (size_t cut = 0; cut < n; cut += 7) {
        int err = open_bytes(model, cut, log);

        refused += err < 0;
        strange += err < 0 && err != CAUSVID_ERR(EILSEQ);
    }
    ok(refused > 1000 && !strange, "%d of %zu cut files refused, the others "
       "end with a piece", refused, n / 7 + 1);
    refused = 0;
    for (int i = 0; i < 3000; i++) {
        int err;

        memcpy(copy, model, n);
        for (int k = 0; k <= i % 3; k++) {
            seed = seed * 6364136223846793005u + 1442695040888963407u;
            copy[(seed >> 33) % n] ^= (uint8_t)(1 << (seed >> 30 & 7));
        }
        err = open_bytes(copy, n, log);
        refused += err < 0;
        strange += err < 0 && err != CAUSVID_ERR(EILSEQ) &&
                   err != CAUSVID_ERR(ENOSYS);
    }
    ok(refused > 500 && !strange, "%d of 3000 files with flipped bits "
       "refused, the others work", refused);
}

static void test_files(CvLog *log, char *message)
{
    CvTokenizer *t = (CvTokenizer *)1;

    ok(cv_tokenizer_open(&t, "/nonexistent/spiece.model", log) ==
       CAUSVID_ERR(ENOENT) && !t, "no such file: %s", message);
    ok(cv_tokenizer_open(&t, "/tmp", log) == CAUSVID_ERR(EILSEQ) && !t,
       "a folder: %s", message);
    cv_tokenizer_close(&t);
    ok(!t, "closing nothing");
}

/* ---- in GGUF files ---- */

/* What the library is given is the same, byte by byte, and so are the ids. */
static void test_gguf(FILE *vectors, CvLog *log, const char *message)
{
    const char *path = vectors_path("tokenizer.gguf");
    uint8_t *want = NULL, *got = NULL;
    size_t want_bytes = 0, got_bytes = 0;
    CvWeights *w = NULL;
    CvTokenizer *t = NULL;

    if (cv_weights_open(&w, path, log) < 0)
        tap_bail("%s", message);
    if (cv_spiece_gguf(&got, &got_bytes, w, log) < 0 ||
        cv_spiece_read(&want, &want_bytes, vectors_path("tokenizer.model"),
                       log) < 0)
        tap_bail("%s", message);
    ok(got_bytes == want_bytes && !memcmp(got, want, want_bytes),
       "llama.cpp's lists in a GGUF file are the pieces of the spiece.model, "
       "%zu bytes for the library", got_bytes);
    free(got);
    free(want);
    cv_weights_close(&w);
    ok(!cv_tokenizer_open_embedded(&t, vectors_path("tokenizer.gguf"), log),
       "a GGUF file's tokenizer opens");
    if (!t)
        tap_bail("%s", message);
    ok(!cv_tokenizer_fit(t, cv_tokenizer_size(t) + 384, log),
       "the sentinels fit");
    rewind(vectors);
    test_vectors(t, vectors, 0, "the GGUF file", log);
    cv_tokenizer_close(&t);
}

/* The fuzzer's corpus; tests/fuzz/make_corpus.py. */
static int open_corpus(CvTokenizer **t, const char *name, CvLog *log)
{
    const char *src = getenv("CAUSVID_SRC");
    char path[1024];

    snprintf(path, sizeof(path), "%s/tests/fuzz/corpus/gguf/%s",
             src ? src : ".", name);
    return cv_tokenizer_open_embedded(t, path, log);
}

static void test_gguf_refused(CvLog *log, char *message)
{
    static const struct {
        const char *name;
        int error;
        const char *said;
    } cases[] = {
        { "tokenizer-no-model", ENOSYS, "of the kind ''; expected 't5'" },
        { "tokenizer-llama", ENOSYS, "of the kind 'llama'; expected 't5'" },
        { "tokenizer-long-model", ENOSYS, "expected 't5'" },
        { "tokenizer-no-scores", EILSEQ, "not three lists of one length" },
        { "tokenizer-no-types", EILSEQ, "not three lists of one length" },
        { "tokenizer-fewer-scores", EILSEQ, "not three lists of one length" },
        { "tokenizer-whole-scores", EILSEQ, "not three lists of one length" },
        { "tokenizer-none", EILSEQ, "has no piece (0 of 0)" },
        { "tokenizer-only-added", EILSEQ, "has no piece (0 of 0)" },
        { "tokenizer-no-unknown", EILSEQ, "has no unknown piece (2 of 2)" },
        { "tokenizer-no-end", EILSEQ, "has no piece </s>" },
        { "tokenizer-empty-piece", EILSEQ, "has an empty piece (8 of 8)" },
        { "tokenizer-long-piece", EILSEQ, "has a piece that is too long" },
        { "tokenizer-bytes", EILSEQ, "has a piece that is not UTF-8" },
        { "tokenizer-nul", EILSEQ, "has a piece that is not UTF-8" },
        { "tokenizer-score-nan", EILSEQ, "has a piece whose score is no number" },
        { "tokenizer-type", EILSEQ, "has a piece of an unknown type" },
        { "tokenizer-type-negative", EILSEQ, "has a piece of an unknown type" },
        { "tokenizer-twice", EILSEQ, "library refuses" },
        { "sound", ENOENT, "holds no tokenizer; name a spiece.model" },
    };
    int32_t ids[CV_MAX_TOKENS];
    CvTokenizer *t;
    int64_t n;

    ok(!open_corpus(&t, "tokenizer", log) && cv_tokenizer_size(t) == 7,
       "what converters add behind the pieces is no piece");
    ok(t && !cv_tokenizer_fit(t, 307, log) &&
       !cv_tokenizer_encode(t, "a <extra_id_0>", ids, &n, log) && n == 4 &&
       ids[0] == 6 && ids[1] == 3 && ids[2] == 306 && ids[3] == 1,
       "the sentinels have their places in the table");
    cv_tokenizer_close(&t);
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        int err;

        message[0] = 0;
        err = open_corpus(&t, cases[i].name, log);
        ok(err == CAUSVID_ERR(cases[i].error) && !t &&
           strstr(message, cases[i].said), "%s: %s", cases[i].name, message);
    }
}

static void test_umt5(CvLog *log)
{
    const char *path = getenv("CAUSVID_UMT5_SPIECE");
    CvTokenizer *t;
    FILE *file;

    if (!path) {
        tap_skip(3, "CAUSVID_UMT5_SPIECE does not name UMT5's spiece.model");
        return;
    }
    ok(cv_tokenizer_open(&t, path, log) == 0, "%s opens", path);
    if (!t)
        return;
    if (!(file = vectors_open("umt5.tsv")))
        tap_bail("cannot read umt5.tsv");
    ok(cv_tokenizer_fit(t, 256384, log) == 0 && cv_tokenizer_size(t) == 256300,
       "it has 256300 ids");
    test_vectors(t, file, 1, "UMT5", log);
    fclose(file);
    cv_tokenizer_close(&t);
}

int main(int argc, char **argv)
{
    char message[512] = "";
    CausvidSettings settings = { .log = remember, .cookie = message };
    CvLog log;
    CvTokenizer *t;
    FILE *file = argc > 1 ? fopen(argv[1], "r") : vectors_open("tokenizer.tsv");
    int64_t pieces;
    int fd;

    if (!file)
        tap_bail("cannot read the vectors");
    cv_log_init(&log, &settings);
    ok(cv_tokenizer_open(&t, vectors_path("tokenizer.model"), &log) == 0,
       "the test vocabulary opens");
    if (!t)
        tap_bail("%s", message);
    pieces = cv_tokenizer_size(t);
    ok(cv_tokenizer_fit(t, pieces + 300, &log) == 0 &&
       cv_tokenizer_size(t) == pieces + 300, "the sentinels fit");
    test_vectors(t, file, 0, "test vocabulary", &log);
    if (argc < 2) {
        if ((fd = mkstemp(temporary)) < 0)
            tap_bail("cannot make %s", temporary);
        close(fd);
        test_sizes(t, &log);
        test_refused(&log, message);
        test_damage(&log);
        test_files(&log, message);
        test_gguf(file, &log, message);
        test_gguf_refused(&log, message);
        test_umt5(&log);
        unlink(temporary);
    }
    fclose(file);
    cv_tokenizer_close(&t);
    cv_log_free(&log);
    return tap_done();
}
