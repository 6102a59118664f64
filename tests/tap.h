/*
 * The Test Anything Protocol in C: checks, skips and the plan at the end.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * One test program is one main() that calls ok() and friends and ends with
 * `return tap_done();`. The counters live in the file that includes this
 * header, so only that file may call ok(); helpers in other files return a
 * value that it checks. prove(1) reads the output.
 */
#ifndef CV_TESTS_TAP_H
#define CV_TESTS_TAP_H

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int tap_count;  /* checks done, also those skipped */
static int tap_failed; /* checks that failed */

/** Print `# message`; prove shows it with -v, and when stderr is not. */
__attribute__((format(printf, 1, 2)))
static inline void tap_diag(const char *format, ...)
{
    va_list args;

    fflush(stdout);
    fputs("# ", stderr);
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
}

__attribute__((format(printf, 5, 6)))
static inline int tap_ok(int passed, const char *file, int line,
                         const char *condition, const char *format, ...)
{
    va_list args;

    printf("%sok %d - ", passed ? "" : "not ", ++tap_count);
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    putchar('\n');
    fflush(stdout);
    if (!passed) {
        tap_failed++;
        tap_diag("%s:%d: failed: %s", file, line, condition);
    }
    return passed;
}

/** One check with a printf description; the value is whether it passed. */
#define ok(condition, ...)                                                    \
    tap_ok(!!(condition), __FILE__, __LINE__, #condition, __VA_ARGS__)

static inline int tap_is_int(long long got, long long expected,
                             const char *file, int line, const char *what)
{
    int passed = tap_ok(got == expected, file, line, what, "%s is %lld", what,
                        expected);

    if (!passed)
        tap_diag("  got %lld, expected %lld", got, expected);
    return passed;
}

/** Check that two integers are equal; both are printed when not. */
#define is_int(got, expected)                                                 \
    tap_is_int((got), (expected), __FILE__, __LINE__, #got)

static inline int tap_is_str(const char *got, const char *expected,
                             const char *file, int line, const char *what)
{
    int same = got && expected ? !strcmp(got, expected) : got == expected;
    int passed = tap_ok(same, file, line, what, "%s is as expected", what);

    if (!passed)
        tap_diag("  got      \"%s\"\n#   expected \"%s\"", got ? got : "(null)",
                 expected ? expected : "(null)");
    return passed;
}

/** Check that two strings are equal; both are printed when not. */
#define is_str(got, expected)                                                 \
    tap_is_str((got), (expected), __FILE__, __LINE__, #got)

/** Count `n` checks as skipped, with the reason: what the machine lacks. */
__attribute__((format(printf, 2, 3)))
static inline void tap_skip(int n, const char *format, ...)
{
    va_list args;

    while (n-- > 0) {
        printf("ok %d # SKIP ", ++tap_count);
        va_start(args, format);
        vprintf(format, args);
        va_end(args);
        putchar('\n');
    }
    fflush(stdout);
}

/** End the program because nothing in it can run here. */
__attribute__((format(printf, 1, 2), noreturn))
static inline void tap_skip_all(const char *format, ...)
{
    va_list args;

    fputs("1..0 # SKIP ", stdout);
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    putchar('\n');
    fflush(stdout);
    exit(0);
}

/** End the program as failed because it cannot go on (a missing fixture). */
__attribute__((format(printf, 1, 2), noreturn))
static inline void tap_bail(const char *format, ...)
{
    va_list args;

    fputs("Bail out! ", stdout);
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    putchar('\n');
    fflush(stdout);
    exit(255);
}

/** Print the plan; the value is what main() returns. A program without any
 * check has failed. */
static inline int tap_done(void)
{
    printf("1..%d\n", tap_count);
    fflush(stdout);
    if (tap_failed)
        tap_diag("%d of %d checks failed", tap_failed, tap_count);
    return tap_failed || !tap_count;
}

#endif /* CV_TESTS_TAP_H */
