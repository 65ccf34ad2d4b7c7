"""StopContainer: the stop signal once, then patience, then SIGKILL. No lock is held meanwhile."""

from __future__ import annotations

import asyncio
import dataclasses
import signal
from pathlib import Path
from typing import TYPE_CHECKING

from cri import trace
from cri.api import api_pb2 as api
from cri.errors import ContainerNotFound
from cri.specgen import signals
from cri.store.container import ContainerState
from runtime.errors import ContainerNotFound as NotRunning
from runtime.errors import MonitorLost, MonitorSilent, SandboxNotFound

if TYPE_CHECKING:
    from cri.rpc.services import Services
    from cri.store.container import Container

KILL_SECONDS = 8.0  # after which SIGKILL is sent again
KILL_ATTEMPTS = 3


async def stop_container(
    services: Services, request: api.StopContainerRequest
) -> api.StopContainerResponse:
    """Unknown or not running: stopped already (api.proto: must not return an error).

    Each call waits for as long as it says itself, so that a later, less patient one shortens the
    wait of those before; only the first sends the stop signal.
    """
    container = services.store.containers.find(request.container_id)
    if container is not None and container.status.state is ContainerState.CREATED:
        async with services.locks.hold(container.id):  # it may be starting just now
            container = services.store.containers.exact(container.id)
    if container is not None and container.status.state is ContainerState.RUNNING:
        if request.timeout > 0:
            await _ask(services, container, request.timeout)
        await kill(services, container)
        if plugins := services.plugins:
            await plugins.told_of_end(container.id)
    return api.StopContainerResponse()


async def _ask(services: Services, container: Container, seconds: float) -> None:
    """Send the stop signal, unless that was done before, and wait."""
    current = services.store.containers.exact(container.id)
    if current is not None and not current.status.stop_signalled:
        services.store.containers.update(
            container.id, lambda status: dataclasses.replace(status, stop_signalled=True)
        )
        number = signals.number(container.metadata.stop_signal) or signal.SIGTERM
        await _send(services, container, number)
    with trace.stage("wait for exit"):
        await _until_ended(services, container.id, seconds)


async def kill(services: Services, container: Container) -> None:
    """SIGKILL to every process of a container, until its exit is written down."""
    for _ in range(KILL_ATTEMPTS):
        if _ended(services.store.containers.exact(container.id)):
            return
        with trace.stage("kill"):
            await _send(services, container, signal.SIGKILL)
            if await _until_ended(services, container.id, KILL_SECONDS):
                return
    raise TimeoutError(
        f"container {container.id} did not end within {KILL_ATTEMPTS * KILL_SECONDS:g} s of "
        f"SIGKILL{_where_it_hangs(container.status.pid)}"
    )


async def _send(services: Services, container: Container, number: int) -> None:
    """A container that has ended, or whose monitor has, is told so by its exit.

    Raises MonitorSilent: then nothing is known to have happened.
    """
    try:
        await services.runtime.signal(container.metadata.sandbox_id, container.id, number)
    except MonitorSilent:
        raise
    except (NotRunning, SandboxNotFound, MonitorLost):
        return


async def _until_ended(services: Services, container_id: str, seconds: float) -> bool:
    """Whether it has ended, or is gone, within that time."""
    try:
        async with asyncio.timeout(seconds):
            await services.store.containers.until(container_id, _ended)
    except TimeoutError:
        return False
    except ContainerNotFound:
        return True
    return True


def _ended(container: Container | None) -> bool:
    return container is None or container.status.state is not ContainerState.RUNNING


def _where_it_hangs(pid: int) -> str:
    """Why a process may not die: it waits in the kernel, for a disk or a file server."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
        function = Path(f"/proc/{pid}/wchan").read_text(encoding="utf-8")
    except (OSError, IndexError):
        return ""
    return f": process {pid} is in state {state}, in the kernel's {function}"
