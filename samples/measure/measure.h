/*
 * What a clip of the sample model shows, measured on its pixels.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * The world is that of samples/train/data.py: flat shapes of known colours on
 * a plain background, on a canvas whose opposite sides touch. Nothing here
 * knows the prompt; evaluate.c compares.
 */
#ifndef CV_MEASURE_H
#define CV_MEASURE_H

#include <stdint.h>

#define N_COLOURS   10
#define N_SHAPES    6
#define N_MOTIONS   8
#define MAX_OBJECTS 2

extern const char *const colour_names[N_COLOURS];
extern const char *const shape_names[N_SHAPES];
extern const char *const motion_names[N_MOTIONS];

typedef struct ClipPixels {
    const uint8_t *rgb; /* [frames, height, width, 3] */
    int frames, height, width;
    double rate;        /* frames per second */
} ClipPixels;

typedef struct ObjectSeen {
    int colour, shape, motion; /* indices of the lists above, -1: none */
    double vx, vy;      /* pixels a second, median */
    double growth;      /* relative change of the radius a second, median */
    double turn;        /* turns a second, clockwise, median */
    double radius;      /* median, pixels */
    double match;       /* overlap with the shape's template, 0..1, median */
} ObjectSeen;

typedef struct ClipSeen {
    int background;
    int n_objects;      /* as asked for, of the colours that cover most */
    ObjectSeen object[MAX_OBJECTS];
} ClipSeen;

/* Measure a clip, looking for n_objects (1 or 2). 0, or -1 without memory. */
int measure_clip(ClipSeen *seen, const ClipPixels *clip, int n_objects);

/* Index of a name in a list of n, -1 when it is not there. */
int find_name(const char *const *names, int n, const char *name);

/* ---- shapes.c ---- */

/* Area of a shape of circumradius 1, and the order of its symmetry (0: none
 * that could be seen turning). */
double shape_area(int shape);
int shape_symmetry(int shape);

/* 1 inside, 0 outside, in between at the edge: coverage of the pixel at (x, y)
 * from the centre, y downwards, by a shape of circumradius r that is turned
 * clockwise by `angle`. */
double shape_cover(int shape, double x, double y, double r, double angle);

#endif /* CV_MEASURE_H */
