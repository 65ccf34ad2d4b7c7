"""Runs critest on a node, and reads what became of each of its specs."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from e2e.node import REGISTRY

if TYPE_CHECKING:
    from e2e.node import Node

NAMED = "PODWRIGHT_CRITEST"
"""Names the program where it is not in PATH."""

MIRROR = f'[host."http://{REGISTRY}"]\n  capabilities = ["pull", "resolve"]\n'
PATIENCE = 1200.0
WEBSOCKET = ("-websocket-exec", "-websocket-attach", "-websocket-portforward")
PASSED = "passed"
NODES = 4  # specs at a time


@dataclass(frozen=True, slots=True)
class Spec:
    """One spec: its name with all headings before it, `passed`, `failed`, `skipped` …, and why."""

    name: str
    state: str
    why: str


def program() -> str:
    """The path of critest; "" where there is none."""
    return os.environ.get(NAMED) or shutil.which("critest") or ""


def lead_every_registry_here(node: Node) -> None:
    """The node's registry is a mirror of all others from the next pull on."""
    place = node.directory / "hosts/_default"
    place.mkdir(parents=True)
    (place / "hosts.toml").write_text(MIRROR)


def run(node: Node, *flags: str, skip: Iterable[str] = ()) -> list[Spec]:
    """One run of the suite, one spec at a time. `skip`: names of specs that are left out."""
    report = node.directory / "critest.json"
    words = [*_words(node), f"-ginkgo.json-report={report}", *flags]
    words += (f"-ginkgo.skip={re.escape(name)}$" for name in skip)
    report.unlink(missing_ok=True)
    done = node.run(*words, timeout=PATIENCE)
    assert report.exists(), f"critest did not run: {(done.stdout + done.stderr)[-4000:]}"
    return _read(report)


def run_in_parallel(node: Node, *flags: str, skip: Iterable[str] = ()) -> str:
    """The same, several at a time (by `ginkgo`, which must be in PATH): "", or what went wrong."""
    words = [*_words(node), f"-parallel={NODES}", *flags]
    words += (f"-ginkgo.skip={re.escape(name)}$" for name in skip)
    done = node.run(*words, timeout=PATIENCE)
    return "" if done.returncode == 0 else done.stdout[-8000:] + done.stderr[-1000:]


def _words(node: Node) -> list[str]:
    scratch = node.directory / "critest"
    scratch.mkdir(exist_ok=True)
    endpoints = (f"-runtime-endpoint={node.address}", f"-image-endpoint={node.address}")
    plugins = f"-nri-socket={node.nri_socket}"
    return ["env", f"TMPDIR={scratch}", program(), *endpoints, plugins, "-ginkgo.no-color"]


def _read(report: Path) -> list[Spec]:
    """What ginkgo's JSON report says of each spec that is no benchmark."""
    (suite,) = json.loads(report.read_text())
    found = []
    for spec in suite["SpecReports"]:
        name = " ".join([*(spec["ContainerHierarchyTexts"] or []), spec["LeafNodeText"]])
        if spec["LeafNodeType"] == "It" and " benchmark " not in name:
            why = spec.get("Failure", {}).get("Message", "")
            found.append(Spec(name.removeprefix("[k8s.io] "), spec["State"], why))
    return found
