#!/bin/sh
# The sample model draws what prompts say, measured on the pixels of a few
# clips; samples/evaluate without options does all of them.
#
# SPDX-License-Identifier: BSD-2-Clause

# The first sample model falls short of the bars (docs/models.md), which is
# known: those checks are TODO for prove until one reaches them.
todo=" # TODO the sample model is not trained to its end, see docs/models.md"

cd "$CAUSVID_SRC" || exit 1
out=$("$CAUSVID_BUILD/bin/evaluate" --every 32)
echo "$out" | sed 's/^/# /'
n=0
check() { # NAME SUFFIX
    n=$((n + 1))
    if echo "$out" | grep -q "^$1 .* pass\$"; then
        echo "ok $n - $1$2"
    else
        echo "not ok $n - $1$2"
    fi
}
check "background colour" ""
check "object colour" "$todo"
check "motion" "$todo"
check "shape" "$todo"
echo "1..$n"
