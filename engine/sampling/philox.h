/*
 * Philox 4x32-10: random words that are a function of a counter and a key.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as
 * 1, 2, 3", SC 2011 (Random123).
 */
#ifndef CV_PHILOX_H
#define CV_PHILOX_H

#include <stdint.h>

void cv_philox4x32(uint32_t out[4], const uint32_t counter[4],
                   const uint32_t key[2]);

#endif /* CV_PHILOX_H */
