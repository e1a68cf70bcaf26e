#!/usr/bin/env python3
"""Runs the benchmarks and prints one table in Markdown: each ratio with its target, and the machine that it is of.

    python3 benches/table.py [--bench NAME]... [--from FILE] [--keep FILE] [--plots DIR]

--bench takes a benchmark alone (io, cold, beside, metadata, open); --keep writes what they printed to a file and --from reads it from
there instead of running anything. --plots has the metadata benchmark run at several sizes too and draws how the operations grow. The
environment variables of the benchmarks go through (SNAPDISK_BENCH_MIB, SNAPDISK_BENCH_ROUNDS, SNAPDISK_BENCH_DIR and others). Exit
status 1: a benchmark failed.
"""

import argparse
import os
import pathlib
import platform
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
BENCHES = ["io", "cold", "beside", "metadata", "open"]
HEAD = re.compile(r"^(\S.*) \[(.*)\]$")
CELL = re.compile(r"^    (\S.*?) {2,}([0-9.]+)   \(([0-9.]+) \.\. ([0-9.]+)\)$")
RATIO = re.compile(r"^  = ([0-9.]+) +(.*)$")
TARGET = re.compile(r"(floor|target) (<=|>=|<|>) ([0-9.]+)")


def run(name, env=None):
    command = ["cargo", "bench", "--quiet", "--bench", name]
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


# ---- plots

COLORS = ["#1f6feb", "#d1242f", "#1a7f37", "#9a6700", "#8250df"]


def svg(path, title, unit, xs, lines):
    """A line for each of `lines`, by name; both axes begin at their lowest value, the lower one at zero."""
    width, height, left, top, right, bottom = 640, 360, 60, 40, 170, 50
    high = max(max(ys) for ys in lines.values()) * 1.1
    x = lambda i: left + (width - left - right) * i / max(len(xs) - 1, 1)
    y = lambda v: height - bottom - (height - top - bottom) * v / high
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" font-size="12">',
        f'<rect width="100%" height="100%" fill="#fff"/><text x="{left}" y="22" font-size="14">{title}</text>',
    ]
    for k in range(5):
        v = high * k / 4
        out.append(f'<path d="M{left} {y(v):.1f}H{width - right}" stroke="#ddd"/>')
        out.append(f'<text x="{left - 6}" y="{y(v) + 4:.1f}" text-anchor="end">{v:.0f}</text>')
    for i, name in enumerate(xs):
        out.append(f'<text x="{x(i):.1f}" y="{height - bottom + 18}" text-anchor="middle">{name}</text>')
    out.append(f'<text x="{left}" y="{height - 10}">{unit}</text>')
    for color, (name, ys) in zip(COLORS, lines.items()):
        points = " ".join(f"{x(i):.1f},{y(v):.1f}" for i, v in enumerate(ys))
        out.append(f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="2"/>')
        out.append(f'<text x="{x(len(ys) - 1) + 8:.1f}" y="{y(ys[-1]) + 4:.1f}" fill="{color}">{name}</text>')
    path.write_text("\n".join(out + ["</svg>", ""]))


def plots(directory):
    directory.mkdir(parents=True, exist_ok=True)
    operations = ["snapshot", "rollback", "clone", "delete snapshot", "delete clone"]

    def grow(name, title, unit, variable, values, column, fixed):
        xs, lines = [], {operation: [] for operation in operations}
        for value in values:
            rows = {r[0]: r[2] for r in parse(run("metadata", fixed | {variable: str(value)}))}
            xs.append(f"{value:,}")
            for operation in operations:
                lines[operation].append(rows[operation][column][0])
        svg(directory / f"{name}.svg", title, unit, xs, lines)

    little = {"SNAPDISK_BENCH_GIB": "1", "SNAPDISK_BENCH_EXTENTS": "1000", "SNAPDISK_BENCH_SNAPSHOTS": "10"}
    grow("size", "One operation, microseconds, by GiB mapped", "GiB mapped", "SNAPDISK_BENCH_GIB", [1, 4, 16, 64], "large", little)
    grow(
        "snapshots",
        "One operation, microseconds, by snapshots of the volume",
        "snapshots",
        "SNAPDISK_BENCH_SNAPSHOTS",
        [10, 1000, 10_000, 100_000],
        "1 GiB, many snapshots",
        little,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bench", action="append", choices=BENCHES, metavar="NAME")
    parser.add_argument("--from", dest="source", type=pathlib.Path, metavar="FILE")
    parser.add_argument("--keep", type=pathlib.Path, metavar="FILE")
    parser.add_argument("--plots", type=pathlib.Path, metavar="DIR")
    options = parser.parse_args()
    text = options.source.read_text() if options.source else "".join(run(name) for name in options.bench or BENCHES)
    if options.keep:
        options.keep.write_text(text)
    print(f"{machine()}.\n")
    table([text])
    if options.plots:
        plots(options.plots)


if __name__ == "__main__":
    main()
