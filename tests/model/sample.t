#!/bin/sh
# The sample model draws what prompts say, measured on the pixels of a few
# clips; samples/evaluate without options does all of them.
#
# SPDX-License-Identifier: BSD-2-Clause

cd "$CAUSVID_SRC" || exit 1
out=$("$CAUSVID_BUILD/bin/evaluate" --every 32)
echo "$out" | sed 's/^/# /'
n=0
check() { # NAME
    n=$((n + 1))
    if echo "$out" | grep -q "^$1 .* pass\$"; then
        echo "ok $n - $1"
    else
        echo "not ok $n - $1"
    fi
}
check "background colour"
check "object colour"
check "motion"
check "shape"
echo "1..$n"
