"""Blobs by digest: content/blobs/<algorithm>/<hex>, shaped like an OCI image layout.

A blob exists whole or not at all: written aside in content/ingest, hashed while written, fsynced,
renamed, and its directory fsynced. Its presence is the only record of it.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from image import directory
from image.digest import ALGORITHMS, Digest, Verifier

_numbers = itertools.count()


class Content:
    """The blobs under `root`. Safe in several processes at a time."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._blobs = root / "blobs"
        self._ingest = root / "ingest"

    def create(self) -> None:
        """Make the directories, and remove what was not ingested to its end.

        Only right while nobody ingests.
        """
        directory.remove_tree(self._ingest)
        self._ingest.mkdir(parents=True)
        for algorithm in ALGORITHMS:
            (self._blobs / algorithm).mkdir(parents=True, exist_ok=True)

    def path(self, digest: Digest) -> Path:
        """Where the blob is, or would be."""
        return self._blobs / digest.algorithm / digest.hex

    def __contains__(self, digest: Digest) -> bool:
        return self.path(digest).exists()

    def read(self, digest: Digest, limit: int) -> bytes:
        """The bytes of a blob, verified. Raises FileNotFoundError, DigestMismatch, ValueError."""
        with self.path(digest).open("rb") as file:
            data = file.read(limit + 1)
        if len(data) > limit:
            raise ValueError(f"blob {digest} is larger than {limit} bytes")
        verifier = Verifier(f"blob {digest} in {self.root}", digest)
        verifier.update(data)
        verifier.verify()
        return data

    def ingest(self, verifier: Verifier) -> Ingest:
        """A blob to write: `with …ingest(verifier) as blob: blob.write(data); blob.commit()`."""
        return Ingest(self, self._ingest, verifier)

    def put(self, data: bytes, digest: Digest, what: str) -> None:
        """Store bytes that must have this digest. Raises DigestMismatch."""
        verifier = Verifier(what, digest, len(data))
        verifier.update(data)
        with self.ingest(verifier) as blob:
            blob.write(data)
            blob.commit()

    def remove(self, digest: Digest) -> None:
        """Forget a blob; an absent one is fine."""
        self.path(digest).unlink(missing_ok=True)

    def scan(self) -> Iterator[tuple[Digest, os.stat_result]]:
        """All blobs there are. Files with other names are removed: nobody can have put them."""
        for algorithm, length in ALGORITHMS.items():
            with os.scandir(self._blobs / algorithm) as entries:
                for entry in entries:
                    if len(entry.name) == length:
                        yield Digest(algorithm, entry.name), entry.stat(follow_symlinks=False)


class Ingest:
    """A blob on its way in; leaves nothing unless it was committed.

    The caller hashes (`verifier.update`): a layer's bytes are hashed once for both purposes.
    """

    def __init__(self, content: Content, folder: Path, verifier: Verifier) -> None:
        self._content = content
        self._verifier = verifier
        # Workers ingest too: the process's number makes the name ours.
        self._path = folder / f"{os.getpid()}-{next(_numbers)}"
        self._file = self._path.open("xb", buffering=0)

    def __enter__(self) -> Self:
        return self

    def write(self, data: bytes) -> None:
        """Append; raises OSError (ENOSPC)."""
        rest = memoryview(data)
        while rest:
            rest = rest[self._file.write(rest) :]

    def commit(self) -> None:
        """Verify and publish. Raises DigestMismatch."""
        self._verifier.verify()
        os.fchmod(self._file.fileno(), 0o600)
        os.fsync(self._file.fileno())
        target = self._content.path(self._verifier.expected)
        self._path.rename(target)
        directory.fsync(target.parent)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
        with suppress(FileNotFoundError):
            self._path.unlink()
