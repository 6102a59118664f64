#!/bin/bash
# Timestamps, durations, frame rates and the end of the stream.
. "$(dirname "$0")/lib.sh"

# numbers FIRST LAST: pts=N|duration=1 lines
numbers() { seq "$1" "$2" | sed 's/.*/pts=&|duration=1/'; }

is "$(frames "$source:d=1" pts,duration)" "$(numbers 0 15)" \
    "pts counts frames and each lasts one tick"
is "$(frames "$source:d=1" pts_time | tail -n 1)" "pts_time=0.937500" \
    "a tick is 1/16 s"
stream=$("$ffprobe" -v error -f lavfi -i "$source:d=0.1" -show_entries \
    stream=time_base,r_frame_rate,avg_frame_rate,sample_aspect_ratio -of compact=p=0)
is "$stream" "sample_aspect_ratio=1:1|r_frame_rate=16/1|avg_frame_rate=16/1|time_base=1/16" \
    "the stream tells rate, time base and aspect ratio"

clip=$(sed -n 's/.*"frames": *\([0-9]*\).*/\1/p' "$model/recipe.json")
is "$(hashes "$source" | wc -l)" "$clip" "without duration a clip is the model's"
is "$(hashes "$source:d=0" | wc -l)" "$clip" "duration 0 is the model's as well"

# As many frames as FFmpeg's own source gives for the same duration and rate.
for case in 0.01,16 0.5,16 0.51,16 0.334,3 0.666667,3 1,24000/1001 1.001,30000/1001; do
    d=${case%,*} r=${case#*,}
    is "$(hashes "$source:d=$d:r=$r" | wc -l)" \
        "$(hashes "testsrc=s=64x48:d=$d:r=$r" | wc -l)" \
        "d=$d at r=$r gives as many frames as testsrc"
done
is "$(frames "$source:d=0.2:r=ntsc" pts_time | tail -n 1)" "pts_time=0.166833" \
    "a rate that is no whole number gives exact times"
is "$(hashes "$source:d=0.25:r=32" | head -n 8)" "$(hashes "$source:d=0.5")" \
    "the rate changes timestamps only"

# Parts of a block are cut, and a shorter clip is the beginning of a longer one.
long=$(hashes "$source:d=3")
is "$(wc -l <<< "$long")" 48 "three seconds are 48 frames"
for n in 1 9 10 21 22 40; do
    is "$(hashes "$source:r=16:d=$(awk "BEGIN { print $n / 16 }")")" \
        "$(head -n $n <<< "$long")" "$n frames are the first $n of a longer clip"
done
is "$(ff -f lavfi -i "$source:d=-1" -t 3 -f framemd5 - | sed -n 's/^0,.*, //p')" \
    "$long" "an endless clip cut with -t is the same"
is "$(ff -f lavfi -i "$source:d=-1" -frames:v 100 -f framemd5 - | grep -c '^0,')" \
    100 "an endless clip goes on beyond the model's length"

ff -f lavfi -i "$source:d=1" -c:v libx264 out.mp4
is "$("$ffprobe" -v error -show_entries stream=nb_frames,duration -of compact=p=0 out.mp4)" \
    "duration=1.000000|nb_frames=16" "an mp4 of one second lasts one second"

finish
