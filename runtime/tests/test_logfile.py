"""A container's log file where there is no room."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runtime.monitor.logfile import LogFile


@contextmanager
def room(size: int) -> Iterator[None]:
    """No file of this process grows beyond `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_line_that_finds_no_room_leaves_no_part_of_itself(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = LogFile()
    log.open(str(path))
    log.append(b"first\n")
    with room(14):
        log.append(b"second\nthird\n")
        assert path.read_bytes() == b"first\nsecond\n"
        log.append(b"fourth\n")
    log.append(b"fifth\n")
    log.close()
    assert path.read_bytes() == b"first\nsecond\nfifth\n"
    assert log.lost_bytes == len(b"third\nfourth\n")
    assert log.error == "File too large"
