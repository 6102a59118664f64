/*
 * One small model in several containers gives the same clip.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * The files are written by PyTorch and by the gguf package, as users have them
 * (tests/model/make/containers.py). `causvid trace` runs each beside the same
 * model as safetensors.
 */
#include <math.h>
#include <unistd.h>

#include "../tap.h"
#include "weights/weights.h"

static const char *src, *build;
static char folder[] = "/tmp/causvid-test-XXXXXX";

static void run(const char *command)
{
    if (system(command))
        tap_bail("failed: %s", command);
}

/* A part's folder: its config.json, and its weights as `layout` has them, or
 * as safetensors where it does not. */
static void link_part(const char *layout, const char *part)
{
    char command[8192];

    snprintf(command, sizeof(command), "fixtures=%s/tests/model/fixtures; "
             "all=$fixtures/containers; mkdir -p %s/%s/%s && cd %s/%s/%s && "
             "ln -s $all/safetensors/%s/config.json . && "
             "from=$all/%s/%s; [ -d $from ] || from=$all/safetensors/%s; "
             "for file in $from/*; do case $file in *.json) ;; "
             "*) ln -s $file . ;; esac; done",
             src, folder, layout, part, folder, layout, part, part, layout,
             part, part);
    run(command);
}

/* The clip of a layout: a file of what trace writes. */
static CvWeights *trace(const char *layout)
{
    static const char *const parts[] = { "transformer", "text_encoder", "vae" };
    char command[8192], outputs[1024];
    CvWeights *w;

    for (int i = 0; i < 3; i++)
        link_part(layout, parts[i]);
    snprintf(command, sizeof(command), "fixtures=%s/tests/model/fixtures; "
             "cd %s/%s && echo '{}' > model_index.json && "
             "ln -s $fixtures/containers/safetensors/recipe.json . && "
             "ln -s $fixtures/clip/model/tokenizer . && "
             "%s/bin/causvid trace --model . "
             "--inputs $fixtures/containers/inputs.safetensors "
             "--outputs out.safetensors", src, folder, layout, build);
    run(command);
    snprintf(outputs, sizeof(outputs), "%s/%s/out.safetensors", folder,
             layout);
    if (cv_weights_open(&w, outputs, NULL) < 0)
        tap_bail("'%s' cannot be read", outputs);
    return w;
}

/* Of frames in 0..1; infinite when they are the same. */
static double psnr(const CvTensor *a, const CvTensor *b)
{
    const float *x = a->data, *y = b->data;
    double sum = 0;

    for (int64_t i = 0; i < cv_elements(a); i++)
        sum += pow((double)x[i] - y[i], 2);
    return -10 * log10(sum / (double)cv_elements(a));
}

/* All that trace writes is the same, bit by bit. */
static void same(const char *layout, CvWeights *reference)
{
    CvWeights *got = trace(layout);
    int64_t n = 0;

    for (int64_t i = 0; i < cv_weights_count(reference); i++) {
        const CvEntry *want = cv_weights_at(reference, i);
        const CvEntry *e = cv_weights_find(got, "%s", want->name);

        if (e && cv_same_shape(&e->tensor, &want->tensor) &&
            !memcmp(e->tensor.data, want->tensor.data,
                    (size_t)cv_tensor_bytes(&want->tensor)))
            n++;
        else
            tap_diag("%s: %s differs", layout, want->name);
    }
    ok(n == cv_weights_count(reference) && n > 6 &&
       cv_weights_find(got, "frames"), "%s: %lld tensors, frames among them, "
       "bit by bit as from safetensors", layout, (long long)n);
    cv_weights_close(&got);
}

static void close_to(const char *layout, CvWeights *reference, double least)
{
    CvWeights *got = trace(layout);
    const CvEntry *a = cv_weights_find(got, "frames");
    const CvEntry *b = cv_weights_find(reference, "frames");
    double db;

    if (!a || !b || !cv_same_shape(&a->tensor, &b->tensor))
        tap_bail("%s: no frames", layout);
    db = psnr(&a->tensor, &b->tensor);
    ok(db >= least && isfinite(db), "%s: frames of %.1f dB", layout, db);
    cv_weights_close(&got);
}

static void clean_up(void)
{
    char command[128];

    snprintf(command, sizeof(command), "rm -r %s", folder);
    if (system(command))
        tap_diag("%s is left", folder);
}

int main(void)
{
    CvWeights *reference;

    src   = getenv("CAUSVID_SRC");
    build = getenv("CAUSVID_BUILD");
    if (!src || !build)
        tap_bail("CAUSVID_SRC and CAUSVID_BUILD are not set");
    if (!mkdtemp(folder))
        tap_bail("mkdtemp");
    atexit(clean_up);
    reference = trace("safetensors");
    same("torch-generator", reference);
    same("torch-ema", reference);
    same("gguf-f32", reference);
    /* 24.7 and 18.6 dB, less 3: the network is random, so that errors grow more
     * than in a trained one, and all of its matrices are quantised. That blocks
     * are read as they should be is tests/unit/test_gguf.c. */
    close_to("gguf-q8_0", reference, 21.7);
    close_to("gguf-q4_k", reference, 15.6);
    cv_weights_close(&reference);
    return tap_done();
}
