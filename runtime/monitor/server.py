"""Answers the daemon: which request leads to which act. Any number of connections."""

from __future__ import annotations

from collections.abc import Callable

from runtime.codec import decode, encode
from runtime.errors import RuntimeFault
from runtime.linux import fds
from runtime.linux.fds import Message, Socket, accept
from runtime.monitor.failures import failure_of
from runtime.monitor.loop import Loop
from runtime.monitor.messages import (
    REQUESTS,
    Abandon,
    ContainerExit,
    Done,
    Exec,
    Keep,
    Remove,
    ReopenLog,
    Report,
    Request,
    Shutdown,
    Signal,
    Start,
)
from runtime.monitor.pod import Pod

Reply = Callable[[object], None]


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
            kind = REQUESTS.get(str(message.get("do")))
            if kind is None:
                raise RuntimeFault(f"this monitor doesn't know {message.get('do')!r}")
            self._act(decode(kind, message), descriptors, reply, message)
        except (RuntimeFault, OSError, ValueError) as error:
            reply(error)
        finally:
            fds.close_all(descriptors)

    def _act(
        self, request: Request, descriptors: list[int], reply: Reply, message: Message
    ) -> None:
        pod = self._pod
        match request:
            case Keep():
                pass  # to have heard anything is enough
            case Start():
                pod.start(request, descriptors, reply)
            case Signal():
                pod.container(request.container_id).signal(request.signal)
                reply(Done())
            case Exec():
                pod.exec(request, message.get("id"), descriptors, reply)
            case Abandon():
                pod.abandon(request.exec_id)
            case ReopenLog():
                pod.container(request.container_id).reopen_log()
                reply(Done())
            case Remove():
                pod.remove(request.container_id, lambda: reply(Done()))
            case Report():
                reply(pod.report())
            case Shutdown():
                pod.shutdown(lambda: self._say_goodbye(reply))

    def _say_goodbye(self, reply: Reply) -> None:
        reply(Done())
        self._loop.stop()

    def _reply(self, connection: Connection, number: object) -> Reply:
        def reply(answer: object) -> None:
            if isinstance(answer, BaseException):
                connection.send({"id": number, "failed": encode(failure_of(answer))})
            else:
                connection.send({"id": number, "ok": encode(answer)})

        return reply

    def _drop(self, connection: Connection) -> None:
        self._loop.unwatch(connection.peer.fileno())
        connection.peer.close()
        connection.open = False
        self._connections.remove(connection)
        if not self._kept:
            self._loop.stop()  # the daemon died before it could write down that we exist
