"""A pod's sandbox that its runtime handler's shim makes: when the pod has its network."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cri.api import api_pb2 as api
from cri.specgen import handler as specgen
from runtime.handlers.sandboxes import ShimSandbox

if TYPE_CHECKING:
    from cri.rpc.services import Services
    from cri.store.sandbox import Sandbox
    from runtime.lifecycle import SandboxRequest


async def make(services: Services, sandbox: Sandbox, made: SandboxRequest) -> None:
    """Raises InitFailed. What is left then is removed with the rest of the pod.

    The shim is told what kubelet has, but for annotations: only those that the node lets through.
    """
    handler = services.handlers[sandbox.metadata.runtime_handler]
    annotations = specgen.sandbox_annotations(handler, sandbox.config)
    config = api.PodSandboxConfig()
    config.CopyFrom(sandbox.config)
    config.annotations.clear()
    config.annotations.update(annotations)
    await services.runtime.sandboxes.make(
        ShimSandbox(made, handler.name, config.SerializeToString(), annotations)
    )
