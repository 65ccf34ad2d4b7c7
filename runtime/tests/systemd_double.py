"""A systemd for machines that have none: the few methods that we call, over its private socket.

It speaks D-Bus, authenticates, starts scopes by really making their cgroups and moving the process
they are given, answers jobs by a signal that comes before the reply or after it, and refuses what
systemd refuses. Unlike systemd, it removes a scope's cgroup only when the test says so.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

from jeepney import (
    HeaderFields,
    Message,
    MessageType,
    Parser,
    new_error,
    new_method_return,
    new_signal,
)
from jeepney.wrappers import DBusAddress

from runtime.cgroup import files, units
from runtime.cgroup.v2 import CgroupV2, HierarchyV2

MANAGER = DBusAddress("/org/freedesktop/systemd1", interface="org.freedesktop.systemd1.Manager")
SYSTEMD = "org.freedesktop.systemd1"
Properties = dict[str, object]


class Refusal(Exception):
    """A D-Bus error to answer with."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(text)
        self.name = name


class SystemdDouble:
    """Serves at `path` while inside; hierarchy: where it makes cgroups.

    units: properties by name, of what it has been told to start; result: how jobs end;
    signal_first: the job's end is told before its number; untold: it is never told; idle: nothing
    is done; silent: never answers; on_bus: asks to be greeted, as the system bus does.
    """

    def __init__(
        self, path: Path, hierarchy: HierarchyV2 | None = None, *, on_bus: bool = False
    ) -> None:
        self._hierarchy = hierarchy
        self.units: dict[str, Properties] = {}
        self.calls: list[str] = []
        self.result = "done"
        self.signal_first = False
        self.untold = False
        self.idle = False
        self.silent = False
        self.refuses: dict[str, Refusal] = {}
        self._on_bus = on_bus
        self._jobs = 0
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._connections: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._methods: dict[str, Callable[..., tuple[str, tuple[object, ...]]]] = {
            "Hello": lambda: ("s", (":1.7",)),
            "AddMatch": lambda _rule: ("", ()),
            "Subscribe": lambda: ("", ()),
            "Get": lambda _interface, _name: ("v", (("s", "252 (double)"),)),
            "StartTransientUnit": self._start,
            "StopUnit": self._stop,
            "SetUnitProperties": self._set,
            "ResetFailedUnit": lambda _name: ("", ()),
        }

    def __enter__(self) -> SystemdDouble:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for name in list(self.units):
            if name.endswith(".scope"):
                self._remove(name)

    def cgroup(self, name: str) -> CgroupV2:
        """The cgroup of a scope that was started."""
        assert self._hierarchy is not None
        parent = units.slice_path(str(self.units[name]["Slice"]))
        return self._hierarchy.cgroup(f"{parent}/{name}")

    # the connection

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._connections.append(connection)
            thread = threading.Thread(target=self._serve, args=(connection,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(ConnectionError):
            rest = self._welcome(connection)
            parser, serial = Parser(), 0
            parser.add_data(rest)
            while True:
                while (message := parser.get_next_message()) is None:
                    data = connection.recv(65536)
                    if not data:
                        return
                    parser.add_data(data)
                for answer in self._answers(message):
                    serial += 1
                    connection.sendall(answer.serialise(serial=serial))

    def _welcome(self, connection: socket.socket) -> bytes:
        """SASL: answers what follows BEGIN, if it is here already.

        systemd would leave that unread until more comes: so nothing may follow.
        """
        heard = b""
        while b"BEGIN\r\n" not in heard:
            heard += connection.recv(4096)
        uid = str(os.getuid()).encode().hex().encode()
        assert heard == b"\0AUTH EXTERNAL " + uid + b"\r\nBEGIN\r\n"
        connection.sendall(b"OK 00112233445566778899aabbccddeeff\r\n")
        return heard.partition(b"BEGIN\r\n")[2]

    def _answers(self, message: Message) -> list[Message]:
        fields = message.header.fields
        member = fields[HeaderFields.member]
        self.calls.append(member)
        assert message.header.message_type is MessageType.method_call
        assert self._on_bus or member != "Hello", "nobody is greeted on the private socket"
        if self.silent and member != "Hello":
            return []
        try:
            if member in self.refuses:
                raise self.refuses[member]
            signature, body = self._methods[member](*message.body)
        except Refusal as error:
            return [new_error(message, error.name, "s", (str(error),))]
        reply = new_method_return(message, signature or None, body)
        if signature != "o" or self.untold:
            return [reply]
        ended = (self._jobs, body[0], str(message.body[0]), self.result)
        signal = new_signal(MANAGER, "JobRemoved", "uoss", ended)
        other = new_signal(MANAGER, "JobRemoved", "uoss", (9, "/job/other", "x.service", "failed"))
        return [other, signal, reply] if self.signal_first else [reply, other, signal]

    # what it is asked for

    def _job(self) -> tuple[str, tuple[object, ...]]:
        self._jobs += 1
        return "o", (f"/org/freedesktop/systemd1/job/{self._jobs}",)

    def _start(
        self,
        name: str,
        mode: str,
        properties: Sequence[tuple[str, tuple[str, object]]],
        aux: object,
    ) -> tuple[str, tuple[object, ...]]:
        assert (mode, aux) == ("fail", [])
        if name in self.units:
            raise Refusal(f"{SYSTEMD}.UnitExists", f"Unit {name} was already loaded")
        self.units[name] = {key: value for key, (_, value) in properties}
        group = self.cgroup(name)
        group.ensure()
        (pid,) = cast("list[int]", self.units[name]["PIDs"])
        if not self.idle:
            files.write(f"{group.directory}/cgroup.procs", str(pid))
        return self._job()

    def _stop(self, name: str, _mode: str) -> tuple[str, tuple[object, ...]]:
        if name not in self.units:
            raise Refusal(f"{SYSTEMD}.NoSuchUnit", f"Unit {name} not loaded.")
        self._remove(name)
        return self._job()

    def _set(
        self, name: str, runtime: bool, properties: Sequence[tuple[str, tuple[str, object]]]
    ) -> tuple[str, tuple[object, ...]]:
        if name not in self.units:
            raise Refusal(f"{SYSTEMD}.NoSuchUnit", f"Unit {name} not loaded.")
        assert runtime
        self.units[name] |= {key: value for key, (_, value) in properties}
        return "", ()

    def _remove(self, name: str) -> None:
        group = self.cgroup(name)
        group.kill()
        group.remove(timeout=20)
        del self.units[name]
