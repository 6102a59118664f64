/*
 * Prompt cleaning beside ftfy and Python's html, and what it refuses.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * With an argument: compares with the vectors of that file instead; see
 * data/make_clean.py.
 */
#include "../tap.h"
#include "text/text.h"
#include "vectors.h"

static void remember(void *cookie, enum CausvidLogLevel level,
                     const char *format, va_list args)
{
    (void)level;
    vsnprintf(cookie, 256, format, args);
}

static void test_vectors(FILE *file, CvLog *log)
{
    char *line = NULL, *fields[2], *cleaned;
    size_t room = 0;
    int n = 0, wrong = 0, more;

    while ((more = vectors_next(file, &line, &room, fields, 2)) > 0) {
        n++;
        if (cv_clean_prompt(&cleaned, fields[0], log) < 0 ||
            strcmp(cleaned, fields[1])) {
            if (wrong++ < 10)
                tap_diag("line %d: \"%s\"\n#   got      \"%s\"\n"
                         "#   expected \"%s\"", n, fields[0],
                         cleaned ? cleaned : "(error)", fields[1]);
        }
        free(cleaned);
    }
    ok(more == 0, "the vectors can be read");
    ok(n > 0 && !wrong, "%d of %d texts are cleaned as ftfy and html do",
       n - wrong, n);
    free(line);
}

static void refuses(CvLog *log, char *message, const char *prompt,
                    const char *expected)
{
    char *cleaned = (char *)"x";
    int err;

    message[0] = 0;
    err = cv_clean_prompt(&cleaned, prompt, log);
    ok(err == CAUSVID_ERR(EINVAL) && !cleaned && strstr(message, expected),
       "refused: \"%s\"", message);
}

static void test_errors(CvLog *log, char *message)
{
    const size_t n = 200000;
    char *large = malloc(n + 1);
    char *cleaned;

    refuses(log, message, "\xff", "byte 0xff at offset 0");
    refuses(log, message, "abc\x80", "byte 0x80 at offset 3");
    refuses(log, message, "a\xc3\xa9\xc3", "byte 0xc3 at offset 3");
    refuses(log, message, "\xc0\x80", "byte 0xc0 at offset 0");
    refuses(log, message, "\xe0\x80\xaf", "byte 0xe0 at offset 0");
    refuses(log, message, "x\xed\xa0\x80", "byte 0xed at offset 1");
    refuses(log, message, "\xf4\x90\x80\x80", "byte 0xf4 at offset 0");
    refuses(log, message, "caf\xe9 au lait", "byte 0xe9 at offset 3");
    if (!large)
        tap_bail("no memory");
    memset(large, 'a', n);
    large[n] = 0;
    refuses(log, message, large, "has 200000 bytes");
    large[0] = '&';
    for (size_t i = 1; i < 100000; i += 4)
        memcpy(large + i, "amp;", 4);
    large[100001] = 0;
    refuses(log, message, large, "escaped more than");
    memset(large, 'a', n);
    large[131072] = 0;
    ok(cv_clean_prompt(&cleaned, large, log) == 0 && cleaned &&
       !strcmp(large, cleaned), "131072 bytes are taken");
    free(cleaned);
    ok(cv_clean_prompt(&cleaned, "\xff", NULL) == CAUSVID_ERR(EINVAL),
       "an error without a log");
    free(large);
}

int main(int argc, char **argv)
{
    char message[256] = "";
    CausvidSettings settings = { .log = remember, .cookie = message };
    CvLog log;
    FILE *file = argc > 1 ? fopen(argv[1], "r") : vectors_open("clean.tsv");

    if (!file)
        tap_bail("cannot read %s", argc > 1 ? argv[1] :
                 vectors_path("clean.tsv"));
    cv_log_init(&log, &settings);
    test_vectors(file, &log);
    if (argc < 2)
        test_errors(&log, message);
    fclose(file);
    cv_log_free(&log);
    return tap_done();
}
