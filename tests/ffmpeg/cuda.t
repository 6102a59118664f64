#!/bin/bash
# Frames in GPU memory: negotiation, devices, pixels and tags.
#
# Without a GPU: the library runs the emulated CUDA backend, and FFmpeg loads
# the driver of tests/emulator/libcuda.c. That ends ffmpeg with a line when
# memory or a context is left, and faults when frames are drawn by the wrong
# side.
#
# CAUSVID_GPU=yes: on a GPU, with the module of the build and FFmpeg's own CUDA
# filters; what looks into the emulated driver is left out.
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

# ---------------------------------------------------------------- pixels

# complex GRAPH ARGUMENT...: one MD5 for each frame, with -filter_complex
complex() {
    local graph=$1
    shift
    ff "$@" -filter_complex "$graph" -f framemd5 - | sed -n 's/^0,.*, //p'
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
download="hwdownload,format=nv12"
is "$(hashes "$clips:output=cuda,split[a][b];[a]$download[c];[b]$download[d];
    [c][d]vstack")" "$(hashes "$clips,format=nv12,split[a][b];[a][b]vstack")" \
    "two readers of the same frames"
is "$(ff -f lavfi -i "$clips:output=cuda" -vf hwdownload,format=nv12 \
    -f framemd5 - | sed -n 's/^0,.*, //p')" "$software" \
    "frames leave -f lavfi in GPU memory"

for format in yuv420p yuv444p p010le rgb0 bgr0; do
    is "$(hashes "$one:format=$format,hwdownload,format=$format")" \
        "$(hashes "$one:device=cuda,format=$format")" "$format"
done
is "$(hashes "$one,format=cuda:color_ranges=pc,hwdownload,format=nv12")" \
    "$(hashes "$one:device=cuda,format=nv12:color_ranges=pc")" "full range"

# ---------------------------------------------------------- negotiation, tags

tags=pix_fmt,color_range,color_space,color_primaries,color_transfer,chroma_location

# tags_of GRAPH: the colour tags of a frame, without what is not known
tags_of() {
    frames "$1" $tags | tr '|' '\n' |
        grep -v -e unspecified -e unknown | cut -d= -f2 | tr '\n' ' '
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

ff -f lavfi -i "$one:output=software,hwdownload,format=nv12" -f null -
like "$(cat log)" "[Ii]mpossible to convert|not supported|Invalid argument" \
    "output=software is not given up for hwdownload"
ff -f lavfi -i "$one:output=cuda" -c:v rawvideo -f null -
isnt $? 0 "a software encoder gets no CUDA frames, by FFmpeg's rule"

# ------------------------------------------------- FFmpeg's own CUDA filters

if [ $gpu = no ] || ! has filter scale_cuda; then
    skip "scale_cuda and overlay_cuda need a GPU and an FFmpeg that has them"
else
    is "$(hashes "$clips,scale_cuda=64:48,hwdownload,format=nv12" | sort -u |
        wc -l)" 10 "scale_cuda takes the frames"
    right=hwdownload,format=nv12,crop=16:32:16:0
    second="testsrc=s=16x16:r=16,format=nv12,hwupload"
    is "$(complex "$clips:output=cuda[a];$second[b];
        [a][b]overlay_cuda=shortest=1,$right" -init_hw_device cuda)" \
        "$(hashes "$clips,format=nv12,crop=16:32:16:0")" \
        "overlay_cuda draws a second source on them"
fi

# --------------------------------------------------------------- devices

first=$(hashes "$one:device=cuda,format=nv12")

# Two sources in a process, one after the other and at once.
is "$(complex "$one:output=cuda[a];$one:seed=2:output=cuda[b];[a]$download[c];
    [b]$download[d];[c][d]concat")" "$first
$(hashes "$one:seed=2:device=cuda,format=nv12")" "two sources on one GPU"

# contexts GRAPH OPTIONS: what contexts FFmpeg made while the graph ran
contexts() {
    local graph=$1
    shift
    rm -f contexts.log
    EMULATED_DRIVER_LOG=$tmp/contexts.log complex "$graph" "$@" > hashes.log
    [ "$(cat hashes.log)" = "$first" ] || { echo "other frames"; return; }
    sort contexts.log | tr '\n' ';'
}

if [ $gpu = yes ]; then
    skip "a driver does not tell what contexts were made"
    finish
fi
is "$(contexts "$one,$download")" "the primary context of device 0;" \
    "without a device the filter opens the primary context"
is "$(contexts "$one:gpu=1,$download")" "the primary context of device 1;" \
    "gpu=1"
is "$(contexts "$one,$download" -init_hw_device cuda=d:1)" \
    "a context of device 1;" "a given device is used"
is "$(contexts "$one,$download" -init_hw_device cuda=d:1,primary_ctx=1)" \
    "the primary context of device 1;" "on its primary context as well"
is "$(contexts "$one:gpu=0,$download" -init_hw_device cuda=d:1)" \
    "a context of device 1;the primary context of device 0;" \
    "gpu=0 against a given device of GPU 1"
is "$(contexts "$one:device=cuda,format=nv12" -init_hw_device cuda=d:1)" \
    "a context of device 1;" "software frames from a given device"
EMULATED_PRIMARY_FLAGS=0
export EMULATED_PRIMARY_FLAGS
is "$(contexts "$one,$download")" "a context of device 0;" \
    "a primary context that is in use with other flags is left alone"
unset EMULATED_PRIMARY_FLAGS

finish
