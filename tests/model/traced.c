/*
 * Models put together of fixtures' parts, run by `causvid trace`, and what it
 * writes compared.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#include <math.h>
#include <stdlib.h>
#include <unistd.h>

#include "../tap.h"
#include "traced.h"

#define COMMAND 8192

const char *traced_src, *traced_build;
char traced_folder[] = "/tmp/causvid-test-XXXXXX";

static void run(const char *command)
{
    if (system(command))
        tap_bail("failed: %s", command);
}

static void clean_up(void)
{
    char command[128];

    snprintf(command, sizeof(command), "rm -r %s", traced_folder);
    if (system(command))
        tap_diag("%s is left", traced_folder);
}

void traced_begin(void)
{
    traced_src   = getenv("CAUSVID_SRC");
    traced_build = getenv("CAUSVID_BUILD");
    if (!traced_src || !traced_build)
        tap_bail("CAUSVID_SRC and CAUSVID_BUILD are not set");
    if (!mkdtemp(traced_folder))
        tap_bail("mkdtemp");
    atexit(clean_up);
}

void traced_model(const char *name, const char *transformer,
                  const char *text_encoder, const char *vae)
{
    static const char *const parts[] = { "transformer", "text_encoder", "vae" };
    const char *const from[] = { transformer, text_encoder, vae };
    char command[COMMAND], plain[64];

    for (int i = 0; i < 3; i++) {
        snprintf(plain, sizeof(plain), "containers/safetensors/%s", parts[i]);
        snprintf(command, sizeof(command), "all=%s/tests/model/fixtures; "
                 "mkdir -p %s/%s/%s && cd %s/%s/%s && "
                 "ln -s $all/%s/config.json . && for file in $all/%s/*; do "
                 "case $file in *.json) ;; *) ln -s $file . ;; esac; done",
                 traced_src, traced_folder, name, parts[i], traced_folder, name,
                 parts[i], plain, from[i] ? from[i] : plain);
        run(command);
    }
    snprintf(command, sizeof(command), "all=%s/tests/model/fixtures; "
             "cd %s/%s && echo '{}' > model_index.json && "
             "ln -s $all/containers/safetensors/recipe.json . && "
             "ln -s $all/clip/model/tokenizer .", traced_src, traced_folder,
             name);
    run(command);
}

CvWeights *traced_run(const char *name, const char *options)
{
    char command[COMMAND], outputs[1024];
    CvWeights *w;

    snprintf(command, sizeof(command), "cd %s/%s && %s/bin/causvid trace "
             "--model . %s --inputs "
             "%s/tests/model/fixtures/containers/inputs.safetensors "
             "--outputs out.safetensors", traced_folder, name, traced_build,
             options, traced_src);
    run(command);
    snprintf(outputs, sizeof(outputs), "%s/%s/out.safetensors", traced_folder,
             name);
    if (cv_weights_open(&w, outputs, NULL) < 0)
        tap_bail("'%s' cannot be read", outputs);
    return w;
}

double traced_psnr(CvWeights *a, CvWeights *b)
{
    const CvEntry *x = cv_weights_find(a, "frames");
    const CvEntry *y = cv_weights_find(b, "frames");
    double sum = 0;

    if (!x || !y || !cv_same_shape(&x->tensor, &y->tensor))
        tap_bail("no frames");
    for (int64_t i = 0; i < cv_elements(&x->tensor); i++) {
        float p, q; /* a mapped file's need not be aligned */

        cv_entry_copy(&p, x, i, 1);
        cv_entry_copy(&q, y, i, 1);
        sum += pow((double)p - q, 2);
    }
    return -10 * log10(sum / (double)cv_elements(&x->tensor));
}

int64_t traced_same(CvWeights *got, CvWeights *want)
{
    int64_t n = 0;

    for (int64_t i = 0; i < cv_weights_count(want); i++) {
        const CvEntry *w = cv_weights_at(want, i);
        const CvEntry *e = cv_weights_find(got, "%s", w->name);

        if (e && cv_same_shape(&e->tensor, &w->tensor) &&
            !memcmp(e->tensor.data, w->tensor.data,
                    (size_t)cv_tensor_bytes(&w->tensor)))
            n++;
        else
            tap_diag("%s differs", w->name);
    }
    return n == cv_weights_count(want) && n > 6 &&
           cv_weights_find(want, "frames") ? n : 0;
}
