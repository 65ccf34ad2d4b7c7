"""A container's spec: made when it is created, kept as long as it is, made anew after a restart."""

from __future__ import annotations

import logging
import os
import posixpath
from typing import TYPE_CHECKING

from cri import trace
from cri.errors import InvalidRequest, PathHangs
from cri.rpc import image_volumes, runtime_handlers, selinux
from cri.rpc.worker import SECONDS
from cri.specgen import classes, facts
from cri.specgen import container as specgen
from cri.specgen.subject import Facts, Subject
from image.errors import ImageNotFound

if TYPE_CHECKING:
    from cri.api import api_pb2 as api
    from cri.rpc.services import Services
    from cri.store.container import Container
    from cri.store.sandbox import Sandbox
    from image.manifest import ImageConfig
    from runtime.spec import Spec

log = logging.getLogger(__name__)


def log_path(sandbox: api.PodSandboxConfig, config: api.ContainerConfig) -> str:
    """The log's absolute path; "" if either part is missing: then nothing is logged."""
    if not sandbox.log_directory or not config.log_path:
        return ""
    if not sandbox.log_directory.startswith("/"):
        raise InvalidRequest(
            "sandbox_config.log_directory", f"{sandbox.log_directory!r} is not absolute"
        )
    for field, path in (
        ("sandbox_config.log_directory", sandbox.log_directory),
        ("config.log_path", config.log_path),
    ):
        if "\0" in path:
            raise InvalidRequest(field, f"{path!r} contains a NUL byte")
    if ".." in config.log_path.split("/"):
        raise InvalidRequest("config.log_path", f"{config.log_path!r} leaves the log directory")
    return posixpath.join(sandbox.log_directory, config.log_path.lstrip("/"))


async def make(
    services: Services,
    sandbox: Sandbox,
    container_id: str,
    config: api.ContainerConfig,
    image: ImageConfig,
) -> Spec:
    """The spec; mount sources and the log's directory have been made if they were missing."""
    handler = runtime_handlers.of(services, sandbox)
    labels = selinux.labels(services, sandbox, config)
    wanted = facts.Wanted(
        config,
        log_directory=posixpath.dirname(log_path(sandbox.config, config)),
        default_profile=handler.config.seccomp_profile
        or services.config.containers.seccomp_profile,
        node_devices=not handler.config.privileged_without_host_devices,
        apparmor_profile=services.config.containers.apparmor_profile,
        cdi_spec_dirs=services.config.devices.cdi_spec_dirs,
        labels=labels,
        blockio_class=classes.asked(classes.BLOCKIO, config, sandbox.config),
        blockio_config_file=services.config.devices.blockio_config_file,
        image_layers=image_volumes.layers(services, container_id, config),
    )
    with trace.stage("look at the node"):
        try:
            found = await services.workers.call(SECONDS, facts.gather, wanted)
        except PathHangs as error:
            where = f" at {wanted.progress[-1]}" if wanted.progress else ""
            raise PathHangs(f"{error}{where}: is a network file system's server down?") from None
    with trace.stage("make spec"):
        spec = specgen.spec(subject(services, sandbox, container_id, config, image, found))
    asked = config.linux.resources.oom_score_adj
    tell_of_raised_score(container_id, asked, found.lowest_oom_score)
    return spec


def tell_of_raised_score(container_id: str, asked: int, lowest: int) -> None:
    """Whoever asked for a lower oom_score_adj than we may give finds that in the log."""
    if asked < lowest:
        text = "container %s: oom_score_adj %d is raised to %d: for less it takes CAP_SYS_RESOURCE"
        log.info(text, container_id, asked, lowest)


def subject(
    services: Services,
    sandbox: Sandbox,
    container_id: str,
    config: api.ContainerConfig,
    image: ImageConfig,
    found: Facts,
) -> Subject:
    """All that a spec is made of; found: what the node has been asked for."""
    return Subject(
        container_id=container_id,
        config=config,
        sandbox=sandbox.config,
        image=image,
        hostname=sandbox.config.hostname or os.uname().nodename,
        files=services.paths.monitor(sandbox.id),
        cgroup_parent=sandbox.metadata.cgroup_parent,
        facts=found,
        handler=runtime_handlers.of(services, sandbox),
    )


async def remade(services: Services, sandbox: Sandbox, container: Container) -> Spec:
    """The spec of a container that an earlier daemon has created. Raises ImageNotFound."""
    metadata = container.metadata
    image = services.images.find(metadata.image_id)
    if image is None:
        raise ImageNotFound(metadata.image_ref)
    spec = await make(services, sandbox, container.id, container.config, image.config)
    if metadata.adjustment:
        from cri.rpc import nri_spec  # few nodes have plugins

        spec = await nri_spec.again(services, sandbox, spec, metadata.adjustment)
    return spec
