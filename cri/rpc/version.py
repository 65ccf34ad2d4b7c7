"""Version: names and versions; kubelet refuses a runtime that leaves one empty."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cri import VERSION
from cri.api import api_pb2 as api

if TYPE_CHECKING:
    from cri.rpc.services import Services

KUBELET_API_VERSION = "0.1.0"  # what this field has always been, whatever kubelet asks
RUNTIME_API_VERSION = "v1"


async def version(services: Services, request: api.VersionRequest) -> api.VersionResponse:
    """Answers all four fields."""
    return api.VersionResponse(
        version=KUBELET_API_VERSION,
        runtime_name="podwright",
        runtime_version=VERSION,
        runtime_api_version=RUNTIME_API_VERSION,
    )
