"""What a checkpoint says of itself, in the form that containerd, CRI-O and checkpointctl know.

config.dump   the container and its image     spec.dump     the OCI spec, with its names
status.dump   the status that CRI tells       status        the same in containerd's form
container.log a copy of the log
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, cast

from google.protobuf.json_format import MessageToDict

from cri.errors import InvalidRequest
from cri.handlers import DEFAULT_HANDLER
from cri.rpc import container_spec, container_status
from image.errors import ImageNotFound
from runtime import codec

if TYPE_CHECKING:
    from cri.rpc.services import Services
    from cri.store.container import Container
    from image.store import Image

_NEVER = "0001-01-01T00:00:00Z"
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


async def of(services: Services, container: Container) -> Mapping[str, object]:
    """File name -> JSON value."""
    status = container_status.status_message(services, container)
    return {
        "config.dump": _config(services, container),
        "spec.dump": await _spec(services, container),
        "status.dump": MessageToDict(status, preserving_proto_field_name=True),
        "status": _status(container),
    }


def write(place: Path, files: Mapping[str, object]) -> None:
    for name, value in files.items():
        with open(os.open(place / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            json.dump(value, file, indent=2)


def copy_log(path: str, target: Path) -> None:
    """A log that is no regular file, or not there, is left out."""
    if not path:
        return
    with contextlib.suppress(OSError), open(os.open(path, _READ), "rb") as source:
        if stat.S_ISREG(os.fstat(source.fileno()).st_mode):
            with target.open("xb") as file:
                shutil.copyfileobj(source, file)


def base_image(services: Services, text: str) -> Image:
    """The image that a checkpoint's container was made of, from its config.dump.

    Only what is on this node already is looked for; nothing is pulled, named or tagged. Raises
    InvalidRequest, ImageNotFound.
    """
    field = "config.image.image"
    try:
        config: object = json.loads(text)
    except ValueError:
        raise InvalidRequest(field, "the checkpoint's config.dump is no JSON") from None
    named = config if isinstance(config, dict) else {}
    names = [named.get(key) for key in ("rootfsImageRef", "rootfsImageName", "rootfsImage")]
    asked = [name for name in names if isinstance(name, str) and name]
    if not asked:
        raise InvalidRequest(field, "the checkpoint's config.dump names no rootfsImageRef")
    found = next((image for name in asked if (image := services.images.find(name))), None)
    if found is None:
        raise ImageNotFound(asked[-1][:300])
    return found


def _config(services: Services, container: Container) -> Mapping[str, object]:
    metadata = container.metadata
    image = services.images.find(metadata.image_id)
    name = image.names[0] if image and image.names else metadata.image_ref
    return {
        "id": container.id,
        "name": container.config.metadata.name,
        "rootfsImage": name,
        "rootfsImageRef": metadata.image_id,
        "rootfsImageName": name,
        "runtime": DEFAULT_HANDLER,
        "createdTime": _time(metadata.created_at),
        "checkpointedTime": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "restoredTime": _NEVER,
        "restored": False,
    }


async def _spec(services: Services, container: Container) -> object:
    """The container's spec; annotated as containerd does it, by which tools know whose it is."""
    sandbox = services.store.sandboxes.get(container.metadata.sandbox_id)
    spec = services.specs.get(container.id)
    if spec is None:  # the daemon was restarted since
        spec = await container_spec.remade(services, sandbox, container)
    pod = sandbox.config.metadata
    written = cast(dict[str, object], codec.encode(spec, camel=True))
    known = written.get("annotations")
    written["annotations"] = {
        **(known if isinstance(known, dict) else {}),
        "io.kubernetes.cri.container-type": "container",
        "io.kubernetes.cri.container-name": container.config.metadata.name,
        "io.kubernetes.cri.sandbox-id": sandbox.id,
        "io.kubernetes.cri.sandbox-name": pod.name,
        "io.kubernetes.cri.sandbox-namespace": pod.namespace,
        "io.kubernetes.cri.sandbox-uid": pod.uid,
    }
    return written


def _status(container: Container) -> Mapping[str, object]:
    status = container.status
    return {
        "CreatedAt": container.metadata.created_at,
        "StartedAt": status.started_at,
        "FinishedAt": status.finished_at,
        "ExitCode": status.exit_code,
        "Pid": status.pid,
        "Reason": status.reason,
        "Message": status.message,
    }


def _time(nanoseconds: int) -> str:
    return datetime.fromtimestamp(nanoseconds / 1e9, UTC).isoformat(timespec="milliseconds")
