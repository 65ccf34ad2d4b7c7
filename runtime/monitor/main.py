"""A pod's monitor: the parent of its processes, which keeps their exits.

It lives exactly as long as its pod and needs no daemon: it drains logs, reaps, and writes exits
down before it tells them. One thread, one loop.

What runs here touches, and so copies, memory that all monitors would share with the zygote they
were forked from: what can be done elsewhere is, and what must be done here is done plainly.
"""

from __future__ import annotations

from runtime.cgroup.tree import Hierarchy
from runtime.init.sandbox import start_reaper
from runtime.linux.fds import Socket
from runtime.linux.process import Prctl, prctl
from runtime.monitor.loop import Loop
from runtime.monitor.pod import Facts, Pod
from runtime.monitor.server import Server

_SUBREAPER = int(Prctl.SET_CHILD_SUBREAPER)


def run(facts: Facts, hierarchy: Hierarchy, listener: Socket, connection: Socket) -> None:
    """The whole life of a monitor, in the pod's namespaces; returns when the pod has ended.

    listener: its monitor.sock; connection: to the daemon that asked for the pod.
    """
    prctl(_SUBREAPER, 1)
    if facts.shared_pids:
        facts.pid_fd, facts.reaper_pidfd = start_reaper(
            facts.mount_fd, facts.user_fd, facts.reaper_label
        )
    loop = Loop()
    if facts.shared_pids:
        loop.watch(facts.reaper_pidfd, loop.stop)  # without it no process could be made in the pod
    server = Server(Pod(facts, hierarchy, loop), listener, loop)
    server.add(connection)
    loop.run()
