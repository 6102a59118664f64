/*
 * `causvid trace` on the fixture clip against PyTorch.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * The whole way as a user of trace goes it: a model folder, a file of inputs,
 * the program, a file of outputs. The reference is made by
 * tests/model/make/clip.py on top of the diffusers modules.
 */
#include <math.h>
#include <unistd.h>

#include "../tap.h"
#include "weights/weights.h"

/* The bar for float32. */
#define BAR 1e-4

static double relative_error(const CvTensor *a, const CvTensor *b)
{
    int64_t n = cv_elements(a);
    const float *x = a->data, *y = b->data;
    double difference = 0, size = 0;

    for (int64_t i = 0; i < n; i++) {
        difference += ((double)x[i] - y[i]) * ((double)x[i] - y[i]);
        size       += (double)y[i] * y[i];
    }
    return sqrt(difference / size);
}

static void compare(const char *outputs, const char *reference)
{
    CvWeights *got = NULL, *want = NULL;
    int compared = 0;

    if (cv_weights_open(&got, outputs, NULL) < 0 ||
        cv_weights_open(&want, reference, NULL) < 0)
        tap_bail("'%s' or '%s' cannot be read", outputs, reference);
    for (int64_t i = 0; i < cv_weights_count(want); i++) {
        const CvEntry *w = cv_weights_at(want, i);
        const CvEntry *g = cv_weights_find(got, "%s", w->name);

        if (w->tensor.type != CV_F32)
            continue; /* the prompt's ids, for other tests */
        if (!g || !cv_same_shape(&g->tensor, &w->tensor)) {
            ok(0, "%s is there, with the reference's shape", w->name);
            continue;
        }
        ok(relative_error(&g->tensor, &w->tensor) <= BAR, "%s: %.1e", w->name,
           relative_error(&g->tensor, &w->tensor));
        compared++;
    }
    ok(compared >= 10, "%d tensors compared", compared);
    cv_weights_close(&got);
    cv_weights_close(&want);
}

int main(void)
{
    const char *src = getenv("CAUSVID_SRC"), *build = getenv("CAUSVID_BUILD");
    char command[8192], outputs[4096], reference[4096];

    src   = src ? src : ".";
    build = build ? build : "build";
    snprintf(outputs, sizeof(outputs), "%s/trace-test.safetensors", build);
    snprintf(reference, sizeof(reference),
             "%s/tests/model/fixtures/clip/reference.safetensors", src);
    unlink(outputs);
    snprintf(command, sizeof(command),
             "%s/bin/causvid trace --model %s/tests/model/fixtures/clip/model "
             "--inputs %s/tests/model/fixtures/clip/inputs.safetensors "
             "--outputs %s", build, src, src, outputs);
    is_int(system(command), 0);
    compare(outputs, reference);
    unlink(outputs);
    return tap_done();
}
