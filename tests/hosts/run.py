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
import planted
import space
import table
from host import Failed, NotRun, Scratch

ROOT = pathlib.Path(__file__).resolve().parents[2]
CYCLES = 200
PLANTED = "planted"
RUNGS = {
    "kill": crash.kill,
    "shutdown-ext4-logflush": crash.shutdown("ext4", "logflush"),
    "shutdown-ext4-nologflush": crash.shutdown("ext4", "nologflush"),
    "shutdown-xfs-logflush": crash.shutdown("xfs", "logflush"),
    "shutdown-xfs-nologflush": crash.shutdown("xfs", "nologflush"),
    "writeback-ext4": crash.writeback("ext4"),
    "writeback-xfs": crash.writeback("xfs"),
    "writeback-btrfs": crash.writeback("btrfs"),
    "inject": crash.inject,
    "full-ext4": space.full("ext4"),
    "full-xfs": space.full("xfs"),
    "full-btrfs": space.full("btrfs"),
    "file-limit": space.file_limit,
    "files": files.files,
    "read-only": files.read_only,
}


def target():
    return pathlib.Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target").absolute()


def build(keep, source=ROOT):
    """Builds the driver; gives a copy of it, since cargo puts those of planted bugs into the same place."""
    words = ["cargo", "build", "--example", "hosts", "--message-format=json"]
    env = {**os.environ, "CARGO_TARGET_DIR": str(target())}
    run = subprocess.run(words, cwd=source, env=env, stdout=subprocess.PIPE, text=True)
    for line in run.stdout.splitlines():
        message = json.loads(line)
        if message.get("executable") and message["target"]["name"] == "hosts":
            return shutil.copy2(message["executable"], keep)
    raise Failed("the driver does not build")


class Run:
    """What a rung is given."""

    def __init__(self, options, scratch, binary, cycles, fresh, planted="", hunting=False):
        self.scratch, self.binary, self.cycles = scratch, binary, cycles
        self.fresh, self.planted, self.hunting = fresh, planted, hunting
        self.rng = random.Random(options.seed)
        self.has_strace = shutil.which("strace") is not None
        self.tally, self.drivers = None, []

    def rung(self, name):
        """Runs a rung; no process of it stays behind."""
        try:
            return RUNGS[name](self)
        finally:
            self.end_drivers()

    def end_drivers(self):
        for driver in self.drivers[:]:
            driver.kill()
            driver.finish()

    def share(self, n):
        """The cycles of a rung whose cycles take seconds: one for `n` that were asked for."""
        return self.cycles if self.hunting else max(1, self.cycles // n)


def hunt(options, scratch):
    """How to run a rung with a planted bug until it is seen: gives in which cycle, and as what; `None` if it is not."""

    def until_seen(binary, name, rung, cycles, fresh):
        run = Run(options, scratch, binary, cycles, fresh, name, hunting=True)
        try:
            run.rung(rung)
        except Failed as seen:
            return (run.tally.cycles if run.tally else 0) + 1, str(seen)
        return None

    return until_seen


def positive(text):
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def arguments():
    parser = argparse.ArgumentParser(prog="tests/hosts/run.sh", description=__doc__.split("\n", 1)[0])
    parser.add_argument(
        "rungs", nargs="*", metavar="RUNG",
        help=f"rungs, or how their names begin; all of them without, but for `planted`: {', '.join([*RUNGS, PLANTED])}",
    )
    parser.add_argument("--cycles", type=positive, metavar="N", help=f"for each rung, {CYCLES} without; a tenth or a twentieth of it where one takes seconds")
    parser.add_argument("--seed", type=int, metavar="S", help="of the moments and the loads; printed, drawn without it")
    parser.add_argument("--scratch", type=pathlib.Path, metavar="DIR", help="where the filesystems are made")
    parser.add_argument("--fresh", choices=["yes", "no"], default="yes", help="what Options::write_fresh_space is given")
    parser.add_argument("--table", action="store_true", help="run nothing, and write the results of the last runs into docs/reliability.md")
    options = parser.parse_args()
    chosen = []
    for name in options.rungs:
        found = [r for r in [*RUNGS, PLANTED] if r == name or r.startswith(name + "-")]
        if not found:
            parser.error(f"no rung is called {name}; there are {', '.join([*RUNGS, PLANTED])}")
        chosen += found
    if options.table and (chosen or options.cycles is not None or options.seed is not None or options.fresh == "no"):
        parser.error("--table goes alone")
    if options.scratch is not None and not options.scratch.is_dir():
        parser.error(f"no directory {options.scratch}")
    options.rungs = list(dict.fromkeys(chosen)) or list(RUNGS)
    options.cycles = options.cycles or CYCLES
    if options.seed is None:
        options.seed = random.randrange(1 << 32)
    return options


def remember(options, name, result):
    """Keeps what a rung did for the table: runs with the engine's own defaults alone."""
    if options.fresh != "yes" or name == PLANTED:
        return
    path = target() / "hosts" / "results.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    results = json.loads(path.read_text()) if path.exists() else {}
    results[name] = result | {"asked": options.cycles, "seed": options.seed, "kernel": os.uname().release.split("-")[0]}
    path.write_text(json.dumps(results, indent=1))


def one(options, scratch, binary, name):
    """Runs a rung; gives its result."""
    if name == PLANTED:
        return {"planted": planted.run(RUNGS, lambda source: build(scratch.new("driver"), source), hunt(options, scratch)), "lost": 0}
    return Run(options, scratch, binary, options.cycles, options.fresh).rung(name)


def main():
    options = arguments()
    if options.table:
        return table.write(ROOT, target() / "hosts" / "results.json", RUNGS)
    for signal_ in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(signal_, lambda *_: sys.exit(1))
    scratch = Scratch(options.scratch or tempfile.gettempdir())
    failed = []
    try:
        binary = build(scratch.new("driver"))
        print(f"seed {options.seed}", flush=True)
        for name in options.rungs:
            began = time.monotonic()
            try:
                result = one(options, scratch, binary, name)
            except NotRun as why:
                print(f"{name}: not run: {why}", flush=True)
                continue
            except Failed as why:
                print(f"{name}: FAILED: {why}", flush=True)
                failed.append(name)
                continue
            show(name, result, time.monotonic() - began)
            if result["lost"]:
                failed.append(name)
            else:
                remember(options, name, result)
    finally:
        scratch.remove()
    if failed:
        print(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


def show(name, result, seconds):
    figures = ", ".join(f"{result[k]} {k}" for k in ("cycles", "acknowledged", "races", "unopened", "lost") if k in result)
    print(f"{name}: {figures}, {seconds:.0f} s", flush=True)
    for what, times in result.get("seen", {}).items():
        print(f"    {times} x {what}")
    for what, message in result.get("messages", {}).items():
        print(f"    {what}: {message}")
    for line in [*result.get("losses", []), *result.get("planted", [])]:
        print(f"    {line}")


if __name__ == "__main__":
    sys.exit(main())
