"""A node of its own for a test: network and mount namespaces which vanish with the test.

`in_a_node` runs the body of a test in a child below `unshare -n -m`; there the real network is
used on the real kernel. Pods and outside machines are processes in further namespaces (guest.py).
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import importlib
import inspect
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from network.config import NetworkSettings
from network.journal import Journal, Phase
from network.netlink.linkwatch import Linkwatch
from network.pod_network import PodNetwork
from network.result import Attach, PortMapping, Result

V4, V6 = "10.87.0.0/16", "fd00:87::/64"
GATEWAY4, GATEWAY6 = "10.87.0.1", "fd00:87::1"
BRIDGE = "pwtest0"
SCRATCH = "/dev/shm"
_SECONDS = 50


def in_a_node(test: Callable[..., Any]) -> Callable[..., None]:
    """The test's body runs in namespaces of its own. Parameters must be JSON."""

    @functools.wraps(test)
    def elsewhere(**parameters: object) -> None:
        program = "from network.tests.lab import run_body; run_body()"
        body = json.dumps([test.__module__, test.__qualname__, parameters])
        done = subprocess.run(
            ["unshare", "-n", "-m", sys.executable, "-W", "error", "-c", program, body],
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
        if done.returncode:
            pytest.fail(f"{done.stdout}\n{done.stderr}", pytrace=False)

    needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="makes namespaces: needs root")
    marked: Callable[..., None] = pytest.mark.root(needs_root(elsewhere))
    return marked


def run_body() -> None:
    module, name, parameters = json.loads(sys.argv[1])
    test = getattr(importlib.import_module(module), name).__wrapped__
    ip("link set lo up")
    run("mount", "-t", "tmpfs", "tmpfs", SCRATCH)  # as /run is; this tree may lie in /tmp
    tempfile.tempdir = SCRATCH
    if inspect.iscoroutinefunction(test):
        asyncio.run(test(**parameters))
    else:
        test(**parameters)


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def ip(command: str) -> list[dict[str, Any]]:
    """`ip -j …`: what it lists."""
    output = run("ip", "-j", *command.split())
    return json.loads(output) if output.strip() else []


def sysctl(name: str, value: int | None = None) -> int:
    """A setting of this node's network (`ipv6/conf/all/forwarding`), after changing it."""
    path = Path("/proc/sys/net") / name
    if value is not None:
        path.write_text(str(value))
    return int(path.read_text())


def has_sysctl(name: str) -> bool:
    return (Path("/proc/sys/net") / name).exists()


def nft_elements() -> set[str]:
    """What is in our sets and maps, as `table set key`."""
    found = set()
    for item in json.loads(run("nft", "-j", "list", "ruleset"))["nftables"]:
        holder = item.get("map") or item.get("set")
        for element in holder.get("elem", []) if holder else []:
            found.add(f"{holder['family']} {holder['name']} {json.dumps(element)}")
    return found


def leftovers(lab: Lab) -> list[str]:
    """Whatever of pods is still there: interfaces, leases, records, host ports."""
    found = [link["ifname"] for link in ip("link show") if link["ifname"].startswith("pw0")]
    for directory, _, names in os.walk(lab.state):
        keep = (".0", ".1", "lock")
        found += [f"{directory}/{name}" for name in names if not name.endswith(keep)]
    return found + sorted(nft_elements())


class Guest:
    """A process in a namespace of its own. With `outside`, one with a wire to the node."""

    def __init__(self) -> None:
        here, there = socket.socketpair()
        program = Path(__file__).with_name("guest.py")
        with there:
            self.process = subprocess.Popen(
                ["unshare", "-n", sys.executable, "-I", "-S", str(program), str(there.fileno())],
                pass_fds=[there.fileno()],
            )
        _, (self.netns_fd, self.netlink_fd), _, _ = socket.recv_fds(here, 10, 2)
        self._lines = here.makefile("rw")
        here.close()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        """Has the guest call one of its functions; `begin` and `end` do it in two halves."""

        def call(*positional: object, **named: object) -> Any:
            self.begin(name, *positional, **named)
            return self.end()

        return call

    def begin(self, name: str, *positional: object, **named: object) -> None:
        self._lines.write(json.dumps([name, positional, named]) + "\n")
        self._lines.flush()

    def end(self) -> Any:
        answer = json.loads(self._lines.readline())
        assert "error" not in answer, answer["error"]
        return answer["answer"]

    def close(self) -> None:
        """Ends the process and lets the namespace go."""
        if self.netns_fd >= 0:
            self.process.kill()
            self.process.wait()
            self._lines.close()
            os.close(self.netns_fd)
            os.close(self.netlink_fd)
            self.netns_fd = self.netlink_fd = -1


class Lab:
    """The network of this node, and its pods by number."""

    def __init__(self, *subnets: str, state: Path | None = None, **settings: Any) -> None:
        self._scratch = None if state else tempfile.TemporaryDirectory(prefix="podwright-net-")
        self.state = state or Path(self._scratch.name if self._scratch else "")
        self.settings = NetworkSettings(
            enabled=True,
            state_dir=self.state,
            bridge=BRIDGE,
            subnets=subnets or (V4, V6),
            **settings,
        )
        self.network = PodNetwork(self.settings)
        self.guests: list[Guest] = []

    async def __aenter__(self) -> Lab:
        await self.network.start(())
        assert self.network.status().ready, self.network.status().message
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.network.close()
        for guest in self.guests:
            guest.close()
        if self._scratch:
            self._scratch.cleanup()

    async def restart(self, live: set[str], **changes: Any) -> None:
        """A daemon dies and the next one finds what it left."""
        await self.network.close()
        self.network = PodNetwork(dataclasses.replace(self.settings, **changes))
        await self.network.start(live)

    def result(self, sandbox_id: str) -> Result | None:
        """What the journal says that an attached sandbox has got; None: it is not attached."""
        journal = Journal(self.state / "net" / "attachments")
        journal.load()
        record = journal.get(sandbox_id)
        return record.result() if record and record.phase == Phase.ADDED else None

    def guest(self) -> Guest:
        guest = Guest()
        self.guests.append(guest)
        return guest

    def outside(self) -> Guest:
        """A machine beside the node: 192.0.2.2 and 2001:db8::2; the node is .1 and ::1 there."""
        guest = self.guest()
        ip(f"link add wire0 type veth peer name eth0 netns {guest.process.pid}")
        sysctl("ipv6/conf/wire0/accept_dad", 0)  # its link-local address works, as on an old node
        ip("link set wire0 up")
        ip("addr add 192.0.2.1/24 dev wire0")
        ip("addr add 2001:db8::1/64 dev wire0 nodad")
        guest.run("ip link set lo up; ip link set eth0 up; ip addr add 192.0.2.2/24 dev eth0;")
        guest.run("ip addr add 2001:db8::2/64 dev eth0 nodad")
        watch = Linkwatch()
        watch.sync("wire0")
        watch.close()
        return guest

    async def pod(self, number: int, *ports: PortMapping) -> tuple[Guest, Result]:
        guest = self.guest()
        return guest, await self.attach(guest, number, *ports)

    async def attach(self, guest: Guest, number: int, *ports: PortMapping) -> Result:
        return await self.network.attach(attach(guest, number, *ports))


def attach(guest: Guest, number: int, *ports: PortMapping) -> Attach:
    return Attach(
        sandbox_id=sandbox_id(number),
        netns_fd=guest.netns_fd,
        netns_path=f"/run/netns/cni-{sandbox_id(number)}",
        netlink_fd=guest.netlink_fd,
        name=f"pod-{number}",
        namespace="default",
        uid=f"uid-{number}",
        ports=ports,
    )


def sandbox_id(number: int) -> str:
    return f"{number:012x}{'0' * 52}"
