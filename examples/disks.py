"""A disk, a snapshot of it and a writable copy, from Python, with the standard library alone. Built and run with

    cargo rustc --release --lib --features capi --crate-type cdylib
    python3 examples/disks.py target/release/libsnapdisk.so disks.img
"""

import ctypes
import sys
from ctypes import POINTER, byref, c_char, c_char_p, c_int32, c_size_t, c_uint32, c_uint64, c_void_p


class Extent(ctypes.Structure):
    _fields_ = [("offset", c_uint64), ("len", c_uint64), ("data", c_uint32), ("reserved", c_uint32)]


class Info(ctypes.Structure):
    _fields_ = [
        ("id", c_uint64),
        ("volume", c_uint64),
        ("bytes", c_uint64),
        ("created_ns", c_uint64),
        ("kind", c_uint32),
        ("reserved", c_uint32),
        ("name", c_char * 72),
    ]


class Error(OSError):
    """What a call answered; `code` is one of the header's."""

    def __init__(self, library, code):
        super().__init__(library.snapdisk_errno(code), library.snapdisk_last_error().decode())
        self.code = code


E_READ_ONLY, E_HANDLE = 10, 64


class Library:
    """The functions that this program uses, with errors as exceptions."""

    def __init__(self, path):
        self.c = ctypes.CDLL(path)
        self.c.snapdisk_last_error.restype = c_char_p
        place = POINTER(c_uint64)
        self.declare("snapdisk_create", c_char_p, c_void_p, place)
        self.declare("snapdisk_open", c_char_p, c_void_p, place)
        self.declare("snapdisk_close", c_uint64)
        self.declare("snapdisk_volumes", c_uint64, c_uint64, POINTER(Info), c_size_t, POINTER(c_size_t))
        self.declare("snapdisk_volume_create", c_uint64, c_char_p, c_uint64, place)
        self.declare("snapdisk_volume_open", c_uint64, c_char_p, c_uint32, place)
        self.declare("snapdisk_snapshot_create", c_uint64, c_char_p, c_uint32, place)
        self.declare("snapdisk_clone", c_uint64, c_char_p, c_uint32, place)
        self.declare("snapdisk_rollback", c_uint64, c_uint64, c_uint32)
        self.declare("snapdisk_read", c_uint64, c_char_p, c_size_t, c_uint64)
        self.declare("snapdisk_write", c_uint64, c_char_p, c_size_t, c_uint64, c_uint32)
        self.declare("snapdisk_disk_flush", c_uint64)
        self.declare("snapdisk_extents", c_uint64, c_uint64, c_uint64, POINTER(Extent), c_size_t, POINTER(c_size_t))
        self.declare("snapdisk_disk_close", c_uint64)

    def declare(self, name, *args):
        function = getattr(self.c, name)
        function.argtypes, function.restype = args, c_int32

        def call(*given):
            code = function(*given)
            if code:
                raise Error(self.c, code)

        setattr(self, name.removeprefix("snapdisk_"), call)

    def made(self, function, *args):
        """Calls a function whose last argument is the place of a handle, and returns the handle."""
        handle = c_uint64()
        getattr(self, function)(*args, byref(handle))
        return handle.value


def main(library, image):
    snapdisk = Library(library)
    store = snapdisk.made("create", image.encode(), None)
    disk = snapdisk.made("volume_create", store, b"root", 1 << 30)
    snapdisk.write(disk, b"hello", 5, 4096, 0)
    snapdisk.disk_flush(disk)
    before = snapdisk.made("snapshot_create", disk, b"before", 0)
    snapdisk.write(disk, b"HELLO", 5, 4096, 0)
    copy = snapdisk.made("clone", before, b"copy", 0)
    snapdisk.rollback(disk, before, 0)

    buf = ctypes.create_string_buffer(5)
    for what in disk, before, copy:
        snapdisk.read(what, buf, 5, 4096)
        assert buf.raw == b"hello", buf.raw

    extents, count = (Extent * 4)(), c_size_t()
    snapdisk.extents(disk, 0, 1 << 20, extents, 4, byref(count))
    print([(e.offset, e.len, bool(e.data)) for e in extents[: count.value]])
    infos = (Info * 16)()
    snapdisk.volumes(store, 0, infos, 16, byref(count))
    print([(i.id, i.name.decode(), i.bytes) for i in infos[: count.value]])

    for code, call in (
        (E_READ_ONLY, lambda: snapdisk.write(before, b"x", 1, 0, 0)),
        (E_HANDLE, lambda: snapdisk.disk_flush(12345)),
    ):
        try:
            call()
            raise AssertionError("an error was expected")
        except Error as e:
            assert e.code == code, e
            print(e)

    for handle in disk, before, copy:
        snapdisk.disk_close(handle)
    snapdisk.close(store)

    store = snapdisk.made("open", image.encode(), None)
    disk = snapdisk.made("volume_open", store, b"copy", 0)
    snapdisk.read(disk, buf, 5, 4096)
    assert buf.raw == b"hello", buf.raw
    snapdisk.disk_close(disk)
    snapdisk.close(store)
    print("done")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(f"usage: {sys.argv[0]} LIBRARY IMAGE")
    main(sys.argv[1], sys.argv[2])
