/*
 * JSON files and typed look-ups in them.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "weights/json.h"
#include "weights/places.h"

#define MAX_FILE (64 << 20)

/* The bytes of a file that is small enough. */
static int read_all(char **text, size_t *size, const char *path, CvLog *log)
{
    off_t bytes;
    int err = 0, fd = cv_path_open(path, &bytes, "a JSON file", log);

    *text = NULL;
    *size = 0;
    if (fd < 0)
        return fd;
    if (bytes > MAX_FILE) {
        err = cv_fail(log, EILSEQ, "'%s' has %lld bytes; expected a JSON file "
                      "of at most %d", path, (long long)bytes, MAX_FILE);
        goto end;
    }
    *text = malloc((size_t)bytes + 1);
    if (!*text) {
        err = cv_fail_memory(log, (uint64_t)bytes, path);
        goto end;
    }
    while (*size < (size_t)bytes) {
        ssize_t n = read(fd, *text + *size, (size_t)bytes - *size);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            err = cv_fail(log, EIO, "'%s' cannot be read: %s", path,
                          strerror(errno));
            goto end;
        }
        if (!n)
            break; /* it became shorter: what there is will be judged */
        *size += (size_t)n;
    }
end:
    close(fd);
    if (err < 0) {
        free(*text);
        *text = NULL;
    }
    return err;
}

int cv_json_read(cJSON **json, const char *path, CvLog *log)
{
    char *text;
    size_t size, skip = 0;
    int err;

    *json = NULL;
    err = read_all(&text, &size, path, log);
    if (err < 0)
        return err;
    if (size >= 3 && !memcmp(text, "\xef\xbb\xbf", 3))
        skip = 3; /* the byte order mark of some editors */
    err = cv_json_parse(json, text + skip, size - skip, path, log);
    free(text);
    return err;
}

/* The value of a key, NULL when it is absent or null. */
static const cJSON *look_up(const cJSON *object, const char *key)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, key);

    return item && !cJSON_IsNull(item) ? item : NULL;
}

/* The value as one would write it, for messages. */
#define VALUE_TEXT (CV_PRINTABLE + 2)
static const char *value_text(char text[VALUE_TEXT], const cJSON *item)
{
    char string[CV_PRINTABLE];
    double v = item->valuedouble;

    if (cJSON_IsNumber(item)) {
        snprintf(text, VALUE_TEXT, "%.15g", v);
        if (strtod(text, NULL) != v)
            snprintf(text, VALUE_TEXT, "%.17g", v);
    } else if (cJSON_IsString(item)) {
        snprintf(text, VALUE_TEXT, "\"%s\"",
                 cv_printable(string, item->valuestring));
    } else {
        strcpy(text, cJSON_IsArray(item) ? "a list" :
                     cJSON_IsObject(item) ? "an object" :
                     cJSON_IsTrue(item) ? "true" : "false");
    }
    return text;
}

int cv_json_int(const cJSON *object, const char *path, const char *key,
                int64_t min, int64_t max, int64_t *value, CvLog *log)
{
    const cJSON *item = look_up(object, key);
    char text[VALUE_TEXT];
    double v;

    if (!item)
        return 0;
    v = cJSON_IsNumber(item) ? item->valuedouble : 0.5;
    /* the first test keeps the conversion defined */
    if (v >= (double)-CV_JSON_MAX_INT && v <= (double)CV_JSON_MAX_INT &&
        v == (double)(int64_t)v && (int64_t)v >= min && (int64_t)v <= max) {
        *value = (int64_t)v;
        return 0;
    }
    return cv_fail(log, EILSEQ, "'%s': \"%s\" is %s; expected an integer from "
                   "%lld to %lld", path, key, value_text(text, item),
                   (long long)min, (long long)max);
}

int cv_json_number(const cJSON *object, const char *path, const char *key,
                   double min, double max, double *value, CvLog *log)
{
    const cJSON *item = look_up(object, key);
    char text[VALUE_TEXT];

    if (!item)
        return 0;
    if (cJSON_IsNumber(item) && item->valuedouble >= min &&
        item->valuedouble <= max) {
        *value = item->valuedouble;
        return 0;
    }
    return cv_fail(log, EILSEQ, "'%s': \"%s\" is %s; expected a number from "
                   "%g to %g", path, key, value_text(text, item), min, max);
}

static int has_control(const char *string)
{
    for (; *string; string++)
        if ((unsigned char)*string < 0x20 || *string == 0x7f)
            return 1;
    return 0;
}

int cv_json_string(const cJSON *object, const char *path, const char *key,
                   char *value, size_t size, CvLog *log)
{
    const cJSON *item = look_up(object, key);
    char text[VALUE_TEXT];

    if (!item)
        return 0;
    if (cJSON_IsString(item) && strlen(item->valuestring) < size &&
        !has_control(item->valuestring)) {
        strcpy(value, item->valuestring);
        return 0;
    }
    return cv_fail(log, EILSEQ, "'%s': \"%s\" is %s; expected a string of at "
                   "most %zu bytes without control characters", path, key,
                   value_text(text, item), size - 1);
}

int cv_json_bool(const cJSON *object, const char *path, const char *key,
                 int *value, CvLog *log)
{
    const cJSON *item = look_up(object, key);
    char text[VALUE_TEXT];

    if (!item)
        return 0;
    if (cJSON_IsBool(item)) {
        *value = cJSON_IsTrue(item);
        return 0;
    }
    return cv_fail(log, EILSEQ, "'%s': \"%s\" is %s; expected true or false",
                   path, key, value_text(text, item));
}

int cv_json_numbers(const cJSON *object, const char *path, const char *key,
                    double *values, int *n, CvLog *log)
{
    const cJSON *item = look_up(object, key), *child;
    char text[VALUE_TEXT];
    int room = *n;

    *n = 0;
    if (!item)
        return 0;
    if (!cJSON_IsArray(item))
        return cv_fail(log, EILSEQ, "'%s': \"%s\" is %s; expected a list of "
                       "numbers", path, key, value_text(text, item));
    cJSON_ArrayForEach(child, item) {
        if (!cJSON_IsNumber(child))
            return cv_fail(log, EILSEQ, "'%s': \"%s\" holds %s; expected "
                           "numbers only", path, key,
                           cJSON_IsNull(child) ? "null" :
                           value_text(text, child));
        if (*n == room)
            return cv_fail(log, EILSEQ, "'%s': \"%s\" has more than %d "
                           "numbers", path, key, room);
        values[(*n)++] = child->valuedouble;
    }
    return 0;
}
