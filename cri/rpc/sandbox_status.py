"""PodSandboxStatus: one sandbox. From memory, without a lock."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from google.protobuf.json_format import MessageToDict

from cri.api import api_pb2 as api
from cri.errors import SandboxNotFound
from cri.rpc import container_status
from cri.store.sandbox import SandboxState

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from cri.rpc.services import Services
    from cri.store.sandbox import Sandbox


async def pod_sandbox_status(
    services: Services, request: api.PodSandboxStatusRequest
) -> api.PodSandboxStatusResponse:
    """Raises SandboxNotFound, which kubelet takes for "removed"; also while it is being made."""
    sandbox = services.store.sandboxes.get(request.pod_sandbox_id)
    if sandbox.status.state is SandboxState.INITIALIZING:
        raise SandboxNotFound(request.pod_sandbox_id)
    containers = services.store.containers.of_sandbox(sandbox.id)
    response = api.PodSandboxStatusResponse(
        status=status_message(sandbox),
        # the pod as a whole at one moment, which kubelet compares with the times of events
        containers_statuses=container_status.pod_messages(services, containers),
        timestamp=services.events.now(),
    )
    if request.verbose:
        response.info["info"] = json.dumps(_info(sandbox))
        timelines = services.recorder.of_sandbox(sandbox.id)
        response.info["timeline"] = json.dumps([one.to_json() for one in timelines])
    return response


def status_message(sandbox: Sandbox) -> api.PodSandboxStatus:
    """The sandbox as CRI tells it. No address with the node's network, or once it is stopped."""
    config, metadata = sandbox.config, sandbox.metadata
    ips = sandbox.status.ips
    network = api.PodSandboxNetworkStatus(
        ip=ips[0] if ips else "", additional_ips=[api.PodIP(ip=ip) for ip in ips[1:]]
    )
    options = config.linux.security_context.namespace_options
    return api.PodSandboxStatus(
        id=sandbox.id,
        metadata=config.metadata,
        state=sandbox.api_state,
        created_at=metadata.created_at,
        network=network,
        linux=api.LinuxPodSandboxStatus(namespaces=api.Namespace(options=options)),
        labels=config.labels,
        annotations=config.annotations,
        runtime_handler=metadata.runtime_handler,
    )


def _info(sandbox: Sandbox) -> dict[str, object]:
    return {
        "pid": sandbox.status.pid,
        "state": str(sandbox.status.state),
        "reason": sandbox.status.reason,
        "netnsPath": sandbox.metadata.netns_path,
        "cgroupParent": sandbox.metadata.cgroup_parent,
        "runtimeHandler": sandbox.metadata.runtime_handler,
        "overhead": _plain(sandbox.config.linux.overhead),
        "resources": _plain(sandbox.config.linux.resources),
        "config": _plain(sandbox.config),
    }


def _plain(message: Message) -> dict[str, object]:
    plain: dict[str, object] = MessageToDict(message, preserving_proto_field_name=True)
    return plain
