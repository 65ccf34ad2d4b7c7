"""What NRI plugins do to what containers of a pod have in common, as the kernel shows it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from cri.api import api_pb2 as api
from e2e import nri
from e2e.kubelet import Container, Kubelet, Pod, refused, until
from e2e.node import Node
from e2e.nri import Plugins
from e2e.test_limits import MIB, UNIFIED, control, resources
from e2e.test_nri import limits, linux, value
from e2e.test_update import update
from e2e.test_user_namespaces import user_pod

Code = grpc.StatusCode
FORWARD = "/proc/sys/net/ipv4/ip_forward"
MOST = "/proc/sys/kernel/msgmax"


@pytest.fixture
def plugins(node: Node) -> Iterator[Plugins]:
    with nri.plugins(node) as made:
        yield made


def namespace(container: Container, kind: str) -> int:
    """The inode of a namespace of the container, as the node sees it."""
    return Path(f"/proc/{pid(container)}/ns/{kind}").stat().st_ino


def pid(container: Container) -> int:
    found: int = json.loads(container.response(verbose=True).info["info"])["pid"]
    return found


def of_node(node: Node, kind: str) -> int:
    return Path(f"/proc/{node.holder.pid}/ns/{kind}").stat().st_ino


def test_sysctls_are_those_of_the_pods_namespaces(
    kubelet: Kubelet, node: Node, pod: Pod, plugins: Plugins
) -> None:
    plugins("tuner", create=linux(sysctl={"net.ipv4.ip_forward": "1", "kernel.msgmax": "4711"}))
    before = Path(MOST).read_text()
    assert pod.run(f"cat {FORWARD} {MOST}") == ["1", "4711"]
    other = kubelet.pod().container().start()
    assert Path(MOST).read_text() == before
    assert other.shell(f"cat {MOST}") == "4711"  # it is asked for there, too


def test_a_pod_of_its_own_users_has_sysctls_set_as_well(kubelet: Kubelet, plugins: Plugins) -> None:
    plugins("tuner", create=linux(sysctl={"net.ipv4.ip_forward": "1", "kernel.msgmax": "4711"}))
    pod = user_pod(kubelet)
    assert pod.run(f"cat {FORWARD} {MOST}") == ["1", "4711"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("kernel.panic", "belongs to the node, not to a pod"),
        ("vm.swappiness", "belongs to the node, not to a pod"),
        ("net/../kernel/panic", "belongs to the node, not to a pod"),
        ("kernel.msgmax\n", "can't be the name of a sysctl"),
    ],
)
def test_a_sysctl_of_the_node_is_refused_with_the_plugins_name(
    pod: Pod, plugins: Plugins, name: str, words: str
) -> None:
    plugins("tuner", create=linux(sysctl={name: "1"}))
    error = refused(pod.container)
    assert error.code is Code.UNIMPLEMENTED
    assert error.message.startswith("NRI plugin 10-tuner: linux.sysctl")
    assert words in error.message


def test_in_the_nodes_network_nobody_sets_its_sysctls(kubelet: Kubelet, plugins: Plugins) -> None:
    config = kubelet.config()
    config.linux.security_context.namespace_options.network = api.NODE
    pod = kubelet.pod(config)
    plugins("tuner", create=linux(sysctl={"net.ipv4.ip_forward": "1"}))
    assert "the node's network namespace" in refused(pod.container).message


def test_a_sysctl_that_the_kernel_refuses_is_said_by_its_name(pod: Pod, plugins: Plugins) -> None:
    plugins("tuner", create=linux(sysctl={"net.ipv4.ip_forward": "perhaps"}))
    error = refused(pod.container().start)
    assert "the sysctl net/ipv4/ip_forward can't be set to 'perhaps'" in error.message


def test_two_plugins_do_not_set_one_sysctl(pod: Pod, plugins: Plugins) -> None:
    for name, index in (("one", "10"), ("two", "20")):
        plugins(name, index, create=linux(sysctl={"net.ipv4.ip_forward": "1"}))
    error = refused(pod.container)
    text = "NRI plugins 10-one and 20-two both tried to set Sysctl net.ipv4.ip_forward"
    assert error.message == text


def test_namespaces_may_be_new_the_nodes_or_joined(node: Node, pod: Pod, plugins: Plugins) -> None:
    usual = pod.container().start()
    wishes = [{"type": "network"}, {"type": "-uts"}, {"type": "-pid"}]
    plugins("sets-apart", create=linux(namespaces=wishes))
    apart = pod.container().start()
    assert namespace(apart, "net") not in (namespace(usual, "net"), of_node(node, "net"))
    assert apart.shell("ip -o addr show lo").count("inet") >= 1
    assert namespace(apart, "uts") == of_node(node, "uts")
    assert namespace(apart, "pid") == of_node(node, "pid")
    assert namespace(apart, "ipc") == namespace(usual, "ipc")
    plugins.made[0].wants(
        create=linux(namespaces=[{"type": "network", "path": f"/proc/{pid(apart)}/ns/net"}])
    )
    third = pod.container().start()
    assert namespace(third, "net") == namespace(apart, "net")


def test_a_namespace_that_is_not_there_is_named(pod: Pod, plugins: Plugins) -> None:
    plugins("lost", create=linux(namespaces=[{"type": "ipc", "path": "/run/no/such"}]))
    assert 'the namespace "/run/no/such"' in refused(pod.container().start).message


def test_the_nodes_sysctls_are_not_set_by_a_path_to_its_namespace(
    node: Node, pod: Pod, plugins: Plugins
) -> None:
    wish = {"type": "network", "path": f"/proc/{node.holder.pid}/ns/net"}
    plugins("sly", create=linux(namespaces=[wish], sysctl={"net.ipv4.ip_default_ttl": "77"}))
    error = refused(pod.container().start)
    assert f'the namespace "{wish["path"]}" is the node\'s, in which no pod' in error.message
    assert node.run("cat", "/proc/sys/net/ipv4/ip_default_ttl").stdout.strip() != "77"
    plugins.made[0].wants(create=linux(namespaces=[wish]))
    assert namespace(pod.container().start(), "net") == of_node(node, "net")


def test_a_pipe_in_the_place_of_a_namespace_is_not_waited_for(
    pod: Pod, plugins: Plugins, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "fifo")
    wish = {"type": "network", "path": str(tmp_path / "fifo")}
    plugins("lost", create=linux(namespaces=[wish]))
    assert f'the namespace "{tmp_path}/fifo"' in refused(pod.container().start).message


@pytest.mark.skipif(UNIFIED, reason="cgroup v1 only")
def test_memory_has_what_cgroup_v1_knows(pod: Pod, plugins: Plugins) -> None:
    memory = {
        "swappiness": value(7),
        "kernel_tcp": value(4 * MIB),
        "use_hierarchy": {"value": True},
    }
    plugins("miser", create=limits(memory=memory))
    container = pod.container(linux=resources(memory_limit_in_bytes=64 * MIB)).start()
    assert control(container, "memory", "memory.swappiness", "") == "7"
    assert control(container, "memory", "memory.kmem.tcp.limit_in_bytes", "") == str(4 * MIB)


@pytest.mark.skipif(not UNIFIED, reason="cgroup v2 only")
@pytest.mark.parametrize("memory", [{"swappiness": value(7)}, {"kernel_tcp": value(1)}])
def test_memory_has_not_what_cgroup_v2_does_not_know(
    pod: Pod, plugins: Plugins, memory: dict[str, object]
) -> None:
    plugins("miser", create=limits(memory=memory))
    assert "cgroup v2 can't do that" in refused(pod.container).message


def test_an_update_may_go_beyond_the_words_of_cri_and_is_kept(
    node: Node, pod: Pod, plugins: Plugins
) -> None:
    container = pod.container(linux=resources(memory_limit_in_bytes=64 * MIB)).start()
    created = pod.container()
    miser = plugins("miser")
    memory: dict[str, object] = {"reservation": value(16 * MIB)}
    if not UNIFIED:
        memory |= {"swappiness": value(7), "disable_oom_killer": {"value": True}}
    wanted = {"resources": {"memory": memory, "pids": {"limit": 77}, "cpu": {"cpus": "0"}}}
    both = [{"container_id": one.id, "linux": wanted} for one in (container, created)]
    assert miser.unasked(update=both) == []
    node.restart_daemon()
    created.start()
    for one in (container, created):
        soft = control(one, "memory", "memory.soft_limit_in_bytes", "memory.low")
        assert (soft, control(one, "pids", "pids.max", "pids.max")) == (str(16 * MIB), "77")
        assert control(one, "cpuset", "cpuset.cpus", "cpuset.cpus") == "0"
        if not UNIFIED:
            assert control(one, "memory", "memory.swappiness", "") == "7"
            assert "oom_kill_disable 1" in control(one, "memory", "memory.oom_control", "")
    (told,) = [
        one for one in plugins("late", "20").heard("synchronize")[-1]["containers"]
        if one["id"] == created.id
    ]  # fmt: skip
    assert told["linux"]["resources"]["pids"] == {"limit": "77"}


def test_a_request_to_update_may_become_one_that_cri_has_no_words_for(
    pod: Pod, plugins: Plugins
) -> None:
    container = pod.container().start()
    more = {"resources": {"pids": {"limit": 99}}}
    miser = plugins("miser", update={"update": [{"container_id": container.id, "linux": more}]})
    update(container, cpu_shares=512)
    assert control(container, "pids", "pids.max", "pids.max") == "99"
    classes = {"resources": {"blockio_class": {"value": "gold"}}}
    miser.wants(update={"update": [{"container_id": container.id, "linux": classes}]})
    error = refused(lambda: update(container, cpu_shares=256))
    assert error.message.endswith("blockio_class: can't be changed of a container that exists")


@pytest.mark.skipif(UNIFIED, reason="cgroup v1 only")
def test_an_update_of_which_a_part_is_refused_changes_nothing(pod: Pod, plugins: Plugins) -> None:
    container = pod.container().start()
    before = control(container, "memory", "memory.swappiness", "")
    wanted = {
        "memory": {"swappiness": value(7), "disable_oom_killer": {"value": True}},
        "cpu": {"cpus": "4000"},
    }
    whole = {"container_id": container.id, "linux": {"resources": wanted}}
    assert plugins("miser").unasked(update=[whole]) == [container.id]
    assert control(container, "memory", "memory.swappiness", "") == before
    assert "oom_kill_disable 0" in control(container, "memory", "memory.oom_control", "")


def cgroup_of(container: Container) -> str:
    """Its path in the hierarchy that counts memory."""
    lines = Path(f"/proc/{pid(container)}/cgroup").read_text().splitlines()
    kinds = {kind: path for _, kind, path in (line.split(":", 2) for line in lines)}
    return kinds.get("memory") or kinds[""]


def test_a_cgroup_may_be_anywhere_below_the_pods(node: Node, pod: Pod, plugins: Plugins) -> None:
    usual = pod.container().start()
    parent = cgroup_of(usual).rpartition("/")[0]
    placer = plugins("placer", create=linux(cgroups_path=f"{parent}/fast/one"))
    container = pod.container(linux=resources(memory_limit_in_bytes=64 * MIB)).start()
    assert cgroup_of(container) == f"{parent}/fast/one"
    assert f"{parent}/fast/one" not in container.shell("cat /proc/self/cgroup")  # its own root
    stats = kubelet_stats(container)
    assert stats.memory.usage_bytes.value > 0
    less = {"resources": {"memory": {"limit": value(32 * MIB)}}}
    failed = placer.unasked(update=[{"container_id": container.id, "linux": less}])
    assert failed == []
    top = Path("/sys/fs/cgroup") if UNIFIED else Path("/sys/fs/cgroup/memory")
    file = (
        top
        / f"{parent}/fast/one".lstrip("/")
        / ("memory.max" if UNIFIED else "memory.limit_in_bytes")
    )
    assert file.read_text().strip() == str(32 * MIB)
    for place in (f"{parent}/fast/one", f"{parent}/fast", f"{parent}/{usual.id}/below"):
        placer.wants(create=linux(cgroups_path=place))
        assert "another container of the pod has" in refused(pod.container).message
    placer.wants(create=linux(cgroups_path="/elsewhere/one"))
    error = refused(pod.container).message
    assert error.startswith(
        "NRI plugin 10-placer: linux.cgroups_path: '/elsewhere/one' is not below"
    )
    node.restart_daemon()
    assert kubelet_stats(container).memory.usage_bytes.value > 0
    container.stop()
    assert not file.exists()


def kubelet_stats(container: Container) -> api.ContainerStats:
    answer = container.kubelet.client.call(
        "ContainerStats",
        api.ContainerStatsRequest(container_id=container.id),
        api.ContainerStatsResponse,
    )
    return answer.stats


@pytest.mark.parametrize("call", ["start", "post_start"])
def test_a_plugin_updates_a_container_within_the_call_that_is_about_it(
    pod: Pod, plugins: Plugins, call: str
) -> None:
    less = {"linux": {"resources": {"memory": {"limit": value(48 * MIB)}}}}
    keen = plugins("keen", meanwhile={call: {"update": [less]}})
    container = pod.container(linux=resources(memory_limit_in_bytes=64 * MIB))
    began = time.monotonic()
    container.start()
    assert time.monotonic() - began < 2  # the time that an answer may take
    assert keen.heard("meanwhile")[0]["failed"] == []
    assert keen.connected
    assert control(container, "memory", "memory.limit_in_bytes", "memory.max") == str(48 * MIB)
    assert container.status().resources.linux.memory_limit_in_bytes == 48 * MIB


@pytest.mark.parametrize("call", ["create", "stop", "remove"])
def test_where_there_is_nothing_to_update_it_hears_so_at_once(
    pod: Pod, plugins: Plugins, call: str
) -> None:
    less = {"linux": {"resources": {"memory": {"limit": value(48 * MIB)}}}}
    keen = plugins("keen", meanwhile={call: {"update": [less]}})
    container = pod.container()
    container.remove()
    assert keen.heard("meanwhile")[0]["failed"] == [container.id]
    assert keen.connected


@pytest.mark.parametrize("call", ["start", "post_start"])
def test_a_container_that_is_evicted_as_it_starts_ends(
    pod: Pod, plugins: Plugins, call: str
) -> None:
    plugins("judge", meanwhile={call: {"evict": [{"reason": "not here"}]}})
    container = pod.container().start()
    until(lambda: container.status().state == api.CONTAINER_EXITED, "it has ended")
    assert container.status().exit_code == 137
