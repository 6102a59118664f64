/*
 * Files with the weights of the engine's random models.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#ifndef TESTS_RANDOM_FILE_H
#define TESTS_RANDOM_FILE_H

#include "log.h"

/* Write "random:NAME/PART" (weights/random.c) to a safetensors file: what is
 * loaded from it is the same to the bit. Of networks with "blocks.N." only the
 * first `blocks`, -1: all. 0 or a negative CAUSVID_ERR, logged. */
int write_random_file(const char *path, const char *source, int blocks,
                      int threads, CvLog *log);

#endif /* TESTS_RANDOM_FILE_H */
