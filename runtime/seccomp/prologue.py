"""The instructions before libseccomp's: calls it has no name for, and calls newer than a profile.

    load the architecture
    for each architecture:  is it this one? else go on to the next
        load the call's number
        is it <a call without a name>?                    -> the rule's action
        is it above all that the profile names?           -> ENOSYS
        go to the filter

A refusal by EPERM would end programs which try a new call and fall back to an old one for ENOSYS:
a profile can't have meant to refuse what its author didn't know.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence

from runtime.linux.libseccomp import system_call
from runtime.seccomp import default

_INSTRUCTION = struct.Struct("=HBBI")  # struct sock_filter: code, jump if true, if false, k
INSTRUCTION_BYTES = _INSTRUCTION.size
_LOAD, _RETURN, _JUMP = 0x20, 0x06, 0x05
_IF_EQUAL, _IF_ABOVE, _IF_AT_LEAST = 0x15, 0x25, 0x35
_NUMBER, _ARCHITECTURE = 0, 4  # where they are in struct seccomp_data

NO_SUCH_CALL = 0x00050000 | default.ENOSYS  # SECCOMP_RET_ERRNO

_X86_64, _X32, _ARM = 0xC000003E, 0x4000003E, 0x40000028
_X32_BIT = 0x40000000  # x32 has x86-64's token, and this bit in its numbers
_X86_FAMILY = (_X86_64, _X32)
# Architectures on which a number from 424 on means the same call. Others get no prologue.
_UNIFORM = frozenset(
    {
        _X86_64,
        _X32,
        _ARM,
        0x40000003,  # x86
        0xC00000B7,  # aarch64
        0xC00000F3,  # riscv64
        0xC0000015,  # ppc64le
        0x80000016,  # s390x
        0x00000016,  # s390
        0xC0000102,  # loongarch64
    }
)
# Numbers from here on are not compared with the newest: x32's own, ARM's private calls, and
# 0xffffffff, which is what a tracer writes to have a call skipped.
_END: Mapping[int, int] = {_X86_64: _X32_BIT, _ARM: 0xF0000}
_SKIPPED = 0xFFFFFFFF


def has_number(name: str) -> bool:
    """Whether our own table knows a call that libseccomp doesn't."""
    return name in default.NEW_NUMBERS or name in default.NEW_NUMBERS_X86_64


def prologue(tokens: Iterable[int], unnamed: Mapping[str, int], known: Sequence[str]) -> bytes:
    """Instructions to put before a filter.

    tokens: the architectures of the filter; unnamed: call -> SECCOMP_RET_* for those of which
    only our table has the number; known: all calls that the profile names, or none if newer
    calls need no word of ours.
    """
    sections: dict[int, bytes] = {}
    for token in tokens:
        if token in _UNIFORM:
            audit = _X86_64 if token == _X32 else token
            sections[audit] = sections.get(audit, b"") + _checks(token, unnamed, known)
    code = b""
    for audit, checks in reversed(sections.items()):
        if checks:
            section = _one(_LOAD, _NUMBER) + checks + _skip(code)
            code = _one(_IF_EQUAL, audit, true=1) + _skip(section) + section + code
    return _one(_LOAD, _ARCHITECTURE) + code if code else b""


def _checks(token: int, unnamed: Mapping[str, int], known: Sequence[str]) -> bytes:
    code = b""
    for name, action in unnamed.items():
        number = _number(name, token)
        if number >= 0:
            code += _one(_IF_EQUAL, number, false=1) + _one(_RETURN, action)
    end = _END.get(token, _SKIPPED)
    newest = max((number for name in known if (number := _number(name, token)) < end), default=-1)
    if newest >= 0:
        code += _one(_IF_ABOVE, newest, false=2)
        code += _one(_IF_AT_LEAST, end, true=1)
        code += _one(_RETURN, NO_SUCH_CALL)
    return code


def _number(name: str, token: int) -> int:
    """The call's number on the architecture; negative if it has none."""
    number = system_call(name, token)
    if number is not None:
        return number
    number = default.NEW_NUMBERS.get(name, -1)
    if number < 0 and token in _X86_FAMILY:
        number = default.NEW_NUMBERS_X86_64.get(name, -1)
    return number | _X32_BIT if number >= 0 and token == _X32 else number


def _skip(code: bytes) -> bytes:
    return _one(_JUMP, len(code) // INSTRUCTION_BYTES)


def _one(code: int, value: int, *, true: int = 0, false: int = 0) -> bytes:
    return _INSTRUCTION.pack(code, true, false, value)
