"""What a daemon and the spawner say to each other: four questions, all answered at once.

{"do": "hello"}                   -> {"version": V, "pid": N}
{"do": "spawn", "request": {...}} -> {"ok": Spawned} or {"failed": Failure}
                                     with the question go a listening socket and a connected one,
                                     the monitor's; with the answer, for a pod with a network of
                                     its own, its namespace and a netlink socket opened in it
{"do": "probe", "layers": [A, B]} -> {"refusal": TEXT}: "", or why there can be no user namespaces
                                     for pods whose layers lie where A and B lie
{"do": "quit"}                    -> {}: the spawner ends; the monitors it forked live on
"""

from __future__ import annotations

from dataclasses import dataclass

from runtime.monitor.messages import Stage

HELLO = "hello"
SPAWN = "spawn"
PROBE = "probe"
QUIT = "quit"


@dataclass(frozen=True, slots=True)
class Spawned:
    """A monitor lives in the pod's namespaces."""

    pid: int
    stages: tuple[Stage, ...] = ()
