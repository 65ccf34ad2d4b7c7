"""What a worker does, a job a function. Blocking; errors are those of `image.errors`."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from image import directory, layer, walk
from image.content import Content, Ingest
from image.digest import Digest, Verifier
from image.errors import DigestMismatch, ImageFault, LayerMalformed, UnsupportedImage
from image.manifest import CONFIG_LIMIT, MANIFEST_LIMIT, Manifest, choose, parse
from image.reference import Reference
from image.settings import RegistrySettings
from image.unpack import Result, settle, unpack
from image.unpack.apply import Counters
from image.worker.messages import (
    Answer,
    ApplyDiff,
    Job,
    Measure,
    Measured,
    Occupancy,
    Pack,
    PackDiff,
    Packed,
    Remote,
    Resolve,
    Resolved,
    Settle,
    Settled,
    Source,
    TakeCheckpoint,
    Taken,
    Unpack,
    Unpacked,
)

if TYPE_CHECKING:
    from image.registry.client import Client
    from image.registry.transport import Transport

_FILE_CHUNK: Final = 1 << 20
_NEW_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_NESTING: Final = 4  # indexes inside of indexes
_LAST: Final = 19  # the lowest priority there is


@dataclass(slots=True)
class Connections:
    """Kept open between the jobs of a worker."""

    _transports: dict[RegistrySettings, Transport] = field(default_factory=dict)

    def client(self, remote: Remote) -> Client:
        """A client of a repository, with what it was authorized with before."""
        # Here, because HTTP is half of what a worker loads, and an import of an archive needs none.
        from image.registry.client import Client
        from image.registry.transport import Transport

        settings = remote.settings
        transport = self._transports.setdefault(settings, Transport(settings))
        reference = Reference.parse(remote.reference)
        client = Client(reference, remote.credentials, settings, transport, time.sleep)
        client.go_on(remote.authorizations, remote.dead)
        return client


def run(job: Job, connections: Connections, counters: Counters) -> Answer:
    """Do it. Raises ImageFault, OSError."""
    match job:
        case Resolve():
            return resolve(job, connections.client(job.remote))
        case Unpack():
            return Unpacked(_unpack(job, connections, counters))
        case Settle():
            lowers = [Path(lower) for lower in job.lowers]
            settle(Path(job.target), job.result, lowers, job.depth)
            directory.sync_file_system(Path(job.target))
            return Settled()
        case Measure():
            return measure(job, counters)
        case _:
            return _checkpoint(job, counters)


def _checkpoint(job: PackDiff | Pack | TakeCheckpoint | ApplyDiff, counters: Counters) -> Answer:
    # Here, because workers that pull images need none of it.
    from image.checkpoint import diff, members, pack

    match job:
        case PackDiff():
            diff.write(Path(job.upper), Path(job.target), counters, job.owners, durable=job.durable)
            return Packed(Path(job.target).stat().st_size)
        case Pack():
            return Packed(pack.pack(Path(job.source), Path(job.target), counters))
        case TakeCheckpoint():
            target = members.Target(Path(job.target), counters, job.reserve)
            if job.archive:
                members.from_archive(Path(job.archive), target)
            else:
                members.from_layers([Path(layer) for layer in job.layers], target)
            return Taken(target.config())
        case ApplyDiff():
            target_path, lowers = Path(job.target), [Path(lower) for lower in job.lowers]
            with members.opened(Path(job.source)) as file:
                chunks = layer.decompressed(iter(lambda: file.read(_FILE_CHUNK), b""))
                try:
                    owner = job.owners.outside if job.owners is not None else None
                    result = unpack(chunks, target_path, job.limits, counters, owner)
                    settle(target_path, result, lowers, job.limits.depth)
                except LayerMalformed as error:
                    raise LayerMalformed(f"{Path(job.source).name}: {error}") from error
            return Settled()


# --- resolve --------------------------------------------------------------------------------------


def resolve(job: Resolve, client: Client) -> Resolved:
    """Follow a reference to the manifest for our platform; keep all documents on the way."""
    content = Content(Path(job.content))
    found = client.resolve(lambda digest: digest in content)
    target, digest, media_type = found.digest, found.digest, found.media_type
    data = found.data
    for _ in range(_NESTING):
        what = f"{client.reference.name}@{digest}"
        data = _document(client, content, digest, data)
        document = parse(data, media_type, what)
        if isinstance(document, Manifest):
            if not document.artifact:
                _keep_config(client, content, document)
            return Resolved(target, digest, client.authorizations, client.dead)
        chosen = choose(document, job.platform, what)
        digest, media_type, data = chosen.digest, chosen.media_type, None
    raise UnsupportedImage(f"{client.reference}: more than {_NESTING} indexes in each other")


def _document(client: Client, content: Content, digest: Digest, data: bytes | None) -> bytes:
    """A manifest's bytes: those given, the ones we have, or the registry's; stored."""
    if data is None:
        try:
            return content.read(digest, MANIFEST_LIMIT)
        except (FileNotFoundError, ImageFault):
            data = client.manifest(digest).data or b""
    content.put(data, digest, f"{client.reference.name}@{digest}")
    return data


def _keep_config(client: Client, content: Content, manifest: Manifest) -> None:
    config = manifest.config
    what = f"{client.reference.name}, config {config.digest}"
    if config.size > CONFIG_LIMIT:
        raise UnsupportedImage(f"{what}: {config.size} bytes; {CONFIG_LIMIT} are allowed")
    if config.digest in content:
        return
    verifier = Verifier(what, config.digest, config.size)
    with content.ingest(verifier) as blob:
        for chunk in layer.hashed(client.blob(config.digest, config.size), verifier):
            blob.write(chunk)
        blob.commit()


# --- unpack ---------------------------------------------------------------------------------------


def _unpack(job: Unpack, connections: Connections, counters: Counters) -> Result:
    """The layer, from a mirror if there is one; if that has other bytes, from the registry."""
    if job.source is not None:
        return _unpack_from(_file(job.source), job, counters)
    if job.remote is None or job.digest is None:
        raise ImageFault(f"{job.what}: neither a file nor a registry to take it from")
    client = connections.client(job.remote)
    try:
        return _unpack_from(client.blob(job.digest, job.size), job, counters)
    except DigestMismatch:
        if not client.drop_mirrors():
            raise
    directory.remove_tree(Path(job.target))
    return _unpack_from(client.blob(job.digest, job.size), job, counters)


def _unpack_from(chunks: Iterator[bytes], job: Unpack, counters: Counters) -> Result:
    """Hash, decompress, hash, unpack: each byte passes once.

    Fetching and the first hash happen in a thread of their own, ahead of the rest.
    """
    target = Path(job.target)
    target.mkdir(mode=0o755)
    counters.fetched = 0
    if job.title:
        return _file_of_artifact(chunks, job, counters)
    diff = Verifier(f"{job.what} unpacked", job.diff_id)
    with ExitStack() as stack:
        verifier, blob = _blob(job, stack)
        fetched = layer.ahead(_counted(chunks, counters, verifier, blob))
        stack.enter_context(closing(fetched))
        tar = layer.hashed(layer.decompressed(fetched), diff)
        try:
            result = unpack(tar, target, job.limits, counters)
        except LayerMalformed as error:
            for _ in fetched:  # are these the bytes that were asked for? If not, that is the error
                pass
            raise LayerMalformed(f"{job.what}: {error}") from error
        for _ in fetched:  # a decompressor may leave what is behind the last frame
            pass
        if blob is not None:
            blob.commit()
    if not (result.implicit or result.links):
        directory.sync_file_system(target)
    return result


def _file_of_artifact(chunks: Iterator[bytes], job: Unpack, counters: Counters) -> Result:
    """The blob as it is, as the only file in its directory; `manifest.files` checked its name."""
    target = Path(job.target)
    with ExitStack() as stack:
        verifier, blob = _blob(job, stack)
        fetched = layer.ahead(_counted(chunks, counters, verifier, blob))
        stack.enter_context(closing(fetched))
        fd = os.open(target / job.title, _NEW_FILE, 0o644)
        with open(fd, "wb", buffering=0) as file:
            for chunk in fetched:
                directory.require_free(fd, job.limits.reserve_bytes)
                rest = memoryview(chunk)
                while rest:
                    rest = rest[file.write(rest) :]
                counters.written += len(chunk)
            used = os.fstat(fd).st_blocks * 512
        if blob is not None:
            blob.commit()
    directory.sync_file_system(target)
    return Result(used + 4096, 2, None, opaque=False)


def _blob(job: Unpack, stack: ExitStack) -> tuple[Verifier | None, Ingest | None]:
    if job.digest is None:
        return None, None
    verifier = Verifier(job.what, job.digest, job.size)
    if not job.content:
        return verifier, None
    return verifier, stack.enter_context(Content(Path(job.content)).ingest(verifier))


def _counted(
    chunks: Iterable[bytes], counters: Counters, verifier: Verifier | None, blob: Ingest | None
) -> Iterator[bytes]:
    for chunk in chunks:
        if verifier is not None:
            verifier.update(chunk)
        if blob is not None:
            blob.write(chunk)
        counters.fetched += len(chunk)
        yield chunk
    if verifier is not None:
        verifier.verify()


def _file(source: Source) -> Iterator[bytes]:
    with Path(source.path).open("rb", buffering=0) as file:
        file.seek(source.offset)
        left = source.size
        while left and (chunk := file.read(min(left, _FILE_CHUNK))):
            left -= len(chunk)
            yield chunk


# --- measure --------------------------------------------------------------------------------------


def measure(job: Measure, counters: Counters) -> Measured:
    """With what the processors have left: nobody waits for it."""
    os.setpriority(os.PRIO_PROCESS, 0, _LAST)
    return Measured(tuple([_occupancy(Path(name), counters) for name in job.directories]))


def _occupancy(path: Path, counters: Counters) -> Occupancy | None:
    before = counters.entries

    def progress(inodes: int) -> None:
        counters.entries = before + inodes

    begin = time.thread_time()
    try:
        found = walk.occupied(path, progress=progress)
    except FileNotFoundError:
        return None
    seconds = time.thread_time() - begin
    return Occupancy(found.bytes, found.inodes, found.whole, time.time_ns(), seconds)
