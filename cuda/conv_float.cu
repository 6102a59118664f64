/*
 * Convolution in float32, for checking: no tensor cores.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * A block makes 64 pixels x 64 channels, 4 x 4 for each of its 256 threads,
 * from steps of 16 columns in shared memory. Elements are gathered one by
 * one, so any number of channels and any alignment will do.
 *
 * Bound by shared memory (8 floats read for 16 multiplications). Predicted on
 * an H200: 15 to 20 of 60 TFLOP/s; 81 frames of the 832x480 decoder are 275
 * TFLOP, 15 s.
 *
 * A sum of 10,368 terms one after another would lose two digits of float32,
 * so every 128 terms are summed first and then added to the total.
 */
#include "conv.cuh"

enum { kM = 64, kN = 64, kK = 16, kThreads = 256, kFold = 8, kPad = 4 };

static __global__ void __launch_bounds__(kThreads, 2)
    conv_f32_kernel(const CvConvJob a)
{
    cv_begin();
    __shared__ __align__(16) float in[kK][kM + kPad];
    __shared__ __align__(16) float weight[kK][kN + kPad];
    int tid = (int)threadIdx.x;
    int n_blocks = (a.o + kN - 1) / kN;
    int m0 = (int)(blockIdx.x / (unsigned)n_blocks) * kM;
    int n0 = (int)(blockIdx.x % (unsigned)n_blocks) * kN;
    int row = tid / 4, col = tid % 4 * 4; /* what this thread loads */
    int y = tid / 16 * 4, x = tid % 16 * 4; /* what it computes */
    CvConvPixel pixel = cv_conv_pixel(&a, m0 + row);
    const float *w = (const float *)a.weight +
                     (int64_t)min(n0 + row, a.o - 1) * a.k;
    CvConvTap at = { 0, 0, 0, 0 };
    float total[4][4] = {}, sum[4][4] = {};

    cv_conv_advance(&a, &at, col);
    for (int k = 0, step = 0; k < a.k; k += kK) {
        for (int e = 0; e < 4; e++) {
            int inside = k + col + e < a.k;
            const float *from = inside
                ? cv_conv_input<float>(&a, pixel, at.i, at.j, at.l) : NULL;

            in[col + e][row] = from ? from[at.c] : 0;
            weight[col + e][row] = inside && n0 + row < a.o
                ? w[k + col + e] : 0;
            if (inside)
                cv_conv_advance(&a, &at, 1);
        }
        cv_conv_advance(&a, &at, kK - 4);
        __syncthreads();
#pragma unroll
        for (int i = 0; i < kK; i++) {
            float4 u = *(const float4 *)&in[i][y];
            float4 v = *(const float4 *)&weight[i][x];
            float us[4] = { u.x, u.y, u.z, u.w };
            float vs[4] = { v.x, v.y, v.z, v.w };

#pragma unroll
            for (int r = 0; r < 4; r++)
#pragma unroll
                for (int s = 0; s < 4; s++)
                    sum[r][s] += us[r] * vs[s];
        }
        __syncthreads();
        if (++step == kFold || k + kK >= a.k) {
            step = 0;
#pragma unroll
            for (int r = 0; r < 4; r++)
#pragma unroll
                for (int s = 0; s < 4; s++) {
                    total[r][s] += sum[r][s];
                    sum[r][s] = 0;
                }
        }
    }
#pragma unroll
    for (int r = 0; r < 4; r++)
#pragma unroll
        for (int s = 0; s < 4; s++) {
            int m = m0 + y + r, n = n0 + x + s;
            int64_t to = (int64_t)m * a.o + n;

            if (m >= a.m || n >= a.o)
                continue;
            if (a.bias)
                total[r][s] += a.bias[n];
            if (a.add)
                total[r][s] += ((const float *)a.add)[to];
            ((float *)a.out)[to] = a.relu ? cv_conv_relu(total[r][s])
                                            : total[r][s];
        }
}

int cv_cuda_conv_float(CvCuda *cuda, const CvConvJob *a)
{
    unsigned blocks = cv_blocks(a->m, kM) * cv_blocks(a->o, kN);

    return CV_LAUNCH(cuda, cuda->stream, conv_f32_kernel, blocks, kThreads, 0,
                     *a);
}
