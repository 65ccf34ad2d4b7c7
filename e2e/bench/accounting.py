"""What a runtime costs: CPU time by cgroup and of the whole machine, memory by PSS.

Every daemon starts inside a cgroup `<prefix>/<runtime>/daemon`, and its pods get
`<prefix>/<runtime>/pods` as their cgroup parent: the usage of `<prefix>/<runtime>` is then all that
this runtime and its pods have burnt, whatever else the machine does meanwhile. Kernel threads
(tearing down a network namespace, say) are in no such cgroup; the machine's own figure from
/proc/stat has them, and everybody else's work too.
"""

import contextlib
import os
import time
from dataclasses import dataclass
from pathlib import Path

_DYING_SECONDS = 3.0
_TICK = os.sysconf("SC_CLK_TCK")


def hierarchies() -> list[Path]:
    """The mount points of every cgroup hierarchy, version 1 and 2."""
    lines = Path("/proc/self/mounts").read_text().splitlines()
    return [Path(words[1]) for words in map(str.split, lines) if words[2] in {"cgroup", "cgroup2"}]


def _counting_hierarchy() -> Path:
    """The hierarchy that counts CPU time: cpuacct in version 1, the unified one in version 2."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, target, kind, options, *_ = line.split()
        if kind == "cgroup" and "cpuacct" in options.split(","):
            return Path(target)
    for hierarchy in hierarchies():
        if (hierarchy / "cpu.stat").exists() or (hierarchy / "cgroup.controllers").exists():
            return hierarchy
    raise RuntimeError(
        "no cgroup hierarchy counts CPU time: neither cpuacct nor a unified one is mounted"
    )


@dataclass(frozen=True, slots=True)
class Group:
    """A runtime's cgroup; `path` is absolute within each hierarchy."""

    path: str

    @property
    def pods(self) -> str:
        """The cgroup parent that this runtime's pods are given."""
        return self.path + "/pods"

    def create(self) -> None:
        self._directory("daemon").mkdir(parents=True)

    def procs_file(self) -> Path:
        """The file that a daemon writes itself into before it starts."""
        return self._directory("daemon") / "cgroup.procs"

    def daemon_pids(self) -> list[int]:
        """Processes of the daemon and of its helpers that are in no pod."""
        return [int(pid) for pid in self.procs_file().read_text().split()]

    def cpu_seconds(self) -> float:
        """CPU time that the runtime and its pods have used up to now."""
        group = self._directory()
        version_1 = group / "cpuacct.usage"
        if version_1.exists():
            return int(version_1.read_text()) / 1e9
        return int((group / "cpu.stat").read_text().split()[1]) / 1e6

    def _directory(self, child: str = "") -> Path:
        return _counting_hierarchy() / self.path.lstrip("/") / child


def remove_groups(prefix: str) -> list[str]:
    """Remove the cgroups of a run from every hierarchy; answers those that a pod left behind.

    The run's own groups and the pods' parents are expected; anything beneath `pods` is a leak.
    """
    leaks: list[str] = []
    for hierarchy in hierarchies():
        top = hierarchy / prefix.lstrip("/")
        for directory, _, _ in os.walk(top, topdown=False):
            if "pods" in Path(directory).relative_to(top).parts[:-1]:
                leaks.append(directory)
            if not _rmdir(Path(directory)):
                leaks.append(f"{directory}, in use by processes {_pids(Path(directory))}")
    return leaks


def _rmdir(directory: Path) -> bool:
    """Remove a cgroup; a process that was just killed may keep it for a moment."""
    deadline = time.monotonic() + _DYING_SECONDS
    while time.monotonic() < deadline:
        try:
            directory.rmdir()
            return True
        except OSError:
            time.sleep(0.02)
    return False


def _pids(directory: Path) -> str:
    with contextlib.suppress(OSError):
        return ", ".join((directory / "cgroup.procs").read_text().split())
    return "?"


def machine_cpu_seconds() -> float:
    """CPU time of all processors since boot; idle, waiting and stolen time left out."""
    user, nice, system, _idle, _iowait, irq, softirq, *_ = (
        int(ticks) for ticks in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    )
    return (user + nice + system + irq + softirq) / _TICK


def pss_bytes(pid: int) -> int:
    """A process's proportional set size; 0 when it has none (a zombie) or is gone."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0


def processes() -> dict[int, str]:
    """Every process of the run's pid namespace: pid -> command line, words separated by spaces."""
    found: dict[int, str] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                line = (entry / "cmdline").read_bytes().rstrip(b"\0").replace(b"\0", b" ")
                found[int(entry.name)] = line.decode(errors="replace")
    return found
