"""What tests of checkpoints ask for: archives that are written, changed, and gone on from."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

from cri.api import api_pb2 as api
from e2e.kubelet import Container, Pod, until
from e2e.node import Node

COUNT = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.1; done"
CRIU = os.environ.get("PODWRIGHT_CRIU") or shutil.which("criu", path="/usr/sbin:/usr/bin") or ""
DEFAULT = api.SecurityProfile(profile_type=api.SecurityProfile.RuntimeDefault)


def without_criu() -> str:
    """Why CRIU can't be used here; "" if it can."""
    if not CRIU:
        return "criu is not installed: `apt-get install criu`, or PODWRIGHT_CRIU=/path/to/criu"
    check = subprocess.run([CRIU, "check"], capture_output=True, text=True, check=False)
    if check.returncode == 0:
        return ""
    said = next((line for line in check.stderr.splitlines() if "Error" in line), "")
    return f"{CRIU} does not work with this kernel ({said}): PODWRIGHT_CRIU=/path/to/newer/criu"


def write(container: Container, location: Path, seconds: int = 0) -> None:
    request = api.CheckpointContainerRequest(
        container_id=container.id, location=str(location), timeout=seconds
    )
    client = container.kubelet.client
    client.call("CheckpointContainer", request, api.CheckpointContainerResponse, timeout=120)


def restored(pod: Pod, location: Path | str, **fields: object) -> Container:
    """A container that goes on from an archive; its command is nobody's."""
    image = api.ImageSpec(image=str(location))
    config = pod.container_config(["not", "this"], **fields)
    config.image.CopyFrom(image)
    return pod.create(config)


def counting(pod: Pod, before: str = ":", **fields: object) -> Container:
    container = pod.container(["sh", "-c", f"{before}; {COUNT}"], **fields).start()
    until(lambda: len(container.log()) > 3, "it counts")
    return container


def goes_on(container: Container) -> None:
    seen = len(container.log())
    until(lambda: len(container.log()) > seen, "it counts on")
    numbers = [int(line) for line in container.log()]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


def members(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as archive:
        return {
            member.name: opened.read()
            for member in archive
            if (opened := archive.extractfile(member)) is not None
        }


def rewritten(path: Path, changes: dict[str, bytes | tarfile.TarInfo]) -> Path:
    """The same archive with other members, or further ones."""
    target = path.with_name("changed.tar")
    kept: dict[str, bytes | tarfile.TarInfo] = {**members(path), **changes}
    with tarfile.open(target, "w") as archive:
        for name, value in kept.items():
            if isinstance(value, tarfile.TarInfo):
                value.name = name
                archive.addfile(value)
            else:
                member = tarfile.TarInfo(name)
                member.size = len(value)
                archive.addfile(member, io.BytesIO(value))
    return target


def link(target: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo()
    member.type, member.linkname = tarfile.SYMTYPE, target
    return member


def nothing_is_left(node: Node) -> None:
    place = node.root / "checkpoints"
    until(lambda: not place.exists() or not os.listdir(place), "the node has no checkpoints")
