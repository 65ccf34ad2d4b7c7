"""Pods reach each other, the node reaches them, and nothing of them stays."""

from __future__ import annotations

import http.client
import json
from ipaddress import ip_address

import pytest

from cri.api import api_pb2 as api
from e2e.kubelet import Container, Kubelet, Pod, refused, until
from e2e.node import Node

SERVE = "echo 'page of the pod' > /tmp/index.html; exec httpd -f -p 8080 -h /tmp"


def server(pod: Pod) -> Container:
    """A container that answers on port 8080, in both families."""
    container = pod.container(["sh", "-c", SERVE]).start()
    listening = "grep -q ':1F90 .* 0A ' /proc/net/tcp /proc/net/tcp6"
    until(lambda: container.exec("sh", "-c", listening).exit_code == 0, "it listens")
    return container


def get(node: Node, host: str, port: int) -> str:
    """What a client on the node is answered."""

    def ask() -> str:
        connection = http.client.HTTPConnection(host, port, timeout=5)
        connection.request("GET", "/")
        return connection.getresponse().read().decode()

    return node.inside(ask)


def port_pod(kubelet: Kubelet, *mappings: api.PortMapping) -> Pod:
    return kubelet.pod(kubelet.config(port_mappings=mappings))


def addresses(pod: Pod) -> list[str]:
    network = pod.status().network
    return [network.ip, *(item.ip for item in network.additional_ips)]


def test_the_node_reaches_a_pod_in_both_families(node: Node, pod: Pod) -> None:
    server(pod)
    for address in addresses(pod):
        assert get(node, address, 8080) == "page of the pod\n"


def test_pods_reach_each_other_with_the_first_packet(kubelet: Kubelet, pod: Pod) -> None:
    server(pod)
    for address in addresses(pod):
        host = f"[{address}]" if ":" in address else address
        client = kubelet.pod()
        assert client.run(f"timeout 5 wget -qO- http://{host}:8080/") == ["page of the pod"]


def test_a_pod_reaches_the_node(kubelet: Kubelet, pod: Pod) -> None:
    gateway = pod.run("ip route | sed -n 's/^default via \\([^ ]*\\).*/\\1/p'")[0]
    assert ip_address(gateway) in {
        ip_address(entry["local"])
        for link in json.loads(kubelet.node.run("ip", "-j", "address").stdout)
        for entry in link["addr_info"]
    }
    assert pod.run(f"ping -c 1 -W 2 {gateway} > /dev/null && echo there") == ["there"]


def test_a_pod_finds_what_it_expects_in_its_network(pod: Pod) -> None:
    said = pod.run("ls /sys/class/net; cat /sys/class/net/lo/operstate; ip -4 addr show eth0")
    assert said[:2] == ["eth0", "lo"]
    assert any(f"inet {pod.ip}/16" in line for line in said)


@pytest.mark.parametrize("family", [0, 1])
def test_a_host_port_leads_into_the_pod(kubelet: Kubelet, node: Node, family: int) -> None:
    pod = port_pod(kubelet, api.PortMapping(container_port=8080, host_port=18080 + family))
    server(pod)
    route = json.loads(node.run("ip", "-j", "address", "show", "podwright0").stdout)
    own = [entry["local"] for entry in route[0]["addr_info"] if entry["scope"] == "global"]
    mine = next(a for a in own if (":" in a) == bool(family))
    assert get(node, mine, 18080 + family) == "page of the pod\n"
    assert get(node, "127.0.0.1", 18080 + family) == "page of the pod\n"
    other = kubelet.pod()
    host = f"[{mine}]" if family else mine
    url = f"http://{host}:{18080 + family}/"
    assert other.run(f"timeout 5 wget -qO- {url}") == ["page of the pod"]
    assert pod.run(f"timeout 5 wget -qO- {url}") == ["page of the pod"], "hairpin"


def test_a_host_port_of_one_address_is_not_open_at_another(kubelet: Kubelet, node: Node) -> None:
    mapping = api.PortMapping(container_port=8080, host_port=18090, host_ip="127.0.0.1")
    server(port_pod(kubelet, mapping))
    assert get(node, "127.0.0.1", 18090) == "page of the pod\n"
    bridge = json.loads(node.run("ip", "-j", "address", "show", "podwright0").stdout)
    address = next(e["local"] for e in bridge[0]["addr_info"] if e["family"] == "inet")
    with pytest.raises(ConnectionRefusedError):
        get(node, address, 18090)


def test_a_host_port_is_given_once_and_is_free_again(kubelet: Kubelet, node: Node) -> None:
    mapping = api.PortMapping(container_port=8080, host_port=18100)
    first = port_pod(kubelet, mapping)
    error = refused(lambda: port_pod(kubelet, mapping))
    assert "18100" in error.message
    first.stop()
    server(port_pod(kubelet, mapping))
    assert get(node, "127.0.0.1", 18100) == "page of the pod\n"


def test_addresses_are_unique_and_come_back(kubelet: Kubelet) -> None:
    pods = [kubelet.pod() for _ in range(5)]
    ips = [pod.ip for pod in pods]
    assert len(set(ips)) == 5
    leases = kubelet.node.state / "ipam"
    held = {path.name for path in leases.rglob("*") if path.is_file()}
    assert set(ips) <= held
    kubelet.clean()
    left = {path.name for path in leases.rglob("*") if path.is_file()}
    assert not set(ips) & left


def test_a_stopped_pod_gives_its_network_back(node: Node, pod: Pod) -> None:
    end = pod.container().start().exec("cat", "/sys/class/net/eth0/iflink").stdout.decode()

    def ends() -> list[str]:
        """By number: interfaces of earlier pods may still be on their way out."""
        links = json.loads(node.run("ip", "-json", "link").stdout)
        return [link["ifname"] for link in links if link["ifindex"] == int(end)]

    assert len(ends()) == 1
    pod.stop()
    until(lambda: not ends(), "the veth ends")
    assert not node.inventory()["namespaces"]
