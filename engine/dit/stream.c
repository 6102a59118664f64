/*
 * Weights that are not kept: read from the file each time that they are needed.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * They go into scratch of the run's arena, so that they take the room of one
 * layer, and give the bytes that resident ones give. First what only a new
 * prompt needs; then whole layers, the last ones first, which each pass reads.
 */
#include "internal.h"

#include <stdlib.h>
#include <string.h>

int cv_dit_stream_text(CvDit *dit)
{
    if (dit->text_streamed || !dit->loader.weights)
        return 0;
    dit->text_streamed = 1;
    cv_arena_free(&dit->text_arena);
    return 1;
}

int cv_dit_stream_layers(CvDit *dit, int64_t bytes)
{
    const size_t before = dit->arena.peak;
    const int64_t all = dit->resident;

    if (dit->arena.base || !dit->loader.weights)
        return 0;
    while (dit->resident && (int64_t)(before - dit->arena.peak) < bytes)
        dit->arena.peak = dit->layers[--dit->resident].before;
    return dit->resident < all;
}

int64_t cv_dit_streamed_layers(const CvDit *dit)
{
    return dit->size.layers - dit->resident;
}

int64_t cv_dit_streamed_bytes(const CvDit *dit)
{
    static const char *const texts[] = { "text_embedding.", ".cross_attn.k.",
                                         ".cross_attn.v.",
                                         ".cross_attn.norm_k." };
    CvWeights *weights = dit->loader.weights;
    int64_t bytes = 0, n = weights ? cv_weights_count(weights) : 0;

    for (int64_t i = 0; i < n; i++) {
        const CvEntry *e = cv_weights_at(weights, i);
        int text = 0, streamed;

        for (size_t k = 0; k < sizeof(texts) / sizeof(*texts); k++)
            text |= strstr(e->name, texts[k]) != NULL;
        streamed = text ? dit->text_streamed :
                   !strncmp(e->name, "blocks.", 7) &&
                   strtoll(e->name + 7, NULL, 10) >= dit->resident;
        bytes += streamed ? cv_tensor_bytes(&e->tensor) : 0;
    }
    return bytes;
}

/* A loader into scratch. */
static CvLoader into(const CvDit *dit, CvArena *arena)
{
    CvLoader loader = dit->loader;

    loader.arena    = arena;
    loader.streamed = 1;
    return loader;
}

int cv_dit_get_text(const CvDit *dit, CvRun *run, CvDitText *text)
{
    CvLoader loader = into(dit, run->arena);

    *text = dit->text;
    return dit->text_streamed ? cv_dit_load_text(dit, &loader, text) : 0;
}

int cv_dit_get_text_layer(const CvDit *dit, CvRun *run, int64_t number,
                          CvDitTextLayer *layer)
{
    CvLoader loader = into(dit, run->arena);

    *layer = dit->text_layers[number];
    return dit->text_streamed
        ? cv_dit_load_text_layer(dit, &loader, layer, number) : 0;
}

int cv_dit_get_layer(const CvDit *dit, CvRun *run, int64_t number,
                     CvDitLayer *layer)
{
    CvLoader loader = into(dit, run->arena);

    *layer = dit->layers[number];
    return number < dit->resident
        ? 0 : cv_dit_load_layer(dit, &loader, layer, number);
}

int cv_dit_plan_streamed(const CvDit *dit)
{
    CvBackend *backend = dit->loader.backend;
    CvArena arena = { 0 };
    CvRun run = { .arena = &arena };
    CvDitTextLayer text_layer;
    CvDitLayer layer;
    CvDitText text;
    int err;

    cv_arena_plan(&arena, backend);
    err = cv_dit_get_text(dit, &run, &text);
    for (int64_t i = 0; i < dit->size.layers && !err; i++) {
        err = cv_dit_get_text_layer(dit, &run, i, &text_layer);
        if (!err)
            err = cv_dit_get_layer(dit, &run, i, &layer);
    }
    backend->planning = 0;
    return err;
}
