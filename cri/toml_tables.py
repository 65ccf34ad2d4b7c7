"""TOML tables as frozen dataclasses: keys with a default, a meaning and a check.

A field is a key (str, bool, int, a tuple of str, a Mapping of str to str or to SCALARS), a table (a
dataclass), or tables by name (a Mapping of str to a dataclass).
"""

from __future__ import annotations

import collections.abc
import dataclasses
import difflib
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import field
from typing import TypeVar

from cri.toml_lines import Key

T = TypeVar("T")
SCALARS = Mapping[str, str | bool | int]
Check = Callable[[T], str]  # "": good; else what is wrong with the value


def key(default: T, doc: str, check: Check[T] | None = None) -> T:
    """A configuration key: its default, its meaning, and a check of its value."""
    made: T = field(default=default, metadata={"doc": doc, "check": check})
    return made


def absolute(value: str) -> str:
    if not value.startswith("/"):
        return "must be an absolute path"
    return "" if value.isprintable() else "must not contain control characters"


def absolute_or_empty(value: str) -> str:
    return absolute(value) if value else ""


def one_of(*choices: str) -> Check[str]:
    return lambda value: "" if value in choices else f"must be one of {', '.join(choices)}"


def between(low: int, high: int) -> Check[int]:
    return lambda value: "" if low <= value <= high else f"must be from {low} to {high}"


def problems(cls: type, data: Mapping[str, object], path: Key) -> Iterator[tuple[Key, str]]:
    """What is wrong with a table: the key, and a sentence with its remedy."""
    hints = typing.get_type_hints(cls)
    known = {item.name: item for item in dataclasses.fields(cls)}
    for name, value in data.items():
        here = (*path, name)
        if name not in known:
            yield here, _unknown(here, list(known))
            continue
        hint, check = hints[name], known[name].metadata.get("check")
        if (table := _table_of(hint)) is not None:
            yield from _table_problems(table, value, here, named=table is not hint)
            if check is not None and isinstance(value, dict) and (problem := check(tuple(value))):
                yield here, f"{'.'.join(here)}: {problem}"
        elif not _is(value, hint):
            yield here, f"{'.'.join(here)}: expected {_NAMES[hint]}, got {value!r}"
        elif check is not None and (problem := check(_plain(value))):
            yield here, f"{'.'.join(here)} = {value!r}: {problem}"


def _table_of(hint: object) -> type | None:
    """The dataclass of a table, or of tables by name; None: a plain key."""
    if typing.get_origin(hint) is collections.abc.Mapping:
        hint = typing.get_args(hint)[1]
    return hint if isinstance(hint, type) and dataclasses.is_dataclass(hint) else None


def _table_problems(
    table: type, value: object, here: Key, *, named: bool
) -> Iterator[tuple[Key, str]]:
    if not isinstance(value, dict):
        yield here, f"{'.'.join(here)}: is a table: write [{'.'.join(here)}]"
    elif named:
        for name, item in value.items():
            yield from _table_problems(table, item, (*here, name), named=False)
    else:
        yield from problems(table, value, here)


_SCALARS = (str, bool, int)
_NAMES = {
    str: "a string",
    bool: "true or false",
    int: "a whole number",
    tuple[str, ...]: "a list of strings",
    Mapping[str, str]: "a table of strings",
    SCALARS: "a table of strings, whole numbers and truth values",
}


def _is(value: object, hint: object) -> bool:
    if hint == tuple[str, ...]:
        return isinstance(value, list) and all(isinstance(item, str) for item in value)
    if hint == Mapping[str, str]:
        return isinstance(value, dict) and all(isinstance(item, str) for item in value.values())
    if hint == SCALARS:
        return isinstance(value, dict) and all(type(one) in _SCALARS for one in value.values())
    return type(value) is hint  # not isinstance: true is no whole number


def _plain(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


def _unknown(path: Key, known: Sequence[str]) -> str:
    name = ".".join(path)
    near = difflib.get_close_matches(path[-1], known, n=1, cutoff=0.6)
    if near:
        return f"unknown key {name}: did you mean {'.'.join((*path[:-1], near[0]))}?"
    where = f"[{'.'.join(path[:-1])}]" if path[:-1] else "the top level"
    return f"unknown key {name}: {where} knows {', '.join(known) or 'no keys'}"


def applied(base: T, data: Mapping[str, object]) -> T:
    """`base`, a dataclass, with the checked values of a table."""
    hints = typing.get_type_hints(type(base))
    changes: dict[str, object] = {}
    for name, value in data.items():
        old, table = getattr(base, name), _table_of(hints[name])
        if not isinstance(value, dict):
            changes[name] = _plain(value)
        elif not isinstance(old, Mapping):
            changes[name] = applied(old, value)
        elif table is None:
            changes[name] = {**old, **value}
        else:
            changes[name] = {**old, **_named(table, old, value)}
    made: T = dataclasses.replace(base, **changes)  # type: ignore[type-var]  # T is a dataclass here
    return made


def _named(
    table: type, old: Mapping[str, object], data: Mapping[str, Mapping[str, object]]
) -> dict[str, object]:
    return {name: applied(old.get(name) or table(), item) for name, item in data.items()}
