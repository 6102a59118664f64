/*
 * Fuzz target: a GGUF file is opened, its metadata looked up, a text encoded by
 * the tokenizer in it, and what it holds is loaded into the CPU backend.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#include "tensors.h"
#include "text/text.h"
#include "weights/gguf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static Lines lines;

static void encode(const CvWeights *w)
{
    int32_t ids[CV_MAX_TOKENS];
    CvTokenizer *t;
    int64_t n, size;
    int err = cv_tokenizer_of_weights(&t, w, &lines.log);

    lines_check(&lines, err);
    REQUIRE(!err == !!t);
    if (!t)
        return;
    size = cv_tokenizer_size(t);
    REQUIRE(!cv_tokenizer_fit(t, size, &lines.log) &&
            !cv_tokenizer_encode(t, "a cat <extra_id_1></s> aa", ids, &n,
                                 &lines.log) && n > 0);
    for (int64_t i = 0; i < n && i < CV_MAX_TOKENS; i++)
        REQUIRE(ids[i] >= 0 && ids[i] < size);
    cv_tokenizer_close(&t);
}

/* Values of a tokenizer, as their users go through them. */
static void read_metadata(const uint8_t *data, size_t size)
{
    static const char *const keys[] = {
        "a", "b", "general.architecture", "tokenizer.ggml.tokens",
    };
    volatile uint8_t sum = 0;
    CvWeights *w;

    if (cv_weights_open_memory(&w, data, size, "m.gguf", NULL) < 0)
        return;
    for (size_t i = 0; i < sizeof(keys) / sizeof(*keys); i++) {
        const CvGgufValue *v = cv_gguf_find(w, keys[i]);
        const uint8_t *at = v ? v->data : NULL;

        if (!v)
            continue;
        REQUIRE(v->data >= data && v->bytes <= (size_t)(data + size - v->data));
        for (size_t k = 0; k < v->bytes; k++)
            sum = (uint8_t)(sum + v->data[k]);
        if (!v->is_array || v->type != CV_GGUF_STRING)
            continue;
        for (uint64_t k = 0; k < v->n; k++) {
            size_t length;
            const char *text = cv_gguf_string(&at, &length);

            REQUIRE((const uint8_t *)text + length == at &&
                    at <= v->data + v->bytes);
        }
        REQUIRE(at == v->data + v->bytes);
    }
    encode(w);
    cv_weights_close(&w);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!lines.log.write)
        lines_init(&lines);
    if (size < 4 || memcmp(data, "GGUF", 4))
        return 0; /* other readers have targets of their own */
    fuzz_container(&lines, data, size, "m.gguf");
    read_metadata(data, size);
    return 0;
}
