#!/bin/bash
# Commands: the prompt of a running clip, from sendcmd and from zmq.
. "$(dirname "$0")/lib.sh"

# ------------------------------------------------------------------ sendcmd

# sendcmd's own syntax wants quotes around an argument with spaces.
echo "0.3 causvid prompt '$prompt2';" > commands.txt
length="d=3.5"
plain=$(hashes "$source:$length")
changed="$source:$length,sendcmd=f=commands.txt"
list=$(frame_prompts "$changed")
is "$(wc -l <<< "$list")" 56 "a clip with a command has all its frames"

# The command comes with frame 5. It acts from the second block after that
# frame's: the block between them is being generated already.
sent_in=$(awk '$1 == 5 { print $2 }' <<< "$list")
first=$(grep -m 1 " $prompt2\$" <<< "$list")
is "$(cut -d' ' -f2 <<< "$first")" "$((sent_in + 2))" \
    "the new prompt begins with the second block after the command"
start=$(cut -d' ' -f1 <<< "$first")
start=${start:-1}
is "$(awk -v b=$((sent_in + 2)) '$2 == b { print $1; exit }' <<< "$list")" "$start" \
    "and with the first frame of that block"
is "$(tail -n +$((start + 1)) <<< "$list" | cut -d' ' -f3- | sort -u)" "$prompt2" \
    "all later frames carry it"
is "$(head -n "$start" <<< "$list" | cut -d' ' -f3- | sort -u)" "$prompt" \
    "all earlier frames carry the old one"

switched=$(hashes "$changed")
is "$(head -n "$start" <<< "$switched")" "$(head -n "$start" <<< "$plain")" \
    "pictures before it are as without the command"
is "$(comm -12 <(tail -n +$((start + 1)) <<< "$switched" | sort) \
    <(tail -n +$((start + 1)) <<< "$plain" | sort) | wc -l)" 0 \
    "every picture from there on differs"
is "$(hashes "$changed")" "$switched" "a run with a command can be repeated"
is "$(ff -filter_complex "$changed" -f framemd5 - | sed -n 's/^0,.*, //p')" \
    "$switched" "-filter_complex gives the same"

cat > twice.txt <<END
0.3 causvid prompt '$prompt2';
2.5 causvid prompt 'a circle: red, still';
END
list=$(frame_prompts "$source:d=6,sendcmd=f=twice.txt")
is "$(cut -d' ' -f3- <<< "$list" | uniq | tr '\n' '|')" \
    "$prompt|$prompt2|a circle: red, still|" "a command file changes the prompt twice"

list=$(frame_prompts "$source:d=3.5,sendcmd=c='0.3 causvid prompt one;0.5 causvid prompt two'")
is "$(cut -d' ' -f3- <<< "$list" | uniq | tr '\n' '|')" "$prompt|two|" \
    "of two commands in one block the later one counts"

# The two ways without a file, as docs/usage.md shows them.
for text in "sendcmd=c='0.3 causvid prompt a\\\\ cat'" \
        "sendcmd=c=0.3 causvid prompt \\\\\\'a cat\\\\\\'"; do
    is "$(tags "$source:$length,$text" prompt | uniq | tr '\n' '|')" "$prompt|a cat|" \
        "a command in the graph: $text"
done

# ------------------------------------------------------- what is refused

# refused NAME REGEX COMMAND: the command fails with one line and changes
# nothing, and the clip goes on
refused() {
    echo "0.3 causvid $3;" > refused.txt
    hashes "$source:$length,sendcmd=f=refused.txt" > got
    is "$(cat got)" "$plain" "$1: the clip goes on"
    [ -z "$2" ] || like "$(own_lines)" "$2" "$1: the reason is told"
}
refused "an empty prompt" "prompt is empty" "prompt"
refused "a prompt that is not UTF-8" "prompt is not valid UTF-8" "prompt 'a $(printf '\377')'"
refused "an option that is no command" "" "seed 3"
ff -v verbose -f lavfi -i "$source:d=0.5,sendcmd=c='0.3 causvid seed 3'" -f null -
like "$(cat log)" 'Function not implemented|ret:-38' "only prompt is a command"

# ---------------------------------------------------------------------- zmq

if ! has filter zmq; then
    skip "this FFmpeg has no zmq filter"
elif ! pkg-config --exists libzmq || ! command -v cc > /dev/null; then
    skip "no libzmq with headers to build a client with"
else
    cc -std=c11 -D_POSIX_C_SOURCE=200809L -o zmqsend "$here/zmqsend.c" \
        $(pkg-config --cflags --libs libzmq) || exit 1
    timeout 40 ./zmqsend "ipc://$tmp/socket" "causvid prompt '$prompt2'" > reply &
    client=$!
    frame_prompts "$source:d=6,realtime=speed=3,zmq=bind_address=ipc\\\\://$tmp/socket" > list
    wait $client
    is "$(head -n 1 reply)" "0 Success" "the zmq filter takes the command"
    is "$(cut -d' ' -f3- list | uniq | tr '\n' '|')" "$prompt|$prompt2|" \
        "and the prompt changes in the running clip"
fi

finish
