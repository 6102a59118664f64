/*
 * Text embeddings kept in a folder.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * The reader parses nothing: for a key and its ids there is only one possible
 * header, apart from the checksum, and so one possible size. A file is compared
 * with that. Files are written under another name first; two programs may share
 * a folder.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cache.h"
#include "config.h"
#include "cpu/kernels.h"
#include "sha256.h"
#include "text.h"
#include "weights/files.h"

#define FORMAT      "causvid text cache 1"
#define FILE_ENDS   65536   /* bytes of each end of a file that are looked at */
#define SAMPLE      256     /* elements of each tensor; a whole block of any type */
#define MAX_FILES   64      /* of one text encoder, whose ends are looked at */
#define HEADER_SIZE 1024
#define MAX_VALUE   1e6f    /* as the generator has it for a sound encoder */

struct CvTextCache {
    CvLog *log;
    int told; /* that files cannot be written */
    uint8_t encoder[CV_SHA256_BYTES];
    char folder[CV_PATH_SIZE];
};

/* ---- which text encoder it is, wherever its files lie ---- */

static void add_text(CvSha256 *s, const char *text)
{
    cv_sha256_add(s, text, strlen(text) + 1);
}

static int read_all(int fd, void *data, size_t n)
{
    for (size_t done = 0; done < n;) {
        ssize_t part = read(fd, (uint8_t *)data + done, n - done);

        if (part < 0 && errno == EINTR)
            continue;
        if (part <= 0)
            return -1;
        done += (size_t)part;
    }
    return 0;
}

/* The size and the ends of a file. What is no file is known by its name, which
 * is what makes the numbers of a random model. */
static void add_file(CvSha256 *s, const char *path, uint8_t buffer[FILE_ENDS])
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    struct stat st;
    char size[32];
    size_t n;

    if (fd < 0 || fstat(fd, &st) || !S_ISREG(st.st_mode)) {
        add_text(s, path);
        if (fd >= 0)
            close(fd);
        return;
    }
    snprintf(size, sizeof(size), "%lld", (long long)st.st_size);
    add_text(s, size);
    n = st.st_size < FILE_ENDS ? (size_t)st.st_size : FILE_ENDS;
    if (!read_all(fd, buffer, n))
        cv_sha256_add(s, buffer, n);
    if (lseek(fd, -(off_t)n, SEEK_END) >= 0 && !read_all(fd, buffer, n))
        cv_sha256_add(s, buffer, n);
    close(fd);
}

static void add_tensor(CvSha256 *s, const CvEntry *e, uint8_t *buffer)
{
    int64_t n = cv_elements(&e->tensor);
    char shape[CV_SHAPE_TEXT];

    n = n < SAMPLE ? n : SAMPLE;
    add_text(s, e->stored);
    add_text(s, cv_shape_text(shape, &e->tensor));
    if (n < 1 || (!e->tensor.data && !e->view))
        return;
    cv_entry_copy(buffer, e, 0, n);
    cv_sha256_add(s, buffer, (size_t)(n / cv_type_block(e->tensor.type)) *
                  cv_type_bytes(e->tensor.type));
}

static void identify(uint8_t digest[CV_SHA256_BYTES], CvWeights *weights,
                     const char *config, const CvBackend *backend,
                     uint8_t buffer[FILE_ENDS])
{
    const char *seen[MAX_FILES];
    CvSha256 s;
    int n = 0, k;

    cv_sha256_init(&s);
    add_text(&s, FORMAT " of version " CAUSVID_VERSION_STRING);
    add_text(&s, backend->name);
    add_text(&s, backend->device);
    add_text(&s, cv_type_name(backend->activation));
    add_text(&s, cv_type_name(backend->weight));
    if (backend->threads)
        add_text(&s, cv_kernels_find(NULL)->name);
    if (*config)
        add_file(&s, config, buffer);
    for (int64_t i = 0; i < cv_weights_count(weights); i++) {
        const CvEntry *e = cv_weights_at(weights, i);

        add_tensor(&s, e, buffer);
        for (k = n; k > 0 && seen[k - 1] != e->file; k--)
            ;
        if (!k && n < MAX_FILES) {
            seen[n++] = e->file;
            add_file(&s, e->file, buffer);
        }
    }
    cv_sha256_end(&s, digest);
}

int cv_text_cache_open(CvTextCache **cache, const char *folder,
                       CvWeights *weights, const char *config,
                       const CvBackend *backend, CvLog *log)
{
    CvTextCache *c = calloc(1, sizeof(*c));
    uint8_t *buffer = malloc(FILE_ENDS);
    struct stat st;
    int err = 0;

    *cache = NULL;
    if (!c || !buffer) {
        err = cv_fail_memory(log, FILE_ENDS, "the cache");
        goto end;
    }
    if (snprintf(c->folder, sizeof(c->folder), "%s", folder) >=
        (int)sizeof(c->folder)) {
        cv_log(log, CAUSVID_LOG_WARNING, "cache=%.80s...: the path is too "
               "long; prompts are not kept", folder);
        goto end;
    }
    if (!*folder) {
        cv_log(log, CAUSVID_LOG_WARNING, "cache= is empty, expected a folder; "
               "prompts are not kept");
        goto end;
    }
    if ((mkdir(folder, 0777) && errno != EEXIST) || stat(folder, &st)) {
        cv_log(log, CAUSVID_LOG_WARNING, "cache=%s cannot be used: %s; prompts "
               "are not kept", folder, strerror(errno));
        goto end;
    }
    if (!S_ISDIR(st.st_mode)) {
        cv_log(log, CAUSVID_LOG_WARNING, "cache=%s is not a folder; prompts "
               "are not kept", folder);
        goto end;
    }
    c->log = log;
    identify(c->encoder, weights, config, backend, buffer);
    *cache = c;
    c = NULL;
end:
    free(buffer);
    free(c);
    return err;
}

void cv_text_cache_close(CvTextCache **cache)
{
    free(*cache);
    *cache = NULL;
}

/* ---- a prompt's file ---- */

typedef struct Record {
    char key[CV_SHA256_TEXT];
    char path[CV_PATH_SIZE + CV_SHA256_TEXT + 16];
    int64_t n, dim;
    int64_t ids[CV_MAX_TOKENS];
    size_t header_size;    /* with the eight bytes in front */
    size_t payload_size;   /* ids, then embeddings */
    size_t embeds_size;
    uint8_t *data;         /* the whole file, and a byte more */
} Record;

/* The header for a payload; always of one length. */
static size_t make_header(const Record *r, const uint8_t *payload,
                          char header[HEADER_SIZE])
{
    uint8_t digest[CV_SHA256_BYTES];
    char sum[CV_SHA256_TEXT];
    CvSha256 s;
    size_t n;

    cv_sha256_init(&s);
    cv_sha256_add(&s, payload, r->payload_size);
    cv_sha256_end(&s, digest);
    cv_sha256_text(sum, digest);
    n = 8 + (size_t)snprintf(header + 8, HEADER_SIZE - 8,
        "{\"__metadata__\":{\"format\":\"" FORMAT "\",\"key\":\"%s\","
        "\"sha256\":\"%s\"},"
        "\"token_ids\":{\"dtype\":\"I64\",\"shape\":[%" PRId64 "],"
        "\"data_offsets\":[0,%zu]},"
        "\"text_embeds\":{\"dtype\":\"F32\",\"shape\":[%" PRId64 ",%" PRId64
        "],\"data_offsets\":[%zu,%zu]}}", r->key, sum, r->n,
        r->payload_size - r->embeds_size, r->n, r->dim,
        r->payload_size - r->embeds_size, r->payload_size);
    while (n % 8) /* tensors begin at multiples of it */
        header[n++] = ' ';
    for (int i = 0; i < 8; i++)
        header[i] = (char)((uint64_t)(n - 8) >> 8 * i & 255);
    return n;
}

static int open_record(Record *r, const CvTextCache *c, const CvTensor *embeds,
                       const int32_t *ids, CvLog *log)
{
    uint8_t digest[CV_SHA256_BYTES];
    char header[HEADER_SIZE];
    size_t ids_size;
    CvSha256 s;

    memset(r, 0, sizeof(*r));
    r->n   = embeds->dim[0];
    r->dim = embeds->dim[1];
    r->embeds_size = (size_t)cv_tensor_bytes(embeds);
    ids_size = (size_t)r->n * sizeof(*r->ids);
    r->payload_size = ids_size + r->embeds_size;
    for (int64_t i = 0; i < r->n; i++)
        r->ids[i] = ids[i];
    cv_sha256_init(&s);
    cv_sha256_add(&s, c->encoder, sizeof(c->encoder));
    cv_sha256_add(&s, r->ids, ids_size);
    cv_sha256_end(&s, digest);
    cv_sha256_text(r->key, digest);
    snprintf(r->path, sizeof(r->path), "%s/%s.safetensors", c->folder, r->key);
    if (!(r->data = calloc(1, HEADER_SIZE + r->payload_size + 1)))
        return cv_fail_memory(log, HEADER_SIZE + r->payload_size,
                              "a prompt of the cache");
    r->header_size = make_header(r, r->data, header);
    memcpy(r->data + r->header_size, r->ids, ids_size);
    return 0;
}

static float *embeds_of(const Record *r)
{
    return (float *)(void *)(r->data + r->header_size + r->payload_size -
                             r->embeds_size);
}

/* NULL, or what is wrong with the file in r->data. */
static const char *find_fault(const Record *r)
{
    const uint8_t *payload = r->data + r->header_size;
    const float *value = embeds_of(r);
    char header[HEADER_SIZE];
    float largest = 0;

    make_header(r, payload, header);
    if (memcmp(header, r->data, r->header_size))
        return "it is damaged, or no file of this cache";
    if (memcmp(payload, r->ids, (size_t)r->n * sizeof(*r->ids)))
        return "it is of another prompt";
    for (int64_t i = 0; i < r->n * r->dim; i++) {
        if (!(fabsf(value[i]) <= MAX_VALUE)) /* nor NaN */
            return "it holds values that no text encoder gives";
        largest = fmaxf(largest, fabsf(value[i]));
    }
    return largest > 0 ? NULL : "it holds nothing but zeros";
}

/* 1: read and found to be sound. */
static int read_record(Record *r, const CvTextCache *c)
{
    const size_t size = r->header_size + r->payload_size;
    const char *fault = NULL;
    struct stat st;
    /* a pipe must not make us wait */
    int fd = open(r->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

    if (fd < 0 && errno == ENOENT)
        return 0;
    if (fd < 0 || fstat(fd, &st))
        fault = strerror(errno);
    else if (!S_ISREG(st.st_mode))
        fault = "it is not a regular file";
    else if (st.st_size < 0 || (uint64_t)st.st_size != size)
        fault = "it is damaged, or no file of this cache";
    else if (read_all(fd, r->data, size))
        fault = "it cannot be read";
    else
        fault = find_fault(r);
    if (fd >= 0)
        close(fd);
    if (fault)
        cv_log(c->log, CAUSVID_LOG_WARNING, "'%s' is ignored: %s; the prompt "
               "is encoded again", r->path, fault);
    return !fault;
}

static int write_all(int fd, const void *data, size_t n)
{
    for (size_t done = 0; done < n;) {
        ssize_t part = write(fd, (const uint8_t *)data + done, n - done);

        if (part < 0 && errno == EINTR)
            continue;
        if (part <= 0)
            return -1;
        done += (size_t)part;
    }
    return 0;
}

/* 0, or an errno value. */
static int write_record(Record *r, const CvTextCache *c)
{
    char temporary[sizeof(c->folder) + 32], header[HEADER_SIZE];
    int fd, error = 0;

    make_header(r, r->data + r->header_size, header);
    memcpy(r->data, header, r->header_size);
    snprintf(temporary, sizeof(temporary), "%s/.new-XXXXXX", c->folder);
    if ((fd = mkstemp(temporary)) < 0)
        return errno;
    if (write_all(fd, r->data, r->header_size + r->payload_size))
        error = errno ? errno : EIO;
    if (close(fd) && !error)
        error = errno;
    if (!error && rename(temporary, r->path))
        error = errno;
    if (error)
        unlink(temporary);
    return error;
}

int cv_text_cache_has(const CvTextCache *c, const int32_t *ids, int64_t n,
                      int64_t dim)
{
    const CvTensor embeds = CV_TENSOR(NULL, CV_F32, n, dim);
    struct stat st;
    Record r;
    int found = !open_record(&r, c, &embeds, ids, NULL) &&
                !stat(r.path, &st) && S_ISREG(st.st_mode) &&
                st.st_size == (off_t)(r.header_size + r.payload_size);

    free(r.data);
    return found;
}

int cv_text_cache_load(CvTextCache *c, CvBackend *backend,
                       const CvTensor *embeds, const int32_t *ids)
{
    Record r;
    int err = open_record(&r, c, embeds, ids, c->log);

    if (!err && read_record(&r, c)) {
        cv_log(c->log, CAUSVID_LOG_VERBOSE, "a prompt of %" PRId64 " tokens "
               "from '%s'", r.n, r.path);
        err = cv_upload(backend, embeds, embeds_of(&r), CV_F32);
        err = err < 0 ? err : 1;
    }
    free(r.data);
    return err;
}

int cv_text_cache_save(CvTextCache *c, CvBackend *backend,
                       const CvTensor *embeds, const int32_t *ids)
{
    Record r = { 0 };
    int err, error;

    if (c->told)
        return 0;
    if (!(err = open_record(&r, c, embeds, ids, c->log)) &&
        !(err = cv_download(backend, embeds_of(&r), embeds))) {
        if (!(error = write_record(&r, c)))
            cv_log(c->log, CAUSVID_LOG_VERBOSE, "a prompt of %" PRId64
                   " tokens kept in '%s'", r.n, r.path);
        else
            cv_log(c->log, CAUSVID_LOG_WARNING, "'%s' cannot be written: %s; "
                   "prompts are not kept", r.path, strerror(error));
        c->told = !!error;
    }
    free(r.data);
    return err;
}
