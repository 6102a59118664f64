/*
 * Weight files for tests, sound and damaged, and the lines that they cause.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#ifndef CV_TESTS_WEIGHTS_UTIL_H
#define CV_TESTS_WEIGHTS_UTIL_H

#include "weights/weights.h"

/* A log that remembers. Set it up with lines_init(). */
typedef struct Lines {
    CvLog log;
    int errors, warnings; /* lines since the last look */
    int bad;              /* lines with control characters, or empty ones */
    char error[2048];     /* the last line of the kind */
    char warning[2048];
} Lines;

void lines_init(Lines *lines);

/* 1 when since the last look there was exactly one error line, which holds each
 * of the parts that `parts` lists with '|' between them, and forget it. */
int lines_error(Lines *lines, const char *parts);

/* 1 when there was no error line and no warning. */
int lines_none(Lines *lines);

/* Bytes that were malloced. */
typedef struct Blob {
    uint8_t *data;
    size_t size;
} Blob;

typedef struct StTensor {
    const char *name;
    CvType type;
    int n_dims;
    int64_t dim[5];
    const void *data; /* NULL: zeros */
} StTensor;

/* A safetensors file of a header as it stands here and `n_data` zeros. */
Blob st_raw(const char *header, size_t n_data);

/* A sound safetensors file; `pad` spaces after the header move the data, so
 * that 0..7 makes every alignment. */
Blob st_write(const StTensor *tensors, int n, int pad);

/* Exactly the first n bytes, in memory of that size. */
Blob blob_part(Blob blob, size_t n);
void blob_free(Blob *blob);

/* A new temporary folder; the static path is removed at exit. */
const char *temp_folder(void);

/* Write folder/name; name may hold a folder, which is made. Returns the path
 * in static memory, ends the program when that fails. */
const char *save_blob(const char *folder, const char *name, Blob blob);
const char *save_text(const char *folder, const char *name, const char *text);

/* $CAUSVID_SRC/tests/unit/data/NAME in static memory. */
const char *data_path(const char *name);

#endif /* CV_TESTS_WEIGHTS_UTIL_H */
