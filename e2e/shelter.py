"""What keeps a real kubelet's hands off the machine that tests run on.

kubelet does more to a machine than to run pods, so what it would alter is put beneath mounts of the
node's own namespace, and its cgroups lie beneath the node's.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from e2e.node import Node

ADDRESS = "10.78.0.1"
"""The node's address, on an interface of its own: kubelet takes none of loopback."""
TUNABLES = {
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxkeys": "1000000",
    "kernel/keys/root_maxbytes": "25000000",
}
"""What kubelet writes to /proc/sys at its start, unless it is there already."""
HIDDEN = ("/var/lib", "/var/log")
"""Where kubelet writes whatever its configuration says (device plugins, links to logs)."""


@dataclass(slots=True)
class Shelter:
    """Stands for as long as kubelet runs on the node."""

    node: Node
    cgroup: str = field(init=False)

    def __post_init__(self) -> None:
        self.cgroup = f"{self.node.cgroup}/kube"

    def build(self) -> None:
        """Covers what kubelet writes to with the node's own files; makes its cgroup and address."""
        tunables = self.node.directory / "tunables"
        for name, value in TUNABLES.items():
            copy = tunables / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_text(f"{value}\n")
            self._run("mount", "--bind", str(copy), f"/proc/sys/{name}")
        for place in HIDDEN:
            self._run("mount", "-t", "tmpfs", "kubelet", place)
        self._run("ip", "link", "add", "kube0", "type", "bridge")
        self._run("ip", "address", "add", f"{ADDRESS}/24", "dev", "kube0")
        self._run("ip", "link", "set", "kube0", "up")
        for top in self._hierarchies():
            (top / self.cgroup.lstrip("/")).mkdir(parents=True, exist_ok=True)

    def remove(self) -> None:
        """Idempotent. kubelet has ended, and all of its pods."""
        self.node.run("umount", str(self.node.directory / "kubelet"))  # mounted on itself, shared
        for place in (*reversed(HIDDEN), *(f"/proc/sys/{name}" for name in TUNABLES)):
            self.node.run("umount", place)
        self.node.run("ip", "link", "delete", "kube0")
        for top in self._hierarchies():
            for found, _, _ in os.walk(top / self.cgroup.lstrip("/"), topdown=False):
                os.rmdir(found)

    def _hierarchies(self) -> list[Path]:
        top = Path("/sys/fs/cgroup")
        if (top / "cgroup.controllers").exists():
            return [top]
        return [entry for entry in top.iterdir() if entry.is_dir() and not entry.is_symlink()]

    def _run(self, *words: str) -> None:
        done = self.node.run(*words)
        assert done.returncode == 0, (words, done.stderr)
