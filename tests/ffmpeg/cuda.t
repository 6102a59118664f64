#!/bin/bash
# Frames in GPU memory: negotiation, devices, pixels and tags.
#
# Without a GPU: the library runs the emulated CUDA backend, and FFmpeg loads
# the driver of tests/emulator/libcuda.c. That ends ffmpeg with a line when
# memory or a context is left, and faults when frames are drawn by the wrong
# side.
#
# CAUSVID_GPU=yes: on a GPU, with the module of the build and FFmpeg's own CUDA
# filters; what looks into the emulated driver is left out. Whatever is compared
# was made on the same device and has to be equal, byte for byte.
. "$(dirname "$0")/lib.sh"

# The smallest model there is; what its random weights show does not matter.
model=$src/tests/model/fixtures/clip/model
tiny="causvid=prompt='$prompt':model=$model:s=32x32:seed=1"
one="$tiny:d=0.05"

# A refusal comes before anything is loaded, and a format is software's too.
refuses "an unknown pixel format" "format=yuv422p: .* yuv420p, nv12" \
    "$one:format=yuv422p"
if ! "$ffmpeg" -v error -init_hw_device list 2> list.log | grep -qx cuda; then
    refuses "output=cuda without CUDA in FFmpeg" "built without CUDA" \
        "$one:output=cuda"
    is "$(hashes "$one:format=rgb0")" "$(hashes "$one,format=rgb0")" \
        "format= as the filter format"
    skip "this FFmpeg was built without CUDA (nv-codec-headers)"
    finish
fi

refuses "output=cuda on the CPU" "output=cuda needs a GPU.* device=cpu" \
    "$one:output=cuda:device=cpu"
refuses "a pixel format that CUDA frames cannot have" \
    "format=rgb24: frames in GPU memory .* nv12.*bgr0" \
    "$one:output=cuda:format=rgb24"

gpu=${CAUSVID_GPU-no}
module=$build/emulator/libcausvid_cuda.so
[ $gpu = no ] || module=$build/lib/libcausvid_cuda.so
if [ ! -r "$module" ]; then
    skip "there is no $module"
    finish
fi
mkdir driver no-driver
: > no-driver/libcuda.so.1
if [ $gpu = no ] && ! ${CC:-cc} -std=c11 -O1 -g -shared -fPIC -fvisibility=hidden -pthread \
        -o driver/libcuda.so.1 "$src/tests/emulator/libcuda.c"; then
    skip "the emulated driver cannot be compiled with ${CC:-cc}"
    finish
fi

# Without the module, then without a driver.
library_path=${LD_LIBRARY_PATH-}
export LD_LIBRARY_PATH=$tmp/driver${library_path:+:$library_path}
export CAUSVID_CUDA_MODULE=$tmp/none.so
refuses "frames in GPU memory without the CUDA backend" "none\.so" \
    "$one,hwdownload,format=nv12"
export CAUSVID_CUDA_MODULE=$module
LD_LIBRARY_PATH=$tmp/no-driver${library_path:+:$library_path} \
    refuses "frames in GPU memory without a driver" \
    "GPU 0 cannot be opened.*output=software" "$one,hwdownload,format=nv12"
refuses "a GPU that is not there" "GPU 99 cannot be opened" \
    "$one:output=cuda:gpu=99"
refuses "that GPU for software frames" "there is no GPU 99: this machine has" \
    "$one:device=cuda:gpu=99"
# A driver that finds nothing, and the emulated one likewise.
CUDA_VISIBLE_DEVICES= EMULATED_DEVICES=0 refuses "output=cuda without a GPU" \
    "GPU 0 cannot be opened.*output=software needs no GPU" "$one:output=cuda"
CUDA_VISIBLE_DEVICES= EMULATED_DEVICES=0 refuses "device=cuda without a GPU" \
    "device=cuda: there is no NVIDIA GPU" "$one:device=cuda"

# ---------------------------------------------------------------- pixels

download=hwdownload,format=nv12

# complex GRAPH ARGUMENT...: one MD5 for each frame, with -filter_complex
complex() {
    local graph=$1
    shift
    ff "$@" -filter_complex "$graph" -f framemd5 - | sed -n 's/^0,.*, //p'
}

# encoded ARGUMENT...: one MD5 for each frame after libx264 without loss
encoded() {
    rm -f encoded.mp4
    ff "$@" -c:v libx264 -preset ultrafast -qp 0 encoded.mp4 &&
        ff -i encoded.mp4 -vf format=nv12 -f framemd5 - |
        sed -n 's/^0,.*, //p'
}

tags=color_range,color_space,color_primaries,color_transfer,chroma_location

# known: of fields name=value, the values that are known
known() {
    tr '|' '\n' | grep -v -e unspecified -e unknown | cut -d= -f2 | tr '\n' ' '
}

# Five frames; the second clip begins with another prompt.
printf '%s\n' "$prompt" "$prompt2" > prompts
clips="causvid=promptfile=prompts:model=$model:s=32x32:seed=1:d=0.3:device=cuda"
software=$(hashes "$clips,format=nv12")
is "$(printf '%s\n' "$software" | sort -u | wc -l)" 10 \
    "ten frames that differ, made on the GPU, in software"
is "$(hashes "$clips,hwdownload,format=nv12")" "$software" \
    "hwdownload is given GPU memory with the same bytes"
is "$(hashes "$clips:output=cuda,reverse,hwdownload,format=nv12,reverse")" \
    "$software" "frames that wait in the graph stay as they are"
is "$(complex "$clips,hwdownload,format=nv12" -init_hw_device cuda)" \
    "$software" "the same with -filter_complex and a device"
is "$(hashes "$clips:output=cuda,split[a][b];[a]$download[c];[b]$download[d];
    [c][d]vstack")" "$(hashes "$clips,format=nv12,split[a][b];[a][b]vstack")" \
    "two readers of the same frames"
is "$(ff -f lavfi -i "$clips:output=cuda" -vf $download -f framemd5 - |
    sed -n 's/^0,.*, //p')" "$software" "frames leave -f lavfi in GPU memory"
is "$(encoded -f lavfi -i "$clips,$download")" "$software" \
    "libx264 is given the same, with -f lavfi -i"
is "$(encoded -init_hw_device cuda -filter_complex "$clips,$download")" \
    "$software" "and with -filter_complex"
is "$(saying "$ffprobe" -v error -show_entries stream=$tags \
    -of compact=p=0 encoded.mp4 | known)" "tv bt709 bt709 bt709 left " \
    "the file is tagged"

for format in yuv420p yuv444p p010le rgb0 bgr0; do
    is "$(hashes "$one:format=$format,hwdownload,format=$format")" \
        "$(hashes "$one:device=cuda,format=$format")" "$format"
done
is "$(hashes "$one,format=cuda:color_ranges=pc,hwdownload,format=nv12")" \
    "$(hashes "$one:device=cuda,format=nv12:color_ranges=pc")" "full range"

# The sample model through all of it, in float32, beside the CPU's clip.
clip="causvid=prompt='$prompt':model=$src/samples/shapes:s=64x48:seed=1:d=0.5:precision=fp32"
ff -f lavfi -i "$clip:format=yuv420p,hwdownload,format=yuv420p" \
    -f lavfi -i "$clip:device=cpu,format=yuv420p" \
    -filter_complex "[0][1]psnr=stats_file=psnr" -f null -
is "$(sed -n 's/.*psnr_avg:\([^ ]*\) .*/\1/p' psnr |
    awk '$1 == "inf" || $1 >= 50 { n++ } END { print n + 0, NR }')" "8 8" \
    "frames in GPU memory show what the CPU's do" || diag "$(cat psnr)"

# ---------------------------------------------------------- negotiation, tags

# tags_of GRAPH: pixel format and colour tags of a frame
tags_of() {
    frames "$1" pix_fmt,$tags | known
}

is "$(tags_of "$one")" "yuv420p tv bt709 bt709 bt709 left " \
    "what takes anything is given software frames"
is "$(tags_of "$one:format=p010le:device=cuda")" \
    "p010le tv bt709 bt709 bt709 left " "also when format is an option"
is "$(tags_of "$one:output=cuda")" "cuda tv bt709 bt709 bt709 left " \
    "output=cuda gives GPU memory to it"
is "$(tags_of "$one,format=cuda")" "cuda tv bt709 bt709 bt709 left " \
    "so does a filter that takes nothing else"
is "$(tags_of "$one,format=cuda:color_ranges=pc")" \
    "cuda pc bt709 bt709 bt709 left " "full range"
is "$(tags_of "$one:format=yuv444p,format=cuda")" \
    "cuda tv bt709 bt709 bt709 " "yuv444p has no siting"
for graph in "$one:output=cuda:format=rgb0" "$one:format=bgr0,format=cuda"; do
    is "$(tags_of "$graph")" "cuda pc gbr bt709 bt709 " "${graph#"$one:"}"
done
is "$(tags "$one:output=cuda" prompt)" "$prompt" "metadata of CUDA frames"
is "$(frames "$tiny:d=0.3:output=cuda" pts,duration,width,height,key_frame |
    tr '\n' ' ' | sed 's/key_frame=1|//g; s/|width=32|height=32//g')" \
    "$(for i in 0 1 2 3 4; do printf 'pts=%d|duration=1 ' $i; done)" \
    "timestamps, size and key frames of CUDA frames"

for filter in $download scale_cuda=64:64; do
    if ! has filter ${filter%%[=,]*}; then
        skip "this FFmpeg has no ${filter%%[=,]*}"
        continue
    fi
    ff -f lavfi -i "$one:output=software,$filter" -f null -
    isnt $? 0 "output=software is not given up for ${filter%%[=,]*}"
    is "$(grep -c "Impossible to convert .* 'Parsed_causvid_0'" log)" 1 \
        "one line says so"
done
ff -f lavfi -i "$one:output=cuda" -c:v rawvideo -f null -
isnt $? 0 "a software encoder gets no CUDA frames, by FFmpeg's rule"

# ------------------------------------------------- FFmpeg's own CUDA filters

# both GRAPH EXPECTED NAME: with -f lavfi -i and with -filter_complex
both() {
    is "$(hashes "$1")" "$2" "$3, -f lavfi -i"
    is "$(complex "$1" -init_hw_device cuda)" "$2" "$3, -filter_complex"
}

# The second source, 16x16, in software and in GPU memory.
small="causvid=promptfile=prompts:model=$model:s=16x16:seed=9:d=0.3:device=cuda"
# Tagged as ours: overlay_cuda does not take two that differ in that.
chart="testsrc=s=16x16:r=16,format=nv12:color_spaces=bt709:color_ranges=tv"
place="x=8:y=4:shortest=1"
blend="overlay=$place:format=yuv420,format=nv12"
with_small=$(hashes "$clips,format=nv12[a];$small,format=nv12[b];[a][b]$blend")
with_chart=$(hashes "$clips,format=nv12[a];$chart[b];[a][b]$blend")
is "$(printf '%s\n' "$software" "$with_small" "$with_chart" | sort -u | wc -l)" \
    30 "pictures with a second source differ from those without"

is "$(hashes "$clips,format=nv12[a];$chart[b];[a][b]$blend,crop=16:16:8:4")" \
    "$(hashes "$chart,trim=end_frame=10")" "what overlay does is exact"

# Each pixel four times, and one of each four: the same picture again.
quadruple=scale_cuda=64:64:interp_algo=nearest
quarter=scale=32:32:flags=neighbor
is "$(hashes "$clips,format=nv12,scale=64:64:flags=neighbor,$quarter")" \
    "$software" "what scale does is exact"

if [ $gpu = no ] || ! has filter scale_cuda; then
    skip "scale_cuda and overlay_cuda need a GPU and an FFmpeg that has them"
else
    both "$clips,$quadruple,$download,$quarter" "$software" "scale_cuda"
    is "$(frames "$one,scale_cuda=64:48" pix_fmt,width,height)" \
        "width=64|height=48|pix_fmt=cuda" "the size that it was asked for"
    is "$(hashes "$clips,scale_cuda=64:48,$download" | sort -u | wc -l)" 10 \
        "with an interpolation"
    is "$(hashes "$clips,scale_cuda=format=yuv420p:interp_algo=nearest,hwdownload,
        format=yuv420p")" "$(hashes "$clips,format=yuv420p")" \
        "it makes yuv420p of nv12, as the source does"
    copy=scale_cuda=passthrough=0:interp_algo=nearest
    for format in yuv420p yuv444p p010le rgb0 bgr0; do
        is "$(hashes "$one:format=$format,$copy,hwdownload,format=$format")" \
            "$(hashes "$one:device=cuda,format=$format")" \
            "scale_cuda of $format"
    done

    both "$clips:output=cuda[a];$small:output=cuda[b];
        [a][b]overlay_cuda=$place,$download" "$with_small" \
        "overlay_cuda with a second causvid"
    is "$(complex "$clips:output=cuda[a];$chart,hwupload[b];
        [a][b]overlay_cuda=$place,$download" -init_hw_device cuda)" \
        "$with_chart" "overlay_cuda with an uploaded source"
    is "$(complex "[1]hwupload[b];[0][b]overlay_cuda=$place,$download" \
        -init_hw_device cuda=g:0,primary_ctx=1 -filter_hw_device g \
        -f lavfi -i "$clips:output=cuda" -f lavfi -i "$chart")" \
        "$with_chart" "overlay_cuda with two inputs of -f lavfi -i"

    graph="$clips:output=cuda[a];$small:output=cuda[b];
        [a][b]overlay_cuda=$place,$quadruple,$download"
    expected=$(hashes "$graph")
    is "$(encoded -f lavfi -i "$graph")" "$expected" \
        "overlay_cuda, scale_cuda and libx264, -f lavfi -i"
    is "$(encoded -init_hw_device cuda -filter_complex "$graph")" "$expected" \
        "overlay_cuda, scale_cuda and libx264, -filter_complex"
    is "$(printf '%s\n' "$expected" | sort -u | wc -l)" 10 \
        "ten frames that differ"
fi

if [ $gpu = no ] || ! has encoder h264_nvenc; then
    skip "h264_nvenc needs a GPU and an FFmpeg that has it"
elif ff -f lavfi -i "color=s=256x256:d=0.1,format=nv12" -c:v h264_nvenc \
        -f null -; then
    clip="causvid=prompt='$prompt':model=$model:s=256x256:d=0.3:output=cuda"
    ok "h264_nvenc takes the frames" ff -f lavfi -i "$clip" -c:v h264_nvenc \
        nvenc.mp4
    is "$(ff -i nvenc.mp4 -f framemd5 - | grep -c '^0,')" 5 "all of them"
else
    skip "h264_nvenc does not work here: $(grep -i -m 1 \
        -e 'nvenc.*\(no\|cannot\|fail\|support\)' -e 'cannot load' log)"
    rm -f said
fi

# --------------------------------------------------------------- devices

first=$(hashes "$one:device=cuda,format=nv12")

# Two sources in a process, one after the other and at once.
is "$(complex "$one:output=cuda[a];$one:seed=2:output=cuda[b];[a]$download[c];
    [b]$download[d];[c][d]concat")" "$first
$(hashes "$one:seed=2:device=cuda,format=nv12")" "two sources on one GPU"

# after_library OPTION...: an input whose GPU the library opens by itself, and
# then one whose frames are FFmpeg's; also what ffmpeg complains of.
after_library() {
    complex "[0]null[a];[1]$download[b];[a][b]concat" "$@" \
        -f lavfi -i "$one:device=cuda,format=nv12" \
        -f lavfi -i "$one:output=cuda"
    cat log
}
is "$(after_library)" "$first
$first" "the library leaves the primary context in a way that FFmpeg takes"

# contexts GRAPH OPTIONS: what contexts were made while the graph ran; a driver
# does not tell, so that a GPU only shows that the frames are right
contexts() {
    local graph=$1
    shift
    rm -f contexts.log
    EMULATED_DRIVER_LOG=$tmp/contexts.log complex "$graph" "$@" > hashes.log
    [ "$(cat hashes.log)" = "$first" ] || { echo "other frames"; return; }
    [ $gpu = no ] || { echo any; return; }
    sort contexts.log | tr '\n' ';'
}

# uses EXPECTED NAME GRAPH OPTIONS
uses() {
    local expected=$1 name=$2
    shift 2
    [ $gpu = no ] || expected=any
    is "$(contexts "$@")" "$expected" "$name"
}

uses "the primary context of device 0;" \
    "without a device the filter opens the primary context" "$one,$download"
uses "the primary context of device 0;" "and so does the library" \
    "$one:device=cuda,format=nv12"
uses "a context of device 0;" "a given device is used" "$one,$download" \
    -init_hw_device cuda=d:0
uses "the primary context of device 0;" "on its primary context as well" \
    "$one,$download" -init_hw_device cuda=d:0,primary_ctx=1
uses "a context of device 0;the primary context of device 0;" \
    "that of -filter_hw_device" "$one,$download" -init_hw_device cuda=d:0 \
    -init_hw_device cuda=e:0,primary_ctx=1 -filter_hw_device e
uses "a context of device 0;" "software frames from a given device" \
    "$one:device=cuda,format=nv12" -init_hw_device cuda=d:0
if [ $gpu = yes ] && [ "$(nvidia-smi -L 2> /dev/null | grep -c ^GPU)" -lt 2 ]; then
    skip "there is no second GPU"
else
    uses "the primary context of device 1;" "gpu=1" "$one:gpu=1,$download"
    uses "a context of device 1;" "a given device of GPU 1" "$one,$download" \
        -init_hw_device cuda=d:1
    uses "the primary context of device 1;" "on its primary context as well" \
        "$one,$download" -init_hw_device cuda=d:1,primary_ctx=1
    uses "a context of device 1;the primary context of device 0;" \
        "gpu=0 against a given device of GPU 1" "$one:gpu=0,$download" \
        -init_hw_device cuda=d:1
    uses "a context of device 1;" "software frames from a given device of GPU 1" \
        "$one:device=cuda,format=nv12" -init_hw_device cuda=d:1
fi
if [ $gpu = yes ]; then
    skip "nobody else uses the primary context with other flags"
    finish
fi
EMULATED_PRIMARY_FLAGS=0
export EMULATED_PRIMARY_FLAGS
is "$(contexts "$one,$download")" "a context of device 0;" \
    "a primary context that is in use with other flags is left alone"
is "$(contexts "$one:device=cuda,format=nv12")" \
    "the primary context of device 0 with flags 0;" "the library can use it"
unset EMULATED_PRIMARY_FLAGS

finish
