#!/bin/bash
# patches/apply.sh: once is enough, twice changes nothing, others are refused.
. "$(dirname "$0")/lib.sh"

apply=$src/patches/apply.sh
command -v patch > /dev/null || skip_all "there is no program 'patch'"

# The files that the hooks touch, from the tree that was built, with the hooks
# taken out again.
series=${FFMPEG_SERIES:-$(cat "$build/bin/.ffmpeg-series" 2> /dev/null)}
for built in "$build/ffmpeg-$series/src" "$build/ffmpeg-$series-small/src"; do
    [ -e "$built/RELEASE" ] && break
done
[ -e "$built/RELEASE" ] || skip_all "no FFmpeg source tree in $build"
hooks=$(sed -n 's/^+++ b\///p' "$src/patches/ffmpeg-$series"/*.patch)
mkdir tree
for file in RELEASE $hooks; do
    mkdir -p "tree/$(dirname "$file")"
    cp "$built/$file" "tree/$file"
done
for name in $(tac "$src/patches/ffmpeg-$series/series"); do
    patch -p1 -s -R -d tree < "$src/patches/ffmpeg-$series/$name"
    pass $? "$name can be taken back"
done
cp -r tree clean
state() { (cd "$1" && find . -type f -exec md5sum {} + | sort -k 2); }

out=$("$apply" tree 2>&1)
pass $? "the hooks of $series apply to $(cat tree/RELEASE)" || diag "$out"
for file in $hooks; do
    ok "$file has its hook" grep -qi causvid "tree/$file"
done
ok "vf_causvid.c is there" cmp "$src/vf_causvid.c" tree/libavfilter/vf_causvid.c
nothing "$(find tree -name '*.orig' -o -name '*.rej')" "nothing else is left behind"

before=$(state tree)
touch -d '2001-01-01' tree/libavfilter/vf_causvid.c
"$apply" tree > out 2>&1
pass $? "a second run succeeds" || diag "$(cat out)"
is "$(state tree)" "$before" "and changes nothing"
is "$(date -r tree/libavfilter/vf_causvid.c +%Y)" 2001 "not even a time"
echo >> tree/libavfilter/vf_causvid.c
"$apply" tree > out 2>&1
is "$(state tree)" "$before" "a changed vf_causvid.c is refreshed"

# Point releases of the series differ in their number and in the rest of the
# files: lines move.
cp -r clean moved
echo "$series.99" > moved/RELEASE
for file in $hooks; do
    sed -i '1i # one more line\n# and another' "moved/$file"
done
"$apply" moved > out 2>&1
pass $? "lines that have moved do not matter" || diag "$(cat out)"
cp -r clean git
echo "$series.git" > git/RELEASE
"$apply" git > out 2>&1
pass $? "a git checkout of the series works" || diag "$(cat out)"

# refused NAME REGEX ARGUMENTS...
refused() {
    local name=$1 regex=$2
    shift 2
    "$apply" "$@" > out 2>&1
    isnt "$?" 0 "$name fails"
    like "$(cat out)" "$regex" "$name: the reason is told"
}
cp -r clean old
echo 6.1.2 > old/RELEASE
refused "a release that is not supported" "6\.1\.2 is not supported; supported releases: 7\.1 8\.1 9\.0" old
refused "no argument" "usage"
refused "a folder that is not there" "not a folder" none
refused "a folder that is no FFmpeg" "not an FFmpeg source tree" /tmp
cp -r clean torn
sed -i 's/ff_vsrc_cellauto/ff_vsrc_other/' torn/libavfilter/allfilters.c
before=$(state torn)
refused "a tree that was changed" "does not apply" torn
is "$(state torn)" "$before" "and the tree is left as it was"

finish
