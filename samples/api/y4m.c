/*
 * Example: the library without FFmpeg. Writes a clip to standard output as
 * YUV4MPEG2, which FFmpeg, mpv and encoders read.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 *     y4m PROMPT [MODEL] > clip.y4m
 *
 * How to build: README.md in this folder.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include <causvid.h>

static void print_log(void *cookie, enum CausvidLogLevel level,
                      const char *format, va_list args)
{
    (void)cookie;
    if (level > CAUSVID_LOG_INFO)
        return;
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
}

/* Size and rate are the model's own. */
static int write_clip(CausvidContext *cv, const char *prompt)
{
    CausvidInfo info;
    CausvidClip clip;
    CausvidPicture pic = { .format = CAUSVID_FORMAT_YUV420P };
    unsigned char *yuv;
    size_t luma;
    int ret;

    if ((ret = causvid_get_info(cv, &info)) < 0)
        return ret;
    luma = (size_t)info.width * (size_t)info.height;
    yuv = malloc(luma * 3 / 2);
    if (!yuv)
        return CAUSVID_ERR(ENOMEM);
    pic.width     = info.width;
    pic.height    = info.height;
    pic.data[0]   = yuv;
    pic.data[1]   = yuv + luma;
    pic.data[2]   = yuv + luma * 5 / 4;
    pic.stride[0] = info.width;
    pic.stride[1] = pic.stride[2] = info.width / 2;

    causvid_default_clip(&clip);
    clip.prompt = prompt;
    clip.seed   = 1;
    ret = causvid_start(cv, &clip);
    if (!ret)
        printf("YUV4MPEG2 W%d H%d F%d:%d Ip A1:1 C420mpeg2 "
               "XCOLORRANGE=LIMITED\n", info.width, info.height,
               info.rate_num, info.rate_den);
    while (!ret && !(ret = causvid_read_frame(cv, &pic))) {
        printf("FRAME\n");
        if (fwrite(yuv, 1, luma * 3 / 2, stdout) != luma * 3 / 2)
            ret = CAUSVID_ERR(EIO);
    }
    if (ret == CAUSVID_EOF)
        ret = fflush(stdout) ? CAUSVID_ERR(EIO) : 0;
    free(yuv);
    return ret;
}

int main(int argc, char **argv)
{
    CausvidSettings settings;
    CausvidContext *cv;
    int ret;

    if (argc < 2 || argc > 3) {
        fprintf(stderr, "usage: %s PROMPT [MODEL] > clip.y4m\n", argv[0]);
        return 2;
    }
    causvid_default_settings(&settings);
    settings.model = argv[2]; /* NULL: the sample model */
    settings.log   = print_log;
    ret = causvid_open(&cv, &settings);
    if (!ret)
        ret = write_clip(cv, argv[1]);
    causvid_close(&cv);
    if (ret < 0)
        fprintf(stderr, "%s: %s\n", argv[0], causvid_strerror(ret));
    return ret < 0;
}
