"""What a checkpoint may say of System V IPC."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from runtime.checkpoint import ipc
from runtime.checkpoint.confine import Images
from runtime.checkpoint.files import Refused
from runtime.checkpoint.wire import MalformedImage, Message, read, write

DESCRIPTION = Message.of(*((field, 0) for field in range(1, 8))).encode()


def given(directory: Path, *segments: Message) -> Images:
    images = Images(str(directory))
    images.save("ipcns-shm-9.img", write("ipcns-shm", segments))
    images.save("ipcns-var-9.img", write("ipcns-var", [Message.of((6, 2**63), (8, 10**6))]))
    return images


def segment(*more: tuple[int, int]) -> Message:
    return Message.of((1, DESCRIPTION), (2, 8192), *more)


def test_limits_are_those_of_the_namespace_in_which_we_are(tmp_path: Path) -> None:
    images = given(tmp_path, segment((3, 1)))
    ipc.confine(images, 9)
    (limits,) = read("ipcns-var", images.load("ipcns-var-9.img"))
    most = int(Path("/proc/sys/kernel/shmmax").read_text())
    assert limits.number(6, bits=64) == most
    assert limits.numbers(1) == [
        int(word) for word in Path("/proc/sys/kernel/sem").read_text().split()
    ]
    assert not any(limits.has(field) for field in (15, 16, 17))  # which id is next


def test_huge_pages_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="huge"):
        ipc.confine(given(tmp_path, segment((3, 1), (4, 21 << 26))), 9)


def test_contents_between_messages_are_malformed(tmp_path: Path) -> None:
    with pytest.raises(MalformedImage, match="old CRIU"):
        ipc.confine(given(tmp_path, segment()), 9)


def test_images_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(MalformedImage, match="ipcns-shm-8"):
        ipc.confine(given(tmp_path), 8)


def test_who_has_nothing_attached_is_told_from_who_has_ended() -> None:
    assert not ipc.attached([os.getpid(), 2**22 + 1])
