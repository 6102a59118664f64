/*
 * The directory of named tensors.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "weights/json.h"
#include "weights/reader.h"

void cv_weights_close(CvWeights **weights)
{
    CvWeights *w = *weights;

    if (!w)
        return;
    for (int64_t i = 0; i < w->n_entries; i++) {
        if (w->entries[i].name != w->entries[i].stored)
            free((void *)w->entries[i].name);
        free((void *)w->entries[i].stored);
    }
    free(w->entries);
    for (int i = 0; i < w->n_files; i++) {
        if (w->files[i]->mapped)
            munmap((void *)w->files[i]->data, w->files[i]->size);
        free(w->files[i]->path);
        free(w->files[i]);
    }
    free(w->files);
    free(w->path);
    free(w);
    *weights = NULL;
}

int cv_weights_add(CvWeights *w, const CvFile *file, const char *name,
                   const CvTensor *tensor, CvLog *log)
{
    char text[CV_PRINTABLE];
    size_t length = strlen(name);
    CvEntry *e;
    char *copy;

    if (!length || length >= CV_NAME_SIZE)
        return cv_fail(log, EILSEQ, "'%s' is damaged: a tensor's name has %zu "
                       "bytes ('%s'); expected 1 to %d", file->path, length,
                       cv_printable(text, name), CV_NAME_SIZE - 1);
    for (const char *p = name; *p; p++)
        if ((unsigned char)*p < 0x20 || *p == 0x7f)
            return cv_fail(log, EILSEQ, "'%s' is damaged: the name of tensor "
                           "'%s' holds control characters", file->path,
                           cv_printable(text, name));
    if (w->n_entries == w->room) {
        int64_t room = w->room ? 2 * w->room : 256;

        e = realloc(w->entries, (size_t)room * sizeof(*e));
        if (!e)
            return cv_fail_memory(log, (uint64_t)room * sizeof(*e),
                                  "a list of tensors");
        w->entries = e;
        w->room    = room;
    }
    copy = malloc(length + 1);
    if (!copy)
        return cv_fail_memory(log, length, "a tensor's name");
    memcpy(copy, name, length + 1);
    w->entries[w->n_entries++] = (CvEntry){
        .name = copy, .stored = copy, .tensor = *tensor, .file = file->path,
    };
    return 0;
}

static int compare_entries(const void *a, const void *b)
{
    const CvEntry *x = a, *y = b;
    int order = strcmp(x->name, y->name);

    /* by stored name next, so that messages do not depend on qsort() */
    return order ? order : strcmp(x->stored, y->stored);
}

int cv_weights_sort(CvWeights *w, CvLog *log)
{
    if (w->n_entries)
        qsort(w->entries, (size_t)w->n_entries, sizeof(*w->entries),
              compare_entries);
    for (int64_t i = 1; i < w->n_entries; i++) {
        const CvEntry *a = &w->entries[i - 1], *b = &w->entries[i];

        if (strcmp(a->name, b->name))
            continue;
        if (strcmp(a->file, b->file))
            return cv_fail(log, EILSEQ, "tensor '%s' is in '%s' and in '%s'; "
                           "expected it once: are these shards of one model?",
                           b->stored, a->file, b->file);
        return cv_fail(log, EILSEQ, "'%s': tensors '%s' and '%s' are both "
                       "'%s'; expected one of them", b->file, a->stored,
                       b->stored, b->name);
    }
    return 0;
}

CvKind cv_weights_kind(const CvWeights *w)
{
    return w->kind;
}

const char *cv_weights_path(const CvWeights *w)
{
    return w->path;
}

const char *cv_weights_layout(const CvWeights *w)
{
    return w->layout;
}

int64_t cv_weights_count(const CvWeights *w)
{
    return w->n_entries;
}

CvEntry *cv_weights_at(CvWeights *w, int64_t i)
{
    return i >= 0 && i < w->n_entries ? &w->entries[i] : NULL;
}

static int compare_name(const void *key, const void *entry)
{
    return strcmp(key, ((const CvEntry *)entry)->name);
}

CvEntry *cv_weights_find(CvWeights *w, const char *format, ...)
{
    char name[CV_NAME_SIZE];
    va_list args;
    int n;

    va_start(args, format);
    n = vsnprintf(name, sizeof(name), format, args);
    va_end(args);
    if (n < 0 || n >= (int)sizeof(name) || !w->n_entries)
        return NULL;
    return bsearch(name, w->entries, (size_t)w->n_entries,
                   sizeof(*w->entries), compare_name);
}

void cv_weights_types(const CvWeights *w, char *text, size_t size)
{
    int64_t bytes[CV_TYPE_COUNT] = { 0 };
    size_t used = 0;

    for (int64_t i = 0; i < w->n_entries; i++) {
        const CvTensor *t = &w->entries[i].tensor;

        /* + 1: a type whose tensors are all empty is mentioned too */
        bytes[t->type] += cv_tensor_bytes(t) + 1;
    }
    if (size)
        text[0] = 0;
    for (;;) {
        int best = 0;

        for (int i = 1; i < CV_TYPE_COUNT; i++)
            if (bytes[i] > bytes[best])
                best = i;
        if (!bytes[best] || used >= size)
            return;
        used += (size_t)snprintf(text + used, size - used, "%s%s",
                                 used ? "+" : "", cv_type_name((CvType)best));
        bytes[best] = 0;
    }
}
