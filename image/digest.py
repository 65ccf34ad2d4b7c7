"""Digests, and what computes them while bytes pass by."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Final

from image.errors import DigestMismatch

ALGORITHMS: Final = {"sha256": 64, "sha384": 96, "sha512": 128}
_HEX: Final = re.compile(r"[0-9a-f]+")


@dataclass(frozen=True, slots=True, order=True)
class Digest:
    """The name of some bytes: image-spec descriptor.md, "Digests"."""

    algorithm: str
    hex: str

    @classmethod
    def parse(cls, text: str) -> Digest:
        """The only way in. Raises ValueError."""
        algorithm, separator, hexadecimal = text.partition(":")
        length = ALGORITHMS.get(algorithm)
        if not separator or length is None:
            known = ", ".join(ALGORITHMS)
            raise ValueError(f"malformed digest {text!r}: expected <algorithm>:<hex> ({known})")
        if len(hexadecimal) != length or not _HEX.fullmatch(hexadecimal):
            raise ValueError(f"malformed digest {text!r}: expected {length} lower-case hex digits")
        return cls(algorithm, hexadecimal)

    @classmethod
    def of(cls, data: bytes) -> Digest:
        """The sha256 digest of `data`."""
        return cls("sha256", hashlib.sha256(data).hexdigest())

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"


class Verifier:
    """Hashes and counts what passes by; `verify` at the end says whether it was the right thing.

    size: bytes expected; None: not known beforehand.
    """

    def __init__(self, what: str, expected: Digest, size: int | None = None) -> None:
        self.what = what
        self.expected = expected
        self.size = size
        self.count = 0
        self._hash = hashlib.new(expected.algorithm)

    def update(self, data: bytes) -> None:
        """Raises DigestMismatch as soon as there are more bytes than expected."""
        self._hash.update(data)
        self.count += len(data)
        if self.size is not None and self.count > self.size:
            raise DigestMismatch(self.what, f"{self.size} bytes", "more")

    def verify(self) -> None:
        """Raises DigestMismatch."""
        if self.size is not None and self.count != self.size:
            raise DigestMismatch(self.what, f"{self.size} bytes", f"{self.count}")
        actual = Digest(self.expected.algorithm, self._hash.hexdigest())
        if actual != self.expected:
            raise DigestMismatch(self.what, str(self.expected), str(actual))


def chain_ids(diff_ids: tuple[Digest, ...]) -> tuple[Digest, ...]:
    """Each layer's identity with all layers below it: image-spec config.md, "Layer ChainID"."""
    chain: list[Digest] = []
    for diff_id in diff_ids:
        chain.append(Digest.of(f"{chain[-1]} {diff_id}".encode()) if chain else diff_id)
    return tuple(chain)
