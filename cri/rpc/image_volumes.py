"""Images that a container has mounted, as volumes to read from. See KEP-4639."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cri.errors import ImageVolumeFailed
from cri.rpc import runtime_handlers

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cri.api import api_pb2 as api
    from cri.rpc.services import Services
    from cri.store.sandbox import Sandbox


def hold(
    services: Services, sandbox: Sandbox, container_id: str, config: api.ContainerConfig
) -> None:
    """Keeps the images' files until the container is removed. Raises ImageVolumeFailed."""
    for number, mount in enumerate(_asked(config.mounts)):
        image = services.images.find(mount.image.image)
        if image is None:
            raise ImageVolumeFailed(f"image {mount.image.image} is not on this node: pull it first")
        if runtime_handlers.of(services, sandbox).config.program:
            raise ImageVolumeFailed(
                "the sandbox's runtime handler can't mount images: only podwright's own can"
            )
        services.images.hold(image.id, f"{container_id}.{number}")


def layers(
    services: Services, container_id: str, config: api.ContainerConfig
) -> tuple[tuple[str, ...], ...]:
    """Of each image that is mounted, in their order, and an empty directory below them: so even one
    layer is an overlay. Raises ImageVolumeFailed."""
    empty = f"{services.paths.skeleton}/proc"
    found = []
    for number, mount in enumerate(_asked(config.mounts)):
        held = services.images.snapshot(f"{container_id}.{number}")
        if held is None:
            raise ImageVolumeFailed(f"image {mount.image.image} is not kept for {container_id}")
        found.append((*held.lower, empty))
    return tuple(found)


def tell(services: Services, mounts: Iterable[api.Mount]) -> None:
    """Says in a status which image it is (KEP-5365); one that was removed is called as it was."""
    for mount in _asked(mounts):
        image = services.images.find(mount.image.image)
        mount.image.image_ref = image.id if image else mount.image.image


def _asked(mounts: Iterable[api.Mount]) -> list[api.Mount]:
    return [mount for mount in mounts if mount.image.image]
