"""Images in files: OCI image layouts as directories and archives, and what `docker save` writes.

https://github.com/opencontainers/image-spec/blob/main/image-layout.md. Only read here: what is
found goes the same way as what a registry sends.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from image.digest import Digest, Verifier
from image.document import Document
from image.errors import ArchiveMalformed, DigestMismatch, LayerMalformed, UnsupportedImage
from image.manifest import (
    CONFIG_LIMIT,
    CONFIGS,
    DOCKER_MANIFEST,
    MANIFEST_LIMIT,
    Descriptor,
    ImageConfig,
    Index,
    Platform,
    choose,
    parse,
    parse_config,
)
from image.unpack import tar
from image.unpack.tar import Archive

_MEMBERS: Final = 100_000
_NESTING: Final = 4
# containerd's and buildkit's annotation holds a whole reference, the standard's any text.
_NAME_ANNOTATIONS: Final = ("io.containerd.image.name", "org.opencontainers.image.ref.name")


@dataclass(frozen=True, slots=True)
class Piece:
    """`size` bytes of a file from `offset` on."""

    path: Path
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Found:
    """An image in an archive. names: what the archive calls it, as it is written there.

    layers: one for each diff id; verified: whether their digests are the manifest's.
    """

    manifest_digest: Digest
    manifest: bytes
    config: bytes
    layers: tuple[Piece, ...]
    names: tuple[str, ...]
    verified: bool


class _Files(Protocol):
    """The members of an archive by name."""

    def find(self, name: str) -> Piece | None: ...


@dataclass(frozen=True, slots=True)
class _Directory:
    root: Path

    def find(self, name: str) -> Piece | None:
        path = self.root / name
        if path.is_symlink() or not path.is_file():
            return None
        return Piece(path, 0, path.stat().st_size)


@dataclass(frozen=True, slots=True)
class _Members:
    members: Mapping[str, Piece]

    def find(self, name: str) -> Piece | None:
        return self.members.get(name)


@contextmanager
def opened(path: Path, scratch: Path, node: Platform) -> Iterator[tuple[Found, ...]]:
    """The images for this node in a layout directory or archive (tar, also compressed).

    scratch: where a compressed archive is unpacked to, as long as the context lasts.
    Raises ArchiveMalformed, UnsupportedImage, DigestMismatch, OSError.
    """
    if path.is_dir():
        yield _images(_Directory(path), path, node)
        return
    with path.open("rb") as file:
        head = file.read(4)
    if head[:2] != b"\x1f\x8b" and head != b"\x28\xb5\x2f\xfd":
        yield _images(_Members(_index(path)), path, node)
        return
    plain = scratch / f"archive-{time.monotonic_ns()}"
    try:
        _decompress(path, plain)
        yield _images(_Members(_index(plain)), path, node)
    finally:
        plain.unlink(missing_ok=True)


def _decompress(path: Path, target: Path) -> None:
    from image import layer  # here, because the daemon does without its libraries otherwise

    try:
        with target.open("xb") as plain:
            plain.writelines(layer.decompressed(_read(path)))
    except LayerMalformed as error:
        raise ArchiveMalformed(f"{path}: {error}") from error


def _read(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            yield chunk


def _index(path: Path) -> dict[str, Piece]:
    """Where each member's bytes are; symbolic links of `docker save` are followed by name."""
    members: dict[str, Piece] = {}
    links: dict[str, str] = {}
    archive = Archive(_read(path))
    try:
        for entry in archive:
            name = os.fsdecode(entry.name).removeprefix("./")
            if entry.kind == tar.FILE and entry.pieces is None:
                members[name] = Piece(path, archive.offset, entry.size)
            elif entry.kind == tar.SYMBOLIC_LINK:
                target = os.path.join(os.path.dirname(name), os.fsdecode(entry.target))
                links[name] = os.path.normpath(target)
            if len(members) + len(links) > _MEMBERS:
                raise ArchiveMalformed(f"{path}: more than {_MEMBERS} members")
    except LayerMalformed as error:
        raise ArchiveMalformed(f"{path}: {error}") from error
    members.update({name: members[to] for name, to in links.items() if to in members})
    return members


# --- what is in it --------------------------------------------------------------------------------


def _images(files: _Files, path: Path, node: Platform) -> tuple[Found, ...]:
    if files.find("index.json") is not None:
        return _layout(files, path, node)
    if files.find("manifest.json") is not None:
        return _saved(files, path)
    raise ArchiveMalformed(
        f"{path}: it has neither index.json (an OCI image layout) nor manifest.json (docker save)"
    )


def _bytes(files: _Files, name: str, limit: int, path: Path) -> bytes:
    piece = files.find(name)
    if piece is None:
        raise ArchiveMalformed(f"{path}: {name} is missing")
    if piece.size > limit:
        raise ArchiveMalformed(f"{path}: {name} has {piece.size} bytes; {limit} are allowed")
    with piece.path.open("rb") as file:
        file.seek(piece.offset)
        return file.read(piece.size)


def _blob_name(digest: Digest) -> str:
    return f"blobs/{digest.algorithm}/{digest.hex}"


def _verified(files: _Files, descriptor: Descriptor, limit: int, path: Path) -> bytes:
    name = _blob_name(descriptor.digest)
    data = _bytes(files, name, limit, path)
    verifier = Verifier(f"{path}: {name}", descriptor.digest, descriptor.size)
    verifier.update(data)
    verifier.verify()
    return data


def _layout(files: _Files, path: Path, node: Platform) -> tuple[Found, ...]:
    data = _bytes(files, "index.json", MANIFEST_LIMIT, path)
    index = parse(data, "", f"{path}: index.json")
    if not isinstance(index, Index):
        raise ArchiveMalformed(f"{path}: index.json is no index")
    found = []
    refused: UnsupportedImage | None = None
    for descriptor in index.manifests:
        try:
            found.append(_follow(files, descriptor, path, node))
        except UnsupportedImage as error:  # an image for another platform, perhaps, among ours
            refused = error
    if not found:
        raise refused or ArchiveMalformed(f"{path}: index.json lists no image")
    return tuple(found)


def _follow(files: _Files, top: Descriptor, path: Path, node: Platform) -> Found:
    """From an entry of index.json to the image for this node."""
    descriptor = choose(Index((top,)), node, f"{path}: index.json")
    for _ in range(_NESTING):
        what = f"{path}: {descriptor.digest}"
        data = _verified(files, descriptor, MANIFEST_LIMIT, path)
        document = parse(data, descriptor.media_type, what)
        if isinstance(document, Index):
            descriptor = choose(document, node, what)
            continue
        config = _verified(files, document.config, CONFIG_LIMIT, path)
        names = (top.annotations.get(key, "") for key in _NAME_ANNOTATIONS)
        return Found(
            descriptor.digest,
            data,
            config,
            tuple(_layer(files, item, path) for item in document.layers),
            tuple(name for name in names if name)[:1],
            verified=True,
        )
    raise UnsupportedImage(f"{path}: more than {_NESTING} indexes in each other")


def _layer(files: _Files, descriptor: Descriptor, path: Path) -> Piece:
    piece = files.find(_blob_name(descriptor.digest))
    if piece is None:
        raise ArchiveMalformed(f"{path}: the layer {descriptor.digest} is missing")
    if piece.size != descriptor.size:
        what = f"{path}: layer {descriptor.digest}"
        raise DigestMismatch(what, f"{descriptor.size} bytes", f"{piece.size}")
    return piece


def _saved(files: _Files, path: Path) -> tuple[Found, ...]:
    """What `docker save` wrote before it wrote image layouts: manifest.json."""
    data = _bytes(files, "manifest.json", MANIFEST_LIMIT, path)
    try:
        document = Document.parse(data, f"{path}: manifest.json")
        return tuple(_saved_image(files, item, path) for item in document.items())
    except ValueError as error:
        raise ArchiveMalformed(str(error)) from None


def _saved_image(files: _Files, document: Document, path: Path) -> Found:
    name = document.get("Config").text(None)
    config_data = _bytes(files, name, CONFIG_LIMIT, path)
    config = parse_config(config_data, f"{path}: {name}")
    layers = []
    for item in document.get("Layers").items():
        piece = files.find(os.path.normpath(item.text(None)))
        if piece is None:
            raise ArchiveMalformed(f"{item.path}: {item.text()} is missing")
        layers.append(piece)
    manifest = _manifest(config_data, config, layers)
    names = document.get("RepoTags").texts()
    return Found(Digest.of(manifest), manifest, config_data, tuple(layers), names, verified=False)


def _manifest(config_data: bytes, config: ImageConfig, layers: list[Piece]) -> bytes:
    """A manifest for an image that came without: its layers are named by their diff ids."""
    shape = {
        "schemaVersion": 2,
        "mediaType": DOCKER_MANIFEST,
        "config": {
            "mediaType": CONFIGS[1],
            "digest": str(Digest.of(config_data)),
            "size": len(config_data),
        },
        "layers": [
            {
                "mediaType": "application/vnd.docker.image.rootfs.diff.tar",
                "digest": str(diff_id),
                "size": piece.size,
            }
            for diff_id, piece in zip(config.diff_ids, layers, strict=False)
        ],
    }
    return json.dumps(shape, sort_keys=True, separators=(",", ":")).encode("ascii")
