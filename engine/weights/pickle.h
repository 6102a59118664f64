/*
 * Pickles of tensors: read as data, nothing is run.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * A pickle is a program for a small machine that may call any Python function
 * by name. This one knows the few names that torch.save() uses for tensors,
 * and makes values of them; any other name ends it.
 */
#ifndef CV_PICKLE_H
#define CV_PICKLE_H

#include "log.h"
#include "tensor.h"

typedef enum CvPickleKind {
    CV_PICKLE_NONE,
    CV_PICKLE_BOOL,
    CV_PICKLE_INT,
    CV_PICKLE_FLOAT,
    CV_PICKLE_STRING,
    CV_PICKLE_TUPLE,
    CV_PICKLE_LIST,
    CV_PICKLE_DICT,
    CV_PICKLE_ORDERED_DICT,
    CV_PICKLE_GLOBAL,  /* one of the known names */
    CV_PICKLE_STORAGE,
    CV_PICKLE_TENSOR,
    CV_PICKLE_OTHER,   /* nothing that weights need, such as a device */
} CvPickleKind;

typedef struct CvPickleValue CvPickleValue;
struct CvPickleValue {
    CvPickleKind kind;
    int depth;                 /* of containers within, itself included */
    union {
        int64_t integer;       /* BOOL, INT; GLOBAL: its index */
        double real;
        struct {
            const char *text;  /* in the pickle, without a NUL at its end */
            size_t length;
        } string;
        struct {
            CvPickleValue **items; /* of a dict: key, value, key, ... */
            size_t n, room;
        } list;
        struct {
            const CvPickleValue *key; /* a string: the member "data/<key>" */
            int64_t elements;         /* untyped: bytes */
            CvType type;
            int untyped;
        } storage;
        struct {
            const CvPickleValue *storage, *size, *stride;
            int64_t offset;    /* in elements */
            CvType type;
        } tensor;
    } u;
};

static inline int cv_pickle_is_container(const CvPickleValue *v)
{
    return v->kind >= CV_PICKLE_TUPLE && v->kind <= CV_PICKLE_ORDERED_DICT;
}

static inline int cv_pickle_is_dict(const CvPickleValue *v)
{
    return v->kind == CV_PICKLE_DICT || v->kind == CV_PICKLE_ORDERED_DICT;
}

typedef struct CvPickle {
    CvPickleValue *root;
    struct CvPickleChunk *chunks; /* all values */
} CvPickle;

/* Run the pickle. Values point into `data`. EILSEQ, with a line that names
 * `path` and what was refused: a name, an instruction, a limit. ENOMEM. */
int cv_pickle_read(CvPickle *pickle, const uint8_t *data, size_t size,
                   const char *path, CvLog *log);
void cv_pickle_free(CvPickle *pickle);

/* Sizes and strides of a tensor are tuples of as many CV_PICKLE_INTs, of at
 * most CV_MAX_DIMS; its storage is a CV_PICKLE_STORAGE. Whether they agree
 * with each other is not checked here. */

#endif /* CV_PICKLE_H */
