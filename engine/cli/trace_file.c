/*
 * Tensors collected on the host and written as one safetensors file.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * Layout: checkpoints.md 1.8. Written to a file beside the target first, so a
 * full disk does not leave half a file under the name that was asked for. What
 * is no regular file (/dev/null, a pipe) is written itself, not replaced.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <cjson/cJSON.h>

#include "trace_file.h"

float *cv_trace_add(CvTraceFile *file, const char *name, const CvTensor *like)
{
    CvTraceItem *item;
    int64_t bytes;

    if (file->n == file->room) {
        size_t room = file->room ? 2 * file->room : 64;
        CvTraceItem *items = realloc(file->items, room * sizeof(*items));

        if (!items)
            return NULL;
        file->items = items;
        file->room  = room;
    }
    item = &file->items[file->n];
    memset(item, 0, sizeof(*item));
    snprintf(item->name, sizeof(item->name), "%s", name);
    item->tensor      = *like;
    item->tensor.type = CV_F32;
    bytes = cv_tensor_bytes(&item->tensor);
    item->tensor.data = bytes < 0 ? NULL : malloc((size_t)bytes + 1);
    if (!item->tensor.data)
        return NULL;
    file->n++;
    return item->tensor.data;
}

static cJSON *make_header(const CvTraceFile *file)
{
    cJSON *header = cJSON_CreateObject();
    int64_t offset = 0;

    for (size_t i = 0; header && i < file->n; i++) {
        const CvTensor *t = &file->items[i].tensor;
        double dims[CV_MAX_DIMS], ends[2] = { (double)offset };
        cJSON *entry = cJSON_AddObjectToObject(header, file->items[i].name);
        cJSON *shape, *offsets;

        offset += cv_tensor_bytes(t);
        ends[1] = (double)offset;
        for (int d = 0; d < t->n_dims; d++)
            dims[d] = (double)t->dim[d];
        shape   = cJSON_CreateDoubleArray(dims, t->n_dims);
        offsets = cJSON_CreateDoubleArray(ends, 2);
        if (!entry || !cJSON_AddStringToObject(entry, "dtype", "F32") ||
            !cJSON_AddItemToObject(entry, "shape", shape) ||
            !cJSON_AddItemToObject(entry, "data_offsets", offsets)) {
            cJSON_Delete(header);
            return NULL;
        }
    }
    return header;
}

static int write_all(const CvTraceFile *file, FILE *out, const char *header)
{
    uint64_t n = strlen(header);
    uint8_t length[8];

    for (int i = 0; i < 8; i++)
        length[i] = (uint8_t)(n >> 8 * i);
    if (fwrite(length, 1, 8, out) != 8 || fwrite(header, 1, n, out) != n)
        return -1;
    for (size_t i = 0; i < file->n; i++) {
        size_t bytes = (size_t)cv_tensor_bytes(&file->items[i].tensor);

        if (fwrite(file->items[i].tensor.data, 1, bytes, out) != bytes)
            return -1;
    }
    return fflush(out) ? -1 : 0;
}

int cv_trace_write(const CvTraceFile *file, const char *path, CvLog *log)
{
    size_t room = strlen(path) + 8;
    char *temporary = malloc(room), *text = NULL;
    cJSON *header = make_header(file);
    const char *target = path;
    FILE *out = NULL;
    struct stat st;
    int err = 0;

    if (temporary && header)
        text = cJSON_PrintUnformatted(header);
    cJSON_Delete(header);
    if (!text) {
        err = cv_fail_memory(log, room, "a file header");
        goto end;
    }
    if (stat(path, &st) || S_ISREG(st.st_mode)) {
        snprintf(temporary, room, "%s.part", path);
        target = temporary;
    }
    if (!(out = fopen(target, "wb"))) {
        err = cv_fail(log, errno, "'%s' cannot be written: %s", path,
                      strerror(errno));
        goto end;
    }
    if (write_all(file, out, text) < 0)
        err = cv_fail(log, EIO, "'%s' could not be written to its end: %s",
                      path, strerror(errno));
    if (fclose(out) && !err)
        err = cv_fail(log, EIO, "'%s' could not be written to its end: %s",
                      path, strerror(errno));
    if (target == path)
        goto end;
    if (!err && rename(temporary, path))
        err = cv_fail(log, errno, "'%s' cannot be written: %s", path,
                      strerror(errno));
    if (err)
        remove(temporary);
end:
    cJSON_free(text);
    free(temporary);
    return err;
}

void cv_trace_free(CvTraceFile *file)
{
    for (size_t i = 0; i < file->n; i++)
        free(file->items[i].tensor.data);
    free(file->items);
    memset(file, 0, sizeof(*file));
}
