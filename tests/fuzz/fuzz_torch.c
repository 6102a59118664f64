/*
 * Fuzz target: a file of torch.save() is opened and what it holds is loaded
 * into the CPU backend. An input that begins as a pickle does, with 0x80, is
 * put into a sound archive, so that the fuzzer need not find out how zip works
 * to reach the machine that reads pickles; files of old versions of PyTorch
 * begin so as well.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#include "tensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static Lines lines;

typedef struct Archive {
    uint8_t *data;
    size_t n;
} Archive;

static void put(Archive *a, uint64_t value, int bytes)
{
    for (int i = 0; i < bytes; i++)
        a->data[a->n++] = i < 8 ? (uint8_t)(value >> 8 * i) : 0;
}

static void put_bytes(Archive *a, const void *bytes, size_t n)
{
    if (n)
        memcpy(a->data + a->n, bytes, n);
    a->n += n;
}

static void put_local(Archive *a, const char *name, const void *bytes,
                      size_t n)
{
    put(a, 0x04034b50, 4);
    put(a, 0, 22);
    put(a, strlen(name), 2);
    put(a, 0, 2);
    put_bytes(a, name, strlen(name));
    put_bytes(a, bytes, n);
}

static void put_central(Archive *a, const char *name, size_t n, size_t at)
{
    put(a, 0x02014b50, 4);
    put(a, 0, 16);
    put(a, n, 4);
    put(a, n, 4);
    put(a, strlen(name), 2);
    put(a, 0, 12);
    put(a, at, 4);
    put_bytes(a, name, strlen(name));
}

/* a/data.pkl and a/data/0 of 64 bytes. */
static void open_pickle(const uint8_t *data, size_t size)
{
    static const uint8_t storage[64] = { 1, 2, 3 };
    Archive a = { malloc(size + 1024), 0 };
    size_t second, directory;

    REQUIRE(a.data);
    put_local(&a, "a/data.pkl", data, size);
    second = a.n;
    put_local(&a, "a/data/0", storage, sizeof(storage));
    directory = a.n;
    put_central(&a, "a/data.pkl", size, 0);
    put_central(&a, "a/data/0", sizeof(storage), second);
    second = a.n;
    put(&a, 0x06054b50, 4);
    put(&a, 0, 4);
    put(&a, 2, 2);
    put(&a, 2, 2);
    put(&a, second - directory, 4);
    put(&a, directory, 4);
    put(&a, 0, 2);
    fuzz_container(&lines, a.data, a.n, "m.pt");
    free(a.data);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!lines.log.write)
        lines_init(&lines);
    if (size && data[0] == 0x80)
        open_pickle(data, size);
    if (size > 4 && (data[0] == 0x80 || !memcmp(data, "PK", 2)))
        fuzz_container(&lines, data, size, "m.pt");
    return 0;
}
