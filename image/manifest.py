"""Manifests, indexes, image configs, platforms: image-spec v1.1 and Docker schema 2, as values."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from image.digest import Digest
from image.document import Document
from image.errors import UnsupportedImage

OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_INDEX: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_SCHEMA1: Final = "application/vnd.docker.distribution.manifest.v1"

MANIFESTS: Final = (OCI_MANIFEST, DOCKER_MANIFEST)
INDEXES: Final = (OCI_INDEX, DOCKER_INDEX)
CONFIGS: Final = (
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.docker.container.image.v1+json",
)
_LAYER_PREFIXES: Final = (
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.foreign.diff.tar",
)

MANIFEST_LIMIT: Final = 4 << 20  # bytes; registries refuse larger ones (distribution-spec)
CONFIG_LIMIT: Final = 8 << 20
TITLE: Final = "org.opencontainers.image.title"  # image-spec annotations.md
_NAME_MAX: Final = 255  # bytes: limits.h
LAYER_LIMIT: Final = 500  # the kernel's bound on lower directories of one overlay


@dataclass(frozen=True, slots=True)
class Platform:
    """What a binary needs: os, architecture and variant in Go's words."""

    os: str = "linux"
    architecture: str = ""
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A pointer to a blob: image-spec descriptor.md."""

    media_type: str
    digest: Digest
    size: int
    platform: Platform | None = None
    annotations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Manifest:
    """One image for one platform; layers from the bottom up. Or an artifact: any files."""

    config: Descriptor
    layers: tuple[Descriptor, ...]
    annotations: Mapping[str, str] = field(default_factory=dict)

    @property
    def artifact(self) -> bool:
        return self.config.media_type not in CONFIGS


@dataclass(frozen=True, slots=True)
class Index:
    """Images for several platforms."""

    manifests: tuple[Descriptor, ...]


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """What an image says of the processes that run in it: image-spec config.md.

    diff_ids: of the layers, from the bottom up. What nobody here reads (labels, volumes, ports) is
    left to who asks for the document itself.
    """

    platform: Platform
    diff_ids: tuple[Digest, ...]
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    working_dir: str = ""
    user: str = ""
    stop_signal: str = ""


def parse(data: bytes, media_type: str, what: str) -> Manifest | Index:
    """A manifest or index from its bytes.

    media_type: what the descriptor or the registry called it; "": only the document tells.
    Raises UnsupportedImage for one that contradicts itself, is malformed or of another kind.
    """
    try:
        document = Document.parse(data, what)
        kind = _kind(document, media_type.partition(";")[0].strip())
        if kind in INDEXES:
            return Index(tuple(_descriptor(item) for item in document.get("manifests").items()))
        config = _descriptor(document.get("config"))
        layers = tuple(_descriptor(item) for item in document.get("layers").items())
        annotations = document.get("annotations").mapping()
    except ValueError as error:
        raise UnsupportedImage(str(error)) from None
    manifest = Manifest(config, layers, annotations)
    if len(layers) > LAYER_LIMIT:
        raise UnsupportedImage(f"{what}: {len(layers)} layers; the kernel can stack {LAYER_LIMIT}")
    if manifest.artifact:
        files(manifest, what)
    else:
        _check_kinds(what, layers)
    return manifest


def _kind(document: Document, media_type: str) -> str:
    stated = document.get("mediaType").text() or media_type
    if stated.startswith(DOCKER_SCHEMA1) or document.get("schemaVersion").number(2) == 1:
        raise UnsupportedImage(
            f"{document.path}: it has a manifest of Docker's schema 1, which was given up in 2017; "
            f"push the image again with a current tool"
        )
    if "layers" in document and "manifests" in document:
        raise ValueError(f"{document.path}: it is a manifest and an index at once")
    if not stated:
        stated = OCI_INDEX if "manifests" in document else OCI_MANIFEST
    if stated not in MANIFESTS + INDEXES:
        raise ValueError(f"{document.path}: media type {stated!r} is neither manifest nor index")
    if media_type in MANIFESTS + INDEXES and (media_type in INDEXES) != (stated in INDEXES):
        raise ValueError(f"{document.path}: it says {stated!r}, the registry says {media_type!r}")
    if (stated in INDEXES) != ("manifests" in document):
        raise ValueError(f"{document.path}: it says {stated!r} but has not that shape")
    return stated


def _descriptor(document: Document) -> Descriptor:
    size = document.get("size").number()
    if size < 0:
        raise ValueError(f"{document.path}.size: {size} is negative")
    try:
        digest = Digest.parse(document.get("digest").text(None))
    except ValueError as error:
        raise ValueError(f"{document.path}.digest: {error}") from None
    platform = _platform(document.get("platform")) if "platform" in document else None
    media_type = document.get("mediaType").text()
    return Descriptor(media_type, digest, size, platform, document.get("annotations").mapping())


def _platform(document: Document) -> Platform:
    names = (document.get(key).text() for key in ("os", "architecture", "variant"))
    return Platform(*names)


def files(manifest: Manifest, what: str) -> tuple[tuple[str, Descriptor], ...]:
    """An artifact's files: the layers that have a title, which is the file's name.

    Raises UnsupportedImage for an artifact without any, and for a title that can't be a name.
    """
    found: dict[str, Descriptor] = {}
    for position, layer in enumerate(manifest.layers):
        title = layer.annotations.get(TITLE)
        if title is None:
            continue
        wrong = _wrong_name(title) or ("is the name of two files" if title in found else "")
        if wrong:
            raise UnsupportedImage(
                f"{what}: layer {position + 1} has the title {title[:80]!r}, which {wrong}"
            )
        found[title] = layer
    if not found:
        raise UnsupportedImage(
            f"{what}: it is no container image but an artifact (config of type "
            f"{manifest.config.media_type!r}) without files: no layer has the annotation {TITLE}"
        )
    return tuple(found.items())


def _wrong_name(title: str) -> str:
    """Why it can't be the name of a file in one directory; "": it can."""
    if title in ("", ".", "..") or "/" in title:
        return "is a path, and no name of a file"
    if any(ord(sign) < 0x20 or ord(sign) == 0x7F for sign in title):
        return "has characters that no name should have"
    return "is longer than 255 bytes" if len(title.encode()) > _NAME_MAX else ""


def _check_kinds(what: str, layers: tuple[Descriptor, ...]) -> None:
    for position, layer in enumerate(layers):
        encrypted = layer.media_type.endswith("+encrypted")
        if encrypted or not layer.media_type.startswith(_LAYER_PREFIXES):
            raise UnsupportedImage(
                f"{what}: layer {position + 1} is of type {layer.media_type!r}, which is no "
                f"{'layer we can decrypt' if encrypted else 'file system layer'}"
            )


def parse_config(data: bytes, what: str) -> ImageConfig:
    """An image config from its bytes. Raises UnsupportedImage."""
    try:
        document = Document.parse(data, what)
        return _config(document)
    except ValueError as error:
        raise UnsupportedImage(str(error)) from None


def _config(document: Document) -> ImageConfig:
    rootfs = document.get("rootfs")
    diff_ids = []
    for item in rootfs.get("diff_ids").items():
        try:
            diff_ids.append(Digest.parse(item.text(None)))
        except ValueError as error:
            raise ValueError(f"{item.path}: {error}") from None
    inner = document.get("config")
    for item in inner.get("Env").items():
        if "=" not in item.text(None):
            raise ValueError(f"{item.path}: {item.text()!r} is no NAME=VALUE")
    return ImageConfig(
        platform=_platform(document),
        diff_ids=tuple(diff_ids),
        entrypoint=inner.get("Entrypoint").texts(),
        cmd=inner.get("Cmd").texts(),
        env=inner.get("Env").texts(),
        working_dir=inner.get("WorkingDir").text(),
        user=inner.get("User").text(),
        stop_signal=inner.get("StopSignal").text(),
    )


def check_runnable(what: str, manifest: Manifest, config: ImageConfig, node: Platform) -> None:
    """Config and manifest belong together, and this node can run them. Raises UnsupportedImage."""
    if len(manifest.layers) != len(config.diff_ids):
        raise UnsupportedImage(
            f"{what}: the manifest has {len(manifest.layers)} layers, "
            f"the config {len(config.diff_ids)} diff ids"
        )
    own = config.platform
    if (own.os or node.os) != node.os or (
        own.architecture or node.architecture
    ) != node.architecture:
        raise UnsupportedImage(f"{what}: it is built for {own}; this node is {node}")


# --- platforms ------------------------------------------------------------------------------------

_ARCHITECTURES: Final = {
    "x86_64": Platform("linux", "amd64"),
    "aarch64": Platform("linux", "arm64", "v8"),
    "armv8l": Platform("linux", "arm", "v7"),
    "armv7l": Platform("linux", "arm", "v7"),
    "armv6l": Platform("linux", "arm", "v6"),
    "i686": Platform("linux", "386"),
}
# What each level of x86-64 adds, by one flag of /proc/cpuinfo that comes with it (psABI, 3.1.1).
_AMD64_LEVELS: Final = (("v2", "sse4_2"), ("v3", "avx2"), ("v4", "avx512vl"))


def node_platform() -> Platform:
    """The platform of this machine; amd64 with the highest level its processor has."""
    machine = os.uname().machine
    platform = _ARCHITECTURES.get(machine, Platform("linux", machine))
    if platform.architecture != "amd64":
        return platform
    flags = Path("/proc/cpuinfo").read_text("ascii", "replace").partition("flags")[2].split("\n")[0]
    words = set(flags.split())
    level = "v1"
    for name, flag in _AMD64_LEVELS:
        if flag not in words:
            break
        level = name
    return Platform("linux", "amd64", level)


def _variants(node: Platform) -> list[str]:
    """The variants this node can run, best first."""
    if node.architecture == "amd64":
        top = int(node.variant[1:] or "1")
        return [f"v{level}" for level in range(top, 0, -1)]
    if node.architecture == "arm":
        top = int(node.variant[1:] or "7")
        return [f"v{level}" for level in range(top, 4, -1)]
    return [node.variant or "v8"] if node.architecture == "arm64" else [node.variant]


_UNNAMED_VARIANT: Final = {"amd64": "v1", "arm64": "v8", "arm": "v7"}


def choose(index: Index, node: Platform, what: str) -> Descriptor:
    """The manifest of an index that suits this node best. Raises UnsupportedImage with the choice.

    A descriptor that names no platform suits any node, if nothing names ours.
    """
    ranks = {variant: rank for rank, variant in enumerate(_variants(node))}
    best: tuple[int, Descriptor] | None = None
    for item in index.manifests:
        platform = item.platform or Platform(node.os, node.architecture, "any")
        if (platform.os, platform.architecture) != (node.os, node.architecture):
            continue
        variant = platform.variant or _UNNAMED_VARIANT.get(platform.architecture, "")
        rank = len(ranks) if variant == "any" else ranks.get(variant)
        if rank is not None and (best is None or rank < best[0]):
            best = (rank, item)
    if best is None:
        offered = sorted({str(item.platform) for item in index.manifests if item.platform})
        offer = ", ".join(name for name in offered if "unknown" not in name) or "nothing"
        raise UnsupportedImage(f"{what}: no image for {node}; the index offers {offer}")
    return best[1]
