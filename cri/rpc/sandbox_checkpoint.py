"""CheckpointPod (KEP-5823): the running containers of a pod, all of one moment, into a directory.

OUTPUT/pod.options      version, and which archive is whose; written last: without it there is
                        no checkpoint
OUTPUT/pod.dump         the pod's configuration, for people
OUTPUT/container-0.tar  an archive as CheckpointContainer writes it, one a container
OUTPUT/devshm-checkpoint.tar  what was in the pod's /dev/shm, if anything was: in no archive then
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from google.protobuf.json_format import MessageToDict

from cri import trace
from cri.api import api_pb2 as api
from cri.errors import InvalidRequest, WrongState
from cri.rpc import container_checkpoint
from cri.rpc.worker import SECONDS
from cri.store.container import ContainerState
from cri.store.sandbox import SandboxState
from image.checkpoint.names import SHM

if TYPE_CHECKING:
    from cri.rpc.services import Services
    from cri.store.container import Container
    from cri.store.sandbox import Sandbox

VERSION = 1
OPTIONS, DUMP = "pod.options", "pod.dump"
NOTE = "output"  # in the staging directory: where something may lie that nobody will finish, NUL
_MOST_SECONDS = 600.0  # the caller's deadline is what counts


async def checkpoint_pod(
    services: Services, request: api.CheckpointPodRequest
) -> api.CheckpointPodResponse:
    """All containers stand still until the last is written, and run on whatever happens."""
    sandbox = services.store.sandboxes.get(request.pod_sandbox_id)
    output = container_checkpoint.absolute("output_path", request.output_path)
    refuse_options(request.options)
    containers = _selected(services, sandbox, request.container_ids)
    await services.workers.call(SECONDS, _check_output, output)
    await services.runtime.checkpoints.program()
    async with container_checkpoint.staging(services) as place:
        await asyncio.to_thread((place / NOTE).write_bytes, os.fsencode(output) + b"\0")
        places = [place / str(index) for index in range(len(containers))]
        try:
            await container_checkpoint.capture(
                services, containers, places, _MOST_SECONDS, output / SHM
            )
            with trace.stage("write archives"):
                await _write(services, sandbox, containers, places, output)
        except BaseException:
            await services.workers.call(SECONDS, clear, output)
            raise
    return api.CheckpointPodResponse()


def refuse_options(options: Mapping[str, str]) -> None:
    """None is known so far."""
    if options:
        name = sorted(options)[0]
        raise InvalidRequest("options", f"{name!r} is not known; podwright knows none")


def _selected(
    services: Services, sandbox: Sandbox, container_ids: Sequence[str]
) -> list[Container]:
    """Exactly the pod's running containers. Raises InvalidRequest, WrongState."""
    if sandbox.status.state is not SandboxState.READY:
        raise WrongState(f"sandbox {sandbox.id} is {sandbox.status.state}, not ready")
    if not container_ids:
        raise InvalidRequest("container_ids", "empty")
    selected = [services.store.containers.get(name) for name in container_ids]
    if len({container.id for container in selected}) != len(selected):
        raise InvalidRequest("container_ids", "a container is named twice")
    for container in selected:
        if container.metadata.sandbox_id != sandbox.id:
            raise InvalidRequest("container_ids", f"{container.id} is not in sandbox {sandbox.id}")
        container_checkpoint.check(services, container)
    for container in services.store.containers.of_sandbox(sandbox.id):
        running = container.status.state is ContainerState.RUNNING
        if running and container.id not in {one.id for one in selected}:
            raise InvalidRequest("container_ids", f"{container.id} runs too, and is not named")
    names = [container.config.metadata.name for container in selected]
    if len(set(names)) != len(names):
        raise WrongState(f"sandbox {sandbox.id} runs two containers of one name")
    return selected


def _check_output(output: Path) -> None:
    try:
        found = os.listdir(output)
    except OSError as error:
        raise InvalidRequest(
            "output_path", f"{output}: {error.strerror}: it must be an existing directory"
        ) from None
    if found:
        raise InvalidRequest("output_path", f"{output} is not empty: {found[0]!r} is in it")


async def _write(
    services: Services,
    sandbox: Sandbox,
    containers: Sequence[Container],
    places: Sequence[Path],
    output: Path,
) -> None:
    archives = {}
    for index, (container, place) in enumerate(zip(containers, places, strict=True)):
        name = f"container-{index}.tar"
        archives[container.config.metadata.name] = name
        await services.images.checkpoints.pack(place, output / name)
    pod = MessageToDict(sandbox.config, preserving_proto_field_name=True)
    options = {
        "version": VERSION,
        "containers": archives,
        "annotations": {
            "org.criu.checkpoint.engine.name": "podwright",
            "org.criu.checkpoint.pod.name": sandbox.config.metadata.name,
            "org.criu.checkpoint.pod.namespace": sandbox.config.metadata.namespace,
            "org.criu.checkpoint.pod.uid": sandbox.config.metadata.uid,
        },
    }
    await services.workers.call(SECONDS, _write_document, output / DUMP, pod)
    await services.workers.call(SECONDS, _write_document, output / OPTIONS, options)


def _write_document(path: Path, value: object) -> None:
    """Whole or not at all, and durable."""
    partial = path.with_name(f".{path.name}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    with open(os.open(partial, flags, 0o600), "w", encoding="utf-8") as file:
        json.dump(value, file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    partial.rename(path)


def clear(output: Path) -> None:
    """Removes what a checkpoint that was not finished has left in a directory, and nothing else."""
    with contextlib.suppress(OSError):
        names = os.listdir(output)
        if OPTIONS in names:
            return
        for name in names:
            ours = name.startswith("container-") and name.endswith(".tar")
            if ours or name in (SHM, DUMP, f".{DUMP}", f".{OPTIONS}"):
                (output / name).unlink()
