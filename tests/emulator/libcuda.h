/*
 * What libcuda.c and the emulated backend know of each other.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * They are loaded apart: FFmpeg opens the one, the library the other. All that
 * passes between them is a context, given by FFmpeg or the primary one of a
 * device.
 */
#ifndef CV_EMULATED_LIBCUDA_H
#define CV_EMULATED_LIBCUDA_H

#include <stdint.h>

#define EMULATED_CONTEXT 0x43784376u

/* A symbol that a real driver does not have. */
#define EMULATED_DRIVER "cv_emulated_driver"

/* How a CUcontext of either begins. */
typedef struct EmulatedContext {
    uint32_t magic; /* EMULATED_CONTEXT */
    int device;
    /* Let the memory of who made it be touched (1), or no more (0); calls
     * nest. NULL: that is seen to already. */
    void (*touch)(int open);
} EmulatedContext;

#endif /* CV_EMULATED_LIBCUDA_H */
