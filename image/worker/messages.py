"""What daemon and worker say to each other: frozen dataclasses as JSON, length first.

    daemon                          worker
      | -- Resolve | Unpack | … ------> |
      | <-- Progress ------------------- |   any number, when there was any
      | <-- Resolved | … | Failed ----- |
      |                  ...             |   the next job; end of file: the worker exits

Both sides are the same version: the daemon starts its own workers. What a worker says is checked
all the same, since it reads what strangers wrote.
"""

from __future__ import annotations

import base64
import dataclasses
import functools
import json
import struct
import types
import typing
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from image import errors
from image.checkpoint.owners import Owners
from image.digest import Digest
from image.errors import ImageFault
from image.manifest import Platform
from image.registry.credentials import Credentials
from image.settings import RegistrySettings, UnpackLimits
from image.unpack import Result

LENGTH: Final = struct.Struct("!I")
LIMIT: Final = 64 << 20  # bytes of one message


@dataclass(frozen=True, slots=True)
class Source:
    """Where a layer's bytes are: `size` bytes of a file from `offset` on."""

    path: str
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Remote:
    """A repository. authorizations, dead: what a Resolve found out about its endpoints."""

    reference: str
    credentials: Credentials
    settings: RegistrySettings
    authorizations: Mapping[str, str] = field(default_factory=dict, hash=False)
    dead: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Resolve:
    """Find what a reference stands for; put manifest and config into the content store."""

    remote: Remote
    platform: Platform
    content: str


@dataclass(frozen=True, slots=True)
class Resolved:
    """target: digest of what the reference names; manifest: of the image for our platform.

    authorizations: headers by endpoint URL; dead: URLs of mirrors that do not answer.
    """

    target: Digest
    manifest: Digest
    authorizations: Mapping[str, str]
    dead: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Unpack:
    """Turn a layer into the new directory `target`, which also becomes durable.

    what: the layer's name in messages; digest: of the blob, None if only the diff id is known;
    source: a file, or None for the registry `remote`; content: where to keep the blob too, or "";
    title: of an artifact's file, which is no archive: the only thing in the directory then.
    """

    what: str
    target: str
    diff_id: Digest
    digest: Digest | None
    size: int
    source: Source | None
    remote: Remote | None
    content: str
    limits: UnpackLimits
    title: str = ""


@dataclass(frozen=True, slots=True)
class Unpacked:
    """The directory is complete, unless `result` leaves something for a Settle."""

    result: Result


@dataclass(frozen=True, slots=True)
class Settle:
    """Finish a directory with the layers below it, topmost first."""

    target: str
    result: Result
    lowers: tuple[str, ...]
    depth: int


@dataclass(frozen=True, slots=True)
class Settled:
    """The directory is complete and durable."""


@dataclass(frozen=True, slots=True)
class Measure:
    """Walk directories and count what they take."""

    directories: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Occupancy:
    """What a directory takes, see `image.walk`. taken_at: ns since 1970; seconds: of CPU time."""

    bytes: int
    inodes: int
    whole: bool
    taken_at: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Measured:
    """One for each directory; None: it is not there."""

    directories: tuple[Occupancy | None, ...]


@dataclass(frozen=True, slots=True)
class PackDiff:
    """Write a directory as a layer: the new file `target`. upper: what a container changed, or what
    it had in memory; owners: of the files; durable: the file is on disk when it is packed."""

    upper: str
    target: str
    owners: Owners | None = None
    durable: bool = False


@dataclass(frozen=True, slots=True)
class Pack:
    """Write the directory `source` as the archive `target`, whole or not at all."""

    source: str
    target: str


@dataclass(frozen=True, slots=True)
class Packed:
    """size: of the file, in bytes."""

    size: int


@dataclass(frozen=True, slots=True)
class TakeCheckpoint:
    """Take a checkpoint's files from an archive, or if `archive` is empty from an image's layers,
    topmost first, into the empty directory `target`. reserve: bytes of the disk to leave alone."""

    archive: str
    layers: tuple[str, ...]
    target: str
    reserve: int


@dataclass(frozen=True, slots=True)
class Taken:
    """config: what the checkpoint says of itself, JSON."""

    config: str


@dataclass(frozen=True, slots=True)
class ApplyDiff:
    """Unpack a layer (a file, and no link) into a container's writable directory, or another one,
    which is empty. lowers: the layers below it, topmost first; owners: whose the files become."""

    source: str
    target: str
    lowers: tuple[str, ...]
    limits: UnpackLimits
    owners: Owners | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """So far: compressed bytes fetched, entries and bytes of file contents unpacked."""

    fetched: int
    entries: int
    written: int


@dataclass(frozen=True, slots=True)
class Failed:
    """The job ended with an error of `image.errors`. kind: its class; arguments: its args."""

    kind: str
    arguments: tuple[object, ...]

    @classmethod
    def of(cls, error: Exception) -> Failed:
        """Any other error becomes an ImageFault with its text."""
        if isinstance(error, ImageFault):
            return cls(type(error).__name__, error.args)
        return cls("ImageFault", (f"{type(error).__name__}: {error}",))

    def error(self) -> ImageFault:
        """The error again."""
        kind = getattr(errors, self.kind, None)
        if isinstance(kind, type) and issubclass(kind, ImageFault):
            with suppress(TypeError):
                return kind(*self.arguments)
        return ImageFault(f"{self.kind}: {self.arguments}")


Job = Resolve | Unpack | Settle | Measure | PackDiff | Pack | TakeCheckpoint | ApplyDiff
Answer = Resolved | Unpacked | Settled | Measured | Packed | Taken | Failed
Message = Job | Answer | Progress
_KINDS: Final[Mapping[str, type]] = {
    kind.__name__: kind
    for kind in (
        *(Resolve, Unpack, Settle, Measure, PackDiff, Pack, TakeCheckpoint, ApplyDiff),
        *(Resolved, Unpacked, Settled, Measured, Packed, Taken, Failed, Progress),
    )
}


def encode(message: Message) -> bytes:
    """A whole frame."""
    shape = [type(message).__name__, _shape(message)]
    data = json.dumps(shape, separators=(",", ":")).encode("ascii")
    return LENGTH.pack(len(data)) + data


def decode(data: bytes) -> Message:
    """A message from a frame without its length. Raises ValueError."""
    shape: object = json.loads(data)
    if not (isinstance(shape, list) and len(shape) == 2 and shape[0] in _KINDS):
        raise ValueError(f"no message: {data[:80]!r}")
    return typing.cast(Message, _value(_KINDS[shape[0]], shape[1]))


def _shape(value: object) -> object:
    if isinstance(value, Digest):
        return str(value)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if dataclasses.is_dataclass(value):
        names = (item.name for item in dataclasses.fields(value))
        return {name: _shape(getattr(value, name)) for name in names}
    if isinstance(value, (tuple, list)):
        return [_shape(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _shape(item) for key, item in value.items()}
    return value


@functools.cache
def _hints(kind: type) -> dict[str, type]:
    return typing.get_type_hints(kind)


def _value(hint: type, shape: object) -> object:
    """A value of the type that `hint` says. Raises ValueError."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return None if shape is None else _value(arguments[0], shape)
    if origin is tuple and isinstance(shape, list):
        kinds = [arguments[0]] * len(shape) if arguments[-1] is ... else arguments
        return tuple(_value(kind, item) for kind, item in zip(kinds, shape, strict=True))
    if origin is not None and isinstance(shape, dict):
        return {key: _value(arguments[1], item) for key, item in shape.items()}
    if dataclasses.is_dataclass(hint) and isinstance(shape, dict):
        return hint(**{name: _value(kind, shape.get(name)) for name, kind in _hints(hint).items()})
    return _plain(hint, shape)


def _plain(hint: type, shape: object) -> object:
    if hint is object:
        return shape
    if isinstance(shape, str) and hint is Digest:
        return Digest.parse(shape)
    if isinstance(shape, str) and hint is bytes:
        return base64.b64decode(shape)
    if hint is float and isinstance(shape, int):
        return float(shape)
    if typing.get_origin(hint) is not None or not isinstance(shape, hint):
        raise ValueError(f"expected {hint}, got {shape!r:.80}")
    return shape
