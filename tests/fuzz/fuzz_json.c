/*
 * Fuzz target: JSON texts as every reader of them meets them. The first byte
 * of the input chooses the reader, the rest is the file.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#include <fcntl.h>
#include <unistd.h>

#include "dit/internal.h"
#include "lines.h"
#include "recipe.h"
#include "vae/net.h"
#include "weights/files.h"
#include "weights/json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static Lines lines;
static char folder[32];

static void path_of(char path[64], const char *name)
{
    snprintf(path, 64, "%s/%s", folder, name);
}

static void save(const char *name, const void *data, size_t size)
{
    char path[64];
    int fd;

    path_of(path, name);
    fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    REQUIRE(fd >= 0 && write(fd, data, size) == (ssize_t)size);
    close(fd);
}

static void clean_up(void)
{
    static const char *const names[] = {
        "1.st", "2.st", "file.json", "m.safetensors.index.json",
    };
    char path[64];

    for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
        path_of(path, names[i]);
        unlink(path);
    }
    rmdir(folder);
}

static void save_shard(const char *name, const char *header, size_t n_data)
{
    uint8_t bytes[256] = { (uint8_t)strlen(header) };

    memcpy(bytes + 8, header, bytes[0]);
    save(name, bytes, 8 + bytes[0] + n_data);
}

/* Two shards, with the tensors a, b and c, beside the index. */
static void set_up(void)
{
    lines_init(&lines);
    /* in memory where there is such a place: many times faster */
    strcpy(folder, "/dev/shm/causvid-XXXXXX");
    if (!mkdtemp(folder)) {
        strcpy(folder, "/tmp/causvid-XXXXXX");
        REQUIRE(mkdtemp(folder));
    }
    atexit(clean_up);
    save_shard("1.st", "{\"a\":{\"dtype\":\"U8\",\"shape\":[2],"
               "\"data_offsets\":[0,2]},\"b\":{\"dtype\":\"U8\","
               "\"shape\":[1],\"data_offsets\":[2,3]}}", 3);
    save_shard("2.st", "{\"c\":{\"dtype\":\"U8\",\"shape\":[2],"
               "\"data_offsets\":[0,2]}}", 2);
}

/* Typed look-ups of every key, at every level. */
static void look_up(const cJSON *json, int depth)
{
    const cJSON *item;

    REQUIRE(depth <= CV_JSON_MAX_DEPTH);
    cJSON_ArrayForEach(item, json) {
        const char *key = item->string;
        int64_t integer = 0;
        double number = 0, list[4];
        char text[8];
        int yes = 0, n = 4;

        look_up(item, depth + 1);
        if (cv_json_size(item, &integer))
            REQUIRE(integer >= 0 && integer <= CV_JSON_MAX_INT);
        if (!key)
            continue;
        lines_check(&lines, cv_json_int(json, "j", key, -9, INT64_MAX,
                                        &integer, &lines.log));
        REQUIRE(integer >= -9);
        lines_check(&lines, cv_json_number(json, "j", key, -1, 1, &number,
                                           &lines.log));
        REQUIRE(number >= -1 && number <= 1);
        lines_check(&lines, cv_json_string(json, "j", key, text, sizeof(text),
                                           &lines.log));
        lines_check(&lines, cv_json_bool(json, "j", key, &yes, &lines.log));
        lines_check(&lines, cv_json_numbers(json, "j", key, list, &n,
                                            &lines.log));
        REQUIRE(n >= 0 && n <= 4);
    }
}

static void fuzz_tree(const uint8_t *data, size_t size)
{
    cJSON *json;
    int err = cv_json_parse(&json, (const char *)data, size, "j", &lines.log);

    lines_check(&lines, err);
    REQUIRE(!err == !!json);
    look_up(json, 0);
    cJSON_Delete(json);
}

static void fuzz_index(const uint8_t *data, size_t size)
{
    char path[64];
    CvWeights *w;
    int err;

    save("m.safetensors.index.json", data, size);
    path_of(path, "m.safetensors.index.json");
    err = cv_weights_open(&w, path, &lines.log);
    lines_check(&lines, err);
    if (err < 0)
        return;
    REQUIRE(cv_weights_count(w) >= 1);
    cv_weights_close(&w);
}

static void fuzz_recipe(const char *path)
{
    CvModelFiles *files = calloc(1, sizeof(*files));
    CvRecipe *recipe = calloc(1, sizeof(*recipe));
    CvDitSize size = { .dim = 1536 };
    int err;

    REQUIRE(files && recipe);
    strcpy(files->root, folder);
    strcpy(files->recipe, path);
    err = cv_recipe_init(recipe, files, &size, CAUSVID_VARIANT_AUTO,
                         &lines.log);
    lines_check(&lines, err);
    if (!err)
        REQUIRE(recipe->width > 0 && recipe->width % 16 == 0 &&
                recipe->height > 0 && recipe->height % 16 == 0 &&
                recipe->frames > 0 && recipe->rate_num > 0 &&
                recipe->rate_den > 0 && recipe->steps > 0 &&
                recipe->n_timesteps <= CV_MAX_LIST &&
                recipe->frames_per_block > 0 &&
                recipe->window % recipe->frames_per_block == 0);
    free(recipe);
    free(files);
}

static void fuzz_transformer(const char *path)
{
    CvDit dit = { .size = { .dim = 256, .ffn_dim = 512, .heads = 2,
                            .layers = 2, .text_dim = 32, .freq_dim = 256,
                            .in_channels = 16, .out_channels = 16 },
                  .cross_norm = 1, .eps = 1e-6f };
    int err = cv_dit_read_config(&dit, path, "w", &lines.log);

    lines_check(&lines, err);
    if (!err)
        REQUIRE(dit.size.heads > 0 && dit.head_dim > 0 &&
                dit.size.heads * dit.head_dim == dit.size.dim && dit.eps > 0);
}

static void fuzz_vae(const char *path)
{
    CvVaeConfig *config = malloc(sizeof(*config));

    REQUIRE(config);
    lines_check(&lines, cv_vae_config_read(config, path, &lines.log));
    free(config);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char path[64];

    if (!size)
        return 0;
    if (!lines.log.cookie)
        set_up();
    path_of(path, "file.json");
    switch (data[0]) {
    case 'i':
        fuzz_index(data + 1, size - 1);
        break;
    case 'r':
        save("file.json", data + 1, size - 1);
        fuzz_recipe(path);
        break;
    case 't':
        save("file.json", data + 1, size - 1);
        fuzz_transformer(path);
        break;
    case 'v':
        save("file.json", data + 1, size - 1);
        fuzz_vae(path);
        break;
    default:
        fuzz_tree(data + 1, size - 1);
    }
    return 0;
}
