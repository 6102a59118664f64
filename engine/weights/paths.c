/*
 * Paths of bounded length, and opening what lies there.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "weights/places.h"

int cv_path_open(const char *path, off_t *size, const char *expected,
                 CvLog *log)
{
    /* a FIFO must not make us wait for its writer */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK), err;
    struct stat st;

    if (fd < 0)
        return cv_fail(log, errno == ENOENT ? ENOENT : EIO,
                       "'%s' cannot be opened: %s", path, strerror(errno));
    if (fstat(fd, &st) < 0) {
        err = cv_fail(log, EIO, "'%s' cannot be read: %s", path,
                      strerror(errno));
    } else if (!S_ISREG(st.st_mode)) {
        err = cv_fail(log, EILSEQ, "'%s' is not a file; expected %s", path,
                      expected);
    } else {
        *size = st.st_size;
        return fd;
    }
    close(fd);
    return err;
}

int cv_path_is_folder(const char *path)
{
    struct stat st;

    return !stat(path, &st) && S_ISDIR(st.st_mode);
}

int cv_path_exists(const char *path, CvLog *log)
{
    struct stat st;

    if (!stat(path, &st))
        return 1;
    if (errno == ENOENT || errno == ENOTDIR)
        return 0;
    return cv_fail(log, EIO, "'%s' cannot be read: %s", path,
                   strerror(errno));
}

int cv_path_join(char path[CV_PATH_SIZE], const char *folder, const char *name,
                 CvLog *log)
{
    int n = snprintf(path, CV_PATH_SIZE, "%s%s%s", folder,
                     strcmp(folder, "/") ? "/" : "", name);

    if (n >= 0 && n < CV_PATH_SIZE)
        return 0;
    path[0] = 0;
    return cv_fail(log, EINVAL, "the path of '%s' is longer than %d bytes; "
                   "use a shorter one", name, CV_PATH_SIZE - 1);
}

int cv_path_join_existing(char path[CV_PATH_SIZE], const char *folder,
                          const char *name, CvLog *log)
{
    int err = cv_path_join(path, folder, name, log);

    if (!err && (err = cv_path_exists(path, log)) <= 0)
        path[0] = 0;
    return err < 0 ? err : 0;
}

const char *cv_path_base_name(const char *path)
{
    const char *slash = strrchr(path, '/');

    return slash ? slash + 1 : path;
}

int cv_path_parent(char folder[CV_PATH_SIZE], const char *path)
{
    const char *slash = strrchr(path, '/'), *name = cv_path_base_name(path);
    size_t n = strlen(path);

    if (!strcmp(path, "/") || !n || n >= CV_PATH_SIZE - 3)
        return 0;
    memmove(folder, path, n + 1);
    if (!strcmp(name, ".") || !strcmp(name, ".."))
        strcpy(folder + n, "/..");
    else if (!slash)
        strcpy(folder, ".");
    else
        folder[slash == path ? 1 : slash - path] = 0;
    return 1;
}

int cv_path_copy(char path[CV_PATH_SIZE], const char *from, const char *option,
                 CvLog *log)
{
    size_t n = strlen(from);

    if (!n)
        return cv_fail(log, EINVAL, "option %s is empty; expected a path",
                       option);
    if (n >= CV_PATH_SIZE)
        return cv_fail(log, EINVAL, "option %s has %zu bytes; expected a path "
                       "of at most %d", option, n, CV_PATH_SIZE - 1);
    strcpy(path, from);
    while (n > 1 && path[n - 1] == '/')
        path[--n] = 0;
    return 0;
}
