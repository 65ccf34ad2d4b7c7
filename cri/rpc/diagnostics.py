"""podwright.v1.Diagnostics: what our own command line asks beyond CRI. JSON in, JSON out.

    ImportImage {path, name?}   -> {images: [image]}
    PullImage   {image}         -> progress, progress, …, {done: image}   (a stream)
    Trace       {pod?, limit?}  -> {timelines: [timeline]}            (see cri.trace.Timeline)

image: {id, names, size}. progress: the fields of image's PullProgress.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from cri.errors import InvalidRequest, SandboxNotFound

if TYPE_CHECKING:
    from cri.rpc.services import Services
    from cri.trace import Timeline
    from image.store import Image, PullProgress

Json = Mapping[str, object]


async def import_image(services: Services, request: Json) -> Json:
    """Import an OCI layout, a directory or an archive, that the daemon can read."""
    path = Path(_text(request, "path"))
    if not path.is_absolute():
        raise InvalidRequest("path", f"{path} is relative, and the daemon works elsewhere")
    name = _text(request, "name", default="")
    try:
        images = await services.images.import_archive(path, name=name or None)
    except (FileNotFoundError, PermissionError) as error:
        raise InvalidRequest("path", f"{error.filename or path}: {error.strerror}") from error
    return {"images": [_image(image) for image in images]}


async def trace(services: Services, request: Json) -> Json:
    """Timelines, oldest first: of one pod (its id, the beginning of it, or its name), or of all."""
    limit = request.get("limit", 100)
    if type(limit) is not int or limit < 1:
        raise InvalidRequest("limit", f"expected a number above 0, got {limit!r}")
    pod = _text(request, "pod", default="")
    timelines = services.recorder.recent(limit=1 << 20)
    if pod:
        ids = {timeline.sandbox_id for timeline in timelines if _is_of(timeline, pod)} - {""}
        timelines = tuple(timeline for timeline in timelines if timeline.sandbox_id in ids)
        if not timelines:
            raise SandboxNotFound(pod)
    return {"timelines": [timeline.to_json() for timeline in timelines[-limit:]]}


async def pull_image(services: Services, request: Json) -> AsyncIterator[Json]:
    """Pull, telling how it goes on; ends with the image. Ending the stream gives the pull up."""
    reference = _text(request, "image")
    news: asyncio.Queue[PullProgress | None] = asyncio.Queue()
    pulling = asyncio.create_task(services.images.pull(reference, progress=news.put_nowait))
    pulling.add_done_callback(lambda _: news.put_nowait(None))
    try:
        while (progress := await news.get()) is not None:
            if news.empty():  # the client is slower than the pull: only the latest is news
                yield dataclasses.asdict(progress)
        yield {"done": _image(await pulling)}
    finally:
        pulling.cancel()


CALLS: Mapping[str, Callable[[Services, Json], Awaitable[Json]]] = {
    "ImportImage": import_image,
    "Trace": trace,
}
STREAMS: Mapping[str, Callable[[Services, Json], AsyncIterator[Json]]] = {"PullImage": pull_image}


def _is_of(timeline: Timeline, pod: str) -> bool:
    """Whether a timeline is about this pod, by id or (where a pod was made) by name."""
    if timeline.sandbox_id.startswith(pod):
        return True
    made = timeline.rpc == "RunPodSandbox"
    return made and pod in (timeline.subject, timeline.subject.rpartition("/")[2])


def _image(image: Image) -> Json:
    return {"id": image.id, "names": list(image.names), "size": image.size}


def _text(request: Json, field: str, default: str | None = None) -> str:
    value = request.get(field, default)
    if not isinstance(value, str):
        raise InvalidRequest(field, f"expected text, got {value!r}")
    return value
