"""The program of a pod's sandbox task: it waits, and takes next to no memory.

Shims that make a machine of a pod want a container for the pod itself before any other. Where
containerd takes an image for that, we write the program: a static ELF file of one segment whose
code is a system call in a loop. Nothing has to be pulled, built or trusted for it.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

_BASE = 0x400000
_HEADERS = 64 + 56  # bytes: of the file, and of its segment
_PAGE = 0x10000  # the largest that a kernel has on either machine
_EXEC, _LOAD, _READ_EXECUTE = 2, 1, 5

_X86_64, _AARCH64 = 62, 183  # elf.h: EM_X86_64, EM_AARCH64
_CODE: Mapping[int, bytes] = {
    _X86_64: bytes.fromhex(
        "b822000000"  # 1: mov eax, 34 (pause)
        "0f05"  # syscall
        "ebf7"  # jmp 1b
    ),
    _AARCH64: struct.pack(
        "<8I",
        0xD2800928,  # 1: mov x8, 73 (ppoll)
        *(0xD2800000 | register for register in range(5)),  # mov x0..x4, 0: for no file, for ever
        0xD4000001,  # svc 0
        0x17FFFFF9,  # b 1b
    ),
}
_MACHINES = {"x86_64": _X86_64, "aarch64": _AARCH64}


def program(machine: str) -> bytes:
    """The file. machine: as uname(2) names it. Raises ValueError for another than we know."""
    number = _MACHINES.get(machine)
    if number is None:
        known = " and ".join(_MACHINES)
        raise ValueError(f"there is no sandbox program for {machine}, only for {known}")
    code = _CODE[number]
    size = _HEADERS + len(code)
    identity = b"\x7fELF" + bytes((2, 1, 1)) + bytes(9)  # 64 bits, little endian, version 1
    header = struct.pack(
        *("<16sHHIQQQIHHHHHH", identity, _EXEC, number, 1, _BASE + _HEADERS, 64, 0, 0),
        *(64, 56, 1, 0, 0, 0),
    )
    segment = struct.pack("<IIQQQQQQ", _LOAD, _READ_EXECUTE, 0, _BASE, _BASE, size, size, _PAGE)
    return header + segment + code
