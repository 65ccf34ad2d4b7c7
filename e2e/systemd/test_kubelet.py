"""The real kubelet and podwright as two services of one systemd: static pods, slices and scopes.

kubelet is configured for cgroupfs, wrongly: that it makes slices nevertheless is podwright's word.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from cri.api import api_pb2 as api
from e2e import kube, static_pods
from e2e.conftest import BUSYBOX
from e2e.images import Image
from e2e.images import busybox as busybox_layer
from e2e.kube import Json, RealKubelet
from e2e.kube_stats import wait_statistics
from e2e.kubelet import until
from e2e.node import REPOSITORY, Node
from e2e.shelter import ADDRESS, Shelter
from e2e.static_pods import FOREVER, busybox, static_pod
from e2e.systemd.conftest import PATIENCE, SERVICE, Machine, pod_units, show, stop_slices, systemctl
from e2e.test_limits import EAT, MIB

pytestmark = pytest.mark.skipif(bool(kube.missing()), reason=kube.missing())
GREEDY: Json = {"limits": {"memory": "32Mi"}}
STEADY = ("plain", "limited", "probed")
CGROUPS = Path("/sys/fs/cgroup")
PAGE = REPOSITORY / "docs/node.md"


@pytest.fixture(scope="module")
def real(machine: Machine) -> Iterator[RealKubelet]:
    """kubelet with all pods asked for; none of their units may be left afterwards."""
    layout = Image([busybox_layer()], {"Cmd": ["sh"]}).layout(machine.directory / "base", BUSYBOX)
    subprocess.run(["podwright", "images", "import", str(layout)], check=True, timeout=PATIENCE)
    subprocess.run(["ip", "link", "add", "kube0", "type", "bridge"], check=True)
    subprocess.run(["ip", "address", "add", f"{ADDRESS}/24", "dev", "kube0"], check=True)
    subprocess.run(["ip", "link", "set", "kube0", "up"], check=True)
    node = cast("Node", machine)
    changes = {"cgroupDriver": "cgroupfs", "cgroupRoot": "/"}
    kubelet = RealKubelet(node, Shelter(node), changes=changes, patience=8 * kube.PATIENCE)
    kubelet.start()
    kubelet.apply(
        static_pod("plain", busybox(f"echo hello; {FOREVER}")),
        static_pod("greedy", busybox(EAT, resources=GREEDY), restartPolicy="Never"),
        static_pods.limited(),
        static_pods.probed(patience=60),
    )
    yield kubelet
    kubelet.delete(*STEADY, "greedy")
    classes = {"kubepods.slice", "kubepods-burstable.slice", "kubepods-besteffort.slice"}
    until(lambda: pod_units() <= classes, "only slices of no pod are left", kubelet.patience)
    kubelet.clear()
    stop_slices()
    subprocess.run(["ip", "link", "delete", "kube0"], check=True)


def container_id(real: RealKubelet, name: str) -> str:
    said: str = real.container(name)["containerID"]
    return said.removeprefix("podwright://")


def scope(real: RealKubelet, name: str) -> str:
    return f"podwright-{container_id(real, name)}.scope"


def group(unit: str) -> Path:
    """The directory of a unit's cgroup."""
    return CGROUPS / show(unit, "ControlGroup")["ControlGroup"].lstrip("/")


def first_process(real: RealKubelet, name: str) -> int:
    """The oldest: beside it there may be a probe's."""
    pids = (group(scope(real, name)) / "container/cgroup.procs").read_text().split()
    return min(map(int, pids))


def lives(real: RealKubelet) -> dict[str, tuple[int, int]]:
    """The steady pods' first processes, and how often they were restarted."""
    found = {}
    for name in STEADY:
        real.wait_ready(name)
        found[name] = (first_process(real, name), real.container(name)["restartCount"])
    return found


def terminated(real: RealKubelet, name: str) -> Json:
    found: Json = real.container(name)["state"]["terminated"]
    return found


def test_a_static_pod_gets_running_and_ready(real: RealKubelet) -> None:
    pod = real.wait_ready("plain")
    assert pod["status"]["phase"] == "Running"
    assert pod["status"]["podIP"].startswith("10.87.")
    assert real.log("plain") == "hello\n"
    assert real.run("plain", "echo", "exec").strip() == "exec"


def test_kubelet_takes_our_word_for_the_cgroup_driver(real: RealKubelet) -> None:
    assert real.process is not None
    answer = real.node.client.call(
        "RuntimeConfig", api.RuntimeConfigRequest(), api.RuntimeConfigResponse
    )
    assert answer.linux.cgroup_driver == api.SYSTEMD
    (line,) = [
        line
        for line in real.process.log.read_text().splitlines()
        if "cgroup driver setting received from the CRI runtime" in line
    ]
    assert 'cgroupDriver="systemd"' in line


def test_pods_are_slices_and_containers_scopes_in_them(real: RealKubelet) -> None:
    uid = real.wait_ready("limited")["metadata"]["uid"].replace("-", "_")
    told = show(scope(real, "limited"), "Slice", "ActiveState", "Delegate")
    (name,) = [unit for unit in pod_units() if uid in unit]
    assert told == {"Slice": name, "ActiveState": "active", "Delegate": "yes"}
    assert "active (running)" in systemctl("status", "--no-pager", scope(real, "limited"))


def test_the_commands_of_the_page_show_pods_and_limits(real: RealKubelet) -> None:
    real.wait_ready("limited")
    step = PAGE.read_text().partition("\n## 5.")[2].splitlines()
    said = "".join(
        subprocess.run(
            ["sh", "-ec", line], capture_output=True, text=True, check=True, timeout=PATIENCE
        ).stdout
        for line in step
        if line.startswith("    ")
    )
    assert said.count(scope(real, "limited")) >= 3
    assert "sleep 1000000" in said
    assert f"MemoryMax={64 * MIB}\n" in said


def test_limits_are_in_the_cgroups_and_survive_a_reload(real: RealKubelet) -> None:
    real.wait_ready("limited")
    unit = scope(real, "limited")
    places = (group(unit) / "container", group(unit), group(unit).parent)
    wanted = [(str(64 * MIB), "25000 100000")] * len(places)

    def found() -> list[tuple[str, str]]:
        return [
            ((at / "memory.max").read_text().strip(), (at / "cpu.max").read_text().strip())
            for at in places
        ]

    assert found() == wanted
    systemctl("daemon-reload")
    assert found() == wanted


def test_who_takes_too_much_memory_is_told_so(real: RealKubelet) -> None:
    real.wait("greedy", kube.failed)
    ended = terminated(real, "greedy")
    assert (ended["exitCode"], ended["reason"]) == (137, "OOMKilled")


def test_exec_tcp_and_http_probes_find_what_they_ask_for(real: RealKubelet) -> None:
    real.wait_ready("probed")
    assert real.container("probed")["restartCount"] == 0


def test_the_summary_speaks_of_every_container(real: RealKubelet) -> None:
    real.wait_ready("plain")
    stats = wait_statistics(real, "plain", real.patience)
    assert stats["memory"]["usageBytes"] > 0  # the working set of so little may be nothing


@pytest.mark.parametrize("how", ["restart", "kill"])
def test_pods_keep_their_processes_when_the_service_begins_anew(
    real: RealKubelet, machine: Machine, how: str
) -> None:
    before, daemon = lives(real), machine.main_pid
    if how == "kill":
        os.kill(daemon, signal.SIGKILL)
        until(lambda: machine.main_pid not in (0, daemon), "systemd starts another", PATIENCE)
    else:
        systemctl("restart", SERVICE)
    machine.await_daemon()
    real.apply(static_pod("fresh", busybox(FOREVER)))
    real.wait_ready("fresh")  # so kubelet has looked at all of them since
    assert lives(real) == before
    real.delete("fresh")
    real.wait_gone("fresh")


def test_a_deleted_pod_leaves_no_unit(real: RealKubelet) -> None:
    real.apply(static_pod("brief", busybox(FOREVER)))
    uid = real.wait_ready("brief")["metadata"]["uid"].replace("-", "_")
    unit = scope(real, "brief")
    assert unit in pod_units()
    real.delete("brief")
    real.wait_gone("brief")
    until(lambda: not any(uid in name or name == unit for name in pod_units()), "gone", PATIENCE)
