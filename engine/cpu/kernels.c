/*
 * Which inner loops this machine runs.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#include <string.h>

#include "cpu/kernels.h"

typedef struct Candidate {
    const CvKernels *kernels;
    int runs;
} Candidate;

const CvKernels *cv_kernels_find(const char *name)
{
#if defined(__x86_64__)
    int avx2 = __builtin_cpu_supports("avx2") &&
               __builtin_cpu_supports("fma");
    int avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                 __builtin_cpu_supports("avx512vl") &&
                 __builtin_cpu_supports("avx512bw") &&
                 __builtin_cpu_supports("avx512dq");
#endif
    const Candidate candidates[] = { /* the best first */
#if defined(__x86_64__)
        { &cv_kernels_avx512, avx512 },
        { &cv_kernels_avx2, avx2 },
#endif
        { &cv_kernels_generic, 1 },
    };

    for (size_t i = 0; i < sizeof(candidates) / sizeof(candidates[0]); i++)
        if (candidates[i].runs &&
            (!name || !strcmp(name, candidates[i].kernels->name)))
            return candidates[i].kernels;
    return NULL;
}
