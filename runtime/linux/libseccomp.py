"""libseccomp by ctypes: a filter is rules by name; it comes out as a BPF program.

The library is opened at the first use, and only in the daemon: init gets finished programs.
"""

from __future__ import annotations

import ctypes
import enum
import functools
import os
from collections.abc import Sequence
from types import TracebackType

from runtime.errors import RuntimeFault

_SONAME = "libseccomp.so.2"
_UNKNOWN = -1  # __NR_SCMP_ERROR


class SeccompUnavailable(RuntimeFault):
    """There is no libseccomp on this machine."""


class SeccompRefused(RuntimeFault):
    """libseccomp doesn't take a rule or an architecture."""


class Compare(enum.IntEnum):
    """enum scmp_compare of seccomp.h."""

    SCMP_CMP_NE = 1
    SCMP_CMP_LT = 2
    SCMP_CMP_LE = 3
    SCMP_CMP_EQ = 4
    SCMP_CMP_GE = 5
    SCMP_CMP_GT = 6
    SCMP_CMP_MASKED_EQ = 7


class _Argument(ctypes.Structure):
    """struct scmp_arg_cmp."""

    _fields_ = (
        ("index", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("datum_a", ctypes.c_uint64),
        ("datum_b", ctypes.c_uint64),
    )


class _Library:
    """The functions we call, each with its types."""

    def __init__(self) -> None:
        try:
            library = ctypes.CDLL(_SONAME)
        except OSError as error:
            raise SeccompUnavailable(
                f"{error}: seccomp profiles need libseccomp (Debian: apt install libseccomp2)"
            ) from error
        self.init = library.seccomp_init
        self.init.argtypes, self.init.restype = (ctypes.c_uint32,), ctypes.c_void_p
        self.release = library.seccomp_release
        self.release.argtypes, self.release.restype = (ctypes.c_void_p,), None
        self.arch_add = library.seccomp_arch_add
        self.arch_add.argtypes = (ctypes.c_void_p, ctypes.c_uint32)
        self.arch_native = library.seccomp_arch_native
        self.arch_native.argtypes, self.arch_native.restype = (), ctypes.c_uint32
        self.arch_resolve_name = library.seccomp_arch_resolve_name
        self.arch_resolve_name.argtypes = (ctypes.c_char_p,)
        self.arch_resolve_name.restype = ctypes.c_uint32
        self.syscall_resolve_name_arch = library.seccomp_syscall_resolve_name_arch
        self.syscall_resolve_name_arch.argtypes = (ctypes.c_uint32, ctypes.c_char_p)
        self.rule_add_array = library.seccomp_rule_add_array
        self.rule_add_array.argtypes = (
            ctypes.c_void_p,
            ctypes.c_uint32,
            ctypes.c_int,
            ctypes.c_uint,
            ctypes.POINTER(_Argument),
        )
        self.export_bpf = library.seccomp_export_bpf
        self.export_bpf.argtypes = (ctypes.c_void_p, ctypes.c_int)
        self.attr_set = library.seccomp_attr_set
        self.attr_set.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32)


@functools.cache
def _library() -> _Library:
    return _Library()


class Filter:
    """A filter in the making. Use it in a `with`: it holds memory of the library."""

    def __init__(self, default_action: int) -> None:
        self._context: int | None = _library().init(default_action)
        if not self._context:
            raise SeccompRefused(f"libseccomp refuses the default action {default_action:#x}")

    def __enter__(self) -> Filter:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _: TracebackType | None,
    ) -> None:
        _library().release(self._context)
        self._context = None

    def add_architecture(self, token: int) -> None:
        """Beside the native one, which is always there."""
        result = _library().arch_add(self._context, token)
        if result not in (0, -17):  # EEXIST: that is the native one
            raise SeccompRefused(f"architecture {token:#x}: {os.strerror(-result)}")

    def set_binary_tree(self) -> None:
        """Sorts the checks into a tree instead of a list (libseccomp 2.5); older: no effect."""
        _library().attr_set(self._context, 8, 2)  # SCMP_FLTATR_CTL_OPTIMIZE

    def add_rule(
        self, action: int, number: int, arguments: Sequence[tuple[int, Compare, int, int]] = ()
    ) -> None:
        """arguments: (index 0 to 5, comparison, value or mask, masked value), all must hold."""
        array = (_Argument * len(arguments))(*(_Argument(*argument) for argument in arguments))
        result = _library().rule_add_array(self._context, action, number, len(arguments), array)
        if result < 0:
            raise SeccompRefused(f"rule for system call {number}: {os.strerror(-result)}")

    def export(self) -> bytes:
        """The program: an array of struct sock_filter, 8 bytes each."""
        fd = os.memfd_create("seccomp", os.MFD_CLOEXEC)
        try:
            result = _library().export_bpf(self._context, fd)
            if result < 0:
                raise SeccompRefused(f"the program can't be made: {os.strerror(-result)}")
            size = os.lseek(fd, 0, os.SEEK_END)
            return os.pread(fd, size, 0)
        finally:
            os.close(fd)


def native_architecture() -> int:
    """The AUDIT_ARCH token of this machine."""
    return int(_library().arch_native())


def architecture(name: str) -> int | None:
    """The AUDIT_ARCH token of "x86_64", "x86", "x32", "aarch64" …; None: unknown here."""
    return int(_library().arch_resolve_name(name.encode("ascii"))) or None


@functools.cache
def system_call(name: str, token: int) -> int | None:
    """A call's number on an architecture, negative if it hasn't got it; None: unknown name."""
    number = int(_library().syscall_resolve_name_arch(token, name.encode("ascii", "replace")))
    return None if number == _UNKNOWN else number
