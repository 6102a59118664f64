#!/bin/sh
# Builds FFmpeg with the causvid source: gets the source, applies the patches,
# configures, compiles. What is done already is not done again.
#
# SPDX-License-Identifier: BSD-2-Clause
#
# Usage: patches/build.sh [--small] BUILD_DIR
#
# BUILD_DIR has been configured and holds lib/libcausvid.so. The result lies in
# BUILD_DIR/ffmpeg-SERIES/bin. Without --small that of the default series (or
# of the only one that was asked for first) is linked to BUILD_DIR/bin as well.
# --small builds only what the tests use, into BUILD_DIR/ffmpeg-SERIES-small.
#
# From the environment:
#   FFMPEG_VERSION  7.1, 8.1 or 9.0; empty: the default series, or the next one
#                   whose source can be had
#   FFMPEG_SRC      an FFmpeg source tree to use; it is copied, not changed
#   FFMPEG_CACHE    folder of the source archives [BUILD_DIR/cache]
#   FFMPEG_FLAGS    more options for FFmpeg's configure
#   FFMPEG_CUDA     no: without FFmpeg's own use of CUDA, so without output in
#                   GPU memory [where nv-codec-headers are or can be had]
#   JOBS            compile jobs [one for each core]
#
# Exit status 77: the source cannot be had here.

set -u
LC_ALL=C; export LC_ALL
here=$(cd "$(dirname "$0")" && pwd)
profile=default
if [ "${1-}" = --small ]; then
    profile=small
    shift
fi
build=$(cd "${1:?build folder}" && pwd) || exit 1
cache=${FFMPEG_CACHE:-$build/cache}
jobs=${JOBS:-$(nproc)}
default=$(sed -n 's/^FFMPEG_DEFAULT = //p' "$build/config.mak")
default=${default:?"$build is not configured"}
# Variables of the calling make are not meant for FFmpeg's.
unset MAKEFLAGS MFLAGS MAKELEVEL MAKEOVERRIDES CFLAGS CPPFLAGS LDFLAGS

say() { echo "ffmpeg${series:+ $series}: $*"; }

die() {
    say "$*" >&2
    exit 1
}

checksum() { sha256sum | cut -c 1-32; }

# series_of DIR: the series of a source tree
series_of() {
    for file in "$1/RELEASE" "$1/VERSION"; do
        [ -s "$file" ] && sed 's/^\([0-9]*\.[0-9]*\).*/\1/;q' "$file" && return
    done
}

# Identifies what the patched tree is made from, without reading the archive:
# a tree that is there needs none.
tree_key() {
    {
        if [ -n "${FFMPEG_SRC-}" ]; then
            echo "$FFMPEG_SRC"
            find "$FFMPEG_SRC" -name .git -prune -o -type f \
                -printf '%P %s %T@\n' | sort
        else
            grep "^$series" "$here/releases.txt"
        fi
        cat "$here/ffmpeg-$series"/*
    } | checksum
}

# The source tree with the patches, in $dir/src. Objects lie beside it: after
# a change of the patches only what they touch is compiled again.
prepare_tree() {
    key=$(tree_key)
    if [ "$(cat "$dir/src.key" 2> /dev/null)" != "$key" ]; then
        if [ -z "${FFMPEG_SRC-}" ]; then
            archive=$("$here/fetch.sh" "$series" "$cache") || return
        fi
        rm -rf "$dir/src" "$dir/src.key"
        mkdir -p "$dir/src" || exit 1
        if [ -n "${FFMPEG_SRC-}" ]; then
            say "copying $FFMPEG_SRC"
            # Without what an earlier build in that folder left.
            tar -C "$FFMPEG_SRC" -cf - --exclude=./.git --exclude='*.[oda]' \
                --exclude=./config.h --exclude=./ffbuild/config.\* . |
                tar -C "$dir/src" -xf - || die "cannot copy $FFMPEG_SRC"
        else
            say "unpacking $(basename "$archive")"
            tar -C "$dir/src" --strip-components=1 -xf "$archive" ||
                die "cannot unpack $archive"
        fi
    fi
    "$here/apply.sh" "$dir/src" > "$dir/apply.log" 2>&1 || {
        cat "$dir/apply.log" >&2
        exit 1
    }
    echo "$key" > "$dir/src.key"
}

flags_of_libraries() {
    while read -r module _ _ flag; do
        case $module in ''|'#'*) continue ;; esac
        pkg-config --exists "$module" && echo "$flag"
    done < "$here/libraries.txt"
}

# NVIDIA's interfaces in the form that FFmpeg takes, in $headers unless the
# system has them. They are a few headers, and what is built with them finds the
# driver when it runs, so they need no GPU and nothing of NVIDIA's here. Where
# they cannot be had, FFmpeg is built without, and asks again after a day.
prepare_headers() {
    [ "${FFMPEG_CUDA-}" != no ] || return
    pkg-config --exists 'ffnvcodec >= 12.1.14.0' && return
    headers_key=$(grep '^nv-codec-headers' "$here/releases.txt" | checksum)
    [ "$(cat "$headers/key" 2> /dev/null)" = "$headers_key" ] && return
    [ -z "$(find "$cache/no-nv-codec-headers" -mtime -1 2> /dev/null)" ] ||
        return
    archive=$("$here/fetch.sh" nv-codec-headers "$cache") || {
        [ $? = 77 ] || exit 1
        say "nv-codec-headers cannot be had, so no output in GPU memory"
        touch "$cache/no-nv-codec-headers"
        return 1
    }
    rm -rf "$headers" "$cache/no-nv-codec-headers"
    mkdir -p "$headers/src" || exit 1
    tar -C "$headers/src" --strip-components=1 -xf "$archive" ||
        die "cannot unpack $archive"
    make -s -C "$headers/src" install PREFIX="$headers" > "$headers/log" 2>&1 ||
        die "make install failed: $headers/log"
    echo "$headers_key" > "$headers/key"
}

# clang makes the code of FFmpeg's CUDA filters, without NVIDIA's toolkit.
clang_makes_cuda() {
    echo '__attribute__((global)) void nothing(void) {}' |
        clang -x cuda --cuda-gpu-arch=sm_60 --cuda-device-only -nocudainc \
            -nocudalib -S -o /dev/null - > /dev/null 2>&1
}

# Everything that FFmpeg brings itself, and of other libraries those that
# libraries.txt names, so that the result does not depend on what else lies
# on the machine. Acceleration for other GPU makers, documentation and
# debugging symbols are left out.
flags_of_default() {
    echo "--enable-gpl --disable-autodetect --enable-pthreads --disable-doc"
    echo "--disable-debug"
    flags_of_libraries
    if [ $cuda = yes ]; then
        echo "--enable-ffnvcodec --enable-cuvid --enable-nvdec --enable-nvenc"
        ! clang_makes_cuda || echo "--enable-cuda-llvm"
    fi
}

# What tests/ffmpeg uses, in a quarter of the time.
flags_of_small() {
    echo "--enable-gpl --disable-autodetect --enable-pthreads --disable-doc"
    echo "--disable-debug --disable-everything --disable-ffplay"
    flags_of_libraries | grep -v -e sdl2 -e libopus -e vpx -e webp -e gnutls
    if [ $cuda = yes ]; then
        echo "--enable-ffnvcodec --enable-nvenc --enable-encoder=h264_nvenc"
        echo "--enable-filter=hwupload_cuda"
        ! clang_makes_cuda ||
            echo "--enable-cuda-llvm --enable-filter=overlay_cuda,scale_cuda"
    fi
    echo "--enable-protocol=file,pipe,fd,udp,tcp,concat,data,md5"
    echo "--enable-indev=lavfi"
    echo "--enable-demuxer=concat,data,ffmetadata,gif,hls,image2,image2pipe,image_png_pipe,image_ppm_pipe,matroska,mov,mpegts,nut,rawvideo,wav,yuv4mpegpipe,h264"
    echo "--enable-muxer=apng,fifo,framecrc,framehash,framemd5,gif,hash,hls,image2,image2pipe,matroska,md5,mov,mp4,mpegts,null,nut,rawvideo,segment,streamhash,tee,wav,webm,yuv4mpegpipe,h264,ffmetadata"
    echo "--enable-decoder=aac,apng,ffv1,gif,h264,mjpeg,mpeg4,pcm_s16le,png,ppm,rawvideo,wrapped_avframe"
    echo "--enable-encoder=aac,apng,ffv1,gif,libx264,mjpeg,mpeg4,pcm_s16le,png,ppm,rawvideo,wrapped_avframe"
    echo "--enable-parser=aac,gif,h264,mjpeg,mpeg4video,png"
    echo "--enable-bsf=aac_adtstoasc,extract_extradata,h264_mp4toannexb,h264_metadata,null,setts,vp9_superframe"
    echo "--enable-filter=acopy,aevalsrc,aformat,anull,anullsrc,aresample,asplit,atrim,blend,causvid,color,concat,copy,crop,drawbox,drawtext,fade,format,fps,hflip,hstack,hwdownload,hwupload,interleave,loop,metadata,minterpolate,negate,noformat,null,nullsink,nullsrc,overlay,pad,palettegen,paletteuse,psnr,realtime,reverse,rotate,scale,select,sendcmd,setdar,setparams,setpts,setrange,setsar,settb,showinfo,signalstats,sine,split,ssim,streamselect,testsrc,testsrc2,thumbnail,tile,tpad,transpose,trim,vflip,vstack,xfade,xstack,zmq,zoompan"
}

configure_tree() {
    cuda=no
    headers=$build/nv-codec-headers
    ! prepare_headers || cuda=yes
    rpath=-Wl,-rpath,$build/lib
    flags="--prefix=$dir --extra-ldexeflags=$rpath --extra-ldsoflags=$rpath"
    flags="$flags $(flags_of_$profile) --enable-libcausvid ${FFMPEG_FLAGS-}"
    flags=$(echo $flags)
    key=$(cat "$dir/src.key" "$build/lib/pkgconfig/causvid.pc" |
        { cat; echo "$flags"; } | checksum)
    [ "$(cat "$dir/obj.key" 2> /dev/null)" = "$key" ] && return
    say "configuring: $flags"
    mkdir -p "$dir/obj" && rm -f "$dir/obj.key" || exit 1
    if ! (cd "$dir/obj" &&
            PKG_CONFIG_PATH=$build/lib/pkgconfig:$headers/lib/pkgconfig${PKG_CONFIG_PATH:+:$PKG_CONFIG_PATH} \
            ../src/configure $flags) > "$dir/configure.log" 2>&1; then
        tail -n 15 "$dir/configure.log" >&2
        die "configure failed: $dir/configure.log, $dir/obj/ffbuild/config.log"
    fi
    echo "$key" > "$dir/obj.key"
}

# A line for every tenth of the files; all of make's output is in the log.
progress() {
    awk -v total="$1" -v log_file="$dir/build.log" -v name="ffmpeg $series" '
        { print > log_file }
        /^[A-Z0-9+_]+\t/ {
            if (++done * 10 >= total * (shown + 1) && total > 100) {
                shown = int(done * 10 / total)
                if (shown <= 10) printf "%s: %d %%\n", name, shown * 10
                fflush()
            }
        }'
}

compile() {
    total=$(make -n -C "$dir/obj" all 2> /dev/null | grep -c '^printf "')
    if [ "$total" -gt 0 ]; then
        say "compiling $total files with $jobs jobs"
    fi
    { make -j"$jobs" -C "$dir/obj" 2>&1; echo $? > "$dir/make.status"; } |
        progress "$total"
    if [ "$(cat "$dir/make.status")" != 0 ]; then
        grep -n -e 'error' -e 'Error' -e '\*\*\*' "$dir/build.log" |
            tail -n 15 >&2
        die "make failed: $dir/build.log"
    fi
    make -C "$dir/obj" install-progs install-libs install-headers \
        >> "$dir/build.log" 2>&1 || die "make install failed: $dir/build.log"
}

# publish: the programs of the default build also in BUILD_DIR/bin
publish() {
    mkdir -p "$build/bin"
    for program in ffmpeg ffprobe ffplay; do
        if [ -e "$dir/bin/$program" ]; then
            ln -f "$dir/bin/$program" "$build/bin/$program" ||
                cp "$dir/bin/$program" "$build/bin/$program" || exit 1
        else
            rm -f "$build/bin/$program"
        fi
    done
    echo "$series" > "$build/bin/.ffmpeg-series"
}

# build_series: all of it for $series; 77 where the source cannot be had
build_series() {
    dir=$build/ffmpeg-$series
    [ $profile = small ] && dir=$dir-small
    mkdir -p "$dir" || exit 1
    exec 9> "$dir/lock" && flock 9 || exit 1
    prepare_tree || return
    configure_tree
    # What a build depends on; newer programs than all of it are up to date.
    stamp=$(cat "$dir/src.key" "$dir/obj.key" "$here/../vf_causvid.c" \
        "$here/../engine/causvid.h" | checksum)
    if [ "$(cat "$dir/built.key" 2> /dev/null)" != "$stamp" ] ||
            [ ! -x "$dir/bin/ffmpeg" ]; then
        compile
        echo "$stamp" > "$dir/built.key"
    fi
}

series=
if [ -n "${FFMPEG_SRC-}" ]; then
    FFMPEG_SRC=$(cd "$FFMPEG_SRC" && pwd) || exit 1
    series=$(series_of "$FFMPEG_SRC")
    [ -n "$series" ] || die "FFMPEG_SRC=$FFMPEG_SRC is no FFmpeg source tree"
    if [ -n "${FFMPEG_VERSION-}" ] && [ "$FFMPEG_VERSION" != "$series" ]; then
        die "FFMPEG_SRC is of series $series, not FFMPEG_VERSION=$FFMPEG_VERSION"
    fi
    candidates=$series
elif [ -n "${FFMPEG_VERSION-}" ]; then
    candidates=$FFMPEG_VERSION
else
    candidates="$default $(sed -n 's/^\([0-9.]*\) .*/\1/p' \
        "$here/releases.txt" | grep -vxF "$default")"
fi

for series in $candidates; do
    [ -d "$here/ffmpeg-$series" ] ||
        die "not supported; the series are$(cd "$here" &&
            echo ffmpeg-*/ | sed 's/ffmpeg-/ /g; s,/,,g')"
    build_series
    status=$?
    [ $status = 77 ] || break
done
[ $status = 0 ] || { say "no source" >&2; exit $status; }

[ -n "${FFMPEG_VERSION-}${FFMPEG_SRC-}" ] || [ "$series" = "$default" ] ||
    say "NOTE: this stands in for $default, whose source cannot be had here"
if [ $profile = default ]; then
    if [ -z "${FFMPEG_VERSION-}" ] || [ "$series" = "$default" ] ||
            [ ! -e "$build/bin/ffmpeg" ]; then
        publish
        say "$build/bin/ffmpeg"
    else
        say "$dir/bin/ffmpeg"
    fi
else
    say "$dir/bin/ffmpeg"
fi
