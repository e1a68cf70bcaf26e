"""Runs the engine on real filesystems that fail, and shows that nothing acknowledged is lost.

Exit status: 0 if every rung that could be run held, 1 if one did not or a planted bug was not seen, 2 for wrong arguments.
"""

import argparse
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import crash
import files
import space
from host import Failed, NotRun, Scratch

ROOT = pathlib.Path(__file__).resolve().parents[2]
CYCLES = 200
RUNGS = {
    "kill": crash.kill,
    "shutdown-ext4-logflush": crash.shutdown("ext4", "logflush"),
    "shutdown-ext4-nologflush": crash.shutdown("ext4", "nologflush"),
    "shutdown-xfs-logflush": crash.shutdown("xfs", "logflush"),
    "shutdown-xfs-nologflush": crash.shutdown("xfs", "nologflush"),
    "writeback-ext4": crash.writeback("ext4"),
    "writeback-xfs": crash.writeback("xfs"),
    "writeback-btrfs": crash.writeback("btrfs"),
    "full-ext4": space.full("ext4"),
    "full-xfs": space.full("xfs"),
    "full-btrfs": space.full("btrfs"),
    "file-limit": space.file_limit,
    "files": files.files,
    "read-only": files.read_only,
}


def target():
    return pathlib.Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target").absolute()


def build(source=ROOT):
    """Builds the driver; gives the binary."""
    words = ["cargo", "build", "--example", "hosts", "--message-format=json"]
    env = {**os.environ, "CARGO_TARGET_DIR": str(target())}
    run = subprocess.run(words, cwd=source, env=env, stdout=subprocess.PIPE, text=True)
    for line in run.stdout.splitlines():
        message = json.loads(line)
        if message.get("executable") and message["target"]["name"] == "hosts":
            return pathlib.Path(message["executable"])
    raise Failed("the driver does not build")


class Run:
    """What a rung is given."""

    def __init__(self, options, scratch, binary):
        self.scratch, self.binary, self.cycles = scratch, binary, options.cycles
        self.fresh = options.fresh
        self.rng = random.Random(options.seed)
        self.has_strace = shutil.which("strace") is not None


def positive(text):
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def arguments():
    parser = argparse.ArgumentParser(prog="tests/hosts/run.sh", description=__doc__.split("\n", 1)[0])
    parser.add_argument("rungs", nargs="*", metavar="RUNG", help="rungs, or how their names begin; all of them without")
    parser.add_argument("--cycles", type=positive, default=CYCLES, metavar="N", help="for each rung (a tenth of it where one takes seconds)")
    parser.add_argument("--seed", type=int, default=None, metavar="S", help="of the moments and the loads; printed without it")
    parser.add_argument("--scratch", default=None, metavar="DIR", help="where the filesystems are made")
    parser.add_argument("--fresh", choices=["yes", "no"], default="yes", help="what Options::write_fresh_space is given")
    parser.add_argument("--binary", type=pathlib.Path, help="a driver that was built before")
    options = parser.parse_args()
    chosen = []
    for name in options.rungs:
        found = [r for r in RUNGS if r == name or r.startswith(name + "-")]
        if not found:
            parser.error(f"no rung is called {name}; there are {', '.join(RUNGS)}")
        chosen += found
    options.rungs = list(dict.fromkeys(chosen)) or list(RUNGS)
    if options.seed is None:
        options.seed = random.randrange(1 << 32)
    return options


def main():
    options = arguments()
    for signal_ in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(signal_, lambda *_: sys.exit(1))
    binary = options.binary or build()
    print(f"seed {options.seed}", flush=True)
    scratch = Scratch(options.scratch or tempfile.gettempdir())
    failed = []
    try:
        for name in options.rungs:
            began = time.monotonic()
            run = Run(options, scratch, binary)
            try:
                result = RUNGS[name](run)
            except NotRun as why:
                print(f"{name}: not run: {why}", flush=True)
                continue
            except Failed as why:
                print(f"{name}: FAILED: {why}", flush=True)
                failed.append(name)
                continue
            print(f"{name}: {json.dumps(result)}, {time.monotonic() - began:.0f} s", flush=True)
            if result["lost"]:
                failed.append(name)
    finally:
        scratch.remove()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
