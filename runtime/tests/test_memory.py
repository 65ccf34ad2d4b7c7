"""What a monitor has for itself, of the memory that it could share with its zygote."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from runtime.tests.node import Node, lifetime

KIB_STARTED = 1150
"""860 with one container, by cgroup v1; it was 1700 when nobody looked. Load changes nothing."""
KIB_EXECUTED = 1450
"""1160, after three commands."""


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    async with lifetime(Node(tmp_path)) as node:
        yield node


def private_kib(pid: int) -> int:
    """Memory that nobody else has, and that a file does not hold."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("Private_Dirty:"))
    return int(line.split()[1])


@pytest.mark.root
async def test_a_monitor_has_little_memory_of_its_own(node: Node) -> None:
    monitor = await node.create("s1")
    await node.start("s1", "c1", "sleep", "100")
    assert private_kib(monitor) < KIB_STARTED
    for _ in range(3):
        await node.exec("s1", "c1", "true")
    assert private_kib(monitor) < KIB_EXECUTED


def python(script: str) -> str:
    """What a fresh interpreter prints, as the spawner is one."""
    repository = Path(__file__).parents[2]
    command = (
        sys.executable,
        "-I",
        "-S",
        "-c",
        f"import sys\nsys.path[:0] = [{str(repository)!r}]",
    )
    words = (*command[:-1], f"{command[-1]}\n{script}")
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


def test_what_is_made_after_the_gaps_were_filled_lies_side_by_side() -> None:
    script = """
from runtime.spawner import dense
kept = [bytes(n % 470) for n in range(30_000)]
del kept[::3]
dense.fill_gaps()
for size in range(48, 513, 16):
    made = [bytes(size - 33) for _ in range(5)][2:]  # a few gaps come from our own loops
    print(max(map(id, made)) - min(map(id, made)) < 4096)
"""
    assert set(python(script).split()) == {"True"}


def test_functions_that_are_gathered_do_what_they_did() -> None:
    script = """
from runtime.spawner import dense

def outer(step):
    def inner(number, *, factor=3):
        return number * factor + step
    return inner

class Thing:
    def __init__(self, first, second=2):
        self.sum = first + second

def play():
    return outer(1)(2), Thing(1).sum, added(1)

added = outer(5)
old = [play, Thing.__init__]  # not by name: names get the new ones
before = play()
dense.gather(dense.called(play))
print(before == play() == old[0](), play is not old[0], Thing.__init__ is not old[1])
print(play.__code__ is old[0].__code__, added.__kwdefaults__, play.__qualname__, play.__module__)
"""
    assert python(script) == "True True True\nTrue {'factor': 3} play __main__\n"


@pytest.mark.root
@pytest.mark.parametrize("version", [1, 2])
def test_a_rehearsal_needs_no_cgroup_and_leaves_nothing(version: int, tmp_path: Path) -> None:
    made = 'HierarchyV1({"memory": "/no/such"})' if version == 1 else 'HierarchyV2("/no/such")'
    script = f"""
import os
from pathlib import Path
from runtime.cgroup.v1 import HierarchyV1
from runtime.cgroup.v2 import HierarchyV2
from runtime.linux import fds
from runtime.monitor import loop, rehearsal

def fail(text):
    raise SystemExit(text)

fds.log = loop.log = fail
before = os.listdir("/proc/self/fd")
rehearsal.rehearse({made}, Path({os.fspath(tmp_path)!r}, "scratch"), 2)
print(len(os.listdir("/proc/self/fd")) - len(before))
print(Path("/proc/self/task", str(os.getpid()), "children").read_text())
"""
    opened, children = python(script).splitlines()
    assert int(opened) <= 1  # our own pid namespace, which is kept
    assert children == ""
    assert os.listdir(tmp_path) == []
