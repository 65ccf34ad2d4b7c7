"""What NRI plugins want of containers that other runtimes make."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e import nri
from e2e.handlers import Candidate
from e2e.kubelet import Container, Kubelet
from e2e.node import Node
from e2e.nri import Plugins
from e2e.test_handlers import candidate, handlers_node
from e2e.test_nri import linux

__all__ = ["candidate", "handlers_node"]  # fixtures


@pytest.fixture
def plugins(handlers_node: Node) -> Iterator[Plugins]:
    with nri.plugins(handlers_node) as made:
        yield made


def namespace(container: Container, kind: str) -> int:
    pid = json.loads(container.response(verbose=True).info["info"])["pid"]
    return Path(f"/proc/{pid}/ns/{kind}").stat().st_ino


def test_namespaces_sysctls_and_interfaces_are_what_plugins_want(
    kubelet: Kubelet, candidate: Candidate, plugins: Plugins
) -> None:
    if candidate.kernel_of_its_own:
        pytest.skip("its containers have no namespaces of this kernel")
    node = kubelet.node
    node.run("ip", "link", "add", "pwdev0", "type", "veth", "peer", "name", "pwpeer0")
    try:
        pod = kubelet.pod(handler=candidate.name)
        usual = pod.container().start()
        wirer = plugins(
            "wirer",
            create=linux(
                sysctl={"net.ipv4.ip_forward": "1"}, net_devices={"pwdev0": {"name": "net1"}}
            ),
        )
        wired = pod.container().start()
        assert wired.shell("cat /proc/sys/net/ipv4/ip_forward") == "1"
        assert "net1" in wired.shell("ip -o link show net1")
        wirer.wants(create=linux(namespaces=[{"type": "network"}, {"type": "-uts"}]))
        apart = pod.container().start()
        of_node = Path(f"/proc/{node.holder.pid}/ns")
        assert namespace(apart, "uts") == (of_node / "uts").stat().st_ino
        pods = namespace(usual, "net")
        assert namespace(apart, "net") not in (pods, (of_node / "net").stat().st_ino)
        assert namespace(apart, "ipc") == namespace(usual, "ipc")
        pod.remove()
        assert node.run("ip", "link", "show", "pwdev0").returncode == 0
    finally:
        node.run("ip", "link", "delete", "pwpeer0")
