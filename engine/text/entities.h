/*
 * The named character references of HTML 5.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#ifndef CV_ENTITIES_H
#define CV_ENTITIES_H

#define CV_ENTITY_NAME 31 /* bytes of the longest name */

typedef struct CvEntity {
    const char *name;  /* without '&' and ';' */
    const char *text;  /* UTF-8 */
    const char *upper; /* what ftfy makes of the name in capitals, or NULL */
    int bare;          /* also valid without ';' */
} CvEntity;

/* NULL when there is no such name. */
const CvEntity *cv_entity_find(const char *name);

#endif /* CV_ENTITIES_H */
