/*
 * What 8-bit attention's files share: queries, keys and values in 8 bits.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * Scores do not change when a constant is taken off all keys (each query's
 * scores lose the same), when channels of queries are multiplied and those of
 * keys divided by the same factors, or when both are turned by one orthogonal
 * matrix. So the mean of the keys goes, factors make channels of both alike,
 * and a Hadamard matrix (FlashAttention-3's "incoherent processing") spreads
 * channels that stand out over all. What is left fits int8: a query has a scale
 * of its own, 64 keys share one. Of values a mean that stands out goes too, and
 * is added to results; 64 keys share a scale of values in e4m3. Means and
 * factors come from 256 tokens spread over all: every choice is exact, a near one
 * good enough. So those of a ring of keys and values (ops.h) can stay as they
 * were chosen when it had one block alone: attention8_ring.cu.
 *
 * Everything lies as products want it in shared memory, so that tiles are
 * copied as they are: tokens in groups of 64, a group's queries or keys as 64
 * rows of 128 bytes, its values as 128 rows (channels) of 64 bytes, both
 * swizzled (hopper.cuh, hopper8.cuh). Within 32 keys, values' bytes 4 i to 4 i
 * + 3 are of keys 2 (i % 4) + 16 (i / 4) + 0, 1, 8, 9: where scores lie in a
 * lane's registers, which so become an operand without moving.
 */
#ifndef CV_CUDA_ATTENTION8_CUH
#define CV_CUDA_ATTENTION8_CUH

#include "attention_plan.cuh"

enum {
    CV8_DIM = 128,
    CV8_TOKENS = CV_RING8_TOKENS,            /* of a group */
    CV8_BYTES = CV8_TOKENS * CV8_DIM,        /* of a group */
    CV8_COLUMNS = CV8_DIM + 8,               /* of results: sums of weights */
    CV8_VALUES = CV8_TOKENS * CV8_COLUMNS,   /* bytes of a group of values */
    CV8_GROUPS = CV_RING8_TILE,              /* of keys in a tile */
    CV8_KEYS = CV8_GROUPS * CV8_TOKENS,
};

/* Sums of weights whose values' scale is 2^CV8_FAR times larger than usual. */
#define CV8_FAR 17

/* Of a group of 64 keys: the factor of its keys, and of its values the binary
 * logarithm, an integer. */
typedef struct Cv8Group {
    float key, value_log, unused[2];
} Cv8Group;

/* Of a head, by channel. */
typedef struct Cv8Channels {
    float query[CV8_DIM], key[CV8_DIM]; /* multiplied with */
    float key_mean[CV8_DIM];            /* multiplied already */
    float value_mean[CV8_DIM];
    float value_unit, unused[3]; /* of sums of weights: a power of two */
} Cv8Channels;

static_assert(sizeof(Cv8Channels) == CV_RING8_HEAD_BYTES &&
              CV8_BYTES + CV8_VALUES + sizeof(Cv8Group) ==
              CV_RING8_GROUP_BYTES, "as device.h says");

/* Heads [head, head + heads) of an attention. Tokens that fill up a group have
 * the last one's key, and neither values nor a part in sums of weights. */
typedef struct Cv8 {
    Cv8Channels *channels; /* of all heads */
    uint8_t *q, *k, *v;    /* [heads, groups, CV8_BYTES; v: CV8_VALUES] */
    float *q_factor;       /* [heads, q_groups * 64]: from products with keys of
                            * a group to scores in base 2, less Cv8Group.key */
    Cv8Group *groups;      /* [heads, k_groups] */
    int head, heads;
    int q_groups, k_groups; /* of a head's memory */
} Cv8;

/* Rows of all heads that become 8 bits: n queries and m keys and values. */
typedef struct Cv8Rows {
    const cv_bf16 *q, *k, *v;
    int64_t q_step, k_step, v_step; /* from a token to the next */
    int n, m;
    int q_groups, k_groups;         /* to be written; 0: none */
    float scale;                    /* CvAttend's */
    int turning;                    /* channels whose mean stays on keys */
    uint32_t *largest;              /* becomes the largest |v|, or what it was, by
                                     * their bits; or NULL */
} Cv8Rows;

/* Find the channels of `heads` heads; then quantise the heads of a Cv8.
 * attention8_quantise.cu */
int cv_cuda_attention8_channels(CvCuda *cuda, const Cv8Rows *from, int heads,
                                Cv8Channels *channels);
int cv_cuda_attention8_quantise(CvCuda *cuda, const Cv8Rows *from,
                                const Cv8 *to);

/* Launch `blocks` blocks with what is quantised. attention8.cu */
int cv_cuda_attention8_attend(CvCuda *cuda, const CvAttend *a, const Cv8 *x,
                              const CvPlan *plan, int blocks);

#endif /* CV_CUDA_ATTENTION8_CUH */
