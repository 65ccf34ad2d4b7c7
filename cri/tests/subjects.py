"""Containers to be, as tests of their specs want them."""

from __future__ import annotations

from pathlib import Path

from cri.api import api_pb2 as api
from cri.specgen.subject import Facts, Subject
from image.manifest import ImageConfig, Platform

Context = api.LinuxContainerSecurityContext
Options = api.NamespaceOption


def image(**fields: object) -> ImageConfig:
    """An image's configuration from JSON: entrypoint, cmd, env, user, working_dir."""
    lists = {
        key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()
    }
    return ImageConfig(Platform(architecture="amd64"), (), **lists)  # type: ignore[arg-type]


def subject(
    config: api.ContainerConfig,
    sandbox: api.PodSandboxConfig | None = None,
    facts: Facts | None = None,
    of_image: ImageConfig | None = None,
) -> Subject:
    pod = sandbox or api.PodSandboxConfig()
    return Subject(
        container_id="c1",
        config=config,
        sandbox=pod,
        image=of_image or image(cmd=["sh"]),
        hostname=pod.hostname or "node-1",
        files=Path("/run/podwright/monitors/s1"),
        cgroup_parent=pod.linux.cgroup_parent or "/podwright/s1",
        facts=facts or Facts(),
    )


def secured(**fields: object) -> api.ContainerConfig:
    """A container with this security context."""
    made = api.ContainerConfig()
    made.linux.security_context.CopyFrom(Context(**fields))  # type: ignore[arg-type]
    return made


def pod_with(**options: object) -> api.PodSandboxConfig:
    made = api.PodSandboxConfig()
    made.linux.security_context.namespace_options.CopyFrom(Options(**options))  # type: ignore[arg-type]
    return made
