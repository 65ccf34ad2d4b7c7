"""Typed functions of libc and raw system calls; each raises an OSError that names the call."""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Callable
from typing import Any

# PyDLL keeps the GIL: our callers are single-threaded processes, and clone3 must not return
# in a child whose GIL belongs to nobody. CDLL releases it, for calls that may block a thread.
_quick = ctypes.PyDLL(None, use_errno=True)
_slow = ctypes.CDLL(None, use_errno=True)

Integer = ctypes.c_int
Unsigned = ctypes.c_uint
UnsignedLong = ctypes.c_ulong
Size = ctypes.c_size_t
Text = ctypes.c_char_p  # bytes or None; never str, so that no codec is looked up after a fork
Pointer = ctypes.c_void_p


def _check(name: str, *, first: int = 0) -> Callable[[int, object, tuple[object, ...]], int]:
    def check(result: int, _function: object, arguments: tuple[object, ...]) -> int:
        if result == -1:
            number = ctypes.get_errno()
            text = ", ".join(map(repr, arguments[first:]))
            raise OSError(number, f"{name}({text}): {os.strerror(number)}")
        return result

    return check


def declare(name: str, *argtypes: Any, blocking: bool = False) -> Callable[..., int]:
    """libc's function `name`, answering its int result; -1 becomes an OSError.

    blocking: release the GIL while it runs (umount of a hanging file system, say).
    """
    function = (_slow if blocking else _quick)[name]  # item access: a function object of our own
    function.argtypes = argtypes
    function.restype = ctypes.c_long
    if ctypes.sizeof(ctypes.c_int) != ctypes.sizeof(ctypes.c_long):
        function.restype = ctypes.c_int
    function.errcheck = _check(name)  # type: ignore[assignment]  # typeshed wants a _FuncPtr argument
    return function


def syscall(name: str, number: int, *argtypes: Any) -> Callable[..., int]:
    """The system call `number`, where libc has no function (from 424 on all machines agree)."""
    function = _quick["syscall"]
    function.argtypes = (ctypes.c_long, *argtypes)
    function.restype = ctypes.c_long
    function.errcheck = _check(name, first=1)  # type: ignore[assignment]  # typeshed wants a _FuncPtr argument
    return functools.partial(function, number)


def attempt(number: int, *argtypes: Any) -> Callable[..., int]:
    """The system call `number`; it raises nothing but answers -errno, as the kernel does.

    For what fails often (is it there?): an exception and its text cost more than the call.
    """
    function = _quick["syscall"]
    function.argtypes = (ctypes.c_long, *argtypes)
    function.restype = ctypes.c_long

    def call(*arguments: Any) -> int:
        result: int = function(number, *arguments)
        return result if result >= 0 else -ctypes.get_errno()

    return call
