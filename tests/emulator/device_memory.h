/*
 * Device memory of the emulated device.
 *
 * SPDX-License-Identifier: BSD-2-Clause
 */
#ifndef CV_EMULATOR_DEVICE_MEMORY_H
#define CV_EMULATOR_DEVICE_MEMORY_H

#include <stddef.h>

/* Between these two device memory can be touched; they nest. */
void emulator_enter(void);
void emulator_leave(void);

/* Where an address lies, for a report. */
void emulator_describe_address(char *text, size_t bytes, const void *p);

/* Report faults of this thread. */
void emulator_catch_faults(void);

#endif /* CV_EMULATOR_DEVICE_MEMORY_H */
