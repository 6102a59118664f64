/*
 * Finding and loading the CUDA backend.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 *
 * A module stays loaded once it was: the CUDA runtime in it keeps state of the
 * process (the primary context, handlers at exit), so unloading it is not
 * safe. dlopen() counts references, so nothing has to be remembered here.
 */
#define _GNU_SOURCE /* dladdr, secure_getenv */
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "device.h"

#define MODULE "libcausvid_cuda.so"

int cv_trials(unsigned *trials, CvLog *log)
{
    static const struct {
        const char *name;
        unsigned trials;
    } list[] = {
        { "1", CV_TRIALS_ALL },
        { "product8", CV_TRIAL_PRODUCT8 },
        { "ring8", CV_TRIAL_RING8 },
        { "uploads", CV_TRIAL_UPLOADS },
        { "outputs8", CV_TRIAL_OUTPUTS8 },
        { "launches", CV_TRIAL_LAUNCHES },
        { "graphs", CV_TRIAL_GRAPHS },
    };
    const char *at = getenv("CAUSVID_CUDA_TRIALS");
    unsigned found;

    for (*trials = 0; at && *at; *trials |= found) {
        size_t length = strcspn(at, ",");

        found = 0;
        for (size_t i = 0; i < sizeof(list) / sizeof(list[0]); i++)
            if (strlen(list[i].name) == length &&
                !strncmp(list[i].name, at, length))
                found = list[i].trials;
        if (!found)
            return cv_fail(log, EINVAL, "CAUSVID_CUDA_TRIALS: '%.*s' is no "
                           "trial; expected 1 for all, or some of product8, "
                           "ring8, uploads, outputs8, launches, graphs with "
                           "commas between them",
                           (int)(length < 40 ? length : 40), at);
        at += length + (at[length] == ',');
    }
    return 0;
}

void cv_own_folder(char folder[CV_FOLDER_BYTES])
{
    Dl_info info;
    char *slash;
    ssize_t n;

    *folder = 0;
    /* a function as data: POSIX promises that this works for dlsym's sake */
    if (!dladdr((void *)(uintptr_t)cv_device_open, &info) || !info.dli_fname)
        return;
    if (strchr(info.dli_fname, '/')) {
        n = (ssize_t)strlen(info.dli_fname);
        if (n < CV_FOLDER_BYTES)
            memcpy(folder, info.dli_fname, (size_t)n + 1);
    } else { /* a program that was found through PATH */
        n = readlink("/proc/self/exe", folder, CV_FOLDER_BYTES - 1);
        folder[n > 0 ? n : 0] = 0;
    }
    slash = strrchr(folder, '/');
    folder[slash ? slash + 1 - folder : 0] = 0;
}

static int fail_load(char why[CV_WHY_SIZE])
{
    const char *text = dlerror();

    snprintf(why, CV_WHY_SIZE, "the CUDA module does not load: %s",
             text ? text : "no reason is known");
    return CAUSVID_ERR(ENODEV);
}

static int load_module(void **module, char why[CV_WHY_SIZE])
{
    const char *named = secure_getenv("CAUSVID_CUDA_MODULE");
    char folder[CV_FOLDER_BYTES], path[CV_FOLDER_BYTES];
    const char *text;

    if (named && *named) {
        *module = dlopen(named, RTLD_NOW | RTLD_LOCAL);
        return *module ? 0 : fail_load(why);
    }
    cv_own_folder(folder);
    for (int i = 0; i < 2 && *folder; i++) {
        int n = snprintf(path, sizeof(path), "%s%s" MODULE, folder,
                         i ? "../lib/" : "");

        if (n >= CV_FOLDER_BYTES || access(path, F_OK))
            continue;
        *module = dlopen(path, RTLD_NOW | RTLD_LOCAL);
        return *module ? 0 : fail_load(why);
    }
    /* The loader's text begins with the file that is missing: this one, or one
     * that it needs. */
    *module = dlopen(MODULE, RTLD_NOW | RTLD_LOCAL);
    if (*module)
        return 0;
    text = dlerror();
    if (text && strncmp(text, MODULE ":", strlen(MODULE ":"))) {
        snprintf(why, CV_WHY_SIZE, "the CUDA module does not load: %s", text);
        return CAUSVID_ERR(ENODEV);
    }
    snprintf(why, CV_WHY_SIZE, "there is no " MODULE " beside this library: "
             "it was built or installed without CUDA");
    return CAUSVID_ERR(ENOSYS);
}

int cv_device_open(CvBackend **backend, const CvCudaSettings *settings,
                   char why[CV_WHY_SIZE], CvLog *log)
{
    void *module = NULL;
    CvCudaOpen *open;
    void *symbol;
    int err;

    *backend = NULL;
    why[0] = 0;
    if ((err = load_module(&module, why)) < 0)
        return err;
    symbol = dlsym(module, "cv_cuda_open");
    if (!symbol) {
        snprintf(why, CV_WHY_SIZE, "the CUDA module is of another version of "
                 "libcausvid");
        dlclose(module);
        return CAUSVID_ERR(ENODEV);
    }
    memcpy(&open, &symbol, sizeof(open)); /* ISO C has no cast for this */
    return open(backend, settings, why, log);
}
