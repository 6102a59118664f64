/*
 * Containers of weights, and the directory that their readers fill.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * A reader is given a mapped file and adds what it finds to the directory. It
 * trusts nothing: every tensor that it adds lies within the file.
 *
 * Most tensors lie ready: contiguous, in a type that the backends convert,
 * quantised blocks among them. A view with strides has a CvView and no data;
 * cv_entry_copy() serves both.
 *
 * A file that another program shortens meanwhile ends the process with SIGBUS
 * where its mapping is looked at, which is out of scope: sizes are those at the
 * time of opening. Where it is read (source.c), that is an error.
 */
#ifndef CV_READER_H
#define CV_READER_H

#include "weights/json.h"
#include "weights/weights.h"

/* Longest tensor name; the longest in use has about 100 bytes. */
#define CV_NAME_SIZE 512

typedef struct CvFile {
    char *path;
    const uint8_t *data;
    size_t size;
    int mapped;          /* unmap it at the end */
    int fd, is_open;     /* close it then; only of the first files of many */
} CvFile;

/* A tensor whose elements do not follow each other: element [i, j, ...] lies
 * i * stride[0] + j * stride[1] + ... elements behind `data`. Its dims are
 * those of the file, also where the entry's tensor gets others with the same
 * elements in the same order. */
typedef struct CvView {
    struct CvView *next;
    const uint8_t *data;
    int n_dims;
    int64_t dim[CV_MAX_DIMS], stride[CV_MAX_DIMS];
} CvView;

/* Copy n elements of `size` bytes from `first` on, in row-major order. */
void cv_view_copy(void *to, const CvView *view, size_t size, int64_t first,
                  int64_t n);

/* A name that a file's metadata has for the model. */
typedef struct CvTitle {
    const char *key;
    char text[CV_PRINTABLE];
} CvTitle;

#define CV_MAX_TITLES 4

struct CvWeights {
    char *path;          /* as given to open */
    const char *key;     /* while it is opened: which weights of a .pt, or NULL */
    CvFile **files;
    int n_files;
    CvEntry *entries;    /* sorted by name once open has returned */
    int64_t n_entries, room;
    CvKind kind;
    const char *layout;
    const char *container; /* "safetensors": the format of the last reader */
    CvView *views;       /* all of them */
    CvEntry *scales;     /* taken out of the directory: fp8.c */
    int64_t n_scales;
    struct CvQuantNote *notes; /* what files say of it in their metadata */
    CvTitle titles[CV_MAX_TITLES];
    int n_titles;
    struct CvGguf *gguf; /* metadata of a GGUF file, or NULL: gguf.h */
    int random;          /* the tensors have no data: random.c makes it */
};

typedef struct CvReader {
    const char *format;  /* "safetensors" */
    int (*detect)(const CvFile *file); /* is it one, by its first bytes? */
    /* Fill the directory. NULL: the format is known but not read. */
    int (*read)(CvWeights *weights, const CvFile *file, CvLog *log);
    int error;           /* without read: the error, */
    const char *advice;  /* and what to do */
} CvReader;

extern const CvReader cv_reader_safetensors;
extern const CvReader cv_reader_torch; /* torch_zip.c */
extern const CvReader cv_reader_gguf;

/* random.c: models whose weights are random numbers, "random:NAME/PART" in
 * place of a file. read: as of a CvReader; the file has a path only. load:
 * fill t, which is in memory, with the elements of e from `first` on. */
int cv_random_read(CvWeights *weights, const CvFile *file, CvLog *log);
int cv_random_load(CvLoader *loader, const CvTensor *t, const CvEntry *e,
                   int64_t first);
/* The factor of all rows of e, where t of cv_random_load() is in fp8. */
float cv_random_factor(const CvEntry *e);

/* fp8.c: keep what a file says about how its tensors are quantised, JSON text
 * that is looked at by cv_scales_attach(). ENOMEM. */
int cv_quant_note(CvWeights *weights, const CvFile *file, const char *text,
                  CvLog *log);
void cv_quant_free(CvWeights *weights);

/* fp8.c: the factors of e's rows, `rows` [n] or the first n (then NULL), ->
 * scale, float32 [n] in memory; 1 where it has none. EILSEQ, not logged, when
 * one is no number, or so large that weights would not be. */
int cv_scale_load(CvLoader *loader, const CvTensor *scale, const CvEntry *e,
                  const int32_t *rows);

/* fp8.c: rows of e, `rows` or from `first` on (then NULL), whose bytes are at
 * src, times their factors -> t, in memory in any type that takes float32.
 * EILSEQ, not logged, as above or of the values. */
int cv_scale_upload(CvLoader *loader, const CvTensor *t, const uint8_t *src,
                    const CvEntry *e, const int32_t *rows, int64_t first);

/* load.c: fill t, a matrix in memory, from an entry whose shape was looked at:
 * its rows begin `step` elements apart, the first one at element `first`. Of a
 * type with blocks both are whole rows. scaled: multiplied by the factors that
 * e may have, on the host. EILSEQ: a value that is no number. */
int cv_load_piece(CvLoader *loader, const CvTensor *t, const CvEntry *e,
                  int scaled, int64_t first, int64_t step);

/* Add a tensor: type, dims and data set, data within the file (NULL: random).
 * The name is copied. EILSEQ: an empty or overlong name, control characters.
 * ENOMEM. */
int cv_weights_add(CvWeights *weights, const CvFile *file, const char *name,
                   const CvTensor *tensor, CvLog *log);

/* The same of a view: type and dims set, no data; one stride for each dim. All
 * that it reaches lies within the file. */
int cv_weights_add_view(CvWeights *weights, const CvFile *file,
                        const char *name, const CvTensor *tensor,
                        const uint8_t *data, const int64_t *stride,
                        CvLog *log);

/* Keep a title; those beyond CV_MAX_TITLES are not. The key is not copied. */
void cv_weights_add_title(CvWeights *weights, const char *key,
                          const char *text);

/* EILSEQ when two of the entries from `first` on share bytes, or when more than
 * `gap` bytes in a row belong to none of them, from `data` to the end of the
 * file. For containers whose tensors follow each other. */
int cv_weights_check_places(const CvWeights *weights, int64_t first,
                            const CvFile *file, const uint8_t *data,
                            int64_t gap, CvLog *log);

/* Sort the directory by name. EILSEQ when a name is there twice. */
int cv_weights_sort(CvWeights *weights, CvLog *log);

/* As cv_weights_open() of a single file whose bytes are in memory, which must
 * outlive the weights: for tests and fuzzing, where a sanitizer sees reads past
 * the end that a mapped page would hide. */
int cv_weights_open_memory(CvWeights **weights, const void *data, size_t size,
                           const char *path, CvLog *log);

#endif /* CV_READER_H */
