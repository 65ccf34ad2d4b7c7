"""Where new objects come to lie in a fork: side by side, and not in holes between old ones.

CPython gives a small object the place of one that was freed. In a fork each such place is on
another page, which must be copied for it. So the zygote fills the holes before it forks: what its
forks make begins in empty pools, and many objects share a page.
"""

from __future__ import annotations

import sys
from itertools import pairwise

# How CPython 3.11 keeps small objects (Objects/obmalloc.c): by size, in pools. Where it is done in
# another way, the search for an empty pool ends by its limit, and nothing is won.
_STEP, _LARGEST = 16, 512
_POOL, _POOL_HEADER = 16384, 48
_BATCH, _MOST = 16, 20000
_EMPTY_BYTES = sys.getsizeof(b"")

_kept: list[object] = []


def fill() -> None:
    """Fills them, for good. After garbage is collected, which leaves the most."""
    for size in range(_STEP, _LARGEST + _STEP, _STEP):
        _kept.append(_fill(size))


def _fill(size: int) -> list[object]:
    """Takes places of this many bytes, until CPython begins an empty pool for more."""
    taken: list[object] = []
    while len(taken) < _MOST:
        batch = [_block(size) for _ in range(_BATCH)]
        taken += batch
        if any(id(a) % _POOL == _POOL_HEADER and id(b) == id(a) + size for a, b in pairwise(batch)):
            break
    return taken


def _block(size: int) -> object:
    """An object of this many bytes."""
    if size == 16:
        return object()
    return size + 0.5 if size == 32 else bytes(size - _EMPTY_BYTES)
