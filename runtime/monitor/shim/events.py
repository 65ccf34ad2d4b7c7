"""What a shim tells unasked: that a container has run out of memory. The rest is answered and
forgotten; ends are heard by Wait."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError

from runtime.linux.fds import Socket, accept
from runtime.monitor.shim.task_pb2 import Empty, ForwardRequest, TaskOOM
from runtime.ttrpc.calls import Answering, Question, refusal, reply
from runtime.ttrpc.errors import Code, Violation

if TYPE_CHECKING:
    from runtime.monitor.loop import Loop

SERVICE, METHOD = "containerd.services.events.ttrpc.v1.Events", "Forward"
OUT_OF_MEMORY = "/tasks/oom"  # a topic
_READ_BYTES = 65536


class Events:
    """Serves the events service. on_oom: told a container's id."""

    def __init__(self, loop: Loop, listener: Socket, on_oom: Callable[[str], None]) -> None:
        """listener: owned; nobody but the shim can reach it."""
        self._loop = loop
        self._listener = listener
        self._on_oom = on_oom
        self._peers: dict[Socket, Answering] = {}
        loop.watch(listener.fileno(), self._accept)

    def close(self) -> None:
        for peer in (*self._peers, self._listener):
            self._loop.unwatch(peer.fileno())
            peer.close()
        self._peers.clear()

    def _accept(self) -> None:
        peer = accept(self._listener)
        peer.setblocking(False)  # noqa: FBT003 - the standard library's signature
        self._peers[peer] = Answering()
        self._loop.watch(peer.fileno(), lambda: self._serve(peer))

    def _serve(self, peer: Socket) -> None:
        try:
            data = peer.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data or not self._take(peer, data):
            del self._peers[peer]
            self._loop.unwatch(peer.fileno())
            peer.close()

    def _take(self, peer: Socket, data: bytes) -> bool:
        """False: it talks nonsense, or doesn't read its answers, which are some 30 bytes each."""
        try:
            for question in self._peers[peer].feed(data):
                said = question if isinstance(question, bytes) else self._answer(question)
                peer.sendall(said)
        except (OSError, Violation):
            return False
        return True

    def _answer(self, question: Question) -> bytes:
        if (question.service, question.method) != (SERVICE, METHOD):
            text = f"there is no {question.service}/{question.method} here"
            return refusal(question.stream, Code.UNIMPLEMENTED, text)
        try:
            envelope = ForwardRequest.FromString(question.payload).envelope
            if envelope.topic == OUT_OF_MEMORY:
                self._on_oom(TaskOOM.FromString(envelope.event.value).container_id)
        except DecodeError as error:
            return refusal(question.stream, Code.INVALID_ARGUMENT, f"no event: {error}")
        return reply(question.stream, Empty().SerializeToString())
