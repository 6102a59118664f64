/*
 * Which file of a folder holds the weights.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "weights/files.h"
#include "weights/reader.h"

static int ends_with(const char *string, const char *end)
{
    size_t n = strlen(string), e = strlen(end);

    return n > e && !strcmp(string + n - e, end);
}

static int is_other_format(const char *name)
{
    static const char *const ends[] = {
        ".pt", ".pth", ".ckpt", ".gguf", ".bin",
    };

    for (size_t i = 0; i < sizeof(ends) / sizeof(*ends); i++)
        if (ends_with(name, ends[i]))
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

/* Note the names that end so. Returns how many; f->path is set for one. */
static int note(CvFolder *f, const char *path, const char *prefix,
                struct dirent **list, int n, const char *end)
{
    int count = 0;

    f->names[0] = 0;
    for (int i = 0; i < n; i++) {
        const char *name = list[i]->d_name;

        /* names with a dot in front are other programs' notes */
        if (name[0] == '.' || strncmp(name, prefix, strlen(prefix)) ||
            !ends_with(name, end))
            continue;
        count++;
        add_name(f, name);
        if (snprintf(f->path, sizeof(f->path), "%s/%s", path, name) >=
            (int)sizeof(f->path))
            f->path[0] = 0;
    }
    if (count != 1)
        f->path[0] = 0;
    return count;
}

int cv_folder_scan(CvFolder *f, const char *path, const char *prefix,
                   CvLog *log)
{
    struct dirent **list;
    int n = scandir(path, &list, NULL, alphasort);

    memset(f, 0, sizeof(*f));
    if (n < 0) {
        int error = errno == ENOENT || errno == ENOTDIR ? ENOENT :
                    errno == ENOMEM ? ENOMEM : EIO;

        return cv_fail(log, error, "folder '%s' cannot be read: %s", path,
                       strerror(errno));
    }
    f->n_indexes = note(f, path, prefix, list, n, ".safetensors.index.json");
    if (!f->n_indexes)
        f->n_files = note(f, path, prefix, list, n, ".safetensors");
    for (int i = 0; i < n; i++) {
        const char *name = list[i]->d_name;

        if (!f->other[0] && name[0] != '.' && is_other_format(name) &&
            !strncmp(name, prefix, strlen(prefix)))
            snprintf(f->other, sizeof(f->other), "%.255s", name);
        free(list[i]);
    }
    free(list);
    return 0;
}

int cv_folder_weights(char file[CV_PATH_SIZE], const char *path,
                      const char *prefix, CvLog *log)
{
    CvFolder f;
    int err = cv_folder_scan(&f, path, prefix, log);

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
    if (f.other[0])
        return cv_fail(log, ENOSYS, "'%s' holds '%s' and no .safetensors "
                       "file; " CV_CONVERT, path, f.other);
    return cv_fail(log, ENOENT, "'%s' holds no %s%s.safetensors file; get the "
                   "weights, or name another folder or file", path, prefix,
                   prefix[0] ? "*" : "");
}
