/*
 * The sample model as it is used when no model is named: clip, memory, bytes.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#include <stdint.h>
#include <sys/resource.h>

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

static long peak_kb(void)
{
    struct rusage usage;

    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_maxrss;
}

/* Sum of all bytes of `n` frames; -1 when a call fails. */
static int64_t run(CausvidContext *cv, const CausvidInfo *info, int64_t n,
                   int64_t *seen)
{
    size_t bytes = (size_t)info->width * info->height * 3;
    uint8_t *rgb = malloc(bytes);
    CausvidPicture pic = { .width = info->width, .height = info->height,
                           .format = CAUSVID_FORMAT_RGB24, .data = { rgb },
                           .stride = { 3 * info->width } };
    CausvidClip clip;
    int64_t sum = 0;
    int err;

    causvid_default_clip(&clip);
    clip.prompt = "a green triangle moves up on a white background";
    clip.frames = n;
    *seen = 0;
    err = causvid_start(cv, &clip);
    while (!err && !(err = causvid_read_frame(cv, &pic))) {
        for (size_t i = 0; i < bytes; i++)
            sum += rgb[i];
        ++*seen;
    }
    free(rgb);
    return err == CAUSVID_EOF ? sum : -1;
}

int main(void)
{
    CausvidContext *cv = NULL;
    CausvidSettings settings;
    CausvidInfo info;
    int64_t first, second, n, long_clip;
    long short_kb, long_kb;

    causvid_default_settings(&settings);
    settings.log = write_log;
    if (!ok(causvid_open(&cv, &settings) == 0, "the default model opens"))
        tap_bail("%s", last_error);
    causvid_get_info(cv, &info);
    ok(info.variant == CAUSVID_VARIANT_CAUSAL, "it is causal");
    first    = run(cv, &info, 0, &n);
    short_kb = peak_kb();
    is_int(n, 81);
    second = run(cv, &info, 0, &n);
    ok(first > 0 && first == second, "the same clip twice");
    /* white covers most of the picture, so most bytes are near 243 */
    ok((double)first / 81 / info.width / info.height / 3 > 190,
       "the background is white: mean %.0f",
       (double)first / 81 / info.width / info.height / 3);
    ok(short_kb < 1000000, "81 frames take %ld kB, less than 1 GB", short_kb);
    long_clip = run(cv, &info, 240, &n);
    long_kb   = peak_kb();
    ok(long_clip > 0 && n == 240 &&
       (double)long_kb <= 1.05 * (double)short_kb,
       "240 frames take %ld kB, no more than 81 do", long_kb);
    causvid_close(&cv);
    return tap_done();
}
