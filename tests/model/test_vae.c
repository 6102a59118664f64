/*
 * The VAE against diffusers' AutoencoderKLWan, and the tiny decoder against its
 * description in PyTorch, streamed in several ways; and what they say to wrong
 * files.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * Fixtures: tests/model/make/vae.py, tiny.py.
 */
#include <errno.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

#include "vae/net.h"

#include "../tap.h"

#define TOLERANCE 1e-4
#define TINY_TOLERANCE 1e-5 /* no norm makes small differences large */
#define MAX_CALLS 8

typedef struct Fixture {
    const char *name, *weights, *config;
    int channels, scale, time_scale;
    int tiny; /* a decoder only, and not the encoder that is in the file */
} Fixture;

static const Fixture fixtures[] = {
    { "wan", "Wan2.1_VAE.safetensors", NULL, 16, 8, 4, 0 },
    { "narrow", "diffusion_pytorch_model.safetensors", "config.json", 4, 8, 4,
      0 },
    { "short", "diffusion_pytorch_model.safetensors", "config.json", 6, 4, 2,
      0 },
    { "tiny", "taew2_1.safetensors", NULL, 16, 8, 4, 1 },
    { "tiny", "taew2_1.pth", NULL, 16, 8, 4, 1 },
    { "tiny-more", "taew2_1.safetensors", NULL, 4, 8, 4, 1 },
};

/* The last error line, and after how many more questions the library shall
 * stop; 0: never. */
typedef struct Caller {
    char error[1024];
    int stop;
} Caller;

typedef struct Bench {
    Caller caller;
    CvLog log;
    CvBackend *backend;
    char dir[64]; /* for damaged copies */
} Bench;

/* A stored clip: latents, the frames they decode to, and, where there is an
 * encoder, the latents that these frames encode to. */
typedef struct Clip {
    CvTensor latents, frames, encoded; /* data: malloc */
} Clip;

static void keep_error(void *cookie, enum CausvidLogLevel level,
                       const char *format, va_list args)
{
    Caller *caller = cookie;

    if (level == CAUSVID_LOG_ERROR)
        vsnprintf(caller->error, sizeof(caller->error), format, args);
}

static int stop(void *cookie)
{
    Caller *caller = cookie;

    return caller->stop && !--caller->stop;
}

static const char *fixture_path(char path[512], const char *name,
                                const char *file)
{
    const char *src = getenv("CAUSVID_SRC");

    snprintf(path, 512, "%s/tests/model/fixtures/vae/%s/%s", src ? src : ".",
             name, file);
    return path;
}

static void *need(void *memory)
{
    if (!memory)
        tap_bail("out of memory");
    return memory;
}

static CvTensor read_tensor(CvWeights *weights, const char *name)
{
    const CvEntry *entry = cv_weights_find(weights, "%s", name);
    CvTensor t;

    if (!entry || entry->tensor.type != CV_F32)
        tap_bail("%s has no float32 '%s'", cv_weights_path(weights), name);
    t = entry->tensor;
    t.data = need(malloc((size_t)cv_tensor_bytes(&t)));
    memcpy(t.data, entry->tensor.data, (size_t)cv_tensor_bytes(&t));
    return t;
}

static void read_clip(Bench *bench, const Fixture *f, Clip *clip)
{
    CvWeights *weights = NULL;
    char path[512];

    *clip = (Clip){ 0 };
    fixture_path(path, f->name, "clips.safetensors");
    if (cv_weights_open(&weights, path, &bench->log) < 0)
        tap_bail("%s", bench->caller.error);
    clip->latents = read_tensor(weights, "latents");
    clip->frames = read_tensor(weights, "frames");
    if (!f->tiny)
        clip->encoded = read_tensor(weights, "encoded");
    cv_weights_close(&weights);
}

static void free_clip(Clip *clip)
{
    free(clip->latents.data);
    free(clip->frames.data);
    free(clip->encoded.data);
}

static int open_fixture(Bench *bench, const Fixture *f, int encoder,
                        CvVae **vae)
{
    char path[512], config[512] = "";
    int err;

    if (f->config)
        fixture_path(config, f->name, f->config);
    err = cv_vae_open(vae, bench->backend,
                      fixture_path(path, f->name, f->weights), config,
                      encoder, &bench->log);
    return err < 0 ? err : cv_vae_load(*vae);
}

/* |a - b| / |b|, with a clamped to -1..1 first where asked: diffusers clamps
 * frames as the last step, we do when a picture is written. */
static double error_of(const float *a, const float *b, int64_t n, int clamp)
{
    double error = 0, norm = 0;

    for (int64_t i = 0; i < n; i++) {
        double v = a[i];

        if (clamp)
            v = v < -1 ? -1 : v > 1 ? 1 : v;
        error += (v - b[i]) * (v - b[i]);
        norm += (double)b[i] * b[i];
    }
    return sqrt(error / norm);
}

/* Nothing of a stream may be left in scratch: make that no number. */
static void spoil_scratch(CvArena *arena)
{
    if (!arena->backend->planning)
        memset(arena->base + arena->used, 0xff, arena->size - arena->used);
}

/* Decode or encode the clip's beginning in calls of the given sizes (latents
 * or frames; they end with 0), planned first. piece: frames at a time where
 * they are largest, 0: as the state chooses. The result is malloc'ed. */
static float *stream(Bench *bench, CvVae *vae, const Clip *clip, int encode,
                     const int *calls, int piece)
{
    const CvTensor *from = encode ? &clip->frames : &clip->latents;
    const CvTensor *like = encode ? &clip->encoded : &clip->frames;
    CvArena arena = { .backend = bench->backend };
    CvRun run = { bench->backend, &arena, &bench->log };
    float *host = need(malloc((size_t)cv_tensor_bytes(like)));
    int time_scale = cv_vae_time_scale(vae), err = 0;
    size_t peak = 0;

    cv_arena_plan(&arena, bench->backend);
    for (int pass = 0; pass < 2 && !err; pass++) {
        CvTensor in = *from, out = *like;
        CvVaeState *state = NULL;
        int64_t read = 0, written = 0;

        if (pass == 1) {
            peak = arena.peak;
            err = cv_arena_take(&arena, &bench->log, "a test");
        }
        if (!err)
            err = cv_arena_tensor(&arena, &in);
        if (!err)
            err = cv_arena_tensor(&arena, &out);
        if (!err)
            err = cv_upload(bench->backend, &in, from->data, CV_F32);
        if (!err)
            err = cv_zero(bench->backend, &out);
        if (!err && encode)
            err = cv_vae_encoder_state(&state, vae, &run, (int)from->dim[1],
                                       (int)from->dim[2]);
        else if (!err)
            err = cv_vae_decoder_state(&state, vae, &run, (int)from->dim[2],
                                       (int)from->dim[3]);
        if (!err && piece)
            state->piece = piece;
        if (!err)
            err = cv_vae_state_reset(state, &run);
        for (int i = 0; calls[i] && !err; i++) {
            int64_t n = encode ? (calls[i] == 1 ? 1 : calls[i] / time_scale)
                               : cv_vae_frames(state, calls[i]);
            CvTensor x = cv_rows(&in, read, calls[i]);
            CvTensor y = cv_rows(&out, written, n);

            err = encode ? cv_vae_encode(vae, &run, state, &y, &x)
                         : cv_vae_decode(vae, &run, state, &y, &x);
            spoil_scratch(&arena);
            read += calls[i];
            written += n;
        }
        if (!err && pass == 1) {
            CvTensor done = cv_rows(&out, 0, written);

            err = cv_download(bench->backend, host, &done);
            if (!err && arena.peak != peak)
                err = cv_fail(&bench->log, EINVAL, "plan: %zu bytes, run: "
                              "%zu", peak, arena.peak);
        }
        cv_vae_state_free(&state);
    }
    bench->backend->planning = 0;
    cv_arena_free(&arena);
    if (err) {
        tap_diag("error %d: %s", err, bench->caller.error);
        free(host);
        return NULL;
    }
    return host;
}

/* How many latents or frames of output there are after these calls. */
static int64_t outputs(const int *calls, int encode, int time_scale)
{
    int64_t n = 0;

    for (int i = 0; calls[i]; i++)
        n += calls[i];
    if (encode)
        return 1 + (n - 1) / time_scale;
    return 1 + (n - 1) * time_scale;
}

/* One stream against the reference, or bit for bit against `same`. */
static void check_stream(Bench *bench, CvVae *vae, const Fixture *f,
                         const Clip *clip, int encode, const int *calls,
                         int piece, const float *same)
{
    const CvTensor *like = encode ? &clip->encoded : &clip->frames;
    int64_t n = outputs(calls, encode, f->time_scale) * cv_row_elements(like);
    float *result = stream(bench, vae, clip, encode, calls, piece);
    const char *what = encode ? "encode frames" : "decode latents";
    char text[64] = "", pieces[32] = "";
    double error = INFINITY, most = f->tiny ? TINY_TOLERANCE : TOLERANCE;

    for (int i = 0, at = 0; calls[i]; i++)
        at += snprintf(text + at, sizeof(text) - (size_t)at, "%s%d",
                       i ? "+" : "", calls[i]);
    if (piece)
        snprintf(pieces, sizeof(pieces), " in pieces of %d", piece);
    if (same) {
        ok(result && !memcmp(result, same, (size_t)n * sizeof(float)),
           "%s: %s %s%s: bit for bit the same", f->name, what, text, pieces);
    } else {
        if (result)
            error = error_of(result, like->data, n, !encode);
        ok(error <= most, "%s: %s %s: %.1e", f->name, what, text, error);
    }
    free(result);
}

static void check_fixture(Bench *bench, const Fixture *f)
{
    int t, s = f->time_scale;
    CvVae *vae = NULL;
    Clip clip;
    float *whole;

    read_clip(bench, f, &clip);
    t = (int)clip.latents.dim[0];
    if (!ok(open_fixture(bench, f, 1, &vae) == 0 &&
            cv_vae_has_encoder(vae) == !f->tiny, "%s/%s: opens", f->name,
            f->weights)) {
        tap_diag("%s", bench->caller.error);
        free_clip(&clip);
        return;
    }
    tap_diag("%s", cv_vae_describe(vae));
    is_int(cv_vae_channels(vae), f->channels);
    is_int(cv_vae_scale(vae), f->scale);
    is_int(cv_vae_time_scale(vae), f->time_scale);

    for (int encode = 0; encode < 2 - f->tiny; encode++) {
        int unit = encode ? s : 1, rest = (t - 1) * unit;
        int calls[MAX_CALLS] = { 1 };

        /* One latent, two, all of them. */
        check_stream(bench, vae, f, &clip, encode, calls, 0, NULL);
        calls[1] = unit;
        check_stream(bench, vae, f, &clip, encode, calls, 0, NULL);
        if (t > 2) {
            calls[1] = rest;
            check_stream(bench, vae, f, &clip, encode, calls, 0, NULL);
        }

        whole = stream(bench, vae, &clip, encode, calls, 0);
        if (!whole)
            continue;
        check_stream(bench, vae, f, &clip, encode, calls, 1, whole);
        check_stream(bench, vae, f, &clip, encode, calls, 2, whole);
        for (int i = 1; i < t; i++)
            calls[i] = unit;
        check_stream(bench, vae, f, &clip, encode, calls, 0, whole);
        if (t > 3) {
            memcpy(calls, (int[]){ 1, 2 * unit, rest - 2 * unit, 0 },
                   4 * sizeof(int));
            check_stream(bench, vae, f, &clip, encode, calls, 0, whole);
        }
        if (!encode) {
            memcpy(calls, (int[]){ t, 0 }, 2 * sizeof(int));
            check_stream(bench, vae, f, &clip, encode, calls, 0, whole);
        }
        free(whole);
    }
    cv_vae_close(&vae);
    free_clip(&clip);
}

typedef struct Decoding {
    Bench *bench;
    CvVae *vae;
    CvRun run;
    CvVaeState *state;
    CvTensor in, out;
} Decoding;

/* A clip from its beginning, stopped the stop-th time that it asks (0: never),
 * to host. */
static int decode_clip(Decoding *d, int stop, float *host)
{
    int err = cv_vae_state_reset(d->state, &d->run);

    d->bench->caller.stop = stop;
    err = err ? err : cv_vae_decode(d->vae, &d->run, d->state, &d->out, &d->in);
    d->bench->caller.stop = 0;
    spoil_scratch(d->run.arena);
    return err ? err : cv_download(d->bench->backend, host, &d->out);
}

/* Stop a clip wherever it asks. Each time the next one has to be the same as
 * ever. How often it was stopped, or -1. */
static int stop_everywhere(Decoding *d, const float *same, float *host)
{
    size_t bytes = (size_t)cv_tensor_bytes(&d->out);

    for (int stop = 1;; stop++) {
        int err = decode_clip(d, stop, host);

        if (err != CAUSVID_ERR(ECANCELED))
            return err ? -1 : stop - 1;
        if (decode_clip(d, 0, host) || memcmp(host, same, bytes))
            return -1;
    }
}

/* A state that is reset starts a new video, and keeps nothing of the old: of one
 * that ended, or was stopped anywhere. */
static void check_reset(Bench *bench)
{
    const Fixture *f = &fixtures[1];
    CvArena arena = { .backend = bench->backend };
    Decoding d = { .bench = bench,
                   .run = { bench->backend, &arena, &bench->log } };
    float *host[2] = { NULL, NULL };
    int err, stops = 0;
    Clip clip;

    read_clip(bench, f, &clip);
    host[0] = need(malloc((size_t)cv_tensor_bytes(&clip.frames)));
    host[1] = need(malloc((size_t)cv_tensor_bytes(&clip.frames)));
    err = open_fixture(bench, f, 0, &d.vae);
    cv_arena_plan(&arena, bench->backend);
    for (int pass = 0; pass < 2 && !err; pass++) {
        d.in = clip.latents;
        d.out = clip.frames;
        if (pass == 1)
            err = cv_arena_take(&arena, &bench->log, "a test");
        err = err ? err : cv_arena_tensor(&arena, &d.in);
        err = err ? err : cv_arena_tensor(&arena, &d.out);
        err = err ? err : cv_upload(bench->backend, &d.in, clip.latents.data,
                                    CV_F32);
        err = err ? err : cv_vae_decoder_state(&d.state, d.vae, &d.run,
                                               (int)d.in.dim[2],
                                               (int)d.in.dim[3]);
        if (!err)
            d.state->piece = 2;
        for (int i = 0; i < 2 && !err; i++)
            err = decode_clip(&d, 0, host[i]);
        if (!err && pass == 1) {
            CvTensor wrong = cv_rows(&d.out, 1, d.out.dim[0] - 1);
            CvTensor narrow = CV_RESHAPE(d.in, d.in.dim[0], d.in.dim[1],
                                         d.in.dim[3], d.in.dim[2]);

            ok(!memcmp(host[0], host[1], (size_t)cv_tensor_bytes(&d.out)) &&
               error_of(host[1], clip.frames.data, cv_elements(&d.out), 1) <=
               TOLERANCE, "a reset state decodes the same again");
            stops = stop_everywhere(&d, host[0], host[1]);
            ok(stops > 20, "and where it was stopped before, in %d places",
               stops);
            ok(cv_vae_decode(d.vae, &d.run, d.state, &wrong, &d.in) ==
               CAUSVID_ERR(EINVAL), "too few frames for the latents: EINVAL");
            ok(cv_vae_decode(d.vae, &d.run, d.state, &d.out, &narrow) ==
               CAUSVID_ERR(EINVAL), "latents of another size: EINVAL");
        }
        cv_vae_state_free(&d.state);
    }
    ok(!err && d.vae && !cv_vae_has_encoder(d.vae) &&
       cv_vae_encoder_state(&d.state, d.vae, &d.run, 20, 28) ==
       CAUSVID_ERR(ENOSYS), "opened without encoder: it cannot encode");
    bench->backend->planning = 0;
    cv_arena_free(&arena);
    cv_vae_close(&d.vae);
    free_clip(&clip);
    free(host[0]);
    free(host[1]);
}

/* ---- wrong files ---- */

typedef struct Buffer {
    char *data;
    size_t size;
} Buffer;

static Buffer read_file(const char *path)
{
    FILE *file = fopen(path, "rb");
    Buffer b = { NULL, 0 };
    long size;

    if (!file || fseek(file, 0, SEEK_END) || (size = ftell(file)) < 0 ||
        fseek(file, 0, SEEK_SET))
        tap_bail("cannot read %s", path);
    b.size = (size_t)size;
    b.data = need(malloc(b.size + 1));
    if (fread(b.data, 1, b.size, file) != b.size)
        tap_bail("cannot read %s", path);
    fclose(file);
    return b;
}

static size_t find_text(const Buffer *b, size_t from, const char *text)
{
    size_t n = strlen(text);

    for (size_t i = from; i + n <= b->size; i++)
        if (!memcmp(b->data + i, text, n))
            return i;
    tap_bail("the fixture does not hold '%s'", text);
}

/* A damaged copy of a file: after `after`, `old` becomes `new`. */
static void damage(const char *from, const char *to, const char *after,
                   const char *old, const char *new)
{
    Buffer b = read_file(from);
    size_t at = find_text(&b, find_text(&b, 0, after), old);
    size_t end = at + strlen(old);
    FILE *file = fopen(to, "wb");

    if (!file || fwrite(b.data, 1, at, file) != at ||
        fwrite(new, 1, strlen(new), file) != strlen(new) ||
        fwrite(b.data + end, 1, b.size - end, file) != b.size - end ||
        fclose(file))
        tap_bail("cannot write %s", to);
    free(b.data);
}

/* Opening must fail with this error and a line that holds `word`. */
static void check_refused(Bench *bench, const char *weights,
                          const char *config, int encoder, int error,
                          const char *word, const char *what)
{
    CvVae *vae = NULL;
    int err;

    bench->caller.error[0] = '\0';
    err = cv_vae_open(&vae, bench->backend, weights, config, encoder,
                      &bench->log);
    if (!ok(err == CAUSVID_ERR(error) && !vae && !bench->backend->planning &&
            strstr(bench->caller.error, word), "%s: refused", what))
        tap_diag("  got %d, expected %d", err, CAUSVID_ERR(error));
    tap_diag("%s", bench->caller.error);
    cv_vae_close(&vae);
}

typedef struct Damage {
    const char *what, *after, *old, *new, *word;
    int encoder, error;
} Damage;

static void check_damaged(Bench *bench, const char *name, const char *weights,
                          const Damage *cases, size_t n)
{
    char path[512], copy[512];

    fixture_path(path, name, weights);
    snprintf(copy, sizeof(copy), "%s/vae.safetensors", bench->dir);
    for (size_t i = 0; i < n; i++) {
        damage(path, copy, cases[i].after, cases[i].old, cases[i].new);
        check_refused(bench, copy, "", cases[i].encoder, cases[i].error,
                      cases[i].word, cases[i].what);
    }
    unlink(copy);
}

static void check_wrong_weights(Bench *bench)
{
    static const Damage wan[] = {
        { "a missing bias", "\"decoder.head.2.bias\"", "head.2", "head.9",
          "'decoder.head.2.bias'", 1, EILSEQ },
        { "a missing convolution", "\"decoder.upsamples.14.residual.2.weight\"",
          "residual.2.weight", "residual.2.height",
          "'decoder.upsamples.14.residual.2.weight'", 1, EILSEQ },
        { "a missing tensor of the encoder", "\"encoder.middle.1.norm.gamma\"",
          "middle.1", "middle.3", "'encoder.middle.1.norm.gamma'", 1, EILSEQ },
        { "a tensor too many", "\"encoder.middle.1.norm.gamma\"",
          "encoder", "unknown", "'unknown.middle.1.norm.gamma'", 0, EILSEQ },
        { "a wrong shape", "\"decoder.upsamples.4.residual.2.weight\"",
          "[16,8,3,3,3]", "[8,16,3,3,3]",
          "'decoder.upsamples.4.residual.2.weight'", 1, EILSEQ },
        { "blocks of another VAE", "\"decoder.upsamples.3.resample.1.bias\"",
          "upsamples.3.resample.1.", "upsamples.15.another.1.",
          "'decoder.upsamples.15'", 1, ENOSYS },
    };
    static const Damage tiny[] = {
        { "a missing bias", "\"decoder.16.conv.2.bias\"", "conv.2", "conv.6",
          "'decoder.16.conv.2.bias'", 0, EILSEQ },
        { "a missing first convolution", "\"decoder.1.weight\"", "weight",
          "height", "'decoder.1.weight'", 0, EILSEQ },
        { "a memory block without memory", "\"decoder.9.conv.0.weight\"",
          "[8,16,3,3]", "[16,8,3,3]", "'decoder.9.conv.0.weight'", 0, EILSEQ },
        { "growth to too few channels", "\"decoder.13.conv.weight\"",
          "[16,8,1,1]", "[8,16,1,1]", "'decoder.13.conv.weight'", 0, EILSEQ },
        { "pictures in patches", "\"decoder.22.weight\"", "[3,5,3,3]",
          "[5,3,3,3]", "taew2_1", 0, ENOSYS },
        { "a tensor too many", "\"encoder.0.bias\"", "encoder", "encodes",
          "'encodes.0.bias'", 0, EILSEQ },
        { "too many channels", "\"decoder.1.weight\"", "[12,16,3,3]",
          "[3,576,1,1]", "at most 256", 0, EILSEQ },
    };

    check_damaged(bench, "wan", "Wan2.1_VAE.safetensors", wan,
                  sizeof(wan) / sizeof(*wan));
    check_damaged(bench, "tiny", "taew2_1.safetensors", tiny,
                  sizeof(tiny) / sizeof(*tiny));
}

static void check_wrong_configs(Bench *bench)
{
    static const struct {
        const char *old, *new, *word;
        int error;
    } cases[] = {
        { "\"z_dim\": 4", "\"z_dim\": 5", "z_dim", EILSEQ },
        { "\"base_dim\": 3", "\"base_dim\": 4", "12 channels", EILSEQ },
        { "\"num_res_blocks\": 1", "\"num_res_blocks\": 2", "block 2",
          EILSEQ },
        { "false,\n    true,\n    true", "true,\n    false,\n    true",
          "without time", EILSEQ },
        { "false,\n    true,\n    true", "false,\n    true,\n    3",
          "temperal_downsample", EILSEQ },
        { "\"scale_factor_temporal\": 4", "\"scale_factor_temporal\": 2",
          "scale_factor_temporal", EILSEQ },
        { "\"is_residual\": false", "\"is_residual\": true", "Wan 2.2",
          ENOSYS },
        { "\"patch_size\": null", "\"patch_size\": 2", "Wan 2.2", ENOSYS },
        { "\"attn_scales\": []", "\"attn_scales\": [1]", "attn_scales",
          ENOSYS },
        { "\"out_channels\": 3", "\"out_channels\": 12", "out_channels",
          ENOSYS },
        { "AutoencoderKLWan", "AutoencoderKL", "'AutoencoderKL'", ENOSYS },
        { "\"latents_std\": [\n    ", "\"latents_std\": [\n    -",
          "channel 0", EILSEQ },
        { "\"latents_std\": [\n    ", "\"latents_std\": [\n    1, ",
          "latents_std", EILSEQ },
    };
    char path[512], copy[512], weights[512];

    fixture_path(weights, "narrow", "diffusion_pytorch_model.safetensors");
    fixture_path(path, "narrow", "config.json");
    snprintf(copy, sizeof(copy), "%s/config.json", bench->dir);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char what[128];

        snprintf(what, sizeof(what), "config with %s", cases[i].word);
        damage(path, copy, "{", cases[i].old, cases[i].new);
        check_refused(bench, weights, copy, 1, cases[i].error, cases[i].word,
                      what);
    }
    unlink(copy);
    check_refused(bench, weights, "", 1, EILSEQ, "latents_mean",
                  "no config for latents of 4 channels");
    check_refused(bench, weights, "/nonexistent/config.json", 1, ENOENT,
                  "/nonexistent", "a config that is not there");
}

int main(void)
{
    Bench bench = { .dir = "/tmp/causvid-test-vae-XXXXXX" };
    CausvidSettings settings = { .log = keep_error, .abort = stop,
                                 .cookie = &bench.caller };

    cv_log_init(&bench.log, &settings);
    if (!mkdtemp(bench.dir))
        tap_bail("cannot make %s", bench.dir);
    if (cv_cpu_open(&bench.backend, 2, &bench.log) < 0)
        tap_bail("%s", bench.caller.error);
    for (size_t i = 0; i < sizeof(fixtures) / sizeof(fixtures[0]); i++)
        check_fixture(&bench, &fixtures[i]);
    check_reset(&bench);
    check_wrong_weights(&bench);
    check_wrong_configs(&bench);
    bench.backend->close(&bench.backend);
    cv_log_free(&bench.log);
    rmdir(bench.dir);
    return tap_done();
}
