"""ListImages, StreamImages: the images that are here, from memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cri.api import api_pb2 as api
from cri.rpc.batches import batches

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from cri.rpc.services import Services
    from image.store import Image


async def list_images(services: Services, request: api.ListImagesRequest) -> api.ListImagesResponse:
    """All images, or the one that the filter names; nothing if there is none."""
    return api.ListImagesResponse(images=map(image_message, _select(services, request.filter)))


async def stream_images(
    services: Services, request: api.StreamImagesRequest
) -> AsyncGenerator[bytes, None]:
    """The same as serialised StreamImagesResponses."""
    found = _select(services, request.filter)
    for batch in batches(
        api.StreamImagesResponse(images=[image_message(one)]).SerializeToString() for one in found
    ):
        yield batch


def _select(services: Services, wanted: api.ImageFilter) -> Sequence[Image]:
    name = wanted.image.image
    if not name:
        return services.images.list()
    found = services.images.find(name)
    return [found] if found else []


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
