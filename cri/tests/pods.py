"""A daemon's parts with the real store and runtime, for tests of handlers; images and network are
small stand-ins that can be told to fail."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, cast

from cri import recover
from cri.api import api_pb2 as api
from cri.config import Config, override
from cri.paths import Paths
from cri.rpc.container_create import create_container
from cri.rpc.container_start import start_container
from cri.rpc.container_status import container_status
from cri.rpc.container_stop import stop_container
from cri.rpc.sandbox_list import list_pod_sandbox
from cri.rpc.sandbox_remove import remove_pod_sandbox
from cri.rpc.sandbox_run import run_pod_sandbox
from cri.rpc.sandbox_status import pod_sandbox_status
from cri.rpc.sandbox_stop import stop_pod_sandbox
from cri.rpc.services import Services
from cri.store.container import ContainerState
from cri.store.store import Store
from cri.tests.parts import stream_server
from image.manifest import ImageConfig, Platform
from image.store import Image, Overlay
from image.writable import FileSystem, Occupancy
from network.result import Attach, Result, Traffic
from runtime.cgroup import tree
from runtime.lifecycle import ContainerExit, Runtime
from runtime.linux.process import kill_and_wait
from runtime.spawner.client import SpawnerClient

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from image.store import ImageStore
    from network.pod_network import PodNetwork

IMAGE_ID = "sha256:" + "ab" * 32
MANIFEST = "sha256:" + "2" * 64
FOREVER = ("sleep", "1000")
STUBBORN = ("sh", "-c", 'trap "echo asked" TERM; echo ready; while true; do sleep 0.05; done')
APPLETS = ("sh", "sleep", "cat", "echo", "true", "false", "id", "kill")


async def eventually(condition: Callable[[], bool]) -> None:
    """Waits for what a program does and nobody announces."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - see above
            await asyncio.sleep(0.01)


@dataclass(slots=True)
class Writable:
    """What containers have written: as a test says."""

    mountpoint: str
    written: dict[str, Occupancy] = field(default_factory=dict)
    error: OSError | None = None

    def find(self, container_id: str) -> Occupancy | None:
        return self.written.get(container_id)

    def file_system(self) -> FileSystem:
        if self.error:
            raise self.error
        return FileSystem(1 << 30, 1000, 900, 8, 0)


class NoCheckpoints:
    """busybox is none."""

    async def is_one(self, _image_id: str) -> bool:
        return False


@dataclass(slots=True)
class Images:
    """One image, busybox; snapshots are directories."""

    path: Path
    overlays: dict[str, Overlay] = field(default_factory=dict)
    discard_error: Exception | None = None
    checkpoints: NoCheckpoints = field(default_factory=NoCheckpoints)
    writable: Writable = field(default_factory=lambda: Writable("/var/lib/podwright"))

    def __post_init__(self) -> None:
        binaries = self.path / "busybox" / "bin"
        if not binaries.exists():
            binaries.mkdir(parents=True)
            shutil.copy("/bin/busybox", binaries / "busybox")
            for name in APPLETS:
                (binaries / name).symlink_to("busybox")

    def find(self, text: str) -> Image | None:
        config = ImageConfig(Platform(), (), cmd=("sh",), env=("PATH=/bin",))
        image = Image(IMAGE_ID, ("busybox:1",), (), 1, config, False, MANIFEST, 0)
        return image if text in ("busybox", IMAGE_ID) else None

    def prepare(self, image_id: str, container_id: str, owner: tuple[int, int] = (0, 0)) -> Overlay:
        upper, work = (self.path / container_id / name for name in ("upper", "work"))
        upper.mkdir(parents=True)
        work.mkdir()
        lower = (os.fspath(self.path / "busybox"),)
        self.overlays[container_id] = Overlay(lower, os.fspath(upper), os.fspath(work))
        return self.overlays[container_id]

    def snapshot(self, container_id: str) -> Overlay | None:
        return self.overlays.get(container_id)

    async def discard(self, container_id: str) -> None:
        if self.discard_error:
            raise self.discard_error
        if self.overlays.pop(container_id, None):
            shutil.rmtree(self.path / container_id)


@dataclass(slots=True)
class Network:
    """Hands out addresses; attached: what it would have to give back."""

    attached: set[str] = field(default_factory=set)
    attach_error: BaseException | None = None
    detach_error: Exception | None = None
    entered: asyncio.Event = field(default_factory=asyncio.Event)
    gate: asyncio.Event | None = None
    counted: Traffic | None = None
    traffic_error: OSError | None = None

    async def traffic(self) -> Mapping[str, Mapping[str, Traffic]]:
        if self.traffic_error:
            raise self.traffic_error
        found = {"eth0": self.counted} if self.counted else {}
        return dict.fromkeys(self.attached, found)

    async def attach(self, request: Attach) -> Result:
        self.attached.add(request.sandbox_id)
        self.entered.set()
        if self.gate:
            await self.gate.wait()
        if self.attach_error:
            raise self.attach_error
        return Result(("10.1.0.2", "fd00::2"), (), "eth0", "", "")

    async def detach(self, sandbox_id: str) -> None:
        if self.detach_error:
            raise self.detach_error
        self.attached.discard(sandbox_id)

    async def collect(self, live: Collection[str]) -> tuple[str, ...]:
        dead = self.attached - set(live)
        self.attached -= dead
        return tuple(dead)


class Node:
    """A node on a scratch directory; its daemon may come and go."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.images = Images(path / "images")
        self.network = Network()
        self.cgroup = f"/podwright-test-{os.getpid()}-{path.name}"
        self._numbers = 0
        self.services: Services

    async def start(self) -> None:
        """A daemon begins."""
        paths = Paths(self.path / "root", self.path / "state")
        for directory in (paths.root, paths.state):
            directory.mkdir(exist_ok=True)
        config = override(
            Config(),
            root=os.fspath(paths.root),
            state=os.fspath(paths.state),
            netns_dir=os.fspath(self.path / "netns"),
        )
        runtime = Runtime(
            paths.state, Path(config.netns_dir), on_exit=self._on_exit, on_lost=self._on_lost
        )
        self.services = Services(
            config,
            paths,
            Store.open(paths.database),
            cast("ImageStore", self.images),
            cast("PodNetwork", self.network),
            runtime,
            stream_server(),
        )
        await runtime.start()

    async def stop(self) -> None:
        """A daemon ends; its pods live on."""
        self.let_write(allowed=True)
        await asyncio.gather(*self.services.busy, return_exceptions=True)
        await self.services.runtime.close()
        self.services.store.close()

    async def restart(self, *, rebooted: bool = False) -> None:
        await self.stop()
        await self.start()
        await self.recover(rebooted=rebooted)

    async def recover(self, *, rebooted: bool = False) -> None:
        """The daemon finds out what is true."""
        await recover.recover(self.services, rebooted=rebooted)

    def _on_exit(self, exit_: ContainerExit) -> None:
        recover.on_exit(self.services, exit_)

    def _on_lost(self, sandbox_id: str) -> None:
        recover.on_lost(self.services, sandbox_id)

    def let_write(self, *, allowed: bool) -> None:
        """As if the state database's disk were full, or no longer."""
        connection = self.services.store._database._connection
        connection.execute(f"PRAGMA query_only = {'OFF' if allowed else 'ON'}")

    # what a client asks

    def sandbox_config(self) -> api.PodSandboxConfig:
        self._numbers += 1
        metadata = api.PodSandboxMetadata(
            name=f"pod-{self._numbers}", namespace="n", uid=str(self._numbers)
        )
        config = api.PodSandboxConfig(
            metadata=metadata,
            hostname="web",
            log_directory=os.fspath(self.path / "logs"),
        )
        config.linux.cgroup_parent = f"{self.cgroup}/{metadata.uid}"
        config.linux.security_context.namespace_options.pid = api.CONTAINER
        return config

    async def run(self, config: api.PodSandboxConfig | None = None) -> str:
        request = api.RunPodSandboxRequest(config=config or self.sandbox_config())
        return (await run_pod_sandbox(self.services, request)).pod_sandbox_id

    def container_config(self, *command: str, name: str = "main") -> api.ContainerConfig:
        config = api.ContainerConfig(
            metadata=api.ContainerMetadata(name=name),
            image=api.ImageSpec(image="busybox"),
            command=command,
            log_path=f"{name}/0.log",
        )
        config.linux.security_context.namespace_options.pid = api.CONTAINER
        return config

    async def create(self, sandbox_id: str, *command: str, name: str = "main") -> str:
        return await self.create_from(sandbox_id, self.container_config(*command, name=name))

    async def create_from(self, sandbox_id: str, config: api.ContainerConfig) -> str:
        request = api.CreateContainerRequest(pod_sandbox_id=sandbox_id, config=config)
        return (await create_container(self.services, request)).container_id

    async def start_one(self, container_id: str) -> None:
        await start_container(self.services, api.StartContainerRequest(container_id=container_id))

    async def running(self, sandbox_id: str, *command: str, name: str = "main") -> str:
        container_id = await self.create(sandbox_id, *command, name=name)
        await self.start_one(container_id)
        return container_id

    async def ended(self, container_id: str) -> None:
        """Waits until it has."""
        async with asyncio.timeout(10):
            await self.services.store.containers.until(
                container_id, lambda one: one.status.state is ContainerState.EXITED
            )

    def log(self, name: str = "main") -> list[str]:
        lines = (self.path / "logs" / name / "0.log").read_text().splitlines()
        return [line.split(" ", 3)[3] for line in lines]

    async def status(self, container_id: str) -> api.ContainerStatus:
        request = api.ContainerStatusRequest(container_id=container_id)
        return (await container_status(self.services, request)).status

    async def sandbox_state(self, sandbox_id: str) -> int:
        request = api.PodSandboxStatusRequest(pod_sandbox_id=sandbox_id)
        return (await pod_sandbox_status(self.services, request)).status.state

    async def listed(self) -> list[api.PodSandbox]:
        answer = await list_pod_sandbox(self.services, api.ListPodSandboxRequest())
        return list(api.ListPodSandboxResponse.FromString(answer).items)

    async def stop_container(self, container_id: str, grace: int) -> None:
        request = api.StopContainerRequest(container_id=container_id, timeout=grace)
        await stop_container(self.services, request)

    async def stop_pod(self, sandbox_id: str) -> None:
        request = api.StopPodSandboxRequest(pod_sandbox_id=sandbox_id)
        await stop_pod_sandbox(self.services, request)

    async def remove_pod(self, sandbox_id: str) -> None:
        request = api.RemovePodSandboxRequest(pod_sandbox_id=sandbox_id)
        await remove_pod_sandbox(self.services, request)

    async def until_logged(self, line: str) -> None:
        await eventually(lambda: line in self.log())

    def monitor_pid(self, sandbox_id: str) -> int:
        path = self.path / "state" / "monitors" / sandbox_id / "pid"
        return int(path.read_text().split()[0])

    # what is left

    def leftovers(self) -> Sequence[str]:
        """What must not be there when every sandbox is removed."""
        found = [f"attachment {name}" for name in self.network.attached]
        found += [f"snapshot {name}" for name in self.images.overlays]
        for directory in (self.path / "state" / "monitors", self.path / "netns"):
            if directory.exists():
                found += [os.fspath(path) for path in directory.iterdir()]
        return found

    async def end(self) -> None:
        """Everything ends; raises AssertionError if something can't be removed."""
        for name in self.services.runtime.sandboxes_on_disk():
            await self.services.runtime.remove_sandbox(name)
        await self.stop()
        client = SpawnerClient(self.path / "state")
        spawner = await client.start()
        client.close()
        with contextlib.suppress(ProcessLookupError):
            await asyncio.to_thread(kill_and_wait, os.pidfd_open(spawner))
        cgroup = tree.detect().cgroup(self.cgroup)
        if cgroup.exists():
            cgroup.remove()
