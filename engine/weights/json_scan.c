/*
 * Bounded parsing of JSON text: the strict scan and the tree.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#include <stdlib.h>
#include <string.h>

#include "json.h"

/* cJSON copies a number into 64 bytes and cuts longer ones. */
#define MAX_NUMBER 60

typedef struct Scan {
    const unsigned char *at, *end;
    const char *wrong; /* what was wrong at `at`, NULL so far */
    size_t values;
} Scan;

static int wrong(Scan *s, const char *what)
{
    if (!s->wrong)
        s->wrong = what;
    return -1;
}

static int peek(const Scan *s)
{
    return s->at < s->end ? *s->at : -1;
}

static void skip_blanks(Scan *s)
{
    while (s->at < s->end && (*s->at == ' ' || *s->at == '\t' ||
                              *s->at == '\n' || *s->at == '\r'))
        s->at++;
}

static int is_digit(int c)
{
    return c >= '0' && c <= '9';
}

/* One UTF-8 character of two bytes or more: shortest form, no surrogates, not
 * beyond U+10FFFF (Unicode 15, table 3-7). */
static int scan_utf8(Scan *s)
{
    const unsigned char *p = s->at;
    ptrdiff_t left = s->end - p;
    int low = 0x80, high = 0xbf, n;

    if (p[0] >= 0xc2 && p[0] <= 0xdf) {
        n = 1;
    } else if (p[0] >= 0xe0 && p[0] <= 0xef) {
        n = 2;
        if (p[0] == 0xe0)
            low = 0xa0;
        if (p[0] == 0xed)
            high = 0x9f;
    } else if (p[0] >= 0xf0 && p[0] <= 0xf4) {
        n = 3;
        if (p[0] == 0xf0)
            low = 0x90;
        if (p[0] == 0xf4)
            high = 0x8f;
    } else {
        return wrong(s, "a string that is not UTF-8");
    }
    for (int i = 1; i <= n; i++) {
        if (i >= left || p[i] < low || p[i] > high)
            return wrong(s, "a string that is not UTF-8");
        low  = 0x80;
        high = 0xbf;
    }
    s->at += n + 1;
    return 0;
}

/* Four hexadecimal digits, -1 when they are not. */
static int hex4(Scan *s)
{
    int value = 0;

    for (int i = 0; i < 4; i++, s->at++) {
        int c = peek(s);

        if (is_digit(c))
            value = value * 16 + c - '0';
        else if ((c | 32) >= 'a' && (c | 32) <= 'f')
            value = value * 16 + (c | 32) - 'a' + 10;
        else
            return wrong(s, "a broken \\u escape");
    }
    return value;
}

static int scan_escape(Scan *s, int key)
{
    int c, code;

    s->at++; /* the backslash */
    c = peek(s);
    if (c < 0 || !strchr("\"\\/bfnrtu", c))
        return wrong(s, "an unknown escape in a string");
    s->at++;
    if (c != 'u')
        return key && c >= 'a' ? wrong(s, "a control character in a key") : 0;
    if ((code = hex4(s)) < 0)
        return -1;
    if (!code)
        return wrong(s, "a NUL character in a string");
    if (key && (code < 0x20 || code == 0x7f))
        return wrong(s, "a control character in a key");
    if (code >= 0xdc00 && code <= 0xdfff)
        return wrong(s, "half of a surrogate pair");
    if (code < 0xd800 || code > 0xdbff)
        return 0;
    if (s->end - s->at < 2 || s->at[0] != '\\' || s->at[1] != 'u')
        return wrong(s, "half of a surrogate pair");
    s->at += 2;
    if ((code = hex4(s)) < 0)
        return -1;
    if (code < 0xdc00 || code > 0xdfff)
        return wrong(s, "half of a surrogate pair");
    return 0;
}

/* Keys go into log lines: they hold no control characters. */
static int scan_string(Scan *s, int key)
{
    s->at++; /* the quote */
    for (;;) {
        int c = peek(s), err = 0;

        if (c < 0)
            return wrong(s, "the end inside a string");
        if (c == '"')
            break;
        if (c < 0x20 || (key && c == 0x7f))
            return wrong(s, "a control character in a string");
        if (c == '\\')
            err = scan_escape(s, key);
        else if (c >= 0x80)
            err = scan_utf8(s);
        else
            s->at++;
        if (err < 0)
            return err;
    }
    s->at++;
    return 0;
}

static int scan_digits(Scan *s)
{
    if (!is_digit(peek(s)))
        return wrong(s, "a broken number");
    while (is_digit(peek(s)))
        s->at++;
    return 0;
}

static int scan_number(Scan *s)
{
    const unsigned char *begin = s->at;

    if (peek(s) == '-')
        s->at++;
    if (peek(s) == '0')
        s->at++;
    else if (scan_digits(s) < 0)
        return -1;
    if (peek(s) == '.') {
        s->at++;
        if (scan_digits(s) < 0)
            return -1;
    }
    if (peek(s) == 'e' || peek(s) == 'E') {
        s->at++;
        if (peek(s) == '+' || peek(s) == '-')
            s->at++;
        if (scan_digits(s) < 0)
            return -1;
    }
    if (s->at - begin > MAX_NUMBER)
        return wrong(s, "a number of more than 60 characters");
    return 0;
}

static int scan_word(Scan *s, const char *word)
{
    size_t n = strlen(word);

    if ((size_t)(s->end - s->at) < n || memcmp(s->at, word, n))
        return wrong(s, "something that is no value");
    s->at += n;
    return 0;
}

static int scan_value(Scan *s, int depth);

/* An object or an array, whose bracket is next. */
static int scan_list(Scan *s, int depth)
{
    int object = peek(s) == '{', close = object ? '}' : ']';

    if (depth >= CV_JSON_MAX_DEPTH)
        return wrong(s, "more than 32 levels of nesting");
    s->at++;
    skip_blanks(s);
    if (peek(s) == close) {
        s->at++;
        return 0;
    }
    for (;;) {
        skip_blanks(s);
        if (object) {
            if (peek(s) != '"')
                return wrong(s, "no '\"' where a key must begin");
            if (scan_string(s, 1) < 0)
                return -1;
            skip_blanks(s);
            if (peek(s) != ':')
                return wrong(s, "no ':' after a key");
            s->at++;
        }
        if (scan_value(s, depth + 1) < 0)
            return -1;
        skip_blanks(s);
        if (peek(s) == close)
            break;
        if (peek(s) != ',')
            return wrong(s, object ? "neither ',' nor '}' after a value" :
                                     "neither ',' nor ']' after a value");
        s->at++;
    }
    s->at++;
    return 0;
}

static int scan_value(Scan *s, int depth)
{
    skip_blanks(s);
    if (++s->values > CV_JSON_MAX_VALUES)
        return wrong(s, "more than 1048576 values");
    switch (peek(s)) {
    case '{':
    case '[': return scan_list(s, depth);
    case '"': return scan_string(s, 0);
    case 't': return scan_word(s, "true");
    case 'f': return scan_word(s, "false");
    case 'n': return scan_word(s, "null");
    case -1:  return wrong(s, "the end where a value must be");
    default:
        if (peek(s) == '-' || is_digit(peek(s)))
            return scan_number(s);
        return wrong(s, "something that is no value");
    }
}

static int compare_keys(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Look for a key that one object holds twice, in the whole tree. `keys` has
 * room for every value of the text. Returns the key or NULL. */
static const char *duplicate_key(const cJSON *json, const char **keys)
{
    const cJSON *child;
    const char *key;
    size_t n = 0;

    if (cJSON_IsObject(json)) {
        cJSON_ArrayForEach(child, json)
            keys[n++] = child->string;
        qsort(keys, n, sizeof(*keys), compare_keys);
        for (size_t i = 1; i < n; i++)
            if (!strcmp(keys[i - 1], keys[i]))
                return keys[i];
    }
    cJSON_ArrayForEach(child, json)
        if (child->child && (key = duplicate_key(child, keys)))
            return key;
    return NULL;
}

int cv_json_parse(cJSON **json, const char *text, size_t size,
                  const char *path, CvLog *log)
{
    const unsigned char *begin = (const unsigned char *)text;
    Scan s = { .at = begin, .end = begin + size };
    char printable[CV_PRINTABLE];
    const char **keys, *key;

    *json = NULL;
    if (!scan_value(&s, 0)) {
        skip_blanks(&s);
        if (s.at < s.end)
            wrong(&s, "more text after the end of the value");
    }
    if (s.wrong) {
        size_t line = 1, column = 1;

        for (const unsigned char *p = begin; p < s.at; p++) {
            column = *p == '\n' ? 1 : column + 1;
            line += *p == '\n';
        }
        return cv_fail(log, EILSEQ, "'%s' is damaged: its JSON has, at line "
                       "%zu, column %zu, %s; get or write the file again",
                       path, line, column, s.wrong);
    }
    *json = cJSON_ParseWithLengthOpts(text, size, NULL, 0);
    keys = malloc(s.values * sizeof(*keys));
    if (!*json || !keys) {
        cJSON_Delete(*json);
        free(keys);
        *json = NULL;
        return cv_fail_memory(log, s.values * 100 + size, path);
    }
    key = duplicate_key(*json, keys);
    if (key)
        cv_printable(printable, key);
    free(keys);
    if (!key)
        return 0;
    cJSON_Delete(*json);
    *json = NULL;
    return cv_fail(log, EILSEQ, "'%s' is damaged: its JSON has '%s' twice in "
                   "one object; get or write the file again", path, printable);
}

int cv_json_size(const cJSON *item, int64_t *value)
{
    double v;

    if (!cJSON_IsNumber(item))
        return 0;
    v = item->valuedouble;
    if (!(v >= 0 && v <= (double)CV_JSON_MAX_INT) || v != (double)(int64_t)v)
        return 0;
    *value = (int64_t)v;
    return 1;
}

const char *cv_printable(char text[CV_PRINTABLE], const char *string)
{
    size_t n = 0;

    for (; string[n] && n < CV_PRINTABLE - 4; n++) {
        unsigned char c = (unsigned char)string[n];

        text[n] = (char)(c < 0x20 || c == 0x7f ? '?' : c);
    }
    if (string[n]) {
        while (n && ((unsigned char)string[n] & 0xc0) == 0x80)
            n--; /* not in the middle of a character */
        memcpy(text + n, "...", 3);
        n += 3;
    }
    text[n] = 0;
    return text;
}
