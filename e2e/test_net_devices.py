"""Interfaces of the node that pods take, by NRI plugins and CDI: in, up, and back again."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from cri.api import api_pb2 as api
from e2e import nri
from e2e.kubelet import Container, Kubelet, Pod, refused, until
from e2e.node import Node
from e2e.nri import Plugins
from e2e.test_devices import GPU, Specs, named, specs
from e2e.test_nri import linux
from e2e.test_restart import monitor
from e2e.test_user_namespaces import user_pod

__all__ = ["specs"]  # a fixture

Code = grpc.StatusCode
MAC = "02:00:00:00:00:07"


@pytest.fixture
def plugins(node: Node) -> Iterator[Plugins]:
    with nri.plugins(node) as made:
        yield made


@pytest.fixture
def device(node: Node) -> Iterator[str]:
    """An interface of the node, with two addresses, one of which does not last."""
    pair = ("address", MAC, "mtu", "1400", "type", "veth", "peer", "name", "pwpeer0")
    ip(node, "link", "add", "pwdev0", *pair)
    ip(node, "addr", "add", "10.77.0.7/24", "dev", "pwdev0")
    ip(node, "addr", "add", "fd77::7/64", "dev", "pwdev0", "nodad")
    ip(
        node,
        "addr",
        "add",
        "10.77.0.8/24",
        "dev",
        "pwdev0",
        "valid_lft",
        "999",
        "preferred_lft",
        "9",
    )
    ip(node, "link", "set", "pwdev0", "up")
    yield "pwdev0"
    node.run("ip", "link", "delete", "pwpeer0")


def ip(node: Node, *words: str) -> None:
    done = node.run("ip", *words)
    assert done.returncode == 0, done.stderr


def shown(node: Node, name: str, container: Container | None = None) -> dict[str, Any]:
    """An interface as the kernel has it, of the node, or where a container is; {}: none."""
    inside: tuple[str, ...] = ()
    if container is not None:
        pid = json.loads(container.response(verbose=True).info["info"])["pid"]
        inside = ("nsenter", f"--target={pid}", "--net")
    done = node.run(*inside, "ip", "-json", "addr", "show", "dev", name)
    if done.returncode:
        return {}
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found[0]


def addresses(interface: dict[str, Any]) -> set[str]:
    return {
        f"{one['local']}/{one['prefixlen']}"
        for one in interface["addr_info"]
        if one["scope"] == "global"
    }


KEPT = {"10.77.0.7/24", "fd77::7/64"}


def wish(name: str = "net1", host: str = "pwdev0") -> dict[str, object]:
    return linux(net_devices={host: {"name": name}})


@pytest.mark.parametrize("users", [False, True])
def test_an_interface_of_the_node_is_the_pods_while_it_lives(
    kubelet: Kubelet, node: Node, plugins: Plugins, device: str, *, users: bool
) -> None:
    plugins("wirer", create=wish())
    pod = user_pod(kubelet) if users else kubelet.pod()
    first = pod.container().start()
    assert shown(node, device) == {}
    there = shown(node, "net1", first)
    assert (there["address"], there["mtu"], "UP" in there["flags"]) == (MAC, 1400, True)
    assert addresses(there) == KEPT
    first.remove()
    second = pod.container().start()  # as kubelet does when a container has ended
    assert addresses(shown(node, "net1", second)) == KEPT
    pod.stop()
    back = shown(node, device)
    assert (back["address"], addresses(back), "UP" in back["flags"]) == (MAC, KEPT, True)


def test_it_goes_back_after_the_daemon_has_been_killed(
    kubelet: Kubelet, node: Node, plugins: Plugins, device: str
) -> None:
    plugins("wirer", create=wish(""))
    pod = kubelet.pod()
    pod.container().start()
    node.restart_daemon(how=signal.SIGKILL)
    assert shown(node, device) == {}
    pod.stop()
    assert addresses(shown(node, device)) == KEPT


def test_without_a_monitor_the_kernel_has_it(
    kubelet: Kubelet, node: Node, plugins: Plugins, device: str
) -> None:
    plugins("wirer", create=wish())
    pod = kubelet.pod()
    pod.container().start()
    os.kill(monitor(pod), signal.SIGKILL)
    pod.stop()  # of what is no hardware nothing remains
    until(lambda: not shown(node, device) and not shown(node, "pwpeer0"), "it is gone")
    pod.remove()
    assert list((node.state / "net" / "devices").iterdir()) == []


def test_what_can_not_move_fails_the_start_and_leaves_all_in_place(
    kubelet: Kubelet, node: Node, pod: Pod, plugins: Plugins, device: str
) -> None:
    wirer = plugins("wirer", create=linux(net_devices={device: {"name": "a"}, "none0": {}}))
    error = refused(pod.container().start)
    assert (error.code, error.message) == (
        Code.FAILED_PRECONDITION,
        "network device none0: the node has no such interface",
    )
    assert addresses(shown(node, device)) >= KEPT
    wirer.wants(create=wish("eth0"))
    error = refused(pod.container().start)
    assert error.message == "network device pwdev0: the pod has an interface eth0 already"
    bridge = next(name for _, name in node.inside(socket.if_nameindex) if "podwright" in name)
    wirer.wants(create=wish("net1", bridge))
    assert "the pods' own network needs it" in refused(pod.container().start).message
    assert addresses(shown(node, device)) >= KEPT
    assert {one.state for one in kubelet.containers(pod_sandbox_id=pod.id)} == {
        api.CONTAINER_EXITED
    }


def test_what_a_container_puts_in_its_place_never_gets_onto_the_node(
    kubelet: Kubelet, node: Node, plugins: Plugins, device: str
) -> None:
    plugins("wirer", create=wish())
    pod = kubelet.pod()
    container = pod.container().start()
    pid = json.loads(container.response(verbose=True).info["info"])["pid"]
    inside = ("nsenter", f"--target={pid}", "--net", "ip", "link")
    other = "02:00:00:00:00:66"
    for words in (
        ("set", "net1", "down"),
        ("set", "net1", "name", "hidden"),
        ("add", "net1", "address", MAC, "type", "veth", "peer", "name", "pwdev0"),
        ("set", "pwdev0", "address", other),
    ):
        done = node.run(*inside, *words)
        assert done.returncode == 0, done.stderr
    pod.stop()
    back = shown(node, device)
    assert (back["address"], addresses(back), "UP" in back["flags"]) == (MAC, KEPT, True)
    assert back["link"] == "pwpeer0"  # it is the very one
    assert other not in node.run("ip", "link").stdout


def test_what_fails_half_way_is_moved_back(
    node: Node, pod: Pod, plugins: Plugins, device: str
) -> None:
    wirer = plugins("wirer", create=linux(sysctl={"net.ipv6.conf.default.disable_ipv6": "1"}))
    pod.container().start()  # for what comes later; and it has an address of IPv6
    wirer.wants(create=wish())
    error = refused(pod.container().start)
    assert error.message.startswith("moving interface pwdev0 into the pod as net1: ")
    back = shown(node, device)
    assert (addresses(back), "UP" in back["flags"]) == (KEPT, True)


def test_two_plugins_do_not_want_the_same_one(pod: Pod, plugins: Plugins, device: str) -> None:
    plugins("one", "10", create=wish("a"))
    plugins("two", "20", create=wish("b"))
    error = refused(pod.container)
    text = "NRI plugins 10-one and 20-two both tried to set LinuxNetDevices pwdev0"
    assert error.message == text


def test_two_pods_do_not_have_the_same_one(
    kubelet: Kubelet, node: Node, plugins: Plugins, device: str
) -> None:
    plugins("wirer", create=wish())
    first, second = kubelet.pod(), kubelet.pod()
    first.container().start()
    error = refused(second.container().start)
    assert error.message == "network device pwdev0: the node has no such interface"
    second.stop()
    assert shown(node, device) == {}
    first.stop()
    assert addresses(shown(node, device)) == KEPT


def test_it_is_for_a_pod_with_a_network_of_its_own(
    kubelet: Kubelet, plugins: Plugins, device: str
) -> None:
    plugins("wirer", create=wish())
    config = kubelet.config()
    config.linux.security_context.namespace_options.network = api.NODE
    pod = kubelet.pod(config)
    assert "they go into the pod's network" in refused(pod.container).message


def test_later_plugins_see_it(pod: Pod, plugins: Plugins, device: str) -> None:
    plugins("wirer", "10", create=wish())
    late = plugins("late", "20")
    container = pod.container().start()
    for call in ("create", "start"):
        (told,) = late.heard(call)
        assert told["container"]["linux"]["net_devices"] == {device: {"name": "net1"}}
    assert container.status().state == api.CONTAINER_RUNNING


def test_an_interface_may_come_with_a_cdi_device(
    node: Node, pod: Pod, specs: Specs, device: str
) -> None:
    edits: dict[str, object] = {"netDevices": [{"hostInterfaceName": device, "name": "net1"}]}
    specs.write("etc/nic.json", {"0": edits}, cdiVersion="1.1.0")
    container = pod.container(CDI_devices=named(f"{GPU}=0")).start()
    assert addresses(shown(node, "net1", container)) == KEPT
    pod.stop()
    assert addresses(shown(node, device)) == KEPT


def test_an_interface_of_a_cdi_device_that_can_not_be_is_refused_by_name(
    kubelet: Kubelet, pod: Pod, specs: Specs
) -> None:
    edits: dict[str, object] = {"netDevices": [{"hostInterfaceName": "eth7", "name": "a/b"}]}
    specs.write("etc/nic.json", {"0": edits}, cdiVersion="1.1.0")
    asked = named(f"{GPU}=0")
    error = refused(lambda: pod.container(CDI_devices=asked))
    assert error.code is Code.INVALID_ARGUMENT
    assert "config.CDI_devices: eth7: 'a/b' can't be the name of an interface" in error.message
    config = kubelet.config()
    config.linux.security_context.namespace_options.network = api.NODE
    specs.write("etc/nic.json", {"0": {**edits, "netDevices": []}}, cdiVersion="1.1.0")
    assert kubelet.pod(config).container(CDI_devices=asked).start()
