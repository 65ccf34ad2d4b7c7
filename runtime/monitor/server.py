"""Answers the daemon: which request leads to which act. Any number of connections."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from runtime.codec import decode, encode
from runtime.errors import RuntimeFault
from runtime.linux import fds
from runtime.linux.fds import Message, Socket, accept
from runtime.monitor.failures import failure_of
from runtime.monitor.loop import Loop
from runtime.monitor.messages import (
    Abandon,
    ContainerExit,
    Done,
    Exec,
    Remove,
    ReopenLog,
    Signal,
    Start,
)
from runtime.monitor.pod import Pod

Reply = Callable[[object], None]
Act = Callable[[Message, list[int], Reply], None]


class Connection:
    """One daemon. A daemon that doesn't read is dropped rather than waited for."""

    def __init__(self, peer: Socket) -> None:
        peer.setblocking(False)  # noqa: FBT003 - the standard library's signature
        self.peer = peer
        self.open = True

    def send(self, message: Message) -> None:
        if not self.open:
            return
        try:
            fds.send(self.peer, message)
        except OSError:
            self.open = False  # the loop sees the hang-up and clears away


class Server:
    """Accepts connections, turns packets into calls of the pod, answers and tells exits."""

    def __init__(self, pod: Pod, listener: Socket, loop: Loop) -> None:
        self._pod = pod
        self._loop = loop
        self._listener = listener
        self._connections: list[Connection] = []
        self._kept = False
        self._acts: Mapping[str, Act] = {
            "keep": self._keep,
            "start": self._start,
            "signal": self._signal,
            "exec": self._exec,
            "abandon": self._abandon,
            "reopen-log": self._reopen_log,
            "remove": self._remove,
            "report": self._report,
            "shutdown": self._shutdown,
        }
        loop.watch(listener.fileno(), self._accept)
        pod.on_exit = self._tell

    def add(self, peer: Socket) -> None:
        connection = Connection(peer)
        self._connections.append(connection)
        self._loop.watch(peer.fileno(), lambda: self._serve(connection))

    def _accept(self) -> None:
        self.add(accept(self._listener))

    def _tell(self, ended: ContainerExit) -> None:
        message = encode(ended)
        assert isinstance(message, dict)
        for connection in self._connections:
            connection.send({"event": "exit", **message})

    def _serve(self, connection: Connection) -> None:
        try:
            received = fds.receive(connection.peer)
        except BlockingIOError:
            return
        except (OSError, ValueError):
            received = None
        if received is None or not connection.open:
            self._drop(connection)
            return
        self._kept = True
        message, descriptors = received
        reply = self._reply(connection, message.get("id"))
        try:
            act = self._acts.get(str(message.get("do")))
            if act is None:
                raise RuntimeFault(f"this monitor doesn't know {message.get('do')!r}")
            act(message, descriptors, reply)
        except (RuntimeFault, OSError, ValueError) as error:
            reply(error)
        finally:
            fds.close_all(descriptors)

    def _keep(self, _message: Message, _descriptors: list[int], _reply: Reply) -> None:
        """To have heard anything is enough."""

    def _start(self, message: Message, descriptors: list[int], reply: Reply) -> None:
        get = message.get  # not decode: every object that it touches is a page of our own
        start = Start(
            container_id=str(message["container_id"]),
            cgroup_path=str(message["cgroup_path"]),
            terminal=bool(get("terminal")),
            pid_namespace=str(get("pid_namespace", "own")),
            log_path=str(get("log_path", "")),
            stdin=bool(get("stdin")),
        )
        self._pod.start(start, descriptors, reply)

    def _signal(self, message: Message, _descriptors: list[int], reply: Reply) -> None:
        request = decode(Signal, message)
        self._pod.container(request.container_id).signal(request.signal)
        reply(Done())

    def _exec(self, message: Message, descriptors: list[int], reply: Reply) -> None:
        self._pod.exec(decode(Exec, message), message.get("id"), descriptors, reply)

    def _abandon(self, message: Message, _descriptors: list[int], _reply: Reply) -> None:
        self._pod.abandon(decode(Abandon, message).exec_id)

    def _reopen_log(self, message: Message, _descriptors: list[int], reply: Reply) -> None:
        self._pod.container(decode(ReopenLog, message).container_id).reopen_log()
        reply(Done())

    def _remove(self, message: Message, _descriptors: list[int], reply: Reply) -> None:
        self._pod.remove(decode(Remove, message).container_id, lambda: reply(Done()))

    def _report(self, _message: Message, _descriptors: list[int], reply: Reply) -> None:
        reply(self._pod.report())

    def _shutdown(self, _message: Message, _descriptors: list[int], reply: Reply) -> None:
        self._pod.shutdown(lambda: self._say_goodbye(reply))

    def _say_goodbye(self, reply: Reply) -> None:
        reply(Done())
        self._loop.stop()

    def _reply(self, connection: Connection, number: object) -> Reply:
        def reply(answer: object) -> None:
            if isinstance(answer, BaseException):
                connection.send({"id": number, "failed": encode(failure_of(answer))})
            else:
                ok = answer if isinstance(answer, dict) else encode(answer)
                connection.send({"id": number, "ok": ok})

        return reply

    def _drop(self, connection: Connection) -> None:
        self._loop.unwatch(connection.peer.fileno())
        connection.peer.close()
        connection.open = False
        self._connections.remove(connection)
        if not self._kept:
            self._loop.stop()  # the daemon died before it could write down that we exist
