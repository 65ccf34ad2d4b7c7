"""An NRI plugin as a process of its own, which does what a file says; and how tests start it.

python -m e2e.nri_plugin DIRECTORY NAME INDEX SOCKET     (as a plugin of the node: without words)

DIRECTORY/wishes.json   {"create": a CreateContainerResponse, "update": an UpdateContainerResponse,
                        "stop": a StopContainerResponse, "unasked": an UpdateContainersRequest (done
                        at SIGUSR1), "refuse": {call: text}, "sleep": {call: seconds},
                        "die": [call], "validate": true, "meanwhile": {call: an
                        UpdateContainersRequest, made within the call; without an id it is about
                        that call's container}}; read anew at each call
DIRECTORY/heard         what it was told: a JSON object a line
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from google.protobuf.json_format import MessageToDict, ParseDict

from cri.nri.kit import Plugin, Refuse, nri, run

if TYPE_CHECKING:
    from google.protobuf.message import Message

M = TypeVar("M", bound="Message")


class Puppet(Plugin):
    """Hears of everything but what is to be validated."""

    def __init__(self, directory: Path, name: str, index: str, path: str) -> None:
        super().__init__(name, index, path=path)
        self.directory = directory
        self._tasks: set[asyncio.Task[None]] = set()

    def wishes(self) -> dict[str, Any]:
        path = self.directory / "wishes.json"
        made: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        return made

    def write(self, **fields: object) -> None:
        with (self.directory / "heard").open("a") as file:
            file.write(json.dumps(fields) + "\n")

    async def heard(self, call: str, **fields: object) -> None:
        self.write(call=call, **fields)
        wishes = self.wishes()
        if call in wishes.get("die", ()):
            os.kill(os.getpid(), signal.SIGKILL)
        await asyncio.sleep(wishes.get("sleep", {}).get(call, 0))
        if call in wishes.get("refuse", {}):
            raise Refuse(wishes["refuse"][call])

    async def about(self, call: str, pod: nri.PodSandbox, container: nri.Container) -> None:
        said = MessageToDict(container, preserving_proto_field_name=True)
        said.get("linux", {}).pop("seccomp_policy", None)
        await self.heard(call, pod=pod.id, container=said)
        await self._meanwhile(call, container.id)

    async def _meanwhile(self, call: str, container_id: str) -> None:
        wanted = self.wishes().get("meanwhile", {}).get(call)
        if wanted is None:
            return
        request = ParseDict(wanted, nri.UpdateContainersRequest())
        for update in request.update:
            update.container_id = update.container_id or container_id
        for eviction in request.evict:
            eviction.container_id = eviction.container_id or container_id
        failed = await self.update_containers(list(request.update), list(request.evict))
        self.write(call="meanwhile", within=call, failed=[one.container_id for one in failed])

    def wish(self, name: str, wanted: type[M]) -> M:
        return ParseDict(self.wishes().get(name, {}), wanted())

    async def configure(self, config: str, runtime: str, version: str) -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, self.unasked)
        await self.heard("configure", config=config, runtime=runtime, pid=os.getpid())

    def unasked(self) -> None:
        task = asyncio.create_task(self._unasked())
        self._tasks.add(task)

    async def _unasked(self) -> None:
        wanted = self.wish("unasked", nri.UpdateContainersRequest)
        failed = await self.update_containers(list(wanted.update), list(wanted.evict))
        self.write(call="unasked", failed=[update.container_id for update in failed])

    async def synchronize(
        self, pods: list[nri.PodSandbox], containers: list[nri.Container]
    ) -> list[nri.ContainerUpdate]:
        await self.heard(
            "synchronize",
            pods=[pod.id for pod in pods],
            containers=[MessageToDict(one, preserving_proto_field_name=True) for one in containers],
        )
        return []

    async def shutdown(self) -> None:
        await self.heard("shutdown")

    async def run_pod_sandbox(self, pod: nri.PodSandbox) -> None:
        said = MessageToDict(pod, preserving_proto_field_name=True)
        await self.heard("run_pod", pod=pod.id, message=said)

    async def update_pod_sandbox(self, request: nri.UpdatePodSandboxRequest) -> None:
        await self.heard("update_pod", pod=request.pod.id)

    async def post_update_pod_sandbox(self, pod: nri.PodSandbox) -> None:
        await self.heard("post_update_pod", pod=pod.id)

    async def stop_pod_sandbox(self, pod: nri.PodSandbox) -> None:
        await self.heard("stop_pod", pod=pod.id)

    async def remove_pod_sandbox(self, pod: nri.PodSandbox) -> None:
        await self.heard("remove_pod", pod=pod.id)

    async def create_container(
        self, pod: nri.PodSandbox, container: nri.Container
    ) -> nri.CreateContainerResponse | None:
        await self.about("create", pod, container)
        return self.wish("create", nri.CreateContainerResponse)

    async def post_create_container(self, pod: nri.PodSandbox, container: nri.Container) -> None:
        await self.about("post_create", pod, container)

    async def start_container(self, pod: nri.PodSandbox, container: nri.Container) -> None:
        await self.about("start", pod, container)

    async def post_start_container(self, pod: nri.PodSandbox, container: nri.Container) -> None:
        await self.about("post_start", pod, container)

    async def update_container(
        self, pod: nri.PodSandbox, container: nri.Container, resources: nri.LinuxResources
    ) -> nri.UpdateContainerResponse | None:
        await self.about("update", pod, container)
        return self.wish("update", nri.UpdateContainerResponse)

    async def post_update_container(self, pod: nri.PodSandbox, container: nri.Container) -> None:
        await self.about("post_update", pod, container)

    async def stop_container(
        self, pod: nri.PodSandbox, container: nri.Container
    ) -> nri.StopContainerResponse | None:
        await self.about("stop", pod, container)
        return self.wish("stop", nri.StopContainerResponse)

    async def remove_container(self, pod: nri.PodSandbox, container: nri.Container) -> None:
        await self.about("remove", pod, container)


class Judge(Puppet):
    """Is asked for its consent, too."""

    async def validate_container_adjustment(
        self, request: nri.ValidateContainerAdjustmentRequest
    ) -> None:
        await self.heard("validate", pod=request.pod.id)


def main() -> None:
    directory, name, index, socket = sys.argv[1:]
    puppet = Puppet(Path(directory), name, index, socket)
    judges = puppet.wishes().get("validate", False)
    run(Judge(Path(directory), name, index, socket) if judges else puppet)


if __name__ == "__main__":
    main()
