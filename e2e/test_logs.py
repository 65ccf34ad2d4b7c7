"""A container's log file: what is in it, when, and for how long."""

from __future__ import annotations

import os
import re
import time
from datetime import datetime

import grpc

from cri.api import api_pb2 as api
from cri.cli.logfile import parse
from e2e.kubelet import Pod, refused, until


def test_lines_have_a_time_their_stream_and_a_tag(pod: Pod) -> None:
    before = time.time()
    container = pod.container(["sh", "-c", "echo out; echo err >&2"]).start()
    container.wait()
    records = container.log_path.read_text().splitlines()
    assert sorted(record.split(" ", 1)[1] for record in records) == ["stderr F err", "stdout F out"]
    for record in records:
        stamp = record.split()[0]
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}(Z|[+-]\d\d:\d\d)", stamp)
        seconds = datetime.fromisoformat(stamp[:26] + stamp[29:].replace("Z", "+00:00"))
        assert before - 1 < seconds.timestamp() < time.time() + 1


def test_the_file_is_there_when_the_exit_is_reported_and_complete(pod: Pod) -> None:
    container = pod.container(["seq", "20000"]).start()
    container.wait()
    assert container.log() == [str(i) for i in range(1, 20001)]


def test_only_root_may_read_it(pod: Pod) -> None:
    container = pod.container(["true"]).start()
    container.wait()
    assert container.log_path.stat().st_mode & 0o777 == 0o640


def test_a_long_line_comes_in_parts_of_16384_bytes(pod: Pod) -> None:
    script = "head -c 40000 /dev/zero | tr '\\0' x; echo; echo next"
    container = pod.container(["sh", "-c", script]).start()
    container.wait()
    lines = container.log_lines()
    assert [len(line.content) for line in lines] == [16384, 16384, 40000 - 32768, 4]
    assert [line.partial for line in lines] == [True, True, False, False]


def test_a_line_without_an_end_is_partial(pod: Pod) -> None:
    container = pod.container(["printf", "no newline"]).start()
    container.wait()
    assert [(line.partial, line.content) for line in container.log_lines()] == [
        (True, b"no newline")
    ]


def test_what_has_no_newline_yet_is_not_lost_when_the_container_is_killed(pod: Pod) -> None:
    container = pod.container(["sh", "-c", "printf waiting; touch /tmp/x; sleep 1000"]).start()
    until(lambda: container.exec("test", "-e", "/tmp/x").exit_code == 0, "it has written")
    container.stop()
    assert container.log() == ["waiting"]


def test_bytes_pass_unchanged(pod: Pod) -> None:
    container = pod.container(["printf", "\\000\\001\\377 \\303\\n"]).start()
    container.wait()
    assert container.log_lines()[0].content == b"\x00\x01\xff \xc3"


def test_a_rotated_file_is_followed_by_a_new_one_and_no_line_is_lost(pod: Pod) -> None:
    script = "i=0; while [ $i -lt 400 ]; do echo $i; i=$((i+1)); usleep 1000; done"
    container = pod.container(["sh", "-c", script]).start()
    path = container.log_path
    until(lambda: path.stat().st_size > 0, "it writes")
    rotated = path.with_suffix(".1")
    os.rename(path, rotated)
    container.reopen_log()
    assert path.exists()
    container.wait()
    lines = [
        parse(line).content for file in (rotated, path) for line in file.read_bytes().splitlines()
    ]
    assert lines == [str(i).encode() for i in range(400)]
    assert path.stat().st_size > 0


def test_the_log_of_what_does_not_run_is_not_opened_again(pod: Pod) -> None:
    container = pod.container(["true"]).start()
    container.wait()
    path = container.log_path
    path.unlink()
    assert refused(container.reopen_log).code is grpc.StatusCode.FAILED_PRECONDITION
    assert not path.exists()


def test_a_restarted_container_adds_to_its_log(pod: Pod) -> None:
    config = pod.container_config(["echo", "one"])
    pod.create(config).start().wait()
    config.metadata.attempt = 1
    config.command[:] = ["echo", "two"]
    again = pod.create(config).start()
    again.wait()
    assert again.log() == ["one", "two"]


def test_without_a_directory_nothing_is_logged(pod: Pod) -> None:
    config = api.PodSandboxConfig()
    config.CopyFrom(pod.config)
    config.metadata.attempt = 5
    config.log_directory = ""
    quiet = pod.kubelet.pod(config)
    container = quiet.container(["sh", "-c", "seq 100000; exit 3"]).start()
    status = container.wait()
    assert (status.exit_code, status.log_path) == (3, "")


def test_the_log_stays_when_the_container_is_removed(pod: Pod) -> None:
    container = pod.container(["echo", "stay"]).start()
    container.wait()
    path = container.log_path
    container.remove()
    assert path.read_bytes().endswith(b"stay\n")
