"""The pod network as the daemon sees it: asynchronous, over one worker thread.

All work in the kernel happens in that thread, one thing after the other: the kernel itself does no
two at once (RTNL), and what comes after a change that was asked for sees it. The event loop never
waits for the kernel; `status` answers from memory.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import os
from collections.abc import Callable, Collection, Mapping
from typing import ParamSpec, TypeVar

from network import status
from network.attachments import Attachments
from network.config import NetworkSettings
from network.devices import Devices
from network.errors import NetworkFault, NetworkNotReady
from network.result import Attach, NetworkStatus, Result, Traffic

_LOG = logging.getLogger(__name__)
_SWEEP_SECONDS = 1.0  # most pods' interfaces are gone by then without our doing

P = ParamSpec("P")
T = TypeVar("T")


class PodNetwork:
    """The built-in bridge network. Made and used on one event loop.

    Cancelling a call does not stop what has begun in the kernel: after a cancelled attach, detach.
    """

    def __init__(self, settings: NetworkSettings) -> None:
        self._settings = settings
        self._worker = concurrent.futures.ThreadPoolExecutor(1, "podwright-network")
        self._attachments: Attachments | None = None
        self._devices = Devices(settings.state_dir / "net" / "devices", (settings.bridge,))
        self._status = status.failed("the network is being started")
        self._checking: concurrent.futures.Future[None] | None = None
        self._attaching: set[str] = set()
        self._sweep: asyncio.TimerHandle | None = None
        self._closed = False

    async def start(self, live: Collection[str]) -> None:
        """Bridge and tables are made, leftovers of sandboxes that are not in `live` released.

        A node that is not fit for the network is no error here: status() says why, and every
        status() and attach() tries again. Raises OSError if not even the state can be read.
        """
        attachments = await self._run(Attachments, self._settings)
        self._attachments = attachments
        await self._run(attachments.journal.load)
        await self._run(self._devices.load, live)
        await self._run(self._check)
        await self._run(attachments.collect, attachments.journal.ids() - frozenset(live))

    def status(self) -> NetworkStatus:
        """What the latest check found. Has the network checked, and repaired, in the background."""
        idle = self._checking is None or self._checking.done()
        if idle and self._attachments and not self._closed:
            self._checking = self._worker.submit(self._check)
        return self._status

    async def attach(self, request: Attach) -> Result:
        """Wires a pod. Idempotent per sandbox: what is attached is answered from the journal.

        When it returns, the first packet gets through. When it raises, nothing is left, or what is
        left is in the journal for detach() and collect(). Raises NetworkNotReady,
        InvalidAttachment, AddressesExhausted, HostPortTaken, KernelRefused.
        """
        attachments = self._started()
        if not self._settings.enabled:
            raise NetworkNotReady(self._status.message)
        # Ours: after a cancelled call the caller may close its own while the work goes on.
        with contextlib.ExitStack() as undo:
            netns_fd = os.dup(request.netns_fd)
            undo.callback(os.close, netns_fd)
            netlink_fd = os.dup(request.netlink_fd)
            undo.callback(os.close, netlink_fd)
            self._attaching.add(request.sandbox_id)
            undo.callback(self._attaching.discard, request.sandbox_id)
            future = self._worker.submit(attachments.attach, request, netns_fd, netlink_fd)
            release = undo.pop_all()
        future.add_done_callback(lambda _future: release.close())  # also if it never began
        try:
            return await asyncio.wrap_future(future)
        except BaseException:
            self._sweep_soon()
            raise

    async def detach(self, sandbox_id: str) -> None:
        """Frees host ports, interface and addresses. Idempotent; needs no namespace.

        The interface usually goes with the namespace; a second later it is deleted if it is still
        there. Raises KernelRefused if something stays; the next detach or collect tries again.
        """
        if await self._run(self._started().detach, sandbox_id):
            self._sweep_soon()

    async def take_devices(
        self, sandbox_id: str, wanted: Mapping[str, str], netlink_fd: int
    ) -> None:
        """See `Devices.take`. netlink_fd: the caller's."""
        await self._over(netlink_fd, lambda fd: self._devices.take(sandbox_id, wanted, fd))

    def has_devices(self, sandbox_id: str) -> bool:
        """Whether interfaces of the node have been moved into the pod."""
        return self._devices.of(sandbox_id)

    async def give_back_devices(self, sandbox_id: str, netlink_fd: int) -> None:
        """See `Devices.give_back`. netlink_fd: as for `take_devices`."""
        await self._over(netlink_fd, lambda fd: self._devices.give_back(sandbox_id, fd))

    async def forget_devices(self, sandbox_id: str) -> None:
        """See `Devices.forget`."""
        await self._run(self._devices.forget, sandbox_id)

    async def traffic(self) -> Mapping[str, Mapping[str, Traffic]]:
        """What pods have received and sent, by sandbox id and by interface in the pod.

        A pod with the node's network is not in it. Raises OSError, NetworkNotReady.
        """
        return await self._run(self._started().traffic)

    async def collect(self, live: Collection[str]) -> tuple[str, ...]:
        """Releases what sandboxes that are not in `live` have. Answers those sandboxes' ids.

        live: as of the moment of the call. What is being attached meanwhile is left alone.
        """
        attachments = self._started()
        dead = attachments.journal.ids() - frozenset(live) - self._attaching
        return await self._run(attachments.collect, dead)

    async def close(self) -> None:
        """Waits for what is under way. Pods stay attached."""
        if self._closed:
            return
        self._closed = True
        if self._sweep:
            self._sweep.cancel()
        if self._attachments:
            await self._run(self._attachments.close)
        self._worker.shutdown()

    def _check(self) -> None:
        """In the worker: brings the status up to date, and the network into order."""
        if not self._settings.enabled:
            self._status = status.absent(self._settings)
            return
        try:
            self._started().prepare()
        except (NetworkFault, OSError) as error:
            found = status.failed(str(error))
            if found != self._status:
                _LOG.error("the pod network is not ready: %s", error)
            self._status = found
        else:
            self._status = status.READY

    def _sweep_soon(self) -> None:
        if self._sweep is None and not self._closed:
            self._sweep = asyncio.get_running_loop().call_later(_SWEEP_SECONDS, self._sweep_now)

    def _sweep_now(self) -> None:
        self._sweep = None
        if self._attachments and not self._closed:
            self._worker.submit(self._attachments.sweep)

    def _started(self) -> Attachments:
        if self._attachments is None:
            raise NetworkNotReady("the network has not been started")
        return self._attachments

    async def _run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.wrap_future(self._worker.submit(call, *args, **kwargs))

    async def _over(self, netlink_fd: int, call: Callable[[int], None]) -> None:
        """With a descriptor of ours: whoever is cancelled closes his, whose number is the next
        pod's then, while the work goes on."""
        own = os.dup(netlink_fd)
        try:
            future = self._worker.submit(call, own)
        except RuntimeError:  # it has been shut down
            os.close(own)
            raise
        future.add_done_callback(lambda _future: os.close(own))  # also if it never began
        await asyncio.wrap_future(future)
