/*
 * The instructions of cuda/hopper8.cuh in C++, by PTX's description of them.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * Products run as late as those of emulated_hopper.h. Sums of e4m3 are as
 * inexact as the hardware's: what is added is cut off 13 bits below the
 * highest bit of the largest, the old sum among them (DeepSeek-AI, "DeepSeek-V3
 * Technical Report", 3.3.2).
 */
#ifndef CV_EMULATED_HOPPER8_H
#define CV_EMULATED_HOPPER8_H

#include "emulated_hopper.h"

static inline void cv_bulk_load(void *shared, const void *global,
                                uint32_t bytes, uint64_t *barrier)
{
    if ((uintptr_t)shared % 16 || (uintptr_t)global % 16 || bytes % 16)
        emulator_fail("bulk copy of %u bytes from %p to %p", bytes, global,
                      shared);
    memset(shared, 0xff, bytes);
    emulator_tensor_copies[(EmulatorBarrier *)barrier].push_back(
        { (unsigned char *)shared, {}, 0, 0, 0, 0, global, bytes });
}

static inline uint64_t cv_wgmma_operand64(const void *p)
{
    uint64_t operand = cv_wgmma_operand(p, 512, 16);

    return (operand & ~((uint64_t)3 << 62)) | (uint64_t)2 << 62;
}

/* Byte k of 32 of row or column i. */
static inline unsigned char emulator_byte(uint64_t operand, int i, int k)
{
    uintptr_t at = (uintptr_t)emulator_shared() + ((operand & 0x3fff) << 4);
    uintptr_t group = (operand >> 32 & 0x3fff) << 4;

    if (operand >> 62 == 2) {
        at += i / 8 * group + i % 8 * 64 + k;
        return *(unsigned char *)(at ^ ((at >> 7 & 3) << 4));
    }
    if (operand >> 62 != 1)
        emulator_fail("wgmma: swizzled in no known way");
    return *emulator_swizzle(at + i / 8 * group + i % 8 * 128 + k);
}

static inline double emulator_e4m3(unsigned char v)
{
    double x = (v & 0x78) ? ldexp(8 + (v & 7), (v >> 3 & 15) - 10)
                          : ldexp(v & 7, -9);

    if ((v & 0x7f) == 0x7f)
        return NAN;
    return v & 0x80 ? -x : x;
}

template <int n> static inline void cv_wgmma_hold(int (&)[n]) {}

static inline void emulator_finish_s8(EmulatorWgmma *w)
{
    for (int i = 0; i < w->n / 2; i++) {
        int h = i / 2 % 2, column = i / 4 * 8 + w->column + i % 2;
        int32_t sum = 0;

        if (w->add)
            memcpy(&sum, &w->d[i], 4);
        for (int k = 0; k < 32; k++)
            sum += (signed char)emulator_byte(w->a_operand, w->row + h * 8,
                                              k) *
                   (signed char)emulator_byte(w->b_operand, column, k);
        memcpy(&w->d[i], &sum, 4);
    }
}

static inline void cv_wgmma_s8_n192(int d[96], uint64_t a, uint64_t b, int add,
                                    EMULATOR_HERE)
{
    EmulatorWgmma w = {};

    emulator_collective(emulator_nothing, nullptr, 0xffffffffu,
                        EMULATOR_AT("wgmma"));
    w.a_operand = a;
    w.b_operand = b;
    w.add = add;
    w.finish = emulator_finish_s8;
    emulator_issue((float *)d, 192, w);
}

static inline void emulator_finish_e4m3(EmulatorWgmma *w)
{
    static double numbers[256];

    if (numbers[0x7e] != 448)
        for (int i = 0; i < 256; i++)
            numbers[i] = emulator_e4m3((unsigned char)i);
    for (int i = 0; i < w->n / 2; i++) {
        int h = i / 2 % 2, column = i / 4 * 8 + w->column + i % 2;
        double terms[33], largest, sum = 0;
        int exponent;

        terms[32] = w->d[i];
        largest = fabs(terms[32]);
        for (int k = 0; k < 32; k++) {
            terms[k] = numbers[w->bytes[h][k]] *
                       numbers[emulator_byte(w->b_operand, column, k)];
            largest = fabs(terms[k]) > largest ? fabs(terms[k]) : largest;
            sum += terms[k];
        }
        sum += terms[32];
        if (largest > 0 && sum - sum == 0) {
            frexp(largest, &exponent);
            sum = 0;
            for (int k = 0; k < 33; k++)
                sum += ldexp(trunc(ldexp(terms[k], 14 - exponent)),
                             exponent - 14);
        }
        w->d[i] = (float)sum;
    }
}

struct EmulatorOperand8 {
    uint32_t a[4];
    unsigned char out[2][32];
};

/* All lanes get their two rows of a[16, 32]. */
static inline void emulator_gather_a8(void **lanes, uint32_t)
{
    unsigned char a[16][32];

    for (int l = 0; l < 32; l++)
        for (int i = 0; i < 4; i++)
            for (int e = 0; e < 4; e++)
                a[l / 4 + i % 2 * 8][l % 4 * 4 + i / 2 * 16 + e] =
                    (unsigned char)(
                        ((EmulatorOperand8 *)lanes[l])->a[i] >> (8 * e));
    for (int l = 0; l < 32; l++)
        for (int h = 0; h < 2; h++)
            memcpy(((EmulatorOperand8 *)lanes[l])->out[h], a[l / 4 + h * 8],
                   32);
}

static inline void cv_wgmma_e4m3_n128_r(float d[64], const uint32_t a[4],
                                        uint64_t b, EMULATOR_HERE)
{
    EmulatorOperand8 registers;
    EmulatorWgmma w = {};

    memcpy(registers.a, a, sizeof(registers.a));
    emulator_collective(emulator_gather_a8, &registers, 0xffffffffu,
                        EMULATOR_AT("wgmma"));
    memcpy(w.bytes, registers.out, sizeof(w.bytes));
    w.add = 1;
    w.b_operand = b;
    w.finish = emulator_finish_e4m3;
    emulator_issue(d, 128, w);
}

static inline uint32_t emulator_to_e4m3(float x)
{
    uint32_t sign = __float_as_uint(x) >> 31 << 7;
    double a = fabs((double)x), step;
    int exponent;

    if (x != x)
        return 0x7f;
    if (a >= 448)
        return sign | 0x7e;
    frexp(a, &exponent);
    exponent = exponent < -5 ? -5 : exponent;
    step = ldexp(1, exponent - 4);
    a = nearbyint(a / step);
    /* 8 .. 16 of the binary order, or 0 .. 8 of the lowest. */
    return sign | (uint32_t)(a + (exponent + 5) * 8);
}

static inline uint32_t cv_pack_e4m3(float x, float y, float z, float w)
{
    return emulator_to_e4m3(x) | emulator_to_e4m3(y) << 8 |
           emulator_to_e4m3(z) << 16 | emulator_to_e4m3(w) << 24;
}

static inline int cv_max3(int x, int y, int z)
{
    return max(max(x, y), z);
}

#endif /* CV_EMULATED_HOPPER8_H */
