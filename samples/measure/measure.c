/*
 * What a clip of the sample model shows, measured on its pixels.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * Colours: each pixel goes to the nearest of the ten; the colour that covers
 * most is the background, the next ones are the objects. Motion: the centroid
 * of an object's pixels (a circular mean, since sides touch), their area and
 * the phase of their angular moment are followed from frame to frame, and
 * medians over a few frames' distance decide, so that a ramp that starts again
 * or one odd frame does not. Shape: the best of all templates over size and
 * angle, by vote over the frames.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "measure.h"

#define PI 3.14159265358979323846

const char *const colour_names[N_COLOURS] = {
    "red", "green", "blue", "yellow", "orange", "purple", "pink", "cyan",
    "white", "black"
};

static const int palette[N_COLOURS][3] = {
    { 225, 40, 40 },  { 40, 170, 60 },  { 40, 80, 225 },   { 245, 215, 50 },
    { 250, 135, 30 }, { 140, 60, 190 }, { 250, 150, 195 }, { 50, 205, 220 },
    { 243, 243, 243 }, { 22, 22, 22 },
};

enum { LEFT, RIGHT, UP, DOWN, STILL, GROWING, SHRINKING, ROTATING };

const char *const motion_names[N_MOTIONS] = {
    "left", "right", "up", "down", "still", "growing", "shrinking", "rotating"
};

/* Bounds between what is motion and what is noise. The world's slowest object
 * moves at 14 pixels/s, grows by 12 % a second and turns 0.12 times a second;
 * each bound is about half of that. */
#define MIN_SPEED  7.0
#define MIN_GROWTH 0.06
#define MIN_TURN   0.06

/* Frames between two looks at an object. */
#define LAG 4
/* Pixels farther than this from every colour count for none of them. */
#define MAX_DISTANCE 70

/* One object in each frame. */
typedef struct Track {
    double *x, *y, *area, *phase; /* [frames]; area < 1: not seen */
} Track;

static int nearest_colour(const uint8_t *p, int max_distance)
{
    int best = -1, best_d = max_distance * max_distance;

    for (int c = 0; c < N_COLOURS; c++) {
        int r = p[0] - palette[c][0], g = p[1] - palette[c][1];
        int b = p[2] - palette[c][2], d = r * r + g * g + b * b;

        if (d < best_d) {
            best_d = d;
            best   = c;
        }
    }
    return best;
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static double median(double *values, int n)
{
    if (!n)
        return 0;
    qsort(values, (size_t)n, sizeof(*values), compare_doubles);
    return n % 2 ? values[n / 2] : 0.5 * (values[n / 2 - 1] + values[n / 2]);
}

/* d brought to -period/2 .. period/2 */
static double wrap(double d, double period)
{
    return d - period * floor(d / period + 0.5);
}

/* How much of a pixel belongs to colour `own`, when the others it could be are
 * `background` and `other` (-1: none). Edge pixels are mixtures. */
static double coverage(const uint8_t *p, int own, int background, int other)
{
    double along = 0, length = 0, d_own = 0, d_other = 0;

    for (int i = 0; i < 3; i++) {
        double edge = palette[own][i] - palette[background][i];

        along  += (p[i] - palette[background][i]) * edge;
        length += edge * edge;
        d_own  += (p[i] - palette[own][i]) * (p[i] - palette[own][i]);
        if (other >= 0)
            d_other += (p[i] - palette[other][i]) * (p[i] - palette[other][i]);
    }
    if (other >= 0 && d_other < d_own)
        return 0;
    along /= length;
    return along < 0.25 ? 0 : along > 1 ? 1 : along;
}

/* The object's coverage of each pixel of a frame. */
static void cover_frame(double *cover, const ClipPixels *clip, int frame,
                        int own, int background, int other)
{
    const uint8_t *p = clip->rgb +
                       (size_t)frame * clip->height * clip->width * 3;

    for (int i = 0; i < clip->height * clip->width; i++)
        cover[i] = coverage(p + 3 * i, own, background, other);
}

static void find_centre(const ClipPixels *clip, const double *cover, double *x,
                        double *y, double *area)
{
    double cx = 0, sx = 0, cy = 0, sy = 0, sum = 0;

    for (int j = 0; j < clip->height; j++)
        for (int i = 0; i < clip->width; i++) {
            double a = cover[j * clip->width + i];
            double u = 2 * PI * (i + 0.5) / clip->width;
            double v = 2 * PI * (j + 0.5) / clip->height;

            if (!a)
                continue;
            sum += a;
            cx  += a * cos(u);
            sx  += a * sin(u);
            cy  += a * cos(v);
            sy  += a * sin(v);
        }
    *area = sum;
    *x = fmod(atan2(sx, cx) / (2 * PI) + 1, 1) * clip->width;
    *y = fmod(atan2(sy, cy) / (2 * PI) + 1, 1) * clip->height;
}

/* Overlap of a frame's object with a template: sum of minima over sum of
 * maxima. */
static double overlap(const ClipPixels *clip, const double *cover, double x,
                      double y, int shape, double r, double angle)
{
    double both = 0, any = 0;

    for (int j = 0; j < clip->height; j++)
        for (int i = 0; i < clip->width; i++) {
            double dx = wrap(i + 0.5 - x, clip->width);
            double dy = wrap(j + 0.5 - y, clip->height);
            double a = cover[j * clip->width + i], b = 0;

            if (fabs(dx) < r + 2 && fabs(dy) < r + 2)
                b = shape_cover(shape, dx, dy, r, angle);
            both += fmin(a, b);
            any  += fmax(a, b);
        }
    return any > 0 ? both / any : 0;
}

static double best_overlap(const ClipPixels *clip, const double *cover,
                           double x, double y, double area, int shape)
{
    int order = shape_symmetry(shape), angles = order ? 8 : 1;
    double r = sqrt(area / shape_area(shape)), best = 0;

    for (int i = 0; i < angles; i++)
        best = fmax(best, overlap(clip, cover, x, y, shape, r, order
                                  ? 2 * PI / order * i / angles : 0));
    return best;
}

/* Phase of the angular moment that a shape of this symmetry has, in turns of
 * the shape. */
static double angular_phase(const ClipPixels *clip, const double *cover,
                            double x, double y, int order)
{
    double re = 0, im = 0;

    for (int j = 0; j < clip->height; j++)
        for (int i = 0; i < clip->width; i++) {
            double a = cover[j * clip->width + i];
            double dx = wrap(i + 0.5 - x, clip->width);
            double dy = wrap(j + 0.5 - y, clip->height);
            double r = hypot(dx, dy), angle = atan2(dy, dx);

            if (!a)
                continue;
            re += a * pow(r, order) * cos(order * angle);
            im += a * pow(r, order) * sin(order * angle);
        }
    return atan2(im, re) / (2 * PI) / order;
}

static int vote_shape(const ClipPixels *clip, double *cover,
                      const Track *track, ObjectSeen *o, int background,
                      int other)
{
    int votes[N_SHAPES] = { 0 }, looks = 0, best = 0;
    double matches[64];

    for (int k = 0; k < 12; k++) {
        int frame = (2 * k + 1) * clip->frames / 24, winner = 0;
        double top = -1;

        if (track->area[frame] < 60)
            continue; /* too small to tell */
        cover_frame(cover, clip, frame, o->colour, background, other);
        for (int shape = 0; shape < N_SHAPES; shape++) {
            double match = best_overlap(clip, cover, track->x[frame],
                                        track->y[frame], track->area[frame],
                                        shape);

            if (match > top) {
                top    = match;
                winner = shape;
            }
        }
        votes[winner]++;
        matches[looks++] = top;
    }
    for (int shape = 1; shape < N_SHAPES; shape++)
        if (votes[shape] > votes[best])
            best = shape;
    o->match = median(matches, looks);
    return looks ? best : -1;
}

static int decide_motion(const ObjectSeen *o)
{
    if (hypot(o->vx, o->vy) > MIN_SPEED)
        return fabs(o->vx) > fabs(o->vy) ? (o->vx < 0 ? LEFT : RIGHT)
                                         : (o->vy < 0 ? UP : DOWN);
    if (fabs(o->growth) > MIN_GROWTH)
        return o->growth > 0 ? GROWING : SHRINKING;
    if (fabs(o->turn) > MIN_TURN)
        return ROTATING;
    return STILL;
}

static void measure_motion(const ClipPixels *clip, const Track *t,
                           ObjectSeen *o, double *scratch)
{
    int order = o->shape >= 0 ? shape_symmetry(o->shape) : 0;
    int n = clip->frames - LAG, k;
    double per_second = clip->rate / LAG;

    k = 0;
    for (int i = 0; i < n; i++)
        if (t->area[i] >= 1 && t->area[i + LAG] >= 1)
            scratch[k++] = wrap(t->x[i + LAG] - t->x[i], clip->width);
    o->vx = median(scratch, k) * per_second;
    k = 0;
    for (int i = 0; i < n; i++)
        if (t->area[i] >= 1 && t->area[i + LAG] >= 1)
            scratch[k++] = wrap(t->y[i + LAG] - t->y[i], clip->height);
    o->vy = median(scratch, k) * per_second;
    k = 0;
    for (int i = 0; i < n; i++)
        if (t->area[i] >= 1 && t->area[i + LAG] >= 1)
            scratch[k++] = 0.5 * log(t->area[i + LAG] / t->area[i]);
    o->growth = median(scratch, k) * per_second;
    k = 0;
    for (int i = 0; order && i < n; i++)
        if (t->area[i] >= 1 && t->area[i + LAG] >= 1)
            scratch[k++] = wrap(t->phase[i + LAG] - t->phase[i], 1.0 / order);
    o->turn = median(scratch, k) * per_second;
    for (k = 0; k < clip->frames; k++)
        scratch[k] = o->shape < 0 ? 0
                   : sqrt(t->area[k] / shape_area(o->shape));
    o->radius = median(scratch, clip->frames);
    o->motion = o->shape < 0 ? -1 : decide_motion(o);
}

static void measure_object(const ClipPixels *clip, ObjectSeen *o,
                           int background, int other, Track *t, double *cover,
                           double *scratch)
{
    int order;

    for (int f = 0; f < clip->frames; f++) {
        cover_frame(cover, clip, f, o->colour, background, other);
        find_centre(clip, cover, &t->x[f], &t->y[f], &t->area[f]);
    }
    o->shape = vote_shape(clip, cover, t, o, background, other);
    order = o->shape >= 0 ? shape_symmetry(o->shape) : 0;
    for (int f = 0; order && f < clip->frames; f++) {
        cover_frame(cover, clip, f, o->colour, background, other);
        t->phase[f] = angular_phase(clip, cover, t->x[f], t->y[f], order);
    }
    measure_motion(clip, t, o, scratch);
}

/* The background and the colours that cover most of the rest. */
static void find_colours(ClipSeen *seen, const ClipPixels *clip)
{
    size_t n = (size_t)clip->frames * clip->height * clip->width;
    int64_t count[N_COLOURS] = { 0 };

    for (size_t i = 0; i < n; i++) {
        int c = nearest_colour(clip->rgb + 3 * i, MAX_DISTANCE);

        if (c >= 0)
            count[c]++;
    }
    for (int k = -1; k < seen->n_objects; k++) {
        int best = 0;

        for (int c = 1; c < N_COLOURS; c++)
            if (count[c] > count[best])
                best = c;
        if (k < 0)
            seen->background = best;
        else
            seen->object[k].colour = best;
        count[best] = -1;
    }
}

int measure_clip(ClipSeen *seen, const ClipPixels *clip, int n_objects)
{
    size_t frames = (size_t)clip->frames;
    double *cover = malloc((size_t)clip->height * clip->width *
                           sizeof(*cover));
    double *rows = malloc(5 * frames * sizeof(*rows));
    Track track;

    if (!cover || !rows) {
        free(cover);
        free(rows);
        return -1;
    }
    track = (Track){ .x = rows, .y = rows + frames, .area = rows + 2 * frames,
                     .phase = rows + 3 * frames };
    memset(seen, 0, sizeof(*seen));
    seen->n_objects = n_objects;
    find_colours(seen, clip);
    for (int k = 0; k < n_objects; k++)
        measure_object(clip, &seen->object[k], seen->background,
                       n_objects > 1 ? seen->object[1 - k].colour : -1, &track,
                       cover, rows + 4 * frames);
    free(cover);
    free(rows);
    return 0;
}
