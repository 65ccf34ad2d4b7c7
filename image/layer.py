"""A layer's bytes on their way: compressed ones in, tar out, in bounded pieces, hashed twice.

What compression it is, the first bytes tell; registries and builders get the media type wrong.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import IO, Final, cast

import zstandard
from isal import isal_zlib

from image.digest import Verifier
from image.errors import LayerMalformed

PIECE: Final = 1 << 20  # bytes: most that one step may hand on, whatever the compression ratio
_GZIP: Final = b"\x1f\x8b"
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_SKIPPABLE: Final = b"\x2a\x4d\x18"  # bytes 1 to 3 of a zstd skippable frame (RFC 8878, 3.1.2)
_IsalError: Final = cast(type[Exception], isal_zlib.error)  # its stub takes it for an instance
_WINDOW: Final = 128 << 20  # memory that a zstd frame may ask for


def hashed(chunks: Iterable[bytes], verifier: Verifier) -> Iterator[bytes]:
    """The same chunks; at their end they have been verified. Raises DigestMismatch."""
    for chunk in chunks:
        verifier.update(chunk)
        yield chunk
    verifier.verify()


def decompressed(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The tar stream inside, in pieces of at most PIECE bytes. Raises LayerMalformed."""
    rest = iter(chunks)
    head = b""
    while len(head) < 4:
        chunk = next(rest, None)
        if chunk is None:
            break
        head += chunk
    stream = _joined(head, rest)
    if head.startswith(_GZIP):
        return _gunzip(stream)
    if head.startswith(_ZSTD) or (head[1:4] == _SKIPPABLE and head[0] >> 4 == 5):
        return _unzstd(stream)
    return _sliced(stream)


def _joined(head: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield head
    yield from rest


def _sliced(chunks: Iterator[bytes]) -> Iterator[bytes]:
    for chunk in chunks:
        if len(chunk) <= PIECE:
            yield chunk
        else:
            yield from (chunk[start : start + PIECE] for start in range(0, len(chunk), PIECE))


def _gunzip(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Any number of members (RFC 1952, 2.2), as pigz and estargz write; zero padding at the end."""
    member = None
    for chunk in chunks:
        data = chunk
        while data:
            if member is None:
                data = data.lstrip(b"\0")
                if not data:
                    break
                member = isal_zlib.decompressobj(31)
            yield from _inflate(member, data)
            data = b""
            if member.eof:
                data, member = member.unused_data, None
    if member is not None:
        raise LayerMalformed("the gzip data is cut short")


def _inflate(member: isal_zlib.Decompress, data: bytes) -> Iterator[bytes]:
    """What `data` adds to a member, in bounded pieces."""
    piece = b"first"
    while piece and not member.eof:
        try:
            piece = member.decompress(data, PIECE)
        except _IsalError as error:
            raise LayerMalformed(f"damaged gzip data: {error}") from None
        data = member.unconsumed_tail
        if piece:
            yield piece


class _Reader:
    """What zstandard wants to read from: the chunks as a file."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = b""

    def read(self, size: int) -> bytes:
        if not self._rest:
            self._rest = next(self._chunks, b"")
        data, self._rest = self._rest[:size], self._rest[size:]
        return data


def _unzstd(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Any number of frames, skippable ones passed over."""
    decompressor = zstandard.ZstdDecompressor(max_window_size=_WINDOW)
    source = _Reader(chunks)
    try:
        with decompressor.stream_reader(
            cast(IO[bytes], source), read_size=PIECE, read_across_frames=True
        ) as reader:
            while piece := reader.read(PIECE):
                yield piece
    except zstandard.ZstdError as error:
        raise LayerMalformed(f"damaged zstd data: {error}") from None


class _End:
    """Behind the last chunk: nothing, or what the thread failed with."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


def ahead(chunks: Iterable[bytes], depth: int = 4) -> Generator[bytes, None, None]:
    """The same chunks, produced by a thread of their own up to `depth` ahead of their consumer.

    Reading sockets, hashing and decompressing all let go of the interpreter lock. Close the
    generator to stop the thread; it then ends with the chunk that it is waiting for.
    """
    pipe: queue.Queue[bytes | _End] = queue.Queue(maxsize=max(depth, 2))
    stop = threading.Event()

    def pump() -> None:
        end = _End(None)
        try:
            for chunk in chunks:
                pipe.put(chunk)
                if stop.is_set():
                    return
        except BaseException as error:  # noqa: BLE001 - raised again in the consumer's thread
            end = _End(error)
        finally:
            pipe.put(end)

    threading.Thread(target=pump, name="ahead", daemon=True).start()
    try:
        while not isinstance(item := pipe.get(), _End):
            yield item
        if item.error is not None:
            raise item.error
    finally:
        stop.set()
        _drain(pipe.get_nowait)


def _drain(get: Callable[[], object]) -> None:
    """Make room for what a stopping thread still wants to hand over: a chunk and its end."""
    try:
        while True:
            get()
    except queue.Empty:
        return
