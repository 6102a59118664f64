/*
 * The names in LoRA files.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#ifndef CV_LORA_NAMES_H
#define CV_LORA_NAMES_H

#include "weights/reader.h"

typedef enum CvLoraRole {
    CV_LORA_DOWN,   /* [rank, in] */
    CV_LORA_UP,     /* [out, rank] */
    CV_LORA_ALPHA,
    CV_LORA_DIFF,   /* of the weight, */
    CV_LORA_DIFF_B, /* of the bias, */
    CV_LORA_DIFF_M, /* of the modulation */
    CV_LORA_ROLES
} CvLoraRole;

/* What a file has for one module of the network. */
typedef struct CvLoraModule {
    char *name; /* without what programs put in front */
    int flat;   /* '_' stands where the network's name has '.' */
    const CvEntry *entry[CV_LORA_ROLES];
} CvLoraModule;

/* Sort a file's entries by modules. EILSEQ: no LoRA, or an entry twice; ENOSYS:
 * an entry of a kind that is not supported; ENOMEM. */
int cv_lora_modules(CvLoraModule **modules, int64_t *n, CvWeights *file,
                    CvLog *log);
void cv_lora_modules_free(CvLoraModule **modules, int64_t n);

/* Is it a name of what only models with an image input have? */
int cv_lora_is_image(const char *name);

/* The network's tensors by all names that files have for them. */
typedef struct CvLoraTargets CvLoraTargets;

int cv_lora_targets(CvLoraTargets **targets, CvWeights *model, CvLog *log);
void cv_lora_targets_free(CvLoraTargets **targets);
/* member: "weight", "bias", "modulation". NULL: there is none. */
CvEntry *cv_lora_target(CvLoraTargets *targets, const CvLoraModule *module,
                        const char *member);

#endif /* CV_LORA_NAMES_H */
