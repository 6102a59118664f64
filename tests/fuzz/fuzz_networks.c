/*
 * Fuzz target: a network is opened from a weight file: its sizes and its graph
 * are read from names and shapes. The first byte of the input chooses the
 * network, the rest is the file.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#include <fcntl.h>
#include <unistd.h>

#include "dit/dit.h"
#include "lines.h"
#include "text/text.h"
#include "vae/vae.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* For networks as small as those of the corpus: files without a config have
 * heads of 128 and latents of 16 channels. */
static const char config_text[] =
    "{\"num_heads\":1,\"latents_mean\":[0],\"latents_std\":[1]}";

static Lines lines;
static CvBackend *backend;
static char file[64], config[64];

static void save(const char *path, const void *data, size_t size)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);

    REQUIRE(fd >= 0 && write(fd, data, size) == (ssize_t)size);
    close(fd);
}

static void clean_up(void)
{
    char *slash = strrchr(file, '/');

    unlink(file);
    unlink(config);
    *slash = 0;
    rmdir(file);
}

static void set_up(void)
{
    char folder[32] = "/dev/shm/causvid-XXXXXX";

    lines_init(&lines);
    if (!mkdtemp(folder)) { /* there is no such place: slower, on a disk */
        strcpy(folder, "/tmp/causvid-XXXXXX");
        REQUIRE(mkdtemp(folder));
    }
    snprintf(file, sizeof(file), "%s/m.safetensors", folder);
    snprintf(config, sizeof(config), "%s/config.json", folder);
    atexit(clean_up);
    save(config, config_text, sizeof(config_text) - 1);
    REQUIRE(!cv_null_open(&backend, &lines.log));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    CvDit *dit = NULL;
    CvUmt5 *umt5 = NULL;
    CvVae *vae = NULL;
    int err;

    if (!size)
        return 0;
    if (!backend)
        set_up();
    save(file, data + 1, size - 1);
    switch (data[0]) {
    case 't':
        err = cv_dit_open(&dit, backend, file, "", config, &lines.log);
        REQUIRE(!err == !!dit);
        if (dit)
            REQUIRE(cv_dit_size(dit)->layers > 0 && cv_dit_describe(dit)[0]);
        if (dit)
            err = cv_dit_load(dit);
        cv_dit_close(&dit);
        break;
    case 'e':
        err = cv_umt5_open(&umt5, backend, file, "", &lines.log);
        REQUIRE(!err == !!umt5);
        if (umt5)
            REQUIRE(cv_umt5_dim(umt5) > 0 && cv_umt5_describe(umt5)[0]);
        if (umt5)
            err = cv_umt5_load(umt5);
        cv_umt5_close(&umt5);
        break;
    default:
        err = cv_vae_open(&vae, backend, file, config, 1, &lines.log);
        REQUIRE(!err == !!vae);
        if (vae)
            REQUIRE(cv_vae_channels(vae) > 0 && cv_vae_scale(vae) > 0 &&
                    cv_vae_describe(vae)[0]);
        if (vae)
            err = cv_vae_load(vae);
        cv_vae_close(&vae);
    }
    lines_check(&lines, err);
    return 0;
}
