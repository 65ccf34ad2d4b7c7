"""Pods and containers asked for as kubelet asks for them, for tests.

pod = kubelet.pod()
container = pod.container(["sh", "-c", "echo hello"]).start()
assert container.wait().exit_code == 0
assert container.log() == ["hello"]
"""

from __future__ import annotations

import itertools
import threading
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import grpc

from cri.api import api_pb2 as api
from cri.cli.client import CallFailed, Client
from cri.cli.logfile import Line, parse

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from e2e.node import Node

PATIENCE = 20.0
"""Seconds that a test waits for something that takes milliseconds."""

_numbers = itertools.count(1)


def until(
    ready: Callable[[], bool], what: str, patience: float = PATIENCE, *, every: float = 0.01
) -> None:
    """Waits for a condition that nobody announces, looking `every` so many seconds.
    AssertionError after `patience` seconds."""
    deadline = time.monotonic() + patience
    pause = threading.Event()
    while not ready():
        assert time.monotonic() < deadline, f"after {patience} s still not: {what}"
        pause.wait(every)


@dataclass(slots=True)
class Kubelet:
    """Asks the daemon of a node; remembers its pods so that they can be removed."""

    node: Node = field(repr=False)
    image: str = ""
    """What containers run, unless they say otherwise: an image's id."""
    pods: list[Pod] = field(default_factory=list, repr=False)

    @property
    def client(self) -> Client:
        return self.node.client

    def config(
        self, *, pid: api.NamespaceMode = api.CONTAINER, **fields: object
    ) -> api.PodSandboxConfig:
        """A sandbox configuration as for a plain pod; `fields` are merged into it."""
        name = f"pod-{next(_numbers)}"
        uid = str(uuid.uuid4())
        made = api.PodSandboxConfig(
            metadata=api.PodSandboxMetadata(name=name, namespace="e2e", uid=uid),
            hostname=name,
            log_directory=str(self.node.directory / "logs" / uid),
            labels={"io.kubernetes.pod.uid": uid, "test": name},
            annotations={"note": "unaltered: ü"},
        )
        made.linux.security_context.namespace_options.pid = pid
        made.MergeFrom(api.PodSandboxConfig(**fields))  # type: ignore[arg-type]  # fields by name
        return made

    def pod(self, config: api.PodSandboxConfig | None = None, *, handler: str = "") -> Pod:
        """Runs a sandbox."""
        config = config or self.config()
        request = api.RunPodSandboxRequest(config=config, runtime_handler=handler)
        answer = self.client.call("RunPodSandbox", request, api.RunPodSandboxResponse)
        pod = Pod(self, answer.pod_sandbox_id, config)
        self.pods.append(pod)
        return pod

    def pull(self, reference: str, auth: api.AuthConfig | None = None) -> str:
        """Pulls an image; its id."""
        request = api.PullImageRequest(image=api.ImageSpec(image=reference), auth=auth)
        return self.client.call("PullImage", request, api.PullImageResponse, timeout=120).image_ref

    def image_status(self, reference: str) -> api.Image | None:
        request = api.ImageStatusRequest(image=api.ImageSpec(image=reference))
        answer = self.client.call("ImageStatus", request, api.ImageStatusResponse)
        return answer.image if answer.HasField("image") else None

    def sandboxes(self, **filters: object) -> list[api.PodSandbox]:
        wanted = api.PodSandboxFilter(**filters)  # type: ignore[arg-type]  # fields by name
        request = api.ListPodSandboxRequest(filter=wanted)
        return list(self.client.call("ListPodSandbox", request, api.ListPodSandboxResponse).items)

    def containers(self, **filters: object) -> list[api.Container]:
        wanted = api.ContainerFilter(**filters)  # type: ignore[arg-type]  # fields by name
        request = api.ListContainersRequest(filter=wanted)
        answer = self.client.call("ListContainers", request, api.ListContainersResponse)
        return list(answer.containers)

    def clean(self) -> None:
        """Removes every pod that was asked for."""
        while self.pods:
            self.pods.pop().remove()


@dataclass(slots=True)
class Pod:
    """A sandbox and what can be done to it."""

    kubelet: Kubelet = field(repr=False)
    id: str
    config: api.PodSandboxConfig = field(repr=False)

    def response(self, *, verbose: bool = False) -> api.PodSandboxStatusResponse:
        request = api.PodSandboxStatusRequest(pod_sandbox_id=self.id, verbose=verbose)
        return self.kubelet.client.call("PodSandboxStatus", request, api.PodSandboxStatusResponse)

    def status(self) -> api.PodSandboxStatus:
        return self.response().status

    @property
    def ip(self) -> str:
        return self.status().network.ip

    def container(
        self, command: Sequence[str] = ("sleep", "1000000"), **fields: object
    ) -> Container:
        """Creates a container that runs `command`; `fields` are ContainerConfig's."""
        return self.create(self.container_config(command, **fields))

    def create(self, config: api.ContainerConfig) -> Container:
        request = api.CreateContainerRequest(
            pod_sandbox_id=self.id, config=config, sandbox_config=self.config
        )
        answer = self.kubelet.client.call("CreateContainer", request, api.CreateContainerResponse)
        return Container(self.kubelet, answer.container_id, config)

    def container_config(self, command: Sequence[str], /, **fields: object) -> api.ContainerConfig:
        name = f"c{next(_numbers)}"
        made = api.ContainerConfig(
            metadata=api.ContainerMetadata(name=name),
            image=api.ImageSpec(image=self.kubelet.image),
            command=list(command),
            log_path=f"{name}.log",
            labels={"io.kubernetes.container.name": name},
        )
        options = self.config.linux.security_context.namespace_options
        made.linux.security_context.namespace_options.CopyFrom(options)
        made.MergeFrom(api.ContainerConfig(**fields))  # type: ignore[arg-type]  # fields by name
        return made

    def run(self, script: str, **fields: object) -> list[str]:
        """Runs a shell script in a container of its own until it ends well; its output's lines."""
        container = self.container(["sh", "-c", script], **fields).start()
        status = container.wait()
        assert status.exit_code == 0, (status.exit_code, status.message, container.log())
        return container.log()

    def stop(self) -> None:
        request = api.StopPodSandboxRequest(pod_sandbox_id=self.id)
        self.kubelet.client.call("StopPodSandbox", request, api.StopPodSandboxResponse, timeout=60)

    def remove(self) -> None:
        self.stop()
        request = api.RemovePodSandboxRequest(pod_sandbox_id=self.id)
        self.kubelet.client.call(
            "RemovePodSandbox", request, api.RemovePodSandboxResponse, timeout=60
        )


@dataclass(slots=True)
class Container:
    """A container and what can be done to it."""

    kubelet: Kubelet = field(repr=False)
    id: str
    config: api.ContainerConfig = field(repr=False)

    def start(self) -> Container:
        request = api.StartContainerRequest(container_id=self.id)
        self.kubelet.client.call("StartContainer", request, api.StartContainerResponse)
        return self

    def response(self, *, verbose: bool = False) -> api.ContainerStatusResponse:
        request = api.ContainerStatusRequest(container_id=self.id, verbose=verbose)
        return self.kubelet.client.call("ContainerStatus", request, api.ContainerStatusResponse)

    def status(self) -> api.ContainerStatus:
        return self.response().status

    def wait(self, patience: float = PATIENCE) -> api.ContainerStatus:
        """Its status once it has exited."""
        until(lambda: self.status().state == api.CONTAINER_EXITED, f"{self.id} exited", patience)
        return self.status()

    def exec(self, *command: str, timeout: int = 10) -> api.ExecSyncResponse:
        request = api.ExecSyncRequest(container_id=self.id, cmd=command, timeout=timeout)
        return self.kubelet.client.call("ExecSync", request, api.ExecSyncResponse, timeout=60)

    def exec_url(self, *command: str, tty: bool = False, stdin: bool = True) -> str:
        """Where to stream a command: with all the channels that there are."""
        request = api.ExecRequest(
            container_id=self.id, cmd=command, tty=tty, stdin=stdin, stdout=True, stderr=not tty
        )
        return self.kubelet.client.call("Exec", request, api.ExecResponse).url

    def attach_url(self, *, tty: bool = False, stdin: bool = False) -> str:
        """Where to stream the container's own input and output."""
        request = api.AttachRequest(
            container_id=self.id, tty=tty, stdin=stdin, stdout=True, stderr=not tty
        )
        return self.kubelet.client.call("Attach", request, api.AttachResponse).url

    def shell(self, script: str) -> str:
        """What a shell script says inside the container; AssertionError if it fails."""
        answer = self.exec("sh", "-c", script)
        assert answer.exit_code == 0, (answer.exit_code, answer.stdout, answer.stderr)
        return answer.stdout.decode().strip()

    def stop(self, grace: int = 0) -> None:
        request = api.StopContainerRequest(container_id=self.id, timeout=grace)
        self.kubelet.client.call(
            "StopContainer", request, api.StopContainerResponse, timeout=grace + 60
        )

    def remove(self) -> None:
        request = api.RemoveContainerRequest(container_id=self.id)
        self.kubelet.client.call("RemoveContainer", request, api.RemoveContainerResponse)

    def reopen_log(self) -> None:
        request = api.ReopenContainerLogRequest(container_id=self.id)
        self.kubelet.client.call("ReopenContainerLog", request, api.ReopenContainerLogResponse)

    @property
    def log_path(self) -> Path:
        return Path(self.status().log_path)

    def log_lines(self) -> list[Line]:
        """The records of its log file."""
        return [parse(line) for line in self.log_path.read_bytes().splitlines(keepends=True)]

    def log(self, stream: str = "") -> list[str]:
        """What it wrote, line by line; of one stream, or of both."""
        return [
            line.content.decode(errors="replace")
            for line in self.log_lines()
            if stream in ("", line.stream)
        ]


def refused(call: Callable[[], object]) -> CallFailed:
    """The error that a call is answered with; AssertionError if it succeeds."""
    try:
        answer = call()
    except CallFailed as error:
        return error
    raise AssertionError(f"it was allowed: {answer}")


def attempt(call: Callable[[], object]) -> CallFailed | None:
    """How a call was refused, if it was; a fault of the daemon's own is no refusal."""
    try:
        call()
    except CallFailed as error:
        if error.code is grpc.StatusCode.INTERNAL:
            raise
        return error
    return None
