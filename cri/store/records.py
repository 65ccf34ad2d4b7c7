"""A collection of records: in memory for readers, written through to the database.

Readers (`get`, `find`, `all`) take no lock and touch no file. A change is written first and seen
afterwards; if it can't be written it raises and nothing has changed. Records are immutable: who
holds one sees a consistent, perhaps slightly old, state. Whoever follows the collection is told of
every change in the same turn of the loop, once it is written and seen: none can slip between.
"""

from __future__ import annotations

import abc
import asyncio
import dataclasses
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar, cast

from cri.store import index
from runtime import codec

if TYPE_CHECKING:
    from collections.abc import Iterator

    from google.protobuf.message import Message

    from cri.store.database import Database

log = logging.getLogger(__name__)


class Identified(Protocol):
    """Metadata says which record it is of."""

    @property
    def id(self) -> str: ...


M = TypeVar("M", bound=Identified, covariant=True)
C = TypeVar("C", bound="Message", covariant=True)
S = TypeVar("S", covariant=True)


@dataclass(frozen=True, slots=True)
class Record(abc.ABC, Generic[M, C, S]):
    """A sandbox or container, as it is at one moment.

    metadata: what was decided before the first side effect, never changes; config: the request's,
    hardly changes, and belongs to all readers: don't write to it; status: what is.
    """

    metadata: M
    config: C
    status: S
    _listed: bytes = field(default=b"", init=False, repr=False, compare=False)
    _attributes: bytes = field(default=b"", init=False, repr=False, compare=False)

    @property
    def id(self) -> str:
        return self.metadata.id

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """Unique among the records of the collection that are not being removed."""

    @property
    def listed(self) -> bytes:
        """Its piece of a serialised List response: joined, such pieces are one. Made on demand."""
        if not self._listed:
            object.__setattr__(self, "_listed", self._list_response().SerializeToString())
        return self._listed

    @property
    def attributes(self) -> bytes:
        """The part of its serialised statistics that never changes. Made on demand."""
        if not self._attributes:
            object.__setattr__(self, "_attributes", self._stats().SerializeToString())
        return self._attributes

    @abc.abstractmethod
    def _list_response(self) -> Message:
        """A List response with this one record."""

    @abc.abstractmethod
    def _stats(self) -> Message:
        """Its statistics, without any number."""


R = TypeVar("R", bound=Record[Identified, "Message", object])
T = TypeVar("T")

Follower = Callable[[R | None, R | None], None]
"""Told of a change: the record before (None: it is new) and after (None: it is gone)."""


class Records(Generic[R, T]):
    """Records of one kind, by id and by name. R: the record; T: its status."""

    def __init__(
        self,
        database: Database,
        table: str,
        *,
        load: Callable[[object, bytes, object], R],
        not_found: Callable[[str], Exception],
    ) -> None:
        self._database = database
        self._table = table
        self._not_found = not_found
        self._by_id: dict[str, R] = {}
        self._by_name: dict[str, str] = {}
        self._changed: dict[str, asyncio.Event] = {}
        self._followers: list[Follower[R]] = []
        for record_id, metadata, config, status in database.rows(table):
            try:
                self._keep(load(json.loads(metadata), config, json.loads(status)))
            except ValueError as error:  # the others live on
                log.error("%s %s can't be read and is passed over: %s", table, record_id, error)

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[R]:
        return iter(tuple(self._by_id.values()))

    def all(self) -> tuple[R, ...]:
        """Every record, oldest first."""
        return tuple(self._by_id.values())

    def get(self, text: str) -> R:
        """The record with this id, or whose id begins so. Raises not-found, AmbiguousId."""
        record = self.find(text)
        if record is None:
            raise self._not_found(text)
        return record

    def find(self, text: str) -> R | None:
        """As `get`, but None if there is none."""
        record_id = index.resolve(text, self._by_id)
        return None if record_id is None else self._by_id[record_id]

    def exact(self, record_id: str) -> R | None:
        """The record with this whole id."""
        return self._by_id.get(record_id)

    def named(self, name: str) -> R | None:
        """The record of this name."""
        record_id = self._by_name.get(name)
        return None if record_id is None else self._by_id[record_id]

    def follow(self, follower: Follower[R]) -> None:
        """Have a function told of every change from now on. It must be quick, and never raise."""
        self._followers.append(follower)

    def add(self, record: R) -> R:
        """Write a new record down, then show it. To be called before the first side effect."""
        if record.id in self._by_id:
            raise ValueError(f"{self._table}: {record.id} is there already")
        self._database.execute(
            f"INSERT INTO {self._table} (id, metadata, config, status) VALUES (?, ?, ?, ?)",  # noqa: S608 - ours
            *(record.id, _json(record.metadata)),
            *(record.config.SerializeToString(), _json(record.status)),
        )
        self._keep(record)
        self._tell(None, record)
        return record

    def update(self, record_id: str, change: Callable[[T], T]) -> R:
        """Replace a record's status by what `change` makes of it. Raises what `change` raises."""
        old = self.get(record_id)
        status = change(cast(T, old.status))
        if status == old.status:
            return old
        new = dataclasses.replace(old, status=status)
        self._database.execute(
            f"UPDATE {self._table} SET status = ? WHERE id = ?",  # noqa: S608 - ours
            *(_json(new.status), new.id),
        )
        self._replace(old, new)
        return new

    def amend(self, record_id: str, change: Callable[[R], R]) -> R:
        """Replace a record by what `change` makes of it: the config too, but neither id nor name.

        For the few requests that change what was asked for. Raises what `change` raises.
        """
        old = self.get(record_id)
        new = change(old)
        self._database.execute(
            f"UPDATE {self._table} SET config = ?, status = ? WHERE id = ?",  # noqa: S608 - ours
            *(new.config.SerializeToString(), _json(new.status), new.id),
        )
        self._replace(old, new)
        return new

    def remove(self, record_id: str) -> None:
        """Forget a record; one that is not there is gone already. Takes a whole id."""
        record = self._by_id.get(record_id)
        if record is None:
            return
        self._database.execute(f"DELETE FROM {self._table} WHERE id = ?", record_id)  # noqa: S608 - ours
        self._drop(record)
        self._announce(record_id)
        self._tell(record, None)

    async def until(self, record_id: str, condition: Callable[[R], bool]) -> R:
        """Wait until the record meets a condition; the caller sets the deadline.

        Raises the not-found class when the record is not there, or is removed meanwhile.
        """
        while not condition(record := self.get(record_id)):
            await self._changed.setdefault(record.id, asyncio.Event()).wait()
        return record

    def _keep(self, record: R) -> None:
        self._by_id[record.id] = record
        self._by_name[record.name] = record.id

    def _drop(self, record: R) -> None:
        del self._by_id[record.id]
        if self._by_name.get(record.name) == record.id:
            del self._by_name[record.name]

    def _replace(self, old: R, new: R) -> None:
        self._keep(new)
        self._announce(new.id)
        self._tell(old, new)

    def _tell(self, old: R | None, new: R | None) -> None:
        for follower in self._followers:
            follower(old, new)

    def _announce(self, record_id: str) -> None:
        event = self._changed.pop(record_id, None)
        if event is not None:
            event.set()


def _json(value: object) -> str:
    return json.dumps(codec.encode(value))
