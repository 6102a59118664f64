#!/bin/bash
# The libavfilter API from a C program: builds and runs samples/api.
. "$(dirname "$0")/lib.sh"

prefix=${FFMPEG_PREFIX:-}
[ -n "$prefix" ] || prefix=$build/ffmpeg-$(cat "$build/bin/.ffmpeg-series" 2> /dev/null)
pc=$prefix/lib/pkgconfig
[ -e "$pc/libavfilter.pc" ] || skip_all "no libavfilter with headers in $prefix"
cc=${CC:-cc}
command -v "$cc" > /dev/null || skip_all "there is no C compiler"

# As samples/api/README.md says.
PKG_CONFIG_PATH=$pc:$build/lib/pkgconfig${PKG_CONFIG_PATH:+:$PKG_CONFIG_PATH}
export PKG_CONFIG_PATH
"$cc" -std=c11 -D_POSIX_C_SOURCE=200809L -Wall -Wextra -Werror -O2 -o generate \
    "$src/samples/api/generate.c" \
    $(pkg-config --cflags --libs --static libavfilter libavformat libavutil) \
    "-Wl,-rpath,$build/lib" 2> cc.log
pass $? "samples/api builds without a warning" || { diag "$(tail -n 5 cc.log)"; finish; }

timeout 60 ./generate -d 0.5 -s 1 "$prompt" > out.txt 2> log
pass $? "it runs" || diag "$(cat log)"
is "$(cut -d' ' -f1 out.txt | tr '\n' ' ')" "0 1 2 3 4 5 6 7 " "it prints eight frames"
is "$(cut -d' ' -f2 out.txt | tail -n 1)" "0.4375" "with their times"

# The same frames as on the command line.
is "$(cut -d' ' -f3 out.txt)" \
    "$(hashes "causvid=prompt='$prompt':seed=1:d=0.5,format=rgb24")" \
    "they are those of the command line"

timeout 60 ./generate -d 0.1 -s 1 -o frame- "$prompt" > /dev/null 2> log
pass $? "it writes pictures"
is "$(ls frame-*.ppm | tr '\n' ' ')" "frame-00000.ppm frame-00001.ppm " "one for each frame"
is "$(tail -n +4 frame-00000.ppm | md5sum | cut -d' ' -f1)" \
    "$(sed -n '1s/^[^ ]* [^ ]* \([^ ]*\).*/\1/p' out.txt)" "a picture holds the frame's bytes"

odd="a cat's [toy], 50%: \"x\"; \\ end"
is "$(timeout 60 ./generate -d 0.05 "$odd" 2> log | cut -d' ' -f4-)" "$odd" \
    "no character of a prompt needs escaping"

timeout 60 ./generate -d 3 -s 1 -c "3:$prompt2" "$prompt" > out.txt 2> log
pass $? "it changes the prompt" || diag "$(cat log)"
is "$(cut -d' ' -f4- out.txt | uniq | tr '\n' '|')" "$prompt|$prompt2|" \
    "frames carry the old prompt, then the new one"

timeout 60 ./generate -m /no/such/model "$prompt" > out.txt 2> log
is "$?" 1 "a bad model fails"
like "$(cat log)" "/no/such/model" "and is named"

finish
