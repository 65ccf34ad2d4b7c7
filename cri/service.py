"""The table of contents: RPC name -> function; and the guard around every one of them.

The guard hands the request to its function, records what it did, logs one line and maps what it
raises to a status. Handlers know nothing of gRPC; no other module serves it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import quote

import grpc

from cri import VERSION, trace
from cri.api import api_pb2 as api
from cri.errors import INTERNAL, message_of, status_of
from cri.rpc import (
    container_create,
    container_exec_sync,
    container_list,
    container_remove,
    container_reopen_log,
    container_start,
    container_stats,
    container_status,
    container_stop,
    diagnostics,
    image_fs_info,
    image_list,
    image_pull,
    image_remove,
    image_status,
    runtime_config,
    sandbox_list,
    sandbox_metrics,
    sandbox_remove,
    sandbox_run,
    sandbox_stats,
    sandbox_status,
    sandbox_stop,
    status,
    version,
)

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from cri.rpc.services import Services

log = logging.getLogger(__name__)

MESSAGE_BYTES = 80 << 20  # kubelet takes 16 MiB; a list of thousands of pods must not break a node
MESSAGE_TEXT = 3000  # bytes of an error's text: it travels in a header, of which gRPC takes 8 KiB
DIAGNOSTICS = "podwright.v1.Diagnostics"

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


RUNTIME: Mapping[str, Rpc] = {
    "Version": Rpc(version.version, api.VersionRequest, reads=True),
    "Status": Rpc(status.status, api.StatusRequest, reads=True),
    "RuntimeConfig": Rpc(runtime_config.runtime_config, api.RuntimeConfigRequest, reads=True),
    "UpdateRuntimeConfig": Rpc(
        runtime_config.update_runtime_config, api.UpdateRuntimeConfigRequest
    ),
    "RunPodSandbox": Rpc(sandbox_run.run_pod_sandbox, api.RunPodSandboxRequest),
    "StopPodSandbox": Rpc(sandbox_stop.stop_pod_sandbox, api.StopPodSandboxRequest),
    "RemovePodSandbox": Rpc(sandbox_remove.remove_pod_sandbox, api.RemovePodSandboxRequest),
    "PodSandboxStatus": Rpc(
        sandbox_status.pod_sandbox_status, api.PodSandboxStatusRequest, reads=True
    ),
    "ListPodSandbox": Rpc(sandbox_list.list_pod_sandbox, api.ListPodSandboxRequest, reads=True),
    "CreateContainer": Rpc(container_create.create_container, api.CreateContainerRequest),
    "StartContainer": Rpc(container_start.start_container, api.StartContainerRequest),
    "StopContainer": Rpc(container_stop.stop_container, api.StopContainerRequest),
    "RemoveContainer": Rpc(container_remove.remove_container, api.RemoveContainerRequest),
    "ListContainers": Rpc(container_list.list_containers, api.ListContainersRequest, reads=True),
    "ContainerStatus": Rpc(
        container_status.container_status, api.ContainerStatusRequest, reads=True
    ),
    "ContainerStats": Rpc(container_stats.container_stats, api.ContainerStatsRequest, reads=True),
    "ListContainerStats": Rpc(
        container_stats.list_container_stats, api.ListContainerStatsRequest, reads=True
    ),
    "PodSandboxStats": Rpc(sandbox_stats.pod_sandbox_stats, api.PodSandboxStatsRequest, reads=True),
    "ListPodSandboxStats": Rpc(
        sandbox_stats.list_pod_sandbox_stats, api.ListPodSandboxStatsRequest, reads=True
    ),
    "ListMetricDescriptors": Rpc(
        sandbox_metrics.list_metric_descriptors, api.ListMetricDescriptorsRequest, reads=True
    ),
    "ListPodSandboxMetrics": Rpc(
        sandbox_metrics.list_pod_sandbox_metrics, api.ListPodSandboxMetricsRequest, reads=True
    ),
    "ExecSync": Rpc(container_exec_sync.exec_sync, api.ExecSyncRequest, probes=True),
    "ReopenContainerLog": Rpc(
        container_reopen_log.reopen_container_log, api.ReopenContainerLogRequest
    ),
}

IMAGE: Mapping[str, Rpc] = {
    "ListImages": Rpc(image_list.list_images, api.ListImagesRequest, reads=True),
    "ImageStatus": Rpc(image_status.image_status, api.ImageStatusRequest, reads=True),
    "PullImage": Rpc(image_pull.pull_image, api.PullImageRequest),
    "RemoveImage": Rpc(image_remove.remove_image, api.RemoveImageRequest),
    "ImageFsInfo": Rpc(image_fs_info.image_fs_info, api.ImageFsInfoRequest, reads=True),
}

TABLES: Mapping[str, Mapping[str, Rpc]] = {
    "runtime.v1.RuntimeService": RUNTIME,
    "runtime.v1.ImageService": IMAGE,
}


def server(services: Services, tables: Mapping[str, Mapping[str, Rpc]] = TABLES) -> grpc.aio.Server:
    """A server of both CRI services and of our own; not yet bound, not yet started."""
    made = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", MESSAGE_BYTES),
            ("grpc.max_send_message_length", MESSAGE_BYTES),
            ("grpc.so_reuseport", 0),
        ]
    )
    handlers = {
        service: {name: _handler(services, table, service, name) for name in _names(service)}
        for service, table in tables.items()
    }
    handlers[DIAGNOSTICS] = {
        **{name: _json_handler(services, name) for name in diagnostics.CALLS},
        **{name: _json_stream(services, name) for name in diagnostics.STREAMS},
    }
    made.add_generic_rpc_handlers(
        tuple(
            grpc.method_handlers_generic_handler(service, table)
            for service, table in handlers.items()
        )
    )
    return made


def _names(service: str) -> list[str]:
    """Every RPC that CRI knows of a service, ours or not."""
    descriptor = api.DESCRIPTOR.services_by_name[service.removeprefix("runtime.v1.")]
    return [method.name for method in descriptor.methods]


def _handler(
    services: Services, table: Mapping[str, Rpc], service: str, name: str
) -> grpc.RpcMethodHandler[Any, Any]:
    rpc = table.get(name)
    if rpc is None:
        return _missing(service, name)

    async def handle(request: Message, context: Context) -> Message | bytes:
        start = time.monotonic_ns()
        try:
            if rpc.reads:
                result = await rpc.function(services, request)
            else:
                result = await _recorded(services, rpc, name, request)
        except Exception as error:  # noqa: BLE001 - the RPC guard
            await _refuse(error, name, start, context)
        if rpc.reads and log.isEnabledFor(logging.DEBUG):
            log.debug("%s: ok in %s", name, _since(start))
        return result

    return grpc.unary_unary_rpc_method_handler(handle, rpc.request.FromString, _serialize)


def _missing(service: str, name: str) -> grpc.RpcMethodHandler[Any, Any]:
    """UNIMPLEMENTED, by name, in the shape (one answer or a stream) in which CRI has the RPC."""
    descriptor = api.DESCRIPTOR.services_by_name[service.removeprefix("runtime.v1.")]
    text = f"podwright {VERSION} does not implement {name} yet"

    async def answer(request: bytes, context: Context) -> bytes:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, text)

    async def stream(request: bytes, context: Context) -> AsyncIterator[bytes]:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, text)
        yield b""

    if descriptor.methods_by_name[name].server_streaming:
        return grpc.unary_stream_rpc_method_handler(stream)
    return grpc.unary_unary_rpc_method_handler(answer)


async def _recorded(services: Services, rpc: Rpc, name: str, request: Message) -> Message | bytes:
    """Run a handler that changes something, under a timeline, with a line in the log."""
    with services.recorder.record(name) as timeline, _busy(services):
        _about(services, request, timeline)
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


def _about(services: Services, request: Message, timeline: trace.Timeline) -> None:
    """What a request is about, as far as it says so itself; handlers may know better."""
    timeline.sandbox_id = getattr(request, "pod_sandbox_id", "")
    timeline.container_id = getattr(request, "container_id", "")
    container = services.store.containers.exact(timeline.container_id)
    if container is not None:
        timeline.sandbox_id = container.metadata.sandbox_id
        timeline.subject = container.config.metadata.name
    metadata = getattr(getattr(request, "config", None), "metadata", None)
    if isinstance(metadata, api.PodSandboxMetadata):
        timeline.subject = f"{metadata.namespace}/{metadata.name}"
    elif isinstance(metadata, api.ContainerMetadata):
        timeline.subject = metadata.name


def _told(timeline: trace.Timeline) -> tuple[str, str, str]:
    """A timeline for the log: name, duration, what it was about."""
    about = [
        timeline.subject,
        f"sandbox {timeline.sandbox_id[:12]}" if timeline.sandbox_id else "",
        f"container {timeline.container_id[:12]}" if timeline.container_id else "",
    ]
    text = ", ".join(part for part in about if part)
    return timeline.rpc, _milliseconds(timeline.duration), f" ({text})" if text else ""


async def _refuse(error: Exception, name: str, start: int, context: Context) -> NoReturn:
    """Log an error, and end the RPC with the status and the text that the client shall see."""
    if isinstance(error, grpc.aio.AbortError):
        raise error
    mapped = status_of(error)
    text = message_of(error, mapped)
    if mapped is INTERNAL:
        log.error("%s: failed after %s", name, _since(start), exc_info=error)
        text = f"internal error in {name}: {type(error).__name__}: {text}; the log has more"
    else:
        # kubelet asks for what it has just removed: no reason to be loud
        level = logging.DEBUG if mapped.code is grpc.StatusCode.NOT_FOUND else logging.WARNING
        cause = f" (because of {error.__cause__!r})" if error.__cause__ else ""
        log.log(
            level, "%s: %s after %s: %s%s", *(name, mapped.code.name, _since(start), text, cause)
        )
    await context.abort(mapped.code, _fit(text))


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


def _json_handler(services: Services, name: str) -> grpc.RpcMethodHandler[Any, Any]:
    call = diagnostics.CALLS[name]

    async def handle(request: Mapping[str, object], context: Context) -> Mapping[str, object]:
        start = time.monotonic_ns()
        try:
            return await call(services, request)
        except Exception as error:  # noqa: BLE001 - the RPC guard
            await _refuse(error, name, start, context)

    return grpc.unary_unary_rpc_method_handler(handle, _from_json, _to_json)


def _json_stream(services: Services, name: str) -> grpc.RpcMethodHandler[Any, Any]:
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
