"""What a container may use, and what happens when it wants more."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from cri.api import api_pb2 as api
from e2e.kubelet import Container, Kubelet, Pod, refused
from e2e.node import Node
from e2e.test_container import security

MIB = 1 << 20
UNIFIED = Path("/sys/fs/cgroup/cgroup.controllers").exists()
EAT = "x=$(head -c 200000000 /dev/zero | tr '\\0' x); echo survived"


def resources(**fields: object) -> api.LinuxContainerConfig:
    made = api.LinuxContainerResources(**fields)  # type: ignore[arg-type]  # by name
    return api.LinuxContainerConfig(resources=made)


def cgroup(container: Container, controller: str) -> Path:
    """The container's cgroup, on the node."""
    parent = container.kubelet.node.cgroup
    top = Path("/sys/fs/cgroup") if UNIFIED else Path("/sys/fs/cgroup", controller)
    (found,) = [path for path in (top / parent.lstrip("/")).rglob(container.id) if path.is_dir()]
    return found


def control(container: Container, controller: str, v1: str, v2: str) -> str:
    """The content of a control file of the container's cgroup, read on the node."""
    return (cgroup(container, controller) / (v2 if UNIFIED else v1)).read_text().strip()


def test_limits_are_what_was_asked_for(pod: Pod) -> None:
    container = pod.container(
        linux=resources(
            memory_limit_in_bytes=64 * MIB, cpu_period=50_000, cpu_quota=25_000, cpu_shares=512,
            cpuset_cpus="0",
        )
    ).start()  # fmt: skip
    memory = control(container, "memory", "memory.limit_in_bytes", "memory.max")
    assert memory == str(64 * MIB)
    if UNIFIED:
        assert control(container, "cpu", "", "cpu.max") == "25000 50000"
    else:
        assert control(container, "cpu", "cpu.cfs_quota_us", "") == "25000"
        assert control(container, "cpu", "cpu.cfs_period_us", "") == "50000"
        assert control(container, "cpu", "cpu.shares", "") == "512"
    assert control(container, "cpuset", "cpuset.cpus", "cpuset.cpus") == "0"
    assert "Cpus_allowed_list:\t0" in container.shell("cat /proc/self/status")
    status = container.status().resources.linux
    assert (status.memory_limit_in_bytes, status.cpu_quota) == (64 * MIB, 25_000)


def test_a_limit_that_is_too_small_to_start_in_is_told(pod: Pod) -> None:
    container = pod.container(["true"], linux=resources(memory_limit_in_bytes=4096))
    error = refused(container.start)
    assert error.code is grpc.StatusCode.FAILED_PRECONDITION
    assert "the memory limit is too small even to start" in error.message
    assert container.status().message == error.message


def test_a_cgroup_that_somebody_has_removed_is_told_and_the_container_can_be_ended(
    pod: Pod,
) -> None:
    container = pod.container(["sleep", "1000"]).start()
    gone = cgroup(container, "cpu")
    top = Path(str(gone).removesuffix(f"{pod.kubelet.node.cgroup}/{pod.id}/{container.id}"))
    for pid in (gone / "cgroup.procs").read_text().split():
        (top / "cgroup.procs").write_text(pid)
    gone.rmdir()
    request = api.UpdateContainerResourcesRequest(
        container_id=container.id, linux=api.LinuxContainerResources(cpu_shares=100)
    )
    answer = api.UpdateContainerResourcesResponse
    client = pod.kubelet.client
    for call in (
        lambda: container.exec("true"),
        lambda: client.call("UpdateContainerResources", request, answer),
    ):
        error = refused(call)
        assert error.code is grpc.StatusCode.FAILED_PRECONDITION
        assert f"the cgroup {gone} is gone" in error.message
    container.stop()
    assert container.status().state == api.CONTAINER_EXITED


def test_who_takes_too_much_memory_is_killed_and_it_is_said(pod: Pod) -> None:
    container = pod.container(
        ["sh", "-c", EAT], linux=resources(memory_limit_in_bytes=32 * MIB)
    ).start()
    status = container.wait()
    assert (status.exit_code, status.reason) == (137, "OOMKilled")
    assert container.log() == []


def test_a_child_that_is_killed_for_memory_does_not_end_its_parent(pod: Pod) -> None:
    # The kernel may look for a second victim before the first one's pages are free: not the parent.
    eat = "echo 1000 > /proc/self/oom_score_adj; " + EAT.replace("$", chr(92) + "$")
    script = f'sh -c "{eat}"; echo code $?'
    container = pod.container(
        ["sh", "-c", script], linux=resources(memory_limit_in_bytes=32 * MIB)
    ).start()
    assert container.wait().exit_code == 0
    assert container.log()[-1] == "code 137"


def test_a_score_says_who_is_killed_first(pod: Pod) -> None:
    assert pod.run("cat /proc/self/oom_score_adj", linux=resources(oom_score_adj=777)) == ["777"]


def test_a_limit_that_can_not_be_names_itself(pod: Pod) -> None:
    config = pod.container_config(["true"], linux=resources(cpuset_cpus="4095"))
    error = refused(lambda: pod.create(config).start())
    assert "cpuset" in error.message
    assert "4095" in error.message


DISK = next((path for path in map(Path, ("/dev/vda", "/dev/sda", "/dev/nvme0n1", "/dev/loop0"))
             if path.is_block_device()), None)  # fmt: skip
BLOCKIO = "blockio.resources.beta.kubernetes.io"


@pytest.fixture
def classes(node: Node) -> Iterator[None]:
    """The node's, of block I/O."""
    file = node.directory / "blockio.yaml"
    rates = "ThrottleReadBps: 1M, ThrottleWriteIOPS: 77"
    file.write_text(f"Classes:\n  slow:\n    - {{Devices: [{DISK}], {rates}}}\n")
    yield
    file.unlink()


@pytest.mark.skipif(DISK is None, reason="this machine has no disk")
def test_a_class_of_block_io_limits_a_disk(kubelet: Kubelet, classes: None) -> None:
    assert DISK is not None
    number = DISK.stat().st_rdev
    disk = f"{os.major(number)}:{os.minor(number)}"
    pod = kubelet.pod(kubelet.config(annotations={f"{BLOCKIO}/container.slow": "slow"}))
    config = pod.container_config(["sleep", "1000"])
    config.metadata.name = "slow"
    slow, quick = pod.create(config).start(), pod.container().start()
    if UNIFIED:
        said = f"{disk} rbps=1000000 wbps=max riops=max wiops=77"
        assert control(slow, "io", "", "io.max") == said
        assert control(quick, "io", "", "io.max") == ""
    else:
        reading, writing = "blkio.throttle.read_bps_device", "blkio.throttle.write_iops_device"
        assert control(slow, "blkio", reading, "") == f"{disk} 1000000"
        assert control(slow, "blkio", writing, "") == f"{disk} 77"
        assert control(quick, "blkio", reading, "") == ""


def test_a_class_of_block_io_that_is_not_there_is_named(kubelet: Kubelet, classes: None) -> None:
    pod = kubelet.pod(kubelet.config(annotations={f"{BLOCKIO}/pod": "gold"}))
    error = refused(pod.container)
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    assert f"sandbox_config.annotations[{BLOCKIO}/pod]" in error.message
    assert "has no blockio class 'gold': there are slow" in error.message


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"cpu_shares": 2**63 - 1}, "cpu.shares: 9223372036854775807; the kernel takes 2 to"),
        (
            {"hugepage_limits": [api.HugepageLimit(page_size="3MB", limit=0)]},
            "hugepageLimits[0].pageSize: '3MB' is no size such as 2MB",
        ),
    ],
)
def test_a_number_that_no_kernel_takes_is_refused(
    pod: Pod, wrong: dict[str, object], says: str
) -> None:
    container = pod.container(linux=resources(**wrong))
    error = refused(container.start)
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    assert says in error.message


def test_only_the_devices_of_every_container_can_be_opened(pod: Pod) -> None:
    linux = security()
    linux.security_context.capabilities.add_capabilities.append("MKNOD")
    said = pod.run(
        "mknod /dev/kmsg2 c 1 11 && cat /dev/kmsg2 2>&1;"
        " mknod /dev/n c 1 3 && echo > /dev/n && echo ok",
        linux=linux,
    )
    assert "not permitted" in said[0]
    assert said[-1] == "ok"


def test_a_privileged_container_has_the_nodes_devices(kubelet: Kubelet) -> None:
    config = kubelet.config()
    config.linux.security_context.privileged = True
    pod = kubelet.pod(config)
    said = pod.run(
        "test -e /dev/kmsg && echo kmsg; grep CapEff /proc/self/status;"
        " mount -t tmpfs x /tmp && echo mounted; grep -c Seccomp:.0 /proc/self/status",
        linux=security(privileged=True),
    )
    assert said[0] == "kmsg"
    assert said[2:] == ["mounted", "1"]


def test_resource_limits_of_processes_are_the_nodes(pod: Pod) -> None:
    soft = pod.run("ulimit -n")[0]
    assert int(soft) >= 1024


@pytest.mark.skipif(UNIFIED, reason="names files of cgroup v1")
def test_hugepages_and_unified_entries_for_another_version_are_told(pod: Pod) -> None:
    config = pod.container_config(["true"], linux=resources(unified={"memory.high": "100"}))
    assert "unified" in refused(lambda: pod.create(config).start()).message
