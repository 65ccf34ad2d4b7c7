"""PullImage: from a registry into the store; the answer is the id under which all else knows it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cri import trace
from cri.api import api_pb2 as api
from cri.errors import InvalidRequest
from image.store import Credentials

if TYPE_CHECKING:
    from cri.rpc.services import Services


async def pull_image(services: Services, request: api.PullImageRequest) -> api.PullImageResponse:
    """Has no deadline: it ends when the client gives up, or when no byte comes for too long.

    Requests for the same image join one pull.
    """
    reference = request.image.image
    if not reference:
        raise InvalidRequest("image.image", "is empty: name an image")
    credentials = _credentials(request.auth) if request.HasField("auth") else None
    with trace.stage("pull"):
        image = await services.images.pull(reference, credentials)
    return api.PullImageResponse(image_ref=image.id)


def _credentials(auth: api.AuthConfig) -> Credentials:
    return Credentials(
        username=auth.username,
        password=auth.password,
        auth=auth.auth,
        server_address=auth.server_address,
        identity_token=auth.identity_token,
        registry_token=auth.registry_token,
    )
