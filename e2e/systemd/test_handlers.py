"""Containers of OCI binaries on a node of systemd's: a scope of podwright's, in it the binary's own
cgroup."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from cri.api import api_pb2 as api
from e2e.handlers import CANDIDATES, tables
from e2e.kubelet import Container, Kubelet, Pod, refused, until
from e2e.systemd.conftest import PATIENCE, SERVICE, Machine, pod_units, show, systemctl
from e2e.systemd.test_units import EAT, directory, files, scope
from e2e.test_limits import MIB, resources
from e2e.test_update import update

FILE = Path("/etc/podwright/conf.d/20-handlers.toml")
BINARIES = [one for one in CANDIDATES if one.program and not one.kernel_of_its_own]


@pytest.fixture(scope="module")
def configured(machine: Machine) -> Iterator[None]:
    FILE.write_text(tables())
    systemctl("restart", SERVICE)
    machine.await_daemon()
    yield
    FILE.unlink()
    systemctl("restart", SERVICE)
    machine.await_daemon()


@pytest.fixture(params=BINARIES, ids=lambda one: one.name)
def pod(request: pytest.FixtureRequest, kubelet: Kubelet, configured: None) -> Pod:
    if request.param.path is None:
        pytest.skip(f"{request.param.program} is not installed")
    return kubelet.pod(handler=request.param.name)


def limited(pod: Pod, *command: str) -> Container:
    asked = resources(
        memory_limit_in_bytes=64 * MIB, cpu_period=100_000, cpu_quota=25_000, cpu_shares=512
    )
    return pod.container(command or ("sleep", "1000000"), linux=asked).start()


def shown(container: Container) -> tuple[str, str]:
    told = show(scope(container), "MemoryMax", "CPUQuotaPerSecUSec")
    return told["MemoryMax"], told["CPUQuotaPerSecUSec"]


def written(container: Container) -> tuple[str, str]:
    found = files(container)
    return found["memory.max"], found["cpu.max"]


def test_its_container_is_in_a_scope_and_limited_by_both(pod: Pod) -> None:
    container = limited(pod)
    told = show(scope(container), "Slice", "ActiveState", "Delegate")
    assert told == {
        "Slice": f"podwright-{pod.id}.slice",
        "ActiveState": "active",
        "Delegate": "yes",
    }
    assert shown(container) == (str(64 * MIB), "250ms")
    assert written(container) == (str(64 * MIB), "25000 100000")
    (pid,) = (directory(container) / "cgroup.procs").read_text().split()
    assert b"sleep" in Path(f"/proc/{pid}/cmdline").read_bytes()
    assert not (directory(container).parent / "seat").exists()


def test_new_limits_are_the_scopes_too_and_stay_when_systemd_reloads(pod: Pod) -> None:
    container = limited(pod)
    update(container, memory_limit_in_bytes=96 * MIB, cpu_quota=50_000)
    for _ in range(2):
        assert shown(container) == (str(96 * MIB), "500ms")
        assert written(container) == (str(96 * MIB), "50000 100000")
        systemctl("daemon-reload")
    assert container.exec("true").exit_code == 0


def test_a_command_runs_in_the_containers_cgroup(pod: Pod) -> None:
    container = limited(pod)
    script = "sleep 1234 & echo $!; cat /proc/self/cgroup"
    assert container.exec("sh", "-c", script).exit_code == 0
    commands = [
        Path(f"/proc/{pid}/cmdline").read_bytes()
        for pid in (directory(container) / "cgroup.procs").read_text().split()
    ]
    assert any(b"1234" in words for words in commands)


def test_who_takes_too_much_memory_is_killed_and_it_is_said(pod: Pod) -> None:
    linux = resources(memory_limit_in_bytes=24 * MIB, memory_swap_limit_in_bytes=24 * MIB)
    neighbour = pod.container().start()
    status = pod.container(["sh", "-c", EAT], linux=linux).start().wait(PATIENCE)
    assert (status.exit_code, status.reason) == (137, "OOMKilled"), status
    neighbour.stop()
    assert neighbour.wait(PATIENCE).reason != "OOMKilled"


def test_it_hears_the_signal_and_leaves_no_scope(pod: Pod) -> None:
    script = "trap 'exit 9' TERM; echo up; while :; do sleep 0.1; done"
    container = pod.container(["sh", "-c", script]).start()
    until(lambda: container.log() == ["up"], "it is up", PATIENCE)
    container.stop(grace=60)
    assert container.wait(PATIENCE).exit_code == 9
    until(lambda: scope(container) not in pod_units(), "its scope is gone", PATIENCE)


def test_a_start_that_fails_leaves_no_scope(pod: Pod) -> None:
    container = pod.container(["/no/such/program"])
    assert "/no/such/program" in refused(container.start).message
    until(lambda: scope(container) not in pod_units(), "its scope is gone", PATIENCE)


def test_nothing_is_left_of_a_pod_whose_monitor_was_killed(pod: Pod) -> None:
    container = limited(pod)
    assert container.exec("true").exit_code == 0
    monitor = int(Path(f"/run/podwright/monitors/{pod.id}/pid").read_text().split()[0])
    os.kill(monitor, signal.SIGKILL)
    until(lambda: pod.status().state == api.SANDBOX_NOTREADY, "the pod is lost", PATIENCE)
    pod.remove()
    pod.kubelet.pods.remove(pod)
    until(lambda: scope(container) not in pod_units(), "its scope is gone", PATIENCE)
    assert f"podwright-{pod.id}.slice" not in pod_units()
