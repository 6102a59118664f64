/*
 * Copies of the fixture model with one thing damaged, and what opening and
 * running them comes to.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cjson/cJSON.h>

#include "bad_model.h"

#define PATH 2048

static char scratch[PATH / 2];
static char fixture[PATH];

/* Files of the copy that were changed since it was made. */
static char dirty[64][PATH / 8];
static int n_dirty;

static void die(const char *what)
{
    printf("Bail out! %s: %s\n", what, strerror(errno));
    exit(255);
}

static void *need(void *memory)
{
    if (!memory)
        die("malloc");
    return memory;
}

/* ---- files ---- */

typedef struct Bytes {
    uint8_t *data; /* with a 0 behind it */
    size_t n;
} Bytes;

static Bytes load(const char *path)
{
    FILE *file = fopen(path, "rb");
    Bytes b = { 0 };
    struct stat st;

    if (!file || fstat(fileno(file), &st) < 0)
        die(path);
    b.n    = (size_t)st.st_size;
    b.data = need(calloc(b.n + 1, 1));
    if (fread(b.data, 1, b.n, file) != b.n)
        die(path);
    fclose(file);
    return b;
}

static void join(char path[PATH], const char *folder, const char *name)
{
    if (snprintf(path, PATH, "%s/%s", folder, name) >= PATH)
        die("a path is too long");
}

static void remove_tree(const char *path)
{
    struct dirent *entry;
    char child[PATH];
    DIR *dir;

    if (!unlink(path) || errno == ENOENT)
        return;
    chmod(path, 0700);
    if (!(dir = opendir(path)))
        die(path);
    while ((entry = readdir(dir))) {
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
            continue;
        join(child, path, entry->d_name);
        remove_tree(child);
    }
    closedir(dir);
    if (rmdir(path))
        die(path);
}

/* Written over and then cut: emptying files is slow on some file systems. */
static void save(const char *path, const void *data, size_t n)
{
    struct stat st;
    int fd;

    if (!lstat(path, &st) && !S_ISREG(st.st_mode))
        remove_tree(path); /* a link must not be followed */
    chmod(path, 0644);     /* where it is there */
    fd = open(path, O_WRONLY | O_CREAT, 0644);
    if (fd < 0 || write(fd, data, n) != (ssize_t)n ||
        ftruncate(fd, (off_t)n) || close(fd))
        die(path);
}

static void copy_tree(const char *from, const char *to)
{
    DIR *dir = opendir(from);
    struct dirent *entry;
    char a[PATH], b[PATH];
    struct stat st;
    Bytes bytes;

    if (!dir) {
        bytes = load(from);
        save(to, bytes.data, bytes.n);
        free(bytes.data);
        return;
    }
    if (!lstat(to, &st) && !S_ISDIR(st.st_mode))
        remove_tree(to);
    if (mkdir(to, 0755) && errno != EEXIST)
        die(to);
    chmod(to, 0755);
    while ((entry = readdir(dir))) {
        if (entry->d_name[0] == '.')
            continue;
        join(a, from, entry->d_name);
        join(b, to, entry->d_name);
        copy_tree(a, b);
    }
    closedir(dir);
}

static void remove_scratch(void)
{
    remove_tree(scratch);
}

/* A file is about to be changed. */
static void mark(const char *name)
{
    if (n_dirty && !strcmp(dirty[n_dirty - 1], name))
        return;
    if (n_dirty == (int)(sizeof(dirty) / sizeof(*dirty)) ||
        strlen(name) >= sizeof(*dirty))
        die("too many changed files");
    strcpy(dirty[n_dirty++], name);
}

static void begin(void)
{
    const char *src = getenv("CAUSVID_SRC"), *build = getenv("CAUSVID_BUILD");

    join(fixture, src ? src : ".", "tests/model/fixtures/clip/model");
    snprintf(scratch, sizeof(scratch), "%s/bad-models-XXXXXX",
             build ? build : "build");
    if (!mkdtemp(scratch))
        die(scratch);
    atexit(remove_scratch);
    chmod(scratch, 0755);
    copy_tree(fixture, model_file(""));
}

/* What was changed is put back instead of everything: making files is cheap,
 * removing them is not everywhere. */
void model_reset(void)
{
    char from[PATH];
    struct stat st;

    if (!*scratch)
        begin();
    while (n_dirty > 0) {
        const char *name = dirty[--n_dirty];

        join(from, fixture, name);
        if (!lstat(from, &st))
            copy_tree(from, model_file(name));
        else
            remove_tree(model_file(name));
    }
}

const char *model_file(const char *name)
{
    static char paths[5][PATH];
    static int next;
    char *path = paths[next++ % 5];

    if (!strncmp(name, "../", 3))
        snprintf(path, PATH, "%s/%s", scratch, name + 3);
    else
        snprintf(path, PATH, "%s/model/%s", scratch, name);
    return path;
}

size_t file_size(const char *name)
{
    struct stat st;

    if (stat(model_file(name), &st) < 0)
        die(name);
    return (size_t)st.st_size;
}

void file_remove(const char *name)
{
    struct stat st;

    if (lstat(model_file(name), &st) < 0)
        die(name);
    mark(name);
    remove_tree(model_file(name));
}

void file_copy(const char *from, const char *to)
{
    mark(to);
    copy_tree(model_file(from), model_file(to));
}

void file_write(const char *name, const void *data, size_t n)
{
    mark(name);
    save(model_file(name), data, n);
}

void file_text(const char *name, const char *text)
{
    file_write(name, text, strlen(text));
}

void file_resize(const char *name, size_t n)
{
    mark(name);
    if (truncate(model_file(name), (off_t)n))
        die(name);
}

void file_mode(const char *name, unsigned mode)
{
    mark(name);
    if (chmod(model_file(name), (mode_t)mode))
        die(name);
}

void file_flip(const char *name, size_t bit)
{
    Bytes b = load(model_file(name));

    if (bit / 8 >= b.n)
        die("file_flip: behind the end");
    b.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
    file_write(name, b.data, b.n);
    free(b.data);
}

void json_set(const char *name, const char *key, const char *value)
{
    Bytes b = load(model_file(name));
    cJSON *json = cJSON_Parse((const char *)b.data);
    cJSON *item = value ? cJSON_CreateRaw(value) : NULL;
    char *text;

    if (!json || (value && !item))
        die(name);
    cJSON_DeleteItemFromObjectCaseSensitive(json, key);
    if (item)
        cJSON_AddItemToObject(json, key, item);
    text = need(cJSON_Print(json));
    file_text(name, text);
    cJSON_free(text);
    cJSON_Delete(json);
    free(b.data);
}

/* ---- safetensors ---- */

typedef struct St {
    Bytes file;
    size_t n;          /* of the header */
    uint8_t *data;
    size_t n_data;
} St;

static St st_load(const char *name)
{
    St st = { .file = load(model_file(name)) };

    for (int i = 7; i >= 0; i--)
        st.n = st.n << 8 | st.file.data[i];
    if (st.file.n < 8 || st.n > st.file.n - 8)
        die(name);
    st.data   = st.file.data + 8 + st.n;
    st.n_data = st.file.n - 8 - st.n;
    return st;
}

/* The file with another header; frees st. */
static void st_save(const char *name, St *st, const char *header)
{
    size_t n = strlen(header);
    uint8_t *all = need(malloc(8 + n + st->n_data));

    for (int i = 0; i < 8; i++)
        all[i] = (uint8_t)((uint64_t)n >> (8 * i));
    memcpy(all + 8, header, n);
    memcpy(all + 8 + n, st->data, st->n_data);
    file_write(name, all, 8 + n + st->n_data);
    free(all);
    free(st->file.data);
}

static cJSON *st_parse(const St *st, const char *name)
{
    cJSON *json = cJSON_ParseWithLength((const char *)st->file.data + 8,
                                        st->n);

    if (!json)
        die(name);
    return json;
}

/* Offsets of a member of the header; 0 for __metadata__. */
static size_t st_offset(const cJSON *member, int i)
{
    const cJSON *offsets = cJSON_GetObjectItemCaseSensitive(member,
                                                            "data_offsets");
    const cJSON *offset = cJSON_GetArrayItem(offsets, i);

    return offset ? (size_t)offset->valuedouble : 0;
}

size_t st_header(const char *name)
{
    St st = st_load(name);

    free(st.file.data);
    return st.n;
}

void st_set_header(const char *name, const char *text)
{
    St st = st_load(name);

    st_save(name, &st, text);
}

void st_edit(const char *name, const char *from, const char *to)
{
    St st = st_load(name);
    char *header = need(calloc(st.n + strlen(to) + 1, 1)), *at;

    memcpy(header, st.file.data + 8, st.n);
    at = strstr(header, from);
    if (!at)
        die(from);
    memmove(at + strlen(to), at + strlen(from), strlen(at + strlen(from)) + 1);
    memcpy(at, to, strlen(to));
    st_save(name, &st, header);
    free(header);
}

/* Bytes of `dims`, "2,3", elements of a type. */
static size_t st_bytes(const char *dtype, const char *dims)
{
    size_t n = strstr(dtype, "64") ? 8 : strstr(dtype, "32") ? 4 :
               strstr(dtype, "16") ? 2 : 1;

    while (*dims) {
        char *end;

        n *= (size_t)strtoull(dims, &end, 10);
        if (end == dims)
            die(dims);
        dims = *end ? end + 1 : end;
    }
    return n;
}

void st_tensor(const char *name, const char *tensor, const char *dtype,
               const char *dims)
{
    St st = st_load(name), made = { 0 };
    cJSON *json = st_parse(&st, name), *out = need(cJSON_CreateObject());
    cJSON *old = cJSON_GetObjectItemCaseSensitive(json, tensor), *member;
    size_t bytes = dtype ? st_bytes(dtype, dims) : 0;
    char text[256], *header;

    if (!dtype && !old)
        die(tensor);
    if (!old)
        cJSON_AddItemToObject(json, tensor, cJSON_CreateObject());
    made.data = need(calloc(st.n_data + bytes + 1, 1));
    cJSON_ArrayForEach(member, json) {
        size_t at = st_offset(member, 0), n = st_offset(member, 1) - at;
        cJSON *copy;

        if (!strcmp(member->string, "__metadata__"))
            continue;
        if (strcmp(member->string, tensor)) {
            copy = cJSON_Duplicate(member, 1);
            memcpy(made.data + made.n_data, st.data + at, n);
        } else if (dtype) {
            snprintf(text, sizeof(text), "{\"dtype\":\"%s\",\"shape\":[%s]}",
                     dtype, dims);
            copy = cJSON_Parse(text);
            n    = bytes;
        } else {
            continue;
        }
        snprintf(text, sizeof(text), "[%zu,%zu]", made.n_data,
                 made.n_data + n);
        cJSON_DeleteItemFromObjectCaseSensitive(copy, "data_offsets");
        cJSON_AddItemToObject(copy, "data_offsets", cJSON_CreateRaw(text));
        cJSON_AddItemToObject(out, member->string, copy);
        made.n_data += n;
    }
    header = need(cJSON_PrintUnformatted(out));
    st_save(name, &made, header);
    free(made.data);
    cJSON_free(header);
    cJSON_Delete(out);
    cJSON_Delete(json);
    free(st.file.data);
}

/* Call for each tensor whose name begins with `prefix`; n elements. */
static void change(const char *name, const char *prefix,
                   void (*edit)(float *values, size_t n, const void *how),
                   const void *how)
{
    St st = st_load(name);
    cJSON *json = st_parse(&st, name), *member;
    int found = 0;

    cJSON_ArrayForEach(member, json) {
        size_t at = st_offset(member, 0), end = st_offset(member, 1);
        float *values;

        if (!strcmp(member->string, "__metadata__") ||
            strncmp(member->string, prefix, strlen(prefix)))
            continue;
        values = need(malloc(end - at + 1));
        memcpy(values, st.data + at, end - at); /* aligned */
        edit(values, (end - at) / sizeof(*values), how);
        memcpy(st.data + at, values, end - at);
        free(values);
        found = 1;
    }
    if (!found)
        die(prefix);
    cJSON_Delete(json);
    file_write(name, st.file.data, st.file.n);
    free(st.file.data);
}

static void scale(float *values, size_t n, const void *how)
{
    for (size_t i = 0; i < n; i++)
        values[i] *= *(const float *)how;
}

void st_scale(const char *name, const char *prefix, float factor)
{
    change(name, prefix, scale, &factor);
}

typedef struct Put {
    size_t index;
    float value;
} Put;

static void put(float *values, size_t n, const void *how)
{
    const Put *p = how;

    if (p->index >= n)
        die("st_put: behind the end");
    values[p->index] = p->value;
}

void st_put(const char *name, const char *tensor, size_t index, float value)
{
    change(name, tensor, put, &(Put){ index, value });
}

/* ---- what came of it ---- */

static void write_log(void *cookie, enum CausvidLogLevel level,
                      const char *format, va_list args)
{
    Outcome *o = cookie;
    char text[sizeof(o->line)];
    int n = vsnprintf(text, sizeof(text), format, args);

    o->bad += n <= 0 || n >= (int)sizeof(text);
    for (const char *p = text; *p; p++)
        o->bad += (unsigned char)*p < 0x20 || *p == 0x7f;
    o->errors   += level == CAUSVID_LOG_ERROR;
    o->warnings += level == CAUSVID_LOG_WARNING;
    if (level <= CAUSVID_LOG_WARNING)
        strcpy(o->line, text);
}

static void hash_frame(Outcome *o, const uint8_t *rgb, size_t n)
{
    while (n--)
        o->hash = (o->hash ^ *rgb++) * UINT64_C(1099511628211);
    o->frames++;
}

Outcome try_model(const CausvidSettings *settings, int frames)
{
    Outcome o = { .call = "open", .hash = UINT64_C(14695981039346656037) };
    CausvidContext *cv = NULL;
    CausvidSettings s;
    CausvidClip clip;
    CausvidInfo info;
    CausvidPicture pic = { .format = CAUSVID_FORMAT_RGB24 };
    uint8_t *rgb = NULL;

    if (settings)
        s = *settings;
    else
        causvid_default_settings(&s);
    if (!s.model)
        s.model = model_file("");
    s.threads = 1;
    s.log     = write_log;
    s.cookie  = &o;
    if ((o.error = causvid_open(&cv, &s)) < 0) {
        if (cv)
            die("a context was given in spite of an error");
        return o;
    }
    causvid_get_info(cv, &info);
    causvid_default_clip(&clip);
    clip.prompt = "a cat";
    clip.frames = frames;
    pic.width   = info.width;
    pic.height  = info.height;
    rgb = need(malloc((size_t)3 * (size_t)info.width * (size_t)info.height));
    pic.data[0]   = rgb;
    pic.stride[0] = (ptrdiff_t)3 * info.width;
    o.call  = "start";
    o.error = causvid_start(cv, &clip);
    if (!o.error) {
        o.call = "read";
        while (!(o.error = causvid_read_frame(cv, &pic)))
            hash_frame(&o, rgb, (size_t)3 * (size_t)info.width *
                                (size_t)info.height);
        if (o.error == CAUSVID_EOF) {
            o.error = 0;
            o.call  = "";
        }
    }
    causvid_close(&cv);
    free(rgb);
    return o;
}

int is_refused(const Outcome *o, const char *call, int error,
               const char *parts)
{
    return o->error == CAUSVID_ERR(error) && !strcmp(o->call, call) &&
           o->errors == 1 && !o->warnings && !o->bad && !o->frames &&
           line_has(o, parts);
}

int is_unharmed(const Outcome *o, int frames, uint64_t hash)
{
    return !o->error && o->frames == frames && o->hash == hash && !o->errors &&
           !o->warnings && !o->bad;
}

void print_outcome(const Outcome *o)
{
    fflush(stdout);
    fprintf(stderr, "#   %s gave %d after %d frames (%llx), %d errors, %d "
            "warnings: %s\n", o->call, o->error, o->frames,
            (unsigned long long)o->hash, o->errors, o->warnings, line_text(o));
}

int line_has(const Outcome *o, const char *parts)
{
    char part[512];

    while (*parts) {
        size_t n = strcspn(parts, "|");

        if (n >= sizeof(part))
            die("line_has: a long part");
        memcpy(part, parts, n);
        part[n] = 0;
        if (!strstr(o->line, part))
            return 0;
        parts += n + (parts[n] == '|');
    }
    return 1;
}

const char *line_text(const Outcome *o)
{
    static char text[sizeof(o->line)];
    size_t n = strlen(scratch), used = 0;

    for (const char *p = o->line; *p; p++) {
        if (n && !strncmp(p, scratch, n))
            p += n; /* and the slash behind it */
        else if (*p != '#')
            text[used++] = *p;
    }
    text[used] = 0;
    return text;
}
