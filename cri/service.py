"""The table of contents: RPC name -> function, each under the guard (guard.py), and the server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any

import grpc

from cri import VERSION
from cri.api import api_pb2 as api
from cri.guard import Context, Rpc, Stream, guarded, guarded_json, guarded_json_stream
from cri.rpc import (
    container_checkpoint,
    container_create,
    container_events,
    container_exec_sync,
    container_list,
    container_remove,
    container_reopen_log,
    container_start,
    container_stats,
    container_status,
    container_stop,
    container_update,
    diagnostics,
    image_fs_info,
    image_list,
    image_pull,
    image_remove,
    image_status,
    runtime_config,
    sandbox_checkpoint,
    sandbox_list,
    sandbox_metrics,
    sandbox_port_forward,
    sandbox_remove,
    sandbox_restore,
    sandbox_run,
    sandbox_stats,
    sandbox_status,
    sandbox_stop,
    sandbox_update,
    status,
    stream_urls,
    version,
)

if TYPE_CHECKING:
    from cri.rpc.services import Services

MESSAGE_BYTES = 80 << 20  # kubelet takes 16 MiB; a list of thousands of pods must not break a node
DIAGNOSTICS = "podwright.v1.Diagnostics"

RUNTIME: Mapping[str, Rpc | Stream] = {
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
    "StreamPodSandboxes": Stream(sandbox_list.stream_pod_sandboxes, api.StreamPodSandboxesRequest),
    "CreateContainer": Rpc(container_create.create_container, api.CreateContainerRequest),
    "StartContainer": Rpc(container_start.start_container, api.StartContainerRequest),
    "StopContainer": Rpc(container_stop.stop_container, api.StopContainerRequest),
    "RemoveContainer": Rpc(container_remove.remove_container, api.RemoveContainerRequest),
    "ListContainers": Rpc(container_list.list_containers, api.ListContainersRequest, reads=True),
    "StreamContainers": Stream(container_list.stream_containers, api.StreamContainersRequest),
    "ContainerStatus": Rpc(
        container_status.container_status, api.ContainerStatusRequest, reads=True
    ),
    "ContainerStats": Rpc(container_stats.container_stats, api.ContainerStatsRequest, reads=True),
    "ListContainerStats": Rpc(
        container_stats.list_container_stats, api.ListContainerStatsRequest, reads=True
    ),
    "StreamContainerStats": Stream(
        container_stats.stream_container_stats, api.StreamContainerStatsRequest
    ),
    "StreamPodSandboxStats": Stream(
        sandbox_stats.stream_pod_sandbox_stats, api.StreamPodSandboxStatsRequest
    ),
    "StreamPodSandboxMetrics": Stream(
        sandbox_metrics.stream_pod_sandbox_metrics, api.StreamPodSandboxMetricsRequest
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
    "Exec": Rpc(stream_urls.exec_, api.ExecRequest),
    "Attach": Rpc(stream_urls.attach, api.AttachRequest),
    "PortForward": Rpc(sandbox_port_forward.port_forward, api.PortForwardRequest),
    "UpdateContainerResources": Rpc(
        container_update.update_container_resources, api.UpdateContainerResourcesRequest
    ),
    "ReopenContainerLog": Rpc(
        container_reopen_log.reopen_container_log, api.ReopenContainerLogRequest
    ),
    "UpdatePodSandboxResources": Rpc(
        sandbox_update.update_pod_sandbox_resources, api.UpdatePodSandboxResourcesRequest
    ),
    "CheckpointContainer": Rpc(
        container_checkpoint.checkpoint_container, api.CheckpointContainerRequest
    ),
    "CheckpointPod": Rpc(sandbox_checkpoint.checkpoint_pod, api.CheckpointPodRequest),
    "RestorePod": Rpc(sandbox_restore.restore_pod, api.RestorePodRequest),
    "GetContainerEvents": Stream(container_events.get_container_events, api.GetEventsRequest),
}

IMAGE: Mapping[str, Rpc | Stream] = {
    "ListImages": Rpc(image_list.list_images, api.ListImagesRequest, reads=True),
    "StreamImages": Stream(image_list.stream_images, api.StreamImagesRequest),
    "ImageStatus": Rpc(image_status.image_status, api.ImageStatusRequest, reads=True),
    "PullImage": Rpc(image_pull.pull_image, api.PullImageRequest),
    "RemoveImage": Rpc(image_remove.remove_image, api.RemoveImageRequest),
    "ImageFsInfo": Rpc(image_fs_info.image_fs_info, api.ImageFsInfoRequest, reads=True),
}

Tables = Mapping[str, Mapping[str, Rpc | Stream]]
TABLES: Tables = {
    "runtime.v1.RuntimeService": RUNTIME,
    "runtime.v1.ImageService": IMAGE,
}


def server(services: Services, tables: Tables = TABLES) -> grpc.aio.Server:
    """A server of both CRI services and of our own; not yet bound, not yet started."""
    made = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", MESSAGE_BYTES),
            ("grpc.max_send_message_length", MESSAGE_BYTES),
            ("grpc.so_reuseport", 0),
        ]
    )
    handlers = {
        service: {
            name: guarded(services, table[name], name) if name in table else _missing(service, name)
            for name in _names(service)
        }
        for service, table in tables.items()
    }
    handlers[DIAGNOSTICS] = {
        **{name: guarded_json(services, name) for name in diagnostics.CALLS},
        **{name: guarded_json_stream(services, name) for name in diagnostics.STREAMS},
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
