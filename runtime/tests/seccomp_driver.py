"""Seccomp programs at work, for tests: on the kernel, or step by step for any machine."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Sequence

X86_64, X32, X86 = 0xC000003E, 0x4000003E, 0x40000003
X32_BIT = 0x40000000
ALLOW, KILL, EPERM, ENOSYS = 0x7FFF0000, 0, 0x00050001, 0x00050026

_libc = ctypes.CDLL(None, use_errno=True)
_SECCOMP = {"x86_64": 317, "aarch64": 277}[os.uname().machine]


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def system_call(number: int, *arguments: int) -> str:
    """The name of its errno, or "ok"."""
    ctypes.set_errno(0)
    padded = [ctypes.c_ulong(argument) for argument in (*arguments, *[0] * 6)][:6]
    if _libc.syscall(ctypes.c_long(number), *padded) != -1:
        return "ok"
    return errno.errorcode[ctypes.get_errno()]


def answers(
    program: bytes, calls: Sequence[tuple[int, ...]], flags: int = 4
) -> tuple[list[str], int]:
    """What each (number, arguments…) gives under the program, and the child's wait status."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = ctypes.create_string_buffer(program, len(program))
        whole = _Program(len(program) // 8, ctypes.addressof(code))
        _libc.prctl(38, 1, 0, 0, 0)  # no_new_privs: so that no root is needed
        if _libc.syscall(_SECCOMP, 1, flags, ctypes.byref(whole)) != 0:
            os.write(write_end, os.strerror(ctypes.get_errno()).encode())
            os._exit(1)
        os.write(write_end, " ".join(system_call(*call) for call in calls).encode())
        os._exit(0)
    os.close(write_end)
    with open(read_end) as pipe:
        text = pipe.read()
    return text.split(), os.waitpid(pid, 0)[1]


def verdict(program: bytes, token: int, number: int, arguments: Sequence[int] = ()) -> int:
    """SECCOMP_RET_* of a program, interpreted; on a machine of little-endian words."""
    padded = [*arguments, *[0] * 6][:6]
    data = struct.pack("<IIQ6Q", number, token, 0, *padded)
    at = accumulator = 0
    while True:
        code, if_true, if_false, value = struct.unpack_from("<HBBI", program, at * 8)
        at += 1
        match code:
            case 0x20:
                (accumulator,) = struct.unpack_from("<I", data, value)
            case 0x06:
                return int(value)
            case 0x05:
                at += value
            case 0x54:
                accumulator &= value
            case 0x15 | 0x25 | 0x35 | 0x45:
                holds = {
                    0x15: accumulator == value,
                    0x25: accumulator > value,
                    0x35: accumulator >= value,
                    0x45: bool(accumulator & value),
                }[code]
                at += if_true if holds else if_false
            case _:
                raise AssertionError(f"unknown instruction {code:#x}")
