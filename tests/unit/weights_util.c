/*
 * Weight files for tests, sound and damaged, and the lines that they cause.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "weights/reader.h"
#include "weights_util.h"

static void die(const char *what)
{
    printf("Bail out! %s failed\n", what);
    exit(255);
}

static void *allocate(size_t n)
{
    void *p = malloc(n ? n : 1);

    if (!p)
        die("malloc");
    return p;
}

/* ---- lines ---- */

static void write_line(void *cookie, enum CausvidLogLevel level,
                       const char *format, va_list args)
{
    Lines *l = cookie;
    char text[2048];

    vsnprintf(text, sizeof(text), format, args);
    if (!text[0])
        l->bad++;
    for (const char *p = text; *p; p++)
        if ((unsigned char)*p < 0x20 || *p == 0x7f)
            l->bad++;
    if (level == CAUSVID_LOG_ERROR) {
        l->errors++;
        strcpy(l->error, text);
    } else if (level == CAUSVID_LOG_WARNING) {
        l->warnings++;
        strcpy(l->warning, text);
    }
}

void lines_init(Lines *l)
{
    CausvidSettings settings = { 0 };

    memset(l, 0, sizeof(*l));
    settings.log    = write_line;
    settings.cookie = l;
    cv_log_init(&l->log, &settings);
}

int lines_error(Lines *l, const char *parts)
{
    int good = l->errors == 1 && !l->bad;
    char part[512];

    while (good && *parts) {
        size_t n = strcspn(parts, "|");

        if (n >= sizeof(part))
            die("lines_error: a long part");
        memcpy(part, parts, n);
        part[n] = 0;
        good = strstr(l->error, part) != NULL;
        parts += n + (parts[n] == '|');
    }
    if (!good)
        fprintf(stderr, "# %d error lines, the last: %s\n", l->errors,
                l->error);
    l->errors = l->warnings = l->bad = 0;
    l->error[0] = 0;
    return good;
}

int lines_none(Lines *l)
{
    int good = !l->errors && !l->warnings && !l->bad;

    if (!good)
        fprintf(stderr, "# %s%s\n", l->error, l->warning);
    l->errors = l->warnings = l->bad = 0;
    return good;
}

/* ---- files ---- */

Blob st_raw(const char *header, size_t n_data)
{
    size_t n = strlen(header);
    Blob b = { allocate(8 + n + n_data), 8 + n + n_data };

    for (int i = 0; i < 8; i++)
        b.data[i] = (uint8_t)((uint64_t)n >> (8 * i));
    memcpy(b.data + 8, header, n);
    memset(b.data + 8 + n, 0, n_data);
    return b;
}

Blob st_write(const StTensor *t, int n, int pad)
{
    size_t room = 64 + (size_t)n * 400, used = 0, at = 0;
    char *header = allocate(room);
    Blob b;

    used += (size_t)sprintf(header, "{\"__metadata__\":{\"format\":\"pt\"}");
    for (int i = 0; i < n; i++) {
        CvTensor d = { .type = t[i].type, .n_dims = t[i].n_dims };
        size_t bytes;

        memcpy(d.dim, t[i].dim, sizeof(t[i].dim));
        bytes = (size_t)cv_tensor_bytes(&d);
        used += (size_t)sprintf(header + used, ",\"%.200s\":{\"dtype\":\"%s\","
                                "\"shape\":[", t[i].name,
                                cv_type_name(t[i].type));
        for (int k = 0; k < t[i].n_dims; k++)
            used += (size_t)sprintf(header + used, "%s%lld", k ? "," : "",
                                    (long long)t[i].dim[k]);
        used += (size_t)sprintf(header + used, "],\"data_offsets\":[%zu,%zu]}",
                                at, at + bytes);
        at += bytes;
    }
    used += (size_t)sprintf(header + used, "}%*s", pad, "");
    b  = st_raw(header, at);
    at = 8 + used;
    for (int i = 0; i < n; i++) {
        CvTensor d = { .type = t[i].type, .n_dims = t[i].n_dims };
        size_t bytes;

        memcpy(d.dim, t[i].dim, sizeof(t[i].dim));
        bytes = (size_t)cv_tensor_bytes(&d);
        if (t[i].data)
            memcpy(b.data + at, t[i].data, bytes);
        at += bytes;
    }
    free(header);
    return b;
}

Blob blob_part(Blob blob, size_t n)
{
    Blob part = { allocate(n), n };

    memcpy(part.data, blob.data, n);
    return part;
}

void blob_free(Blob *b)
{
    free(b->data);
    b->data = NULL;
}

/* ---- contents ---- */

/* A floating point number of few bits, as IEEE 754 has it. */
static double small_float(unsigned bits, int exponent_bits, int mantissa_bits)
{
    int bias = (1 << (exponent_bits - 1)) - 1;
    int e = (int)(bits >> mantissa_bits) & ((1 << exponent_bits) - 1);
    int m = (int)bits & ((1 << mantissa_bits) - 1);
    double v = e ? ldexp(m + (1 << mantissa_bits), e - bias - mantissa_bits) :
                   ldexp(m, 1 - bias - mantissa_bits);

    return bits >> (exponent_bits + mantissa_bits) & 1 ? -v : v;
}

/* Element i, through cv_entry_copy(). */
static double element(const CvEntry *e, int64_t i)
{
    const CvTensor *t = &e->tensor;
    union { double d; float f; uint64_t u64; int64_t i64; int32_t i32;
            int16_t i16; uint16_t u16; uint8_t u8; int8_t i8; } v = { 0 };

    cv_entry_copy(&v, e, i, 1);
    switch (t->type) {
    case CV_F64:     return v.d;
    case CV_F32:     return (double)v.f;
    case CV_F16:     return small_float(v.u16, 5, 10);
    case CV_BF16:    return small_float(v.u16, 8, 7);
    case CV_F8_E4M3: return small_float(v.u8, 4, 3);
    case CV_F8_E5M2: return small_float(v.u8, 5, 2);
    case CV_I64:     return (double)v.i64;
    case CV_I32:     return v.i32;
    case CV_I16:     return v.i16;
    case CV_I8:      return v.i8;
    default:         return v.u8;
    }
}

/* The pattern of make_weights.py. */
static double expected(CvType type, int64_t i)
{
    double x = (double)(i * 7 % 9);

    if (type == CV_BOOL)
        return x > 4;
    return type <= CV_F8_E5M2 ? (x - 4) / 4 : x;
}

int holds_pattern(const CvEntry *e)
{
    size_t size = cv_type_bytes(e->tensor.type);
    int64_t n = cv_elements(&e->tensor);
    uint8_t *all = allocate((size_t)n * size), one[8];
    int good = 1;

    cv_entry_copy(all, e, 0, n);
    for (int64_t i = 0; i < n && good; i++) {
        cv_entry_copy(one, e, i, 1);
        good = element(e, i) == expected(e->tensor.type, i) &&
               !memcmp(one, all + (size_t)i * size, size);
    }
    free(all);
    return good;
}

int has_pattern(CvWeights *w, const char *name, const char *shape)
{
    CvEntry *e = cv_weights_find(w, "%s", name);
    char text[CV_SHAPE_TEXT];

    return e && !strcmp(cv_shape_text(text, &e->tensor), shape) &&
           holds_pattern(e);
}

/* ---- folders ---- */

static char folders[32][64];
static int n_folders;

static void remove_tree(const char *path)
{
    DIR *dir = opendir(path);
    struct dirent *entry;

    while (dir && (entry = readdir(dir))) {
        char child[512];

        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
            continue;
        snprintf(child, sizeof(child), "%s/%.255s", path, entry->d_name);
        if (unlink(child) < 0)
            remove_tree(child);
    }
    if (dir)
        closedir(dir);
    rmdir(path);
}

static void remove_folders(void)
{
    while (n_folders > 0)
        remove_tree(folders[--n_folders]);
}

const char *temp_folder(void)
{
    char *folder;

    if (n_folders == 32)
        die("temp_folder: too many");
    if (!n_folders)
        atexit(remove_folders);
    folder = folders[n_folders];
    strcpy(folder, "/tmp/causvid-test-XXXXXX");
    if (!mkdtemp(folder))
        die("mkdtemp");
    n_folders++;
    return folder;
}

const char *save_blob(const char *folder, const char *name, Blob blob)
{
    static char path[1024];
    FILE *file;

    snprintf(path, sizeof(path), "%s/%s", folder, name);
    for (char *p = path + strlen(folder) + 1; (p = strchr(p, '/')); p++) {
        *p = 0;
        mkdir(path, 0777); /* it may be there */
        *p = '/';
    }
    file = fopen(path, "wb");
    if (!file || (blob.size && fwrite(blob.data, 1, blob.size, file) !=
                               blob.size) || fclose(file))
        die(path);
    return path;
}

const char *save_text(const char *folder, const char *name, const char *text)
{
    return save_blob(folder, name,
                     (Blob){ (uint8_t *)(uintptr_t)text, strlen(text) });
}

const char *data_path(const char *name)
{
    static char path[1024];
    const char *src = getenv("CAUSVID_SRC");

    snprintf(path, sizeof(path), "%s/tests/unit/data/%s", src ? src : ".",
             name);
    return path;
}

Blob blob_load(const char *path)
{
    FILE *file = fopen(path, "rb");
    Blob b = { NULL, 0 };

    if (!file || fseek(file, 0, SEEK_END) || ftell(file) < 0)
        die(path);
    b.size = (size_t)ftell(file);
    b.data = allocate(b.size);
    rewind(file);
    if (fread(b.data, 1, b.size, file) != b.size)
        die(path);
    fclose(file);
    return b;
}

/* Every byte of every tensor, for sanitizers to watch. */
static void read_all(CvWeights *w)
{
    for (int64_t i = 0; i < cv_weights_count(w); i++) {
        const CvEntry *e = cv_weights_at(w, i);
        int64_t bytes = cv_tensor_bytes(&e->tensor);
        uint8_t *copy;

        if (bytes < 0)
            die("cv_tensor_bytes");
        copy = allocate((size_t)bytes);
        cv_entry_copy(copy, e, 0, cv_elements(&e->tensor));
        free(copy);
    }
}

int corpus_gives(Lines *lines, const char *name, int error, const char *parts)
{
    char path[1024];
    const char *src = getenv("CAUSVID_SRC");
    CvWeights *w;
    Blob blob;
    int err, good;

    snprintf(path, sizeof(path), "%s/tests/fuzz/corpus/%s", src ? src : ".",
             name);
    blob = blob_load(path);
    err  = cv_weights_open_memory(&w, blob.data, blob.size, name, &lines->log);
    good = !w == !!err && (error ? err == CAUSVID_ERR(error) &&
                                   lines_error(lines, name) : !err);
    if (w)
        read_all(w);
    cv_weights_close(&w);
    if (good && error) { /* lines_error() forgets */
        cv_weights_open_memory(&w, blob.data, blob.size, name, &lines->log);
        good = lines_error(lines, parts);
    }
    blob_free(&blob);
    return good;
}
