/*
 * Fuzz target: a tokenizer is opened from a spiece.model, and encodes a prompt.
 * The first byte of the input is the length of the prompt, which follows; the
 * rest is the file.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#include <unistd.h>

#include "lines.h"
#include "text/text.h"

#define SENTINELS 300

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static Lines lines;
static char path[] = "/tmp/causvid-fuzz-XXXXXX";

static void clean_up(void)
{
    unlink(path);
}

/* The file stays open: some file systems are slow to truncate and close. */
static void save(const uint8_t *data, size_t size)
{
    static int fd = -1;

    if (fd < 0) {
        lines_init(&lines);
        fd = mkstemp(path);
        REQUIRE(fd >= 0);
        atexit(clean_up);
    }
    REQUIRE(pwrite(fd, data, size, 0) == (ssize_t)size &&
            !ftruncate(fd, (off_t)size));
}

/* Ids of the text with `rows` rows in the text encoder. */
static void encode(CvTokenizer *tokenizer, const char *text, int64_t rows)
{
    int32_t ids[CV_MAX_TOKENS], again[CV_MAX_TOKENS];
    int64_t n, n_again, written;
    int err = cv_tokenizer_fit(tokenizer, rows, &lines.log);

    lines_check(&lines, err);
    if (err < 0)
        return;
    REQUIRE(cv_tokenizer_size(tokenizer) <= rows);
    err = cv_tokenizer_encode(tokenizer, text, ids, &n, &lines.log);
    lines_check(&lines, err);
    if (err < 0)
        return;
    REQUIRE(n >= 1);
    written = n < CV_MAX_TOKENS ? n : CV_MAX_TOKENS;
    for (int64_t i = 0; i < written; i++)
        REQUIRE(ids[i] >= 0 && ids[i] < cv_tokenizer_size(tokenizer));
    REQUIRE(!cv_tokenizer_encode(tokenizer, text, again, &n_again,
                                 &lines.log));
    REQUIRE(n == n_again &&
            !memcmp(ids, again, (size_t)written * sizeof(*ids)));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char text[256] = "", *cleaned = NULL;
    CvTokenizer *tokenizer;
    size_t n;
    int err;

    if (!size)
        return 0;
    n = data[0] < size - 1 ? data[0] : size - 1;
    memcpy(text, data + 1, n);
    save(data + 1 + n, size - 1 - n);
    err = cv_tokenizer_open(&tokenizer, path, &lines.log);
    lines_check(&lines, err);
    REQUIRE(!err == !!tokenizer);
    if (err < 0)
        return 0;
    n = (size_t)cv_tokenizer_size(tokenizer);
    encode(tokenizer, text, (int64_t)n - 1);
    encode(tokenizer, text, (int64_t)n);
    encode(tokenizer, text, (int64_t)n + SENTINELS);
    err = cv_clean_prompt(&cleaned, text, &lines.log);
    lines_check(&lines, err);
    REQUIRE(!err == !!cleaned);
    if (cleaned)
        encode(tokenizer, cleaned, (int64_t)n + SENTINELS);
    free(cleaned);
    cv_tokenizer_close(&tokenizer);
    return 0;
}
