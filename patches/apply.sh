#!/bin/sh
# Puts the causvid source into an FFmpeg source tree: copies vf_causvid.c into
# libavfilter/ and applies the hooks for the tree's release series, once.
#
# usage: patches/apply.sh FFMPEG_DIR
#
# Run again after vf_causvid.c has changed: it only refreshes that file.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
filter=$here/../vf_causvid.c

die() {
    echo "apply.sh: $*" >&2
    exit 1
}

# try FORWARD|REVERSE PATCH: would it apply without a reject? Nothing is
# written.
try() {
    case $1 in
    forward) patch -p1 -s -N --dry-run -d "$tree" <"$2" ;;
    reverse) patch -p1 -s -R -f --dry-run -d "$tree" <"$2" ;;
    esac >/dev/null 2>&1
}

supported=
for dir in "$here"/ffmpeg-*/; do
    supported="$supported $(basename "$dir" | sed 's/^ffmpeg-//')"
done

[ $# -eq 1 ] || die "usage: $0 FFMPEG_DIR (supported releases:$supported)"
tree=$1
[ -d "$tree" ] || die "'$tree' is not a folder"
[ -f "$tree/libavfilter/allfilters.c" ] && [ -f "$tree/configure" ] ||
    die "'$tree' is not an FFmpeg source tree: it has no libavfilter/allfilters.c"
command -v patch >/dev/null 2>&1 ||
    die "the program 'patch' is missing; on Debian: apt-get install patch"

version=
for file in RELEASE VERSION; do
    [ -s "$tree/$file" ] && version=$(head -n 1 "$tree/$file") && break
done
[ -n "$version" ] || die "'$tree' has no RELEASE file, so its version is not known"
series=$(echo "$version" | sed 's/^\([0-9]*\.[0-9]*\).*/\1/')
dir=$here/ffmpeg-$series
[ -d "$dir" ] || die "FFmpeg $version is not supported; supported releases:$supported"

while read -r name; do
    [ -n "$name" ] || continue
    if try reverse "$dir/$name"; then
        echo "FFmpeg $version: $name is applied already"
    elif try forward "$dir/$name"; then
        patch -p1 -s -N -d "$tree" <"$dir/$name"
        echo "FFmpeg $version: applied $name"
    elif grep -q causvid "$tree/configure"; then
        die "'$tree' carries other causvid hooks than ffmpeg-$series/$name; start from a clean tree"
    else
        die "ffmpeg-$series/$name does not apply to FFmpeg $version in '$tree'; start from a clean tree of the $series series"
    fi
done <"$dir/series"

# An unchanged file keeps its time, so that make has nothing to do.
if ! cmp -s "$filter" "$tree/libavfilter/vf_causvid.c"; then
    cp "$filter" "$tree/libavfilter/vf_causvid.c"
    echo "FFmpeg $version: copied vf_causvid.c"
fi
