#!/bin/bash
# Runs every command of README.md but `make`, out of the document, and looks at
# the videos that it makes.
. "$(dirname "$0")/lib.sh"

# What the commands leave to FFmpeg to choose.
for need in "encoder libx264" "muxer mpegts" "muxer mp4"; do
    has $need || skip_all "this FFmpeg lacks $need"
done

mkdir -p build/bin
ln -s "$ffmpeg" build/bin/ffmpeg
ln -s "$build/bin/causvid" build/bin/causvid
ln -s "$src/samples" samples
PATH=$tmp/build/bin:$PATH

awk '
    /^```sh$/ { file = sprintf("%02d.sh", ++n); inside = 1; next }
    /^```/    { inside = 0 }
    inside    { print > file }
' "$src/README.md"
count=$(grep -L '^make ' ./*.sh | wc -l)
ok "README.md holds at least five commands to run ($count)" test "$count" -ge 5

for script in $(grep -L '^make ' ./*.sh); do
    line=$(grep -m 1 '^[a-z/]*\(ffmpeg\|causvid\) ' "$script")
    title="$(basename "$script" .sh): ${line:0:60}"
    AV_LOG_FORCE_NOCOLOR=1 timeout -k 5 100 bash -e -o pipefail "$script" \
        < /dev/null > run.log 2>&1
    pass $? "$title" || { diag "$(tail -n 8 run.log)"; continue; }
    # The last word of an ffmpeg command is its output.
    for file in $(sed -n 's/.* \([a-z]*\.\(mp4\|ts\)\)$/\1/p' "$script"); do
        frames=$("$ffprobe" -v error -count_frames -select_streams v:0 \
            -show_entries stream=nb_read_frames -of csv=p=0 "$file" |
            head -n 1)
        ok "$title: $file holds video ($frames)" \
            test "${frames//[!0-9]/}" -gt 80
    done
done

finish
