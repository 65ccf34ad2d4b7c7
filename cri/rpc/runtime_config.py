"""RuntimeConfig: what kubelet must agree with. UpdateRuntimeConfig: what kubelet tells us."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from cri.api import api_pb2 as api

if TYPE_CHECKING:
    from cri.rpc.services import Services

log = logging.getLogger(__name__)


async def runtime_config(
    services: Services, request: api.RuntimeConfigRequest
) -> api.RuntimeConfigResponse:
    """The cgroup driver. Always set: the zero of this enum means systemd."""
    driver = api.SYSTEMD if services.runtime.systemd else api.CGROUPFS
    return api.RuntimeConfigResponse(linux=api.LinuxRuntimeConfiguration(cgroup_driver=driver))


async def update_runtime_config(
    services: Services, request: api.UpdateRuntimeConfigRequest
) -> api.UpdateRuntimeConfigResponse:
    """The node's pod CIDR. The built-in network has its subnets from the configuration; a CNI
    plugin has its own way to learn of it: so this is noted, not used."""
    cidr = request.runtime_config.network_config.pod_cidr
    if cidr and services.config.network.enabled:
        ours = ", ".join(services.config.network.subnets)
        log.info("the cluster gives this node the pod CIDR %s; network.subnets is %s", cidr, ours)
    return api.UpdateRuntimeConfigResponse()
