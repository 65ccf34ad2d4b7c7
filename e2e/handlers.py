"""The runtime handlers that a node of the tests can have: ours, and those of Debian's programs."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

from e2e.node import Node

MEBIBYTE = 1 << 20


@dataclasses.dataclass(frozen=True, slots=True)
class Candidate:
    """A handler for the test. type: oci or shim, where there is a program; calls: what a shim
    calls, which has the features; memory: a limit that it can live with; kernel_of_its_own: each
    container has one, and shares neither processes nor mounts as they come (docs/handlers.md)."""

    name: str
    program: str = ""
    lines: str = ""
    type: str = "oci"
    calls: str = ""
    memory: int = 32 * MEBIBYTE
    kernel_of_its_own: bool = False

    @property
    def path(self) -> str | None:
        return shutil.which(self.program, path="/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/bin")

    def table(self) -> str:
        """Its part of podwright.toml."""
        path = f'type = "{self.type}"\npath = "{self.path}"\n' if self.program else ""
        return f"\n[runtime.handlers.{self.name}]\n{path}{self.lines}\n"


CANDIDATES = (
    Candidate("podwright"),
    Candidate("runc", "runc"),
    Candidate("crun", "crun", 'hidden_mounts = ["/sys/fs/cgroup/unified"]'),
    Candidate("shim", "containerd-shim-runc-v2", type="shim", calls="runc"),
    Candidate(
        "shimtask",
        "containerd-shim-runc-v2",
        'sandbox = "task"\noptions = {BinaryName = "/usr/sbin/runc"}',
        type="shim",
        calls="runc",
    ),
    Candidate(
        "runsc",
        "runsc",
        'arguments = ["--platform=ptrace", "--network=host", "--ignore-cgroups"]\n'
        "own_cgroup = false",
        memory=200 * MEBIBYTE,
        kernel_of_its_own=True,
    ),
)


def tables() -> str:
    """The part of podwright.toml for those whose program is on this machine."""
    return "".join(one.table() for one in CANDIDATES if not one.program or one.path)


@contextlib.contextmanager
def configured(node: Node) -> Iterator[None]:
    """While inside, the node has every handler that it can have in its configuration."""
    node.more_config = tables() + "\n".join(
        (
            "[runtime.handlers.strict]",
            'pod_annotations = ["org.example.*"]',
            "readonly_sysfs = true",
            "privileged_without_host_devices = true",
            "[runtime.handlers.based]",
            f'base_runtime_spec = "{_base_spec(node)}"',
            "[runtime.handlers.absent]",
            'type = "oci"',
            'path = "/no/such/program"',
        )
    )
    node.restart_daemon()
    yield
    node.more_config = ""
    node.restart_daemon()


def _base_spec(node: Node) -> Path:
    """What the handler "based" adds."""
    path = node.directory / "base.json"
    limits = {"pids": {"limit": 77}, "cpu": {"shares": 333}, "memory": {"reservation": MEBIBYTE}}
    last = {"path": "/bin/sh", "args": ["sh", "-c", f"cat > {node.directory}/stopped"]}
    base = {"linux": {"resources": limits}, "hooks": {"poststop": [last]}}
    path.write_text(json.dumps(base))
    return path
