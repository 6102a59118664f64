#!/bin/bash
# Pixel formats, colour tags, and that all formats show the same picture.
. "$(dirname "$0")/lib.sh"

tags=pix_fmt,color_range,color_space,color_primaries,color_transfer,chroma_location

# tags_of FILTERS: the colour tags of a frame, without what is not known
tags_of() {
    frames "$source:d=0.05$1" $tags | tr '|' '\n' |
        grep -v -e unspecified -e unknown | cut -d= -f2 | tr '\n' ' '
}

is "$(tags_of "")" "yuv420p tv bt709 bt709 bt709 left " "yuv420p is the default"
for format in yuv420p nv12 yuv420p10le p010le; do
    is "$(tags_of ",format=$format")" "$format tv bt709 bt709 bt709 left " \
        "$format is BT.709, limited, chroma left"
    is "$(tags_of ",format=$format:color_ranges=pc")" \
        "$format pc bt709 bt709 bt709 left " "$format in full range"
done
is "$(tags_of ",format=yuv444p")" "yuv444p tv bt709 bt709 bt709 " "yuv444p"
is "$(tags_of ",format=yuv444p:color_ranges=pc")" "yuv444p pc bt709 bt709 bt709 " \
    "yuv444p in full range"
for format in gbrp rgb24 rgb0 bgr0; do
    is "$(tags_of ",format=$format")" "$format pc gbr bt709 bt709 " "$format is full range"
done

# No conversion is put in between: the source itself gives what is asked for.
for format in yuv420p nv12 yuv444p yuv420p10le p010le gbrp rgb24 rgb0 bgr0; do
    ff -v verbose -f lavfi -i "$source:d=0.05,format=$format" -f null -
    unlike "$(cat log)" 'auto_scale' "$format comes straight from the source"
done
ff -v verbose -filter_complex "$source:d=0.05" -c:v ffv1 -pix_fmt yuv444p -f null -
unlike "$(cat log)" 'auto_scale' "an encoder's format is negotiated in -filter_complex"
ff -f lavfi -i "$source:d=0.2" -c:v libx264 tagged.mp4
is "$("$ffprobe" -v error -show_entries \
    stream=color_range,color_space,color_transfer,color_primaries,chroma_location \
    -of default=nw=1:nk=1 tagged.mp4 | tr '\n' ' ')" "tv bt709 bt709 bt709 left " \
    "the tags reach the file"

# ---------------------------------------------- the same picture everywhere
# At the model's own size, with its saturated colours and sharp edges.
picture="causvid=prompt='$prompt':seed=1:d=0.3"
raw() { ff -f lavfi -i "$picture,format=$1${3-}" -f rawvideo "$2"; }
md5() { ff -f lavfi -i "$picture,$1" -f md5 -; }

is "$(md5 "format=nv12,scale,format=yuv420p")" "$(md5 "format=yuv420p")" \
    "nv12 holds the bytes of yuv420p"
is "$(md5 "format=p010le,scale,format=yuv420p10le")" "$(md5 "format=yuv420p10le")" \
    "p010 holds the values of yuv420p10"
is "$(md5 "format=gbrp,scale,format=rgb24")" "$(md5 "format=rgb24")" \
    "gbrp holds the bytes of rgb24"
for format in rgb0 bgr0; do
    is "$(md5 "format=$format,scale,format=rgb24")" "$(md5 "format=rgb24")" \
        "$format holds the bytes of rgb24"
done
raw yuv420p a.yuv && raw yuv444p b.yuv
size=$(frames "$picture" width,height | head -n 1 | sed 's/width=\(.*\)|height=/\1 * /')
is "$(head -c $((size)) a.yuv | md5sum)" "$(head -c $((size)) b.yuv | md5sum)" \
    "yuv444p has the luma of yuv420p"

# psnr FORMAT_A FILTERS_A FILTERS_B: the smallest PSNR of a plane. Both are
# brought to FORMAT_A by swscale.
psnr() {
    ff -v info -f lavfi -i "$picture,$2,setparams=range=unknown:colorspace=unknown,format=$1" \
        -f lavfi -i "$picture,$3,setparams=range=unknown:colorspace=unknown,format=$1" \
        -lavfi psnr -f null - || return 1
    grep -o 'PSNR .*' log | grep -Eo '\b([yuvrgb]):([0-9.]+|inf)' |
        sed 's/.*://; s/inf/999/' | sort -g | head -n 1
}

# at_least BOUND NAME VALUE
at_least() {
    awk "BEGIN { exit !(\"$3\" != \"\" && $3 + 0 >= $1) }"
    pass $? "$2 ($3 dB)"
}

# Two roundings that differ by less than one level each leave a mean square
# error below 1, which is 48.1 dB; swscale's own matrix and dither are in the
# bound of 45. With the matrix of BT.601 it is 35 dB, with a wrong range 29 dB.
to709="scale=out_color_matrix=bt709:out_range=tv"
at_least 45 "yuv420p10 in 8 bits is yuv420p" \
    "$(psnr yuv420p format=yuv420p format=yuv420p10le,scale,format=yuv420p)"
at_least 45 "gbrp as YUV is yuv444p" \
    "$(psnr yuv444p format=yuv444p "format=gbrp,$to709:flags=accurate_rnd+full_chroma_inp,format=yuv444p")"
at_least 45 "full range as limited range is limited range" \
    "$(psnr yuv444p format=yuv444p "format=yuv444p:color_ranges=pc,scale=in_range=pc:out_range=tv,format=yuv444p")"

# Chroma halves differ in the filter that is used, so only edges differ; and
# the right siting is nearer than the wrong one.
left=$(psnr yuv420p format=yuv420p "format=yuv444p,scale=out_h_chr_pos=0:out_v_chr_pos=128:flags=bilinear,format=yuv420p")
center=$(psnr yuv420p format=yuv420p "format=yuv444p,scale=out_h_chr_pos=128:out_v_chr_pos=128:flags=bilinear,format=yuv420p")
at_least 40 "yuv444p halved is yuv420p" "$left"
ok "chroma is sited left, not in the middle ($left against $center dB)" \
    awk "BEGIN { exit !($left > $center) }"

finish
