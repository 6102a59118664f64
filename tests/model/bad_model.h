/*
 * Copies of the fixture model with one thing damaged, and what opening and
 * running them comes to.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * The copy lies in a scratch folder below $CAUSVID_BUILD; files are named as
 * they lie in the model ("vae/config.json"). Whatever cannot fail in a healthy
 * tree ends the program.
 */
#ifndef CV_TESTS_BAD_MODEL_H
#define CV_TESTS_BAD_MODEL_H

#include <stddef.h>
#include <stdint.h>

#include "causvid.h"

#define DIT_FILE  "transformer/diffusion_pytorch_model.safetensors"
#define TEXT_FILE "text_encoder/model.safetensors"
#define VAE_FILE  "vae/diffusion_pytorch_model.safetensors"
#define SPIECE    "tokenizer/spiece.model"

/* ---- the copy ---- */

/* Make the copy, or put back in it what the functions below have changed. What
 * lies beside it is removed. */
void model_reset(void);

/* Path of a file of the copy; "" is the copy. It lies in static memory that the
 * fifth call from now reuses. Names may begin with "../": beside the model. */
const char *model_file(const char *name);

/* Size of a file of the copy. */
size_t file_size(const char *name);

/* Remove a file or a folder with all that is in it. */
void file_remove(const char *name);

/* Copy a file or folder of the copy to another name in it. */
void file_copy(const char *from, const char *to);

/* Write a file anew. */
void file_write(const char *name, const void *data, size_t n);
void file_text(const char *name, const char *text);

/* Cut a file to n bytes, or let it grow by zeros that take no room. */
void file_resize(const char *name, size_t n);

/* Set the permissions of a file or folder. */
void file_mode(const char *name, unsigned mode);

/* Turn over bit `bit` (counted from the start of the file). */
void file_flip(const char *name, size_t bit);

/* Replace `key` of a JSON file by a value given as JSON; NULL: remove it. */
void json_set(const char *name, const char *key, const char *value);

/* ---- safetensors files of the copy ---- */

/* Bytes of the header, without the 8 that tell its length. */
size_t st_header(const char *name);

/* Put `text` in place of the header, with its length. */
void st_set_header(const char *name, const char *text);

/* Replace the first `from` of the header by `to`, with its length. */
void st_edit(const char *name, const char *from, const char *to);

/* Replace a tensor by zeros of another shape; a new name adds one. dims: "" for
 * no dimension. NULL: remove the tensor and its data. */
void st_tensor(const char *name, const char *tensor, const char *dtype,
               const char *dims);

/* As F32: multiply every element of the tensors whose name begins with
 * `prefix` by `factor`. */
void st_scale(const char *name, const char *prefix, float factor);

/* As F32: set element `index` of a tensor. */
void st_put(const char *name, const char *tensor, size_t index, float value);

/* ---- what came of it ---- */

typedef struct Outcome {
    const char *call;  /* that failed: "open", "start", "read"; "" when none */
    int error;         /* its value; 0 when all frames were read */
    int frames;        /* that were read */
    uint64_t hash;     /* of their pixels */
    int errors, warnings;
    int bad;           /* lines that are empty or hold control characters */
    char line[4096];   /* the last ERROR or WARNING line */
} Outcome;

/* Open a model as `settings` say (NULL: the copy) and read `frames` frames of
 * a clip of so many, at the recipe's size. */
Outcome try_model(const CausvidSettings *settings, int frames);

/* 1 when `call` failed with this error and one line that has every part of
 * "a|b|c", before a frame was read. */
int is_refused(const Outcome *o, const char *call, int error,
               const char *parts);

/* 1 when all frames were read, with these pixels, and nothing was said. */
int is_unharmed(const Outcome *o, int frames, uint64_t hash);

/* For a check that failed. */
void print_outcome(const Outcome *o);

/* 1 when the line holds every part of "a|b|c". */
int line_has(const Outcome *o, const char *parts);

/* The line without the path of the scratch folder, to print. */
const char *line_text(const Outcome *o);

#endif /* CV_TESTS_BAD_MODEL_H */
