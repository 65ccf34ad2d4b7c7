"""kill -9 of the daemon, the spawner and a monitor: what goes on, and what is told afterwards."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from cri.api import api_pb2 as api
from e2e.conftest import BUSYBOX
from e2e.kubelet import Kubelet, Pod, refused, until
from e2e.node import Node
from e2e.test_network import get, port_pod, server
from runtime.linux import fds
from runtime.spawner.messages import HELLO

MANY = 50
"""Seconds that Python and gRPC take to load on a machine that others use, too."""

KILL = signal.SIGKILL


@pytest.fixture(autouse=True)
def running_daemon(node: Node) -> Iterator[None]:
    """A test that stops half way must not leave the session without a daemon."""
    yield
    if node.daemon is None or node.daemon.process.poll() is not None:
        node.start_daemon()


def gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def spawner(node: Node) -> int:
    """The spawner's pid: it says so itself."""
    with fds.connect(str(node.state / "spawner.sock")) as connection:
        connection.settimeout(10)
        fds.send(connection, {"do": HELLO})
        answer = fds.receive(connection)
    assert answer is not None
    return int(str(answer[0]["pid"]))


def monitor(pod: Pod) -> int:
    """The pid of a pod's monitor."""
    return int(json.loads(pod.response(verbose=True).info["info"])["pid"])


def test_pods_do_not_notice_that_the_daemon_was_killed(kubelet: Kubelet, node: Node) -> None:
    pod = port_pod(kubelet, api.PortMapping(container_port=8080, host_port=18200))
    server(pod)
    ticker = pod.container(["sh", "-c", "while :; do echo tick; usleep 10000; done"]).start()
    address, ip = ticker.log_path, pod.ip
    before = ticker.status()
    assert node.daemon is not None
    node.daemon.kill()
    size = address.stat().st_size
    until(lambda: address.stat().st_size > size + 400, "the log goes on without a daemon")
    assert get(node, ip, 8080) == get(node, "127.0.0.1", 18200) == "page of the pod\n"
    node.start_daemon()
    assert pod.status().state == api.SANDBOX_READY
    assert pod.ip == ip
    after = ticker.status()
    assert after == before
    assert ticker.exec("echo", "hello").stdout == b"hello\n"
    ticker.stop()
    assert set(ticker.log()) == {"tick"}


def test_exits_that_nobody_saw_are_told_truly(kubelet: Kubelet, node: Node, tmp_path: Path) -> None:
    pod = kubelet.pod()
    flag = api.Mount(container_path="/flag", host_path=str(tmp_path))
    script = "until [ -e /flag/go ]; do usleep 10000; done; echo last words; exit 42"
    container = pod.container(["sh", "-c", script], mounts=[flag]).start()
    log = container.log_path
    assert node.daemon is not None
    node.daemon.kill()
    before = time.time_ns()
    (tmp_path / "go").touch()
    until(lambda: b"last words" in log.read_bytes(), "it has ended")
    exits = node.state / "monitors" / pod.id / "exits"
    until(lambda: (exits / f"{container.id}.json").exists(), "its end is written down")
    after = time.time_ns()
    node.start_daemon()
    status = container.status()
    assert (status.state, status.exit_code, status.reason) == (api.CONTAINER_EXITED, 42, "Error")
    assert before <= status.finished_at <= after


def test_a_killed_daemon_finds_fifty_pods_again(kubelet: Kubelet, node: Node) -> None:
    with ThreadPoolExecutor(4) as pool:
        pods = list(pool.map(lambda _: kubelet.pod(), range(MANY)))
        containers = list(pool.map(lambda pod: pod.container().start(), pods))
    seconds = node.restart_daemon(how=KILL)
    ready = api.PodSandboxStateValue(state=api.SANDBOX_READY)
    assert {pod.id for pod in pods} <= {item.id for item in kubelet.sandboxes(state=ready)}
    running = api.ContainerStateValue(state=api.CONTAINER_RUNNING)
    assert {c.id for c in containers} == {item.id for item in kubelet.containers(state=running)}
    idle = node.restart_daemon(how=KILL)
    print(f"\n{MANY} pods: {seconds:.2f} s from exec to the first answer ({idle:.2f} s again)")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda pod: pod.remove(), pods))
    kubelet.pods.clear()


def test_a_pod_that_was_being_made_is_made_or_gone_but_never_half(
    kubelet: Kubelet, node: Node
) -> None:
    for delay in (0.0, 0.004, 0.008, 0.016):
        config = kubelet.config()
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(kubelet.pod, config)
            time.sleep(delay)  # the moment of the kill is what differs, nothing is waited for
            node.restart_daemon(how=KILL)
            asked.exception()
        left = kubelet.sandboxes(label_selector=dict(config.labels))
        again = kubelet.pod(config)
        assert again.status().state == api.SANDBOX_READY
        assert all(item.id == again.id or item.state for item in left)
        kubelet.clean()
        for item in left:
            Pod(kubelet, item.id, config).remove()
    assert not list((node.state / "monitors").iterdir())


def test_the_next_pod_starts_although_the_spawner_was_killed(kubelet: Kubelet, node: Node) -> None:
    old = kubelet.pod()
    container = old.container().start()
    pid = spawner(node)
    os.kill(pid, KILL)
    assert kubelet.pod().run("echo started") == ["started"]
    assert spawner(node) != pid
    assert container.exec("true").exit_code == 0
    assert old.container(["true"]).start().wait().exit_code == 0


def test_a_dead_monitor_is_a_dead_pod_and_nothing_else(kubelet: Kubelet, node: Node) -> None:
    other = kubelet.pod()
    living = other.container().start()
    pod = kubelet.pod()
    container = pod.container(["sleep", "484848"]).start()
    os.kill(monitor(pod), KILL)
    until(lambda: pod.status().state == api.SANDBOX_NOTREADY, "the pod is reported dead")
    until(lambda: container.status().state == api.CONTAINER_EXITED, "so is its container")
    assert container.status().exit_code in (137, 255)
    until(lambda: "484848" not in " ".join(node.processes().values()), "no process is left")
    assert refused(lambda: container.exec("true")).code is grpc.StatusCode.FAILED_PRECONDITION
    assert living.exec("true").exit_code == 0
    pod.remove()
    assert not (node.state / "monitors" / pod.id).exists()


def test_a_monitor_that_died_while_there_was_no_daemon_is_noticed(
    kubelet: Kubelet, node: Node
) -> None:
    pod = kubelet.pod()
    container = pod.container().start()
    pid = monitor(pod)
    assert node.daemon is not None
    node.daemon.kill()
    os.kill(pid, KILL)
    until(lambda: gone(pid), "the monitor is gone")
    node.start_daemon()
    assert pod.status().state == api.SANDBOX_NOTREADY
    assert container.status().state == api.CONTAINER_EXITED


def test_all_three_killed_at_once(kubelet: Kubelet, node: Node) -> None:
    pod = kubelet.pod()
    container = pod.container().start()
    pids = [spawner(node), monitor(pod)]
    assert node.daemon is not None
    node.daemon.kill()
    for pid in pids:
        os.kill(pid, KILL)
    node.start_daemon()
    assert pod.status().state == api.SANDBOX_NOTREADY
    assert container.status().state == api.CONTAINER_EXITED
    assert kubelet.pod().run("echo new") == ["new"]


def damage(path: Path, how: str) -> None:
    """What a power cut leaves of a file that nobody had synchronised, or a full disk."""
    size = path.stat().st_size
    content = {"empty": b"", "half": path.read_bytes()[: size // 2], "zeros": bytes(size)}
    path.write_bytes(content[how])


@pytest.mark.parametrize("how", ["empty", "half", "zeros"])
def test_no_damaged_file_keeps_a_daemon_from_starting(
    kubelet: Kubelet, node: Node, how: str
) -> None:
    """All small files at once. The databases' own damage is told with the remedy: cri, image."""
    pod = kubelet.pod()
    container, ended = pod.container().start(), pod.container(["true"]).start()
    ended.wait()
    pids = [monitor(pod), spawner(node)]
    assert node.daemon is not None
    node.daemon.kill()
    for pid in pids:
        os.kill(pid, KILL)
    found = [path for top in (node.state, node.root) for path in top.rglob("*")
             if "layers" not in path.relative_to(top).parts[:1] and ".db" not in path.name
             and not path.is_symlink() and path.is_file()]  # fmt: skip
    kinds = {path.name for path in found}
    assert {"boot-id", "lock", "pid", "cgroups", f"{ended.id}.json", f"{pod.id}.json"} <= kinds
    assert {"layers", "config"} <= kinds
    for path in found:
        damage(path, how)
    node.start_daemon()
    assert pod.status().state == api.SANDBOX_NOTREADY
    assert container.status().state == api.CONTAINER_EXITED
    pod.remove()
    assert kubelet.sandboxes(id=pod.id) == []
    assert kubelet.pull(BUSYBOX) == kubelet.image
    assert kubelet.pod().run("echo works") == ["works"]
    (aside,) = (node.state / "net" / "attachments").glob("*.unreadable")
    assert aside.stem == pod.id  # for people to see
    aside.unlink()


def test_after_a_reboot_pods_are_not_ready_and_can_be_removed(kubelet: Kubelet, node: Node) -> None:
    pod = kubelet.pod()
    container = pod.container().start()
    pids = [monitor(pod), spawner(node)]
    assert node.daemon is not None
    node.daemon.kill()
    for pid in pids:
        os.kill(pid, KILL)
    boot_id = node.state / "boot-id"
    boot_id.write_text("00000000-0000-0000-0000-000000000000\n")
    node.start_daemon()
    assert pod.status().state == api.SANDBOX_NOTREADY
    assert container.status().state == api.CONTAINER_EXITED
    pod.remove()
    assert kubelet.sandboxes(id=pod.id) == []
