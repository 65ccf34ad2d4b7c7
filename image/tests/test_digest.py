"""Digests are well formed, or do not exist; verifiers find every difference."""

from __future__ import annotations

import pytest

from image.digest import Digest, Verifier, chain_ids
from image.errors import DigestMismatch


@pytest.mark.parametrize(
    "text", ["", "sha256", "sha256:", "sha256:xyz", "md5:" + "0" * 32, "sha256:" + "A" * 64]
)
def test_a_malformed_digest_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="malformed digest"):
        Digest.parse(text)


def test_sha512_is_as_good_as_sha256() -> None:
    text = "sha512:" + "0" * 128
    assert str(Digest.parse(text)) == text


@pytest.mark.parametrize(("data", "size"), [(b"abd", 3), (b"ab", 3), (b"abcd", 3), (b"abc", 4)])
def test_other_bytes_or_another_size_are_a_mismatch(data: bytes, size: int) -> None:
    verifier = Verifier("it", Digest.of(b"abc"), size)

    def read() -> None:
        verifier.update(data)
        verifier.verify()

    with pytest.raises(DigestMismatch, match="it: expected"):
        read()


def test_chain_ids_follow_the_specification() -> None:
    """image-spec config.md: ChainID(L0|...|Ln) = Digest(ChainID(L0|...|Ln-1) + " " + DiffID(Ln))"""
    first, second = Digest.of(b"1"), Digest.of(b"2")
    chain = chain_ids((first, second))
    assert chain == (first, Digest.of(f"{first} {second}".encode()))
