/*
 * Writes a random model to files, for measuring how fast it loads:
 *
 *     write_model random:wan-14b-fp8 /dev/shm/model
 *     causvid bench --load --model \
 *         /dev/shm/model/diffusion_models/model.safetensors --variant causal \
 *         --tokenizer samples/shapes --device cuda
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * The files lie as in ComfyUI's models/, so that the parts find each other.
 * Third argument: how many of the blocks of each network, all when missing.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "../random_file.h"
#include "cpu/threads.h"

static void write_log(void *cookie, enum CausvidLogLevel level,
                      const char *format, va_list args)
{
    (void)cookie;
    if (level > CAUSVID_LOG_WARNING)
        return;
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
}

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static int write_part(const char *root, const char *folder, const char *file,
                      const char *model, const char *part, int blocks,
                      CvLog *log)
{
    const long cores = sysconf(_SC_NPROCESSORS_ONLN);
    char path[4096], source[256];
    double began = now();
    struct stat st;

    snprintf(path, sizeof(path), "%s/%s", root, folder);
    if (mkdir(path, 0777) && stat(path, &st))
        return cv_fail(log, EIO, "there is no folder '%s', and it cannot be "
                       "made", path);
    snprintf(path, sizeof(path), "%s/%s/%s", root, folder, file);
    snprintf(source, sizeof(source), "%s/%s", model, part);
    if (write_random_file(path, source, blocks, cores < 1 ? 1 :
                          cores < CV_MAX_THREADS ? (int)cores :
                          CV_MAX_THREADS, log) < 0)
        return -1;
    if (!stat(path, &st))
        printf("%s: %.3f GB, %.1f s\n", path, (double)st.st_size / 1e9,
               now() - began);
    return 0;
}

int main(int argc, char **argv)
{
    CausvidSettings settings;
    int blocks = argc > 3 ? atoi(argv[3]) : -1, err;
    struct stat st;
    CvLog log;

    if (argc < 3 || argc > 4) {
        fprintf(stderr, "Usage: write_model random:NAME FOLDER [BLOCKS]\n");
        return 2;
    }
    causvid_default_settings(&settings);
    settings.log = write_log;
    cv_log_init(&log, &settings);
    if (mkdir(argv[2], 0777) && stat(argv[2], &st)) {
        fprintf(stderr, "there is no folder '%s', and it cannot be made\n",
                argv[2]);
        return 1;
    }
    err = write_part(argv[2], "diffusion_models", "model.safetensors", argv[1],
                     "transformer", blocks, &log) < 0 ||
          write_part(argv[2], "text_encoders", "umt5_xxl_bf16.safetensors",
                     argv[1], "text_encoder", blocks, &log) < 0 ||
          write_part(argv[2], "vae", "wan_2.1_vae.safetensors", argv[1], "vae",
                     -1, &log) < 0;
    cv_log_free(&log);
    return err;
}
