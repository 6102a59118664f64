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

/* A file; ends the program when it cannot be read. */
Blob blob_load(const char *path);

/* Exactly the first n bytes, in memory of that size. */
Blob blob_part(Blob blob, size_t n);
void blob_free(Blob *blob);

/* 1 when a tensor's elements, read all at once and one by one, are those that
 * data/make_weights.py and make_containers.py write. */
int holds_pattern(const CvEntry *entry);

/* The same of the tensor of this name, type and shape ("F32 [2, 3]"). */
int has_pattern(CvWeights *weights, const char *name, const char *shape);

/* A new temporary folder; the static path is removed at exit. */
const char *temp_folder(void);

/* Write folder/name; name may hold a folder, which is made. Returns the path
 * in static memory, ends the program when that fails. */
const char *save_blob(const char *folder, const char *name, Blob blob);
const char *save_text(const char *folder, const char *name, const char *text);

/* $CAUSVID_SRC/tests/unit/data/NAME in static memory. */
const char *data_path(const char *name);

/* A file is opened, all of it in memory that ends where the file does; each
 * element of each tensor is looked at. 1 when it is refused with `error` and a
 * line that has its parts (lines_error()); error 0: when it opens. The file is
 * one of the fuzzers' corpus, $CAUSVID_SRC/tests/fuzz/corpus/NAME. */
int corpus_gives(Lines *lines, const char *name, int error, const char *parts);

#endif /* CV_TESTS_WEIGHTS_UTIL_H */
