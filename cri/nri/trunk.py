"""One connection between runtime and plugin: a client and a server of ttrpc over one socket.

Both ends use it, and differ only in which conversation they ask in.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import TypeVar

from google.protobuf.message import Message

from cri.nri.mux import PLUGIN_SERVICE, RUNTIME_SERVICE, Demux, MuxViolation, framed
from runtime.ttrpc.aio import Client, Method, Send, Server
from runtime.ttrpc.errors import ConversationEnded

_READ = 65536
Out = TypeVar("Out", bound=Message)


class Trunk:
    """Asks in one conversation and answers in the other, as long as `run` runs."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        asks: int,
        services: Mapping[str, Mapping[str, Method]],
    ) -> None:
        """asks: the conversation of our own calls; services: what the other end may call."""
        self._reader = reader
        self._writer = writer
        self._asks = asks
        answers = RUNTIME_SERVICE if asks == PLUGIN_SERVICE else PLUGIN_SERVICE
        self._client = Client(self._send(asks))
        self._server = Server(self._send(answers), services)

    async def call(
        self, method: tuple[str, str], request: Message, answer: type[Out], *, patience: float
    ) -> Out:
        """See Client.call."""
        return await self._client.call(method, request, answer, patience=patience)

    async def run(self) -> str:
        """Until the connection ends, by whomever; answers why."""
        reason = "it closed the connection"
        demux = Demux()
        try:
            while data := await self._reader.read(_READ):
                for piece in demux.feed(data):
                    if piece.conversation == self._asks:
                        self._client.feed(piece.data)
                    else:
                        await self._server.feed(piece.data)
        except (ConversationEnded, MuxViolation) as error:
            reason = f"it does not keep to the protocol: {error}"
        except OSError as error:
            reason = f"the connection broke: {error.strerror}"
        finally:
            self.close(reason)
            await self._server.close()
        return reason

    def close(self, reason: str) -> None:
        """Whoever waits for an answer hears ConversationEnded with this reason."""
        self._client.close(reason)
        self._writer.transport.abort()  # nothing waits for a peer that does not read

    def _send(self, conversation: int) -> Send:
        async def send(data: bytes) -> None:
            if self._writer.is_closing():
                raise ConversationEnded("the connection is closed")
            for piece in framed(conversation, data):
                self._writer.write(piece)
            with contextlib.suppress(ConnectionError):  # `run` reads of it, too
                await self._writer.drain()

        return send
