/*
 * The directory of named tensors.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "weights/gguf.h"
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
        if (w->files[i]->is_open)
            close(w->files[i]->fd);
        free(w->files[i]->path);
        free(w->files[i]);
    }
    while (w->views) {
        CvView *view = w->views;

        w->views = view->next;
        free(view);
    }
    cv_quant_free(w);
    cv_gguf_free(&w->gguf);
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

int cv_weights_add_view(CvWeights *w, const CvFile *file, const char *name,
                        const CvTensor *tensor, const uint8_t *data,
                        const int64_t *stride, CvLog *log)
{
    CvView *view = malloc(sizeof(*view));
    CvTensor t = *tensor;
    int err;

    if (!view)
        return cv_fail_memory(log, sizeof(*view), "a tensor's strides");
    *view = (CvView){ .next = w->views, .data = data, .n_dims = t.n_dims };
    for (int i = 0; i < t.n_dims; i++) {
        view->dim[i]    = t.dim[i];
        view->stride[i] = stride[i];
    }
    w->views = view;
    t.data   = NULL;
    err = cv_weights_add(w, file, name, &t, log);
    if (!err)
        w->entries[w->n_entries - 1].view = view;
    return err;
}

/* n elements that lie `step` bytes apart. The compiler knows their size in each
 * of the calls below: otherwise a VAE takes as long as a transformer. */
static inline void gather(uint8_t *to, const uint8_t *src, ptrdiff_t step,
                          int64_t n, size_t size)
{
    for (int64_t i = 0; i < n; i++)
        memcpy(to + (size_t)i * size, src + i * step, size);
}

static void gather_any(uint8_t *to, const uint8_t *src, ptrdiff_t step,
                       int64_t n, size_t size)
{
    if (size == 2)
        gather(to, src, step, n, 2);
    else if (size == 4)
        gather(to, src, step, n, 4);
    else
        gather(to, src, step, n, size);
}

void cv_view_copy(void *to, const CvView *v, size_t size, int64_t first,
                  int64_t n)
{
    const int last = v->n_dims - 1; /* whose elements are copied at once */
    int64_t at[CV_MAX_DIMS] = { 0 }, offset = 0;
    uint8_t *dst = to;

    for (int i = last; i >= 0; i--) {
        at[i]   = first % v->dim[i];
        first  /= v->dim[i];
        offset += at[i] * v->stride[i];
    }
    while (n > 0) {
        const int64_t row = v->dim[last] - at[last], run = row < n ? row : n;

        gather_any(dst, v->data + offset * (ptrdiff_t)size,
                   v->stride[last] * (ptrdiff_t)size, run, size);
        dst      += (size_t)run * size;
        n        -= run;
        offset   += run * v->stride[last];
        at[last] += run;
        for (int i = last; at[i] == v->dim[i] && i > 0; i--) {
            offset += v->stride[i - 1] - v->dim[i] * v->stride[i];
            at[i]   = 0;
            at[i - 1]++;
        }
    }
}

void cv_entry_copy(void *dst, const CvEntry *e, int64_t first, int64_t n)
{
    const size_t size = cv_type_bytes(e->tensor.type);
    const int block = cv_type_block(e->tensor.type);

    if (e->view)
        cv_view_copy(dst, e->view, size, first, n);
    else if (n)
        memcpy(dst, (const uint8_t *)e->tensor.data +
               (size_t)(first / block) * size, (size_t)(n / block) * size);
}

static int compare_places(const void *a, const void *b)
{
    const CvEntry *x = *(const CvEntry *const *)a;
    const CvEntry *y = *(const CvEntry *const *)b;
    const uint8_t *p = x->tensor.data, *q = y->tensor.data;
    int x_empty = !cv_tensor_bytes(&x->tensor);
    int y_empty = !cv_tensor_bytes(&y->tensor);

    if (p != q)
        return p < q ? -1 : 1;
    /* tensors without elements take no room: before what begins there */
    return y_empty - x_empty;
}

int cv_weights_check_places(const CvWeights *w, int64_t first,
                            const CvFile *file, const uint8_t *data,
                            int64_t gap, CvLog *log)
{
    size_t n = (size_t)(w->n_entries - first);
    const uint8_t *at = data, *end = file->data + file->size;
    const CvEntry **list, *last = NULL;
    int err = 0;

    list = malloc((n ? n : 1) * sizeof(*list));
    if (!list)
        return cv_fail_memory(log, n * sizeof(*list), "a list of tensors");
    for (size_t i = 0; i < n; i++)
        list[i] = &w->entries[first + (int64_t)i];
    qsort(list, n, sizeof(*list), compare_places);
    for (size_t i = 0; i < n && !err; i++) {
        const uint8_t *p = list[i]->tensor.data;

        if (p < at)
            err = cv_fail(log, EILSEQ, "'%s' is damaged: tensors '%s' and "
                          "'%s' overlap; get the file again", file->path,
                          last->name, list[i]->name);
        else if (p - at > gap)
            err = cv_fail(log, EILSEQ, "'%s' is damaged: the %lld bytes before "
                          "tensor '%s' belong to none; get the file again",
                          file->path, (long long)(p - at), list[i]->name);
        at   = p + cv_tensor_bytes(&list[i]->tensor);
        last = list[i];
    }
    if (!err && end - at > gap)
        err = cv_fail(log, EILSEQ, "'%s' is damaged: its last %lld bytes "
                      "belong to no tensor; get the file again", file->path,
                      (long long)(end - at));
    free(list);
    return err;
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

void cv_weights_add_title(CvWeights *w, const char *key, const char *text)
{
    if (w->n_titles == CV_MAX_TITLES)
        return;
    w->titles[w->n_titles].key = key;
    cv_printable(w->titles[w->n_titles++].text, text);
}

const char *cv_weights_title(const CvWeights *w, int i, const char **key)
{
    if (i < 0 || i >= w->n_titles)
        return NULL;
    *key = w->titles[i].key;
    return w->titles[i].text;
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

const char *cv_weights_container(const CvWeights *w)
{
    return w->random ? "random" : w->container;
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
