"""What NRI plugins want of containers, in the files of cgroup v2 and in systemd's units."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from e2e import nri
from e2e.kubelet import Container, Kubelet, Pod, refused
from e2e.node import Node
from e2e.nri import Plugins
from e2e.systemd.conftest import PATIENCE, SERVICE, Machine, show, systemctl
from e2e.systemd.test_units import no_slice_of_kubelets, pod, scope
from e2e.test_limits import MIB, resources
from e2e.test_nri import limits, linux, value
from e2e.test_user_namespaces import user_pod

__all__ = ["no_slice_of_kubelets", "pod"]  # fixtures

CONFIG = Path("/etc/podwright/conf.d/30-nri.toml")


@pytest.fixture(scope="module", autouse=True)
def patient(machine: Machine) -> Iterator[None]:
    """Plugins may take their time: the machine may be an emulated one."""
    CONFIG.parent.mkdir(parents=True, exist_ok=True)
    CONFIG.write_text("[nri]\nrequest_timeout = 60\nregistration_timeout = 60\n")
    systemctl("restart", SERVICE)
    machine.await_daemon()
    yield
    CONFIG.unlink()
    systemctl("restart", SERVICE)
    machine.await_daemon()


@pytest.fixture
def plugins(machine: Machine) -> Iterator[Plugins]:
    with nri.plugins(cast("Node", machine), PATIENCE) as made:
        yield made


def pid(container: Container) -> int:
    found: int = json.loads(container.response(verbose=True).info["info"])["pid"]
    return found


def directory(container: Container) -> Path:
    """Its cgroup, by the kernel's word."""
    (line,) = Path(f"/proc/{pid(container)}/cgroup").read_text().splitlines()
    return Path("/sys/fs/cgroup", line.removeprefix("0::/"))


def written(container: Container, *names: str) -> list[str]:
    return [(directory(container) / name).read_text().strip() for name in names]


def test_limits_of_plugins_are_in_the_kernels_files_and_in_systemds_unit(
    pod: Pod, plugins: Plugins
) -> None:
    high = {"memory.high": str(40 * MIB), "memory.oom.group": "1", "pids.max": "77"}
    plugins(
        "binder",
        create=limits(
            memory={"limit": value(64 * MIB), "reservation": value(16 * MIB)},
            cpu={
                "shares": value(512),
                "quota": value(25_000),
                "period": value(100_000),
                "cpus": "0",
                "mems": "0",
            },
            unified=high,
        ),
    )
    container = pod.container(linux=resources(memory_limit_in_bytes=128 * MIB)).start()
    assert written(container, "memory.max", "memory.low", "memory.high", "memory.oom.group") == [
        *(str(64 * MIB), str(16 * MIB), str(40 * MIB), "1")
    ]
    names = ("cpuset.cpus", "cpuset.mems", "cpu.max", "cpu.weight", "pids.max")
    assert written(container, *names) == ["0", "0", "25000 100000", "59", "77"]
    told = show(scope(container), "MemoryMax", "MemoryHigh", "AllowedCPUs", "TasksMax", "CPUWeight")
    assert told == {
        "MemoryMax": str(64 * MIB),
        "MemoryHigh": str(40 * MIB),
        "AllowedCPUs": "0",
        "TasksMax": "77",
        "CPUWeight": "59",
    }
    status = container.status().resources.linux
    assert (status.memory_limit_in_bytes, dict(status.unified)) == (64 * MIB, high)


def test_an_update_that_nobody_asked_for_reaches_the_kernels_files(
    pod: Pod, plugins: Plugins
) -> None:
    container = pod.container(linux=resources(memory_limit_in_bytes=128 * MIB)).start()
    binder = plugins("binder")
    wanted = {
        "memory": {"limit": value(96 * MIB)},
        "cpu": {"cpus": "0"},
        "unified": {"memory.high": str(48 * MIB)},
    }
    update = {"container_id": container.id, "linux": {"resources": wanted}}
    assert binder.unasked(update=[update]) == []
    found = written(container, "memory.max", "memory.high", "cpuset.cpus")
    assert found == [str(96 * MIB), str(48 * MIB), "0"]
    assert show(scope(container), "MemoryHigh") == {"MemoryHigh": str(48 * MIB)}


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        ({"memory": {"swappiness": value(7)}}, "memory.swappiness: cgroup v2 can't do that"),
        ({"memory": {"kernel_tcp": value(7)}}, "memory.kernelTCP: cgroup v2 can't do that"),
        ({"memory": {"disable_oom_killer": {"value": True}}}, "cgroup v2 can't do that"),
        ({"cpu": {"realtime_runtime": value(7)}}, "cpu.realtimeRuntime: cgroup v2 can't do that"),
        ({"unified": {"cgroup.freeze": "1"}}, "belong to the runtime"),
        ({"unified": {"../memory.high": "1"}}, "is no file of a cgroup"),
    ],
)
def test_what_cgroup_v2_has_not_is_refused_by_name(
    pod: Pod, plugins: Plugins, wish: dict[str, object], words: str
) -> None:
    plugins("miser", create=limits(**wish))
    assert words in refused(pod.container).message


def test_a_container_may_be_another_scope_of_its_pods_slice(pod: Pod, plugins: Plugins) -> None:
    parent = Path(pod.config.linux.cgroup_parent).name
    placer = plugins("placer", create=linux(cgroups_path=f"{parent}:fast:one"))
    container = pod.container(linux=resources(memory_limit_in_bytes=64 * MIB)).start()
    assert directory(container).parent.name == "fast-one.scope"
    assert show("fast-one.scope", "Slice", "MemoryMax") == {
        "Slice": parent,
        "MemoryMax": str(64 * MIB),
    }
    for path in (
        "system.slice:fast:two",
        f"{parent}:fast:../x",
        "/elsewhere",
        f"{parent}:fast:one",
    ):
        placer.wants(create=linux(cgroups_path=path))
        assert "NRI plugin 10-placer: linux.cgroups_path: " in refused(pod.container).message
    container.stop()
    assert show("fast-one.scope", "ActiveState") == {"ActiveState": "inactive"}


@pytest.mark.parametrize("users", [False, True])
def test_sysctls_are_the_pods_whoever_owns_its_namespaces(
    kubelet: Kubelet, plugins: Plugins, *, users: bool
) -> None:
    plugins("tuner", create=linux(sysctl={"net.ipv4.ip_forward": "1", "kernel.msgmax": "4711"}))
    pod = user_pod(kubelet) if users else kubelet.pod()
    container = pod.container().start()
    script = "cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/msgmax"
    said = container.exec("sh", "-c", script, timeout=int(PATIENCE)).stdout
    assert said.split() == [b"1", b"4711"]


def test_an_interface_of_the_node_comes_and_goes_back(kubelet: Kubelet, plugins: Plugins) -> None:
    subprocess.run(
        ["ip", "link", "add", "pwdev0", "type", "veth", "peer", "name", "pwpeer0"], check=True
    )
    try:
        subprocess.run(["ip", "addr", "add", "10.99.0.7/24", "dev", "pwdev0"], check=True)
        plugins("wirer", create=linux(net_devices={"pwdev0": {"name": "net1"}}))
        pod = kubelet.pod()
        container = pod.container().start()
        assert not Path("/sys/class/net/pwdev0").exists()
        said = container.exec("ip", "addr", "show", "net1", timeout=int(PATIENCE)).stdout
        assert b"10.99.0.7/24" in said
        pod.stop()
        assert Path("/sys/class/net/pwdev0").exists()
    finally:
        subprocess.run(["ip", "link", "delete", "pwpeer0"], check=False)
