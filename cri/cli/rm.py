"""podwright rm: remove pods or containers, and what `podwright run` made for them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from cri.api import api_pb2 as api
from cri.cli import find
from cri.cli.client import Client, connect
from cri.cli.pod.sandbox import DIRECTORY
from cri.cli.pod.volumes import PodDirectory
from cri.cli.stop import MARGIN, stop_pod

if TYPE_CHECKING:
    from collections.abc import Mapping


@click.command(name="rm")
@click.argument("targets", nargs=-1, metavar="POD|CONTAINER...")
@click.option("--force", "-f", is_flag=True, help="Kill what still runs.")
@click.option("--all", "-a", "everything", is_flag=True, help="All pods.")
def command(targets: tuple[str, ...], force: bool, everything: bool) -> None:  # noqa: FBT001
    """Remove pods (with all their containers) or containers."""
    if bool(targets) == everything:
        raise click.UsageError("name pods or containers, or say --all")
    with connect() as client:
        found: list[api.PodSandbox | api.Container] = (
            [*find.sandboxes(client)]
            if everything
            else [find.anything(client, target) for target in targets]
        )
        for item in found:
            if isinstance(item, api.PodSandbox):
                _remove_pod(client, item, force=force)
            else:
                _remove_container(client, item, force=force)
            click.echo(item.id)


def _remove_pod(client: Client, pod: api.PodSandbox, *, force: bool) -> None:
    running = [
        item.metadata.name
        for item in find.containers(client, pod.id)
        if item.state == api.CONTAINER_RUNNING
    ]
    if running and not force:
        raise click.ClickException(
            f"pod {find.pod_name(pod)} has running containers ({', '.join(running)}):"
            " stop it first, or say --force"
        )
    remove_pod(client, pod.id, pod.annotations)


def remove_pod(client: Client, sandbox_id: str, annotations: Mapping[str, str]) -> None:
    """Removes a pod with all that belongs to it, killing what still runs."""
    stop_pod(client, sandbox_id, grace=0)
    request = api.RemovePodSandboxRequest(pod_sandbox_id=sandbox_id)
    client.call("RemovePodSandbox", request, api.RemovePodSandboxResponse, timeout=MARGIN)
    if DIRECTORY in annotations:
        path = Path(annotations[DIRECTORY])
        PodDirectory(path.parent, path.name).remove()


def _remove_container(client: Client, container: api.Container, *, force: bool) -> None:
    if container.state == api.CONTAINER_RUNNING and not force:
        raise click.ClickException(
            f"container {container.metadata.name} runs: stop it first, or say --force"
        )
    request = api.RemoveContainerRequest(container_id=container.id)
    client.call("RemoveContainer", request, api.RemoveContainerResponse, timeout=MARGIN)
