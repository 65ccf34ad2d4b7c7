"""The daemon as the verbs see it: one blocking call an RPC; a failure is one clear sentence.

The verbs are short-lived, so a blocking channel is enough. CRI's messages are protobuf; our own
`podwright.v1.Diagnostics` (pull progress, imports, timelines) speaks JSON on the same socket.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click
import grpc

from cri.api import api_pb2 as api

if TYPE_CHECKING:
    from types import TracebackType

    from google.protobuf.message import Message

Answer = TypeVar("Answer", bound="Message")

DEFAULT_ADDRESS = "unix:///run/podwright/podwright.sock"
MESSAGE_BYTES = 64 << 20
"""A list of thousands of pods is larger than gRPC's own limit of 4 MiB."""

SERVICE_OF = {
    method.name: service.full_name
    for service in api.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
DIAGNOSTICS = "podwright.v1.Diagnostics"

SHORT_CALL = 30.0
"""Seconds for an RPC that only reads; those which pull, stop or start say their own."""


class CallFailed(click.ClickException):
    """An RPC failed. `code` is gRPC's; the message is the daemon's own."""

    def __init__(self, message: str, code: grpc.StatusCode) -> None:
        super().__init__(message)
        self.code = code


class Client:
    """A channel to one daemon. Use it as a context manager; every call may raise CallFailed."""

    def __init__(self, address: str) -> None:
        self.address = normal_address(address)
        self._channel = grpc.insecure_channel(
            self.address,
            options=[
                ("grpc.max_receive_message_length", MESSAGE_BYTES),
                ("grpc.max_send_message_length", MESSAGE_BYTES),
            ],
        )

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._channel.close()

    def call(
        self,
        rpc: str,
        request: Message,
        answer: type[Answer],
        *,
        timeout: float | None = SHORT_CALL,
    ) -> Answer:
        """One CRI call. `timeout` in seconds; None waits for ever (a pull)."""
        method: grpc.UnaryUnaryMultiCallable[Message, Answer] = self._channel.unary_unary(
            f"/{SERVICE_OF[rpc]}/{rpc}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=answer.FromString,
        )
        with self._told_clearly():
            return method(request, timeout=timeout)

    def diagnose(self, method: str, request: Mapping[str, object]) -> dict[str, object]:
        """One call of podwright's own service: JSON in, JSON out."""
        call = self._channel.unary_unary(
            f"/{DIAGNOSTICS}/{method}",
            request_serializer=_to_json,
            response_deserializer=_from_json,
        )
        with self._told_clearly(ours=True):
            return call(request, timeout=None)

    def follow(self, method: str, request: Mapping[str, object]) -> Iterator[dict[str, object]]:
        """A stream of podwright's own service; ending the iteration early cancels the call."""
        call = self._channel.unary_stream(
            f"/{DIAGNOSTICS}/{method}",
            request_serializer=_to_json,
            response_deserializer=_from_json,
        )
        answers = call(request)
        try:
            with self._told_clearly(ours=True):
                yield from answers
        finally:
            answers.cancel()

    @contextmanager
    def _told_clearly(self, *, ours: bool = False) -> Iterator[None]:
        """ours: of podwright's own service, which no other runtime has."""
        try:
            yield
        except grpc.RpcError as error:
            code = error.code() if isinstance(error, grpc.Call) else grpc.StatusCode.UNKNOWN
            if ours and code is grpc.StatusCode.UNIMPLEMENTED:
                text = f"the runtime at {self.address} is not podwright, which this verb needs"
                raise CallFailed(text, code) from error
            details = (error.details() if isinstance(error, grpc.Call) else None) or str(error)
            raise CallFailed(self._sentence(code, details), code) from error

    def _sentence(self, code: grpc.StatusCode, details: str) -> str:
        if code is grpc.StatusCode.UNAVAILABLE:
            return self._unreachable()
        if code is grpc.StatusCode.DEADLINE_EXCEEDED and details == "Deadline Exceeded":
            return f"the daemon at {self.address} did not answer in time"
        return details

    def _unreachable(self) -> str:
        remedy = "start it with `podwright serve`, or name another socket with --address"
        text = f"no daemon answers at {self.address}"
        if not self.address.startswith("unix:/"):  # an abstract one
            return f"{text}: {remedy}"
        path = Path("/", self.address.removeprefix("unix:").lstrip("/"))
        if not path.exists():
            return f"{text}: there is no such socket; {remedy}"
        if not path.is_socket():
            return f"{text}: that is no socket; {remedy}"
        if not os.access(path, os.R_OK | os.W_OK):
            return f"the socket {path} is not open to this user: use sudo"
        if _connects(path):
            return f"what listens at {path} does not speak CRI: name another one with --address"
        return f"{text}: the socket is a leftover; {remedy}"


def connect() -> Client:
    """The daemon that the command line names: --address of `podwright`, or its default."""
    address = click.get_current_context().find_root().params.get("address")
    return Client(str(address or DEFAULT_ADDRESS))


def normal_address(text: str) -> str:
    """gRPC's way to write an address; a bare path means a unix socket. Raises click.UsageError."""
    if text.startswith("/"):
        return f"unix://{text}"
    if text.startswith(("@", "unix://@")):
        return f"unix-abstract:{text.removeprefix('unix://').removeprefix('@')}"
    if text.startswith(("unix:/", "unix-abstract:")):
        return text
    raise click.UsageError(f"--address {text!r}: must be unix:///path/to/socket, a path, or @name")


def _connects(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(SHORT_CALL)
        return probe.connect_ex(os.fspath(path)) == 0


def _to_json(message: Mapping[str, object]) -> bytes:
    return json.dumps(message).encode()


def _from_json(data: bytes) -> dict[str, object]:
    value = json.loads(data)
    if not isinstance(value, dict):
        raise TypeError(f"the daemon answered {data[:80]!r} where an object was expected")
    return value
