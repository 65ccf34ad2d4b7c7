"""What systemd passes is taken, and what it wants to hear is said."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from cri.systemd import Notifier, passed_sockets

if TYPE_CHECKING:
    from pathlib import Path


def test_passed_sockets_are_taken_once_and_are_not_inherited(tmp_path: Path) -> None:
    program = """
import os
from cri.systemd import passed_sockets
os.environ["LISTEN_PID"] = str(os.getpid())
taken = passed_sockets(os.environ)
print([s.getsockname() for s in taken], [os.get_inheritable(s.fileno()) for s in taken])
print(sorted(name for name in os.environ if name.startswith("LISTEN_")), passed_sockets(os.environ))
"""
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        os.dup2(listening.fileno(), 3) if listening.fileno() != 3 else None
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", program],
            env={**os.environ, "LISTEN_FDS": "1", "LISTEN_FDNAMES": "podwright.socket"},
            pass_fds=[3],
            capture_output=True,
            text=True,
            check=True,
        )
    assert done.stdout == f"['{path}'] [False]\n[] []\n"


def test_sockets_passed_to_another_process_are_left_alone() -> None:
    environ = {"LISTEN_PID": "1", "LISTEN_FDS": "1"}
    assert passed_sockets(environ) == []
    assert environ == {}


@pytest.fixture
def journal(tmp_path: Path) -> socket.socket:
    receiving = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    receiving.bind(str(tmp_path / "notify"))
    return receiving


def test_systemd_hears_what_it_asked_for(journal: socket.socket) -> None:
    environ = {"NOTIFY_SOCKET": journal.getsockname(), "WATCHDOG_USEC": "3000000"}
    with journal:
        notifier = Notifier(environ)
        notifier.ready("serving")
        assert journal.recv(100) == b"READY=1\nSTATUS=serving"
        notifier.reloading()
        assert journal.recv(100).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
        notifier.alive()
        assert journal.recv(100) == b"WATCHDOG=1"
        notifier.stopping()
        assert journal.recv(100).startswith(b"STOPPING=1")
    assert notifier.watchdog_seconds == 3.0
    assert environ == {}


def test_an_abstract_notification_socket_works_too() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiving:
        receiving.bind(f"\0podwright-test-{os.getpid()}")
        Notifier({"NOTIFY_SOCKET": f"@podwright-test-{os.getpid()}"}).ready("x")
        assert receiving.recv(100).startswith(b"READY=1")


def test_without_systemd_nothing_is_said() -> None:
    notifier = Notifier({"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"})
    notifier.ready("x")
    assert notifier.watchdog_seconds == 0


def test_a_systemd_that_is_gone_does_not_end_the_daemon(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready("x")
    assert "can't notify systemd" in caplog.text
