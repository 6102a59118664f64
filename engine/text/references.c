/*
 * Character references of HTML: "&amp;", "&#x2019;".
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * Two readers, as ftfy and Python's html.unescape differ in what they take.
 */
#include "codepoints.h"
#include "entities.h"

static int is_digit(int32_t c)
{
    return c >= '0' && c <= '9';
}

int cv_is_letter(int32_t c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

static int hex_value(int32_t c)
{
    if (is_digit(c))
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

/* What bytes 0x80 to 0x9f are in windows-1252; 0: nothing. */
static const int32_t windows_1252[32] = {
    0x20ac, 0,      0x201a, 0x0192, 0x201e, 0x2026, 0x2020, 0x2021,
    0x02c6, 0x2030, 0x0160, 0x2039, 0x0152, 0,      0x017d, 0,
    0,      0x2018, 0x2019, 0x201c, 0x201d, 0x2022, 0x2013, 0x2014,
    0x02dc, 0x2122, 0x0161, 0x203a, 0x0153, 0,      0x017e, 0x0178,
};

int32_t cv_from_c1(int32_t c)
{
    return c >= 0x80 && c <= 0x9f && windows_1252[c - 0x80] ?
           windows_1252[c - 0x80] : c;
}

/* The character of a numeric reference, -1 for none. */
static int32_t numeric_character(int32_t c)
{
    if (c == 0 || (c >= 0xd800 && c <= 0xdfff) || c > 0x10ffff)
        return 0xfffd;
    if (c >= 0x80 && c <= 0x9f)
        return cv_from_c1(c);
    if ((c < 0x20 && c != '\t' && c != '\n' && c != '\f' && c != '\r') ||
        c == 0x7f || (c >= 0xfdd0 && c <= 0xfdef) || (c & 0xfffe) == 0xfffe)
        return -1;
    return c;
}

/*
 * Decode the "&#..." at i. Returns the code points it takes, 0 when it is no
 * reference. *c is what it stands for, -1 for nothing.
 */
static size_t read_numeric(const CvCodepoints *t, size_t i, int32_t *c)
{
    size_t begin = i + 2, end;
    int base = 10;
    int32_t value = 0;

    if (i + 1 >= t->n || t->cp[i] != '&' || t->cp[i + 1] != '#')
        return 0;
    if (begin < t->n && (t->cp[begin] == 'x' || t->cp[begin] == 'X')) {
        base = 16;
        begin++;
    }
    for (end = begin; end < t->n; end++) {
        int digit = hex_value(t->cp[end]);

        if (digit < 0 || digit >= base)
            break;
        if (value <= 0x10ffff)
            value = value * base + digit;
    }
    if (end == begin)
        return 0;
    *c = numeric_character(value);
    if (end < t->n && t->cp[end] == ';')
        end++;
    return end - i;
}

/* The whole table, and with `bare` only the names that need no ';'. */
static const CvEntity *find_entity(const int32_t *name, size_t n, int bare)
{
    char ascii[CV_ENTITY_NAME + 1];
    const CvEntity *entity;

    if (n > CV_ENTITY_NAME)
        return NULL;
    for (size_t i = 0; i < n; i++) {
        if (!is_digit(name[i]) && !cv_is_letter(name[i]))
            return NULL;
        ascii[i] = (char)name[i];
    }
    ascii[n] = 0;
    entity = cv_entity_find(ascii);
    return entity && (entity->bare || !bare) ? entity : NULL;
}

void cv_unescape(CvCodepoints *out, const CvCodepoints *in)
{
    size_t i = 0, used, n;

    while (i < in->n) {
        const int32_t *name = in->cp + i + 1;
        const CvEntity *entity = NULL;
        int32_t c;

        if ((used = read_numeric(in, i, &c))) {
            if (c >= 0)
                cv_push(out, c);
            i += used;
            continue;
        }
        if (in->cp[i] == '&') {
            for (n = 0; n < 32 && i + 1 + n < in->n; n++)
                if (name[n] == '\t' || name[n] == '\n' || name[n] == '\f' ||
                    name[n] == ' ' || name[n] == '<' || name[n] == '&' ||
                    name[n] == '#' || name[n] == ';')
                    break;
            if (i + 1 + n < in->n && name[n] == ';' &&
                (entity = find_entity(name, n, 0)))
                n++;
            for (; !entity && n >= 2; n -= !entity)
                entity = find_entity(name, n, 1);
            if (entity) {
                cv_push_utf8(out, entity->text);
                i += 1 + n;
                continue;
            }
        }
        cv_push(out, in->cp[i++]);
    }
}

/* The text of the strict reference "&name;" whose name has n characters; NULL
 * when there is none. */
static const char *strict_entity(const int32_t *name, size_t n)
{
    const CvEntity *entity = find_entity(name, n, 0);
    int32_t lower[24];

    if (entity)
        return entity->text;
    for (size_t i = 0; i < n; i++) {
        if (name[i] >= 'a' && name[i] <= 'z')
            return NULL;
        lower[i] = is_digit(name[i]) ? name[i] : name[i] - 'A' + 'a';
    }
    entity = find_entity(lower, n, 0);
    return entity ? entity->upper : NULL;
}

void cv_unescape_strictly(CvCodepoints *out, const CvCodepoints *in)
{
    size_t i = 0;

    while (i < in->n) {
        const int32_t *name = in->cp + i + 1;
        const char *text = NULL;
        size_t n = 0, left = in->n - i - 1, hash = 0;
        int32_t c = 0;

        if (in->cp[i] == '&') {
            hash = left > 0 && name[0] == '#';
            for (n = hash; n < left && n < 24 + hash; n++)
                if (!is_digit(name[n]) && !cv_is_letter(name[n]))
                    break;
        }
        if (n == hash || n == left || name[n] != ';') {
            cv_push(out, in->cp[i++]);
            continue;
        }
        n += 2; /* the whole reference */
        if (hash && read_numeric(in, i, &c) == n && c != ';') {
            if (c >= 0)
                cv_push(out, c);
        } else if (!hash && (text = strict_entity(name, n - 2))) {
            cv_push_utf8(out, text);
        } else {
            for (size_t k = 0; k < n; k++)
                cv_push(out, in->cp[i + k]);
        }
        i += n;
    }
}
