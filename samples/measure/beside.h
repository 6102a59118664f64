/*
 * Clips beside those of another run: saved, and compared by PSNR.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#ifndef BESIDE_H
#define BESIDE_H

#include <stddef.h>
#include <stdint.h>

typedef struct Beside Beside;

/* Files of raw rgb24 clips, one behind the other: `save` is written, `against`
 * read; either may be NULL. NULL after a line on stderr. */
Beside *beside_open(const char *save, const char *against);

/* The next clip. -1 after a line on stderr. */
int beside_clip(Beside *b, const uint8_t *rgb, size_t bytes,
                const char *prompt);

/* Print what was found; -1 when a file could not be written, or is longer than
 * the clips compared with it. */
int beside_print(Beside *b);
void beside_close(Beside *b);

#endif /* BESIDE_H */
