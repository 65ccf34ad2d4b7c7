"""Where plugins come from: the socket, and programs of the node."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from cri.nri import launch
from cri.nri.listen import Nri
from cri.nri.mux import PLUGIN_SERVICE, Demux, framed
from cri.plugin_config import NriConfig
from cri.tests.nri_stage import Store

# the socket


async def test_the_socket_is_roots_alone_and_gone_afterwards(tmp_path: Path) -> None:
    path = tmp_path / "deep/er/nri.sock"
    face = Nri(NriConfig(socket=str(path), plugin_path=""))
    await face.start(Store)
    try:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert face.describe()["socket"] == str(path)
        assert not face.active
    finally:
        await face.close()
    assert not path.exists()


async def test_a_socket_that_another_runtime_listens_at_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "nri.sock"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        face = Nri(NriConfig(socket=str(path), plugin_path=""))
        await face.start(Store)
        assert "another runtime listens there: no plugin can connect" in face.problem
        await face.close()
        assert path.exists()


async def test_a_socket_that_is_left_of_a_crash_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "nri.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    face = Nri(NriConfig(socket=str(path), plugin_path=""))
    await face.start(Store)
    assert face.problem == ""
    await face.close()


# programs of the node


def program(directory: Path, name: str, mode: int = 0o755) -> Path:
    path = directory / name
    path.write_text("#!/bin/sh\nexit 0\n")
    path.chmod(mode)
    return path


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it must own the files")
def test_only_programs_with_a_plugins_name_that_are_roots_alone_are_started(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name, mode in (
        *(("20-b", 0o755), ("10-a", 0o700), ("30-written", 0o777), ("40-data", 0o644)),
        *(("noindex", 0o755), ("5-short", 0o755)),
    ):
        program(tmp_path, name, mode)
    os.chown(program(tmp_path, "50-others"), 1000, 0)
    (tmp_path / "60-directory").mkdir()
    (tmp_path / "70-nowhere").symlink_to("/no/such/file")
    configs = tmp_path / "conf"
    configs.mkdir()
    (configs / "20-b.conf").write_text("of 20-b")
    (configs / "b.conf").write_text("of b")
    (configs / "a.conf").write_text("of a")
    found = launch.installed(tmp_path, str(configs))
    assert [(one.index, one.name, one.config) for one in found] == [
        ("10", "a", "of a"),
        ("20", "b", "of 20-b"),
    ]
    for name in ("30-written", "noindex", "5-short", "50-others", "70-nowhere"):
        assert name in caplog.text


def test_pieces_are_read_by_the_other_end() -> None:
    """What the daemon sends in the plugin's conversation, the plugin reads in that one."""
    (piece,) = Demux().feed(b"".join(framed(PLUGIN_SERVICE, b"x")))
    assert (piece.conversation, piece.data) == (PLUGIN_SERVICE, b"x")


def test_a_daemon_without_plugins_loads_none_of_it() -> None:
    script = (
        "import sys, cri.daemon; print([name for name in sys.modules"
        " if name.startswith(('cri.nri.', 'cri.rpc.nri', 'runtime.ttrpc', 'yaml'))])"
    )
    said = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert said.stdout == "['cri.nri.listen']\n"


def test_what_plugins_load_knows_no_grpc() -> None:
    script = "import sys, cri.nri.kit; print('grpc' in sys.modules)"
    said = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert said.stdout == "False\n"
