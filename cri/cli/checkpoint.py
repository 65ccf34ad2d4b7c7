"""podwright checkpoint: a running container as an archive, or all of a pod in a directory."""

from __future__ import annotations

from pathlib import Path

import click

from cri.api import api_pb2 as api
from cri.cli import find
from cri.cli.client import Client, connect

DEFAULT_SECONDS = 110
MARGIN = 30


@click.command(name="checkpoint")
@click.argument("target", metavar="POD|CONTAINER")
@click.argument("path", type=click.Path(path_type=Path))
@click.option(
    "--timeout",
    "seconds",
    type=click.IntRange(1, 86400),
    default=DEFAULT_SECONDS,
    help=f"Seconds that it may take. Default: {DEFAULT_SECONDS}.",
)
def command(target: str, path: Path, seconds: int) -> None:
    """Write a checkpoint; what it is of runs on.

    Of a container: PATH is a file to be made. Of a pod: a directory to be made, or an empty one.
    """
    location = path.absolute()
    with connect() as client:
        found = find.anything(client, target)
        if isinstance(found, api.PodSandbox):
            _pod(client, found.id, location, seconds)
        else:
            container = api.CheckpointContainerRequest(
                container_id=found.id, location=str(location), timeout=seconds
            )
            answer = api.CheckpointContainerResponse
            client.call("CheckpointContainer", container, answer, timeout=seconds + MARGIN)
    click.echo(location)


def _pod(client: Client, sandbox_id: str, location: Path, seconds: int) -> None:
    try:
        location.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise click.ClickException(f"{location}: {error.strerror}") from error
    running = [
        item.id
        for item in find.containers(client, sandbox_id)
        if item.state == api.CONTAINER_RUNNING
    ]
    request = api.CheckpointPodRequest(
        pod_sandbox_id=sandbox_id, output_path=str(location), container_ids=running
    )
    client.call("CheckpointPod", request, api.CheckpointPodResponse, timeout=seconds)
