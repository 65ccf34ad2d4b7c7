"""What is attached, and what is being attached or detached: a file per sandbox, and memory.

    DIRECTORY/SANDBOX_ID.json     replaced as a whole (rename), so never half-written

A record is written before the first thing that it describes exists in the kernel, and removed
after the last one is gone: what a crash leaves is in a record, or (an address lease) names its
owner itself. The directory is tmpfs; nothing that records describe outlives a boot.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import logging
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from network.result import PortMapping, Result

_LOG = logging.getLogger(__name__)
_FILE_MODE = 0o600


class Phase(enum.Enum):
    """How far an attachment is."""

    INTENT = "intent"  # any part of it may exist
    ADDED = "added"  # all of it exists
    DELETING = "deleting"  # any part of it may still exist


@dataclass(frozen=True, slots=True)
class Attachment:
    """Everything there is to know for taking a pod off its network, and for saying what it has."""

    sandbox_id: str
    phase: Phase
    bridge: str
    host_interface: str
    interface: str
    mac: str
    ips: tuple[str, ...]
    gateways: tuple[str, ...]
    ports: tuple[PortMapping, ...]
    name: str
    namespace: str
    uid: str
    netns_path: str

    def pod(self) -> str:
        """How people call the pod."""
        return f"{self.namespace}/{self.name}"

    def result(self) -> Result:
        return Result(self.ips, self.gateways, self.interface, self.mac, self.host_interface)


class Journal:
    """The records. Changed by one thread; `get` may be called by any."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._records: dict[str, Attachment] = {}

    def load(self) -> None:
        """Reads what an earlier daemon wrote. A file that can't be read is named and put aside."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._records = {}
        for path in sorted(self._directory.iterdir()):
            if path.suffix != ".json":
                if path.suffix == ".new":
                    path.unlink(missing_ok=True)
                continue
            try:
                record = _decode(path.read_bytes())
            except (ValueError, KeyError, TypeError) as error:
                _LOG.error("attachment record %s can't be read: %r; it is put aside", path, error)
                path.rename(path.with_suffix(".unreadable"))
                continue
            self._records[record.sandbox_id] = record

    def get(self, sandbox_id: str) -> Attachment | None:
        return self._records.get(sandbox_id)

    def ids(self) -> frozenset[str]:
        return frozenset(self._records)

    def __iter__(self) -> Iterator[Attachment]:
        return iter(tuple(self._records.values()))

    def put(self, record: Attachment) -> None:
        """Writes the record, then remembers it. Raises OSError, and then did neither."""
        draft = f"{self._directory}/{record.sandbox_id}.new"
        try:
            _write(draft, _encode(record))
            os.rename(draft, f"{self._directory}/{record.sandbox_id}.json")
        except OSError:
            with suppress(FileNotFoundError):
                os.unlink(draft)
            raise
        self._records[record.sandbox_id] = record

    def remove(self, sandbox_id: str) -> None:
        (self._directory / f"{sandbox_id}.json").unlink(missing_ok=True)
        self._records.pop(sandbox_id, None)


def _write(path: str, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, _FILE_MODE)
    with open(fd, "wb") as file:
        file.write(data)


def _encode(record: Attachment) -> bytes:
    fields: dict[str, object] = {key: getattr(record, key) for key in _PLAIN}
    fields["phase"] = record.phase.value
    fields["ports"] = [dataclasses.asdict(port) for port in record.ports]
    return json.dumps(fields, separators=(",", ":")).encode()


def _decode(data: bytes) -> Attachment:
    """Raises ValueError, KeyError or TypeError if it is no record; unknown keys are passed over."""
    fields = cast("dict[str, object]", json.loads(data))
    ports = cast("list[dict[str, object]]", fields["ports"])
    text = {key: _text(fields[key]) for key in _TEXTS}
    return Attachment(
        **text,
        phase=Phase(fields["phase"]),
        ips=_texts(fields["ips"]),
        gateways=_texts(fields["gateways"]),
        ports=tuple(
            PortMapping(
                _number(port["host_port"]),
                _number(port["container_port"]),
                _text(port["protocol"]),
                _text(port["host_ip"]),
            )
            for port in ports
        ),
    )


_TEXTS = (
    "sandbox_id",
    "bridge",
    "host_interface",
    "interface",
    "mac",
    "name",
    "namespace",
    "uid",
    "netns_path",
)


_PLAIN = (*_TEXTS, "ips", "gateways")


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise TypeError(f"{value!r} is no list")
    return tuple(map(_text, value))


def _number(value: object) -> int:
    if not isinstance(value, int):
        raise TypeError(f"{value!r} is no number")
    return value
