#!/bin/bash
# Which lines of the trees, the space map, the log and the engine the explorer and the model never reach, with nothing else to help them.
#
# SNAPDISK_STATES and SNAPDISK_MODEL_CASES say how long they run. Needs cargo-llvm-cov and the toolchain's llvm-tools. docs/reliability.md
# judges the lines that are left.
set -euo pipefail
cd "$(dirname "$0")/.."
export SNAPDISK_STATES=${SNAPDISK_STATES:-100000} SNAPDISK_MODEL_CASES=${SNAPDISK_MODEL_CASES:-2000}
report=$(mktemp)
trap 'rm -f "$report"' EXIT

cargo llvm-cov clean --workspace
cargo llvm-cov --all-features --test it --no-report -- explorer:: model::
cargo llvm-cov report --lcov --output-path "$report" >/dev/null

# For each file the lines that count, those that were reached, and the ranges of those that were not.
awk -F'[:,]' '
    function flush_range() {
        if (first) ranges = ranges " " (first == last ? first : first "-" last)
        first = 0
    }
    /^SF:/ { file = $2; sub(".*/src/", "src/", file); ours = file ~ "^src/(tree|space|log|engine)/" && file !~ "tests"; all = hit = first = 0; ranges = "" }
    !ours { next }
    /^DA:/ {
        all++
        if ($3 > 0) { hit++; flush_range() } else { if (!first) first = $2; last = $2 }
    }
    /^end_of_record/ {
        flush_range()
        total += all; reached += hit
        printf "%-32s %4d of %4d%s\n", file, hit, all, ranges == "" ? "" : ", never" ranges
    }
    END { printf "%d of %d lines, %.1f %%\n", reached, total, 100 * reached / total }
' "$report"
