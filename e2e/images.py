"""Container images made on the spot, and how they get into a registry or a layout directory.

    Image([busybox()], {"Cmd": ["sh"]}).push(Registry("127.0.0.1:5000"), "library/busybox", "1.35")

Layers are plain tar archives described by `Entry` values, so that a test can also make those which
no honest tool would: paths that lead out of the root, devices, links to anywhere.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import http.client
import io
import json
import platform
import subprocess
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

BUSYBOX = Path("/bin/busybox")
"""Debian's busybox-static."""

PASSWD = """root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/bin/false
alice:x:1000:1000:Alice:/home/alice:/bin/sh
nobody:x:65534:65534:nobody:/nonexistent:/bin/false
"""
GROUP = """root:x:0:
daemon:x:1:
alice:x:1000:
crew:x:2000:alice
nogroup:x:65534:
"""


@dataclass(frozen=True, slots=True)
class Entry:
    """One member of a layer's tar archive."""

    path: str
    data: bytes = b""
    mode: int = 0o644
    kind: bytes = tarfile.REGTYPE
    target: str = ""
    owner: tuple[int, int] = (0, 0)

    def tarinfo(self) -> tarfile.TarInfo:
        info = tarfile.TarInfo(self.path)
        info.type, info.mode, info.linkname, info.size = (
            self.kind,
            self.mode,
            self.target,
            len(self.data),
        )
        info.uid, info.gid = self.owner
        return info


def directory(path: str, mode: int = 0o755, owner: tuple[int, int] = (0, 0)) -> Entry:
    return Entry(path, mode=mode, kind=tarfile.DIRTYPE, owner=owner)


def symlink(path: str, target: str) -> Entry:
    return Entry(path, mode=0o777, kind=tarfile.SYMTYPE, target=target)


def hardlink(path: str, target: str) -> Entry:
    return Entry(path, kind=tarfile.LNKTYPE, target=target)


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer: its blob as it is stored, and the digest of what that unpacks to."""

    blob: bytes
    diff_id: str
    compression: str = "gzip"

    @classmethod
    def of(cls, entries: Iterable[Entry], *, compression: str = "gzip") -> Layer:
        """`compression`: gzip, zstd or none."""
        raw = io.BytesIO()
        with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for entry in entries:
                tar.addfile(entry.tarinfo(), io.BytesIO(entry.data))
        return cls(_compressed(raw.getvalue(), compression), digest(raw.getvalue()), compression)


def _compressed(data: bytes, compression: str) -> bytes:
    if compression == "gzip":
        return gzip.compress(data, 6, mtime=0)
    if compression == "zstd":
        import zstandard

        return zstandard.compress(data)
    return data


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


@functools.cache
def busybox() -> Layer:
    """A small root file system: busybox and its applets, users, /tmp."""
    listed = subprocess.run([BUSYBOX, "--list"], capture_output=True, text=True, check=True)
    return Layer.of(
        [
            *map(directory, ("bin", "etc", "home", "root", "var", "var/log")),
            directory("tmp", 0o1777),
            directory("home/alice", 0o755, (1000, 1000)),
            Entry("bin/busybox", BUSYBOX.read_bytes(), 0o755),
            *(symlink(f"bin/{name}", "busybox") for name in listed.stdout.split()
              if name != "busybox"),
            Entry("etc/passwd", PASSWD.encode()),
            Entry("etc/group", GROUP.encode()),
        ]
    )  # fmt: skip


OCI = {
    "manifest": "application/vnd.oci.image.manifest.v1+json",
    "index": "application/vnd.oci.image.index.v1+json",
    "config": "application/vnd.oci.image.config.v1+json",
    "gzip": "application/vnd.oci.image.layer.v1.tar+gzip",
    "zstd": "application/vnd.oci.image.layer.v1.tar+zstd",
    "none": "application/vnd.oci.image.layer.v1.tar",
}
DOCKER = {
    "manifest": "application/vnd.docker.distribution.manifest.v2+json",
    "index": "application/vnd.docker.distribution.manifest.list.v2+json",
    "config": "application/vnd.docker.container.image.v1+json",
    "gzip": "application/vnd.docker.image.rootfs.diff.tar.gzip",
}

Descriptor = dict[str, object]


@dataclass(frozen=True, slots=True)
class Image:
    """Layers and a runtime configuration (the capitalised keys of an image's `config`)."""

    layers: Sequence[Layer]
    config: Mapping[str, object] = field(default_factory=dict)
    types: Mapping[str, str] = field(default_factory=lambda: OCI)

    @property
    def config_blob(self) -> bytes:
        described = {
            "architecture": architecture(),
            "os": "linux",
            "config": {"Env": ["PATH=/bin"], **self.config},
            "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in self.layers]},
        }
        return json.dumps(described).encode()

    @property
    def id(self) -> str:
        """What CRI calls the image's id: the digest of its configuration."""
        return digest(self.config_blob)

    @property
    def manifest(self) -> bytes:
        return json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": self.types["manifest"],
                "config": _descriptor(self.types["config"], self.config_blob),
                "layers": [_descriptor(self.types[layer.compression], layer.blob)
                           for layer in self.layers],
            }
        ).encode()  # fmt: skip

    @property
    def blobs(self) -> list[bytes]:
        return [self.config_blob, *(layer.blob for layer in self.layers)]

    def push(self, registry: Registry, repository: str, tag: str) -> str:
        """Stores the image; answers its reference with the tag."""
        for blob in self.blobs:
            registry.put_blob(repository, blob)
        registry.put_manifest(repository, tag, self.types["manifest"], self.manifest)
        return f"{registry.host}/{repository}:{tag}"

    def push_index(self, registry: Registry, repository: str, tag: str) -> str:
        """Stores it behind an index that also names a platform which nobody runs."""
        self.push(registry, repository, f"{tag}-only")
        elsewhere = {**_descriptor(self.types["manifest"], self.manifest),
                     "platform": {"os": "plan9", "architecture": "mips"}}  # fmt: skip
        here = {**_descriptor(self.types["manifest"], self.manifest),
                "platform": {"os": "linux", "architecture": architecture()}}  # fmt: skip
        index = {"schemaVersion": 2, "mediaType": self.types["index"],
                 "manifests": [elsewhere, here]}  # fmt: skip
        registry.put_manifest(repository, tag, self.types["index"], json.dumps(index).encode())
        return f"{registry.host}/{repository}:{tag}"

    def layout(self, path: Path, name: str) -> Path:
        """Writes the image as an OCI layout directory."""
        blobs = path / "blobs" / "sha256"
        blobs.mkdir(parents=True)
        for blob in (*self.blobs, self.manifest):
            (blobs / digest(blob).removeprefix("sha256:")).write_bytes(blob)
        (path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
        entry = {**_descriptor(self.types["manifest"], self.manifest),
                 "annotations": {"org.opencontainers.image.ref.name": name}}  # fmt: skip
        (path / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
        return path


@dataclass(frozen=True, slots=True)
class Artifact:
    """Files by their names, as oras pushes them."""

    files: Mapping[str, bytes]

    @property
    def manifest(self) -> bytes:
        titles = "org.opencontainers.image.title"
        return json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": OCI["manifest"],
                "artifactType": "application/vnd.test.model",
                "config": _descriptor("application/vnd.oci.empty.v1+json", b"{}"),
                "layers": [{**_descriptor("application/octet-stream", data),
                            "annotations": {titles: name}}
                           for name, data in self.files.items()],
            }
        ).encode()  # fmt: skip

    @property
    def id(self) -> str:
        return digest(self.manifest)

    def push(self, registry: Registry, repository: str, tag: str) -> str:
        for blob in (b"{}", *self.files.values()):
            registry.put_blob(repository, blob)
        registry.put_manifest(repository, tag, OCI["manifest"], self.manifest)
        return f"{registry.host}/{repository}:{tag}"


def _descriptor(media_type: str, data: bytes) -> Descriptor:
    return {"mediaType": media_type, "digest": digest(data), "size": len(data)}


@dataclass(frozen=True, slots=True)
class Registry:
    """A registry to push to, by plain HTTP. `authorization`: the header's value, if any."""

    host: str
    authorization: str = ""

    def put_blob(self, repository: str, data: bytes) -> None:
        location = self._call("POST", f"/v2/{repository}/blobs/uploads/", b"", "")
        path = location.removeprefix(f"http://{self.host}")
        separator = "&" if "?" in path else "?"
        self._call(
            "PUT", f"{path}{separator}digest={digest(data)}", data, "application/octet-stream"
        )

    def put_manifest(self, repository: str, tag: str, media_type: str, data: bytes) -> None:
        self._call("PUT", f"/v2/{repository}/manifests/{tag}", data, media_type)

    def _call(self, method: str, path: str, body: bytes, media_type: str) -> str:
        """Answers the Location header."""
        connection = http.client.HTTPConnection(self.host, timeout=60)
        headers = {"Content-Type": media_type, "Authorization": self.authorization}
        connection.request(method, path, body, {k: v for k, v in headers.items() if v})
        answer = connection.getresponse()
        text = answer.read().decode(errors="replace")
        connection.close()
        if answer.status >= 300:
            raise RuntimeError(f"the registry answers {answer.status} to {method} {path}: {text}")
        return answer.headers.get("Location", "")


def architecture() -> str:
    """This machine's, as images call it."""
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
