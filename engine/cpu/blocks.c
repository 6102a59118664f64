/*
 * From the quantised blocks of GGUF files to float32.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#include "blocks.h"
#include "cpu/cpu.h"

/* With a constant type, so that compilers take the switches apart. */
static inline int decode(CvType type, float *dst, const uint8_t *src,
                         int64_t blocks)
{
    const int n = cv_type_block(type);
    const size_t bytes = cv_type_bytes(type);
    int bad = 0;

    for (int64_t b = 0; b < blocks; b++, src += bytes, dst += n) {
        for (int i = 0; i < n; i += CV_BLOCK_GROUP) {
            CvBlockScale s = cv_block_scale(type, src, i);

            for (int k = 0; k < CV_BLOCK_GROUP; k++)
                dst[i + k] = s.scale *
                             (float)cv_block_level(type, src, i, k) - s.offset;
            /* the levels are finite, and no product can pass float32 */
            bad |= s.scale - s.scale != 0 || s.offset - s.offset != 0;
        }
    }
    return bad;
}

int cv_cpu_decode_blocks(float *dst, const uint8_t *src, CvType type,
                         int64_t blocks)
{
    switch (type) {
    case CV_Q4_0: return decode(CV_Q4_0, dst, src, blocks);
    case CV_Q4_1: return decode(CV_Q4_1, dst, src, blocks);
    case CV_Q5_0: return decode(CV_Q5_0, dst, src, blocks);
    case CV_Q5_1: return decode(CV_Q5_1, dst, src, blocks);
    case CV_Q8_0: return decode(CV_Q8_0, dst, src, blocks);
    case CV_Q2_K: return decode(CV_Q2_K, dst, src, blocks);
    case CV_Q3_K: return decode(CV_Q3_K, dst, src, blocks);
    case CV_Q4_K: return decode(CV_Q4_K, dst, src, blocks);
    case CV_Q5_K: return decode(CV_Q5_K, dst, src, blocks);
    default:      return decode(CV_Q6_K, dst, src, blocks);
    }
}
