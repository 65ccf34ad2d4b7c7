"""From a manifest to a running pod, or back to nothing.

Sandbox, then for each container: image, create, start; init containers one after the other to
their end. If a step fails, everything is removed again.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field
from pathlib import Path

import click

from cri.api import api_pb2 as api
from cri.cli import logfile, show
from cri.cli.client import CallFailed, Client
from cri.cli.pod import container, hosts, ignored, manifest, sandbox, volumes
from cri.cli.pulling import ensure_image
from cri.cli.rm import remove_pod

INTERVAL = 0.05
PATIENCE = 240.0
"""Seconds for a sandbox or a container to start: kubelet's for RunPodSandbox."""


@dataclass(slots=True)
class Running:
    """A pod that was started: its sandbox, its address, its containers by name."""

    sandbox_id: str
    config: api.PodSandboxConfig
    ip: str = ""
    containers: dict[str, str] = field(default_factory=dict)


class Start:
    """Starts one pod; undoes everything if it can't."""

    def __init__(
        self, client: Client, pod: manifest.Fields, *, source: str, base: Path, quiet: bool
    ) -> None:
        self._client = client
        self._pod = pod
        self._source = source
        self._quiet = quiet
        self._who = sandbox.identity(pod.inner("metadata"))
        self._directory = volumes.PodDirectory(base, self._who.uid)
        self._volumes, unknown = volumes.plan(pod.inner("spec").each("volumes"), self._directory)
        if unknown:
            raise manifest.ManifestError(source, [self._not_here(volume) for volume in unknown])

    def _not_here(self, volume: manifest.Fields) -> manifest.Problem:
        kind = next(name for name in volume.values if name != "name")
        return volume.problem(kind, "this kind of volume needs a cluster; use hostPath or emptyDir")

    def pod(self) -> Running:
        """Starts the pod and tells what it is; CallFailed or another click error if it can't."""
        spec = self._pod.inner("spec")
        config = sandbox.config(self._pod, self._who, self._directory)
        self._directory.make()
        running: Running | None = None
        try:
            running = self._start_sandbox(config)
            for fields in spec.each("initContainers"):
                self._start_init(running, fields)
            for fields in spec.each("containers"):
                self._start_container(running, fields)
        except BaseException as error:
            with contextlib.suppress(CallFailed):
                self._undo(running, config)
            if isinstance(error, container.Impossible | volumes.VolumeFault | ValueError):
                raise click.ClickException(f"{self._source}: {error}") from error
            raise
        self._tell(running)
        return running

    def _start_sandbox(self, config: api.PodSandboxConfig) -> Running:
        spec = self._pod.inner("spec")
        group = spec.inner("securityContext")
        for volume in self._volumes.values():
            volume.make(group.number("fsGroup", -1))
        request = api.RunPodSandboxRequest(
            config=config, runtime_handler=spec.text("runtimeClassName")
        )
        answer = self._client.call(
            "RunPodSandbox", request, api.RunPodSandboxResponse, timeout=PATIENCE
        )
        running = Running(answer.pod_sandbox_id, config)
        status = self._client.call(
            "PodSandboxStatus",
            api.PodSandboxStatusRequest(pod_sandbox_id=running.sandbox_id),
            api.PodSandboxStatusResponse,
        ).status
        running.ip = status.network.ip
        name = config.hostname or self._who.name
        hosts.write(self._directory.hosts, spec.each("hostAliases"), name, running.ip)
        return running

    def _start_container(self, running: Running, fields: manifest.Fields) -> str:
        """Creates and starts one; its id."""
        name = fields.text("name")
        try:
            image = ensure_image(
                self._client,
                fields.text("image"),
                policy=fields.text("imagePullPolicy"),
                quiet=self._quiet,
            )
            around = container.Surroundings(
                self._pod,
                self._who,
                self._volumes,
                running.ip,
                str(self._directory.hosts) if self._directory.hosts.exists() else "",
            )
            request = api.CreateContainerRequest(
                pod_sandbox_id=running.sandbox_id,
                config=container.config(fields, image, around),
                sandbox_config=running.config,
            )
            created = self._client.call("CreateContainer", request, api.CreateContainerResponse)
            running.containers[name] = created.container_id
            self._client.call(
                "StartContainer",
                api.StartContainerRequest(container_id=created.container_id),
                api.StartContainerResponse,
                timeout=PATIENCE,
            )
        except CallFailed as error:
            raise CallFailed(f"container {name}: {error.message}", error.code) from error
        return created.container_id

    def _start_init(self, running: Running, fields: manifest.Fields) -> None:
        """Runs an init container to its end; one with restartPolicy Always is only started."""
        name = fields.text("name")
        container_id = self._start_container(running, fields)
        if fields.text("restartPolicy") == "Always":
            return
        del running.containers[name]
        status = until_exited(self._client, container_id)
        if status.exit_code:
            raise click.ClickException(
                f"init container {name} ended with code {status.exit_code}"
                f"{_last_words(Path(status.log_path))}"
            )

    def _undo(self, running: Running | None, config: api.PodSandboxConfig) -> None:
        if running is not None:
            remove_pod(self._client, running.sandbox_id, config.annotations)
        else:
            self._directory.remove()

    def _tell(self, running: Running) -> None:
        if self._quiet:
            click.echo(running.sandbox_id)
            return
        for path in self._pod.unread():
            if path not in ("apiVersion", "kind"):
                show.note(f"ignored: {path} ({ignored.reason(path)})")
        click.echo(f"pod {self._who.namespace}/{self._who.name}")
        click.echo(f"  id  {running.sandbox_id}")
        click.echo(f"  ip  {running.ip or 'of the node'}")
        for name, container_id in running.containers.items():
            click.echo(f"  container {name}  {show.short(container_id)}")


def _last_words(path: Path) -> str:
    """The last lines of a log, for an error message."""
    if not path.is_file():
        return ""
    offset = logfile.tail_offset(path, 5)
    lines = logfile.read(path, offset=offset, more=lambda: False)
    return ":\n" + "\n".join(line.content.decode(errors="replace") for line in lines)


def until_exited(client: Client, container_id: str) -> api.ContainerStatus:
    """Waits for a container's end."""
    request = api.ContainerStatusRequest(container_id=container_id)
    while True:
        status = client.call("ContainerStatus", request, api.ContainerStatusResponse).status
        if status.state == api.CONTAINER_EXITED:
            return status
        time.sleep(INTERVAL)
