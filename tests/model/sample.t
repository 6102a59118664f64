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
# What tests/gpu/run.sh compares precisions with.
evaluate() { # ARGUMENT...
    "$CAUSVID_BUILD/bin/evaluate" --device cpu --limit 2 --frames 16 "$@" 2>&1
}
psnr() { # NAME PATTERN
    n=$((n + 1))
    if echo "$out" | grep -Eq "$2"; then
        echo "ok $n - $1"
    else
        echo "not ok $n - $1"
        echo "$out" | sed 's/^/# /'
    fi
}
clips=$(mktemp "${TMPDIR:-/tmp}/causvid-clips.XXXXXX") || exit 1
trap 'rm -f "$clips"' EXIT
evaluate --save "$clips" > /dev/null
out=$(evaluate --against "$clips")
psnr "the same clips again" 'PSNR against .*: identical over 2 clips'
out=$(evaluate --seed 2 --against "$clips")
psnr "others" ': [12][0-9]\.[0-9]+ dB over 2 clips, least [12][0-9]\.[0-9]+ dB in clip'
# In one value of each clip a difference of one: 16 * 96 * 160 * 3 values.
perl -e 'local $/; open(F, "+<", $ARGV[0]); binmode F; $_ = <F>;
    for my $at (7, length($_) / 2 + 7) {
        my $v = ord(substr($_, $at, 1));
        substr($_, $at, 1) = chr($v ? $v - 1 : 1);
    }
    seek(F, 0, 0); print F $_' "$clips"
out=$(evaluate --against "$clips")
psnr "a difference of one" ': 106\.81 dB over 2 clips, least 106\.81 dB in clip 1'
out=$(evaluate --limit 3 --against "$clips")
psnr "too few clips" "ends within clip 3"
out=$(evaluate --limit 1 --against "$clips")
psnr "too many" "holds more than these 1 clips"
echo "1..$n"
