"""What spawner and monitors say fills no file system, and none of them has to be told."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.spawner import output
from runtime.spawner.output import KEPT, LIMIT, Output


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[int]:
    """The file as a monitor has it: for ever."""
    fd = Output(tmp_path).open()
    yield fd
    os.close(fd)


def test_a_file_within_its_limit_is_left_alone(tmp_path: Path, writer: int) -> None:
    os.write(writer, b"x" * LIMIT)
    Output(tmp_path).bound()
    assert os.listdir(tmp_path) == ["spawner.log"]
    assert os.fstat(writer).st_size == LIMIT


def test_beyond_it_the_end_is_kept_and_its_writers_go_on(tmp_path: Path, writer: int) -> None:
    for number in range(2):
        os.write(writer, b"x" * LIMIT + b"last words %d" % number)
        Output(tmp_path).bound()
        kept = (tmp_path / "spawner.log.1").read_bytes()
        assert len(kept) == KEPT
        assert kept.endswith(b"xlast words %d" % number)
        assert os.fstat(writer).st_size == 0
    os.write(writer, b"more")
    assert (tmp_path / "spawner.log").read_bytes() == b"more"
    assert Output(tmp_path).last_words() == f"more (all of it: {tmp_path}/spawner.log)"


def test_it_is_emptied_also_where_nothing_can_be_kept(tmp_path: Path, writer: int) -> None:
    (tmp_path / "spawner.log.1").mkdir()
    os.write(writer, b"x" * (LIMIT + 1))
    Output(tmp_path).bound()
    assert os.fstat(writer).st_size == 0


async def test_it_is_looked_at_again_and_again(
    tmp_path: Path, writer: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "PAUSE", 0.001)
    task = asyncio.create_task(Output(tmp_path).keep_bounded())
    for _ in range(2):
        os.write(writer, b"x" * (LIMIT + 1))
        async with asyncio.timeout(10):
            while os.fstat(writer).st_size:  # noqa: ASYNC110 - it is another's to notice
                await asyncio.sleep(0.001)
    task.cancel()
