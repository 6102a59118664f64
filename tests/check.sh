#!/bin/sh
# The body of `make check`: builds the FFmpeg series, then runs every test in
# one prove, so that its summary stands at the end.
#
# SPDX-License-Identifier: BSD-2-Clause
#
# Usage: tests/check.sh BUILD_DIR, with CAUSVID_SRC and CAUSVID_BUILD set.
#
# The default series is built as users build it, the others with what the tests
# need. A series whose source cannot be had is skipped, with the reason.

set -u
build=$CAUSVID_BUILD
cd "$CAUSVID_SRC" || exit 1
wrappers=$build/tests/series
rm -rf "$wrappers"
mkdir -p "$wrappers" || exit 1

# wrap SERIES DIR REASON: scripts that run tests/ffmpeg with the FFmpeg in DIR,
# or skip them where there is none
wrap() {
    for script in tests/ffmpeg/*.t; do
        [ -e "$script" ] || continue
        wrapper=$wrappers/ffmpeg-$1-$(basename "$script")
        if [ -n "$2" ]; then
            cat > "$wrapper" <<END
#!/bin/sh
export FFMPEG='$2/bin/ffmpeg' FFPROBE='$2/bin/ffprobe' FFMPEG_PREFIX='$2'
export FFMPEG_SERIES=$1
exec '$CAUSVID_SRC/$script'
END
        else
            printf '#!/bin/sh\necho "1..0 # SKIP %s"\n' "$3" > "$wrapper"
        fi
        chmod +x "$wrapper"
    done
}

# Without FFMPEG_VERSION: the default, or what stands in for it.
unset FFMPEG_VERSION
patches/build.sh "$build"
status=$?
case $status in
0)  first=$(cat "$build/bin/.ffmpeg-series")
    wrap "$first" "$build/ffmpeg-$first" "" ;;
77) first=
    wrap none "" "no FFmpeg source can be had here" ;;
*)  exit 1 ;;
esac

unset FFMPEG_SRC
for dir in patches/ffmpeg-*/; do
    series=$(basename "$dir")
    series=${series#ffmpeg-}
    [ "$series" = "$first" ] && continue
    FFMPEG_VERSION=$series patches/build.sh --small "$build"
    case $? in
    0)  wrap "$series" "$build/ffmpeg-$series-small" "" ;;
    77) wrap "$series" "" "the source of FFmpeg $series cannot be had here" ;;
    *)  exit 1 ;;
    esac
done

set --
for folder in unit ops model bench; do
    for test in "$build/tests/$folder"/test_* tests/$folder/*.t; do
        # Programs only: neither what else lies there nor an unmatched pattern,
        # and none whose source is gone.
        case $test in
        tests/*) [ -x "$test" ] || continue ;;
        *) [ -x "$test" ] && [ -e "${test#"$build"/}.c" ] || continue ;;
        esac
        set -- "$@" "$test"
    done
done
set -- "$build/tests/emulator/test_emulator" "$@"
for test in "$wrappers"/*.t; do
    [ -x "$test" ] && set -- "$@" "$test"
done
exec prove --timer --failures --merge --exec '' "$@"
