"""What is written down for whoever clears up: all of a line or nothing; half of one is nobody's."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.cgroup import tree
from runtime.cgroup.limits import limits
from runtime.linux import mount
from runtime.linux.mount import AT_FDCWD
from runtime.prepare import note
from runtime.spec import Resources
from runtime.sweep import CGROUPS_FILE, STATES_FILE, Leftovers, sweep

pytestmark = pytest.mark.root
PAGE = 4096


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for one page."""
    fd = mount.new_mount(b"tmpfs", ((b"size", b"%d" % PAGE),))
    mount.move_mount(fd, AT_FDCWD, os.fsencode(tmp_path))
    os.close(fd)
    yield tmp_path
    mount.umount(os.fsencode(tmp_path))


def test_a_line_that_does_not_fit_is_an_error_and_leaves_nothing(small_disk: Path) -> None:
    file = small_disk / "cgroups"
    long = "/" + "x" * (PAGE - 20)
    note(file, long)
    with pytest.raises(OSError, match="No space left on device"):
        note(file, "/longer than what is left")
    note(file, "/third")
    assert file.read_text() == f"{long}\n/third\n"


def test_half_a_line_is_nobody_s_name(tmp_path: Path) -> None:
    """It may be that of the parent of all pods, or the beginning of somebody else's."""
    others = tmp_path / "runc" / "abcdef"
    others.mkdir(parents=True)
    hierarchy = tree.detect()
    parent = hierarchy.cgroup(f"/podwright-test-{os.getpid()}-notes")
    parent.create(limits(Resources(), hierarchy.version))
    try:
        monitor = tmp_path / "monitor"
        monitor.mkdir()
        (monitor / CGROUPS_FILE).write_bytes(b"\0\0\n\xff\n" + os.fsencode(parent.path))
        (monitor / STATES_FILE).write_text(f"{tmp_path}/runc/none\n{tmp_path}/runc/a")
        sweep(Leftovers(monitor, tmp_path / "netns"))
        assert not monitor.exists()
        assert parent.exists()
        assert others.exists()
    finally:
        parent.remove()
