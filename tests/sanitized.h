/*
 * SANITIZED: 1 where a sanitizer is compiled in that takes memory of its own,
 * more than any limit, and takes a request for too much for an error; else 0.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#ifndef CV_TESTS_SANITIZED_H
#define CV_TESTS_SANITIZED_H

#ifndef __has_feature
#define __has_feature(feature) 0
#endif

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) ||          \
    __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#else
#define SANITIZED 0
#endif

#endif /* CV_TESTS_SANITIZED_H */
