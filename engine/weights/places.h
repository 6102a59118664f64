/*
 * Where the parts of models lie on disk: names, folders, and a walk over them.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#ifndef CV_PLACES_H
#define CV_PLACES_H

#include <sys/types.h>

#include "weights/files.h"

/* A part of a model and the names under which it is found. */
typedef struct CvPart {
    const char *what, *option;
    const char *folder;       /* in the diffusers layout */
    const char *prefix;       /* of its files there, and of its shards */
    int shards_beside;        /* its shards may lie in the model's folder */
    const char *patterns[8];  /* of lower-case names, preferred ones first */
    const char *known;        /* the same for people */
} CvPart;

extern const CvPart cv_part_transformer, cv_part_text_encoder, cv_part_vae;

/* Look for a part in one folder: in its sub-folder of the diffusers layout,
 * and under its usual names. *path stays empty when it is not there. The config
 * is set only where it is the part's own. strict: the folder is the model's, so
 * that what is wrong in its sub-folder is an error. */
int cv_part_find(const CvPart *part, const char *base, int strict,
                 char path[CV_PATH_SIZE], char config[CV_PATH_SIZE],
                 CvLog *log);

/* The one file of a folder that is none of the other parts: a transformer
 * under a name of its own. *path stays empty when there is none; EILSEQ lists
 * several. */
int cv_part_single(const char *base, char path[CV_PATH_SIZE], CvLog *log);

/*
 * The folders in which parts may lie that are not named: the model's own
 * (strict), the one above where that is transformer/, then the sub-folders of
 * the table in places.c there and in three folders above.
 */
typedef struct CvPlaces {
    char root[CV_PATH_SIZE];
    char base[CV_PATH_SIZE];
    char folder[CV_PATH_SIZE]; /* the current one */
    int strict;
    int level, entry;
    int closed;                /* a diffusers folder is complete in itself */
} CvPlaces;

void cv_places_begin(CvPlaces *places, const char *root);
/* 1 and places->folder, or 0 behind the last. */
int cv_places_next(CvPlaces *places);

/* ---- paths: paths.c ---- */

/* The descriptor of a regular file, for reading, and its size; or an error.
 * expected: what it should be, for people. */
int cv_path_open(const char *path, off_t *size, const char *expected,
                 CvLog *log);

int cv_path_is_folder(const char *path);
/* 1, 0, or EIO when that cannot be seen, which must not pass for 0. */
int cv_path_exists(const char *path, CvLog *log);
/* path = folder/name; EINVAL when that is too long. */
int cv_path_join(char path[CV_PATH_SIZE], const char *folder, const char *name,
                 CvLog *log);
/* As cv_path_join(), but "" when there is no such file or folder. */
int cv_path_join_existing(char path[CV_PATH_SIZE], const char *folder,
                          const char *name, CvLog *log);
const char *cv_path_base_name(const char *path);
/* The folder that a path lies in; 0 when there is none above. `folder` may be
 * `path`. */
int cv_path_parent(char folder[CV_PATH_SIZE], const char *path);
/* Copy a path of the user's, without slashes at its end. */
int cv_path_copy(char path[CV_PATH_SIZE], const char *from, const char *option,
                 CvLog *log);

#endif /* CV_PLACES_H */
