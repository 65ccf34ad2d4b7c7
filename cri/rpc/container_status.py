"""ContainerStatus: one container. From memory, without a lock."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from google.protobuf.json_format import MessageToDict

from cri.api import api_pb2 as api
from cri.rpc import image_volumes
from cri.specgen import signals
from runtime import codec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cri.rpc.services import Services
    from cri.store.container import Container


async def container_status(
    services: Services, request: api.ContainerStatusRequest
) -> api.ContainerStatusResponse:
    """Raises ContainerNotFound, which kubelet takes for "removed"."""
    container = services.store.containers.get(request.container_id)
    response = api.ContainerStatusResponse(status=status_message(services, container))
    if request.verbose:
        response.info["info"] = json.dumps(_info(services, container))
        timelines = services.recorder.of_container(container.id)
        response.info["timeline"] = json.dumps([one.to_json() for one in timelines])
    return response


def pod_messages(services: Services, pod: Sequence[Container]) -> list[api.ContainerStatus]:
    """The containers of a pod (oldest first) as CRI tells them, newest first: of two with one
    name, kubelet takes the first for the one that counts, and would start a third."""
    return [status_message(services, container) for container in reversed(pod)]


def status_message(services: Services, container: Container) -> api.ContainerStatus:
    """The container as CRI tells it; image and image_ref are there even if the image is not."""
    config, metadata, status = container.config, container.metadata, container.status
    image = services.images.find(metadata.image_id)
    message = api.ContainerStatus(
        id=container.id,
        metadata=config.metadata,
        state=container.api_state,
        created_at=metadata.created_at,
        started_at=status.started_at,
        finished_at=status.finished_at,
        exit_code=status.exit_code,
        image=config.image,
        image_ref=image.digests[0] if image and image.digests else metadata.image_id,
        reason=status.reason,
        message=status.message,
        labels=config.labels,
        annotations=config.annotations,
        mounts=config.mounts,
        log_path=metadata.log_path,
        image_id=metadata.image_id,
        stop_signal=signals.to_api(metadata.stop_signal or "SIGTERM"),
    )
    message.image.image = image.names[0] if image and image.names else metadata.image_ref
    image_volumes.tell(services, message.mounts)
    if config.linux.HasField("resources"):
        message.resources.linux.CopyFrom(config.linux.resources)
    if status.started_at:
        message.user.linux.uid = status.uid
        message.user.linux.gid = status.gid
        message.user.linux.supplemental_groups.extend(status.groups)
    return message


def _info(services: Services, container: Container) -> dict[str, object]:
    info: dict[str, object] = {
        "sandboxID": container.metadata.sandbox_id,
        "pid": container.status.pid,
        "state": str(container.status.state),
        "config": MessageToDict(container.config, preserving_proto_field_name=True),
    }
    spec = services.specs.get(container.id)
    if spec is not None:
        info["runtimeSpec"] = codec.encode(spec, camel=True)
    return info
