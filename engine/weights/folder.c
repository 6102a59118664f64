/*
 * Which file of a folder holds the weights.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#include <ctype.h>
#include <dirent.h>
#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "weights/files.h"
#include "weights/reader.h"

/* Ways in which a folder holds weights: where there is one of the first, the
 * others are not looked at. */
static const struct {
    int is_index;
    const char *ends[4];
} ways[] = {
    { 1, { ".safetensors.index.json" } },
    { 0, { ".safetensors" } },
    { 0, { ".pt", ".pth", ".bin", ".ckpt" } },
    { 0, { ".gguf" } },
};
#define N_WAYS (sizeof(ways) / sizeof(*ways))

static int ends_with(const char *string, const char *end)
{
    size_t n = strlen(string), e = strlen(end);

    return n > e && !strcmp(string + n - e, end);
}

static int is_way(size_t way, const char *name)
{
    for (int i = 0; i < 4 && ways[way].ends[i]; i++)
        if (ends_with(name, ways[way].ends[i]))
            return 1;
    return 0;
}

/* One of the patterns, which are in lower case. NULL: none. */
static int matches(const char *const *patterns, const char *name)
{
    char lower[256];
    size_t n = strlen(name);

    if (n >= sizeof(lower))
        return 0;
    for (size_t i = 0; i <= n; i++)
        lower[i] = (char)tolower((unsigned char)name[i]);
    for (; patterns && *patterns; patterns++)
        if (!fnmatch(*patterns, lower, 0))
            return 1;
    return 0;
}

static void add_name(CvFolder *f, const char *name)
{
    size_t used = strlen(f->names);

    if (used + strlen(name) + 6 < sizeof(f->names)) {
        strcpy(f->names + used, used ? ", " : "");
        strcat(f->names, name);
    } else if (!ends_with(f->names, "...")) {
        strcpy(f->names + used, "...");
    }
}

/* ENOENT, EIO or ENOMEM, or the number of names, sorted. */
static int list_folder(struct dirent ***list, const char *path, CvLog *log)
{
    int n = scandir(path, list, NULL, alphasort), error;

    if (n >= 0)
        return n;
    error = errno == ENOENT || errno == ENOTDIR ? ENOENT :
            errno == ENOMEM ? ENOMEM : EIO;
    return cv_fail(log, error, "folder '%s' cannot be read: %s", path,
                   strerror(errno));
}

static void free_list(struct dirent **list, int n)
{
    for (int i = 0; i < n; i++)
        free(list[i]);
    free(list);
}

/* path/name, "" where that is too long. */
static void set_path(char file[CV_PATH_SIZE], const char *path,
                     const char *name)
{
    if (snprintf(file, CV_PATH_SIZE, "%s/%s", path, name) >= CV_PATH_SIZE)
        file[0] = 0;
}

int cv_folder_scan(CvFolder *f, const char *path, const char *prefix,
                   const char *const *except, CvLog *log)
{
    struct dirent **list;
    int n, count = 0;

    memset(f, 0, sizeof(*f));
    if ((n = list_folder(&list, path, log)) < 0)
        return n;
    for (size_t way = 0; way < N_WAYS && !count; way++) {
        for (int i = 0; i < n; i++) {
            const char *name = list[i]->d_name;

            /* names with a dot in front are other programs' notes */
            if (name[0] == '.' || strncmp(name, prefix, strlen(prefix)) ||
                !is_way(way, name) || matches(except, name))
                continue;
            count++;
            add_name(f, name);
            set_path(f->path, path, name);
        }
        if (ways[way].is_index)
            f->n_indexes = count;
        else
            f->n_files = count;
    }
    if (count != 1)
        f->path[0] = 0;
    free_list(list, n);
    return 0;
}

int cv_folder_first(char file[CV_PATH_SIZE], const char *path,
                    const char *const *patterns, CvLog *log)
{
    struct dirent **list;
    int n;

    file[0] = 0;
    if ((n = list_folder(&list, path, log)) < 0)
        return n;
    for (; *patterns && !file[0]; patterns++) {
        const char *const one[] = { *patterns, NULL };

        for (size_t way = 0; way < N_WAYS && !file[0]; way++)
            for (int i = 0; i < n && !file[0]; i++)
                if (list[i]->d_name[0] != '.' &&
                    is_way(way, list[i]->d_name) &&
                    matches(one, list[i]->d_name))
                    set_path(file, path, list[i]->d_name);
    }
    free_list(list, n);
    return 0;
}

int cv_folder_weights(char file[CV_PATH_SIZE], const char *path,
                      const char *prefix, CvLog *log)
{
    CvFolder f;
    int err = cv_folder_scan(&f, path, prefix, NULL, log);

    if (err < 0)
        return err;
    if (f.path[0]) {
        strcpy(file, f.path);
        return 0;
    }
    if (f.n_indexes > 1)
        return cv_fail(log, EILSEQ, "'%s' holds %d indexes (%s); expected "
                       "one: name the file itself", path, f.n_indexes,
                       f.names);
    if (f.n_files > 1)
        return cv_fail(log, EILSEQ, "'%s' holds %d files of weights (%s) and "
                       "no index; expected one file, or shards with their "
                       ".safetensors.index.json: name the file itself, or get "
                       "the index", path, f.n_files, f.names);
    return cv_fail(log, ENOENT, "'%s' holds no %s%s.safetensors, .pt or .gguf "
                   "file; get the weights, or name another folder or file",
                   path, prefix, prefix[0] ? "*" : "");
}
