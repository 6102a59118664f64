/*
 * Little-endian integers at any address.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#ifndef CV_BYTES_H
#define CV_BYTES_H

#include <stdint.h>

static inline uint32_t cv_le16(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8;
}

static inline uint32_t cv_le32(const uint8_t *p)
{
    return cv_le16(p) | cv_le16(p + 2) << 16;
}

static inline uint64_t cv_le64(const uint8_t *p)
{
    return (uint64_t)cv_le32(p) | (uint64_t)cv_le32(p + 4) << 32;
}

#endif /* CV_BYTES_H */
