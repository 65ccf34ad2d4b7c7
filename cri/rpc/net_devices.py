"""The node's network devices that containers want their pod to have."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from cri import trace
from cri.specgen import net_devices

if TYPE_CHECKING:
    from cri.rpc.services import Services
    from runtime.spec import Spec


async def take(services: Services, sandbox_id: str, spec: Spec) -> None:
    """Before a container starts. They are the pod's from then on: one that is started anew after
    its end finds them where they are.

    Raises DeviceUnavailable, KernelRefused, RuntimeFault, OSError.
    """
    with trace.stage("move network devices"):
        fd = await services.runtime.netlink(sandbox_id)
        try:
            await services.network.take_devices(sandbox_id, net_devices.names(spec.linux), fd)
        finally:
            os.close(fd)
