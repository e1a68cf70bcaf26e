#!/usr/bin/env python3
"""Counts the instructions of single operations with callgrind, and holds them to the budgets in benches/instructions.tsv.

    python3 benches/instructions.py [--renew]

An operation may take 3 % more instructions than its budget says; where the compiler is another one than the budgets are of, 10 %. --renew
writes what was counted as the new budgets. Exit status 1: an operation takes more, or could not be counted. Without valgrind, or on a
processor of another kind, nothing is counted, the script says so, and the exit status is 0.
"""

import argparse
import json
import os
import pathlib
import platform
import re
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
BUDGETS = ROOT / "benches/instructions.tsv"
OPERATIONS = ["lookup", "lookup_again", "insert", "shadow", "allocate", "append"]
# The C library has a memcpy for each kind of processor, and some copy by an instruction that callgrind counts once for each byte. These
# settings leave the one that every x86-64 has, whatever the sizes of the caches.
TUNABLES = "glibc.cpu.hwcaps=-AVX_Fast_Unaligned_Load,-AVX2,-AVX512VL,-ERMS,-FSRM,-EVEX:glibc.cpu.x86_non_temporal_threshold=0x1000000"


def run(command, **how):
    return subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, **how)


def why_not():
    """Why nothing can be counted here, if so."""
    if not shutil.which("valgrind"):
        return "valgrind is missing"
    flags = re.search(r"^flags\s*:(.*)$", pathlib.Path("/proc/cpuinfo").read_text(), re.M)
    if platform.machine() != "x86_64" or not {"avx2", "pclmulqdq"} <= set(flags[1].split() if flags else []):
        return "the budgets are of an x86-64 processor with AVX2, which this is not"
    return None


def compiler():
    return run(["rustc", "--version"], check=True).stdout.split("(")[0].strip()


def executable():
    """Builds the benchmark and returns its path."""
    done = run(["cargo", "bench", "--quiet", "--no-run", "--bench", "instructions", "--message-format=json"])
    made = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    paths = [m["executable"] for m in made if m.get("executable") and m["target"]["name"] == "instructions"]
    if done.returncode or not paths:
        sys.exit("error: the benchmark `instructions` does not build")
    return paths[0]


def count(path, operation):
    """Instructions of one operation."""
    command = ["valgrind", "--tool=callgrind", "--collect-atstart=no", "--toggle-collect=*instructions::measured*"]
    command += ["--callgrind-out-file=/dev/null", path, operation]
    done = run(command, stderr=subprocess.PIPE, env=os.environ | {"GLIBC_TUNABLES": TUNABLES})
    collected = re.search(r"Collected : (\d+)", done.stderr)
    if done.returncode or not collected or collected[1] == "0":
        sys.exit(f"error: {operation} was not counted: {' '.join(command)} ended with {done.returncode}\n{done.stderr}")
    return round(int(collected[1]) / int(done.stdout))


def budgets():
    """The compiler that the budgets are of, and the budgets by operation."""
    lines = BUDGETS.read_text().splitlines()
    return lines[0].removeprefix("# "), {name: int(n) for name, n in (line.split("\t") for line in lines[1:])}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--renew", action="store_true", help="write what is counted as the new budgets")
    renew = parser.parse_args().renew
    if reason := why_not():
        print(f"instruction counts: not run: {reason}")
        return
    path, own = executable(), compiler()
    counts = {operation: count(path, operation) for operation in OPERATIONS}
    if renew:
        BUDGETS.write_text(f"# {own}\n" + "".join(f"{name}\t{n}\n" for name, n in counts.items()))
        print(BUDGETS.read_text(), end="")
        return
    theirs, budget = budgets()
    percent = 3 if own == theirs else 10
    if own != theirs:
        print(f"the budgets are of {theirs}, and this is {own}: {percent} % are allowed; --renew makes budgets of this one")
    bad = []
    for name, n in counts.items():
        most = budget.get(name)
        change = f"{(n / most - 1) * 100:+.1f} %" if most else "no budget"
        print(f"{name:<14} {n:>9} instructions, budget {most or '-':>9}: {change}")
        if not most or n > most * (1 + percent / 100):
            bad.append(name)
    if bad:
        sys.exit(f"error: beyond the budget by more than {percent} %: {', '.join(bad)}")


if __name__ == "__main__":
    main()
