#!/usr/bin/env python3
"""A real machine on a volume: QEMU in software emulation, a Debian kernel, and a root filesystem that is made on the spot.

    python3 tests/machine/run.py [vhost-user | nbd] [--queues N] [--keep DIRECTORY]

The machine boots from a volume over vhost-user, or over NBD, writes, has a snapshot taken of its live disk, and is switched off hard. It boots from a
clone of that snapshot and finds what it had synced; the volume is rolled back, and it boots from that again. The server is killed beside a
machine that writes, and comes back. The last lines of each serial log are printed, as evidence.

What is needed: cargo, mkfs.ext4, qemu-system-x86_64, a static busybox and a kernel. What is not installed of the last three is unpacked from
Debian's packages into a directory of the script's own (`apt-get download`, `dpkg -x`): nothing is installed and nothing removed. Where that
can't be done the script says "not run", and why, and ends well.
"""

import argparse
import gzip
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MODULES = ("virtio_pci", "virtio_blk")
# Seconds after which something hangs. Software emulation beside other work is slow.
LIMIT = 600
LAST = 12


class NotRun(Exception):
    """Something that is needed is missing."""


def run(*command, **options):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, **options)
    if done.returncode:
        raise RuntimeError(f"{command}: {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


class Tools:
    """QEMU, busybox and the kernel: installed ones, or unpacked."""

    def __init__(self, at):
        self.at = at
        self.env = dict(os.environ)
        if not shutil.which("mkfs.ext4"):
            raise NotRun("no mkfs.ext4 (e2fsprogs)")
        self.qemu = shutil.which("qemu-system-x86_64")
        self.data = []
        if not self.qemu:
            self.qemu = at / "usr/bin/qemu-system-x86_64"
            if not self.qemu.exists():
                listed = self.apt("install", "-s", "--no-install-recommends", "qemu-system-x86")
                self.unpack(re.findall(r"^Inst (\S+)", listed, re.M), "qemu-system-x86")
            libraries = [at / "usr/lib/x86_64-linux-gnu", at / "lib/x86_64-linux-gnu"]
            self.env["LD_LIBRARY_PATH"] = ":".join(map(str, libraries))
            self.data = ["-L", at / "usr/share/seabios", "-L", at / "usr/share/qemu"]
        self.busybox = at / "bin/busybox"
        if not self.busybox.exists():
            self.unpack(["busybox-static"], "busybox-static")
        if not list(at.glob("boot/vmlinuz-*")):
            kernel = re.search(r"Depends: (linux-image-\S+)", self.apt_cache("linux-image-cloud-amd64"))
            if not kernel:
                raise NotRun("apt knows no kernel package")
            self.unpack([kernel[1]], "the kernel")
        self.kernel = next((at / "boot").glob("vmlinuz-*"))
        # A merged /usr has the modules below it.
        self.modules = {p.name.split(".ko")[0]: p for p in at.glob("**/lib/modules/**/*.ko*")}

    def apt(self, *args):
        try:
            return run("apt-get", *args, env={**os.environ, "LC_ALL": "C"})
        except (RuntimeError, OSError) as e:
            raise NotRun(f"apt-get {args[0]}: {str(e).strip().splitlines()[-1]}") from e

    def apt_cache(self, name):
        try:
            return run("apt-cache", "depends", name, env={**os.environ, "LC_ALL": "C"})
        except (RuntimeError, OSError) as e:
            raise NotRun(f"{name}: no such package for apt") from e

    def unpack(self, packages, what):
        if not packages:
            raise NotRun(f"{what}: apt finds nothing to unpack")
        debs = self.at / "debs"
        debs.mkdir(parents=True, exist_ok=True)
        try:
            run("apt-get", "download", *packages, cwd=debs)
        except (RuntimeError, OSError) as e:
            raise NotRun(f"{what}: its packages can't be downloaded") from e
        for deb in debs.glob("*.deb"):
            run("dpkg", "-x", deb, self.at)
            deb.unlink()


# The first program of the machine, in memory: it loads the drivers and hands over to the volume's own.
INIT = """#!/bin/busybox sh
/bin/busybox mkdir -p /dev /proc /root
/bin/busybox mount -t devtmpfs dev /dev
for m in {modules}; do /bin/busybox insmod /lib/$m.ko || /bin/busybox echo "no module $m"; done
i=0
while [ ! -b /dev/vda ] && [ $i -lt 600 ]; do /bin/busybox sleep 0.1; i=$((i+1)); done
/bin/busybox mount -t ext4 /dev/vda /root || {{ /bin/busybox echo "MARK no root"; /bin/busybox poweroff -f; }}
exec /bin/busybox switch_root /root /sbin/init
"""

# The first program of the volume: it says which boot this is, and then does what comes by the serial line.
SBIN_INIT = """#!/bin/busybox sh
export PATH=/bin
mount -t devtmpfs dev /dev 2>/dev/null
mount -t proc proc /proc
mount -t sysfs sys /sys
n=$(cat /boots 2>/dev/null || echo 0)
n=$((n+1))
echo $n >/boots
sync
echo "MARK boot $n of $(cat /sys/block/vda/serial), $(cat /sys/block/vda/size) sectors, $(cat /sys/block/vda/queue/write_cache)"
while read -r line; do
    eval "$line"
    echo "MARK done $?"
done
poweroff -f
"""


def newc(entries):
    """An archive as the kernel unpacks it: (name, mode, content)."""
    out = b""
    for i, (name, mode, content) in enumerate([*entries, ("TRAILER!!!", 0, b"")]):
        raw = name.encode() + b"\0"
        fields = [i + 1, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(raw), 0]
        head = b"070701" + b"".join(b"%08x" % f for f in fields) + raw
        out += head + b"\0" * (-len(head) % 4) + content + b"\0" * (-len(content) % 4)
    return out


def module(path):
    content = path.read_bytes()
    if path.suffix == ".xz":
        import lzma

        return lzma.decompress(content)
    return content


def in_order(modules, wanted):
    """The modules that are wanted with those that they need, which come first. What is built into the kernel is no module."""
    order = []

    def add(name):
        if name in order or name not in modules:
            return
        needs = re.search(rb"\0depends=([^\0]*)\0", module(modules[name]))
        for other in needs[1].decode().split(",") if needs else []:
            add(other)
        order.append(name)

    for name in wanted:
        add(name)
    return order


def make_initramfs(tools, at):
    found = in_order(tools.modules, MODULES)
    entries = [(d, 0o040755, b"") for d in ("bin", "lib")]
    entries.append(("bin/busybox", 0o100755, tools.busybox.read_bytes()))
    entries.append(("init", 0o100755, INIT.format(modules=" ".join(found)).encode()))
    entries += [(f"lib/{m}.ko", 0o100644, module(tools.modules[m])) for m in found]
    at.write_bytes(gzip.compress(newc(entries), 1))


def make_disk(tools, at):
    """A root filesystem of 256 MiB, as a file."""
    tree = at.with_suffix(".tree")
    for name in ("bin", "sbin", "dev", "proc", "sys", "data"):
        (tree / name).mkdir(parents=True)
    shutil.copy(tools.busybox, tree / "bin/busybox")
    for name in "sh cat echo sync mount poweroff dd md5sum sleep ls rm mkdir wc cmp fstrim".split():
        (tree / "bin" / name).symlink_to("busybox")
    (tree / "sbin/init").write_text(SBIN_INIT)
    (tree / "sbin/init").chmod(0o755)
    run("mkfs.ext4", "-q", "-d", tree, at, "256M")
    shutil.rmtree(tree)


class Server:
    """The server of the disks, as a process of its own."""

    def __init__(self, program, image, sockets):
        self.process = subprocess.Popen(
            [program, image, sockets], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.answer()

    def answer(self):
        line = self.process.stdout.readline()
        if not line.startswith("ok"):
            raise RuntimeError(f"the server says {line!r}")
        return line[3:].strip()

    def do(self, line):
        print(f"server: {line}", flush=True)
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.answer()

    def refuses(self, line, kind):
        try:
            self.do(line)
        except RuntimeError as e:
            assert f"error {kind}" in str(e), e
            return
        raise AssertionError(f"{line} was not refused")

    def close(self):
        self.process.stdin.close()
        if self.process.wait(LIMIT):
            raise RuntimeError("the server failed at its end")

    def kill(self):
        self.process.kill()
        self.process.wait()


class Command(Server):
    """`snapdisk serve --nbd`, and the other commands beside it."""

    def __init__(self, program, image, sockets):
        self.program, self.image = program, image
        if not image.exists():
            run(program, "init", image)
        command = [program, "serve", image, "--nbd", sockets / "nbd.sock"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        while (line := self.process.stdout.readline()) != "ready\n":
            if not line:
                raise RuntimeError("the server does not begin")

    def do(self, line):
        print(f"server: {line}", flush=True)
        match line.split():
            case ["idle"]:
                return ""
            case ["import", name, file]:
                words = ["import", self.image, name, file]
            case ["snapshot", volume, name]:
                words = ["snapshot", self.image, f"{volume}@{name}"]
            case ["clone", volume, name, new]:
                words = ["clone", self.image, f"{volume}@{name}", new]
            case ["rollback", volume, name]:
                words = ["rollback", self.image, f"{volume}@{name}"]
            case ["check"]:
                run(self.program, "check", self.image)
                return "0 findings"
        # The server may not have seen yet that a machine is gone.
        limit = time.monotonic() + LIMIT
        while True:
            try:
                return run(self.program, *words)
            except RuntimeError as e:
                if line == self.expected or "attached" not in str(e) or time.monotonic() > limit:
                    raise
                time.sleep(0.1)

    expected = None

    def refuses(self, line, kind):
        self.expected = line
        try:
            self.do(line)
        except RuntimeError as e:
            assert "attached" in str(e), e
            return
        finally:
            self.expected = None
        raise AssertionError(f"{line} was not refused")

    def close(self):
        self.process.terminate()
        super().close()


def vhost_user(sockets, volume, queues):
    path = sockets / f"{volume}.sock"
    return [
        "-chardev", f"socket,id=disk,path={path},reconnect=1",
        "-device", f"vhost-user-blk-pci,chardev=disk,num-queues={queues}",
    ]  # fmt: skip


def nbd(sockets, volume, queues):
    path = sockets / "nbd.sock"
    disk = f"driver=nbd,node-name=disk,export={volume},discard=unmap,reconnect-delay=60"
    return [
        "-blockdev", f"{disk},server.type=unix,server.path={path}",
        "-device", f"virtio-blk-pci,drive=disk,num-queues={queues},discard=on",
    ]  # fmt: skip


class Machine:
    """A running machine, with its serial line."""

    def __init__(self, tools, work, name, disk):
        self.name, self.log, self.at = name, b"", 0
        command = [
            tools.qemu, *tools.data, "-machine", "q35,accel=tcg", "-cpu", "max", "-smp", "2", "-m", "256M",
            "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
            "-object", "memory-backend-memfd,id=m,size=256M,share=on", "-numa", "node,memdev=m",
            *disk,
            "-kernel", tools.kernel, "-initrd", work / "initramfs", "-append", "console=ttyS0 panic=-1 quiet mitigations=off",
            "-serial", "stdio",
        ]  # fmt: skip
        self.process = subprocess.Popen(
            [str(c) for c in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env=tools.env,
        )  # fmt: skip

    def wait(self, pattern):
        """Waits for a line, and returns its match."""
        limit = time.monotonic() + LIMIT
        while True:
            text = self.log[self.at :].decode(errors="replace").replace("\r", "")
            found = re.search(pattern, text)
            if found:
                self.at = len(self.log)
                return found
            if time.monotonic() > limit or self.process.poll() is not None:
                raise RuntimeError(f"{self.name}: no {pattern!r}\n{self.tail()}")
            if select.select([self.process.stdout], [], [], 1)[0]:
                self.log += os.read(self.process.stdout.fileno(), 65536)

    def boot(self):
        return int(self.wait(r"MARK boot (\d+) of .*\n")[1])

    def send(self, line):
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def do(self, line):
        self.send(line)
        code = self.wait(r"MARK done (\d+)")[1]
        if code != "0":
            raise RuntimeError(f"{self.name}: {line}: {code}\n{self.tail()}")

    def say(self, line):
        """The output of a line that prints one word."""
        self.send(f"echo WORD $({line})")
        word = self.wait(r"\nWORD (.*)\n(?:.*\n)*MARK done 0")[1]
        return word.strip()

    def tail(self):
        lines = self.log.decode(errors="replace").replace("\r", "").splitlines()
        return "\n".join(f"  {self.name}| {line}" for line in lines[-LAST:])

    def off(self):
        """Takes the power away."""
        self.process.kill()
        self.process.wait()
        print(self.tail(), flush=True)


def story(tools, work, serve, device, queues):
    image, sockets = work / "disks.img", work / "sockets"
    sockets.mkdir()
    make_initramfs(tools, work / "initramfs")
    make_disk(tools, work / "root.ext4")
    server = serve(image, sockets)
    server.do(f"import root {work / 'root.ext4'}")

    def start(name, volume):
        return Machine(tools, work, name, device(sockets, volume, queues))

    def off(machine):
        machine.off()
        server.do("idle")

    first = start("first boot", "root")
    assert first.boot() == 1
    first.do("dd if=/dev/urandom of=/data/kept bs=1M count=24 2>/dev/null && echo before >/data/word && sync")
    kept = first.say("md5sum </data/kept")
    # A live snapshot, while the guest writes on.
    first.send("i=0; while [ $i -lt 40 ]; do dd if=/dev/urandom of=/data/churn bs=64k count=16 2>/dev/null; i=$((i+1)); done")
    server.do("snapshot root live")
    first.wait(r"MARK done 0")
    server.refuses("rollback root live", "Busy")
    first.do("echo after >/data/word && rm /data/kept && sync && fstrim /")
    if device is vhost_user:
        # NBD has no word for a new size.
        server.do("resize root 536870912")
        sectors = "0"
        limit = time.monotonic() + LIMIT
        while sectors != "1048576":
            assert time.monotonic() < limit, f"the machine sees {sectors} sectors"
            sectors = first.say("cat /sys/block/vda/size")
    off(first)

    server.do("clone root live copy")
    clone = start("clone", "copy")
    assert clone.boot() == 2
    assert clone.say("cat /data/word") == "before"
    assert clone.say("md5sum </data/kept") == kept
    clone.do("echo clone >/data/word && sync")
    off(clone)

    again = start("after power was lost", "root")
    assert again.boot() == 2
    assert again.say("cat /data/word") == "after"
    # The server is killed beside a machine that writes, and comes back.
    again.send("i=0; while [ $i -lt 60 ]; do echo $i >/data/n && sync || break; echo AT $i; i=$((i+1)); done")
    again.wait(r"\nAT 5\n")
    server.kill()
    print("server: killed", flush=True)
    server = serve(image, sockets)
    again.wait(r"MARK done 0")
    assert again.say("cat /data/n") == "59"
    off(again)

    server.do("rollback root live")
    back = start("rolled back", "root")
    assert back.boot() == 2
    assert back.say("cat /data/word") == "before"
    assert back.say("md5sum </data/kept") == kept
    off(back)

    assert server.do("check") == "0 findings"
    server.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("way", nargs="?", choices=["vhost-user", "nbd"], default="vhost-user")
    parser.add_argument("--queues", type=int, default=2)
    parser.add_argument("--keep", type=Path, help="a directory for what is unpacked, to be used again")
    options = parser.parse_args()
    signal.alarm(4 * LIMIT)
    with tempfile.TemporaryDirectory(prefix="snapdisk-machine-") as work:
        work = Path(work)
        try:
            tools = Tools(options.keep or work / "tools")
        except NotRun as e:
            print(f"machine: not run: {e}")
            return
        run("cargo", "build", "--quiet", "--bins", "--example", "machine", "--all-features", cwd=ROOT)
        built = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "debug"
        program = Path(os.environ.get("SNAPDISK", built / "snapdisk"))
        serves = subprocess.run([program, "serve", "--help"], capture_output=True, text=True).stdout
        if options.way == "nbd" and "--nbd" not in serves:
            print("machine: not run: the command serves no NBD")
            return
        print(run(tools.qemu, "--version", env=tools.env).splitlines()[0], tools.kernel.name, flush=True)
        if options.way == "nbd":
            story(tools, work, lambda *where: Command(program, *where), nbd, options.queues)
        else:
            story(tools, work, lambda *where: Server(built / "examples/machine", *where), vhost_user, options.queues)
    print(f"machine: passed ({options.way})")


if __name__ == "__main__":
    sys.exit(main())
