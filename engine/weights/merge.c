/*
 * Adding LoRA files to weights while these are loaded, and making fp8 of them.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * A tensor goes to the backend as float32, in pieces of whole rows; the changes
 * of these rows are added there, and the sum is rounded once to the tensor's
 * type. Where that is float32, rows are summed up in place. Where it is fp8, each
 * row gets the factor that its largest number asks for.
 */
#include <string.h>

#include "weights/lora.h"

/* Bytes of a piece in float32; what is added to it takes as much again. */
#define PIECE ((int64_t)32 << 20)

#define ALIGNMENT 256

static int64_t at_least_1(int64_t a)
{
    return a > 1 ? a : 1;
}

static int64_t smaller(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* Ranks that are added at once: both factors of them fit into a piece. */
static int64_t ranks_at_once(const CvDelta *d, int64_t rows, int64_t row)
{
    int64_t longest = rows > row ? rows : row;

    return smaller(d->rank, at_least_1(PIECE / 8 / longest));
}

static size_t aligned_floats(int64_t n)
{
    return ((size_t)n * sizeof(float) + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

/* Bytes of what is added to a piece of `rows` rows. */
static size_t operand_bytes(const CvDelta *d, int64_t rows, int64_t row)
{
    int64_t k;

    if (!d->down)
        return aligned_floats(rows * row);
    k = ranks_at_once(d, rows, row);
    return aligned_floats(rows * k) + aligned_floats(k * row);
}

void cv_load_release(CvLoader *l)
{
    if (l->scratch)
        l->backend->ops->release(l->backend, l->scratch);
    l->scratch       = NULL;
    l->scratch_bytes = 0;
}

static int keep_scratch(CvLoader *l, size_t bytes)
{
    int err;

    if (bytes <= l->scratch_bytes)
        return 0;
    if (l->scratch && (err = cv_finish(l->backend)) < 0)
        return err;
    cv_load_release(l);
    err = l->backend->ops->alloc(l->backend, bytes, &l->scratch);
    if (err == CAUSVID_ERR(ENOMEM))
        return cv_fail_memory(l->log, bytes, l->loras ? "merging a LoRA"
                                                      : "weights on their way "
                                                        "to fp8");
    if (!err)
        l->scratch_bytes = bytes;
    return err;
}

/* For pieces, until the arena is released. */
static int take_scratch(CvLoader *l, size_t bytes, uint8_t **scratch)
{
    CvTensor t = CV_TENSOR(NULL, CV_F32, (int64_t)(bytes / sizeof(float)));
    int err;

    *scratch = NULL;
    if (l->streamed) {
        err = cv_arena_tensor(l->arena, &t);
        *scratch = t.data;
        return err;
    }
    if (l->backend->planning)
        return 0;
    err = keep_scratch(l, bytes);
    *scratch = l->scratch;
    return err;
}

/* work [rows, row], row `first` on of the tensor, += d */
static int add(CvLoader *l, const CvTensor *work, const CvDelta *d,
               int64_t first, uint8_t *scratch)
{
    CvLoader file = *l;
    int64_t rows = work->dim[0], row = work->dim[1], k;
    int err;

    file.weights = l->loras->files[d->file].weights;
    if (!d->down) {
        CvTensor whole = CV_TENSOR(scratch, CV_F32, rows, row);
        const CvTerm terms[] = { { 1, work }, { d->scale, &whole } };

        err = cv_load_piece(&file, &whole, d->up, 1, first * row, row);
        return err < 0 ? err : cv_combine(l->backend, work, terms, 2);
    }
    k = ranks_at_once(d, rows, row);
    for (int64_t r = 0; r < d->rank; r += k) {
        int64_t n = smaller(k, d->rank - r);
        CvTensor up = CV_TENSOR(scratch, CV_F32, rows, n);
        CvTensor down = CV_TENSOR(scratch + aligned_floats(rows * n), CV_F32,
                                  n, row);

        if ((err = cv_load_piece(&file, &up, d->up, 1, first * d->rank + r,
                                 d->rank)) < 0 ||
            (err = cv_load_piece(&file, &down, d->down, 1, r * row,
                                 row)) < 0 ||
            (err = cv_add_product(l->backend, work, &up, &down,
                                  d->scale)) < 0)
            return err;
    }
    return 0;
}

/* Row by row, with `used` bytes of scratch for float32; 0: in place. */
static int merge(CvLoader *l, const CvMatrix *m, const CvEntry *e,
                 const CvDelta *deltas, int64_t n, int64_t step, size_t used,
                 uint8_t *scratch)
{
    const CvTensor *t = &m->weight;
    const int64_t row = t->n_dims ? cv_row_elements(t) : 1;
    const int64_t rows = t->n_dims ? t->dim[0] : 1;
    const int fp8 = cv_type_is_fp8(t->type);
    const CvTensor whole = CV_RESHAPE(*t, rows, row);
    int err = 0;

    for (int64_t first = 0; first < rows && !err; first += step) {
        CvTensor part = cv_rows(&whole, first, smaller(step, rows - first));
        CvTensor work = part, scale = part;

        if (used) {
            work.data = scratch;
            work.type = CV_F32;
        }
        if (fp8) /* the factors: the file's, and then those of the sum */
            scale = cv_rows(&m->scale, first, part.dim[0]);
        err = cv_load_piece(l, &work, e, !fp8, first * row, row);
        if (!err && fp8 && e->scale)
            err = cv_scale_rows(l->backend, &work, &scale);
        for (int64_t i = 0; i < n && !err; i++)
            err = add(l, &work, &deltas[i], first, scratch + used);
        if (!err && fp8)
            err = cv_quantise(l->backend, &part, &scale, &work);
        else if (!err && used)
            err = cv_convert(l->backend, &part, &work);
    }
    return err;
}

int cv_loras_merge(CvLoader *l, const CvMatrix *m, const CvEntry *e,
                   CvDelta *deltas, int64_t n)
{
    const CvTensor *t = &m->weight;
    const int64_t row = t->n_dims ? cv_row_elements(t) : 1;
    const int64_t step = smaller(t->n_dims ? t->dim[0] : 1,
                                 at_least_1(PIECE / 4 / row));
    const size_t used = t->type == CV_F32 ? 0 : aligned_floats(step * row);
    const size_t mark = cv_arena_mark(l->arena);
    uint8_t *scratch;
    size_t most = 0;
    int err;

    for (int64_t i = 0; i < n; i++) {
        size_t bytes = operand_bytes(&deltas[i], step, row);

        most = bytes > most ? bytes : most;
        if (!deltas[i].applied)
            l->loras->files[deltas[i].file].applied++;
        deltas[i].applied = 1;
    }
    err = take_scratch(l, used + most, &scratch);
    /* Operations follow, whose scratch the next upload may write. */
    if (!err)
        err = cv_ahead(l->backend, 0);
    if (!err && !l->backend->planning)
        err = merge(l, m, e, deltas, n, step, used, scratch);
    if (l->streamed)
        cv_arena_release(l->arena, mark);
    return err;
}

void cv_loras_finish(const CvLoader *l)
{
    const CvLoras *loras = l->loras;

    for (int i = 0; loras && i < loras->n_files; i++) {
        const CvLoraFile *f = &loras->files[i];

        cv_log(l->log, CAUSVID_LOG_INFO, "LoRA '%s': applied %lld of %lld "
               "entries, strength %g", cv_weights_path(f->weights),
               (long long)f->applied, (long long)f->entries, f->strength);
    }
}
