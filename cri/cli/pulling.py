"""Pulls, shown while they run: one bar a layer, on standard error."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

import click

from cri.api import api_pb2 as api
from cri.cli.show import note, short

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from cri.cli.client import Client

Show = Callable[[Mapping[str, object]], None]


def image_status(client: Client, reference: str) -> api.Image | None:
    """The image that a name or an id means, if it is here."""
    request = api.ImageStatusRequest(image=api.ImageSpec(image=reference))
    answer = client.call("ImageStatus", request, api.ImageStatusResponse)
    return answer.image if answer.HasField("image") else None


def ensure_image(client: Client, reference: str, *, policy: str, quiet: bool) -> api.Image:
    """The image, pulled if the policy (Always, IfNotPresent, Never; "": by its tag) says so."""
    found = image_status(client, reference)
    wanted = policy or ("Always" if is_moving(reference) else "IfNotPresent")
    if found is not None and wanted != "Always":
        return found
    if wanted == "Never":
        raise click.ClickException(f"image {reference} is not here, and imagePullPolicy is Never")
    pull(client, reference, quiet=quiet)
    found = image_status(client, reference)
    if found is None:
        raise click.ClickException(f"image {reference} was pulled and is gone again: try once more")
    return found


def is_moving(reference: str) -> bool:
    """Whether the name may mean another image tomorrow: no tag, or `latest`, and no digest."""
    last = reference.rpartition("/")[2]
    return "@" not in last and (":" not in last or last.endswith(":latest"))


def pull(client: Client, reference: str, *, quiet: bool) -> str:
    """Pulls an image and shows how it goes on; its id. Ctrl-C gives the pull up."""
    pulled = ""
    with _shown(reference, quiet=quiet) as show:
        for news in client.follow("PullImage", {"image": reference}):
            image = news.get("done")
            if isinstance(image, dict):
                pulled = str(image["id"])
            else:
                show(news)
    if not pulled:
        raise click.ClickException(f"the daemon ended the pull of {reference} without an answer")
    return pulled


@contextlib.contextmanager
def _shown(reference: str, *, quiet: bool) -> Iterator[Show]:
    """What draws the progress: bars on a terminal, a line before and after elsewhere."""
    if quiet:
        yield lambda news: None
        return
    started = time.monotonic()
    if sys.stderr.isatty():
        with _bars() as bars:
            yield _Painter(bars, reference).show
    else:
        note(f"pulling {reference}")
        yield lambda news: None
    note(f"pulled {reference} in {time.monotonic() - started:.1f} s")


def _bars() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=40),
        DownloadColumn(),
        TransferSpeedColumn(),
        TextColumn("{task.fields[state]}"),
        console=Console(stderr=True),
        transient=True,
    )


class _Painter:
    """Keeps one bar a layer up to date."""

    def __init__(self, bars: Progress, reference: str) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}
        self._head = bars.add_task(reference, total=None, state="")

    def show(self, news: Mapping[str, object]) -> None:
        layers = news.get("layers")
        if not self._tasks:
            self._bars.update(self._head, state=str(news.get("stage", "")))
        for layer in layers if isinstance(layers, list) else []:
            digest, size, fetched = str(layer["digest"]), int(layer["size"]), int(layer["fetched"])
            if digest not in self._tasks:
                if not self._tasks:
                    self._bars.remove_task(self._head)
                self._tasks[digest] = self._bars.add_task(short(digest), total=size, state="")
            state = str(layer["state"])
            if state == "pulling" and fetched >= size:
                state = "unpacking"
            self._bars.update(self._tasks[digest], completed=fetched, total=size, state=state)
