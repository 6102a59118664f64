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
#include "traced.h"

/* A part's folder among the fixtures, or NULL where the layout has none of its
 * own. */
static const char *part(char path[256], const char *layout, const char *name)
{
    char whole[4200];

    snprintf(path, 256, "containers/%s/%s", layout, name);
    snprintf(whole, sizeof(whole), "%s/tests/model/fixtures/%s", traced_src,
             path);
    return access(whole, F_OK) ? NULL : path;
}

static CvWeights *trace(const char *name, const char *layout,
                        const char *options)
{
    char dit[256], text[256], vae[256];

    traced_model(name, part(dit, layout, "transformer"),
                 part(text, layout, "text_encoder"), part(vae, layout, "vae"));
    return traced_run(name, options);
}

/* All that trace writes is the same, bit by bit. */
static void same(const char *name, const char *layout, const char *options,
                 CvWeights *reference)
{
    CvWeights *got = trace(name, layout, options);
    int64_t n = traced_same(got, reference);

    ok(n, "%s: %lld tensors, frames among them, bit by bit as from "
       "safetensors", name, (long long)n);
    cv_weights_close(&got);
}

static void close_to(const char *layout, CvWeights *reference, double least)
{
    CvWeights *got = trace(layout, layout, "");
    double db = traced_psnr(got, reference);

    ok(db >= least && isfinite(db), "%s: frames of %.1f dB", layout, db);
    cv_weights_close(&got);
}

int main(void)
{
    CvWeights *reference;

    traced_begin();
    reference = trace("safetensors", "safetensors", "");
    same("torch-generator", "torch-generator", "", reference);
    same("torch-generator-named", "torch-generator",
         "--checkpoint_key generator", reference);
    same("torch-ema", "torch-ema", "", reference);
    same("gguf-f32", "gguf-f32", "", reference);
    /* 24.7 and 18.6 dB, less 3: the network is random, so that errors grow more
     * than in a trained one, and all of its matrices are quantised. That blocks
     * are read as they should be is tests/unit/test_gguf.c. */
    close_to("gguf-q8_0", reference, 21.7);
    close_to("gguf-q4_k", reference, 15.6);
    cv_weights_close(&reference);
    return tap_done();
}
