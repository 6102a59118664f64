/*
 * Prompt cleaning, as Wan does it before its tokenizer.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * What runs here is, step by step, ftfy.fix_text (6.3) without its repair of
 * mojibake, html.unescape twice, and whitespace collapsed; checkpoints.md 4.3.
 * A prompt that is cleaned in another way gives other tokens and so another
 * video. Sources: rspeer/python-ftfy ftfy/fixes.py and ftfy/chardata.py,
 * Python's html/__init__.py, Wan2.1 wan/modules/tokenizers.py.
 *
 * Text is held as code points. Each step reads one text and writes the next.
 */
#include <stdlib.h>
#include <string.h>

#include <utf8proc.h>

#include "codepoints.h"
#include "text.h"

/* Far more than 512 tokens hold, and few enough to bound the work. */
#define MAX_PROMPT_BYTES (128 * 1024)

/* Nested references ("&amp;amp;lt;") are undone one level a pass. ftfy goes on
 * without end; a text that needs more passes than this is an attack. */
#define MAX_PASSES 100

void cv_push(CvCodepoints *t, int32_t cp)
{
    if (t->n == t->room) {
        size_t room = t->room ? t->room * 2 : 256;
        int32_t *grown = NULL;

        if (!t->failed && room <= SIZE_MAX / sizeof(*grown))
            grown = realloc(t->cp, room * sizeof(*grown));
        if (!grown) {
            t->failed = 1;
            return;
        }
        t->cp   = grown;
        t->room = room;
    }
    t->cp[t->n++] = cp;
}

void cv_push_utf8(CvCodepoints *t, const char *s)
{
    const utf8proc_uint8_t *bytes = (const utf8proc_uint8_t *)s;
    int32_t cp;

    while (*bytes) {
        bytes += utf8proc_iterate(bytes, -1, &cp);
        cv_push(t, cp);
    }
}

static void swap(CvCodepoints *a, CvCodepoints *b)
{
    CvCodepoints t = *a;

    *a = *b;
    *b = t;
}

/* Malloced UTF-8, ending in a zero; NULL when there is no memory. */
static char *to_utf8(const CvCodepoints *t)
{
    char *utf8 = malloc(4 * t->n + 1); /* t->n is bounded by the prompt */
    size_t n = 0;

    if (!utf8)
        return NULL;
    for (size_t i = 0; i < t->n; i++)
        n += (size_t)utf8proc_encode_char(t->cp[i],
                                          (utf8proc_uint8_t *)utf8 + n);
    utf8[n] = 0;
    return utf8;
}

/* ---- characters ---- */

/* ftfy's LIGATURES. */
static const struct {
    int32_t from;
    const char *to;
} ligatures[] = {
    { 0x0132, "IJ" },       { 0x0133, "ij" },       { 0x0149, "\u02bcn" },
    { 0x01f1, "DZ" },       { 0x01f2, "Dz" },       { 0x01f3, "dz" },
    { 0x01c4, "D\u017d" },  { 0x01c5, "D\u017e" },  { 0x01c6, "d\u017e" },
    { 0x01c7, "LJ" },       { 0x01c8, "Lj" },       { 0x01c9, "lj" },
    { 0x01ca, "NJ" },       { 0x01cb, "Nj" },       { 0x01cc, "nj" },
    { 0xfb00, "ff" },       { 0xfb01, "fi" },       { 0xfb02, "fl" },
    { 0xfb03, "ffi" },      { 0xfb04, "ffl" },      { 0xfb05, "\u017ft" },
    { 0xfb06, "st" },
};

static int32_t uncurl(int32_t c)
{
    if (c >= 0x201c && c <= 0x201f)
        return '"';
    if (c == 0x02bc || (c >= 0x2018 && c <= 0x201b))
        return '\'';
    return c;
}

/* Width, then quotes. Halfwidth and fullwidth forms become their
 * compatibility decomposition; the ideographic space a space. */
static void push_standard(CvCodepoints *out, int32_t c)
{
    utf8proc_int32_t wide[8];
    utf8proc_ssize_t n;
    int boundary = 0;

    if (c == 0x3000) {
        cv_push(out, ' ');
    } else if (c >= 0xff01 && c < 0xfff0) {
        n = utf8proc_decompose_char(c, wide, 8,
                                    UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT,
                                    &boundary);
        for (utf8proc_ssize_t i = 0; i < n && i < 8; i++)
            cv_push(out, uncurl(wide[i]));
    } else {
        cv_push(out, uncurl(c));
    }
}

/* C1 controls, ligatures, width and quotes: these look at one character. */
static void fix_characters(CvCodepoints *out, const CvCodepoints *in)
{
    const size_t n_ligatures = sizeof(ligatures) / sizeof(ligatures[0]);

    for (size_t i = 0; i < in->n; i++) {
        int32_t c = cv_from_c1(in->cp[i]);
        size_t k = n_ligatures;

        if (c >= 0x0132)
            for (k = 0; k < n_ligatures && ligatures[k].from != c; k++)
                ;
        if (k == n_ligatures) {
            push_standard(out, c);
            continue;
        }
        for (const char *part = ligatures[k].to; *part;) {
            part += utf8proc_iterate((const utf8proc_uint8_t *)part, -1, &c);
            push_standard(out, c);
        }
    }
}

static void fix_line_breaks(CvCodepoints *out, const CvCodepoints *in)
{
    for (size_t i = 0; i < in->n; i++) {
        int32_t c = in->cp[i];

        if (c == '\r' && i + 1 < in->n && in->cp[i + 1] == '\n')
            continue;
        cv_push(out, c == '\r' || c == 0x2028 || c == 0x2029 ? '\n' : c);
    }
}

/* ESC [ digits and semicolons letter. Python's \d is any decimal digit. */
static void remove_terminal_escapes(CvCodepoints *out, const CvCodepoints *in)
{
    size_t i = 0;

    while (i < in->n) {
        size_t end = i + 2;

        if (in->cp[i] == 0x1b && i + 1 < in->n && in->cp[i + 1] == '[') {
            while (end < in->n && (in->cp[end] == ';' ||
                   utf8proc_category(in->cp[end]) == UTF8PROC_CATEGORY_ND))
                end++;
            if (end < in->n && cv_is_letter(in->cp[end])) {
                i = end + 1;
                continue;
            }
        }
        cv_push(out, in->cp[i++]);
    }
}

static void remove_control_characters(CvCodepoints *out, const CvCodepoints *in)
{
    for (size_t i = 0; i < in->n; i++) {
        int32_t c = in->cp[i];

        if ((c < 0x20 && c != '\t' && c != '\n' && c != '\f' && c != '\r') ||
            c == 0x7f || (c >= 0x206a && c <= 0x206f) || c == 0xfeff ||
            (c >= 0xfff9 && c <= 0xfffc))
            continue;
        cv_push(out, c);
    }
}

static void compose(CvCodepoints *out, const CvCodepoints *in)
{
    utf8proc_uint8_t *nfc = NULL;
    char *utf8;
    size_t i;

    for (i = 0; i < in->n && in->cp[i] < 0x300; i++)
        cv_push(out, in->cp[i]);
    if (i == in->n)
        return; /* nothing below U+0300 ever changes */
    out->n = 0;
    utf8 = to_utf8(in);
    /* The text is valid, so the only way to fail is a lack of memory. */
    if (!utf8 || utf8proc_map((utf8proc_uint8_t *)utf8, 0, &nfc,
                              UTF8PROC_NULLTERM | UTF8PROC_STABLE |
                              UTF8PROC_COMPOSE) < 0)
        out->failed = 1;
    else
        cv_push_utf8(out, (char *)nfc);
    free(nfc);
    free(utf8);
}

/* ---- the whole ---- */

/* Run one step on *t; `other` is room for its output. */
static void step(void (*function)(CvCodepoints *out, const CvCodepoints *in),
                 CvCodepoints *t, CvCodepoints *other)
{
    other->n = 0;
    if (t->failed || other->failed)
        return;
    function(other, t);
    swap(t, other);
}

/* ftfy's fix_and_explain: all steps, again and again until nothing changes.
 * EINVAL, not logged, when it does not come to an end. */
static int fix_line(CvCodepoints *line, CvCodepoints *other, int references)
{
    CvCodepoints before = { 0 };
    int err = 0, pass, same = 0;

    for (pass = 0; pass < MAX_PASSES && !same; pass++) {
        before.n = 0;
        for (size_t i = 0; i < line->n; i++)
            cv_push(&before, line->cp[i]);
        if (references)
            step(cv_unescape_strictly, line, other);
        step(fix_characters, line, other);
        step(fix_line_breaks, line, other);
        step(remove_terminal_escapes, line, other);
        step(remove_control_characters, line, other);
        step(compose, line, other);
        if (line->failed || other->failed || before.failed)
            break;
        same = line->n == before.n &&
               (!line->n || !memcmp(line->cp, before.cp,
                                    line->n * sizeof(*line->cp)));
    }
    if (line->failed || other->failed || before.failed)
        err = CAUSVID_ERR(ENOMEM);
    else if (!same)
        err = CAUSVID_ERR(EINVAL);
    free(before.cp);
    return err;
}

/* What Python's str.isspace() and \s take for whitespace. */
static int is_space(int32_t c)
{
    return (c >= 0x09 && c <= 0x0d) || (c >= 0x1c && c <= 0x20) ||
           c == 0x85 || c == 0xa0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 ||
           c == 0x202f || c == 0x205f || c == 0x3000;
}

static void collapse_spaces(CvCodepoints *out, const CvCodepoints *in)
{
    for (size_t i = 0; i < in->n; i++) {
        if (!is_space(in->cp[i]))
            cv_push(out, in->cp[i]);
        else if (out->n && out->cp[out->n - 1] != ' ')
            cv_push(out, ' ');
    }
    if (out->n && out->cp[out->n - 1] == ' ')
        out->n--;
}

static int decode(CvCodepoints *out, const char *prompt, CvLog *log)
{
    const utf8proc_uint8_t *bytes = (const utf8proc_uint8_t *)prompt;
    size_t n = strlen(prompt), i = 0;

    if (n > MAX_PROMPT_BYTES)
        return cv_fail(log, EINVAL, "the prompt has %zu bytes, at most %d are "
                       "taken (and 512 tokens are used); shorten it", n,
                       MAX_PROMPT_BYTES);
    while (i < n) {
        utf8proc_int32_t c;
        utf8proc_ssize_t used = utf8proc_iterate(bytes + i,
                                                 (utf8proc_ssize_t)(n - i), &c);

        if (used <= 0)
            return cv_fail(log, EINVAL, "the prompt is not UTF-8: byte 0x%02x "
                           "at offset %zu; save it as UTF-8", bytes[i], i);
        cv_push(out, c);
        i += (size_t)used;
    }
    return 0;
}

int cv_clean_prompt(char **cleaned, const char *prompt, CvLog *log)
{
    CvCodepoints in = { 0 }, line = { 0 }, other = { 0 }, text = { 0 };
    int references = 1, err;

    *cleaned = NULL;
    if ((err = decode(&in, prompt, log)) < 0)
        goto end;
    for (size_t i = 0; i < in.n && !in.failed;) {
        /* ftfy goes line by line and takes the text for HTML, whose references
         * are not to be touched, from the first '<' on. */
        line.n = 0;
        do {
            references &= in.cp[i] != '<';
            cv_push(&line, in.cp[i]);
        } while (in.cp[i++] != '\n' && i < in.n);
        err = fix_line(&line, &other, references);
        if (err == CAUSVID_ERR(EINVAL))
            cv_fail(log, EINVAL, "the prompt is escaped more than %d times "
                    "(\"&amp;amp;...\"); unescape it", MAX_PASSES - 1);
        if (err < 0)
            goto end;
        for (size_t k = 0; k < line.n; k++)
            cv_push(&text, line.cp[k]);
    }
    step(cv_unescape, &text, &other);
    step(cv_unescape, &text, &other);
    step(collapse_spaces, &text, &other);
    if (!in.failed && !text.failed && !other.failed)
        *cleaned = to_utf8(&text);
    err = *cleaned ? 0 : CAUSVID_ERR(ENOMEM);

end:
    if (err == CAUSVID_ERR(ENOMEM))
        cv_fail_memory(log, strlen(prompt), "the prompt");
    free(in.cp);
    free(line.cp);
    free(other.cp);
    free(text.cp);
    return err;
}
