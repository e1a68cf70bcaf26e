"""What the scripts of this directory share: programs that are looked for, and servers that are started and ended."""

import os
import shutil
import socket
import subprocess
import sys
import time

PACKAGES = {"qemu-img": "qemu-utils", "qemu-io": "qemu-utils", "qemu-nbd": "qemu-utils", "nbdkit": "nbdkit",
            "nbdinfo": "libnbd-bin", "nbdcopy": "libnbd-bin", "fio": "fio"}


def install(programs):
    """Installs what is missing, unless that would remove anything. Returns the programs that there are then."""
    packages = sorted({PACKAGES[p] for p in programs if not shutil.which(p)})
    if packages and shutil.which("apt-get") and os.geteuid() == 0:
        apt = ["apt-get", "-o", "DPkg::Lock::Timeout=60"]
        quiet = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        subprocess.run(apt + ["update"], **quiet, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"})
        for package in packages:
            plan = subprocess.run(apt + ["install", "-s", "--no-install-recommends", package], **quiet)
            removed = [line for line in plan.stdout.splitlines() if line.startswith("Remv")]
            if plan.returncode or removed:
                print(f"not installed: {package}: {removed or 'no such package'}", flush=True)
                continue
            subprocess.run(apt + ["install", "-y", "--no-install-recommends", package], **quiet,
                           env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"})
    return {p for p in programs if shutil.which(p)}


def versions(programs):
    """The first lines with which programs tell their versions."""
    for program in sorted(programs):
        out = subprocess.run([program, "--version"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        print("with", out.stdout.splitlines()[0] if out.stdout else program, flush=True)


def reachable(path, seconds=20):
    """Waits until somebody listens at a socket."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            with socket.socket(socket.AF_UNIX) as s:
                s.connect(path)
                return
        except OSError:
            time.sleep(0.02)
    sys.exit(f"nobody listens at {path}")


class Server:
    """A server that is ended with its block."""

    def __init__(self, command, path):
        self.command, self.path = command, path

    def __enter__(self):
        self.child = subprocess.Popen(self.command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        reachable(self.path)
        return self

    def __exit__(self, kind, value, trace):
        self.child.terminate()
        try:
            self.child.wait(30)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()
        self.said = self.child.stderr.read()
        if os.path.exists(self.path):
            os.remove(self.path)
