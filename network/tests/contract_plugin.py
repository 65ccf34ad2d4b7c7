"""What every plugin promises, whoever implements it: add, delete, and nothing left."""

from __future__ import annotations

from typing import Protocol


class Subject(Protocol):
    """A plugin on a real node, with one pod. `found`: what of that pod is there now."""

    def add(self) -> None: ...

    def delete(self) -> None: ...

    def found(self) -> set[str]: ...


def deleting_what_was_never_added_is_fine(subject: Subject) -> None:
    subject.delete()
    assert subject.found() == set()


def what_add_made_delete_removes(subject: Subject) -> None:
    before = subject.found()
    subject.add()
    assert subject.found() > before
    subject.delete()
    assert subject.found() == before


def deleting_twice_is_fine(subject: Subject) -> None:
    subject.add()
    subject.delete()
    subject.delete()
    assert subject.found() == set()


def what_was_deleted_can_be_added_again(subject: Subject) -> None:
    subject.add()
    first = subject.found()
    subject.delete()
    subject.add()
    assert len(subject.found()) == len(first)
    subject.delete()
    assert subject.found() == set()


PROMISES = {
    promise.__name__: promise
    for promise in (
        deleting_what_was_never_added_is_fine,
        what_add_made_delete_removes,
        deleting_twice_is_fine,
        what_was_deleted_can_be_added_again,
    )
}
