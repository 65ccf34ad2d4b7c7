"""podwright logs: what a container wrote, read from its log file."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cri.api import api_pb2 as api
from cri.cli import find, logfile
from cri.cli.client import Client, connect

if TYPE_CHECKING:
    from collections.abc import Callable

INTERVAL = 0.1
"""Seconds between two looks at a file that is followed."""


@click.command(name="logs")
@click.argument("container")
@click.option("--follow", "-f", is_flag=True, help="Go on until the container has ended.")
@click.option("--tail", type=click.IntRange(min=0), help="Only the last lines.")
@click.option("--timestamps", "-t", is_flag=True, help="The time of each line before it.")
def command(
    container: str,
    follow: bool,  # noqa: FBT001  # click's way
    tail: int | None,
    timestamps: bool,  # noqa: FBT001  # click's way
) -> None:
    """Show what CONTAINER wrote: its id, its name, pod/container, or a pod with one container.

    Its standard output goes to standard output, its standard error to standard error.
    """
    with connect() as client:
        found = find.container(client, container)
        path = path_of(client, found.id)
        offset = 0 if tail is None else logfile.tail_offset(path, tail)
        more = while_running(client, found.id) if follow else lambda: False
        for line in logfile.read(path, offset=offset, more=more):
            write(line, prefix=f"{line.time} " if timestamps else "")


def path_of(client: Client, container_id: str) -> Path:
    """The container's log file. A click error if it has none."""
    request = api.ContainerStatusRequest(container_id=container_id)
    status = client.call("ContainerStatus", request, api.ContainerStatusResponse).status
    if not status.log_path:
        raise click.ClickException(
            f"container {status.metadata.name} has no log: its pod has no log_directory, or it has"
            " no log_path"
        )
    path = Path(status.log_path)
    if not path.exists():
        raise click.ClickException(f"the log file {path} is not there: the container never started")
    return path


def while_running(client: Client, container_id: str) -> Callable[[], bool]:
    """For `logfile.read`: waits a moment; False once the container has ended and all is read."""
    ended = False

    def more() -> bool:
        nonlocal ended
        if ended:
            return False
        request = api.ContainerStatusRequest(container_id=container_id)
        status = client.call("ContainerStatus", request, api.ContainerStatusResponse).status
        ended = status.state == api.CONTAINER_EXITED  # one more look: what it wrote last
        if not ended:
            time.sleep(INTERVAL)
        return True

    return more


def write(line: logfile.Line, *, prefix: str = "") -> None:
    """One record to the stream that it came from."""
    end = b"" if line.partial else b"\n"
    click.echo(prefix.encode() + line.content + end, nl=False, err=line.stream == "stderr")
