/*
 * Where a model's parts lie: folder layouts, JSON files.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#ifndef CV_FILES_H
#define CV_FILES_H

#include <cjson/cJSON.h>

#include "log.h"

#define CV_PATH_SIZE 4096
#define CV_KEY_SIZE  128

/* Paths of a model's parts. Empty string: not there. */
typedef struct CvModelFiles {
    char root[CV_PATH_SIZE];
    char transformer[CV_PATH_SIZE];        /* file, index or folder */
    char checkpoint_key[CV_KEY_SIZE];      /* which weights of it, or "" */
    char transformer_config[CV_PATH_SIZE]; /* config.json or "" */
    char text_encoder[CV_PATH_SIZE];
    char text_encoder_config[CV_PATH_SIZE];
    char vae[CV_PATH_SIZE];
    char vae_config[CV_PATH_SIZE];
    char tokenizer[CV_PATH_SIZE];          /* spiece.model, */
    int tokenizer_embedded;                /* or weights that hold one */
    char recipe[CV_PATH_SIZE];             /* recipe.json or "" */
} CvModelFiles;

/* Find the parts of settings->model (a folder, a transformer's file, a file
 * with all networks, or "random:NAME"), or where text_encoder, vae and
 * tokenizer say. What is not named lies in the same file, beside it, or in the
 * usual places around (places.c).
 * ENOENT names the part that is missing, where it was looked for, and the
 * option that gives it. */
int cv_files_find(CvModelFiles *files, const CausvidSettings *settings,
                  CvLog *log);

/* Models of random weights, for measuring: "random:wan-1.3b" and so on.
 * cv_random_is(): is it the name of one, or of one of its parts? There need not
 * be one of that name. cv_random_files(): the parts. ENOENT. random.c */
#define CV_RANDOM "random:"
int cv_random_is(const char *path);
int cv_random_files(CvModelFiles *files, const char *model, CvLog *log);

/* What a folder holds that could be weights: indexes; without one, files of
 * safetensors; without one, of PyTorch; without one, of GGUF. */
typedef struct CvFolder {
    char path[CV_PATH_SIZE]; /* the only index, or the only file; else "" */
    int n_indexes, n_files;
    char names[256];         /* of these; may be cut */
} CvFolder;

/* List a folder's files whose names begin with `prefix` and match none of the
 * patterns `except` (NULL: none), which are in lower case. ENOENT, EIO. */
int cv_folder_scan(CvFolder *folder, const char *path, const char *prefix,
                   const char *const *except, CvLog *log);

/* The first file of weights, by name, that matches the first of the patterns
 * that any does; "" when none does. Patterns are of lower-case names; NULL ends
 * them. ENOENT, EIO. */
int cv_folder_first(char file[CV_PATH_SIZE], const char *path,
                    const char *const *patterns, CvLog *log);

/* The index, or the one file of weights, that a folder stands for. ENOENT:
 * none; EILSEQ: several, listed. */
int cv_folder_weights(char file[CV_PATH_SIZE], const char *path,
                      const char *prefix, CvLog *log);

/* Parse a JSON file (at most 64 MiB, nesting bounded). ENOENT, EILSEQ with the
 * place of the error, EIO, ENOMEM. Free with cJSON_Delete(). */
int cv_json_read(cJSON **json, const char *path, CvLog *log);

/* Typed look-ups in an object. Absent or null: 0 and *value stays. Wrong type
 * or out of [min, max]: EILSEQ naming file, key, value and range. */
int cv_json_int(const cJSON *object, const char *path, const char *key,
                int64_t min, int64_t max, int64_t *value, CvLog *log);
int cv_json_number(const cJSON *object, const char *path, const char *key,
                   double min, double max, double *value, CvLog *log);
/* Copies into value[size]; longer strings, and control characters, which a log
 * line must not hold, are EILSEQ. */
int cv_json_string(const cJSON *object, const char *path, const char *key,
                   char *value, size_t size, CvLog *log);
int cv_json_bool(const cJSON *object, const char *path, const char *key,
                 int *value, CvLog *log);
/* Array of numbers: *n in: room in values; out: how many. Absent: *n = 0. */
int cv_json_numbers(const cJSON *object, const char *path, const char *key,
                    double *values, int *n, CvLog *log);

#endif /* CV_FILES_H */
