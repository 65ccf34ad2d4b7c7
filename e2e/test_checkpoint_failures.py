"""Checkpoints that come to nothing: the container runs on, and nothing of them is left."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import grpc
import pytest

from cri.cli.client import CallFailed
from e2e.checkpoints import counting, goes_on, nothing_is_left, restored, write
from e2e.kubelet import Container, Kubelet, refused, until
from e2e.node import Node

SLOW = '#!/bin/sh\ncase "$*" in *check) exit 0 ;; esac\ntouch {began}\nexec sleep 1000\n'
BROKEN = """#!/bin/sh
case "$*" in *check) exit 0 ;; esac
while [ "$1" != --work-dir ]; do shift; done
echo '(00.01) Error (criu/mem.c:1): it is \033 full' > "$2/dump.log"
exit 1
"""
UNFIT = "#!/bin/sh\necho 'Error (criu/vdso.c:381): vdso: Unexpected bounds' >&2\nexit 1\n"
Use = Callable[[str], Path]


@pytest.fixture
def use(node: Node, busybox: str, tmp_path: Path) -> Iterator[Use]:
    """The session's node, with a script in the place of CRIU."""

    def use(script: str) -> Path:
        program = tmp_path / "criu"
        program.write_text(
            script.format(began=tmp_path / "began") if "{began}" in script else script
        )
        program.chmod(0o755)
        node.more_config = f'[runtime]\ncriu = "{program}"\n'
        node.restart_daemon()
        return tmp_path / "began"

    yield use
    node.more_config = ""
    node.restart_daemon()


def test_without_criu_the_reason_is_said(node: Node, kubelet: Kubelet, tmp_path: Path) -> None:
    container = counting(kubelet.pod())
    node.more_config = '[runtime]\ncriu = "/no/such/criu"\n'
    node.restart_daemon()
    try:
        for call in (
            lambda: write(container, tmp_path / "a.tar"),
            lambda: restored(kubelet.pod(), tmp_path / "a.tar"),
        ):
            error = refused(call)
            assert error.code is grpc.StatusCode.UNIMPLEMENTED
            assert "criu is not installed" in error.message
            assert "/no/such/criu" in error.message
    finally:
        node.more_config = ""
        node.restart_daemon()


def test_what_criu_misses_in_the_kernel_is_said(use: Use, kubelet: Kubelet, tmp_path: Path) -> None:
    use(UNFIT)
    container = counting(kubelet.pod())
    error = refused(lambda: write(container, tmp_path / "a.tar"))
    assert error.code is grpc.StatusCode.UNIMPLEMENTED
    assert "vdso: Unexpected bounds" in error.message


def test_why_criu_failed_is_said_without_its_escapes(
    use: Use, kubelet: Kubelet, tmp_path: Path
) -> None:
    use(BROKEN)
    container = counting(kubelet.pod())
    error = refused(lambda: write(container, tmp_path / "a.tar"))
    assert (error.code, error.message) == (grpc.StatusCode.FAILED_PRECONDITION, "it is ? full")
    untouched(container, tmp_path / "a.tar")


def untouched(container: Container, archive: Path) -> None:
    assert not archive.exists()
    goes_on(container)
    nothing_is_left(container.kubelet.node)


def test_a_checkpoint_ends_with_its_time(use: Use, kubelet: Kubelet, tmp_path: Path) -> None:
    use(SLOW)
    container = counting(kubelet.pod())
    error = refused(lambda: write(container, tmp_path / "a.tar", seconds=1))
    assert error.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert "longer than 1 s" in error.message
    untouched(container, tmp_path / "a.tar")


def begin(container: Container, archive: Path, began: Path) -> threading.Thread:
    """A checkpoint that is under way, and will fail."""

    def call() -> None:
        with suppress(CallFailed):
            write(container, archive)

    thread = threading.Thread(target=call)
    thread.start()
    until(began.exists, "CRIU is at work")
    return thread


def test_the_container_stands_still_meanwhile(use: Use, kubelet: Kubelet, tmp_path: Path) -> None:
    began = use(SLOW)
    container = counting(kubelet.pod())
    thread = begin(container, tmp_path / "a.tar", began)
    seen = container.log()
    threading.Event().wait(0.5)
    assert container.log() == seen
    container.stop()
    thread.join()
    assert container.status().exit_code == 137
    nothing_is_left(kubelet.node)


def test_a_daemon_that_is_killed_leaves_no_frozen_container(
    use: Use, kubelet: Kubelet, tmp_path: Path
) -> None:
    began = use(SLOW)
    container = counting(kubelet.pod())
    thread = begin(container, tmp_path / "a.tar", began)
    assert os.listdir(kubelet.node.root / "checkpoints") != []
    kubelet.node.restart_daemon(how=signal.SIGKILL)
    thread.join()
    untouched(container, tmp_path / "a.tar")


def test_a_pod_is_removed_while_it_is_written_down(
    use: Use, kubelet: Kubelet, tmp_path: Path
) -> None:
    began = use(SLOW)
    pod = kubelet.pod()
    thread = begin(counting(pod), tmp_path / "a.tar", began)
    pod.remove()
    thread.join()
    assert not (tmp_path / "a.tar").exists()
    nothing_is_left(kubelet.node)
