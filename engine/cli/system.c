/*
 * What the system says of the files and the memory of a program that loads.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#define _DEFAULT_SOURCE /* mincore */
#include "system.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "weights/files.h"
#include "weights/reader.h"

/* Pages that are looked at together; time between two looks at the memory. */
#define PAGES    16384
#define INTERVAL 2000000 /* ns */

/* Pages of a mapped file, and how many of them are in memory; -1: not told. */
static int count_pages(const CvFile *file, int64_t *pages, int64_t *present)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    unsigned char in[PAGES];

    for (size_t at = 0; at < file->size; at += PAGES * page) {
        const size_t left = file->size - at;
        const size_t bytes = left < PAGES * page ? left : PAGES * page;
        const size_t n = (bytes + page - 1) / page;

        if (mincore((void *)(uintptr_t)(file->data + at), bytes, in))
            return -1;
        for (size_t i = 0; i < n; i++)
            *present += in[i] & 1;
        *pages += (int64_t)n;
    }
    return 0;
}

static void drop_file(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    if (fd < 0)
        return;
    posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    close(fd);
}

static int open_files(CvWeights **w, const char *path)
{
    return !*path || cv_random_is(path) || cv_weights_open(w, path, NULL) < 0 ?
           -1 : 0;
}

double cv_cached_share(const char *path, int drop)
{
    int64_t pages = 0, present = 0;
    CvWeights *w = NULL;
    char **paths;
    int err = 0, n;

    if (open_files(&w, path) < 0)
        return -1;
    /* What is mapped stays: first the names, then without the mappings. */
    n = w->n_files;
    if (drop && (paths = calloc((size_t)n, sizeof(*paths)))) {
        for (int i = 0; i < n; i++)
            paths[i] = strdup(w->files[i]->path);
        cv_weights_close(&w);
        for (int i = 0; i < n; i++) {
            if (paths[i])
                drop_file(paths[i]);
            free(paths[i]);
        }
        free(paths);
        if (open_files(&w, path) < 0)
            return -1;
    }
    for (int i = 0; i < w->n_files && !err; i++)
        if (w->files[i]->mapped)
            err = count_pages(w->files[i], &pages, &present);
    cv_weights_close(&w);
    return err || !pages ? -1 : (double)present / (double)pages;
}

/* ---- memory ---- */

static int64_t read_memory(void)
{
    FILE *file = fopen("/proc/self/status", "r");
    unsigned long long kb = 0;
    char line[128];

    while (file && fgets(line, sizeof(line), file))
        if (sscanf(line, "RssAnon: %llu kB", &kb) == 1)
            break;
    if (file)
        fclose(file);
    return (int64_t)kb * 1024;
}

static void look(CvMemoryWatch *w)
{
    const int64_t now = read_memory();

    w->most = now > w->most ? now : w->most;
}

static void *watch(void *arg)
{
    const struct timespec interval = { 0, INTERVAL };
    CvMemoryWatch *w = arg;

    while (!atomic_load(&w->over)) {
        look(w);
        nanosleep(&interval, NULL);
    }
    return NULL;
}

void cv_watch_begin(CvMemoryWatch *w)
{
    w->before = w->most = read_memory();
    atomic_store(&w->over, 0);
    w->running = !pthread_create(&w->thread, NULL, watch, w);
}

void cv_watch_end(CvMemoryWatch *w)
{
    if (w->running) {
        atomic_store(&w->over, 1);
        pthread_join(w->thread, NULL);
        w->running = 0;
    }
    look(w);
}
