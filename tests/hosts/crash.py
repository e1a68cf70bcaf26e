"""Rungs in which a writer is stopped at a random moment: by the end of its filesystem, by SIGKILL, or by writeback that fails.

The verdict comes from a separate run of the driver, after the filesystem was mounted anew where it went away. A writer that had not opened
its image when its filesystem went away says so, which is no failure of the engine.
"""

import re
import time

from host import MIB, Driver, Failed, NotRun, filesystem

# How a live store may answer once the host fails.
HOST_FAILED = {"Io", "Poisoned"}
# What a verifier may say of a host that failed and was not mounted anew.
HOST_REFUSED = re.compile(r"(open for (reading|writing)|read \S+|check): (Io|NoSpace|Poisoned) (-|[0-9]+)|check: [0-9]+ findings, .*\(os error 5\)")
# So many cycles at most until a planted bug is seen.
PLANTED_CYCLES = 60


class Tally:
    """What a rung did and saw."""

    def __init__(self, run):
        self.hunting = run.hunting
        run.tally = self
        self.cycles = self.acknowledged = self.lost = self.unopened = 0
        self.losses = []
        self.seen = {}
        self.messages = {}

    def note(self, what):
        self.seen[what] = self.seen.get(what, 0) + 1

    def lose(self, what):
        self.lost += 1
        self.losses.append(what)
        if self.hunting:
            raise Failed(what)

    def result(self):
        return {
            "cycles": self.cycles, "acknowledged": self.acknowledged, "lost": self.lost, "unopened": self.unopened,
            "losses": self.losses[:5], "seen": dict(sorted(self.seen.items(), key=lambda s: -s[1])), "messages": self.messages,
        }


class Image:
    """An image over several lives of its writer."""

    count = 0

    def __init__(self, directory, rng, profile, threads):
        Image.count += 1
        self.path = directory / f"image-{Image.count}"
        self.seed, self.profile, self.threads = rng.randrange(1 << 32), profile, threads
        self.state = [0] * threads

    def writer(self, run, **more):
        return Driver(
            run, "work", image=self.path, seed=self.seed, profile=self.profile, fresh=run.fresh,
            done=",".join(map(str, self.state)), **more,
        )

    def acked(self, writer):
        """What the writer said is durable."""
        told = writer.beginning("acked")
        return [int(n) for n in told[-1].split(",")] if told else self.state

    def verify(self, run, acked, **more):
        """The state that a new process finds, or what it misses."""
        driver = Driver(
            run, "verify", image=self.path, seed=self.seed, profile=self.profile, fresh=run.fresh,
            acked=",".join(map(str, acked)), **more,
        )
        status = driver.finish()
        if status == 0:
            return [int(n) for n in driver.beginning("state")[0].split(",")], None
        told = driver.beginning("lost")
        return None, told[0] if told else f"the verifier ended with {status}: {''.join(driver.errors)[-500:]}"


def listen(writer, acks):
    """Waits until the writer is at work and has acknowledged so often; less if it ends before."""
    line = writer.next()
    if line != "begin":
        raise Failed(f"the writer said {line!r}: {''.join(writer.errors)[-500:]}")
    while acks > 0:
        line = writer.next()
        if line is None:
            return
        acks -= line.startswith(("acked ", "open"))


def judge(writer, status, tally, killed=False, allowed=HOST_FAILED):
    """What the writer itself reports as wrong."""
    wrong = writer.beginning("wrong")
    if wrong:
        tally.lose(f"the live store: {wrong[0]}")
    if not killed and status != 0:
        raise Failed(f"the writer ended with {status}: {''.join(writer.errors)[-1000:]}")
    for told in writer.beginning("stopped"):
        kind = told.split(" ", 2)[1]
        if kind not in allowed:
            raise Failed(f"the host failed, and an operation answered {told}")
        tally.note(" ".join(told.split(" ", 3)[1:3]))
    for told in writer.beginning("unopened"):
        tally.unopened += 1
        tally.note("unopened " + " ".join(told.split(" ", 2)[:2]))


def settle(run, image, writer, tally, what):
    """Verifies what a crash left. Gives the image for the next life, `None` if there is to be a new one."""
    acked = image.acked(writer)
    tally.cycles += 1
    tally.acknowledged += len(writer.beginning("acked"))
    opened = "open" in writer.said
    if not image.path.exists():
        if opened:
            tally.lose(f"{what}: the image is gone")
        return None
    state, missing = image.verify(run, acked, close=run.rng.choice(["yes", "no"]))
    if missing:
        tally.lose(f"{what}, seed {image.seed} {image.profile}: {missing}")
        return None
    image.state = state
    return image if max(state) < 3000 else None


def shutdown_cycles(run, fs, flag, tally, cycles, **more):
    image = None
    for cycle in range(cycles):
        rng = run.rng
        if image is None or image.profile == "grow" or rng.random() < 0.2:
            if image:
                image.path.unlink(missing_ok=True)
            image = Image(fs.point, rng, rng.choice(["mixed", "grow", "grow"]), rng.choice([1, 3, 4]))
        writer = image.writer(run, **more)
        listen(writer, rng.choice([0, 1, 2 + rng.randrange(10), rng.randrange(60), rng.randrange(120)]))
        time.sleep(rng.random() * rng.choice([0.001, 0.01, 0.03]))
        fs.shut_down(flag)
        status = writer.finish()
        judge(writer, status, tally)
        fs.remount()
        image = settle(run, image, writer, tally, f"cycle {cycle}")
        if image is None:
            for old in fs.point.glob("image-*"):
                old.unlink()


def shutdown(kind, flag, options=""):
    def rung(run):
        tally = Tally(run)
        with filesystem(run, kind, 512 * MIB, options=options) as fs:
            shutdown_cycles(run, fs, flag, tally, run.cycles)
            if run.hunting:
                return tally.result()
            liar = until_caught(run, lambda t: shutdown_cycles(run, fs, flag, t, 1, lie="unflushed"))
        return tally.result() | {"planted": [f"a writer that acknowledges without a flush: seen in cycle {liar}"]}

    return rung


def until_caught(run, cycle):
    """Runs cycles with a bug of the driver until one loses something; gives how many that took."""
    kept, tally = run.tally, Tally(run)
    run.tally = kept
    for n in range(1, PLANTED_CYCLES + 1):
        cycle(tally)
        if tally.lost:
            return n
    raise Failed(f"a planted bug is not seen in {PLANTED_CYCLES} cycles")


def kill_cycles(run, directory, tally, cycles, **more):
    """Three writers at a time, an image each."""
    images = [None] * 3
    for cycle in range(cycles):
        rng = run.rng
        writers = []
        for i, image in enumerate(images):
            if image is None or rng.random() < 0.1:
                if image:
                    image.path.unlink(missing_ok=True)
                images[i] = Image(directory, rng, rng.choice(["mixed", "mixed", "grow"]), rng.choice([1, 3]))
            writers.append(images[i].writer(run, **more))
        for i in rng.sample(range(3), 3):
            listen(writers[i], rng.choice([0, 1, rng.randrange(30), rng.randrange(100)]))
            time.sleep(rng.random() * 0.005)
            if rng.random() < 0.2 and "open" in writers[i].said:
                other = Driver(run, "serve")
                answer = other.ask("open", images[i].path)
                other.finish()
                if answer[:2] != ("err", "Locked"):
                    tally.lose(f"cycle {cycle}: a second opening answers {answer}")
            writers[i].kill()
            judge(writers[i], writers[i].finish(), tally, killed=True)
            # The verdict opens the image at once: the lock went with the process.
            images[i] = settle(run, images[i], writers[i], tally, f"cycle {cycle}, writer {i}")
        for old in directory.glob(".snapdisk-*.tmp"):
            old.unlink()


def race(run, directory, rounds):
    """Two processes open one image at once: exactly one of them gets it."""
    path = directory / "raced"
    two = [Driver(run, "serve") for _ in range(2)]
    two[0].must("create", path)
    two[0].must("drop")
    for n in range(rounds):
        for one in two:
            one.process.stdin.write(f"open {path}\n")
            one.process.stdin.flush()
        answers = [one.next() for one in two]
        won = [a == "ok" for a in answers]
        if won.count(True) != 1 or not all(a == "ok" or a.startswith("err Locked ") for a in answers):
            raise Failed(f"round {n} of racing openings: {answers}")
        two[won.index(True)].must("drop")
    for one in two:
        one.finish()


def kill(run):
    tally = Tally(run)
    directory = run.scratch.new("kill")
    directory.mkdir()
    kill_cycles(run, directory, tally, run.cycles)
    race(run, directory, run.cycles)
    if run.hunting:
        return tally.result()
    liar = until_caught(run, lambda t: kill_cycles(run, directory, t, 1, lie="early"))
    planted = [f"a writer that acknowledges before it writes: seen in cycle {liar}"]
    return tally.result() | {"races": run.cycles, "planted": planted}


def writeback_cycle(run, kind, tally, cycle):
    with filesystem(run, kind, 512 * MIB, backing=f"{96 * MIB}") as fs:
        rng = run.rng
        # More than the medium holds, in the end.
        image = Image(fs.point, rng, "grow", 8)
        # One in four is watched from outside: no sync may begin once the last thread has met the failure.
        log = run.scratch.new("strace")
        watched = cycle % 4 == 0 and run.has_strace
        calls = "trace=fdatasync,fsync,sync_file_range,sync,syncfs,write"
        under = ["strace", "-f", "-qq", "-s", "40", "-e", calls, "-o", log] if watched else []
        writer = image.writer(run, under=list(map(str, under)))
        status = writer.finish()
        judge(writer, status, tally)
        if not writer.beginning("probe"):
            raise Failed("the medium did not fail before the writer was done")
        final(writer, tally, f"cycle {cycle}")
        if watched:
            late = syncs_after(log, len(image.state))
            tally.note("watched from outside")
            if late:
                tally.lose(f"cycle {cycle}: after the failure {late[0]}")
        tally.cycles += 1
        tally.acknowledged += len(writer.beginning("acked"))
        acked = image.acked(writer)
        # What the cache shows is not what the medium holds. First as it is; then with room again; then without the cache.
        state = acked
        for stage in ["full", "full, to write", "room again", "mounted anew"]:
            if stage == "room again":
                fs.enlarge_backing(1024 * MIB)
            if stage == "mounted anew":
                fs.remount()
            reading = "only" if stage == "full" else "no"
            now, missing = image.verify(run, state, reading=reading, close="no")
            # Until it is mounted anew the host may refuse anything; but what it lets be read must be right.
            if missing and stage != "mounted anew" and HOST_REFUSED.match(missing):
                tally.note(f"{stage}: {HOST_REFUSED.match(missing)[0]}")
                tally.messages.setdefault(f"{stage}: {HOST_REFUSED.match(missing)[0]}", missing)
                continue
            if missing:
                tally.lose(f"cycle {cycle}, {stage}, seed {image.seed}: {missing}")
                return
            tally.note(f"{stage}: Ok")
            # What a writable opening found is durable from then on, and what another writer adds to it.
            if reading == "no":
                state = image.state = now
            if stage == "room again":
                writer = image.writer(run, operations=20)
                judge(writer, writer.finish(), tally)
                tally.acknowledged += len(writer.beginning("acked"))
                tally.note("room again: goes on" if "closed" in writer.said else "room again: fails again")
                state = image.acked(writer)


def final(writer, tally, what):
    """After a failure everything answers `Poisoned`, and no sync is issued."""
    answers = {w.split(" ", 3)[2] for w in writer.beginning("probe")}
    if answers != {"Poisoned"}:
        tally.lose(f"{what}: after the failure the store answers {sorted(answers)}")
    before, after = writer.beginning("syncs")[0].split()
    if before != after:
        tally.lose(f"{what}: {before} syncs became {after} after the failure")


def inject(run):
    """Single system calls of a real process fail, as strace makes them: the host itself is well."""
    if not run.has_strace:
        raise NotRun("no strace")
    tally = Tally(run)
    directory = run.scratch.new("inject")
    directory.mkdir()
    for cycle in range(run.share(4)):
        rng = run.rng
        call, errno = rng.choice(
            [("fdatasync", "EIO"), ("fdatasync", "ENOSPC"), ("pwrite64", "EIO"), ("pwrite64", "ENOSPC"), ("pwritev", "EIO"),
             ("pwritev2", "EIO"), ("pwritev2", "ENOSPC"), ("sync_file_range", "EIO"), ("fallocate", "ENOSPC"), ("fallocate", "EDQUOT")]
        )
        image = Image(directory, rng, rng.choice(["mixed", "grow"]), rng.choice([1, 3]))
        # strace counts each thread's calls for itself.
        when = 1 + rng.randrange({"fdatasync": 40, "pwrite64": 80, "fallocate": 6}.get(call, 20))
        if rng.random() < 0.9:
            maker = Driver(run, "serve")
            for words in (["create", image.path], ["close"]):
                maker.must(*words)
            maker.finish()
        log = run.scratch.new("strace")
        rule = f"inject={call}:error={errno}:when={when}{rng.choice(['', '+'])}"
        writer = image.writer(run, operations=150, under=["strace", "-f", "-qq", "-e", f"trace={call}", "-e", rule, "-o", str(log)])
        status = writer.finish()
        # Where fresh space is reserved and written, a full host is no failure.
        is_full = call == "fallocate" or (call, errno) == ("pwrite64", "ENOSPC")
        judge(writer, status, tally, allowed=HOST_FAILED | ({"NoSpace"} if is_full else set()))
        struck = "(INJECTED)" in log.read_text(errors="replace")
        stopped = [s.split(" ", 2)[1] for s in writer.beginning("stopped")]
        if struck and writer.beginning("probe") and call != "fallocate":
            final(writer, tally, f"cycle {cycle}, {rule}")
        elif struck and call == "fallocate" and "Poisoned" in stopped:
            tally.lose(f"cycle {cycle}, {rule}: a host that is full poisons")
        # Where fresh space is written ahead of need, a full host is no failure.
        elif struck and "open" in writer.said and not stopped and (call == "fdatasync" or call.startswith("pwrite") and errno == "EIO"):
            tally.lose(f"cycle {cycle}, {rule}: nobody was told")
        tally.note(f"{call} {errno}: " + (",".join(sorted(set(stopped))) or "not met" if struck else "not reached"))
        log.unlink()
        settle(run, image, writer, tally, f"cycle {cycle}, {rule}")
        image.path.unlink(missing_ok=True)
    return tally.result()


def syncs_after(log, threads):
    """The syncs that begin after the last thread has said that it stopped."""
    stopped, late = 0, []
    for line in log.read_text(errors="replace").splitlines():
        call = line.split(None, 1)[1] if " " in line else ""
        if call.startswith('write(1, "stopped '):
            stopped += 1
        elif stopped >= threads and call.startswith(("fdatasync(", "fsync(", "pwritev2(", "sync_file_range(", "sync(", "syncfs(")):
            late.append(line)
    if stopped < threads:
        raise Failed(f"the trace shows {stopped} stopped threads of {threads}")
    return late


def repeated(cycle_of, kind, part):
    """A rung of cycles on one kind of filesystem, one for `part` that were asked for."""
    def rung(run):
        tally = Tally(run)
        for cycle in range(run.share(part)):
            cycle_of(run, kind, tally, cycle)
        return tally.result()

    return rung


def writeback(kind):
    return repeated(writeback_cycle, kind, 10)
