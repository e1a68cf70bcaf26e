"""Rungs in which others change the file of an open image, or may only read it."""

import hashlib
import os
import signal

from crash import Image, Tally, judge, listen
from host import MIB, Driver, Failed, NotRun, filesystem
from space import Disk, expect, must

NOBODY = 65534
SMALL = 4096  # blocks of a volume


def furnished(run, directory, tally, name, **driver):
    """An open image with a volume and a snapshot, flushed."""
    disk = Disk(run, directory / name, tally, blocks=SMALL, **driver)
    disk.create()
    must(disk.fill(0, 64, 1, 2048)[1], "a fill")
    must(disk.snapshot("s"), "a snapshot")
    must(disk.fill(0, 64, 2, 1024)[1], "an overwrite")
    must(disk.flush(), "a flush")
    return disk


def truncated(run, directory, tally, n, way):
    """Another process cuts the file while the image is open: right bytes or an error, never others."""
    disk = furnished(run, directory, tally, f"truncated-{n}-{way}", read_path=way)
    must(disk.driver.ask("checkpoint"), "a checkpoint")
    # Some pages are mapped before the cut, some are not.
    if run.rng.random() < 0.5:
        disk.verify(f"before cut {n}")
    length = disk.path.stat().st_size
    cut = run.rng.choice([0, 4096, length // 2, length - 4096, run.rng.randrange(length)])
    os.truncate(disk.path, cut)
    if run.rng.random() < 0.5:
        # Zeros where there were blocks.
        os.truncate(disk.path, length)
    answer = disk.driver.ask("read", "v")
    if answer[0] == "gone":
        status = disk.driver.finish()
        # The exposure of the map that the documentation states.
        if way == "pread" or status != -signal.SIGBUS:
            raise Failed(f"cut {n}, {way}: the process ends with {status}: {''.join(disk.driver.errors)[-500:]}")
        tally.note(f"{way}: SIGBUS, as documented")
    else:
        if answer[0] == "ok":
            failed = disk.verify(f"cut {n}, {way}", refused=("Corrupt", "Truncated", "Io"))
            tally.note(f"{way}: {'errors' if failed else 'right bytes'}")
        else:
            tally.note(f"{way}: {answer[1]}")
        # Whatever it answers to this, it ends by itself.
        disk.write(0, 64, 3)
        disk.flush()
        disk.driver.ask("close")
        status = disk.end()
        if status != 0 and not (way == "map" and status == -signal.SIGBUS):
            raise Failed(f"cut {n}, {way}: the process ends with {status}: {''.join(disk.driver.errors)[-500:]}")
    # What is left either opens and shows right bytes or says what is wrong.
    disk.driver = Driver(run, "serve")
    answer = disk.driver.ask("open", disk.path)
    if answer[0] == "ok":
        answer = disk.driver.ask("read", "v")
        if answer[0] == "ok":
            disk.since.update({b: {0, 1, 2, 3} for b in range(SMALL)} if not disk.since else {})
            disk.verify(f"cut {n}, reopened", reopened=True, refused=("Corrupt", "Truncated"))
    elif answer[1] not in ("Truncated", "Corrupt", "Invalid"):
        raise Failed(f"cut {n}: reopening answers {answer}")
    tally.note("reopened: " + (answer[1] if answer[0] == "err" else "ok"))
    disk.end()


def unlinked(run, directory, tally, n):
    disk = furnished(run, directory, tally, f"unlinked-{n}")
    disk.path.unlink()
    must(disk.fill(512, 64, 4, 3000)[1], "a fill of an unlinked image")
    must(disk.flush(), "a flush of an unlinked image")
    disk.verify("unlinked")
    disk.check("unlinked")
    other = Driver(run, "serve")
    expect(other.ask("open", disk.path), "NotFound", "opening an unlinked image")
    must(other.ask("create", disk.path), "a new image in its place")
    must(other.ask("close"), "closing the new image")
    other.finish()
    disk.driver.must("close")
    disk.end()
    tally.note("unlinked: goes on")


def renamed(run, directory, tally, n):
    disk = furnished(run, directory, tally, f"renamed-{n}")
    moved = directory / f"moved-{n}"
    disk.path.rename(moved)
    other = Driver(run, "serve")
    expect(other.ask("open", moved), "Locked", "opening it by its new name")
    other.finish()
    must(disk.write(100, 64, 5), "a write to a renamed image")
    must(disk.flush(), "a flush of a renamed image")
    disk.path = moved
    disk.reopen()
    disk.verify("renamed")
    disk.check("renamed")
    disk.driver.must("close")
    disk.end()
    tally.note("renamed: goes on, still locked")


def replaced(run, directory, tally, n):
    """Another image is moved over the path: each process keeps its own."""
    disk = furnished(run, directory, tally, f"replaced-{n}")
    old = directory / f"kept-{n}"
    new = furnished(run, directory, tally, f"new-{n}")
    # The old file keeps a name, so that it can be looked at afterwards. Two names are refused for writing, so this one is taken away again.
    os.link(disk.path, old)
    new.path.rename(disk.path)
    new.path = disk.path
    must(disk.write(7, 64, 6), "a write to a replaced image")
    must(new.write(7, 64, 7), "a write to the image that replaced it")
    must(disk.flush(), "a flush of a replaced image")
    must(new.flush(), "a flush of the image that replaced it")
    disk.verify("replaced")
    new.verify("replacing")
    disk.path = old
    for one in (disk, new):
        one.reopen()
        one.verify("replaced, reopened")
        one.check("replaced, reopened")
        one.driver.must("close")
        one.end()
    tally.note("replaced: each keeps its own")


def links(run, directory, tally, n):
    disk = furnished(run, directory, tally, f"linked-{n}")
    soft, hard = directory / f"soft-{n}", directory / f"hard-{n}"
    soft.symlink_to(disk.path.name)
    other = Driver(run, "serve")
    expect(other.ask("open", soft), "Locked", "opening by a symbolic link")
    disk.driver.must("close")
    must(other.ask("open", soft), "opening by a symbolic link")
    must(other.ask("close"), "closing")
    os.link(disk.path, hard)
    expect(other.ask("open", hard), "Invalid", "opening a file of two names for writing")
    must(other.ask("open_read_only", hard), "opening a file of two names for reading")
    other.finish()
    disk.end()
    tally.note("links: followed; a second name refused for writing")


def chmod(run, directory, tally, n):
    """Without the right to open it again, an open image goes on."""
    own = directory / f"own-{n}"
    own.mkdir()
    os.chown(own, NOBODY, NOBODY)
    disk = furnished(run, own, tally, "image", user=NOBODY)
    disk.path.chmod(0)
    must(disk.fill(1024, 64, 8, 3000)[1], "a fill without rights")
    must(disk.flush(), "a flush without rights")
    must(disk.driver.ask("checkpoint"), "a checkpoint without rights")
    disk.verify("without rights")
    disk.driver.must("close")
    answer = disk.driver.ask("open", disk.path)
    if answer[:3] != ("err", "Io", "13"):
        raise Failed(f"opening without rights answers {answer}")
    disk.path.chmod(0o444)
    answer = disk.driver.ask("open", disk.path)
    if answer[:3] != ("err", "Io", "13"):
        raise Failed(f"opening for writing with mode 0444 answers {answer}")
    before = seen(disk.path)
    must(disk.driver.ask("open_read_only", disk.path), "opening for reading with mode 0444")
    disk.verify("mode 0444")
    disk.check("mode 0444")
    disk.driver.must("close")
    unchanged(before, disk.path, "mode 0444")
    disk.end()
    tally.note("chmod: goes on; refused and told when opened again; 0444 reads")


def files(run):
    if os.geteuid() != 0:
        raise NotRun("not root")
    tally = Tally(run)
    directory = run.scratch.new("files")
    directory.mkdir(mode=0o755)
    for n in range(run.share(10)):
        for way in ("pread", "map"):
            truncated(run, directory, tally, n, way)
        for do in (unlinked, renamed, replaced, links, chmod):
            do(run, directory, tally, n)
        tally.cycles += 1
    return tally.result()


def seen(path):
    """What a reader must leave as it is. The content is read without a change of the access time."""
    with open(os.open(path, os.O_RDONLY | os.O_NOATIME), "rb") as f:
        digest = hashlib.file_digest(f, "sha256").hexdigest()
    s = os.stat(path)
    extended = {name: os.getxattr(path, name) for name in os.listxattr(path)}
    return digest, s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_blocks, s.st_mode, extended


def unchanged(before, path, what):
    after = seen(path)
    if after != before:
        raise Failed(f"{what}: opening for reading changed the file: {before} became {after}")


def read_only(run):
    """A dirty image on a writable, then on a read-only mount: read as it must be, and nothing of it changes, nor of the filesystem."""
    tally = Tally(run)
    with filesystem(run, "ext4", 256 * MIB) as fs:
        for cycle in range(run.share(10)):
            image = Image(fs.point, run.rng, "mixed", 3)
            writer = image.writer(run)
            listen(writer, 5 + run.rng.randrange(60))
            writer.kill()
            judge(writer, writer.finish(), tally, killed=True)
            acked = image.acked(writer)
            tally.acknowledged += len(writer.beginning("acked"))
            image.path.chmod(0o444)
            fs.remount("ro")
            before, medium = seen(image.path), digest(fs.file)
            readers = [Driver(run, "serve") for _ in range(2)]
            answer = readers[0].ask("open", image.path)
            if answer[:3] != ("err", "Io", "30"):
                raise Failed(f"opening for writing on a read-only mount answers {answer}")
            for r in readers:
                must(r.ask("open_read_only", image.path), "opening for reading on a read-only mount")
                must(r.ask("check"), "a check on a read-only mount")
            state, missing = image.verify(run, acked, reading="only")
            if missing:
                tally.lose(f"cycle {cycle}, read-only mount: {missing}")
            for r in readers:
                r.finish()
            unchanged(before, image.path, "a read-only mount")
            if digest(fs.file) != medium:
                raise Failed("the medium of a read-only mount changed")
            fs.remount()
            unchanged(before, image.path, "mounted for writing again")
            again, missing = image.verify(run, acked, reading="only")
            if missing or again != state:
                tally.lose(f"cycle {cycle}, for reading on a writable mount: {missing or again}")
            unchanged(before, image.path, "a writable mount")
            # And then for writing.
            image.path.chmod(0o600)
            now, missing = image.verify(run, state or acked)
            if missing:
                tally.lose(f"cycle {cycle}, for writing: {missing}")
            image.path.unlink()
            tally.cycles += 1
    return tally.result()


def digest(path):
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()
