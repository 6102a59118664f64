/*
 * Models of random weights run as others do: numbers stay of a sound size
 * through all layers, and are the same each time.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#include <math.h>
#include <stdint.h>

#include "causvid.h"
#include "../tap.h"

static char last_error[1024];

static void write_log(void *cookie, enum CausvidLogLevel level,
                      const char *format, va_list args)
{
    (void)cookie;
    if (level == CAUSVID_LOG_ERROR)
        vsnprintf(last_error, sizeof(last_error), format, args);
}

typedef struct Clip {
    int64_t frames;
    double mean, deviation; /* of bytes */
    double clipped;         /* share of bytes that are 0 or 255 */
    uint64_t hash;
} Clip;

static CausvidContext *open_model(const char *name,
                                  enum CausvidVariant variant)
{
    CausvidContext *cv = NULL;
    CausvidSettings settings;

    causvid_default_settings(&settings);
    settings.model   = name;
    settings.variant = variant;
    settings.device  = CAUSVID_DEVICE_CPU;
    settings.log     = write_log;
    causvid_open(&cv, &settings);
    return cv;
}

/* 0 when the whole clip was read. */
static int run(CausvidContext *cv, const char *prompt, Clip *result)
{
    CausvidInfo info;
    CausvidClip clip;
    CausvidPicture pic = { .format = CAUSVID_FORMAT_RGB24 };
    double n = 0, sum = 0, squares = 0, clipped = 0;
    size_t bytes;
    uint8_t *rgb;
    int err;

    memset(result, 0, sizeof(*result));
    result->hash = 0xcbf29ce484222325;
    causvid_get_info(cv, &info);
    bytes = (size_t)info.width * (size_t)info.height * 3;
    rgb   = malloc(bytes);
    if (!rgb)
        tap_bail("out of memory");
    pic.width     = info.width;
    pic.height    = info.height;
    pic.data[0]   = rgb;
    pic.stride[0] = 3 * info.width;
    causvid_default_clip(&clip);
    clip.prompt = prompt;
    err = causvid_start(cv, &clip);
    while (!err && !(err = causvid_read_frame(cv, &pic))) {
        for (size_t i = 0; i < bytes; i++) {
            sum     += rgb[i];
            squares += rgb[i] * rgb[i];
            clipped += rgb[i] == 0 || rgb[i] == 255;
            result->hash = (result->hash ^ rgb[i]) * 0x100000001b3;
        }
        n += (double)bytes;
        result->frames++;
    }
    free(rgb);
    result->mean      = sum / n;
    result->deviation = sqrt(squares / n - sum / n * sum / n);
    result->clipped   = clipped / n;
    return err == CAUSVID_EOF ? 0 : err;
}

static void test_variant(const char *name, enum CausvidVariant variant)
{
    CausvidContext *cv = open_model("random:tiny", variant);
    Clip first, again, other;

    if (!ok(cv != NULL, "%s opens", name))
        tap_bail("%s", last_error);
    ok(!run(cv, "a red circle moves right", &first) && first.frames == 33,
       "%s: 33 frames", name);
    ok(first.deviation > 5 && first.deviation < 100 && first.clipped < 0.2,
       "of a mean of %.1f and a deviation of %.1f, %.2f %% are clipped",
       first.mean, first.deviation, 100 * first.clipped);
    causvid_close(&cv);
    cv = open_model("random:tiny", variant);
    ok(cv && !run(cv, "a red circle moves right", &again) &&
       again.hash == first.hash, "again: the same bytes");
    ok(cv && !run(cv, "a blue square", &other) && other.hash != first.hash,
       "another prompt: others");
    causvid_close(&cv);
}

int main(void)
{
    test_variant("bidirectional", CAUSVID_VARIANT_AUTO);
    test_variant("causal", CAUSVID_VARIANT_CAUSAL);
    ok(!open_model("random:wan", CAUSVID_VARIANT_AUTO) &&
       strstr(last_error, "'random:wan'") &&
       strstr(last_error, "random:wan-14b"), "%s", last_error);
    return tap_done();
}
