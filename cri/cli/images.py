"""podwright images: list, pull, import and remove images."""

from __future__ import annotations

import json
from pathlib import Path

import click

from cri.api import api_pb2 as api
from cri.cli import pulling, show
from cri.cli.client import Client, connect


@click.group(name="images", invoke_without_command=True)
@click.pass_context
def command(context: click.Context) -> None:
    """List images, or do something with them."""
    if context.invoked_subcommand is None:
        context.invoke(list_images)


@command.command(name="list")
@click.option("--quiet", "-q", is_flag=True, help="Only ids.")
@click.option("--output", "-o", type=click.Choice(["table", "json"]), default="table")
def list_images(quiet: bool = False, output: str = "table") -> None:  # noqa: FBT001, FBT002  # click's way
    """List the images on this node."""
    with connect() as client:
        images = _all(client)
    if quiet:
        for image in images:
            click.echo(image.id)
    elif output == "json":
        click.echo(json.dumps([_as_json(image) for image in images], indent=2))
    else:
        rows = [
            [name, show.short(image.id), show.size(image.size), "pinned" if image.pinned else ""]
            for image in images
            for name in image.repo_tags or image.repo_digests[:1] or ["(no name)"]
        ]
        show.columns(["IMAGE", "ID", "SIZE", ""], rows)


@command.command(name="pull")
@click.argument("references", nargs=-1, required=True, metavar="IMAGE...")
@click.option("--quiet", "-q", is_flag=True, help="Only the ids.")
def pull(references: tuple[str, ...], quiet: bool) -> None:  # noqa: FBT001  # click's way
    """Pull images from their registries."""
    with connect() as client:
        for reference in references:
            click.echo(pulling.pull(client, reference, quiet=quiet))


@command.command(name="import")
@click.argument("path", type=click.Path(exists=True, path_type=Path))
@click.option("--name", help="Name it so; needed where the archive does not say.")
def import_images(path: Path, name: str | None) -> None:
    """Import an OCI layout: a directory, or a tar archive of one."""
    request: dict[str, object] = {"path": str(path.absolute())}
    if name:
        request["name"] = name
    with connect() as client:
        answer = client.diagnose("ImportImage", request)["images"]
    for image in answer if isinstance(answer, list) else []:
        click.echo(image["id"])


@command.command(name="rm")
@click.argument("references", nargs=-1, required=True, metavar="IMAGE...")
def remove(references: tuple[str, ...]) -> None:
    """Remove images, by name or id, with all their names."""
    with connect() as client:
        for reference in references:
            image = pulling.image_status(client, reference)
            if image is None:
                raise click.ClickException(f"image {reference} is not here")
            request = api.RemoveImageRequest(image=api.ImageSpec(image=image.id))
            client.call("RemoveImage", request, api.RemoveImageResponse)
            click.echo(image.id)


def _all(client: Client) -> list[api.Image]:
    answer = client.call("ListImages", api.ListImagesRequest(), api.ListImagesResponse)
    return sorted(answer.images, key=lambda image: (image.repo_tags or [image.id])[0])


def _as_json(image: api.Image) -> dict[str, object]:
    return {
        "id": image.id,
        "names": list(image.repo_tags),
        "digests": list(image.repo_digests),
        "size": image.size,
        "pinned": image.pinned,
    }
