#!/usr/bin/env python3
"""Real NBD clients on `snapdisk serve`: qemu-img, qemu-io, nbdinfo, nbdcopy and fio, on volumes, snapshots and what changes under them.

usage: run.py SNAPDISK [--plant NAME]

What it needs it installs where that removes nothing; a client that is not to be had is told as "not run". `--plant` makes one expectation
wrong, or changes a byte behind the back of a client, and has to fail: that is what proves that the script can.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time

from servers import Server, install, versions

MIB = 1 << 20
CLIENTS = ["qemu-img", "qemu-io", "nbdinfo", "nbdcopy", "fio"]
PLANTS = ["byte", "size", "snapshot", "refusal", "verify"]


class Failed(Exception):
    """An expectation that was not met."""


def expect(what, condition, seen=""):
    if not condition:
        raise Failed(f"{what}: {seen}")


class Run:
    """One directory, one image, one server, and the clients that there are."""

    def __init__(self, binary, at, have, plant):
        self.binary, self.at, self.have, self.plant = binary, at, have, plant
        self.image, self.sock = self.path("a.img"), self.path("nbd")
        self.passed = self.failed = 0
        self.left_out = []

    def path(self, name):
        return os.path.join(self.at, name)

    def uri(self, name):
        return f"nbd+unix:///{name}?socket={self.sock}"

    def say(self, *command, code=0, seconds=60):
        """Runs a command that has to end with `code`; returns what it printed."""
        done = subprocess.run(list(command), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=seconds)
        expect(" ".join(command[:6]), done.returncode == code, f"code {done.returncode}: {done.stdout[-800:]}")
        return done.stdout

    def verb(self, name, *args, code=0):
        return self.say(self.binary, name, self.image, *args, code=code)

    def serve(self):
        return Server([self.binary, "serve", self.image, "--nbd", self.sock], self.sock)

    def test(self, needs, body):
        """Runs a test if its clients are there."""
        missing = [need for need in needs if need not in self.have]
        name = body.__name__
        if missing:
            self.left_out.append(f"{name} (no {', '.join(missing)})")
            print(f"not run: {name}: there is no {', '.join(missing)}", flush=True)
            return
        begun = time.monotonic()
        try:
            body()
            self.passed += 1
            print(f"ok {name} ({time.monotonic() - begun:.1f} s)", flush=True)
        except (Failed, subprocess.TimeoutExpired, OSError, ValueError, KeyError) as e:
            self.failed += 1
            print(f"FAILED {name}: {e}", flush=True)

    # What clients are told.

    def told(self):
        """nbdinfo agrees with `ls`: names, sizes, what may be written."""
        self.verb("create", "told", "--size", "1000448")
        self.verb("snapshot", "told@s")
        seen = {e["export-name"]: e for e in json.loads(self.say("nbdinfo", "--list", "--json", self.uri("")))["exports"]}
        for name, read_only in (("told", False), ("told@s", True)):
            export = seen[name]
            size = 1000449 if self.plant == "size" else 1000448
            expect("size", export["export-size"] == size, export)
            expect("read-only", export["is_read_only"] == read_only, export)
            expect("flags", export["can_flush"] and export["can_fua"] and export["can_multi_conn"] and export["can_df"], export)
            expect("sizes", (export["block_size_minimum"], export["block_size_preferred"], export["block_size_maximum"])
                   == (1, 4096, 32 * MIB), export)
        self.say("nbdinfo", self.uri("nothing"), code=1)

    # Bytes in and out.

    def disk(self, name, size, seed):
        """A raw disk with data, zeros and holes in it."""
        rng, path = random.Random(seed), self.path(name)
        with open(path, "wb") as f:
            f.truncate(size)
            for _ in range(40):
                f.seek(rng.randrange(size // 512) * 512)
                n = min(rng.choice([512, 4096, 70000, 300000]), size - f.tell())
                f.write(bytes(n) if rng.random() < 0.2 else rng.randbytes(n))
        return path

    def copies(self):
        """qemu-img and nbdcopy, both ways, of a disk that is no multiple of 4 KiB."""
        size = 24 * MIB + 512
        raw = self.disk("raw", size, 1)
        for i, tool in enumerate(("qemu-img", "nbdcopy", "nbdcopy-many")):
            name = f"copy{i}"
            self.verb("create", name, "--size", str(size))
            out = self.path("out")
            if tool == "qemu-img":
                self.say("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", raw, self.uri(name))
            else:
                self.say("nbdcopy", "--flush", *(["--connections=4", "--requests=32"] if i == 2 else []), raw, self.uri(name))
            if self.plant == "byte" and i == 1:
                self.say("qemu-io", "-f", "raw", "-c", "write -P 77 1M 512", self.uri(name))
            self.say("qemu-img", "compare", "-f", "raw", "-F", "raw", raw, self.uri(name))
            self.verb("snapshot", f"{name}@s")
            if tool == "qemu-img":
                self.say("qemu-img", "convert", "-f", "raw", "-O", "qcow2", self.uri(name + "@s"), out)
                self.say("qemu-img", "compare", "-f", "qcow2", "-F", "raw", out, raw)
            else:
                self.say("nbdcopy", self.uri(name + "@s"), out)
                self.say("cmp", out, raw)
            os.remove(out)
            self.verb("export", name, out)
            self.say("cmp", out, raw)
            os.remove(out)
        # From one export to another, and what is mapped is what was written.
        self.verb("create", "copy3", "--size", str(size))
        self.say("nbdcopy", self.uri("copy0@s"), self.uri("copy3"))
        self.say("qemu-img", "compare", "-f", "raw", "-F", "raw", self.uri("copy3"), self.uri("copy0"))
        parts = json.loads(self.say("qemu-img", "map", "-f", "raw", "--output=json", self.uri("copy3")))
        expect("map", parts[0]["start"] == 0 and sum(p["length"] for p in parts) == size, parts[:3])
        expect("holes", 0 < sum(p["length"] for p in parts if p["data"]) < size, parts[:3])
        status = json.loads(self.say("nbdinfo", "--json", "--map", self.uri("copy3")))
        expect("nbdinfo --map", sum(p["length"] for p in status) == size, status[:3])

    def patterns(self):
        """qemu-io: patterns of many sizes and alignments, zeros, discards and flushes; then odd requests."""
        self.verb("create", "pattern", "--size", str(64 * MIB + 1536))
        commands = ["write -P 1 0 512", "write -P 2 511 1", "write -P 3 4095 2", "write -P 4 65535 70001", "write -P 5 8M 20M",
                    "read -P 1 0 511", "read -P 2 511 1", "read -P 0 512 3583", "read -P 3 4095 2", "read -P 4 65535 70001",
                    "read -P 5 8M 20M", "write -z 9M 1M", "write -z -u 11M 1M", "discard 13M 1M", "read -P 0 9M 1M", "read -P 0 11M 1M",
                    "read -P 0 13M 1M", "read -P 5 10M 1M", "write -f -P 6 14M 4k", "flush", "read -P 6 14M 4k", "writev -P 7 16M 512 1k 4k",
                    "readv -P 7 16M 4k 1k 512", "aio_write -P 8 18M 3M", "aio_write -P 9 22M 3M", "aio_flush", "read -P 8 18M 3M",
                    "read -P 9 22M 3M", "write -P 10 67109888 512", "read -P 10 67109888 512"]
        out = self.say("qemu-io", "-f", "raw", *(x for c in commands for x in ("-c", c)), self.uri("pattern"))
        expect("patterns", "failed" not in out and "Pattern" not in out, out)
        # Past the end; on what is read-only.
        self.verb("snapshot", "pattern@s")
        code = 0 if self.plant == "refusal" else 1
        self.say("qemu-io", "-f", "raw", "-c", "write -P 1 67110400 512", self.uri("pattern"), code=code)
        self.say("qemu-io", "-f", "raw", "-c", "read 67110400 1", self.uri("pattern"), code=1)
        self.say("qemu-io", "-f", "raw", "-c", "write -P 1 0 512", self.uri("pattern@s"), code=1)
        self.say("qemu-io", "-r", "-f", "raw", "-c", "read -P 5 10M 1M", self.uri("pattern@s"))
        self.say("qemu-img", "bench", "-f", "raw", "-c", "3000", "-d", "32", "-s", "4096", self.uri("pattern@s"))
        self.say("qemu-img", "bench", "-w", "-f", "raw", "-c", "900", "-d", "16", "-s", "65536", "--flush-interval=500",
                 "-S", "69632", self.uri("pattern"))

    # fio checks what it reads.

    def fio(self, name, *options):
        out = self.say("fio", f"--name={name}", "--ioengine=nbd", f"--uri={self.uri(name)}", "--thread", "--verify=crc32c", "--verify_fatal=1",
                       "--verify_backlog=512", "--do_verify=1", "--randrepeat=1", f"--aux-path={self.at}", "--verify_state_save=0", *options)
        expect("fio", "err= 0" in out and "verify:" not in out, out[-800:])

    def verified(self):
        """fio: random and mixed sizes from 512 B to 1 MiB, deep queues, several connections."""
        self.verb("create", "fio", "--size", "64M")
        self.fio("fio", "--rw=randwrite", "--bsrange=512-1m", "--bs_unaligned", "--iodepth=16", "--size=64m", "--io_size=96m")
        self.fio("fio", "--rw=randrw", "--bs=4k", "--iodepth=64", "--size=64m", "--io_size=32m", "--fsync=64")
        self.fio("fio", "--rw=write", "--bs=1m", "--iodepth=4", "--size=64m")
        self.fio("fio", "--rw=randrw", "--bssplit=512/20:4k/40:64k/30:1m/10", "--iodepth=8", "--numjobs=4", "--size=16m", "--offset_increment=16m",
                 "--io_size=24m")
        if self.plant == "verify":
            self.fio("fio", "--rw=randread", "--bs=4k", "--size=64m", "--verify_pattern=0x55", "--verify=pattern")

    def trimmed(self):
        """fio: discards beside writes; the image gives the space back."""
        self.verb("create", "trim", "--size", "64M")
        command = ["fio", "--name=trim", "--ioengine=nbd", f"--uri={self.uri('trim')}", "--thread", "--size=64m", f"--aux-path={self.at}"]
        self.say(*command, "--rw=write", "--bs=1m")
        self.say(*command, "--rw=randtrim", "--bs=64k", "--iodepth=16", "--io_size=64m")
        self.say(*command, "--rw=trimwrite", "--bs=64k", "--iodepth=8", "--io_size=32m")
        self.say(*command, "--rw=trim", "--bs=1m")
        rows = json.loads(self.verb("info", "--json"))["volumes"]
        mapped = next(row["mapped"] for row in rows if row["name"] == "trim")
        expect("what was trimmed is no data", mapped == 0, mapped)

    # What changes while clients are there.

    def changes(self):
        """A snapshot under load stays as it was; rollback, resize and deletion of what is in use need force."""
        self.verb("create", "live", "--size", "32M")
        write = ["qemu-io", "-f", "raw", "-c", "write -P 1 0 8M", "-c", "flush", self.uri("live")]
        self.say(*write)
        load = subprocess.Popen(["fio", "--name=load", "--ioengine=nbd", f"--uri={self.uri('live')}", "--thread", "--rw=randwrite", "--bs=4k",
                                 "--offset=16m", "--size=16m", "--time_based", "--runtime=20", "--iodepth=8", f"--aux-path={self.at}"],
                                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            time.sleep(1)
            self.verb("snapshot", "live@one")
            self.say("nbdcopy", self.uri("live@one"), self.path("one"))
            for i in range(5):
                self.verb("snapshot", f"live@more{i}")
                self.verb("clone", f"live@more{i}", f"clone{i}")
            self.verb("rollback", "live@one", code=1)
            self.verb("resize", "live", "16M", code=1)
            self.verb("rm", "live", "--with-snapshots", code=1)
            self.verb("resize", "live", "48M")
            expect("the load goes on", load.poll() is None)
            self.verb("rollback", "live@one", "--force")
            load.wait(30)
            expect("the load has ended with an error", load.returncode != 0, load.returncode)
        finally:
            load.kill()
            load.wait()
        if self.plant == "snapshot":
            self.say("qemu-io", "-f", "raw", "-c", "write -P 9 31M 512", self.uri("live"))
        self.say("qemu-img", "compare", "-f", "raw", "-F", "raw", self.path("one"), self.uri("live"))
        self.say("qemu-img", "compare", "-f", "raw", "-F", "raw", self.path("one"), self.uri("live@one"))
        self.say("qemu-io", "-r", "-f", "raw", "-c", "read -P 1 0 8M", self.uri("clone4"))
        self.verb("resize", "live", "48M")
        self.say("qemu-io", "-f", "raw", "-c", "write -P 2 40M 8M", "-c", "read -P 2 40M 8M", self.uri("live"))
        self.verb("rm", "live", "--with-snapshots")
        self.say("nbdinfo", self.uri("live"), code=1)
        self.say("nbdinfo", self.uri("live@one"), code=1)

    def survives(self):
        """What fio has flushed is there after the server was killed."""
        self.verb("create", "kept", "--size", "8M")
        with self.serve() as server:
            self.say("qemu-io", "-f", "raw", "-c", "write -P 3 0 8M", "-c", "flush", self.uri("kept"))
            server.child.kill()
        with self.serve():
            self.say("qemu-io", "-r", "-f", "raw", "-c", "read -P 3 0 8M", self.uri("kept"))


def main():
    args = argparse.ArgumentParser()
    args.add_argument("binary")
    args.add_argument("--plant", choices=PLANTS)
    args = args.parse_args()
    have = install(CLIENTS)
    versions(have)
    at = tempfile.mkdtemp()
    run = Run(os.path.abspath(args.binary), at, have, args.plant)
    try:
        run.say(run.binary, "init", run.image)
        with run.serve() as server:
            run.test(["nbdinfo"], run.told)
            run.test(["qemu-img", "qemu-io", "nbdcopy", "nbdinfo"], run.copies)
            run.test(["qemu-io", "qemu-img"], run.patterns)
            run.test(["fio"], run.verified)
            run.test(["fio"], run.trimmed)
            run.test(["fio", "qemu-io", "qemu-img", "nbdcopy", "nbdinfo"], run.changes)

            def checked_live():
                run.verb("check")
            run.test([], checked_live)

        def ended():
            expect("the server", server.child.returncode == 0 and server.said == "", (server.child.returncode, server.said))
            expect("no socket is left", not os.path.exists(run.sock))
            run.verb("check")
        run.test([], ended)
        run.test(["qemu-io"], run.survives)

        def checked_after_a_crash():
            run.verb("check")
        run.test([], checked_after_a_crash)
    finally:
        shutil.rmtree(at)
    if run.left_out:
        print("not run: " + "; ".join(run.left_out))
    print(f"{run.passed} passed, {run.failed} failed")
    sys.exit(1 if run.failed else 0)


main()
