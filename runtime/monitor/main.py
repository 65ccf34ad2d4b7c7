"""A pod's monitor: the parent of its processes, which keeps their exits.

It lives exactly as long as its pod and needs no daemon: it drains logs, reaps, and writes exits
down before it tells them. One thread, one loop.

What runs here touches, and so copies, memory that all monitors would share with the zygote they
were forked from: what can be done elsewhere is, and what must be done here is done plainly.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from runtime.cgroup.tree import Hierarchy
from runtime.init.sandbox import start_reaper
from runtime.linux import fds
from runtime.linux.namespace import setns
from runtime.linux.process import Prctl, prctl
from runtime.monitor.facts import Facts
from runtime.monitor.loop import Loop
from runtime.monitor.messages import MonitorRequest
from runtime.monitor.pod import Pod
from runtime.monitor.server import Server

NAMESPACES = ("net", "ipc", "uts")
"""Those which a monitor enters, as /proc/self/ns calls them."""
_SUBREAPER = int(Prctl.SET_CHILD_SUBREAPER)


class Monitor:
    """A monitor that has no pod yet; its maker's forks `enter` theirs, and `run`. What is built
    before a fork is shared; to build it afterwards copies all that it touches.

    SIGCHLD is blocked from here on: it belongs to the loop.
    """

    def __init__(self, hierarchy: Hierarchy) -> None:
        self.facts = Facts()
        self.loop = Loop()
        self.pod = Pod(self.facts, hierarchy, self.loop)
        self._listener, peer = fds.pair()  # nobody's, until `enter` puts others in their places
        self._server = Server(self.pod, self._listener, self.loop)
        self._connection = self._server.add(peer)

    def enter(self, packet: bytes, descriptors: Sequence[int]) -> None:
        """Becomes one pod's. packet: see `packet`; descriptors: network, IPC and UTS namespace, if
        it has one the user namespace, its mounts, monitor.sock, the connection to the daemon."""
        net, ipc, uts, *user, mount_fd, listener_fd, connection_fd = descriptors
        for fd in (net, ipc, uts):
            setns(fd, 0)
            os.close(fd)
        facts = self.facts
        words = packet.decode().split("\0")
        facts.sandbox_id, facts.directory, facts.netns_path = words[:3]
        facts.cgroup_parent, pid, facts.reaper_label = words[3:]
        facts.shared_pids = pid == "pod"
        facts.mount_fd = mount_fd
        if user:
            (facts.user_fd,) = user
        prctl(_SUBREAPER, 1)
        _replace(self._listener.fileno(), listener_fd)
        _replace(self._connection.peer.fileno(), connection_fd)
        self._connection.configure()
        self.loop.reopen()

    def run(self) -> None:
        """The pod's whole life, once it has been entered; returns when the pod has ended."""
        facts, loop = self.facts, self.loop
        if facts.shared_pids:
            facts.pid_fd, facts.reaper_pidfd = start_reaper(
                facts.mount_fd, facts.user_fd, facts.reaper_label
            )
            loop.watch(facts.reaper_pidfd, loop.stop)  # without it no process could be made
        loop.run()

    def close(self) -> None:
        """Of one that has no pod."""
        self.loop.close()
        self.pod.reaper.close()
        self._connection.peer.close()
        self._listener.close()


def packet(request: MonitorRequest) -> bytes:
    """What a monitor is told of its pod: words, since JSON would cost it memory."""
    sandbox = request.sandbox
    words = (
        sandbox.sandbox_id,
        request.directory,
        request.netns_path,
        sandbox.cgroup_parent,
        sandbox.pid,
        sandbox.process_label,
    )
    return "\0".join(words).encode()


def _replace(old: int, new: int) -> None:
    """What was `new` is `old` from now on."""
    os.dup2(new, old, False)  # noqa: FBT003 - not inheritable; by name it would cost a page
    os.close(new)
