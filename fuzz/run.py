"""Runs the fuzz targets, each for so many minutes, and prints what came of it. `--planted` plants the bugs of `planted.toml` in a copy of
the source, as tests/mutants does, and runs each one's target until it finds it.

Exit status: 0 if nothing was found (with `--planted`: everything), 1 otherwise, 2 for wrong arguments.
"""

import argparse
import importlib.util
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

FUZZ = pathlib.Path(__file__).resolve().parent
TARGETS = ["open_plain", "open_resealed", "superblock", "counts", "nodes", "catalog", "log"]
# An input takes some milliseconds; ten seconds are a loop. Memory is bounded by the targets themselves; this bounds what libFuzzer adds.
LIMITS = ["-timeout=10", "-rss_limit_mb=512", "-max_len=96", "-len_control=0", "-print_final_stats=1"]


def build(fuzz):
    """Builds all targets of a source tree; gives where they are. Nothing but `src/io/map.rs` and hints is unsafe, and images here lie in
    memory: the address sanitizer would see nothing and take half of the time."""
    subprocess.run(["cargo", "+nightly", "fuzz", "build", "-s", "none"], cwd=fuzz.parent, check=True)
    return fuzz / "target" / "x86_64-unknown-linux-gnu" / "release"


def run(binary, target, corpus, seconds, env=None):
    """Runs a target until it finds something or the time is over. Gives its output and the seconds."""
    found = FUZZ / "artifacts" / target
    found.mkdir(parents=True, exist_ok=True)
    # What is new goes into the first directory.
    with tempfile.TemporaryFile() as log:
        began = time.monotonic()
        command = [binary, *LIMITS, f"-max_total_time={max(1, round(seconds))}", f"-artifact_prefix={found}/", *corpus]
        subprocess.run(command, cwd=FUZZ, env={**os.environ, **(env or {})}, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        took = time.monotonic() - began
        log.seek(0)
        return log.read().decode(errors="replace"), took


def last(pattern, text):
    """The last number that the pattern finds."""
    found = re.findall(pattern, text, re.M)
    return int(found[-1]) if found else 0


def failures(text):
    """What a run of a target found, in words."""
    named = re.findall(r"^(.*panicked at .*\n.*|==\d+== ?ERROR: .*|memory allocation of .*)$", text, re.M)
    return named if "Test unit written to" in text else []


def fuzz(minutes, targets):
    """Runs targets one after the other and prints a line for each."""
    binaries = build(FUZZ)
    failed = False
    print(f"{'target':<14} {'executions':>10} {'minutes':>8} {'edges':>6} {'features':>9} {'corpus':>6} {'failures':>8}", flush=True)
    for target in targets:
        corpus = FUZZ / "target" / "corpus" / target
        corpus.mkdir(parents=True, exist_ok=True)
        left, executions, took, text, found = minutes * 60, 0, 0, "", []
        # A failure ends a run of libFuzzer; the rest of the time may find others.
        while left > 2 or took == 0:
            text, seconds = run(binaries / target, target, [corpus, FUZZ / "corpus" / target], left, {"SNAPDISK_TALLY": "1"})
            left, took = left - seconds, took + seconds
            executions += last(r"stat::number_of_executed_units: (\d+)", text) or last(r"^#(\d+)\t", text)
            found += failures(text)[:1]
        edges, features, kept = (last(p, text) for p in (r" cov: (\d+)", r" ft: (\d+)", r" corp: (\d+)/"))
        print(f"{target:<14} {executions:>10} {took / 60:>8.1f} {edges:>6} {features:>9} {kept:>6} {len(found):>8}", flush=True)
        for line in tallies(text):
            print(f"    {line}")
        for what in dict.fromkeys(found):
            print("    " + what.replace("\n", "\n    "))
        failed |= bool(found)
    return 1 if failed else 0


def tallies(text):
    """What came of the images that were opened for writing, in percent."""
    total, counts = 0, {}
    for line in text.splitlines():
        if line.startswith("tally of"):
            total, counts = int(line.split()[2]), {}
        elif total and (m := re.match(r"tally +(\d+) (writable(?:, untrusted)?): (.*)", line)):
            counts[m[2], m[3]] = int(m[1])
    for mode in ("writable", "writable, untrusted"):
        opened = counts.get((mode, "opened"), 0)
        # Seven openings an image.
        if total:
            yield f"{mode}: {opened * 700 / total:.0f} % opened; most others: " + "; ".join(
                f"{n * 700 / total:.1f} % {what[:70]}"
                for (m, what), n in sorted(counts.items(), key=lambda c: -c[1])[:8]
                if m == mode and what != "opened"
            )


def planted(seconds, targets):
    """Runs the target of each planted bug until it finds the bug."""
    path = FUZZ.parent / "tests" / "mutants" / "run.py"
    spec = importlib.util.spec_from_file_location("mutants", path)
    mutants = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(mutants)
    mutants.LIST, mutants.HARNESSES = FUZZ / "planted.toml", dict.fromkeys(TARGETS)
    bugs = [b for b in mutants.read_list() if b["harness"] in targets]
    missed = 0
    for number, group in enumerate(mutants.batches(bugs)):
        copy = mutants.cargo_target() / "mutants" / f"fuzz{number}"
        mutants.write_copy(group, copy)
        binaries = build(copy / "fuzz")
        for bug in group:
            target = bug["harness"]
            # Only the seeds: regressions and a long run's corpus would make it easy.
            seeds = sorted((FUZZ / "corpus" / target).glob("seed-*"))
            with tempfile.TemporaryDirectory() as corpus:
                for seed in seeds:
                    (pathlib.Path(corpus) / seed.name).write_bytes(seed.read_bytes())
                text, took = run(binaries / target, target, [corpus], seconds, {"SNAPDISK_PLANTED": bug["name"]})
            found = failures(text)
            missed += not found
            by = found[0].splitlines()[-1][:100] if found else "NOT FOUND"
            executions = last(r"^#(\d+)", text)
            print(f"{target:<14} {bug['name']}: {executions} executions, {took:.0f} s: {by}", flush=True)
    return 1 if missed else 0


def minutes(text):
    number = float(text)
    if not 0 < number < 100_000:
        raise ValueError(text)
    return number


def main():
    parser = argparse.ArgumentParser(prog="fuzz/run.sh", description=__doc__.split("\n\n", 1)[0])
    parser.add_argument("minutes", type=minutes, metavar="MINUTES", help="for each target; with --planted, at most")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="; ".join(TARGETS) + "; all of them without")
    parser.add_argument("--planted", action="store_true", help="find the bugs of planted.toml")
    options = parser.parse_args()
    for target in options.targets:
        if target not in TARGETS:
            parser.error(f"no target is called {target}")
    targets = options.targets or TARGETS
    return planted(options.minutes * 60, targets) if options.planted else fuzz(options.minutes, targets)


if __name__ == "__main__":
    sys.exit(main())
