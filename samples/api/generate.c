/*
 * Example: generate video from text in a C program, with libavfilter and the
 * causvid source. Prints one line for each frame and writes PPM pictures.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 *     generate [-d SECONDS] [-s SEED] [-m MODEL] [-c FRAME:PROMPT] [-o PREFIX]
 *              PROMPT
 *
 * -c changes the prompt when the frame with this number has been read.
 * The graph is causvid -> format -> buffersink; there is no input. Options are
 * set with av_opt_set(), so a prompt needs no quoting at all.
 * How to build: README.md in this folder.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <libavfilter/avfilter.h>
#include <libavfilter/buffersink.h>
#include <libavutil/dict.h>
#include <libavutil/error.h>
#include <libavutil/frame.h>
#include <libavutil/log.h>
#include <libavutil/md5.h>
#include <libavutil/opt.h>

typedef struct Arguments {
    const char *prompt, *duration, *seed, *model, *prefix;
    const char *next_prompt; /* from frame next_frame on, or NULL */
    long next_frame;
} Arguments;

static int set_option(AVFilterContext *ctx, const char *name, const char *value)
{
    return value ? av_opt_set(ctx, name, value, AV_OPT_SEARCH_CHILDREN) : 0;
}

/* Build causvid -> format=rgb24 -> buffersink. avfilter_graph_config() loads
 * the model and makes the first frames. */
static int open_graph(AVFilterGraph **out, AVFilterContext **out_sink,
                      const Arguments *args)
{
    const AVFilter *causvid = avfilter_get_by_name("causvid");
    AVFilterGraph *graph = avfilter_graph_alloc();
    AVFilterContext *source = NULL, *format = NULL, *sink = NULL;
    int ret = AVERROR(ENOMEM);

    if (!graph)
        goto fail;
    if (!causvid) {
        fprintf(stderr, "This FFmpeg was built without the causvid source\n");
        ret = AVERROR_FILTER_NOT_FOUND;
        goto fail;
    }
    source = avfilter_graph_alloc_filter(graph, causvid, "source");
    if (!source)
        goto fail;
    if ((ret = set_option(source, "prompt", args->prompt)) < 0 ||
        (ret = set_option(source, "duration", args->duration)) < 0 ||
        (ret = set_option(source, "seed", args->seed)) < 0 ||
        (ret = set_option(source, "model", args->model)) < 0 ||
        (ret = avfilter_init_str(source, NULL)) < 0)
        goto fail;
    ret = avfilter_graph_create_filter(&format, avfilter_get_by_name("format"),
                                       "format", "pix_fmts=rgb24", NULL, graph);
    if (ret < 0)
        goto fail;
    ret = avfilter_graph_create_filter(&sink,
                                       avfilter_get_by_name("buffersink"),
                                       "sink", NULL, NULL, graph);
    if (ret < 0)
        goto fail;
    if ((ret = avfilter_link(source, 0, format, 0)) < 0 ||
        (ret = avfilter_link(format, 0, sink, 0)) < 0 ||
        (ret = avfilter_graph_config(graph, NULL)) < 0)
        goto fail;
    *out = graph;
    *out_sink = sink;
    return 0;

fail:
    avfilter_graph_free(&graph);
    return ret;
}

static int write_ppm(const char *prefix, const AVFrame *frame)
{
    char name[1024];
    FILE *f;
    int failed = 0;

    if (snprintf(name, sizeof(name), "%s%05" PRId64 ".ppm", prefix,
                 frame->pts) >= (int)sizeof(name))
        return AVERROR(ENAMETOOLONG);
    f = fopen(name, "wb");
    if (!f) {
        int ret = AVERROR(errno);
        fprintf(stderr, "Cannot write '%s': %s\n", name, av_err2str(ret));
        return ret;
    }
    failed |= fprintf(f, "P6\n%d %d\n255\n", frame->width, frame->height) < 0;
    for (int y = 0; y < frame->height; y++)
        failed |= fwrite(frame->data[0] + (ptrdiff_t)y * frame->linesize[0], 3,
                         frame->width, f) != (size_t)frame->width;
    failed |= fclose(f) != 0;
    return failed ? AVERROR(EIO) : 0;
}

/* One line: pts, time, MD5 of the pixels, and the prompt that made them. */
static int print_frame(const AVFrame *frame, AVRational time_base)
{
    const AVDictionaryEntry *prompt =
        av_dict_get(frame->metadata, "lavfi.causvid.prompt", NULL, 0);
    struct AVMD5 *md5 = av_md5_alloc();
    uint8_t sum[16];

    if (!md5)
        return AVERROR(ENOMEM);
    av_md5_init(md5);
    for (int y = 0; y < frame->height; y++)
        av_md5_update(md5, frame->data[0] + (ptrdiff_t)y * frame->linesize[0],
                      (size_t)frame->width * 3);
    av_md5_final(md5, sum);
    av_free(md5);

    printf("%" PRId64 " %.4f ", frame->pts, frame->pts * av_q2d(time_base));
    for (int i = 0; i < 16; i++)
        printf("%02x", sum[i]);
    printf(" %s\n", prompt ? prompt->value : "");
    return 0;
}

static int generate(AVFilterGraph *graph, AVFilterContext *sink,
                    const Arguments *args)
{
    const AVRational time_base = av_buffersink_get_time_base(sink);
    AVFrame *frame = av_frame_alloc();
    int ret;

    if (!frame)
        return AVERROR(ENOMEM);
    while ((ret = av_buffersink_get_frame(sink, frame)) >= 0) {
        ret = print_frame(frame, time_base);
        if (ret >= 0 && args->prefix)
            ret = write_ppm(args->prefix, frame);
        if (ret >= 0 && args->next_prompt && frame->pts == args->next_frame)
            ret = avfilter_graph_send_command(graph, "causvid", "prompt",
                                              args->next_prompt, NULL, 0, 0);
        av_frame_unref(frame);
        if (ret < 0)
            break;
    }
    av_frame_free(&frame);
    return ret == AVERROR_EOF ? 0 : ret;
}

static int usage(const char *program)
{
    fprintf(stderr, "usage: %s [-d SECONDS] [-s SEED] [-m MODEL] "
            "[-c FRAME:PROMPT] [-o PREFIX] PROMPT\n", program);
    return 2;
}

int main(int argc, char **argv)
{
    Arguments args = { 0 };
    AVFilterGraph *graph = NULL;
    AVFilterContext *sink = NULL;
    char *end;
    int opt, ret;

    while ((opt = getopt(argc, argv, "d:s:m:c:o:")) != -1) {
        switch (opt) {
        case 'd': args.duration = optarg; break;
        case 's': args.seed     = optarg; break;
        case 'm': args.model    = optarg; break;
        case 'o': args.prefix   = optarg; break;
        case 'c':
            args.next_frame = strtol(optarg, &end, 10);
            if (end == optarg || *end != ':')
                return usage(argv[0]);
            args.next_prompt = end + 1;
            break;
        default:
            return usage(argv[0]);
        }
    }
    if (optind != argc - 1)
        return usage(argv[0]);
    args.prompt = argv[optind];

    ret = open_graph(&graph, &sink, &args);
    if (ret >= 0)
        ret = generate(graph, sink, &args);
    avfilter_graph_free(&graph);
    if (ret < 0) {
        fprintf(stderr, "%s: %s\n", argv[0], av_err2str(ret));
        return 1;
    }
    return 0;
}
