"""RemoveImage: an image and all its names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cri.api import api_pb2 as api
from cri.errors import InvalidRequest

if TYPE_CHECKING:
    from cri.rpc.services import Services


async def remove_image(
    services: Services, request: api.RemoveImageRequest
) -> api.RemoveImageResponse:
    """Idempotent: one that is not here is removed already. Containers keep the layers they use."""
    text = request.image.image
    if not text:
        raise InvalidRequest("image.image", "is empty: name an image")
    await services.images.remove(text)
    return api.RemoveImageResponse()
