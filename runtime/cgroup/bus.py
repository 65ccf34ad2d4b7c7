"""A connection to systemd, by which it is asked to do something, and heard of having done it.

    us                                       systemd (pid 1)
     │ AUTH EXTERNAL <uid>, BEGIN ──────────▶ │   /run/systemd/private: root's own way, no bus
     │                                        │   makes itself ready for us meanwhile
     │ ◀──────────────────────────────── OK   │   read before the first call
     │ call: StartTransientUnit … ──────────▶ │   between; else the system bus
     │ ◀──────────────── reply: job's path    │   either of these may
     │ ◀── signal: JobRemoved, path, result   │   come first

D-Bus by jeepney, of which only what knows no sockets is used. Blocking, for one thread; a
connection an act, since systemd drops all of them when it executes itself anew. Loaded by the
daemon, and only with this driver.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Final, cast

from jeepney import (
    DBusAddress,
    HeaderFields,
    Message,
    MessageType,
    Parser,
    Properties,
    message_bus,
    new_method_call,
)

from runtime.cgroup.errors import SystemdRefused, SystemdSilent, SystemdUnavailable

PRIVATE: Final = "/run/systemd/private"
SYSTEM_BUS: Final = "/run/dbus/system_bus_socket"
PATIENCE: Final = 30.0  # seconds for an answer, and for a job; milliseconds are the rule
_READ: Final = 65536
_LOOK: Final = 0.001  # seconds between two looks at what a job has done already
_MOST_WELCOME: Final = 1024
_MANAGER = DBusAddress(
    "/org/freedesktop/systemd1",
    bus_name="org.freedesktop.systemd1",
    interface="org.freedesktop.systemd1.Manager",
)
_JOB_REMOVED = "type='signal',interface='org.freedesktop.systemd1.Manager',member='JobRemoved'"


class Bus:
    """Raises SystemdUnavailable where nobody listens, or answers, whatever is asked.

    private, shared: where to look for systemd, in this order.
    """

    def __init__(
        self, private: str = PRIVATE, shared: str = SYSTEM_BUS, *, patience: float = PATIENCE
    ) -> None:
        self._deadline = time.monotonic() + patience
        self._parser = Parser()
        self._serial = 0
        self._jobs: dict[str, str] = {}  # ended ones: path -> result
        self._welcome = False  # whether it has let us in
        self._socket, self._on_bus = self._connect(private, shared)
        try:
            self._introduce()
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Bus:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._socket.close()

    def call(self, unit: str, method: str, signature: str, *words: object) -> tuple[object, ...]:
        """A method of systemd's manager. Raises SystemdRefused, in which `unit` is told."""
        self._enter()
        return self._ask(new_method_call(_MANAGER, method, signature, words), unit)

    def job(
        self,
        unit: str,
        method: str,
        signature: str,
        *words: object,
        seen: Callable[[], bool] | None = None,
    ) -> None:
        """A method that answers with a job; returns when that has ended well, or once `seen`: what
        it is to do has been done. systemd does first, and tells a tenth of the time later."""
        (path,) = self.call(unit, method, signature, *words)
        while str(path) not in self._jobs:
            if seen is not None and seen():
                return
            self._note(self._receive(None if seen is None else _LOOK))
        result = self._jobs.pop(str(path))
        if result != "done":
            raise SystemdRefused(unit, result, f"{method} ended as {result!r}")

    def property(self, name: str) -> str:
        """A property of the manager that is a string."""
        self._enter()
        (answer,) = self._ask(Properties(_MANAGER).get(name), "")
        return str(cast("tuple[str, object]", answer)[1])

    def _connect(self, private: str, shared: str) -> tuple[socket.socket, bool]:
        reasons = []
        for path, on_bus in ((private, False), (shared, True)):
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
            try:
                connection.settimeout(self._left())
                connection.connect(path)
            except OSError as error:
                connection.close()
                reasons.append(f"{path}: {error.strerror or error}")
            else:
                return connection, on_bus
        raise SystemdUnavailable(f"systemd can't be reached: {'; '.join(reasons)}")

    def _introduce(self) -> None:
        """SASL EXTERNAL: the kernel says who we are.

        BEGIN goes with the question, and nothing else before the answer: what arrives together with
        BEGIN, systemd reads, and then waits for more before it looks at it.
        """
        uid = str(os.geteuid()).encode().hex()
        try:
            self._socket.sendall(f"\0AUTH EXTERNAL {uid}\r\nBEGIN\r\n".encode())
        except OSError as error:
            raise SystemdSilent(f"systemd has hung up: {error}") from error

    def _enter(self) -> None:
        """Waits to be let in, once."""
        if self._welcome:
            return
        answer = b""
        while b"\r\n" not in answer and len(answer) < _MOST_WELCOME:
            answer += self._read()
        line, _, rest = answer.partition(b"\r\n")
        if not line.startswith(b"OK"):
            raise SystemdSilent(f"systemd doesn't let us in: {line.decode(errors='replace')}")
        self._welcome = True
        self._parser.add_data(rest)
        if self._on_bus:
            self._ask(message_bus.Hello(), "")
            self._ask(message_bus.AddMatch(_JOB_REMOVED), "")
            self._ask(new_method_call(_MANAGER, "Subscribe"), "")

    def _ask(self, message: Message, unit: str) -> tuple[object, ...]:
        self._serial += 1
        try:
            self._socket.settimeout(self._left())
            self._socket.sendall(message.serialise(serial=self._serial))
        except OSError as error:
            raise SystemdSilent(f"systemd has hung up: {error}") from error
        while True:
            heard = self._receive()
            assert heard is not None  # only who looks elsewhere, too, is told of nothing
            fields = cast("Mapping[HeaderFields, object]", heard.header.fields)
            if fields.get(HeaderFields.reply_serial) != self._serial:
                self._note(heard)
            elif heard.header.message_type is MessageType.error:
                words = " ".join(map(str, heard.body))
                raise SystemdRefused(unit, str(fields.get(HeaderFields.error_name)), words)
            else:
                return tuple(heard.body)

    def _note(self, heard: Message | None) -> None:
        """Of all signals, that a job has ended: number, path, unit, result."""
        if heard is None:
            return
        fields = cast("Mapping[HeaderFields, object]", heard.header.fields)
        if fields.get(HeaderFields.member) == "JobRemoved":
            _, path, _, result = cast("Iterable[object]", heard.body)
            self._jobs[str(path)] = str(result)

    def _receive(self, look: float | None = None) -> Message | None:
        """The next message; None if `look` seconds pass without one."""
        while (message := self._parser.get_next_message()) is None:
            data = self._read(look)
            if not data:
                return None
            self._parser.add_data(data)
        return message

    def _read(self, look: float | None = None) -> bytes:
        """b"": nothing within `look` seconds."""
        left = self._left()
        try:
            self._socket.settimeout(left if look is None else min(left, look))
            data = self._socket.recv(_READ)
        except TimeoutError:
            if look is not None and look < left:
                return b""
            raise SystemdSilent("systemd has not answered in time") from None
        except OSError as error:
            raise SystemdSilent(f"systemd has hung up: {os.strerror(error.errno or 0)}") from error
        if not data:
            raise SystemdSilent("systemd has hung up")
        return data

    def _left(self) -> float:
        return max(self._deadline - time.monotonic(), 0.001)
