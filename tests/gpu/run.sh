#!/bin/sh
# Everything that is tested on a GPU, with one table at the end. It works in a
# build (`make check-gpu`) and in a folder that pack.sh made.
#
# SPDX-License-Identifier: BSD-2-Clause
#
# Usage: run.sh [--rehearse] [PART]...
#   ops        every operation against double precision: Hopper's kernels,
#              the generic ones, float32
#   clip       a whole clip of the small fixture against PyTorch's; the tiny
#              decoder, LoRA and fp8 files
#   engines    several engines at the same time, also of 1.3B, on two GPUs and
#              in a caller's context
#   sanitizer  the operations under compute-sanitizer: memcheck, racecheck, at
#              the same time
#   reference  real widths and whole clips beside PyTorch: reference.py
#   evaluate   the sample model's scores, on the GPU and on the CPU
#   fp8        precision=fp8: forwards at real widths against PyTorch's float32,
#              the sample model's frames and scores beside those of bf16
#   memory     predicted and used GPU memory; a streamed text encoder
#   ffmpeg     frames in GPU memory: FFmpeg with tests/ffmpeg/cuda.t
#   trials     kernels that have not run on a GPU yet (docs/kernels.md)
# Without a PART all but the last. Each step has a time limit; a failed one does not
# end the others. Exit status 0: all that ran passed; steps that could not run
# are SKIP in the table, with the reason.
#
# --rehearse tries the script itself where there is no GPU: the emulated device
# stands in, sizes are tiny, and evaluate compares the CPU with itself.
#
# Environment: CAUSVID_SRC, CAUSVID_BUILD; PYTHON; GPU_WORK, where logs go and
# the random models of `reference` (12 GB), default CAUSVID_BUILD/gpu;
# REFERENCE_ARGS, MEMORY_ARGS and FP8_ARGS, of the scripts beside this one;
# EVALUATE_EVERY (8) and FP8_EVERY (1), of the list of prompts; FFMPEG, FFPROBE,
# default those in
# CAUSVID_BUILD/bin.

set -u
LC_ALL=C; export LC_ALL
here=$(cd "$(dirname "$0")" && pwd -P)
library_path=${LD_LIBRARY_PATH:-}
if [ -d "$here/build" ]; then # packed
    src=${CAUSVID_SRC:-$here}
    build=$here/build
    library_path=$here/lib:$build/lib${library_path:+:$library_path}
else
    src=${CAUSVID_SRC:-$here/../..}
    build=${CAUSVID_BUILD:-$src/build}
fi
src=$(cd "$src" && pwd -P) && build=$(cd "$build" && pwd -P) || exit 2
python=${PYTHON:-python3}
work=${GPU_WORK:-$build/gpu}

rehearse=no
if [ "${1:-}" = --rehearse ]; then
    rehearse=yes
    shift
fi
[ $# -gt 0 ] || set -- ops clip engines memory sanitizer reference evaluate fp8 ffmpeg
for part; do
    case $part in
    ops|clip|engines|sanitizer|reference|evaluate|fp8|memory|ffmpeg|trials) ;;
    *) echo "run.sh: unknown part '$part'; see the top of $0" >&2; exit 2 ;;
    esac
done
mkdir -p "$work" || exit 2
table=$work/table
: > "$table" || exit 2

# ---- where things are

if [ $rehearse = yes ]; then
    module=$build/emulator/libcausvid_cuda.so
else
    module=$build/lib/libcausvid_cuda.so
fi
if [ ! -r "$module" ]; then
    echo "run.sh: there is no $module" >&2
    exit 2
fi

# cuBLASLt is not in the module, and may lie elsewhere than when it was built:
# in the toolkit or in the packages that Python's PyTorch brings.
find_cublas() {
    name=$(LD_LIBRARY_PATH=$library_path ldd "$module" 2> /dev/null |
        sed -n 's/^[[:space:]]*\(libcublasLt[^ ]*\) => not found.*/\1/p')
    [ -n "$name" ] || return 0
    compiler=$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)
    packages=$($python -c 'import nvidia; print(*nvidia.__path__)' 2> /dev/null)
    for folder in /usr/local/cuda/lib64 \
            "$(dirname "$(dirname "$compiler")")/lib64" \
            $(for p in $packages; do echo "$p"/*/lib; done); do
        if [ -e "$folder/$name" ]; then
            echo "$name is in $folder"
            library_path=${library_path:+$library_path:}$folder
            return 0
        fi
    done
    echo "run.sh: $name is nowhere to be found" >&2
}
[ $rehearse = yes ] || find_cublas

# Our programs see these libraries, Python does not: PyTorch brings its own.
ours() {
    env ${library_path:+"LD_LIBRARY_PATH=$library_path"} "$@"
}
export CAUSVID_SRC="$src" CAUSVID_BUILD="$build"
export CAUSVID_CUDA_MODULE="$module" CAUSVID_LIBRARY_PATH="$library_path"
# The folder of this build is not the one that the library was compiled in.
model=$src/samples/shapes

if [ $rehearse = no ] && ! ours "$build/tests/ops/test_ops" --probe; then
    exit 1
fi

# ---- steps

now() { date +%s.%N; }
seconds_since() { echo "$1 $(now)" | awk '{ printf "%.1f", $2 - $1 }'; }

note() { # RESULT SECONDS NAME WORDS
    printf '%-6s %7s s  %-34s %s\n' "$1" "$2" "$3" "$4" | tee -a "$table"
}

# What is shown of the log of a failed step: these lines, or its end.
show='^not ok|^Bail out|^# .*(failed|error)|^========='
show_lines=24 show_columns=160

# step NAME LIMIT COMMAND...: under a time limit, in a log of its own
step() {
    name=$1; limit=$2; shift 2
    log=$work/$(echo "$name" | tr -c 'A-Za-z0-9\n' -).log
    began=$(now)
    ours timeout -k 10 "$limit" "$@" > "$log" 2>&1
    status=$?
    took=$(seconds_since "$began")
    if [ $status = 0 ]; then
        words=$(grep -c '^ok' "$log")
        [ "$words" = 0 ] && words= || words="$words checks"
        note pass "$took" "$name" "$words"
    else
        words="status $status"
        [ $status = 124 ] && words="longer than $limit s"
        note FAIL "$took" "$name" "$words: $log"
        { grep -E "$show" "$log" || tail -n 12 "$log"; } |
            head -n $show_lines | cut -c 1-$show_columns
    fi
    return $status
}

skip() { # NAME REASON
    note SKIP - "$1" "$2"
}

run_ops() {
    test_ops=$build/tests/ops/test_ops
    if [ $rehearse = yes ]; then
        step "ops: emulated, Hopper" 300 "$test_ops" --op norm_modulate \
            --backend "cuda bf16, Hopper kernels (emulated)"
        return
    fi
    step "ops: bf16" 300 "$test_ops" --gpu --backend "cuda bf16"
    step "ops: bf16, generic kernels" 300 "$test_ops" --gpu \
        --backend "cuda bf16, generic kernels"
    step "ops: fp8" 300 "$test_ops" --gpu --backend "cuda fp8"
    step "ops: 8-bit attention" 100 "$test_ops" --gpu \
        --backend "cuda 8-bit attention"
    step "ops: float32" 300 "$test_ops" --gpu --backend "cuda float32"
}

run_trials() {
    for row in "cuda fp8, trials" "cuda 8-bit attention, trials"; do
        step "ops: ${row#cuda }" 200 "$build/tests/ops/test_ops" --gpu \
            --backend "$row"
    done
    step "clip: 8-bit keys and values" 100 "$build/tests/model/test_ring" --gpu
    step "clip: the same bytes" 100 "$build/tests/model/test_cuda" --gpu trials
}

run_clip() {
    set --
    [ $rehearse = yes ] || set -- --gpu
    step "clip: small fixture" 300 "$build/tests/model/test_cuda" "$@"
    step "clip: tiny decoder" 100 "$build/tests/model/test_tiny_vae" "$@"
    step "clip: LoRA, merged on the device" 200 "$build/tests/model/test_lora" "$@"
    step "clip: fp8 files" 200 "$build/tests/model/test_fp8" "$@"
}

# Nothing else may use the GPU meanwhile.
run_memory() {
    if [ $rehearse = yes ]; then
        skip memory "an emulated device has none"
        return
    fi
    # shellcheck disable=SC2086
    step "memory: as predicted, and streamed" 400 "$python" \
        "$src/tests/gpu/memory.py" --causvid "$build/bin/causvid" \
        ${MEMORY_ARGS:+$MEMORY_ARGS} && grep -v '^all passed' "$log"
}

run_engines() {
    set --
    [ $rehearse = yes ] || set -- --gpu
    step "engines: several at a time" 180 "$build/tests/model/test_engines" "$@"
}

run_sanitizer() {
    sanitizer=$(command -v compute-sanitizer ||
        ls /usr/local/cuda/bin/compute-sanitizer 2> /dev/null)
    if [ $rehearse = yes ] || [ -z "$sanitizer" ]; then
        skip "sanitizer" "no compute-sanitizer here"
        return
    fi
    # At the same time: what they take is the host's.
    for tool in memcheck racecheck; do
        for row in "cuda bf16" "cuda bf16, generic kernels" "cuda fp8" \
            "cuda 8-bit attention" "cuda float32"; do
            step "$tool: ${row#cuda }" 500 "$sanitizer" --tool $tool \
                --error-exitcode 99 --print-limit 20 \
                "$build/tests/ops/test_ops" --gpu --seed 1 --backend "$row" &
        done
    done
    wait
}

run_reference() {
    if ! $python -c 'import torch, transformers, diffusers, safetensors' \
            > "$work/python.log" 2>&1; then
        skip reference "$(tail -n 1 "$work/python.log")"
        return
    fi
    set -- --work "$work/reference"
    [ $rehearse = no ] || set -- "$@" --scale tiny --torch cpu
    # Without our libraries in the way: reference.py gives them to causvid.
    # shellcheck disable=SC2086
    step reference 1500 env -u LD_LIBRARY_PATH \
        ${LD_LIBRARY_PATH:+"LD_LIBRARY_PATH=$LD_LIBRARY_PATH"} \
        "$python" "$src/tests/gpu/reference.py" "$@" ${REFERENCE_ARGS:-}
    sed -n '/^Errors against/,$p' "$work/reference.log"
}

# same_scores A B SHARE: every row of the two tables differs by at most this
# share of its questions
same_scores() {
    awk -v share="$3" '
        match($0, / [0-9]+ of +[0-9]+ /) {
            split(substr($0, RSTART, RLENGTH), n, " ")
            row = substr($0, 1, RSTART - 1)
            sub(/ +$/, "", row)
            if (FNR == NR) { right[row] = n[1]; asked[row] = n[3]; next }
            rows++
            d = n[1] - right[row]
            printf "  %-20s %d and %d of %d\n", row, right[row], n[1], n[3]
            if (asked[row] != n[3] || d * d > share * share * n[3] * n[3])
                bad = 1
        }
        END { exit bad || rows < 4 }' "$1" "$2"
}

# Its exit status says whether the bars are reached: here only whether it ran.
evaluate() { # NAME DEVICE PRECISION EVERY [OPTION VALUE]...
    name=$1 device=$2 precision=$3 every=$4
    shift 4
    if [ $rehearse = yes ]; then
        set -- --limit 2 --frames 16 "$@"
    else
        set -- --every "$every" "$@"
    fi
    set -- "$build/bin/evaluate" --model "$model" \
        --prompts "$src/samples/evaluate-prompts.tsv" --device "$device" \
        --precision "$precision" "$@"
    # shellcheck disable=SC2016
    step "$name" 600 sh -c '"$@"; status=$?; [ $status -le 1 ]' sh "$@" &&
        grep -q 'object colour' "$log"
}

run_evaluate() {
    gpu=cuda
    [ $rehearse = no ] || gpu=cpu
    every=${EVALUATE_EVERY:-8}
    evaluate "evaluate cpu" cpu fp32 "$every" || return
    for row in fp32 bf16; do
        [ $rehearse$row != yesbf16 ] || continue
        evaluate "evaluate $gpu $row" $gpu $row "$every" || continue
        # Float32 must score alike; bf16 may turn a narrow case over.
        case $row in fp32) share=0 ;; *) share=0.05 ;; esac
        result=FAIL
        same_scores "$work/evaluate-cpu.log" "$log" $share && result=pass
        note $result - "the same scores, $row" "$share may differ"
    done
}

# points_lost A B: the most that a row of table B lies below that of A, in
# points of a hundred; nothing where the tables are not of the same questions
points_lost() {
    awk '
        match($0, / [0-9]+ of +[0-9]+ /) {
            split(substr($0, RSTART, RLENGTH), n, " ")
            row = substr($0, 1, RSTART - 1)
            sub(/ +$/, "", row)
            if (FNR == NR) { right[row] = n[1]; asked[row] = n[3]; next }
            rows++
            if (asked[row] != n[3]) bad = 1
            lost = 100 * (right[row] - n[1]) / n[3]
            if (rows == 1 || lost > most) most = lost
        }
        END { if (!bad && rows >= 4) printf "%.2f\n", most }' "$1" "$2"
}

# at_most VALUE BAR; an empty VALUE is above every bar
at_most() {
    [ -n "$1" ] && awk -v a="$1" -v b="$2" 'BEGIN { exit !(a + 0 <= b + 0) }'
}

fp8_forwards() { # PRECISION
    if ! $python -c 'import torch, transformers, diffusers, safetensors' \
            > "$work/python.log" 2>&1; then
        skip "fp8: forwards" "$(tail -n 1 "$work/python.log")"
        return
    fi
    set -- --precisions "bf16,$1"
    [ $rehearse = no ] || set -- "$@" --scale tiny --torch cpu
    # shellcheck disable=SC2086
    step "fp8: forwards" 900 env -u LD_LIBRARY_PATH \
        ${LD_LIBRARY_PATH:+"LD_LIBRARY_PATH=$LD_LIBRARY_PATH"} \
        "$python" "$src/tests/gpu/fp8.py" --work "$work/reference" "$@" ${FP8_ARGS:-}
    sed -n '/^Errors against/,/^$/p' "$log"
}

# The same clips in bf16 and fp8: frames by PSNR, at least 30 dB; scores, which
# may not fall by more than a point of a hundred.
fp8_sample() { # PRECISION
    every=${FP8_EVERY:-1} clips=$work/bf16.rgb
    gpu=cuda bf16=bf16 fp8=$1
    [ $rehearse = no ] || gpu=cpu bf16=fp32 fp8=fp32
    evaluate "fp8: evaluate $bf16" $gpu $bf16 "$every" --save "$clips" &&
        cp "$log" "$work/bf16.log" &&
        evaluate "fp8: evaluate $fp8" $gpu "$fp8" "$every" --against "$clips"
    ran=$?
    rm -f "$clips"
    [ $ran = 0 ] || return
    words=$(sed -n 's/^PSNR against .*rgb: //p' "$log")
    psnr=${words%% *}
    [ "$psnr" != identical ] || psnr=999
    result=FAIL
    [ -n "$psnr" ] && at_most 30 "$psnr" && result=pass
    note $result - "fp8: frames, 30 dB" "$words"
    lost=$(points_lost "$work/bf16.log" "$log")
    result=FAIL
    at_most "$lost" 1 && result=pass
    note $result - "fp8: scores, 1 point may be lost" \
        "${lost:-unknown} points lost"
}

run_fp8() {
    tried=fp8
    if ! ours "$build/bin/causvid" bench --device cuda --precision fp8 \
            --model random:tiny --tokenizer "$model/tokenizer" --runs 1 \
            --size 32x32 --frames 9 --steps 1 > "$work/fp8.log" 2>&1; then
        skip fp8 "$(tail -n 1 "$work/fp8.log")"
        [ $rehearse = yes ] || return
        tried=bf16 # the script itself is tried all the same
    fi
    fp8_forwards $tried
    fp8_sample $tried
}

run_ffmpeg() {
    FFMPEG=${FFMPEG:-$build/bin/ffmpeg}
    FFPROBE=${FFPROBE:-$build/bin/ffprobe}
    export FFMPEG FFPROBE
    if [ ! -x "$FFMPEG" ]; then
        skip ffmpeg "there is no $FFMPEG: make ffmpeg, pack.sh --ffmpeg"
        return
    elif ! ours "$FFMPEG" -v error -init_hw_device list > "$work/ffmpeg.log" 2>&1
    then
        note FAIL - ffmpeg "it does not run: $(tail -n 1 "$work/ffmpeg.log")"
        return
    elif ! grep -qx cuda "$work/ffmpeg.log"; then
        skip ffmpeg "$FFMPEG was built without CUDA (nv-codec-headers)"
        return
    fi
    gpu=yes
    [ $rehearse = no ] || gpu=no
    # All that a failed check tells, with ffmpeg's own words.
    show='^not ok|^#' show_lines=200 show_columns=500
    step "ffmpeg: frames in GPU memory" 400 env CAUSVID_GPU=$gpu \
        "$src/tests/ffmpeg/cuda.t"
    sed -n 's/^ok.*# SKIP /       not shown: /p' "$log"
    [ $rehearse = no ] || return
    # To be looked at: $work/clip.mp4.
    graph="causvid=prompt='a red circle moves right on a blue background'"
    graph="$graph:model=$model:seed=1:output=cuda,scale_cuda=640:-2"
    step "ffmpeg: clip of the sample model" 60 "$FFMPEG" -nostdin -hide_banner \
        -y -benchmark -init_hw_device cuda \
        -filter_complex "$graph,hwdownload,format=nv12" -c:v libx264 \
        "$work/clip.mp4" &&
        grep -E '^frame=|^bench: utime' "$log" | tail -n 2
}

# ---- all of it

started=$(now)
for part; do
    "run_$part"
done
echo
echo "======== $(grep -c '' "$table") steps, $(seconds_since "$started") s:"
cat "$table"
if grep -q '^FAIL' "$table"; then
    echo "Some FAILED. Logs are in $work."
    exit 1
fi
grep -q '^pass' "$table" # with nothing but SKIP nothing was shown
