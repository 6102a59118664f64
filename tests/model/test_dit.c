/*
 * One forward pass of the transformer against diffusers'
 * WanTransformer3DModel, and what opening says to wrong models.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * Fixtures: tests/model/make/dit.py.
 */
#include <errno.h>
#include <unistd.h>

#include "dit/internal.h"

#include "../tap.h"
#include "fixture.h"

#define WEIGHTS "diffusion_pytorch_model.safetensors"

typedef struct Case {
    CvTensor x, text, flow; /* on the host */
    double timestep;
} Case;

static int read_case(CvWeights *cases, int i, Case *c)
{
    char name[64];

    snprintf(name, sizeof(name), "case.%d.x", i);
    c->x = find_tensor(cases, name);
    if (!c->x.data)
        return 0;
    snprintf(name, sizeof(name), "case.%d.text", i);
    c->text = read_tensor(cases, name);
    snprintf(name, sizeof(name), "case.%d.flow", i);
    c->flow = read_tensor(cases, name);
    snprintf(name, sizeof(name), "case.%d.timestep", i);
    c->timestep = read_number(cases, name);
    return 1;
}

static void free_case(Case *c)
{
    free(c->x.data);
    free(c->text.data);
    free(c->flow.data);
}

static CvDit *open_model(Bench *bench, const char *folder)
{
    char name[256], path[FIXTURE_PATH], config[FIXTURE_PATH];
    CvDit *dit = NULL;

    snprintf(name, sizeof(name), "dit/%s/" WEIGHTS, folder);
    fixture_path(path, name);
    snprintf(name, sizeof(name), "dit/%s/config.json", folder);
    fixture_path(config, name);
    if (cv_dit_open(&dit, bench->backend, path, "", config,
                    &bench->log) < 0 ||
        cv_dit_load(dit) < 0)
        tap_bail("%s: %s", path, bench->error);
    return dit;
}

/* State, text and one pass over block 0, as plan or for real. */
static int pass(Bench *bench, CvDit *dit, const Case *c, int slots,
                CvTensor *flow)
{
    CvDitState state;
    CvTensor x, text;
    int err;

    err = cv_dit_state(&state, dit, &bench->run, (int)c->x.dim[2],
                       (int)c->x.dim[3], (int)c->x.dim[0], slots);
    if (err)
        return err;
    x = upload_tensor(bench, &c->x);
    text = upload_tensor(bench, &c->text);
    *flow = c->flow;
    err = cv_arena_tensor(&bench->arena, flow);
    if (!err)
        err = cv_dit_set_text(dit, &bench->run, &state, &text);
    if (!err)
        err = cv_dit_forward(dit, &bench->run, &state, flow, &x, c->timestep,
                             0);
    return err;
}

/* Plan, take the memory, run. */
static int run_case(Bench *bench, CvDit *dit, const Case *c, int slots,
                    CvTensor *flow)
{
    int err;

    cv_arena_plan(&bench->arena, bench->backend);
    err = pass(bench, dit, c, slots, flow);
    bench->backend->planning = 0;
    if (!err)
        err = cv_arena_take(&bench->arena, &bench->log, "the test");
    if (!err)
        err = pass(bench, dit, c, slots, flow);
    return err;
}

static void test_forward(Bench *bench, const char *folder)
{
    CvDit *dit = open_model(bench, folder);
    CvWeights *cases;
    char name[256];
    Case c;

    snprintf(name, sizeof(name), "dit/%s-cases.safetensors", folder);
    cases = open_tensors(bench, name);
    tap_diag("%s: %s", folder, cv_dit_describe(dit));
    for (int i = 0; read_case(cases, i, &c); i++) {
        double error = NAN;
        CvTensor flow;
        int err = run_case(bench, dit, &c, 1, &flow);

        if (!err)
            error = tensor_error(bench, &flow, &c.flow);
        ok(!err && error <= FIXTURE_TOLERANCE,
           "%s: %d frames of %dx%d, %d rows of text, t = %g: %.1e", folder,
           (int)c.x.dim[0], (int)c.x.dim[2], (int)c.x.dim[3],
           (int)c.text.dim[0], c.timestep, error);
        if (err)
            tap_diag("error %d: %s", err, bench->error);
        /* A longer ring must not change a first block. */
        if (!err)
            err = run_case(bench, dit, &c, 3, &flow);
        ok(!err && tensor_error(bench, &flow, &c.flow) == error,
           "%s: case %d in a ring of 3 slots gives the same", folder, i);
        dit->part_tokens = 5;
        if (!err)
            err = run_case(bench, dit, &c, 1, &flow);
        ok(!err && tensor_error(bench, &flow, &c.flow) == error,
           "%s: case %d in parts of 5 tokens gives the same", folder, i);
        dit->part_tokens = CV_DIT_PART_TOKENS;
        free_case(&c);
    }
    cv_weights_close(&cases);
    cv_dit_close(&dit);
    ok(!dit, "%s: closing clears the pointer", folder);
}

/* Sizes that come from the weights, with and without a config. */
static void test_sizes(Bench *bench)
{
    CvDit *dit = open_model(bench, "official");
    char path[FIXTURE_PATH];
    int err;

    is_int(cv_dit_size(dit)->dim, 28);
    is_int(cv_dit_size(dit)->heads, 2);
    is_int(cv_dit_size(dit)->layers, 3);
    is_int(cv_dit_size(dit)->ffn_dim, 42);
    is_int(cv_dit_size(dit)->text_dim, 10);
    is_int(cv_dit_size(dit)->freq_dim, 18);
    is_int(cv_dit_size(dit)->in_channels, 5);
    is_int(cv_dit_size(dit)->out_channels, 5);
    ok(cv_dit_bytes(dit) > 100000, "it takes memory");
    cv_dit_close(&dit);

    err = cv_dit_open(&dit, bench->backend, fixture_path(path, "dit/head128"),
                      "", "", &bench->log);
    ok(!err && cv_dit_size(dit)->heads == 1, "without a config, heads of 128");
    if (!err)
        cv_dit_close(&dit);
    err = cv_dit_open(&dit, bench->backend, fixture_path(path, "dit/official"),
                      "", "", &bench->log);
    ok(err == CAUSVID_ERR(EILSEQ) && strstr(bench->error, "config.json"),
       "28 wide without a config: %s", bench->error);
}

static void test_refused_kinds(Bench *bench)
{
    static const struct { const char *file, *says; } kinds[] = {
        { "i2v", "I2V" }, { "flf2v", "FLF2V" }, { "vace", "VACE" },
        { "channels", "I2V" },
    };
    char name[64], path[FIXTURE_PATH];
    CvDit *dit;

    for (size_t i = 0; i < sizeof(kinds) / sizeof(*kinds); i++) {
        snprintf(name, sizeof(name), "dit/refused/%s.safetensors",
                 kinds[i].file);
        *bench->error = 0;
        ok(cv_dit_open(&dit, bench->backend, fixture_path(path, name), "",
                       "", &bench->log) == CAUSVID_ERR(ENOSYS) && !dit &&
           strstr(bench->error, kinds[i].says), "%s is refused: %s",
           kinds[i].file, bench->error);
    }
}

/* Configs that do not fit the weights of "official" (28 wide, 2 heads). */
static void test_configs(Bench *bench)
{
    static const struct { const char *json; int error; const char *says; }
    configs[] = {
        { "{\"num_heads\": 2}", 0, "" },
        { "{\"attention_head_dim\": 14, \"out_channels\": null}", 0, "" },
        { "{\"num_heads\": 3}", EILSEQ, "heads" },
        { "{\"num_heads\": 28}", ENOSYS, "rotated" },
        { "{\"num_heads\": 4}", ENOSYS, "rotated" },
        { "{\"num_heads\": 2, \"dim\": 30}", EILSEQ, "\"dim\" is 30" },
        { "{\"num_heads\": 2, \"num_layers\": 4}", EILSEQ, "num_layers" },
        { "{\"num_heads\": \"two\"}", EILSEQ, "num_heads" },
        { "{\"num_heads\": 2, \"model_type\": \"i2v\"}", ENOSYS, "model_type" },
        { "{\"num_heads\": 2, \"image_dim\": 1280}", ENOSYS, "image_dim" },
        { "{\"num_heads\": 2, \"patch_size\": [1, 4, 4]}", ENOSYS,
          "patch_size" },
        { "{\"num_heads\": 2, \"qk_norm\": \"layer_norm\"}", ENOSYS,
          "qk_norm" },
        { "{\"num_heads\": 2, \"qk_norm\": true}", 0, "" },
        { "{\"num_heads\": 2, \"cross_attn_norm\": false}", EILSEQ,
          "cross_attn_norm" },
        { "{\"num_heads\": 2, \"eps\": 0}", EILSEQ, "eps" },
        { "{\"num_heads\": 2, \"text_len\": 77}", ENOSYS, "text_len" },
        { "{\"num_heads\": 2, \"window_size\": [8, 8]}", ENOSYS,
          "window_size" },
        { "{\"num_heads\": 2", EILSEQ, "" },
        { "[]", EILSEQ, "object" },
    };
    char path[FIXTURE_PATH], config[] = "/tmp/test_dit.XXXXXX";
    int fd = mkstemp(config);

    if (fd < 0)
        tap_bail("no temporary file");
    close(fd);
    fixture_path(path, "dit/official/" WEIGHTS);
    for (size_t i = 0; i < sizeof(configs) / sizeof(*configs); i++) {
        FILE *f = fopen(config, "w");
        CvDit *dit = NULL;
        int err;

        if (!f || fputs(configs[i].json, f) < 0 || fclose(f))
            tap_bail("cannot write %s", config);
        *bench->error = 0;
        err = cv_dit_open(&dit, bench->backend, path, "", config,
                          &bench->log);
        ok(err == CAUSVID_ERR(configs[i].error) &&
           strstr(bench->error, configs[i].says) &&
           !*bench->error == !configs[i].error, "%s: %s", configs[i].json,
           err ? bench->error : "fits");
        if (dit)
            cv_dit_close(&dit);
    }
    unlink(config);
}

/* Calls that no caller should make end in an error, not in wrong memory. */
static void test_misuse(Bench *bench)
{
    CvDit *dit = open_model(bench, "no-norm3");
    CvDitState state;
    CvTensor x, flow, other;
    CvWeights *cases = open_tensors(bench, "dit/no-norm3-cases.safetensors");
    Case c;

    if (!read_case(cases, 0, &c))
        tap_bail("no case");
    cv_weights_close(&cases);

    cv_arena_plan(&bench->arena, bench->backend);
    ok(cv_dit_state(&state, dit, &bench->run, 3, 4, 1, 1) ==
       CAUSVID_ERR(EINVAL), "odd latents: %s", bench->error);
    ok(cv_dit_state(&state, dit, &bench->run, 4, 6, 3, 0) ==
       CAUSVID_ERR(EINVAL), "no slots: %s", bench->error);
    ok(!cv_dit_state(&state, dit, &bench->run, 4, 6, 3, 2), "a sane state");
    is_int(cv_dit_slot_bytes(&state), 2 * 2 * 3 * 2 * 3 * 16 * 4);
    x = upload_tensor(bench, &c.x);
    flow = x;
    *bench->error = 0;
    ok(cv_dit_forward(dit, &bench->run, &state, &flow, &x, 0, 0) ==
       CAUSVID_ERR(EINVAL), "no text: %s", bench->error);
    other = CV_TENSOR(NULL, CV_F32, 513, 6);
    if (cv_arena_tensor(&bench->arena, &other) < 0)
        tap_bail("no memory");
    ok(cv_dit_set_text(dit, &bench->run, &state, &other) ==
       CAUSVID_ERR(EINVAL), "513 rows of text: %s", bench->error);
    other = CV_RESHAPE(other, 6, 513);
    ok(cv_dit_set_text(dit, &bench->run, &state, &other) ==
       CAUSVID_ERR(EINVAL), "text of another width: %s", bench->error);
    other = CV_RESHAPE(other, 5, 6);
    ok(!cv_dit_set_text(dit, &bench->run, &state, &other), "5 rows of text");
    is_int(state.text_rows, 6);
    is_int(state.text_repeats, 507);
    other = CV_RESHAPE(flow, 3, 3, 6, 4);
    ok(cv_dit_forward(dit, &bench->run, &state, &flow, &other, 0, 0) ==
       CAUSVID_ERR(EINVAL), "turned latents: %s", bench->error);
    /* A short block as the last of the filled ones, and as another. */
    other = cv_rows(&x, 0, 2);
    ok(!cv_dit_forward(dit, &bench->run, &state, &other, &other, 0, 3),
       "a short block at the end of the ring");
    ok(cv_dit_forward(dit, &bench->run, &state, &other, &other, 0, 2) ==
       CAUSVID_ERR(EINVAL), "a short block before older ones: %s",
       bench->error);
    bench->stop_in = 2;
    ok(cv_dit_forward(dit, &bench->run, &state, &flow, &x, 0, 0) ==
       CAUSVID_ERR(ECANCELED), "the caller can stop it at the second layer");
    bench->stop_in = 0;
    bench->backend->planning = 0;
    free_case(&c);
    cv_dit_close(&dit);
}

int main(void)
{
    Bench bench;

    bench_open(&bench, 2);
    test_forward(&bench, "head128");
    test_forward(&bench, "official");
    test_forward(&bench, "no-norm3");
    test_sizes(&bench);
    test_refused_kinds(&bench);
    test_configs(&bench);
    test_misuse(&bench);
    bench_close(&bench);
    return tap_done();
}
