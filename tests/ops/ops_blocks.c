/*
 * Test of upload from the quantised blocks of GGUF files.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * The blocks and what the gguf package makes of them are fixtures of the
 * reader's test (tests/unit/data/make_containers.py); here they are repeated to
 * tensors of several sizes, at any address.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ops_test.h"
#include "weights/weights.h"

/* Float32, or rounded to nearest even. */
static float rounded(float x, CvType type)
{
    uint32_t bits;

    if (type == CV_F32)
        return x;
    memcpy(&bits, &x, sizeof(bits));
    bits = (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000u;
    memcpy(&x, &bits, sizeof(x));
    return x;
}

/* The stored blocks, over and over, against the reference; bit by bit. */
static void upload_case(Env *e, const CvEntry *stored, const float *reference,
                        CvType to, int64_t blocks)
{
    const CvType type = stored->tensor.type;
    const size_t bytes = cv_type_bytes(type);
    const int64_t n = cv_type_block(type), of = cv_elements(&stored->tensor);
    Buffer *dst = OUTPUT(e, to, blocks * n);
    uint8_t *src = malloc((size_t)blocks * bytes + 3);
    const uint8_t *from = stored->tensor.data;

    if (!src) {
        fail(e, "out of memory");
        return;
    }
    for (int64_t i = 0; i < blocks; i++)
        memcpy(src + 3 + (size_t)i * bytes,
               from + (size_t)(i % (of / n)) * bytes, bytes);
    called(e, cv_upload(e->b, &dst->t, src + 3, type), "upload");
    called(e, cv_download(e->b, dst->host, &dst->t), "download");
    e->cases++;
    for (int64_t i = 0; i < blocks * n; i++) {
        float expected = rounded(reference[i % of], to);

        if (memcmp(&dst->host[i], &expected, sizeof(expected))) {
            fail(e, "upload from %s: element %lld is %.9g, expected %.9g",
                 cv_type_name(type), (long long)i, (double)dst->host[i],
                 (double)expected);
            break;
        }
    }
    add_to_hash(e, dst->host, (size_t)(blocks * n) * sizeof(float));
    /* a scale that is not a number, wherever it is */
    memset(src + 3 + (size_t)random_int(e, 0, blocks - 1) * bytes, 0xff,
           bytes);
    if (cv_upload(e->b, &dst->t, src + 3, type) != CAUSVID_ERR(EILSEQ))
        fail(e, "upload from %s took a NaN", cv_type_name(type));
    free(src);
    end_case(e);
}

static CvWeights *open_file(Env *e, const char *name)
{
    const char *src = getenv("CAUSVID_SRC");
    CvWeights *weights;
    char path[1024];

    snprintf(path, sizeof(path), "%s/tests/unit/data/containers/%s",
             src ? src : ".", name);
    if (cv_weights_open(&weights, path, NULL) < 0)
        fail(e, "'%s' cannot be opened", path);
    return weights;
}

void test_upload_blocks(Env *e)
{
    CvWeights *blocks = open_file(e, "blocks.gguf");
    CvWeights *values = open_file(e, "blocks.safetensors");

    for (int64_t i = 0; blocks && values && i < cv_weights_count(values); i++) {
        const CvEntry *v = cv_weights_at(values, i);
        const CvEntry *stored = cv_weights_find(blocks, "%s", v->name);

        if (!stored || cv_elements(&stored->tensor) != cv_elements(&v->tensor))
            fail(e, "no blocks for '%s'", v->name);
        for (int k = 0; k < 3 && stored; k++) {
            int64_t n = PICK(e, 1, 2, 5, 37, 300);

            /* once so many that several threads read them, 2.3 MB */
            if (k == 2 && stored->tensor.type == CV_Q6_K)
                n = 11000;
            upload_case(e, stored, v->tensor.data, CV_F32, n);
            if (e->b->activation != CV_F32)
                upload_case(e, stored, v->tensor.data, e->b->activation, n);
        }
    }
    cv_weights_close(&blocks);
    cv_weights_close(&values);
}
