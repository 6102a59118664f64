#!/bin/bash
# promptfile: one clip for each line, with one load of the model.
. "$(dirname "$0")/lib.sh"

cat > prompts.txt <<END
# the first two
$prompt

  $prompt2  
	#a yellow ring
# the end
END
printf 'a black square is still on a pink background' >> prompts.txt
opts="$small:d=0.5"

list=$(frame_prompts "causvid=promptfile=prompts.txt:$opts")
is "$(cut -d' ' -f1 <<< "$list" | tr '\n' ' ')" "$(seq 0 31 | tr '\n' ' ')" \
    "timestamps go on from clip to clip"
is "$(cut -d' ' -f3- <<< "$list" | uniq -c | sed 's/^ *//' | tr '\n' '|')" \
    "8 $prompt|8 $prompt2|8 #a yellow ring|8 a black square is still on a pink background|" \
    "one clip for each line; blank lines and comments are skipped, edges trimmed"
is "$(cut -d' ' -f2 <<< "$list" | uniq | tr -d '\n')" "0" "blocks count from 0 in each clip"
is "$(tags "causvid=promptfile=prompts.txt:$opts" seed | uniq | tr '\n' ' ')" "1 2 3 4 " "clip k uses seed + k"

all=$(hashes "causvid=promptfile=prompts.txt:$opts")
is "$(sed -n 1,8p <<< "$all")" "$(hashes "causvid=prompt='$prompt':$opts")" \
    "the first clip is what its prompt alone gives"
is "$(sed -n 9,16p <<< "$all")" \
    "$(hashes "causvid=prompt='$prompt2':s=64x48:d=0.5:seed=2")" \
    "the second one is what its prompt gives with the next seed"
is "$(ff -filter_complex "causvid=promptfile=prompts.txt:$opts" -f framemd5 - |
    sed -n 's/^0,.*, //p')" "$all" "-filter_complex gives the same"

ff -v verbose -f lavfi -i "causvid=promptfile=prompts.txt:$opts" -f null -
is "$(grep -c "diffusion_pytorch_model.*safetensors" log | head -n 1)" \
    "$(ff -v verbose -f lavfi -i "$source:d=0.5" -f null -
       grep -c "diffusion_pytorch_model.*safetensors" log)" \
    "four clips open the weights as often as one does"

printf '\357\273\277%s\r\n\r\n#x\r\n%s\r\n' "$prompt" "$prompt2" > dos.txt
is "$(frame_prompts "causvid=promptfile=dos.txt:$opts" | cut -d' ' -f3- | uniq | tr '\n' '|')" \
    "$prompt|$prompt2|" "a file from Windows works: byte order mark and line ends"
is "$(printf '%s\n' "$prompt" | timeout 60 "$ffmpeg" -hide_banner -v error -f lavfi \
    -i "causvid=promptfile=/dev/stdin:$opts" -f framemd5 - | sed -n 's/^0,.*, //p')" \
    "$(sed -n 1,8p <<< "$all")" "prompts can come through a pipe"
printf '%s: it'"'"'s [a], \\ "test"; 100%%\n' "$prompt" > special.txt
is "$(tags "causvid=promptfile=special.txt:s=64x48:d=0.05" prompt)" "$(cat special.txt)" \
    "no character of a prompt file needs escaping"

# A changed prompt holds until the clip ends.
printf '%s\n%s\n' "$prompt" "$prompt2" > two.txt
list=$(frame_prompts "causvid=promptfile=two.txt:$small:d=2.5,sendcmd=c='0.1 causvid prompt cat'")
is "$(cut -d' ' -f3- <<< "$list" | uniq | tr '\n' '|')" "$prompt|cat|$prompt2|" \
    "a command changes the clip that is running, not the next one"

# ------------------------------------------------------------- bad files

refuses "a file that is not there" "promptfile 'none.txt'.*No such file" "causvid=promptfile=none.txt"
mkdir folder
refuses "a folder" "promptfile 'folder' cannot be read" "causvid=promptfile=folder"
: > empty.txt
refuses "an empty file" "promptfile 'empty.txt' holds no prompt" "causvid=promptfile=empty.txt"
printf '# only\n\n   \n' > blank.txt
refuses "a file of comments" "promptfile 'blank.txt' holds no prompt" "causvid=promptfile=blank.txt"
printf 'a cat\n\na d\366g\n' > latin1.txt
refuses "a file in Latin-1" "promptfile 'latin1.txt', line 3 is not valid UTF-8: byte 0xf6 at position 4" \
    "causvid=promptfile=latin1.txt"
printf 'a \355\240\200\n' > surrogate.txt
refuses "a UTF-16 surrogate" "line 1 is not valid UTF-8" "causvid=promptfile=surrogate.txt"
printf 'a \300\257\n' > overlong.txt
refuses "an overlong code" "line 1 is not valid UTF-8" "causvid=promptfile=overlong.txt"
printf 'a cat\na\0b\n' > zero.txt
refuses "a zero byte" "promptfile 'zero.txt', line 2 holds a zero byte" "causvid=promptfile=zero.txt"
head -c 17000000 /dev/zero | tr '\0' '\n' > large.txt
refuses "a huge file" "promptfile 'large.txt' is larger than 16 MiB" "causvid=promptfile=large.txt"
head -c 16000000 /dev/zero | tr '\0' '\n' > newlines.txt
ok "sixteen million blank lines are read in linear time" \
    refuses "  they hold no prompt" "holds no prompt" "causvid=promptfile=newlines.txt"
refuses "a colon without a name or a backslash" "both given.* .: for a colon" \
    "causvid=a red circle at 10:30:$small"
refuses "prompt and promptfile at once" "prompt and promptfile are both given" \
    "causvid=prompt=a:promptfile=two.txt"
refuses "an endless clip before another one" "duration=-1.*'two.txt' holds 2 prompts" \
    "causvid=promptfile=two.txt:d=-1"

finish
