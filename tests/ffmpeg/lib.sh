# Helpers of the FFmpeg tests: TAP output and short ways to run ffmpeg.
#
# SPDX-License-Identifier: BSD-2-Clause
#
# Sourced by the *.t files. prove runs them with FFMPEG, FFPROBE, CAUSVID_SRC
# and CAUSVID_BUILD set; without them, what `make ffmpeg` built is tested.

set -u
export LC_ALL=C AV_LOG_FORCE_NOCOLOR=1

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
src=${CAUSVID_SRC:-$(cd "$here/../.." && pwd)}
build=${CAUSVID_BUILD:-$src/build}
ffmpeg=${FFMPEG:-$build/bin/ffmpeg}
ffprobe=${FFPROBE:-$build/bin/ffprobe}
model=$src/samples/shapes

tmp=$(mktemp -d "${TMPDIR:-/tmp}/causvid-test.XXXXXX") || exit 1
trap 'rm -rf "$tmp"' EXIT
cd "$tmp" || exit 1

# A prompt that the sample model knows, and a size that is fast to generate:
# most tests are about the filter, not about the picture.
prompt="a red circle moves right on a blue background"
prompt2="a green star moves up on a white background"
small="s=64x48:seed=1"
source="causvid=prompt='$prompt':$small"

# ------------------------------------------------------------------- TAP

tests_run=0
tests_failed=0

diag() { printf '%s\n' "$*" | sed 's/^/# /'; }

# pass STATUS NAME: one check, from an exit status. A failed one shows what the
# programs said that were run for it.
pass() {
    tests_run=$((tests_run + 1))
    if [ "$1" = 0 ]; then
        echo "ok $tests_run - $2"
        rm -f "$tmp/said"
    else
        tests_failed=$((tests_failed + 1))
        echo "not ok $tests_run - $2"
        if [ -e "$tmp/said" ]; then
            tail -n 24 "$tmp/said" | cut -c 1-400 | sed 's/^/#   /'
            rm -f "$tmp/said"
        fi
        return 1
    fi
}

# ok NAME COMMAND...: the command succeeds
ok() {
    local name=$1
    shift
    "$@"
    pass $? "$name"
}

# is GOT EXPECTED NAME; nothing is never right, also where it was to be equal to
# what another command gives
is() {
    [ "$1" = "$2" ] && [ -n "$1" ]
    pass $? "$3" || { diag "got:      $1"; diag "expected: $2"; return 1; }
}

# nothing GOT NAME
nothing() {
    [ -z "$1" ]
    pass $? "$2" || { diag "got: $1"; return 1; }
}

# isnt GOT OTHER NAME
isnt() {
    [ "$1" != "$2" ] && [ -n "$1" ]
    pass $? "$3" || { diag "got: '$1'"; return 1; }
}

# like TEXT REGEX NAME
like() {
    printf '%s' "$1" | grep -Eq -e "$2"
    pass $? "$3" || { diag "got:"; diag "$1"; diag "expected: $2"; return 1; }
}

# unlike TEXT REGEX NAME
unlike() {
    ! printf '%s' "$1" | grep -Eq -e "$2"
    pass $? "$3" || { diag "got:"; diag "$1"; diag "unexpected: $2"; return 1; }
}

skip() {
    tests_run=$((tests_run + 1))
    echo "ok $tests_run - # SKIP $1"
}

skip_all() {
    echo "1..0 # SKIP $1"
    exit 0
}

finish() {
    echo "1..$tests_run"
    exit $((tests_failed != 0))
}

# ---------------------------------------------------------------- ffmpeg

[ -x "$ffmpeg" ] || skip_all "there is no $ffmpeg; make ffmpeg builds it"

# saying COMMAND...: with its errors in $tmp/log and, for a failed check, after
# those of others in $tmp/said; killed when it hangs
saying() {
    timeout -k 5 100 "$@" 2> "$tmp/log"
    local status=$?
    {
        echo "$ $(basename "$1") ${*:2}"
        tail -n 12 "$tmp/log"
        [ $status = 0 ] || echo "exit status $status"
    } >> "$tmp/said"
    return $status
}

# ff ARGUMENTS...: ffmpeg, with its errors in $tmp/log
ff() {
    saying "$ffmpeg" -nostdin -hide_banner -y -v error "$@"
}

# hashes GRAPH: one MD5 for each frame that the graph gives
hashes() {
    ff -f lavfi -i "$1" -f framemd5 - | sed -n 's/^0,.*, //p'
}

# frames GRAPH ENTRIES: those entries of each frame, as name=value|name=value
frames() {
    saying "$ffprobe" -v error -f lavfi -i "$1" \
        -show_entries "frame=$2" -of compact=p=0
}

# tags GRAPH NAME: the value of lavfi.causvid.NAME of each frame
tags() {
    saying "$ffprobe" -v error -f lavfi -i "$1" -show_entries \
        "frame_tags=lavfi.causvid.$2" -of default=nk=1:nw=1
}

# frame_prompts GRAPH: "number block prompt" for each frame
frame_prompts() {
    saying "$ffprobe" -v error -f lavfi -i "$1" -show_entries \
        frame=pts:frame_tags=lavfi.causvid.block,lavfi.causvid.prompt \
        -of json | awk -F'"' '
            /"pts"/ { gsub(/[^0-9]/, "", $3); pts = $3 }
            /lavfi.causvid.block/ { block = $4 }
            /lavfi.causvid.prompt/ { prompt = $4 }
            /^        }/ && prompt != "" { print pts, block, prompt; prompt = "" }'
}

# has KIND NAME: is this filter, encoder or muxer compiled in?
has() {
    "$ffmpeg" -hide_banner -v error -h "$1=$2" 2>&1 | grep -Eq "^(Filter|Encoder|Decoder|Muxer) "
}

# crashed STATUS: was it ended by a signal of a fault, or by the time limit?
crashed() {
    case $1 in 124|132|134|135|136|137|139) return 0 ;; esac
    return 1
}

# The lines that come from the source itself. FFmpeg adds some of its own to an
# error, which name the filter as well.
own_lines() {
    # ffmpeg's progress ends with a carriage return, in front of our lines.
    tr '\r' '\n' < "$tmp/log" | grep -E '^\[(Parsed_)?causvid' |
        grep -Ev 'Failed to configure output pad|Error setting option|\[Eval @|Last message'
}

# refuses NAME REGEX GRAPH: the run fails without a crash, with one line from
# the source that matches
refuses() {
    local status lines
    ff -f lavfi -i "$3" -frames:v 1 -f null -
    status=$?
    lines=$(own_lines)
    if [ $status = 0 ]; then
        pass 1 "$1" || diag "was accepted: $3"
    elif crashed $status; then
        pass 1 "$1" || diag "exit status $status: $(tail -n 3 "$tmp/log")"
    elif [ "$(printf '%s\n' "$lines" | grep -c .)" != 1 ]; then
        pass 1 "$1" || { diag "one line was expected:"; diag "$(cat "$tmp/log")"; }
    else
        like "$lines" "$2" "$1"
    fi
}
