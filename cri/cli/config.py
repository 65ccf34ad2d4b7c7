"""podwright config: the default configuration, commented; and a check of one."""

from __future__ import annotations

import dataclasses
import json
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cri.config import Config, ConfigError, load

if TYPE_CHECKING:
    from collections.abc import Iterator

HEAD = """\
podwright's configuration: every key, its meaning, and its default. Files in conf.d/ beside this
one, *.toml in lexical order, change it key by key. `podwright config check` finds mistakes.
"""


@click.group(name="config")
def command() -> None:
    """Show the default configuration, or check a file."""


@command.command()
def default() -> None:
    """Print every key with its meaning and default, commented out."""
    click.echo(default_text())


@command.command()
@click.argument("file", type=click.Path(path_type=Path), required=False)
def check(file: Path | None) -> None:
    """Check FILE and the drop-ins beside it."""
    try:
        load(file)
    except ConfigError as error:
        raise click.ClickException(str(error)) from error
    click.echo("ok")


def default_text() -> str:
    """The text of `podwright config default`."""
    return "\n".join([*_comment(HEAD), *_table(Config(), "")])


def _table(values: object, path: str) -> Iterator[str]:
    assert dataclasses.is_dataclass(values)
    for item in dataclasses.fields(values):
        value = getattr(values, item.name)
        yield ""
        yield from _comment(item.metadata["doc"])
        if dataclasses.is_dataclass(value):
            name = f"{path}{item.name}"
            yield f"[{name}]"
            yield from _table(value, f"{name}.")
        elif isinstance(value, Mapping) and value:
            for name, table in value.items():
                yield f"[{path}{item.name}.{name}]"
                yield from _table(table, f"{path}{item.name}.{name}.")
        else:
            yield f"#{item.name} = {_toml(value)}"


def _toml(value: object) -> str:
    """A string, number, truth value, list of strings or empty table: JSON's way is TOML's."""
    return json.dumps(list(value) if isinstance(value, tuple) else value)


def _comment(text: str) -> list[str]:
    return [f"# {line}" for line in textwrap.wrap(text, 96)]
