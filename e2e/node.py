"""A node of the tests' own on this machine: namespaces, a registry, a daemon, and what they leave.

    Node
      holder      holder.sh: keeps the namespaces, and ends what is left when its input ends
      registry    docker-registry on 127.0.0.1:5000 of that network
      daemon      podwright serve --config <directory>/podwright.toml, built-in network on
      <directory> root/  state/  netns/  registry/  logs/     (short: unix sockets' paths are)

Processes are ended by pid. Everything that a pod may leave behind is listed by `inventory`.
"""

from __future__ import annotations

import collections
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from cri.api import api_pb2 as api
from cri.cli.client import Client
from runtime.linux.namespace import Clone, setns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

Answer = TypeVar("Answer")

REGISTRY = "127.0.0.1:5000"
HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent
TOOLS = (REPOSITORY / ".venv/debian/usr/bin", Path("/usr/sbin"), Path("/usr/bin"), Path("/bin"))
SETTLING = 5.0
"""Seconds in which what was removed has to be gone."""
STAY = ("lock", "last_reserved_ip")
"""Files that address management keeps."""
PATIENCE = 20.0
"""Seconds for a daemon to answer or to end."""

CONFIG = """
root = "{directory}/root"
state = "{directory}/state"
netns_dir = "{directory}/netns"
log_level = "{log_level}"

[network]
enabled = true
subnets = ["10.77.0.0/16", "fd77::/64"]
cni_conf_dir = "{directory}/cni"

[images]
hosts_dir = "{directory}/hosts"

[devices]
cdi_spec_dirs = ["{directory}/cdi/etc", "{directory}/cdi/run"]
blockio_config_file = "{directory}/blockio.yaml"

[nri]
socket = "{directory}/nri.sock"
plugin_path = "{directory}/nri/plugins"
plugin_config_path = "{directory}/nri/conf.d"

[cgroup]
parent = "{cgroup}"
"""


def tool(name: str) -> str:
    """The path of a program that a test stands on."""
    found = shutil.which(name, path=":".join(map(str, TOOLS)))
    if found is None:
        raise RuntimeError(f"{name} is missing: `make test` brings it")
    return found


@dataclass(slots=True)
class Background:
    """A process that serves until it is told to stop. Its output goes to a file."""

    process: subprocess.Popen[bytes]
    log: Path

    def stop(self, patience: float = PATIENCE) -> int:
        """SIGTERM, and SIGKILL for one that does not listen; its exit code."""
        self.process.terminate()
        try:
            return self.process.wait(patience)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def tail(self, lines: int = 40) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


@dataclass(slots=True)
class Node:
    """Starts with `started()`, ends with `close()`; the daemon may come and go in between."""

    directory: Path
    holder: subprocess.Popen[bytes]
    cgroup: str
    registry: Background | None = None
    daemon: Background | None = None
    more_config: str = ""
    """What a test adds to the configuration; the next start of the daemon reads it."""
    client: Client = field(init=False)

    def __post_init__(self) -> None:
        self.client = Client(self.address)

    @property
    def address(self) -> str:
        return f"unix://{self.directory}/state/podwright.sock"

    @property
    def config(self) -> Path:
        return self.directory / "podwright.toml"

    @property
    def nri_socket(self) -> str:
        return f"{self.directory}/nri.sock"

    @property
    def root(self) -> Path:
        return self.directory / "root"

    @property
    def state(self) -> Path:
        return self.directory / "state"

    # its processes

    def command(self, *words: str) -> list[str]:
        """How to run a program in the node's namespaces; nsenter's pid becomes the program's."""
        enter = (f"--target={self.holder.pid}", "--net", "--mount", f"--wdns={REPOSITORY}")
        return [tool("nsenter"), *enter, "--", *words]

    def run(self, *words: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Runs a program in the node's namespaces and answers what it said."""
        return subprocess.run(
            self.command(*words), capture_output=True, text=True, timeout=timeout, check=False
        )

    def inside(self, work: Callable[[], Answer]) -> Answer:
        """Calls `work` in a thread of the node's network: its sockets stay there."""
        answer: Future[Answer] = Future()

        def enter() -> None:
            try:
                with open(f"/proc/{self.holder.pid}/ns/net") as namespace:
                    setns(namespace.fileno(), Clone.NEWNET)
                answer.set_result(work())
            except BaseException as error:  # noqa: BLE001  # carried to the caller's thread
                answer.set_exception(error)

        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
        return answer.result()

    def background(self, name: str, *words: str) -> Background:
        log = self.directory / "logs" / f"{name}.log"
        with log.open("ab") as output:
            process = subprocess.Popen(
                self.command(*words),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        return Background(process, log)

    def start_registry(self, *, htpasswd: str = "", port: int = 5000) -> Background:
        """A registry on loopback; with `htpasswd` (a file's content) it wants credentials."""
        place = self.directory / f"registry-{port}"
        place.mkdir()
        config: dict[str, object] = {
            "version": "0.1",
            "log": {"level": "warn", "accesslog": {"disabled": True}},
            "storage": {"filesystem": {"rootdirectory": str(place / "data")}},
            "http": {"addr": f"127.0.0.1:{port}"},
        }
        if htpasswd:
            (place / "htpasswd").write_text(htpasswd)
            config["auth"] = {"htpasswd": {"realm": "tests", "path": str(place / "htpasswd")}}
        (place / "config.json").write_text(json.dumps(config))
        words = (tool("docker-registry"), "serve", str(place / "config.json"))
        registry = self.background(f"registry-{port}", *words)
        self._await(
            registry, lambda: self.inside(lambda: _connects(socket.AF_INET, ("127.0.0.1", port)))
        )
        return registry

    def start_daemon(self, *, log_level: str = "debug") -> None:
        """Starts the daemon and waits until it answers; RuntimeError with its log otherwise."""
        self.config.write_text(
            CONFIG.format(
                directory=self.directory,
                cgroup=self.cgroup,
                log_level=log_level,
            )
            + self.more_config
        )
        podwright = Path(sys.executable).with_name("podwright")
        self.daemon = self.background(
            "daemon", str(podwright), "serve", "--config", str(self.config)
        )
        self._await(self.daemon, self._answers)

    def _answers(self) -> bool:
        if not _connects(socket.AF_UNIX, f"{self.directory}/state/podwright.sock"):
            return False
        self.client.close()
        self.client = Client(self.address)  # an old channel would wait before it tries again
        self.client.call("Version", api.VersionRequest(), api.VersionResponse)
        return True

    def _await(self, background: Background, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not ready():
            with contextlib.suppress(subprocess.TimeoutExpired):
                background.process.wait(0.01)
            if background.process.poll() is not None or time.monotonic() > deadline:
                background.kill()
                raise RuntimeError(f"{background.log} says:\n{background.tail()}")

    def restart_daemon(self, *, how: signal.Signals = signal.SIGTERM) -> float:
        """Ends the daemon with a signal and starts another; seconds until that one answers."""
        assert self.daemon is not None
        self.daemon.process.send_signal(how)
        self.daemon.process.wait(PATIENCE)
        started = time.monotonic()
        self.start_daemon()
        return time.monotonic() - started

    def processes(self) -> dict[int, str]:
        """What runs on the node: pid -> command line, by mount namespace or by cgroup."""
        own = os.stat(f"/proc/{self.holder.pid}/ns/mnt").st_ino
        found = {}
        for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
            with contextlib.suppress(OSError):
                mounts = os.stat(f"/proc/{pid}/ns/mnt").st_ino
                cgroups = Path(f"/proc/{pid}/cgroup").read_text()
                if mounts == own or f":{self.cgroup}/" in cgroups:
                    words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                    found[pid] = b" ".join(words).decode(errors="replace").strip()
        return found

    # what pods leave

    def inventory(self) -> dict[str, set[str]]:
        """Everything that a pod's life could leave behind, by kind. Nothing of it is needed by
        a daemon without pods, so the same inventory has to come back once all pods are gone."""
        return {
            "mounts": set(self._mounts()),
            "interfaces": set(self._interfaces()),
            "nftables": self._rules(),
            "cgroups": set(self._cgroups()),
            "processes": set(self._servants()),
            "namespaces": set(os.listdir(self.directory / "netns")),
            "files": set(self._files()),
        }

    def leaks(self, before: Mapping[str, set[str]]) -> Sequence[str]:
        """What is there that was not: one line each.

        The kernel takes interfaces away, and a worker files, a moment after the answer.
        """
        deadline = time.monotonic() + SETTLING
        while True:
            after = self.inventory()
            found = [f"{kind}: {x}" for kind in before for x in sorted(after[kind] - before[kind])]
            if not found or time.monotonic() > deadline:
                return found
            threading.Event().wait(0.1)

    def _servants(self) -> Iterator[str]:
        """Processes but for idle workers. Spawner and monitors look alike, being forks,
        so they are numbered: one more is one more than spawner, zygote, and the spare to come."""
        counts: collections.Counter[str] = collections.Counter()
        own = os.stat(f"/proc/{self.holder.pid}/ns/net").st_ino
        for pid, words in self.processes().items():
            with contextlib.suppress(OSError):
                foreign = os.stat(f"/proc/{pid}/ns/net").st_ino != own
                name = "spawner or monitor" if "runtime.spawner" in words else words
                name += " of a pod" if foreign else ""
                counts[name] += 1
                core = name == "spawner or monitor" and counts[name] <= 3
                if not core and "image.worker" not in words:
                    yield f"{name} #{counts[name]}"

    def _mounts(self) -> Iterator[str]:
        for line in Path(f"/proc/{self.holder.pid}/mountinfo").read_text().splitlines():
            words = line.split()
            yield f"{words[4]} ({words[words.index('-') + 1]})"

    def _interfaces(self) -> list[str]:
        return [link["ifname"] for link in json.loads(self.run("ip", "-json", "link").stdout)]

    def _rules(self) -> set[str]:
        return set(self.run(tool("nft"), "--stateless", "list", "ruleset").stdout.splitlines())

    def _cgroups(self) -> Iterator[str]:
        for hierarchy in ("", *os.listdir("/sys/fs/cgroup")):
            top = Path("/sys/fs/cgroup", hierarchy, self.cgroup.lstrip("/"))
            for found, _, _ in os.walk(top):
                if Path(found) != top:
                    yield found

    def _files(self) -> Iterator[str]:
        places = (
            self.state / "monitors",
            self.state / "net",
            self.state / "ipam",
            self.root / "containers",
            self.root / "tmp",
            self.root / "checkpoints",
            self.root / "content" / "ingest",
            self.directory / "pods",
        )
        for place in places:
            for directory, _, files in os.walk(place):
                kept = (name for name in files if not name.startswith(STAY))
                yield from (os.path.join(directory, name) for name in kept)

    # its end

    def close(self) -> None:
        """Ends the daemon and the registry; the holder ends the rest, and deletes the files."""
        self.client.close()
        for background in (self.daemon, self.registry):
            if background is not None and background.process.poll() is None:
                background.stop()
        self.holder.communicate()


def _connects(family: socket.AddressFamily, address: str | tuple[str, int]) -> bool:
    with socket.socket(family) as probe:
        probe.settimeout(1)
        return probe.connect_ex(address) == 0


@contextlib.contextmanager
def started(*, daemon: bool = True, disk_bytes: int = 0) -> Iterator[Node]:
    """A running node, closed at the end whatever happens.

    disk_bytes: put the daemon's root on a tmpfs of that size.
    """
    directory = Path(tempfile.mkdtemp(prefix="pw", dir="/var/tmp"))  # a disk, and a short name
    for name in ("logs", "netns", "root", "state"):
        (directory / name).mkdir()
    cgroup = f"/podwright-{directory.name}"
    told = {"DIRECTORY": str(directory), "CGROUP": cgroup, "DISK_BYTES": str(disk_bytes)}
    holder = subprocess.Popen(
        [tool("unshare"), "--net", "--mount", "--", "sh", str(HERE / "holder.sh")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, **told},
        start_new_session=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"ready\n"
    node = Node(directory, holder, cgroup)
    try:
        node.registry = node.start_registry()
        if daemon:
            node.start_daemon()
        yield node
    finally:
        node.close()
