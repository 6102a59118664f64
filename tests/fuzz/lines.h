/*
 * What every fuzz target checks of the log: a failed call says one line.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#ifndef CV_FUZZ_LINES_H
#define CV_FUZZ_LINES_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "log.h"

typedef struct Lines {
    CvLog log;
    int errors;
} Lines;

/* Stop with a crash that the fuzzer keeps. */
#define REQUIRE(condition)                                                  \
    do {                                                                    \
        if (!(condition)) {                                                 \
            fprintf(stderr, "%s:%d: not true: %s\n", __FILE__, __LINE__,    \
                    #condition);                                            \
            abort();                                                        \
        }                                                                   \
    } while (0)

static inline void count_line(void *cookie, enum CausvidLogLevel level,
                              const char *format, va_list args)
{
    Lines *l = cookie;
    static char text[1 << 16];

    vsnprintf(text, sizeof(text), format, args);
    for (const char *p = text; *p; p++)
        REQUIRE((unsigned char)*p >= 0x20);
    l->errors += level == CAUSVID_LOG_ERROR;
}

static inline void lines_init(Lines *l)
{
    CausvidSettings settings = { 0 };

    memset(l, 0, sizeof(*l));
    settings.log    = count_line;
    settings.cookie = l;
    cv_log_init(&l->log, &settings);
}

/* A call returned `err`: one line when it failed, none when not. */
static inline void lines_check(Lines *l, int err)
{
    REQUIRE(err <= 0 && l->errors == (err < 0));
    l->errors = 0;
}

#endif /* CV_FUZZ_LINES_H */
