"""Starts NRI plugins on a node, tells them what to want, and reads what they have heard."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cri.api import api_pb2 as api
from e2e.kubelet import PATIENCE, until

if TYPE_CHECKING:
    from e2e.node import Background, Node


@dataclass(slots=True)
class Process:
    """One plugin (see nri_plugin.py)."""

    node: Node = field(repr=False)
    name: str
    index: str
    directory: Path
    patience: float = PATIENCE
    process: Background | None = None

    def start(self, **wishes: object) -> Process:
        """Starts it; it has been synchronized when this returns."""
        self.wants(**wishes)
        before = len(self.heard("synchronize"))
        words = ("-m", "e2e.nri_plugin", str(self.directory), self.name, self.index)
        self.process = self.node.background(
            f"plugin-{self.name}", sys.executable, *words, self.node.nri_socket
        )
        until(
            lambda: len(self.heard("synchronize")) > before,
            f"{self.name} is synchronized",
            self.patience,
        )
        until(lambda: self.connected, f"{self.name} is connected", self.patience)
        return self

    def wants(self, **wishes: object) -> None:
        """What it wants from now on; see nri_plugin.py."""
        written = self.directory / "wishes.new"
        written.write_text(json.dumps(wishes))
        written.rename(self.directory / "wishes.json")

    def heard(self, *calls: str) -> list[dict[str, Any]]:
        """What it was told so far, of these calls or of all."""
        path = self.directory / "heard"
        lines = path.read_text().splitlines() if path.exists() else []
        told = [json.loads(line) for line in lines]
        return [one for one in told if not calls or one["call"] in calls]

    def calls(self, subject: str) -> list[str]:
        """The calls that were about this pod or container, in order."""
        return [
            one["call"]
            for one in self.heard()
            if subject in (one.get("pod"), one.get("container", {}).get("id"))
        ]

    @property
    def connected(self) -> bool:
        return f"{self.index}-{self.name}" in connected(self.node)

    def unasked(self, **request: object) -> list[str]:
        """Has it update containers by itself; the ids of those that failed."""
        before = len(self.heard("unasked"))
        self.wants(unasked=request)
        assert self.process is not None
        self.process.process.send_signal(signal.SIGUSR1)
        until(lambda: len(self.heard("unasked")) > before, "the answer is there", self.patience)
        failed: list[str] = self.heard("unasked")[-1]["failed"]
        return failed

    def stop(self) -> None:
        if self.process is not None:
            self.process.stop()


def told(node: Node) -> dict[str, Any]:
    """What the daemon says of its plugins."""
    answer = node.client.call("Status", api.StatusRequest(verbose=True), api.StatusResponse)
    made: dict[str, Any] = json.loads(answer.info["nri"])
    return made


def connected(node: Node) -> list[str]:
    """The plugins, in their order."""
    return [f"{one['index']}-{one['name']}" for one in told(node)["plugins"]]


@dataclass(slots=True)
class Plugins:
    """The plugins of one test."""

    node: Node
    made: list[Process] = field(default_factory=list)
    patience: float = PATIENCE

    def __call__(self, name: str, index: str = "10", **wishes: object) -> Process:
        """A plugin that is connected."""
        return self.prepare(name, index).start(**wishes)

    def prepare(self, name: str, index: str = "10") -> Process:
        """One that is to be started later."""
        directory = self.node.directory / "plugins" / name
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        process = Process(self.node, name, index, directory, self.patience)
        self.made.append(process)
        return process


@contextlib.contextmanager
def plugins(node: Node, patience: float = PATIENCE) -> Iterator[Plugins]:
    """They end with the test."""
    made = Plugins(node, patience=patience)
    try:
        yield made
    finally:
        for process in made.made:
            process.stop()
        until(lambda: connected(node) == [], "no plugin is connected", patience)
        shutil.rmtree(node.directory / "plugins", ignore_errors=True)


def install(node: Node, name: str, directory: Path, *, config: str = "") -> Path:
    """A plugin that the daemon starts itself."""
    place = Path(f"{node.directory}/nri")
    (place / "plugins").mkdir(parents=True, exist_ok=True)
    (place / "conf.d").mkdir(exist_ok=True)
    program = place / "plugins" / name
    repository = Path(__file__).resolve().parents[1]
    program.write_text(
        f"#!/bin/sh\ncd {repository}\n"
        f'exec {sys.executable} -m e2e.nri_plugin {directory} "" "" none\n'
    )
    program.chmod(0o755)
    if config:
        (place / "conf.d" / f"{name}.conf").write_text(config)
    os.utime(program)
    return program
