"""podwright stop: end pods or containers, giving them time to end by themselves."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import click

from cri.api import api_pb2 as api
from cri.cli import find
from cri.cli.client import Client, connect
from cri.cli.pod.sandbox import GRACE

if TYPE_CHECKING:
    from collections.abc import Sequence

DEFAULT_GRACE = 10
MARGIN = 30
AT_A_TIME = 16


@click.command(name="stop")
@click.argument("targets", nargs=-1, required=True, metavar="POD|CONTAINER...")
@click.option(
    "--grace",
    type=click.IntRange(min=0),
    help=f"Seconds before SIGKILL. Default: the pod's own, else {DEFAULT_GRACE}.",
)
def command(targets: tuple[str, ...], grace: int | None) -> None:
    """Stop pods (with all their containers) or containers."""
    with connect() as client:
        for found in [find.anything(client, target) for target in targets]:
            if isinstance(found, api.PodSandbox):
                stop_pod(client, found.id, grace)
            else:
                stop_containers(client, [found], grace)
            click.echo(found.id)


def stop_pod(client: Client, sandbox_id: str, grace: int | None) -> None:
    """Stops a pod's containers together, each with its grace, then the pod."""
    running = [
        item for item in find.containers(client, sandbox_id) if item.state == api.CONTAINER_RUNNING
    ]
    stop_containers(client, running, grace)
    request = api.StopPodSandboxRequest(pod_sandbox_id=sandbox_id)
    client.call("StopPodSandbox", request, api.StopPodSandboxResponse, timeout=MARGIN)


def stop_containers(client: Client, containers: Sequence[api.Container], grace: int | None) -> None:
    """Stops containers at the same time. `grace`: seconds; None: what each was created with."""

    def stop(container: api.Container) -> None:
        seconds = _own_grace(container) if grace is None else grace
        request = api.StopContainerRequest(container_id=container.id, timeout=seconds)
        client.call("StopContainer", request, api.StopContainerResponse, timeout=seconds + MARGIN)

    with ThreadPoolExecutor(AT_A_TIME) as pool:
        list(pool.map(stop, containers))


def _own_grace(container: api.Container) -> int:
    text = container.annotations.get(GRACE, "")
    return int(text) if text.isdigit() else DEFAULT_GRACE
