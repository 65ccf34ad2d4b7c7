"""What CRIU is told, and what is understood of its answers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from runtime.checkpoint import criu
from runtime.checkpoint.criu import MountLine, Subject
from runtime.checkpoints import Checkpoints
from runtime.errors import CriuUnavailable
from runtime.monitor.client import MonitorClient
from runtime.spec import Process, Spec

LOG = """\
(00.01) Error (criu/util.c:1534): rlimit: Can't setup RLIMIT_NOFILE for self: Not permitted
(00.02) Warn  (criu/mount.c:1): careful
(00.03) Error (criu/sk-inet.c:190): inet: Connected TCP socket \x1b[2J
(00.03) Error (criu/sk-inet.c:190): inet: Connected TCP socket \x1b[2J
(00.04) Error (criu/cr-dump.c:2111): Dumping FAILED.
"""


def test_the_first_errors_are_the_reason() -> None:
    assert criu.errors(LOG) == "inet: Connected TCP socket ?[2J; Dumping FAILED."


def test_a_failure_without_a_log_says_so(tmp_path: Path) -> None:
    assert "exit status 3" in criu.complaint(str(tmp_path / "absent"), 3)


def test_only_the_end_of_a_log_is_read(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(
        b"Error (criu/a.c:1): first\n" + b"x" * (2 << 20) + b"\nError (criu/b.c:2): last\n"
    )
    assert criu.complaint(str(log), 1) == "last"


def test_mounts_are_the_nodes_and_namespaces_the_pods() -> None:
    mounts = [
        MountLine(1, 0, "0:1", "/", place, (), "x") for place in ("/", "/dev", "/a b", "/dev")
    ]
    words = criu.dump("/criu", Subject(42, mounts, "/freezer", 77), "/work")
    external = [words[index + 1] for index, word in enumerate(words) if word == "--external"]
    assert external == ["pid[77]:pod-pids", "mnt[/a b]:/a b", "mnt[/dev]:/dev"]
    assert "--leave-running" in words
    assert words[words.index("--tree") + 1] == "42"
    assert words[words.index("--freeze-cgroup") + 1] == "/freezer"


def test_monitors_know_nothing_of_checkpoints_until_one_is_asked_for() -> None:
    script = "import sys, runtime.spawner.server; print(*sys.modules)"
    answer = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    loaded = [name for name in answer.stdout.split() if "criu" in name or "checkpoint" in name]
    assert loaded == []


def test_what_is_restored_is_the_monitors_child() -> None:
    external = ["mnt[m1]:/work/tree/dev"]
    words = criu.restore("/criu", "/work", "/work/root", external, powerless=False)
    assert "--unprivileged" not in words
    alone = criu.restore("/criu", "/work", "/work/root", external, powerless=True)
    assert set(alone) - set(words) == {"--unprivileged"}
    assert {"--restore-sibling", "--restore-detached"} <= set(words)
    assert words[words.index("--root") + 1] == "/work/root"


def nobody(_sandbox_id: str) -> MonitorClient:
    raise AssertionError


async def test_criu_is_asked_once_and_again_when_it_was_replaced(tmp_path: Path) -> None:
    program = tmp_path / "criu"
    asked = tmp_path / "asked"

    def install(code: int) -> None:
        text = f"#!/bin/sh\necho >> {asked}\necho 'Error (criu/x.c:1): too old' >&2\nexit {code}\n"
        new = tmp_path / "new"
        new.write_text(text)
        new.chmod(0o755)
        new.rename(program)

    checkpoints = Checkpoints(str(program), nobody)
    with pytest.raises(CriuUnavailable, match="not installed"):
        await checkpoints.program()
    install(1)
    for _ in range(3):
        with pytest.raises(CriuUnavailable, match="too old"):
            await checkpoints.program()
    assert len(asked.read_text()) == 1
    install(0)
    assert await checkpoints.program() == str(program)


@pytest.mark.parametrize(("said", "works"), [("3.17.1", False), ("3.19", True), ("4.2", True)])
async def test_a_criu_that_forgets_a_promise_is_not_used_where_it_was_made(
    tmp_path: Path, said: str, *, works: bool
) -> None:
    program = tmp_path / "criu"
    program.write_text(f"#!/bin/sh\n[ $1 != --version ] || echo Version: {said}\n")
    program.chmod(0o755)
    checkpoints = Checkpoints(str(program), nobody)
    spec = Spec(process=Process(args=("sh",), no_new_privileges=True))
    assert await checkpoints.restorer(Spec(process=Process(args=("sh",)))) == str(program)
    if works:
        assert await checkpoints.restorer(spec) == str(program)
    else:
        with pytest.raises(CriuUnavailable, match=f"CRIU {said} .*no_new_privs"):
            await checkpoints.restorer(spec)
