"""A collection of records: in memory for readers, written through to the database.

Readers (`get`, `find`, `all`) take no lock and touch no file. A change is written first and seen
afterwards; if it can't be written it raises and nothing has changed. Records are immutable: who
holds one sees a consistent, perhaps slightly old, state. Whoever follows the collection is told of
every change in the same turn of the loop, once it is written and seen: none can slip between.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from google.protobuf.message import DecodeError

from cri.store import index

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cri.store.database import Database

log = logging.getLogger(__name__)


class Record(Protocol):
    """What a collection needs to know of what it keeps."""

    @property
    def id(self) -> str: ...

    @property
    def name(self) -> str:
        """Unique among the records of the collection that are not being removed."""

    def dump(self) -> tuple[object, bytes]:
        """Metadata (JSON shape), which never changes, and config (protobuf), which hardly does."""

    def dump_status(self) -> object:
        """What changes (JSON shape)."""


R = TypeVar("R", bound=Record)
S = TypeVar("S")

Follower = Callable[[R | None, R | None], None]
"""Told of a change: the record before (None: it is new) and after (None: it is gone)."""


class Records(Generic[R, S]):
    """Records of one kind, by id and by name. R: the record; S: its status."""

    def __init__(
        self,
        database: Database,
        table: str,
        *,
        load: Callable[[object, bytes, object], R],
        with_status: Callable[[R, Callable[[S], S]], R],
        not_found: Callable[[str], Exception],
    ) -> None:
        self._database = database
        self._table = table
        self._with_status = with_status
        self._not_found = not_found
        self._by_id: dict[str, R] = {}
        self._by_name: dict[str, str] = {}
        self._changed: dict[str, asyncio.Event] = {}
        self._followers: list[Follower[R]] = []
        for record_id, metadata, config, status in database.rows(table):
            try:
                self._keep(load(json.loads(metadata), config, json.loads(status)))
            except (ValueError, DecodeError) as error:  # it must not keep the others from living
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
        metadata, config = record.dump()
        self._database.execute(
            f"INSERT INTO {self._table} (id, metadata, config, status) VALUES (?, ?, ?, ?)",  # noqa: S608 - ours
            *(record.id, json.dumps(metadata), config, json.dumps(record.dump_status())),
        )
        self._keep(record)
        self._tell(None, record)
        return record

    def update(self, record_id: str, change: Callable[[S], S]) -> R:
        """Replace a record's status by what `change` makes of it. Raises what `change` raises."""
        old = self.get(record_id)
        new = self._with_status(old, change)
        if new is old:
            return old
        self._database.execute(
            f"UPDATE {self._table} SET status = ? WHERE id = ?",  # noqa: S608 - ours
            *(json.dumps(new.dump_status()), new.id),
        )
        self._replace(old, new)
        return new

    def amend(self, record_id: str, change: Callable[[R], R]) -> R:
        """Replace a record by what `change` makes of it: the config too, but neither id nor name.

        For the few requests that change what was asked for. Raises what `change` raises.
        """
        old = self.get(record_id)
        new = change(old)
        _, config = new.dump()
        self._database.execute(
            f"UPDATE {self._table} SET config = ?, status = ? WHERE id = ?",  # noqa: S608 - ours
            *(config, json.dumps(new.dump_status()), new.id),
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
