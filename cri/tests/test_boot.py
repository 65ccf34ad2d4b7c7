"""Whether the node was booted since the last daemon."""

from __future__ import annotations

from pathlib import Path

import pytest

from cri.daemon import BOOT_ID, is_new_boot, remember_boot


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", bytes(37)])
def test_a_boot_that_can_t_be_read_is_another_one(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "boot-id"
    file.write_bytes(content)
    assert is_new_boot(file)
    remember_boot(file)
    assert not is_new_boot(file)


def test_a_boot_is_not_forgotten_where_it_can_t_be_written_down(tmp_path: Path) -> None:
    file = tmp_path / "boot-id"
    remember_boot(file)
    (tmp_path / "boot-id.new").mkdir()  # as good as a full disk
    with pytest.raises(IsADirectoryError):
        remember_boot(file)
    assert not is_new_boot(file)


def test_a_reboot_is_seen_and_is_seen_once(tmp_path: Path) -> None:
    file = tmp_path / "boot-id"
    assert is_new_boot(file)
    remember_boot(file)
    assert not is_new_boot(file)
    assert file.read_text() == BOOT_ID.read_text()
    file.write_text("00000000-0000-0000-0000-000000000000\n")
    assert is_new_boot(file)
