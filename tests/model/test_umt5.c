/*
 * The text encoder against transformers' UMT5EncoderModel, and what opening
 * says to wrong models and configs.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * Fixtures: tests/model/make/text.py.
 */
#define _POSIX_C_SOURCE 200809L
#include <errno.h>
#include <unistd.h>

#include "text/text.h"

#include "../tap.h"
#include "fixture.h"

static int open_model(CvUmt5 **umt5, Bench *bench, const char *folder,
                      const char *config)
{
    char name[256], path[FIXTURE_PATH];

    bench->error[0] = 0;
    snprintf(name, sizeof(name), "text/%s/model.safetensors", folder);
    return cv_umt5_open(umt5, bench->backend, fixture_path(path, name), config,
                        &bench->log);
}

static CvUmt5 *need_model(Bench *bench, const char *folder, int with_config,
                          int streamed)
{
    char name[256], config[FIXTURE_PATH] = "";
    CvUmt5 *umt5;

    snprintf(name, sizeof(name), "text/%s/config.json", folder);
    if (with_config)
        fixture_path(config, name);
    if (open_model(&umt5, bench, folder, config) < 0 ||
        (streamed && !cv_umt5_stream(umt5)) || cv_umt5_load(umt5) < 0)
        tap_bail("%s: %s", folder, bench->error);
    return umt5;
}

/* One pass; the error is from the checks, -1 for wrong bookkeeping. */
static int forward(CvUmt5 *umt5, Bench *bench, const int32_t *ids, int64_t n,
                   CvTensor *out)
{
    size_t mark;
    int err;

    *out = CV_TENSOR(NULL, CV_F32, n, cv_umt5_dim(umt5));
    if ((err = cv_arena_tensor(&bench->arena, out)) < 0)
        return err;
    mark = cv_arena_mark(&bench->arena);
    err = cv_umt5_forward(umt5, &bench->run, out, ids);
    return err < 0 ? err : cv_arena_mark(&bench->arena) == mark ? 0 : -1;
}

/* Plan, then run. */
static int run(CvUmt5 *umt5, Bench *bench, const int32_t *ids, int64_t n,
               CvTensor *out)
{
    int err;

    cv_arena_plan(&bench->arena, bench->backend);
    err = forward(umt5, bench, ids, n, out);
    if (cv_arena_take(&bench->arena, &bench->log, "a test") < 0)
        tap_bail("no memory: %s", bench->error);
    return err < 0 ? err : forward(umt5, bench, ids, n, out);
}

/* Both ways to keep the weights give the same bytes. */
static int same_streamed(Bench *bench, CvUmt5 *resident, CvUmt5 *streamed,
                         const int32_t *ids, int64_t n)
{
    float *results[2] = { NULL, NULL };
    int64_t elements = n * cv_umt5_dim(resident);
    int same;

    for (int i = 0; i < 2; i++) {
        CvTensor out;

        results[i] = need(malloc((size_t)elements * sizeof(float)));
        if (run(i ? streamed : resident, bench, ids, n, &out) < 0 ||
            cv_download(bench->backend, results[i], &out) < 0)
            tap_bail("%s", bench->error);
    }
    same = !memcmp(results[0], results[1], (size_t)elements * sizeof(float));
    free(results[0]);
    free(results[1]);
    return same;
}

static void test_cases(Bench *bench, const char *folder, int with_config,
                       int expected_cases)
{
    CvUmt5 *umt5 = need_model(bench, folder, with_config, 0);
    CvUmt5 *streamed = need_model(bench, folder, with_config, 1);
    char name[256];
    CvWeights *cases;
    int n_cases;

    ok(cv_umt5_bytes(umt5) > 0, "%s: %s", folder, cv_umt5_describe(umt5));
    is_int((int)cv_umt5_bytes(streamed), 0);
    snprintf(name, sizeof(name), "text/%s/cases.safetensors", folder);
    cases = open_tensors(bench, name);
    for (n_cases = 0;; n_cases++) {
        const CvEntry *ids = cv_weights_find(cases, "case.%d.ids", n_cases);
        CvTensor expected, out;
        int32_t small[CV_MAX_TOKENS];
        double error = NAN;
        int64_t n;

        if (!ids)
            break;
        n = ids->tensor.dim[0];
        if (ids->tensor.type != CV_I64 || n > CV_MAX_TOKENS)
            tap_bail("%s: bad ids", name);
        for (int64_t i = 0; i < n; i++) {
            int64_t id;

            memcpy(&id, (const char *)ids->tensor.data + 8 * i, 8);
            small[i] = (int32_t)id;
        }
        snprintf(name, sizeof(name), "case.%d.embeds", n_cases);
        expected = read_tensor(cases, name);
        if (run(umt5, bench, small, n, &out) == 0)
            error = tensor_error(bench, &out, &expected);
        ok(error <= FIXTURE_TOLERANCE, "%s, %d tokens: %.1e", folder, (int)n,
           error);
        ok(same_streamed(bench, umt5, streamed, small, n),
           "the same bytes streamed");
        free(expected.data);
    }
    is_int(n_cases, expected_cases);
    cv_weights_close(&cases);
    ok(!cv_umt5_stream(umt5), "a file that was closed is not streamed");
    cv_umt5_close(&umt5);
    cv_umt5_close(&streamed);
}

static void test_stop(Bench *bench)
{
    const int32_t ids[] = { 5, 6, 1 };
    CvUmt5 *umt5 = need_model(bench, "odd", 1, 0);
    CvTensor out;

    bench->stop_in = 5; /* three layers of the plan, two of the run */
    is_int(run(umt5, bench, ids, 3, &out), CAUSVID_ERR(ECANCELED));
    bench->stop_in = 0;
    is_int(run(umt5, bench, ids, 3, &out), 0);
    cv_umt5_close(&umt5);
    ok(!umt5, "closing sets the pointer to NULL");
    cv_umt5_close(&umt5);
}

/* ---- configs that contradict the weights ---- */

static char temporary[] = "/tmp/causvid-umt5-XXXXXX";

/* The config of "odd" with `from` replaced by `to` (or all of it, for NULL). */
static void write_config(const char *from, const char *to)
{
    char path[FIXTURE_PATH], text[4096] = "";
    FILE *file = fopen(fixture_path(path, "text/odd/config.json"), "r");
    const char *place = text;
    size_t n;

    if (!file)
        tap_bail("cannot read %s", path);
    n = fread(text, 1, sizeof(text) - 1, file);
    text[n] = 0;
    fclose(file);
    if (from && !(place = strstr(text, from)))
        tap_bail("the config has no %s", from);
    file = fopen(temporary, "w");
    if (!file)
        tap_bail("cannot write %s", temporary);
    fprintf(file, "%.*s%s%s", (int)(place - text), text, to,
            from ? place + strlen(from) : "");
    fclose(file);
}

static void refuses(Bench *bench, const char *from, const char *to, int error,
                    const char *expected)
{
    const char *message;
    CvUmt5 *umt5;
    int err;

    write_config(from, to);
    err = open_model(&umt5, bench, "odd", temporary);
    message = strstr(bench->error, temporary);
    message = message ? message + sizeof(temporary) : bench->error;
    ok(err == CAUSVID_ERR(error) && !umt5 && strstr(bench->error, expected) &&
       !bench->backend->planning, "refused%s", message);
    cv_umt5_close(&umt5);
}

static void test_configs(Bench *bench)
{
    CvUmt5 *umt5;
    char path[FIXTURE_PATH];
    int fd = mkstemp(temporary);

    if (fd < 0)
        tap_bail("cannot make %s", temporary);
    close(fd);
    write_config("\"num_heads\"", "\"num_hats\"");
    ok(open_model(&umt5, bench, "odd", temporary) == 0,
       "a key may be absent%s", bench->error);
    cv_umt5_close(&umt5);
    refuses(bench, "\"num_heads\": 3", "\"num_heads\": 5", EILSEQ,
            "\"num_heads\" is 5, but the weights have 3");
    refuses(bench, "\"num_layers\": 3", "\"num_layers\": 4", EILSEQ,
            "\"num_layers\" is 4, but the weights have 3");
    refuses(bench, "\"d_kv\": 10", "\"d_kv\": 8", EILSEQ, "\"d_kv\" is 8");
    refuses(bench, "\"vocab_size\": 101", "\"vocab_size\": 100", EILSEQ,
            "\"vocab_size\" is 100");
    refuses(bench, "_buckets\": 32", "_buckets\": 16", EILSEQ, "buckets");
    refuses(bench, "max_distance\": 128", "max_distance\": 64", ENOSYS,
            "expected 128");
    refuses(bench, "gated-gelu", "gated-silu", ENOSYS, "gated-silu");
    refuses(bench, "gelu_new", "relu", ENOSYS, "relu");
    refuses(bench, "\"is_gated_act\": true", "\"is_gated_act\": false", ENOSYS,
            "is_gated_act");
    refuses(bench, "\"umt5\"", "\"t5\"", ENOSYS, "\"t5\"");
    refuses(bench, "epsilon\": 1e-06", "epsilon\": 7", EILSEQ, "epsilon");
    refuses(bench, "\"d_ff\": 37", "\"d_ff\": \"37\"", EILSEQ, "d_ff");
    refuses(bench, NULL, "[1, 2]", EILSEQ, "JSON object");
    refuses(bench, NULL, "{\"d_ff\": 37", EILSEQ, temporary);
    unlink(temporary);

    bench->error[0] = 0;
    is_int(cv_umt5_open(&umt5, bench->backend,
                        fixture_path(path, "text/odd/nothing.safetensors"), "",
                        &bench->log), CAUSVID_ERR(ENOENT));
    ok(!umt5 && *bench->error, "no such file: %s", bench->error);
    is_int(cv_umt5_open(&umt5, bench->backend,
                        fixture_path(path, "text/odd/cases.safetensors"), "",
                        &bench->log), CAUSVID_ERR(EILSEQ));
    ok(!umt5, "no encoder: %s", bench->error);
}

int main(void)
{
    Bench bench;

    bench_open(&bench, 1);
    test_cases(&bench, "odd", 1, 4);
    test_cases(&bench, "bf16", 1, 2);
    test_cases(&bench, "official", 0, 1);
    test_stop(&bench);
    test_configs(&bench);
    bench_close(&bench);
    return tap_done();
}
