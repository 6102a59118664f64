/*
 * A transformer's sizes, from its weights.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * Models that need more than text (I2V, FLF2V, VACE) are refused by name
 * instead of run wrongly. Detection: checkpoints.md 1.9.
 */
#include "internal.h"

#include <inttypes.h>
#include <string.h>

/* Dimension `axis` of a tensor that must exist and have n_dims dimensions. */
static int read_dim(int64_t *value, CvWeights *weights, const char *name,
                    int n_dims, int axis, CvLog *log)
{
    const CvEntry *entry = cv_weights_find(weights, "%s", name);
    char text[CV_SHAPE_TEXT];

    if (!entry)
        return cv_fail(log, EILSEQ, "'%s': tensor '%s' is missing: the file is "
                       "incomplete or no Wan transformer",
                       cv_weights_path(weights), name);
    if (entry->tensor.n_dims != n_dims || entry->tensor.dim[axis] < 1 ||
        entry->tensor.dim[axis] > CV_DIT_MAX_SIZE)
        return cv_fail(log, EILSEQ, "'%s': tensor '%s' is %s, expected %d "
                       "dimensions from 1 to %d", entry->file, entry->stored,
                       cv_shape_text(text, &entry->tensor), n_dims,
                       CV_DIT_MAX_SIZE);
    *value = entry->tensor.dim[axis];
    return 0;
}

/* The largest number in blocks.N. plus one; at most the number of tensors, so
 * that a hostile name cannot ask for much memory. */
static int count_layers(int64_t *layers, CvWeights *weights, CvLog *log)
{
    int64_t n = cv_weights_count(weights);

    *layers = 0;
    for (int64_t i = 0; i < n; i++) {
        const char *name = cv_weights_at(weights, i)->name;
        int64_t number = 0;
        const char *digit;

        if (strncmp(name, "blocks.", 7))
            continue;
        for (digit = name + 7; *digit >= '0' && *digit <= '9'; digit++)
            number = number < n ? 10 * number + (*digit - '0') : number;
        if (digit == name + 7 || *digit != '.' || number >= n)
            return cv_fail(log, EILSEQ, "'%s': tensor '%s' has no sensible "
                           "block number", cv_weights_path(weights), name);
        if (number >= *layers)
            *layers = number + 1;
    }
    return 0;
}

/* Tensors by which kinds are known that need inputs which this version does
 * not make. Source of all but the first and the last: Comfy-Org/ComfyUI
 * comfy/model_detection.py. */
static const struct {
    const char *name, *kind;
} other_kinds[] = {
    { "vace_blocks.0.before_proj.weight", "VACE" },
    { "vace_patch_embedding.weight", "VACE" },
    { "control_adapter.conv.weight", "camera control (Fun-Camera)" },
    { "casual_audio_encoder.encoder.final_linear.weight",
      "speech to video (S2V) of Wan 2.2" },
    { "audio_proj.audio_proj_glob_1.layer.bias", "HuMo" },
    { "face_adapter.fuser_blocks.0.k_norm.weight", "Animate of Wan 2.2" },
    { "img_emb.emb_pos", "first and last frame to video (FLF2V)" },
    { "ref_conv.weight", "control by a video (Fun-Control)" },
    { "blocks.0.cross_attn.k_img.weight", "image to video (I2V)" },
};

static int refuse_other_kinds(CvWeights *weights, const CvDitSize *size,
                              CvLog *log)
{
    const size_t n = sizeof(other_kinds) / sizeof(*other_kinds);
    const char *kind = NULL;

    for (size_t i = 0; i < n && !kind; i++)
        if (cv_weights_find(weights, "%s", other_kinds[i].name))
            kind = other_kinds[i].kind;
    if (!kind && size->in_channels == 48 && size->out_channels == 48)
        kind = "text and image to video (TI2V) of Wan 2.2, 5B";
    if (!kind && size->in_channels == 36)
        kind = "image to video (I2V) of Wan 2.2 (36 input channels, but no "
               "keys for an image)";
    if (!kind && size->in_channels != size->out_channels)
        kind = "image to video (I2V): it has more input than output channels";
    if (!kind)
        return 0;
    return cv_fail(log, ENOSYS, "'%s': this is a Wan model of the kind %s, "
                   "which is not supported; use a text to video (T2V) model",
                   cv_weights_path(weights), kind);
}

int cv_dit_read_sizes(CvDit *dit, CvWeights *weights, CvLog *log)
{
    CvDitSize *size = &dit->size;
    const CvEntry *patch;
    char text[CV_SHAPE_TEXT];
    int64_t out = 0;
    int err;

    err = read_dim(&size->dim, weights, "patch_embedding.weight", 5, 0, log);
    if (!err)
        err = read_dim(&size->in_channels, weights, "patch_embedding.weight",
                       5, 1, log);
    if (!err)
        err = read_dim(&size->ffn_dim, weights, "blocks.0.ffn.0.bias", 1, 0,
                       log);
    if (!err)
        err = read_dim(&size->text_dim, weights, "text_embedding.0.weight", 2,
                       1, log);
    if (!err)
        err = read_dim(&size->freq_dim, weights, "time_embedding.0.weight", 2,
                       1, log);
    if (!err)
        err = read_dim(&out, weights, "head.head.weight", 2, 0, log);
    if (!err)
        err = count_layers(&size->layers, weights, log);
    if (err)
        return err;

    patch = cv_weights_find(weights, "patch_embedding.weight");
    if (patch->tensor.dim[2] != 1 || patch->tensor.dim[3] != 2 ||
        patch->tensor.dim[4] != 2)
        return cv_fail(log, ENOSYS, "'%s': tensor '%s' is %s, only patches of "
                       "1x2x2 are supported", patch->file, patch->stored,
                       cv_shape_text(text, &patch->tensor));
    if (out % 4)
        return cv_fail(log, EILSEQ, "'%s': tensor 'head.head.weight' has "
                       "%" PRId64 " rows, expected 4 for each channel",
                       cv_weights_path(weights), out);
    if (size->freq_dim % 2)
        return cv_fail(log, EILSEQ, "'%s': tensor 'time_embedding.0.weight' "
                       "has %" PRId64 " columns, expected an even number",
                       cv_weights_path(weights), size->freq_dim);
    size->out_channels = out / 4;
    dit->cross_norm = cv_weights_find(weights, "blocks.0.norm3.weight") != NULL;
    return refuse_other_kinds(weights, size, log);
}
