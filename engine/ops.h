/*
 * The operation table: everything the networks may ask of a backend.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * The comment above each operation is its specification; the CPU backend
 * follows it literally in float32, other backends within their precision.
 *
 * Conventions
 * - Shapes are in brackets, slowest dimension first; tensors are contiguous.
 * - "A" marks the activation type of the backend (CvBackend.activation:
 *   float32 on the CPU), "W" its weight type. Everything else says its type.
 * - A matrix of weights may also be in one of the fp8 types where the backend
 *   says so (CvBackend.fp8). It then has a scale, float32 [rows]: a weight is
 *   scale[row] * number, a product in float32 that is rounded to W where it is
 *   multiplied. Otherwise its scale is NULL, or a tensor without data.
 *   Statistics and accumulations are in float32 or better.
 * - Where CvBackend.product is CV_F8_E4M3, an x of linear may be in that type
 *   as well, "P", with its own scale, float32 [rows], and is multiplied with
 *   weights of the same type: the numbers are, and the sum of these products is
 *   scaled by the row of x and the row of the weight. The operations that make
 *   an x write P where `out` is of that type: scale[row] = the largest |y| of
 *   the row divided by 448, 1 of a row that is 0 or below 2^-100, not a finite
 *   number where one of the row is not; out = y / scale, nearest even (of a
 *   quotient in float32, so that it may be the other one of two that are nearly
 *   as near).
 * - An output aliases an input only where "in place" is said.
 * - No operation allocates. Scratch that a backend needs is its own, taken
 *   when it is opened, or bounded by a constant.
 * - Operations are asynchronous where the backend is; `finish` waits.
 * - The functions cv_<op>() below check shapes and types once, for every
 *   backend (a wrong shape is a mistake of ours: EINVAL and a log line that
 *   names the operation), skip the work while the backend is planning
 *   (memory.h), and then call the table.
 * - All return 0 or a negative CAUSVID_ERR.
 */
#ifndef CV_OPS_H
#define CV_OPS_H

#include "log.h"
#include "tensor.h"

typedef struct CvBackend CvBackend;

/* What a linear does to its product y = x * weight^T + bias. */
typedef enum CvEpilogue {
    CV_EPI_NONE,     /* out = y */
    CV_EPI_GELU,     /* out = gelu(y), tanh form: checkpoints.md 5 */
    CV_EPI_SILU,     /* out = y / (1 + exp(-y)) */
    CV_EPI_MUL,      /* out = y * other */
    CV_EPI_ADD,      /* out = other + y */
    CV_EPI_GATE_ADD, /* out = other + gate * y; gate: row `gate_row` of `mod` */
} CvEpilogue;

/*
 * out[n, o] = epilogue(x[n, i] * weight[o, i]^T + bias[o])
 * x: A, or P with x_scale and a weight of that type. weight: W or fp8 with
 * scale. bias: float32 or A, or NULL; the fast one is of out's type, with x in
 * P it is A. out: A, or float32 for the residual stream, or P
 * with out_scale: then x is in P, the epilogue NONE or GELU, and the bias A, and
 * out_scale[n] may be larger than P says: up to what no |y| of the row can be
 * above, |x[n]|_2 * the largest |weight[o]|_2 + the largest |bias[o]|, / 448.
 * other: as out (in place with out allowed) for MUL, ADD, GATE_ADD.
 * mod: float32 [g, r, o] for GATE_ADD: token t takes group t / (n / g); g
 * divides n.
 * Source: Wan2.1 wan/modules/model.py (WanAttentionBlock), t5.py.
 */
typedef struct CvLinear {
    const CvTensor *out, *x, *weight, *scale, *bias, *other, *mod;
    const CvTensor *x_scale, *out_scale;
    CvEpilogue epilogue;
    int gate_row;
} CvLinear;

/*
 * Keys and values of a layer that are kept for later queries: `slots` blocks of
 * `tokens` rows. They are two tensors A [slots * tokens, heads, d], except where
 * the backend has a form of its own (ring_bytes): then they are this, in memory
 * that was zeros before anything was written.
 */
typedef struct CvRing {
    CvTensor data; /* CV_U8 [ring_bytes] */
    int64_t slots, tokens, heads, d;
} CvRing;

/* Rows of a slot are written from its first one or from a multiple of these. */
#define CV_RING_STEP 64

/*
 * Attention of n queries over m keys, each head on its own:
 * out = softmax(scale * q k^T + bias) v
 * q: A [n, heads, d]. k, v: A [m, heads, d]. out: A [n, heads, d]; or, where d
 * is CvBackend.product_heads, P [n, heads * d] with out_scale, without a bias,
 * scale > 0. out_scale[n] may then be larger than P says, up to largest / 416:
 * no |out| is above the largest |v|, or a little, since values and weights may
 * have been rounded. largest: float32 [1], what no |v| is above.
 * bias: float32 [heads, n, m] or NULL.
 * last_repeats: the last key and value stand for that many equal ones
 * (>= 1): ln(last_repeats) is added to its score, which is exactly what
 * repeating it would give. Cross attention uses it for the padding rows of a
 * prompt, which are all alike. The order of keys does not matter, so a ring
 * cache is given as it lies.
 * ring: in place of k and v (NULL), the first `keys` rows of it, 1 or more, all
 * written; no bias, scale > 0, last_repeats 1.
 */
typedef struct CvAttention {
    const CvTensor *out, *q, *k, *v, *bias;
    const CvTensor *out_scale, *largest;
    float scale;
    int64_t last_repeats;
    const CvRing *ring;
    int64_t keys;
} CvAttention;

/*
 * Self-attention's preparation, fused: split qkv, normalise q and k over all
 * heads together, rotate them, and put k and v where the cache wants them.
 * qkv: A [n, 3 * heads * d], columns q, k, v.
 * q = rope(rms(q) * norm_q), k = rope(rms(k) * norm_k);
 * rms(x) = x / sqrt(mean over heads * d of x^2 + eps); norm_*: float32 [heads*d]
 * rope: float32 [n, d / 2, 2] as made by rope_table: pair (x0, x1) becomes
 * (x0 cos - x1 sin, x0 sin + x1 cos); pairs are adjacent elements of a head.
 * out_q: A [n, heads, d]. cache_k, cache_v: A [rows, heads, d]; rows
 * [row, row + n) are written, so row + n <= rows.
 * ring: in place of cache_k and cache_v (NULL); row / tokens is the slot, of
 * which the rows have to be, and CV_RING_STEP divides row % tokens. alone: no
 * other rows of the ring will be seen together with these and those that are
 * written later. A form of 8 bits is then chosen anew, by these numbers, and
 * stays for all that come.
 * largest: float32 [1] or NULL: becomes the larger one of itself and the largest
 * |v| of these rows, as `largest` has it.
 * Source: Wan2.1 wan/modules/model.py (WanSelfAttention, rope_apply).
 */
typedef struct CvQkNormRope {
    const CvTensor *out_q, *cache_k, *cache_v;
    int64_t row;
    const CvTensor *qkv, *norm_q, *norm_k, *rope, *largest;
    float eps;
    const CvRing *ring;
    int alone;
} CvQkNormRope;

/*
 * Convolution over time and space, channels last, with the history of its
 * input so that a video can be run in pieces of any size.
 *
 * x: A [t, h, w, c]. weight: W [o, kt, kh, kw, c]. bias: float32 [o] or NULL.
 * history: A [p, h, w, c], the p frames before x (zeros at the start of a
 * video), or NULL for p = 0. The input is history followed by x: p + t frames.
 * Its last p are the history of what follows: the caller keeps them.
 * stride_t, stride_s: steps in time and in space.
 * pad_top/left/bottom/right: zeros around each frame.
 * up: 1: as it is; 2: each frame is first doubled by repeating pixels.
 * add: A, shape of out, added to the result, or NULL (in place with out
 * allowed). relu: what is negative then becomes 0, what is no number stays so.
 * out: A [t', h', w', o], or NULL where only `norm` is wanted:
 *   t' = (p + t - kt) / stride_t + 1
 *   h' = (up * h + pad_top + pad_bottom - kh) / stride_s + 1, w' likewise.
 * out[f, y, x, o] = bias[o] + sum over i, j, l, c of
 *   weight[o, i, j, l, c] * in[f * stride_t + i, y * stride_s + j - pad_top,
 *                              x * stride_s + l - pad_left, c]
 * norm: A, shape of out, or NULL: norm_silu of the result, with SiLU and the
 * factors gamma, float32 [o]; of the result before or after it is rounded to A.
 * In place with add allowed, not with out.
 * Source: Wan2.1 wan/modules/vae.py (CausalConv3d, Resample).
 */
typedef struct CvConv3d {
    const CvTensor *out, *x, *history, *weight, *bias, *add;
    const CvTensor *norm, *gamma;
    int stride_t, stride_s, up;
    int pad_top, pad_left, pad_bottom, pad_right;
    int relu;
} CvConv3d;

/* One term of a linear combination. */
typedef struct CvTerm {
    double factor;
    const CvTensor *tensor; /* float32 */
} CvTerm;
#define CV_MAX_TERMS 6

/* A frame to convert; see CausvidPicture for formats and planes. */
typedef struct CvPictureArgs {
    const CvTensor *frame; /* float32 [h, w, 3], RGB in -1..1, clamped here */
    CausvidPicture *pic;
} CvPictureArgs;

/* Bytes of the memory that tensors are in. */
typedef struct CvMemory {
    int64_t used;   /* CPU: the most that this process ever had. GPU: what is
                       taken now, by this process and by others, contexts and
                       code included. 0 when it cannot be told */
    int64_t before; /* GPU: of that, what was taken before the backend took
                       anything; CUDA's context is in it. CPU: 0 */
    int64_t taken;  /* by the backend: what is given out, and its own buffers.
                       CPU: 0, nobody counts */
    int64_t room;   /* the device has room for so much more; INT64_MAX: not
                       known, or not limited */
    int64_t budget; /* the most that may be taken; INT64_MAX: no limit */
} CvMemory;

/* Where an upload has its numbers from. read: the n from `first` on -> to, on
 * the host, of any address; of a type with blocks both are whole blocks. 0, or
 * an error that it has logged, which the upload then returns. Several threads
 * call it at the same time. */
typedef struct CvSource {
    int (*read)(void *arg, void *to, int64_t first, int64_t n);
    void *arg;
} CvSource;

typedef struct CvOps {
    /* ---- memory ---- */

    /* Take or give back `bytes` of the backend's memory, 64-byte aligned (256
     * on a GPU). ENOMEM is not logged: the caller knows what it was for. */
    int (*alloc)(CvBackend *b, size_t bytes, void **data);
    void (*release)(CvBackend *b, void *data);

    /* As many numbers of src_type as dst has elements -> dst (float32, A, W,
     * CV_I32 from CV_I32, with CvBackend.fp8 also fp8 from the same type),
     * converted by rounding to nearest even; quantised ones, which must be
     * whole blocks, via float32 (blocks.h). The source has been read on return.
     * Float and quantised sources: returns EILSEQ, not logged, when a value is
     * NaN or infinite. With a tag, which is not looked behind, a backend may
     * return before it knows; then `uploaded` tells. So loading thousands of
     * tensors waits once. */
    int (*upload)(CvBackend *b, const CvTensor *dst, const CvSource *src,
                  CvType src_type, const void *tag);

    /* Wait for the uploads that had a tag since the last call, and forget them:
     * *bad = the tag of the first one of those that had returned 0 and had a
     * value that is NaN or infinite, NULL when none had. Whoever gives tags
     * asks, also after an error, while what they point to is there. */
    int (*uploaded)(CvBackend *b, const void **bad);

    /* Let uploads run beside operations. mark: remember what was asked for until
     * now. ahead: from here on (on) uploads, and nothing else but `random`, may be
     * asked for, and wait for what was before the mark, not for what came since:
     * of their memory nothing that came since may know. Off: what is asked for
     * from then on waits for these uploads. NULL: everything is done in order. */
    int (*mark)(CvBackend *b);
    int (*ahead)(CvBackend *b, int on);

    /* What is asked for between on and off need not begin before off, so that a
     * device can be given it as one. Nothing of it uploads, downloads or waits.
     * Off also follows an error. NULL: nothing would be won. */
    int (*batch)(CvBackend *b, int on);

    /* src -> host array of float32, waiting for it. */
    int (*download)(CvBackend *b, float *dst, const CvTensor *src);

    /* Fill with zeros; copy between tensors of one type and element count. */
    int (*zero)(CvBackend *b, const CvTensor *t);
    int (*copy)(CvBackend *b, const CvTensor *dst, const CvTensor *src);

    /* dst (float32, A, W or CV_F8_E4M3) = random numbers in -scale..scale, the same on every
     * backend and in every type: element i, counted through the tensor, is
     *   z = seed + (i + 1) * 0x9e3779b97f4a7c15
     *   z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9
     *   z = (z ^ z >> 27) * 0x94d049bb133111eb
     *   z = z ^ z >> 31            (SplitMix64; all modulo 2^64)
     *   ((z >> 40) - 2^23) * step, step = scale * 2^-23, a product in float32
     * rounded to bf16, nearest even, and then to fp8 (at most 448) where dst
     * is. For models that are only measured. */
    int (*random)(CvBackend *b, const CvTensor *dst, uint64_t seed,
                  float scale);

    /* Wait until everything asked for so far is done. */
    int (*finish)(CvBackend *b);

    /* What there is of the memory that tensors are in. */
    int (*memory)(CvBackend *b, CvMemory *memory);

    /* *largest = the largest absolute value of t (float32 or A), NaN when it
     * holds one; 0 for a tensor without elements. Waits for it. */
    int (*check)(CvBackend *b, const CvTensor *t, float *largest);

    /* largest, float32 [1] = the larger one of itself, which is not negative,
     * and check's of x (float32 or A). Does not wait. */
    int (*largest)(CvBackend *b, const CvTensor *largest, const CvTensor *x);

    /* ---- threads ---- */

    /* Prepare the calling thread for using the backend (on a GPU: make its
     * context the current one), and undo it. In pairs, on one thread, may be
     * nested; around everything that opens or closes networks, plans, runs or
     * converts frames. Only context.c, model.c, pipeline.c and programs that
     * have no context call them. */
    int (*enter)(CvBackend *b);
    void (*leave)(CvBackend *b);

    /* ---- shared by the networks ---- */

    int (*linear)(CvBackend *b, const CvLinear *a);
    int (*attention)(CvBackend *b, const CvAttention *a);

    /* out[n, d] = out + scale * left[n, k] * right[k, d], all float32: what a
     * LoRA adds to a weight while it is loaded. checkpoints.md 3.3 */
    int (*add_product)(CvBackend *b, const CvTensor *out, const CvTensor *left,
                       const CvTensor *right, float scale);

    /* x float32 [n, d] -> out in fp8 [n, d] with its scale, float32 [n], where
     * CvBackend.fp8 is set: scale = the largest |x| of the row divided by the
     * type's largest number (448, 57344), 1 of a row of zeros; out = x / scale,
     * nearest even, at most the largest. For weights that become fp8 while they
     * are loaded. Or x A -> out P. */
    int (*quantise)(CvBackend *b, const CvTensor *out, const CvTensor *scale,
                    const CvTensor *x);

    /* x float32 [n, d] = scale[n] * x, in place, where CvBackend.fp8 is set; a
     * product is rounded once. For weights in fp8 that were uploaded as float32
     * and that a LoRA is going to change. */
    int (*scale_rows)(CvBackend *b, const CvTensor *x, const CvTensor *scale);

    /* out[n, d] = x / sqrt(mean(x^2) + eps) * weight[d]; x: A or float32;
     * out: A; weight: float32. In place allowed. checkpoints.md 5, 7.1 */
    int (*rms_norm)(CvBackend *b, const CvTensor *out, const CvTensor *x,
                    const CvTensor *weight, float eps);

    /* out = x / (1 + exp(-x)), float32, in place allowed. */
    int (*silu)(CvBackend *b, const CvTensor *out, const CvTensor *x);

    /* ---- text ---- */

    /* out[n, d] (float32) = table[ids[n], d]; table: W, or fp8 with scale, which
     * is not rounded to W; ids: CV_I32, each within the table (checked where
     * ids are made). */
    int (*embed)(CvBackend *b, const CvTensor *out, const CvTensor *table,
                 const CvTensor *scale, const CvTensor *ids);

    /* Relative position bias of UMT5: out[heads, n, n] (float32):
     * out[h, i, j] = table[bucket(j - i), h]; table: float32 [buckets, heads];
     * bidirectional buckets, largest distance 128. checkpoints.md 5 */
    int (*t5_bias)(CvBackend *b, const CvTensor *out, const CvTensor *table);

    /* ---- transformer ---- */

    /* Sinusoid of timesteps, all float32: out[g, d], t[g]:
     * out[g, i] = cos(t f_i), out[g, d/2 + i] = sin(t f_i),
     * f_i = 10000^(-i / (d/2)); angles in float64. checkpoints.md 7.1 */
    int (*timestep_embedding)(CvBackend *b, const CvTensor *out,
                              const CvTensor *t);

    /* out[g, r, d] = table[r, d] + x; x is [g, r, d], or [g, d] (then each of
     * the r rows gets it). All float32. */
    int (*modulation)(CvBackend *b, const CvTensor *out, const CvTensor *table,
                      const CvTensor *x);

    /* LayerNorm without parameters, then modulation:
     * out[n, d] (A, or P with out_scale)
     *     = ln(x) * (1 + mod[g, scale_row]) + mod[g, shift_row];
     * x: float32 [n, d]; mod: float32 [groups, r, d], token t has group
     * t / (n / groups). ln: mean and variance over d, eps inside the root. */
    int (*norm_modulate)(CvBackend *b, const CvTensor *out,
                         const CvTensor *out_scale, const CvTensor *x,
                         const CvTensor *mod, int shift_row, int scale_row,
                         float eps);

    /* out[n, d] (A, or P with out_scale) = ln(x) * weight[d] + bias[d];
     * x, weight, bias float32. */
    int (*layer_norm)(CvBackend *b, const CvTensor *out,
                      const CvTensor *out_scale, const CvTensor *x,
                      const CvTensor *weight, const CvTensor *bias, float eps);

    /* Rotations of the tokens of `frames` latent frames from `first_frame` on,
     * tokens ordered frame, row, column: out[frames * h * w, d / 2, 2] float32,
     * (cos, sin). Of the d/2 pairs, d/2 - 2 (d/6) turn with the frame and
     * d/6 (integer division) each with row and column; axis of p pairs:
     * angle = position * 10000^(-2j / (2p)), float64. d = 128: 22 + 21 + 21. */
    int (*rope_table)(CvBackend *b, const CvTensor *out, int64_t first_frame,
                      int frames, int h, int w);

    int (*qk_norm_rope)(CvBackend *b, const CvQkNormRope *a);

    /* Bytes of a ring of these sizes in a form of the backend's own; 0 where
     * two tensors of A serve it better. NULL: always. */
    int64_t (*ring_bytes)(CvBackend *b, const CvRing *ring);

    /* Latents float32 [t, c, h, w] -> tokens A [t * h/2 * w/2, c * 4], token
     * vectors ordered (channel, row, column). checkpoints.md 2.1 */
    int (*patchify)(CvBackend *b, const CvTensor *out, const CvTensor *x);

    /* Head output float32 [t * h/2 * w/2, 4 * c], vectors ordered (row, column,
     * channel), -> float32 [t, c, h, w]. checkpoints.md 7.1 */
    int (*unpatchify)(CvBackend *b, const CvTensor *out, const CvTensor *x);

    /* ---- sampling ---- */

    /* out = sum of factor * tensor over 1..CV_MAX_TERMS terms, all float32 of
     * one element count, summed in float64 in the given order and rounded
     * once. In place with any term allowed. */
    int (*combine)(CvBackend *b, const CvTensor *out, const CvTerm *terms,
                   int n_terms);

    /* ---- VAE, channels last ---- */

    int (*conv3d)(CvBackend *b, const CvConv3d *a);

    /* out[n, c] = act(x / max(|x|_2, 1e-12) * sqrt(c) * gamma[c]) over the last
     * dimension; act: SiLU when silu is set, else nothing. x, out: A [.., c];
     * gamma: float32. In place allowed. checkpoints.md 6.2 */
    int (*norm_silu)(CvBackend *b, const CvTensor *out, const CvTensor *x,
                     const CvTensor *gamma, int silu);

    /* out = limit * tanh(x / limit), float32, limit > 0. In place allowed.
     * checkpoints.md 6.6 */
    int (*soft_clamp)(CvBackend *b, const CvTensor *out, const CvTensor *x,
                      float limit);

    /* x: A [t, h, w, 2c] -> out: A [2t, h, w, c]: the first c channels of
     * frame f become frame 2f, the others frame 2f + 1. */
    int (*split_frames)(CvBackend *b, const CvTensor *out, const CvTensor *x);

    /* Latents in and out of the VAE: change the order of dimensions and scale
     * each channel: out = x * mul[c] + add[c] (host arrays of c floats).
     * to_channels_last: float32 [t, c, h, w] -> A [t, h, w, c];
     * to_channels_first: A [t, h, w, k] -> float32 [t, c, h, w], c <= k,
     * channels from c on are dropped. */
    int (*to_channels_last)(CvBackend *b, const CvTensor *out,
                            const CvTensor *x, const float *mul,
                            const float *add);
    int (*to_channels_first)(CvBackend *b, const CvTensor *out,
                             const CvTensor *x, const float *mul,
                             const float *add);

    /* A [..] -> float32 or back, same element count. */
    int (*convert)(CvBackend *b, const CvTensor *out, const CvTensor *x);

    /* Write a frame as a picture of any CausvidFormat. v = clamp(x, -1, 1) / 2
     * + 1/2 is R'G'B' in 0..1; BT.709: Y' = 0.2126 R' + 0.7152 G' + 0.0722 B',
     * Cb = (B' - Y') / 1.8556, Cr = (R' - Y') / 1.5748; limited range for YUV
     * (Y' 16 + 219 Y', chroma 128 + 224 C, times 4 for 10 bits) unless
     * pic.full_range (255 Y', 128 + 255 C; 10 bits: 1023 Y', 512 + 1023 C);
     * rounded to nearest, clipped. 4:2:0 chroma is sited left: weights
     * 1/4 1/2 1/4 across (edge pixel repeated), 1/2 1/2 down. The frame must
     * have been finished. Planes in host memory are complete on return; planes
     * in device memory are, for what the caller's stream is given afterwards.
     * Unlike all others, it may run on another thread while an operation runs:
     * a caller takes frames while the next block is made. */
    int (*to_picture)(CvBackend *b, const CvPictureArgs *a);

    /* The memory of frames that to_picture was given is about to be written or
     * released: what is asked for from now on waits until the pictures asked
     * for so far are drawn. */
    int (*reuse_frames)(CvBackend *b);
} CvOps;

struct CvBackend {
    const CvOps *ops;
    const char *name;     /* "cpu" */
    CvType activation;    /* the type called A above */
    CvType weight;        /* the type called W above */
    CvType product;       /* the type called P above, or A where there is none */
    int product_heads;    /* attention of heads of so many channels may have
                             its output in P; 0: none */
    int fp8;              /* linear and embed take weights in fp8 */
    int narrow;           /* precision=fp8: weights of blocks become fp8; P may
                             be A all the same, then only memory is saved */
    CvLog *log;
    int planning;         /* memory.h: operations are checked but not run */
    int threads;          /* for log lines; 0: a GPU */
    int cuda_planes;      /* to_picture takes CAUSVID_MEMORY_CUDA */
    char device[128];     /* for log lines: "8 threads", "NVIDIA H200, bf16" */
    void (*close)(CvBackend **b);
};

/* The CPU backend; threads 0: one for each online core. engine/cpu/cpu.c */
int cv_cpu_open(CvBackend **backend, int threads, CvLog *log);

/* A backend that computes nothing and whose memory is only reserved: a model
 * opened on it is checked and planned without being read. engine/null.c */
int cv_null_open(CvBackend **backend, CvLog *log);

/* ---- checked calls: the only way that networks reach the table ---- */

int cv_upload_from(CvBackend *b, const CvTensor *dst, const CvSource *src,
                   CvType type, const void *tag);
/* The same of an array on the host, at any address; and without a tag. */
int cv_upload_tagged(CvBackend *b, const CvTensor *dst, const void *src,
                     CvType type, const void *tag);
int cv_upload(CvBackend *b, const CvTensor *dst, const void *src, CvType type);
int cv_uploaded(CvBackend *b, const void **bad);
int cv_mark(CvBackend *b);
int cv_ahead(CvBackend *b, int on);
int cv_batch(CvBackend *b, int on);
int cv_download(CvBackend *b, float *dst, const CvTensor *src);
int cv_zero(CvBackend *b, const CvTensor *t);
int cv_copy(CvBackend *b, const CvTensor *dst, const CvTensor *src);
int cv_random(CvBackend *b, const CvTensor *dst, uint64_t seed, float scale);
int cv_finish(CvBackend *b);
int cv_memory(CvBackend *b, CvMemory *memory);
int cv_check(CvBackend *b, const CvTensor *t, float *largest);
int cv_largest(CvBackend *b, const CvTensor *largest, const CvTensor *x);
int cv_enter(CvBackend *b);  /* b may be NULL here and below */
void cv_leave(CvBackend *b);
int cv_linear(CvBackend *b, const CvLinear *a);
int cv_attention(CvBackend *b, const CvAttention *a);
int cv_add_product(CvBackend *b, const CvTensor *out, const CvTensor *left,
                   const CvTensor *right, float scale);
int cv_quantise(CvBackend *b, const CvTensor *out, const CvTensor *scale,
                const CvTensor *x);
int cv_scale_rows(CvBackend *b, const CvTensor *x, const CvTensor *scale);
int cv_rms_norm(CvBackend *b, const CvTensor *out, const CvTensor *x,
                const CvTensor *weight, float eps);
int cv_silu(CvBackend *b, const CvTensor *out, const CvTensor *x);
int cv_embed(CvBackend *b, const CvTensor *out, const CvTensor *table,
             const CvTensor *scale, const CvTensor *ids);
int cv_t5_bias(CvBackend *b, const CvTensor *out, const CvTensor *table);
int cv_timestep_embedding(CvBackend *b, const CvTensor *out, const CvTensor *t);
int cv_modulation(CvBackend *b, const CvTensor *out, const CvTensor *table,
                  const CvTensor *x);
int cv_norm_modulate(CvBackend *b, const CvTensor *out,
                     const CvTensor *out_scale, const CvTensor *x,
                     const CvTensor *mod, int shift_row, int scale_row,
                     float eps);
int cv_layer_norm(CvBackend *b, const CvTensor *out, const CvTensor *out_scale,
                  const CvTensor *x, const CvTensor *weight,
                  const CvTensor *bias, float eps);
int cv_rope_table(CvBackend *b, const CvTensor *out, int64_t first_frame,
                  int frames, int h, int w);
int cv_qk_norm_rope(CvBackend *b, const CvQkNormRope *a);
int64_t cv_ring_bytes(CvBackend *b, const CvRing *ring);
int cv_patchify(CvBackend *b, const CvTensor *out, const CvTensor *x);
int cv_unpatchify(CvBackend *b, const CvTensor *out, const CvTensor *x);
int cv_combine(CvBackend *b, const CvTensor *out, const CvTerm *terms,
               int n_terms);
int cv_conv3d(CvBackend *b, const CvConv3d *a);
int cv_norm_silu(CvBackend *b, const CvTensor *out, const CvTensor *x,
                 const CvTensor *gamma, int silu);
int cv_soft_clamp(CvBackend *b, const CvTensor *out, const CvTensor *x,
                  float limit);
int cv_split_frames(CvBackend *b, const CvTensor *out, const CvTensor *x);
int cv_to_channels_last(CvBackend *b, const CvTensor *out, const CvTensor *x,
                        const float *mul, const float *add);
int cv_to_channels_first(CvBackend *b, const CvTensor *out, const CvTensor *x,
                         const float *mul, const float *add);
int cv_convert(CvBackend *b, const CvTensor *out, const CvTensor *x);
int cv_to_picture(CvBackend *b, const CvPictureArgs *a);
int cv_reuse_frames(CvBackend *b);

#endif /* CV_OPS_H */
