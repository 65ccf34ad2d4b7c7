"""Exec and Attach: who may stream what is decided here; the client comes with the URL.

Between the answer and the client's coming the container may end. So what is checked here is checked
by the runtime again, and what it says then travels on the stream.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from cri.api import api_pb2 as api
from cri.errors import InvalidRequest
from cri.rpc.running import running, unless_ended
from cri.rpc.services import Services
from cri.store.container import Container
from cri.streaming.command import RemoteCommand
from cri.streaming.remotecommand import Channel, Wanted
from cri.streaming.session import Session
from runtime.lifecycle import AttachRequest, StreamedExec

STREAMS = ((Channel.STDIN, "stdin"), (Channel.STDOUT, "stdout"), (Channel.STDERR, "stderr"))


async def exec_(services: Services, request: api.ExecRequest) -> api.ExecResponse:
    """The URL of a command in a running container. It begins when the client has come."""
    wanted = _wanted(request)
    if not request.cmd or not request.cmd[0]:
        raise InvalidRequest("cmd", "empty: which command?")
    container = running(services, request.container_id)
    run = StreamedExec(
        sandbox_id=container.metadata.sandbox_id,
        container_id=container.id,
        args=tuple(request.cmd),
        terminal=wanted.terminal,
        streams=_numbers(wanted),
    )
    subject = f"of {request.cmd[0]} in {_named(container)}"
    open_ = _unless_ended(container, lambda: services.runtime.open_exec(run))
    return api.ExecResponse(url=_url(services, "exec", subject, wanted, open_))


async def attach(services: Services, request: api.AttachRequest) -> api.AttachResponse:
    """The URL of a running container's own input and output."""
    wanted = _wanted(request)
    container = running(services, request.container_id)
    if request.tty != container.config.tty:
        has = "has a terminal" if container.config.tty else "has no terminal"
        raise InvalidRequest("tty", f"{request.tty}, but container {container.id} {has}")
    if request.stdin and not container.config.stdin:
        raise InvalidRequest(
            "stdin",
            f"container {container.id} was made without: set `stdin: true` in its pod, "
            "or attach without input",
        )
    to = AttachRequest(container.metadata.sandbox_id, container.id, _numbers(wanted))
    open_ = _unless_ended(container, lambda: services.runtime.attach(to))
    return api.AttachResponse(
        url=_url(services, "attach", f"to {_named(container)}", wanted, open_)
    )


def _wanted(request: api.ExecRequest | api.AttachRequest) -> Wanted:
    """The channels that a request asks for. Raises InvalidRequest."""
    if not request.container_id:
        raise InvalidRequest("container_id", "missing: which container?")
    if request.tty and request.stderr:
        raise InvalidRequest(
            "stderr", "true with tty: a terminal has one output; ask for stdout alone"
        )
    if not (request.stdin or request.stdout or request.stderr):
        raise InvalidRequest("stdin, stdout, stderr", "all false: at least one is needed")
    return Wanted(
        terminal=request.tty, stdin=request.stdin, stdout=request.stdout, stderr=request.stderr
    )


def _numbers(wanted: Wanted) -> tuple[int, ...]:
    return tuple(int(channel) for channel, name in STREAMS if getattr(wanted, name))


def _named(container: Container) -> str:
    return f"{container.config.metadata.name} ({container.id[:12]})"


def _unless_ended(
    container: Container, open_: Callable[[], Awaitable[Session]]
) -> Callable[[], Awaitable[Session]]:
    """The same, in words for the client if the container is no longer there."""

    async def opened() -> Session:
        with unless_ended(container):
            return await open_()

    return opened


def _url(
    services: Services,
    kind: str,
    subject: str,
    wanted: Wanted,
    open_: Callable[[], Awaitable[Session]],
) -> str:
    patience = services.streams.settings.creation_timeout
    return services.streams.url(RemoteCommand(kind, subject, wanted, open_, patience))
