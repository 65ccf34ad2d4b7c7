"""The same filters by libseccomp's own generator, for tests to compare with."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence

from runtime.linux.libseccomp import system_call
from runtime.seccomp import machine
from runtime.spec import SeccompSyscalls

_OPERATORS = ("NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ")  # enum scmp_compare, from 1 on


class _Argument(ctypes.Structure):
    _fields_ = (
        ("index", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("datum_a", ctypes.c_uint64),
        ("datum_b", ctypes.c_uint64),
    )


def oracle(default_action: int, rules: Sequence[tuple[int, SeccompSyscalls]]) -> bytes:
    """The program for x86-64 and x86; rules: with the action as a number.

    Not for x32: with it, libseccomp 2.5.4 forgets to load the number of x86-64's calls in some
    filters that allow by default, which then refuse nothing.
    """
    library = ctypes.CDLL("libseccomp.so.2")
    library.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(library.seccomp_init(ctypes.c_uint32(default_action)))
    assert library.seccomp_arch_add(context, ctypes.c_uint32(machine.X86.token)) == 0
    for action, rule in rules:
        arguments = [
            _Argument(
                argument.index,
                _OPERATORS.index(argument.op.removeprefix("SCMP_CMP_")) + 1,
                argument.value,
                argument.value_two,
            )
            for argument in rule.args
        ]
        array = (_Argument * len(arguments))(*arguments)
        for name in rule.names:
            number = system_call(name, machine.X86_64.token)
            result = library.seccomp_rule_add_array(
                context, ctypes.c_uint32(action), number, len(arguments), array
            )
            assert result in (0, -17), result  # EEXIST: an equal rule was first
    fd = os.memfd_create("oracle")
    try:
        assert library.seccomp_export_bpf(context, fd) == 0
        return os.pread(fd, os.lseek(fd, 0, os.SEEK_END), 0)
    finally:
        os.close(fd)
        library.seccomp_release(context)
