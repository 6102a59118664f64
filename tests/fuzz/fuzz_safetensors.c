/*
 * Fuzz target: a safetensors file is opened, its names are translated, and
 * what it holds is loaded into the CPU backend.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#include "tensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static Lines lines;

    if (!lines.log.write)
        lines_init(&lines);
    fuzz_container(&lines, data, size, "m.safetensors");
    return 0;
}
