"""Why execve refused: it says ENOENT for a missing file and for a missing interpreter alike.

Runs in the container, as the container's user, after everything else failed. Reads little, blocks
never.
"""

from __future__ import annotations

import errno
import os
import stat
import struct

_HEAD = 4096
_MAX_PROGRAM_HEADERS = 64
_PT_INTERP = 3
_ELF64 = 2
_MACHINES = {
    0x03: "i386",
    0x28: "arm",
    0x3E: "amd64",
    0xB7: "arm64",
    0xF3: "riscv64",
    0x15: "ppc64",
    0x16: "s390x",
}


def explained(path: bytes, refusal: OSError) -> OSError:
    """An OSError with the same errno whose text says what is missing."""
    reasons = {
        errno.ENOENT: _absence,
        errno.ENOTDIR: _absence,
        errno.EACCES: _denial,
        errno.ENOEXEC: _no_program,
    }
    reason = reasons.get(refusal.errno or 0)
    shown = os.fsdecode(path)
    if refusal.errno == errno.E2BIG:
        return OSError(refusal.errno, f'"{shown}": arguments and environment are too long together')
    if reason is None:
        return OSError(refusal.errno, f'"{shown}" can\'t be executed')
    try:
        return OSError(refusal.errno, f'"{shown}" {reason(path)}')
    except OSError:
        return OSError(refusal.errno, f'"{shown}" can\'t be executed')


def _absence(path: bytes) -> str:
    if not os.path.lexists(path):
        directory = os.path.dirname(path)
        if directory and not os.path.isdir(directory):
            return f'is not in the image: it has no directory "{os.fsdecode(directory)}"'
        return "is not in the image"
    if not os.path.exists(path):
        return (
            f'is a symbolic link to "{os.fsdecode(os.readlink(path))}", which is not in the image'
        )
    interpreter = _interpreter(path)
    if interpreter:
        return f'needs the interpreter "{os.fsdecode(interpreter)}", which is not in the image'
    return "is there, but something that it needs is not"


def _denial(path: bytes) -> str:
    found = os.stat(path)
    if stat.S_ISDIR(found.st_mode):
        return "is a directory"
    if not stat.S_ISREG(found.st_mode):
        return "is no regular file"
    if not found.st_mode & 0o111:
        return f"has no execute permission (mode {stat.S_IMODE(found.st_mode):04o})"
    if os.statvfs(path).f_flag & os.ST_NOEXEC:
        return "lies on a mount with the option noexec"
    interpreter = _interpreter(path) if os.access(path, os.X_OK) else b""
    if interpreter:
        return f'has the interpreter "{os.fsdecode(interpreter)}", which may not be executed'
    mode, owner = stat.S_IMODE(found.st_mode), f"{found.st_uid}:{found.st_gid}"
    return f"may not be executed by uid {os.getuid()} (mode {mode:04o}, owner {owner})"


def _no_program(path: bytes) -> str:
    head = _read(path, 0, 64)
    if not head:
        return "is empty"
    if head.startswith(b"\x7fELF") and len(head) >= 20:
        order = "<" if head[5] == 1 else ">"
        (machine,) = struct.unpack_from(order + "H", head, 18)
        name = _MACHINES.get(machine, f"machine {machine}")
        return f"is built for {name}; this node is {os.uname().machine}"
    return "is no program: neither ELF nor a script that begins with #!"


def _interpreter(path: bytes) -> bytes:
    """What #! or PT_INTERP names; empty: nothing."""
    head = _read(path, 0, _HEAD)
    if head.startswith(b"#!"):
        words = head[2:256].split(b"\n", 1)[0].split()
        return words[0] if words else b""
    if head.startswith(b"\x7fELF") and len(head) >= 64:
        return _elf_interpreter(path, head)
    return b""


def _elf_interpreter(path: bytes, head: bytes) -> bytes:
    order = "<" if head[5] == 1 else ">"
    if head[4] == _ELF64:
        (table,) = struct.unpack_from(order + "Q", head, 32)
        size, count = struct.unpack_from(order + "HH", head, 54)
        layout = struct.Struct(
            order + "II Q Q Q Q".replace(" ", "")
        )  # type flags offset v p filesz
        offset_at, length_at = 2, 5
    else:
        (table,) = struct.unpack_from(order + "I", head, 28)
        size, count = struct.unpack_from(order + "HH", head, 42)
        layout = struct.Struct(order + "IIIII")  # type offset v p filesz
        offset_at, length_at = 1, 4
    if size < layout.size:
        return b""
    headers = _read(path, table, size * min(count, _MAX_PROGRAM_HEADERS))
    for start in range(0, len(headers) - layout.size + 1, size):
        fields = layout.unpack_from(headers, start)
        if fields[0] == _PT_INTERP:
            return _read(path, fields[offset_at], min(fields[length_at], _HEAD)).rstrip(b"\0")
    return b""


def _read(path: bytes, offset: int, length: int) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return b""
        return os.pread(fd, length, offset)
    finally:
        os.close(fd)
