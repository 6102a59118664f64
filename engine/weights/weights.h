/*
 * Weight files: a directory of named tensors, whatever the container.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * cv_weights_open() maps one file, the shards of an index, or a folder of
 * either, checks every offset, and lists what is there; nothing is read until
 * a tensor is used. cv_weights_canonical() then finds out what kind of network
 * it is and renames the entries to the official Wan names (checkpoints.md 2),
 * so that the networks know one set of names. Readers of further containers
 * fill the same directory (reader.h).
 *
 * Files are hostile: nothing here trusts a number before checking it.
 */
#ifndef CV_WEIGHTS_H
#define CV_WEIGHTS_H

#include "memory.h"

typedef struct CvEntry {
    const char *name;
    const char *stored; /* the name in the file, for messages */
    CvTensor tensor;    /* as stored; data points into the mapped file, at any
                           byte: it need not be aligned to the type. NULL in a
                           model of random weights, and of a view */
    const struct CvView *view; /* a tensor with strides (reader.h), or NULL */
    const struct CvEntry *scale; /* of a tensor in fp8: what it is multiplied
                           by, one number or one for each row, or NULL */
    const char *file;   /* path, for messages */
    int exact;          /* the file says: in fp8, but not to be multiplied so */
    int used;           /* set when a network took it */
} CvEntry;

typedef struct CvWeights CvWeights;

/* What a set of tensors is, by its names (checkpoints.md 1.9). */
typedef enum CvKind {
    CV_KIND_UNKNOWN,
    CV_KIND_TRANSFORMER,
    CV_KIND_TEXT_ENCODER,
    CV_KIND_VAE,
    CV_KIND_TINY_VAE,   /* TAEHV: serves where a VAE is expected */
    CV_KIND_LORA,       /* refused by name where a network is expected */
    CV_KIND_COUNT
} CvKind;

/* Open `path`: a .safetensors file, a *.index.json, a folder that holds one of
 * them (an index wins; several files without an index are an error that lists
 * them), or "random:NAME/PART" (files.h). ENOENT, EILSEQ, EIO, ENOMEM, ENOSYS
 * (a container that this version does not read, named). */
int cv_weights_open(CvWeights **weights, const char *path, CvLog *log);
/* The same of what a .pt file holds under this key (torch_zip.c); "" or NULL:
 * under a usual one. EINVAL: it holds nothing under the key, or the container
 * has none. */
int cv_weights_open_key(CvWeights **weights, const char *path, const char *key,
                        CvLog *log);
void cv_weights_close(CvWeights **weights);

/* Recognise the kind, strip wrappers' prefixes, translate diffusers and
 * Hugging Face names to official ones, attach the scales of weights in fp8, drop
 * the ignorable entries of 2.8. EILSEQ when it is not `expected`: what it is,
 * what was expected. ENOSYS: weights that are quantised in another way. */
int cv_weights_canonical(CvWeights *weights, CvKind expected, CvLog *log);

/* Before cv_weights_canonical(): does a file of several networks, whose names
 * begin with which one they belong to, hold this one? */
int cv_weights_holds(const CvWeights *weights, CvKind kind);
/* The tensor "spiece_model", a tokenizer's file inside of a text encoder's
 * (checkpoints.md 1.3), or NULL; its type and shape may be anything. */
const CvEntry *cv_weights_tokenizer(const CvWeights *weights);

/* What its makers wrote into the file as the model's name, from 0 on; NULL
 * behind the last. *key: where, such as "modelspec.title". Texts of others: cut,
 * and without control characters. */
const char *cv_weights_title(const CvWeights *weights, int i,
                             const char **key);

CvKind cv_weights_kind(const CvWeights *weights);
const char *cv_weights_path(const CvWeights *weights); /* as given to open */
/* Whose names: "official", "diffusers", "llama.cpp". */
const char *cv_weights_layout(const CvWeights *weights);
/* "safetensors", "torch", "gguf" */
const char *cv_weights_container(const CvWeights *weights);
int64_t cv_weights_count(const CvWeights *weights);
CvEntry *cv_weights_at(CvWeights *weights, int64_t i);
/* NULL when there is no such tensor. The name is printf-formatted. */
CvEntry *cv_weights_find(CvWeights *weights, const char *format, ...)
    CV_PRINTF(2, 3);

/* Copy n elements from `first` on, in row-major order, whatever lies between
 * them in the file. Of a type with blocks both are whole blocks. */
void cv_entry_copy(void *dst, const CvEntry *entry, int64_t first, int64_t n);

/* "F32" or, for mixed files, "BF16+F32"; for info and log lines. */
void cv_weights_types(const CvWeights *weights, char *text, size_t size);

/* ---- loading into a backend ---- */

/* Loads are written once and run twice: first while the arena plans (names,
 * shapes and types are checked before any memory is taken), then for real. */
typedef struct CvLoader {
    CvBackend *backend;
    CvArena *arena;      /* of the component's weights, or scratch */
    CvWeights *weights;
    CvLog *log;
    struct CvLoras *loras; /* what is added to the weights (lora.h), or NULL */
    int quantise;        /* matrices become CV_F8_E4M3 if they are not, on
                            backends that take fp8 (`quantise` of ops.h) */
    int streamed;        /* `arena` is a run's: what that and loras need is in
                            it for a moment, where the plan has room */
    void *scratch;       /* otherwise of the backend, for these, or NULL */
    size_t scratch_bytes;
} CvLoader;

/* When all is loaded and finished, or loading failed. */
void cv_load_release(CvLoader *loader);

/* How a stored tensor is rearranged. */
typedef enum CvLoadLayout {
    CV_LOAD_AS_IS,
    CV_LOAD_CONV, /* [o, c, kt, kh, kw] or [o, c, kh, kw] -> the order
                     [o, kt, kh, kw, c] of CvConv3d (kt = 1 for the latter) */
    CV_LOAD_CONV_PAIR, /* [o, 2 c, kh, kw], whose first c inputs are of a frame
                     and whose others of the one before, -> [o, 2, kh, kw, c] */
} CvLoadLayout;

/* *t: type and dims as the network wants them (after rearranging); the stored
 * dims must agree, trailing or leading ones apart: [c, 1, 1, 1] serves [c],
 * [1, 6, d] serves [6, d], [o, c, 1, 1(, 1)] serves [o, c]. On success t->data
 * is set and the entry marked used. EILSEQ: missing tensor, wrong shape, a
 * type that is no number, a NaN or infinite value (or cv_load_end() tells of
 * that): the line names file and tensor, what was found and what was expected.
 * Name is printf-formatted. */
int cv_load(CvLoader *loader, CvTensor *t, CvLoadLayout layout,
            const char *format, ...) CV_PRINTF(4, 5);

/* Several tensors one after the other along dim 0 as one: names are `stem`
 * with each of the n suffixes ("q", "k", "v") put in place of its single
 * '%s'. */
int cv_load_stacked(CvLoader *loader, CvTensor *t, const char *stem,
                    const char *const *parts, int n_parts);

/* Rows of a stored matrix of `rows` rows, row ids[i] as row i of t [n, columns]:
 * for a table of which few rows are needed. */
int cv_load_rows(CvLoader *loader, CvTensor *t, int64_t rows,
                 const int32_t *ids, const char *name);

/* A matrix of weights as linear and embed take it (ops.h). */
typedef struct CvMatrix {
    CvTensor weight; /* [rows, columns] in W, or in fp8 */
    CvTensor scale;  /* with fp8: float32 [rows]; otherwise without data */
    int exact;       /* x has to be A, also where weight is P (ops.h) */
} CvMatrix;

#define CV_MAX_PARTS 3 /* of cv_load_matrix_stacked() */

/* The three above for a matrix of dims [m->weight.dim[0], dim[1]]: it stays in
 * fp8 where the file has that and the backend takes it, otherwise it becomes W,
 * or, of the first two where the loader says so, fp8.
 * All that matters of *m before is those dims. */
int cv_load_matrix(CvLoader *loader, CvMatrix *m, const char *format, ...)
    CV_PRINTF(3, 4);
int cv_load_matrix_stacked(CvLoader *loader, CvMatrix *m, const char *stem,
                           const char *const *parts, int n_parts);
int cv_load_matrix_rows(CvLoader *loader, CvMatrix *m, int64_t rows,
                        const int32_t *ids, const char *name);

/* Behind loads that were not planned, also failed ones (err): wait until their
 * values were looked at. EILSEQ, as above, may come only now; until then the
 * files, LoRAs' too, must stay open. Returns err where that is an error. */
int cv_load_end(CvLoader *loader, int err);

/* EILSEQ when tensors were not used: their number and the first one's name. */
int cv_load_finish(CvLoader *loader);

#endif /* CV_WEIGHTS_H */
