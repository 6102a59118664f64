#!/bin/bash
# The ways into FFmpeg: -f lavfi, -filter_complex, two sources, ffplay.
. "$(dirname "$0")/lib.sh"

reference=$(hashes "$source:d=1")
is "$(ff -filter_complex "$source:d=1" -f framemd5 - | sed -n 's/^0,.*, //p')" \
    "$reference" "-filter_complex gives what -f lavfi gives"
is "$(ff -filter_complex "$source:d=1[v]" -map '[v]' -f framemd5 - | sed -n 's/^0,.*, //p')" \
    "$reference" "a labelled output as well"
echo "$source:d=1" > graph.txt
is "$(ff -f lavfi -graph_file graph.txt -i '' -f framemd5 - | sed -n 's/^0,.*, //p')" \
    "$reference" "a graph from a file as well"

# ffmpeg initialises the filters of a -filter_complex twice; the model must not
# be loaded twice.
loads() { grep -c 'diffusion_pytorch_model.*safetensors' log; }
ff -v verbose -f lavfi -i "$source:d=0.2" -f null -
once=$(loads)
ff -v verbose -filter_complex "$source:d=0.2" -f null -
is "$(loads)" "$once" "-filter_complex loads the model once"
ok "(the log tells of the load)" test "$once" -gt 0

# One line at the start, lines for blocks, nothing for frames.
ff -v info -f lavfi -i "$source:d=2" -f null -
lines=$(own_lines | wc -l)
ff -v info -f lavfi -i "$source:d=3.5" -f null -
longer=$(own_lines | wc -l)
ok "INFO has lines for blocks, not for frames ($lines, $longer)" \
    test "$lines" -ge 2 -a "$longer" -gt "$lines" -a "$longer" -le $((lines + 4))
like "$(own_lines)" "$prompt|seed|cpu" "they tell what runs"
ff -v warning -f lavfi -i "$source:d=0.2" -f null -
nothing "$(cat log)" "no warning in a plain run"

# Two sources in one graph, each with its own engine.
is "$(ff -filter_complex "[0:v]$source:d=1" -f null - > /dev/null; echo $?)" \
    "$(ff -filter_complex "[0:v]testsrc" -f null - > /dev/null; echo $?)" \
    "it has no input"
two="$source:d=1[a];causvid=prompt='$prompt2':s=64x48:seed=2:d=1[b]"
is "$(ff -filter_complex "$two;[a][b]hstack,crop=64:48:0:0" -f framemd5 - | sed -n 's/^0,.*, //p')" \
    "$reference" "the left one of two sources"
is "$(ff -filter_complex "$two;[a][b]hstack,crop=64:48:64:0" -f framemd5 - | sed -n 's/^0,.*, //p')" \
    "$(hashes "causvid=prompt='$prompt2':s=64x48:seed=2:d=1")" "the right one of two sources"
is "$(ff -f lavfi -i "$source:d=1" -f lavfi -i "$source:d=1" -map 0 -map 1 -f framemd5 - |
    sed -n 's/^1,.*, //p')" "$reference" "two inputs in one run"
is "$(ff -f lavfi -i "$source:d=1,split[out0][out1]" -map 0:0 -map 0:1 -f framemd5 - |
    sed -n 's/^1,.*, //p')" "$reference" "one source with two outputs"

# Frames may outlive the source and be held back for long.
is "$(ff -filter_complex "$source:d=1,reverse,reverse" -f framemd5 - | sed -n 's/^0,.*, //p')" \
    "$reference" "frames that are kept stay as they are"

ffplay=${FFMPEG_PREFIX:+$FFMPEG_PREFIX/bin/ffplay}
[ -x "${ffplay:-}" ] || ffplay=$(dirname "$ffmpeg")/ffplay
if [ -x "$ffplay" ]; then
    SDL_VIDEODRIVER=dummy SDL_AUDIODRIVER=dummy timeout 60 "$ffplay" -hide_banner \
        -loglevel error -autoexit -f lavfi "$source:d=1" > /dev/null 2> log
    is "$?" 0 "ffplay plays it to its end"
    unlike "$(cat log)" "rror|causvid" "and has nothing to complain about"
else
    skip "ffplay was not built (it needs SDL2)"
fi

finish
