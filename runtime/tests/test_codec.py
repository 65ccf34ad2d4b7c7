"""What goes through JSON comes back the same, and what is wrong is named by its path."""

from __future__ import annotations

import enum
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest

from runtime import spec
from runtime.codec import decode, encode


class Colour(enum.Enum):
    RED = "red"


@dataclass(frozen=True)
class Inner:
    value: int
    long_name: str = ""


@dataclass(frozen=True)
class Outer:
    inner: Inner
    many: tuple[Inner, ...] = ()
    named: Mapping[str, int] = field(default_factory=dict)
    blob: bytes = b""
    maybe: bool | None = None
    colour: Colour = Colour.RED
    ratio: float = 0.5


FULL = Outer(Inner(1), (Inner(2, "x"), Inner(3)), {"a": 4}, b"\0\xff", True, Colour.RED, 2.5)


def test_a_value_survives_json() -> None:
    assert decode(Outer, json.loads(json.dumps(encode(FULL)))) == FULL


def test_the_specification_spells_its_own_way() -> None:
    process = spec.Process(args=("sh",), no_new_privileges=True)
    data = encode(spec.Spec(process, linux=spec.Linux(masked_paths=("/proc/kcore",))), camel=True)
    text = json.dumps(data)
    assert '"noNewPrivileges": true' in text
    assert '"maskedPaths": ["/proc/kcore"]' in text
    assert decode(spec.Spec, data, camel=True).process == process


def test_an_unknown_key_is_passed_over_and_a_missing_one_takes_its_default() -> None:
    assert decode(Inner, {"value": 1, "newer": "?"}) == Inner(1)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ({"inner": {"value": "1"}}, "inner.value: expected int, got str '1'"),
        ({"inner": {"value": True}}, "inner.value: expected int, got bool 'True'"),
        ({"inner": {}}, "inner.value: missing"),
        ({"inner": []}, "inner: expected object, got list"),
        ({"inner": {"value": 1}, "many": [{"value": 1}, 7]}, "many[1]: expected object, got int"),
        ({"inner": {"value": 1}, "many": 7}, "many: expected array, got int"),
        ({"inner": {"value": 1}, "named": {"a": "b"}}, "named.a: expected int, got str"),
        ({"inner": {"value": 1}, "blob": "?"}, "blob: not base64"),
        ({"inner": {"value": 1}, "colour": "blue"}, "colour: 'blue' is none of red"),
        ({"inner": {"value": 1}, "ratio": "x"}, "ratio: expected number, got str"),
    ],
)
def test_what_is_wrong_is_named_by_its_path(data: object, text: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        decode(Outer, data)
    assert str(caught.value).startswith(text)
