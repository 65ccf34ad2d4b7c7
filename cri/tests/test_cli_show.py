"""What the verbs draw and read: the waterfall, log files, columns, addresses."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click
import grpc
import pytest
from click.testing import CliRunner

from cri.api import api_pb2 as api
from cri.cli import logfile, pulling, show, waterfall
from cri.cli.client import CallFailed, Client, normal_address
from cri.cli.logfile import Line
from cri.cli.waterfall import Bar, Call

MS = 1_000_000


def call(rpc: str, start: float, duration: float, *stages: tuple[str, float, float]) -> Call:
    """A call; all times in ms."""
    told = tuple((name, int(begin * MS), int(length * MS)) for name, begin, length in stages)
    return Call(rpc, "web", int(start * MS), int(duration * MS), "", told)


def test_a_stage_inside_another_is_drawn_beneath_it() -> None:
    rows = waterfall.bars(
        [call("Run", 100, 10, ("attach", 5, 4), ("fork", 1, 1), ("monitor", 0, 4))]
    )
    assert [(row.label, row.depth, row.start // MS) for row in rows] == [
        ("Run web", 0, 0),
        ("monitor", 1, 0),
        ("fork", 2, 1),
        ("attach", 1, 5),
    ]


def test_time_outside_of_the_runtime_is_cut_out_and_said() -> None:
    rows = waterfall.bars([call("Run", 100, 10), call("Create", 5000, 2), call("Start", 5002, 3)])
    assert [row.start // MS for row in rows] == [0, 10, 12]
    assert [row.remark for row in rows] == ["", "4890.0 ms outside of the runtime", ""]


def test_calls_that_overlap_stay_where_they_were() -> None:
    rows = waterfall.bars([call("Run", 100, 10), call("Exec", 105, 2), call("Start", 110, 1)])
    assert [row.start // MS for row in rows] == [0, 5, 10]


def test_bars_begin_and_end_where_their_time_does() -> None:
    rows = [Bar("a", 0, 40 * MS, 0), Bar("b", 20 * MS, 20 * MS, 1), Bar("c", 39 * MS, 1, 1)]
    before = len("  b") + waterfall.TIME_WIDTH + 2
    lines = waterfall.draw(rows, before + 40)[1:]
    assert [click.unstyle(line)[before:] for line in lines] == [
        "█" * 40,
        " " * 20 + "█" * 20,
        " " * 39 + "▏",
    ]


def test_stages_too_short_to_see_are_summed_up_for_each_call() -> None:
    calls = [
        call("Run", 0, 100, ("long", 0, 90), ("a", 1, 0.1), ("b", 95, 0.2)),
        call("Start", 100, 100, ("only", 0, 0.1)),
    ]
    rows = waterfall.without_short(waterfall.bars(calls))
    assert [(row.label, row.duration // 1000, row.many) for row in rows] == [
        ("Run web", 100_000, False),
        ("long", 90_000, False),
        ("2 shorter stages", 300, True),
        ("Start web", 100_000, False),
        ("only", 100, True),
    ]


@pytest.mark.parametrize("width", [1, 40, 80, 400])
def test_no_line_is_wider_than_the_terminal_if_that_can_be(width: int) -> None:
    rows = waterfall.bars([call("RunPodSandbox", 0, 12.3, ("x" * 60, 1, 5)), call("Start", 13, 9)])
    least = waterfall.LABEL_WIDTH + waterfall.TIME_WIDTH + 2 + waterfall.LEAST_WIDTH
    for line in waterfall.draw(rows, width):
        assert len(click.unstyle(line)) <= max(width, least)


@pytest.mark.parametrize(("span", "step"), [(20, 5), (12.4, 5), (0.9, 0.2), (1000, 200)])
def test_the_axis_counts_in_round_numbers(span: float, step: float) -> None:
    axis = click.unstyle(waterfall.draw([Bar("a", 0, int(span * MS), 0)], 60)[0])
    numbers = [float(word) for word in re.findall(r"[\d.]+", axis)]
    assert numbers[:2] == [0, step]


def test_nothing_is_drawn_of_nothing() -> None:
    assert waterfall.draw([], 80) == []


RECORDS = b"".join(b"2026-01-02T03:04:05.%09dZ stdout F line %d\n" % (i, i) for i in range(10_000))


def never() -> bool:
    return False


def test_a_record_is_time_stream_tag_and_content() -> None:
    assert logfile.parse(b"T stderr P a  b \n") == Line("T", "stderr", True, b"a  b ")
    assert logfile.parse(b"T stdout F\n") == Line("T", "stdout", False, b"")
    with pytest.raises(ValueError, match="is not a line"):
        logfile.parse(b"something else\n")


@pytest.mark.parametrize("lines", [0, 1, 2, 5000, 9999, 10_000, 20_000])
def test_the_tail_is_the_last_lines_and_no_more(tmp_path: Path, lines: int) -> None:
    path = tmp_path / "log"
    path.write_bytes(RECORDS)
    found = list(logfile.read(path, offset=logfile.tail_offset(path, lines), more=never))
    wanted = range(max(0, 10_000 - lines), 10_000)
    assert [line.content for line in found] == [b"line %d" % i for i in wanted]


def test_an_unfinished_line_counts_as_one(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"a\nb\nc")
    assert logfile.tail_offset(path, 1) == 4
    assert logfile.tail_offset(path, 2) == 2


def test_following_goes_on_through_a_rotation(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"T stdout F one\nT stdout F tw")

    def happenings() -> Iterator[bool]:
        with path.open("ab") as file:
            file.write(b"o\n")
        yield True
        os.rename(path, tmp_path / "log.1")
        yield True
        path.write_bytes(b"T stdout F three\n")
        yield True
        yield False

    found = list(logfile.read(path, more=happenings().__next__))
    assert [line.content for line in found] == [b"one", b"two", b"three"]


def test_columns_are_as_wide_as_what_is_in_them() -> None:
    @click.command()
    def table() -> None:
        show.columns(["POD", "STATE"], [["a", "ready"], ["longer", "not ready"]])

    assert CliRunner().invoke(table).output.splitlines() == [
        "POD     STATE",
        "a       ready",
        "longer  not ready",
    ]


@pytest.mark.parametrize(
    ("seconds", "told"), [(0, "0s"), (119, "119s"), (120, "2m"), (7199, "119m"), (200_000, "2d")]
)
def test_an_age_is_told_in_the_largest_unit_that_says_something(seconds: int, told: str) -> None:
    assert show.age(time.time_ns() - seconds * 1_000_000_000) == told


@pytest.mark.parametrize(
    ("count", "told"), [(0, "0 B"), (999, "999 B"), (1_500, "1.5 kB"), (2e9, "2.0 GB")]
)
def test_sizes_are_told_in_decimal_units(count: float, told: str) -> None:
    assert show.size(count) == told


@pytest.mark.parametrize(
    ("reference", "moving"),
    [("a", True), ("a:latest", True), ("h:5/a", True), ("a:1", False), ("a@sha256:x", False)],
)
def test_a_name_without_a_fixed_tag_may_mean_another_image_tomorrow(
    reference: str, moving: bool
) -> None:
    assert pulling.is_moving(reference) is moving


@pytest.mark.parametrize(
    ("text", "address"),
    [("/run/x.sock", "unix:///run/x.sock"), ("@x", "unix-abstract:x"), ("unix:///y", "unix:///y")],
)
def test_an_address_may_be_a_path(text: str, address: str) -> None:
    assert normal_address(text) == address


def test_a_daemon_that_is_not_there_is_told_in_one_sentence(tmp_path: Path) -> None:
    with Client(str(tmp_path / "none.sock")) as client, pytest.raises(CallFailed) as caught:
        client.call("Version", api.VersionRequest(), api.VersionResponse)
    assert caught.value.code is grpc.StatusCode.UNAVAILABLE
    assert "there is no such socket; start it with `podwright serve`" in caught.value.message
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("text", ["tcp://1.2.3.4:5", "podwright.sock", "unix:relative"])
def test_an_address_that_is_no_socket_is_refused(text: str) -> None:
    with pytest.raises(click.UsageError, match="must be unix:///path/to/socket") as caught:
        normal_address(text)
    assert repr(text) in caught.value.message


def test_a_file_and_a_strangers_socket_are_told_from_a_leftover(tmp_path: Path) -> None:
    def said(path: Path) -> str:
        with Client(str(path)) as client, pytest.raises(CallFailed) as caught:
            client.call("Version", api.VersionRequest(), api.VersionResponse)
        return caught.value.message

    (tmp_path / "file").touch()
    assert "that is no socket" in said(tmp_path / "file")
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.bind(str(tmp_path / "socket"))
        assert "is a leftover" in said(tmp_path / "socket")
        stranger.listen()
        answering = threading.Thread(target=_hang_up, args=(stranger,))
        answering.start()
        message = said(tmp_path / "socket")
        stranger.shutdown(socket.SHUT_RDWR)
        answering.join()
    assert "does not speak CRI" in message


def _hang_up(listening: socket.socket) -> None:
    """Takes each connection, and ends it with words that nobody has asked for."""
    with contextlib.suppress(OSError):
        while True:
            connection, _ = listening.accept()
            with connection:
                connection.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")


def test_another_runtime_is_told_from_podwright(tmp_path: Path) -> None:
    server = grpc.server(ThreadPoolExecutor(1))
    server.add_insecure_port(f"unix:{tmp_path}/other.sock")
    server.start()
    with Client(f"{tmp_path}/other.sock") as client, pytest.raises(CallFailed) as caught:
        client.diagnose("Trace", {})
    server.stop(None).wait()
    assert "is not podwright" in caught.value.message
