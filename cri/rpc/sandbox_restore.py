"""RestorePod (KEP-5823): a new pod whose containers go on from a checkpoint when they are started.

What the checkpoint says decides which archive is whose, and what the processes were doing; all
else is the request's.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from cri.api import api_pb2 as api
from cri.errors import InvalidRequest, NameTaken, WrongState
from cri.rpc import (
    checkpoint_source,
    container_checkpoint,
    container_create,
    runtime_handlers,
    sandbox_remove,
    sandbox_run,
)
from cri.rpc.checkpoint_source import Source
from cri.rpc.sandbox_checkpoint import OPTIONS, VERSION, refuse_options
from cri.rpc.worker import SECONDS
from cri.store.sandbox import sandbox_name
from cri.undo import Undo
from image.checkpoint.names import SHM

if TYPE_CHECKING:
    from cri.rpc.services import Services

_LIMIT = 1 << 20  # bytes of pod.options
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


async def restore_pod(services: Services, request: api.RestorePodRequest) -> api.RestorePodResponse:
    """The pod with its containers in CREATED; after a failure nothing of it is left."""
    directory = container_checkpoint.absolute("checkpoint_path", request.checkpoint_path)
    refuse_options(request.options)
    runtime_handlers.check(services, request.runtime_handler)
    wanted = _by_name(request)
    archives = await services.workers.call(SECONDS, _archives, directory)
    if wanted.keys() != archives.keys():
        raise InvalidRequest(
            "container_configs",
            f"the checkpoint is of {sorted(archives)}, the request of {sorted(wanted)}",
        )
    await services.runtime.checkpoints.program()
    existing = services.store.sandboxes.named(sandbox_name(request.config.metadata))
    if existing is not None:
        raise NameTaken(f"sandbox {existing.id} has this name, uid and attempt already")
    return await _make(services, request, archives)


async def _make(
    services: Services, request: api.RestorePodRequest, archives: Mapping[str, Path]
) -> api.RestorePodResponse:
    run = api.RunPodSandboxRequest(config=request.config, runtime_handler=request.runtime_handler)
    made = await sandbox_run.run_pod_sandbox(services, run)
    answer = api.RestorePodResponse(pod_sandbox_id=made.pod_sandbox_id)
    async with Undo(f"restore sandbox {made.pod_sandbox_id}") as undo:
        remove = api.RemovePodSandboxRequest(pod_sandbox_id=made.pod_sandbox_id)
        undo.push("remove the sandbox", sandbox_remove.remove_pod_sandbox, services, remove)
        memory = Path(request.checkpoint_path) / SHM
        if await services.workers.call(SECONDS, os.path.lexists, memory):
            await checkpoint_source.take_memory(services, memory, made.pod_sandbox_id)
        for config in request.container_configs:
            name = config.metadata.name
            sandbox = container_create.ready(services, made.pod_sandbox_id)
            kept = api.ContainerConfig()
            kept.CopyFrom(config)
            container_id = await container_create.make(
                services, sandbox, kept, Source(archives[name])
            )
            _check_image(services, container_id, config)
            answer.restored_containers.add(name=name, container_id=container_id)
        undo.commit()
    return answer


def _check_image(services: Services, container_id: str, config: api.ContainerConfig) -> None:
    """The request names the image of which the checkpoint's container was made."""
    asked = services.images.find(config.image.image)
    made_of = services.store.containers.get(container_id).metadata.image_id
    if asked is None or asked.id != made_of:
        raise WrongState(
            f"container_configs: {config.metadata.name!r} is to be of {config.image.image!r}, "
            f"its checkpoint is of {made_of}"
        )


def _by_name(request: api.RestorePodRequest) -> Mapping[str, api.ContainerConfig]:
    found = {config.metadata.name: config for config in request.container_configs}
    if not found or "" in found or len(found) != len(request.container_configs):
        raise InvalidRequest("container_configs", "each needs a name of its own, one at least")
    return found


def _archives(directory: Path) -> dict[str, Path]:
    """Container name -> its archive, from pod.options. Raises InvalidRequest."""
    path = directory / OPTIONS
    field = "checkpoint_path"
    try:
        with open(os.open(path, _READ), "rb") as file:
            regular = stat.S_ISREG(os.fstat(file.fileno()).st_mode)
            text = file.read(_LIMIT + 1) if regular else b""
    except OSError as error:
        raise InvalidRequest(field, f"no checkpoint of a pod: {path}: {error.strerror}") from None
    try:
        options: object = json.loads(text) if len(text) <= _LIMIT else None
    except ValueError:
        options = None
    if not isinstance(options, dict) or options.get("version") != VERSION:
        raise InvalidRequest(field, f"{path} is no pod.options of version {VERSION}")
    listed = options.get("containers")
    found = {}
    for name, archive in listed.items() if isinstance(listed, dict) else ():
        if not isinstance(archive, str) or "/" in archive or archive in ("", ".", ".."):
            raise InvalidRequest(field, f"{path}: {archive!r} is no file beside it")
        found[name] = directory / archive
    return found
