/*
 * Fuzz target: a LoRA file is opened for a small transformer and merged into
 * it.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#include <fcntl.h>
#include <unistd.h>

#include "lines.h"
#include "weights/lora.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The transformer: a module of each kind that a LoRA changes. */
#define MODEL_BYTES 292
static const char model_header[] =
    "{\"patch_embedding.weight\":{\"dtype\":\"F32\",\"shape\":[2,2,1,2,2],"
    "\"data_offsets\":[0,64]},"
    "\"patch_embedding.bias\":{\"dtype\":\"F32\",\"shape\":[2],"
    "\"data_offsets\":[64,72]},"
    "\"blocks.0.modulation\":{\"dtype\":\"F32\",\"shape\":[1,6,2],"
    "\"data_offsets\":[72,120]},"
    "\"blocks.0.norm3.weight\":{\"dtype\":\"F16\",\"shape\":[2],"
    "\"data_offsets\":[120,124]},"
    "\"blocks.0.self_attn.q.weight\":{\"dtype\":\"BF16\",\"shape\":[4,3],"
    "\"data_offsets\":[124,148]},"
    "\"blocks.0.self_attn.q.bias\":{\"dtype\":\"F32\",\"shape\":[4],"
    "\"data_offsets\":[148,164]},"
    "\"blocks.0.ffn.0.weight\":{\"dtype\":\"F32\",\"shape\":[16,2],"
    "\"data_offsets\":[164,292]}}";

static uint8_t model_file[8 + sizeof(model_header) + MODEL_BYTES];
static Lines lines;
static CvBackend *cpu;
static CvWeights *model;
static char file[64];

static void save(const void *data, size_t size)
{
    int fd = open(file, O_WRONLY | O_CREAT | O_TRUNC, 0600);

    REQUIRE(fd >= 0 && write(fd, data, size) == (ssize_t)size);
    close(fd);
}

static void clean_up(void)
{
    unlink(file);
    *strrchr(file, '/') = 0;
    rmdir(file);
    cv_weights_close(&model);
    cpu->close(&cpu);
}

static void set_up(void)
{
    char folder[32] = "/dev/shm/causvid-XXXXXX";
    const size_t n = sizeof(model_header) - 1;

    lines_init(&lines);
    if (!mkdtemp(folder)) { /* there is no such place: slower, on a disk */
        strcpy(folder, "/tmp/causvid-XXXXXX");
        REQUIRE(mkdtemp(folder));
    }
    snprintf(file, sizeof(file), "%s/lora", folder);
    for (int i = 0; i < 8; i++)
        model_file[i] = (uint8_t)((uint64_t)n >> (8 * i));
    memcpy(model_file + 8, model_header, n);
    REQUIRE(!cv_weights_open_memory(&model, model_file, 8 + n + MODEL_BYTES,
                                    "model", &lines.log));
    REQUIRE(!cv_cpu_open(&cpu, 1, &lines.log));
    atexit(clean_up);
}

static int load_all(CvLoras *loras)
{
    CvArena arena = { 0 };
    CvLoader loader = { .backend = cpu, .arena = &arena, .weights = model,
                        .log = &lines.log, .loras = loras };
    int err = 0;

    for (int run = 0; run < 2 && !err; run++) {
        if (!run)
            cv_arena_plan(&arena, cpu);
        else
            REQUIRE(!cv_arena_take(&arena, &lines.log, "fuzzing"));
        for (int64_t i = 0; i < cv_weights_count(model) && !err; i++) {
            const CvEntry *e = cv_weights_at(model, i);
            CvTensor t = e->tensor;

            t.type = CV_F32;
            err = cv_load(&loader, &t, CV_LOAD_AS_IS, "%s", e->name);
        }
    }
    if (!err) {
        for (int i = 0; i < loras->n_files; i++)
            REQUIRE(loras->files[i].applied <= loras->files[i].entries);
        cv_loras_finish(&loader);
    }
    cpu->planning = 0;
    cv_load_release(&loader);
    cv_arena_free(&arena);
    return err;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    CvLoras *loras = NULL;
    char list[256];
    int err;

    if (!cpu)
        set_up();
    save(data, size);
    if (size % 2)
        snprintf(list, sizeof(list), "%s=0.5", file);
    else
        snprintf(list, sizeof(list), "%s|%s=-2", file, file);
    err = cv_loras_open(&loras, list, model, &lines.log);
    lines_check(&lines, err);
    REQUIRE(!err == !!loras);
    if (!err)
        lines_check(&lines, load_all(loras));
    cv_loras_close(&loras);
    return 0;
}
