"""Chunks of any length, read in lengths we choose."""

from __future__ import annotations

from collections.abc import Iterator

from image.errors import LayerMalformed


class Stream:
    """Reading past the end raises LayerMalformed, unless said otherwise."""

    __slots__ = ("_before", "_chunk", "_chunks", "_end", "_position")

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._chunk = b""
        self._position = 0
        self._end = 0
        self._before = 0  # bytes of the chunks before this one

    @property
    def offset(self) -> int:
        """How many bytes of the stream have been read."""
        return self._before + self._position

    def take(self, size: int, *, at_end_too: bool = False) -> bytes:
        """Exactly `size` bytes. at_end_too: b"" if the stream ends right here."""
        start = self._position
        end = start + size
        if end <= self._end:
            self._position = end
            return self._chunk[start:end]
        if start == self._end and at_end_too and not self._refill():
            return b""
        return b"".join(self.pieces(size))

    def pieces(self, size: int) -> Iterator[memoryview]:
        """`size` bytes, in the pieces in which they come."""
        while size:
            if self._position == self._end and not self._refill():
                raise LayerMalformed(f"the archive is cut short: {size} bytes are missing")
            end = min(self._end, self._position + size)
            piece = memoryview(self._chunk)[self._position : end]
            self._position = end
            size -= len(piece)
            yield piece

    def skip(self, size: int) -> None:
        """Pass over `size` bytes."""
        if self._position + size <= self._end:
            self._position += size
        else:
            for _ in self.pieces(size):
                pass

    def skip_all(self) -> None:
        """Pass over the rest."""
        while self._refill():
            pass

    def _refill(self) -> bool:
        for chunk in self._chunks:
            if chunk:
                self._before += self._end
                self._chunk, self._position, self._end = chunk, 0, len(chunk)
                return True
        return False
