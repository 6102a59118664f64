/*
 * The members of a zip archive whose bytes lie in it as they are.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * From the end of the file: the end record (22 bytes and a comment); before it
 * the locator (20) and the record of zip64 (56), if they are there; before
 * these the central directory, which says where each member's local header
 * lies. These parts must touch each other, and where both an old field and its
 * zip64 successor speak they must agree, so that a file is read in one way
 * only. Sizes are those of the central directory: PyTorch writes zeros in the
 * local headers.
 * Source: checkpoints.md 8.1, 8.4; PKWARE's APPNOTE.TXT 4.3, 4.5.3.
 */
#include <stdlib.h>
#include <string.h>

#include "weights/bytes.h"
#include "weights/json.h"
#include "weights/zip.h"

#define END_BYTES     22
#define LOCATOR_BYTES 20
#define END64_BYTES   56
#define CENTRAL_BYTES 46
#define LOCAL_BYTES   30

#define MAX_MEMBERS (1 << 20)
#define AGAIN "get the file again"

static int damaged(const CvFile *file, CvLog *log, const char *why)
{
    return cv_fail(log, EILSEQ, "'%s' is a damaged zip archive: %s; " AGAIN,
                   file->path, why);
}

/* "name" of a message: cut, printable. */
static const char *name_text(char text[CV_PRINTABLE], const char *name,
                             size_t length)
{
    char copy[CV_PRINTABLE + 8];
    size_t n = length < sizeof(copy) - 1 ? length : sizeof(copy) - 1;

    memcpy(copy, name, n);
    copy[n] = 0;
    return cv_printable(text, copy);
}

/* A 32-bit (16-bit) field that stands for `value`, or leaves it to zip64. */
static int agrees(uint64_t value, uint32_t field, uint32_t all_ones)
{
    return field == all_ones || field == value;
}

/* Where the central directory lies. */
typedef struct Directory {
    uint64_t offset, size, count;
} Directory;

static int read_end64(Directory *d, const CvFile *file, const uint8_t *end,
                      CvLog *log)
{
    uint64_t end_at = (uint64_t)(end - file->data);
    const uint8_t *locator = end - LOCATOR_BYTES, *p;
    uint64_t at;

    if (end_at < LOCATOR_BYTES + END64_BYTES)
        return damaged(file, log, "its zip64 record is cut off");
    at = cv_le64(locator + 8);
    if (cv_le32(locator + 4) || cv_le32(locator + 16) > 1)
        return damaged(file, log, "it is a part of several");
    if (at != end_at - LOCATOR_BYTES - END64_BYTES)
        return damaged(file, log, "its zip64 record does not lie before its "
                       "locator");
    p = file->data + at;
    if (memcmp(p, "PK\6\6", 4) || cv_le64(p + 4) != END64_BYTES - 12)
        return damaged(file, log, "its zip64 record is not one");
    if (cv_le32(p + 16) || cv_le32(p + 20) ||
        cv_le64(p + 24) != cv_le64(p + 32))
        return damaged(file, log, "it is a part of several");
    *d = (Directory){ cv_le64(p + 48), cv_le64(p + 40), cv_le64(p + 32) };
    if (!agrees(d->count, cv_le16(end + 10), 0xffff) ||
        !agrees(d->size, cv_le32(end + 12), 0xffffffff) ||
        !agrees(d->offset, cv_le32(end + 16), 0xffffffff))
        return damaged(file, log, "its two end records disagree");
    if (d->offset > at || d->size != at - d->offset)
        return damaged(file, log, "its directory does not end at its zip64 "
                       "record");
    return 0;
}

static int read_end(Directory *d, const CvFile *file, CvLog *log)
{
    const uint8_t *end = NULL;
    uint64_t end_at;

    if (file->size < END_BYTES)
        return damaged(file, log, "it is cut off");
    for (size_t comment = 0; !end && comment <= 0xffff &&
         comment <= file->size - END_BYTES; comment++) {
        const uint8_t *p = file->data + file->size - END_BYTES - comment;

        if (!memcmp(p, "PK\5\6", 4) && cv_le16(p + 20) == comment)
            end = p;
    }
    if (!end)
        return damaged(file, log, "it has no end record, so it is cut off");
    if ((cv_le16(end + 4) && cv_le16(end + 4) != 0xffff) ||
        (cv_le16(end + 6) && cv_le16(end + 6) != 0xffff) ||
        cv_le16(end + 8) != cv_le16(end + 10))
        return damaged(file, log, "it is a part of several");
    end_at = (uint64_t)(end - file->data);
    if (end_at >= LOCATOR_BYTES && !memcmp(end - LOCATOR_BYTES, "PK\6\7", 4))
        return read_end64(d, file, end, log);
    *d = (Directory){ cv_le32(end + 16), cv_le32(end + 12), cv_le16(end + 10) };
    if (d->offset > end_at || d->size != end_at - d->offset)
        return damaged(file, log, "its directory does not end at its end "
                       "record");
    return 0;
}

/* Relative, of printable characters, without '..': a name that no program
 * takes for another place. */
static int is_plain(const char *name, size_t length)
{
    size_t begin = 0;

    if (!length || name[0] == '/')
        return 0;
    for (size_t i = 0; i <= length; i++) {
        unsigned char c = i < length ? (unsigned char)name[i] : '/';

        if (c < 0x20 || c == 0x7f || c == '\\')
            return 0;
        if (c != '/')
            continue;
        if (i - begin == 2 && name[begin] == '.' && name[begin + 1] == '.')
            return 0;
        begin = i + 1;
    }
    return 1;
}

/* Fields that do not fit 32 bits are in the extra field 1, in this order, only
 * those. 0, or -1 when they are not there, or are there twice. */
static int read_extra64(const uint8_t *extra, size_t n, int count,
                        uint64_t *const *values)
{
    int found = 0;

    while (n >= 4) {
        uint32_t id = cv_le16(extra), size = cv_le16(extra + 2);

        if (size > n - 4 || (id == 1 && found))
            return -1;
        if (id == 1) {
            if (size < 8 * (uint32_t)count)
                return -1;
            for (int i = 0; i < count; i++)
                *values[i] = cv_le64(extra + 4 + 8 * i);
            found = 1;
        }
        extra += 4 + size;
        n     -= 4 + size;
    }
    return found || !count ? 0 : -1;
}

/* One entry of the directory at p, of which `room` bytes are left. Returns its
 * size, or an error. */
static int64_t read_member(CvZipMember *m, const CvFile *file,
                           const uint8_t *p, uint64_t room, uint64_t directory,
                           CvLog *log)
{
    uint64_t packed, bytes, *wide[3];
    uint32_t flags, extra;
    char text[CV_PRINTABLE];
    int n_wide = 0;

    if (room < CENTRAL_BYTES || memcmp(p, "PK\1\2", 4))
        return damaged(file, log, "its directory is cut off");
    m->name        = (const char *)p + CENTRAL_BYTES;
    m->name_length = cv_le16(p + 28);
    extra = cv_le16(p + 30);
    bytes = CENTRAL_BYTES + m->name_length + extra + cv_le16(p + 32);
    if (bytes > room)
        return damaged(file, log, "its directory is cut off");
    if (!is_plain(m->name, m->name_length))
        return cv_fail(log, EILSEQ, "'%s' has a member with the name '%s'; "
                       "refused: names must stay within the archive",
                       file->path, name_text(text, m->name, m->name_length));
    name_text(text, m->name, m->name_length);
    flags     = cv_le16(p + 8);
    packed    = cv_le32(p + 20);
    m->size   = cv_le32(p + 24);
    m->header = cv_le32(p + 42);
    if (flags & 0x2041) /* encrypted, strongly, or its header is */
        return cv_fail(log, EILSEQ, "'%s': member '%s' is encrypted; save the "
                       "model again without", file->path, text);
    if (cv_le16(p + 10))
        return cv_fail(log, EILSEQ, "'%s': member '%s' is compressed; "
                       "expected an archive as torch.save() writes it: unpack "
                       "it, or save the model again", file->path, text);
    if (cv_le16(p + 34))
        return damaged(file, log, "it is a part of several");
    if (m->size == 0xffffffff)
        wide[n_wide++] = &m->size;
    if (packed == 0xffffffff)
        wide[n_wide++] = &packed;
    if (m->header == 0xffffffff)
        wide[n_wide++] = &m->header;
    if (read_extra64((const uint8_t *)m->name + m->name_length, extra, n_wide,
                     wide) < 0)
        return cv_fail(log, EILSEQ, "'%s' is a damaged zip archive: the sizes "
                       "of member '%s' are not there; " AGAIN, file->path,
                       text);
    if (packed != m->size)
        return cv_fail(log, EILSEQ, "'%s' is a damaged zip archive: member "
                       "'%s' has two sizes; " AGAIN, file->path, text);
    if (m->header > directory || m->size > directory - m->header ||
        directory - m->header - m->size < LOCAL_BYTES + m->name_length)
        return cv_fail(log, EILSEQ, "'%s' is a damaged zip archive: member "
                       "'%s' of %llu bytes at %llu is not within the file; "
                       AGAIN, file->path, text, (unsigned long long)m->size,
                       (unsigned long long)m->header);
    return (int64_t)bytes;
}

static int compare_places(const void *a, const void *b)
{
    const CvZipMember *x = a, *y = b;

    return (x->header > y->header) - (x->header < y->header);
}

static int compare_names(const void *a, const void *b)
{
    const CvZipMember *x = a, *y = b;
    size_t n = x->name_length < y->name_length ? x->name_length :
                                                 y->name_length;
    int order = memcmp(x->name, y->name, n);

    return order ? order : (x->name_length > y->name_length) -
                           (x->name_length < y->name_length);
}

/* Members take places of their own and names of their own. */
static int check_members(CvZip *zip, uint64_t directory, CvLog *log)
{
    CvZipMember *m = zip->members;
    char text[CV_PRINTABLE], other[CV_PRINTABLE];
    size_t n = (size_t)zip->n_members;

    qsort(m, n, sizeof(*m), compare_places);
    for (size_t i = 0; i < n; i++) {
        m[i].limit = i + 1 < n ? m[i + 1].header : directory;
        if (m[i].limit - m[i].header < LOCAL_BYTES + m[i].name_length +
                                       m[i].size)
            return cv_fail(log, EILSEQ, "'%s': members '%s' and '%s' overlap; "
                           "refused: " AGAIN, zip->file->path,
                           name_text(text, m[i].name, m[i].name_length),
                           name_text(other, m[i + 1].name,
                                     m[i + 1].name_length));
    }
    qsort(m, n, sizeof(*m), compare_names);
    for (size_t i = 1; i < n; i++)
        if (!compare_names(&m[i - 1], &m[i]))
            return cv_fail(log, EILSEQ, "'%s' has two members with the name "
                           "'%s'; refused: " AGAIN, zip->file->path,
                           name_text(text, m[i].name, m[i].name_length));
    return 0;
}

int cv_zip_open(CvZip *zip, const CvFile *file, CvLog *log)
{
    Directory d = { 0, 0, 0 };
    const uint8_t *p;
    uint64_t left;
    int err;

    *zip = (CvZip){ .file = file };
    if ((err = read_end(&d, file, log)) < 0)
        return err;
    if (d.count > MAX_MEMBERS || d.count > d.size / CENTRAL_BYTES)
        return damaged(file, log, "it has more members than its directory can "
                       "list");
    zip->members = calloc(d.count ? (size_t)d.count : 1,
                          sizeof(*zip->members));
    if (!zip->members)
        return cv_fail_memory(log, d.count * sizeof(*zip->members),
                              "a list of files");
    p    = file->data + d.offset;
    left = d.size;
    while (zip->n_members < (int64_t)d.count) {
        int64_t bytes = read_member(&zip->members[zip->n_members], file, p,
                                    left, d.offset, log);

        if (bytes < 0) {
            err = (int)bytes;
            goto fail;
        }
        p    += bytes;
        left -= (uint64_t)bytes;
        zip->n_members++;
    }
    if (left) {
        err = damaged(file, log, "its directory lists more members than it "
                      "says");
        goto fail;
    }
    if ((err = check_members(zip, d.offset, log)) < 0)
        goto fail;
    return 0;
fail:
    cv_zip_close(zip);
    return err;
}

void cv_zip_close(CvZip *zip)
{
    free(zip->members);
    zip->members   = NULL;
    zip->n_members = 0;
}

const CvZipMember *cv_zip_find(const CvZip *zip, const char *folder,
                               size_t folder_length, const char *name,
                               size_t name_length)
{
    char whole[1024];
    CvZipMember key = { .name = whole,
                        .name_length = folder_length + 1 + name_length };

    if (folder_length >= sizeof(whole) || name_length >= sizeof(whole) ||
        key.name_length > sizeof(whole) || !zip->n_members)
        return NULL;
    memcpy(whole, folder, folder_length);
    whole[folder_length] = '/';
    memcpy(whole + folder_length + 1, name, name_length);
    return bsearch(&key, zip->members, (size_t)zip->n_members,
                   sizeof(*zip->members), compare_names);
}

int cv_zip_data(const uint8_t **data, const CvZip *zip, const CvZipMember *m,
                CvLog *log)
{
    const uint8_t *p = zip->file->data + m->header;
    uint64_t head;
    char text[CV_PRINTABLE];

    /* the directory's checks have left room for all but the extra field */
    head = LOCAL_BYTES + m->name_length + cv_le16(p + 28);
    if (memcmp(p, "PK\3\4", 4) || cv_le16(p + 8) || cv_le16(p + 6) & 0x2041 ||
        cv_le16(p + 26) != m->name_length ||
        memcmp(p + LOCAL_BYTES, m->name, m->name_length) ||
        head > m->limit - m->header || m->size > m->limit - m->header - head)
        return cv_fail(log, EILSEQ, "'%s' is a damaged zip archive: the "
                       "header of member '%s' does not agree with the "
                       "directory; " AGAIN, zip->file->path,
                       name_text(text, m->name, m->name_length));
    *data = p + head;
    return 0;
}
