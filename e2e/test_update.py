"""Limits change under a running container, as the node's control files show, or not at all."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import grpc
import pytest

from cri.api import api_pb2 as api
from e2e.kubelet import Container, Kubelet, Pod, refused, until
from e2e.node import Node
from e2e.test_limits import MIB, UNIFIED, control, resources

Limits = dict[str, str]
HOG = "x=$(head -c 40000000 /dev/zero | tr '\\0' x); echo full; while :; do sleep 1000; done"


def update(container: Container, **fields: object) -> None:
    request = api.UpdateContainerResourcesRequest(
        container_id=container.id,
        linux=api.LinuxContainerResources(**fields),  # type: ignore[arg-type]  # by name
    )
    container.kubelet.client.call(
        "UpdateContainerResources", request, api.UpdateContainerResourcesResponse
    )


def told(container: Container) -> api.LinuxContainerResources:
    return container.status().resources.linux


def limits(container: Container) -> Limits:
    """The control files that an update may write, as the kernel has them."""
    if UNIFIED:
        names = ("cpu.max", "cpu.weight", "memory.max", "cpuset.cpus", "cpuset.mems")
        return {name: control(container, "", "", name) for name in names}
    found = {
        name: control(container, name.partition(".")[0], name, "")
        for name in (
            "cpu.cfs_quota_us",
            "cpu.cfs_period_us",
            "cpu.shares",
            "memory.limit_in_bytes",
            "cpuset.cpus",
            "cpuset.mems",
        )
    }
    found["scores"] = scores(container)
    return found


def scores(container: Container) -> str:
    return container.shell("cat /proc/[0-9]*/oom_score_adj | sort -u | tr '\\n' ' '")


@pytest.fixture
def container(pod: Pod) -> Container:
    """It runs, with some limits."""
    linux = resources(memory_limit_in_bytes=64 * MIB, cpu_period=50_000, cpu_quota=25_000)
    return pod.container(linux=linux).start()


def test_cpu_time_changes_and_what_is_not_named_stays(container: Container) -> None:
    update(container, cpu_quota=10_000, cpu_shares=333)
    now = limits(container)
    if UNIFIED:
        assert now["cpu.max"] == "10000 50000"
    else:
        assert (now["cpu.cfs_quota_us"], now["cpu.cfs_period_us"]) == ("10000", "50000")
        assert now["cpu.shares"] == "333"
    update(container, cpu_period=100_000)
    update(container, cpu_quota=-1)
    if UNIFIED:
        assert limits(container)["cpu.max"] == "max 100000"
    else:
        assert limits(container)["cpu.cfs_quota_us"] == "-1"
    assert (told(container).cpu_quota, told(container).cpu_period) == (-1, 100_000)
    assert told(container).memory_limit_in_bytes == 64 * MIB


def test_a_container_is_moved_to_other_cpus(container: Container) -> None:
    update(container, cpuset_cpus="0", cpuset_mems="0")
    assert "Cpus_allowed_list:\t0\n" in container.shell("cat /proc/1/status") + "\n"
    assert (told(container).cpuset_cpus, told(container).cpuset_mems) == ("0", "0")


@pytest.mark.parametrize("size", [32 * MIB, 256 * MIB])
def test_memory_goes_up_and_down_and_there_is_still_no_swap(
    container: Container, size: int
) -> None:
    update(container, memory_limit_in_bytes=size)
    if UNIFIED:
        assert control(container, "", "", "memory.max") == str(size)
        assert control(container, "", "", "memory.swap.max") == "0"
    else:
        assert control(container, "memory", "memory.limit_in_bytes", "") == str(size)
        assert control(container, "memory", "memory.memsw.limit_in_bytes", "") == str(size)
    assert told(container).memory_limit_in_bytes == size


def test_swap_is_told_together_with_memory(container: Container) -> None:
    update(container, memory_swap_limit_in_bytes=96 * MIB)
    if UNIFIED:
        assert control(container, "", "", "memory.swap.max") == str(32 * MIB)
    else:
        memsw = control(container, "memory", "memory.memsw.limit_in_bytes", "")
        assert memsw == str(96 * MIB)
    error = refused(lambda: update(container, memory_limit_in_bytes=128 * MIB))
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    assert "memory_swap_limit_in_bytes" in error.message
    update(container, memory_limit_in_bytes=128 * MIB, memory_swap_limit_in_bytes=128 * MIB)


HUGE = UNIFIED or Path("/sys/fs/cgroup/hugetlb").exists()


@pytest.mark.skipif(not HUGE, reason="the controller hugetlb is not mounted")
def test_huge_pages_have_a_limit_too(container: Container) -> None:
    page = api.HugepageLimit(page_size="2MB", limit=8 * MIB)
    update(container, hugepage_limits=[page])
    file = control(container, "hugetlb", "hugetlb.2MB.limit_in_bytes", "hugetlb.2MB.max")
    assert file == str(8 * MIB)
    assert list(told(container).hugepage_limits) == [page]


def test_every_process_has_the_new_score(container: Container) -> None:
    container.shell("sleep 1000 >/dev/null 2>&1 &")
    update(container, oom_score_adj=555)
    members = control(container, "memory", "cgroup.procs", "cgroup.procs").split()
    assert len(members) > 1
    found = {Path(f"/proc/{pid}/oom_score_adj").read_text().strip() for pid in members}
    assert found == {"555"}


@pytest.mark.skipif(UNIFIED, reason="names files of cgroup v1")
def test_files_of_the_other_version_are_refused(container: Container) -> None:
    error = refused(lambda: update(container, unified={"memory.high": "100"}))
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    assert "linux.resources.unified" in error.message


def test_a_refusal_leaves_every_limit_as_it_was(container: Container) -> None:
    before, record = limits(container), told(container)
    error = refused(
        lambda: update(
            container,
            cpu_quota=5000,
            cpu_shares=99,
            memory_limit_in_bytes=128 * MIB,
            oom_score_adj=700,
            cpuset_mems="0",
            cpuset_cpus="4095",
        )
    )
    assert error.code is grpc.StatusCode.FAILED_PRECONDITION
    assert "4095" in error.message
    assert limits(container) == before
    assert told(container) == record


def test_a_limit_below_what_is_used_is_refused_and_nobody_dies_of_it(pod: Pod) -> None:
    container = pod.container(
        ["sh", "-c", HOG], linux=resources(memory_limit_in_bytes=256 * MIB)
    ).start()
    until(lambda: container.log() == ["full"], "it has its memory")
    before = limits(container)
    error = refused(
        lambda: update(container, memory_limit_in_bytes=16 * MIB, cpu_shares=99, oom_score_adj=9)
    )
    assert error.code is grpc.StatusCode.FAILED_PRECONDITION
    assert f"memory.limit: {16 * MIB} bytes is less than the " in error.message
    assert "choose a limit above" in error.message
    assert limits(container) == before
    assert container.status().state == api.CONTAINER_RUNNING


def test_a_created_container_starts_with_its_new_limits(pod: Pod) -> None:
    container = pod.container(linux=resources(cpu_shares=100))
    update(container, memory_limit_in_bytes=48 * MIB, oom_score_adj=123)
    container.start()
    found = control(container, "memory", "memory.limit_in_bytes", "memory.max")
    assert found == str(48 * MIB)
    assert scores(container).split() == ["123"]
    assert (told(container).cpu_shares, told(container).oom_score_adj) == (100, 123)


def test_an_exited_container_remembers(pod: Pod) -> None:
    container = pod.container(["true"]).start()
    container.wait()
    update(container, cpu_shares=77)
    assert told(container).cpu_shares == 77


def test_a_killed_daemon_forgets_no_limit(kubelet: Kubelet, node: Node) -> None:
    pod = kubelet.pod()
    running, created = pod.container().start(), pod.container()
    for container in (running, created):
        update(container, cpu_shares=444, memory_limit_in_bytes=48 * MIB)
    node.restart_daemon(how=signal.SIGKILL)
    created.start()
    for container in (running, created):
        assert (told(container).cpu_shares, told(container).memory_limit_in_bytes) == (
            444,
            48 * MIB,
        )
        found = control(container, "memory", "memory.limit_in_bytes", "memory.max")
        assert found == str(48 * MIB)
    update(running, memory_limit_in_bytes=64 * MIB)  # the new daemon knows that there is no swap
    assert told(running).cpu_shares == 444


def test_an_update_is_found_in_the_trace(container: Container, pod: Pod) -> None:
    update(container, cpu_shares=77)
    timelines = json.loads(container.response(verbose=True).info["timeline"])
    (timeline,) = [one for one in timelines if one["rpc"] == "UpdateContainerResources"]
    assert timeline["sandbox"] == pod.id
    assert "change limits" in [stage["name"] for stage in timeline["stages"]]
    program = str(Path(sys.executable).with_name("podwright"))
    words = [program, "--address", pod.kubelet.node.client.address, "trace", "--all", pod.id]
    shown = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert "UpdateContainerResources" in shown


def test_an_unknown_container_or_pod_is_not_found(kubelet: Kubelet) -> None:
    nobody = Container(kubelet, "f" * 64, api.ContainerConfig())
    assert refused(lambda: update(nobody, cpu_shares=5)).code is grpc.StatusCode.NOT_FOUND
    request = api.UpdatePodSandboxResourcesRequest(pod_sandbox_id="f" * 64)
    error = refused(
        lambda: kubelet.client.call(
            "UpdatePodSandboxResources", request, api.UpdatePodSandboxResourcesResponse
        )
    )
    assert error.code is grpc.StatusCode.NOT_FOUND


def test_what_kubelet_tells_of_a_pod_is_told_again_and_touches_no_cgroup(
    container: Container, pod: Pod
) -> None:
    before = limits(container)
    wanted = api.LinuxContainerResources(cpu_shares=5, memory_limit_in_bytes=MIB)
    request = api.UpdatePodSandboxResourcesRequest(pod_sandbox_id=pod.id, resources=wanted)
    pod.kubelet.client.call(
        "UpdatePodSandboxResources", request, api.UpdatePodSandboxResourcesResponse
    )
    info = json.loads(pod.response(verbose=True).info["info"])
    assert info["resources"] == {"cpu_shares": "5", "memory_limit_in_bytes": str(MIB)}
    assert limits(container) == before


def test_stats_know_the_new_limit(container: Container) -> None:
    for size in (64 * MIB, 128 * MIB):
        update(container, memory_limit_in_bytes=size)
        request = api.ContainerStatsRequest(container_id=container.id)
        answer = container.kubelet.client.call(
            "ContainerStats", request, api.ContainerStatsResponse
        )
        memory = answer.stats.memory
        assert memory.available_bytes.value + memory.working_set_bytes.value == size
