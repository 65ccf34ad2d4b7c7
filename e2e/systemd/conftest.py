"""The machine itself: its service, its images, and what systemd says of its units."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

import pytest

from cri.api import api_pb2 as api
from cri.cli.client import CallFailed, Client
from e2e.images import Image, busybox
from e2e.kubelet import Kubelet, until
from e2e.node import Background

if TYPE_CHECKING:
    from e2e.node import Node

Answer = TypeVar("Answer")

HERE = Path(__file__).parent
ASKED_FOR = "PODWRIGHT_SYSTEMD_NODE"
SERVICE = "podwright.service"
ADDRESS = "unix:///run/podwright/podwright.sock"
IMAGE = "registry.example/library/busybox:1"
PATIENCE = 120.0
"""Seconds: the machine may be an emulated one."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.environ.get(ASKED_FOR):
        return
    reason = f"takes a throw-away machine with systemd: see {HERE / 'README.md'} ({ASKED_FOR}=1)"
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.skip(reason=reason))


def systemctl(*words: str) -> str:
    """What systemctl says; AssertionError if it fails."""
    done = subprocess.run(
        ["systemctl", *words], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 0, (words, done.stdout, done.stderr)
    return done.stdout


def show(unit: str, *names: str) -> dict[str, str]:
    """Properties of a unit."""
    said = systemctl("show", unit, f"--property={','.join(names)}")
    return dict(line.split("=", 1) for line in said.splitlines())


def stop_slices() -> None:
    """kubelet's are kubelet's to stop; here it is the tests that stand for it. One that is empty
    may go while it is looked at; and without the reload systemd 252 can't find them any more."""
    for unit in sorted(pod_units(), reverse=True):
        if unit.startswith("kubepods"):
            subprocess.run(["systemctl", "stop", unit], timeout=PATIENCE, check=False)
    systemctl("daemon-reload")


def pod_units() -> set[str]:
    """Units of pods and containers that systemd knows, in whatever state."""
    said = systemctl("list-units", "--all", "--plain", "--no-legend", "podwright*", "kubepods*")
    known = {line.split()[0] for line in said.splitlines()}
    return known - {SERVICE, "podwright.socket", "podwright.slice"}


@dataclass(slots=True)
class Machine:
    """Stands for a Node: what Kubelet and RealKubelet ask of one."""

    directory: Path
    address: str = ADDRESS
    cgroup: str = ""
    client: Client = field(init=False)

    def __post_init__(self) -> None:
        self.client = Client(ADDRESS)
        (self.directory / "logs").mkdir()

    def inside(self, work: Callable[[], Answer]) -> Answer:
        """Calls `work`: this machine is the node."""
        return work()

    def background(self, name: str, *words: str) -> Background:
        log = self.directory / "logs" / f"{name}.log"
        with log.open("ab") as output:
            process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        return Background(process, log)

    @property
    def nri_socket(self) -> str:
        return "/var/run/nri/nri.sock"

    @property
    def main_pid(self) -> int:
        return int(show(SERVICE, "MainPID")["MainPID"])

    def _answers(self) -> bool:
        self.client.close()
        self.client = Client(ADDRESS)  # an old channel would wait before it tries again
        try:
            self.client.call("Version", api.VersionRequest(), api.VersionResponse)
        except CallFailed:
            return False
        return True

    def await_daemon(self) -> None:
        until(self._answers, "the daemon answers", PATIENCE)


@pytest.fixture(scope="session")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """This machine, with the service running, and an image."""
    directory = tmp_path_factory.mktemp("pods")
    systemctl("start", SERVICE)
    machine = Machine(directory)
    machine.await_daemon()
    layout = Image([busybox()], {"Cmd": ["sh"]}).layout(directory / "image", IMAGE)
    subprocess.run(["podwright", "images", "import", str(layout)], check=True, timeout=PATIENCE)
    return machine


@pytest.fixture
def kubelet(machine: Machine) -> Iterator[Kubelet]:
    """Asks the service; a test's pods end with it, and leave no unit."""
    kubelet = Kubelet(cast("Node", machine))
    found = kubelet.image_status(IMAGE)
    assert found is not None
    kubelet.image = found.id
    yield kubelet
    kubelet.clean()
    until(lambda: not pod_units(), f"no unit is left: {pod_units()}", PATIENCE)
