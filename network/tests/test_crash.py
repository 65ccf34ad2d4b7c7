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


async def restart(lab: Lab, live: set[str]) -> None:
    network = PodNetwork(lab.settings)
    await network.start(live)
    await network.close()


def every_crash(lab: Lab, work: Callable[[PodNetwork], Coroutine[Any, Any, Any]]) -> int:
    """Crashes at each action in turn, each time restarting; answers how many there were."""
    for action in itertools.count():
        crashed = dies_at(lab, action, work)
        asyncio.run(restart(lab, set()))
        found = leftovers(lab)
        assert not found, (action, found)
        if not crashed:
            return action
    raise AssertionError


@in_a_node
def test_a_crash_while_attaching_leaves_nothing() -> None:
    lab = Lab()
    guest = Guest()
    crashes = every_crash(lab, lambda network: network.attach(attach(guest, 1, *PORTS)))
    assert crashes > 15
    guest.close()


@in_a_node
def test_a_crash_while_detaching_leaves_nothing() -> None:
    lab = Lab()
    guest = Guest()

    async def work(network: PodNetwork) -> None:
        await network.detach(sandbox_id(1))

    for action in itertools.count():
        assert not dies_at(lab, 9999, lambda network: network.attach(attach(guest, 1, *PORTS)))
        crashed = dies_at(lab, action, work)
        asyncio.run(restart(lab, set()))
        found = leftovers(lab)
        assert not found, (action, found)
        if not crashed:
            break
    assert action > 6
    guest.close()


@in_a_node
def test_after_a_crash_while_attaching_the_same_pod_can_be_attached() -> None:
    lab = Lab()
    guest = Guest()

    async def attach_again() -> None:
        network = PodNetwork(lab.settings)
        await network.start({sandbox_id(1)})
        result = await network.attach(attach(guest, 1, *PORTS))
        assert guest.ping(GATEWAY4), result
        await network.detach(sandbox_id(1))
        await network.collect(())
        await network.close()

    action = 0
    while dies_at(lab, action, lambda network: network.attach(attach(guest, 1, *PORTS))):
        asyncio.run(attach_again())
        found = leftovers(lab)
        assert not found, (action, found)
        action += 1
    assert action > 15
    guest.close()
