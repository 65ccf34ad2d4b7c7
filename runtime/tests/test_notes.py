"""What is written down for whoever clears up: all of a line or nothing; half of one is nobody's."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.cgroup import tree
from runtime.cgroup.limits import limits
from runtime.prepare import note
from runtime.spec import Resources
from runtime.sweep import CGROUPS_FILE, STATES_FILE, Leftovers, sweep


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file of more than 64 bytes: what is written beyond that is cut off, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_line_that_does_not_fit_is_an_error_and_leaves_nothing(
    tmp_path: Path, small_files: None
) -> None:
    del small_files
    file = tmp_path / "cgroups"
    note(file, "/first")
    with pytest.raises(OSError, match="No space left on device"):
        note(file, "/second" * 20)
    note(file, "/third")
    assert file.read_text() == "/first\n/third\n"


@pytest.mark.root
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
