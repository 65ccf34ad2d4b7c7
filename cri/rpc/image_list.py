"""ListImages: the images that are here, from memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cri.api import api_pb2 as api

if TYPE_CHECKING:
    from cri.rpc.services import Services
    from image.store import Image


async def list_images(services: Services, request: api.ListImagesRequest) -> api.ListImagesResponse:
    """All images, or the one that the filter names; nothing if there is none."""
    wanted = request.filter.image.image
    if not wanted:
        return api.ListImagesResponse(images=map(image_message, services.images.list()))
    found = services.images.find(wanted)
    return api.ListImagesResponse(images=[image_message(found)] if found else [])


def image_message(image: Image) -> api.Image:
    """An image as CRI knows it."""
    message = api.Image(
        id=image.id,
        repo_tags=image.names,
        repo_digests=image.digests,
        size=max(image.size, 1),  # kubelet takes 0 for a fault
        pinned=image.pinned,
    )
    user = image.config.user.partition(":")[0]
    if user.isascii() and user.isdecimal():
        message.uid.value = int(user)
    else:
        message.username = user
    return message
