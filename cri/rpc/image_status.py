"""ImageStatus: one image; an empty answer, no error, if it is not here."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from cri.api import api_pb2 as api
from cri.rpc.image_list import image_message
from runtime import codec

if TYPE_CHECKING:
    from cri.rpc.services import Services


async def image_status(
    services: Services, request: api.ImageStatusRequest
) -> api.ImageStatusResponse:
    """By tag, digest, id or beginning of an id. Verbose: labels and config of the image as JSON."""
    image = services.images.find(request.image.image)
    if image is None:
        return api.ImageStatusResponse()
    response = api.ImageStatusResponse(image=image_message(image))
    if request.verbose:
        config = codec.encode(image.config)
        response.info["info"] = json.dumps({"imageSpec": {"config": config}}, indent=2)
    return response
