"""The bench's images, made from the machine's static busybox, and the registry serving them."""

import gzip
import hashlib
import http.client
import io
import json
import os
import platform
import random
import shutil
import sys
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from e2e.bench.daemon import Daemon

HOST, PORT = "127.0.0.1", 5000
PAUSE = f"{HOST}:{PORT}/bench/pause:1"
BUSYBOX = f"{HOST}:{PORT}/bench/busybox:1"
TREE = f"{HOST}:{PORT}/bench/tree:1"
LOG_LINES_IN_FILE = 200_000  # /lines of the busybox image: that many lines of 100 bytes

_BUSYBOX_FILE = Path("/bin/busybox")
_APPLETS = ("sh", "sleep", "true", "cat", "echo", "seq")
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
_TREE_LAYERS, _TREE_FILES, _TREE_FILE_BYTES, _TREE_BULK_BYTES = 5, 4000, 2048, 31 << 20


@dataclass(frozen=True, slots=True)
class Layer:
    """A compressed layer and the digest of what it is uncompressed."""

    blob: bytes
    diff_id: str


def _digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def make_layer(files: Mapping[str, bytes], links: Mapping[str, str]) -> Layer:
    """Files (mode 0755) and symbolic links by path; directories come by themselves."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for directory in _directories([*files, *links]):
            entry = tarfile.TarInfo(directory)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
        for path, data in files.items():
            entry = tarfile.TarInfo(path)
            entry.mode, entry.size = 0o755, len(data)
            tar.addfile(entry, io.BytesIO(data))
        for path, target in links.items():
            entry = tarfile.TarInfo(path)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            tar.addfile(entry)
    return Layer(gzip.compress(raw.getvalue(), 1, mtime=0), _digest(raw.getvalue()))


def _directories(paths: Sequence[str]) -> list[str]:
    return sorted({str(parent) for path in paths for parent in Path(path).parents} - {"."})


def _busybox_layer() -> Layer:
    if not _BUSYBOX_FILE.exists():
        raise RuntimeError(f"{_BUSYBOX_FILE} is missing: install Debian's busybox-static")
    line = b"%099d\n" % 0
    files = {
        "bin/busybox": _BUSYBOX_FILE.read_bytes(),
        "etc/passwd": b"root:x:0:0:root:/:/bin/sh\n",
        "etc/group": b"root:x:0:\n",
        "lines": line * LOG_LINES_IN_FILE,
    }
    return make_layer(files, {f"bin/{applet}": "busybox" for applet in _APPLETS})


def _tree_layers() -> Iterator[Layer]:
    """20 000 small files and five large ones; half of each compresses, half does not."""
    source = random.Random(20)  # the same bytes in every run
    for index in range(_TREE_LAYERS):
        files = {}
        for number in range(_TREE_FILES):
            half = source.randbytes(_TREE_FILE_BYTES // 2)
            files[f"data/{index}/{number % 64:02d}/{number:05d}"] = half + half[:16] * (
                _TREE_FILE_BYTES // 32
            )
        half = source.randbytes(_TREE_BULK_BYTES // 2)
        files[f"data/{index}/bulk"] = half + bytes(len(half))
        yield make_layer(files, {})


@dataclass(slots=True)
class Registry:
    """Debian's docker-registry on loopback, with its storage beneath `directory`."""

    directory: Path
    daemon: Daemon | None = None

    def start(self) -> None:
        self.directory.mkdir()
        config = self.directory / "config.json"  # YAML is a superset of JSON
        config.write_text(json.dumps({
            "version": "0.1",
            "log": {"level": "warn", "accesslog": {"disabled": True}},
            "storage": {"filesystem": {"rootdirectory": str(self.directory / "data")}},
            "http": {"addr": f"{HOST}:{PORT}"},
        }))  # fmt: skip
        command = [_program(), "serve", str(config)]
        self.daemon = Daemon("docker-registry", command, self.directory / "log")
        self.daemon.start()
        self.daemon.wait_for((HOST, PORT))

    def stop(self) -> None:
        if self.daemon is not None:
            self.daemon.stop()

    def fill(self, *, tree: bool) -> None:
        """Push what the measures need; the large image only when one of them pulls it."""
        busybox = _busybox_layer()
        self._push(PAUSE, [busybox], ["/bin/sleep", "2000000"])
        self._push(BUSYBOX, [busybox], ["/bin/sh"])
        if tree:
            self._push(TREE, list(_tree_layers()), ["/bin/sh"])

    def _push(self, reference: str, layers: Sequence[Layer], command: Sequence[str]) -> None:
        repository, tag = reference.removeprefix(f"{HOST}:{PORT}/").split(":")
        config = json.dumps({
            "architecture": _architecture(), "os": "linux",
            "config": {"Entrypoint": list(command), "Env": ["PATH=/bin"]},
            "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]},
        }).encode()  # fmt: skip
        described = [self._blob(repository, _CONFIG, config)]
        described += [self._blob(repository, _LAYER, layer.blob) for layer in layers]
        manifest = {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": described[0],
            "layers": described[1:],
        }
        self._call(
            "PUT", f"/v2/{repository}/manifests/{tag}", json.dumps(manifest).encode(), _MANIFEST
        )

    def _blob(self, repository: str, media_type: str, data: bytes) -> dict[str, str | int]:
        digest = _digest(data)
        location = self._call("POST", f"/v2/{repository}/blobs/uploads/", b"", "")
        path = location.removeprefix(f"http://{HOST}:{PORT}")
        separator = "&" if "?" in path else "?"
        self._call("PUT", f"{path}{separator}digest={digest}", data, "application/octet-stream")
        return {"mediaType": media_type, "digest": digest, "size": len(data)}

    def _call(self, method: str, path: str, body: bytes, media_type: str) -> str:
        connection = http.client.HTTPConnection(HOST, PORT, timeout=60)
        headers = {"Content-Type": media_type} if media_type else {}
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        text = answer.read().decode(errors="replace")
        connection.close()
        if answer.status >= 300:
            raise RuntimeError(
                f"docker-registry answers {answer.status} to {method} {path}: {text}"
            )
        return answer.headers.get("Location", "")


def _program() -> str:
    """docker-registry: installed, or unpacked in the virtual environment by `make`."""
    unpacked = str(Path(sys.prefix, "debian/usr/bin"))
    found = shutil.which("docker-registry", path=f"{os.environ['PATH']}:{unpacked}")
    if found is None:
        raise RuntimeError(
            f"docker-registry is neither in PATH nor in {unpacked}: run `make bench`"
        )
    return found


def _architecture() -> str:
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
