"""How a container's end becomes its status: by its monitor's word, or by the lack of one."""

from __future__ import annotations

import dataclasses
import logging
import time
from typing import TYPE_CHECKING

from cri.rpc import container_stats
from cri.store.container import ContainerState

if TYPE_CHECKING:
    from cri.rpc.services import Services
    from cri.store.container import Container, ContainerStatus
    from runtime.lifecycle import ContainerExit

log = logging.getLogger(__name__)

OOM_KILLED = "OOMKilled"
START_ERROR, UNKNOWN = 128, 255  # exit codes of containers that never ran, or that nobody saw end


def exited(services: Services, exit_: ContainerExit) -> None:
    """Write a container's exit down; one that is known already, or a stranger's, is passed over."""
    container = services.store.containers.exact(exit_.container_id)
    if container is None:
        return
    forget_cgroup(services, container)
    known = container.status.state is ContainerState.EXITED
    ended = services.store.containers.update(container.id, lambda old: after_exit(old, exit_))
    if not known:
        _log(services, ended)


def _log(services: Services, ended: Container) -> None:
    """An end that comes by itself is in no RPC's line."""
    sandbox = services.store.sandboxes.exact(ended.metadata.sandbox_id)
    name = ended.config.metadata.name
    if sandbox is not None:
        pod = sandbox.config.metadata
        name = f"{name} of {pod.namespace}/{pod.name}"
    status = ended.status
    seconds = (status.finished_at - status.started_at) / 1e9
    memory = "its memory limit, or its pod's, was reached" if status.reason == OOM_KILLED else ""
    why = ": ".join(filter(None, (status.reason, memory, status.message)))
    level = logging.WARNING if memory or status.message else logging.INFO
    told = (name, ended.id[:12], seconds, status.exit_code, why)
    log.log(level, "container %s (%s) ended after %.1f s: exit code %d, %s", *told)


def after_exit(status: ContainerStatus, exit_: ContainerExit) -> ContainerStatus:
    """The status after an exit; the first exit counts."""
    if status.state is ContainerState.EXITED:
        return status
    return dataclasses.replace(
        status.to(ContainerState.EXITED),
        pid=0,
        finished_at=exit_.finished_at,
        exit_code=exit_.exit_code,
        reason=reason(exit_),
        message=_text(exit_.message),
    )


def reason(exit_: ContainerExit) -> str:
    """The words that people look for; OOMKilled is what Kubernetes' own tests expect."""
    if exit_.oom_killed:
        return OOM_KILLED
    return "Completed" if exit_.exit_code == 0 else "Error"


def start_failed(services: Services, container_id: str, error: Exception) -> None:
    """A container that could not be started has ended: kubelet looks at its status for why."""
    message = str(error) or type(error).__name__
    services.store.containers.update(
        container_id, lambda status: _ended(status, START_ERROR, "StartError", message)
    )


def forget_cgroup(services: Services, container: Container) -> None:
    """Its monitor removes the cgroup; what is open of it for statistics is closed."""
    cgroup = container_stats.cgroup_of(services, container)
    if cgroup:
        services.runtime.usages.forget(cgroup)


def vanished(services: Services, container: Container, why: str) -> None:
    """A container whose pod is gone; nobody can say how it ended."""
    forget_cgroup(services, container)
    services.store.containers.update(
        container.id, lambda status: _ended(status, UNKNOWN, "Unknown", why)
    )


def _ended(status: ContainerStatus, code: int, reason_: str, message: str) -> ContainerStatus:
    if status.state is ContainerState.EXITED:
        return status
    return dataclasses.replace(
        status.to(ContainerState.EXITED),
        pid=0,
        finished_at=time.time_ns(),
        exit_code=code,
        reason=reason_,
        message=_text(message),
    )


def _text(message: str) -> str:
    """As protobuf can carry it: a reason may name a file of the image, whose name is any bytes."""
    return message.encode("utf-8", "backslashreplace").decode()
