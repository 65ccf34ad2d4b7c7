"""`podwright`: one verb a file. A verb's module is imported when it is called, not before."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

import click

from cri import VERSION

if TYPE_CHECKING:
    from collections.abc import Mapping

# verb -> its line in the help. Its module is cri.cli.<verb>, with a click command named `command`.
VERBS: Mapping[str, str] = {
    "serve": "Run the daemon that kubelet and crictl talk to.",
    "run": "Run a pod from a Pod manifest.",
    "ps": "List pods and their containers.",
    "stats": "Show what pods use.",
    "images": "List, pull, import and remove images.",
    "logs": "Show a container's log.",
    "exec": "Run a command in a container.",
    "stop": "Stop pods.",
    "checkpoint": "Write a running container, or pod, to disk.",
    "rm": "Remove pods.",
    "trace": "Show where the time of a pod's start went.",
    "doctor": "Check this node, and say what to do about each finding.",
    "config": "Show the default configuration, or check a file.",
}


class Verbs(click.Group):
    """Knows its verbs by name; imports one only to run it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        module = importlib.import_module(f"cri.cli.{cmd_name}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))


@click.command(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--address",
    envvar="PODWRIGHT_ADDRESS",
    show_envvar=True,
    help="The daemon's socket. [default: unix:///run/podwright/podwright.sock]",
)
@click.version_option(VERSION, prog_name="podwright")
def main(address: str | None) -> None:
    """A Kubernetes container runtime: pods, images and their network on this node."""
