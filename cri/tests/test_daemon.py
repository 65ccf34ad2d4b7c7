"""The daemon as a process: it starts, serves, is reloaded, ends, and knows its own kind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import grpc
import pytest

from cri import VERSION
from cri.api import api_pb2 as api
from runtime.linux.process import kill_and_wait
from runtime.spawner.client import SpawnerClient

if TYPE_CHECKING:
    from collections.abc import Iterator

    from google.protobuf.message import Message

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: runs the daemon"),
]
RUNTIME, IMAGES = "runtime.v1.RuntimeService", "runtime.v1.ImageService"
PODWRIGHT = [sys.executable, "-m", "cri"]
ALONE = ["unshare", "--net", "--mount", "--"]  # in a network and with mounts of its own
PATIENCE = 20.0
Answer = TypeVar("Answer", bound="Message")


def ask(
    channel: grpc.Channel, service: str, method: str, request: Message, answer: type[Answer]
) -> Answer:
    """One call, by a client that waits until somebody listens."""
    rpc: grpc.UnaryUnaryMultiCallable[Message, Answer] = channel.unary_unary(
        f"/{service}/{method}",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=answer.FromString,
    )
    return rpc(request, timeout=PATIENCE, wait_for_ready=True)


class Node:
    """Scratch directories, and daemons that were started on them, each in its own namespaces."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.config = directory / "podwright.toml"
        self.config.write_text(
            f'root = "{directory}/root"\nstate = "{directory}/state"\n'
            f'netns_dir = "{directory}/netns"\n'
            f'network.cni_conf_dir = "{directory}/cni"\n'
            f'nri.socket = "{directory}/nri.sock"\nnri.plugin_path = ""\n'
        )
        self.socket = directory / "state" / "podwright.sock"
        self.daemons: list[subprocess.Popen[str]] = []
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notify.bind(str(directory / "notify"))
        self.notify.settimeout(PATIENCE)

    def start(self, *words: str, **environ: str) -> subprocess.Popen[str]:
        """`podwright serve` on this node's configuration; it says READY=1 to `heard`."""
        daemon = subprocess.Popen(
            [*ALONE, *PODWRIGHT, "serve", "--config", str(self.config), *words],
            env={**os.environ, "NOTIFY_SOCKET": self.notify.getsockname(), **environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.daemons.append(daemon)
        return daemon

    def heard(self, word: str) -> str:
        """Wait until a daemon has notified `word`; the message."""
        while word not in (message := self.notify.recv(4096).decode()):
            pass
        return message

    def line(self, daemon: subprocess.Popen[str], text: str) -> str:
        """Wait until a daemon has logged a line with `text`; the line."""
        assert daemon.stdout is not None
        impatience = threading.Timer(PATIENCE, daemon.kill)
        impatience.start()
        for line in daemon.stdout:
            if text in line:
                impatience.cancel()
                return line
        raise AssertionError(f"the daemon ended without saying {text!r}")

    def refused(self, *words: str, **environ: str) -> str:
        """Start a daemon which must not start; what it says."""
        daemon = self.start(*words, **environ)
        output, _ = daemon.communicate(timeout=PATIENCE)
        assert daemon.returncode == 1, output
        return output

    def channel(self) -> grpc.Channel:
        return grpc.insecure_channel(f"unix:{self.socket}")

    def close(self) -> None:
        for daemon in self.daemons:
            if daemon.poll() is None:
                daemon.kill()
            assert daemon.stdout is not None
            daemon.stdout.close()
            daemon.wait()
        self.notify.close()
        if (self.directory / "state" / "spawner.sock").exists():
            _end(asyncio.run(_spawner(self.directory / "state")))
        shutil.rmtree(self.directory)


def _end(spawner: int) -> None:
    """Kill a spawner and its zygote, which may still be rehearsing: nobody writes files then."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        zygote = map(int, Path(f"/proc/{spawner}/task/{spawner}/children").read_text().split())
        for pidfd in [os.pidfd_open(pid) for pid in (spawner, *zygote)]:
            kill_and_wait(pidfd)
            os.close(pidfd)


async def _spawner(state: Path) -> int:
    client = SpawnerClient(state)
    try:
        return await client.start()
    finally:
        client.close()


@pytest.fixture
def node() -> Iterator[Node]:
    made = Node(Path(tempfile.mkdtemp(prefix="pw-", dir="/tmp")))
    yield made
    made.close()


def test_a_daemon_answers_what_kubelet_asks_at_its_start_and_ends_when_asked(node: Node) -> None:
    daemon = node.start()
    assert "READY=1" in node.heard("READY=1")
    assert stat.S_IMODE(node.socket.stat().st_mode) == 0o660
    assert node.socket.stat().st_uid == 0
    with node.channel() as channel:
        version = ask(channel, RUNTIME, "Version", api.VersionRequest(), api.VersionResponse)
        assert (version.runtime_name, version.runtime_version) == ("podwright", VERSION)
        assert version.version
        assert version.runtime_api_version == "v1"

        status = ask(
            channel, RUNTIME, "Status", api.StatusRequest(verbose=True), api.StatusResponse
        )
        conditions = {one.type: one for one in status.status.conditions}
        assert conditions["RuntimeReady"].status
        assert not conditions["NetworkReady"].status
        assert conditions["NetworkReady"].reason == "NetworkPluginNotReady"
        assert f"{node.directory}/cni" in conditions["NetworkReady"].message
        assert [handler.name for handler in status.runtime_handlers] == ["", "podwright"]
        info = {topic: json.loads(text) for topic, text in status.info.items()}
        assert {"versions", "network", "images", "latency"} <= set(info)
        assert info["config"]["network"]["bridge"] == "podwright0"
        assert info["records"] == {"sandboxes": 0, "containers": 0, "under_way": []}

        config = ask(
            channel,
            RUNTIME,
            "RuntimeConfig",
            api.RuntimeConfigRequest(),
            api.RuntimeConfigResponse,
        )
        assert config.linux.cgroup_driver == api.CGROUPFS

        fs = ask(channel, IMAGES, "ImageFsInfo", api.ImageFsInfoRequest(), api.ImageFsInfoResponse)
        assert fs.image_filesystems[0].timestamp > 0
        assert Path(fs.image_filesystems[0].fs_id.mountpoint).is_dir()

        request = api.ListPodSandboxRequest()
        assert not ask(
            channel, RUNTIME, "ListPodSandbox", request, api.ListPodSandboxResponse
        ).items
        update = api.UpdateRuntimeConfigRequest()
        update.runtime_config.network_config.pod_cidr = "10.1.0.0/24,fd00::/64"
        ask(channel, RUNTIME, "UpdateRuntimeConfig", update, api.UpdateRuntimeConfigResponse)
    daemon.terminate()
    node.heard("STOPPING=1")
    output, _ = daemon.communicate(timeout=PATIENCE)
    assert daemon.returncode == 0, output
    assert not node.socket.exists()


def test_a_second_daemon_on_the_same_root_or_state_is_refused_and_told_who_is_there(
    node: Node,
) -> None:
    first = node.start()
    node.heard("READY=1")
    there = f"another podwright (pid {first.pid}) works in this directory"
    assert f"{node.directory}/root: {there}" in node.refused()
    assert there in node.refused("--state", f"{node.directory}/other")
    assert there in node.refused("--root", f"{node.directory}/other")
    with node.channel() as channel:  # and the first one has not noticed
        ask(channel, RUNTIME, "Version", api.VersionRequest(), api.VersionResponse)


def test_a_daemon_that_was_killed_leaves_nothing_that_keeps_the_next_from_starting(
    node: Node,
) -> None:
    first = node.start()
    node.heard("READY=1")
    first.kill()
    first.communicate()
    began = time.monotonic()
    node.start()
    node.heard("READY=1")
    assert time.monotonic() - began < 10
    with node.channel() as channel:
        ask(channel, RUNTIME, "Version", api.VersionRequest(), api.VersionResponse)


def test_sighup_reads_the_configuration_again_and_a_bad_one_changes_nothing(node: Node) -> None:
    daemon = node.start()
    node.heard("READY=1")
    good = node.config.read_text()
    node.config.write_text(f'{good}\nlog_level = "debugg"\n')
    daemon.send_signal(signal.SIGHUP)
    node.heard("RELOADING=1")
    node.heard("READY=1")
    assert "the old one stays" in node.line(daemon, "configuration not reloaded")
    node.config.write_text(f'log_level = "debug"\nnetwork.mtu = 1400\n{good}')
    daemon.send_signal(signal.SIGHUP)
    node.heard("RELOADING=1")
    node.heard("READY=1")
    assert "log_level is debug; network waits for a restart" in node.line(daemon, "reloaded:")
    with node.channel() as channel:
        ask(channel, RUNTIME, "Version", api.VersionRequest(), api.VersionResponse)
    assert "Version: ok in" in node.line(daemon, "Version")


def test_sigusr1_shows_what_the_daemon_is_doing(node: Node) -> None:
    daemon = node.start()
    node.heard("READY=1")
    daemon.send_signal(signal.SIGUSR1)
    node.line(daemon, "most recent call first")
    assert "daemon.py:serve" in node.line(daemon, "task Task-1: ")
    with node.channel() as channel:
        ask(channel, RUNTIME, "Version", api.VersionRequest(), api.VersionResponse)


def test_a_watchdog_hears_that_the_loop_turns(node: Node) -> None:
    node.start(WATCHDOG_USEC="200000")
    node.heard("READY=1")
    for _ in range(3):
        node.heard("WATCHDOG=1")


def test_a_typo_in_the_configuration_is_told_with_file_and_line(node: Node) -> None:
    node.config.write_text('\nrooot = "/x"\n')
    said = node.refused()
    assert f"Error: {node.config}:2: unknown key rooot: did you mean root?" in said
    assert "Traceback" not in said


def test_what_keeps_a_daemon_from_starting_is_one_sentence(node: Node) -> None:
    said = node.refused("--root", f"{node.config}/root")
    assert f"Error: root = '{node.config}/root': Not a directory: " in said
    assert "--root" in said
    assert "netns_dir = '/proc/netns'" in node.refused("--netns-dir", "/proc/netns")
    (node.directory / "root").mkdir(exist_ok=True)
    (node.directory / "root" / "state.db").write_bytes(b"not a database" * 100)
    said = node.refused()
    assert "file is not a database" in said
    assert "Traceback" not in said
    (node.directory / "root" / "state.db").unlink()
    said = node.refused("--address", f"unix://{node.directory}/{'x' * 100}")
    assert "too long for a unix socket" in said
    assert "Traceback" not in said
    said = node.refused("--address", f"unix://{node.config}")
    assert f"Error: {node.config}: is there and is no socket" in said
    assert node.config.read_text()
    said = node.refused("--address", f"unix://{node.config}/beneath")
    assert f"Error: {node.config}/beneath: no socket can be made there" in said
    assert "Traceback" not in said
    said = node.refused("--state", f"{node.directory}/root")
    assert "must be another directory than `root`" in said
    base = '[runtime.handlers.x]\nbase_runtime_spec = "/none.json"\n'
    node.config.write_text(node.config.read_text() + base)
    assert "Error: [runtime.handlers]: base_runtime_spec /none.json: No such file" in node.refused()


@pytest.mark.parametrize(
    ("key", "options"), [("root", "size=16k"), ("root", "ro"), ("state", "ro")]
)
def test_a_disk_that_is_full_or_read_only_keeps_a_daemon_from_starting_in_one_sentence(
    node: Node, key: str, options: str
) -> None:
    place = node.directory / key
    place.mkdir()
    script = f'mount -t tmpfs -o {options} small {place} && exec "$@"'
    done = subprocess.run(
        [*ALONE, "sh", "-c", script, "sh", *PODWRIGHT, "serve", "--config", str(node.config)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"Error: {place}/"), done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "is full" in done.stderr or "isk full" in done.stderr or "Read-only" in done.stderr


def test_an_address_may_stand_before_the_verb(node: Node) -> None:
    before = ("--address", f"unix://{node.config}/beneath", "serve")
    done = subprocess.run(
        [*ALONE, *PODWRIGHT, *before, "--config", str(node.config)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert f"Error: {node.config}/beneath: no socket can be made there" in done.stderr


def test_a_user_who_is_not_root_is_told_so(node: Node) -> None:
    os.chmod(node.directory, 0o755)  # the other user must read the configuration
    done = subprocess.run(
        [
            *("setpriv", "--reuid=65534", "--clear-groups"),
            *(*PODWRIGHT, "serve", "--config", str(node.config)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "must run as root" in done.stderr


def test_systemd_may_listen_first_and_pass_its_socket(node: Node) -> None:
    (node.directory / "run").mkdir()
    node.socket = node.directory / "run" / "podwright.sock"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(node.socket))
        listening.listen()
        program = (
            "import os, sys; os.environ['LISTEN_PID'] = str(os.getpid()); "
            f"os.dup2({listening.fileno()}, 3); os.execv(sys.argv[1], sys.argv[1:])"
        )
        daemon = subprocess.Popen(
            [
                *(*ALONE, sys.executable, "-c", program),
                *(*PODWRIGHT, "serve", "--config", str(node.config)),
            ],
            env={
                **os.environ,
                "LISTEN_FDS": "1",
                "NOTIFY_SOCKET": node.notify.getsockname(),
            },
            pass_fds=[listening.fileno()],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    node.daemons.append(daemon)
    with node.channel() as channel:  # asked before the daemon is there
        request = api.VersionRequest()
        assert ask(channel, RUNTIME, "Version", request, api.VersionResponse).version
