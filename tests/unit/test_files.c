/*
 * Where the parts of a model are found, and typed look-ups in JSON files.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#include <math.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../tap.h"
#include "weights/files.h"
#include "weights_util.h"

#define FAILED(e) CAUSVID_ERR(e)

static Lines lines;

/* ---- JSON files ---- */

static cJSON *json;
static char json_path[1024];

static void open_json(const char *text)
{
    static const char *folder;

    if (!folder)
        folder = temp_folder();
    cJSON_Delete(json);
    strcpy(json_path, save_text(folder, "config.json", text));
    if (cv_json_read(&json, json_path, &lines.log) < 0)
        tap_bail("%s", lines.error);
}

static int64_t get_int(const char *key, int64_t min, int64_t max, int *err)
{
    int64_t value = -77;

    *err = cv_json_int(json, "c.json", key, min, max, &value, &lines.log);
    return value;
}

static void test_ints(void)
{
    static const struct {
        const char *key;
        int64_t min, max, value; /* -77: it stays */
        const char *line;        /* NULL: no error */
    } cases[] = {
        { "five", 0, 10, 5, NULL }, { "five", 5, 5, 5, NULL },
        { "five", 6, 10, -77, "'c.json': \"five\" is 5|from 6 to 10" },
        { "five", -10, 4, -77, "is 5|from -10 to 4" },
        { "minus", -5, 0, -5, NULL }, { "minus", 0, 9, -77, "is -5" },
        { "none", 0, 9, -77, NULL }, { "null", 0, 9, -77, NULL },
        { "FIVE", 0, 9, -77, NULL },
        { "half", 0, 9, -77, "is 0.5|an integer" },
        { "text", 0, 9, -77, "is \"5\"|an integer" },
        { "long", 0, 9, -77, "is \"aaaaaaaa|...\"|an integer" },
        { "yes", 0, 9, -77, "is true" }, { "no", 0, 9, -77, "is false" },
        { "list", 0, 9, -77, "is a list" },
        { "object", 0, 9, -77, "is an object" },
        { "exact", 0, INT64_MAX, 9007199254740991, NULL },
        { "beyond", 0, INT64_MAX, -77, "is 9007199254740992" },
        { "huge", INT64_MIN, INT64_MAX, -77, "is inf" },
        { "big", INT64_MIN, INT64_MAX, -77, "is 1e+300" },
    };

    open_json("\xef\xbb\xbf{\"five\": 5, \"minus\": -5.0, \"null\": null, "
              "\"half\": 0.5, \"text\": \"5\", \"yes\": true, \"no\": false, "
              "\"list\": [1, 2.5, -3], \"object\": {}, \"empty\": [], "
              "\"exact\": 9007199254740991, \"beyond\": 9007199254740993, "
              "\"huge\": 1e999, \"big\": 1e300, \"mixed\": [1, \"2\"], "
              "\"holes\": [1, null], \"line\": \"a\\nb\", "
              "\"long\": \"aaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
              "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
              "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"}\n");
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        int err;
        int64_t v = get_int(cases[i].key, cases[i].min, cases[i].max, &err);

        ok(v == cases[i].value && (cases[i].line ?
           err == FAILED(EILSEQ) && lines_error(&lines, cases[i].line) :
           !err && lines_none(&lines)), "int %s from %lld to %lld",
           cases[i].key, (long long)cases[i].min, (long long)cases[i].max);
    }
}

static void test_others(void)
{
    double number = 7, list[4] = { 0 };
    char text[6] = "old";
    int yes = -1, n;

    ok(!cv_json_number(json, "c.json", "half", 0, 1, &number, NULL) &&
       fabs(number - 0.5) < 1e-15, "a number");
    ok(!cv_json_number(json, "c.json", "none", 0, 1, &number, NULL) &&
       number < 1, "an absent number stays");
    ok(cv_json_number(json, "c.json", "half", 1, 2, &number, &lines.log) ==
       FAILED(EILSEQ) && lines_error(&lines, "\"half\" is 0.5|from 1 to 2"),
       "a number out of range");
    ok(cv_json_number(json, "c.json", "huge", 0, 2, &number, &lines.log) ==
       FAILED(EILSEQ) && lines_error(&lines, "\"huge\" is inf"), "infinity");
    ok(!cv_json_string(json, "c.json", "text", text, sizeof(text), NULL) &&
       !strcmp(text, "5"), "a string");
    ok(cv_json_string(json, "c.json", "long", text, sizeof(text), &lines.log)
       == FAILED(EILSEQ) && lines_error(&lines, "\"long\"|at most 5 bytes") &&
       !strcmp(text, "5"), "a long string");
    ok(cv_json_string(json, "c.json", "line", text, sizeof(text), &lines.log)
       == FAILED(EILSEQ) && lines_error(&lines, "\"line\" is \"a?b\"|control"),
       "a string of two lines");
    ok(cv_json_string(json, "c.json", "five", text, sizeof(text), &lines.log)
       == FAILED(EILSEQ) && lines_error(&lines, "\"five\" is 5|a string"),
       "a number for a string");
    ok(!cv_json_string(json, "c.json", "null", text, sizeof(text), NULL) &&
       !strcmp(text, "5"), "null for a string");
    ok(!cv_json_bool(json, "c.json", "yes", &yes, NULL) && yes == 1, "true");
    ok(!cv_json_bool(json, "c.json", "no", &yes, NULL) && yes == 0, "false");
    ok(cv_json_bool(json, "c.json", "five", &yes, &lines.log) ==
       FAILED(EILSEQ) && lines_error(&lines, "\"five\" is 5|true or false"),
       "a number for a truth");
    n = 4;
    ok(!cv_json_numbers(json, "c.json", "list", list, &n, NULL) && n == 3 &&
       fabs(list[0] + list[1] + list[2] - 0.5) < 1e-15, "a list");
    n = 3;
    ok(!cv_json_numbers(json, "c.json", "list", list, &n, NULL) && n == 3,
       "a list that just fits");
    n = 2;
    ok(cv_json_numbers(json, "c.json", "list", list, &n, &lines.log) ==
       FAILED(EILSEQ) && lines_error(&lines, "\"list\" has more than 2"),
       "a list that does not fit");
    n = 4;
    ok(!cv_json_numbers(json, "c.json", "none", list, &n, NULL) && n == 0,
       "an absent list");
    n = 4;
    ok(!cv_json_numbers(json, "c.json", "empty", list, &n, NULL) && n == 0,
       "an empty list");
    n = 4;
    ok(cv_json_numbers(json, "c.json", "mixed", list, &n, &lines.log) ==
       FAILED(EILSEQ) && lines_error(&lines, "\"mixed\" holds \"2\""),
       "a string in a list");
    n = 4;
    ok(cv_json_numbers(json, "c.json", "holes", list, &n, &lines.log) ==
       FAILED(EILSEQ) && lines_error(&lines, "\"holes\" holds null"),
       "null in a list");
    n = 4;
    ok(cv_json_numbers(json, "c.json", "five", list, &n, &lines.log) ==
       FAILED(EILSEQ) && lines_error(&lines, "\"five\" is 5|a list"),
       "a number for a list");
    cJSON_Delete(json);
    json = NULL;
}

static void test_json_files(void)
{
    const char *folder = temp_folder();
    char path[1100];
    cJSON *tree = NULL;

    snprintf(path, sizeof(path), "%s/none.json", folder);
    ok(cv_json_read(&tree, path, &lines.log) == FAILED(ENOENT) && !tree &&
       lines_error(&lines, "none.json'|No such file"), "no such file");
    ok(cv_json_read(&tree, folder, &lines.log) == FAILED(EILSEQ) && !tree &&
       lines_error(&lines, "not a file"), "a folder");
    strcpy(path, save_text(folder, "a.json", ""));
    ok(cv_json_read(&tree, path, &lines.log) == FAILED(EILSEQ) && !tree &&
       lines_error(&lines, "a.json'|line 1, column 1|the end where a value"),
       "an empty file");
    strcpy(path, save_text(folder, "a.json", "{\n  \"a\": 1,\n}\n"));
    ok(cv_json_read(&tree, path, &lines.log) == FAILED(EILSEQ) && !tree &&
       lines_error(&lines, "line 3, column 1|where a key must begin"),
       "a comma too many");
    if (truncate(path, (64 << 20) + 1) < 0)
        tap_bail("truncate");
    ok(cv_json_read(&tree, path, &lines.log) == FAILED(EILSEQ) && !tree &&
       lines_error(&lines, "67108865 bytes|at most 67108864"), "a long file");
    snprintf(path, sizeof(path), "%s/fifo.json", folder);
    if (mkfifo(path, 0600) < 0)
        tap_bail("mkfifo");
    ok(cv_json_read(&tree, path, &lines.log) == FAILED(EILSEQ) && !tree &&
       lines_error(&lines, "not a file"), "a FIFO is not waited for");
}

/* ---- folders ---- */

static CvModelFiles files;

static int find_with(const char *model, const char *text_encoder,
                     const char *vae, const char *tokenizer)
{
    CausvidSettings s = { .model = model, .text_encoder = text_encoder,
                          .vae = vae, .tokenizer = tokenizer };

    return cv_files_find(&files, &s, &lines.log);
}

/* Is it root/name? Both empty when name is NULL. */
static int at(const char *path, const char *root, const char *name)
{
    size_t n = strlen(root);

    if (!name)
        return !path[0];
    if (strncmp(path, root, n) || path[n] != '/' ||
        strcmp(path + n + 1, name)) {
        tap_diag("got '%s', expected '%s/%s'", path, root, name);
        return 0;
    }
    return 1;
}

static void fill(const char *root, const char *const *names)
{
    for (; *names; names++)
        save_text(root, *names, "");
}

static void test_diffusers(void)
{
    static const char *const names[] = {
        "model_index.json", "transformer/config.json",
        "transformer/diffusion_pytorch_model-00001-of-00002.safetensors",
        "transformer/diffusion_pytorch_model-00002-of-00002.safetensors",
        "transformer/diffusion_pytorch_model.safetensors.index.json",
        "text_encoder/config.json", "text_encoder/model.safetensors",
        "vae/config.json", "vae/diffusion_pytorch_model.safetensors",
        "tokenizer/spiece.model", "recipe.json", NULL,
    };
    const char *root = temp_folder();
    char path[1100];

    fill(root, names);
    snprintf(path, sizeof(path), "%s///", root);
    for (int i = 0; i < 2; i++) {
        is_int(find_with(i ? path : root, NULL, NULL, NULL), 0);
        ok(!strcmp(files.root, root) &&
           at(files.transformer, root, names[4]) &&
           at(files.transformer_config, root, names[1]) &&
           at(files.text_encoder, root, names[6]) &&
           at(files.text_encoder_config, root, names[5]) &&
           at(files.vae, root, names[8]) &&
           at(files.vae_config, root, names[7]) &&
           at(files.tokenizer, root, names[9]) &&
           at(files.recipe, root, names[10]), "the diffusers layout");
    }
    snprintf(path, sizeof(path), "%s/transformer", root);
    is_int(find_with(path, NULL, NULL, NULL), 0);
    ok(at(files.transformer, root, names[4]) &&
       at(files.transformer_config, root, names[1]) &&
       at(files.text_encoder, root, names[6]) && at(files.vae, root, names[8])
       && at(files.tokenizer, root, names[9]),
       "its transformer folder: the rest is beside it");
    snprintf(path, sizeof(path), "%s/%s", root, names[4]);
    is_int(find_with(path, NULL, NULL, NULL), 0);
    ok(at(files.transformer, root, names[4]) &&
       at(files.transformer_config, root, names[1]) &&
       at(files.text_encoder, root, names[6]), "its index");
    ok(lines_none(&lines), "without a line");
}

static void test_official(void)
{
    static const char *const names[] = {
        "config.json", "diffusion_pytorch_model.safetensors",
        "models_t5_umt5-xxl-enc-bf16.safetensors", "Wan2.1_VAE.safetensors",
        "google/umt5-xxl/spiece.model", NULL,
    };
    const char *root = temp_folder();
    char path[1100], weights[1100];

    fill(root, names);
    is_int(find_with(root, NULL, NULL, NULL), 0);
    ok(at(files.transformer, root, names[1]) &&
       at(files.transformer_config, root, names[0]) &&
       at(files.text_encoder, root, names[2]) &&
       at(files.text_encoder_config, root, NULL) &&
       at(files.vae, root, names[3]) && at(files.vae_config, root, NULL) &&
       at(files.tokenizer, root, names[4]) && at(files.recipe, root, NULL),
       "the official names: config.json is the transformer's");
    snprintf(path, sizeof(path), "%s/%s", root, names[1]);
    is_int(find_with(path, NULL, NULL, NULL), 0);
    ok(!strcmp(files.transformer, path) && !strcmp(files.root, root) &&
       at(files.transformer_config, root, names[0]) &&
       at(files.text_encoder, root, names[2]), "a file among them");
    /* a checkpoint of one file, the rest of another folder */
    strcpy(weights, save_text(temp_folder(), "causal.safetensors", ""));
    is_int(find_with(weights, root, root, NULL), 0);
    ok(!strcmp(files.transformer, weights) && !files.transformer_config[0] &&
       at(files.text_encoder, root, names[2]) && at(files.vae, root, names[3])
       && at(files.tokenizer, root, names[4]) && !files.text_encoder_config[0],
       "one file, and options that name a model's folder");
    snprintf(path, sizeof(path), "%s/%s", root, names[2]);
    is_int(find_with(weights, path, root, NULL), 0);
    ok(!strcmp(files.text_encoder, path) && !files.text_encoder_config[0] &&
       at(files.tokenizer, root, names[4]), "and a text encoder's file");
    ok(lines_none(&lines), "without a line");
    ok(find_with(weights, NULL, root, NULL) == FAILED(ENOENT) &&
       lines_error(&lines, "no text encoder|text_encoder/|models_t5_umt5-xxl-"
                   "enc-bf16.*|option text_encoder"),
       "without a text encoder");
}

static void test_options(void)
{
    static const char *const names[] = {
        "transformer/diffusion_pytorch_model.safetensors",
        "t/model.safetensors", "t/config.json",
        "v/diffusion_pytorch_model.safetensors", "v/config.json",
        "k/spiece.model", "e/readme.txt", "2/a.safetensors", "2/b.safetensors",
        "k/other.model", "v/vae.safetensors.txt", NULL,
    };
    const char *root = temp_folder();
    char t[1100], v[1100], k[1100];

    fill(root, names);
#define PATH(p, name) snprintf(p, sizeof(p), "%s/%s", root, name)
    PATH(t, "t");
    PATH(v, "v/");
    PATH(k, "k");
    is_int(find_with(root, t, v, k), 0);
    ok(at(files.text_encoder, root, names[1]) &&
       at(files.text_encoder_config, root, names[2]) &&
       at(files.vae, root, names[3]) && at(files.vae_config, root, names[4]) &&
       at(files.tokenizer, root, names[5]) && !files.transformer_config[0],
       "folders named by options");
    PATH(t, "t/model.safetensors");
    PATH(v, "v/diffusion_pytorch_model.safetensors");
    PATH(k, "k/other.model");
    is_int(find_with(root, t, v, k), 0);
    ok(at(files.text_encoder, root, names[1]) &&
       at(files.text_encoder_config, root, names[2]) &&
       at(files.vae, root, names[3]) && at(files.vae_config, root, names[4]) &&
       at(files.tokenizer, root, names[9]), "files named by options");
    ok(lines_none(&lines), "without a line");
    ok(find_with(root, t, NULL, k) == FAILED(ENOENT) &&
       lines_error(&lines, "no VAE|Wan2.1_VAE.*|option vae"),
       "without a VAE");
    ok(find_with(root, t, v, NULL) == FAILED(ENOENT) &&
       lines_error(&lines, "no tokenizer|google/umt5-xxl/spiece.model|option "
                   "tokenizer"), "without a tokenizer");
    PATH(k, "k/none");
    ok(find_with(root, t, v, k) == FAILED(ENOENT) &&
       lines_error(&lines, "tokenizer '|k/none' does not exist"),
       "a tokenizer that does not exist");
    PATH(k, "e");
    ok(find_with(root, t, v, k) == FAILED(ENOENT) &&
       lines_error(&lines, "/e' holds no spiece.model"), "a folder without");
    ok(find_with(root, t, "/none/vae", k) == FAILED(ENOENT) &&
       lines_error(&lines, "vae '/none/vae' does not exist"),
       "a VAE that does not exist");
    ok(find_with(root, t, k, k) == FAILED(ENOENT) &&
       lines_error(&lines, "/e' holds no .safetensors"), "a folder without");
    PATH(k, "2");
    ok(find_with(root, t, k, k) == FAILED(EILSEQ) &&
       lines_error(&lines, "2 files of weights (a.safetensors, b.safetensors)"),
       "a folder with two files");
    ok(find_with(root, "", v, k) == FAILED(EINVAL) &&
       lines_error(&lines, "text_encoder is empty"), "an empty option");
#undef PATH
}

static void test_missing(void)
{
    static const char *const release[] = {
        "config.json", "diffusion_pytorch_model.safetensors",
        "models_t5_umt5-xxl-enc-bf16.pth", "Wan2.1_VAE.pth", NULL,
    };
    const char *root = temp_folder(), *other = temp_folder();
    char path[1100], *longer = malloc(5001);

    if (!longer)
        tap_bail("malloc");
    memset(longer, 'a', 5000);
    longer[5000] = 0;
    ok(find_with(NULL, NULL, NULL, NULL) == FAILED(EINVAL) &&
       lines_error(&lines, "model is missing"), "no model");
    ok(find_with("", NULL, NULL, NULL) == FAILED(EINVAL) &&
       lines_error(&lines, "model is empty"), "an empty model");
    ok(find_with(longer, NULL, NULL, NULL) == FAILED(EINVAL) &&
       lines_error(&lines, "5000 bytes|at most 4095"), "a long path");
    ok(find_with("/none/such", NULL, NULL, NULL) == FAILED(ENOENT) &&
       lines_error(&lines, "model '/none/such' does not exist; "
                   "expected"), "no such folder");
    ok(find_with(other, NULL, NULL, NULL) == FAILED(ENOENT) &&
       lines_error(&lines, "no transformer|transformer/|diffusion_pytorch_"
                   "model.*|option model"), "an empty folder");
    snprintf(path, sizeof(path), "%s", save_text(other, "wan.safetensors",
             "no weights"));
    ok(find_with(path, NULL, NULL, NULL) == FAILED(EILSEQ) &&
       lines_error(&lines, "wan.safetensors' "), "a file that is no weights");
    ok(find_with("/dev/null", NULL, NULL, NULL) == FAILED(EILSEQ) &&
       lines_error(&lines, "'/dev/null' is not a file"), "and no file");
    save_text(other, "wan.safetensors", "");
    ok(find_with(other, NULL, NULL, NULL) == FAILED(ENOENT) &&
       at(files.transformer, other, "wan.safetensors") &&
       lines_error(&lines, "no text encoder"), "a folder with another name");
    save_text(other, "wan2.safetensors", "");
    ok(find_with(other, NULL, NULL, NULL) == FAILED(EILSEQ) &&
       lines_error(&lines, "2 files that may be the transformer (wan."
                   "safetensors, wan2.safetensors); name"), "with two");
    fill(root, release);
    save_text(root, "diffusion_pytorch_model-2.safetensors", "");
    ok(find_with(root, NULL, NULL, NULL) == FAILED(EILSEQ) &&
       lines_error(&lines, "2 files of weights|no index"),
       "shards without their index");
    save_text(other, "transformer/readme.txt", "");
    ok(find_with(other, NULL, NULL, NULL) == FAILED(ENOENT) &&
       lines_error(&lines, "/transformer' holds no .safetensors"),
       "a transformer folder without weights");
    save_text(other, "vae/a.pt", "");
    save_text(other, "vae/b.pth", "");
    save_text(other, "transformer/diffusion_pytorch_model.bin", "");
    save_text(other, "text_encoder/model.gguf", "");
    ok(find_with(other, NULL, NULL, NULL) == FAILED(EILSEQ) &&
       lines_error(&lines, "/vae' holds 2 files of weights (a.pt, b.pth)"),
       "a folder with two VAEs");
    ok(find_with(other, NULL, root, root) == FAILED(ENOENT) &&
       at(files.transformer, other, "transformer/diffusion_pytorch_model.bin")
       && at(files.text_encoder, other, "text_encoder/model.gguf") &&
       at(files.vae, root, "Wan2.1_VAE.pth") &&
       lines_error(&lines, "tokenizer folder"), "other containers");
    snprintf(path, sizeof(path), "%s/wan.safetensors/x", other);
    ok(find_with(path, NULL, NULL, NULL) == FAILED(ENOENT) &&
       lines_error(&lines, "does not exist"), "a file as a folder");
    snprintf(path, sizeof(path), "%s/loop", other);
    if (symlink("loop", path) < 0)
        tap_bail("symlink");
    ok(find_with(path, NULL, NULL, NULL) == FAILED(EIO) &&
       lines_error(&lines, "cannot be read: "), "a link to itself");
    free(longer);
}

int main(void)
{
    lines_init(&lines);
    test_ints();
    test_others();
    test_json_files();
    test_diffusers();
    test_official();
    test_options();
    test_missing();
    return tap_done();
}
