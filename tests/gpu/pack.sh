#!/bin/sh
# Gathers into one folder what the tests on a GPU take, for a machine that has
# only the driver, the CUDA toolkit and Python: programs, libraries that such
# a machine may lack, fixtures, the sample model. There run DIR/run.sh.
#
# SPDX-License-Identifier: BSD-2-Clause
#
# Usage: tests/gpu/pack.sh [--without-source] [--ffmpeg PREFIX] DIR, after
#   ./configure --enable-cuda --cuda-arch=sm_90a --disable-blas
#   make all tests
# --without-source leaves out what is in git (scripts, fixtures, the sample
# model) where the other machine has a checkout: CAUSVID_SRC=CHECKOUT DIR/run.sh
# --ffmpeg adds the ffmpeg and ffprobe of PREFIX/bin, which were built with this
# library, such as BUILD/ffmpeg-8.1-small; FFmpeg's own shared libraries, where
# it has some, make it smaller.
# CAUSVID_BUILD names another build folder. The other machine needs the same
# processor type and a C library that is as new as the one here.

set -eu
src=$(cd "$(dirname "$0")/../.." && pwd -P)
build=${CAUSVID_BUILD:-$src/build}
limit=50 # MiB

die() {
    echo "pack.sh: $*" >&2
    exit 1
}

source=yes
ffmpeg=
while [ $# -gt 1 ]; do
    case $1 in
    --without-source) source=no ;;
    --ffmpeg)
        ffmpeg=$2
        [ -x "$ffmpeg/bin/ffmpeg" ] && [ -x "$ffmpeg/bin/ffprobe" ] ||
            die "there is no ffmpeg or ffprobe in $ffmpeg/bin"
        shift ;;
    *) die "unknown option '$1'" ;;
    esac
    shift
done
[ $# = 1 ] || die "expected one argument, the folder to make"
dir=$1
[ ! -e "$dir" ] || die "'$dir' is already there"
programs="bin/causvid bin/evaluate tests/ops/test_ops tests/gpu/write_model"
for test in "$build"/tests/model/test_*; do
    programs="$programs tests/model/$(basename "$test")"
done
modules="lib/libcausvid.so.0 lib/libcausvid_cuda.so emulator/libcausvid_cuda.so"
for file in $programs $modules; do
    [ -f "$build/$file" ] || die "there is no $build/$file: configure with" \
        "--enable-cuda, then make all tests"
done

mkdir -p "$dir/lib"
for file in $programs $modules; do
    mkdir -p "$dir/build/$(dirname "$file")"
    strip --strip-unneeded -o "$dir/build/$file" "$build/$file"
done
ln -s libcausvid.so.0 "$dir/build/lib/libcausvid.so"

for program in ${ffmpeg:+ffmpeg ffprobe}; do
    strip -o "$dir/build/bin/$program" "$ffmpeg/bin/$program"
done

# Not the C and C++ libraries, which belong to the system, nor CUDA's.
{
    for file in $programs $modules; do
        ldd "$build/$file"
    done
    [ -z "$ffmpeg" ] || ldd "$ffmpeg/bin/ffmpeg" "$ffmpeg/bin/ffprobe"
} > "$dir/libraries"
if grep 'not found' "$dir/libraries" | grep -v libcublas >&2; then
    die "these libraries are not found"
fi
awk '$2 == "=>" && $3 ~ /^\// { print $3 }' "$dir/libraries" | sort -u |
while read -r library; do
    case $(basename "$library") in
    libc.so.*|libm.so.*|libdl.so.*|librt.so.*|libpthread.so.*) ;;
    libstdc++.so.*|libgcc_s.so.*|libcublas*|libcuda*|libcausvid.so*) ;;
    *openblas*|*blas.so*) die "this build takes OpenBLAS: --disable-blas" ;;
    *) cp -L "$library" "$dir/lib/" ;;
    esac
done
rm "$dir/libraries"

cp "$src/tests/gpu/run.sh" "$dir/run.sh"
if [ $source = yes ]; then
    mkdir -p "$dir/tests/gpu" "$dir/tests/model" "$dir/samples" \
        "$dir/tests/emulator" "$dir/tests/ffmpeg"
    cp "$src"/tests/gpu/*.py "$dir/tests/gpu/"
    cp "$src/tests/ffmpeg/cuda.t" "$src/tests/ffmpeg/lib.sh" \
        "$dir/tests/ffmpeg/"
    cp "$src"/tests/emulator/libcuda.[ch] "$dir/tests/emulator/"
    cp -R "$src/tests/model/make" "$src/tests/model/fixtures" \
        "$dir/tests/model/"
    cp -R "$src/samples/shapes" "$src/samples/evaluate-prompts.tsv" \
        "$dir/samples/"
    find "$dir" -name __pycache__ -prune -exec rm -rf {} +
fi
chmod -R u+rwX,go+rX "$dir"

size=$(du -sm "$dir" | cut -f 1)
echo "$dir: $size MiB"
[ "$size" -le $limit ] || die "that is more than $limit MiB"
