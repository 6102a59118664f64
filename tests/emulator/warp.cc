/*
 * What a warp does together: ldmatrix and mma.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#include "emulated_ptx.h"

static void load_matrices(void **lanes, int trans)
{
    for (int i = 0; i < 4; i++) {
        const uint16_t *row[8];
        uint32_t banks = 0;

        for (int j = 0; j < 8; j++) {
            const void *p = ((EmulatorMatrices *)lanes[8 * i + j])->row;

            if ((uintptr_t)p % 16)
                emulator_fail("ldmatrix: row %d of matrix %d at %p: not "
                              "16-byte aligned", j, i, p);
            row[j] = (const uint16_t *)p;
            banks |= 1u << (uintptr_t)p / 16 % 8;
        }
        emulator_counts.bank_conflicts += 8 - __builtin_popcount(banks);
        for (int l = 0; l < 32; l++) {
            int r = l / 4, c = l % 4 * 2;
            uint32_t low = trans ? row[c][r] : row[r][c];
            uint32_t high = trans ? row[c + 1][r] : row[r][c + 1];

            ((EmulatorMatrices *)lanes[l])->r[i] = low | high << 16;
        }
    }
    emulator_counts.ldmatrices++;
}

void emulator_ldmatrix(void **lanes, uint32_t)
{
    load_matrices(lanes, 0);
}

void emulator_ldmatrix_trans(void **lanes, uint32_t)
{
    load_matrices(lanes, 1);
}

static float low(uint32_t x)
{
    return __uint_as_float(x << 16);
}

static float high(uint32_t x)
{
    return __uint_as_float(x & 0xffff0000u);
}

/* d += a b on registers; sanitizers would make it many times as slow. */
__attribute__((no_sanitize("address", "undefined"), noinline))
static void multiply(float d[16][8], const float a[16][16],
                     const float b[16][8])
{
    for (int i = 0; i < 16; i++) {
        float sum[8] = { 0 };

        for (int k = 0; k < 16; k++)
            for (int j = 0; j < 8; j++)
                sum[j] += a[i][k] * b[k][j];
        for (int j = 0; j < 8; j++)
            d[i][j] += sum[j];
    }
}

/* PTX ISA, "Matrix fragments for mma.m16n8k16 with floating point type". */
void emulator_mma_bf16(void **lanes, uint32_t)
{
    float a[16][16], b[16][8], d[16][8];

    for (int l = 0; l < 32; l++) {
        const EmulatorProduct *p = (const EmulatorProduct *)lanes[l];
        int g = l / 4, c = l % 4 * 2;

        for (int i = 0; i < 4; i++) {
            int row = g + i % 2 * 8, column = c + i / 2 * 8;

            a[row][column] = low(p->a[i]);
            a[row][column + 1] = high(p->a[i]);
        }
        for (int i = 0; i < 2; i++) {
            b[c + 8 * i][g] = low(p->b[i]);
            b[c + 8 * i + 1][g] = high(p->b[i]);
        }
        for (int i = 0; i < 4; i++)
            d[g + i / 2 * 8][c + i % 2] = p->d[i];
    }
    multiply(d, a, b);
    for (int l = 0; l < 32; l++) {
        const EmulatorProduct *p = (const EmulatorProduct *)lanes[l];
        int g = l / 4, c = l % 4 * 2;

        for (int i = 0; i < 4; i++)
            p->d[i] = d[g + i / 2 * 8][c + i % 2];
    }
    emulator_counts.mmas++;
}
