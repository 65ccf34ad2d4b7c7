"""Whom the kernel killed for memory, when systemd has removed the cgroup before anyone looked."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import cast

import pytest

from runtime.cgroup.tree import Hierarchy
from runtime.monitor.container import Container
from runtime.monitor.loop import Loop
from runtime.monitor.messages import ContainerExit, Start
from runtime.monitor.pod import Facts, Pod

SLICE = "/kubepods.slice/kubepods-podX.slice"


@dataclass
class Kernel:
    """Counts as memory.events of cgroup v2 does: a parent's counts all that was ever beneath."""

    kills: dict[str, int] = field(default_factory=dict)
    version: int = 2

    def cgroup(self, path: str) -> Group:
        return Group(self, path)

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
    """A pod with containers a and b, none of which is a process."""

    def __init__(self) -> None:
        self.kernel = Kernel()
        facts = Facts("s1", "/nowhere", "", SLICE, shared_pids=False, mount_fd=-1)
        self.pod = Pod(facts, cast("Hierarchy", self.kernel), Loop())
        self.kernel.kills[SLICE] = 7  # before this pod's monitor was there
        self.pod._oom_kills = self.pod._all_oom_kills()
        self.a, self.b = self._container("a"), self._container("b")

    def _container(self, name: str) -> Container:
        path = f"{SLICE}/podwright-{name}.scope/container"
        made = Container(self.pod, Start(container_id=name, cgroup_path=path))
        self.pod._containers[name] = made
        self.kernel.kills[path] = 0
        return made

    def end(self, container: Container, *, seen: int = 0) -> int:
        kills = self.pod.oom_kills_of(container, seen)
        container.exit = ContainerExit("s1", container.id, 137, 1)
        return kills


@pytest.fixture
def stage() -> Iterator[Stage]:
    """A pod takes SIGCHLD for itself: the tests that follow get it back."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    yield Stage()
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def test_a_kill_is_found_in_the_pods_count_when_the_scope_is_gone(stage: Stage) -> None:
    stage.kernel.kill(stage.a.cgroup.path)
    stage.kernel.remove(stage.a.cgroup.path)
    assert stage.end(stage.a) == 1


def test_a_neighbours_kill_is_not_the_containers_own(stage: Stage) -> None:
    stage.kernel.kill(stage.b.cgroup.path)
    stage.kernel.remove(stage.a.cgroup.path)
    assert stage.end(stage.a) == 0
    assert stage.end(stage.b, seen=1) == 1


def test_a_kill_is_counted_once(stage: Stage) -> None:
    stage.kernel.kill(stage.a.cgroup.path)
    stage.kernel.remove(stage.a.cgroup.path)
    stage.kernel.remove(stage.b.cgroup.path)
    assert stage.end(stage.a) == 1
    assert stage.end(stage.b) == 0
