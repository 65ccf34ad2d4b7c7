"""podwright exec: run a command in a container; its output and exit code are ours."""

from __future__ import annotations

import click

from cri.api import api_pb2 as api
from cri.cli import find
from cri.cli.client import connect

MARGIN = 30
"""Seconds that the daemon may need beyond the command's own time."""


@click.command(name="exec", context_settings={"allow_interspersed_args": False})
@click.argument("container")
@click.argument("words", nargs=-1, required=True, metavar="COMMAND...")
@click.option("--timeout", type=click.IntRange(min=0), default=0, help="Seconds; 0: none.")
@click.pass_context
def command(context: click.Context, container: str, words: tuple[str, ...], timeout: int) -> None:
    """Run COMMAND in CONTAINER and exit with its code.

    Input and terminals are not passed on; the output comes when the command has ended.
    """
    if words[0] == "--":
        words = words[1:]
    with connect() as client:
        found = find.container(client, container)
        request = api.ExecSyncRequest(container_id=found.id, cmd=words, timeout=timeout)
        patience = timeout + MARGIN if timeout else None
        answer = client.call("ExecSync", request, api.ExecSyncResponse, timeout=patience)
    click.echo(answer.stdout, nl=False)
    click.echo(answer.stderr, nl=False, err=True)
    context.exit(answer.exit_code)
