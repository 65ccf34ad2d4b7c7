"""The node's network devices that NRI plugins want a pod to have."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from cri import trace
from cri.nri.api import nri_pb2 as nri
from cri.nri.devices import wanted

if TYPE_CHECKING:
    from cri.rpc.services import Services
    from cri.store.container import Container


async def take(services: Services, container: Container) -> None:
    """Before it starts. They are the pod's from then on: a container that is started anew after its
    end finds them where they are.

    Raises DeviceUnavailable, KernelRefused, RuntimeFault, OSError.
    """
    adjustment = nri.ContainerAdjustment.FromString(container.metadata.adjustment or b"")
    names = wanted(adjustment.linux)
    if not names:
        return
    sandbox_id = container.metadata.sandbox_id
    with trace.stage("move network devices"):
        fd = await services.runtime.netlink(sandbox_id)
        try:
            await services.network.take_devices(sandbox_id, names, fd)
        finally:
            os.close(fd)
