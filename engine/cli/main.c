/*
 * The `causvid` program: looks at models, runs one clip on given tensors,
 * measures.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"

static const struct {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *help;
} commands[] = {
    { "info",  cv_cli_info,  "say what a model is, how it is run, what memory "
                             "it needs" },
    { "trace", cv_cli_trace, "run one clip on given tensors and write what was "
                             "computed" },
    { "bench", cv_cli_bench, "measure how long a clip takes, and its memory" },
};

#define N_COMMANDS (sizeof(commands) / sizeof(*commands))

static void write_log(void *cookie, enum CausvidLogLevel level,
                      const char *format, va_list args)
{
    int verbose = *(const int *)cookie;

    if (level > CAUSVID_LOG_WARNING && !verbose)
        return;
    fprintf(stderr, "causvid: %s", level == CAUSVID_LOG_ERROR   ? "error: "
                                 : level == CAUSVID_LOG_WARNING ? "warning: "
                                                                : "");
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
}

void cv_cli_settings(CausvidSettings *settings, int verbose)
{
    static const int levels[2] = { 0, 1 };

    causvid_default_settings(settings);
    settings->log    = write_log;
    settings->cookie = (void *)(uintptr_t)&levels[!!verbose];
}

int cv_cli_parse(int argc, char **argv, const CvOption *options,
                 const char **operand)
{
    for (int i = 0; i < argc; i++) {
        const char *arg = !strcmp(argv[i], "-v") ? "--verbose"
                        : !strcmp(argv[i], "-h") ? "--help" : argv[i];
        const size_t n = strcspn(arg, "=");
        const char *value = arg[n] ? arg + n + 1 : NULL;
        const CvOption *o = options;

        if (arg[0] != '-') {
            if (!operand || *operand) {
                fprintf(stderr, "causvid: unexpected argument '%s'; --help "
                        "says what is expected\n", arg);
                return -1;
            }
            *operand = arg;
            continue;
        }
        while (o->name && (n != strlen(o->name) + 2 || strncmp(arg, "--", 2) ||
                           strncmp(arg + 2, o->name, n - 2)))
            o++;
        if (!o->name) {
            fprintf(stderr, "causvid: unknown option '%s'; --help lists the "
                    "options\n", arg);
            return -1;
        }
        if (o->flag && value) {
            fprintf(stderr, "causvid: option '--%s' takes no value\n", o->name);
            return -1;
        }
        if (o->flag) {
            *o->flag = 1;
        } else if (value || i + 1 < argc) {
            *o->value = value ? value : argv[++i];
        } else {
            fprintf(stderr, "causvid: option '%s' needs a value\n", arg);
            return -1;
        }
    }
    return 0;
}

void cv_cli_help(const CvOption *options)
{
    for (const CvOption *o = options; o->name; o++)
        printf("  --%-16s %s\n", o->name, o->help);
}

int cv_cli_int(const char *name, const char *text, long min, long max,
               int *value)
{
    char *end;
    long n;

    errno = 0;
    n = strtol(text, &end, 10);
    if (errno || end == text || *end || n < min || n > max) {
        fprintf(stderr, "causvid: --%s is '%s', expected a number from %ld to "
                "%ld\n", name, text, min, max);
        return -1;
    }
    *value = (int)n;
    return 0;
}

int cv_cli_bytes(const char *name, const char *text, int64_t *bytes)
{
    static const char units[] = "kMG";
    const char *unit;
    char *end;
    double n, factor = 1;

    n    = strtod(text, &end);
    unit = end > text && *end ? strchr(units, *end) : NULL;
    for (int i = 0; unit && i <= unit - units; i++)
        factor *= 1000;
    if (end == text || (*end && (!unit || end[1])) || !(n >= 0) ||
        n * factor > 1e15) {
        fprintf(stderr, "causvid: --%s is '%s', expected a number of bytes, "
                "such as 12G or 800M\n", name, text);
        return -1;
    }
    *bytes = (int64_t)(n * factor);
    return 0;
}

int cv_cli_size(const char *text, int *width, int *height)
{
    char tail;

    if (sscanf(text, "%5dx%5d%c", width, height, &tail) == 2)
        return 0;
    fprintf(stderr, "causvid: --size is '%s', expected WxH such as 832x480\n",
            text);
    return -1;
}

int cv_cli_choice(const char *name, const char *text, const char *list)
{
    const char *at = list;

    for (int i = 0; at; i++) {
        const char *end = strchr(at, '|');
        size_t n = end ? (size_t)(end - at) : strlen(at);

        if (strlen(text) == n && !memcmp(text, at, n))
            return i;
        at = end ? end + 1 : NULL;
    }
    fprintf(stderr, "causvid: --%s is '%s', expected one of %s\n", name, text,
            list);
    return -1;
}

static void usage(FILE *out)
{
    fprintf(out, "usage: causvid COMMAND [options]\n\ncommands:\n");
    for (size_t i = 0; i < N_COMMANDS; i++)
        fprintf(out, "  %-8s %s\n", commands[i].name, commands[i].help);
    fprintf(out, "\n`causvid COMMAND --help` lists the options of a command.\n"
            "Videos are made by FFmpeg:\n  ffmpeg -f lavfi -i "
            "\"causvid=prompt='a red circle moves right'\" out.mp4\n");
}

static int run(int argc, char **argv)
{
    if (argc < 2) {
        usage(stderr);
        return 2;
    }
    if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") ||
        !strcmp(argv[1], "help")) {
        usage(stdout);
        return 0;
    }
    if (!strcmp(argv[1], "--version")) {
        unsigned v = causvid_version();

        printf("causvid %u.%u.%u\n", v >> 16, v >> 8 & 255, v & 255);
        return 0;
    }
    for (size_t i = 0; i < N_COMMANDS; i++)
        if (!strcmp(argv[1], commands[i].name))
            return commands[i].run(argc - 2, argv + 2);
    fprintf(stderr, "causvid: unknown command '%s'; causvid --help lists the "
            "commands\n", argv[1]);
    return 2;
}

/* Results that did not reach their reader must not pass for success. */
int main(int argc, char **argv)
{
    int status = run(argc, argv);

    if (fflush(stdout) || ferror(stdout)) {
        fprintf(stderr, "causvid: error: standard output cannot be written: "
                "%s\n", strerror(errno));
        return status ? status : 1;
    }
    return status;
}
