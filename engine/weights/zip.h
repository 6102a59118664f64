/*
 * The members of a zip archive whose bytes lie in it as they are.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#ifndef CV_ZIP_H
#define CV_ZIP_H

#include "weights/reader.h"

typedef struct CvZipMember {
    const char *name;    /* in the file, without a NUL at its end */
    size_t name_length;
    uint64_t header;     /* offset of its local header */
    uint64_t limit;      /* offset of what comes after it */
    uint64_t size;
} CvZipMember;

typedef struct CvZip {
    const CvFile *file;
    CvZipMember *members; /* sorted by name */
    int64_t n_members;
} CvZip;

/* Read the central directory. EILSEQ: damaged, several disks, a member that is
 * compressed or encrypted, a name twice or one that leads out of the archive,
 * members that overlap. ENOMEM. Local headers are not looked at: in a large
 * archive each would be a page to wait for. */
int cv_zip_open(CvZip *zip, const CvFile *file, CvLog *log);
void cv_zip_close(CvZip *zip);

/* NULL: there is no such member. The name is `folder`/`name`. */
const CvZipMember *cv_zip_find(const CvZip *zip, const char *folder,
                               size_t folder_length, const char *name,
                               size_t name_length);

/* The bytes of a member; its local header is checked. EILSEQ. */
int cv_zip_data(const uint8_t **data, const CvZip *zip,
                const CvZipMember *member, CvLog *log);

#endif /* CV_ZIP_H */
