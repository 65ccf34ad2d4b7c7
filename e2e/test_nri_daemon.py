"""NRI and the daemon's own life: restarts, plugins of the node, and strangers."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from cri.api import api_pb2 as api
from e2e import nri
from e2e.kubelet import Kubelet, Pod, refused, until
from e2e.node import REPOSITORY, Node, tool
from e2e.nri import Plugins
from e2e.test_limits import MIB, control
from e2e.test_nri import adjusting, value
from e2e.test_update import update

Code = grpc.StatusCode


@pytest.fixture
def plugins(node: Node) -> Iterator[Plugins]:
    with nri.plugins(node) as made:
        yield made


@pytest.fixture
def configured(node: Node) -> Iterator[None]:
    """Whatever a test adds to the configuration, and to the node's plugins, ends with it."""
    yield
    node.more_config = ""
    for name in ("nri", "own", "conf.d"):
        shutil.rmtree(node.directory / name, ignore_errors=True)
    node.restart_daemon()


def test_a_plugin_is_told_of_all_there_is_also_by_the_next_daemon(
    kubelet: Kubelet, node: Node, plugins: Plugins
) -> None:
    pod = kubelet.pod()
    envs = [api.KeyValue(key="N", value=b"1")]
    containers = [pod.container(["sleep", "9999"], envs=envs) for _ in range(50)]
    for container in containers[:5]:
        container.start()
    ended = pod.container(["true"]).start()
    ended.wait()
    scribe = plugins("scribe")
    first = scribe.heard("synchronize")[0]
    node.restart_daemon(how=signal.SIGKILL)
    assert scribe.process is not None
    scribe.process.process.wait(10)
    scribe.start()
    second = scribe.heard("synchronize")[1]
    for told in (first, second):
        assert pod.id in told["pods"]
        found = {one["id"]: one for one in told["containers"]}
        assert set(found) == {one.id for one in containers}
        running, waiting = found[containers[0].id], found[containers[9].id]
        assert (running["state"], waiting["state"]) == ("CONTAINER_RUNNING", "CONTAINER_CREATED")
        assert running["args"] == ["sleep", "9999"]
        assert "N=1" in running["env"]
        assert {one["destination"] for one in running["mounts"]} >= {"/proc", "/etc/hosts"}
        assert running["pid"] > 1


@pytest.mark.parametrize("restart", [True, False], ids=["the daemon", "an update"])
def test_what_plugins_want_of_a_container_survives(
    pod: Pod, node: Node, plugins: Plugins, *, restart: bool
) -> None:
    wish = adjusting(
        env=[{"key": "WISH", "value": "granted"}],
        linux={
            "resources": {"memory": {"limit": value(64 * MIB)}, "pids": {"limit": 77}},
            "oom_score_adj": value(321),
        },
    )
    plugins("wisher", create=wish)
    container = pod.container()
    if not restart:
        update(container, cpu_shares=77)
    else:
        node.restart_daemon(how=signal.SIGKILL)
    container.start()
    assert container.shell("tr '\\0' '\\n' < /proc/1/environ | grep WISH") == "WISH=granted"
    assert container.shell("cat /proc/1/oom_score_adj") == "321"
    assert control(container, "pids", "pids.max", "pids.max") == "77"
    memory = control(container, "memory", "memory.limit_in_bytes", "memory.max")
    assert memory == str(64 * MIB)


def test_plugins_of_the_node_come_and_go_with_the_daemon(
    kubelet: Kubelet, node: Node, configured: None
) -> None:
    directory = node.directory / "own"
    directory.mkdir(exist_ok=True)
    (directory / "wishes.json").write_text(
        json.dumps({"create": adjusting(env=[{"key": "OWN", "value": "yes"}])})
    )
    nri.install(node, "05-own", directory, config="a: 1\n")
    broken = nri.install(node, "06-broken", directory)
    broken.write_text("#!/bin/sh\nexit 1\n")
    node.restart_daemon()
    assert nri.connected(node) == ["05-own"]
    (only,) = nri.told(node)["plugins"]
    heard = [json.loads(line) for line in (directory / "heard").read_text().splitlines()]
    assert (heard[0]["call"], heard[0]["config"]) == ("configure", "a: 1\n")
    assert only["started_by_us"]
    shell = kubelet.pod().container().start().shell("echo $OWN")
    assert shell == "yes"
    assert "NRI plugin 06-broken (pid " in (node.directory / "logs/daemon.log").read_text()
    pid = heard[0]["pid"]
    node.restart_daemon()
    until(lambda: not Path(f"/proc/{pid}").exists(), "the old one has ended")
    assert "shutdown" in (directory / "heard").read_text()
    heard = [json.loads(line) for line in (directory / "heard").read_text().splitlines()]
    second = [one["pid"] for one in heard if one["call"] == "configure"][-1]
    node.restart_daemon(how=signal.SIGKILL)
    until(lambda: not Path(f"/proc/{second}").exists(), "it ends with its connection")
    assert nri.connected(node) == ["05-own"]


def test_a_plugin_of_the_node_that_dies_leaves_no_zombie(node: Node, configured: None) -> None:
    directory = node.directory / "own"
    directory.mkdir(exist_ok=True)
    nri.install(node, "05-own", directory)
    node.restart_daemon()
    (only,) = nri.told(node)["plugins"]
    os.kill(only["pid"], signal.SIGKILL)
    until(lambda: not Path(f"/proc/{only['pid']}").exists(), "it is reaped")
    assert nri.connected(node) == []


def test_the_plugin_that_is_shipped_as_an_example_works(
    kubelet: Kubelet, node: Node, configured: None
) -> None:
    source = (REPOSITORY / "deploy/nri/50-ulimits").read_text()
    place = node.directory / "nri/plugins"
    place.mkdir(parents=True)
    program = place / "50-ulimits"
    program.write_text(source.replace("/opt/podwright/bin/python", sys.executable, 1))
    program.chmod(0o755)
    node.restart_daemon()
    assert nri.connected(node) == ["50-ulimits"]
    pod = kubelet.pod(kubelet.config(annotations={"ulimits.example/nofile": "77:88"}))
    assert pod.run("ulimit -Sn; ulimit -Hn") == ["77", "88"]
    pod = kubelet.pod(kubelet.config(annotations={"ulimits.example/nofile": "many"}))
    assert "'many' is not soft:hard" in refused(lambda: pod.container()).message


def test_a_handler_that_is_a_program_runs_what_plugins_want(
    kubelet: Kubelet, node: Node, plugins: Plugins, configured: None, tmp_path: Path
) -> None:
    (node.directory / "conf.d").mkdir()
    (node.directory / "conf.d" / "runc.toml").write_text(
        f'[runtime.handlers.runc]\ntype = "oci"\npath = "{tool("runc")}"\n'
    )
    node.restart_daemon()
    hook = {"path": "/bin/sh", "args": ["sh", "-c", f"cat > {tmp_path}/state"]}
    wish = adjusting(
        env=[{"key": "WISH", "value": "granted"}],
        hooks={"create_runtime": [hook]},
        linux={"resources": {"pids": {"limit": 77}}},
    )
    plugins("wisher", create=wish)
    container = kubelet.pod(handler="runc").container().start()
    assert container.shell("echo $WISH") == "granted"
    assert control(container, "pids", "pids.max", "pids.max") == "77"
    assert container.id in (tmp_path / "state").read_text()
    kubelet.clean()  # while the handler is configured


def test_without_a_required_plugin_no_container_is_made(
    kubelet: Kubelet, node: Node, plugins: Plugins, configured: None
) -> None:
    node.more_config = '[nri.default_validator]\nenable = true\nrequired_plugins = ["needed"]\n'
    node.restart_daemon()
    pod = kubelet.pod()
    error = refused(lambda: pod.container())
    assert error.code is Code.FAILED_PRECONDITION
    assert "required NRI plugins are not connected: needed" in error.message
    plugins("needed")
    pod.container().start()


def test_a_node_without_nri_does_not_listen(kubelet: Kubelet, node: Node, configured: None) -> None:
    (node.directory / "conf.d").mkdir()
    (node.directory / "conf.d" / "off.toml").write_text("[nri]\nenabled = false\n")
    node.restart_daemon()
    assert not Path(node.nri_socket).exists()
    assert nri.told(node) == {"socket": "", "problem": "", "plugins": []}
    kubelet.pod().container().start()


def test_the_socket_is_roots_alone(node: Node) -> None:
    assert os.stat(node.nri_socket).st_mode & 0o777 == 0o600


def test_doctor_names_the_plugins(node: Node, plugins: Plugins) -> None:
    plugins("scribe", "42")
    podwright = str(Path(sys.executable).with_name("podwright"))
    said = node.run(podwright, "--address", node.address, "doctor", "--config", str(node.config))
    assert "42-scribe" in said.stdout
    assert node.nri_socket in said.stdout


# strangers on the socket


def flooding(path: str, data: bytes, stop: threading.Event) -> threading.Thread:
    """Sends the same without an end, and connects anew when it is thrown out."""

    def flood() -> None:
        while not stop.is_set():
            with socket.socket(socket.AF_UNIX) as to:
                to.settimeout(0.2)
                try:
                    to.connect(path)
                    while not stop.is_set():
                        to.send(data)
                except OSError:
                    continue

    thread = threading.Thread(target=flood)
    thread.start()
    return thread


PIECE = b"\0\0\0\2\0\0\0\x0a"


@pytest.mark.parametrize(
    "data",
    [
        b"\xff" * 65536,
        b"\0\0\0\2\0\x40\0\0" + bytes(65536),
        (PIECE + b"\0\0\0\0\0\0\0\1\1\0") * 1000,
        (PIECE + b"\0\0\0\0\0\0\0\2\3\0") * 1000,
        b"\0\0\0\1\0\0\0\0" * 8000,
    ],
    ids=["garbage", "long", "the same question", "data of no stream", "empty pieces"],
)
def test_a_flood_hurts_nobody(kubelet: Kubelet, node: Node, data: bytes) -> None:
    stop = threading.Event()
    thread = flooding(node.nri_socket, data, stop)
    try:
        longest = 0.0
        deadline = time.monotonic() + 2
        while time.monotonic() < deadline:
            began = time.monotonic()
            kubelet.containers()
            longest = max(longest, time.monotonic() - began)
        kubelet.pod().container().start().remove()
    finally:
        stop.set()
        thread.join()
    assert longest < 1.0
    until(lambda: nri.connected(node) == [], "nobody is connected")


def test_who_connects_and_says_nothing_is_thrown_out(node: Node) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.connect(node.nri_socket)
        silent.settimeout(10)
        assert silent.recv(1) == b""
    assert "it did not register within 5 s" in (node.directory / "logs/daemon.log").read_text()
