"""The daemon and its spawner, if they run; and who else wants to be this node's runtime."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

from cri.api import api_pb2 as api
from cri.cli.checks.finding import Finding, Place, note, ok, warn
from cri.cli.client import CallFailed, Client
from runtime.linux import fds
from runtime.spawner.messages import HELLO
from runtime.spawner.version import code_version

OTHERS = ("/run/containerd/containerd.sock", "/run/crio/crio.sock", "/run/cri-dockerd.sock")
PATIENCE = 5.0


def answers(place: Place) -> Iterator[Finding]:
    """It answers, and says of itself that it is ready."""
    with Client(place.address) as client:
        try:
            said = client.call(
                "Version", api.VersionRequest(), api.VersionResponse, timeout=PATIENCE
            )
            status = client.call(
                "Status", api.StatusRequest(), api.StatusResponse, timeout=PATIENCE
            ).status
        except CallFailed as error:
            yield note("daemon", error.message, "systemctl start podwright, or: podwright serve")
            return
    yield ok("daemon", f"{said.runtime_name} {said.runtime_version} at {place.address}")
    for condition in status.conditions:
        if condition.status:
            yield ok("daemon", condition.type)
        else:
            text = f"{condition.type} is false: {condition.reason}: {condition.message}"
            yield warn("daemon", text, "see the message")


def spawner(place: Place) -> Iterator[Finding]:
    """It answers, and runs the code that is installed."""
    path = Path(place.config.state) / "spawner.sock"
    if not path.exists():
        return
    try:
        with fds.connect(str(path)) as connection:
            connection.settimeout(PATIENCE)
            fds.send(connection, {"do": HELLO})
            answer = fds.receive(connection)
    except OSError as error:
        remedy = "nothing: the daemon starts another one with the next pod"
        yield note("spawner", f"does not answer ({error})", remedy)
        return
    message = answer[0] if answer else {}
    if message.get("version") == code_version():
        yield ok("spawner", f"pid {message.get('pid')}, of the code that is installed")
    else:
        remedy = "restart the daemon: pods live on"
        yield warn("spawner", "runs older code than what is installed", remedy)


def others(_place: Place) -> Iterator[Finding]:
    """Another runtime's socket: kubeadm would ask which one is meant."""
    for path in OTHERS:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(PATIENCE)
            if Path(path).exists() and probe.connect_ex(path) == 0:
                remedy = "kubelet: containerRuntimeEndpoint; kubeadm: --cri-socket"
                yield note("runtimes", f"{path} answers, too: say which one you mean", remedy)


def crictl(place: Place) -> Iterator[Finding]:
    """crictl knows our socket."""
    path = place.etc / "crictl.yaml"
    if path.exists() and place.address in path.read_text():
        yield ok("crictl", f"{path} names this socket")
    else:
        remedy = f"install deploy/crictl.yaml as {path}"
        yield note("crictl", f"{path} does not name {place.address}", remedy)


CHECKS = (answers, spawner, others, crictl)
