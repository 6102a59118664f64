#!/bin/sh
# Gets the source archive of one FFmpeg series, or of nv-codec-headers, and prints
# its path.
#
# SPDX-License-Identifier: BSD-2-Clause
#
# Usage: patches/fetch.sh SERIES|nv-codec-headers CACHE_DIR
#
# Looks, in this order: in the cache; at FFmpeg's own release archive, which
# must have the SHA-256 of releases.txt; at Debian's source package from the
# mirror that this system already uses. Debian carries the upstream file
# unchanged, and apt checks its signature, so a newer point release than that
# of releases.txt is accepted from there. nv-codec-headers come from Debian only:
# elsewhere they are in another archive.
#
# Progress goes to stderr. Exit status 77: the source cannot be had here.

set -u
LC_ALL=C; export LC_ALL
here=$(cd "$(dirname "$0")" && pwd)
series=${1:?series}
cache=${2:?cache folder}
package=ffmpeg
title="ffmpeg $series"

say() { echo "$title: $*" >&2; }

set -- $(sed -n "s/^$series  *//p" "$here/releases.txt")
if [ $# != 2 ]; then
    say "not a series of patches/releases.txt"
    exit 1
fi
release=$1
sha256=$2
if [ "$series" = nv-codec-headers ]; then
    package=$series
    title=$series
    series=$(echo "$release" | sed 's/^\([0-9]*\.[0-9]*\).*/\1/')
fi
archive=$cache/$package-$release.tar.xz
mkdir -p "$cache" || exit 1
cache=$(cd "$cache" && pwd)

sum_of() { sha256sum "$1" | cut -d ' ' -f 1; }

# ------------------------------------------------------------ in the cache

# Debian's name of the same file is accepted as well, so that a folder filled
# by hand works.
for file in "$archive" "$cache/${package}_$release.orig.tar.xz"; do
    [ -e "$file" ] || continue
    if [ "$(sum_of "$file")" = "$sha256" ]; then
        echo "$file"
        exit 0
    fi
    say "$file has a wrong SHA-256 and is not used"
done
# A newer point release that this script took from Debian before.
for file in "$cache/$package-$series".*.tar.xz; do
    [ -e "$file.sha256" ] || continue
    if [ "$(sum_of "$file")" = "$(cat "$file.sha256")" ]; then
        echo "$file"
        exit 0
    fi
    say "$file is damaged and not used"
done

# ---------------------------------------------------------------- upstream

from_upstream() {
    url=https://ffmpeg.org/releases/ffmpeg-$release.tar.xz
    part=$cache/ffmpeg-$release.part
    say "trying $url"
    if command -v curl > /dev/null; then
        curl -fsSL --connect-timeout 5 --speed-limit 2000 --speed-time 15 \
            -o "$part" "$url" 2> "$part.log"
    elif command -v wget > /dev/null; then
        wget -q -T 10 -t 1 -O "$part" "$url" 2> "$part.log"
    else
        echo "neither curl nor wget" > "$part.log"
        false
    fi
    status=$?
    if [ $status = 0 ] && [ "$(sum_of "$part")" = "$sha256" ]; then
        mv "$part" "$archive" && rm -f "$part.log"
        echo "$archive"
        exit 0
    elif [ $status = 0 ]; then
        say "the file there has the SHA-256 $(sum_of "$part") instead of $sha256"
    else
        say "no download: $(tail -n 1 "$part.log")"
    fi
    rm -f "$part" "$part.log"
}
[ $package != ffmpeg ] || from_upstream

# ------------------------------------------------------------------ Debian

if ! command -v apt-get > /dev/null; then
    say "no apt-get either: put $package-$release.tar.xz into $cache"
    exit 77
fi

# The mirror of the system's own Debian archive, not the security one. apt knows
# the labels once it has the lists; before that, go by the addresses.
mirror=$(apt-get indextargets --format '$(LABEL) $(REPO_URI)' \
    'Created-By: Packages' 'Component: main' 2> /dev/null |
    sed -n 's/^Debian \([^ ]*\)$/\1/p' | head -n 1)
[ -n "$mirror" ] || mirror=$(cat /etc/apt/sources.list \
        /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources \
        2> /dev/null |
    sed -n -e '/security/d' -e '/^deb /s,^[^#]* \([a-z+]*:[^ ]*debian/*\) .*,\1,p' \
        -e 's,^URIs: *\([^ ]*debian/*\).*,\1,p' | head -n 1)
if [ -z "$mirror" ]; then
    say "apt knows no Debian mirror: put $package-$release.tar.xz into $cache"
    exit 77
fi

apt=$cache/apt
mkdir -p "$apt/lists/partial" "$apt/archives/partial" || exit 1
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
options=
[ -e $keyring ] && options="[signed-by=$keyring] "
for suite in trixie sid; do
    echo "deb-src $options$mirror $suite main"
done > "$apt/sources.list"

# apt with this list only and with folders of our own, so that the system's
# lists stay as they are and no root is needed. A mirror that is a snapshot has
# lists past their date: their signature still holds, and the age of a release
# matters less here than that it can be had.
with_apt() {
    tool=$1; shift
    $tool -q -o Dir::Etc::SourceList="$apt/sources.list" \
        -o Dir::Etc::SourceParts=- -o Dir::State::Lists="$apt/lists" \
        -o Dir::Cache::Archives="$apt/archives" \
        -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= \
        -o APT::Sandbox::User=root -o Debug::NoLocking=1 \
        -o Acquire::Check-Valid-Until=false -o Acquire::Languages=none -o Acquire::Retries=2 \
        -o Acquire::http::Timeout=20 -o Acquire::https::Timeout=20 "$@"
}

# The newest version of the series among the suites, as the lists here say.
newest() {
    with_apt apt-cache showsrc --only-source $package 2> /dev/null |
        sed -n "s/^Version: \(\([0-9]*:\)\{0,1\}$series\.[0-9.]*-.*\)\$/\1/p" |
        sort -V | tail -n 1
}

# The lists are large. Those that FFmpeg's source has left know the headers too.
version=
[ $package = ffmpeg ] || version=$(newest)
if [ -z "$version" ]; then
    say "asking the system's Debian mirror"
    with_apt apt-get update > "$apt/log" 2>&1
    version=$(newest)
fi
if [ -z "$version" ]; then
    say "trixie and sid have none: $(grep '^[EW]:' "$apt/log" | head -n 1)"
    exit 77
fi
say "Debian source package $version"
rm -f "$apt/${package}"_*
if ! (cd "$apt" && with_apt apt-get source --download-only --tar-only \
        --only-source "$package=$version") > "$apt/log" 2>&1; then
    say "no download: $(grep '^[EW]:' "$apt/log" | head -n 1)"
    exit 77
fi
point=${version#*:}
point=${point%-*}
file=$apt/${package}_$point.orig.tar.xz
if [ ! -e "$file" ]; then
    say "the package came without $(basename "$file")"
    exit 77
fi
sum=$(sum_of "$file")
if [ "$point" = "$release" ] && [ "$sum" != "$sha256" ]; then
    say "$(basename "$file") has the SHA-256 $sum instead of $sha256"
    exit 1
fi
archive=$cache/$package-$point.tar.xz
mv "$file" "$archive" || exit 1
rm -f "$apt/${package}"_*
if [ "$point" != "$release" ]; then
    say "point release $point instead of $release, by Debian's signature"
    echo "$sum" > "$archive.sha256"
fi
echo "$archive"
