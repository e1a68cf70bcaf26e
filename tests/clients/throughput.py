#!/usr/bin/env python3
"""Throughput of `snapdisk serve` beside nbdkit's file and qemu-nbd's raw and qcow2: one client, fio, and nbdcopy, the same for all.

usage: throughput.py SNAPDISK [--seconds N] [--servers snapdisk,nbdkit,qemu-raw,qemu-qcow2] [--rows 4k,64k,1m] [--dir DIR] [--rounds N]

Every row is one pattern; its columns are MiB/s, the best of the rounds, which go over all servers in turn. Caches are warm.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time

from servers import Server, install, versions

SIZE = 256 << 20


def commands(binary, at):
    """The servers: each makes what it serves of a raw disk, and gives its command and the name of its export."""
    raw, image, qcow = (os.path.join(at, name) for name in ("raw", "image", "qcow2"))
    sock = os.path.join(at, "sock")

    def snapdisk():
        subprocess.run([binary, "init", image], check=True)
        subprocess.run([binary, "import", image, "v", raw], check=True)
        return [binary, "serve", image, "--nbd", sock], "v"

    def nbdkit():
        shutil.copyfile(raw, raw + "2")
        return ["nbdkit", "-f", "-U", sock, "file", raw + "2"], ""

    def qemu(kind, file):
        subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", kind, raw, file], check=True)
        return ["qemu-nbd", "-f", kind, "-k", sock, "-t", "-e", "8", "--cache=writeback", file], ""

    return {"snapdisk": snapdisk, "nbdkit": nbdkit, "qemu-raw": lambda: qemu("raw", raw + "3"),
            "qemu-qcow2": lambda: qemu("qcow2", qcow)}, sock


def fio(uri, kind, size, depth, jobs, seconds):
    command = ["fio", "--name=row", "--ioengine=nbd", f"--uri={uri}", f"--rw={kind}", f"--bs={size}", f"--iodepth={depth}",
               f"--numjobs={jobs}", f"--size={SIZE}", "--time_based", f"--runtime={seconds}", "--ramp_time=0.2s",
               "--group_reporting", "--output-format=json", "--randrepeat=1", "--norandommap", "--thread"]
    out = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True).stdout
    row = json.loads(out[out.index("{"):])["jobs"][0]
    return (row["read"]["bw_bytes"] + row["write"]["bw_bytes"]) / (1 << 20)


def copy(source, target):
    begun = time.monotonic()
    subprocess.run(["nbdcopy", source, target], check=True)
    return (SIZE >> 20) / (time.monotonic() - begun)


def main():
    args = argparse.ArgumentParser()
    args.add_argument("binary")
    args.add_argument("--seconds", type=float, default=1)
    args.add_argument("--rounds", type=int, default=1)
    args.add_argument("--servers", default="snapdisk,nbdkit,qemu-raw,qemu-qcow2")
    args.add_argument("--rows", default="4k,64k,1m")
    args.add_argument("--kinds", default="randread,randwrite")
    args.add_argument("--shapes", default="1x1,16x1,64x1,16x4", help="depth x connections")
    args.add_argument("--dir", default=None)
    args = args.parse_args()
    have = install(["fio", "nbdkit", "nbdcopy", "qemu-nbd", "qemu-img"])
    if "fio" not in have:
        sys.exit("not run: there is no fio")
    versions(have)
    at = tempfile.mkdtemp(dir=args.dir)
    try:
        measure(args, at)
    finally:
        shutil.rmtree(at)


def measure(args, at):
    with open(os.path.join(at, "raw"), "wb") as raw:
        for _ in range(SIZE >> 20):
            raw.write(os.urandom(1 << 20))
    makers, sock = commands(os.path.abspath(args.binary), at)
    names = args.servers.split(",")
    made = {name: makers[name]() for name in names}
    shapes = [tuple(map(int, shape.split("x"))) for shape in args.shapes.split(",")]
    rows = [(kind, size, depth, jobs) for kind in args.kinds.split(",") for size in args.rows.split(",") for depth, jobs in shapes]
    best = {}
    out = os.path.join(at, "copy")
    for _ in range(args.rounds):
        for name in names:
            command, export = made[name]
            with Server(command, sock):
                uri = f"nbd+unix:///{export}?socket={sock}"
                fio(uri, "read", "1m", 4, 1, 0.3)
                for row in rows:
                    best[row, name] = max(best.get((row, name), 0), fio(uri, *row, args.seconds))
                for row, ends in ((("nbdcopy", "from"), (uri, out)), (("nbdcopy", "to"), (os.path.join(at, "raw"), uri))):
                    best[row, name] = max(best.get((row, name), 0), copy(*ends))
    print("| pattern | " + " | ".join(names) + " | of " + names[-1 if len(names) < 2 else 1] + " |")
    print("|---" * (len(names) + 2) + "|")
    for row in rows + [("nbdcopy", "from"), ("nbdcopy", "to")]:
        label = f"{row[0]} {row[1]}" + (f", depth {row[2]}, {row[3]} connections" if len(row) > 2 else "")
        cells = [best[row, name] for name in names]
        of = f"{cells[0] / cells[1]:.2f}x" if len(cells) > 1 else ""
        print(f"| {label} | " + " | ".join(f"{cell:.0f}" for cell in cells) + f" | {of} |")


main()
