"""What cgroup v2 holds containers to: huge pages, swap, and files that are called by name."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from cri.api import api_pb2 as api
from e2e.kubelet import Container, Pod, refused, until
from e2e.systemd.conftest import PATIENCE
from e2e.systemd.test_units import directory, no_slice_of_kubelets, pod
from e2e.test_limits import MIB, resources
from e2e.test_update import update

__all__ = ["no_slice_of_kubelets", "pod"]  # fixtures

PAGES = Path("/proc/sys/vm/nr_hugepages")
NODE = api.Mount(container_path="/node", host_path="/", readonly=True)
# Two huge pages by mmap: MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB
TWO_PAGES = "import mmap; mmap.mmap(-1, 4 << 20, flags=0x40022).write(bytes(4 << 20)); print(1)"
HOG = "x=$(head -c 20000000 /dev/zero | tr '\\0' x); echo full; while :; do sleep 1000; done"


@pytest.fixture
def pages() -> Iterator[None]:
    """Some on the node, which is ours."""
    before = PAGES.read_text()
    PAGES.write_text("8")
    yield
    PAGES.write_text(before)


@pytest.fixture
def swap(tmp_path: Path) -> Iterator[None]:
    file = Path("/var/swap.podwright")
    with file.open("wb") as written:
        for _ in range(128):
            written.write(bytes(MIB))
    file.chmod(0o600)
    subprocess.run(["mkswap", "-q", str(file)], check=True)
    subprocess.run(["swapon", str(file)], check=True)
    yield
    subprocess.run(["swapoff", str(file)], check=True)
    file.unlink()


def written(container: Container, name: str) -> str:
    return (directory(container) / name).read_text().strip()


def take_pages(container: Container) -> tuple[int, str]:
    answer = container.exec(
        "chroot", "/node", "/usr/bin/python3", "-c", TWO_PAGES, timeout=int(PATIENCE)
    )
    return answer.exit_code, answer.stderr.decode()


def test_a_limit_of_huge_pages_is_the_kernels_when_they_are_asked_for(
    pod: Pod, pages: None
) -> None:
    limit = api.HugepageLimit(page_size="2MB", limit=2 * MIB)
    container = pod.container(mounts=[NODE], linux=resources(hugepage_limits=[limit])).start()
    assert written(container, "hugetlb.2MB.max") == str(2 * MIB)
    code, said = take_pages(container)
    assert code != 0
    assert "Cannot allocate memory" in said  # of mmap, not SIGBUS at the first touch
    update(container, hugepage_limits=[api.HugepageLimit(page_size="2MB", limit=4 * MIB)])
    assert written(container, "hugetlb.2MB.rsvd.max") == str(4 * MIB)
    assert take_pages(container) == (0, "")


def test_who_has_swap_survives_what_kills_who_has_none(pod: Pod, swap: None) -> None:
    without = pod.container(
        ["sh", "-c", HOG], linux=resources(memory_limit_in_bytes=16 * MIB)
    ).start()
    status = without.wait(PATIENCE)
    assert (status.exit_code, status.reason) == (137, "OOMKilled")
    both = resources(memory_limit_in_bytes=16 * MIB, memory_swap_limit_in_bytes=112 * MIB)
    with_swap = pod.container(["sh", "-c", HOG], linux=both).start()
    assert written(with_swap, "memory.swap.max") == str(96 * MIB)
    until(lambda: with_swap.log() == ["full"], "the hog is full", PATIENCE)
    assert int(written(with_swap, "memory.swap.current")) > 2 * MIB
    assert with_swap.status().state == api.CONTAINER_RUNNING
    with_swap.stop()  # or there would be no room for what is swapped out


def test_files_of_cgroups_are_written_by_name_and_hold(pod: Pod) -> None:
    asked = {"pids.max": "7", "memory.low": str(MIB), "cpu.idle": "1"}
    container = pod.container(linux=resources(unified=asked)).start()
    assert {name: written(container, name) for name in asked} == asked
    said = container.exec("sh", "-c", "for i in 1 2 3 4 5 6 7 8; do sleep 5 & done; wait")
    assert b"can't fork" in said.stderr


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("memory.nothing", "1", "unified.memory.nothing"),
        ("memory.high", "much", "unified.memory.high"),
        ("cgroup.procs", "1", "belong to the runtime"),
        ("../memory.max", "1", "is no file of a cgroup"),
    ],
)
def test_a_file_that_is_not_there_or_not_theirs_is_named(
    pod: Pod, name: str, value: str, says: str
) -> None:
    container = pod.container(linux=resources(unified={name: value}))
    error = refused(container.start)
    assert error.code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION)
    assert says in error.message


def test_processors_are_a_containers_own_as_long_as_nobody_else_is_given_them(pod: Pod) -> None:
    first, second = (pod.container(linux=resources(cpuset_cpus="0-1")).start() for _ in range(2))
    update(first, cpuset_cpus="0")
    update(second, cpuset_cpus="1")
    for container, own in ((first, "0"), (second, "1")):
        assert written(container, "cpuset.cpus.effective") == own
        status = container.shell("grep Cpus_allowed_list /proc/self/status")
        assert status.split() == ["Cpus_allowed_list:", own]


@pytest.mark.parametrize("limit", [4096, 65536])
def test_a_memory_limit_that_is_too_small_to_start_in_is_told(pod: Pod, limit: int) -> None:
    container = pod.container(["true"], linux=resources(memory_limit_in_bytes=limit))
    error = refused(container.start)
    assert error.code is grpc.StatusCode.FAILED_PRECONDITION
    assert "the memory limit is too small even to start" in error.message
