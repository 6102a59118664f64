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

static const CvTensorForm cv_form_bytes = { 64, 1 };

static inline uint64_t cv_wgmma_operand64(const void *p)
{
    uint64_t operand = cv_wgmma_operand(p, 512, 16);

    return (operand & ~((uint64_t)3 << 62)) | (uint64_t)2 << 62;
}

/* The 32 bytes of row or column i. */
static inline void emulator_bytes(unsigned char *bytes, uint64_t operand,
                                  int i)
{
    uintptr_t at = (uintptr_t)emulator_shared() + ((operand & 0x3fff) << 4) +
                   i / 8 * ((operand >> 32 & 0x3fff) << 4);

    for (int k = 0; k < 32; k += 16) {
        uintptr_t chunk = at + k;

        if (operand >> 62 == 2) {
            chunk = (uintptr_t)emulator_swizzle(chunk + i % 8 * 64, 64);
        } else if (operand >> 62 == 1) {
            chunk = (uintptr_t)emulator_swizzle(chunk + i % 8 * 128);
        } else {
            emulator_fail("wgmma: swizzled in no known way");
        }
        memcpy(bytes + k, (const void *)chunk, 16);
    }
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

/* The sanitizers would make it many times as slow. */
__attribute__((no_sanitize("address", "undefined")))
static inline void emulator_finish_s8(EmulatorWgmma *w)
{
    signed char a[2][32], b[32];

    for (int h = 0; h < 2; h++)
        emulator_bytes((unsigned char *)a[h], w->a_operand, w->row + h * 8);
    for (int i = 0; i < w->n / 2; i++) {
        const int h = i / 2 % 2;
        const int column = i / 4 * 8 + w->column + i % 2;
        int32_t sum = 0;

        emulator_bytes((unsigned char *)b, w->b_operand, column);
        if (w->add)
            memcpy(&sum, &w->d[i], 4);
        for (int k = 0; k < 32; k++)
            sum += a[h][k] * b[k];
        memcpy(&w->d[i], &sum, 4);
    }
}

static inline void cv_wgmma_s8_n192(int d[96], uint64_t a, uint64_t b, int add,
                                    EMULATOR_HERE)
{
    emulator_product((float *)d, 192, a, b, add, emulator_finish_s8,
                     EMULATOR_AT("wgmma"));
}

__attribute__((no_sanitize("address", "undefined")))
static inline void emulator_finish_e4m3(EmulatorWgmma *w)
{
    static double numbers[256];

    if (numbers[0x7e] != 448)
        for (int i = 0; i < 256; i++)
            numbers[i] = emulator_e4m3((unsigned char)i);
    for (int h = 0; h < 2 && !w->from_registers; h++)
        emulator_bytes(w->bytes[h], w->a_operand, w->row + h * 8);
    for (int i = 0; i < w->n / 2; i++) {
        const int h = i / 2 % 2;
        const int column = i / 4 * 8 + w->column + i % 2;
        unsigned char b[32];
        double terms[33], largest, sum = 0;
        int exponent;

        emulator_bytes(b, w->b_operand, column);
        terms[32] = w->add ? w->d[i] : 0;
        largest = fabs(terms[32]);
        for (int k = 0; k < 32; k++) {
            terms[k] = numbers[w->bytes[h][k]] * numbers[b[k]];
            largest = fabs(terms[k]) > largest ? fabs(terms[k]) : largest;
            sum += terms[k];
        }
        sum += terms[32];
        if (largest > 0 && sum - sum == 0) {
            double up, down;

            frexp(largest, &exponent);
            up = ldexp(1, 14 - exponent);
            down = ldexp(1, exponent - 14);
            sum = 0;
            for (int k = 0; k < 33; k++)
                sum += (double)(int)(terms[k] * up) * down;
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

static inline void cv_wgmma_e4m3_n136_r(float d[68], const uint32_t a[4],
                                        uint64_t b, EMULATOR_HERE)
{
    EmulatorOperand8 registers;
    EmulatorWgmma w = {};

    memcpy(registers.a, a, sizeof(registers.a));
    emulator_collective(emulator_gather_a8, &registers, 0xffffffffu,
                        EMULATOR_AT("wgmma"));
    memcpy(w.bytes, registers.out, sizeof(w.bytes));
    w.from_registers = w.add = 1;
    w.b_operand = b;
    w.finish = emulator_finish_e4m3;
    emulator_issue(d, 136, w);
}

static inline void cv_wgmma_e4m3_n192(float d[96], uint64_t a, uint64_t b,
                                      int add, EMULATOR_HERE)
{
    emulator_product(d, 192, a, b, add, emulator_finish_e4m3,
                     EMULATOR_AT("wgmma"));
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
    if (a == 0)
        return sign;
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
