#!/bin/sh
# make install: what is there works where it is, also when all of it has been
# moved, programs build against it, and make uninstall leaves nothing.
#
# SPDX-License-Identifier: BSD-2-Clause

. "$(dirname "$0")/../tap.sh"
said=log
unset MAKEFLAGS MAKELEVEL MFLAGS DESTDIR CAUSVID_CUDA_MODULE

setting() { sed -n "s/^$1 = //p" "$build/config.mak"; }
prefix=$(setting PREFIX)

dest="$tmp/a b"
at=$dest$prefix

make_it() {
    make -C "$src" BUILD="$build" "$1" DESTDIR="$dest" > log 2>&1
}

mkdir a
echo kept > a/file
(umask 077 && make_it install)
check "make install, below a folder with a blank in its name"
[ -d "$at" ] && [ -z "$(find "$dest" ! -type l ! -perm -o=r)" ]
check "everybody may read it, whatever the umask was"

# As a program on PATH, from elsewhere.
PATH=$at/bin:$PATH
if [ -e "$prefix/share/causvid/shapes" ]; then
    skip "another version is installed in $prefix and comes first"
else
    causvid info > log 2>&1 &&
        model=$(sed -n 's/^model *//p' log) &&
        [ "$(cd "$model" && pwd -P)" = "$(cd "$at/share/causvid/shapes" && pwd -P)" ]
    check "the sample model is found although the prefix has been moved"
fi
echo nothing > "$at/lib/libcausvid_cuda.so"
causvid bench --device cuda --runs 1 > log 2>&1
grep -q 'module does not load' log
check "the CUDA module is looked for beside the library"

if [ "$(setting MODE)" = sanitize ]; then
    skip "programs without sanitizers cannot use a library with them"
else
    export PKG_CONFIG_PATH="$at/lib/pkgconfig" LD_LIBRARY_PATH="$at/lib"
    eval "set -- $($(setting PKG_CONFIG) --define-prefix --cflags --libs causvid)"
    $(setting CC) -std=c11 -Wall -Wextra -Werror -o y4m \
        "$src/samples/api/y4m.c" "$@" > log 2>&1
    check "an example is built with pkg-config"
    ./y4m "a red circle" > clip.y4m 2> log
    check "and runs"
    head -n 1 clip.y4m | grep -q '^YUV4MPEG2 W160 H96 F16:1 ' &&
        [ "$(wc -c < clip.y4m)" = $((81 * (6 + 160 * 96 * 3 / 2) +
            $(head -n 1 clip.y4m | wc -c))) ]
    check "and writes 81 frames"

    echo '#include <causvid.h>
    unsigned version(void); unsigned version(void) { return causvid_version(); }' > h.c
    cp h.c h.cc
    $(setting CC) -std=c99 -pedantic -Wall -Wextra -Werror -c h.c "$@" > log 2>&1 &&
        $(setting CXX) -std=c++11 -pedantic -Wall -Wextra -Werror -c h.cc "$@" \
            > log 2>&1
    check "the header is C99 and C++11"
    nm -D --defined-only "$at/lib/libcausvid.so" > log 2>&1 &&
        grep -q causvid_open log && ! grep -qv ' causvid_[a-z_]*$' log
    check "the library shows nothing but its interface"
fi

make_it uninstall
check "make uninstall"
[ -d "$dest" ] && find "$dest" ! -type d > log && [ ! -s log ]
check "leaves nothing"
[ -s a/file ] && [ ! -e "$src/b" ]
check "and touches nothing else"

finish
