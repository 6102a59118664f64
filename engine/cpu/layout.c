/*
 * Operations that put elements in another order.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#include <string.h>

#include "cpu/cpu.h"

int cv_cpu_patchify(CvBackend *b, const CvTensor *out, const CvTensor *x)
{
    int64_t t = x->dim[0], c = x->dim[1], h = x->dim[2], w = x->dim[3];
    const float *src = x->data;
    float *dst = out->data;

    (void)b;
    for (int64_t f = 0; f < t; f++)
        for (int64_t i = 0; i < h / 2; i++)
            for (int64_t j = 0; j < w / 2; j++)
                for (int64_t k = 0; k < c; k++) {
                    const float *p = src + ((f * c + k) * h + 2 * i) * w +
                                     2 * j;

                    *dst++ = p[0];
                    *dst++ = p[1];
                    *dst++ = p[w];
                    *dst++ = p[w + 1];
                }
    return 0;
}

int cv_cpu_unpatchify(CvBackend *b, const CvTensor *out, const CvTensor *x)
{
    int64_t t = out->dim[0], c = out->dim[1], h = out->dim[2], w = out->dim[3];
    const float *src = x->data;
    float *dst = out->data;

    (void)b;
    for (int64_t f = 0; f < t; f++)
        for (int64_t i = 0; i < h / 2; i++)
            for (int64_t j = 0; j < w / 2; j++, src += 4 * c)
                for (int64_t k = 0; k < c; k++) {
                    float *p = dst + ((f * c + k) * h + 2 * i) * w + 2 * j;

                    p[0] = src[k];
                    p[1] = src[c + k];
                    p[w] = src[2 * c + k];
                    p[w + 1] = src[3 * c + k];
                }
    return 0;
}

int cv_cpu_split_frames(CvBackend *b, const CvTensor *out, const CvTensor *x)
{
    int64_t t = x->dim[0], area = x->dim[1] * x->dim[2], c = x->dim[3] / 2;
    const float *src = x->data;
    float *dst = out->data;

    (void)b;
    for (int64_t f = 0; f < t; f++) {
        float *even = dst + 2 * f * area * c, *odd = even + area * c;

        for (int64_t p = 0; p < area; p++, src += 2 * c) {
            memcpy(even + p * c, src, (size_t)c * sizeof(*dst));
            memcpy(odd + p * c, src + c, (size_t)c * sizeof(*dst));
        }
    }
    return 0;
}

int cv_cpu_to_channels_last(CvBackend *b, const CvTensor *out,
                            const CvTensor *x, const float *mul,
                            const float *add)
{
    int64_t t = x->dim[0], c = x->dim[1], area = x->dim[2] * x->dim[3];
    const float *src = x->data;
    float *dst = out->data;

    (void)b;
    for (int64_t f = 0; f < t; f++)
        for (int64_t p = 0; p < area; p++)
            for (int64_t k = 0; k < c; k++)
                *dst++ = src[(f * c + k) * area + p] * mul[k] + add[k];
    return 0;
}

int cv_cpu_to_channels_first(CvBackend *b, const CvTensor *out,
                             const CvTensor *x, const float *mul,
                             const float *add)
{
    int64_t t = out->dim[0], c = out->dim[1], k_all = x->dim[3];
    int64_t area = out->dim[2] * out->dim[3];
    const float *src = x->data;
    float *dst = out->data;

    (void)b;
    for (int64_t f = 0; f < t; f++)
        for (int64_t k = 0; k < c; k++)
            for (int64_t p = 0; p < area; p++)
                *dst++ = src[(f * area + p) * k_all + k] * mul[k] + add[k];
    return 0;
}
