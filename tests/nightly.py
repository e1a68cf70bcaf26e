"""Runs the harnesses with fresh seeds for a number of minutes and adds a line for each to docs/ledger.tsv; --sum adds the lines up.

A harness gets a share of the time and is started again with the next seed until that is used up. What fails is told, with the
line that repeats it, and counted; the rest goes on. Exit status: 0 if nothing failed, 1 if something did, 2 for wrong arguments.
"""

import argparse
import concurrent.futures
import datetime
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
LEDGER = ROOT / "docs" / "ledger.tsv"
NUMBERS = ["states", "lives", "schedules", "flips", "mutants", "fuzz_minutes", "failures"]
COLUMNS = ["date", "commit", "harness", "seeds", *NUMBERS]
# What each harness gets of the time; the shares of those that are not there go to the explorer.
SHARES = {"schedules": 0.15, "mutants": 0.2, "fuzz": 0.15, "hosts": 0.1}
FLIPS_MINUTES = 5
# A harness that is built first is not started for less.
LEAST_MINUTES = 5
STATES = 100_000
SCHEDULES = 2_000


class Failed(Exception):
    """The run can't go on."""


def build():
    """The test binary."""
    command = ["cargo", "test", "--all-features", "--test", "it", "--no-run", "--message-format=json"]
    run = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    for line in run.stdout.splitlines():
        message = json.loads(line)
        if message.get("executable") and message["target"]["name"] == "it":
            return message["executable"]
    raise Failed("the tests do not build")


def commit():
    """The commit that is tested; with a plus if files differ from it."""
    head = subprocess.run(["git", "rev-parse", "--short=10", "HEAD"], cwd=ROOT, check=True, capture_output=True, text=True)
    changed = subprocess.run(["git", "status", "--porcelain", "-uno", "--", ".", ":!docs/ledger.tsv"], cwd=ROOT, check=True, capture_output=True, text=True)
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")


def run(command, seconds, **variables):
    """Runs a command in a process group of its own; gives its status (`None`: it was ended for taking too long) and what it said."""
    env = {**os.environ, **{k: str(v) for k, v in variables.items()}}
    process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)
    try:
        return process.communicate(timeout=max(1, seconds))[0], process.returncode
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return process.communicate()[0], None


class Line:
    """What one harness did."""

    def __init__(self, harness):
        self.harness, self.seeds = harness, []
        self.numbers = dict.fromkeys(NUMBERS, 0)

    def add(self, name, number):
        self.numbers[name] += number

    def fail(self, what, said):
        self.numbers["failures"] += 1
        print(f"{self.harness}: FAILED: {what}\n{said[-4000:]}", flush=True)

    def write(self, path, commit):
        seeds = f"{min(self.seeds)}-{max(self.seeds)}" if self.seeds else "-"
        date = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%MZ")
        row = [date, commit, self.harness, seeds, *(str(self.numbers[n]) for n in NUMBERS)]
        if not path.exists():
            path.write_text("\t".join(COLUMNS) + "\n")
        with path.open("a") as ledger:
            ledger.write("\t".join(row) + "\n")
        said = ", ".join(f"{v} {k}" for k, v in self.numbers.items() if v) or "nothing"
        print(f"{self.harness}: seeds {seeds}: {said}", flush=True)


def seeded(line, binary, test, seconds, jobs, first, pattern, names, **variables):
    """One test again and again with the next seed, several at a time; `pattern` finds the numbers `names` in what it says."""
    ends = time.monotonic() + seconds

    def one(seed):
        left = ends - time.monotonic()
        # Whatever began ends: a run takes a minute or so.
        return seed, run([binary, test, "--exact", "--nocapture"], left + 1200, SNAPDISK_SEED=seed, **variables)

    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        running, seed = set(), first
        while running or time.monotonic() < ends:
            while len(running) < jobs and time.monotonic() < ends:
                running.add(pool.submit(one, seed))
                seed += 1
            done, running = concurrent.futures.wait(running, return_when=concurrent.futures.FIRST_COMPLETED)
            for ended in done:
                used, (said, status) = ended.result()
                line.seeds.append(used)
                found = re.search(pattern, said)
                if status == 0 and found:
                    for name, number in zip(names, found.groups()):
                        line.add(name, int(number))
                else:
                    line.fail(f"{test} with SNAPDISK_SEED={used}, status {status}", said)


def flips(line, binary):
    for test in ["flips::every_byte_flipped", "flips::every_page_as_it_was", "flips::every_sector_zeroed_aged_or_swapped", "flips::cut_and_lengthened"]:
        said, status = run([binary, test, "--exact", "--nocapture"], 3600, SNAPDISK_FULL=1)
        for counts in re.findall(r"(\d+) refused, (\d+) with failing reads, (\d+) harmless", said):
            line.add("flips", sum(map(int, counts)))
        if status != 0:
            line.fail(f"{test}, status {status}", said)


def mutants(line, seconds, first):
    ends, sample = time.monotonic() + seconds, first
    while time.monotonic() < ends:
        said, status = run(["tests/mutants/run.sh", "--sample", "8", "--seed", str(sample)], 3600)
        line.seeds.append(sample)
        found = re.search(r"^(\d+) of \d+ seen", said, re.M)
        line.add("mutants", int(found[1]) if found else 0)
        if status != 0:
            line.fail(f"tests/mutants/run.sh --sample 8 --seed {sample}, status {status}", said)
        sample += 1


def fuzz(line, seconds):
    targets = len(list((ROOT / "fuzz" / "fuzz_targets").glob("*.rs")))
    each = max(1, int(seconds / 60 / targets))
    said, status = run(["bash", "fuzz/run.sh", str(each)], each * 60 * targets + 3600)
    line.add("fuzz_minutes", each * targets)
    if status != 0:
        line.fail(f"fuzz/run.sh {each}, status {status}", said)


def hosts(line, seconds, seed):
    cycles = max(2, int(seconds / 60))
    line.seeds.append(seed)
    said, status = run(["bash", "tests/hosts/run.sh", "--cycles", str(cycles), "--seed", str(seed)], seconds + 3600)
    if status != 0:
        line.fail(f"tests/hosts/run.sh --cycles {cycles} --seed {seed}, status {status}", said)


def rows(path):
    """The ledger's lines; one that is none is an error."""
    lines = path.read_text().splitlines()
    if not lines or lines[0].split("\t") != COLUMNS:
        raise Failed(f"{path}: other columns than {' '.join(COLUMNS)}")
    for number, text in enumerate(lines[1:], 2):
        values = text.split("\t")
        if len(values) != len(COLUMNS) or not all(v.isdigit() for v in values[len(COLUMNS) - len(NUMBERS):]):
            raise Failed(f"{path}:{number}: not a line of the ledger: {text!r}")
        yield dict(zip(COLUMNS, values))


def add_up(path):
    """Prints what all runs together did."""
    if not path.exists():
        raise Failed(f"{path} does not exist: no run has been counted")
    total, dates, commits, count = dict.fromkeys(NUMBERS, 0), [], set(), 0
    for row in rows(path):
        count += 1
        dates.append(row["date"])
        commits.add(row["commit"])
        for name in NUMBERS:
            total[name] += int(row[name])
    if count == 0:
        raise Failed(f"{path} has no lines")
    print(f"{count} lines of {len(commits)} commits, {min(dates)} to {max(dates)}")
    for name in NUMBERS:
        print(f"{name.replace('_', ' ')}: {total[name]:,}")


def whole(least):
    def parse(text):
        if not text.isascii() or not text.isdigit() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least}")
        return int(text)
    return parse


def main():
    parser = argparse.ArgumentParser(prog="tests/nightly.sh", description=__doc__.split("\n", 1)[0])
    parser.add_argument("minutes", nargs="?", type=whole(1), help="how long it runs, about")
    parser.add_argument("--sum", action="store_true", help="add up the ledger and run nothing")
    parser.add_argument("--seed", type=whole(0), help="the first seed; otherwise the clock says")
    parser.add_argument("--jobs", type=whole(1), default=os.cpu_count() or 1, help="runs at a time")
    parser.add_argument("--ledger", type=pathlib.Path, default=LEDGER, help="another file for the ledger")
    options = parser.parse_args()
    if options.sum == (options.minutes is not None):
        parser.error("either MINUTES or --sum")
    if options.sum:
        add_up(options.ledger)
        return 0
    if options.ledger.exists():
        list(rows(options.ledger))
    began, seconds = time.monotonic(), options.minutes * 60
    seed = int(time.time()) if options.seed is None else options.seed
    binary, of = build(), commit()
    left = max(60, seconds - (time.monotonic() - began))
    have = dict(SHARES)
    missing = {
        "fuzz": (ROOT / "fuzz" / "run.sh").exists() or "fuzz/run.sh is missing",
        "hosts": (ROOT / "tests" / "hosts" / "run.sh").exists() or "tests/hosts/run.sh is missing",
        "mutants": True,
    }
    if os.geteuid() != 0:
        missing["hosts"] = "only root can make filesystems"
    for name, why in missing.items():
        if why is True and left * have[name] < 60 * LEAST_MINUTES:
            why = f"its share of the time is less than {LEAST_MINUTES} minutes"
        if why is not True:
            have.pop(name)
            print(f"{name}: not run, {why}", flush=True)
    share = {name: part * left for name, part in have.items()}
    work = {}
    if left >= 6 * 60 * FLIPS_MINUTES:
        work["flips"] = lambda line: flips(line, binary)
        left -= 60 * FLIPS_MINUTES
    searched = r"explorer: seed \d+, (\d+) unique states.*, lives (\d+)"
    work["explorer"] = lambda line: seeded(line, binary, "explorer::random", left - sum(share.values()), options.jobs, seed, searched, ["states", "lives"], SNAPDISK_STATES=STATES)
    scheduled = r"schedules: seed \d+, (\d+) cases, \d+ steps, (\d+) crash states"
    work["schedules"] = lambda line: seeded(line, binary, "schedule::random", share["schedules"], options.jobs, seed, scheduled, ["schedules", "states"], SNAPDISK_SCHEDULES=SCHEDULES)
    if "mutants" in share:
        work["mutants"] = lambda line: mutants(line, share["mutants"], seed % 1000)
    if "fuzz" in share:
        work["fuzz"] = lambda line: fuzz(line, share["fuzz"])
    if "hosts" in share:
        work["hosts"] = lambda line: hosts(line, share["hosts"], seed % 1000)
    failures = 0
    for harness, does in work.items():
        line = Line(harness)
        does(line)
        line.write(options.ledger, of)
        failures += line.numbers["failures"]
    return 1 if failures else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failed as e:
        print(f"error: {e}", file=sys.stderr)
        sys.exit(1)
