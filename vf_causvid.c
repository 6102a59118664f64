/*
 * This file is part of FFmpeg.
 *
 * FFmpeg is free software; you can redistribute it and/or
 * modify it under the terms of the GNU Lesser General Public
 * License as published by the Free Software Foundation; either
 * version 2.1 of the License, or (at your option) any later version.
 *
 * FFmpeg is distributed in the hope that it will be useful,
 * but WITHOUT ANY WARRANTY; without even the implied warranty of
 * MERCHANTABILITY or FITNESS FOR A PARTICULAR PURPOSE.  See the GNU
 * Lesser General Public License for more details.
 *
 * You should have received a copy of the GNU Lesser General Public
 * License along with FFmpeg; if not, write to the Free Software
 * Foundation, Inc., 51 Franklin Street, Fifth Floor, Boston, MA 02110-1301 USA
 */

/**
 * @file
 * Video source that generates video from text with libcausvid.
 *
 * One file for FFmpeg 7.1, 8.1 and 9.0. The filter knows options, formats,
 * timestamps and frames; all that concerns models is libcausvid's. The model
 * is loaded in config_props, not in init, because ffmpeg initialises the
 * filters of a -filter_complex twice. libcausvid generates ahead in a thread
 * of its own: activate only waits for the next frame and has it written into
 * the buffer that goes down the graph. For output in GPU memory that buffer is
 * of FFmpeg's CUDA pool, and the library draws on the device's own stream: what
 * the next filters do there comes after it without anybody waiting.
 */

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <causvid.h>

#include "config.h"

#include "libavutil/avstring.h"
#include "libavutil/bprint.h"
#include "libavutil/dict.h"
#include "libavutil/error.h"
#include "libavutil/file_open.h"
#include "libavutil/hwcontext.h"
#if CONFIG_CUDA
#include "libavutil/hwcontext_cuda_internal.h"
#endif
#include "libavutil/mathematics.h"
#include "libavutil/mem.h"
#include "libavutil/opt.h"
#include "libavutil/parseutils.h"
#include "libavutil/pixdesc.h"
#include "libavutil/random_seed.h"

#include "avfilter.h"
#include "filters.h"
#include "formats.h"
#include "video.h"

#if LIBAVFILTER_VERSION_MAJOR >= 11
#define CV_FILTER     FFFilter
#define CV_PUB(field) .p.field
#else
#define CV_FILTER     AVFilter
#define CV_PUB(field) .field
#endif

#define WHITESPACE " \t\r\n\f\v"

/** A longer prompt file is certainly not one. */
#define PROMPTFILE_MAX_BYTES (1 << 24)

/** What memory frames are made in. */
enum Output {
    OUTPUT_AUTO,     ///< as the next filter takes them, software first
    OUTPUT_SOFTWARE,
    OUTPUT_CUDA,
};

typedef struct CausvidSourceContext {
    const AVClass *class;

    /* options */
    char *prompt, *promptfile, *negative_prompt;
    char *model, *text_encoder, *vae, *tokenizer, *checkpoint_key;
    char *lora, *cache;
    int variant;
    int w, h;              ///< 0, 0: the recipe's
    char *rate;            ///< NULL: the recipe's
    int64_t duration;      ///< of a clip in us; 0: the recipe's, < 0: endless
    int64_t seed;          ///< of the first clip; -1: draw one
    int steps;
    float *timesteps;      ///< array option: must be followed by its count
    unsigned nb_timesteps;
    float shift, guidance;
    int sampler, precision, device, threads;
    int gpu;               ///< -1: the graph's device, or 0
    int64_t vram;          ///< bytes; 0: what is free
    int output;
    enum AVPixelFormat pix_fmt; ///< NONE: as negotiated, or nv12 for CUDA

    /* state */
    CausvidContext *cv;
    char **prompts;        ///< one for each clip
    int nb_prompts;
    int clip;              ///< index of the clip that is being read
    int64_t clip_frames;   ///< for CausvidClip.frames
    AVRational frame_rate; ///< 0/1: the recipe's, until config_props
    const struct Format *format; ///< of the frames, or of what is in them
    int cuda;              ///< they are in GPU memory
    AVBufferRef *device_ref; ///< CUDA; NULL: the library opens one itself
    int64_t pts;           ///< of the next frame; goes on from clip to clip
    AVFrame *first;        ///< frame 0, between config_props and activate
} CausvidSourceContext;

/** cuda: the CUDA frames of all supported releases can hold it. */
static const struct Format {
    enum AVPixelFormat av;
    enum CausvidFormat cv;
    int cuda, rgb;
    enum AVChromaLocation chroma;
} format_map[] = {
    { AV_PIX_FMT_YUV420P,     CAUSVID_FORMAT_YUV420P,   1, 0, AVCHROMA_LOC_LEFT },
    { AV_PIX_FMT_NV12,        CAUSVID_FORMAT_NV12,      1, 0, AVCHROMA_LOC_LEFT },
    { AV_PIX_FMT_YUV444P,     CAUSVID_FORMAT_YUV444P,   1, 0 },
    { AV_PIX_FMT_YUV420P10LE, CAUSVID_FORMAT_YUV420P10, 0, 0, AVCHROMA_LOC_LEFT },
    { AV_PIX_FMT_P010LE,      CAUSVID_FORMAT_P010,      1, 0, AVCHROMA_LOC_LEFT },
    { AV_PIX_FMT_GBRP,        CAUSVID_FORMAT_GBRP,      0, 1 },
    { AV_PIX_FMT_RGB24,       CAUSVID_FORMAT_RGB24,     0, 1 },
    { AV_PIX_FMT_RGB0,        CAUSVID_FORMAT_RGB0,      1, 1 },
    { AV_PIX_FMT_BGR0,        CAUSVID_FORMAT_BGR0,      1, 1 },
};

static const struct Format *find_format(enum AVPixelFormat pix_fmt)
{
    for (int i = 0; i < FF_ARRAY_ELEMS(format_map); i++)
        if (format_map[i].av == pix_fmt)
            return &format_map[i];
    return NULL;
}

/** What CUDA frames hold; NULL when the option asks for what they cannot. */
static const struct Format *find_cuda_format(const CausvidSourceContext *s)
{
    const struct Format *f = find_format(s->pix_fmt == AV_PIX_FMT_NONE ?
                                         AV_PIX_FMT_NV12 : s->pix_fmt);

    return f && f->cuda ? f : NULL;
}

/** Pass a line of the library on, with the filter as its context. */
static void log_line(void *cookie, enum CausvidLogLevel level,
                     const char *format, va_list args)
{
    static const int av_level[] = {
        [CAUSVID_LOG_ERROR]   = AV_LOG_ERROR,
        [CAUSVID_LOG_WARNING] = AV_LOG_WARNING,
        [CAUSVID_LOG_INFO]    = AV_LOG_INFO,
        [CAUSVID_LOG_VERBOSE] = AV_LOG_VERBOSE,
        [CAUSVID_LOG_TRACE]   = AV_LOG_TRACE,
    };
    AVBPrint line;

    if ((unsigned)level >= FF_ARRAY_ELEMS(av_level))
        level = CAUSVID_LOG_TRACE;
    if (av_level[level] > av_log_get_level())
        return;
    av_bprint_init(&line, 0, AV_BPRINT_SIZE_UNLIMITED);
    av_vbprintf(&line, format, args);
    av_log(cookie, av_level[level], "%s\n", line.str);
    av_bprint_finalize(&line, NULL);
}

/**
 * Error codes of the library are AVERROR's, but two of them have a name of
 * FFmpeg's own that tells more. The library has logged the reason.
 */
static int av_error(int ret)
{
    switch (ret) {
    case CAUSVID_ERR(EILSEQ):    return AVERROR_INVALIDDATA;
    case CAUSVID_ERR(ECANCELED): return AVERROR_EXIT;
    default:                     return ret;
    }
}

/** Refuse a text that is blank or not UTF-8. where says what text it is. */
static int check_text(AVFilterContext *ctx, const char *where, const char *text)
{
    const uint8_t *start = (const uint8_t *)text;
    const uint8_t *p = start, *end = start + strlen(text);

    if (!text[strspn(text, WHITESPACE)]) {
        av_log(ctx, AV_LOG_ERROR,
               "%s is empty: describe what the video should show\n", where);
        return AVERROR(EINVAL);
    }
    while (p < end) {
        const uint8_t *code_start = p;
        int32_t code;

        if (av_utf8_decode(&code, &p, end,
                           AV_UTF8_FLAG_ACCEPT_NON_CHARACTERS) < 0) {
            av_log(ctx, AV_LOG_ERROR, "%s is not valid UTF-8: byte 0x%02x at "
                   "position %d; convert it to UTF-8\n", where, *code_start,
                   (int)(code_start - start) + 1);
            return AVERROR(EINVAL);
        }
    }
    return 0;
}

static int add_prompt(CausvidSourceContext *s, const char *text, size_t len)
{
    char *copy = av_strndup(text, len);
    int ret;

    if (!copy)
        return AVERROR(ENOMEM);
    ret = av_dynarray_add_nofree(&s->prompts, &s->nb_prompts, copy);
    if (ret < 0)
        av_free(copy);
    return ret;
}

static int read_promptfile(AVFilterContext *ctx, AVBPrint *text)
{
    CausvidSourceContext *s = ctx->priv;
    char buf[4096];
    size_t n;
    int failed;
    FILE *f = avpriv_fopen_utf8(s->promptfile, "rb");

    if (!f) {
        int ret = AVERROR(errno);
        av_log(ctx, AV_LOG_ERROR, "promptfile '%s' cannot be opened: %s\n",
               s->promptfile, av_err2str(ret));
        return ret;
    }
    while (text->len <= PROMPTFILE_MAX_BYTES &&
           (n = fread(buf, 1, sizeof(buf), f)) > 0)
        av_bprint_append_data(text, buf, n);
    failed = ferror(f);
    fclose(f);
    if (failed) {
        av_log(ctx, AV_LOG_ERROR, "promptfile '%s' cannot be read: a text "
               "file with one prompt per line was expected\n", s->promptfile);
        return AVERROR(EIO);
    }
    if (text->len > PROMPTFILE_MAX_BYTES) {
        av_log(ctx, AV_LOG_ERROR, "promptfile '%s' is larger than %d MiB: a "
               "text file with one prompt per line was expected\n",
               s->promptfile, PROMPTFILE_MAX_BYTES >> 20);
        return AVERROR(EINVAL);
    }
    if (!av_bprint_is_complete(text))
        return AVERROR(ENOMEM);
    return 0;
}

/** Take the prompt of a line, unless it is blank or a comment. */
static int add_line(AVFilterContext *ctx, const char *line, size_t len,
                    int number)
{
    CausvidSourceContext *s = ctx->priv;
    AVBPrint where;
    int ret;

    if (memchr(line, 0, len)) {
        av_log(ctx, AV_LOG_ERROR, "promptfile '%s', line %d holds a zero "
               "byte: a text file in UTF-8 was expected\n",
               s->promptfile, number);
        return AVERROR(EINVAL);
    }
    if (len && *line == '#')
        return 0;
    for (; len && strchr(WHITESPACE, *line); len--)
        line++;
    while (len && strchr(WHITESPACE, line[len - 1]))
        len--;
    if (!len)
        return 0;
    ret = add_prompt(s, line, len);
    if (ret < 0)
        return ret;
    av_bprint_init(&where, 0, AV_BPRINT_SIZE_UNLIMITED);
    av_bprintf(&where, "promptfile '%s', line %d", s->promptfile, number);
    ret = check_text(ctx, where.str, s->prompts[s->nb_prompts - 1]);
    av_bprint_finalize(&where, NULL);
    return ret;
}

/** All lines are checked now: an error in the middle of the output would be
 * too late. */
static int parse_promptfile(AVFilterContext *ctx)
{
    CausvidSourceContext *s = ctx->priv;
    AVBPrint text;
    const char *line, *end;
    size_t len;
    int ret;

    av_bprint_init(&text, 0, AV_BPRINT_SIZE_UNLIMITED);
    ret = read_promptfile(ctx, &text);
    line = text.str;
    end  = text.str + text.len;
    if (ret >= 0 && !strncmp(line, "\xef\xbb\xbf", 3)) /* byte order mark */
        line += 3;
    for (int number = 1; ret >= 0 && line < end; number++, line += len + 1) {
        const char *newline = memchr(line, '\n', end - line);

        len = (newline ? newline : end) - line;
        ret = add_line(ctx, line, len, number);
    }
    av_bprint_finalize(&text, NULL);
    if (ret >= 0 && !s->nb_prompts) {
        av_log(ctx, AV_LOG_ERROR, "promptfile '%s' holds no prompt: one "
               "prompt per line was expected, blank lines and lines that "
               "start with # do not count\n", s->promptfile);
        ret = AVERROR(EINVAL);
    }
    return ret;
}

/** Refuse an option format or output that cannot be. */
static int check_output(AVFilterContext *ctx)
{
    CausvidSourceContext *s = ctx->priv;
    const int cuda = s->output == OUTPUT_CUDA;
    AVBPrint names;

    if (cuda && !CONFIG_CUDA) {
        av_log(ctx, AV_LOG_ERROR, "output=cuda: this FFmpeg was built without "
               "CUDA; build it with nv-codec-headers, or use "
               "output=software\n");
        return AVERROR(ENOSYS);
    }
    if (cuda && s->device == CAUSVID_DEVICE_CPU) {
        av_log(ctx, AV_LOG_ERROR, "output=cuda needs a GPU to make the frames "
               "on, but device=cpu was given: use device=auto, or "
               "output=software and the filter hwupload_cuda\n");
        return AVERROR(EINVAL);
    }
    if (s->pix_fmt == AV_PIX_FMT_NONE ||
        (cuda ? find_cuda_format(s) : find_format(s->pix_fmt)))
        return 0;

    av_bprint_init(&names, 0, AV_BPRINT_SIZE_AUTOMATIC);
    for (int i = 0; i < FF_ARRAY_ELEMS(format_map); i++)
        if (!cuda || format_map[i].cuda)
            av_bprintf(&names, "%s%s", names.len ? ", " : "",
                       av_get_pix_fmt_name(format_map[i].av));
    av_log(ctx, AV_LOG_ERROR, "format=%s: frames%s can have the formats %s\n",
           av_get_pix_fmt_name(s->pix_fmt), cuda ? " in GPU memory" : "",
           names.str);
    return AVERROR(EINVAL);
}

static av_cold int init(AVFilterContext *ctx)
{
    CausvidSourceContext *s = ctx->priv;
    int ret;

    if (!s->prompt == !s->promptfile) {
        av_log(ctx, AV_LOG_ERROR, "%s: write causvid=prompt='what to show' or "
               "causvid=promptfile=FILE%s\n", s->prompt ?
               "prompt and promptfile are both given" : "There is no prompt",
               /* the second of two nameless values, as a colon makes them */
               s->prompt ? ", and \\: for a colon in a prompt" : "");
        return AVERROR(EINVAL);
    }
    if (s->prompt && (ret = check_text(ctx, "prompt", s->prompt)) < 0)
        return ret;
    /* An empty negative prompt is a valid one. */
    if (s->negative_prompt && *s->negative_prompt &&
        (ret = check_text(ctx, "negative_prompt", s->negative_prompt)) < 0)
        return ret;
    if (s->rate && av_parse_video_rate(&s->frame_rate, s->rate) < 0) {
        av_log(ctx, AV_LOG_ERROR, "rate '%s' is not a frame rate: frames per "
               "second such as 16, 24000/1001 or ntsc were expected\n",
               s->rate);
        return AVERROR(EINVAL);
    }
    if (s->duration < 0 && s->duration != -AV_TIME_BASE) {
        av_log(ctx, AV_LOG_ERROR, "duration=%g is negative: a time was "
               "expected, or -1 for a clip without an end\n",
               s->duration / (double)AV_TIME_BASE);
        return AVERROR(EINVAL);
    }
    return check_output(ctx);
}

static av_cold void uninit(AVFilterContext *ctx)
{
    CausvidSourceContext *s = ctx->priv;

    causvid_close(&s->cv); /* before the device that it runs on */
    av_frame_free(&s->first);
    av_buffer_unref(&s->device_ref);
    for (int i = 0; i < s->nb_prompts; i++)
        av_freep(&s->prompts[i]);
    av_freep(&s->prompts);
    s->nb_prompts = 0;
}

static int query_formats(const AVFilterContext *ctx,
                         AVFilterFormatsConfig **cfg_in,
                         AVFilterFormatsConfig **cfg_out)
{
    static const int bt709[] = { AVCOL_SPC_BT709, -1 };
    static const int rgb[]   = { AVCOL_SPC_RGB, -1 };
    static const int ranges[] = { AVCOL_RANGE_MPEG, AVCOL_RANGE_JPEG, -1 };
    const CausvidSourceContext *s = ctx->priv;
    const struct Format *chosen = find_format(s->pix_fmt);
    const int only_rgb = s->output == OUTPUT_CUDA && chosen && chosen->rgb;
    int formats[FF_ARRAY_ELEMS(format_map) + 2], n = 0;
    int ret;

    for (int i = 0; i < FF_ARRAY_ELEMS(format_map); i++)
        if (s->output != OUTPUT_CUDA && (!chosen || chosen == &format_map[i]))
            formats[n++] = format_map[i].av;
    /* The last one: who takes anything gets software frames. */
    if (CONFIG_CUDA && s->output != OUTPUT_SOFTWARE &&
        s->device != CAUSVID_DEVICE_CPU && find_cuda_format(s))
        formats[n++] = AV_PIX_FMT_CUDA;
    formats[n] = -1;

    /* Among software frames RGB formats get the RGB colour space and full
     * range by themselves: to offer these would bind the YUV that a filter
     * makes of them. CUDA counts as YUV whatever it holds. */
    ret = ff_set_common_color_spaces_from_list2(ctx, cfg_in, cfg_out,
                                                only_rgb ? rgb : bt709);
    if (ret < 0)
        return ret;
    ret = ff_set_common_color_ranges_from_list2(ctx, cfg_in, cfg_out,
                                                ranges + only_rgb);
    if (ret < 0)
        return ret;
    return ff_set_common_formats_from_list2(ctx, cfg_in, cfg_out, formats);
}

/**
 * The number of frames whose timestamps lie below duration: the same count
 * that FFmpeg's other sources give.
 */
static int count_frames(AVFilterContext *ctx, AVRational frame_rate)
{
    CausvidSourceContext *s = ctx->priv;
    const AVRational time_base = av_inv_q(frame_rate);
    int64_t n;

    if (s->duration <= 0) {
        s->clip_frames = s->duration ? -1 : 0;
        return 0;
    }
    n = av_rescale_q_rnd(s->duration, AV_TIME_BASE_Q, time_base, AV_ROUND_UP);
    if (n <= 0) {
        av_log(ctx, AV_LOG_ERROR, "duration of %"PRId64" s is too long; use "
               "duration=-1 for a clip without an end\n",
               s->duration / AV_TIME_BASE);
        return AVERROR(EINVAL);
    }
    if (n > 1 &&
        av_rescale_q(n - 1, time_base, AV_TIME_BASE_Q) >= s->duration)
        n--;
    s->clip_frames = n;
    return 0;
}

static void describe_clip(CausvidSourceContext *s, CausvidClip *clip)
{
    causvid_default_clip(clip);
    clip->prompt          = s->prompts[s->clip];
    clip->negative_prompt = s->negative_prompt;
    clip->width           = s->w;
    clip->height          = s->h;
    clip->frames          = s->clip_frames;
    clip->rate_num        = s->frame_rate.num;
    clip->rate_den        = s->frame_rate.den;
    clip->seed            = s->seed + s->clip;
    clip->steps           = s->steps;
    clip->timesteps       = s->nb_timesteps ? s->timesteps : NULL;
    clip->n_timesteps     = s->nb_timesteps;
    clip->shift           = s->shift;
    clip->guidance        = s->guidance;
    clip->sampler         = s->sampler;
}

static int start_clip(CausvidSourceContext *s)
{
    CausvidClip clip;

    describe_clip(s, &clip);
    return av_error(causvid_start(s->cv, &clip));
}

#if CONFIG_CUDA
/** May the model run on the device that was given to the graph? */
static int usable_device(AVFilterContext *ctx)
{
    CausvidSourceContext *s = ctx->priv;
    AVHWDeviceContext *device;
    AVCUDADeviceContext *hwctx;

    if (!ctx->hw_device_ctx || s->device == CAUSVID_DEVICE_CPU)
        return 0;
    device = (AVHWDeviceContext *)ctx->hw_device_ctx->data;
    if (device->type != AV_HWDEVICE_TYPE_CUDA) {
        av_log(ctx, AV_LOG_VERBOSE, "The given device is of type %s and not "
               "used\n", av_hwdevice_get_type_name(device->type));
        return 0;
    }
    /* Of a context that FFmpeg has not made itself the GPU is not known. */
    hwctx = device->hwctx;
    if (s->gpu >= 0 && hwctx->internal->is_allocated &&
        hwctx->internal->cuda_device != s->gpu) {
        av_log(ctx, AV_LOG_VERBOSE, "The given CUDA device is GPU %d and not "
               "used because of gpu=%d\n", hwctx->internal->cuda_device,
               s->gpu);
        return 0;
    }
    return 1;
}

/**
 * Find the CUDA device to run on. For frames in its memory there must be one
 * before the library opens it: FFmpeg wants to set the flags of the primary
 * context itself.
 */
static int find_device(AVFilterContext *ctx)
{
    CausvidSourceContext *s = ctx->priv;
    char gpu[16];
    int ret;

    if (usable_device(ctx)) {
        s->device_ref = av_buffer_ref(ctx->hw_device_ctx);
        return s->device_ref ? 0 : AVERROR(ENOMEM);
    }
    if (!s->cuda)
        return 0;
    snprintf(gpu, sizeof(gpu), "%d", FFMAX(s->gpu, 0));
    ret = av_hwdevice_ctx_create(&s->device_ref, AV_HWDEVICE_TYPE_CUDA, gpu,
                                 NULL, AV_CUDA_USE_PRIMARY_CONTEXT);
    /* Who else uses the primary context has set other flags. */
    if (ret == AVERROR(ENOTSUP))
        ret = av_hwdevice_ctx_create(&s->device_ref, AV_HWDEVICE_TYPE_CUDA,
                                     gpu, NULL, 0);
    if (ret >= 0 || ret == AVERROR(ENOMEM))
        return ret;
    av_log(ctx, AV_LOG_ERROR, "GPU %s cannot be opened for frames in its "
           "memory, see the lines above; output=software needs no GPU\n", gpu);
    return AVERROR(ENODEV);
}

static int make_frames_context(AVFilterLink *outlink)
{
    CausvidSourceContext *s = outlink->src->priv;
    FilterLink *l = ff_filter_link(outlink);
    AVHWFramesContext *frames;

    av_buffer_unref(&l->hw_frames_ctx);
    l->hw_frames_ctx = av_hwframe_ctx_alloc(s->device_ref);
    if (!l->hw_frames_ctx)
        return AVERROR(ENOMEM);
    frames            = (AVHWFramesContext *)l->hw_frames_ctx->data;
    frames->format    = AV_PIX_FMT_CUDA;
    frames->sw_format = s->format->av;
    frames->width     = outlink->w;
    frames->height    = outlink->h;
    return av_hwframe_ctx_init(l->hw_frames_ctx);
}
#else
static int find_device(AVFilterContext *ctx)
{
    return 0;
}

static int make_frames_context(AVFilterLink *outlink)
{
    return AVERROR(ENOSYS);
}
#endif

static int open_model(AVFilterContext *ctx)
{
    CausvidSourceContext *s = ctx->priv;
    CausvidSettings settings;
    CausvidClip clip;
    int ret;

    /* What memory the first clip takes. The model's rate is known only later;
     * Wan's is meant. */
    ret = count_frames(ctx, s->frame_rate.num ? s->frame_rate
                                              : (AVRational){ 16, 1 });
    if (ret < 0)
        return ret;
    describe_clip(s, &clip);
    causvid_default_settings(&settings);
    settings.clip         = &clip;
    settings.model        = s->model;
    settings.text_encoder = s->text_encoder;
    settings.vae          = s->vae;
    settings.tokenizer    = s->tokenizer;
    settings.checkpoint_key = s->checkpoint_key;
    settings.lora         = s->lora;
    settings.cache        = s->cache;
    settings.variant      = s->variant;
    settings.precision    = s->precision;
    /* Frames in GPU memory cannot come from the CPU. */
    settings.device       = s->cuda ? CAUSVID_DEVICE_CUDA : s->device;
    settings.gpu          = FFMAX(s->gpu, 0);
    settings.vram_bytes   = s->vram;
    settings.threads      = s->threads;
    settings.log          = log_line;
    settings.cookie       = ctx;
#if CONFIG_CUDA
    if (s->device_ref) {
        AVHWDeviceContext *device = (AVHWDeviceContext *)s->device_ref->data;
        AVCUDADeviceContext *hwctx = device->hwctx;

        settings.cuda_context = hwctx->cuda_ctx;
        settings.cuda_stream  = hwctx->stream;
    }
#endif
    ret = av_error(causvid_open(&s->cv, &settings));
    if (ret < 0 && s->cuda && s->device != CAUSVID_DEVICE_CUDA)
        av_log(ctx, AV_LOG_INFO, "%s frames in GPU memory only, and these "
               "are made on a GPU\n", s->output == OUTPUT_CUDA ?
               "output=cuda gives" : "The next filter takes");
    return ret;
}

/**
 * Have the next frame written into frame's planes, going on with the next
 * prompt where a clip ends. Returns CAUSVID_EOF after the last clip.
 */
static int read_picture(CausvidSourceContext *s, AVFrame *frame,
                        CausvidPicture *pic)
{
    int ret;

    *pic = (CausvidPicture) {
        .width      = frame->width,
        .height     = frame->height,
        .format     = s->format->cv,
        .memory     = s->cuda ? CAUSVID_MEMORY_CUDA : CAUSVID_MEMORY_HOST,
        .full_range = frame->color_range == AVCOL_RANGE_JPEG,
    };
    for (int i = 0; i < FF_ARRAY_ELEMS(pic->data); i++) {
        pic->data[i]   = frame->data[i];
        pic->stride[i] = frame->linesize[i];
    }
    while ((ret = causvid_read_frame(s->cv, pic)) == CAUSVID_EOF) {
        if (s->clip + 1 >= s->nb_prompts)
            return CAUSVID_EOF;
        s->clip++;
        ret = start_clip(s);
        if (ret < 0)
            return ret;
    }
    return av_error(ret);
}

static int set_metadata(AVFrame *frame, const CausvidPicture *pic)
{
    AVDictionary **m = &frame->metadata;
    int ret;

    ret = av_dict_set(m, "lavfi.causvid.prompt", pic->prompt, 0);
    if (ret < 0)
        return ret;
    ret = av_dict_set_int(m, "lavfi.causvid.seed", pic->seed, 0);
    if (ret < 0)
        return ret;
    return av_dict_set_int(m, "lavfi.causvid.block", pic->block, 0);
}

/**
 * Make the next frame in a buffer of the output's format. Takes the buffer,
 * which may be NULL. Returns CAUSVID_EOF, with *out NULL, after the end.
 */
static int make_frame(AVFilterLink *outlink, AVFrame *frame, AVFrame **out)
{
    CausvidSourceContext *s = outlink->src->priv;
    CausvidPicture pic;
    int ret;

    *out = NULL;
    if (!frame)
        return AVERROR(ENOMEM);
    frame->colorspace          = outlink->colorspace;
    frame->color_range         = outlink->color_range;
    frame->color_primaries     = AVCOL_PRI_BT709;
    frame->color_trc           = AVCOL_TRC_BT709;
    frame->chroma_location     = s->format->chroma;
    frame->flags              |= AV_FRAME_FLAG_KEY;
    frame->pict_type           = AV_PICTURE_TYPE_I;
    frame->sample_aspect_ratio = outlink->sample_aspect_ratio;
    frame->duration            = 1;

    ret = read_picture(s, frame, &pic);
    if (!ret)
        ret = set_metadata(frame, &pic);
    if (ret) {
        av_frame_free(&frame);
        return ret;
    }
    frame->pts = s->pts++;
    *out = frame;
    return 0;
}

static int config_props(AVFilterLink *outlink)
{
    AVFilterContext *ctx = outlink->src;
    CausvidSourceContext *s = ctx->priv;
    FilterLink *l = ff_filter_link(outlink);
    CausvidInfo info = { 0 };
    AVFrame *frame;
    int ret;

    s->cuda   = outlink->format == AV_PIX_FMT_CUDA;
    s->format = s->cuda ? find_cuda_format(s) : find_format(outlink->format);
    if (s->format->rgb) { /* also where it was negotiated as YUV: see above */
        outlink->colorspace  = AVCOL_SPC_RGB;
        outlink->color_range = AVCOL_RANGE_JPEG;
    }

    uninit(ctx); /* in case that a graph is configured again */
    if (s->promptfile)
        ret = parse_promptfile(ctx);
    else
        ret = add_prompt(s, s->prompt, strlen(s->prompt));
    if (ret < 0)
        return ret;
    if (s->duration < 0 && s->nb_prompts > 1) {
        av_log(ctx, AV_LOG_ERROR, "duration=-1 makes the first clip endless, "
               "but promptfile '%s' holds %d prompts: give the duration of a "
               "clip, or one prompt\n", s->promptfile, s->nb_prompts);
        return AVERROR(EINVAL);
    }
    if (s->seed < 0)
        s->seed = av_get_random_seed();

    s->clip = 0;
    ret = find_device(ctx);
    if (ret < 0)
        return ret;
    ret = open_model(ctx);
    if (ret < 0)
        return ret;
    ret = av_error(causvid_get_info(s->cv, &info));
    if (ret < 0)
        return ret;
    if (!s->w) {
        s->w = info.width;
        s->h = info.height;
    }
    if (!s->frame_rate.num)
        s->frame_rate = (AVRational){ info.rate_num, info.rate_den };
    ret = count_frames(ctx, s->frame_rate);
    if (ret < 0)
        return ret;
    s->pts = 0;
    ret = start_clip(s);
    if (ret < 0)
        return ret;

    outlink->w                   = s->w;
    outlink->h                   = s->h;
    outlink->sample_aspect_ratio = (AVRational){ 1, 1 };
    outlink->time_base           = av_inv_q(s->frame_rate);
    l->frame_rate                = s->frame_rate;
    if (s->cuda && (ret = make_frames_context(outlink)) < 0)
        return ret;

    /* ffmpeg -f lavfi reports an error that comes with a frame but exits with
     * 0. So what keeps the model from making its first block must fail here.
     * The next filter is not configured yet and cannot give the buffer. */
    frame = ff_default_get_video_buffer(outlink, outlink->w, outlink->h);
    ret = make_frame(outlink, frame, &s->first);
    return ret == CAUSVID_EOF ? AVERROR_EXTERNAL : ret;
}

static int activate(AVFilterContext *ctx)
{
    AVFilterLink *outlink = ctx->outputs[0];
    CausvidSourceContext *s = ctx->priv;
    AVFrame *frame = s->first;
    int ret;

    if (!ff_outlink_frame_wanted(outlink))
        return FFERROR_NOT_READY;

    s->first = NULL;
    if (!frame) {
        ret = make_frame(outlink, ff_get_video_buffer(outlink, outlink->w,
                                                      outlink->h), &frame);
        if (ret == CAUSVID_EOF) {
            ff_outlink_set_status(outlink, AVERROR_EOF, s->pts);
            return 0;
        }
        if (ret < 0)
            return ret;
    }
    return ff_filter_frame(outlink, frame);
}

static int process_command(AVFilterContext *ctx, const char *cmd,
                           const char *arg, char *res, int res_len, int flags)
{
    CausvidSourceContext *s = ctx->priv;
    int ret;

    if (!strcmp(cmd, "prompt")) {
        ret = check_text(ctx, "prompt", arg ? arg : "");
        if (ret < 0)
            return ret;
        if (s->cv) {
            ret = av_error(causvid_set_prompt(s->cv, arg));
            if (ret < 0)
                return ret;
        }
    }
    return ff_filter_process_command(ctx, cmd, arg, res, res_len, flags);
}

#define OFFSET(x) offsetof(CausvidSourceContext, x)
#define FLAGS (AV_OPT_FLAG_VIDEO_PARAM | AV_OPT_FLAG_FILTERING_PARAM)
#define RFLAGS (FLAGS | AV_OPT_FLAG_RUNTIME_PARAM)
#define STRING(name, help, field, flags) \
    { name, help, OFFSET(field), AV_OPT_TYPE_STRING, { .str = NULL }, 0, 0, flags }
#define CONSTANT(name, help, value, group) \
    { name, help, 0, AV_OPT_TYPE_CONST, { .i64 = value }, 0, 0, FLAGS, .unit = group }

static const AVOptionArrayDef timesteps_def = { .size_max = 1000, .sep = '|' };

static const AVOption causvid_options[] = {
    STRING("prompt", "set what the video shows", prompt, RFLAGS),
    STRING("promptfile", "set a text file with one prompt per line and clip", promptfile, FLAGS),
    STRING("negative_prompt", "set what to avoid, used when guidance is not 1", negative_prompt, FLAGS),
    STRING("model", "set folder or file of the model (default: the small sample model)", model, FLAGS),
    STRING("text_encoder", "set folder or file of the text encoder (default: beside the model)", text_encoder, FLAGS),
    STRING("vae", "set folder or file of the VAE (default: beside the model)", vae, FLAGS),
    STRING("tokenizer", "set spiece.model or its folder (default: beside the model)", tokenizer, FLAGS),
    STRING("checkpoint_key", "set which weights of a .pt file are the model's (default: of its usual ones, the best)", checkpoint_key, FLAGS),
    STRING("lora", "set LoRA files, as path[=strength], | between several", lora, FLAGS),
    STRING("cache", "set a folder that keeps encoded prompts (default: none)", cache, FLAGS),
    { "variant", "set how the model attends over time", OFFSET(variant), AV_OPT_TYPE_INT, { .i64 = CAUSVID_VARIANT_AUTO }, CAUSVID_VARIANT_AUTO, CAUSVID_VARIANT_BIDIRECTIONAL, FLAGS, .unit = "variant" },
    CONSTANT("auto", "as detected", CAUSVID_VARIANT_AUTO, "variant"),
    CONSTANT("causal", "block after block", CAUSVID_VARIANT_CAUSAL, "variant"),
    CONSTANT("bidirectional", "the whole clip at once", CAUSVID_VARIANT_BIDIRECTIONAL, "variant"),
    { "size", "set video size (default: the model's)", OFFSET(w), AV_OPT_TYPE_IMAGE_SIZE, { .str = NULL }, 0, 0, FLAGS },
    { "s",    "set video size (default: the model's)", OFFSET(w), AV_OPT_TYPE_IMAGE_SIZE, { .str = NULL }, 0, 0, FLAGS },
    STRING("rate", "set frame rate (default: the model's)", rate, FLAGS),
    STRING("r", "set frame rate (default: the model's)", rate, FLAGS),
    { "duration", "set duration of each clip, 0: the model's, -1: endless", OFFSET(duration), AV_OPT_TYPE_DURATION, { .i64 = 0 }, -AV_TIME_BASE, INT64_MAX, FLAGS },
    { "d",        "set duration of each clip, 0: the model's, -1: endless", OFFSET(duration), AV_OPT_TYPE_DURATION, { .i64 = 0 }, -AV_TIME_BASE, INT64_MAX, FLAGS },
    { "seed", "set the seed, -1: draw one", OFFSET(seed), AV_OPT_TYPE_INT64, { .i64 = -1 }, -1, UINT32_MAX, FLAGS },
    { "steps", "set number of denoising steps, 0: the model's", OFFSET(steps), AV_OPT_TYPE_INT, { .i64 = 0 }, 0, 1000, FLAGS },
    { "timesteps", "set the denoising timesteps, | between them (default: the model's)", OFFSET(timesteps), AV_OPT_TYPE_FLOAT | AV_OPT_TYPE_FLAG_ARRAY, { .arr = &timesteps_def }, 0, 1000, FLAGS },
    { "shift", "set timestep shift, 0: the model's", OFFSET(shift), AV_OPT_TYPE_FLOAT, { .dbl = 0 }, 0, 1000, FLAGS },
    { "guidance", "set classifier-free guidance, 1: none, -1: the model's", OFFSET(guidance), AV_OPT_TYPE_FLOAT, { .dbl = -1 }, -1, 100, FLAGS },
    { "sampler", "set how noise becomes a picture", OFFSET(sampler), AV_OPT_TYPE_INT, { .i64 = CAUSVID_SAMPLER_AUTO }, CAUSVID_SAMPLER_AUTO, CAUSVID_SAMPLER_FLOWMATCH, FLAGS, .unit = "sampler" },
    CONSTANT("auto", "the model's", CAUSVID_SAMPLER_AUTO, "sampler"),
    CONSTANT("causvid", "predict the picture, add fresh noise, repeat", CAUSVID_SAMPLER_CAUSVID, "sampler"),
    CONSTANT("euler", "Euler steps of the flow", CAUSVID_SAMPLER_EULER, "sampler"),
    CONSTANT("unipc", "UniPC of order 2, as in Wan", CAUSVID_SAMPLER_UNIPC, "sampler"),
    CONSTANT("flowmatch_causvid", "Euler steps on CausVid's fixed sigmas", CAUSVID_SAMPLER_FLOWMATCH, "sampler"),
    { "precision", "set arithmetic of the networks", OFFSET(precision), AV_OPT_TYPE_INT, { .i64 = CAUSVID_PRECISION_AUTO }, CAUSVID_PRECISION_AUTO, CAUSVID_PRECISION_FP8, FLAGS, .unit = "precision" },
    CONSTANT("auto", "fp32 on the CPU, bf16 on a GPU, fp8 there for files in fp8", CAUSVID_PRECISION_AUTO, "precision"),
    CONSTANT("fp32", "32-bit floats", CAUSVID_PRECISION_FP32, "precision"),
    CONSTANT("bf16", "bfloat16, needs a GPU", CAUSVID_PRECISION_BF16, "precision"),
    CONSTANT("fp8", "8-bit floats, needs a GPU; less memory, on Hopper faster", CAUSVID_PRECISION_FP8, "precision"),
    { "device", "set where the networks run", OFFSET(device), AV_OPT_TYPE_INT, { .i64 = CAUSVID_DEVICE_AUTO }, CAUSVID_DEVICE_AUTO, CAUSVID_DEVICE_CUDA, FLAGS, .unit = "device" },
    CONSTANT("auto", "a GPU where it can be used, else the CPU", CAUSVID_DEVICE_AUTO, "device"),
    CONSTANT("cpu", "the CPU", CAUSVID_DEVICE_CPU, "device"),
    CONSTANT("cuda", "an NVIDIA GPU", CAUSVID_DEVICE_CUDA, "device"),
    { "gpu", "set the number of the GPU, -1: the graph's CUDA device, or 0", OFFSET(gpu), AV_OPT_TYPE_INT, { .i64 = -1 }, -1, 1023, FLAGS },
    { "vram", "set the most GPU memory to take, in bytes, 0: what is free", OFFSET(vram), AV_OPT_TYPE_INT64, { .i64 = 0 }, 0, INT64_MAX, FLAGS },
    { "output", "set the memory that frames are made in", OFFSET(output), AV_OPT_TYPE_INT, { .i64 = OUTPUT_AUTO }, OUTPUT_AUTO, OUTPUT_CUDA, FLAGS, .unit = "output" },
    CONSTANT("auto", "GPU memory where the next filter takes nothing else", OUTPUT_AUTO, "output"),
    CONSTANT("software", "memory that every filter takes", OUTPUT_SOFTWARE, "output"),
    CONSTANT("cuda", "GPU memory", OUTPUT_CUDA, "output"),
    { "format", "set the pixel format (default: as negotiated, nv12 in GPU memory)", OFFSET(pix_fmt), AV_OPT_TYPE_PIXEL_FMT, { .i64 = AV_PIX_FMT_NONE }, -1, INT_MAX, FLAGS },
    { "threads", "set number of CPU threads, 0: one for each core", OFFSET(threads), AV_OPT_TYPE_INT, { .i64 = 0 }, 0, 256, FLAGS },
    { NULL }
};

AVFILTER_DEFINE_CLASS(causvid);

static const AVFilterPad causvid_outputs[] = {
    {
        .name         = "default",
        .type         = AVMEDIA_TYPE_VIDEO,
        .config_props = config_props,
    },
};

const CV_FILTER ff_vsrc_causvid = {
    CV_PUB(name)        = "causvid",
    CV_PUB(description) = NULL_IF_CONFIG_SMALL("Generate video from text with the CausVid family of models."),
    CV_PUB(priv_class)  = &causvid_class,
#if CONFIG_CUDA
    CV_PUB(flags)       = AVFILTER_FLAG_HWDEVICE,
#endif
    .flags_internal     = FF_FILTER_FLAG_HWFRAME_AWARE,
    .priv_size          = sizeof(CausvidSourceContext),
    .init               = init,
    .uninit             = uninit,
    .activate           = activate,
    .process_command    = process_command,
    CV_PUB(inputs)      = NULL,
    FILTER_OUTPUTS(causvid_outputs),
    FILTER_QUERY_FUNC2(query_formats),
};
