"""Answers the daemon: which request leads to which act. Any number of connections."""

from __future__ import annotations

import _socket
import contextlib
from collections.abc import Callable, Mapping, Sequence

from runtime.codec import decode, encode
from runtime.errors import RuntimeFault
from runtime.linux import fds
from runtime.linux.fds import Message, Socket, accept, netlink_socket, tcp_sockets
from runtime.monitor.failures import failure_of
from runtime.monitor.loop import Loop
from runtime.monitor.messages import (
    Abandon,
    Attach,
    ContainerExit,
    Done,
    Dump,
    EndInput,
    Exec,
    ExecStream,
    Pause,
    Remove,
    ReopenLog,
    Resize,
    Signal,
    Sockets,
    Start,
    StartSandbox,
)
from runtime.monitor.pod import Pod

Act = Callable[[Message, list[int], "Asker"], None]

UNHEARD_BYTES = 4 * 1024 * 1024  # the kernel's memory for some 5000 packets, if nobody reads them
_SO_SNDBUFFORCE = 32  # asm-generic/socket.h: beyond net.core.wmem_max, as root may


class Connection:
    """One daemon. A daemon that doesn't read is dropped rather than waited for: it sees that the
    connection has ended, comes back, and asks what has happened."""

    def __init__(self, peer: Socket) -> None:
        self.peer = peer
        self.open = True
        self.configure()

    def configure(self) -> None:
        """Once for each socket that is our peer."""
        self.peer.setblocking(False)  # noqa: FBT003 - the standard library's signature
        try:  # noqa: SIM105 - plainly: see main.py
            self.peer.setsockopt(_socket.SOL_SOCKET, _SO_SNDBUFFORCE, UNHEARD_BYTES)
        except OSError:
            pass

    def send(self, message: Message, descriptors: Sequence[int] = ()) -> None:
        """descriptors: the caller's to close."""
        if not self.open:
            return
        try:
            fds.send(self.peer, message, descriptors)
        except OSError:
            self.open = False
            with contextlib.suppress(OSError):  # both loops see that, and clear away
                self.peer.shutdown(_socket.SHUT_RDWR)


class Asker:
    """Who waits for an answer: a connection, and the number of its message."""

    __slots__ = ("connection", "number")

    def __init__(self, connection: Connection, number: object) -> None:
        self.connection = connection
        self.number = number

    @property
    def key(self) -> tuple[object, object]:
        return self.connection, self.number

    def reply(self, answer: object) -> None:
        """The end of it: a message, or an exception."""
        if isinstance(answer, BaseException):
            failure = encode(failure_of(answer))
            self.connection.send({"id": self.number, "failed": failure})
        else:
            ok = answer if isinstance(answer, dict) else encode(answer)
            self.connection.send({"id": self.number, "ok": ok})

    def begun(self, opened: object, descriptors: list[int]) -> None:
        """It has begun; the end comes later. descriptors: the caller's to close."""
        self.connection.send({"id": self.number, "open": encode(opened)}, descriptors)


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
            "start-sandbox": self._start_sandbox,
            "signal": self._signal,
            "exec": self._exec,
            "exec-stream": self._exec_stream,
            "attach": self._attach,
            "end-input": self._end_input,
            "resize": self._resize,
            "sockets": self._sockets,
            "abandon": self._abandon,
            "pause": self._pause,
            "dump": self._dump,
            "reopen-log": self._reopen_log,
            "remove": self._remove,
            "report": self._report,
            "shutdown": self._shutdown,
        }
        loop.watch(listener.fileno(), self._accept)
        pod.on_exit = self._tell
        pod.on_sandbox_end = lambda: self._say({"event": "sandbox-end"})

    def add(self, peer: Socket) -> Connection:
        connection = Connection(peer)
        self._connections.append(connection)
        self._loop.watch(peer.fileno(), lambda: self._serve(connection))
        return connection

    def _accept(self) -> None:
        self.add(accept(self._listener))

    def _tell(self, ended: ContainerExit) -> None:
        message = encode(ended)
        assert isinstance(message, dict)
        self._say({"event": "exit", **message})

    def _say(self, message: Message) -> None:
        for connection in self._connections:
            connection.send(message)

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
        asker = Asker(connection, message.get("id"))
        try:
            act = self._acts.get(str(message.get("do")))
            if act is None:
                raise RuntimeFault(f"this monitor doesn't know {message.get('do')!r}")
            act(message, descriptors, asker)
        except (RuntimeFault, OSError, ValueError) as error:
            asker.reply(error)
        finally:
            fds.close_all(descriptors)

    def _keep(self, _message: Message, _descriptors: list[int], _asker: Asker) -> None:
        """To have heard anything is enough."""

    def _start(self, message: Message, descriptors: list[int], asker: Asker) -> None:
        get = message.get  # not decode: every object that it touches is a page of our own
        start = Start(
            container_id=str(message["container_id"]),
            cgroup_path=str(message["cgroup_path"]),
            terminal=bool(get("terminal")),
            pid_namespace=str(get("pid_namespace", "own")),
            log_path=str(get("log_path", "")),
            stdin=bool(get("stdin")),
            stdin_once=bool(get("stdin_once")),
            handler=str(get("handler", "")),
            hooks=bool(get("hooks")),
            untraced=bool(get("untraced")),
            shim=bool(get("shim")),
            checkpoint=str(get("checkpoint", "")),
            criu=str(get("criu", "")),
            shm=str(get("shm", "")),
        )
        self._pod.start(start, descriptors, asker.reply)

    def _start_sandbox(self, message: Message, descriptors: list[int], asker: Asker) -> None:
        self._pod.start_sandbox(decode(StartSandbox, message), descriptors[0], asker.reply)

    def _signal(self, message: Message, _descriptors: list[int], asker: Asker) -> None:
        request = decode(Signal, message)
        self._pod.container(request.container_id).signal(request.signal)
        asker.reply(Done())

    def _exec(self, message: Message, descriptors: list[int], asker: Asker) -> None:
        args, seconds = message["args"], message.get("timeout", 0.0)  # not decode, as above
        if not isinstance(args, list) or not isinstance(seconds, (int, float)):
            raise ValueError("exec: args must be an array, timeout a number")
        request = Exec(str(message["container_id"]), tuple(args), seconds)
        self._pod.exec(request, asker.key, descriptors, asker.reply)

    def _exec_stream(self, message: Message, descriptors: list[int], asker: Asker) -> None:
        request = decode(ExecStream, message)
        stdio = [-1, -1, -1]
        for number, fd in zip(request.streams, descriptors, strict=True):
            stdio[number] = fd
        self._pod.exec(request, asker.key, stdio, asker.reply, asker.begun)

    def _attach(self, message: Message, descriptors: list[int], asker: Asker) -> None:
        request = decode(Attach, message)
        self._pod.attach(request, asker.key, descriptors, asker.reply, asker.begun)

    def _end_input(self, message: Message, _descriptors: list[int], asker: Asker) -> None:
        self._pod.end_input((asker.connection, decode(EndInput, message).exec_id))

    def _resize(self, message: Message, _descriptors: list[int], asker: Asker) -> None:
        request = decode(Resize, message)
        self._pod.resize((asker.connection, request.exec_id), request.width, request.height)

    def _abandon(self, message: Message, _descriptors: list[int], asker: Asker) -> None:
        self._pod.abandon((asker.connection, decode(Abandon, message).exec_id))

    def _pause(self, message: Message, _descriptors: list[int], asker: Asker) -> None:
        self._pod.pause(decode(Pause, message), asker.key, asker.reply, asker.begun)

    def _dump(self, message: Message, _descriptors: list[int], asker: Asker) -> None:
        self._pod.dump(decode(Dump, message), asker.key, asker.reply)

    def _sockets(self, message: Message, _descriptors: list[int], asker: Asker) -> None:
        """They belong to the network in which they are made: the pod's, as we are in it."""
        sockets = [netlink_socket()] if decode(Sockets, message).netlink else tcp_sockets()
        try:
            asker.begun(Done(), sockets)
        finally:
            fds.close_all(sockets)

    def _reopen_log(self, message: Message, _descriptors: list[int], asker: Asker) -> None:
        self._pod.container(decode(ReopenLog, message).container_id).reopen_log()
        asker.reply(Done())

    def _remove(self, message: Message, _descriptors: list[int], asker: Asker) -> None:
        self._pod.remove(decode(Remove, message).container_id, lambda: asker.reply(Done()))

    def _report(self, _message: Message, _descriptors: list[int], asker: Asker) -> None:
        asker.reply(self._pod.report())

    def _shutdown(self, _message: Message, _descriptors: list[int], asker: Asker) -> None:
        self._pod.shutdown(lambda: self._say_goodbye(asker))

    def _say_goodbye(self, asker: Asker) -> None:
        asker.reply(Done())
        self._loop.stop()

    def _drop(self, connection: Connection) -> None:
        self._loop.unwatch(connection.peer.fileno())
        connection.peer.close()
        connection.open = False
        self._connections.remove(connection)
        self._pod.abandon_all(connection)  # nobody is left to hear what becomes of it
        if not self._kept:
            self._loop.stop()  # the daemon died before it could write down that we exist
