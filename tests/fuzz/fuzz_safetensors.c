/*
 * Fuzz target: a safetensors file is opened, its names are translated, and
 * what it holds is loaded into the CPU backend.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#include "lines.h"
#include "weights/reader.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static CvBackend *cpu;
static Lines lines;

/* Ask for the tensor as it is stored, or as a convolution. */
static int load(CvLoader *loader, const CvEntry *e, int conv)
{
    CvTensor t = e->tensor;
    CvLoadLayout layout = CV_LOAD_AS_IS;
    char name[CV_NAME_SIZE];

    snprintf(name, sizeof(name), "%s", e->name);
    t.type = e->tensor.type == CV_I32 ? CV_I32 : CV_F32;
    t.data = NULL;
    if (conv && (t.n_dims == 4 || t.n_dims == 5)) {
        const int64_t *d = e->tensor.dim;

        layout = CV_LOAD_CONV;
        t = t.n_dims == 5 ? CV_TENSOR(NULL, t.type, d[0], d[2], d[3], d[4],
                                      d[1]) :
                            CV_TENSOR(NULL, t.type, d[0], 1, d[2], d[3], d[1]);
    }
    return cv_load(loader, &t, layout, "%s", name);
}

static void load_all(CvWeights *w, int conv)
{
    CvArena arena = { 0 };
    CvLoader loader = { cpu, &arena, w, &lines.log };
    int err = 0;

    for (int run = 0; run < 2 && !err; run++) {
        if (!run)
            cv_arena_plan(&arena, cpu);
        else
            REQUIRE(!cv_arena_take(&arena, &lines.log, "fuzzing"));
        for (int64_t i = 0; i < cv_weights_count(w) && !err; i++)
            err = load(&loader, cv_weights_at(w, i), conv);
        lines_check(&lines, err);
        if (!err) {
            err = cv_load_finish(&loader);
            lines_check(&lines, err);
            REQUIRE(!err);
        }
    }
    cpu->planning = 0;
    cv_arena_free(&arena);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const CvKind kinds[] = {
        CV_KIND_TRANSFORMER, CV_KIND_TEXT_ENCODER, CV_KIND_VAE,
    };
    CvWeights *w;
    volatile uint8_t sum = 0;
    int err;

    if (!cpu) {
        lines_init(&lines);
        REQUIRE(!cv_cpu_open(&cpu, 1, &lines.log));
    }
    err = cv_weights_open_memory(&w, data, size, "m.safetensors", &lines.log);
    lines_check(&lines, err);
    REQUIRE(!err == !!w);
    if (err < 0)
        return 0;
    for (int64_t i = 0; i < cv_weights_count(w); i++) {
        const CvTensor *t = &cv_weights_at(w, i)->tensor;
        int64_t bytes = cv_tensor_bytes(t);
        const uint8_t *p = t->data;

        REQUIRE(bytes >= 0 && p >= data && bytes <= data + size - p);
        if (bytes)
            sum = (uint8_t)(sum + p[0] + p[bytes - 1]);
        REQUIRE(cv_weights_find(w, "%s", cv_weights_at(w, i)->name) ==
                cv_weights_at(w, i));
    }
    err = cv_weights_canonical(w, kinds[size % 3], &lines.log);
    lines_check(&lines, err);
    if (!err)
        load_all(w, size & 1);
    cv_weights_close(&w);
    return 0;
}
