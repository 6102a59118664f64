/*
 * SHA-256 (FIPS 180-4): what a cache knows files and prompts by.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#ifndef CV_SHA256_H
#define CV_SHA256_H

#include <stddef.h>
#include <stdint.h>

#define CV_SHA256_BYTES 32
#define CV_SHA256_TEXT  65 /* hexadecimal, with a NUL */

typedef struct CvSha256 {
    uint32_t h[8];
    uint64_t bytes; /* so far */
    uint8_t block[64];
} CvSha256;

void cv_sha256_init(CvSha256 *s);
void cv_sha256_add(CvSha256 *s, const void *data, size_t n);
void cv_sha256_end(CvSha256 *s, uint8_t digest[CV_SHA256_BYTES]);
void cv_sha256_text(char text[CV_SHA256_TEXT],
                    const uint8_t digest[CV_SHA256_BYTES]);

#endif /* CV_SHA256_H */
