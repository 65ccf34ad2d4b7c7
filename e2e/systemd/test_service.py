"""The unit: the daemon comes and goes, pods stay."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from cri.api import api_pb2 as api
from e2e.kubelet import Container, Kubelet, Pod, until
from e2e.systemd.conftest import PATIENCE, SERVICE, Machine, show, systemctl


@pytest.fixture
def container(kubelet: Kubelet) -> Container:
    return kubelet.pod().container().start()


def first_process(container: Container) -> int:
    scope = show(f"podwright-{container.id}.scope", "ControlGroup")["ControlGroup"]
    (pid,) = Path(f"/sys/fs/cgroup{scope}/container/cgroup.procs").read_text().split()
    return int(pid)


def test_the_service_says_when_it_is_ready_and_what_it_does(machine: Machine) -> None:
    told = show(SERVICE, "Type", "ActiveState", "StatusText", "WatchdogUSec", "OOMScoreAdjust")
    assert (told["Type"], told["ActiveState"]) == ("notify", "active")
    assert "serving" in told["StatusText"]
    assert told["WatchdogUSec"] != "0"
    assert Path(f"/proc/{machine.main_pid}/oom_score_adj").read_text() == "-999\n"


def test_a_container_does_not_inherit_what_protects_the_daemon(container: Container) -> None:
    pid = first_process(container)
    assert Path(f"/proc/{pid}/oom_score_adj").read_text().strip() == "0"


@pytest.mark.parametrize("how", ["restart", "kill", "stop"])
def test_a_pod_lives_through_the_end_of_the_daemon(
    machine: Machine, container: Container, how: str
) -> None:
    before, daemon = first_process(container), machine.main_pid
    if how == "kill":
        os.kill(daemon, signal.SIGKILL)
        until(lambda: machine.main_pid not in (0, daemon), "systemd starts another", PATIENCE)
    elif how == "stop":
        systemctl("stop", SERVICE)
        assert first_process(container) == before
        systemctl("start", SERVICE)
    else:
        systemctl("restart", SERVICE)
    machine.await_daemon()
    assert machine.main_pid != daemon
    assert first_process(container) == before
    assert container.status().state == api.CONTAINER_RUNNING
    assert container.exec("echo", "alive").stdout == b"alive\n"


def test_a_container_that_ends_meanwhile_is_told_of_truthfully(
    machine: Machine, kubelet: Kubelet
) -> None:
    pod: Pod = kubelet.pod()
    container = pod.container(["sh", "-c", "sleep 3; exit 5"]).start()
    systemctl("stop", SERVICE)
    scope = Path("/sys/fs/cgroup/podwright.slice")
    until(lambda: not any(scope.rglob(f"podwright-{container.id}.scope")), "it ended", PATIENCE)
    systemctl("start", SERVICE)
    machine.await_daemon()
    assert container.wait(PATIENCE).exit_code == 5


def test_no_limit_of_the_service_counts_pods(machine: Machine, container: Container) -> None:
    service = Path("/proc", str(machine.main_pid), "cgroup").read_text()
    pod = Path("/proc", str(first_process(container)), "cgroup").read_text()
    assert "podwright.service" in service
    assert "podwright.service" not in pod
