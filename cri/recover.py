"""Brings records up to date: at start by monitors and the kernel, later by what monitors tell.

    record          monitor lives       monitor dead, or the node was rebooted
    INITIALIZING    all its parts are removed, and the record with them
    READY           READY, or NOTREADY  NOTREADY, all its parts are removed
      CREATED       as it says          EXITED 255 Unknown
      RUNNING       as it says          its written exit, or EXITED 255 Unknown
    NOTREADY        what is left of it is removed

The removers are those of the RPCs. What they can't remove now is left for Stop and Remove.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

from cri.errors import ContainerNotFound, StateNotWritten
from cri.rpc import checkpoint_source, container_exit, sandbox_stop
from cri.rpc.container_start import after_start
from cri.rpc.finish import background
from cri.store.container import ContainerState
from cri.store.sandbox import SandboxState
from runtime.errors import MonitorSilent
from runtime.lifecycle import Started

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from cri.rpc.services import Services
    from cri.store.sandbox import Sandbox
    from runtime.lifecycle import ContainerExit, SandboxReport
    from runtime.monitor.messages import RunningContainer

log = logging.getLogger(__name__)

RETRY_SECONDS = 2.0  # what can't be written down (a full disk) is tried again
ANSWER_SECONDS = 5.0  # a start's answer, after the exit: both are on their way already
REBOOTED = "the node was rebooted"
MONITOR_DIED = "the pod's monitor died, and all of the pod with it"
MONITOR_GONE = "the pod's monitor died while no daemon was there, and all of the pod with it"
UNSEEN = "its monitor does not know of it"


async def recover(services: Services, *, rebooted: bool) -> None:
    """Bring records and node into agreement. One broken sandbox does not keep others from it."""
    sandboxes = services.store.sandboxes.all()
    outcomes = await asyncio.gather(
        *(_recover(services, sandbox, rebooted=rebooted) for sandbox in sandboxes),
        return_exceptions=True,
    )
    for sandbox, outcome in zip(sandboxes, outcomes, strict=True):
        if isinstance(outcome, BaseException):
            log.error("recovery of sandbox %s: %s", sandbox.id, outcome, exc_info=outcome)
    await _remove_strangers(services)
    await checkpoint_source.sweep(services)


def on_exit(services: Services, exit_: ContainerExit) -> None:
    """A container has ended: written down, then published.

    The word of a very short life may overtake the one of its start, which is then written first.
    """
    what = f"exit of container {exit_.container_id}"
    container = services.store.containers.exact(exit_.container_id)
    if (
        container is not None
        and container.status.state is ContainerState.CREATED
        and container.id in services.locks.held()
    ):
        background(services, what, _until_written(what, lambda: _exited_early(services, exit_)))
        return
    try:
        container_exit.exited(services, exit_)
    except StateNotWritten as error:
        log.error("%s, to be tried again: %s", what, error)
        background(services, what, _until_written(what, lambda: _exited(services, exit_)))


def on_lost(services: Services, sandbox_id: str) -> None:
    """A monitor has gone, or what a shim had made of its pod has. If nobody asked it to, its pod is
    dead; no other pod notices."""
    what = f"death of sandbox {sandbox_id}"
    background(services, what, _until_written(what, lambda: _bury(services, sandbox_id)))


async def _until_written(what: str, attempt: Callable[[], Awaitable[None]]) -> None:
    """What has happened is not refused because a disk is full."""
    while True:
        try:
            return await attempt()
        except StateNotWritten as error:
            log.error("%s, to be tried again: %s", what, error)
            await asyncio.sleep(RETRY_SECONDS)


async def _exited(services: Services, exit_: ContainerExit) -> None:
    container_exit.exited(services, exit_)


async def _exited_early(services: Services, exit_: ContainerExit) -> None:
    """Let whoever starts the container write that down first. Not by its lock: who removes it
    would hold that, and wait for the exit."""
    with contextlib.suppress(TimeoutError, ContainerNotFound):
        async with asyncio.timeout(ANSWER_SECONDS):
            await services.store.containers.until(
                exit_.container_id, lambda one: one.status.state is not ContainerState.CREATED
            )
    container_exit.exited(services, exit_)


async def _bury(services: Services, sandbox_id: str) -> None:
    """Wait for whoever makes or stops the sandbox: he knows why the monitor has gone."""
    async with services.locks.hold(sandbox_id):
        sandbox = services.store.sandboxes.exact(sandbox_id)
        if sandbox is not None and not sandbox.status.stopped:
            await _ask(services, sandbox_id, MONITOR_DIED)


async def _ask(services: Services, sandbox_id: str, gone: str) -> None:
    """Have the pod's monitor tell what is true; one that is gone takes its pod along.

    No pod ends for a monitor that is only slow, nor for a connection that has broken.
    """
    try:
        report = await services.runtime.reconnect(sandbox_id)
    except MonitorSilent as error:
        log.error("sandbox %s, to be asked again: %s", sandbox_id, error)
        what = f"question to the monitor of sandbox {sandbox_id}"
        background(services, what, _ask_later(services, sandbox_id, gone))
        return
    if report is None:
        log.error("sandbox %s: %s", sandbox_id, gone)
        await _lost(services, sandbox_id, gone)
        return
    await _agree(services, report)
    if report.sandbox_end:
        log.error("sandbox %s: %s", sandbox_id, report.sandbox_end)
        await _lost(services, sandbox_id, report.sandbox_end)


async def _ask_later(services: Services, sandbox_id: str, gone: str) -> None:
    await asyncio.sleep(RETRY_SECONDS)
    async with services.locks.hold(sandbox_id):
        sandbox = services.store.sandboxes.exact(sandbox_id)
        if sandbox is not None and sandbox.status.state is SandboxState.READY:
            await _ask(services, sandbox_id, gone)


async def _recover(services: Services, sandbox: Sandbox, *, rebooted: bool) -> None:
    async with services.locks.hold(sandbox.id):
        if sandbox.status.state is SandboxState.INITIALIZING:
            await sandbox_stop.release(services, sandbox.id)
            services.store.sandboxes.remove(sandbox.id)
        elif rebooted:
            await _lost(services, sandbox.id, REBOOTED)
        elif sandbox.status.state is SandboxState.READY:
            await _ask(services, sandbox.id, MONITOR_GONE)
        elif not sandbox.status.stopped:
            await _lost(services, sandbox.id, sandbox.status.reason)


async def _lost(services: Services, sandbox_id: str, why: str) -> None:
    """A sandbox that is no more: what its monitor wrote down is true, the rest nobody knows."""
    sandbox = services.store.sandboxes.exact(sandbox_id)
    if sandbox is None:
        return
    if sandbox.status.state is SandboxState.READY:
        services.store.sandboxes.update(
            sandbox_id, lambda status: status.to(SandboxState.NOTREADY, reason=why)
        )
    for exit_ in await services.runtime.exits(sandbox_id):
        on_exit(services, exit_)
    for container in services.store.containers.of_sandbox(sandbox_id):
        container_exit.vanished(services, container, why)
    await sandbox_stop.release(services, sandbox_id)


async def _agree(services: Services, report: SandboxReport) -> None:
    """The monitor knows better than the record."""
    told = {exit_.container_id for exit_ in report.exited}
    for exit_ in report.exited:
        on_exit(services, exit_)
    for running in report.running:
        told.add(running.container_id)
        await _still_running(services, report.sandbox_id, running)
    for container in services.store.containers.of_sandbox(report.sandbox_id):
        if container.id not in told and container.status.state is not ContainerState.CREATED:
            container_exit.vanished(services, container, UNSEEN)


async def _still_running(services: Services, sandbox_id: str, running: RunningContainer) -> None:
    container = services.store.containers.exact(running.container_id)
    if container is None or container.status.state is ContainerState.EXITED:
        await services.runtime.remove_container(sandbox_id, running.container_id)
        return
    started = Started(running.pid, running.started_at, running.identity)
    services.store.containers.update(container.id, lambda status: after_start(status, started))


async def _remove_strangers(services: Services) -> None:
    """What belongs to no record: monitors, containers, attachments. Snapshots: see daemon.py."""
    known = {sandbox.id for sandbox in services.store.sandboxes}
    for name in services.runtime.sandboxes_on_disk():
        if name not in known:
            log.warning("removing what is left of sandbox %s, of which there is no record", name)
            await services.runtime.remove_sandbox(name)
    for container in services.store.containers:
        if container.metadata.sandbox_id not in known:
            services.store.containers.remove(container.id)
    for name in await services.network.collect(known):
        log.warning("released the network of sandbox %s, of which there is no record", name)
