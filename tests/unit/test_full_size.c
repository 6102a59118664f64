/*
 * The published networks at their real sizes: files of many gigabytes whose
 * data is a hole, so that names, shapes, counts and offsets are checked without
 * a download.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * Numbers: checkpoints.md, first table and 1.1, 2.1, 2.3, 2.5, 9.
 */
#include <unistd.h>

#include "../tap.h"
#include "dit/dit.h"
#include "text/text.h"
#include "vae/vae.h"
#include "weights_util.h"

static Lines lines;
static CvBackend *none;

/* ---- a safetensors header that grows ---- */

typedef struct Header {
    char *text;
    size_t used, room;
    CvType type;
    int64_t at;         /* bytes of data so far */
    int64_t n, elements;
} Header;

static void begin(Header *h, CvType type)
{
    memset(h, 0, sizeof(*h));
    h->type = type;
    h->room = 1 << 20;
    h->text = malloc(h->room);
    if (!h->text)
        tap_bail("malloc");
    h->text[h->used++] = '{';
}

/* dims: as in "1536,16,1,2,2". */
static void add(Header *h, const char *name, const char *dims)
{
    int64_t elements = 1, end;

    for (const char *p = dims; p; p = strchr(p, ',')) {
        p += *p == ',';
        elements *= strtoll(p, NULL, 10);
    }
    end = h->at + elements * (int64_t)cv_type_bytes(h->type);
    if (h->used + 400 > h->room)
        tap_bail("the header is too long");
    h->used += (size_t)sprintf(h->text + h->used, "%s\"%s\":{\"dtype\":\"%s\","
                               "\"shape\":[%s],\"data_offsets\":[%lld,%lld]}",
                               h->n ? "," : "", name, cv_type_name(h->type),
                               dims, (long long)h->at, (long long)end);
    h->at = end;
    h->n++;
    h->elements += elements;
}

/* Formatted name and dims in one: "name|dims". */
__attribute__((format(printf, 2, 3)))
static void addf(Header *h, const char *format, ...)
{
    char text[256], *bar;
    va_list args;

    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    bar = strchr(text, '|');
    if (!bar)
        tap_bail("no '|' in %s", text);
    *bar = 0;
    add(h, text, bar + 1);
}

/* Write it as a file with a hole for the data. NULL: this file system cannot
 * hold it. */
static const char *save(Header *h, const char *name)
{
    static const char *folder;
    const char *path;
    Blob b;

    if (!folder)
        folder = temp_folder();
    h->text[h->used++] = '}';
    while (h->used % 8) /* as the library does: data that is not aligned */
        h->text[h->used++] = ' '; /* would be copied, all 57 GB of it */
    h->text[h->used] = 0;
    b    = st_raw(h->text, 0);
    path = save_blob(folder, name, b);
    if (truncate(path, (off_t)b.size + h->at) < 0)
        path = NULL;
    blob_free(&b);
    free(h->text);
    return path;
}

/* ---- the networks ---- */

static void linear(Header *h, const char *name, int out, int in)
{
    addf(h, "%s.weight|%d,%d", name, out, in);
    addf(h, "%s.bias|%d", name, out);
}

static void transformer(Header *h, int dim, int ffn, int layers)
{
    addf(h, "patch_embedding.weight|%d,16,1,2,2", dim);
    addf(h, "patch_embedding.bias|%d", dim);
    linear(h, "text_embedding.0", dim, 4096);
    linear(h, "text_embedding.2", dim, dim);
    linear(h, "time_embedding.0", dim, 256);
    linear(h, "time_embedding.2", dim, dim);
    linear(h, "time_projection.1", 6 * dim, dim);
    linear(h, "head.head", 64, dim);
    addf(h, "head.modulation|1,2,%d", dim);
    for (int i = 0; i < layers; i++) {
        char name[64];

        addf(h, "blocks.%d.modulation|1,6,%d", i, dim);
        for (int cross = 0; cross < 2; cross++) {
            const char *attn = cross ? "cross_attn" : "self_attn";

            for (const char *x = "qkvo"; *x; x++) {
                snprintf(name, sizeof(name), "blocks.%d.%s.%c", i, attn, *x);
                linear(h, name, dim, dim);
            }
            addf(h, "blocks.%d.%s.norm_q.weight|%d", i, attn, dim);
            addf(h, "blocks.%d.%s.norm_k.weight|%d", i, attn, dim);
        }
        addf(h, "blocks.%d.norm3.weight|%d", i, dim);
        addf(h, "blocks.%d.norm3.bias|%d", i, dim);
        snprintf(name, sizeof(name), "blocks.%d.ffn.0", i);
        linear(h, name, ffn, dim);
        snprintf(name, sizeof(name), "blocks.%d.ffn.2", i);
        linear(h, name, dim, ffn);
    }
}

static void umt5_xxl(Header *h)
{
    add(h, "token_embedding.weight", "256384,4096");
    add(h, "norm.weight", "4096");
    for (int i = 0; i < 24; i++) {
        addf(h, "blocks.%d.norm1.weight|4096", i);
        addf(h, "blocks.%d.norm2.weight|4096", i);
        for (const char *x = "qkvo"; *x; x++)
            addf(h, "blocks.%d.attn.%c.weight|4096,4096", i, *x);
        addf(h, "blocks.%d.pos_embedding.embedding.weight|32,64", i);
        addf(h, "blocks.%d.ffn.gate.0.weight|10240,4096", i);
        addf(h, "blocks.%d.ffn.fc1.weight|10240,4096", i);
        addf(h, "blocks.%d.ffn.fc2.weight|4096,10240", i);
    }
}

static void conv(Header *h, const char *name, int out, int in,
                 const char *kernel)
{
    addf(h, "%s.weight|%d,%d,%s", name, out, in, kernel);
    addf(h, "%s.bias|%d", name, out);
}

static void residual(Header *h, const char *stem, int in, int out)
{
    char name[96];

    addf(h, "%s.residual.0.gamma|%d,1,1,1", stem, in);
    snprintf(name, sizeof(name), "%s.residual.2", stem);
    conv(h, name, out, in, "3,3,3");
    addf(h, "%s.residual.3.gamma|%d,1,1,1", stem, out);
    snprintf(name, sizeof(name), "%s.residual.6", stem);
    conv(h, name, out, out, "3,3,3");
    snprintf(name, sizeof(name), "%s.shortcut", stem);
    if (in != out)
        conv(h, name, out, in, "1,1,1");
}

static void resample(Header *h, const char *stem, int out, int in, int time)
{
    char name[96];

    snprintf(name, sizeof(name), "%s.resample.1", stem);
    conv(h, name, out, in, "3,3");
    snprintf(name, sizeof(name), "%s.time_conv", stem);
    if (time)
        conv(h, name, time, in, "3,1,1");
}

static void middle(Header *h, const char *coder)
{
    char name[64];

    for (int i = 0; i < 3; i += 2) {
        snprintf(name, sizeof(name), "%s.middle.%d", coder, i);
        residual(h, name, 384, 384);
    }
    addf(h, "%s.middle.1.norm.gamma|384,1,1", coder);
    snprintf(name, sizeof(name), "%s.middle.1.to_qkv", coder);
    conv(h, name, 1152, 384, "1,1");
    snprintf(name, sizeof(name), "%s.middle.1.proj", coder);
    conv(h, name, 384, 384, "1,1");
}

static void wan_vae(Header *h)
{
    /* in and out channels of the flat lists; 0: a resampler, whose third and
     * fourth number are its input and what time_conv gives */
    static const int down[11][4] = {
        { 96, 96 }, { 96, 96 }, { 0, 96, 96, 0 }, { 96, 192 }, { 192, 192 },
        { 0, 192, 192, 192 }, { 192, 384 }, { 384, 384 },
        { 0, 384, 384, 384 }, { 384, 384 }, { 384, 384 },
    };
    static const int up[15][4] = {
        { 384, 384 }, { 384, 384 }, { 384, 384 }, { 0, 192, 384, 768 },
        { 192, 384 }, { 384, 384 }, { 384, 384 }, { 0, 192, 384, 768 },
        { 192, 192 }, { 192, 192 }, { 192, 192 }, { 0, 96, 192, 0 },
        { 96, 96 }, { 96, 96 }, { 96, 96 },
    };
    char name[64];

    conv(h, "conv1", 32, 32, "1,1,1");
    conv(h, "conv2", 16, 16, "1,1,1");
    conv(h, "encoder.conv1", 96, 3, "3,3,3");
    conv(h, "decoder.conv1", 384, 16, "3,3,3");
    middle(h, "encoder");
    middle(h, "decoder");
    for (int i = 0; i < 26; i++) {
        const int *c = i < 11 ? down[i] : up[i - 11];

        snprintf(name, sizeof(name), i < 11 ? "encoder.downsamples.%d" :
                 "decoder.upsamples.%d", i < 11 ? i : i - 11);
        if (c[0])
            residual(h, name, c[0], c[1]);
        else
            resample(h, name, c[1], c[2], c[3]);
    }
    add(h, "encoder.head.0.gamma", "384,1,1,1");
    conv(h, "encoder.head.2", 32, 384, "3,3,3");
    add(h, "decoder.head.0.gamma", "96,1,1,1");
    conv(h, "decoder.head.2", 3, 96, "3,3,3");
}

/* ---- checks ---- */

static void test_transformer(const char *name, int dim, int ffn, int layers,
                             int64_t count, int64_t elements)
{
    const char *path;
    CvDit *dit = NULL;
    Header h;
    int err;

    begin(&h, CV_F32);
    transformer(&h, dim, ffn, layers);
    path = save(&h, "dit.safetensors");
    ok(h.n == count && h.elements == elements, "%s: %lld tensors, %lld "
       "parameters", name, (long long)h.n, (long long)h.elements);
    if (!path) {
        tap_skip(2, "no place for a file of %.0f GB", (double)h.at / 1e9);
        return;
    }
    err = cv_dit_open(&dit, none, path, "", "", &lines.log);
    if (!err)
        err = cv_dit_load(dit);
    ok(!err && lines_none(&lines), "%s opens", name);
    ok(dit && cv_dit_size(dit)->heads == dim / 128 &&
       cv_dit_size(dit)->layers == layers &&
       cv_dit_size(dit)->ffn_dim == ffn &&
       cv_dit_size(dit)->in_channels == 16 &&
       cv_dit_bytes(dit) >= (size_t)elements * 4,
       "  %s", dit ? cv_dit_describe(dit) : "");
    cv_dit_close(&dit);
}

static void test_text_encoder(void)
{
    const char *path;
    CvUmt5 *umt5 = NULL;
    Header h;
    int err;

    begin(&h, CV_BF16);
    umt5_xxl(&h);
    path = save(&h, "t5.safetensors");
    ok(h.n == 242 && h.elements == 5680910336 && h.at == 11361820672,
       "UMT5-XXL: %lld tensors, %lld parameters", (long long)h.n,
       (long long)h.elements);
    if (!path) {
        tap_skip(1, "no place for a file of %.0f GB", (double)h.at / 1e9);
        return;
    }
    err = cv_umt5_open(&umt5, none, path, "", &lines.log);
    if (!err)
        err = cv_umt5_load(umt5);
    ok(!err && lines_none(&lines) && cv_umt5_dim(umt5) == 4096 &&
       cv_umt5_vocab(umt5) == 256384, "  %s",
       umt5 ? cv_umt5_describe(umt5) : "");
    cv_umt5_close(&umt5);
}

static void test_vae(void)
{
    const char *path;
    CvVae *vae = NULL;
    Header h;
    int err;

    begin(&h, CV_F32);
    wan_vae(&h);
    path = save(&h, "vae.safetensors");
    ok(h.n == 194 && h.elements == 126892531 && h.at == 507570124,
       "the VAE: %lld tensors, %lld parameters", (long long)h.n,
       (long long)h.elements);
    if (!path) {
        tap_skip(1, "no place for a file of %.1f GB", (double)h.at / 1e9);
        return;
    }
    err = cv_vae_open(&vae, none, path, "", 1, &lines.log);
    if (!err)
        err = cv_vae_load(vae);
    ok(!err && lines_none(&lines) && cv_vae_channels(vae) == 16 &&
       cv_vae_scale(vae) == 8 && cv_vae_time_scale(vae) == 4 &&
       cv_vae_has_encoder(vae), "  %s", vae ? cv_vae_describe(vae) : "");
    cv_vae_close(&vae);
}

/* random: models have the same shapes: opening them refuses any other name. */
static void test_random(const char *name, int dim, int ffn, int layers,
                        size_t elements)
{
    char path[64];
    CvDit *dit = NULL;
    CvUmt5 *umt5 = NULL;
    CvVae *vae = NULL;
    CvWeights *weights = NULL;
    int64_t n = 0;
    int err;

    snprintf(path, sizeof(path), "random:%s/transformer", name);
    err = cv_dit_open(&dit, none, path, "", "", &lines.log);
    ok(!err && cv_dit_size(dit)->dim == dim && cv_dit_size(dit)->ffn_dim == ffn &&
       cv_dit_size(dit)->layers == layers &&
       cv_dit_size(dit)->heads == dim / 128 &&
       cv_dit_bytes(dit) >= elements * 4 &&
       cv_dit_bytes(dit) < elements * 4 + (size_t)layers * 32 * 256 + 8192,
       "%s: %s", path, dit ? cv_dit_describe(dit) : lines.error);
    cv_dit_close(&dit);
    snprintf(path, sizeof(path), "random:%s/text_encoder", name);
    err = cv_umt5_open(&umt5, none, path, "", &lines.log);
    ok(!err && cv_umt5_dim(umt5) == 4096 && cv_umt5_vocab(umt5) == 256384 &&
       cv_umt5_bytes(umt5) >= 5680910336u * 4,
       "%s: %s", path, umt5 ? cv_umt5_describe(umt5) : lines.error);
    cv_umt5_close(&umt5);
    snprintf(path, sizeof(path), "random:%s/vae", name);
    err = cv_vae_open(&vae, none, path, "", 1, &lines.log);
    ok(!err && cv_vae_channels(vae) == 16 && cv_vae_has_encoder(vae) &&
       cv_vae_scale(vae) == 8 && cv_vae_time_scale(vae) == 4,
       "%s: %s", path, vae ? cv_vae_describe(vae) : lines.error);
    cv_vae_close(&vae);
    ok(!cv_weights_open(&weights, path, &lines.log) &&
       cv_weights_count(weights) == 194, "  of 194 tensors");
    for (int64_t i = 0; weights && i < cv_weights_count(weights); i++)
        n += cv_elements(&cv_weights_at(weights, i)->tensor);
    ok(n == 126892531, "  and %lld parameters", (long long)n);
    cv_weights_close(&weights);
    ok(lines_none(&lines), "nothing was logged");
}

static void test_random_names(void)
{
    static const char *const names[] = {
        "random:", "random:wan", "random:wan-14b", "random:wan-14b/",
        "random:wan-14bb/vae", "random:wan-14b/vae/x", "random:/vae",
    };
    CvWeights *weights = NULL;

    for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
        ok(cv_weights_open(&weights, names[i], &lines.log) ==
           CAUSVID_ERR(ENOENT) && !weights, "no weights '%s'", names[i]);
}

int main(void)
{
    lines_init(&lines);
    if (cv_null_open(&none, &lines.log) < 0)
        tap_bail("%s", lines.error);
    test_transformer("T2V-1.3B", 1536, 8960, 30, 825, 1418996800);
    test_transformer("T2V-14B", 5120, 13824, 40, 1095, 14288491584);
    test_text_encoder();
    test_vae();
    test_random("wan-1.3b", 1536, 8960, 30, 1418996800);
    test_random("wan-14b", 5120, 13824, 40, 14288491584);
    test_random_names();
    none->close(&none);
    return tap_done();
}
