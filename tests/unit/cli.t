#!/bin/sh
# The causvid program: commands, options, exit codes, and bad input.
#
# SPDX-License-Identifier: BSD-2-Clause
#
# Exit codes: 0 when all went well, 1 when the command failed, 2 for wrong
# usage. A failure says one line on standard error and nothing else.

. "$(dirname "$0")/../tap.sh"
said="out err"
model=$src/tests/model/fixtures/clip/model

# run STATUS ARGUMENT...: run the program; 0 when it exits so
run() {
    expected=$1
    shift
    "$causvid" "$@" > out 2> err
    got=$?
    [ $got = "$expected" ] || { echo "# exit $got, not $expected"; return 1; }
}

# refused STATUS NAME WORDS ARGUMENT...: it fails in one line that has the
# words (a pattern of grep -E), and prints nothing else
refused() {
    expected=$1 name=$2 words=$3
    shift 3
    run "$expected" "$@" && [ ! -s out ] && [ "$(wc -l < err)" = 1 ] &&
        grep -Eq -e "^causvid: .*$words" err
    check "$name: $(sed "s|$tmp/||g; s|$model|model|g; s/#//g" err)"
}

# st FILE NAME:TYPE:SHAPE:VALUE...: a safetensors file of constants
st() {
    perl -e '
        my ($file, $at, $data, @header) = (shift, 0, "");
        for (@ARGV) {
            my ($name, $type, $shape, $value) = split /:/;
            my $count = 1;
            $count *= $_ for split /,/, $shape;
            $data .= pack($type eq "I64" ? "q<" : "f<", $value) x $count;
            my $end = length $data;
            push @header, qq("$name":{"dtype":"$type","shape":[$shape],) .
                          qq("data_offsets":[$at,$end]});
            $at = $end;
        }
        my $header = "{" . join(",", @header) . "}";
        open my $out, ">:raw", $file or die;
        print $out pack("Q<", length $header), $header, $data;
        close $out or die;' -- "$@" || exit 1
}

# names FILE: names of its tensors, one a line
names() {
    perl -MJSON::PP -e '
        open my $in, "<:raw", $ARGV[0] or die;
        read $in, my $length, 8;
        read $in, my $header, unpack "Q<", $length;
        print "$_\n" for sort keys %{decode_json($header)};' -- "$1"
}

# ------------------------------------------------------------ program, usage

run 0 --version && grep -Eq '^causvid [0-9]+\.[0-9]+\.[0-9]+$' out &&
    [ ! -s err ]
check "--version: $(cat out)"
version=$(sed -n 's/^#define CAUSVID_VERSION_[A-Z]* \([0-9]*\)$/\1/p' \
    "$src/engine/causvid.h" | paste -s -d .)
[ "$(cat out)" = "causvid $version" ]
check "it is the version of causvid.h"
for help in --help -h help; do
    run 0 $help && grep -q '^usage: causvid COMMAND' out &&
        ! grep -q '.\{80\}' out &&
        grep -q '  info ' out && grep -q '  trace ' out &&
        grep -q '  bench ' out && [ ! -s err ]
    check "$help lists the commands"
done
run 2 && grep -q '^usage: ' err && [ ! -s out ]
check "without arguments, usage on standard error"
for command in info trace bench; do
    run 0 $command --help && grep -q "^usage: causvid $command" out &&
        ! grep -q '.\{80\}' out &&
        [ ! -s err ]
    check "$command --help"
    cp out long
    run 0 $command -h && cmp -s out long
    check "$command -h is the same"
    # in its own section, or in that for all commands
    sed -n "/^\.SS causvid $command/,/^\.SS/p; /^\.SS All/,/^\.SH/p" \
        "$src/docs/causvid.1" | sed 's/\\-/-/g' > page
    missing=$(grep -o -e '--[a-z_]*' out | sort -u | while read -r option; do
        grep -q -e "$option\>" page || echo "$option"
    done)
    [ -z "$missing" ]
    check "the man page has every option of it $missing"
    refused 2 "$command with an unknown option" "unknown option '--colour'" \
        $command --colour red
    refused 2 "$command with a dash" "unknown option '-'" $command -
    refused 2 "$command --verbos" "unknown option '--verbos'" $command --verbos
done
refused 2 "an unknown command" "unknown command 'paint'.*--help" paint
refused 2 "an empty command" "unknown command ''" ""
refused 2 "an option as command" "unknown command '--info'" --info
refused 2 "info of two models" "unexpected argument 'b'; --help says" info a b
refused 2 "trace with an operand" "unexpected argument 'a'" trace a
refused 2 "an option without its value" "'--size' needs a value" info --size
refused 2 "an option with an empty value" "--size is '', expected" info --size=
refused 2 "a flag with a value" "'--json' takes no value" info --json=yes
refused 2 "a longer name" "unknown option '--sizes=1x1'" info --sizes=1x1
refused 2 "a shorter name" "unknown option '--siz=1x1'" info --siz=1x1

# --------------------------------------------------------------------- info

run 0 info "$model" && [ ! -s err ] && grep -q '^name  *model (causal)' out &&
    grep -q 'width 32, 2 heads of 16' out && grep -q '41 pieces' out &&
    grep -q '48x16, 33 frames' out && grep -q 'sampler causvid, 3 steps' out &&
    grep -q 'timesteps 1000 757 522' out && grep -Eq '^memory  *[0-9]+ MB' out
check "info describes a model"
run 0 info -v "$model" && grep -q 'tensors in 1 file' err &&
    grep -q '^memory' out
check "info -v says which files it opens"

# json EXPRESSION: true of the JSON in out, as $j
json() {
    perl -MJSON::PP -e '
        local $/;
        my $j = decode_json(<STDIN>);
        exit !eval $ARGV[0];' -- "$1" < out
}
run 0 info --json "$model" && [ ! -s err ] && json '
    $j->{name} eq "model" && $j->{variant} eq "causal" &&
    $j->{width} == 48 && $j->{height} == 16 && $j->{frames} == 33 &&
    $j->{rate} == 16 && $j->{steps} == 3 && $j->{shift} == 8 &&
    $j->{guidance} == 1 && $j->{sampler} eq "causvid" &&
    join(" ", @{$j->{timesteps}}) eq "1000 757 522" &&
    $j->{frames_per_block} == 3 && $j->{window} == 6 &&
    $j->{tokenizer_pieces} == 41 && $j->{recipe_source} eq "recipe.json" &&
    $j->{weights_mb} > 0.3 && $j->{weights_mb} < 1 && $j->{clip_mb} > 0'
check "info --json"
json '
    $j->{variant_why} eq "recipe.json says so" && $j->{kind} eq "t2v" &&
    $j->{licence} =~ /^not known/ && $j->{family} eq "" &&
    $j->{layers} == 2 && $j->{dim} == 32 && $j->{heads} == 2 &&
    $j->{ffn_dim} == 56 && $j->{in_channels} == 16 &&
    join(" ", map { $_->{part} } @{$j->{parts}}) eq
        "transformer text_encoder vae tokenizer" &&
    !(grep { $_->{container} ne "safetensors" || $_->{files} != 1 ||
             $_->{names} ne "diffusers" || $_->{bytes} < 40000 ||
             $_->{types}{F32}{tensors} != $_->{tensors} ||
             $_->{types}{F32}{bytes} != $_->{bytes} } @{$j->{parts}}[0 .. 2]) &&
    $j->{parts}[1]{found} eq "in the model\x27s folder" &&
    $j->{parts}[3]{path} =~ /spiece.model$/'
check "info --json: the files"
latin=$(printf 'caf\351')
cp -R "$model" "$latin"
run 0 info --json "$latin" && json '$j->{model} eq "caf?"'
check "info --json is UTF-8 whatever a path is"
run 0 info --json "$model"
small=$(perl -MJSON::PP -e 'local $/; print decode_json(<>)->{clip_mb}' out)
run 0 info --json --size 832x480 --frames 81 "$model" && json "
    \$j->{width} == 832 && \$j->{height} == 480 && \$j->{frames} == 81 &&
    \$j->{clip_mb} > 50 * $small"
check "info --size and --frames plan the memory of another clip"
cp out long
run 0 info --json --size=832x480 --frames=81 "$model" && cmp -s out long
check "a value behind ="
run 0 info --frames 1 "$model" && grep -q 'for 48x16, 1 frames' out
check "info --frames alone"
run 0 info --text_encoder "$model/text_encoder" --vae "$model/vae" \
    --tokenizer "$model/tokenizer/spiece.model" \
    "$model/transformer/diffusion_pytorch_model.safetensors" &&
    grep -q '41 pieces' out && [ ! -s err ] &&
    [ "$(grep -c '(named by an option)$' out)" = 3 ]
check "info of parts"
lora=$src/tests/model/fixtures/lora/kijai.safetensors
cp -R "$model" plain && chmod -R u+w plain && rm plain/recipe.json &&
    ln -s "$lora" a_causvid_lora.safetensors &&
    run 0 info --variant bidirectional --lora a_causvid_lora.safetensors=0.7 \
        plain && grep -q '^recipe .*Wan + CausVid LoRA' out
check "info with a LoRA that chooses the recipe"
run 1 info --lora "$lora" "$src/samples/shapes" &&
    grep -q "use a LoRA for a model of this size" err
check "info with a LoRA of another width"
run 0 info && grep -q '^licence  *BSD-2-Clause$' out &&
    grep -q '^variant  *causal: recipe.json says so$' out &&
    grep -q "^  *safetensors, diffusers names, 177 tensors: 177 BF16 (14.0" \
        out && [ ! -s err ]
check "info of the sample model's files"
mkdir -p Self-Forcing/checkpoints
cp "$src/tests/model/fixtures/dit/head128/diffusion_pytorch_model.safetensors" \
    Self-Forcing/checkpoints/any.safetensors
run 0 info --text_encoder "$model" --vae "$model" --size 48x16 --frames 9 \
    Self-Forcing/checkpoints/any.safetensors && [ ! -s err ] &&
    grep -q "^variant  *causal: 'Self-Forcing' says 'self-forcing'$" out &&
    grep -q "^licence  *see its authors' page$" out &&
    grep -q '^recipe  *from published, Self-Forcing: 832x480' out &&
    grep -q '^ *sampler causvid, 4 steps, shift 5, guidance 1$' out &&
    grep -q '^ *timesteps 1000 937.5 833.333 625$' out &&
    grep -q ' names, 42 tensors: .* BF16 (.* MB), .* F32 (' out
check "info of a checkpoint that its name tells"
run 0 info -v --text_encoder "$model" --vae "$model" --size 48x16 --frames 9 \
    Self-Forcing/checkpoints/any.safetensors && [ "$(grep -c \
    "recipe: Self-Forcing (causal), since 'Self-Forcing' says" err)" = 1 ]
check "a line says why"
mv Self-Forcing any
refused 1 "info of a checkpoint that nothing tells" \
    "whether this model is causal.*variant=causal or variant=bidirectional" \
    info --text_encoder "$model" --vae "$model" any/checkpoints/any.safetensors
run 0 info --text_encoder "$model" --vae "$model" --size 48x16 --frames 9 \
    --variant bidirectional any/checkpoints/any.safetensors &&
    grep -q '^variant  *bidirectional: the option variant says so$' out &&
    grep -q '^licence  *Apache-2.0$' out && [ ! -s err ]
check "info of it with --variant"
for size in 48 48x 48x16x 48x16,2 x16 big 99999999999x16 48x4294967312 ""; do
    refused 2 "--size '$size'" "--size is '$size', expected WxH" \
        info --size "$size" "$model"
done
refused 1 "an illegal size" "size 50x50.*multiples of 16.*48x48" \
    info --size 50x50 "$model"
refused 1 "a size of 0" "size 0x16.*16x16" info --size 0x16 "$model"
refused 1 "a negative size" "size -48x16" info --size -48x16 "$model"
for frames in 0 -1 x 5x 1e3 99999999999999999999 ""; do
    refused 2 "--frames '$frames'" "--frames is '$frames', expected a number" \
        info --frames "$frames" "$model"
done
refused 1 "a model that is not there" \
    "'/no/such/model' does not exist; expected" info /no/such/model
refused 1 "an empty name of a model" "model is empty" info ""
mkdir empty
refused 1 "an empty folder" "'empty' holds no transformer" info empty
refused 1 "a model that is no model" "holds no text encoder|no file of weights" \
    info "$src/tests/unit/cli.t"
refused 1 "a VAE that is not there" "vae '/no/vae' does not exist" \
    info --vae /no/vae "$model"
refused 1 "the wrong part" "holds a Wan VAE; expected a UMT5 text encoder" \
    info --text_encoder "$model/vae" "$model"
cp -r "$model" copy && chmod -R u+w copy && echo '{' > copy/recipe.json
refused 1 "a damaged recipe" "'copy/recipe.json' is damaged" info copy
if [ -c /dev/full ]; then
    "$causvid" info "$model" > /dev/full 2> err
    status=$?
    : > out
    [ $status = 1 ] && [ "$(wc -l < err)" = 1 ] &&
        grep -q 'standard output cannot be written: No space' err
    check "info with standard output on a full disk: $(cat err)"
fi

# ------------------------------------------------- models of random numbers

run 0 info --json random:wan-14b && [ ! -s err ] && json '
    $j->{name} eq "random:wan-14b" && $j->{variant} eq "bidirectional" &&
    $j->{steps} == 6 && $j->{sampler} eq "flowmatch_causvid" &&
    $j->{guidance} == 1 && $j->{width} == 832 && $j->{height} == 480 &&
    $j->{gpu_weights_mb} > 40000 && $j->{gpu_weights_mb} < 40200'
check "info of 14B random numbers"
run 0 info --json random:wan-14b-fp8 && [ ! -s err ] && json '
    $j->{gpu_weights_mb} > 21400 && $j->{gpu_weights_mb} < 21500 &&
    $j->{weights_mb} > 80000 && $j->{transformer} =~ /F8_E4M3/'
check "info of 14B in fp8: half on a GPU, the same on the CPU"
run 0 info --tokenizer "$model" --vae "$model/vae" random:tiny &&
    grep -q '41 pieces' out && grep -q 'random:tiny/text_encoder' out &&
    grep -q "^ *$model/vae/" out
check "info of random numbers with other parts"
refused 1 "an unknown one" "'random:huge'; expected random:wan-1.3b, " \
    info random:huge
refused 1 "a part of one" "'random:tiny/vae'; expected" info random:tiny/vae

# -------------------------------------------------------------------- bench

# measured: what the JSON in out has to agree with itself in
measured='$j->{runs} == $runs && $j->{load_s} > 0 && $j->{text_s} > 0 &&
    $j->{sampling_s} > 0 && $j->{vae_s} > 0 && $j->{pictures_s} > 0 &&
    $j->{cache_s} >= 0 && $j->{first_frame_s} > 0 &&
    $j->{undecoded_s} >= $j->{sampling_s_least} && $j->{tokens} > 1 &&
    $j->{precision} eq "fp32" &&
    $j->{last_frame_s} >= $j->{first_frame_s} &&
    $j->{continuous_s} >= $j->{last_frame_s} &&
    abs($j->{frames_per_s} * $j->{continuous_s} / $j->{frames} - 1) < 1e-6 &&
    $j->{predicted_gb} > 0 && $j->{measured_gb} > 0 &&
    $j->{denoised_s} >= $j->{sampling_s_least} &&
    $j->{process_s} > $j->{load_s} + $j->{warm_up_s} - 0.02 &&
    $j->{process_s} < $j->{load_s} + $j->{warm_up_s} + 20 &&
    $j->{product_tflops} > 0 && $j->{copy_tbs} > 0 &&
    abs($j->{work_tflop} / $j->{sampling_s} / $j->{sampling_tflops} - 1) <
        1e-6 && $j->{sampling_share} > 0 &&
    $j->{device} =~ /^cpu, / && $j->{commit} && $j->{processor} &&
    $j->{version} eq "'$version'"'
run 0 bench --device cpu --frames 9 --runs 1 --json && [ ! -s err ] &&
    [ "$(wc -l < out)" = 1 ] && json "my \$runs = 1; $measured"' &&
    $j->{frames} == 9 && $j->{causal} && $j->{width} == 160 &&
    $j->{command} eq "causvid bench --device cpu --frames 9 --runs 1 --json"'
check "bench of the sample model"
run 0 bench --device cpu --model random:tiny --runs 3 --json --size 32x48 \
    --frames 5 --steps 2 --prompt 'a cat' && json "my \$runs = 3; $measured"' &&
    $j->{width} == 32 && $j->{height} == 48 && $j->{frames} == 5 &&
    $j->{steps} == 2 && !$j->{causal} && $j->{model} eq "random:tiny" &&
    $j->{sampling_s_least} <= $j->{sampling_s} &&
    $j->{sampling_s} <= $j->{sampling_s_most} &&
    $j->{command} =~ /--prompt .a cat.$/ &&
    abs($j->{work_tflop} / 90243072e-12 - 1) < 1e-9' # by hand from the shapes
check "bench with options"
run 0 bench --device cpu --model random:tiny --variant causal --runs 1 &&
    grep -q '^model: random:tiny (causal)' out && [ ! -s err ] &&
    grep -Eq '^stage: cache passes +[0-9.]+ s$' out && ! grep -q ' $' out &&
    grep -Eq '^clip: 64x48, 33 frames, .* 1, a prompt of [0-9]+ tokens$' out
check "bench as text"
run 0 bench --device cpu --model random:tiny --frames 1 --runs 1 --markdown &&
    [ "$(grep -c '^|' out)" = 27 ] && [ "$(grep -c '^|--' out)" = 3 ] && ! grep '^|' out | grep -vq '|$'
check "bench as a table"
run 0 bench --device cpu --model random:tiny --frames 1 --runs 1 \
    --format markdown && [ "$(grep -c '^|' out)" = 27 ] &&
    run 0 bench --device cpu --model random:tiny --frames 1 --runs 1 \
        --format json && json "my \$runs = 1; $measured" &&
    run 0 bench --device cpu --model random:tiny --frames 1 --runs 1 \
        --format text && grep -q '^Headline$' out &&
    grep -q '^This machine$' out && ! grep -q published out
check "bench --format"
# loads: what the JSON of --load has to agree with itself in
loads='my ($sum, @parts) = ($j->{sum}, @{$j->{parts}});
    my %total;
    for my $part (@parts) {
        $total{$_} += $part->{$_} for keys %$sum;
    }
    join(" ", map { $_->{part} } @parts) eq "text_encoder transformer vae" &&
    !(grep { !($_->{first_cached} >= 0 && $_->{first_cached} <= 1) } @parts) &&
    $j->{memory_most} >= $j->{memory_before} && $j->{memory_before} > 0 &&
    !(grep { $_->{bytes} != $_->{loaded_bytes} || $_->{first_s} <= 0 ||
             abs($_->{loaded_bytes} / 1e9 / $_->{first_s} /
                 $_->{first_gb_per_s} - 1) > 1e-6 } @parts, {%$sum,
             bytes => $sum->{loaded_bytes}}) &&
    $total{loaded_bytes} == $sum->{loaded_bytes} &&
    abs($total{first_s} / $sum->{first_s} - 1) < 1e-6 &&
    $j->{opening}{first_s} > 0 && $j->{resident_bytes} > 0 &&
    !$j->{streamed} && $j->{device} =~ /^cpu, / && $j->{runs} == $runs'
run 0 bench --load --json --device cpu --model "$model" && [ ! -s err ] &&
    [ "$(wc -l < out)" = 1 ] && json "my \$runs = 3; $loads"' &&
    !(grep { $_->{median_s} <= 0 || $_->{gb_per_s} <= 0 } @parts, $sum) &&
    $parts[1]{container} eq "safetensors" && $j->{command} =~ /--load/'
check "bench --load loads three times"
bytes=$(perl -MJSON::PP -e 'local $/; print decode_json(<>)->{parts}[0]{bytes}' \
    out)
[ "$bytes" -gt 40000 ] && [ "$bytes" -lt \
    "$(wc -c < "$model/text_encoder/model.safetensors")" ]
check "of $bytes bytes of a text encoder"
run 0 bench --load --json --runs 1 --device cpu --model "$model" &&
    json "my \$runs = 1; $loads"' && !exists $sum->{median_s} &&
    !exists $j->{opening}{median_s}'
check "bench --load --runs 1 has no median"
run 0 bench --load --runs 2 --device cpu && [ ! -s err ] &&
    [ "$(grep -Ec '^(text encoder|transformer|VAE|all parts) +[0-9.]+ GB +[0-9.]+ s +[0-9.]+ GB/s +[0-9.]+ s +[0-9.]+ GB/s$' \
    out)" = 4 ] && grep -Eq '^opening +[0-9.]+ s +[0-9.]+ s$' out &&
    ! grep -q ' $' out && grep -q 'the second time' out &&
    [ "$(grep -Ec "^in the system's cache before the (first|last) time: text encoder [0-9]+ %, transformer [0-9]+ %, VAE [0-9]+ %$" \
    out)" = 2 ] && grep -Eq '^memory of the process without files: [0-9.]+ MB before the parts, [0-9.]+ MB at most while loading$' out
check "bench --load as text"
run 0 bench --load --cold --runs 1 --device cpu && [ ! -s err ] &&
    grep -q "^in the system's cache before the first time" out
check "bench --load --cold"
run 0 bench --load --runs 1 --device cpu --model random:tiny &&
    ! grep -q "system's cache" out
check "bench --load of no files"
refused 2 "bench --cold alone" "--cold is for --load" bench --cold
refused 1 "bench --load of a model that is not there" "'/no/model' does not exist" \
    bench --load --device cpu --model /no/model
refused 2 "bench --load --markdown" "prints no --markdown" \
    bench --load --markdown
refused 2 "bench of an operand" "unexpected argument 'a'" bench a
refused 2 "two forms" "--json or --markdown, not both" bench --json --markdown
refused 2 "a form twice" "--format or its short form, not both" \
    bench --json --format text
refused 2 "no such form" "--format is 'xml', expected one of" \
    bench --format xml
refused 2 "0 runs" "--runs is '0', expected" bench --runs 0
refused 2 "no variant" "--variant is 'both', expected one of" \
    bench --variant both
refused 2 "no size" "--size is '5', expected WxH" bench --size 5
refused 2 "no sampler" "--sampler is 'ddim', expected one of" \
    bench --sampler ddim
refused 2 "no precision" "--precision is 'fp7', expected" bench --precision fp7
refused 2 "no device" "--device is 'tpu', expected one of" bench --device tpu
refused 1 "bf16 on the CPU" "precision=bf16 needs a CUDA device" \
    bench --device cpu --precision bf16
refused 1 "bench of an illegal size" "size 50x50.*48x48" \
    bench --device cpu --size 50x50
refused 1 "bench of a model that is not there" "'/no/model' does not exist" \
    bench --device cpu --model /no/model
refused 1 "bench of an empty prompt" "prompt is empty" \
    bench --device cpu --prompt ''

# -------------------------------------------------------------------- trace

prompt=token_ids:I64:3:4
noise=noise:F32:3,16,2,6:0.5
trace() { # STATUS NAME WORDS INPUTS [ARGUMENT...]
    expected=$1 name=$2 words=$3 inputs=$4
    shift 4
    refused "$expected" "$name" "$words" trace --model "$model" \
        --inputs "$inputs" --outputs out.st --threads 1 "$@"
    [ ! -e out.st ] && [ ! -e out.st.part ] || {
        echo "not ok $((n = n + 1)) - $name: a file is left"
        failed=$((failed + 1))
        rm -f out.st out.st.part
    }
}

st in.st $prompt $noise
run 0 trace --model "$model" --inputs in.st --outputs out.st &&
    [ ! -s out ] && [ ! -s err ] && [ ! -e out.st.part ]
check "trace is quiet when all goes well"
[ "$(names out.st | tr '\n' ' ')" = "flow.0.0 flow.0.1 flow.0.2 frames \
latents text_embeds x0.0.0 x0.0.1 x0.0.2 " ]
check "trace writes what the documents say: $(names out.st | tr '\n' ' ')"
cp out.st first.st
run 0 trace --model "$model" --inputs in.st --outputs out.st --threads 2 &&
    cmp -s first.st out.st
check "again, over the file: the same bytes"
run 0 trace --model "$model" --inputs in.st --outputs out.st --steps 2 &&
    [ "$(names out.st | grep -c flow)" = 2 ]
check "trace --steps"
run 0 trace --model "$model" --inputs in.st --outputs out.st --sampler euler \
    --steps 5 && [ "$(names out.st | grep -c flow)" = 5 ]
check "trace --sampler"
run 0 trace -v --model "$model" --inputs in.st --outputs out.st && [ -s err ]
check "trace -v says what is done"
st embeds.st text_embeds:F32:5,24:0.25 $noise
run 0 trace --model "$model" --inputs embeds.st --outputs out.st
check "trace of text embeddings"
rm -f out.st

refused 2 "trace without files" "needs --inputs and --outputs" trace
refused 2 "trace without outputs" "needs --inputs and --outputs" \
    trace --inputs in.st
trace 2 "0 steps" "--steps is '0', expected" in.st --steps 0
trace 2 "no number of threads" "--threads is 'all'" in.st --threads all
trace 2 "an unknown sampler" "--sampler is 'ddim', expected causvid" in.st \
    --sampler ddim
trace 1 "more steps than the recipe's list has" "steps: 9.*3" in.st --steps 9
trace 1 "inputs that are not there" "none.st' cannot be opened: No such" none.st
trace 1 "inputs that are no file" "empty'.*no .*safetensors" empty
trace 1 "inputs that are no safetensors" "cli.t' is no file of weights" \
    "$src/tests/unit/cli.t"
head -c 100 in.st > cut.st
trace 1 "inputs that are cut off" "cut.st' is cut off" cut.st
refused 1 "a model that is not there" "/no/model' does not exist" \
    trace --model /no/model --inputs in.st --outputs out.st

st bad.st $prompt
trace 1 "no noise" "bad.st' has no tensor 'noise'" bad.st
st bad.st $noise
trace 1 "no prompt" "bad.st' has no tensor 'token_ids|text_embeds'" bad.st
st bad.st $prompt noise:F32:3,8,2,6:0.5
trace 1 "noise of another number of channels" \
    "noise' is F32 \[3, 8, 2, 6\].*expected" bad.st
st bad.st $prompt noise:F32:16,2,6:0.5
trace 1 "noise with a dimension missing" "noise' is F32 \[16, 2, 6\]" bad.st
st bad.st $prompt noise:I64:3,16,2,6:1
trace 1 "noise of a wrong type" "noise' is I64.*expected F32" bad.st
st bad.st $prompt noise:F32:0,16,2,6:1
trace 1 "noise without a frame" "noise' is F32 \[0, 16, 2, 6\]" bad.st
st bad.st $prompt noise:F32:4,16,2,6:0.5
trace 1 "noise of a part of a block" "4 latent frames.*multiple of 3" bad.st
st bad.st $prompt noise:F32:3,16,3,6:0.5
trace 1 "noise of an illegal size" "size 48x24.*48x" bad.st
st bad.st $prompt noise:F32:3,16,2,6:nan
trace 1 "noise that is no number" "noise.*not a number" bad.st
st bad.st $prompt noise:F32:3,16,2,6:inf
trace 1 "noise that is infinite" "noise.*not a number|infinite" bad.st
st bad.st $prompt $noise renoise.0.1:F32:3,16,2,5:0
trace 1 "fresh noise of a wrong shape" \
    "renoise.0.1' is F32 \[3, 16, 2, 5\].*expected" bad.st
st bad.st $prompt $noise renoise.0.2:F32:3,16,2,6:nan
trace 1 "fresh noise that is no number" "noise.*not a number" bad.st
st bad.st token_ids:I64:3:41 $noise
trace 1 "a token beyond the vocabulary" "token_ids\[0\] is 41, expected 0 to 40" \
    bad.st
st bad.st token_ids:I64:3:-1 $noise
trace 1 "a negative token" "token_ids\[0\] is -1, expected 0 to 40" bad.st
st bad.st token_ids:F32:3:1 $noise
trace 1 "tokens of a wrong type" "token_ids is F32 \[3\], expected I64" bad.st
st bad.st token_ids:I64:0:1 $noise
trace 1 "no tokens" "token_ids is I64 \[0\], expected I64 \[n\]" bad.st
st bad.st token_ids:I64:513:1 $noise
trace 1 "513 tokens" "token_ids is I64 \[513\].*512" bad.st
st bad.st text_embeds:F32:5,25:0 $noise
trace 1 "embeddings of another width" "text_embeds' is F32 \[5, 25\]" bad.st
st bad.st text_embeds:F32:513,24:0 $noise
trace 1 "513 embeddings" "text_embeds has 513 rows, expected at most 512" bad.st
st bad.st text_embeds:F32:5,24:nan $noise
trace 1 "embeddings that are no numbers" "text_embeds.*not a number" bad.st

# ------------------------------------------------- outputs that cannot be had

# blocked NAME WORDS OUTPUT
blocked() {
    refused 1 "$1" "$2" trace --model "$model" --inputs in.st --outputs "$3"
    [ ! -e "$3.part" ]
    check "and no part of a file is left"
}
blocked "outputs in a folder that is not there" \
    "no/out.st' cannot be written: No such" no/out.st
blocked "a folder as outputs" "empty' cannot be written: Is a directory" empty
blocked "outputs below a file" "in.st/out.st' cannot be written: Not a dir" \
    in.st/out.st
long=$(printf '%0300d' 0)
blocked "outputs with too long a name" "cannot be written: File name too long" \
    "$long"
if [ -c /dev/full ]; then
    before=$(ls -l /dev/full)
    ln -s /dev/full full
    blocked "outputs on a full device" "full' could not be written.*No space" full
    [ "$(ls -l /dev/full)" = "$before" ] && [ -L full ]
    check "the device is still there"
    ln -s /dev/null null
    run 0 trace --model "$model" --inputs in.st --outputs null && [ -L null ] &&
        [ -c /dev/null ]
    check "/dev/null is written, not replaced"
fi
echo kept > out.st
(trap '' XFSZ; ulimit -f 8; run 1 trace --model "$model" --inputs in.st \
    --outputs out.st && grep -q "could not be written" err)
check "outputs larger than what may be written: $(cat err)"
[ "$(cat out.st)" = kept ] && [ ! -e out.st.part ]
check "leaves the file that was there, and no part"

finish
