#!/usr/bin/env python3
"""Runs the benchmarks and prints one table in Markdown: each ratio with its target, and the machine that it is of.

    python3 benches/table.py [--bench NAME]... [--from FILE] [--keep FILE]
    python3 benches/table.py --peers [--from FILE] [--keep FILE]
    python3 benches/table.py --plots DIR [--plot NAME]...

--bench takes a benchmark alone (io, cold, beside, aging, metadata, open). --peers makes the table of benches/peers instead, where other
programs do the same work beside the store. --keep writes what the benchmarks printed to a file, and --from reads it from there instead of
running anything. --plots draws curves of growth as SVG instead of a table, from runs at several sizes; --plot takes one alone (size,
snapshots, open, commits, reclaim, aging). The environment variables of the benchmarks go through (SNAPDISK_BENCH_MIB,
SNAPDISK_BENCH_ROUNDS, SNAPDISK_BENCH_DIR and others). Exit status 1: a benchmark failed.
"""

import argparse
import os
import pathlib
import platform
import re
import subprocess
import sys

from chart import chart

ROOT = pathlib.Path(__file__).resolve().parents[1]
BENCHES = ["io", "cold", "beside", "aging", "metadata", "open"]
HEAD = re.compile(r"^(\S.*) \[(.*)\]$")
CELL = re.compile(r"^    (\S.*?) {2,}([0-9.]+)   \(([0-9.]+) \.\. ([0-9.]+)\)$")
RATIO = re.compile(r"^  = ([0-9.]+) +(.*)$")
TARGET = re.compile(r"(floor|target) (<=|>=|<|>) ([0-9.]+)")


def run(name, env=None):
    command = ["cargo", "bench", "--quiet", "--bench", name]
    if name == "peers":
        command += ["--manifest-path", "benches/peers/Cargo.toml"]
    print(f"running {' '.join(command)}", file=sys.stderr)
    done = subprocess.run(command, cwd=ROOT, env=os.environ | (env or {}), stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"error: {' '.join(command)} ended with {done.returncode}")
    return done.stdout


def first(path, default="unknown"):
    try:
        return pathlib.Path(path).read_text().strip()
    except OSError:
        return default


def machine():
    """What a ratio depends on: processor, kernel, filesystem with its journal, read-ahead."""
    cpu = re.search(r"model name\s*: (.*)", first("/proc/cpuinfo", "")) or re.search(r"(Hardware.*)", "Hardware unknown")
    flags = " with AVX-512" if " avx512f" in first("/proc/cpuinfo", "") else ""
    place = os.environ.get("SNAPDISK_BENCH_DIR", str(ROOT))
    found = subprocess.run(
        ["findmnt", "-no", "SOURCE,FSTYPE,OPTIONS", "-T", place], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ).stdout.split()
    source, fs = (found + ["unknown", "unknown"])[:2]
    device = re.sub(r"^/dev/", "", source)
    journal = "journal" if pathlib.Path(f"/proc/fs/jbd2/{device}-8").exists() else "no journal known"
    block = pathlib.Path(f"/sys/class/block/{device}")
    ahead = first(block / "queue/read_ahead_kb", "") or first(block / "../queue/read_ahead_kb")
    return (
        f"{cpu[1]}{flags}, {os.cpu_count()} processors; Linux {platform.release().split('-')[0]}; {fs}, {journal}; "
        f"read-ahead {ahead} KiB"
    )


def parse(text):
    """The rows of a benchmark's output: name, unit, cells, ratios."""
    rows = []
    for line in text.splitlines():
        if head := HEAD.match(line):
            rows.append((head[1], head[2], {}, []))
        elif rows and (cell := CELL.match(line)):
            rows[-1][2][cell[1]] = tuple(float(cell[i]) for i in (2, 3, 4))
        elif rows and (ratio := RATIO.match(line)):
            rows[-1][3].append((float(ratio[1]), ratio[2]))
    return rows


def is_met(value, meaning):
    """Whether the last target that a meaning names is met; `None` where there is none."""
    targets = TARGET.findall(meaning)
    if not targets:
        return None
    _, sign, bound = targets[-1]
    return value <= float(bound) if sign[0] == "<" else value >= float(bound)


def table(outputs):
    print("| work | ratio | measured | target met |\n|---|---|---|---|")
    for text in outputs:
        for name, _, _, ratios in parse(text):
            for value, meaning in ratios:
                met = {None: "", True: "yes", False: "no"}[is_met(value, meaning)]
                print(f"| {name} | {meaning} | {value:g} | {met} |")


RAW = ["raw, large folios", "raw, 4 KiB folios"]
USUAL = "snapdisk, default options"

# ---- peers

PEER = re.compile(r"^(raw, .* folios|snapdisk, .*?|imago .*?|redb|xfs reflink|btrfs reflink): (.*)$", re.M)


def peers(text):
    """A column for each peer, and how many times as good as others the store is: above 1 it is better, whether less or more is."""
    said = dict.fromkeys(PEER.findall(text))
    names = list(dict.fromkeys(name for name, _ in said))
    print("".join(f"* {name}: {what}\n" for name, what in said))
    print("| work | " + " | ".join(names) + " | against raw | against the best other |\n|" + "---|" * (len(names) + 3))
    for row, unit, columns, _ in parse(text):
        values = {name: columns[name][0] for name in names if name in columns}
        is_time = unit in ("ms", "us", "ns")
        own = values.get(USUAL)

        def against(others):
            others = [v for name, v in values.items() if name in others]
            if not own or not others:
                return ""
            return f"{min(others) / own:.2f}" if is_time else f"{own / max(others):.2f}"

        rest = [name for name in names if name not in (*RAW, USUAL)]
        cells = [f"{values[name]:g}" if name in values else "–" for name in names]
        print(f"| {row}, {unit} | " + " | ".join(cells) + f" | {against(RAW)} | {against(rest)} |")


# ---- plots

OPERATIONS = ["snapshot", "rollback", "clone", "delete snapshot", "delete clone"]
LITTLE = {"SNAPDISK_BENCH_GIB": "1", "SNAPDISK_BENCH_EXTENTS": "1000", "SNAPDISK_BENCH_SNAPSHOTS": "10"}


def cells(text):
    """Medians by row and column."""
    return {name: {column: samples[0] for column, samples in columns.items()} for name, _, columns, _ in parse(text)}


def grow(bench, variable, values, fixed, line):
    """Runs a benchmark once for each value of a variable. `line` makes a run's cells into points by name of the line."""
    lines = {}
    for value in values:
        for name, y in line(cells(run(bench, fixed | {variable: str(value)}))).items():
            lines.setdefault(name, []).append((value, y))
    return lines


def operations(column):
    raw = "raw 4 KiB pwrite + fdatasync"
    return lambda rows: {name: rows[name][column] for name in OPERATIONS} | {raw: rows[OPERATIONS[0]][raw]}


def plot_size(path):
    lines = grow("metadata", "SNAPDISK_BENCH_GIB", [1, 4, 16, 64, 256], LITTLE, operations("large"))
    chart(path, "One durable operation on a volume, by what is mapped", "GiB mapped", "microseconds, median", lines, log_x=True)


def plot_snapshots(path):
    values = [10, 100, 1000, 10_000, 100_000]
    lines = grow("metadata", "SNAPDISK_BENCH_SNAPSHOTS", values, LITTLE, operations("1 GiB, many snapshots"))
    chart(path, "One durable operation on a volume, by its snapshots", "snapshots", "microseconds, median", lines, log_x=True)


def plot_open(path):
    line = lambda rows: {name: rows[name]["large"] for name in ["open, closed", "open, crashed with a full log"]}
    fixed = {"SNAPDISK_BENCH_EXTENTS": "1000", "SNAPDISK_BENCH_ROUNDS": "3"}
    lines = grow("open", "SNAPDISK_BENCH_GIB", [1, 4, 16, 64], fixed, line)
    chart(path, "Opening an image, by what is mapped", "GiB mapped", "milliseconds, median", lines, log_x=True, log_y=True)


def plot_commits(path):
    """Blocks that commits write, each to a volume of its own up to sixteen of them."""
    rows = cells(run("io", {"SNAPDISK_BENCH_ROWS": "commits", "SNAPDISK_BENCH_MIB": "256", "SNAPDISK_BENCH_ROUNDS": "5"}))
    named = {n: f"{n} blocks, then flush" for n in (2, 8, 24, 32)} | {16: "16 blocks over 16 volumes, then flush"}
    raw = lambda row: min(row[column] for column in RAW)
    lines = {}
    for q in ("p50", "p99"):
        lines[f"snapdisk, {q}"] = [(n, rows[f"{named[n]}, {q}"][USUAL]) for n in sorted(named)]
        lines[f"raw, the faster folios, {q}"] = [(n, raw(rows[f"{named[n]}, {q}"])) for n in sorted(named)]
    chart(path, "A commit, by the blocks in it", "blocks of 4 KiB written before the flush", "microseconds", lines, log_x=True, log_y=True)


def plot_reclaim(path):
    """How long flushes of 64 blocks take while 1 GiB is reclaimed, and snapshots beside the writer."""
    text = run("beside")
    lines = {}
    for name, values in re.findall(r"^(.*), ms: (p50 .*)$", text, re.M):
        shares = re.findall(r"(p[0-9.]+|most) ([0-9.]+)", values)
        label = {"snapshot": "snapshot beside the writer", "flush alone": "flush of 64 blocks, alone"}
        lines[label.get(name, "flush of 64 blocks, beside reclaim")] = [(share, float(value)) for share, value in shares]
    chart(path, "Waits beside reclaim and beside a writer", "share of the waits that are no longer", "milliseconds", lines, log_y=True)


def plot_aging(path):
    rows = cells(run("aging"))
    names = [*RAW, USUAL, "snapdisk, slack(0)"]
    passes = [(int(m[1]), rows[m[0]]) for m in (re.match(r"overwritten (\d+) times before", row) for row in rows) if m]
    lines = {name: [(n, row[name]) for n, row in passes] for name in names}
    title = "4 KiB overwrites at random, a sync after every 1024, as the image ages"
    chart(path, title, "how often the whole volume was overwritten before", "thousand blocks a second", lines)


PLOTS = {
    "size": plot_size,
    "snapshots": plot_snapshots,
    "open": plot_open,
    "commits": plot_commits,
    "reclaim": plot_reclaim,
    "aging": plot_aging,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bench", action="append", choices=BENCHES, metavar="NAME")
    parser.add_argument("--from", dest="source", type=pathlib.Path, metavar="FILE")
    parser.add_argument("--keep", type=pathlib.Path, metavar="FILE")
    parser.add_argument("--peers", action="store_true")
    parser.add_argument("--plots", type=pathlib.Path, metavar="DIR")
    parser.add_argument("--plot", action="append", choices=PLOTS, metavar="NAME")
    options = parser.parse_args()
    print(f"{machine()}.\n")
    if options.plots:
        options.plots.mkdir(parents=True, exist_ok=True)
        for name in options.plot or PLOTS:
            PLOTS[name](options.plots / f"{name}.svg")
        return
    names = ["peers"] if options.peers else options.bench or BENCHES
    text = options.source.read_text() if options.source else "".join(run(name) for name in names)
    if options.keep:
        options.keep.write_text(text)
    peers(text) if options.peers else table([text])


if __name__ == "__main__":
    main()
