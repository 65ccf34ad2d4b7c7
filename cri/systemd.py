"""What systemd and a service say to each other: passed sockets, and notifications.

sd_listen_fds(3), sd_notify(3), systemd.service(5) (WatchdogSec=). Without systemd, all of it is
quiet and costs nothing.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import MutableMapping

log = logging.getLogger(__name__)

FIRST_PASSED_FD = 3  # SD_LISTEN_FDS_START


def passed_sockets(environ: MutableMapping[str, str]) -> list[socket.socket]:
    """The listening sockets that systemd passed to this process; its children don't get them.

    The variables are removed: our children must not take them for theirs.
    """
    pid, count = environ.pop("LISTEN_PID", ""), environ.pop("LISTEN_FDS", "")
    environ.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or not count.isdecimal():
        return []
    passed = []
    for fd in range(FIRST_PASSED_FD, FIRST_PASSED_FD + int(count)):
        os.set_inheritable(fd, False)  # noqa: FBT003 - the signature of os
        passed.append(socket.socket(fileno=fd))
    return passed


class Notifier:
    """Tells systemd how the daemon does. `NOTIFY_SOCKET` is removed from the environment."""

    def __init__(self, environ: MutableMapping[str, str]) -> None:
        address = environ.pop("NOTIFY_SOCKET", "")
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        period = environ.pop("WATCHDOG_USEC", "")
        watched = environ.pop("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self.watchdog_seconds = int(period) / 1e6 if watched and period.isdecimal() else 0.0

    def ready(self, text: str) -> None:
        """The daemon serves; `text` is what `systemctl status` shows."""
        self._send(f"READY=1\nSTATUS={text}")

    def reloading(self) -> None:
        """The configuration is being read again; `ready` follows."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """The daemon ends, by itself or as asked."""
        self._send("STOPPING=1\nSTATUS=stopping; pods run on")

    def alive(self) -> None:
        """The event loop turns. To be said more often than `watchdog_seconds`."""
        self._send("WATCHDOG=1")

    def _send(self, message: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as ours:
                ours.sendto(message.encode(), self._address)
        except OSError as error:
            log.warning("can't notify systemd: %s", error)
