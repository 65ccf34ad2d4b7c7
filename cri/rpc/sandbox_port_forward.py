"""PortForward: a URL at which a client reaches the ports of a pod."""

from __future__ import annotations

import contextlib
import functools
from typing import TYPE_CHECKING

from cri import trace
from cri.api import api_pb2 as api
from cri.errors import InvalidRequest, SandboxNotFound, WrongState
from cri.store.sandbox import SandboxState
from cri.streaming.forwarding import PortForward
from cri.streaming.loopback import dial_loopback
from cri.streaming.portforward_websocket import PORTS_LIMIT

if TYPE_CHECKING:
    from cri.rpc.services import Services
    from cri.store.sandbox import Sandbox
    from cri.streaming.forwarding import Dial


async def port_forward(
    services: Services, request: api.PortForwardRequest
) -> api.PortForwardResponse:
    """kubelet names ports for a WebSocket's channels alone; over SPDY clients name them later.

    Raises StreamsExhausted.
    """
    if not request.pod_sandbox_id:
        raise InvalidRequest("pod_sandbox_id", "empty: which sandbox?")
    if odd := [port for port in request.port if not 1 <= port <= 65535]:
        raise InvalidRequest("port", f"{odd[0]}: must be from 1 to 65535")
    if len(request.port) > PORTS_LIMIT:
        raise InvalidRequest("port", f"{len(request.port)} of them: at most {PORTS_LIMIT}")
    sandbox = services.store.sandboxes.get(request.pod_sandbox_id)
    trace.about(sandbox_id=sandbox.id)
    if sandbox.status.state is not SandboxState.READY:
        raise WrongState(f"sandbox {sandbox.id} is not ready: {sandbox.status.reason}")
    purpose = PortForward(
        subject=f"{sandbox.config.metadata.namespace}/{sandbox.config.metadata.name}",
        ports=tuple(request.port),
        dial=_dial(services, sandbox),
        gone=functools.partial(_gone, services, sandbox.id),
        creation_timeout=services.streams.settings.creation_timeout,
    )
    return api.PortForwardResponse(url=services.streams.url(purpose))


def _dial(services: Services, sandbox: Sandbox) -> Dial:
    """Into the pod's network; the node's needs nobody's help."""
    if sandbox.metadata.netns_path:
        return functools.partial(services.runtime.dial, sandbox.id)
    return dial_loopback


async def _gone(services: Services, sandbox_id: str) -> None:
    with contextlib.suppress(SandboxNotFound):
        await services.store.sandboxes.until(
            sandbox_id, lambda sandbox: sandbox.status.state is not SandboxState.READY
        )
