/*
 * Opening weights: what is no safetensors file, folders, and shards.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#include <sys/stat.h>
#include <unistd.h>

#include "../tap.h"
#include "weights_util.h"

static Lines lines;

#define FAILED(e) CAUSVID_ERR(e)

/* ---- what is no safetensors file ---- */

static void test_formats(void)
{
    static const struct {
        const char *name, *bytes;
        size_t n;
        int error;
        const char *line;
    } cases[] = {
        { "a.pth", "PK\3\4\0\0\0\0\x08\x08", 10, EILSEQ,
          "damaged zip archive: it is cut off" },
        { "a.safetensors", "PK\3\4\0\0\0\0\x08\x08", 10, EILSEQ,
          "damaged zip archive" },
        { "a.pt", "\x80\2\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.",
          15, ENOSYS, "file of torch.save() before 1.6|save it again" },
        { "a.gguf", "GGUF\3\0\0\0", 8, EILSEQ, "cut off|byte 8" },
        { "a.safetensors", "version https://git-lfs.github.com/spec/v1\n", 43,
          EILSEQ, "Git LFS pointer|git lfs pull" },
        { "a.safetensors", "<!DOCTYPE html><html>", 21, EILSEQ, "web page" },
        { "a.bin", "hello", 5, EILSEQ, "68 65 6c 6c" },
        { "a.bin", "h", 1, EILSEQ, "68 00 00 00" },
        { "a.safetensors", "hello", 5, EILSEQ, "cut off|5 bytes" },
        { "a.safetensors", "", 0, EILSEQ, "empty" },
    };
    const char *folder = temp_folder();
    char fifo[1100];
    CvWeights *w;

    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        Blob b = { (uint8_t *)(uintptr_t)cases[i].bytes, cases[i].n };
        const char *path = save_blob(folder, cases[i].name, b);

        ok(cv_weights_open(&w, path, &lines.log) == FAILED(cases[i].error) &&
           !w && lines_error(&lines, path), "%s: %s", cases[i].name,
           cases[i].line);
        cv_weights_open(&w, path, &lines.log);
        ok(lines_error(&lines, cases[i].line), "  and what to do");
    }
    snprintf(fifo, sizeof(fifo), "%s/x/fifo.safetensors", folder);
    save_text(folder, "x/note.txt", "");
    if (mkfifo(fifo, 0600) < 0)
        tap_bail("mkfifo");
    ok(cv_weights_open(&w, fifo, &lines.log) == FAILED(EILSEQ) &&
       lines_error(&lines, "not a file"), "a FIFO is not waited for");
    unlink(fifo);
    snprintf(fifo, sizeof(fifo), "%s/x", folder);
    ok(cv_weights_open(&w, fifo, &lines.log) == FAILED(ENOENT) &&
       lines_error(&lines, "holds no .safetensors, .pt or .gguf file"),
       "a folder without weights");
    save_text(folder, "x/model.pt", "PK");
    ok(cv_weights_open(&w, fifo, &lines.log) == FAILED(EILSEQ) &&
       lines_error(&lines, "model.pt' is no file of weights"),
       "a folder with model.pt");
    save_text(folder, "x/b.safetensors", "");
    save_text(folder, "x/a.safetensors", "");
    save_text(folder, "x/._a.safetensors", "");
    ok(cv_weights_open(&w, fifo, &lines.log) == FAILED(EILSEQ) &&
       lines_error(&lines, "2 files of weights (a.safetensors, b.safetensors)"
                   "|no index"), "a folder with two files");
    save_text(folder, "x/a.safetensors.index.json", "{}");
    save_text(folder, "x/b.safetensors.index.json", "{}");
    ok(cv_weights_open(&w, fifo, &lines.log) == FAILED(EILSEQ) &&
       lines_error(&lines, "2 indexes (a.safetensors.index.json"),
       "a folder with two indexes");
    strcat(fifo, "/nothing");
    ok(cv_weights_open(&w, fifo, &lines.log) == FAILED(ENOENT) &&
       lines_error(&lines, "nothing'|No such file"), "no such file");
    ok(cv_weights_open(&w, fifo, NULL) == FAILED(ENOENT),
       "without a log it fails as well");
}

/* ---- shards ---- */

static const char *index_folder;

/* Write an index and open it. */
static int open_with_index(const char *text)
{
    const char *path = save_text(index_folder, "m.safetensors.index.json",
                                 text);
    CvWeights *w;
    int err = cv_weights_open(&w, path, &lines.log);

    if (!err)
        cv_weights_close(&w);
    return err;
}

static void save_shard(const char *file, const char *first, const char *second)
{
    StTensor t[2] = {
        { .name = first, .type = CV_F32, .n_dims = 1, .dim = { 2 } },
        { .name = second, .type = CV_F32, .n_dims = 1, .dim = { 3 } },
    };
    Blob b = st_write(t, second ? 2 : 1, 0);

    save_blob(index_folder, file, b);
    blob_free(&b);
}

static void test_index(void)
{
    static const struct {
        const char *text;
        int error; /* 0: sound */
        const char *line;
    } cases[] = {
#define MAP(map) "{\"weight_map\":{" map "}}"
        { MAP("\"a\":\"1.st\",\"b\":\"1.st\",\"c\":\"2.st\""), 0, NULL },
        { "{\"metadata\":{\"total_size\":28},\"weight_map\":{\"a\":\"1.st\","
          "\"b\":\"1.st\",\"c\":\"2.st\"}}", 0, NULL },
        { "{}", EILSEQ, "no weight_map" },
        { "[]", EILSEQ, "no weight_map" },
        { "{\"weight_map\":{}}", EILSEQ, "no weight_map" },
        { "{\"weight_map\":[]}", EILSEQ, "no weight_map" },
        { "", EILSEQ, "the end where a value" },
        { "{\"weight_map\":{\"a\":\"1.st\"", EILSEQ, "neither ',' nor '}'" },
        { MAP("\"a\":1"), EILSEQ, "tensor 'a' is in '?'" },
        { MAP("\"a\":\"../1.st\""), EILSEQ, "'../1.st'|beside the index" },
        { MAP("\"a\":\"/etc/passwd\""), EILSEQ, "'/etc/passwd'|beside" },
        { MAP("\"a\":\"x/1.st\""), EILSEQ, "'x/1.st'|beside" },
        { MAP("\"a\":\"..\""), EILSEQ, "'..'|beside" },
        { MAP("\"a\":\"\""), EILSEQ, "''|beside" },
        { MAP("\"a\":\"1\\n.st\""), EILSEQ, "'1?.st'|beside" },
        { MAP("\"a\":\"1.st\",\"a\":\"2.st\""), EILSEQ, "'a' twice" },
        { MAP("\"a\":\"1.st\",\"b\":\"3.st\""), ENOENT,
          "/3.st' is missing|one of the 2 shards" },
        { MAP("\"a\":\"1.st\",\"b\":\"2.st\",\"c\":\"2.st\""), EILSEQ,
          "'b' is in '2.st', but it is in 1.st" },
        { MAP("\"a\":\"1.st\",\"b\":\"1.st\",\"d\":\"1.st\""), EILSEQ,
          "'d' is in '1.st', but it is not" },
        { MAP("\"a\":\"1.st\""), EILSEQ, "1 tensors that|such as 'b'" },
        { MAP("\"a\":\"1.st\",\"b\":\"1.st\",\"c\":\"4.st\""), EILSEQ,
          "'b' is in '|/1.st' and in '|/4.st'" },
        { MAP("\"a\":\"1.st\",\"b\":\"cut.st\""), EILSEQ, "/cut.st'" },
        { MAP("\"a\":\"m.safetensors.index.json\""), EILSEQ, "no file of" },
        { "{\"metadata\":{\"total_size\":\"x\"},\"weight_map\":{\"a\":\"1.st\","
          "\"b\":\"1.st\"}}", EILSEQ, "total_size|\"x\"" },
#undef MAP
    };

    index_folder = temp_folder();
    save_shard("1.st", "a", "b");
    save_shard("2.st", "c", NULL);
    save_shard("4.st", "c", "b");
    save_text(index_folder, "cut.st", "0123");
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        int err = open_with_index(cases[i].text);

        if (cases[i].error)
            ok(err == FAILED(cases[i].error) &&
               lines_error(&lines, cases[i].line), "index %zu: %s", i,
               cases[i].line);
        else
            ok(!err && lines_none(&lines), "index %zu is sound; 4.st, which "
               "it does not name, is not read", i);
    }
    is_int(open_with_index("{\"metadata\":{\"total_size\":29},\"weight_map\":{"
                           "\"a\":\"1.st\",\"b\":\"1.st\"}}"), 0);
    ok(!lines.errors && lines.warnings == 1 &&
       strstr(lines.warning, "29 bytes, they have 20"),
       "a wrong total_size is a warning");
    lines.warnings = 0;
}

int main(void)
{
    lines_init(&lines);
    test_formats();
    test_index();
    return tap_done();
}
