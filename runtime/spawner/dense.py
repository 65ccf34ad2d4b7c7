"""Where objects lie: what monitors write to shall share as few pages of memory as it can.

CPython counts references inside the objects, and so writes to whatever it only looks at; a fork
copies the whole page. What a monitor needs would lie between much that nobody needs any more, a
page for each. Objects can't be moved, but what is made after all gaps have been filled lies side by
side: CPython's allocator has a row of pools for each size up to 512 bytes, and takes a new pool
when every other one of that size is full (Objects/obmalloc.c). Should another version of it do
otherwise, monitors are larger, and nothing else.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterable
from types import CodeType, FrameType, FunctionType, ModuleType

_POOL = 16 * 1024
_HEADER = 48  # bytes, of a pool
_STEP = 16  # bytes, from one size to the next
_LARGEST = 512
_ENOUGH = 2500  # bytes of neighbours from a pool's first place on: it was empty, no other has gaps
_EMPTY = sys.getsizeof(b"")
_LARGE_NUMBER = 1 << 29  # of one digit, and no shared one

_fillers: list[object] = []  # they stay, or else there were gaps again


def fill_gaps() -> None:
    """From now on objects of up to 512 bytes lie in new pools, in the order in which they come."""
    for size in range(_STEP, _LARGEST + 1, _STEP):
        last, neighbours = 0, 0
        while neighbours * size < _ENOUGH:
            filler = _filler(size)
            address = id(filler)
            if address % _POOL == _HEADER:
                neighbours = 1
            elif neighbours:
                neighbours = neighbours + 1 if address == last + size else 0
            last = address
            _fillers.append(filler)


def _filler(size: int) -> object:
    if size == _STEP:
        return object()
    if size == 2 * _STEP:
        return _LARGE_NUMBER + len(_fillers)
    return bytes(size - _EMPTY)


def called(play: Callable[[], None]) -> set[CodeType]:
    """The code that runs while `play` does."""
    found: set[CodeType] = set()

    def note(frame: FrameType, event: str, _argument: object) -> None:
        if event == "call":
            found.add(frame.f_code)

    sys.setprofile(note)
    try:
        play()
    finally:
        sys.setprofile(None)
    return found


def gather(codes: Iterable[CodeType]) -> None:
    """Makes the functions with this code anew, side by side, and puts them into the places of the
    old ones in modules and classes. Who has got hold of an old one gets the new code with it."""
    anew = {id(code): code.replace() for code in codes}
    functions: dict[int, FunctionType] = {}
    for found in gc.get_objects():
        if isinstance(found, FunctionType) and id(found.__code__) in anew:
            found.__code__ = anew[id(found.__code__)]
            functions[id(found)] = found
    copies = {key: _copy(function) for key, function in functions.items()}
    for owner in gc.get_objects():
        if isinstance(owner, type | ModuleType):
            for name, value in list(vars(owner).items()):
                if isinstance(value, FunctionType) and id(value) in copies:
                    setattr(owner, name, copies[id(value)])


def _copy(function: FunctionType) -> FunctionType:
    copy = FunctionType(
        function.__code__,
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    copy.__qualname__ = function.__qualname__
    copy.__module__ = function.__module__
    copy.__dict__.update(function.__dict__)
    return copy
