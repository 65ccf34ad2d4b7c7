"""What a checkpoint may say of terminals."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from runtime.checkpoint import terminals
from runtime.checkpoint.confine import Bounds, Images
from runtime.checkpoint.files import Refused
from runtime.checkpoint.wire import MalformedImage, Message, read, write
from runtime.tests.test_checkpoint_confine import NOBODY, ROOT, SYS_ADMIN

PTY, EXTERNAL = 1, 5
WITH_TERMINAL = replace(ROOT, terminal=True)
SETTINGS = Message.of(*((field, 7) for field in range(1, 8)), (8, 3), (8, 28))


def terminal(kind: int, *, device: int = 0x8800, file_system: int = 0x2F, uid: int = 0) -> Message:
    fields: list[tuple[int, int]] = [(1, 1), (2, kind), (3, 0), (4, 0), (5, 0), (6, 1), (7, 1)]
    settings = SETTINGS.encode()
    more: list[tuple[int, int | bytes]] = [(9, settings), (10, settings), (13, file_system)]
    return Message.of(*fields, (8, device), *more, (14, uid), (15, 5))


def given(directory: Path, *entries: Message) -> Images:
    images = Images(str(directory))
    images.save(terminals.IMAGE, write("tty-info", entries))
    return images


def test_the_containers_own_is_called_by_its_device_numbers(tmp_path: Path) -> None:
    images = given(tmp_path, terminal(PTY, device=0x8801), terminal(EXTERNAL))
    assert terminals.confine(images, WITH_TERMINAL) == "tty[8800:2f]"


def test_without_one_there_is_no_name(tmp_path: Path) -> None:
    assert terminals.confine(Images(str(tmp_path)), WITH_TERMINAL) == ""
    assert terminals.confine(given(tmp_path, terminal(PTY)), WITH_TERMINAL) == ""


def test_dump_and_restore_call_it_the_same() -> None:
    master, peer = os.openpty()
    try:
        found = os.fstat(peer)
        assert terminals.key(master) == f"tty[{found.st_rdev:x}:{found.st_dev:x}]"
    finally:
        os.close(peer)
        os.close(master)


def test_a_terminal_that_is_none_has_no_name() -> None:
    fd = os.memfd_create("none")
    try:
        assert terminals.key(fd) == ""
    finally:
        os.close(fd)


@pytest.mark.parametrize(("bounds", "count"), [(WITH_TERMINAL, 2), (ROOT, 1)])
def test_more_from_outside_than_there_are_is_refused(
    tmp_path: Path, bounds: Bounds, count: int
) -> None:
    images = given(tmp_path, *[terminal(EXTERNAL)] * count)
    with pytest.raises(Refused, match="terminals from outside"):
        terminals.confine(images, bounds)


def test_settings_are_locked_by_who_may_only(tmp_path: Path) -> None:
    powerful = replace(WITH_TERMINAL, bounding=SYS_ADMIN)
    for bounds, locked in ((WITH_TERMINAL, 0), (powerful, 7)):
        images = given(tmp_path, terminal(EXTERNAL))
        terminals.confine(images, bounds)
        (entry,) = read("tty-info", images.load(terminals.IMAGE))
        settings = entry.message(10)
        assert [settings.number(field) for field in range(1, 8)] == [locked] * 7
        assert len(settings.numbers(8)) == 2
        assert entry.message(9).number(1) == 7


def test_whoever_is_only_one_user_owns_what_is_its_own(tmp_path: Path) -> None:
    images = given(tmp_path, terminal(PTY, uid=0))
    terminals.confine(images, NOBODY)
    (entry,) = read("tty-info", images.load(terminals.IMAGE))
    assert entry.number(14) == NOBODY.identity.uid


def test_damage_is_malformed(tmp_path: Path) -> None:
    images = given(tmp_path, terminal(EXTERNAL))
    whole = images.load(terminals.IMAGE)
    for data in (whole[:20], whole[4:], b"", whole + b"\1"):
        images.save(terminals.IMAGE, data)
        with pytest.raises(MalformedImage):
            terminals.confine(images, WITH_TERMINAL)
