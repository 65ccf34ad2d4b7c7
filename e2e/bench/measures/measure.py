"""What a measure is, and which rows of the table it fills."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from e2e.bench.client import Client

Samples = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Row:
    """A row; `must` and `aim` are factors of the baseline's figure, None where no goal is set."""

    key: str
    title: str
    unit: str
    better: Literal["less", "more"] = "less"
    must: float | None = None
    aim: float | None = None


@dataclass(frozen=True, slots=True)
class Measure:
    """`run` takes one runtime's client and answers a round's samples by row key.

    `rounds`: how often by default. `per_daemon`: the same for every handler of a daemon, so that
    containerd's second column stays empty.
    """

    name: str
    rows: tuple[Row, ...]
    run: Callable[[Client], Samples]
    rounds: int
    per_daemon: bool = False
