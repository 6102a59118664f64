/*
 * What the machine of pickle.c works with.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#ifndef CV_PICKLE_VALUES_H
#define CV_PICKLE_VALUES_H

#include "weights/pickle.h"

/* Who makes values, and what messages say. */
typedef struct CvPickleMaker {
    CvPickle *pickle;
    int n_values;
    size_t at;         /* byte of the pickle */
    const char *path;
    CvLog *log;
} CvPickleMaker;

/* EILSEQ, with a line that says why and where. */
int cv_pickle_refuse(CvPickleMaker *maker, const char *why);

/* A new value, zero but for its kind. NULL: too many, or no memory; *err and a
 * line say which. So it is with the functions below. */
CvPickleValue *cv_pickle_new(CvPickleMaker *maker, CvPickleKind kind, int *err);

/* Add n values to a container; to a dictionary, keys and values by turns. */
int cv_pickle_extend(CvPickleMaker *maker, CvPickleValue *list,
                     CvPickleValue *const *items, size_t n);

/* The index of a known name, or EILSEQ: it is another one. */
int cv_pickle_global(CvPickleMaker *maker, const char *module, size_t n_module,
                     const char *name, size_t n_name);

/* What f(*args) returns. only_class: f must be OrderedDict. */
CvPickleValue *cv_pickle_call(CvPickleMaker *maker, const CvPickleValue *f,
                              const CvPickleValue *args, int only_class,
                              int *err);

/* The storage of the id ("storage", class, key, location, elements). */
CvPickleValue *cv_pickle_storage(CvPickleMaker *maker, const CvPickleValue *id,
                                 int *err);

#endif /* CV_PICKLE_VALUES_H */
