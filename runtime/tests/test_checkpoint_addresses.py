"""What becomes of the addresses of a checkpoint's sockets."""

from __future__ import annotations

import ipaddress
import socket
import struct
from pathlib import Path

import pytest

from runtime.checkpoint import addresses
from runtime.checkpoint.confine import Images
from runtime.checkpoint.wire import MalformedImage, Message, read, write

OLD, NEW = ipaddress.ip_address("10.0.0.7"), ipaddress.ip_address("10.9.9.9")


def entry(family: int, packed: bytes) -> Message:
    words = struct.unpack(f"<{len(packed) // 4}I", packed)
    one = Message.of((1, 5), (3, family), *((11, word) for word in words), (14, b""))
    return Message.of((1, 4), (2, 5), (4, one.encode()))


def given(directory: Path, *entries: Message) -> Images:
    images = Images(str(directory))
    images.save("files.img", write("files", entries))
    return images


def found(images: Images) -> list[str]:
    sockets = (one.message(4) for one in read("files", images.load("files.img")) if one.has(4))
    packed = (struct.pack(f"<{len(one.numbers(11))}I", *one.numbers(11)) for one in sockets)
    return [str(ipaddress.ip_address(address)) for address in packed]


def test_an_address_becomes_the_pods_own(tmp_path: Path) -> None:
    regular = Message.of((1, 1), (2, 9), (3, Message.of((1, 9), (6, "/bin/sh")).encode()))
    wildcard = entry(socket.AF_INET6, bytes(16))
    images = given(tmp_path, regular, entry(socket.AF_INET, OLD.packed), wildcard)
    addresses.settle(images, lambda address: NEW if address == OLD else address)
    assert found(images) == [str(NEW), "::"]
    assert read("files", images.load("files.img"))[0].message(3).data(6) == b"/bin/sh"


@pytest.mark.parametrize(
    ("family", "length"),
    [(socket.AF_INET, 16), (socket.AF_INET6, 4), (socket.AF_INET, 0), (socket.AF_UNIX, 4)],
)
def test_an_address_that_is_none_is_malformed(tmp_path: Path, family: int, length: int) -> None:
    images = given(tmp_path, entry(family, bytes(length)))
    with pytest.raises(MalformedImage, match="family"):
        addresses.settle(images, lambda address: address)


@pytest.mark.parametrize(
    "text", ["127.0.0.1", "0.0.0.0", "::", "::1", "::ffff:127.0.0.1", "fe80::1"]
)
def test_what_can_be_bound_here_stays(text: str) -> None:
    address = ipaddress.ip_address(text)
    assert addresses.here(address) == address


def test_what_can_not_is_one_of_ours_or_stays() -> None:
    for text in ("192.0.2.77", "::ffff:192.0.2.77"):
        address = ipaddress.ip_address(text)
        assert addresses.here(addresses.here(address)) == addresses.here(address)
