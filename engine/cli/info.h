/*
 * What `causvid info` says about the files of a model.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#ifndef CV_INFO_H
#define CV_INFO_H

#include "cli.h"

/* One of the networks, as its files are. */
typedef struct CvInfoPart {
    const char *title, *option; /* "text encoder", "text_encoder" */
    const char *path;
    const char *found;          /* "in the model's folder" */
    char container[32];         /* "safetensors" */
    char names[32];             /* "official", "diffusers", "llama.cpp" */
    int files;
    int64_t tensors, bytes;
    int64_t type_tensors[CV_TYPE_COUNT], type_bytes[CV_TYPE_COUNT];
} CvInfoPart;

#define CV_INFO_PARTS 3

/* transformer, text encoder, VAE of a model that is open: the files are opened
 * once more, for what the networks do not keep. */
int cv_info_parts(CvInfoPart parts[CV_INFO_PARTS], const CvModel *model,
                  const CausvidSettings *settings);

/* Where the tokenizer was found. */
const char *cv_info_tokenizer(const CvModel *model,
                              const CausvidSettings *settings);

/* The lines under a part's description. */
void cv_info_print(const CvInfoPart *part);

/* An object, or NULL when there is no memory. */
cJSON *cv_info_json(const CvInfoPart *part);

/* Add a value to an object, which takes it over; -1 when either is NULL. */
int cv_info_add(cJSON *object, const char *key, cJSON *value);

/* Print an object as JSON, indented or in one line; -1 when there is no memory. */
int cv_info_puts(const cJSON *object, int indented);

#endif /* CV_INFO_H */
