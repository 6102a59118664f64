/*
 * Normal random numbers that depend on nothing but seed, stream and index.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * The key of Philox is the seed; its counter is index / 4 (low half) and the
 * stream (high half). Its four words make two Box-Muller pairs: numbers 4 i to
 * 4 i + 3. So any range can be made on its own, in any order.
 */
#include "sampling.h"

#include <math.h>

#include "philox.h"

#define TWO_PI 6.283185307179586476925286766559
#define ROUNDS 10

void cv_philox4x32(uint32_t out[4], const uint32_t counter[4],
                   const uint32_t key[2])
{
    uint32_t c[4] = { counter[0], counter[1], counter[2], counter[3] };
    uint32_t k[2] = { key[0], key[1] };

    for (int round = 0; round < ROUNDS; round++) {
        uint64_t p0 = 0xD2511F53u * (uint64_t)c[0];
        uint64_t p1 = 0xCD9E8D57u * (uint64_t)c[2];

        c[0] = (uint32_t)(p1 >> 32) ^ c[1] ^ k[0];
        c[1] = (uint32_t)p1;
        c[2] = (uint32_t)(p0 >> 32) ^ c[3] ^ k[1];
        c[3] = (uint32_t)p0;
        k[0] += 0x9E3779B9u; /* the golden ratio */
        k[1] += 0xBB67AE85u; /* sqrt(3) - 1 */
    }
    for (int i = 0; i < 4; i++)
        out[i] = c[i];
}

/* The middle of the word's share of (0, 1): never 0, so that ln() is finite. */
static double uniform(uint32_t word)
{
    return (word + 0.5) * 0x1p-32;
}

/* Numbers 4 * group to 4 * group + 3. */
static void normal4(float out[4], uint64_t seed, uint64_t stream,
                    uint64_t group)
{
    const uint32_t key[2] = { (uint32_t)seed, (uint32_t)(seed >> 32) };
    const uint32_t counter[4] = {
        (uint32_t)group, (uint32_t)(group >> 32),
        (uint32_t)stream, (uint32_t)(stream >> 32)
    };
    uint32_t word[4];

    cv_philox4x32(word, counter, key);
    for (int i = 0; i < 4; i += 2) {
        double radius = sqrt(-2 * log(uniform(word[i])));
        double angle = TWO_PI * uniform(word[i + 1]);

        out[i] = (float)(radius * cos(angle));
        out[i + 1] = (float)(radius * sin(angle));
    }
}

void cv_noise(float *out, int64_t n, uint64_t seed, uint64_t stream,
              uint64_t first_index)
{
    int64_t i = 0;

    while (i < n) {
        uint64_t index = first_index + (uint64_t)i;
        float four[4];

        normal4(four, seed, stream, index / 4);
        for (uint64_t lane = index % 4; lane < 4 && i < n; lane++)
            out[i++] = four[lane];
    }
}

uint64_t cv_noise_stream(int step)
{
    return (uint64_t)step;
}
