"""The daemon dies at any moment of an attach or a detach: the next one leaves nothing behind.

A child process does the work and kills itself just before its Nth action that anybody can see: a
file opened, linked, renamed or removed, a message to the kernel. (Python's audit events tell of
each.) So every state in which a crash can leave the node is met, without naming any.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from network.pod_network import PodNetwork
from network.result import PortMapping
from network.tests.lab import GATEWAY4, Guest, Lab, attach, in_a_node, leftovers, sandbox_id

ACTIONS = {"open", "os.link", "os.rename", "os.remove", "os.mkdir", "socket.sendto", "fcntl.ioctl"}
PORTS = (PortMapping(8080, 80), PortMapping(53, 53, "udp"))
CRASHED, FINISHED = 7, 0


def dies_at(lab: Lab, action: int, work: Callable[[PodNetwork], Coroutine[Any, Any, Any]]) -> bool:
    """Does `work` in a child that dies before action number `action`; False: there was none."""
    child = os.fork()
    if child == 0:
        armed = False
        count = itertools.count()

        def die(event: str, _arguments: object) -> None:
            if armed and event in ACTIONS and next(count) == action:
                os._exit(CRASHED)

        async def body() -> None:
            nonlocal armed
            network = PodNetwork(lab.settings)
            await network.start({sandbox_id(1)})
            armed = True
            await work(network)
            os._exit(FINISHED)

        sys.addaudithook(die)
        asyncio.run(body())
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (CRASHED, FINISHED), code
    return code == CRASHED


async def next_daemon(lab: Lab, guest: Guest, live: set[str]) -> None:
    """Starts on what the crash left; then the same pod can be attached, and detached again."""
    network = PodNetwork(lab.settings)
    await network.start(live)
    if not live:
        assert not leftovers(lab), leftovers(lab)
    result = await network.attach(attach(guest, 1, *PORTS))
    assert guest.ping(GATEWAY4), result
    await network.detach(sandbox_id(1))
    await network.collect(())
    assert not leftovers(lab), leftovers(lab)
    await network.close()


@pytest.mark.parametrize("verb", ["attach", "detach"])
@in_a_node
def test_a_crash_leaves_nothing_that_the_next_daemon_keeps(verb: str) -> None:
    lab = Lab()
    guest = Guest()

    async def attaching(network: PodNetwork) -> None:
        await network.attach(attach(guest, 1, *PORTS))

    async def detaching(network: PodNetwork) -> None:
        await network.detach(sandbox_id(1))

    for action in itertools.count():
        if verb == "detach":
            assert not dies_at(lab, 9999, attaching)
        crashed = dies_at(lab, action, attaching if verb == "attach" else detaching)
        # The sandbox is gone with the daemon, or it is still there: by turns.
        live = {sandbox_id(1)} if action % 2 else set()
        asyncio.run(next_daemon(lab, guest, live))
        if not crashed:
            break
    assert action > (15 if verb == "attach" else 6), action
    guest.close()
