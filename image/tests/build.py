"""Images made on the spot: layers from lists of entries, documents, and ways to publish them."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import io
import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zstandard

from image.manifest import OCI_INDEX, OCI_MANIFEST, node_platform

LAYER = "application/vnd.oci.image.layer.v1.tar"


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def member(name: str, kind: bytes = tarfile.REGTYPE, **fields: Any) -> tarfile.TarInfo:
    """A tar member with any field set as it is, sane or not."""
    info = tarfile.TarInfo(name)
    info.type = kind
    info.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
    info.mtime = 1_700_000_000
    for key, value in fields.items():
        setattr(info, key, value)
    return info


Item = tuple[tarfile.TarInfo, bytes]


def file(name: str, data: bytes = b"", **fields: Any) -> Item:
    return member(name, size=len(data), **fields), data


def folder(name: str, **fields: Any) -> Item:
    return member(name, tarfile.DIRTYPE, **fields), b""


def symlink(name: str, target: str, **fields: Any) -> Item:
    return member(name, tarfile.SYMTYPE, linkname=target, **fields), b""


def hardlink(name: str, target: str, **fields: Any) -> Item:
    return member(name, tarfile.LNKTYPE, linkname=target, **fields), b""


def tar(*items: Item, dialect: int = tarfile.PAX_FORMAT) -> bytes:
    """A tar archive, written by the standard library: not by the code under test."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=dialect) as archive:
        for info, data in items:
            archive.addfile(info, io.BytesIO(data) if info.type == tarfile.REGTYPE else None)
    return buffer.getvalue()


@dataclass(frozen=True)
class BuiltLayer:
    plain: bytes
    blob: bytes
    media_type: str

    @classmethod
    def of(cls, plain: bytes, compression: str = "gzip") -> BuiltLayer:
        if compression == "gzip":
            return cls(plain, gzip.compress(plain, 1, mtime=0), LAYER + "+gzip")
        if compression == "zstd":
            return cls(plain, zstandard.compress(plain, 1), LAYER + "+zstd")
        return cls(plain, plain, LAYER)


@dataclass(frozen=True)
class BuiltImage:
    """layers from the bottom up; blobs: all by digest; digest: the manifest's, or the index's."""

    manifest: bytes
    config: bytes
    layers: tuple[BuiltLayer, ...]
    media_type: str = OCI_MANIFEST
    index: bytes = b""
    foreign: bytes = b""
    blobs: dict[str, bytes] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        return digest(self.index or self.manifest)

    @property
    def id(self) -> str:
        return digest(self.config)

    @property
    def documents(self) -> list[tuple[bytes, str]]:
        """What is pushed as manifests, in that order."""
        documents = [(self.manifest, self.media_type)]
        if self.index:
            documents += [(self.foreign, self.media_type), (self.index, OCI_INDEX)]
        return documents


def image(
    *layers: bytes | BuiltLayer,
    index: bool = False,
    platform: dict[str, str] | None = None,
    manifest: dict[str, object] | None = None,
    config: dict[str, object] | None = None,
    top: dict[str, object] | None = None,
) -> BuiltImage:
    """An image of these layers (plain tars are gzipped).

    manifest, top: members that replace those of manifest and config; config: of the config's
    "config".
    """
    node = node_platform()
    built = tuple(item if isinstance(item, BuiltLayer) else BuiltLayer.of(item) for item in layers)
    platform = platform or {"os": node.os, "architecture": node.architecture}
    document: dict[str, object] = {
        **platform,
        "created": "2026-01-01T00:00:00Z",
        "config": config or {"Cmd": ["/bin/true"], "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [digest(layer.plain) for layer in built]},
        **(top or {}),
    }
    config_data = json.dumps(document).encode()
    shape: dict[str, object] = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": digest(config_data),
            "size": len(config_data),
        },
        "layers": [
            {"mediaType": layer.media_type, "digest": digest(layer.blob), "size": len(layer.blob)}
            for layer in built
        ],
        **(manifest or {}),
    }
    data = json.dumps(shape).encode()
    blobs = {digest(layer.blob): layer.blob for layer in built}
    blobs[digest(config_data)] = config_data
    foreign, index_data = _index(shape, data, platform) if index else (b"", b"")
    return BuiltImage(data, config_data, built, str(shape["mediaType"]), index_data, foreign, blobs)


def artifact(contents: dict[str, bytes], *, note: str = "") -> BuiltImage:
    """An artifact as oras makes one: each content a layer, with its name as the title."""
    config = b"{}"
    shape = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": "application/vnd.test.model",
        "config": {
            "mediaType": "application/vnd.oci.empty.v1+json",
            "digest": digest(config),
            "size": len(config),
        },
        "layers": [
            {
                "mediaType": "application/octet-stream",
                "digest": digest(data),
                "size": len(data),
                "annotations": {"org.opencontainers.image.title": name},
            }
            for name, data in contents.items()
        ],
        "annotations": {"note": note},
    }
    blobs = {digest(data): data for data in (config, *contents.values())}
    return BuiltImage(json.dumps(shape).encode(), config, (), blobs=blobs)


def _index(shape: dict[str, object], data: bytes, platform: dict[str, str]) -> tuple[bytes, bytes]:
    """A manifest for another machine, and an index of both."""
    foreign = json.dumps({**shape, "annotations": {"for": "another machine"}}).encode()
    offers = ((foreign, {"os": "plan9", "architecture": "x"}), (data, platform))
    entries = [
        {"mediaType": OCI_MANIFEST, "digest": digest(item), "size": len(item), "platform": runs}
        for item, runs in offers
    ]
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}
    return foreign, json.dumps(index).encode()


def app(text: bytes = b"one", *, index: bool = False) -> BuiltImage:
    """Two layers, the second of which changes and hides files of the first."""
    base = tar(folder("bin"), file("bin/sh", b"#!", mode=0o755), folder("etc"), file("etc/a", b"a"))
    return image(base, tar(folder("etc"), file("etc/app", text), file("etc/.wh.a")), index=index)


def push(built: BuiltImage, host: str, repository: str, tag: str) -> None:
    """To a registry that wants no authentication; in as few requests as it takes."""
    name, _, port = host.partition(":")
    connection = http.client.HTTPConnection(name, int(port))

    def ask(method: str, url: str, body: bytes = b"", **headers: str) -> http.client.HTTPResponse:
        connection.request(method, url, body, headers)
        response = connection.getresponse()
        response.read()
        assert response.status < 300, (method, url, response.status)
        return response

    for blob, data in built.blobs.items():
        url = ask("POST", f"/v2/{repository}/blobs/uploads/").headers["Location"]
        joint = "&" if "?" in url else "?"
        headers = {"Content-Type": "application/octet-stream"}
        ask("PUT", f"{url}{joint}digest={blob}", data, **headers)
    for data, media_type in built.documents:
        headers = {"Content-Type": media_type}
        final = data == built.documents[-1][0]
        ask("PUT", f"/v2/{repository}/manifests/{tag if final else digest(data)}", data, **headers)
    connection.close()


def layout(images: Sequence[tuple[BuiltImage, dict[str, str]]], path: Path) -> None:
    """An OCI image layout; with each image, the annotations of its entry."""
    blobs = path / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    entries = []
    for built, notes in images:
        for data in (*built.blobs.values(), *(document for document, _ in built.documents)):
            (blobs / digest(data).removeprefix("sha256:")).write_bytes(data)
        data, media_type = built.documents[-1]
        entry = {"mediaType": media_type, "digest": digest(data), "size": len(data)}
        entries.append({**entry, "annotations": notes})
    (path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (path / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": entries}))
