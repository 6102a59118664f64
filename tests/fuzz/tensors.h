/*
 * What the fuzz targets of the containers do with a file.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#ifndef CV_FUZZ_TENSORS_H
#define CV_FUZZ_TENSORS_H

#include "lines.h"
#include "weights/reader.h"

/* Open the file, look at every byte of every tensor, translate the names as
 * one kind's or another's, and load all into the CPU backend. Crashes when
 * something is not as promised. */
void fuzz_container(Lines *lines, const uint8_t *data, size_t size,
                    const char *path);

#endif /* CV_FUZZ_TENSORS_H */
