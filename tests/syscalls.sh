#!/bin/bash
# The system calls of each phase of a store's life, as a table for docs/embedding.md: made with strace from tests/syscalls/driver.rs.
# Prints the table; with --check it compares the table in the document and fails where a call is missing there.
set -euo pipefail
cd "$(dirname "$0")/.."
if ! command -v strace >/dev/null; then
    echo "strace is missing: the system calls are not traced" >&2
    exit 0
fi
cargo build --quiet --example syscalls
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
mkdir "$dir/images"
if ! strace -f -qq -e signal=none -o "$dir/trace" "${CARGO_TARGET_DIR:-target}/debug/examples/syscalls" "$dir/images" 2>"$dir/said"; then
    if grep -q 'ptrace' "$dir/said"; then
        echo "strace may not trace here: $(head -1 "$dir/said")" >&2
        exit 0
    fi
    cat "$dir/said" >&2
    exit 1
fi
python3 - "$dir/trace" "${1:-}" <<'PY'
import re, sys

# What the allocator, the threads and the driver's own marks do at any time.
ALWAYS = "brk clone3 exit futex getpid gettid madvise mmap mprotect mremap munmap rseq rt_sigprocmask sched_getaffinity sched_yield set_robust_list sigaltstack write".split()
SIGN = re.compile(r"^\d+\s+(?:<\.\.\. )?([a-z_0-9]+)(?:\(| resumed)")
phases, phase = {}, None
for line in open(sys.argv[1]):
    mark = re.search(r'write\(2, "phase ([^"\\]*)', line)
    if mark:
        phase = None if mark[1] == "-" else mark[1]
        if phase:
            phases[phase] = set()
        continue
    call = SIGN.match(line)
    if phase and call and call[1] not in ALWAYS:
        phases[phase].add(call[1])
table = ["| phase | system calls |", "|---|---|"]
table += [f"| {name} | " + " ".join(f"`{c}`" for c in sorted(calls)) + " |" for name, calls in phases.items()]
print("\n".join(table))
if sys.argv[2] == "--check":
    page = open("docs/embedding.md").read()
    rows = dict(re.findall(r"^\| ([a-zA-Z_ ]+) \| ((?:`\w+` ?)+)\|$", page, re.M))
    missing = [f"{n}: {c}" for n, calls in phases.items() for c in sorted(calls) if f"`{c}`" not in rows.get(n, "")]
    if missing:
        sys.exit("docs/embedding.md lacks " + ", ".join(missing))
PY
