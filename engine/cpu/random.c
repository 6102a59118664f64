/*
 * Random numbers for weights, the same on every backend.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#include <string.h>

#include "cpu/cpu.h"

typedef struct Random {
    float *dst;
    uint64_t seed;
    float step;
} Random;

/* SplitMix64's output function; source: Steele, Lea and Flood, "Fast
 * splittable pseudorandom number generators", 2014. */
static uint64_t mix(uint64_t z)
{
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

/* To bf16, nearest even; x is finite. */
static float rounded(float x)
{
    uint32_t bits;

    memcpy(&bits, &x, sizeof(bits));
    bits = (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000u;
    memcpy(&x, &bits, sizeof(x));
    return x;
}

static void random_job(void *arg, int64_t first, int64_t last, int worker)
{
    const Random *r = arg;

    (void)worker;
    for (int64_t i = first; i < last; i++) {
        uint64_t z = mix(r->seed + ((uint64_t)i + 1) * 0x9e3779b97f4a7c15u);

        r->dst[i] = rounded((float)((int)(z >> 40) - (1 << 23)) * r->step);
    }
}

int cv_cpu_random(CvBackend *b, const CvTensor *dst, uint64_t seed,
                  float scale)
{
    Random r = { dst->data, seed, scale * 0x1p-23f };

    cv_cpu_run(cv_cpu(b), cv_elements(dst), 65536, random_job, &r);
    return 0;
}
