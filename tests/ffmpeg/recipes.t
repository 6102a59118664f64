#!/bin/bash
# Runs every command of docs/recipes.md, out of the document, and looks at the
# files that the document says they make, and at the number of their frames where
# it says that.
. "$(dirname "$0")/lib.sh"

document=$src/docs/recipes.md
mkdir bin
ln -s "$ffmpeg" bin/ffmpeg
ln -s "$ffprobe" bin/ffprobe
PATH=$tmp/bin:$PATH

# One file for each block of shell: NN.sh, NN.title, NN.makes and NN.needs, from
#     ## title
#     <!-- needs: filter=drawtext encoder=gif -->
#     ```sh
#     ...
#     ```
#     Makes `file`, `file`, of 16 frames each.
awk '
    /^## /            { title = substr($0, 4); needs = "" }
    /^<!-- needs: /   { needs = $0; sub(/^<!-- needs: /, "", needs); sub(/ *-->$/, "", needs) }
    /^```sh$/         { file = sprintf("%02d", ++n); inside = 1
                        print title > (file ".title"); print needs > (file ".needs"); next }
    /^```/            { inside = 0 }
    inside            { print > (file ".sh") }
    /^Makes /         { line = $0
                        if (match(line, /of [0-9]+ frames each/))
                            print substr(line, RSTART + 3) + 0 > (file ".frames")
                        while (match(line, /`[^`]*`/)) {
                            print substr(line, RSTART + 1, RLENGTH - 2) > (file ".makes")
                            line = substr(line, RSTART + RLENGTH)
                        } }
' "$document"
count=$(ls ./*.sh 2> /dev/null | wc -l)
ok "docs/recipes.md holds at least ten recipes ($count)" test "$count" -ge 10
is "$(cat ./*.title | wc -l)" "$count" "every recipe has a title"

# decodes FILE [FRAMES]: ffprobe finds at least one frame of video in it, or FRAMES
decodes() {
    local frames
    frames=$("$ffprobe" -v error -count_frames -select_streams v:0 -show_entries \
        stream=nb_read_frames -of csv=p=0 "$1" 2> decode.log | head -n 1)
    frames=${frames//[!0-9]/}
    echo "$frames frames" >> decode.log
    [ "${frames:-0}" -gt 0 ] && [ "$frames" = "${2:-$frames}" ]
}

for script in ./*.sh; do
    n=$(basename "$script" .sh)
    title=$(cat "$n.title")
    missing=
    for need in $(cat "$n.needs"); do
        has "${need%%=*}" "${need#*=}" || missing="$missing $need"
    done
    if [ -n "$missing" ]; then
        skip "$title: this FFmpeg lacks$missing"
        continue
    fi
    mkdir "run-$n"
    (cd "run-$n" && AV_LOG_FORCE_NOCOLOR=1 timeout -k 5 100 bash -e -o pipefail \
        "$tmp/$n.sh" < /dev/null > ../run.log 2>&1)
    pass $? "$title" || { diag "$(tail -n 8 run.log)"; continue; }
    if [ ! -e "$n.makes" ]; then
        pass 1 "$title: the document tells what it makes"
        continue
    fi
    while read -r file; do
        if [ ! -s "run-$n/$file" ]; then
            pass 1 "$title: makes $file"
            continue
        fi
        case $file in
        *.txt|*.m3u8) pass 0 "$title: makes $file" ;;
        *) decodes "run-$n/$file" $(cat "$n.frames" 2> /dev/null)
           pass $? "$title: $file holds video" || diag "$(tail -n 3 decode.log)" ;;
        esac
    done < "$n.makes"
done

finish
