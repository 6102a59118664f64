/*
 * Bounded parsing of JSON text that nobody vouches for.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * cJSON builds the tree, but only of text that a strict scan has passed first:
 * cJSON alone reads past some damaged texts (in versions that distributions
 * still ship), accepts what JSON does not, cuts strings at \u0000, keeps
 * duplicate keys, and takes 80 bytes of memory for two bytes of input.
 */
#ifndef CV_JSON_H
#define CV_JSON_H

#include <cjson/cJSON.h>

#include "log.h"

#define CV_JSON_MAX_DEPTH 32
#define CV_JSON_MAX_VALUES (1 << 20) /* about 100 MB of tree */

/* Largest integer that a double holds together with its neighbours; cJSON
 * keeps every number as a double. */
#define CV_JSON_MAX_INT ((INT64_C(1) << 53) - 1)

/* Parse `size` bytes. EILSEQ names `path`, line, column and the reason: not
 * JSON (RFC 8259), not UTF-8, NUL in a string, control characters in a key,
 * nested or long beyond the limits, the same key twice in one object. ENOMEM.
 * Free with cJSON_Delete(). `text` need not end in NUL. */
int cv_json_parse(cJSON **json, const char *text, size_t size,
                  const char *path, CvLog *log);

/* 1 and *value when the item is an integer in 0..CV_JSON_MAX_INT, else 0. */
int cv_json_size(const cJSON *item, int64_t *value);

/* A string of a file, cut and without control characters, fit for a log line.
 * Returns text. */
#define CV_PRINTABLE 96
const char *cv_printable(char text[CV_PRINTABLE], const char *string);

#endif /* CV_JSON_H */
