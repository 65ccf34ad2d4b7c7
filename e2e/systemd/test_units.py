"""Pods as systemd's units: slices, scopes, limits, and what is left of them."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from cri.api import api_pb2 as api
from e2e.kubelet import Container, Kubelet, Pod, refused, until
from e2e.systemd.conftest import PATIENCE, pod_units, show, stop_slices, systemctl
from e2e.test_limits import MIB, resources
from e2e.test_update import update

EAT = "x=$(head -c 200000000 /dev/zero | tr '\\0' x); echo survived"
LIMITS = ("MemoryMax", "MemorySwapMax", "CPUWeight", "CPUQuotaPerSecUSec", "TasksMax")


@pytest.fixture
def pod(kubelet: Kubelet) -> Pod:
    """In a slice, as kubelet names it."""
    name = f"kubepods-burstable-pod{uuid.uuid4().hex}.slice"
    parent = f"/kubepods.slice/kubepods-burstable.slice/{name}"
    return kubelet.pod(kubelet.config(linux=api.LinuxPodSandboxConfig(cgroup_parent=parent)))


@pytest.fixture(autouse=True)
def no_slice_of_kubelets(kubelet: Kubelet) -> object:
    yield
    kubelet.clean()
    stop_slices()


def scope(container: Container) -> str:
    return f"podwright-{container.id}.scope"


def directory(container: Container) -> Path:
    """Of the container's own cgroup, in its scope."""
    group = show(scope(container), "ControlGroup")["ControlGroup"]
    return Path("/sys/fs/cgroup", group.lstrip("/"), "container")


def files(container: Container) -> dict[str, str]:
    names = ("memory.max", "cpu.max", "cpu.weight", "pids.max", "cpuset.cpus", "memory.high")
    return {name: (directory(container) / name).read_text().strip() for name in names}


def limited(pod: Pod, *command: str) -> Container:
    asked = resources(
        memory_limit_in_bytes=64 * MIB, cpu_period=100_000, cpu_quota=25_000, cpu_shares=512,
        cpuset_cpus="0", unified={"memory.high": str(48 * MIB), "memory.oom.group": "1"},
    )  # fmt: skip
    return pod.container(command or ("sleep", "1000000"), linux=asked).start()


def test_kubelet_is_told_that_systemd_makes_the_cgroups(kubelet: Kubelet) -> None:
    answer = kubelet.client.call(
        "RuntimeConfig", api.RuntimeConfigRequest(), api.RuntimeConfigResponse
    )
    assert answer.HasField("linux")
    assert answer.linux.cgroup_driver == api.SYSTEMD


def test_a_container_is_a_scope_in_the_slice_that_kubelet_names(pod: Pod) -> None:
    container = limited(pod)
    told = show(scope(container), "Slice", "ActiveState", "Delegate", "CollectMode", *LIMITS)
    parent = pod.config.linux.cgroup_parent
    assert told["Slice"] == Path(parent).name
    assert (told["ActiveState"], told["Delegate"]) == ("active", "yes")
    assert told["MemoryMax"] == str(64 * MIB)
    assert (told["CPUQuotaPerSecUSec"], told["CPUWeight"]) == ("250ms", "59")
    assert directory(container) == Path(f"/sys/fs/cgroup{parent}/{scope(container)}/container")
    processes = (directory(container) / "cgroup.procs").read_text().split()
    assert len(processes) == 1
    assert b"sleep" in Path(f"/proc/{processes[0]}/cmdline").read_bytes()
    assert container.shell("cat /proc/self/cgroup") == "0::/"


def test_limits_are_the_same_after_systemd_was_reloaded(pod: Pod) -> None:
    container = limited(pod)
    before = files(container)
    assert before["cpu.max"] == "25000 100000"
    assert before["memory.high"] == str(48 * MIB)
    systemctl("daemon-reload")
    assert files(container) == before
    update(container, memory_limit_in_bytes=96 * MIB, cpu_quota=50_000, cpu_shares=1024)
    changed = files(container)
    assert (changed["memory.max"], changed["cpu.max"]) == (str(96 * MIB), "50000 100000")
    systemctl("daemon-reload")
    assert files(container) == changed
    assert show(scope(container), "MemoryMax") == {"MemoryMax": str(96 * MIB)}
    assert container.exec("true").exit_code == 0
    assert (directory(container) / "memory.oom.group").read_text() == "1\n"


def test_a_quota_of_no_whole_percent_stays_exact(pod: Pod) -> None:
    linux = resources(cpu_period=100_000, cpu_quota=12_345)
    container = pod.container(linux=linux).start()
    update(container, cpu_shares=100)
    systemctl("daemon-reload")
    assert files(container)["cpu.max"] == "12345 100000"
    assert show(scope(container), "CPUQuotaPerSecUSec")["CPUQuotaPerSecUSec"] in ("130ms", "120ms")


def test_a_container_may_have_a_single_process(pod: Pod) -> None:
    asked = resources(unified={"pids.max": "1"})
    container = pod.container(["sh", "-c", "read x < /dev/zero"], linux=asked).start()
    assert files(container)["pids.max"] == "1"
    assert (directory(container) / "pids.current").read_text() == "1\n"


@pytest.mark.parametrize("turn", range(8))
def test_who_takes_too_much_memory_is_killed_and_it_is_said(pod: Pod, turn: int) -> None:
    linux = resources(memory_limit_in_bytes=24 * MIB, memory_swap_limit_in_bytes=24 * MIB)
    neighbour = pod.container().start()
    container = pod.container(["sh", "-c", EAT], linux=linux).start()
    status = container.wait(PATIENCE)
    assert (status.exit_code, status.reason) == (137, "OOMKilled"), status
    neighbour.stop()
    assert neighbour.wait().reason != "OOMKilled"


def test_a_short_life_leaves_no_scope(pod: Pod) -> None:
    for _ in range(3):
        assert pod.container(["true"]).start().wait(PATIENCE).exit_code == 0
    until(lambda: not any(".scope" in unit for unit in pod_units()), "scopes are gone", PATIENCE)


def test_a_start_that_fails_leaves_no_scope(pod: Pod) -> None:
    container = pod.container(["/no/such/program"])
    assert "/no/such/program" in refused(container.start).message
    until(lambda: scope(container) not in pod_units(), "its scope is gone", PATIENCE)


def test_a_pod_of_no_slice_gets_one_of_ours_that_goes_with_it(kubelet: Kubelet) -> None:
    pod = kubelet.pod()
    container = pod.container().start()
    name = f"podwright-{pod.id}.slice"
    assert show(scope(container), "Slice") == {"Slice": name}
    assert name in pod_units()
    pod.remove()
    assert name not in pod_units()
    kubelet.pods.clear()


def test_a_parent_that_is_no_slice_is_refused_with_what_to_set(kubelet: Kubelet) -> None:
    parent = api.LinuxPodSandboxConfig(cgroup_parent="/kubepods/burstable/pod1")
    error = refused(lambda: kubelet.pod(kubelet.config(linux=parent)))
    assert "cgroupDriver" in error.message


def test_statistics_come_from_the_scope_and_the_slice(pod: Pod) -> None:
    container = pod.container(["sh", "-c", "while :; do :; done"]).start()

    def asked() -> api.PodSandboxStats:
        request = api.PodSandboxStatsRequest(pod_sandbox_id=pod.id)
        return pod.kubelet.client.call(
            "PodSandboxStats", request, api.PodSandboxStatsResponse
        ).stats

    until(lambda: asked().linux.cpu.usage_core_nano_seconds.value > 5_000_000, "it has used time")
    stats = asked()
    (inner,) = stats.linux.containers
    assert inner.attributes.id == container.id
    assert 0 < inner.memory.working_set_bytes.value < 64 * MIB
    assert (
        inner.cpu.usage_core_nano_seconds.value <= asked().linux.cpu.usage_core_nano_seconds.value
    )
    assert stats.linux.process.process_count.value == 1
    pressure = Path("/proc/pressure/cpu").exists()
    assert inner.cpu.HasField("psi") == pressure
