#!/bin/bash
# Options of the causvid source: names, defaults, and what they do.
. "$(dirname "$0")/lib.sh"

help=$("$ffmpeg" -hide_banner -h filter=causvid)
for option in prompt promptfile negative_prompt model text_encoder vae \
        tokenizer checkpoint_key lora cache variant size s rate r duration d seed steps timesteps \
        shift guidance sampler precision device threads; do
    like "$help" "^ +$option +\[?<" "option $option is there"
done
like "$help" "^ +prompt +<string> +[.A-Z]*T" "prompt is marked as a runtime option"

# Every option has its entry in docs/usage.md.
undocumented=$(sed -n 's/^   \([a-z_]*\) .*<.*/\1/p' <<< "$help" | while read -r name; do
    grep -q "\`$name\`" "$src/docs/usage.md" || echo "$name"
done)
nothing "$undocumented" "docs/usage.md names every option"

reference=$(hashes "$source:d=0.5")
is "$(wc -l <<< "$reference")" 8 "half a second gives 8 frames"
is "$(hashes "causvid='$prompt':$small:d=0.5")" "$reference" \
    "prompt may be given without its name"
is "$(hashes "causvid=d=0.5:$small:prompt=a red circle moves right on a blue background")" \
    "$reference" "a prompt without special characters needs no quotes"
is "$(hashes "causvid=size=64x48:duration=0.5:seed=1:rate=16:prompt='$prompt'")" \
    "$reference" "long and short names are the same"
is "$(hashes "$source:d=0.5:model=$model")" "$reference" \
    "the sample model is the default"
is "$(hashes "$source:d=0.5:text_encoder=$model/text_encoder:vae=$model/vae:tokenizer=$model/tokenizer")" \
    "$reference" "components can be named one by one"
is "$(hashes "$source:d=0.5:device=cpu:precision=fp32:variant=auto:sampler=auto")" \
    "$reference" "values that are the default change nothing"
is "$(hashes "$source:d=0.5:threads=1" | wc -l)" 8 "threads is accepted"

steps=$(hashes "$source:d=0.5:steps=1")
is "$(wc -l <<< "$steps")" 8 "steps is accepted"
isnt "$steps" "$reference" "steps changes the picture"
one=$(hashes "$source:d=0.5:timesteps=1000")
two=$(hashes "$source:d=0.5:timesteps=1000|500")
isnt "$one" "$two" "timesteps changes the picture, with | between the numbers"
is "$(wc -l <<< "$two")" 8 "timesteps gives all frames"
isnt "$(hashes "$source:d=0.5:shift=6")" "$reference" "shift changes the picture"
for sampler in causvid euler unipc; do
    is "$(hashes "$source:d=0.5:sampler=$sampler:steps=2" | wc -l)" 8 \
        "sampler=$sampler works"
done
# Its list of sigmas is fixed, so it brings its own number of steps.
is "$(hashes "$source:d=0.5:sampler=flowmatch_causvid" | wc -l)" 8 "sampler=flowmatch_causvid works"

# A model that LoRA files are there for.
fixtures=$src/tests/model/fixtures
tiny="causvid=prompt=a:seed=1:d=0.5:model=$fixtures/clip/model"
plain=$(hashes "$tiny")
changed=$(hashes "$tiny:lora=$fixtures/lora/kijai.safetensors")
isnt "$changed" "$plain" "lora changes the picture"
is "$(hashes "$tiny:lora=$fixtures/lora/kijai.safetensors=0")" "$plain" \
    "its strength stands behind the last ="
is "$(hashes "$tiny:lora=$fixtures/lora/blocks.safetensors=1|$fixtures/lora/rest.safetensors")" \
    "$changed" "several files with | between them"
like "$("$ffmpeg" -hide_banner -nostdin -f lavfi -i "$tiny:lora=$fixtures/lora/kijai.safetensors" \
    -frames:v 1 -f null - 2>&1)" "kijai.safetensors': applied 69 of 69 entries, strength 1" \
    "the log says how much was applied"

kept=$tmp/prompts
is "$(hashes "$tiny:cache=$kept")" "$plain" "cache changes nothing"
is "$(ls "$kept" | wc -l)" 1 "the prompt is kept"
is "$(hashes "$tiny:cache=$kept")" "$plain" "nor does it the second time"
like "$("$ffmpeg" -hide_banner -nostdin -v verbose -f lavfi -i "$tiny:cache=$kept" \
    -frames:v 1 -f null - 2>&1)" "a prompt of 3 tokens from '$kept" \
    "the log says that it was taken"
is "$(hashes "$tiny:cache=$tmp/no/such")" "$plain" "a folder that cannot be made is no error"

guided=$(hashes "$source:d=0.5:guidance=5")
isnt "$guided" "$reference" "guidance changes the picture"
isnt "$(hashes "$source:d=0.5:guidance=5:negative_prompt=a blue star")" \
    "$guided" "negative_prompt acts where guidance is not 1"
is "$(hashes "$source:d=0.5:guidance=1:negative_prompt=a blue star")" \
    "$(hashes "$source:d=0.5:guidance=1")" "negative_prompt does nothing at guidance 1"

is "$(frames "$source:d=0.1" width,height | sort -u)" "width=64|height=48" \
    "the size is that of the option"
default=$(sed -n 's/.*"width": *\([0-9]*\).*/\1/p' "$model/recipe.json")x$(
    sed -n 's/.*"height": *\([0-9]*\).*/\1/p' "$model/recipe.json")
is "$(frames "causvid='$prompt':d=0.1" width,height | sort -u |
    sed 's/width=\(.*\)|height=/\1x/')" "$default" "the default size is the model's"

# Quoting as docs/usage.md shows it.
is "$(frame_prompts "causvid=prompt='one, two':$small:d=0.05")" "0 0 one, two" \
    "a comma needs nothing inside quotes"
is "$(frame_prompts "causvid=prompt='time\\: noon':$small:d=0.05")" "0 0 time: noon" \
    "a colon needs a backslash"
is "$(frame_prompts "causvid=prompt='a cat'\\\\\\''s hat':$small:d=0.05")" \
    "0 0 a cat's hat" "an apostrophe can be given"
is "$(frame_prompts "causvid=prompt='größer 圓':$small:d=0.05")" \
    "0 0 größer 圓" "UTF-8 passes through"

finish
