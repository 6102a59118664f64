/*
 * The Wan transformer: bidirectional, or causal with a KV cache.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#ifndef CV_DIT_H
#define CV_DIT_H

#include "weights/weights.h"

typedef struct CvDit CvDit;

/* Sizes; read from the weights (checkpoints.md 1.9 step 5) and checked against
 * the config where there is one. */
typedef struct CvDitSize {
    int64_t dim, ffn_dim, heads, layers, text_dim, freq_dim;
    int64_t in_channels, out_channels;
} CvDitSize;

/* Look at transformer weights: everything but their values is checked, and what
 * runs on them can be planned. config_path may be "". ENOSYS names kinds that
 * are not run (I2V, FLF2V, VACE). */
int cv_dit_open(CvDit **dit, CvBackend *backend, const char *path,
                const char *key, const char *config_path, CvLog *log);
/* Let LoRA files ("path=strength|path": lora.h) be merged into the weights when
 * these are loaded; before cv_dit_load(). */
int cv_dit_merge(CvDit *dit, const char *loras);
/* Take their memory and load them. */
int cv_dit_load(CvDit *dit);
/* From now on, what only a new prompt needs (keys and values of cross attention)
 * is read from the file for each prompt, with the same bytes: what was taken for
 * it is given back. As cv_umt5_stream(). */
int cv_dit_stream_text(CvDit *dit);
/* Let each pass read more of the layers, before cv_dit_load(): as many as give
 * back this many bytes, at the price of room for one of them in each run. 0 when
 * there are no more, or it is loaded. */
int cv_dit_stream_layers(CvDit *dit, int64_t bytes);
int64_t cv_dit_streamed_layers(const CvDit *dit);
/* What is streamed, as it is stored; 0: nothing. */
int64_t cv_dit_streamed_bytes(const CvDit *dit);
void cv_dit_close(CvDit **dit);
const CvDitSize *cv_dit_size(const CvDit *dit);
size_t cv_dit_bytes(const CvDit *dit);
const char *cv_dit_describe(const CvDit *dit);
/* Are products of its blocks in fp8? */
int cv_dit_is_narrow(const CvDit *dit);
/* Would its weights take less with precision=fp8? */
int cv_dit_can_narrow(const CvDit *dit);

/*
 * What attention remembers, in an arena. The self-attention cache is a ring of
 * `slots` blocks of block_frames latent frames each, written by position:
 * block i lies in slot i % slots, keys rotated by their un-wrapped frame
 * number, so generation has no end. A bidirectional model, or a model that
 * sees one block at a time, has one slot.
 * The text's keys and values are computed once a prompt.
 */
typedef struct CvDitState {
    const CvDit *dit;
    int h, w;              /* of a latent frame */
    int block_frames;      /* latent frames a block */
    int slots;
    int64_t text_rows;     /* rows stored: prompt tokens, and one row for all
                              of the padding when it is shorter than 512 */
    int64_t text_repeats;  /* how often the last row counts */
    CvTensor text_k, text_v; /* A [layers, 512, heads, d], first text_rows of
                                each layer in use */
    CvTensor cache_k, cache_v; /* A [layers, slots * tokens, heads, d]; with
                                  one slot no pass reads what another wrote:
                                  all layers share one layer's room */
    CvTensor largest;      /* float32 [2 * layers], where attention's outputs may
                              be fp8: the largest number of each layer's values
                              in the cache, then of the text's. Else without
                              data */
    CvRing ring;           /* or, where the backend has a form of its own for
                              several slots: data U8 [layers, bytes] */
} CvDitState;

/* Take a state from the run's arena. */
int cv_dit_state(CvDitState *state, const CvDit *dit, CvRun *run,
                 int h, int w, int block_frames, int slots);

/* Bytes that one slot of the ring takes, for log lines and plans. */
size_t cv_dit_slot_bytes(const CvDitState *state);

/* text: float32 [n, text_dim], n <= 512, without padding. Fills text_k/v with
 * the prompt's rows and the padding (zero rows before the text MLP, 7.1/4.4).
 * Cross attention sees 512 rows; equal padding rows are stored once. */
int cv_dit_set_text(CvDit *dit, CvRun *run, CvDitState *state,
                    const CvTensor *text);

/*
 * One forward pass over block `block` (0-based):
 * flow, x: float32 [frames, channels, h, w], frames <= block_frames.
 * timestep: 0..1000, one for all of the block's frames.
 * frames of the block sit at latent frame numbers block * block_frames + i.
 * Keys and values of the block are written to its slot and attention sees all
 * filled slots: min(block + 1, slots) blocks, the block itself included.
 * flow may be NULL: then only the cache is wanted (the pass at t = 0) and the
 * work after the last layer's keys and values is left out (with one slot:
 * all of it).
 * A block of fewer frames must be the last of the filled slots (EINVAL): rows
 * that are left of an older block would be seen otherwise.
 * Polls cv_aborted() once a layer.
 */
int cv_dit_forward(CvDit *dit, CvRun *run, CvDitState *state,
                   const CvTensor *flow, const CvTensor *x, double timestep,
                   int64_t block);

#endif /* CV_DIT_H */
