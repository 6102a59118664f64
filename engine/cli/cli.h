/*
 * The `causvid` program: what its commands share.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#ifndef CV_CLI_H
#define CV_CLI_H

#include "generator.h"

/* A command line option: `--name VALUE` or `--name=VALUE`, or `--name` alone
 * for a flag. */
typedef struct CvOption {
    const char *name;      /* without the dashes; NULL ends the list */
    const char **value;    /* of an option with a value */
    int *flag;             /* of one without */
    const char *help;
} CvOption;

/* Read options; what is no option goes to *operand (one at most, NULL: none
 * is allowed). -1 after a line on stderr. */
int cv_cli_parse(int argc, char **argv, const CvOption *options,
                 const char **operand);
void cv_cli_help(const CvOption *options);

/* Settings that log to stderr: errors and warnings, and more with -v. */
void cv_cli_settings(CausvidSettings *settings, int verbose);

/* An integer option's value within a range; -1 after a line on stderr. */
int cv_cli_int(const char *name, const char *text, long min, long max,
               int *value);

/* A number of bytes, such as 12G (thousands) or 800M, as FFmpeg reads it; -1
 * after a line on stderr. */
int cv_cli_bytes(const char *name, const char *text, int64_t *bytes);

/* The value of --size, "WxH"; -1 after a line on stderr. */
int cv_cli_size(const char *text, int *width, int *height);

/* The place of `text` in the list of names "a|b|c"; -1 after a line on stderr
 * when it is not in it. */
int cv_cli_choice(const char *name, const char *text, const char *list);

int cv_cli_info(int argc, char **argv);
int cv_cli_trace(int argc, char **argv);
int cv_cli_bench(int argc, char **argv);

#endif /* CV_CLI_H */
