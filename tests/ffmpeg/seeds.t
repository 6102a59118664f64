#!/bin/bash
# Seeds: the same seed gives the same bytes, another one other pictures.
. "$(dirname "$0")/lib.sh"

graph="causvid=prompt='$prompt':s=64x48:d=2"
one=$(hashes "$graph:seed=7")
is "$(wc -l <<< "$one")" 32 "two seconds are 32 frames"
is "$(hashes "$graph:seed=7")" "$one" "the same seed gives the same bytes"
is "$(ff -filter_complex "$graph:seed=7" -f framemd5 - | sed -n 's/^0,.*, //p')" \
    "$one" "also with -filter_complex"
is "$(comm -12 <(sort <<< "$one") <(hashes "$graph:seed=8" | sort) | wc -l)" 0 \
    "another seed changes every frame"
is "$(comm -12 <(sort <<< "$one") \
    <(hashes "causvid=prompt='$prompt2':s=64x48:d=2:seed=7" | sort) | wc -l)" 0 \
    "another prompt changes every frame"
is "$(sort -u <<< "$one" | wc -l)" 32 "all frames differ: the picture moves"

seed_of() { tags "$1" seed | sort -u; }
is "$(seed_of "$graph:seed=4294967295")" 4294967295 "the largest seed works"
is "$(seed_of "$graph:seed=0")" 0 "so does the smallest"
first=$(seed_of "$graph:d=0.1")
second=$(seed_of "$graph:d=0.1:seed=-1")
like "$first" '^[0-9]+$' "without seed one is drawn and told in the metadata"
isnt "$first" "$second" "each run draws its own"
ff -v info -f lavfi -i "$graph:d=0.1" -f framemd5 a.md5
drawn=$(grep -o 'seed [0-9]*' log | head -n 1 | cut -d' ' -f2)
is "$(hashes "$graph:d=0.1:seed=${drawn:-none}")" "$(sed -n 's/^0,.*, //p' a.md5)" \
    "the drawn seed is logged and gives the same frames again"

finish
