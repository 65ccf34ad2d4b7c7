"""libseccomp by ctypes, for what it knows best: the numbers of system calls on all machines.

The library is opened at the first use, and only in the daemon: init gets finished programs.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable

from runtime.errors import RuntimeFault

_SONAME = "libseccomp.so.2"
_UNKNOWN = -1  # __NR_SCMP_ERROR


class SeccompUnavailable(RuntimeFault):
    """There is no libseccomp on this machine."""


@functools.cache
def _resolver() -> Callable[[int, bytes], int]:
    try:
        library = ctypes.CDLL(_SONAME)
    except OSError as error:
        raise SeccompUnavailable(
            f"{error}: seccomp profiles need libseccomp (Debian: apt install libseccomp2)"
        ) from error
    resolve = library.seccomp_syscall_resolve_name_arch
    resolve.argtypes, resolve.restype = (ctypes.c_uint32, ctypes.c_char_p), ctypes.c_int
    return resolve


@functools.cache
def system_call(name: str, token: int) -> int | None:
    """A call's number on the architecture with this SCMP_ARCH_* token; None: an unknown name.

    Negative where the architecture hasn't got it, or only as part of an old call that stood for
    many: seccomp_syscall_resolve_name(3), "pseudo syscall number".
    """
    number = _resolver()(token, name.encode("ascii", "replace"))
    return None if number == _UNKNOWN else number
