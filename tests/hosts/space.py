"""Rungs in which the host has no more space, or lets the file grow no further.

The script itself knows what each block of the volume should hold, by the answers that it got.
"""

import contextlib
import os
import resource
import signal

from crash import Tally, repeated
from host import MIB, Driver, Failed, filesystem

# Blocks of the volume: more than the host has.
BLOCKS = 1 << 15
NOT_APPLIED = {"NoSpace", "Invalid", "ReadOnly", "Locked", "Poisoned", "Closed"}


class Disk:
    """One volume behind a driver in the mode `serve`, and what it must hold: for each block the tags that it may show, the latest last."""

    def __init__(self, run, path, tally, blocks=BLOCKS, **driver):
        self.run, self.path, self.tally, self.blocks = run, path, tally, blocks
        self.now, self.snapshots = {}, {}
        # What each block may show once the image was opened again: everything since the last flush.
        self.since = {}
        self.driver = Driver(run, "serve", fresh=run.fresh, **driver)

    def create(self):
        self.driver.must("create", self.path)
        self.driver.must("volume", "v", self.blocks)

    def put(self, tag, blocks):
        for b in blocks:
            before = self.now.get(b, {0})
            self.since.setdefault(b, set()).update(before | {tag})
            self.now[b] = {tag}

    def maybe(self, tag, blocks):
        for b in blocks:
            self.since.setdefault(b, set()).update(self.now.get(b, {0}) | {tag})
            self.now[b] = self.now.get(b, {0}) | {tag}

    def settled(self, answer, tag, blocks):
        if answer[0] == "ok":
            self.put(tag, blocks)
        elif answer[0] == "gone" or answer[1] not in NOT_APPLIED:
            self.maybe(tag, blocks)
        return answer

    def write(self, at, count, tag):
        return self.settled(self.driver.ask("write", "v", at, count, tag), tag, range(at, at + count))

    def discard(self, at, count):
        return self.settled(self.driver.ask("discard", "v", at, count), 0, range(at, at + count))

    def flush(self):
        answer = self.driver.ask("flush")
        if answer[0] == "ok":
            self.since = {}
            self.tally.acknowledged += 1
        return answer

    def fill(self, at, piece, tag, end):
        """Writes piece by piece until something fails; gives where it stopped and the failure."""
        told = self.driver.must("fill", "v", at, piece, tag, end)
        count, _, failure = told.partition(" ")
        stop = at + int(count)
        self.put(tag, range(at, stop))
        answer = ("ok",) if failure == "-" else ("err", *failure.split(" ", 2))
        if failure != "-":
            self.settled(answer, tag, range(stop, min(stop + piece, end)))
        return stop, answer

    def snapshot(self, name):
        answer = self.driver.ask("snapshot", "v", name)
        if answer[0] == "ok":
            self.snapshots[name] = {b: set(t) for b, t in self.now.items()}
            self.since = {}
        return answer

    def shows(self, name):
        """What each block of the volume or of `v@snapshot` shows, as (first, count, what)."""
        at, out = 0, []
        for run in self.driver.must("read", name).split():
            what, count = run.rsplit("*", 1)
            out.append((at, int(count), what))
            at += int(count)
        return out

    def verify(self, what, reopened=False, refused=()):
        """Everything reads as it should. `refused`: kinds of errors that a read may answer instead. `reopened`: after a failure."""
        failed = 0
        for name, expected in [("v", self.now), *((f"v@{s}", c) for s, c in self.snapshots.items())]:
            for at, count, shown in self.shows(name):
                if shown in refused:
                    failed += count
                    continue
                for b in range(at, at + count):
                    allowed = expected.get(b, {0})
                    if reopened and name == "v":
                        allowed = allowed | self.since.get(b, set())
                    if shown not in {str(t) for t in allowed}:
                        self.tally.lose(f"{what}: block {b} of {name} shows {shown}, not {sorted(allowed)}")
                        return failed
                    if reopened and name == "v":
                        expected[b] = {int(shown)}
        if reopened:
            self.since = {}
        return failed

    def check(self, what):
        found = self.driver.must("check")
        if found != "clean":
            self.tally.lose(f"{what}: check: {found}")

    def reopen(self):
        """Closes it, and opens it in a new process."""
        answer = self.driver.ask("close")
        if answer[0] != "ok":
            raise Failed(f"close answers {answer}")
        self.driver.finish()
        self.driver = Driver(self.run, "serve", fresh=self.run.fresh)
        self.driver.must("open", self.path)

    def end(self):
        return self.driver.finish()


def expect(answer, kind, what):
    if answer[:2] != ("err", kind):
        raise Failed(f"{what} answers {answer}, not {kind}")
    return answer


def must(answer, what):
    if answer[0] != "ok":
        raise Failed(f"{what} answers {answer}")


def hog(path):
    """A file that takes all that is left."""
    with open(path, "ab", buffering=0) as f:
        for piece in (MIB, 4096):
            with contextlib.suppress(OSError):
                while True:
                    f.write(b"\xa5" * piece)
        with contextlib.suppress(OSError):
            os.fsync(f.fileno())


def full_cycle(run, kind, tally, cycle, **driver):
    """A host that is full: by the image itself, then by a neighbour as well."""
    rng = run.rng
    size, blocks = {"ext4": (96, BLOCKS), "xfs": (320, 4 * BLOCKS), "btrfs": (160, 2 * BLOCKS)}[kind]
    with filesystem(run, kind, size * MIB) as fs:
        disk = Disk(run, fs.point / "image", tally, blocks, **driver)
        disk.create()
        first = 2048 + rng.randrange(2048)
        must(disk.write(0, 256, 1), "a first write")
        must(disk.fill(256, 64, 1, first)[1], "a first fill")
        must(disk.snapshot("s"), "a snapshot")
        must(disk.fill(0, 64, 2, first // 2)[1], "an overwrite")
        must(disk.flush(), "a flush")
        stop, answer = disk.fill(first, rng.choice([1, 16, 64, 256]), 3, blocks)
        told = f"full: {' '.join(answer[1:3])}"
        tally.note(told)
        expect(answer, "NoSpace", "a write into a full host")
        hog(fs.point / "neighbour")
        steps = [
            ("flush", lambda: disk.flush()),
            ("another write", lambda: disk.write(stop, 256, 4)),
            ("delete the snapshot", lambda: disk.driver.ask("delete", "v", "s")),
            ("discard", lambda: disk.discard(rng.randrange(64), first // 2)),
            ("checkpoint", lambda: disk.driver.ask("checkpoint")),
            ("reclaim", lambda: disk.driver.ask("reclaim")),
            ("flush again", lambda: disk.flush()),
            ("checkpoint again", lambda: disk.driver.ask("checkpoint")),
            ("write into what was freed", lambda: disk.write(0, 64, 5)),
            ("flush at the end", lambda: disk.flush()),
        ]
        disk.verify(f"cycle {cycle}, full")
        for what, step in steps:
            answer = step()
            if what == "delete the snapshot" and (answer[0] == "ok" or answer[1] not in NOT_APPLIED):
                del disk.snapshots["s"]
            told = answer[0] if answer[0] == "ok" else " ".join(answer[1:3])
            if answer[0] == "err" and answer[1] not in ("NoSpace",):
                tally.messages.setdefault(f"{what}: {told}", answer[3])
            tally.note(f"{what}: {told}")
            may = {"NoSpace"} if what == "another write" else set()
            if answer[0] != "ok" and answer[1] not in may:
                raise Failed(f"cycle {cycle}, full {kind}: {what} answers {answer}")
        disk.verify(f"cycle {cycle}, after {what}")
        # The neighbour goes, and there is room.
        (fs.point / "neighbour").unlink()
        disk.check(f"cycle {cycle}, full")
        must(disk.write(stop, 512, 6), "a write once there is room")
        must(disk.flush(), "a flush once there is room")
        disk.verify(f"cycle {cycle}, room again")
        disk.reopen()
        disk.verify(f"cycle {cycle}, reopened", reopened=True)
        disk.check(f"cycle {cycle}, reopened")
        disk.driver.must("close")
        disk.end()
        fs.remount()
        disk.driver = Driver(run, "serve")
        disk.driver.must("open_read_only", disk.path)
        disk.verify(f"cycle {cycle}, mounted anew")
        disk.end()
        tally.cycles += 1


def full(kind):
    return repeated(full_cycle, kind, 20)


def file_limit(run):
    """The process may write files of a certain size alone (RLIMIT_FSIZE)."""
    tally = Tally(run)
    directory = run.scratch.new("limit")
    directory.mkdir()
    for cycle in range(run.share(10)):
        limit = (24 + run.rng.randrange(16)) * MIB + run.rng.randrange(4096)
        disk = Disk(run, directory / f"image-{cycle}", tally, file_limit=limit)
        disk.create()
        must(disk.fill(0, 64, 1, 1024)[1], "a first fill")
        must(disk.snapshot("s"), "a snapshot")
        stop, answer = disk.fill(1024, run.rng.choice([1, 16, 64, 256]), 2, BLOCKS)
        expect(answer, "NoSpace", "a write past the limit")
        tally.note(f"limit: {' '.join(answer[1:3])}")
        must(disk.flush(), "a flush at the limit")
        disk.verify(f"cycle {cycle}, at the limit")
        expect(disk.write(stop, 256, 3), "NoSpace", "another write past the limit")
        must(disk.driver.ask("delete", "v", "s"), "deleting a snapshot at the limit")
        disk.snapshots = {}
        must(disk.discard(0, 512), "a discard at the limit")
        must(disk.driver.ask("checkpoint"), "a checkpoint at the limit")
        disk.check(f"cycle {cycle}, at the limit")
        resource.prlimit(disk.driver.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        must(disk.write(stop, 256, 4), "a write with the limit raised")
        must(disk.fill(stop + 256, 64, 4, stop + 4096)[1], "a fill with the limit raised")
        must(disk.flush(), "a flush with the limit raised")
        disk.verify(f"cycle {cycle}, the limit raised")
        disk.reopen()
        disk.verify(f"cycle {cycle}, reopened")
        disk.check(f"cycle {cycle}, reopened")
        disk.driver.must("close")
        disk.end()
        # Who does not ignore the signal dies of it, and loses nothing.
        other = Disk(run, directory / f"signal-{cycle}", tally, file_limit=limit, signals="default")
        other.create()
        must(other.fill(0, 64, 1, 1024)[1], "a first fill")
        must(other.flush(), "a flush")
        answer = other.driver.ask("fill", "v", 1024, 64, 2, BLOCKS)
        status = other.driver.finish()
        if answer != ("gone",) or status != -signal.SIGXFSZ:
            raise Failed(f"with the signal at its default the process answers {answer} and ends with {status}")
        other.maybe(2, range(1024, 1024 + limit // 4096))
        other.driver = Driver(run, "serve")
        other.driver.must("open", other.path)
        other.verify(f"cycle {cycle}, after the signal", reopened=True)
        other.check(f"cycle {cycle}, after the signal")
        other.end()
        tally.note("the signal's default: the process dies, nothing is lost")
        tally.cycles += 1
        disk.path.unlink()
        other.path.unlink()
    return tally.result()
