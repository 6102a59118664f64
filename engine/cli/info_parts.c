/*
 * The files that a model's networks are in: containers, names, types.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#include <stdio.h>
#include <string.h>

#include <utf8proc.h>

#include "info.h"

#define MAX_FILES 64 /* that are counted apart */

/* Where a file lies, as seen from the model. */
static const char *place(const char *path, const char *option,
                         const CvModelFiles *files)
{
    size_t n = strlen(files->root);

    if (option)
        return "named by an option";
    if (cv_random_is(path))
        return "made up";
    if (!strcmp(path, files->transformer))
        return "in the transformer's file";
    /* of "." nothing is said: paths below it do not begin so */
    if (!strncmp(path, files->root, n) && path[n] == '/' &&
        !strstr(path + n, "/../"))
        return "in the model's folder";
    return "found around the model";
}

/* Distinct ones; entries of a file point to the same string. */
static int count_files(CvWeights *w)
{
    const char *seen[MAX_FILES];
    int n = 0, k;

    for (int64_t i = 0; i < cv_weights_count(w) && n < MAX_FILES; i++) {
        const char *file = cv_weights_at(w, i)->file;

        for (k = 0; k < n && seen[k] != file; k++)
            ;
        if (k == n)
            seen[n++] = file;
    }
    return n;
}

static int look(CvInfoPart *p, const char *key, CvKind kind)
{
    CvWeights *w = NULL;
    int err = cv_weights_open_key(&w, p->path, key, NULL);

    if (!err)
        err = cv_weights_canonical(w, kind, NULL);
    for (int64_t i = 0; !err && i < cv_weights_count(w); i++) {
        const CvTensor *t = &cv_weights_at(w, i)->tensor;

        p->type_tensors[t->type]++;
        p->type_bytes[t->type] += cv_tensor_bytes(t);
        p->bytes += cv_tensor_bytes(t);
        p->tensors++;
    }
    if (!err) {
        snprintf(p->container, sizeof(p->container), "%s",
                 cv_weights_container(w));
        snprintf(p->names, sizeof(p->names), "%s", cv_weights_layout(w));
        p->files = count_files(w);
    }
    cv_weights_close(&w);
    return err;
}

int cv_info_parts(CvInfoPart parts[CV_INFO_PARTS], const CvModel *m,
                  const CausvidSettings *s)
{
    const CvModelFiles *f = &m->files;
    const struct {
        const char *title, *option, *path, *given;
        CvKind kind;
    } list[CV_INFO_PARTS] = {
        { "transformer", "transformer", f->transformer, NULL,
          CV_KIND_TRANSFORMER },
        { "text encoder", "text_encoder", f->text_encoder, s->text_encoder,
          CV_KIND_TEXT_ENCODER },
        { "VAE", "vae", f->vae, s->vae, CV_KIND_VAE },
    };
    int err = 0;

    for (int i = 0; i < CV_INFO_PARTS && !err; i++) {
        parts[i] = (CvInfoPart){
            .title = list[i].title, .option = list[i].option,
            .path  = list[i].path,
            .found = i ? place(list[i].path, list[i].given, f) : "the model",
        };
        err = look(&parts[i], i ? "" : f->checkpoint_key, list[i].kind);
    }
    return err;
}

const char *cv_info_tokenizer(const CvModel *m, const CausvidSettings *s)
{
    if (m->files.tokenizer_embedded && !s->tokenizer)
        return "in the text encoder's file";
    if (cv_random_is(m->files.root) && !s->tokenizer)
        return "the sample model's";
    return place(m->files.tokenizer, s->tokenizer, &m->files);
}

/* The type with the most bytes that has less than `below`, for a list without
 * sorting; CV_TYPE_COUNT behind the last. */
static int next_type(const CvInfoPart *p, int last)
{
    int best = CV_TYPE_COUNT;

    for (int i = 0; i < CV_TYPE_COUNT; i++) {
        if (!p->type_tensors[i] || i == last)
            continue;
        if (last < CV_TYPE_COUNT &&
            (p->type_bytes[i] > p->type_bytes[last] ||
             (p->type_bytes[i] == p->type_bytes[last] && i < last)))
            continue;
        if (best == CV_TYPE_COUNT || p->type_bytes[i] > p->type_bytes[best])
            best = i;
    }
    return best;
}

void cv_info_print(const CvInfoPart *p)
{
    printf("              %s (%s)\n", p->path, p->found);
    printf("              %s", p->container);
    if (p->files > 1)
        printf(" in %d%s files", p->files,
               p->files == MAX_FILES ? " or more" : "");
    printf(", %s names, %lld tensors:", p->names, (long long)p->tensors);
    for (int t = next_type(p, CV_TYPE_COUNT), n = 0; t < CV_TYPE_COUNT;
         t = next_type(p, t))
        printf("%s %lld %s (%.1f MB)", n++ ? "," : "",
               (long long)p->type_tensors[t], cv_type_name((CvType)t),
               (double)p->type_bytes[t] / 1e6);
    printf("\n");
}

int cv_info_add(cJSON *object, const char *key, cJSON *value)
{
    if (object && value && cJSON_AddItemToObject(object, key, value))
        return 0;
    cJSON_Delete(value);
    return -1;
}

cJSON *cv_info_json(const CvInfoPart *p)
{
    cJSON *o = cJSON_CreateObject(), *types = cJSON_CreateObject();
    int err = 0;

    for (int t = 0; t < CV_TYPE_COUNT && !err; t++) {
        cJSON *type = p->type_tensors[t] ? cJSON_CreateObject() : NULL;

        if (!p->type_tensors[t])
            continue;
        err |= cv_info_add(type, "tensors", cJSON_CreateNumber(
                           (double)p->type_tensors[t]));
        err |= cv_info_add(type, "bytes", cJSON_CreateNumber(
                           (double)p->type_bytes[t]));
        err |= cv_info_add(types, cv_type_name((CvType)t), type);
    }
    err |= cv_info_add(o, "part", cJSON_CreateString(p->option));
    err |= cv_info_add(o, "path", cJSON_CreateString(p->path));
    err |= cv_info_add(o, "found", cJSON_CreateString(p->found));
    err |= cv_info_add(o, "container", cJSON_CreateString(p->container));
    err |= cv_info_add(o, "names", cJSON_CreateString(p->names));
    err |= cv_info_add(o, "files", cJSON_CreateNumber(p->files));
    err |= cv_info_add(o, "tensors", cJSON_CreateNumber((double)p->tensors));
    err |= cv_info_add(o, "bytes", cJSON_CreateNumber((double)p->bytes));
    err |= cv_info_add(o, "types", types);
    if (!err)
        return o;
    cJSON_Delete(o);
    return NULL;
}

/* JSON is UTF-8, and paths need not be: bytes that are none become '?'. */
int cv_info_puts(const cJSON *object, int indented)
{
    char *text = indented ? cJSON_Print(object) : cJSON_PrintUnformatted(object);

    if (!text)
        return -1;
    for (char *at = text; *at;) {
        utf8proc_int32_t code;
        utf8proc_ssize_t n = utf8proc_iterate((const utf8proc_uint8_t *)at, -1,
                                              &code);

        if (n < 0)
            *at = '?';
        at += n < 0 ? 1 : n;
    }
    puts(text);
    cJSON_free(text);
    return 0;
}
