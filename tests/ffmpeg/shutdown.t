#!/bin/bash
# The run can end at any moment, without a hang, a crash or a broken file.
. "$(dirname "$0")/lib.sh"

endless="causvid=prompt='$prompt':$small:d=-1"

ff -f lavfi -i "$endless" -frames:v 1 -c:v libx264 one.mp4
pass $? "-frames:v 1 of an endless clip"
ff -f lavfi -i "$endless" -t 0.5 -c:v libx264 half.mp4
pass $? "-t 0.5 of an endless clip"
is "$("$ffprobe" -v error -show_entries stream=nb_frames -of csv=p=0 half.mp4)" 8 \
    "it has 8 frames"
ff -filter_complex "$endless,trim=end_frame=3" -f framemd5 three.md5
pass $? "a graph that wants three frames"
ff -f lavfi -t 0.5 -i "$endless" -f null -
pass $? "-t on the input side"

# stop SIGNAL SECONDS ARGUMENTS...: run, send the signal, want an end within
# ten seconds that is no crash
stop() {
    local signal=$1 after=$2 pid status i
    shift 2
    # A shell starts its background jobs with SIGINT ignored, which would lose a
    # signal that comes before ffmpeg has set its own handler.
    env --default-signal=INT "$ffmpeg" -nostdin -hide_banner -y -v error "$@" 2> log &
    pid=$!
    sleep "$after"
    kill -s "$signal" $pid 2> /dev/null
    for ((i = 0; i < 100; i++)); do
        kill -0 $pid 2> /dev/null || break
        sleep 0.1
    done
    if kill -0 $pid 2> /dev/null; then
        kill -KILL $pid
        wait $pid
        pass 1 "SIG$signal after $after s ends the run" || diag "it hangs"
        return 1
    fi
    wait $pid
    status=$?
    crashed $status
    [ $? != 0 ]
    pass $? "SIG$signal after $after s ends the run (status $status)" ||
        diag "$(tail -n 5 log)"
}

for after in 0.01 0.05 0.1 0.2 0.4 0.8; do
    stop INT $after -f lavfi -i "$endless" -f null -
done
for after in 0.02 0.3; do
    stop INT $after -filter_complex "$endless" -f null -
    stop TERM $after -f lavfi -i "$endless" -f null -
done

stop INT 2 -f lavfi -i "$endless,realtime" -c:v libx264 stopped.mp4
frames=$("$ffprobe" -v error -count_frames -show_entries stream=nb_read_frames -of csv=p=0 stopped.mp4)
ok "a file that was stopped is whole (${frames:-no} frames)" test "${frames:-0}" -gt 0

# The reader goes away.
"$ffmpeg" -nostdin -hide_banner -v error -f lavfi -i "$endless" -f rawvideo - 2> log | head -c 100000 > part.raw
status=${PIPESTATUS[0]}
crashed "$status" && test "$status" != 141
isnt "$?" 0 "a closed pipe ends the run (status $status)"
is "$(wc -c < part.raw)" 100000 "what was read is whole"

finish
