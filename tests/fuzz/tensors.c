/*
 * What the fuzz targets of the containers do with a file.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#include "tensors.h"

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

static void load_all(CvBackend *cpu, CvWeights *w, int conv, Lines *lines)
{
    CvArena arena = { 0 };
    CvLoader loader = { .backend = cpu, .arena = &arena,
                        .weights = w, .log = &lines->log };
    int err = 0;

    for (int run = 0; run < 2 && !err; run++) {
        if (!run)
            cv_arena_plan(&arena, cpu);
        else
            REQUIRE(!cv_arena_take(&arena, &lines->log, "fuzzing"));
        for (int64_t i = 0; i < cv_weights_count(w) && !err; i++)
            err = load(&loader, cv_weights_at(w, i), conv);
        lines_check(lines, err);
        if (!err) {
            err = cv_load_finish(&loader);
            lines_check(lines, err);
            REQUIRE(!err);
        }
    }
    cpu->planning = 0;
    cv_arena_free(&arena);
}

/* Every byte of a tensor lies in the file, or is reached by its strides. */
static void read_tensor(const CvEntry *e, const uint8_t *data, size_t size)
{
    const CvTensor *t = &e->tensor;
    int64_t bytes = cv_tensor_bytes(t);
    const uint8_t *p = t->data;
    uint8_t *copy;

    REQUIRE(bytes >= 0 && (uint64_t)bytes <= size && !p == !!e->view);
    REQUIRE(!p || (p >= data && bytes <= data + size - p));
    copy = malloc((size_t)bytes + 1);
    REQUIRE(copy);
    cv_entry_copy(copy, e, 0, cv_elements(t));
    free(copy);
}

void fuzz_container(Lines *lines, const uint8_t *data, size_t size,
                    const char *path)
{
    static const CvKind kinds[] = {
        CV_KIND_TRANSFORMER, CV_KIND_TEXT_ENCODER, CV_KIND_VAE,
    };
    static CvBackend *cpu;
    CvWeights *w;
    int err;

    if (!cpu)
        REQUIRE(!cv_cpu_open(&cpu, 1, &lines->log));
    err = cv_weights_open_memory(&w, data, size, path, &lines->log);
    lines_check(lines, err);
    REQUIRE(!err == !!w);
    if (err < 0)
        return;
    for (int64_t i = 0; i < cv_weights_count(w); i++) {
        CvEntry *e = cv_weights_at(w, i);

        read_tensor(e, data, size);
        REQUIRE(cv_weights_find(w, "%s", e->name) == e);
    }
    if (size & 2) { /* else with any names */
        err = cv_weights_canonical(w, kinds[size % 3], &lines->log);
        lines_check(lines, err);
    }
    if (!err)
        load_all(cpu, w, size & 1, lines);
    cv_weights_close(&w);
}
