/*
 * Lists of test vectors.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#define _POSIX_C_SOURCE 200809L
#include <stdlib.h>
#include <string.h>

#include "vectors.h"

const char *vectors_path(const char *name)
{
    static char path[4096];
    const char *src = getenv("CAUSVID_SRC");

    snprintf(path, sizeof(path), "%s/tests/unit/data/%s", src ? src : ".",
             name);
    return path;
}

FILE *vectors_open(const char *name)
{
    return fopen(vectors_path(name), "r");
}

static char *put_utf8(char *out, unsigned long c)
{
    if (c < 0x80) {
        *out++ = (char)c;
    } else if (c < 0x800) {
        *out++ = (char)(0xc0 | c >> 6);
        *out++ = (char)(0x80 | (c & 0x3f));
    } else if (c < 0x10000) {
        *out++ = (char)(0xe0 | c >> 12);
        *out++ = (char)(0x80 | (c >> 6 & 0x3f));
        *out++ = (char)(0x80 | (c & 0x3f));
    } else {
        *out++ = (char)(0xf0 | c >> 18);
        *out++ = (char)(0x80 | (c >> 12 & 0x3f));
        *out++ = (char)(0x80 | (c >> 6 & 0x3f));
        *out++ = (char)(0x80 | (c & 0x3f));
    }
    return out;
}

/* In place: no escape is shorter than what it stands for. */
static int unescape(char *text)
{
    char *out = text;

    while (*text) {
        if (*text != '\\') {
            *out++ = *text++;
        } else if (text[1] == '\\') {
            *out++ = '\\';
            text += 2;
        } else if (text[1] == 'u' && text[2] == '{') {
            unsigned long c = strtoul(text + 3, &text, 16);

            if (*text++ != '}' || c > 0x10ffff)
                return -1;
            out = put_utf8(out, c);
        } else {
            return -1;
        }
    }
    *out = 0;
    return 0;
}

int vectors_next(FILE *file, char **line, size_t *room, char **fields, int n)
{
    char *next;

    if (getline(line, room, file) < 0)
        return 0;
    next = *line;
    next[strcspn(next, "\n")] = 0;
    for (int i = 0; i < n; i++) {
        if (!next)
            return -1;
        fields[i] = next;
        if ((next = strchr(next, '\t')))
            *next++ = 0;
        if (unescape(fields[i]) < 0)
            return -1;
    }
    return next ? -1 : 1;
}
