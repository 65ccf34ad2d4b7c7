"""After pods, nothing: no mount, interface, rule, cgroup, process, namespace or file."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cri.api import api_pb2 as api
from e2e.kubelet import Kubelet, refused, until
from e2e.node import Node
from e2e.test_container import security
from e2e.test_network import port_pod, server

PODS = 30


def life(kubelet: Kubelet, port: int) -> None:
    """A pod with all that a pod can have, removed in one of three ways."""
    pod = port_pod(kubelet, api.PortMapping(container_port=8080, host_port=port))
    serving = server(pod)
    serving.exec("true")
    pod.container(["sh", "-c", "echo x; exit 1"]).start().wait()
    pod.container(["sh", "-c", "setsid sleep 1000 & setsid sleep 1000 & wait"]).start()
    pod.container()
    refused(pod.container(["/no/such/program"]).start)
    if port % 3 == 0:
        serving.stop(grace=1)
        serving.remove()
    if port % 3 == 1:
        pod.stop()
    pod.remove()
    kubelet.pods.remove(pod)


def test_many_lives_leave_nothing(kubelet: Kubelet, node: Node) -> None:
    before = node.inventory()
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda port: life(kubelet, port), range(19000, 19000 + PODS)))
    assert node.leaks(before) == []
    assert kubelet.sandboxes() == []
    assert kubelet.containers() == []


def test_a_pod_that_can_not_be_made_leaves_nothing(kubelet: Kubelet, node: Node) -> None:
    before = node.inventory()
    config = kubelet.config(linux=api.LinuxPodSandboxConfig(sysctls={"net.no.such": "1"}))
    for _ in range(5):
        refused(lambda: kubelet.pod(config))
    assert node.leaks(before) == []


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def test_the_daemon_keeps_neither_descriptors_nor_memory_of_pods_that_are_gone(
    kubelet: Kubelet, node: Node
) -> None:
    assert node.daemon is not None
    pid = node.daemon.process.pid

    def round_of_lives() -> tuple[int, int]:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda _: one_life(kubelet), range(20)))
        status = Path(f"/proc/{pid}/status").read_text()
        resident = next(line for line in status.splitlines() if line.startswith("VmRSS"))
        return descriptors(pid), int(resident.split()[1])

    round_of_lives()
    first = round_of_lives()
    last = round_of_lives()
    # image workers come and go: what is open for one is closed a moment later
    until(lambda: descriptors(pid) <= first[0] + 2, f"descriptors: {first[0]}, then {last[0]}")
    assert last[1] <= first[1] + 4096, "KiB resident"


def one_life(kubelet: Kubelet) -> None:
    pod = kubelet.pod()
    pod.container(["true"], linux=security()).start().wait()
    pod.remove()
    kubelet.pods.remove(pod)
