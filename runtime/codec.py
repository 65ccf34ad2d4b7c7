"""Frozen dataclasses to JSON and back: the spec, the plans and every message between our processes.

Shapes: str, int, float, bool, bytes (base64 in JSON), `X | None`, `tuple[X, ...]`,
`Mapping[str, X]`, enums by value, nested dataclasses (for which an array of all their fields in
order will do). A missing key takes the field's default, an unknown key is passed over (a newer peer
may say more than we know); anything else is a ValueError that names the path:
`linux.resources.cpu.shares: expected int, got str`.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import enum
import functools
import types
import typing
from collections.abc import Callable, Mapping, Sequence

Json = object  # what json.loads gives: dict, list, str, int, float, bool or None
Decoder = Callable[[object], object]
T = typing.TypeVar("T")
_SCALARS_OF_JSON = frozenset((str, int, float, bool, types.NoneType))


def encode(value: object, *, camel: bool = False) -> Json:
    """The JSON shape of a dataclass or of a plain value.

    Left out are fields that equal None, (), {} or their default, which therefore never changes.

    camel: write field names as the OCI specifications do (noNewPrivileges), not as Python does.
    """
    cls: type = type(value)
    if cls in _SCALARS_OF_JSON:
        return value
    if not hasattr(cls, "__dataclass_fields__"):
        return _encode_other(value, camel=camel)
    result: dict[str, object] = {}
    for attribute, key, default in _keys(cls, camel):
        item = getattr(value, attribute)
        if item != default and item is not None and item not in ((), {}):
            result[key] = encode(item, camel=camel)
    return result


def _encode_other(value: object, *, camel: bool) -> Json:
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, (tuple, list)):
        return [encode(item, camel=camel) for item in value]
    if isinstance(value, Mapping):
        return {key: encode(item, camel=camel) for key, item in value.items()}
    if isinstance(value, (str, int, float)):
        return value
    raise TypeError(f"no JSON shape for {type(value).__name__}")


def decode(cls: type[T], data: Json, *, path: str = "", camel: bool = False) -> T:
    """A `cls` from its JSON shape. Raises ValueError naming the path of the first bad value."""
    decoder = _dataclass_decoder(typing.cast(type, cls), camel)
    try:
        return typing.cast(T, decoder(data))
    except _Mismatch as mismatch:
        raise ValueError(f"{mismatch.path(path)}: {mismatch.text}") from None


class _Mismatch(Exception):
    """A bad value; who passes it up adds where it was, so that good ones cost no path."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._steps: list[str] = []

    def inside(self, step: str) -> _Mismatch:
        self._steps.append(step)
        return self

    def path(self, start: str) -> str:
        return "".join((start, *reversed(self._steps))).removeprefix("." if not start else "")


@functools.cache
def _keys(cls: type, camel: bool) -> tuple[tuple[str, str, object], ...]:  # noqa: FBT001 - cached
    """(attribute, JSON key, the value that goes without saying); nothing does in config.json."""
    return tuple(
        (field.name, _key(field, camel=camel), dataclasses.MISSING if camel else field.default)
        for field in dataclasses.fields(cls)
    )


def _key(field: dataclasses.Field[object], *, camel: bool) -> str:
    if not camel:
        return field.name
    if "json" in field.metadata:
        return str(field.metadata["json"])
    head, *rest = field.name.split("_")
    return head + "".join(word.capitalize() for word in rest)


@functools.cache
def _dataclass_decoder(cls: type, camel: bool) -> Decoder:  # noqa: FBT001 - a cache key
    """Goes by the keys that are there, which are few, and not by the fields that there may be."""
    known = _known(cls, camel=camel)
    required = _required(cls, camel=camel)

    def decode_fields(data: object) -> object:
        if isinstance(data, list) and len(data) == len(known):
            data = dict(zip(known, data, strict=True))
        if not isinstance(data, dict):
            raise _unlike("object", data)
        values: dict[str, object] = {}
        for key, item in data.items():
            if item is None or key not in known:
                continue
            name, plain, decoder = known[key]
            try:
                values[name] = item if type(item) is plain else decoder(item)
            except _Mismatch as mismatch:
                raise mismatch.inside(f".{key}") from None
        for name, key in required:
            if name not in values:
                raise _Mismatch("missing").inside(f".{key}")
        return cls(**values)

    return decode_fields


def _known(cls: type, *, camel: bool) -> Mapping[str, tuple[str, object, Decoder]]:
    """JSON key -> attribute, the type of values that need no decoder or None, decoder; in order."""
    hints = typing.get_type_hints(cls)
    return {
        _key(field, camel=camel): (
            field.name,
            _plain_type(hints[field.name]),
            _decoder(hints[field.name], camel),
        )
        for field in dataclasses.fields(cls)
    }


def _required(cls: type, *, camel: bool) -> Sequence[tuple[str, str]]:
    """(attribute, JSON key) of the fields without a default."""
    none = dataclasses.MISSING
    return [
        (field.name, _key(field, camel=camel))
        for field in dataclasses.fields(cls)
        if field.default is none and field.default_factory is none
    ]


def _unlike(expected: str, data: object) -> _Mismatch:
    return _Mismatch(f"expected {expected}, got {type(data).__name__} {str(data)[:80]!r}")


def _plain_type(hint: object) -> object:
    """The type whose values are what JSON gives; None: they are not."""
    return hint if hint in (str, int, bool) else None


def _decoder(hint: object, camel: bool) -> Decoder:  # noqa: FBT001 - handed through
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _decoder(next(item for item in arguments if item is not type(None)), camel)
    if origin is tuple:
        return _tuple_decoder(_decoder(arguments[0], camel), _plain_type(arguments[0]))
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        return _mapping_decoder(_decoder(arguments[1], camel))
    if not isinstance(hint, type):
        raise TypeError(f"no decoder for {hint!r}")
    if dataclasses.is_dataclass(hint):
        return _dataclass_decoder(hint, camel)
    if issubclass(hint, enum.Enum):
        return _enum_decoder(hint)
    return _SCALARS[hint]


def _tuple_decoder(item_decoder: Decoder, plain: object) -> Decoder:
    def decode_tuple(data: object) -> object:
        if not isinstance(data, list):
            raise _unlike("array", data)
        items = []
        for item in data:
            try:
                items.append(item if type(item) is plain else item_decoder(item))
            except _Mismatch as mismatch:
                raise mismatch.inside(f"[{len(items)}]") from None
        return tuple(items)

    return decode_tuple


def _mapping_decoder(item_decoder: Decoder) -> Decoder:
    def decode_mapping(data: object) -> object:
        if not isinstance(data, dict):
            raise _unlike("object", data)
        result = {}
        for key, item in data.items():
            try:
                result[str(key)] = item_decoder(item)
            except _Mismatch as mismatch:
                raise mismatch.inside(f".{key}") from None
        return result

    return decode_mapping


def _enum_decoder(cls: type[enum.Enum]) -> Decoder:
    members = {item.value: item for item in cls}

    def decode_enum(data: object) -> object:
        try:
            return members[data]
        except (KeyError, TypeError):  # TypeError: a list, or an object
            listed = ", ".join(map(str, members))
            raise _Mismatch(f"{data!r} is none of {listed}") from None

    return decode_enum


def _scalar_decoder(kind: type) -> Decoder:
    def decode_scalar(data: object) -> object:
        if type(data) is not kind:  # not isinstance: a bool is no int here
            raise _unlike(kind.__name__, data)
        return data

    return decode_scalar


def _decode_float(data: object) -> object:
    if type(data) not in (int, float):
        raise _unlike("number", data)
    return data


def _decode_bytes(data: object) -> object:
    if not isinstance(data, str):
        raise _unlike("base64 text", data)
    try:
        return binascii.a2b_base64(data, strict_mode=True)
    except ValueError:
        raise _Mismatch("not base64") from None


_SCALARS: Mapping[type, Decoder] = {
    str: _scalar_decoder(str),
    int: _scalar_decoder(int),
    bool: _scalar_decoder(bool),
    float: _decode_float,
    bytes: _decode_bytes,
}
