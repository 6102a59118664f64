/*
 * Which CUDA backend a test runs on: the emulated one, or with --gpu a GPU's.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * Include after tap.h.
 */
#ifndef CV_TESTS_MODULE_H
#define CV_TESTS_MODULE_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Let the library load that module of the build. Returns 1 for a GPU. */
static inline int use_module(int argc, char **argv)
{
    const int gpu = argc > 1 && !strcmp(argv[1], "--gpu");
    const char *build = getenv("CAUSVID_BUILD");
    char module[4200];

    snprintf(module, sizeof(module), "%s/%s/libcausvid_cuda.so",
             build ? build : "build", gpu ? "lib" : "emulator");
    if (access(module, R_OK))
        tap_bail("%s is missing: make tests", module);
    setenv("CAUSVID_CUDA_MODULE", module, 1);
    return gpu;
}

#endif /* CV_TESTS_MODULE_H */
