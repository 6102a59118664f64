/*
 * Clips beside those of another run: saved, and compared by PSNR.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * PSNR is that of all values together, 8 bits each: 10 log10(255^2 / mean
 * squared difference). The clip with the largest difference is told apart,
 * since a few that went another way hide in the mean of many that did not.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "beside.h"

struct Beside {
    FILE *save, *against;
    const char *save_name, *against_name;
    uint8_t *other;        /* a clip of `against` */
    size_t other_bytes;
    int clips, worst_clip; /* counted from 1 */
    double squares, values, worst; /* worst: mean of squares of a clip */
    char worst_prompt[256];
};

static FILE *open_file(const char *name, const char *mode)
{
    FILE *file = fopen(name, mode);

    if (!file)
        fprintf(stderr, "evaluate: '%s' cannot be %s\n", name,
                *mode == 'r' ? "read" : "written");
    return file;
}

Beside *beside_open(const char *save, const char *against)
{
    Beside *b = calloc(1, sizeof(*b));

    if (!b)
        return NULL;
    if (save && against && !strcmp(save, against)) {
        fprintf(stderr, "evaluate: --save and --against name one file\n");
        beside_close(b);
        return NULL;
    }
    b->save_name    = save;
    b->against_name = against;
    b->worst        = -1;
    if ((save && !(b->save = open_file(save, "wb"))) ||
        (against && !(b->against = open_file(against, "rb")))) {
        beside_close(b);
        return NULL;
    }
    return b;
}

static int compare(Beside *b, const uint8_t *rgb, size_t bytes,
                   const char *prompt)
{
    double squares = 0;

    if (b->other_bytes < bytes) {
        uint8_t *other = realloc(b->other, bytes);

        if (!other)
            return -1;
        b->other = other;
        b->other_bytes = bytes;
    }
    if (fread(b->other, 1, bytes, b->against) != bytes) {
        fprintf(stderr, "evaluate: '%s' ends within clip %d\n",
                b->against_name, b->clips);
        return -1;
    }
    for (size_t i = 0; i < bytes; i++) {
        int d = rgb[i] - b->other[i];

        squares += d * d;
    }
    b->squares += squares;
    b->values  += (double)bytes;
    if (squares / (double)bytes > b->worst) {
        b->worst      = squares / (double)bytes;
        b->worst_clip = b->clips;
        snprintf(b->worst_prompt, sizeof(b->worst_prompt), "%s", prompt);
    }
    return 0;
}

int beside_clip(Beside *b, const uint8_t *rgb, size_t bytes,
                const char *prompt)
{
    b->clips++;
    if (b->save && fwrite(rgb, 1, bytes, b->save) != bytes) {
        fprintf(stderr, "evaluate: '%s' cannot be written\n", b->save_name);
        return -1;
    }
    return b->against ? compare(b, rgb, bytes, prompt) : 0;
}

/* In decibels; identical clips have no number. */
static void print_psnr(double mean)
{
    if (mean > 0)
        printf("%.2f dB", 10 * log10(255 * 255 / mean));
    else
        printf("identical");
}

int beside_print(Beside *b)
{
    if (b->save && fflush(b->save)) {
        fprintf(stderr, "evaluate: '%s' cannot be written\n", b->save_name);
        return -1;
    }
    if (!b->against || !b->clips)
        return 0;
    if (getc(b->against) != EOF) {
        fprintf(stderr, "evaluate: '%s' holds more than these %d clips\n",
                b->against_name, b->clips);
        return -1;
    }
    printf("PSNR against %s: ", b->against_name);
    print_psnr(b->squares / b->values);
    printf(" over %d clips, least ", b->clips);
    print_psnr(b->worst);
    printf(" in clip %d, \"%s\"\n", b->worst_clip, b->worst_prompt);
    return 0;
}

void beside_close(Beside *b)
{
    if (!b)
        return;
    if (b->save)
        fclose(b->save);
    if (b->against)
        fclose(b->against);
    free(b->other);
    free(b);
}
