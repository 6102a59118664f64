/*
 * The quantised blocks of GGUF files, for every backend.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * A block of 32 or 256 numbers holds small integers ("levels") and what they
 * are multiplied by; 16 numbers in a row always share that. A number is
 * scale * level - offset, where every product but that of Q6_K is exact in
 * float32: the result does not depend on whether a compiler fuses the two.
 *
 *         bytes of a block, in their order (d, m: half precision)
 * Q4_0    d, 16: levels i and i + 16 in one byte; level - 8
 * Q4_1    d, m, 16: as Q4_0, no 8 off; + m
 * Q5_0    d, 4: fifth bits, 16; level - 16
 * Q5_1    d, m, 4, 16; + m
 * Q8_0    d, 32
 * Q2_K    16: scale and offset of 16 numbers each, 64, d, m
 * Q3_K    32: third bits (0: level - 4), 64, 12: scales of 6 bits, d
 * Q4_K    d, m, 12: scales and offsets of 6 bits of 32 numbers each, 128
 * Q5_K    d, m, 12, 32: fifth bits, 128
 * Q6_K    128: low four bits, 64: high two, 16: scales, d
 * Source: the reference that tests compare with, bit by bit: ggml-org/llama.cpp
 * gguf-py/gguf/quants.py (dequantize_blocks of each type).
 */
#ifndef CV_BLOCKS_H
#define CV_BLOCKS_H

#include <string.h>

#include "tensor.h"

#ifdef __CUDACC__
#define CV_BLOCK_INLINE static __host__ __device__ __forceinline__
#else
#define CV_BLOCK_INLINE static inline
#endif

/* Numbers that share scale and offset. */
#define CV_BLOCK_GROUP 16

typedef struct CvBlockScale {
    float scale, offset;
} CvBlockScale;

/* Infinities and NaN become NaN. */
CV_BLOCK_INLINE float cv_block_half(const uint8_t *p)
{
    uint32_t v = (uint32_t)p[0] | (uint32_t)p[1] << 8;
    uint32_t bits = (v & 0x7c00) == 0x7c00 ? 0x7fc00000u : (v & 0x7fff) << 13;
    float f;

    memcpy(&f, &bits, sizeof(f));
    f *= 0x1p112f; /* the difference of the exponents' biases */
    return v & 0x8000 ? -f : f;
}

/* Scale k of eight of 6 bits in the 12 bytes of Q4_K and Q5_K; offset: the
 * other eight. Four lie in one byte each, whose upper bits complete the rest. */
CV_BLOCK_INLINE int cv_block_six(const uint8_t *p, int k, int offset)
{
    int low;

    if (k < 4)
        return p[k + 4 * offset] & 63;
    low = offset ? p[k + 4] >> 4 : p[k + 4] & 15;
    return low | p[k - 4 + 4 * offset] >> 6 << 4;
}

/* Scale and offset of the group that begins with number i of the block at p. */
CV_BLOCK_INLINE CvBlockScale cv_block_scale(CvType type, const uint8_t *p,
                                            int i)
{
    CvBlockScale s = { 0, 0 };
    int k = i / 16, six;

    switch (type) {
    case CV_Q4_1:
    case CV_Q5_1:
        s.scale  = cv_block_half(p);
        s.offset = -cv_block_half(p + 2);
        break;
    case CV_Q2_K:
        s.scale  = cv_block_half(p + 80) * (float)(p[k] & 15);
        s.offset = cv_block_half(p + 82) * (float)(p[k] >> 4);
        break;
    case CV_Q3_K:
        six = (k < 8 ? p[96 + k] & 15 : p[88 + k] >> 4) |
              (p[104 + k % 4] >> 2 * (k / 4) & 3) << 4;
        s.scale = cv_block_half(p + 108) * (float)(six - 32);
        break;
    case CV_Q4_K:
    case CV_Q5_K:
        s.scale  = cv_block_half(p) * (float)cv_block_six(p + 4, i / 32, 0);
        s.offset = cv_block_half(p + 2) *
                   (float)cv_block_six(p + 4, i / 32, 1);
        break;
    case CV_Q6_K:
        s.scale = cv_block_half(p + 208) * (float)(int8_t)p[192 + k];
        break;
    default: /* Q4_0, Q5_0, Q8_0 */
        s.scale = cv_block_half(p);
        break;
    }
    return s;
}

/* Level of number k of the group that begins with number i. Of 256, those of
 * 128 in a row share bytes: bits 2j and 2j + 1 of byte l are of number
 * 32 j + l. */
CV_BLOCK_INLINE int cv_block_level(CvType type, const uint8_t *p, int i, int k)
{
    int n = i / 128, j = i % 128 / 32, l = i % 32 + k;

    switch (type) {
    case CV_Q4_0:
        return (p[2 + k] >> i / 16 * 4 & 15) - 8;
    case CV_Q4_1:
        return p[4 + k] >> i / 16 * 4 & 15;
    case CV_Q5_0:
        return ((p[6 + k] >> i / 16 * 4 & 15) |
                (p[2 + i / 8 + k / 8] >> k % 8 & 1) << 4) - 16;
    case CV_Q5_1:
        return (p[8 + k] >> i / 16 * 4 & 15) |
               (p[4 + i / 8 + k / 8] >> k % 8 & 1) << 4;
    case CV_Q8_0:
        return (int8_t)p[2 + i + k];
    case CV_Q2_K:
        return p[16 + 32 * n + l] >> 2 * j & 3;
    case CV_Q3_K:
        return (p[32 + 32 * n + l] >> 2 * j & 3) -
               (p[l] >> (4 * n + j) & 1 ? 0 : 4);
    case CV_Q4_K:
        return p[16 + i / 64 * 32 + l] >> i % 64 / 32 * 4 & 15;
    case CV_Q5_K:
        return (p[48 + i / 64 * 32 + l] >> i % 64 / 32 * 4 & 15) |
               (p[16 + l] >> i / 32 & 1) << 4;
    default: /* Q6_K */
        return ((p[64 * n + j % 2 * 32 + l] >> j / 2 * 4 & 15) |
                (p[128 + 32 * n + l] >> 2 * j & 3) << 4) - 32;
    }
}

#endif /* CV_BLOCKS_H */
