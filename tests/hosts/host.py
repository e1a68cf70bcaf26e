"""What the rungs stand on: a scratch directory with filesystems on loop devices that are taken away again, and the driver's processes."""

import array
import contextlib
import fcntl
import os
import pathlib
import queue
import resource
import shutil
import signal
import subprocess
import tempfile
import threading
import time

# XFS_IOC_GOINGDOWN, which ext4 and others take too, and its arguments.
GOINGDOWN = 0x8004587D
FLAGS = {"default": 0, "logflush": 1, "nologflush": 2}
MIB = 1 << 20
# Seconds. A process that says nothing for so long hangs; a machine that was suspended for a while is none of its doing.
PATIENCE = 900


class NotRun(Exception):
    """Something that a rung needs can't be had here."""


class Failed(Exception):
    """The engine broke a promise, or a planted bug was not seen."""


def need(*tools):
    for tool in tools:
        if shutil.which(tool) is None:
            raise NotRun(f"no {tool}")


def command(*words):
    run = subprocess.run([str(w) for w in words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if run.returncode != 0:
        raise OSError(f"{' '.join(map(str, words))}: {run.stdout.strip()}")
    return run.stdout


class Scratch:
    """A directory in which everything that a run makes is, and the mounts below it."""

    def __init__(self, base):
        self.path = pathlib.Path(tempfile.mkdtemp(prefix="snapdisk-hosts-", dir=base))
        self.path.chmod(0o755)
        self.mounts = []
        self.count = 0

    def new(self, name):
        self.count += 1
        return self.path / f"{self.count}-{name}"

    def unmount(self, point):
        for attempt in range(50):
            try:
                command("umount", point)
                break
            except OSError:
                # A killed process may hold it for a moment longer.
                if attempt == 49:
                    raise
                time.sleep(0.1)
        self.mounts.remove(point)

    def mount(self, point, *words):
        command("mount", *words, point)
        self.mounts.append(point)

    def remove(self):
        for point in reversed(self.mounts[:]):
            with contextlib.suppress(OSError):
                self.unmount(point)
        if not self.mounts:
            shutil.rmtree(self.path, ignore_errors=True)


class Filesystem:
    """A filesystem in a file, mounted."""

    MAKE = {
        "ext4": ["mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0"],
        "xfs": ["mkfs.xfs", "-q", "-f"],
        "btrfs": ["mkfs.btrfs", "-q", "-f"],
    }

    def __init__(self, scratch, kind, size, backing=None, options=""):
        """`backing`: the size of a tmpfs to put the file on, which then is larger than it can become."""
        if os.geteuid() != 0:
            raise NotRun("not root")
        need(self.MAKE[kind][0], "mount", "umount", "findmnt")
        self.scratch, self.kind, self.options = scratch, kind, options
        self.point = scratch.new(kind)
        self.point.mkdir()
        self.under = self.file = None
        try:
            self._make(size, backing)
        except OSError as why:
            self.remove()
            raise NotRun(f"{kind} can't be made: {why}") from why

    def _make(self, size, backing):
        if backing is not None:
            under = self.scratch.new("tmpfs")
            under.mkdir()
            self.scratch.mount(under, "-t", "tmpfs", "-o", f"size={backing}", "tmpfs")
            self.under = under
        self.file = (self.under or self.scratch.path) / f"{self.point.name}.img"
        with open(self.file, "wb") as f:
            f.truncate(size)
        command(*self.MAKE[self.kind], self.file)
        self.mount()

    def mount(self, *more):
        options = ",".join(filter(None, ["loop", self.options, *more]))
        self.scratch.mount(self.point, "-t", self.kind, "-o", options, self.file)
        if self.under:
            # A loop device reports a request that it wrote in part as written: page by page there are none.
            device = command("findmnt", "-n", "-o", "SOURCE", self.point).strip()
            pathlib.Path("/sys/class/block", device.removeprefix("/dev/"), "queue/max_sectors_kb").write_text("4")

    def unmount(self):
        self.scratch.unmount(self.point)

    def remount(self, *more):
        self.unmount()
        self.mount(*more)

    def shut_down(self, flag):
        """As if the machine lost power, but for the host's own journal: `logflush` writes it first, `nologflush` does not."""
        at = os.open(self.point, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(at, GOINGDOWN, array.array("I", [FLAGS[flag]]))
        finally:
            os.close(at)

    def enlarge_backing(self, size):
        command("mount", "-o", f"remount,size={size}", self.under)

    def remove(self):
        if self.point in self.scratch.mounts:
            self.unmount()
        if self.under:
            self.scratch.unmount(self.under)
        elif self.file:
            self.file.unlink(missing_ok=True)


@contextlib.contextmanager
def filesystem(run, *args, **named):
    fs = Filesystem(run.scratch, *args, **named)
    try:
        yield fs
    finally:
        run.end_drivers()
        fs.remove()


class Driver:
    """A process of the driver, and what it has said."""

    def __init__(self, run, mode, file_limit=None, signals="ignored", user=None, under=(), **arguments):
        self.run = run
        words = [str(run.binary), mode]
        for key, value in arguments.items():
            words += ["--" + key.replace("_", "-"), str(value)]

        def prepare():
            # The script ignores SIGXFSZ as every Python does, and the child inherits that.
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN if signals == "ignored" else signal.SIG_DFL)
            if file_limit is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, resource.RLIM_INFINITY))

        self.process = subprocess.Popen(
            [*under, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "SNAPDISK_PLANTED": run.planted}, preexec_fn=prepare, restore_signals=False, user=user, group=user, extra_groups=[] if user else None,
        )
        self.said, self.errors, self.gone = [], [], False
        run.drivers.append(self)
        self.lines = queue.Queue()
        self.readers = [
            threading.Thread(target=self._read, daemon=True),
            threading.Thread(target=self._read_errors, daemon=True),
        ]
        for r in self.readers:
            r.start()

    def _read(self):
        for line in self.process.stdout:
            # A line that the end of the process cut short says nothing.
            if line.endswith("\n"):
                self.lines.put(line.rstrip("\n"))
        self.lines.put(None)

    def _read_errors(self):
        for line in self.process.stderr:
            self.errors.append(line)

    def next(self):
        """Its next line; `None` once it is gone."""
        if self.gone:
            return None
        try:
            line = self.lines.get(timeout=PATIENCE)
        except queue.Empty:
            self.kill()
            raise Failed(f"the driver hangs; it said last: {self.said[-3:]}") from None
        if line is not None:
            self.said.append(line)
        self.gone = line is None
        return line

    def kill(self):
        self.process.kill()

    def finish(self):
        """Takes the rest of what it says, and its exit status."""
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        while self.next() is not None:
            pass
        status = self.process.wait()
        for r in self.readers:
            r.join()
        self.process.stdout.close()
        self.process.stderr.close()
        self.run.drivers.remove(self)
        return status

    def ask(self, *words):
        """One command of the mode `serve`, and its answer: ("ok", rest) or ("err", kind, errno, message); ("gone",) if it died of it."""
        try:
            self.process.stdin.write(" ".join(map(str, words)) + "\n")
            self.process.stdin.flush()
        except OSError:
            return ("gone",)
        line = self.next()
        if line is None:
            return ("gone",)
        first, _, rest = line.partition(" ")
        return ("ok", rest.strip()) if first == "ok" else ("err", *rest.split(" ", 2))

    def must(self, *words):
        answer = self.ask(*words)
        if answer[0] != "ok":
            raise Failed(f"{' '.join(map(str, words))} answers {answer}; {''.join(self.errors)[-500:]}")
        return answer[1]

    def beginning(self, word):
        return [line.split(" ", 1)[1] if " " in line else "" for line in self.said if line.split(" ", 1)[0] == word]
