"""Installing a seccomp filter that was compiled elsewhere. See seccomp(2)."""

from __future__ import annotations

import ctypes
import os

from runtime.linux.libc import Pointer, Unsigned, syscall


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


_SET_MODE_FILTER = 1
NEW_LISTENER = 8  # SECCOMP_FILTER_FLAG_NEW_LISTENER
_INSTRUCTION_BYTES = 8
_NUMBERS = {"x86_64": 317, "aarch64": 277, "riscv64": 277, "ppc64le": 358, "s390x": 348}
_seccomp = syscall("seccomp", _NUMBERS[os.uname().machine], Unsigned, Unsigned, Pointer)


def install(program: bytes, flags: int = 0) -> int:
    """Filters this process and its descendants for good. program: BPF instructions of 8 bytes.

    With NEW_LISTENER among the flags, its descriptor, close-on-exec; else 0. Needs no_new_privs or
    CAP_SYS_ADMIN.
    """
    buffer = ctypes.create_string_buffer(program, len(program))
    header = _Program(len(program) // _INSTRUCTION_BYTES, ctypes.addressof(buffer))
    return _seccomp(_SET_MODE_FILTER, flags, ctypes.addressof(header))
