"""Compressed bytes in, the same tar out, whatever wrote them; bounded, and never half."""

from __future__ import annotations

import gzip
import os
import threading
import zlib
from collections.abc import Generator, Iterator
from contextlib import closing

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from image import layer
from image.digest import Digest, Verifier
from image.errors import DigestMismatch, LayerMalformed

TEXT = b"".join(b"line %d of a layer\n" % number for number in range(20_000))
ZSTD_SKIPPED = b"\x50\x2a\x4d\x18\x04\0\0\0note"  # a frame that carries four bytes for others


def cut(data: bytes, size: int) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


def unpacked(data: bytes, size: int = 10_000) -> bytes:
    return b"".join(layer.decompressed(cut(data, size)))


COMPRESSED = {
    "none": TEXT,
    "gzip": gzip.compress(TEXT),
    "gzip members": gzip.compress(TEXT[:1000]) + gzip.compress(b"") + gzip.compress(TEXT[1000:]),
    "gzip padded": gzip.compress(TEXT) + bytes(700),
    "zstd": zstandard.compress(TEXT),
    "zstd frames": zstandard.compress(TEXT[:7]) + ZSTD_SKIPPED + zstandard.compress(TEXT[7:]),
    "zstd skipped first": ZSTD_SKIPPED + zstandard.compress(TEXT),
}


@pytest.mark.parametrize("size", [1, 1000, 1 << 20])
@pytest.mark.parametrize("kind", COMPRESSED)
def test_every_compression_gives_the_same_bytes(kind: str, size: int) -> None:
    assert unpacked(COMPRESSED[kind], size) == TEXT


def test_nothing_in_gives_nothing_out() -> None:
    assert unpacked(b"") == b""
    assert unpacked(b"ab") == b"ab"


def test_a_bomb_comes_in_bounded_pieces() -> None:
    for bomb in (gzip.compress(bytes(100 << 20), 9), zstandard.compress(bytes(100 << 20))):
        size = 0
        for piece in layer.decompressed(iter([bomb])):
            assert len(piece) <= layer.PIECE
            size += len(piece)
        assert size == 100 << 20


@pytest.mark.parametrize("lost", [1, 8, 100])
def test_a_gzip_stream_that_is_cut_short_is_refused(lost: int) -> None:
    with pytest.raises(LayerMalformed, match="cut short"):
        unpacked(gzip.compress(TEXT)[:-lost])


def test_damage_is_refused() -> None:
    whole = bytearray(gzip.compress(TEXT))
    whole[-5] ^= 1  # in the checksum at its end
    with pytest.raises(LayerMalformed, match="damaged gzip"):
        unpacked(bytes(whole))
    with pytest.raises(LayerMalformed, match="damaged gzip"):
        unpacked(gzip.compress(TEXT) + b"something else" * 9)
    with pytest.raises(LayerMalformed, match="damaged zstd"):
        unpacked(zstandard.compress(TEXT)[:9] + b"\xff" * 100)


@given(st.binary(max_size=300), st.sampled_from([b"", b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd"]))
def test_no_bytes_make_it_fail_in_another_way(data: bytes, head: bytes) -> None:
    try:
        for piece in layer.decompressed(iter([head + data])):
            assert len(piece) <= layer.PIECE
    except LayerMalformed:
        pass


def test_hashing_verifies_at_the_end() -> None:
    good = Verifier("it", Digest.of(TEXT), len(TEXT))
    assert b"".join(layer.hashed(cut(TEXT, 999), good)) == TEXT
    with pytest.raises(DigestMismatch, match="it: expected sha256"):
        list(layer.hashed(cut(TEXT, 999), Verifier("it", Digest.of(b""))))


def test_work_ahead_gives_the_same_chunks_and_the_same_error() -> None:
    def failing() -> Iterator[bytes]:
        yield b"a"
        raise LayerMalformed("broken")

    assert list(layer.ahead([b"a", b"b"] * 50)) == [b"a", b"b"] * 50
    chunks = layer.ahead(failing())
    assert next(chunks) == b"a"
    with pytest.raises(LayerMalformed, match="broken"):
        next(chunks)


def test_work_ahead_stops_when_nobody_wants_it() -> None:
    made = threading.Event()
    ended = threading.Event()

    def endless() -> Generator[bytes, None, None]:
        try:
            while True:
                made.set()
                yield os.urandom(10)
        finally:
            ended.set()

    source = endless()
    with closing(layer.ahead(source, depth=2)) as chunks:
        next(chunks)
        assert made.wait(5)
    for thread in threading.enumerate():
        if thread.name == "ahead":
            thread.join(5)
            assert not thread.is_alive()
    source.close()
    assert ended.is_set()


def test_isal_and_zlib_agree() -> None:
    data = gzip.compress(os.urandom(1 << 16) + TEXT[:5000], 9)
    assert unpacked(data, 777) == zlib.decompress(data, 31)
