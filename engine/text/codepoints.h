/*
 * Text as code points, and the steps of cleaning that live in other files.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#ifndef CV_CODEPOINTS_H
#define CV_CODEPOINTS_H

#include <stddef.h>
#include <stdint.h>

typedef struct CvCodepoints {
    int32_t *cp;
    size_t n, room;
    int failed; /* out of memory; nothing more is added */
} CvCodepoints;

/* clean.c */
void cv_push(CvCodepoints *t, int32_t cp);
/* Append UTF-8 that is known to be valid. */
void cv_push_utf8(CvCodepoints *t, const char *s);

/* references.c */

/* ASCII letters only. */
int cv_is_letter(int32_t c);

/* What windows-1252 has at 0x80 to 0x9f instead of control characters; other
 * characters and the five holes stay. */
int32_t cv_from_c1(int32_t c);

/* html.unescape: every reference, also those that the standard tolerates
 * without ';', also at the start of a longer word. */
void cv_unescape(CvCodepoints *out, const CvCodepoints *in);

/* ftfy's unescape_html: only references that end in ';', and names in
 * capitals. Numeric ones that do not use up the ';' stay as they are. */
void cv_unescape_strictly(CvCodepoints *out, const CvCodepoints *in);

#endif /* CV_CODEPOINTS_H */
