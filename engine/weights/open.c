/*
 * Opening weights: a file, the shards of an index, or a folder of either.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "weights/json.h"
#include "weights/places.h"
#include "weights/reader.h"

#define MAX_SHARDS 1024
#define MAX_OPEN   32 /* files; others are only mapped */

static int begins(const CvFile *file, const char *bytes, size_t n)
{
    return file->size >= n && !memcmp(file->data, bytes, n);
}

static int is_torch_legacy(const CvFile *file)
{
    /* protocol 2, then the number 0x1950a86a20f9469cfc6c (torch.save) */
    return begins(file, "\x80\2\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50"
                  "\x19", 14);
}

static int is_lfs_pointer(const CvFile *file)
{
    return begins(file, "version https://git-lfs", 23);
}

static int is_web_page(const CvFile *file)
{
    return begins(file, "<!DOCTYPE", 9) || begins(file, "<!doctype", 9) ||
           begins(file, "<html", 5);
}

static const CvReader torch_legacy = {
    .format = "a file of torch.save() before 1.6", .detect = is_torch_legacy,
    .error  = ENOSYS,
    .advice = "load it and save it again with a current PyTorch: "
              "torch.save(torch.load(FILE), FILE)",
};
static const CvReader lfs_pointer = {
    .format = "a Git LFS pointer, not the weights themselves",
    .detect = is_lfs_pointer, .error = EILSEQ,
    .advice = "run 'git lfs pull' where it was cloned",
};
static const CvReader web_page = {
    .format = "a web page, not weights", .detect = is_web_page,
    .error  = EILSEQ, .advice = "download the file itself",
};

static const CvReader *const readers[] = {
    &cv_reader_safetensors, &cv_reader_torch, &cv_reader_gguf, &torch_legacy,
    &lfs_pointer, &web_page,
};

static int ends_with(const char *string, const char *end)
{
    size_t n = strlen(string), e = strlen(end);

    return n >= e && !strcmp(string + n - e, end);
}

/* Let the reader that knows the file fill the directory. */
static int read_file(CvWeights *w, const CvFile *file, CvLog *log)
{
    const CvReader *reader = NULL;

    if (!file->size)
        return cv_fail(log, EILSEQ, "'%s' is empty; get the file again",
                       file->path);
    for (size_t i = 0; i < sizeof(readers) / sizeof(*readers) && !reader; i++)
        if (readers[i]->detect(file))
            reader = readers[i];
    /* A damaged one is known by its name, so that the line can say what is
     * wrong with it. */
    if (!reader && ends_with(file->path, ".safetensors"))
        reader = &cv_reader_safetensors;
    if (!reader)
        return cv_fail(log, EILSEQ, "'%s' is no file of weights (it begins "
                       "with the bytes %02x %02x %02x %02x); expected "
                       "safetensors, GGUF or what torch.save() writes",
                       file->path, file->data[0],
                       file->size > 1 ? file->data[1] : 0,
                       file->size > 2 ? file->data[2] : 0,
                       file->size > 3 ? file->data[3] : 0);
    if (!reader->read)
        return cv_fail(log, reader->error, "'%s' is %s; %s", file->path,
                       reader->format, reader->advice);
    if (w->key && reader != &cv_reader_torch)
        return cv_fail(log, EINVAL, "checkpoint_key is '%s', but '%s' is no "
                       ".pt file: it holds one set of weights (%s); leave the "
                       "option out", w->key, file->path, reader->format);
    w->container = reader->format;
    return reader->read(w, file, log);
}

/* A new file in the list, without contents. NULL: no memory, logged. */
static CvFile *new_file(CvWeights *w, const char *path, CvLog *log)
{
    CvFile *file = calloc(1, sizeof(*file));
    CvFile **files = realloc(w->files,
                             ((size_t)w->n_files + 1) * sizeof(*files));

    if (files)
        w->files = files;
    if (file)
        file->path = strdup(path);
    if (!files || !file || !file->path) {
        if (file)
            free(file->path);
        free(file);
        cv_fail_memory(log, sizeof(*file), "a list of files");
        return NULL;
    }
    w->files[w->n_files++] = file;
    return file;
}

static int map_file(CvWeights *w, const char *path, CvLog *log)
{
    CvFile *file = new_file(w, path, log);
    off_t size;
    int fd, err = 0;

    if (!file)
        return CAUSVID_ERR(ENOMEM);
    if ((fd = cv_path_open(path, &size, "weights", log)) < 0)
        return fd;
    if ((uint64_t)size > SIZE_MAX / 2) {
        err = cv_fail(log, EILSEQ, "'%s' is larger than this machine can "
                      "address", path);
    } else if (size > 0) {
        void *data = mmap(NULL, (size_t)size, PROT_READ, MAP_PRIVATE, fd, 0);

        if (data == MAP_FAILED) {
            err = cv_fail(log, errno == ENOMEM ? ENOMEM : EIO,
                          "'%s' cannot be mapped: %s", path, strerror(errno));
        } else {
            file->data   = data;
            file->size   = (size_t)size;
            file->mapped = 1;
        }
    }
    file->fd      = fd;
    file->is_open = !err && w->n_files <= MAX_OPEN;
    if (!file->is_open)
        close(fd);
    return err < 0 ? err : read_file(w, file, log);
}

/* ---- shards ---- */

static int compare_strings(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* A shard is a file beside its index: anything else could reach out of the
 * model's folder. */
static int plain_name(const char *name)
{
    size_t n = strlen(name);

    if (!n || n > 255 || !strcmp(name, ".") || !strcmp(name, ".."))
        return 0;
    for (const char *p = name; *p; p++)
        if (*p == '/' || *p == '\\' || (unsigned char)*p < 0x20 || *p == 0x7f)
            return 0;
    return 1;
}

/* The names of the shards, each once: *shards points into the map. */
static int list_shards(const char ***shards, int *n_shards, const cJSON *map,
                       const char *path, CvLog *log)
{
    const cJSON *item;
    char text[CV_PRINTABLE], shard[CV_PRINTABLE];
    const char **names;
    size_t n = 0, kept = 0;

    *shards   = NULL;
    *n_shards = 0;
    if (!cJSON_IsObject(map) || !map->child)
        return cv_fail(log, EILSEQ, "'%s' has no weight_map; expected the "
                       "index of a sharded model", path);
    cJSON_ArrayForEach(item, map) {
        n++;
        if (cJSON_IsString(item) && plain_name(item->valuestring))
            continue;
        return cv_fail(log, EILSEQ, "'%s' says that tensor '%s' is in '%s'; "
                       "expected the name of a file beside the index", path,
                       cv_printable(text, item->string),
                       cJSON_IsString(item) ?
                       cv_printable(shard, item->valuestring) : "?");
    }
    names = malloc(n * sizeof(*names));
    if (!names)
        return cv_fail_memory(log, n * sizeof(*names), "a list of shards");
    n = 0;
    cJSON_ArrayForEach(item, map)
        names[n++] = item->valuestring;
    qsort(names, n, sizeof(*names), compare_strings);
    for (size_t i = 0; i < n; i++)
        if (!kept || strcmp(names[kept - 1], names[i]))
            names[kept++] = names[i];
    if (kept > MAX_SHARDS) {
        free(names);
        return cv_fail(log, EILSEQ, "'%s' names %zu shards; expected at most "
                       "%d", path, kept, MAX_SHARDS);
    }
    *shards   = names;
    *n_shards = (int)kept;
    return 0;
}

/* Compare what the index says with what the shards hold. */
static int check_map(CvWeights *w, const cJSON *map, const char *path,
                     CvLog *log)
{
    const cJSON *item;
    int64_t unlisted = 0;
    const CvEntry *first = NULL;
    char text[CV_PRINTABLE];

    cJSON_ArrayForEach(item, map) {
        CvEntry *e = cv_weights_find(w, "%s", item->string);
        const char *base = e ? strrchr(e->file, '/') : NULL;

        base = base ? base + 1 : e ? e->file : "";
        if (strcmp(base, item->valuestring))
            return cv_fail(log, EILSEQ, "'%s' says that tensor '%s' is in "
                           "'%s', but %s%s; are index and shards of one "
                           "model?", path, cv_printable(text, item->string),
                           item->valuestring, e ? "it is in " : "it is not",
                           base);
        e->used = 1;
    }
    for (int64_t i = 0; i < w->n_entries; i++) {
        if (!w->entries[i].used && !unlisted++)
            first = &w->entries[i];
        w->entries[i].used = 0;
    }
    if (!unlisted)
        return 0;
    return cv_fail(log, EILSEQ, "'%s' holds %lld tensors that '%s' does not "
                   "list, such as '%s'; are index and shards of one model?",
                   first->file, (long long)unlisted, path, first->name);
}

static int open_index(CvWeights *w, const char *path, CvLog *log)
{
    const cJSON *map;
    cJSON *json;
    const char **shards = NULL, *slash = strrchr(path, '/');
    int folder = slash ? (int)(slash - path) + 1 : 0;
    int n_shards, err;
    double total = -1, found = 0;

    err = cv_json_read(&json, path, log);
    if (err < 0)
        return err;
    map = cJSON_GetObjectItemCaseSensitive(json, "weight_map");
    err = list_shards(&shards, &n_shards, map, path, log);
    for (int i = 0; i < n_shards && !err; i++) {
        char shard[CV_PATH_SIZE];
        struct stat st;
        int n = snprintf(shard, sizeof(shard), "%.*s%s", folder, path,
                         shards[i]);

        if (n < 0 || n >= (int)sizeof(shard))
            err = cv_fail(log, EINVAL, "the path of shard '%s' is longer than "
                          "%d bytes", shards[i], CV_PATH_SIZE - 1);
        else if (stat(shard, &st) < 0 && errno == ENOENT)
            err = cv_fail(log, ENOENT, "'%s' is missing: it is one of the %d "
                          "shards that '%s' names; put it beside the index",
                          shard, n_shards, path);
        else
            err = map_file(w, shard, log);
    }
    if (!err)
        err = cv_weights_sort(w, log);
    if (!err)
        err = check_map(w, map, path, log);
    if (!err)
        err = cv_json_number(cJSON_GetObjectItemCaseSensitive(json,
                                                              "metadata"),
                             path, "total_size", 0, 1e18, &total, log);
    /* Only told: published indexes are known to count shared tensors twice. */
    for (int64_t i = 0; i < w->n_entries; i++)
        found += (double)cv_tensor_bytes(&w->entries[i].tensor);
    if (!err && total >= 0 && total != found)
        cv_log(log, CAUSVID_LOG_WARNING, "'%s' says that the tensors have "
               "%.0f bytes, they have %.0f", path, total, found);
    free(shards);
    cJSON_Delete(json);
    return err;
}

/* ---- the whole ---- */

static CvWeights *new_weights(const char *path, CvLog *log)
{
    CvWeights *w = calloc(1, sizeof(*w));

    if (w)
        w->path = strdup(path);
    if (!w || !w->path) {
        free(w);
        cv_fail_memory(log, sizeof(*w), "a list of tensors");
        return NULL;
    }
    w->layout = "unknown";
    return w;
}

/* What all ways of opening end with. */
static int opened(CvWeights **weights, CvWeights *w, int err, CvLog *log)
{
    char types[64];

    if (err < 0) {
        cv_weights_close(&w);
        return err;
    }
    w->key = NULL;
    cv_weights_types(w, types, sizeof(types));
    cv_log(log, CAUSVID_LOG_VERBOSE, "'%s': %lld tensors in %d file%s, %s",
           w->path, (long long)w->n_entries, w->n_files,
           w->n_files == 1 ? "" : "s", types);
    *weights = w;
    return 0;
}

static int open_random(CvWeights **weights, const char *path, CvLog *log)
{
    CvWeights *w = new_weights(path, log);
    CvFile *file = w ? new_file(w, path, log) : NULL;
    int err = CAUSVID_ERR(ENOMEM);

    if (file && !(err = cv_random_read(w, file, log)))
        err = cv_weights_sort(w, log);
    return opened(weights, w, err, log);
}

int cv_weights_open(CvWeights **weights, const char *path, CvLog *log)
{
    return cv_weights_open_key(weights, path, NULL, log);
}

int cv_weights_open_key(CvWeights **weights, const char *path, const char *key,
                        CvLog *log)
{
    char file[CV_PATH_SIZE];
    CvWeights *w;
    struct stat st;
    int err;

    *weights = NULL;
    if (cv_random_is(path))
        return key && *key ?
               cv_fail(log, EINVAL, "checkpoint_key is '%s', but '%s' has no "
                       "file; leave the option out", key, path) :
               open_random(weights, path, log);
    if (stat(path, &st) < 0)
        return cv_fail(log, errno == ENOENT || errno == ENOTDIR ? ENOENT : EIO,
                       "'%s' cannot be opened: %s", path, strerror(errno));
    if (S_ISDIR(st.st_mode)) {
        err = cv_folder_weights(file, path, "", log);
        if (err < 0)
            return err;
    } else if (strlen(path) >= sizeof(file)) {
        return cv_fail(log, EINVAL, "a path is longer than %d bytes",
                       CV_PATH_SIZE - 1);
    } else {
        strcpy(file, path);
    }
    w = new_weights(path, log);
    if (!w)
        return CAUSVID_ERR(ENOMEM);
    w->key = key && *key ? key : NULL;
    if (ends_with(file, ".json"))
        err = open_index(w, file, log);
    else if (!(err = map_file(w, file, log)))
        err = cv_weights_sort(w, log);
    return opened(weights, w, err, log);
}

int cv_weights_open_memory(CvWeights **weights, const void *data, size_t size,
                           const char *path, CvLog *log)
{
    CvWeights *w = new_weights(path, log);
    CvFile *file;
    int err = CAUSVID_ERR(ENOMEM);

    *weights = NULL;
    if (!w)
        return err;
    file = new_file(w, path, log);
    if (file) {
        file->data = data;
        file->size = size;
        err = read_file(w, file, log);
    }
    if (!err)
        err = cv_weights_sort(w, log);
    if (err < 0)
        cv_weights_close(&w);
    *weights = w;
    return err;
}
