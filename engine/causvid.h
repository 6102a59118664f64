/*
 * libcausvid: video from text with the CausVid family of few-step Wan 2.1
 * models. This is the only installed header.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * Usage:
 *
 *     CausvidSettings settings;
 *     CausvidContext *cv = NULL;
 *     causvid_default_settings(&settings);
 *     settings.model = "samples/shapes";
 *     if (causvid_open(&cv, &settings) < 0)     // loads the weights, once
 *         return 1;
 *     CausvidClip clip;
 *     causvid_default_clip(&clip);
 *     clip.prompt = "a red circle moves right on a blue background";
 *     causvid_start(cv, &clip);                 // begins generating
 *     CausvidPicture pic = { .format = CAUSVID_FORMAT_YUV420P,
 *                            .width = w, .height = h,
 *                            .data = { y, u, v }, .stride = { w, w/2, w/2 } };
 *     while (causvid_read_frame(cv, &pic) == 0)
 *         consume(&pic);                        // pic.index, pic.block ...
 *     causvid_close(&cv);
 *
 * Rules that hold for every function:
 * - Functions return 0 or a negative error, CAUSVID_ERR(errno value); the
 *   numbers are AVERROR's on POSIX systems. Every error is also logged as one
 *   line: what was found, what was expected, what to do. Only a NULL where a
 *   context, a struct or a text is needed is EINVAL without a line.
 * - The library never prints, exits, aborts, installs signal handlers or keeps
 *   mutable globals, and reads two environment variables. CAUSVID_CUDA_MODULE:
 *   the file of the CUDA backend, instead of libcausvid_cuda.so beside this
 *   library. CAUSVID_CUDA_TRIALS: for measuring, see docs/kernels.md. (CUDA and
 *   OpenBLAS have variables of their own. OpenBLAS, when it is compiled in, is
 *   switched to one thread per caller: libcausvid brings its own threads.)
 * - A context may be used from different threads in turn, by one at a time:
 *   who wants to end a call from another thread, closing included, lets the
 *   abort callback say so and waits until the call has returned. Contexts are
 *   independent of each other.
 */
#ifndef CAUSVID_H
#define CAUSVID_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define CAUSVID_VERSION_MAJOR 0
#define CAUSVID_VERSION_MINOR 1
#define CAUSVID_VERSION_MICRO 0
#define CAUSVID_VERSION_INT (CAUSVID_VERSION_MAJOR << 16 | \
                             CAUSVID_VERSION_MINOR << 8 | CAUSVID_VERSION_MICRO)

#if defined(__GNUC__)
#define CAUSVID_API __attribute__((visibility("default")))
#else
#define CAUSVID_API
#endif

/**
 * Make an error code of an errno value. Codes in use:
 * EINVAL (bad argument or option), ENOMEM, ENOENT (no such file, folder or
 * component), EILSEQ (a file that is damaged, of a wrong kind, or holds wrong
 * tensors), ENODEV (no usable GPU), ENOSYS (not compiled in or not supported),
 * ECANCELED (the abort callback said so), EIO (reading failed, or a device
 * fault: the context is then dead).
 */
#define CAUSVID_ERR(e) (-(e))

/** causvid_read_frame(): the clip has ended. A positive value, not an error. */
#define CAUSVID_EOF 1

/** One loaded model and the clip that it is generating. */
typedef struct CausvidContext CausvidContext;

/** Severity of a log line; smaller is more severe. */
enum CausvidLogLevel {
    CAUSVID_LOG_ERROR,   /**< the call fails */
    CAUSVID_LOG_WARNING, /**< the call goes on, the result may surprise */
    CAUSVID_LOG_INFO,    /**< once a load, once a clip, once a block */
    CAUSVID_LOG_VERBOSE, /**< files opened, memory plan */
    CAUSVID_LOG_TRACE    /**< each operation */
};

/** Where the networks run. */
enum CausvidDevice {
    CAUSVID_DEVICE_AUTO, /**< CUDA where usable, else the CPU */
    CAUSVID_DEVICE_CPU,
    CAUSVID_DEVICE_CUDA  /**< ENODEV or ENOSYS where it cannot be had */
};

/** How a model attends over time. */
enum CausvidVariant {
    CAUSVID_VARIANT_AUTO,         /**< as detected, or as recipe.json says */
    CAUSVID_VARIANT_CAUSAL,       /**< block after block with a KV cache */
    CAUSVID_VARIANT_BIDIRECTIONAL /**< the whole clip at once */
};

/** Arithmetic of the networks. */
enum CausvidPrecision {
    CAUSVID_PRECISION_AUTO, /**< float32 on the CPU, bf16 on CUDA; weights in
                                 fp8 are multiplied so where the GPU can */
    CAUSVID_PRECISION_FP32,
    CAUSVID_PRECISION_BF16, /**< CUDA only */
    CAUSVID_PRECISION_FP8   /**< CUDA only: weights of the transformer's blocks
                                 in fp8, whatever the file has; on Hopper their
                                 products and attention too */
};

/** How noise becomes a picture; see docs/models.md. */
enum CausvidSampler {
    CAUSVID_SAMPLER_AUTO,      /**< the model's recipe */
    CAUSVID_SAMPLER_CAUSVID,   /**< predict x0, add fresh noise, repeat */
    CAUSVID_SAMPLER_EULER,     /**< Euler steps of the flow */
    CAUSVID_SAMPLER_UNIPC,     /**< UniPC order 2 (bh2), as in Wan */
    CAUSVID_SAMPLER_FLOWMATCH  /**< Euler on CausVid's fixed sigma list
                                    (flowmatch_causvid) */
};

/** Pixel formats that a frame can be written as. All YUV is BT.709. */
enum CausvidFormat {
    CAUSVID_FORMAT_YUV420P,   /**< 3 planes, chroma sited left */
    CAUSVID_FORMAT_NV12,      /**< 2 planes, U V interleaved, sited left */
    CAUSVID_FORMAT_YUV444P,   /**< 3 planes */
    CAUSVID_FORMAT_YUV420P10, /**< 3 planes of 16-bit little endian words */
    CAUSVID_FORMAT_P010,      /**< as NV12, 10 bits in the high bits of words */
    CAUSVID_FORMAT_GBRP,      /**< 3 planes in the order G, B, R; full range */
    CAUSVID_FORMAT_RGB24,     /**< 1 plane, packed R G B; full range */
    CAUSVID_FORMAT_RGB0,      /**< 1 plane, packed R G B 255; full range */
    CAUSVID_FORMAT_BGR0       /**< 1 plane, packed B G R 255; full range */
};

/** What kind of memory the planes of a picture lie in. */
enum CausvidMemory {
    CAUSVID_MEMORY_HOST,
    CAUSVID_MEMORY_CUDA /**< ENOSYS on the CPU */
};

/** Progress of a clip, given to CausvidSettings.progress after each block. */
typedef struct CausvidProgress {
    int64_t block;        /**< blocks finished in this clip */
    int64_t frames;       /**< frames finished in this clip */
    int64_t total_frames; /**< frames of the clip, -1 when it is endless */
    double seconds;       /**< time since causvid_start() */
} CausvidProgress;

/**
 * What to load and where to run it. Fill it with causvid_default_settings(),
 * then change what is needed. Strings need to live only until causvid_open()
 * returns; callbacks and cookie until causvid_close() has returned.
 */
typedef struct CausvidSettings {
    /** Folder (diffusers layout or official names) or file. NULL: the small
     * sample model that was installed with the library. */
    const char *model;
    const char *text_encoder; /**< folder or file; NULL: found beside model */
    const char *vae;          /**< folder or file; NULL: found beside model */
    const char *tokenizer;    /**< spiece.model, its folder, or weights that
                                   hold it; NULL: found */
    const char *checkpoint_key; /**< of a .pt file that holds several sets of
                                   weights, such as "generator": the model's.
                                   EINVAL: there is none. NULL: the first of
                                   generator_ema, generator, model, state_dict
                                   and module that is there, or the file's own
                                   tensors */
    const char *lora;         /**< `path[=strength]`, `|` between several;
                                   merged into the transformer. EILSEQ: of
                                   another model, or no LoRA */
    const char *cache;  /**< folder that keeps prompts' embeddings, made when it
                             is missing; the text encoder is not run for those
                             that are there. One that does not work is a
                             warning. NULL: none */
    enum CausvidVariant variant;
    enum CausvidPrecision precision;
    enum CausvidDevice device;
    int gpu;            /**< ordinal of the CUDA device, default 0; not used
                             when there is a cuda_context */
    void *cuda_context; /**< a CUcontext to use, or NULL: the device's primary
                             context. It must live until causvid_close() has
                             returned, and is current on the calling thread
                             only during calls */
    void *cuda_stream;  /**< the caller's CUstream, or NULL: on it pictures in
                             CUDA memory are drawn */
    int64_t vram_bytes; /**< most device memory to take for weights and clip
                             (ENOMEM beyond it), 0: what is free */
    int threads;        /**< CPU threads, 0: one for each core that
                             the process may run on */

    /**
     * Receives log lines, without a newline. NULL: nothing is logged.
     * Like the others, called from the thread that calls the library or from
     * the library's own; calls never overlap.
     */
    void (*log)(void *cookie, enum CausvidLogLevel level, const char *format,
                va_list args);
    /** Called after each block. May be NULL. */
    void (*progress)(void *cookie, const CausvidProgress *progress);
    /** Polled about once a network layer; non-zero stops with ECANCELED.
     * May be NULL. */
    int (*abort)(void *cookie);
    void *cookie; /**< first argument of the callbacks */

    /**
     * The clip that will be started first, or NULL: the recipe's. What it asks
     * of memory decides how the model is loaded on a GPU, and too little is
     * said before loading. With `cache` its prompts are looked up: where they
     * are kept, the text encoder is not loaded. On a GPU its prompt is
     * encoded while the rest is loaded. Other clips may follow.
     */
    const struct CausvidClip *clip;

    void *reserved[13]; /**< leave as causvid_default_settings() set them */
} CausvidSettings;

/**
 * What to generate. Fill it with causvid_default_clip(). Strings and arrays
 * need to live only until the call returns.
 */
typedef struct CausvidClip {
    const char *prompt;          /**< UTF-8; must be set and not be empty */
    const char *negative_prompt; /**< used when guidance is not 1;
                                      NULL: the recipe's */
    int width, height;  /**< multiples of 16; 0, 0: the recipe's size */
    int64_t frames;     /**< frames wanted; 0: the recipe's count; -1: endless,
                             causal models only */
    int rate_num, rate_den; /**< frames/s, only told in progress lines;
                                 0: the recipe's */
    int64_t seed;       /**< >= 0. Same seed, build, device: the same bytes */
    int steps;          /**< denoising steps; 0: the recipe's */
    const float *timesteps; /**< explicit list (0..1000, falling), or NULL */
    int n_timesteps;        /**< length of the list, at most 1000 */
    float shift;        /**< timestep shift, 0.001 to 1000; 0: the recipe's */
    float guidance;     /**< classifier-free guidance; 1: none;
                             negative: the recipe's */
    enum CausvidSampler sampler;

    void *reserved[16];
} CausvidClip;

/**
 * The planes a frame is written to, and what is known of it afterwards. The
 * caller owns the memory.
 */
typedef struct CausvidPicture {
    int width, height;          /**< in: must be the clip's size */
    enum CausvidFormat format;  /**< in */
    enum CausvidMemory memory;  /**< in */
    int full_range;             /**< in: YUV levels 0..255 instead of 16..235 */
    void *data[4];              /**< in: planes */
    ptrdiff_t stride[4];        /**< in: bytes between rows, may be negative */
    int64_t index;      /**< out: number of the frame in its clip, from 0 */
    int64_t block;      /**< out: number of its block, from 0 */
    int64_t seed;       /**< out: the clip's seed */
    const char *prompt; /**< out: the prompt that the block was made with;
                             valid until the next call with this context */
    void *reserved[8];
} CausvidPicture;

/** What was loaded and what a clip would be by default. */
typedef struct CausvidInfo {
    const char *name;     /**< short name of the model */
    const char *backend;  /**< "cpu" or "cuda" */
    enum CausvidVariant variant;
    int width, height;       /**< the recipe's size in pixels */
    int rate_num, rate_den;  /**< the recipe's frames per second */
    int64_t frames;          /**< the recipe's clip length */
    int steps;               /**< the recipe's denoising steps */
    float guidance;
    enum CausvidSampler sampler;
    int size_multiple;       /**< width and height must be multiples of it */
    int64_t block_frames;    /**< frames a block after the first; 0: the whole
                                  clip is one block */
    void *reserved[8];
} CausvidInfo;

/** Version of the library that is linked, as CAUSVID_VERSION_INT. */
CAUSVID_API unsigned causvid_version(void);

/** One line of text for an error code (static memory, never NULL). */
CAUSVID_API const char *causvid_strerror(int error);

/** Set every field to its documented default. */
CAUSVID_API void causvid_default_settings(CausvidSettings *settings);

/** Set every field to its documented default: seed 0, the recipe for the
 * rest, no prompt. */
CAUSVID_API void causvid_default_clip(CausvidClip *clip);

/**
 * Load a model. On failure *ctx is NULL and the reason was logged.
 * @return 0, or EINVAL, ENOENT, EILSEQ, ENOMEM, ENODEV, ENOSYS, ECANCELED, EIO
 */
CAUSVID_API int causvid_open(CausvidContext **ctx,
                             const CausvidSettings *settings);

/** Stop generating, free everything, set *ctx to NULL. NULL is allowed. */
CAUSVID_API void causvid_close(CausvidContext **ctx);

/** Describe the loaded model. Strings live as long as the context. */
CAUSVID_API int causvid_get_info(const CausvidContext *ctx, CausvidInfo *info);

/**
 * Begin a clip; a clip that was running is dropped. Checks everything, plans
 * and takes the memory, and lets a thread generate ahead: at most one block
 * beyond the block that is being read.
 * @return 0, or EINVAL, ENOMEM, ECANCELED, EIO (the text encoder's result is
 *         no number: damaged weights)
 */
CAUSVID_API int causvid_start(CausvidContext *ctx, const CausvidClip *clip);

/**
 * Wait for the next frame and write it to the picture's planes.
 * @return 0, CAUSVID_EOF after the last frame, or an error: EINVAL (no clip,
 *         wrong size or planes), ENOSYS (memory kind), ECANCELED, EIO
 */
CAUSVID_API int causvid_read_frame(CausvidContext *ctx, CausvidPicture *pic);

/**
 * Change the prompt of a running causal clip (ENOSYS for bidirectional
 * models). It acts from the first block that is sure not to have been begun:
 * the second block after the one that holds the frame read last (the block
 * between them is already being generated). The rule does not depend on
 * timing, so a run with prompt changes can be repeated exactly.
 */
CAUSVID_API int causvid_set_prompt(CausvidContext *ctx, const char *prompt);

#ifdef __cplusplus
}
#endif

#endif /* CAUSVID_H */
