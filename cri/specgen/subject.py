"""Everything that a container's spec is made of, as values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cri.cdi.injection import NOTHING, Injection
from cri.specgen.handler import RuntimeHandler
from cri.specgen.selinux import NONE, Labels
from runtime.spec import BlockIo, Device, DeviceRule, Seccomp

if TYPE_CHECKING:
    from pathlib import Path

    from cri.api import api_pb2 as api
    from image.manifest import ImageConfig


@dataclass(frozen=True, slots=True)
class Facts:
    """What only the node can tell: see facts.gather.

    devices, device_rules: what the requested device paths turned out to be (privileged: all the
    node's); seccomp: the profile file that the request or the configuration names;
    lowest_oom_score: what we may set at all; injection: what devices asked for by name bring;
    block_io: what its class means; apparmor_profile: one that the kernel has, "" for none; labels:
    SELinux's; image_layers: of the images that are mounted, in the order of the mounts, each
    topmost first.
    """

    devices: tuple[Device, ...] = ()
    device_rules: tuple[DeviceRule, ...] = ()
    seccomp: Seccomp | None = None
    lowest_oom_score: int = -1000
    injection: Injection = NOTHING
    block_io: BlockIo | None = None
    apparmor_profile: str = ""
    labels: Labels = NONE
    image_layers: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Subject:
    """A container to be.

    hostname: the pod's; files: the directory with the pod's hosts, hostname and resolv.conf;
    cgroup_parent: absolute cgroup path, under which the container gets its own; handler: who runs
    it.
    """

    container_id: str
    config: api.ContainerConfig
    sandbox: api.PodSandboxConfig
    image: ImageConfig
    hostname: str
    files: Path
    cgroup_parent: str
    facts: Facts = field(default_factory=Facts)
    handler: RuntimeHandler = field(default_factory=RuntimeHandler)

    @property
    def security(self) -> api.LinuxContainerSecurityContext:
        """Shorthand: what the container asks of security."""
        return self.config.linux.security_context
