/*
 * What `causvid bench` measured, and how it is printed.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#ifndef CV_BENCH_H
#define CV_BENCH_H

#include "generator.h"

#define CV_BENCH_RUNS 100 /* at most */

/* What is measured in each run. */
typedef enum CvBenchTime {
    /* a clip as a user gets one: generated ahead of the reader */
    CV_BENCH_FIRST,      /* prompt to first frame */
    CV_BENCH_LAST,       /* prompt to last frame */
    CV_BENCH_CONTINUOUS, /* from the last frame of the clip before */
    /* a clip whose stages are waited for, one after the other */
    CV_BENCH_TEXT,       /* tokens, text encoder, keys and values of the text */
    CV_BENCH_SAMPLING,   /* denoising steps of all blocks */
    CV_BENCH_CACHE,      /* passes that write clean keys and values */
    CV_BENCH_DENOISED,   /* both */
    CV_BENCH_VAE,        /* decoding */
    CV_BENCH_PICTURES,   /* conversion to nv12 in host memory */
    CV_BENCH_UNDECODED,  /* the stages in front of the VAE */
    CV_BENCH_TIMES
} CvBenchTime;

/* What the machine can do; 0: not measured, there was no memory for it. */
typedef struct CvCeilings {
    int64_t product_size; /* matrices of so many rows and columns, type A */
    double product;       /* FLOP/s */
    double copy;          /* bytes/s, those read and those written */
} CvCeilings;

typedef struct CvBench {
    CvModel model;
    CvLog log;
    CvClip clip;
    CvArena arena;
    const char *prompt;
    uint8_t *nv12;                             /* a frame */
    int runs;
    int64_t tokens;                            /* of the prompt */
    double seconds[CV_BENCH_TIMES][CV_BENCH_RUNS];
    double began;                              /* the process, by now() */
    double load, warm_up;                      /* seconds */
    double process;                            /* from the process's start to
                                                  the first clip's last frame */
    int64_t taken_bytes;                       /* as planned */
    CvMemory memory;
    CvCeilings ceilings;
    char command[1024];
} CvBench;

typedef enum CvBenchForm {
    CV_BENCH_TEXT_FORM,
    CV_BENCH_JSON,
    CV_BENCH_MARKDOWN
} CvBenchForm;

/* Measure the ceilings; bench_ceiling.c. */
int cv_bench_ceilings(CvBackend *backend, CvCeilings *ceilings);

/* FLOP of a clip's denoising steps, counted from the shapes: 2 for each
 * multiplication of the transformer as published, attention included, the
 * padding of the text too; what is done once a prompt is not counted. */
double cv_bench_work(const CvBench *bench);

/* 0, or -1 when there is no memory. */
int cv_bench_print(CvBench *bench, CvBenchForm form);

/* The commit that this was built from. */
const char *cv_bench_commit(void);

/* Load a model `runs` times and print what that took; clip: for which room is
 * left. cold: ask the system each time to drop the files from its cache. */
int cv_bench_load(const CausvidSettings *settings, const CausvidClip *clip,
                  int runs, int cold, int json, const char *command,
                  CvLog *log);

#endif /* CV_BENCH_H */
