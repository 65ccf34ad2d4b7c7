"""A container that goes on from a checkpoint: an archive, or an image that is one.

A checkpoint says what the processes were doing, what was changed in the files of which image, and
nothing else: mounts, devices, limits, users, names, annotations are the request's alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import AsyncGenerator, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cri import trace
from cri.errors import NotImplementedYet, PathHangs
from cri.rpc import checkpoint_documents, container_checkpoint, sandbox_checkpoint
from cri.rpc.worker import SECONDS
from cri.store.container import ContainerState
from image.checkpoint.names import DIFF, SHM

if TYPE_CHECKING:
    from cri.api import api_pb2 as api
    from cri.rpc.services import Services
    from cri.store.container import Container
    from cri.store.sandbox import Sandbox
    from cri.undo import Undo
    from image.store import Image
    from runtime.spec import Spec

_MEMORY = "shm"  # a directory of what is to come into the pod's /dev/shm
_ROOT = "root"  # where the container's root is put together: see runtime.monitor.criu.restore


@dataclass(frozen=True, slots=True)
class Source:
    """archive: a file; None: the image `image_id` is the checkpoint."""

    archive: Path | None
    image_id: str = ""


async def find(services: Services, config: api.ContainerConfig) -> Source | None:
    """The checkpoint that a container's image is; None: it is an image like any other."""
    name = config.image.image
    if name.startswith("/"):
        return Source(container_checkpoint.absolute("config.image.image", name))
    image = services.images.find(name)
    if image is not None and await services.images.checkpoints.is_one(image.id):
        return Source(None, image.id)
    return None


async def take(
    services: Services, sandbox: Sandbox, container_id: str, source: Source, undo: Undo
) -> Image:
    """Unpacks a checkpoint for a new container; answers the image that it was made of.

    Raises CriuUnavailable, NotImplementedYet, ArchiveMalformed, ImageNotFound, StorageFull.
    """
    container_checkpoint.check_pod(services, sandbox, f"sandbox {sandbox.id}")
    await services.runtime.checkpoints.program()
    place = services.paths.checkpoint(container_id)
    undo.push("remove the checkpoint", remove, services, container_id)
    await asyncio.to_thread((place / _ROOT).mkdir, mode=0o700, parents=True)
    with trace.stage("read checkpoint"):
        config = await services.images.checkpoints.take(source.archive, source.image_id, place)
    return checkpoint_documents.base_image(services, config)


async def apply(services: Services, sandbox: Sandbox, container_id: str) -> None:
    """The files that the container had changed. Raises LayerMalformed, StorageFull."""
    diff = services.paths.checkpoint(container_id) / DIFF
    if diff.exists():
        with trace.stage("restore files"):
            owners = container_checkpoint.owners(sandbox)
            await services.images.checkpoints.apply_diff(container_id, diff, owners)
        await asyncio.to_thread(diff.unlink)
    place = services.paths.checkpoint(container_id)
    if (place / SHM).exists():
        await take_memory(services, place / SHM, container_id)


async def take_memory(services: Services, source: Path, owner_id: str) -> None:
    """Unpacks what a pod had in its /dev/shm, for the first start of whom it is to be there.

    owner_id: of a container, or of a sandbox whose containers start one by one. Raises
    ArchiveMalformed, LayerMalformed, StorageFull.
    """
    target = services.paths.checkpoint(owner_id) / _MEMORY
    await asyncio.to_thread(target.mkdir, mode=0o700, parents=True)
    with trace.stage("restore shared memory"):
        await services.images.checkpoints.unpack_memory(source, target)


@contextlib.asynccontextmanager
async def memory(services: Services, container: Container) -> AsyncGenerator[str, None]:
    """The directory from which the start of one that goes on fills its pod's /dev/shm, or "".

    A sandbox's is for whoever is started first, alone; who comes later finds it in the pod.
    """
    sandbox_id = container.metadata.sandbox_id
    own = services.paths.checkpoint(container.id) / _MEMORY
    shared = services.paths.checkpoint(sandbox_id) / _MEMORY
    async with services.locks.hold(f"shared memory of {sandbox_id}"):
        found = next((os.fspath(path) for path in (shared, own) if path.exists()), "")
        yield found
        await remove(services, sandbox_id)


def check_spec(spec: Spec) -> None:
    """Raises NotImplementedYet for what a container can't have that goes on from a checkpoint.

    Of a pod with a user namespace: CRIU runs as root of that only.
    """
    if spec.linux.sysctl or any(
        item.path for item in spec.linux.namespaces if item.type in ("network", "ipc", "uts")
    ):
        raise NotImplementedYet(
            "namespaces and sysctls of plugins: a container that goes on from a checkpoint has its "
            "pod's, as they are"
        )
    shared = any(item.type == "pid" and item.path for item in spec.linux.namespaces)
    if spec.linux.uid_mappings and shared:
        raise NotImplementedYet(
            "in a pod with a user namespace, a container that shares a pid namespace can't go on "
            "from a checkpoint: CRIU can't enter that"
        )
    if spec.linux.uid_mappings and "CAP_SYS_ADMIN" in spec.process.capabilities.ever:
        raise NotImplementedYet(
            "in a pod with a user namespace, a container with CAP_SYS_ADMIN can't go on from a "
            "checkpoint: CRIU can't lock its mounts"
        )


async def sweep(services: Services) -> None:
    """At start: what was being written or made when the daemon ended, and what has been started."""
    waiting = {
        owner
        for container in services.store.containers
        if container.metadata.checkpoint and container.status.state is ContainerState.CREATED
        for owner in (container.id, container.metadata.sandbox_id)
    }
    with contextlib.suppress(PathHangs):  # a pod's checkpoint may lie anywhere
        await services.workers.call(SECONDS, _sweep, services.paths.checkpoints, waiting)


def _sweep(directory: Path, waiting: Collection[str]) -> None:
    if directory.is_dir():
        for path in directory.iterdir():
            if path.name not in waiting:
                if (note := path / sandbox_checkpoint.NOTE).is_file():
                    output, end, _ = note.read_bytes().partition(b"\0")
                    if end:  # all of it was written
                        sandbox_checkpoint.clear(Path(os.fsdecode(output)))
                shutil.rmtree(path, ignore_errors=True)


async def remove(services: Services, owner_id: str) -> None:
    """What was unpacked for a container, or for a sandbox. Idempotent."""
    place = services.paths.checkpoint(owner_id)
    await asyncio.to_thread(shutil.rmtree, place, ignore_errors=True)
