/*
 * The container of torch.save(): a zip archive with a pickle.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * One folder of any name: data.pkl, a pickle of dictionaries whose tensors
 * refer to storages; data/<key>, their bytes as they are; byteorder. Several
 * tensors may share a storage, and a tensor may be a view of one with strides.
 * Checkpoints of a training hold more than the weights: those are looked for
 * under the names that the trainers of Wan models use.
 * Source: checkpoints.md 1.5, 1.6, 8; pytorch torch/serialization.py.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "weights/json.h"
#include "weights/pickle.h"
#include "weights/zip.h"

/* Where the weights are, the best first: an average of the generator over its
 * training serves better than its last state. generator_lora: LongLive's LoRA
 * files. */
static const char *const roots[] = {
    "generator_ema", "generator", "model", "state_dict", "module",
    "generator_lora",
};

typedef struct Archive {
    CvWeights *weights;
    const CvFile *file;
    CvLog *log;
    CvZip zip;
    CvPickle pickle;
    const char *folder; /* the name in front of all members */
    size_t folder_length;
} Archive;

static int detect(const CvFile *file)
{
    return file->size >= 4 && (!memcmp(file->data, "PK\3\4", 4) ||
                               !memcmp(file->data, "PK\5\6", 4));
}

static const CvZipMember *find(const Archive *a, const char *name)
{
    return cv_zip_find(&a->zip, a->folder, a->folder_length, name,
                       strlen(name));
}

/* The one folder that holds everything. */
static int find_folder(Archive *a)
{
    for (int64_t i = 0; i < a->zip.n_members; i++) {
        const CvZipMember *m = &a->zip.members[i];
        const char *slash = memchr(m->name, '/', m->name_length);
        size_t n = slash ? (size_t)(slash - m->name) : m->name_length;

        if (!i) {
            a->folder        = m->name;
            a->folder_length = n;
        } else if (n != a->folder_length || memcmp(m->name, a->folder, n)) {
            return cv_fail(a->log, EILSEQ, "'%s' is a zip archive with several "
                           "folders or files; expected the one folder that "
                           "torch.save() writes", a->file->path);
        }
    }
    if (!a->zip.n_members || !find(a, "data.pkl"))
        return cv_fail(a->log, EILSEQ, "'%s' is a zip archive without a "
                       "data.pkl; expected one that torch.save() wrote",
                       a->file->path);
    if (find(a, "constants.pkl"))
        return cv_fail(a->log, EILSEQ, "'%s' is a program of TorchScript; "
                       "save the state dict alone, with torch.save("
                       "model.state_dict(), ...)", a->file->path);
    return 0;
}

static int check_byte_order(Archive *a)
{
    const CvZipMember *m = find(a, "byteorder");
    const uint8_t *text;
    int err;

    if (!m) /* older writers, on little-endian machines */
        return 0;
    if ((err = cv_zip_data(&text, &a->zip, m, a->log)) < 0)
        return err;
    if (m->size < 6 || memcmp(text, "little", 6))
        return cv_fail(a->log, EILSEQ, "'%s' was saved on a big-endian "
                       "machine, or does not say on which; save it again on "
                       "another", a->file->path);
    return 0;
}

/* ---- dictionaries ---- */

static int is_string(const CvPickleValue *v, const char *text)
{
    return v->kind == CV_PICKLE_STRING &&
           v->u.string.length == strlen(text) &&
           !memcmp(v->u.string.text, text, v->u.string.length);
}

/* A string as a name, or NULL: too long, or with a NUL. */
static const char *to_name(char name[CV_NAME_SIZE], const CvPickleValue *v)
{
    if (v->kind != CV_PICKLE_STRING || v->u.string.length >= CV_NAME_SIZE ||
        memchr(v->u.string.text, 0, v->u.string.length))
        return NULL;
    memcpy(name, v->u.string.text, v->u.string.length);
    name[v->u.string.length] = 0;
    return name;
}

static int holds_tensors(const CvPickleValue *d)
{
    if (!cv_pickle_is_dict(d))
        return 0;
    for (size_t i = 0; i < d->u.list.n; i += 2)
        if (d->u.list.items[i + 1]->kind == CV_PICKLE_TENSOR)
            return 1;
    return 0;
}

/* The first keys of a dictionary, for messages; only_roots: of those under
 * which there are tensors. */
static const char *list_keys(char *text, size_t size, const CvPickleValue *d,
                             int only_roots)
{
    char name[CV_NAME_SIZE], shown[CV_PRINTABLE];
    size_t used = 0;
    int n = 0;

    text[0] = 0;
    for (size_t i = 0; i < d->u.list.n && used < size; i += 2) {
        const char *key = to_name(name, d->u.list.items[i]);

        if (only_roots && !holds_tensors(d->u.list.items[i + 1]))
            continue;
        if (n == 8) {
            snprintf(text + used, size - used, ", ...");
            break;
        }
        used += (size_t)snprintf(text + used, size - used, "%s'%s'",
                                 n++ ? ", " : "",
                                 cv_printable(shown, key ? key : "?"));
    }
    return text;
}

/* Look for the dictionary under this key: *root and *name, which stay when
 * there is none. */
static int find_root(Archive *a, const char *key, const CvPickleValue **root,
                     const char **name)
{
    const CvPickleValue *d = a->pickle.root;
    char text[CV_PRINTABLE];

    for (size_t i = 0; i < d->u.list.n; i += 2) {
        if (!is_string(d->u.list.items[i], key) ||
            !cv_pickle_is_dict(d->u.list.items[i + 1]))
            continue;
        if (*name)
            return cv_fail(a->log, EILSEQ, "'%s' holds two things with the "
                           "name '%s'; expected one: get the file again",
                           a->file->path, cv_printable(text, key));
        *root = d->u.list.items[i + 1];
        *name = key;
    }
    return 0;
}

static int wrong_key(Archive *a)
{
    char keys[512], text[CV_PRINTABLE];

    list_keys(keys, sizeof(keys), a->pickle.root, 1);
    return cv_fail(a->log, EINVAL, "checkpoint_key is '%s', but '%s' holds "
                   "%s%s; %s", cv_printable(text, a->weights->key),
                   a->file->path, keys[0] ? "tensors under " :
                   "its tensors under no key", keys,
                   keys[0] ? "name one of these" : "leave the option out");
}

/* The dictionary of weights: *root, and under which name it was. */
static int choose_root(Archive *a, const CvPickleValue **root,
                       const char **name)
{
    const char *key = a->weights->key;
    int err = 0;

    *root = a->pickle.root;
    *name = NULL;
    if (!cv_pickle_is_dict(*root))
        return cv_fail(a->log, EILSEQ, "'%s' does not hold a dictionary of "
                       "tensors; save the state dict, with torch.save("
                       "model.state_dict(), ...)", a->file->path);
    if (key) {
        err = find_root(a, key, root, name);
        return err < 0 || *name ? err : wrong_key(a);
    }
    for (size_t k = 0; k < sizeof(roots) / sizeof(*roots) && !*name && !err;
         k++)
        err = find_root(a, roots[k], root, name);
    return err;
}

/* ---- tensors ---- */

static int wrong_tensor(Archive *a, const char *name, const char *why)
{
    char text[CV_PRINTABLE];

    return cv_fail(a->log, EILSEQ, "'%s' is damaged: tensor '%s' %s; get the "
                   "file again", a->file->path, cv_printable(text, name), why);
}

/* The bytes of a storage, and how many elements of `size` bytes they are. */
static int find_storage(Archive *a, const char *name, const CvPickleValue *s,
                        size_t size, const uint8_t **data, int64_t *elements)
{
    char key[64];
    const CvPickleValue *k = s->u.storage.key;
    const CvZipMember *m = NULL;
    int64_t bytes = s->u.storage.elements;
    int n = snprintf(key, sizeof(key), "data/%.*s",
                     k->u.string.length < sizeof(key) ?
                     (int)k->u.string.length : (int)sizeof(key),
                     k->u.string.text);

    if (n == (int)(5 + k->u.string.length))
        m = find(a, key);
    if (!m)
        return wrong_tensor(a, name, "lies in a storage that is not there");
    if (bytes < 0 || (!s->u.storage.untyped &&
                      cv_mul_size(bytes, (int64_t)size, &bytes) < 0) ||
        (uint64_t)bytes > m->size)
        return wrong_tensor(a, name, "lies in a storage that is cut off");
    *elements = bytes / (int64_t)size;
    return cv_zip_data(data, &a->zip, m, a->log);
}

/* Sizes and strides of a tensor as they are. Returns 0, or -1: negative. */
static int read_shape(CvTensor *t, int64_t *stride, const CvPickleValue *v)
{
    const CvPickleValue *size = v->u.tensor.size, *step = v->u.tensor.stride;

    t->n_dims = (int)size->u.list.n;
    for (int i = 0; i < t->n_dims; i++) {
        t->dim[i] = size->u.list.items[i]->u.integer;
        stride[i] = step->u.list.items[i]->u.integer;
        if (t->dim[i] < 0 || stride[i] < 0)
            return -1;
    }
    return 0;
}

/* The last element that the tensor reaches; -1: beyond any storage. */
static int64_t last_element(const CvTensor *t, const int64_t *stride,
                            int64_t offset)
{
    int64_t last = offset, way;

    if (offset < 0)
        return -1;
    for (int i = 0; i < t->n_dims; i++)
        if (cv_mul_size(t->dim[i] - 1, stride[i], &way) < 0 ||
            __builtin_add_overflow(last, way, &last))
            return -1;
    return last;
}

static int is_contiguous(const CvTensor *t, const int64_t *stride)
{
    int64_t expected = 1;

    for (int i = t->n_dims - 1; i >= 0; i--) {
        if (t->dim[i] != 1 && stride[i] != expected)
            return 0;
        expected *= t->dim[i];
    }
    return 1;
}

static int add_tensor(Archive *a, const char *name, const CvPickleValue *v)
{
    CvTensor t = { .type = v->u.tensor.type };
    int64_t stride[CV_MAX_DIMS], offset = v->u.tensor.offset;
    int64_t elements = 0, last;
    const size_t size = cv_type_bytes(t.type);
    const uint8_t *data = NULL;
    int err;

    if (read_shape(&t, stride, v) < 0)
        return wrong_tensor(a, name, "has a negative size or stride");
    if (cv_tensor_bytes(&t) < 0)
        return wrong_tensor(a, name, "is larger than any memory");
    if (!cv_elements(&t)) { /* whatever its storage is, none of it is used */
        t.data = (void *)a->file->data;
        return cv_weights_add(a->weights, a->file, name, &t, a->log);
    }
    err = find_storage(a, name, v->u.tensor.storage, size, &data, &elements);
    if (err < 0)
        return err;
    last = last_element(&t, stride, offset);
    if (last < 0 || last >= elements)
        return wrong_tensor(a, name, "reaches beyond its storage");
    if (cv_elements(&t) > elements)
        return wrong_tensor(a, name, "has more elements than its storage: it "
                            "is an expanded view, of which only a copy is "
                            "read");
    data += (size_t)offset * size;
    if (is_contiguous(&t, stride)) {
        t.data = (void *)data;
        return cv_weights_add(a->weights, a->file, name, &t, a->log);
    }
    return cv_weights_add_view(a->weights, a->file, name, &t, data, stride,
                               a->log);
}

/* All tensors of the chosen dictionary. */
static int add_tensors(Archive *a)
{
    const CvPickleValue *root, *const *items;
    char name[CV_NAME_SIZE], keys[512];
    const char *where;
    size_t n = 0, dropped = 0;
    int err = choose_root(a, &root, &where);

    if (err < 0)
        return err;
    items = (const CvPickleValue *const *)root->u.list.items;
    for (size_t i = 0; i < root->u.list.n && !err; i += 2) {
        if (items[i + 1]->kind != CV_PICKLE_TENSOR) {
            dropped++;
        } else if (!to_name(name, items[i])) {
            err = cv_fail(a->log, EILSEQ, "'%s' is damaged: the key of a "
                          "tensor is no string of at most %d bytes; get the "
                          "file again", a->file->path, CV_NAME_SIZE - 1);
        } else {
            err = add_tensor(a, name, items[i + 1]);
            n++;
        }
    }
    if (err < 0)
        return err;
    list_keys(keys, sizeof(keys), where ? a->pickle.root : root, 0);
    if (!n)
        return cv_fail(a->log, EILSEQ, "'%s' holds no tensors%s%s%s, only %s; "
                       "expected a dictionary of tensors, bare or under "
                       "'generator_ema', 'generator', 'model', 'state_dict' "
                       "or 'module': for another one, name it with the option "
                       "checkpoint_key", a->file->path,
                       where ? " under '" : "", where ? where : "",
                       where ? "'" : "", keys[0] ? keys :
                       "an empty dictionary");
    if (where)
        cv_log(a->log, CAUSVID_LOG_VERBOSE, "'%s': %zu tensors under '%s', "
               "of %s", a->file->path, n, where, keys);
    if (dropped)
        cv_log(a->log, CAUSVID_LOG_VERBOSE, "'%s': %zu values that are no "
               "tensors are not used", a->file->path, dropped);
    return 0;
}

static int read_archive(CvWeights *w, const CvFile *file, CvLog *log)
{
    Archive a = { .weights = w, .file = file, .log = log };
    const CvZipMember *m;
    const uint8_t *data;
    int err = cv_zip_open(&a.zip, file, log);

    if (err < 0)
        return err;
    if ((err = find_folder(&a)) < 0 || (err = check_byte_order(&a)) < 0)
        goto end;
    m = find(&a, "data.pkl");
    if ((err = cv_zip_data(&data, &a.zip, m, log)) < 0 ||
        (err = cv_pickle_read(&a.pickle, data, (size_t)m->size, file->path,
                              log)) < 0)
        goto end;
    err = add_tensors(&a);
end:
    cv_pickle_free(&a.pickle);
    cv_zip_close(&a.zip);
    return err;
}

const CvReader cv_reader_torch = {
    .format = "torch",
    .detect = detect,
    .read   = read_archive,
};
