/*
 * Inner loops for any machine: vectors of four floats, which compilers turn
 * into what there is.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#define CV_SIMD 0
#include "cpu/kernels_template.h"

TABLE(generic);
