/*
 * Tensors collected on the host and written as one safetensors file.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#ifndef CV_TRACE_FILE_H
#define CV_TRACE_FILE_H

#include "log.h"
#include "tensor.h"

typedef struct CvTraceItem {
    char name[64];
    CvTensor tensor; /* float32, data owned */
} CvTraceItem;

typedef struct CvTraceFile {
    CvTraceItem *items;
    size_t n, room;
} CvTraceFile;

/* Room for a float32 tensor of these dims; NULL without memory. */
float *cv_trace_add(CvTraceFile *file, const char *name, const CvTensor *like);
int cv_trace_write(const CvTraceFile *file, const char *path, CvLog *log);
void cv_trace_free(CvTraceFile *file);

#endif /* CV_TRACE_FILE_H */
