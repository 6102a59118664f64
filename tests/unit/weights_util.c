/*
 * Weight files for tests, sound and damaged, and the lines that they cause.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

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
    if (!file || fwrite(blob.data, 1, blob.size, file) != blob.size ||
        fclose(file))
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
