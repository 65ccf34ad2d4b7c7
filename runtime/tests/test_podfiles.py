"""What a container writes to its pod's /etc files is bounded, and goes with the pod."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime import podfiles, sweep

pytestmark = pytest.mark.root


@pytest.fixture
def monitor(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "monitor"
    podfiles.remove(tmp_path / "monitor")


def fill(path: Path) -> None:
    with path.open("ab", buffering=0) as file:
        for _ in range(2 * podfiles.ROOM // 4096):
            file.write(bytes(4096))


def test_files_have_room_for_more_and_then_are_full(monitor: Path) -> None:
    large = "x" * (2 * podfiles.ROOM)
    podfiles.write(monitor, {"hosts": large, "hostname": "web\n"}, (7, 8), "")
    hosts = podfiles.path(monitor) / "hosts"
    assert hosts.read_text() == large
    status = hosts.stat()
    assert (status.st_uid, status.st_gid) == (7, 8)
    with pytest.raises(OSError, match="No space"):
        fill(hosts)
    assert len(large) < hosts.stat().st_size <= len(large) + podfiles.ROOM
    (monitor / "exit").write_text("other files don't notice")


def test_attributes_of_files_have_no_room_to_speak_of(monitor: Path) -> None:
    podfiles.write(monitor, {"hosts": "1", "hostname": "2", "resolv.conf": "3"}, (0, 0), "")
    hosts = podfiles.path(monitor) / "hosts"
    try:
        os.setxattr(hosts, "user.small", b"x")
    except OSError:
        pytest.skip("this kernel's tmpfs keeps no attributes of users")
    with pytest.raises(OSError, match="No space"):
        os.setxattr(hosts, "user.large", bytes(32768))


def test_they_go_with_the_monitor_s_directory_also_when_in_use(
    monitor: Path, tmp_path: Path
) -> None:
    podfiles.write(monitor, {"hosts": "1"}, (0, 0), "")
    with (podfiles.path(monitor) / "hosts").open() as file:
        sweep.sweep(sweep.Leftovers(monitor, tmp_path / "netns"))
        assert file.read() == "1"
    assert not monitor.exists()
    assert os.fspath(monitor) not in Path("/proc/self/mountinfo").read_text()
    sweep.sweep(sweep.Leftovers(monitor, tmp_path / "netns"))


def test_half_of_it_is_removed_too(monitor: Path, tmp_path: Path) -> None:
    (monitor / "files").mkdir(parents=True)  # killed before it was mounted
    sweep.sweep(sweep.Leftovers(monitor, tmp_path / "netns"))
    assert not monitor.exists()


def test_a_pod_of_an_earlier_version_has_them_beside_the_socket(monitor: Path) -> None:
    monitor.mkdir()
    assert podfiles.path(monitor) == monitor
