"""The guard around every RPC: it hands the request to its function, records what that did, logs one
line and maps what it raises to a status. Handlers know nothing of gRPC.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import quote

import grpc

from cri import trace
from cri.api import api_pb2 as api
from cri.errors import INTERNAL, message_of, status_of
from cri.rpc import diagnostics

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from cri.rpc.services import Services

log = logging.getLogger(__name__)

MESSAGE_TEXT = 3000  # bytes of an error's text: it travels in a header, of which gRPC takes 8 KiB

Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True, slots=True)
class Rpc:
    """One RPC: `function(services, request)` answers a message, or bytes that are one already.

    reads: it changes nothing and is asked often: logged at debug, no timeline.
    probes: it is asked often, if for a good reason: its success is logged at debug.
    """

    function: Callable[[Services, Any], Awaitable[Message | bytes]]
    request: type[Message]
    reads: bool = False
    probes: bool = False


@dataclass(frozen=True, slots=True)
class Stream:
    """An RPC whose answer comes in pieces: `function` is an async generator of messages, or bytes.

    It reads: it is logged at debug, at its beginning and its end.
    """

    function: Callable[[Services, Any], AsyncGenerator[Message | bytes, None]]
    request: type[Message]


def guarded(services: Services, rpc: Rpc | Stream, name: str) -> grpc.RpcMethodHandler[Any, Any]:
    """What gRPC calls for one RPC of CRI."""
    return _stream(services, rpc, name) if isinstance(rpc, Stream) else _plain(services, rpc, name)


def _plain(services: Services, rpc: Rpc, name: str) -> grpc.RpcMethodHandler[Any, Any]:
    async def handle(request: Message, context: Context) -> Message | bytes:
        start = time.monotonic_ns()
        try:
            if rpc.reads:
                result = await rpc.function(services, request)
            else:
                result = await _recorded(services, rpc, name, request)
        except Exception as error:  # noqa: BLE001 - the RPC guard
            about = _parenthesis(*_subject(services, request))
            # kubelet asks for what it has just removed: no reason to be loud
            quiet = rpc.reads or rpc.probes
            await _refuse(error, name, start, context, about=about, quiet=quiet)
        if rpc.reads and log.isEnabledFor(logging.DEBUG):
            log.debug("%s: ok in %s", name, _since(start))
        return result

    return grpc.unary_unary_rpc_method_handler(handle, rpc.request.FromString, _serialize)


def _stream(services: Services, rpc: Stream, name: str) -> grpc.RpcMethodHandler[Any, Any]:
    async def handle(request: Message, context: Context) -> None:
        start = time.monotonic_ns()
        log.debug("%s: begins", name)
        await context.send_initial_metadata(())  # the client knows by it that we are at work
        try:
            # written by us, not yielded to gRPC: it would leave a cancelled generator lying about
            async with contextlib.aclosing(rpc.function(services, request)) as answers:
                async for answer in answers:
                    await context.write(answer)
        except asyncio.CancelledError:
            log.debug("%s: the client has gone after %s", name, _since(start))
            raise
        except Exception as error:  # noqa: BLE001 - the RPC guard
            await _refuse(error, name, start, context)
        log.debug("%s: ended after %s", name, _since(start))

    return grpc.unary_stream_rpc_method_handler(handle, rpc.request.FromString, _serialize)


async def _recorded(services: Services, rpc: Rpc, name: str, request: Message) -> Message | bytes:
    """Run a handler that changes something, under a timeline, with a line in the log."""
    with services.recorder.record(name) as timeline, _busy(services):
        about = _subject(services, request)
        timeline.subject, timeline.sandbox_id, timeline.container_id = about
        try:
            result = await rpc.function(services, request)
        except asyncio.CancelledError:
            timeline.finish("CANCELLED", "the client gave up")
            log.warning("%s: the client gave up after %s%s", *_told(timeline))
            raise
        except Exception as error:
            timeline.finish(status_of(error).code.name, str(error))
            raise
        timeline.sandbox_id = getattr(result, "pod_sandbox_id", "") or timeline.sandbox_id
        timeline.container_id = getattr(result, "container_id", "") or timeline.container_id
        timeline.finish("OK")
        level = logging.DEBUG if rpc.probes else logging.INFO
        if log.isEnabledFor(level):
            log.log(level, "%s: ok in %s%s", *_told(timeline))
        return result


@contextlib.contextmanager
def _busy(services: Services) -> Iterator[None]:
    """The daemon does not end under a request that is still undoing what it did."""
    task = asyncio.current_task()
    assert task is not None
    services.busy.add(task)
    try:
        yield
    finally:
        services.busy.discard(task)


def _subject(services: Services, request: Message) -> tuple[str, str, str]:
    """What a request is about, as far as it says so itself; handlers may know better.

    A name, the sandbox's id and the container's; "" for each that it does not say.
    """
    subject = getattr(getattr(request, "image", None), "image", "")
    sandbox_id: str = getattr(request, "pod_sandbox_id", "")
    container_id: str = getattr(request, "container_id", "")
    container = services.store.containers.exact(container_id)
    if container is not None:
        sandbox_id = container.metadata.sandbox_id
        subject = container.config.metadata.name
    metadata = getattr(getattr(request, "config", None), "metadata", None)
    if isinstance(metadata, api.PodSandboxMetadata):
        subject = f"{metadata.namespace}/{metadata.name}"
    elif isinstance(metadata, api.ContainerMetadata):
        subject = metadata.name
    return subject, sandbox_id, container_id


def _told(timeline: trace.Timeline) -> tuple[str, str, str]:
    """A timeline for the log: name, duration, what it was about."""
    about = _parenthesis(timeline.subject, timeline.sandbox_id, timeline.container_id)
    return timeline.rpc, _milliseconds(timeline.duration), about


def _parenthesis(subject: str, sandbox_id: str, container_id: str) -> str:
    """What a line of the log is about, with a space before it; "" if nobody knows."""
    about = [
        subject,
        f"sandbox {sandbox_id[:12]}" if sandbox_id else "",
        f"container {container_id[:12]}" if container_id else "",
    ]
    text = ", ".join(part for part in about if part)
    return f" ({text})" if text else ""


async def _refuse(
    error: Exception,
    name: str,
    start: int,
    context: Context,
    *,
    about: str = "",
    quiet: bool = True,
) -> NoReturn:
    """Log an error, and end the RPC with the status and the text that the client shall see.

    quiet: what is not found is nothing to be loud about.
    """
    if isinstance(error, grpc.aio.AbortError):
        raise error
    mapped = status_of(error)
    text = message_of(error, mapped)
    if mapped is INTERNAL:
        log.error("%s: failed after %s%s", name, _since(start), about, exc_info=error)
        text = f"internal error in {name}: {type(error).__name__}: {text}; the log has more"
    else:
        found = not quiet or mapped.code is not grpc.StatusCode.NOT_FOUND
        cause = f" (because of {error.__cause__!r})" if _says_more(error, text) else ""
        said = (name, mapped.code.name, _since(start), about, text, cause)
        log.log(logging.WARNING if found else logging.DEBUG, "%s: %s after %s%s: %s%s", *said)
    await context.abort(mapped.code, _fit(text))


def _says_more(error: Exception, text: str) -> bool:
    """Whether an error's cause is not in its text already."""
    cause = error.__cause__
    said = cause.strerror if isinstance(cause, OSError) else str(cause)
    return cause is not None and (said is None or said not in text)


def _fit(text: str) -> str:
    """A text that gRPC can carry: its header is percent-encoded and has an end."""
    data = text.encode("utf-8", "backslashreplace")
    if len(data) <= MESSAGE_TEXT and text.isascii():
        return text
    data = data[:MESSAGE_TEXT]
    while len(quote(data)) > MESSAGE_TEXT:
        data = data[: len(data) * 9 // 10]
    kept = data.decode("utf-8", "ignore")
    return kept if kept == text else f"{kept} …"


def _serialize(answer: Message | bytes) -> bytes:
    return answer if isinstance(answer, bytes) else answer.SerializeToString()


def _since(start: int) -> str:
    return _milliseconds(time.monotonic_ns() - start)


def _milliseconds(duration: int) -> str:
    return f"{duration / 1e6:.1f} ms"


def guarded_json(services: Services, name: str) -> grpc.RpcMethodHandler[Any, Any]:
    """What gRPC calls for one RPC of our own."""
    call = diagnostics.CALLS[name]

    async def handle(request: Mapping[str, object], context: Context) -> Mapping[str, object]:
        start = time.monotonic_ns()
        try:
            return await call(services, request)
        except Exception as error:  # noqa: BLE001 - the RPC guard
            await _refuse(error, name, start, context)

    return grpc.unary_unary_rpc_method_handler(handle, _from_json, _to_json)


def guarded_json_stream(services: Services, name: str) -> grpc.RpcMethodHandler[Any, Any]:
    """The same for one that answers in pieces."""
    call = diagnostics.STREAMS[name]

    async def handle(
        request: Mapping[str, object], context: Context
    ) -> AsyncIterator[Mapping[str, object]]:
        start = time.monotonic_ns()
        try:
            async for item in call(services, request):
                yield item
        except Exception as error:  # noqa: BLE001 - the RPC guard
            await _refuse(error, name, start, context)

    return grpc.unary_stream_rpc_method_handler(handle, _from_json, _to_json)


def _from_json(data: bytes) -> Mapping[str, object]:
    value = json.loads(data or b"{}")
    if not isinstance(value, dict):
        raise TypeError("expected a JSON object")
    return value


def _to_json(value: Mapping[str, object]) -> bytes:
    return json.dumps(value).encode()
