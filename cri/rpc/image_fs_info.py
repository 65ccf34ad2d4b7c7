"""ImageFsInfo: how much images and writable layers take. kubelet does not start if this fails."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cri.api import api_pb2 as api

if TYPE_CHECKING:
    from cri.rpc.services import Services
    from image.store import FilesystemUsage


async def image_fs_info(
    services: Services, request: api.ImageFsInfoRequest
) -> api.ImageFsInfoResponse:
    """From books that are kept anyway: no directory is walked."""
    usage = services.images.usage()
    return api.ImageFsInfoResponse(
        image_filesystems=[_filesystem(usage.images, usage.timestamp)],
        container_filesystems=[_filesystem(usage.containers, usage.timestamp)],
    )


def _filesystem(usage: FilesystemUsage, timestamp: int) -> api.FilesystemUsage:
    return api.FilesystemUsage(
        timestamp=timestamp,
        fs_id=api.FilesystemIdentifier(mountpoint=usage.mountpoint),
        used_bytes=api.UInt64Value(value=usage.bytes),
        inodes_used=api.UInt64Value(value=usage.inodes),
    )
