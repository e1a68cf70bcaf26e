"""Plants the bugs of `list.toml`, one at a time, in a copy of the source, and shows that the tests see each of them.

The copy holds all planted bugs at once; the environment variable SNAPDISK_PLANTED chooses the one that is active, so that
there is one build, not one for each bug. Bugs whose edits overlap go into different copies. Exit status: 0 if every bug
that was asked for is seen, 1 if one survives or a patch does not apply, 2 for wrong arguments.
"""

import argparse
import concurrent.futures
import json
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import time
import tomllib

ROOT = pathlib.Path(__file__).resolve().parents[2]
LIST = pathlib.Path(__file__).resolve().with_name("list.toml")
STATES = 100_000
SECONDS = 300

# The arguments of the test binary for each harness.
HARNESSES = {
    "explorer": ["explorer::hunt", "--ignored", "--exact"],
    "guard": ["explorer::hunt", "--ignored", "--exact"],
    "exhaustive": ["explorer::exhaustive", "--exact"],
    "once": ["what_once_failed"],
    "flips": ["flips::every_byte_flipped", "--exact"],
    "lives": ["flips::pages_of_a_life_that_was_lost", "--exact"],
    "abandoned": ["abandoned::"],
    "aged": ["flips::every_page_as_it_was", "--exact"],
    "faults": ["faults::"],
    "crash": ["concurrency::crash::"],
    "between": ["concurrency::between::"],
    "readers": ["concurrency::readers::"],
    "chaos": ["concurrency::chaos::"],
    "close": ["concurrency::close::"],
    "ahead": ["concurrency::ahead::"],
    "background": ["background::"],
    "hostile": ["hostile::"],
    "passes": ["passes::"],
    "fresh": ["fresh::"],
    "known": ["known::"],
    "room": ["room::"],
    "schedule": ["schedule::"],
    "undone": ["undone::"],
    "diff": ["diff::"],
    "leases": ["leases::"],
    "unlocked": ["concurrency::unlocked::the_disk_is_never_at_work_under_the_lock", "--exact"],
}

PLANTED = """
/// Whether the bug of this name is the one that SNAPDISK_PLANTED chooses.
pub(crate) fn planted(name: &str) -> bool {
    static CHOSEN: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    CHOSEN.get_or_init(|| std::env::var("SNAPDISK_PLANTED").unwrap_or_default()) == name
}
"""


class Broken(Exception):
    """A list, patch or build that is not in order."""


def read_list():
    """The planted bugs; every field and every patch is checked."""
    bugs = tomllib.loads(LIST.read_text())["bug"]
    seen = set()
    for bug in bugs:
        name = bug.get("name", "?")
        for key in ("name", "breaks", "edit"):
            if key not in bug:
                raise Broken(f"{name}: no {key}")
        if name in seen:
            raise Broken(f"{name}: listed twice")
        seen.add(name)
        if "equivalent" not in bug and bug.get("harness") not in HARNESSES:
            raise Broken(f"{name}: no such harness: {bug.get('harness')}")
        if not any(f'planted("{name}")' in edit["put"] for edit in bug["edit"]):
            raise Broken(f"{name}: no edit asks for planted(\"{name}\")")
        bug["places"] = [place(name, edit) for edit in bug["edit"]]
    return bugs


def place(name, edit):
    """Where an edit applies: its file, and the range of the text that it replaces."""
    path = ROOT / edit["file"]
    if not path.is_file():
        raise Broken(f"{name}: {edit['file']} does not exist")
    text, find = path.read_text(), edit["find"].strip("\n")
    times = text.count(find)
    if times != 1:
        raise Broken(f"{name}: its text stands {times} times in {edit['file']}, not once")
    start = text.index(find)
    return (edit["file"], start, start + len(find), edit["put"].strip("\n"))


def batches(bugs):
    """Groups of bugs no two of which edit the same text."""
    groups = []
    for bug in bugs:
        for group in groups:
            taken = [p for other in group for p in other["places"]]
            if not any(a[0] == b[0] and a[1] < b[2] and b[1] < a[2] for a in bug["places"] for b in taken):
                group.append(bug)
                break
        else:
            groups.append([bug])
    return groups


def write_copy(group, target):
    """The source tree with all bugs of the group; files that stay the same keep their time.

    The package has a version of its own: cargo names what it builds by package and version, not by place, and would
    take the copy's objects for those of the source."""
    files = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True).stdout
    names = [n for n in files.decode().split("\0") if n and (ROOT / n).is_file()]
    for old in [p for p in target.rglob("*") if p.is_file()] if target.exists() else []:
        if str(old.relative_to(target)) not in names:
            old.unlink()
    for name in names:
        data = (ROOT / name).read_bytes()
        edits = sorted(p for bug in group for p in bug["places"] if p[0] == name)
        if edits:
            text = data.decode()
            for _, start, end, put in reversed(edits):
                text = text[:start] + put + text[end:]
            data = text.encode()
        if name == "src/lib.rs":
            data += PLANTED.encode()
        if name == "Cargo.toml":
            data, times = re.subn(rb'^version = "([^"]*)"', rb'version = "\1-planted.%s"' % target.name.encode(), data, count=1, flags=re.M)
            if times != 1:
                raise Broken("Cargo.toml: no version")
        to = target / name
        if name == "Cargo.lock" and to.is_file():
            continue  # Cargo wrote the version into it.
        if not to.is_file() or to.read_bytes() != data:
            to.parent.mkdir(parents=True, exist_ok=True)
            to.write_bytes(data)


def build(copy):
    """Builds the tests of a copy; gives the binary."""
    env = {**os.environ, "CARGO_TARGET_DIR": str(cargo_target())}
    command = ["cargo", "test", "--no-run", "--test", "it", "--message-format=json"]
    run = subprocess.run(command, cwd=copy, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    binary, told = None, []
    for line in run.stdout.splitlines():
        message = json.loads(line)
        if message.get("executable") and message["target"]["name"] == "it":
            binary = message["executable"]
        if message.get("message", {}).get("level") == "error":
            told.append(message["message"]["rendered"])
    if run.returncode != 0 or binary is None:
        raise Broken("the copy does not build:\n" + "".join(told) + run.stderr[-2000:])
    return binary


def cargo_target():
    return pathlib.Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target").absolute()


def run_harness(binary, copy, harness, name, states, seconds):
    """Runs one harness. Gives the exit status (`None`: it took too long), its output and the seconds."""
    env = {**os.environ, "SNAPDISK_PLANTED": name, "SNAPDISK_STATES": str(states), "RUST_BACKTRACE": "0"}
    env["SNAPDISK_GUARD"] = str(int(harness == "guard"))
    began = time.monotonic()
    run = subprocess.Popen(
        [binary, *HARNESSES[harness]],
        cwd=copy, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )
    try:
        out = run.communicate(timeout=seconds)[0]
        status = run.returncode
    except subprocess.TimeoutExpired:
        os.killpg(run.pid, signal.SIGKILL)
        out = run.communicate()[0]
        status = None
    return status, out.decode(errors="replace"), time.monotonic() - began


def control(binary, copy, harness, options):
    """With nothing planted the harness must run at least one test and be content, for as many states as with a bug."""
    status, out, took = run_harness(binary, copy, harness, "", options.states, options.timeout)
    if status != 0 or not re.search(r"^running [1-9]", out, re.M):
        raise Broken(f"{harness} fails with nothing planted (status {status}):\n{out[-3000:]}")
    print(f"control: {harness} is content, {took:.0f} s", flush=True)


def verdict(bug, binary, copy, options):
    """Runs the harness of one bug; gives a line to print and whether the bug was seen."""
    status, out, took = run_harness(binary, copy, bug["harness"], bug["name"], options.states, options.timeout)
    failed = status is not None and (status < 0 or "test result: FAILED" in out)
    if failed:
        states = re.search(r"after (\d+) states", out)
        test = re.findall(r"^test (\S+) \.\.\. FAILED", out, re.M)
        by = test[0] if test else f"signal {-status}"
        after = f", after {states[1]} states" if states else ""
        result = f"killed by {by}{after}"
    elif status is None:
        result = f"UNDECIDED: {bug['harness']} did not end"
    elif status != 0:
        raise Broken(f"{bug['name']}: status {status}:\n{out[-3000:]}")
    else:
        result = f"SURVIVES {bug['harness']}" + (", as is known" if "open" in bug else "")
    if options.verbose:
        result += "\n" + out[-6000:]
    return f"{bug['name']}: {result}, {took:.1f} s", failed


def chosen(bugs, options, parser):
    """The bugs that the arguments ask for."""
    alive = [b for b in bugs if "equivalent" not in b]
    if options.names:
        if options.sample is not None:
            parser.error("names and --sample exclude each other")
        for name in options.names:
            if name not in {b["name"] for b in alive}:
                parser.error(f"no planted bug is called {name}")
        return [b for b in alive if b["name"] in options.names]
    if options.sample is None:
        if options.seed is not None:
            parser.error("--seed goes with --sample")
        return alive
    alive = [b for b in alive if "open" not in b]
    # Consecutive seeds go through the whole list.
    random.Random(0).shuffle(alive)
    first = (options.seed or 0) * options.sample % len(alive)
    return (alive[first:] + alive[:first])[: options.sample]


def positive(text):
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def whole(text):
    number = int(text)
    if number < 0:
        raise ValueError(text)
    return number


def main():
    parser = argparse.ArgumentParser(prog="tests/mutants/run.sh", description=__doc__.split("\n", 1)[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="planted bugs to run; all of them without")
    parser.add_argument("--sample", type=positive, metavar="N", help="run N of the bugs")
    parser.add_argument("--seed", type=whole, metavar="S", help="which N; consecutive seeds go through the list")
    parser.add_argument("--states", type=positive, default=STATES, help="states that a hunt of the explorer tries")
    parser.add_argument("--timeout", type=positive, default=SECONDS, metavar="SECONDS", help="for each run")
    parser.add_argument("--jobs", type=positive, default=os.cpu_count() or 1, help="runs at a time")
    parser.add_argument("--verbose", action="store_true", help="print what the harness printed")
    parser.add_argument("--check", action="store_true", help="only check that every patch applies")
    options = parser.parse_args()
    bugs = read_list()
    picked = chosen(bugs, options, parser)
    if options.check:
        print(f"{len(bugs)} planted bugs apply")
        return 0
    began, survivors = time.monotonic(), []
    for number, group in enumerate(batches(picked)):
        copy = cargo_target() / "mutants" / str(number)
        write_copy(group, copy)
        binary = build(copy)
        print(f"copy {number}: {len(group)} planted bugs, built at {time.monotonic() - began:.0f} s", flush=True)
        with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
            harnesses = dict.fromkeys(b["harness"] for b in group)
            controls = [pool.submit(control, binary, copy, h, options) for h in harnesses]
            runs = {pool.submit(verdict, bug, binary, copy, options): bug for bug in group}
            for run in concurrent.futures.as_completed(runs):
                line, seen = run.result()
                print(line, flush=True)
                if not seen:
                    survivors.append(runs[run]["name"])
            for ended in controls:
                ended.result()
    seconds = time.monotonic() - began
    equivalent = sum("equivalent" in b for b in bugs)
    print(f"{len(picked) - len(survivors)} of {len(picked)} seen in {seconds:.0f} s; {len(bugs)} listed, {equivalent} of them equivalent")
    for name in survivors:
        print(f"not seen: {name}")
    return 1 if survivors else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Broken as e:
        print(f"error: {e}", file=sys.stderr)
        sys.exit(1)
