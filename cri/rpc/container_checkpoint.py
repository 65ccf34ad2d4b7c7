"""CheckpointContainer (KEP-2008): an archive of a running container, which runs on."""

from __future__ import annotations

import asyncio
import contextlib
import os
import posixpath
import shutil
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cri import trace
from cri.api import api_pb2 as api
from cri.errors import InvalidRequest, NotImplementedYet, WrongState
from cri.rpc import checkpoint_documents, runtime_handlers
from cri.specgen import namespaces
from cri.store.container import ContainerState
from cri.store.index import new_id
from image.checkpoint.names import DIFF, IMAGES, SHM
from image.checkpoint.owners import Owners
from runtime.checkpoints import DumpRequest

if TYPE_CHECKING:
    from cri.rpc.services import Services
    from cri.store.container import Container
    from cri.store.sandbox import Sandbox

DEFAULT_SECONDS = 110  # kubelet waits for two minutes if it asks for less
MOST_SECONDS = 86400
_LONGER = 5.0
_MEMORY = "shm"  # a directory of the first container's, for as long as it takes


async def checkpoint_container(
    services: Services, request: api.CheckpointContainerRequest
) -> api.CheckpointContainerResponse:
    """Writes the archive, whole or not at all; the container runs on whatever happens."""
    container = services.store.containers.get(request.container_id)
    location = absolute("location", request.location)
    if not 0 <= request.timeout <= MOST_SECONDS:
        raise InvalidRequest("timeout", f"{request.timeout} is not from 0 to {MOST_SECONDS} s")
    check(services, container)
    await services.runtime.checkpoints.program()
    seconds = request.timeout or DEFAULT_SECONDS
    try:
        async with asyncio.timeout(seconds), staging(services) as place:
            await capture(services, [container], [place], seconds, place / SHM)
            with trace.stage("write archive"):
                await services.images.checkpoints.pack(place, location)
    except TimeoutError:
        text = f"the checkpoint of container {container.id} took longer than {seconds} s"
        raise TimeoutError(text) from None
    return api.CheckpointContainerResponse()


def absolute(field: str, path: str) -> Path:
    """A path of a request. Raises InvalidRequest."""
    if not path.startswith("/") or posixpath.normpath(path) == "/" or "\0" in path:
        raise InvalidRequest(field, f"{path!r} is no absolute path of a file")
    return Path(posixpath.normpath(path))


def check(services: Services, container: Container) -> None:
    """Raises WrongState, NotImplementedYet for a container that can't be checkpointed."""
    sandbox = services.store.sandboxes.get(container.metadata.sandbox_id)
    if container.status.state is not ContainerState.RUNNING:
        raise WrongState(
            f"container {container.id} is {container.status.state}: only a running one has any "
            "processes to be written down"
        )
    check_pod(services, sandbox, f"container {container.id}")


def check_pod(services: Services, sandbox: Sandbox, what: str) -> None:
    """Raises NotImplementedYet where neither checkpoint nor restore is possible."""
    if runtime_handlers.of(services, sandbox).name:
        raise NotImplementedYet(
            f"{what}: the runtime handler {sandbox.metadata.runtime_handler!r} runs a program; "
            "only the embedded runtime knows checkpoints"
        )
    if sandbox.metadata.mount_label:
        raise NotImplementedYet(f"{what}: a pod with an SELinux label can't be checkpointed")


def owners(sandbox: Sandbox) -> Owners | None:
    """Of a pod's files, where it has users of its own."""
    options = sandbox.config.linux.security_context.namespace_options
    users = namespaces.user_map(options, "config")
    return Owners(users.uid, users.gid, users.uids, users.gids) if users else None


@contextlib.asynccontextmanager
async def staging(services: Services) -> AsyncGenerator[Path, None]:
    """A directory for what is being made. What a kill leaves of it, the next start removes."""
    place = services.paths.checkpoints / new_id()
    await asyncio.to_thread(place.mkdir, mode=0o700, parents=True)
    try:
        yield place
    finally:
        await asyncio.to_thread(shutil.rmtree, place, ignore_errors=True)


async def capture(
    services: Services,
    containers: Sequence[Container],
    places: Sequence[Path],
    seconds: float,
    shm: Path,
) -> None:
    """Writes processes and files of containers of one pod, all of one moment, to directories.

    All stand still until the last is written. seconds: that CRIU may take for one; shm: the file to
    be made of what is in the pod's /dev/shm, if anything is. Raises CheckpointFailed, StorageFull,
    ImageFault.
    """
    checkpoints = services.runtime.checkpoints
    sandbox = services.store.sandboxes.get(containers[0].metadata.sandbox_id)
    services.images.checkpoints.warm()
    memory = places[0] / _MEMORY
    await asyncio.to_thread(memory.mkdir, mode=0o700, parents=True)
    with trace.stage("freeze, write, thaw"):
        async with (
            services.locks.hold(f"checkpoint {sandbox.id}"),  # CRIU can't be at it twice
            checkpoints.paused(sandbox.id, [container.id for container in containers]),
        ):
            for index, (container, place) in enumerate(zip(containers, places, strict=True)):
                await asyncio.to_thread((place / IMAGES).mkdir, mode=0o700, parents=True)
                patience = seconds + _LONGER  # of ours is the time that is told
                copied = str(memory) if index == 0 else ""
                wanted = DumpRequest(container.id, str(place), patience, copied)
                await checkpoints.dump(sandbox.id, wanted)
                await services.images.checkpoints.pack_diff(
                    container.id, place / DIFF, owners(sandbox)
                )
                log = container.metadata.log_path, place / "container.log"
                await asyncio.to_thread(checkpoint_documents.copy_log, *log)
    if await asyncio.to_thread(os.listdir, memory):
        await services.images.checkpoints.pack_memory(memory, shm)
    await asyncio.to_thread(shutil.rmtree, memory)
    for container, place in zip(containers, places, strict=True):
        files = await checkpoint_documents.of(services, container)
        await asyncio.to_thread(checkpoint_documents.write, place, files)
