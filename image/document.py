"""Untrusted JSON: every read says what it expects, every error where in the document it is."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Final

_KINDS: Final = {
    dict: "an object",
    list: "an array",
    str: "a string",
    bool: "a boolean",
    int: "a number",
    float: "a number",
}


class Document:
    """A JSON value and the path at which it stands. `null` and absent are the same thing."""

    __slots__ = ("path", "value")

    def __init__(self, value: object, path: str) -> None:
        self.value = value
        self.path = path

    @classmethod
    def parse(cls, data: bytes, path: str) -> Document:
        """Raises ValueError when this is no JSON."""
        try:
            return cls(json.loads(data), path)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}: not JSON: {error}") from None

    def get(self, key: str) -> Document:
        """The member `key` of an object; an absent one is a document of None."""
        return Document(self.object().get(key), f"{self.path}.{key}")

    def __contains__(self, key: str) -> bool:
        return self.object().get(key) is not None

    def object(self) -> Mapping[str, object]:
        """The members; {} when absent."""
        if self.value is None:
            return {}
        if not isinstance(self.value, dict):
            raise self._mismatch("an object")
        for key in self.value:
            _check_unicode(key, self.path)
        return self.value

    def items(self) -> Iterator[Document]:
        """The elements of an array; none when absent."""
        if self.value is None:
            return
        if not isinstance(self.value, list):
            raise self._mismatch("an array")
        for position, item in enumerate(self.value):
            yield Document(item, f"{self.path}[{position}]")

    def text(self, default: str | None = "") -> str:
        """A string; `default` when absent, ValueError when that is None."""
        if self.value is None and default is not None:
            return default
        if not isinstance(self.value, str):
            raise self._mismatch("a string")
        _check_unicode(self.value, self.path)
        return self.value

    def number(self, default: int | None = None) -> int:
        """A whole number; `default` when absent, ValueError when that is None."""
        if self.value is None and default is not None:
            return default
        if not isinstance(self.value, int) or isinstance(self.value, bool):
            raise self._mismatch("a number")
        return self.value

    def texts(self) -> tuple[str, ...]:
        """An array of strings; () when absent."""
        return tuple(item.text(None) for item in self.items())

    def mapping(self) -> dict[str, str]:
        """An object of strings; {} when absent."""
        return {key: self.get(key).text("") for key in self.object()}

    def _mismatch(self, expected: str) -> ValueError:
        found = "nothing" if self.value is None else _KINDS.get(type(self.value), "something else")
        return ValueError(f"{self.path}: expected {expected}, got {found}")


def _check_unicode(text: str, path: str) -> None:
    """JSON can spell half a character, \\ud800, which nothing can be told of: no UTF-8 has it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{path}: {text[:80]!r} is no Unicode text") from None
