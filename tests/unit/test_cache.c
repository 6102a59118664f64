/*
 * The cache of text embeddings: the same frames, and nothing taken that is not
 * what was written.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * Frames are those of tests/model/fixtures/clip, a random model.
 */
#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <stdint.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../tap.h"
#include "text/cache.h"
#include "text/sha256.h"
#include "text/text.h"
#include "weights_util.h"

#define WIDTH  48
#define HEIGHT 32
#define DIM    24
#define TOKENS 3

static char model_path[2048];

/* ---- the hash ---- */

static int has_digest(const char *text, int times, size_t step,
                      const char *expected)
{
    uint8_t digest[CV_SHA256_BYTES];
    char hex[CV_SHA256_TEXT];
    CvSha256 s;

    cv_sha256_init(&s);
    for (int i = 0; i < times; i++)
        for (size_t at = 0, n = strlen(text); at < n; at += step)
            cv_sha256_add(&s, text + at, n - at < step ? n - at : step);
    cv_sha256_end(&s, digest);
    cv_sha256_text(hex, digest);
    return !strcmp(hex, expected);
}

/* The vectors of FIPS 180-4, and lengths around a block's. */
static void test_hash(void)
{
    static const struct {
        int a; /* so many times "a" */
        const char *digest;
    } lengths[] = {
        { 55, "9f4390f8d30c2dd92ec9f095b65e2b9ae9b0a925a5258e241c9f1e910f734318" },
        { 56, "b35439a4ac6f0948b6d6f9e3c6af0f5f590ce20f1bde7090ef7970686ec6738a" },
        { 64, "ffe054fe7ae0cb6dc65c3af9b61d5209f439851db43d0ba5997337df154668eb" },
        { 1000000, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0" },
    };
    static const char two_blocks[] =
        "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq";

    ok(has_digest("", 1, 1, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934c"
                            "a495991b7852b855"), "SHA-256 of nothing");
    ok(has_digest("abc", 1, 3, "ba7816bf8f01cfea414140de5dae2223b00361a396177a"
                               "9cb410ff61f20015ad"), "of abc");
    for (size_t step = 1; step < 60; step += 29)
        ok(has_digest(two_blocks, 1, step, "248d6a61d20638b8e5c026930c3e6039a3"
                      "3ce45964ff2167f6ecedd419db06c1"),
           "of two blocks, %zu bytes at a time", step);
    for (size_t i = 0; i < sizeof(lengths) / sizeof(*lengths); i++)
        ok(has_digest("a", lengths[i].a, 1, lengths[i].digest), "of %d bytes",
           lengths[i].a);
}

/* ---- frames ---- */

typedef struct Seen {
    int errors, warnings, hits, kept;
    int unloaded; /* the text encoder */
    char warning[8192];
} Seen;

static void look(void *cookie, enum CausvidLogLevel level, const char *format,
                 va_list args)
{
    Seen *seen = cookie;
    char line[8192];

    vsnprintf(line, sizeof(line), format, args);
    seen->errors += level == CAUSVID_LOG_ERROR;
    if (level == CAUSVID_LOG_WARNING) {
        seen->warnings++;
        strcpy(seen->warning, line);
    }
    seen->hits += level == CAUSVID_LOG_VERBOSE &&
                  strstr(line, " tokens from '") != NULL;
    seen->kept += level == CAUSVID_LOG_VERBOSE &&
                  strstr(line, " tokens kept in '") != NULL;
    seen->unloaded += level == CAUSVID_LOG_VERBOSE &&
                      strstr(line, "text encoder not loaded") != NULL;
}

/* Hash of a clip's frames; 0 when it failed. Of a long clip the prompt is
 * changed on the way. */
static uint64_t device_hash(Seen *seen, enum CausvidDevice device,
                            const char *cache, float guidance, int frames)
{
    static uint8_t rgb[3 * WIDTH * HEIGHT];
    CausvidPicture pic = { .width = WIDTH, .height = HEIGHT,
                           .format = CAUSVID_FORMAT_RGB24,
                           .data = { rgb }, .stride = { 3 * WIDTH } };
    uint64_t hash = UINT64_C(14695981039346656037);
    CausvidContext *cv = NULL;
    CausvidSettings settings;
    CausvidClip clip;
    int err;

    memset(seen, 0, sizeof(*seen));
    causvid_default_settings(&settings);
    settings.model   = model_path;
    settings.cache   = cache;
    settings.threads = 2;
    settings.device  = device;
    settings.log     = look;
    settings.cookie  = seen;
    settings.clip    = &clip;
    causvid_default_clip(&clip);
    clip.prompt   = "a red cat";
    clip.negative_prompt = "a blue dog";
    clip.width    = WIDTH;
    clip.height   = HEIGHT;
    clip.frames   = frames;
    clip.guidance = guidance;
    err = causvid_open(&cv, &settings);
    if (!err)
        err = causvid_start(cv, &clip);
    while (!err && !(err = causvid_read_frame(cv, &pic))) {
        for (size_t i = 0; i < sizeof(rgb); i++)
            hash = (hash ^ rgb[i]) * UINT64_C(1099511628211);
        if (!pic.index && frames > 20)
            err = causvid_set_prompt(cv, "another");
    }
    causvid_close(&cv);
    return err == CAUSVID_EOF ? hash : 0;
}

static uint64_t clip_hash(Seen *seen, const char *cache, float guidance,
                          int frames)
{
    return device_hash(seen, CAUSVID_DEVICE_CPU, cache, guidance, frames);
}

/* How many files of the cache are in a folder, and the last one's path; -1 when
 * there are others. */
static int count(const char *folder, char path[4096])
{
    DIR *dir = opendir(folder);
    struct dirent *e;
    int n = 0, others = 0;

    while (dir && (e = readdir(dir))) {
        size_t length = strlen(e->d_name);

        if (length == 64 + 12 && !strcmp(e->d_name + 64, ".safetensors")) {
            n++;
            snprintf(path, 4096, "%s/%s", folder, e->d_name);
        } else {
            others += e->d_name[0] != '.' || length > 2;
        }
    }
    if (dir)
        closedir(dir);
    return others ? -1 : n;
}

static void empty(const char *folder)
{
    char path[4096];

    while (count(folder, path) > 0)
        if (remove(path))
            tap_bail("cannot remove %s", path);
}

static Blob read_file(const char *path)
{
    FILE *file = fopen(path, "rb");
    Blob blob = { malloc(1 << 20), 0 };

    if (file && blob.data) {
        blob.size = fread(blob.data, 1, 1 << 20, file);
        fclose(file);
    }
    if (!blob.size)
        tap_bail("cannot read %s", path);
    return blob;
}

static void write_file(const char *path, const uint8_t *data, size_t n)
{
    FILE *file = fopen(path, "wb");

    if (!file || fwrite(data, 1, n, file) != n || fclose(file))
        tap_bail("cannot write %s", path);
}

/* Another last embedding, with the checksum that goes with it. */
static void forge(const char *path)
{
    static const char name[] = "\"sha256\":\"";
    Blob b = read_file(path);
    size_t header = 8 + b.data[0] + 256 * (size_t)b.data[1];
    uint8_t digest[CV_SHA256_BYTES], *sum = b.data;
    const float value = 1;
    char text[CV_SHA256_TEXT];
    CvSha256 s;

    while (memcmp(sum, name, strlen(name)))
        sum++;
    memcpy(b.data + b.size - sizeof(value), &value, sizeof(value));
    cv_sha256_init(&s);
    cv_sha256_add(&s, b.data + header, b.size - header);
    cv_sha256_end(&s, digest);
    cv_sha256_text(text, digest);
    memcpy(sum + strlen(name), text, strlen(text));
    write_file(path, b.data, b.size);
    blob_free(&b);
}

/* A bit of the last embedding. */
static void damage(const char *path)
{
    Blob b = read_file(path);

    b.data[b.size - 1] ^= 1;
    write_file(path, b.data, b.size);
    blob_free(&b);
}

static void test_frames(void)
{
    char folder[1024], path[4096];
    uint64_t plain, long_plain, guided, hash;
    Seen seen;

    snprintf(folder, sizeof(folder), "%s/made", temp_folder());
    plain = clip_hash(&seen, NULL, 1, 9);
    ok(plain && !seen.hits && !seen.kept, "a clip without a cache");
    hash = clip_hash(&seen, folder, 1, 9);
    ok(hash == plain && seen.kept == 1 && !seen.hits && !seen.warnings &&
       !seen.unloaded, "the folder is made, the frames are the same");
    is_int(count(folder, path), 1);
    hash = clip_hash(&seen, folder, 1, 9);
    ok(hash == plain && seen.hits == 1 && !seen.kept && !seen.warnings &&
       seen.unloaded, "a prompt that was kept gives the same frames, and the "
       "text encoder is not loaded");
    forge(path);
    hash = clip_hash(&seen, folder, 1, 9);
    ok(hash && hash != plain && seen.hits == 1 && !seen.warnings,
       "which are those of the file: the text encoder is not run");
    remove(path);
    hash = clip_hash(&seen, folder, 1, 9);
    ok(hash == plain && seen.kept == 1 && !seen.unloaded,
       "without the file it is");
    write_file(path, (const uint8_t *)"short", 5);
    hash = clip_hash(&seen, folder, 1, 9);
    ok(hash == plain && seen.kept == 1 && seen.warnings == 1 &&
       !seen.unloaded, "and with another in its place");
    damage(path);
    hash = clip_hash(&seen, folder, 1, 9);
    ok(hash == plain && seen.kept == 1 && seen.warnings == 1 && seen.unloaded,
       "with one whose damage shows late it is run without being loaded");
    guided = clip_hash(&seen, NULL, 3, 9);
    ok(guided && guided != plain, "guidance needs another prompt");
    hash = clip_hash(&seen, folder, 3, 9);
    ok(hash == guided && seen.hits == 1 && seen.kept == 1 && !seen.unloaded,
       "which is kept too");
    hash = clip_hash(&seen, folder, 3, 9);
    ok(hash == guided && seen.hits == 2 && !seen.kept && seen.unloaded,
       "both are taken");
    long_plain = clip_hash(&seen, NULL, 1, 40);
    for (int i = 0; i < 2; i++) {
        hash = clip_hash(&seen, folder, 1, 40);
        ok(hash && hash == long_plain && seen.hits == 1 + i &&
           seen.kept == 1 - i && seen.unloaded,
           "a prompt that changes on the way to one that is %s",
           i ? "kept" : "new");
    }
    is_int(count(folder, path), 3);
    empty(folder);
    rmdir(folder);
}

/* On a GPU, here an emulated one. */
static void test_gpu(const char *build)
{
    const char *folder = temp_folder();
    char module[4096], path[4096];
    uint64_t plain, hash, cpu;
    Seen seen;

    snprintf(module, sizeof(module), "%s/emulator/libcausvid_cuda.so", build);
    if (access(module, R_OK))
        tap_bail("%s is missing: make tests", module);
    setenv("CAUSVID_CUDA_MODULE", module, 1);
    cpu   = clip_hash(&seen, folder, 1, 9);
    plain = device_hash(&seen, CAUSVID_DEVICE_CUDA, NULL, 1, 9);
    ok(cpu && plain && plain != cpu, "a clip on an emulated GPU");
    for (int i = 0; i < 2; i++) {
        hash = device_hash(&seen, CAUSVID_DEVICE_CUDA, folder, 1, 9);
        ok(hash == plain && seen.hits == i && seen.kept == 1 - i &&
           seen.unloaded == i, "the same with the cache, %s", i ? "kept" : "new");
    }
    is_int(count(folder, path), 2);
    empty(folder);
}

/* ---- sound and other files ---- */

typedef struct Case {
    Lines lines;
    Seen seen;
    CvBackend *backend;
    CvTextCache *cache;
    CvTensor embeds;
    float values[TOKENS * DIM], out[TOKENS * DIM];
    int32_t ids[TOKENS];
    const char *folder;
    char path[4096]; /* of what save() wrote */
} Case;

static const char *encoder_path(void)
{
    static char path[4096];

    snprintf(path, sizeof(path), "%s/text_encoder/model.safetensors",
             model_path);
    return path;
}

/* A cache for any weights. */
static CvTextCache *open_for(Case *c, CvWeights *weights, const char *config)
{
    CvTextCache *cache = NULL;

    if (cv_text_cache_open(&cache, c->folder, weights, config, c->backend,
                           &c->lines.log) < 0 || !cache)
        tap_bail("no cache: %s", c->lines.error);
    return cache;
}

static CvTextCache *open_cache(Case *c, const char *encoder,
                               const char *config)
{
    CvWeights *weights = NULL;
    CvTextCache *cache;

    if (cv_weights_open(&weights, encoder, &c->lines.log) < 0)
        tap_bail("%s: %s", encoder, c->lines.error);
    cache = open_for(c, weights, config);
    cv_weights_close(&weights);
    return cache;
}

/* 1 when the prompt is found, and holds the values that were kept. */
static int load(Case *c)
{
    memset(c->out, 0, sizeof(c->out));
    c->embeds.data = c->out;
    return cv_text_cache_load(c->cache, c->backend, &c->embeds, c->ids) == 1 &&
           !memcmp(c->out, c->values, sizeof(c->out));
}

/* Nothing is found, and nothing was written to the tensor. */
static int misses(Case *c)
{
    static const float zeros[TOKENS * DIM];

    memset(c->out, 0, sizeof(c->out));
    c->embeds.data = c->out;
    return !cv_text_cache_load(c->cache, c->backend, &c->embeds, c->ids) &&
           !memcmp(c->out, zeros, sizeof(c->out));
}

static int save(Case *c)
{
    c->embeds.data = c->values;
    return !cv_text_cache_save(c->cache, c->backend, &c->embeds, c->ids);
}

static int warned(Case *c, int n, const char *words)
{
    int right = c->lines.warnings == n && !c->lines.errors &&
                (!n || strstr(c->lines.warning, words)) && !c->lines.bad;

    if (!right)
        tap_diag("  %d warnings: %s", c->lines.warnings, c->lines.warning);
    c->lines.warnings = 0;
    return right;
}

static void open_case(Case *c)
{
    memset(c, 0, sizeof(*c));
    lines_init(&c->lines);
    if (cv_cpu_open(&c->backend, 1, &c->lines.log) < 0)
        tap_bail("no backend");
    c->folder = temp_folder();
    c->cache  = open_cache(c, encoder_path(), "");
    c->embeds = CV_TENSOR(NULL, CV_F32, TOKENS, DIM);
    for (int i = 0; i < TOKENS; i++)
        c->ids[i] = 7 * i + 1;
    for (int i = 0; i < TOKENS * DIM; i++)
        c->values[i] = (float)(i - 30) / 7;
    if (!ok(misses(c) && warned(c, 0, ""), "an empty folder has no prompt") ||
        !ok(save(c) && count(c->folder, c->path) == 1 && load(c) &&
            warned(c, 0, ""), "what is kept is found"))
        tap_bail("the cache does not work");
}

static void close_case(Case *c)
{
    empty(c->folder);
    cv_text_cache_close(&c->cache);
    c->backend->close(&c->backend);
    cv_log_free(&c->lines.log);
}

/* Any tool reads it. */
static void test_format(void)
{
    CvWeights *weights = NULL;
    const CvEntry *ids, *embeds;
    char text[CV_SHAPE_TEXT];
    int64_t id;
    Case c;

    open_case(&c);
    ok(!cv_weights_open(&weights, c.path, &c.lines.log) &&
       cv_weights_count(weights) == 2, "it is a safetensors file");
    ids    = cv_weights_find(weights, "token_ids");
    embeds = cv_weights_find(weights, "text_embeds");
    if (!ok(ids && embeds, "with token_ids and text_embeds"))
        tap_bail("no such tensors");
    is_str(cv_shape_text(text, &ids->tensor), "I64 [3]");
    is_str(cv_shape_text(text, &embeds->tensor), "F32 [3, 24]");
    memcpy(&id, (const uint8_t *)ids->tensor.data + 16, 8);
    is_int(id, 15);
    ok(!memcmp(embeds->tensor.data, c.values, sizeof(c.values)),
       "the values are those of the text encoder");
    cv_weights_close(&weights);
    close_case(&c);
}

/* Every length and every changed bit: ignored with one warning, then written
 * anew. */
static void test_damage(void)
{
    int bad = 0, tried = 0;
    Case c;
    Blob b;

    open_case(&c);
    b = read_file(c.path);
    for (size_t n = 0; n < b.size; n++, tried++) {
        write_file(c.path, b.data, n);
        bad += !misses(&c) || !warned(&c, 1, "is ignored: it is damaged");
    }
    ok(!bad, "cut after each of %d bytes", tried);
    b.data[b.size] = 0;
    write_file(c.path, b.data, b.size + 1);
    ok(misses(&c) && warned(&c, 1, "is ignored: it is damaged"),
       "with a byte more");
    bad = 0;
    for (size_t i = 0; i < b.size; i++) {
        b.data[i] ^= (uint8_t)(1 << i % 8);
        write_file(c.path, b.data, b.size);
        bad += !misses(&c) || !warned(&c, 1, "is ignored: it is damaged");
        b.data[i] ^= (uint8_t)(1 << i % 8);
    }
    ok(!bad, "a bit changed in each of its bytes");
    ok(save(&c) && load(&c) && warned(&c, 0, "") && count(c.folder, c.path) == 1,
       "it is written anew");
    blob_free(&b);
    close_case(&c);
}

/* Files that are sound in themselves, but not what is asked for. */
static void test_hostile(void)
{
    static const float values[] = { NAN, INFINITY, -1e30f };
    char other[4096], mine[4096];
    Case c;
    Blob b;

    open_case(&c);
    strcpy(mine, c.path);
    for (size_t i = 0; i < sizeof(values) / sizeof(*values); i++) {
        float sound = c.values[5];

        c.values[5] = values[i];
        ok(save(&c) && misses(&c) &&
           warned(&c, 1, "holds values that no text encoder gives"),
           "a value of %g", (double)values[i]);
        c.values[5] = sound;
    }
    memset(c.values, 0, sizeof(c.values));
    ok(save(&c) && misses(&c) && warned(&c, 1, "nothing but zeros"), "zeros");
    c.values[3] = 1;
    ok(save(&c) && load(&c), "a sound one again");

    b = read_file(mine);
    c.ids[1]++;
    ok(misses(&c) && warned(&c, 0, ""), "another prompt has another file");
    save(&c);
    c.ids[1]--;
    remove(mine);
    count(c.folder, other);
    write_file(mine, b.data, b.size);
    write_file(other, b.data, b.size);
    c.ids[1]++;
    ok(misses(&c) && warned(&c, 1, "is ignored"),
       "a prompt's file under another's name is not taken");
    c.ids[1]--;
    ok(load(&c), "under its own it is");
    blob_free(&b);

    remove(mine);
    if (mkfifo(mine, 0600))
        tap_bail("mkfifo");
    ok(misses(&c) && warned(&c, 1, "not a regular file"),
       "a pipe does not make it wait");
    ok(save(&c) && load(&c) && warned(&c, 0, ""), "and is replaced");
    remove(mine);
    if (mkdir(mine, 0700))
        tap_bail("mkdir");
    ok(misses(&c) && warned(&c, 1, "not a regular file"), "nor is a folder");
    ok(save(&c) && warned(&c, 1, "cannot be written"),
       "which is not replaced: a warning");
    ok(save(&c) && warned(&c, 0, ""), "only one");
    rmdir(mine);
    ok(count(c.folder, other) >= 0, "no other file stays behind");
    close_case(&c);
}

/* ---- folders that do not work ---- */

static void test_folders(void)
{
    const char *folder = temp_folder(), *file = NULL;
    char path[8192];
    uint64_t plain;
    Seen seen;
    Case c;

    plain = clip_hash(&seen, NULL, 1, 9);
    file  = save_text(folder, "file", "text");
    ok(clip_hash(&seen, file, 1, 9) == plain &&
       seen.warnings == 1 && strstr(seen.warning, "is not a folder"),
       "a file in its place is a warning");
    snprintf(path, sizeof(path), "%s/no/such", folder);
    ok(clip_hash(&seen, path, 1, 9) == plain &&
       seen.warnings == 1 && strstr(seen.warning, "No such file"),
       "so is a folder in one that is missing");
    ok(clip_hash(&seen, "", 1, 9) == plain && seen.warnings == 1 &&
       strstr(seen.warning, "is empty"),
       "an empty name too");
    memset(path, 'x', sizeof(path) - 1);
    path[sizeof(path) - 1] = 0;
    ok(clip_hash(&seen, path, 1, 9) == plain &&
       seen.warnings == 1 && strstr(seen.warning, "too long"),
       "and one that is too long");
    if (geteuid()) {
        chmod(folder, 0500);
        ok(clip_hash(&seen, folder, 3, 9) && seen.warnings == 1 &&
           strstr(seen.warning, "cannot be written"),
           "one that cannot be written, with two prompts: one warning");
        chmod(folder, 0700);
    } else {
        tap_skip(1, "root may write everywhere");
    }

    open_case(&c);
    empty(c.folder);
    rmdir(c.folder);
    ok(save(&c) && warned(&c, 1, "cannot be written"), "one that went away");
    ok(save(&c) && misses(&c) && warned(&c, 0, ""), "is told once");
    if (mkdir(c.folder, 0700))
        tap_bail("mkdir");
    close_case(&c);
}

/* ---- which text encoder ---- */

/* Does a cache for this encoder find what c->cache kept? */
static int finds(Case *c, const char *encoder, const char *config)
{
    CvTextCache *mine = c->cache;
    int found;

    c->cache = open_cache(c, encoder, config);
    found    = load(c);
    cv_text_cache_close(&c->cache);
    c->cache = mine;
    return found;
}

static void test_identity(void)
{
    const char *folder = temp_folder();
    char path[4096], config[4096], device[128];
    Blob b;
    Case c;

    open_case(&c);
    b = read_file(encoder_path());
    snprintf(path, sizeof(path), "%s/moved.safetensors", folder);
    write_file(path, b.data, b.size);
    ok(finds(&c, path, ""), "a text encoder may be moved");

    snprintf(config, sizeof(config), "%s",
             save_text(folder, "config.json", "{\"eps\": 1e-6}"));
    ok(!finds(&c, encoder_path(), config), "with a config it is another");
    cv_text_cache_close(&c.cache);
    c.cache = open_cache(&c, encoder_path(), config);
    save(&c);
    ok(load(&c), "which keeps prompts of its own");
    save_text(folder, "config.json", "{\"eps\": 1e-5}");
    ok(!finds(&c, encoder_path(), config), "and with another config another");
    strcpy(device, c.backend->device);
    snprintf(c.backend->device, sizeof(c.backend->device), "other");
    save_text(folder, "config.json", "{\"eps\": 1e-6}");
    ok(!finds(&c, encoder_path(), config), "on another device too");
    snprintf(c.backend->device, sizeof(c.backend->device), "%s", device);
    ok(finds(&c, encoder_path(), config), "on this one it is the same");
    blob_free(&b);
    close_case(&c);
}

/* One value in the middle of a file, far from its ends. */
static void test_values(void)
{
    const char *folder = temp_folder();
    enum { ROWS = 50000 };
    float *values = calloc(ROWS, sizeof(*values));
    StTensor tensors[] = {
        { "a", CV_F32, 1, { ROWS }, NULL }, { "b", CV_F32, 1, { ROWS }, values },
        { "c", CV_F32, 1, { ROWS }, NULL },
    };
    char path[4096];
    Blob b;
    Case c;

    open_case(&c);
    for (int i = 0; i < 3; i++) {
        values[0] = i == 1; /* the same, another, the same again */
        b = st_write(tensors, 3, 0);
        snprintf(path, sizeof(path), "%s", save_blob(folder, "x.safetensors",
                                                     b));
        blob_free(&b);
        if (!i) {
            cv_text_cache_close(&c.cache);
            c.cache = open_cache(&c, path, "");
            save(&c);
        }
        ok(finds(&c, path, "") == (i != 1), "%s value in the middle",
           i == 1 ? "another" : "the same");
    }
    free(values);
    close_case(&c);
}

int main(void)
{
    const char *src = getenv("CAUSVID_SRC"), *build = getenv("CAUSVID_BUILD");

    snprintf(model_path, sizeof(model_path),
             "%s/tests/model/fixtures/clip/model", src ? src : ".");
    test_hash();
    test_frames();
    test_format();
    test_damage();
    test_hostile();
    test_folders();
    test_identity();
    test_values();
    test_gpu(build ? build : "build");
    return tap_done();
}
