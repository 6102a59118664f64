#!/bin/sh
# The suite of benchmarks, with tiny random models on the CPU: what it writes,
# and its exit status. No figure is judged.
#
# SPDX-License-Identifier: BSD-2-Clause

. "$(dirname "$0")/../tap.sh"
said=out
python=${PYTHON:-python3}

if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 8))' \
        > /dev/null 2>&1; then
    echo "1..0 # SKIP there is no Python 3.8"
    exit 0
fi

export PYTHONDONTWRITEBYTECODE=1

# suite STATUS ARGUMENT...: run it; 0 when it exits so
suite() {
    expected=$1
    shift
    "$python" "$src/tests/bench/suite.py" --causvid "$causvid" --device cpu \
        --set tiny --peer none --targets targets --out results "$@" \
        > out 2>&1
    got=$?
    [ $got = "$expected" ] || { echo "# exit $got, not $expected"; return 1; }
}

# has PATTERN...: each is in what was printed
has() {
    for pattern; do
        grep -Eq -e "$pattern" out || { echo "# no $pattern"; return 1; }
    done
}

# With tabs; the first is reached by anything, the second by nothing, the third
# is of another device, the fourth of a case that is not run.
make_targets() {
    printf '%s\t' what gpu model precision steps size vram key bar value unit
    echo source
    while read -r row; do
        echo "$row" | tr '|' '\t'
    done
}
make_targets > targets <<'END'
runs|cpu|tiny-causal|fp32|3|tiny|-|frames_per_s|>=|0.000001|frames/s|test
END
mkdir results

suite 0 --only "3 steps" && has '^cpu|device: cpu, ' \
    '^runs +tiny-causal fp32 3 steps tiny +>= 0.000001 frames/s .* pass +[0-9]+ % +test$' \
    '^tiny-causal fp32 3 steps small +[0-9.]+ s .* [0-9]+ %$' \
    '^tiny fp8 3 steps tiny: SKIP, causvid: .*precision' \
    '^4 cases measured, 0 failed, 0 targets missed; '
check "cases of three steps: measured, one skipped, the target reached"

"$python" - <<'END' > out 2>&1
import json
lines = [json.loads(line) for line in open("results/results.jsonl")]
assert len(lines) == 5
measured = [line for line in lines if "bench" in line]
assert sorted((l["model"], l["size"]) for l in measured) == [
    ("tiny", "small"), ("tiny", "tiny"), ("tiny-causal", "small"),
    ("tiny-causal", "tiny")]
for line in measured:
    b = line["bench"]
    assert b["causal"] == (line["model"] == "tiny-causal")
    assert (b["steps"], b["frames"], b["runs"]) == (3, 9, line["runs"])
    assert min(b["denoised_s"], b["last_frame_s"], b["continuous_s"],
               b["process_s"], b["measured_gb"]) > 0
    assert (b["width"], b["height"]) == (
        (64, 48) if line["size"] == "tiny" else (96, 64))
assert [l["precision"] for l in lines if "skipped" in l] == ["fp8"]
END
check "a line of JSON for each case"

grep -q '^| runs | tiny-causal .* | pass | [0-9]* % | test |$' results/report.md &&
    [ "$(grep -c '^|' results/report.md)" = 9 ] &&
    ! grep '^|' results/report.md | grep -vq '|$'
check "the tables as Markdown"

"$python" - <<'END' > out 2>&1
from xml.etree import ElementTree
root = ElementTree.parse("results/chart.svg").getroot()
width, height = float(root.get("width")), float(root.get("height"))
tag = lambda name: root.findall("{http://www.w3.org/2000/svg}" + name)
assert len(tag("polyline")) == 4 and len(tag("circle")) == 4
assert len(tag("rect")) == 5 # and the paper
words = [t.text for t in tag("text")]
assert any(w.startswith("tiny-causal fp32, small: ") for w in words)
for t in tag("text") + tag("circle"):
    x, y = (float(t.get(k) or t.get("c" + k)) for k in "xy")
    assert 0 <= x <= width and 0 <= y <= height, t.text
END
check "the chart"

suite 0 --resume --only "steps tiny" && has '^8 cases' &&
    [ "$(grep -c '"bench"' results/results.jsonl)" = 8 ] &&
    [ "$(grep '"bench"' results/results.jsonl | grep -c '"size": "small"')" \
        = 2 ] && [ "$(grep -c skipped results/results.jsonl)" = 1 ]
check "--resume measures what is missing"

make_targets > targets <<'END'
never|cpu|tiny|fp32|6|tiny|-|denoised_s|<=|0|s|test
other|No GPU|tiny|fp32|6|tiny|-|denoised_s|<=|0|s|test
refused|cpu|tiny|fp8|3|tiny|-|denoised_s|<=|1|s|test
not run|cpu|tiny|fp32|7|tiny|-|denoised_s|<=|1|s|test
END
suite 1 --report && has '^never .* FALLS SHORT +[0-9]+ % +test$' ' 1 targets missed' \
    '^refused .* - +not measured +- +test$' \
    '^  tiny fp8 3 steps tiny: causvid: .*precision' \
    '^not run .* - +not measured +- +test$' && ! grep -q '^other' out &&
    [ "$(grep -c '"bench"' results/results.jsonl)" = 8 ]
check "--report: a target that is missed, some that cannot be told"

suite 1 --budget 0.000000001 && has 'SKIP, it would not fit into the budget' \
    '^0 cases measured'
check "--budget: nothing fits"

"$python" "$src/tests/bench/suite.py" --causvid ./no-program --device cpu \
    --set tiny --peer none --targets targets --out results \
    --only "tiny fp32 3 steps tiny" > out 2>&1
[ $? = 1 ] && has 'FAILED' '^0 cases measured, [1-9]'
check "a program that does not run"

# The targets that are used: every row belongs to a case, every key exists.
make_targets > targets < /dev/null
suite 0 --only "tiny fp32 3 steps tiny" &&
    PYTHONPATH=$src/tests/bench "$python" - "$src" <<'END' > out 2>&1
import json, sys
import suite
keys = ("model", "precision", "steps", "size", "vram")
line = [json.loads(l) for l in open("results/results.jsonl")][0]
files = {"file-14b": "x", "file-14b-fp8": "y"}
for which in ("short", "full"):
    cases = list(suite.cases_of(which, files))
    for t in suite.read_targets(sys.argv[1] + "/tests/bench/targets.tsv"):
        assert any(all(str(c[k]) == t[k] for k in keys) for c in cases), t
        assert t["key"] in line["bench"], t["key"]
        assert t["bar"] in ("<=", ">=") and float(t["value"]) > 0
# A step of 14B as docs/benchmarks.md counts it, a pass of the causal 1.3B.
step = suite.work(suite.case("wan-14b", "bf16", 1, "480p"))
assert abs(step / 1676e12 - 1) < 0.01, step
clip = suite.work(suite.case("wan-1.3b-causal", "bf16", 3, "480p"))
assert abs(clip / 792e12 - 1) < 0.01, clip
END
check "the project's targets belong to cases"

# What kernels.py reads.
"${CAUSVID_BUILD:-$src/build}/tests/ops/test_ops" --bench --json --threads 1 \
    --op to_picture > out && "$python" - <<'END'
import json
rows = [json.loads(line) for line in open("out")]
assert [r["op"] for r in rows] == ["product", "copy", "to_picture",
                                   "to_picture"]
assert rows[0]["shape"] == "1024 x 1024 x 1024" and rows[0]["share"] == 1
assert rows[0]["work"] == 2147483650 # nine digits of 2 * 1024^3
assert all(r["seconds"] > 0 and r["backend"] == "cpu" for r in rows)
END
check "operations as lines of JSON"

finish
