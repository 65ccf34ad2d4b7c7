"""CreateContainer: a container with its writable layer, ready to be started."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cri import trace
from cri.api import api_pb2 as api
from cri.errors import InvalidRequest, NameTaken, WrongState
from cri.rpc import checkpoint_source, container_spec, image_volumes, selinux
from cri.specgen import namespaces, signals
from cri.store.container import Container, ContainerMetadata, ContainerState, container_name
from cri.store.index import new_id
from cri.store.sandbox import SandboxState
from cri.undo import Undo
from image.errors import ImageNotFound

if TYPE_CHECKING:
    from cri.rpc.checkpoint_source import Source
    from cri.rpc.services import Services
    from cri.store.sandbox import Sandbox
    from image.store import Image


async def create_container(
    services: Services, request: api.CreateContainerRequest
) -> api.CreateContainerResponse:
    """A request for a container which is being made, or is there, gets that one's id."""
    sandbox = services.store.sandboxes.get(request.pod_sandbox_id)
    if not request.config.metadata.name:
        raise InvalidRequest("config.metadata.name", "empty")
    name = container_name(sandbox.id, request.config.metadata)
    config = api.ContainerConfig()
    config.CopyFrom(request.config)  # the request's would keep all of the request in memory
    container_id = await services.flights.join(
        f"container {name}", lambda: _once(services, sandbox.id, config)
    )
    return api.CreateContainerResponse(container_id=container_id)


async def _once(services: Services, sandbox_id: str, config: api.ContainerConfig) -> str:
    sandbox = ready(services, sandbox_id)
    existing = services.store.containers.named(container_name(sandbox_id, config.metadata))
    if existing is None:
        return await make(services, sandbox, config, await checkpoint_source.find(services, config))
    if existing.status.state is not ContainerState.EXITED and _asked_for(existing, config):
        return existing.id
    raise NameTaken(
        f"container {existing.id} has this name and attempt already and is "
        f"{existing.status.state}: remove it, or ask for another attempt"
    )


def _asked_for(existing: Container, config: api.ContainerConfig) -> bool:
    """Whether a container is what this request asks for, but for what plugins have made of it."""
    if existing.metadata.adjustment is None:
        return existing.config == config
    first, second = api.ContainerConfig(), api.ContainerConfig()
    for copy, original in ((first, existing.config), (second, config)):
        copy.CopyFrom(original)
        copy.linux.resources.Clear()
    return first == second


def ready(services: Services, sandbox_id: str) -> Sandbox:
    sandbox = services.store.sandboxes.get(sandbox_id)
    if sandbox.status.state is not SandboxState.READY:
        raise WrongState(f"sandbox {sandbox_id} is {sandbox.status.state}: no container fits in")
    return sandbox


async def make(
    services: Services, sandbox: Sandbox, config: api.ContainerConfig, source: Source | None
) -> str:
    """A new container; its id. source: the checkpoint that it goes on from."""
    container_id = new_id()
    trace.about(sandbox_id=sandbox.id, container_id=container_id)
    check_target(services, sandbox, config)
    async with Undo(f"create container {container_id}") as undo:
        if source is None:
            image = _image(services, config)
        else:
            image = await checkpoint_source.take(services, sandbox, container_id, source, undo)
        metadata = ContainerMetadata(
            id=container_id,
            sandbox_id=sandbox.id,
            image_id=image.id,
            image_ref=config.image.user_specified_image or config.image.image,
            log_path=container_spec.log_path(sandbox.config, config),
            stop_signal=_stop_signal(config, image),
            checkpoint=source is not None,
        )
        undo.push("discard the snapshots", services.images.discard, container_id)
        image_volumes.hold(services, sandbox, container_id, config)
        spec = await container_spec.make(services, sandbox, container_id, config, image.config)
        await selinux.relabel_volumes(services, config, spec.linux.mount_label)
        with trace.stage("prepare snapshot"):
            services.images.prepare(image.id, container_id, _owner(sandbox))
        if source is not None:
            await checkpoint_source.apply(services, sandbox, container_id)
        container = Container(metadata, config)
        # Nothing waits between this look and the record: a plugin that joins would not know of it.
        if plugins := services.plugins:
            container, spec = await plugins.create_container(sandbox, container, spec, undo)
        if source is not None:
            checkpoint_source.check_spec(spec)
        ready(services, sandbox.id)  # it may have been stopped while we looked at the node
        services.specs[container_id] = spec
        undo.push("forget the spec", services.specs.pop, container_id, None)
        with trace.stage("record"):
            services.store.containers.add(container)
        undo.commit()
    if plugins := services.plugins:
        await plugins.container_created(container)
    return container_id


def _owner(sandbox: Sandbox) -> tuple[int, int]:
    """The uid and gid that the pod's root has on the node."""
    options = sandbox.config.linux.security_context.namespace_options
    users = namespaces.user_map(options, "config")
    return (users.uid, users.gid) if users else (0, 0)


def _image(services: Services, config: api.ContainerConfig) -> Image:
    if not config.image.image:
        raise InvalidRequest("config.image.image", "empty")
    image = services.images.find(config.image.image)
    if image is None:
        raise ImageNotFound(config.image.image)
    if image.artifact:
        raise InvalidRequest(
            "config.image.image",
            f"{config.image.image} is an artifact, which has files and no program: mount it as a "
            "volume (pod.spec.volumes[].image)",
        )
    return image


def check_target(services: Services, sandbox: Sandbox, config: api.ContainerConfig) -> str:
    """The id of the container whose processes this one is to see, "" for none."""
    mode = namespaces.pid(config, sandbox.config)
    if mode.kind != "target":
        return ""
    field = "config.linux.security_context.namespace_options.target_id"
    target = services.store.containers.find(mode.target)
    if target is None or target.metadata.sandbox_id != sandbox.id:
        raise InvalidRequest(field, f"no container {mode.target!r} in sandbox {sandbox.id}")
    if target.status.state is not ContainerState.RUNNING:
        raise WrongState(f"{field}: container {target.id} is {target.status.state}, not running")
    return target.id


def _stop_signal(config: api.ContainerConfig, image: Image) -> str:
    """The request's, or the image's; "" stands for SIGTERM."""
    asked = signals.from_api(config.stop_signal)
    if asked:
        return asked
    if image.config.stop_signal and signals.number(image.config.stop_signal) is None:
        raise InvalidRequest(
            "config.image",
            f"its StopSignal is {image.config.stop_signal!r}, and there is no such signal: "
            "set config.stop_signal",
        )
    return image.config.stop_signal
