/*
 * The shapes of the sample model's world, as signed distances.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * Same definitions as distance() in samples/train/data.py.
 */
#include <math.h>
#include <string.h>

#include "measure.h"

enum { CIRCLE, SQUARE, TRIANGLE, STAR, CROSS, RING };

const char *const shape_names[N_SHAPES] = {
    "circle", "square", "triangle", "star", "cross", "ring"
};

int find_name(const char *const *names, int n, const char *name)
{
    for (int i = 0; i < n; i++)
        if (!strcmp(names[i], name))
            return i;
    return -1;
}

static double star_distance(double x, double y, double r)
{
    const double kx = 0.809016994, ky = -0.587785252;
    double a = fabs(x), b = -y, bax, bay, d, h, side;

    /* fold the plane onto one tenth, then one edge */
    d = 2 * fmax(kx * a + ky * b, 0);
    a -= d * kx;
    b -= d * ky;
    d = 2 * fmax(-kx * a + ky * b, 0);
    a += d * kx;
    b -= d * ky;
    a   = fabs(a);
    b   = b - r;
    bax = 0.45 * -ky * r;
    bay = 0.45 * kx * r - r;
    h   = fmin(fmax((a * bax + b * bay) / (bax * bax + bay * bay), 0), 1);
    side = b * bax - a * bay;
    return hypot(a - bax * h, b - bay * h) * (side > 0 ? 1 : -1);
}

static double distance(int shape, double x, double y, double r)
{
    double arm;

    switch (shape) {
    case CIRCLE:
        return hypot(x, y) - r;
    case RING:
        return fabs(hypot(x, y) - 0.75 * r) - 0.25 * r;
    case SQUARE:
        return fmax(fabs(x), fabs(y)) - r * 0.70711;
    case TRIANGLE:
        return fmax(0.866025 * fabs(x) - 0.5 * y, y) - 0.5 * r;
    case CROSS:
        arm = r / 1.077033;
        return fmin(fmax(fabs(x) - arm, fabs(y) - 0.4 * arm),
                    fmax(fabs(x) - 0.4 * arm, fabs(y) - arm));
    }
    return star_distance(x, y, r);
}

double shape_cover(int shape, double x, double y, double r, double angle)
{
    double c = cos(angle), s = sin(angle);

    return fmin(fmax(0.5 - distance(shape, c * x + s * y, c * y - s * x, r),
                     0), 1);
}

double shape_area(int shape)
{
    /* Of the polygons and rings above; the star: 5 r sin(36 deg) 0.45 r. */
    static const double area[N_SHAPES] = {
        [CIRCLE] = 3.14159265, [SQUARE] = 2, [TRIANGLE] = 1.29903811,
        [STAR] = 1.32251681, [CROSS] = 2.20689639, [RING] = 2.35619449,
    };

    return area[shape];
}

int shape_symmetry(int shape)
{
    static const int order[N_SHAPES] = {
        [SQUARE] = 4, [TRIANGLE] = 3, [STAR] = 5, [CROSS] = 4,
    };

    return order[shape];
}
