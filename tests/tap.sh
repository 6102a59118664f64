# What the tests of programs begin with: TAP output, in a folder of their own.
#
# SPDX-License-Identifier: BSD-2-Clause
#
# Sourced by *.t files, as "$(dirname "$0")/../tap.sh". said: files that a check
# shows the end of when it fails.

set -u
export LC_ALL=C

src=${CAUSVID_SRC:-$(cd "$(dirname "$0")/../.." && pwd)}
build=${CAUSVID_BUILD:-$src/build}
causvid=$build/bin/causvid

tmp=$(mktemp -d "${TMPDIR:-/tmp}/causvid-test.XXXXXX") || exit 1
trap 'rm -rf "$tmp"' EXIT
cd "$tmp" || exit 1

n=0
failed=0

# check NAME: one check, from the exit status of the command before
check() {
    status=$?
    n=$((n + 1))
    if [ $status = 0 ]; then
        echo "ok $n - $1"
    else
        echo "not ok $n - $1"
        failed=$((failed + 1))
        for file in $said; do
            tail -n 12 "$file" | sed "s/^/# $file: /"
        done
    fi
}

skip() {
    n=$((n + 1))
    echo "ok $n - # SKIP $1"
}

# The last line.
finish() {
    echo "1..$n"
    [ $failed = 0 ]
}
