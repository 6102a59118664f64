/*
 * Lists of test vectors: lines of fields between tabs.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * A field is printable ASCII; "\\" is a backslash, "\u{2019}" a character.
 */
#ifndef CV_TESTS_VECTORS_H
#define CV_TESTS_VECTORS_H

#include <stdio.h>

/* Open `name` in the folder of test data: tests/unit/data of the source tree
 * (CAUSVID_SRC, else the current folder). NULL when it is not there. */
FILE *vectors_open(const char *name);

/* Path of such a file, in static memory. */
const char *vectors_path(const char *name);

/* Read the next line into *line (see getline()) and point fields[] to its n
 * unescaped fields. 1, or 0 at the end of the file, or -1 for a bad line. */
int vectors_next(FILE *file, char **line, size_t *room, char **fields, int n);

#endif /* CV_TESTS_VECTORS_H */
