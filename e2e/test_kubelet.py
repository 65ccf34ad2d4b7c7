"""The real kubelet and podwright: what pods are promised, kept by the two together.

One kubelet serves all tests; all pods are asked for at once and each test waits for its own.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from cri.cli.logfile import parse
from e2e import images, kube
from e2e.conftest import BUSYBOX, push_images
from e2e.forward_client import PROTOCOL, Forwarded
from e2e.kube import Json, RealKubelet
from e2e.kube_stats import metric, wait_statistics
from e2e.kubelet import Kubelet, until
from e2e.node import REGISTRY, Node, started
from e2e.shelter import ADDRESS, TUNABLES
from e2e.spdy_client import Command, SpdyClient
from e2e.static_pods import CHUNK, CHUNKS, FOREVER, HOST_PORT, busybox, pods, static_pod
from e2e.test_limits import MIB, UNIFIED
from e2e.test_network import get
from e2e.websocket_client import websocket_client

pytestmark = pytest.mark.skipif(bool(kube.missing()), reason=kube.missing())


@pytest.fixture(scope="module")
def machine() -> Iterator[Node]:
    with started() as node:
        node.inside(lambda: push_images(images.Registry(REGISTRY)))
        yield node


@pytest.fixture(scope="module")
def real(machine: Node) -> Iterator[RealKubelet]:
    """kubelet with all pods asked for; nothing of them may be left afterwards."""
    before = machine.inventory()
    kernel = {name: Path("/proc/sys", name).read_text() for name in TUNABLES}
    with kube.running(machine) as kubelet:
        kubelet.apply(*pods(machine.directory))
        yield kubelet
    assert machine.leaks(before) == []
    assert kernel == {name: Path("/proc/sys", name).read_text() for name in TUNABLES}


def terminated(status: Json, kind: str = "state") -> Json:
    """How a container ended."""
    found: Json = status[kind]["terminated"]
    return found


def pod_directory(real: RealKubelet, name: str) -> Path:
    """Where the logs of its container `main` are."""
    uid = real.pod(name)["metadata"]["uid"]
    return real.node.directory / "podlogs" / f"default_{name}-{kube.NAME}_{uid}" / "main"


def control(real: RealKubelet, name: str, controller: str, v1: str, v2: str) -> str:
    """A control file of the cgroup of a pod's container `main`."""
    identifier = real.container(name)["containerID"].removeprefix("podwright://")
    top = Path("/sys/fs/cgroup") if UNIFIED else Path("/sys/fs/cgroup", controller)
    (found,) = (top / real.shelter.cgroup.lstrip("/")).rglob(identifier)
    return (found / (v2 if UNIFIED else v1)).read_text().strip()


def test_a_static_pod_gets_running_and_ready(real: RealKubelet) -> None:
    pod = real.wait_ready("plain")
    assert pod["status"]["phase"] == "Running"
    assert pod["status"]["podIP"].startswith("10.77.")
    assert [ip["ip"] for ip in pod["status"]["podIPs"]][1].startswith("fd77:")
    assert real.container("plain")["imageID"].startswith(f"{REGISTRY}/library/busybox@sha256:")
    assert real.log("plain") == "hello\n"


def test_exec_tcp_and_http_probes_find_what_they_ask_for(real: RealKubelet) -> None:
    real.wait_ready("probed")
    assert real.container("probed")["restartCount"] == 0


def test_a_probe_that_hangs_fails_and_ends_nothing(real: RealKubelet) -> None:
    real.wait("unready", lambda pod: "timed out" in real.remarks("unready", 1000), "a timeout")
    status = real.container("unready")
    assert (status["ready"], status["restartCount"]) == (False, 0)
    assert kube.condition(real.pod("unready"), "Ready") == "False"


def test_a_container_that_is_not_alive_is_restarted(real: RealKubelet) -> None:
    real.wait("unwell", lambda _: real.container("unwell")["restartCount"] > 0, "restarted")
    assert terminated(real.container("unwell"), "lastState")["exitCode"] == 137


def test_a_crashing_container_is_restarted_and_then_less_often(real: RealKubelet) -> None:
    def waits(_: Json) -> bool:
        status = real.container("crashing")
        waiting = status.get("state", {}).get("waiting", {})
        return bool(waiting.get("reason") == "CrashLoopBackOff" and status["restartCount"] > 0)

    real.wait("crashing", waits, "restarted, backing off")
    ended = terminated(real.container("crashing"), "lastState")
    assert (ended["exitCode"], ended["reason"]) == (3, "Error")


def test_init_containers_run_in_order_and_a_sidecar_beside_what_follows(real: RealKubelet) -> None:
    real.wait("staged", kube.succeeded)
    assert real.log("staged").split() == ["first", "sidecar", "last"]
    assert terminated(real.container("staged", "first"))["reason"] == "Completed"
    assert "terminated" in real.container("staged", "sidecar")["state"]


def test_volumes_hold_what_they_promise(real: RealKubelet) -> None:
    (real.node.directory / "host").mkdir(exist_ok=True)
    (real.node.directory / "host" / "file").write_text("of the node")
    pod = real.wait_ready("furnished")
    until(lambda: "neighbour" in real.run("furnished", "cat", "/disk/file"), "a shared file")
    assert real.run("furnished", "cat", "/host/file") == "of the node"
    assert real.run("furnished", "cat", "/facts/labels") == 'app="furnished"'
    environment = real.run("furnished", "env").splitlines()
    assert {f"LIMIT={48 * MIB}", f"POD_IP={pod['status']['podIP']}"} <= set(environment)
    assert "seven.example" in real.run("furnished", "cat", "/etc/hosts")
    assert "192.0.2.53" in real.run("furnished", "cat", "/etc/resolv.conf")
    mounts = real.run("furnished", "cat", "/proc/mounts")
    (memory,) = [line for line in mounts.splitlines() if " /memory " in line]
    assert memory.split()[2] == "tmpfs"
    assert "size=8192k" in memory
    assert real.run("furnished", "ls", "-d", "/disk/a/b").strip() == "/disk/a/b"


def test_limits_are_in_the_cgroups(real: RealKubelet) -> None:
    real.wait_ready("limited")
    memory = control(real, "limited", "memory", "memory.limit_in_bytes", "memory.max")
    assert memory == str(64 * MIB)
    if UNIFIED:
        assert control(real, "limited", "cpu", "", "cpu.max") == "25000 100000"
    else:
        assert control(real, "limited", "cpu", "cpu.cfs_quota_us", "") == "25000"
        assert control(real, "limited", "cpu", "cpu.shares", "") == "128"


def test_who_takes_too_much_memory_is_told_so(real: RealKubelet) -> None:
    real.wait("greedy", kube.failed)
    ended = terminated(real.container("greedy"))
    assert (ended["exitCode"], ended["reason"]) == (137, "OOMKilled")


def test_last_words_are_in_the_status(real: RealKubelet) -> None:
    real.wait("talking", kube.failed)
    ended = terminated(real.container("talking"))
    assert (ended["exitCode"], ended["message"]) == (7, "why\n")


def test_why_a_container_does_not_start_is_said_in_our_words(real: RealKubelet) -> None:
    real.wait(
        "unstartable", lambda _: "lastState" in real.container("unstartable")
        and "terminated" in real.container("unstartable")["lastState"], "tried",
    )  # fmt: skip
    ended = terminated(real.container("unstartable"), "lastState")
    assert (ended["exitCode"], ended["reason"]) == (128, "StartError")
    assert "/no/such" in ended["message"]


def test_an_image_that_does_not_exist_keeps_a_pod_waiting(real: RealKubelet) -> None:
    def waits(_: Json) -> bool:
        waiting = real.container("imageless").get("state", {}).get("waiting", {})
        return waiting.get("reason") in ("ErrImagePull", "ImagePullBackOff")

    real.wait("imageless", waits)
    assert "no/such:1" in real.container("imageless")["state"]["waiting"]["message"]


def logged(directory: Path) -> list[str]:
    """The lines of a container's log, rotated or not, packed or not, oldest first."""
    lines: list[str] = []
    for path in sorted(directory.glob("0.log*"), key=lambda path: (path.suffix == ".log", path)):
        data = path.read_bytes()
        data = gzip.decompress(data) if path.suffix == ".gz" else data
        lines += [parse(line).content.decode() for line in data.splitlines(keepends=True)]
    return lines


def test_a_rotated_log_has_every_line(real: RealKubelet) -> None:
    real.wait_ready("chatty")
    directory = pod_directory(real, "chatty")
    told = [str(number) for number in range(CHUNKS * CHUNK)]

    def complete() -> bool:
        with contextlib.suppress(FileNotFoundError):  # it is being rotated just now
            return logged(directory)[-1:] == told[-1:]
        return False

    until(complete, "it has said all", 60, every=kube.EVERY)
    packed = list(directory.glob("0.log.*.gz"))
    assert len(packed) > 1
    assert logged(directory) == told


def test_a_host_port_leads_into_the_pod(real: RealKubelet) -> None:
    pod = real.wait_ready("exposed")
    until(lambda: get(real.node, pod["status"]["podIP"], 8080) == "page\n", "it serves")
    assert get(real.node, ADDRESS, HOST_PORT) == "page\n"


def test_a_pod_of_the_node_sees_its_network_and_its_processes(real: RealKubelet) -> None:
    real.wait_ready("networkless")
    assert "kube0" in real.run("networkless", "ls", "/sys/class/net")
    assert real.run("networkless", "cat", f"/proc/{os.getpid()}/comm") != ""


def test_a_pod_that_is_deleted_runs_its_hook_then_hears_the_signal(real: RealKubelet) -> None:
    real.wait_ready("orderly")
    real.delete("orderly")
    real.wait_gone("orderly")
    told = real.node.directory / "told" / "order"
    assert told.read_text().split() == ["stop", "term"]


def test_the_summary_speaks_of_every_container(real: RealKubelet) -> None:
    real.wait_ready("plain")
    wait_statistics(real, "plain")


def command(real: RealKubelet, *words: str, tty: bool = False) -> Command:
    """A command in the plain pod's container, with all its channels."""
    asked = {"input": 1, "output": 1, **({"tty": 1} if tty else {"error": 1})}
    url = real.stream_url("exec", "plain", "main", command=words, **asked)
    client = real.node.inside(lambda: SpdyClient(url, "v4.channel.k8s.io", context=kube.trusting()))
    return Command(client, ("stdin", "stdout", "resize" if tty else "stderr"))


def test_exec_carries_input_output_and_exit_code(real: RealKubelet) -> None:
    real.wait_ready("plain")
    talk = command(real, "sh", "-c", "cat; echo err >&2; exit 7")
    with talk.client:
        talk.send(b"hello")
        talk.end_input()
        result = talk.result()
    assert (result.stdout, result.stderr, result.exit_code) == (b"hello", b"err\n", 7)


def test_exec_with_a_terminal_has_its_size(real: RealKubelet) -> None:
    real.wait_ready("plain")
    terminal = command(real, "sh", "-c", "read go; stty size", tty=True)
    with terminal.client:
        terminal.resize(71, 23)
        terminal.send(b"go\n")
        terminal.until_said(b"23 71")
        assert terminal.result().exit_code == 0


def test_exec_by_websocket_carries_the_exit_code(real: RealKubelet) -> None:
    real.wait_ready("plain")
    url = real.stream_url(
        "exec", "plain", "main", command=["sh", "-c", "echo hi; exit 6"], output=1
    )

    def play() -> tuple[bytes, int]:
        with websocket_client(url) as client:
            client.run_forever(timeout=20)
            return client.read_stdout(timeout=1), client.returncode

    assert real.node.inside(play) == (b"hi\n", 6)


def test_attach_sees_what_the_container_says(real: RealKubelet) -> None:
    real.wait_ready("echoing")
    url = real.stream_url("attach", "echoing", "main", input=1, output=1, error=1)
    client = real.node.inside(lambda: SpdyClient(url, "v4.channel.k8s.io", context=kube.trusting()))
    with client:
        attached = Command(client, ("stdin", "stdout", "stderr"))
        attached.send(b"to whom it may concern\n")
        attached.until_said(b"to whom it may concern\n")


def test_a_port_is_forwarded(real: RealKubelet) -> None:
    real.wait_ready("probed")
    url = real.stream_url("portForward", "probed")
    client = real.node.inside(lambda: SpdyClient(url, PROTOCOL, context=kube.trusting()))
    with client:
        connection = Forwarded(client, 8080)
        connection.send(b"GET / HTTP/1.0\r\n\r\n")
        assert connection.answer().endswith(b"page\n")


def test_logs_are_read_with_their_times_and_after_a_restart(real: RealKubelet) -> None:
    real.wait_ready("plain")
    assert real.log("plain", query="timestamps=true").endswith(" hello\n")

    def told() -> bool:
        with contextlib.suppress(kube.Refused):  # the one before has just been collected
            return real.log("crashing", query="previous=true") == "about to crash\n"
        return False

    until(told, "what the container said before it was restarted", every=kube.EVERY)


IDS = ("plain", "probed", "furnished", "limited", "exposed", "networkless", "stumbling")


def lives(real: RealKubelet) -> dict[str, tuple[str, int]]:
    """Which containers run in the steady pods, and how often they were restarted."""
    found = {}
    for name in IDS:
        real.wait_ready(name)
        status = real.container(name)
        found[name] = (status["containerID"], status["restartCount"])
    return found


def seen_again(real: RealKubelet) -> None:
    """Waits until kubelet has looked at all containers anew: a fresh pod becomes ready."""
    real.apply(static_pod("fresh", busybox(FOREVER)))
    real.wait_ready("fresh")
    real.delete("fresh")
    real.wait_gone("fresh")


def test_a_restarted_kubelet_restarts_no_container(real: RealKubelet) -> None:
    before = lives(real)
    real.restart()
    seen_again(real)
    assert lives(real) == before


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_restarted_podwright_restarts_no_container(
    real: RealKubelet, how: signal.Signals
) -> None:
    before = lives(real)
    real.node.restart_daemon(how=how)
    seen_again(real)
    assert lives(real) == before


@pytest.fixture
def gated(real: RealKubelet) -> Iterator[None]:
    """kubelet with what it is to do by default one day: events, streamed lists, our statistics."""
    gates = ("EventedPLEG", "CRIListStreaming", "PodAndContainerStatsFromCRI")
    real.restart(featureGates=dict.fromkeys(gates, True))
    yield
    real.restart(featureGates={})


@pytest.mark.usefixtures("gated")
def test_an_evented_kubelet_sees_the_same_pods_and_more_statistics(real: RealKubelet) -> None:
    before = lives(real)
    seen_again(real)
    assert "has this name" not in real.remarks("stumbling", 1000)
    network = wait_statistics(real, "probed")["network"]
    assert (network["name"], network["rxBytes"] > 0, network["txBytes"] > 0) == ("eth0", True, True)
    (used,) = metric(real, "container_memory_working_set_bytes", "limited", "main")
    assert 0 < used < 64 * MIB
    assert metric(real, "container_spec_memory_limit_bytes", "limited", "main") == [64 * MIB]
    assert metric(real, "container_network_receive_bytes_total", "probed", "POD")[0] > 0
    assert lives(real) == before
    assert real.node.daemon is not None
    assert "StreamContainers" in real.node.daemon.log.read_text()


def test_unused_images_are_collected_when_the_disk_is_full(real: RealKubelet) -> None:
    asker = Kubelet(real.node)
    unused = f"{REGISTRY}/tests/docker:1"
    asker.pull(unused)
    before = lives(real)
    real.restart(evictionHard={"imagefs.available": "99%"})
    until(lambda: asker.image_status(unused) is None, "collected", kube.PATIENCE, every=kube.EVERY)
    assert asker.image_status(BUSYBOX) is not None
    assert lives(real) == before
