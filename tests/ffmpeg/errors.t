#!/bin/bash
# Bad input: one line that names what is wrong, a non-zero exit, no crash.
. "$(dirname "$0")/lib.sh"

graph="causvid=prompt='$prompt':s=64x48:d=0.2"

# ----------------------------------------------------------------- options

# misparsed NAME OPTION VALUE: FFmpeg's own parser refuses the value. Its lines
# differ between the releases, but one of them names option and value.
misparsed() {
    ff -f lavfi -i "$graph:$2=$3" -f null -
    isnt "$?" 0 "$1 fails"
    like "$(cat log)" "Error setting option $2 to value ${3//|/\\|}\\." "$1: option and value are named"
}

refuses "no prompt" "no prompt: write causvid=prompt=" "causvid"
refuses "an empty prompt" "prompt is empty" "causvid=prompt="
refuses "a blank prompt" "prompt is empty" "causvid=prompt='  '"
refuses "a prompt in Latin-1" "prompt is not valid UTF-8: byte 0xf6 at position 4" \
    "causvid=$(printf 'a d\366g')"
refuses "a negative prompt in Latin-1" "negative_prompt is not valid UTF-8: byte 0xe9" \
    "$graph:negative_prompt=$(printf '\351')"
refuses "a rate that is none" "rate 'fast' is not a frame rate" "$graph:rate=fast"
refuses "a rate of 0" "rate '0' is not a frame rate" "$graph:r=0"
misparsed "a size that is none" size "big"
refuses "a size that is no multiple of 16" "100x100.*(96x96|96x112|112x96|112x112)" \
    "causvid=prompt=a:s=100x100"
misparsed "a duration that is none" d "long"
refuses "a negative duration" "Value -3.0* for parameter 'd' out of range" "$graph:d=-3"
refuses "a duration below 0" "duration=-0.5 is negative: a time was expected, or -1" "$graph:d=-0.5"
refuses "negative steps" "Value -1.0* for parameter 'steps' out of range" "$graph:steps=-1"
misparsed "a timestep that is no number" timesteps "1000|x"
refuses "a timestep above 1000" "Value 1001.0* for parameter 'timesteps'" \
    "$graph:timesteps=1001|500"
refuses "timesteps that rise" "timestep" "$graph:timesteps=500|1000"
refuses "more threads than there can be" "Value 257.0* for parameter 'threads' out of range" "$graph:threads=257"
refuses "a seed that is too large" "Value 4294967296.0* for parameter 'seed'" \
    "$graph:seed=4294967296"
misparsed "an unknown sampler" sampler "ddim"
misparsed "an unknown variant" variant "both"
misparsed "an unknown precision" precision "fp4"
misparsed "an unknown device" device "tpu"
refuses "an unknown option" "option 'colour'" "$graph:colour=red"
refuses "a LoRA that is not there" "/no/lora.safetensors'" "$graph:lora=/no/lora.safetensors=0.5"
refuses "bf16 on the CPU" "bf16" "$graph:device=cpu:precision=bf16"
refuses "fp8 on the CPU" "fp8" "$graph:device=cpu:precision=fp8"
refuses "an endless clip of a bidirectional model" "endless|frames|causal" \
    "$graph:d=-1:variant=bidirectional"
"$ffmpeg" -nostdin -v error -f lavfi -i "$graph:device=cuda" -f null - 2> log
status=$?
crashed $status
isnt "$?|$status" "0|0" "device=cuda does not crash (status $status)"
[ $status = 0 ] || like "$(cat log)" "cuda|CUDA" "and tells why it cannot be used"

# ------------------------------------------------------------------- models

# model_from NAME: a copy of the sample model, of links, to be damaged. The
# folders must be real ones: what is removed below is then only a link.
sample=$(readlink -f "$model")
model_from() {
    rm -rf "$1"
    (cd "$sample" && find . -type d) | sed "s,^,$1/," | xargs mkdir -p
    (cd "$sample" && find . -type f) | while read -r file; do
        ln -s "$(readlink -f "$sample/$file")" "$1/$file"
    done
    [ -d "$1" ] && [ ! -L "$1" ] || exit 1
}
# own FILE: make a link a file of its own
own() { cp --remove-destination "$(readlink -f "$1")" "$1" && chmod u+w "$1"; }

[ -e "$model/transformer/diffusion_pytorch_model.safetensors" ] || {
    pass 1 "the sample model is in $model"
    finish
}
refuses "a model folder that is not there" "/no/such/model" "$graph:model=/no/such/model"
mkdir empty
refuses "an empty model folder" "empty" "$graph:model=empty"
for part in transformer text_encoder vae tokenizer; do
    model_from m
    rm -r "m/$part"
    refuses "a model without $part" "$part" "$graph:model=m"
done
refuses "a VAE that is not there" "/no/vae" "$graph:vae=/no/vae"
refuses "a text encoder that is not there" "/no/t5" "$graph:text_encoder=/no/t5"
refuses "a key of a file that has none" "checkpoint_key is 'ema', but .* is no .pt file" \
    "$graph:model=$sample:checkpoint_key=ema"
refuses "a tokenizer that is not there" "/no/spiece" "$graph:tokenizer=/no/spiece"

weights=transformer/diffusion_pytorch_model.safetensors
name=$(basename "$weights")
bytes=$(stat -Lc %s "$model/$weights")

damage() { model_from m; own "m/$weights"; }

model_from m; rm "m/$weights"; : > "m/$weights"
refuses "an empty weight file" "$name" "$graph:model=m"
for size in 7 100 $((bytes / 2)) $((bytes - 1)); do
    damage; truncate -s $size "m/$weights"
    refuses "a weight file of $size of $bytes bytes" "$name" "$graph:model=m"
done
damage; printf '\377\377\377\377\377\377\377\177' | dd of="m/$weights" conv=notrunc status=none
refuses "a header length beyond the file" "$name" "$graph:model=m"
damage; printf 'xxxx' | dd of="m/$weights" bs=1 seek=8 conv=notrunc status=none
refuses "a header that is no JSON" "$name" "$graph:model=m"
damage; sed -i 's/"BF16"/"BF61"/' "m/$weights"
refuses "an unknown data type" "BF61|dtype" "$graph:model=m"
damage; sed -i 's/patch_embedding\.weight/patch_embedding.wEIGHT/' "m/$weights"
refuses "a tensor with another name" "patch_embedding" "$graph:model=m"
damage
head -c 4096 /dev/zero | tr '\0' '\377' | dd of="m/$weights" bs=1 seek=$((bytes - 4096)) conv=notrunc status=none
refuses "weights that are not numbers" "NaN|nan|finite" "$graph:model=m"
damage; printf 'not a model at all\n' > "m/$weights"
refuses "a text file in place of weights" "$name" "$graph:model=m"

config() { model_from m; own "m/$1"; }
config transformer/config.json; printf '{ "num_layers": ' > m/transformer/config.json
refuses "a cut config.json" "config.json" "$graph:model=m"
config transformer/config.json; sed -i 's/"num_layers": *[0-9]*/"num_layers": 99/' m/transformer/config.json
refuses "a config.json with more layers than the weights" "blocks|layers" "$graph:model=m"
config transformer/config.json; sed -i 's/"ffn_dim": *[0-9]*/"ffn_dim": 130/' m/transformer/config.json
refuses "a config.json of another width" "ffn" "$graph:model=m"
config tokenizer/spiece.model; head -c 1000 /dev/urandom > m/tokenizer/spiece.model
refuses "a tokenizer of random bytes" "spiece.model" "$graph:model=m"

# -------------------------------------------------------------- long prompts

words=$(for ((i = 0; i < 600; i++)); do printf 'circle '; done)
ff -v warning -f lavfi -i "causvid=prompt='$words':s=64x48:seed=1:d=0.1" -f framemd5 long.md5
pass $? "a prompt of 600 words is no error"
like "$(own_lines)" "[0-9]{3}.*512|512.*[0-9]{3}" "a warning tells how many tokens it has"
is "$(own_lines | wc -l)" 1 "it is one line"

# ------------------------------------------------- outputs, memory, hopeless

ff -f lavfi -i "$graph" -c:v libx264 /no/such/folder/out.mp4
isnt "$?" 0 "an output that cannot be written fails"
like "$(cat log)" "/no/such/folder/out.mp4" "and is named"
if [ -e /dev/full ]; then
    ff -f lavfi -i "$graph" -c:v rawvideo -f rawvideo /dev/full
    isnt "$?" 0 "a full disk fails"
fi

# With little memory: an end with one line, at whatever point it runs out.
limited() {
    (ulimit -v "$1"; ff -f lavfi -i "causvid=prompt='$prompt':s=$2:threads=1:d=0.1" -f null -)
}
limited 4000000 8192x8192
status=$?
crashed $status; crash=$?
isnt "$crash|$status" "1|0" "(a clip of 8192x8192 does not fit into 4 GB)"
is "$crash" 1 "too little memory is no crash (status $status)"
like "$(cat log)" "[Mm]emory" "and is told" || diag "$(cat log)"
refuses "a size beyond all bounds" "1000000x1000000|[Ss]ize|[Mm]emory" \
    "causvid=prompt=a:s=1000000x1000000"

# The last check: after all this the source still works.
is "$(hashes "$graph:seed=1" | wc -l)" 4 "sound input still works"

finish
