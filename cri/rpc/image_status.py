"""ImageStatus: one image; an empty answer, no error, if it is not here."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from cri.api import api_pb2 as api
from cri.rpc.image_list import image_message

if TYPE_CHECKING:
    from cri.rpc.services import Services


async def image_status(
    services: Services, request: api.ImageStatusRequest
) -> api.ImageStatusResponse:
    """By tag, digest, id or beginning of an id. Verbose: the image's config document as JSON."""
    image = services.images.find(request.image.image)
    if image is None:
        return api.ImageStatusResponse()
    response = api.ImageStatusResponse(image=image_message(image))
    if request.verbose:
        spec = json.loads(await services.images.read_config(image.id))
        info = {"imageSpec": spec, "manifest": image.manifest, "pulledAt": image.pulled_at}
        response.info["info"] = json.dumps(info, indent=2)
    return response
