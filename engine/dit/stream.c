/*
 * Weights that are not kept: read from the file each time that they are needed.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * They go into scratch of the run's arena and give the bytes that resident ones
 * give. First what only a new prompt needs; then whole layers, the last ones
 * first, which each pass reads, into room for two: one while the other runs.
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

/* A loader into scratch. */
static CvLoader into(const CvDit *dit, CvArena *arena)
{
    CvLoader loader = dit->loader;

    loader.arena    = arena;
    loader.streamed = 1;
    return loader;
}

/* Room for any of the layers, with what LoRA files need to be merged. */
static size_t measure_layers(const CvDit *dit)
{
    CvBackend *backend = dit->loader.backend;
    CvArena arena = { 0 };
    CvDitLayer layer;

    cv_arena_plan(&arena, backend);
    for (int64_t i = 0; i < dit->size.layers; i++) {
        CvLoader loader = into(dit, &arena);

        arena.used = 0;
        layer = dit->layers[i];
        cv_dit_load_layer(dit, &loader, &layer, i);
    }
    backend->planning = 0;
    return arena.peak;
}

int cv_dit_stream_layers(CvDit *dit, int64_t bytes)
{
    const size_t before = dit->arena.peak;
    const int64_t all = dit->resident;

    if (dit->arena.base || !dit->loader.weights)
        return 0;
    if (dit->resident == dit->size.layers)
        dit->layer_bytes = measure_layers(dit);
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

int cv_dit_take_slots(const CvDit *dit, CvRun *run, CvArena slots[2])
{
    int err = 0;

    for (int i = 0; i < 2 && !err && dit->resident < dit->size.layers; i++) {
        CvTensor room = CV_TENSOR(NULL, CV_U8, (int64_t)dit->layer_bytes);

        err = cv_arena_tensor(run->arena, &room);
        slots[i] = (CvArena){ .backend = run->backend, .base = room.data,
                              .size = dit->layer_bytes };
    }
    return err;
}

int cv_dit_mark(const CvDit *dit, int64_t number)
{
    return number < dit->resident || number >= dit->size.layers
        ? 0 : cv_mark(dit->loader.backend);
}

int cv_dit_get_layer(const CvDit *dit, CvArena *slot, int64_t number,
                     CvDitLayer *layer)
{
    CvLoader loader = into(dit, slot);
    int err, off;

    *layer = dit->layers[number];
    if (number < dit->resident)
        return 0;
    slot->used = 0;
    err = cv_ahead(loader.backend, 1);
    if (!err)
        err = cv_dit_load_layer(dit, &loader, layer, number);
    off = cv_ahead(loader.backend, 0);
    return err ? err : off;
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
            err = cv_dit_get_layer(dit, &arena, i, &layer);
    }
    backend->planning = 0;
    return err;
}
