/*
 * Models put together of fixtures' parts, run by `causvid trace`, and what it
 * writes compared.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * All have the configs, recipe and tokenizer of one small model
 * (tests/model/make/containers.py); what differs is how its weights are
 * written. Whatever cannot fail in a healthy tree ends the program.
 */
#ifndef CV_TESTS_TRACED_H
#define CV_TESTS_TRACED_H

#include "weights/weights.h"

/* $CAUSVID_SRC, $CAUSVID_BUILD, and the folder that the models are made in,
 * which is removed at exit. */
extern const char *traced_src, *traced_build;
extern char traced_folder[];

/* Call it first. */
void traced_begin(void);

/* Make the model folder/name. transformer, text_encoder, vae: folders below
 * tests/model/fixtures that hold these parts' weights; NULL: as safetensors
 * that nobody quantised. */
void traced_model(const char *name, const char *transformer,
                  const char *text_encoder, const char *vae);

/* Run it with further options of trace. What that wrote. */
CvWeights *traced_run(const char *name, const char *options);

/* Of frames in 0..1; infinite when they are the same. */
double traced_psnr(CvWeights *a, CvWeights *b);

/* How many tensors were written, frames among them, when all of them are the
 * same, bit by bit; else 0, and the names of the others are printed. */
int64_t traced_same(CvWeights *got, CvWeights *want);

#endif /* CV_TESTS_TRACED_H */
