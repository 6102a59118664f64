/*
 * Inner loops for machines with AVX2 and FMA.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#if defined(__x86_64__)
#define CV_SIMD 2
#include "cpu/kernels_template.h"

TABLE(avx2);

#ifdef __clang__
#pragma clang attribute pop
#endif
#else
/* A file must not be empty. */
extern int cv_no_such_kernels;
#endif
