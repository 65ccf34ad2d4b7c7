"""SELinux on this node: what its policy is, a pod's label, a container's labels, and volumes'.

A pod is labelled or not when it is made, and stays so: its label is in its record. Levels that are
taken are those of the records, so a restart forgets none.
"""

from __future__ import annotations

import logging
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cri import trace
from cri.api import api_pb2 as api
from cri.errors import InvalidRequest, WrongState
from cri.specgen import selinux as specgen
from runtime.selinux import node, relabel
from runtime.selinux.label import Label

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cri.rpc.services import Services
    from cri.store.sandbox import Sandbox

log = logging.getLogger(__name__)
SECONDS = 100.0  # kubelet waits for two minutes


@dataclass(frozen=True, slots=True)
class Selinux:
    """As it was found at the daemon's start. policy: None: the kernel has none, or `refusal`."""

    policy: node.Policy | None = None
    refusal: str = ""


OFF = Selinux()


def find() -> Selinux:
    """Asks kernel and policy. Blocks."""
    if not node.enabled():
        return OFF
    try:
        return Selinux(node.policy())
    except (node.PolicyUnusable, OSError) as error:
        return Selinux(refusal=str(error))


def label_images(found: Selinux, root: Path) -> None:
    """Files of images get the label of the directory in which they are unpacked. Blocks.

    Containers see them under another one, but overlayfs lets the kernel look at the real one when
    a program's pages are mapped or protected. What is there already keeps what it has.
    """
    if found.policy is None:
        return
    wanted = str(found.policy.image).encode()
    for path in (root / "layers", root / "tmp"):
        try:
            if relabel.label_of(path) != wanted:
                os.setxattr(path, relabel.XATTR, wanted)
        except OSError as error:
            text = "%s can't be labelled %s, so containers may not be able to run programs: %s"
            log.warning(text, path, found.policy.image, error.strerror)


def pod_labels(services: Services, config: api.PodSandboxConfig) -> specgen.Labels:
    """A new pod's, of what it has for all its containers. Raises InvalidRequest, WrongState."""
    asked = config.linux.security_context.selinux_options
    specgen.check(asked)
    policy = services.selinux.policy
    if policy is None or services.config.containers.selinux == "off":
        _tell(services, asked)
        return specgen.NONE
    made = specgen.pod_mount(asked, policy, set(_taken(services)))
    usual = specgen.container(policy, made, config, api.ContainerConfig())
    specgen.check_known(usual, node.knows)
    return usual


def labels(services: Services, sandbox: Sandbox, config: api.ContainerConfig) -> specgen.Labels:
    """A container's. Raises InvalidRequest, WrongState."""
    asked = config.linux.security_context.selinux_options
    specgen.check(asked)
    pod, policy = sandbox.metadata.mount_label, services.selinux.policy
    if not pod:
        _tell(services, asked)
        return specgen.NONE
    if policy is None:
        why = services.selinux.refusal or "the kernel has it off now"
        raise WrongState(f"sandbox {sandbox.id} was made with SELinux labels, and {why}")
    return specgen.container(policy, Label.parse(pod), sandbox.config, config)


def _tell(services: Services, asked: api.SELinuxOption) -> None:
    """Where SELinux is off a label means nothing; where it is on none must be missing silently."""
    if not specgen.is_asked_for(asked):
        return
    if services.selinux.refusal and services.config.containers.selinux != "off":
        raise WrongState(f"{specgen.FIELD}: no label can be given: {services.selinux.refusal}")
    log.info("%s: passed over, since SELinux is off here", specgen.FIELD)


def _taken(services: Services) -> Iterator[str]:
    for sandbox in services.store.sandboxes:
        if sandbox.metadata.mount_label:
            yield Label.parse(sandbox.metadata.mount_label).level
    for container in services.store.containers:
        yield container.config.linux.security_context.selinux_options.level


async def relabel_volumes(
    services: Services, config: api.ContainerConfig, label: str | None
) -> None:
    """Gives the container's label to volumes for which that is asked.

    Raises InvalidRequest, OutOfTime, PathHangs.
    """
    wanted = [
        (i, mount.host_path) for i, mount in enumerate(config.mounts) if mount.selinux_relabel
    ]
    if not wanted or not label:
        return
    directories = (services.config.root, services.config.state)
    with trace.stage("relabel volumes"):
        await services.workers.call(SECONDS + 5, _relabel, wanted, label, directories)


def _relabel(wanted: list[tuple[int, str]], label: str, directories: tuple[str, ...]) -> None:
    kept = relabel.identities(directories)
    deadline = time.monotonic() + SECONDS
    for index, path in wanted:
        field = f"config.mounts[{index}].selinux_relabel"
        try:
            relabel.relabel(os.path.normpath(path), label, kept, deadline)
        except relabel.Refused as error:
            raise InvalidRequest(field, f"{error}: mount it without relabelling") from error
        except OSError as error:
            raise InvalidRequest(field, f"{path!r}: {error.strerror}") from error
