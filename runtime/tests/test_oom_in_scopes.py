"""Whom the kernel killed for memory, when systemd has removed the cgroup before anyone looked."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import cast

from runtime.cgroup.kills import OomKills
from runtime.cgroup.tree import Cgroup, Hierarchy

SLICE = "/kubepods.slice/kubepods-podX.slice"


@dataclass
class Kernel:
    """Counts as memory.events of cgroup v2 does: a parent's counts all that was ever beneath."""

    kills: dict[str, int] = field(default_factory=dict)

    def cgroup(self, path: str) -> Cgroup:
        return cast("Cgroup", Group(self, path))

    def kill(self, path: str) -> None:
        for name in (path, SLICE):
            self.kills[name] = self.kills.get(name, 0) + 1

    def remove(self, path: str) -> None:
        self.kills.pop(path, None)


@dataclass
class Group:
    kernel: Kernel
    path: str

    def exists(self) -> bool:
        return self.path in self.kernel.kills

    def oom_kills(self) -> int:
        return self.kernel.kills.get(self.path, 0)


class Stage:
    """A pod with containers a and b, in whose slice processes were killed before."""

    def __init__(self) -> None:
        self.kernel = Kernel({SLICE: 7})
        self.kills = OomKills(cast("Hierarchy", self.kernel))
        self.a, self.b = self._container("a"), self._container("b")

    def _container(self, name: str) -> Cgroup:
        made = self.kernel.cgroup(f"{SLICE}/podwright-{name}.scope/container")
        self.kills.begin(made.path, SLICE)
        self.kernel.kills[made.path] = 0
        return made

    def end(self, cgroup: Cgroup, running: Iterable[Cgroup] = ()) -> int:
        return self.kills.of(cgroup, running)


def test_a_kill_is_found_in_the_pods_count_when_the_scope_is_gone() -> None:
    stage = Stage()
    stage.kernel.kill(stage.a.path)
    stage.kernel.remove(stage.a.path)
    assert stage.end(stage.a, [stage.b]) == 1


def test_a_neighbours_kill_is_not_the_containers_own() -> None:
    stage = Stage()
    stage.kernel.kill(stage.b.path)
    stage.kernel.remove(stage.a.path)
    assert stage.end(stage.a, [stage.b]) == 0
    assert stage.end(stage.b) == 1


def test_a_kill_is_counted_once() -> None:
    stage = Stage()
    stage.kernel.kill(stage.a.path)
    stage.kernel.remove(stage.a.path)
    stage.kernel.remove(stage.b.path)
    assert stage.end(stage.a, [stage.b]) == 1
    assert stage.end(stage.b) == 0


def test_without_systemd_a_cgroup_says_it_itself_and_nobody_else_is_asked() -> None:
    kernel = Kernel({"/pod/c": 0, "/pod": 3})
    kills = OomKills(cast("Hierarchy", kernel))
    container = kernel.cgroup("/pod/c")
    kills.begin(container.path, "/pod")
    assert kills.of(container, []) == 0
    kernel.kill("/pod/c")
    assert kills.of(container, []) == 1
    kernel.remove("/pod/c")
    assert kills.of(container, []) == 0
